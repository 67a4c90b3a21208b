//! Refusals of retries.

use super::{ApiError, Kind};
use crate::batches::RetryError;

impl From<RetryError> for ApiError {
    fn from(error: RetryError) -> ApiError {
        match error {
            RetryError::NoBatch => ApiError::not_found(error.to_string()),
            RetryError::NotEnded(_) => {
                let detail = format!("{error}; what fails of it is known when it has ended; nothing was frozen");
                ApiError::new(Kind::BatchNotEnded, detail)
            }
            RetryError::NothingFailed => ApiError::new(Kind::NothingToRetry, format!("{error}; nothing was frozen")),
            RetryError::RetriedBefore(ref by) => {
                let by: Vec<String> = by.iter().map(ToString::to_string).collect();
                let (by, those) = (by.join(", "), if by.len() == 1 { "that batch" } else { "those batches" });
                let detail = format!("{error}, by {by}; retry {those} for what failed there again; nothing was frozen");
                ApiError::new(Kind::RetriedBefore, detail)
            }
            RetryError::InFlight => {
                let detail = "something else is done to the batch at this moment, perhaps another retry: repeat the request to see \
                              what is left; nothing was frozen";
                ApiError::new(Kind::BatchBusy, detail).retry_later()
            }
            RetryError::Database(error) => error.into(),
        }
    }
}
