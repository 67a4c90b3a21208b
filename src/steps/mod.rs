//! What each step of a batch does outside (act) and writes inside (record).
pub mod record;
