//! Repeats reads (poll, list, the start of a download) for a bounded time.
//!
//! Owns the crate `backoff`; no other module names it, so that replacing it is a change of this file.
//! Always holds: only [`ReadError::Unavailable`] is tried again; the whole call ends within its bound. A rate limit is not
//! waited out here: the caller asks again at its own pace.
//! Refuses: anything that could buy. A submission must not come through here.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use backoff::ExponentialBackoffBuilder;

use super::super::ReadError;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// Calls `read` until it succeeds, fails for good, or `bound` has passed since the start.
///
/// # Errors
/// The last error of `read`; [`ReadError::Unavailable`] when the first try did not even end within `bound`.
pub(super) async fn retry<T, F, Fut>(bound: Duration, mut read: F) -> Result<T, ReadError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, ReadError>>,
{
    let pauses = ExponentialBackoffBuilder::new()
        .with_initial_interval(FIRST_PAUSE)
        .with_max_interval(LONGEST_PAUSE)
        .with_max_elapsed_time(Some(bound))
        .build();
    let last = Mutex::new(None);
    let operation = || {
        let reading = read();
        async {
            reading.await.map_err(|error| match error {
                ReadError::Unavailable { .. } => backoff::Error::transient(error),
                other => backoff::Error::permanent(other),
            })
        }
    };
    let note = |error: ReadError, _| {
        *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    };
    match tokio::time::timeout(bound, backoff::future::retry_notify(pauses, operation, note)).await {
        Ok(ended) => ended,
        Err(_) => {
            let last = last.into_inner().unwrap_or_else(PoisonError::into_inner);
            Err(last.unwrap_or_else(|| ReadError::Unavailable { cause: format!("no answer within {bound:?}") }))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn unavailable() -> ReadError {
        ReadError::Unavailable { cause: "HTTP 502".to_owned() }
    }

    #[tokio::test]
    async fn a_passing_fault_is_tried_again() {
        let calls = Cell::new(0);
        let read = || {
            calls.set(calls.get() + 1);
            std::future::ready(if calls.get() < 3 { Err(unavailable()) } else { Ok(calls.get()) })
        };
        assert_eq!(retry(Duration::from_secs(20), read).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_rate_limit_and_a_refusal_are_not() {
        for error in [
            ReadError::RateLimited { retry_after: None },
            ReadError::Refused { class: crate::domain::FailureClass::Auth, message: String::new() },
        ] {
            let calls = Cell::new(0);
            let read = || {
                calls.set(calls.get() + 1);
                std::future::ready(Err::<(), _>(error.clone()))
            };
            assert_eq!(retry(Duration::from_secs(20), read).await.unwrap_err(), error);
            assert_eq!(calls.get(), 1);
        }
    }

    #[tokio::test]
    async fn the_bound_holds_for_endless_faults_and_for_one_endless_read() {
        let bound = Duration::from_millis(300);
        assert_eq!(retry(bound, || std::future::ready(Err::<(), _>(unavailable()))).await.unwrap_err(), unavailable());
        let silent = retry(bound, std::future::pending::<Result<(), ReadError>>).await.unwrap_err();
        assert!(
            matches!(&silent, ReadError::Unavailable { cause } if cause.contains("no answer within")),
            "{silent:?}"
        );
    }
}
