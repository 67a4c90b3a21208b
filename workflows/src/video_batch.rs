//! One batch: freeze -> generate (every video) -> finalize -> notify.
//!
//! Always holds: nothing is created without a freeze; a batch is finalized only when every video is settled; whatever
//! becomes of the notification, the batch is done. Notifying never decides about credits.
//!
//! Refuses to know: what happens inside a video ([`crate::video`]) or a delivery ([`crate::webhook`]).

closed_list! {
    /// Where a batch is.
    pub enum BatchStep {
        /// Freeze the price of all videos.
        Freeze = "freeze",
        /// Every video goes its own way.
        Generate = "generate",
        /// Charge the successes, close the books, set the outcome.
        Finalize = "finalize",
        /// Tell the customer.
        Notify = "notify",
    }
}

closed_list! {
    /// How a batch's step ended.
    pub enum BatchEnd {
        /// Freeze: the whole price is held.
        Frozen = "frozen",
        /// Freeze: the tenant has fewer credits than the batch costs.
        ShortOfCredits = "short_of_credits",
        /// Generate: the last video has succeeded or failed.
        EveryVideoSettled = "every_video_settled",
        /// Finalize: charges are booked and the held credits are zero.
        Finalized = "finalized",
        /// Notify: the customer's endpoint took the event.
        Notified = "notified",
        /// Notify: the last delivery failed, or the endpoint was disabled. The event stays readable.
        NotificationGivenUp = "notification_given_up",
        /// Notify: the customer named no endpoint.
        NoWebhook = "no_webhook",
    }
}

/// What a batch does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchNext {
    /// Go on.
    Step(BatchStep),
    /// Payment required (HTTP 402): nothing is frozen and nothing is created.
    Refuse,
    /// Terminal.
    Done,
}

/// The rules were asked about an end that the step cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a batch's step `{}` cannot end with `{}`: the step that ran is not the step that was asked about; nothing was decided, \
     so leave the batch as it is and report the defect",
    step.name(),
    end.name()
)]
pub struct ImpossibleEnd {
    /// The step that was asked about.
    pub step: BatchStep,
    /// The end that it cannot have.
    pub end: BatchEnd,
}

/// What a batch does after `step` ended with `end`.
///
/// # Errors
/// [`ImpossibleEnd`] when the step cannot end so.
pub fn next(step: BatchStep, end: BatchEnd) -> Result<BatchNext, ImpossibleEnd> {
    let impossible = Err(ImpossibleEnd { step, end });
    match (step, end) {
        (BatchStep::Freeze, BatchEnd::Frozen) => Ok(BatchNext::Step(BatchStep::Generate)),
        (BatchStep::Freeze, BatchEnd::ShortOfCredits) => Ok(BatchNext::Refuse),
        (BatchStep::Generate, BatchEnd::EveryVideoSettled) => Ok(BatchNext::Step(BatchStep::Finalize)),
        (BatchStep::Finalize, BatchEnd::Finalized) => Ok(BatchNext::Step(BatchStep::Notify)),
        (BatchStep::Notify, BatchEnd::Notified | BatchEnd::NotificationGivenUp | BatchEnd::NoWebhook) => {
            Ok(BatchNext::Done)
        }
        (
            BatchStep::Generate | BatchStep::Finalize | BatchStep::Notify,
            BatchEnd::Frozen | BatchEnd::ShortOfCredits,
        )
        | (BatchStep::Freeze | BatchStep::Finalize | BatchStep::Notify, BatchEnd::EveryVideoSettled)
        | (BatchStep::Freeze | BatchStep::Generate | BatchStep::Notify, BatchEnd::Finalized)
        | (
            BatchStep::Freeze | BatchStep::Generate | BatchStep::Finalize,
            BatchEnd::Notified | BatchEnd::NotificationGivenUp | BatchEnd::NoWebhook,
        ) => impossible,
    }
}

closed_list! {
    /// How a finished batch went, as the customer reads it in `status`.
    pub enum BatchOutcome {
        /// Every video succeeded.
        Completed = "completed",
        /// Some succeeded, some failed.
        Partial = "partial",
        /// Every video failed.
        Failed = "failed",
    }
}

/// The outcome of a batch with so many succeeded and failed videos. A batch without videos cannot be ordered; asked all the
/// same, it counts as completed, because nothing failed and nothing is charged.
pub const fn outcome(succeeded: u64, failed: u64) -> BatchOutcome {
    if failed == 0 {
        BatchOutcome::Completed
    } else if succeeded == 0 {
        BatchOutcome::Failed
    } else {
        BatchOutcome::Partial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_freezes_generates_finalizes_and_notifies_in_this_order() {
        assert_eq!(next(BatchStep::Freeze, BatchEnd::Frozen), Ok(BatchNext::Step(BatchStep::Generate)));
        assert_eq!(next(BatchStep::Generate, BatchEnd::EveryVideoSettled), Ok(BatchNext::Step(BatchStep::Finalize)));
        assert_eq!(next(BatchStep::Finalize, BatchEnd::Finalized), Ok(BatchNext::Step(BatchStep::Notify)));
    }

    #[test]
    fn a_batch_that_cannot_be_paid_is_refused_and_one_that_cannot_be_told_is_done() {
        assert_eq!(next(BatchStep::Freeze, BatchEnd::ShortOfCredits), Ok(BatchNext::Refuse));
        for end in [BatchEnd::Notified, BatchEnd::NotificationGivenUp, BatchEnd::NoWebhook] {
            assert_eq!(next(BatchStep::Notify, end), Ok(BatchNext::Done));
        }
    }

    #[test]
    fn an_end_belongs_to_exactly_one_step() {
        for end in BatchEnd::all() {
            let steps: Vec<BatchStep> = BatchStep::all().into_iter().filter(|step| next(*step, end).is_ok()).collect();
            assert_eq!(steps.len(), 1, "{end:?} is possible in {steps:?}");
        }
    }

    #[test]
    fn the_outcome_follows_from_the_two_counts() {
        assert_eq!(outcome(20, 0), BatchOutcome::Completed);
        assert_eq!(outcome(19, 1), BatchOutcome::Partial);
        assert_eq!(outcome(1, 19), BatchOutcome::Partial);
        assert_eq!(outcome(0, 20), BatchOutcome::Failed);
        assert_eq!(outcome(u64::MAX, u64::MAX), BatchOutcome::Partial);
        assert_eq!(outcome(0, 0), BatchOutcome::Completed);
    }
}
