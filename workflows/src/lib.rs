//! What Freezeframe decides: steps, order, retry, undo, and who gets the money.

pub mod failure;

pub use failure::FailureClass;
