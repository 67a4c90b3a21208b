//! The walk over every path, and walks over broken rules that it must refuse.

use std::sync::LazyLock;

use super::*;
use crate::FailureClass;
use crate::month_close::{MonthCloseEnd, MonthCloseStep};
use crate::retry;
use crate::video::{self, Spent, VideoEnd, VideoNext, VideoStep};
use crate::video_batch::{self, BatchEnd, BatchNext, BatchStep};
use crate::{money, webhook};

static REAL: LazyLock<OrderWalk> = LazyLock::new(|| order(Rules::REAL).unwrap_or_else(|flaw| panic!("{flaw}")));

fn flaw_of(rules: Rules) -> Flaw {
    order(rules).expect_err("a broken flow must not pass")
}

#[test]
fn every_path_of_an_order_ends_and_resolves_frozen_credits_exactly_once() {
    let walk = &*REAL;
    assert!(walk.places.len() > 1_000, "the walk must see every counter, not only {} places", walk.places.len());
}

#[test]
fn every_path_of_a_webhook_and_of_a_month_ends() {
    let delivery = delivery().unwrap_or_else(|flaw| panic!("{flaw}"));
    assert_eq!(delivery.places.len(), webhook::RETRY_SCHEDULE_SECS.len() + 1);
    let month = month_close().unwrap_or_else(|flaw| panic!("{flaw}"));
    assert_eq!(BTreeSet::from_iter(month.places.iter().copied()), BTreeSet::from_iter(MonthCloseStep::all()));
    let ends: BTreeSet<MonthCloseEnd> = month.edges.iter().map(|(_, edge)| edge.end).collect();
    assert_eq!(ends, BTreeSet::from_iter(MonthCloseEnd::all()));
}

#[test]
fn every_way_out_of_a_webhook_is_taken() {
    let delivery = delivery().unwrap_or_else(|flaw| panic!("{flaw}"));
    let over: BTreeSet<&str> = delivery
        .edges
        .iter()
        .filter_map(|(_, edge)| match edge.to {
            To::Over(name) => Some(name),
            To::Place(_) => None,
        })
        .collect();
    assert_eq!(over, BTreeSet::from(["delivered", "disabled", "given up"]));
}

#[test]
fn no_step_and_no_end_of_an_order_is_dead() {
    assert_eq!(unused(&REAL), Vec::<String>::new());
}

#[test]
fn every_failure_class_is_reached_as_a_final_failure() {
    let reached: BTreeSet<FailureClass> = REAL
        .edges
        .iter()
        .filter_map(|(place, edge)| match (*place, edge.end) {
            (OrderPlace::Video { step, attempts, waits }, OrderEnd::Video(end)) => {
                match video::next(step, end, Spent { attempts, waits, jitter_permille: 0 }) {
                    Ok(VideoNext::Fail(class)) => Some(class),
                    Ok(
                        VideoNext::Step(_) | VideoNext::Again(_) | VideoNext::RetryLater { .. } | VideoNext::Succeed,
                    )
                    | Err(_) => None,
                }
            }
            _ => None,
        })
        .collect();
    assert_eq!(reached, BTreeSet::from(FailureClass::ALL));
}

#[test]
fn attempts_waits_and_purchases_are_bounded() {
    let walk = &*REAL;
    let mut most_attempts = 0;
    let mut most_waits = 0;
    for place in &walk.places {
        if let OrderPlace::Video { attempts, waits, .. } = *place {
            most_attempts = most_attempts.max(attempts + 1);
            most_waits = most_waits.max(waits);
        }
    }
    let bound = |spends: bool| {
        let policies = FailureClass::ALL.map(retry::policy).into_iter();
        policies
            .filter(|policy| policy.retry && policy.spends_attempt == spends)
            .map(|policy| policy.max_attempts)
            .max()
    };
    assert_eq!(Some(most_attempts), bound(true));
    assert_eq!(Some(most_waits), bound(false));
    assert_eq!(walk.heaviest(|place, edge| u32::from(order_may_have_bought(place, edge))), 3);
}

#[test]
fn waiting_spends_nothing_and_every_other_retry_spends_one_attempt() {
    for (place, edge) in &REAL.edges {
        let (OrderPlace::Video { attempts: before, .. }, Some(OrderPlace::Video { attempts, waits, .. })) =
            (*place, edge.to.place())
        else {
            continue;
        };
        match edge.kind {
            EdgeKind::Forward | EdgeKind::Waiting => assert_eq!(attempts, before, "{place:?} {edge:?}"),
            EdgeKind::Retry { spends_attempt: false, .. } => assert_eq!(attempts, before, "{place:?} {edge:?}"),
            EdgeKind::Retry { spends_attempt: true, .. } => {
                assert_eq!((attempts, waits), (before + 1, 0), "{place:?} {edge:?}");
            }
        }
    }
}

#[test]
fn a_stored_video_is_charged_and_nothing_else_is() {
    let stored = OrderEnd::Video(VideoEnd::Stored);
    assert!(REAL.edges.iter().any(|(_, edge)| edge.end == stored));
    for (place, edge) in &REAL.edges {
        let is_stored = matches!(place, OrderPlace::Video { step: VideoStep::Store, .. }) && edge.end == stored;
        assert_eq!(edge.moves == CreditMove::Charge, is_stored, "{place:?} {edge:?}");
    }
}

#[test]
fn a_failure_that_forgets_the_refund_is_refused() {
    fn forgetful(next: VideoNext) -> CreditMove {
        match next {
            VideoNext::Fail(FailureClass::OutcomeUnknown) => CreditMove::Nothing,
            other => money::of_video(other),
        }
    }
    let flaw = flaw_of(Rules { video_money: forgetful, ..Rules::REAL });
    assert!(matches!(flaw, Flaw::Credits { act: "close", balance: "held and undecided", .. }), "{flaw}");
}

#[test]
fn a_success_that_is_refunded_and_charged_is_refused() {
    fn generous(end: BatchEnd) -> CreditMove {
        match end {
            BatchEnd::EveryVideoSettled => CreditMove::Refund,
            other => money::of_batch(other),
        }
    }
    let flaw = flaw_of(Rules { batch_money: generous, ..Rules::REAL });
    assert!(matches!(flaw, Flaw::Credits { act: "refund", .. }), "{flaw}");
}

#[test]
fn a_batch_that_is_refused_after_its_freeze_is_refused_by_the_walk() {
    fn hasty(end: BatchEnd) -> CreditMove {
        match end {
            BatchEnd::ShortOfCredits => CreditMove::Freeze,
            other => money::of_batch(other),
        }
    }
    let flaw = flaw_of(Rules { batch_money: hasty, ..Rules::REAL });
    assert!(matches!(flaw, Flaw::Credits { act: "leave behind", balance: "held and undecided", .. }), "{flaw}");
}

#[test]
fn videos_without_a_freeze_are_refused() {
    fn unfrozen(end: BatchEnd) -> CreditMove {
        match end {
            BatchEnd::Frozen => CreditMove::Nothing,
            other => money::of_batch(other),
        }
    }
    let flaw = flaw_of(Rules { batch_money: unfrozen, ..Rules::REAL });
    assert!(matches!(flaw, Flaw::Credits { balance: "untouched", .. }), "{flaw}");
}

#[test]
fn a_batch_that_is_never_closed_is_refused() {
    fn careless(step: BatchStep, end: BatchEnd) -> Result<BatchNext, video_batch::ImpossibleEnd> {
        match end {
            BatchEnd::EveryVideoSettled => video_batch::next(step, end).map(|_| BatchNext::Step(BatchStep::Notify)),
            _ => video_batch::next(step, end),
        }
    }
    let flaw = flaw_of(Rules { batch: careless, ..Rules::REAL });
    assert!(matches!(flaw, Flaw::Credits { act: "leave behind", .. }), "{flaw}");
}

#[test]
fn a_retry_that_charges_is_refused() {
    fn eager(next: VideoNext) -> CreditMove {
        match next {
            VideoNext::RetryLater { .. } => CreditMove::Charge,
            other => money::of_video(other),
        }
    }
    let flaw = flaw_of(Rules { video_money: eager, ..Rules::REAL });
    assert!(matches!(flaw, Flaw::WaitMovesCredits { act: "charge", .. }), "{flaw}");
}

#[test]
fn a_retry_without_a_bound_is_refused() {
    fn stubborn(step: VideoStep, end: VideoEnd, spent: Spent) -> Result<VideoNext, video::ImpossibleEnd> {
        video::next(step, end, spent).map(|next| match next {
            VideoNext::Fail(class @ FailureClass::Network) => {
                VideoNext::RetryLater { class, delay_ms: 1, spends_attempt: true }
            }
            other => other,
        })
    }
    let flaw = flaw_of(Rules { video: stubborn, ..Rules::REAL });
    assert!(matches!(flaw, Flaw::Endless { .. }), "{flaw}");
}

#[test]
fn a_free_retry_of_a_job_that_was_accepted_is_refused() {
    fn trusting(step: VideoStep, end: VideoEnd, spent: Spent) -> Result<VideoNext, video::ImpossibleEnd> {
        match (step, end) {
            (VideoStep::Poll, VideoEnd::ProviderFailed(FailureClass::Capacity)) => {
                video::next(VideoStep::Submit, VideoEnd::Rejected(FailureClass::Capacity), spent)
            }
            _ => video::next(step, end, spent),
        }
    }
    let flaw = flaw_of(Rules { video: trusting, ..Rules::REAL });
    assert!(matches!(flaw, Flaw::FreeRetryAfterPurchase { .. }), "{flaw}");
}

#[test]
fn a_circle_without_waiting_is_refused() {
    fn dizzy(step: VideoStep, end: VideoEnd, spent: Spent) -> Result<VideoNext, video::ImpossibleEnd> {
        match (step, end) {
            (VideoStep::LookUp, VideoEnd::NotBought) => Ok(VideoNext::Step(VideoStep::Submit)),
            _ => video::next(step, end, spent),
        }
    }
    let flaw = flaw_of(Rules { video: dizzy, ..Rules::REAL });
    assert!(matches!(flaw, Flaw::Circle { .. }), "{flaw}");
}

#[test]
fn a_deadline_that_waits_on_is_refused() {
    fn patient(step: VideoStep, end: VideoEnd, spent: Spent) -> Result<VideoNext, video::ImpossibleEnd> {
        match (step, end) {
            (VideoStep::Poll, VideoEnd::DeadlinePassed) => Ok(VideoNext::Again(VideoStep::Poll)),
            _ => video::next(step, end, spent),
        }
    }
    let flaw = flaw_of(Rules { video: patient, ..Rules::REAL });
    assert!(matches!(flaw, Flaw::WaitsForever { .. }), "{flaw}");
}

#[test]
fn a_step_without_an_end_is_refused_and_a_dead_step_is_named() {
    fn stuck(step: VideoStep, end: VideoEnd, spent: Spent) -> Result<VideoNext, video::ImpossibleEnd> {
        match step {
            VideoStep::Store => Err(video::ImpossibleEnd { step, end }),
            VideoStep::Submit | VideoStep::LookUp | VideoStep::Poll => video::next(step, end, spent),
        }
    }
    let flaw = flaw_of(Rules { video: stuck, ..Rules::REAL });
    assert!(matches!(flaw, Flaw::Stuck { .. }), "{flaw}");

    fn short(step: VideoStep, end: VideoEnd, spent: Spent) -> Result<VideoNext, video::ImpossibleEnd> {
        match (step, end) {
            (VideoStep::Poll, VideoEnd::OutputReady) => Ok(VideoNext::Succeed),
            _ => video::next(step, end, spent),
        }
    }
    let walk = order(Rules { video: short, ..Rules::REAL }).unwrap_or_else(|flaw| panic!("{flaw}"));
    let dead = unused(&walk);
    assert!(dead.iter().any(|name| name.contains("step: Store")), "{dead:?}");
    assert!(dead.iter().any(|name| name.contains("Video(Stored)")), "{dead:?}");
}
