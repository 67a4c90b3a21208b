//! One webhook event: send -> delivered; or back off and send again; or give up; or disable the endpoint.
//!
//! Always holds: any 2xx is delivered; 410 says that the endpoint is gone for good and disables it; everything else,
//! redirects included, is a failure that is retried on a fixed schedule and then given up. No delay exceeds 24 hours.
//!
//! Refuses to know: signing, sending, and what the event says.

use crate::retry::permille_of;

/// How one delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryEnd {
    /// The endpoint answered with this HTTP status.
    Status(u16),
    /// The endpoint did not answer in time.
    TimedOut,
    /// No connection could be made, or it broke.
    Unreachable,
    /// The endpoint's address is private and was not contacted. Retried, because a name may point elsewhere later.
    Refused,
}

/// What happens to the event next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryNext {
    /// Terminal: the customer has it.
    Delivered,
    /// Send again after so many milliseconds.
    BackOff {
        /// Milliseconds from now.
        delay_ms: u64,
    },
    /// Terminal: the last delivery failed.
    GiveUp,
    /// Terminal, also for the endpoint: nothing more is sent to it until the customer enables it again.
    Disable,
}

/// Seconds between one delivery and the next: 8 deliveries over about 28 hours.
pub const RETRY_SCHEDULE_SECS: [u64; 7] = [5, 300, 1800, 7200, 18000, 36000, 36000];

/// A delay is lengthened by up to so many thousandths, so that events which failed together do not return together.
pub const JITTER_PERMILLE: u32 = 200;

/// No delay is longer, whatever an endpoint asks for. Seconds.
pub const MAX_DELAY_SECS: u64 = 24 * 60 * 60;

/// What happens to an event whose delivery ended with `end`.
///
/// `deliveries_made` counts the one that just ended, so it is at least 1 (0 counts as 1). `jitter_permille` is 0..=1000,
/// drawn by the caller; more counts as 1000. `retry_after_secs` is the endpoint's `Retry-After`: it is heard with a 429 or
/// a 503 only, and it can lengthen the delay but never shorten it.
pub fn next(
    end: DeliveryEnd,
    deliveries_made: u32,
    jitter_permille: u32,
    retry_after_secs: Option<u64>,
) -> DeliveryNext {
    let asked_secs = match end {
        DeliveryEnd::Status(200..=299) => return DeliveryNext::Delivered,
        DeliveryEnd::Status(410) => return DeliveryNext::Disable,
        DeliveryEnd::Status(429 | 503) => retry_after_secs.unwrap_or(0),
        DeliveryEnd::Status(0..=199 | 300..=409 | 411..=428 | 430..=502 | 504..=u16::MAX)
        | DeliveryEnd::TimedOut
        | DeliveryEnd::Unreachable
        | DeliveryEnd::Refused => 0,
    };
    let nth = deliveries_made.saturating_sub(1);
    match usize::try_from(nth).ok().and_then(|nth| RETRY_SCHEDULE_SECS.get(nth)) {
        Some(scheduled_secs) => {
            let nominal_ms = asked_secs.clamp(*scheduled_secs, MAX_DELAY_SECS) * 1000;
            let jitter_ms = permille_of(permille_of(nominal_ms, JITTER_PERMILLE), jitter_permille);
            DeliveryNext::BackOff { delay_ms: (nominal_ms + jitter_ms).min(MAX_DELAY_SECS * 1000) }
        }
        None => DeliveryNext::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: u32 = 8;

    fn delay_secs(end: DeliveryEnd, made: u32, jitter: u32, retry_after_secs: Option<u64>) -> u64 {
        match next(end, made, jitter, retry_after_secs) {
            DeliveryNext::BackOff { delay_ms } => delay_ms / 1000,
            other => panic!("{end:?} after {made} deliveries: {other:?}"),
        }
    }

    #[test]
    fn every_status_has_its_answer_and_a_redirect_is_a_failure() {
        for status in 0..=u16::MAX {
            let answer = next(DeliveryEnd::Status(status), 1, 0, None);
            let expected = if (200..300).contains(&status) {
                DeliveryNext::Delivered
            } else if status == 410 {
                DeliveryNext::Disable
            } else {
                DeliveryNext::BackOff { delay_ms: 5_000 }
            };
            assert_eq!(answer, expected, "status {status}");
        }
    }

    #[test]
    fn a_failing_endpoint_is_tried_eight_times_on_schedule_and_given_up() {
        for end in [DeliveryEnd::TimedOut, DeliveryEnd::Unreachable, DeliveryEnd::Refused, DeliveryEnd::Status(500)] {
            let delays: Vec<u64> = (1..LAST).map(|made| delay_secs(end, made, 0, None)).collect();
            assert_eq!(delays, RETRY_SCHEDULE_SECS);
            for made in [LAST, LAST + 1, u32::MAX] {
                assert_eq!(next(end, made, 1000, Some(60)), DeliveryNext::GiveUp);
            }
        }
        assert_eq!(next(DeliveryEnd::Status(204), LAST, 0, None), DeliveryNext::Delivered);
        assert_eq!(next(DeliveryEnd::Status(410), LAST, 0, None), DeliveryNext::Disable);
    }

    #[test]
    fn jitter_lengthens_a_delay_by_at_most_a_fifth() {
        assert_eq!(delay_secs(DeliveryEnd::TimedOut, 2, 0, None), 300);
        assert_eq!(delay_secs(DeliveryEnd::TimedOut, 2, 500, None), 330);
        assert_eq!(delay_secs(DeliveryEnd::TimedOut, 2, 1000, None), 360);
        assert_eq!(delay_secs(DeliveryEnd::TimedOut, 2, u32::MAX, None), 360);
    }

    #[test]
    fn retry_after_is_heard_with_429_and_503_only_and_only_lengthens_up_to_a_day() {
        for status in [429, 503] {
            assert_eq!(delay_secs(DeliveryEnd::Status(status), 1, 0, Some(900)), 900);
            assert_eq!(delay_secs(DeliveryEnd::Status(status), 1, 1000, Some(900)), 1080);
            assert_eq!(delay_secs(DeliveryEnd::Status(status), 2, 0, Some(1)), 300);
            assert_eq!(delay_secs(DeliveryEnd::Status(status), 1, 1000, Some(u64::MAX)), MAX_DELAY_SECS);
        }
        assert_eq!(delay_secs(DeliveryEnd::Status(500), 1, 0, Some(900)), 5);
        assert_eq!(delay_secs(DeliveryEnd::TimedOut, 0, 0, Some(900)), 5);
    }
}
