//! The faults of a request's body that are told in the middle of reading it.
//!
//! They travel through the framework as [`io::Error`]s, which is all that a body may end with; [`BodyFault::of`] knows
//! them again on the other side.

use std::fmt;
use std::io;

/// Why a body was not read to its end although its client may be there still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// It came too slowly.
    Slow,
    /// It came, but no further request can be processed now.
    Busy,
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BodyFault::Slow => "the body came too slowly",
            BodyFault::Busy => "too many requests are being processed",
        })
    }
}

impl std::error::Error for BodyFault {}

impl BodyFault {
    /// The fault behind an error of reading a body, if it is ours.
    pub fn of(error: &io::Error) -> Option<BodyFault> {
        error.get_ref()?.downcast_ref().copied()
    }
}
