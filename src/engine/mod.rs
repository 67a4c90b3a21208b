//! Mechanisms that make work durable: the queue on apalis, the recorder that commits many transitions at once.
//!
//! Always holds: a row of a domain table is the truth and a job is a wake-up, so losing or doubling any job changes
//! nothing; whoever holds a job holds one slot; nothing the database does ends a worker.
//!
//! Refuses: to know what a video, a batch or a webhook is.

pub mod queue;
pub mod recorder;
