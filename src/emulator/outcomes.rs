//! What the studio says to a surface, in no vendor's words.

use std::sync::Arc;

use super::jobs::{Order, Sight, Spoil};
use super::script::{Fault, OddPicture};

/// A create that broke the protocol's rules: the surface's own answer, and what the book has to know.
pub(super) struct Invalid<A> {
    pub(super) answer: Box<A>,
    pub(super) model: Option<String>,
    /// See [`Totals::refused`](super::book::Totals::refused).
    pub(super) kind: &'static str,
}

/// What became of a create.
pub(super) enum Created<A> {
    /// It broke the protocol's rules.
    Invalid(A),
    /// A fault refused it; nothing was booked.
    Refused { fault: Fault, model: Arc<str>, prompt: Arc<str> },
    /// It was booked; `fault` may still spoil the answer.
    Accepted { job: Sight, fault: Option<Fault> },
}

/// Why there is nothing to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSeen {
    Unknown,
    /// This poll fails with a status.
    Outage(u16),
}

/// Why a job is not deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotDeleted {
    Unknown,
    Unfinished,
}

/// Why there is no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoFile {
    Unknown,
    /// What `/content` answers then.
    NotReady {
        status: u16,
    },
    Expired,
    Missing,
}

/// What is to be sent for a finished video.
pub(super) struct Download {
    pub(super) order: Order,
    pub(super) prompt_sha256: [u8; 32],
    pub(super) spoil: Spoil,
    pub(super) odd_picture: Option<OddPicture>,
    pub(super) clip_seconds: u32,
    pub(super) one_clip_for_all: bool,
}
