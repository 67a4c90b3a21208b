//! One video: submit -> poll -> store -> succeed; or retry later; or fail with a type and be refunded.
//!
//! Always holds:
//! - A lost answer is looked up, never submitted again blindly: the new attempt might buy the video twice.
//! - Waiting spends nothing. Only the end of an attempt can spend one.
//! - Once a provider took a job, a further attempt always spends one: the job may have been billed.
//! - A finished output is paid for, so storing is repeated until the attempt's deadline before another video is made.
//! - Every step ends at the latest with [`VideoEnd::DeadlinePassed`], which never answers with more waiting.
//!
//! Refuses to know: how long a deadline or a step's own pause is; the caller has both.

use crate::FailureClass;
use crate::retry;

closed_list! {
    /// Where a video's present attempt is.
    pub enum VideoStep {
        /// Ask the provider to make the video.
        Submit = "submit",
        /// Find out about a submission whose answer was lost.
        LookUp = "look_up",
        /// Ask the provider how far the job is.
        Poll = "poll",
        /// Copy the finished file into our object store and verify it.
        Store = "store",
    }
}

closed_list! {
    /// How a step ended.
    pub enum VideoEnd {
        /// Submit: the provider took the job and named its handle.
        Accepted = "accepted",
        /// Submit: refused, or never sent. Provably nothing was bought.
        Rejected(FailureClass) = "rejected",
        /// Submit: refused for a reason that is the account's own, and the model has another route.
        RouteRefused(FailureClass) = "route_refused",
        /// Submit: the customer cancelled the batch before the attempt began. Provably nothing was bought by it. Poll: the
        /// provider stopped the job, because the batch is cancelled and we asked for it.
        Cancelled = "cancelled",
        /// Submit: the batch was to be complete by a time that came before the attempt began. Nothing was bought by it.
        Expired = "expired",
        /// Submit: something was sent and no answer that can be trusted came back.
        AnswerLost = "answer_lost",
        /// Look-up: the provider has our job; its handle is known now.
        Found = "found",
        /// Look-up: none of the provider's jobs is ours, but a job may still appear within the settle window.
        NotFoundYet = "not_found_yet",
        /// Look-up: looked through the whole settle window at a provider that lists its jobs; none is ours.
        NotBought = "not_bought",
        /// Look-up: this provider cannot list its jobs; only a callback could still tell.
        CannotLookUp = "cannot_look_up",
        /// Look-up: the video killed its workers too often. Whether it was bought stays unknown.
        Poisoned = "poisoned",
        /// Poll: queued or running.
        StillRunning = "still_running",
        /// Poll: finished, and the output can be fetched.
        OutputReady = "output_ready",
        /// Poll: the provider ended the job without an output.
        ProviderFailed(FailureClass) = "provider_failed",
        /// Poll: the provider no longer knows the handle.
        Gone = "gone",
        /// Store: the file is in our store, verified.
        Stored = "stored",
        /// Store: the file could not be fetched, was not a video, or was not taken by our store.
        StoreFailed(FailureClass) = "store_failed",
        /// Any step: the time that the attempt may take is over. An attempt that was never sent is not ended so but with
        /// `Rejected(Network)`, because nothing was bought.
        DeadlinePassed = "deadline_passed",
    }
}

/// What a video does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoNext {
    /// Go on at once.
    Step(VideoStep),
    /// The same attempt goes on with this step after the step's own pause. It holds its slot and spends nothing.
    Again(VideoStep),
    /// The attempt is over; the video waits without a slot and a new attempt starts at [`VideoStep::Submit`]. A job that
    /// the old attempt left behind is to be cancelled where the provider can.
    RetryLater {
        /// Why the attempt ended.
        class: FailureClass,
        /// How long to wait, in milliseconds.
        delay_ms: u64,
        /// True: count one more attempt and start the waits at 0 again. False: count one more wait.
        spends_attempt: bool,
    },
    /// Terminal: the video is stored and charged.
    Succeed,
    /// Terminal: the video is refunded.
    Fail(FailureClass),
}

/// What a video has used up before the present attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Attempts charged against the bound, without the present one.
    pub attempts: u32,
    /// Retries in a row that spent no attempt.
    pub waits: u32,
    /// 0..=1000, drawn by the caller, because these rules are pure.
    pub jitter_permille: u32,
}

/// The rules were asked about an end that the step cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a video's step `{}` cannot end with `{}`: the step that ran is not the step that was asked about; nothing was decided, \
     so leave the video as it is and report the defect",
    step.name(),
    end.name()
)]
pub struct ImpossibleEnd {
    /// The step that was asked about.
    pub step: VideoStep,
    /// The end that it cannot have.
    pub end: VideoEnd,
}

/// What a video does after `step` ended with `end`.
///
/// A video that keeps killing its worker is ended with class `Poison` by whichever of `Rejected` (nothing sent yet),
/// `ProviderFailed` and `StoreFailed` belongs to its step, and in the look-up by `Poisoned`: what may have been bought there
/// is as unknown as after the deadline.
///
/// # Errors
/// [`ImpossibleEnd`] when the step cannot end so.
pub fn next(step: VideoStep, end: VideoEnd, spent: Spent) -> Result<VideoNext, ImpossibleEnd> {
    let next = match step {
        VideoStep::Submit => after_submit(end, spent),
        VideoStep::LookUp => after_look_up(end, spent),
        VideoStep::Poll => after_poll(end, spent),
        VideoStep::Store => after_store(end, spent),
    };
    next.ok_or(ImpossibleEnd { step, end })
}

fn after_submit(end: VideoEnd, spent: Spent) -> Option<VideoNext> {
    match end {
        VideoEnd::Accepted => Some(VideoNext::Step(VideoStep::Poll)),
        VideoEnd::Rejected(class) => Some(retry_or_fail(class, spent)),
        VideoEnd::RouteRefused(class) => Some(elsewhere_or_fail(class, spent)),
        VideoEnd::Cancelled => Some(VideoNext::Fail(FailureClass::Cancelled)),
        VideoEnd::Expired => Some(VideoNext::Fail(FailureClass::Expired)),
        // A submission that its deadline overtook may have arrived: it is looked for at least once.
        VideoEnd::AnswerLost | VideoEnd::DeadlinePassed => Some(VideoNext::Step(VideoStep::LookUp)),
        VideoEnd::Found
        | VideoEnd::NotFoundYet
        | VideoEnd::NotBought
        | VideoEnd::CannotLookUp
        | VideoEnd::Poisoned
        | VideoEnd::StillRunning
        | VideoEnd::OutputReady
        | VideoEnd::ProviderFailed(_)
        | VideoEnd::Gone
        | VideoEnd::Stored
        | VideoEnd::StoreFailed(_) => None,
    }
}

fn after_look_up(end: VideoEnd, spent: Spent) -> Option<VideoNext> {
    match end {
        VideoEnd::Found => Some(VideoNext::Step(VideoStep::Poll)),
        VideoEnd::NotFoundYet | VideoEnd::CannotLookUp => Some(VideoNext::Again(VideoStep::LookUp)),
        VideoEnd::NotBought => Some(retry_or_fail(FailureClass::Network, spent)),
        VideoEnd::DeadlinePassed => Some(retry_or_fail(FailureClass::OutcomeUnknown, spent)),
        VideoEnd::Poisoned => Some(VideoNext::Fail(FailureClass::Poison)),
        VideoEnd::Accepted
        | VideoEnd::Rejected(_)
        | VideoEnd::RouteRefused(_)
        | VideoEnd::Cancelled
        | VideoEnd::Expired
        | VideoEnd::AnswerLost
        | VideoEnd::StillRunning
        | VideoEnd::OutputReady
        | VideoEnd::ProviderFailed(_)
        | VideoEnd::Gone
        | VideoEnd::Stored
        | VideoEnd::StoreFailed(_) => None,
    }
}

fn after_poll(end: VideoEnd, spent: Spent) -> Option<VideoNext> {
    match end {
        VideoEnd::StillRunning => Some(VideoNext::Again(VideoStep::Poll)),
        VideoEnd::OutputReady => Some(VideoNext::Step(VideoStep::Store)),
        VideoEnd::ProviderFailed(class) => Some(retry_or_fail(after_acceptance(class), spent)),
        // Lost by the provider, or kept for a shorter time than we were away: nobody can tell which. "Output expired" would claim
        // that the video was finished, which was never seen; that the provider took the job and delivered nothing is known.
        VideoEnd::Gone => Some(retry_or_fail(FailureClass::ProviderFault, spent)),
        VideoEnd::DeadlinePassed => Some(retry_or_fail(FailureClass::Timeout, spent)),
        VideoEnd::Cancelled => Some(VideoNext::Fail(FailureClass::Cancelled)),
        VideoEnd::Accepted
        | VideoEnd::Rejected(_)
        | VideoEnd::RouteRefused(_)
        | VideoEnd::Expired
        | VideoEnd::AnswerLost
        | VideoEnd::Found
        | VideoEnd::NotFoundYet
        | VideoEnd::NotBought
        | VideoEnd::CannotLookUp
        | VideoEnd::Poisoned
        | VideoEnd::Stored
        | VideoEnd::StoreFailed(_) => None,
    }
}

fn after_store(end: VideoEnd, spent: Spent) -> Option<VideoNext> {
    match end {
        VideoEnd::Stored => Some(VideoNext::Succeed),
        VideoEnd::StoreFailed(class) => Some(store_again_or_retry(class, spent)),
        // Whatever kept the copy from being made, the provider had finished in time: it is not its timeout.
        VideoEnd::DeadlinePassed => Some(retry_or_fail(FailureClass::StorageFault, spent)),
        VideoEnd::Accepted
        | VideoEnd::Rejected(_)
        | VideoEnd::RouteRefused(_)
        | VideoEnd::Cancelled
        | VideoEnd::Expired
        | VideoEnd::AnswerLost
        | VideoEnd::Found
        | VideoEnd::NotFoundYet
        | VideoEnd::NotBought
        | VideoEnd::CannotLookUp
        | VideoEnd::Poisoned
        | VideoEnd::StillRunning
        | VideoEnd::OutputReady
        | VideoEnd::ProviderFailed(_)
        | VideoEnd::Gone => None,
    }
}

/// While the paid output still lies at the provider it is copied again rather than made again. That holds the slot, which
/// is wanted: as long as our store takes nothing, no slot should go and buy another video.
fn store_again_or_retry(class: FailureClass, spent: Spent) -> VideoNext {
    match class {
        FailureClass::StorageFault
        | FailureClass::Network
        | FailureClass::RateLimited
        | FailureClass::Capacity
        | FailureClass::Timeout => VideoNext::Again(VideoStep::Store),
        FailureClass::ProviderFault
        | FailureClass::OutputExpired
        | FailureClass::InvalidInput
        | FailureClass::Moderation
        | FailureClass::Auth
        | FailureClass::NoCredit
        | FailureClass::ModelRetired
        | FailureClass::OutcomeUnknown
        | FailureClass::Poison
        | FailureClass::Cancelled
        | FailureClass::Expired => retry_or_fail(class, spent),
    }
}

/// The classes that promise "nothing was bought" are not true of a job that had been accepted. Taken at their word, such a
/// failure would be retried a hundred times for free, and each time might be billed to us.
const fn after_acceptance(class: FailureClass) -> FailureClass {
    match class {
        FailureClass::RateLimited | FailureClass::Capacity | FailureClass::Network => FailureClass::ProviderFault,
        FailureClass::InvalidInput
        | FailureClass::Moderation
        | FailureClass::Auth
        | FailureClass::NoCredit
        | FailureClass::ProviderFault
        | FailureClass::Timeout
        | FailureClass::OutputExpired
        | FailureClass::ModelRetired
        | FailureClass::StorageFault
        | FailureClass::OutcomeUnknown
        | FailureClass::Poison
        | FailureClass::Cancelled
        | FailureClass::Expired => class,
    }
}

/// What is final at one account need not be at the next: an account without credit, without access or without the model.
/// Whatever else an account refuses is treated as if there were no other route; the next attempt prefers one all the same.
fn elsewhere_or_fail(class: FailureClass, spent: Spent) -> VideoNext {
    match class {
        FailureClass::Auth | FailureClass::NoCredit | FailureClass::ModelRetired => {
            if spent.waits >= retry::ELSEWHERE.max_attempts {
                return VideoNext::Fail(class);
            }
            let delay_ms = retry::delay_ms(retry::ELSEWHERE, spent.waits, spent.jitter_permille);
            VideoNext::RetryLater { class, delay_ms, spends_attempt: false }
        }
        FailureClass::InvalidInput
        | FailureClass::Moderation
        | FailureClass::RateLimited
        | FailureClass::Capacity
        | FailureClass::ProviderFault
        | FailureClass::Network
        | FailureClass::Timeout
        | FailureClass::OutputExpired
        | FailureClass::StorageFault
        | FailureClass::OutcomeUnknown
        | FailureClass::Poison
        | FailureClass::Cancelled
        | FailureClass::Expired => retry_or_fail(class, spent),
    }
}

/// The present attempt is over because of `class`: a new one if the policy has any left, otherwise the end.
fn retry_or_fail(class: FailureClass, spent: Spent) -> VideoNext {
    let policy = retry::policy(class);
    let (used, left) = if policy.spends_attempt {
        (spent.attempts, spent.attempts.saturating_add(1) < policy.max_attempts)
    } else {
        (spent.waits, spent.waits < policy.max_attempts)
    };
    if policy.retry && left {
        VideoNext::RetryLater {
            class,
            delay_ms: retry::delay_ms(policy, used, spent.jitter_permille),
            spends_attempt: policy.spends_attempt,
        }
    } else {
        VideoNext::Fail(class)
    }
}

#[cfg(test)]
mod tests {
    use super::VideoEnd::*;
    use super::VideoStep::*;
    use super::*;

    const FRESH: Spent = Spent { attempts: 0, waits: 0, jitter_permille: 1000 };

    fn at(step: VideoStep, end: VideoEnd, spent: Spent) -> VideoNext {
        next(step, end, spent).expect("possible end")
    }

    fn failed_class(next: VideoNext) -> Option<FailureClass> {
        match next {
            VideoNext::Fail(class) => Some(class),
            VideoNext::Step(_) | VideoNext::Again(_) | VideoNext::RetryLater { .. } | VideoNext::Succeed => None,
        }
    }

    #[test]
    fn the_straight_way_is_submit_poll_store_succeed() {
        assert_eq!(at(Submit, Accepted, FRESH), VideoNext::Step(Poll));
        assert_eq!(at(Poll, StillRunning, FRESH), VideoNext::Again(Poll));
        assert_eq!(at(Poll, OutputReady, FRESH), VideoNext::Step(Store));
        assert_eq!(at(Store, Stored, FRESH), VideoNext::Succeed);
    }

    #[test]
    fn a_lost_answer_is_looked_up_and_never_submitted_again_before_it_is_known_not_bought() {
        assert_eq!(at(Submit, AnswerLost, FRESH), VideoNext::Step(LookUp));
        assert_eq!(at(Submit, DeadlinePassed, FRESH), VideoNext::Step(LookUp));
        assert_eq!(at(LookUp, NotFoundYet, FRESH), VideoNext::Again(LookUp));
        assert_eq!(at(LookUp, CannotLookUp, FRESH), VideoNext::Again(LookUp));
        assert_eq!(at(LookUp, Poisoned, FRESH), VideoNext::Fail(FailureClass::Poison));
        assert_eq!(at(LookUp, Found, FRESH), VideoNext::Step(Poll));
        assert_eq!(at(LookUp, DeadlinePassed, FRESH), VideoNext::Fail(FailureClass::OutcomeUnknown));
        assert_eq!(
            at(LookUp, NotBought, FRESH),
            VideoNext::RetryLater { class: FailureClass::Network, delay_ms: 5_000, spends_attempt: true }
        );
    }

    #[test]
    fn a_spending_class_is_final_at_its_bound_and_no_earlier() {
        for (class, last) in
            [(FailureClass::ProviderFault, 2), (FailureClass::Timeout, 1), (FailureClass::OutputExpired, 1)]
        {
            for attempts in 0..last {
                let next = at(Poll, ProviderFailed(class), Spent { attempts, ..FRESH });
                assert!(
                    matches!(next, VideoNext::RetryLater { spends_attempt: true, .. }),
                    "{class:?} after {attempts}"
                );
            }
            for attempts in [last, last + 1, u32::MAX] {
                let next = at(Poll, ProviderFailed(class), Spent { attempts, ..FRESH });
                assert_eq!(next, VideoNext::Fail(class), "after {attempts}");
            }
        }
    }

    #[test]
    fn a_wait_looks_at_waits_and_not_at_attempts_and_ends_after_two_hundred() {
        let busy = Rejected(FailureClass::RateLimited);
        for attempts in [0, 5, u32::MAX] {
            let next = at(Submit, busy, Spent { attempts, waits: 199, ..FRESH });
            assert_eq!(
                next,
                VideoNext::RetryLater { class: FailureClass::RateLimited, delay_ms: 120_000, spends_attempt: false }
            );
            assert_eq!(
                at(Submit, busy, Spent { attempts, waits: 200, ..FRESH }),
                VideoNext::Fail(FailureClass::RateLimited)
            );
        }
    }

    #[test]
    fn what_an_account_refuses_for_its_own_reasons_goes_to_another_route_a_bounded_number_of_times() {
        for class in [FailureClass::NoCredit, FailureClass::Auth, FailureClass::ModelRetired] {
            assert_eq!(at(Submit, Rejected(class), FRESH), VideoNext::Fail(class));
            let elsewhere = at(Submit, RouteRefused(class), Spent { attempts: 7, ..FRESH });
            assert_eq!(elsewhere, VideoNext::RetryLater { class, delay_ms: 500, spends_attempt: false });
            assert_eq!(at(Submit, RouteRefused(class), Spent { waits: 200, ..FRESH }), VideoNext::Fail(class));
            assert!(retry::accounts_fault(class));
        }
        for class in [FailureClass::Moderation, FailureClass::InvalidInput] {
            assert_eq!(at(Submit, RouteRefused(class), FRESH), VideoNext::Fail(class), "no account takes it");
            assert!(!retry::accounts_fault(class));
        }
    }

    #[test]
    fn a_job_that_failed_after_it_was_accepted_is_never_retried_for_free() {
        for class in [FailureClass::RateLimited, FailureClass::Capacity, FailureClass::Network] {
            let next = at(Poll, ProviderFailed(class), FRESH);
            assert_eq!(
                next,
                VideoNext::RetryLater { class: FailureClass::ProviderFault, delay_ms: 10_000, spends_attempt: true }
            );
        }
    }

    #[test]
    fn a_paid_output_is_copied_again_until_the_deadline_and_made_again_only_when_it_is_lost_or_broken() {
        for attempts in [0, 7, u32::MAX] {
            let next = at(Store, StoreFailed(FailureClass::StorageFault), Spent { attempts, ..FRESH });
            assert_eq!(next, VideoNext::Again(Store));
        }
        for class in [FailureClass::OutputExpired, FailureClass::ProviderFault] {
            let next = at(Store, StoreFailed(class), FRESH);
            assert!(matches!(next, VideoNext::RetryLater { spends_attempt: true, .. }), "{class:?}: {next:?}");
        }
        let late = at(Store, DeadlinePassed, Spent { attempts: 1, ..FRESH });
        assert_eq!(failed_class(late), Some(FailureClass::StorageFault));
    }

    #[test]
    fn a_class_that_is_never_retried_fails_wherever_it_occurs() {
        for class in FailureClass::ALL.into_iter().filter(|class| !retry::policy(*class).retry) {
            for (step, end) in [(Submit, Rejected(class)), (Poll, ProviderFailed(class)), (Store, StoreFailed(class))] {
                assert_eq!(at(step, end, FRESH), VideoNext::Fail(class), "{step:?}");
            }
        }
    }

    #[test]
    fn a_retry_spends_and_waits_what_the_policy_of_its_class_says() {
        let mut retries = 0;
        for (attempts, waits) in [(0, 0), (1, 0), (0, 150), (6, 199)] {
            let spent = Spent { attempts, waits, jitter_permille: 500 };
            let answers = VideoStep::all()
                .into_iter()
                .flat_map(|step| VideoEnd::all().into_iter().filter_map(move |end| next(step, end, spent).ok()));
            for answer in answers {
                let VideoNext::RetryLater { class, delay_ms, spends_attempt } = answer else { continue };
                // a class that is never retried at the same account may be taken to another one
                let policy = Some(retry::policy(class)).filter(|policy| policy.retry).unwrap_or(retry::ELSEWHERE);
                let used = if spends_attempt { attempts } else { waits };
                assert_eq!(spends_attempt, policy.spends_attempt, "{class:?}");
                assert_eq!(delay_ms, retry::delay_ms(policy, used, 500), "{class:?} after {used}");
                retries += 1;
            }
        }
        assert!(retries > 0);
    }

    #[test]
    fn a_deadline_never_answers_with_more_waiting() {
        for step in VideoStep::all() {
            let next = at(step, DeadlinePassed, FRESH);
            assert!(!matches!(next, VideoNext::Again(_)), "{step:?}: {next:?}");
        }
    }

    #[test]
    fn an_end_of_another_step_is_refused_by_name() {
        let refused = next(Submit, Stored, FRESH).expect_err("impossible end");
        assert_eq!(refused, ImpossibleEnd { step: Submit, end: Stored });
        assert!(refused.to_string().starts_with("a video's step `submit` cannot end with `stored`"), "{refused}");
    }
}
