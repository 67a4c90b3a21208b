//! What each transition does to credits.
//!
//! Always holds: a batch freezes once, when its freeze succeeds; a video decides about its own share once, when it ends;
//! finalizing closes the batch. No other transition touches credits: not a retry, not a wait, not a notification.
//! [`crate::walk`] proves that the flows and this table together resolve every frozen credit exactly once.
//!
//! Refuses to know: amounts and accounts. Those belong to the ledger.

use crate::video::VideoNext;
use crate::video_batch::BatchEnd;

/// What a transition does to the credits of the videos it speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CreditMove {
    /// Nothing moves.
    Nothing,
    /// The price of every video of the batch moves from the tenant's available credits to the batch's held credits.
    Freeze,
    /// This video's held credits are ours. The decision is recorded now; the credits move with the batch's other charges
    /// when it is finalized.
    Charge,
    /// This video's held credits go back to the tenant and are usable at once.
    Refund,
    /// The decided charges move to revenue and the batch's held credits are proven to be zero. Decides about no video.
    Close,
}

impl CreditMove {
    /// The verb, as the walk and `GRAPH.md` print it.
    pub const fn name(self) -> &'static str {
        match self {
            CreditMove::Nothing => "move no",
            CreditMove::Freeze => "freeze",
            CreditMove::Charge => "charge",
            CreditMove::Refund => "refund",
            CreditMove::Close => "close",
        }
    }
}

/// What a video's transition does to the credits held for that video.
pub const fn of_video(next: VideoNext) -> CreditMove {
    match next {
        VideoNext::Step(_) | VideoNext::Again(_) | VideoNext::RetryLater { .. } => CreditMove::Nothing,
        VideoNext::Succeed => CreditMove::Charge,
        VideoNext::Fail(_) => CreditMove::Refund,
    }
}

/// What the end of a batch's step does to the credits of the batch.
pub const fn of_batch(end: BatchEnd) -> CreditMove {
    match end {
        BatchEnd::Frozen => CreditMove::Freeze,
        BatchEnd::Finalized => CreditMove::Close,
        BatchEnd::ShortOfCredits
        | BatchEnd::EveryVideoSettled
        | BatchEnd::Notified
        | BatchEnd::NotificationGivenUp
        | BatchEnd::NoWebhook => CreditMove::Nothing,
    }
}
