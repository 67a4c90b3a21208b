//! Refusals of pausing and resuming.

use super::{ApiError, Kind};
use crate::batches::PauseError;

impl From<PauseError> for ApiError {
    fn from(error: PauseError) -> ApiError {
        match error {
            PauseError::NoBatch => ApiError::not_found(error.to_string()),
            PauseError::Ended(_) | PauseError::Cancelled => {
                ApiError::new(Kind::BatchEnded, format!("{error}; there is nothing left to pause or to resume"))
            }
            PauseError::Database(error) => error.into(),
        }
    }
}
