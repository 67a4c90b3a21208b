//! What providers called back about: kept for whoever waits for it, in whichever process.
//!
//! A call comes in at any process with an API; the video is in the hands of any worker. So a verified call is written into
//! the [`Mailbox`] (the table `provider_callbacks`), and every worker process reads what is new once a second ([`listen`])
//! and wakes those of its attempts that it is about ([`Ears`]). An attempt that does not know its job asks for it
//! ([`named_job`]), so that a call which came long before is found as well. A worker that lost a video to another leaves the
//! job that it learned of here too, at any account.
//!
//! Always holds: a hint is no result: it wakes, and it names a job that the provider is then asked about. The first name
//! stands; a repeated call changes nothing and wakes nobody; a call for an attempt that is over is kept and moves no money.
//! Calls that are lost, late or out of order cost waiting alone, because polls go on as if there were none.
//! Costs: one narrow row per video, written in groups by one connection per process; one read a second of the rows that are
//! new, in a process with attempts that may be called about or are looked up, and none elsewhere; one poll more per call.
//! The sweep deletes rows that are older than [`KEPT_DAYS`].
//! Refuses: to verify (that is for `providers::callbacks`), and to wait for a database that is away: [`Mailbox::note`] has
//! a limit. `NOTIFY` is not used: it does not pass through transaction poolers, and a second is nothing beside a video.

mod ears;
mod listen;
mod mailbox;

use std::sync::Arc;

use crate::domain::AttemptId;

pub use ears::{Ear, Ears};
pub use listen::listen;
pub use mailbox::{Mailbox, NotNoted, Noted, forget_old, named_job};

/// How long a call is kept: longer than any attempt takes.
pub const KEPT_DAYS: i32 = 3;

/// A verified call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    pub account: Arc<str>,
    pub about: About,
    /// The job as the provider calls it.
    pub job: Option<String>,
    /// Whether the provider says that it has ended.
    pub ended: bool,
}

/// What a call's address and signature say that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// The attempt that the address names.
    Attempt(AttemptId),
    /// The job that the body names.
    Job(String),
}

impl About {
    /// As it stands in the table.
    fn subject(&self) -> String {
        match self {
            About::Attempt(attempt) => attempt.to_string(),
            About::Job(job) => format!("job:{job}"),
        }
    }
}
