//! What there is to tell of an account. Refuses: to say what follows from it.

use std::time::Duration;

use crate::domain::{AttemptId, VideoId};

/// When a circuit opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitLaw {
    /// So many faults in a row open it; 0: it never opens.
    pub faults: u32,
    /// Before the first probe.
    pub pause: Duration,
    /// A probe that fails doubles the pause, up to this.
    pub max_pause: Duration,
}

/// An order that an account failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub attempt: AttemptId,
    pub video: VideoId,
    /// The worker had an order taken there since it told its last fault: what was counted before was not in a row.
    pub after_success: bool,
    pub law: CircuitLaw,
    /// By how many thousandths a pause that follows is longer, so that not all accounts are tried at the same moment.
    pub jitter_permille: u32,
}

/// What an account's provider told us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It wants a pause, of this length.
    Cool { pause: Duration, cause: &'static str },
    /// Our money or quota is used up.
    OutOfQuota,
    /// It does not know us.
    Refused,
    /// It failed an order by its own fault.
    Fault(Fault),
    /// It took a video whose worker knew of faults before.
    Took,
    /// It took a video although it was marked as out of quota or refusing us, or its circuit was open.
    AnsweredAgain,
    /// The video that was to find that out has ended, whatever it found.
    ProbeOver { video: VideoId },
}
