//! What money means beyond a single movement.
//!
//! Owns onboarding, a tenant with its wallets and its first credits; adjustments, by which a person corrects a wallet; the
//! reconciliation: whether the books agree with themselves and with the work that they speak of; and the evidence: whether
//! anybody has rewritten them.
//! Refuses: to write ledger tables (the ledger does), to mend what it finds (a person does, by an adjustment).

mod adjustment;
mod evidence;
mod onboarding;
mod reconcile;

pub use adjustment::{AdjustmentError, adjust};
pub use evidence::{EvidenceError, Given, checkpoint, keep, verify};
pub use onboarding::{OnboardingError, onboard};
pub use reconcile::{
    About, AccountCompared, Auditor, Compared, FileDepth, FilesCompared, JobsCompared, KINDS, LastRun, NotAdmitted,
    ReconcileError, Reconciliation, Scope, about, admit_workers, last_run, reconcile,
};
