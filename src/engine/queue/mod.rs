//! The durable queue: apalis' tables, its way of pushing, its workers and its `Monitor`. The only room that names apalis.
//!
//! What it takes from apalis: the tables and migrations, `push_tasks` inside our transactions, `reenqueue_orphaned`,
//! `WorkerBuilder` and `Monitor`. What it replaces by a `Backend` of its own: fetching (as many rows as there are free
//! slots, never more), the heartbeat (on a thread of its own), acknowledging (the step's own transaction deletes its job).
//!
//! Always holds: a job's id is the ULID of the row it wakes up, so there is at most one job for a row; a worker's name is
//! new at every start; a job that its handler did not settle goes back.
//!
//! Refuses: retries, timeouts, results and dead letters of apalis: those are decided by the domain row.

mod backend;
mod fetch;
mod jobs;
mod pulse;
mod slots;

pub use backend::{Workers, WorkersStopped};
pub use jobs::{RunAt, Ticket, ack, depth, forget_dead_workers, living_slots, push, push_missing, still_held};
pub use slots::{Job, SlotSettings};

/// Queue names are stable words, never Rust type paths: a rename of code must not orphan jobs.
pub mod names {
    /// A video to be made; the job's id is the video's.
    pub const GENERATE: &str = "generate";
    /// A batch to be settled; the job's id is the batch's.
    pub const FINALIZE: &str = "finalize";
    /// A webhook to be delivered; the job's id is the delivery's.
    pub const NOTIFY: &str = "notify";
}
