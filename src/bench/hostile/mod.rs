//! The hostile bench: what honest customers notice of a hundred and more videos whose provider is an enemy, and what
//! becomes of those.
//!
//! Emulator, API and worker are processes of their own, so that the memory that is measured is the worker's. Honest
//! batches run alone first and then beside the hostile ones, at the same accounts; an attack that speaks of a whole account
//! (429, 401) has an account aside, because there everybody else waits by right.
//! Always holds: who ended how is read from the books, and the books are reconciled at the end.

mod installation;
mod kinds;
mod report;
mod run;
mod verdict;

pub use installation::accounts_and_models;
pub use kinds::{Expected, Fate, Kind, Vendor};
pub use report::{HostileReport, HostileVideo, MAX_GROWTH_MEGABYTES, MAX_RATIO, Timing};
pub use run::{HostileBench, run_hostile};
pub use verdict::End;
