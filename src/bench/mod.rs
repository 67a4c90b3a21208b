//! Measuring: the main job on real parts, beside what the same Postgres does at its plainest in the same run.
//!
//! Always holds: a figure comes with the run it was measured in and counts as a ratio to the baseline beside it; the run is
//! in a database of its own, which is removed afterwards; the books are checked before a figure is shown.
//!
//! Refuses: to assert speed unless it is asked to. No test depends on it.

mod baseline;
mod engine;
mod footprint;
pub mod hostile;
mod http;
mod instant_provider;
mod process;
mod receiver;
mod scheduler;
mod stuck;

pub use engine::{EngineBench, EngineReport, run_engine};
pub use http::{HttpBench, HttpReport, Round, run_http};
pub use scheduler::{Scale, SchedulerBench, SchedulerReport, run_scheduler};
