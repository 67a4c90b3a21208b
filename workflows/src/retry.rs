//! How each failure class is retried, and how it is told to the customer.
//!
//! Always holds: a class that says "try again" is bounded; a class whose retry spends no attempt is one where provably
//! nothing was bought; a delay lies between half of its nominal value and the policy's maximum, for every input.
//!
//! The numbers are house decisions, not a provider's. A provider's own `Retry-After` is not seen here: it cools the
//! account, and the video need not wait for it where its model has another route.

use crate::FailureClass;

/// How one failure class is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Whether a new attempt may follow at all. Where false, the other fields have no effect.
    pub retry: bool,
    /// Where the retry spends an attempt: the attempts that the video may have had in all, of whatever class, before this
    /// class is final. Where it does not: the retries in a row that may wait for free.
    pub max_attempts: u32,
    /// Nominal delay before the first retry, in milliseconds; it doubles with every further one.
    pub first_delay_ms: u64,
    /// No delay is longer, in milliseconds.
    pub max_delay_ms: u64,
    /// Whether the attempt that ended so counts against the bound.
    pub spends_attempt: bool,
}

const NEVER: RetryPolicy =
    RetryPolicy { retry: false, max_attempts: 1, first_delay_ms: 0, max_delay_ms: 0, spends_attempt: true };

const fn spending(max_attempts: u32, first_delay_ms: u64, max_delay_ms: u64) -> RetryPolicy {
    RetryPolicy { retry: true, max_attempts, first_delay_ms, max_delay_ms, spends_attempt: true }
}

const fn waiting(max_waits: u32, first_delay_ms: u64, max_delay_ms: u64) -> RetryPolicy {
    RetryPolicy { retry: true, max_attempts: max_waits, first_delay_ms, max_delay_ms, spends_attempt: false }
}

/// The policy of a failure class.
pub const fn policy(class: FailureClass) -> RetryPolicy {
    match class {
        // The same request would be refused again.
        FailureClass::InvalidInput | FailureClass::Moderation | FailureClass::ModelRetired => NEVER,
        // Nothing changes until an operator acts, and the customer's credits must not wait for that.
        FailureClass::Auth | FailureClass::NoCredit => NEVER,
        // A new attempt might buy the video a second time.
        FailureClass::OutcomeUnknown => NEVER,
        // A new attempt would kill another worker.
        FailureClass::Poison => NEVER,
        // The customer wants it no more.
        FailureClass::Cancelled | FailureClass::Expired => NEVER,
        // Nothing was bought, so patience is free: 200 waits are up to 6.5 hours here and up to 16 hours for capacity.
        FailureClass::RateLimited => waiting(200, 2_000, 120_000),
        FailureClass::Capacity => waiting(200, 5_000, 300_000),
        // Nothing was bought either, but a host that cannot be reached may be a wrong address: rides out about 10 minutes.
        FailureClass::Network => spending(8, 5_000, 300_000),
        // From here on every attempt may cost us a video at the provider, so they are few.
        FailureClass::ProviderFault => spending(3, 10_000, 300_000),
        FailureClass::Timeout => spending(2, 30_000, 300_000),
        FailureClass::OutputExpired => spending(2, 5_000, 60_000),
        // Reached only after storing was repeated until the attempt's deadline: the store needs a long pause by then.
        FailureClass::StorageFault => spending(2, 300_000, 900_000),
    }
}

/// How often in a row, and how soon, a video goes to another route of its model after an account has refused it for a
/// reason of the account's own. Nothing was bought, and the refused account is passed over by then.
pub const ELSEWHERE: RetryPolicy = waiting(200, 500, 120_000);

/// Whether the account that the attempt was sent to is to blame rather than the order: then the next attempt goes to
/// another route of the model, where there is one.
pub const fn accounts_fault(class: FailureClass) -> bool {
    match class {
        FailureClass::Auth
        | FailureClass::NoCredit
        | FailureClass::RateLimited
        | FailureClass::Capacity
        | FailureClass::ProviderFault
        | FailureClass::Network
        | FailureClass::Timeout
        | FailureClass::OutputExpired
        | FailureClass::ModelRetired => true,
        FailureClass::InvalidInput
        | FailureClass::Moderation
        | FailureClass::StorageFault
        | FailureClass::OutcomeUnknown
        | FailureClass::Poison
        | FailureClass::Cancelled
        | FailureClass::Expired => false,
    }
}

/// The delay before a retry, in milliseconds: exponential with equal jitter.
///
/// `nth` counts the retries made before this one, from 0. `jitter_permille` is 0 (half of the nominal delay) to 1000 (all
/// of it); more counts as 1000. Never overflows.
pub const fn delay_ms(policy: RetryPolicy, nth: u32, jitter_permille: u32) -> u64 {
    let factor = match 1u64.checked_shl(nth) {
        Some(factor) => factor,
        None => u64::MAX,
    };
    let grown = policy.first_delay_ms.saturating_mul(factor);
    let nominal = if grown < policy.max_delay_ms { grown } else { policy.max_delay_ms };
    let least = nominal.div_ceil(2);
    least + permille_of(nominal - least, jitter_permille)
}

/// `permille` thousandths of `value`, rounded down; more than 1000 counts as 1000. Never overflows.
pub(crate) const fn permille_of(value: u64, permille: u32) -> u64 {
    let permille = if permille < 1000 { permille as u64 } else { 1000 };
    value / 1000 * permille + value % 1000 * permille / 1000
}

/// Whether a new order of the same prompt and model may succeed without anybody changing it.
pub const fn retryable_by_customer(class: FailureClass) -> bool {
    match class {
        FailureClass::InvalidInput | FailureClass::Moderation | FailureClass::ModelRetired | FailureClass::Poison => {
            false
        }
        FailureClass::Auth
        | FailureClass::NoCredit
        | FailureClass::RateLimited
        | FailureClass::Capacity
        | FailureClass::ProviderFault
        | FailureClass::Network
        | FailureClass::Timeout
        | FailureClass::OutputExpired
        | FailureClass::StorageFault
        | FailureClass::OutcomeUnknown
        | FailureClass::Cancelled
        | FailureClass::Expired => true,
    }
}

/// One plain sentence for whoever pays: what happened, and after the semicolon what to do.
pub const fn explain(class: FailureClass) -> &'static str {
    match class {
        FailureClass::InvalidInput => {
            "The video model does not accept this order as it is written; change the prompt, size, length or reference image and order again."
        }
        FailureClass::Moderation => {
            "The video provider's content rules refused this prompt or the video made from it; change the prompt and order again."
        }
        FailureClass::Auth => {
            "The video provider refused our access, which is ours to repair; order again later, or ask support whether it is repaired."
        }
        FailureClass::NoCredit => {
            "Our own account at the video provider was used up, which is ours to repair; order again later, or ask support whether it is repaired."
        }
        FailureClass::RateLimited => {
            "The video provider kept asking us to slow down until we gave up; order again when it is less busy."
        }
        FailureClass::Capacity => {
            "The video provider had no free capacity for as long as we waited; order again when it is less busy."
        }
        FailureClass::ProviderFault => {
            "The video provider started this video and did not deliver a usable one; order it again."
        }
        FailureClass::Network => {
            "The video provider, or the server of the reference image, could not be reached after repeated attempts, so no video was started; order it again."
        }
        FailureClass::Timeout => {
            "The video provider did not finish within the time allowed for this model; order it again, or choose a faster model."
        }
        FailureClass::OutputExpired => {
            "The video provider removed the finished video before it could be copied; order it again."
        }
        FailureClass::ModelRetired => {
            "The video provider no longer offers this model; choose another model and order again."
        }
        FailureClass::StorageFault => "The video was made but our own storage did not take it; order it again.",
        FailureClass::OutcomeUnknown => {
            "The connection broke while ordering and nobody can tell whether the video was started, so we count it as failed; order it again."
        }
        FailureClass::Poison => {
            "Processing this video repeatedly broke our system, so we stopped; send its id to support before ordering it again."
        }
        FailureClass::Cancelled => {
            "The batch was cancelled before this video began; order it again if you want it after all."
        }
        FailureClass::Expired => {
            "This video had not begun when the time was over by which the batch was to be complete; order it again with more time."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTREMES: [u32; 9] = [0, 1, 2, 31, 32, 63, 64, 65, u32::MAX];

    #[test]
    fn a_delay_lies_between_half_of_its_nominal_value_and_the_maximum() {
        let mut policies: Vec<RetryPolicy> = FailureClass::ALL.map(policy).to_vec();
        policies.push(spending(9, u64::MAX, u64::MAX));
        policies.push(spending(9, 1, u64::MAX));
        policies.push(spending(9, 7, 7));
        policies.push(spending(9, 100, 3));
        for policy in policies {
            for nth in EXTREMES {
                let grown = u128::from(policy.first_delay_ms) << nth.min(64);
                let nominal = grown.min(u128::from(policy.max_delay_ms));
                for jitter in [0, 1, 499, 500, 999, 1000, 1001, u32::MAX] {
                    let delay = u128::from(delay_ms(policy, nth, jitter));
                    assert!(delay * 2 >= nominal, "{policy:?} nth {nth} jitter {jitter}: {delay} is below half");
                    assert!(delay <= nominal, "{policy:?} nth {nth} jitter {jitter}: {delay} is above nominal");
                }
            }
        }
    }

    #[test]
    fn a_delay_doubles_until_the_maximum_and_jitter_spreads_it_over_the_upper_half() {
        let policy = spending(9, 1_000, 5_000);
        let full: Vec<u64> = (0..5).map(|nth| delay_ms(policy, nth, 1000)).collect();
        assert_eq!(full, [1_000, 2_000, 4_000, 5_000, 5_000]);
        assert_eq!(delay_ms(policy, 1, 0), 1_000);
        assert_eq!(delay_ms(policy, 1, 500), 1_500);
    }

    #[test]
    fn a_retried_class_has_a_bound_and_a_delay() {
        for class in FailureClass::ALL {
            let policy = policy(class);
            if policy.retry {
                assert!((2..=200).contains(&policy.max_attempts), "{class:?}");
                assert!(policy.first_delay_ms > 0 && policy.first_delay_ms <= policy.max_delay_ms, "{class:?}");
            } else {
                assert_eq!(policy, NEVER, "{class:?}");
            }
        }
    }

    #[test]
    fn only_a_class_that_bought_nothing_may_wait_without_spending_an_attempt() {
        let free: Vec<FailureClass> =
            FailureClass::ALL.into_iter().filter(|class| !policy(*class).spends_attempt).collect();
        assert_eq!(free, [FailureClass::RateLimited, FailureClass::Capacity]);
    }

    #[test]
    fn every_explanation_is_one_sentence_that_ends_with_what_to_do() {
        for class in FailureClass::ALL {
            let sentence = explain(class);
            let (_, advice) = sentence.split_once("; ").unwrap_or_else(|| panic!("{class:?} gives no advice"));
            assert!(advice.ends_with('.') && sentence.matches('.').count() == 1, "{class:?}: {sentence}");
            assert!(
                !sentence.contains(class.name()) || !class.name().contains('_'),
                "{class:?} shows an internal name"
            );
            let plain_reorder = advice.starts_with("order");
            assert_eq!(plain_reorder, retryable_by_customer(class), "{class:?} advises against its own flag");
        }
    }
}
