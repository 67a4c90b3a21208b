//! What money means beyond a single movement.
//!
//! Owns onboarding, a tenant with its wallets and its first credits; adjustments, by which a person gives or takes credits;
//! the reconciliation: whether the books agree with themselves and with the work that they speak of; losses that an older
//! program left unbooked; and the evidence: whether anybody has rewritten the books.
//! Refuses: to write ledger tables (the ledger does), to mend what a reconciliation finds (a person does).

mod adjustment;
mod evidence;
mod losses;
mod onboarding;
mod reconcile;

pub use adjustment::{AdjustmentError, adjust};
pub use evidence::{EvidenceError, Given, RestoreRefused, checkpoint, keep, note_restore, set_back, verify};
pub use losses::book_missing_losses;
pub use onboarding::{OnboardingError, onboard};
pub use reconcile::{
    About, AccountCompared, Auditor, Compared, FileDepth, FilesCompared, JobsCompared, KINDS, LastRun, NotAdmitted,
    ReconcileError, Reconciliation, Rest, Scope, about, admit_workers, last_run, reconcile,
};
