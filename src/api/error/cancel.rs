//! Refusals of cancelling.

use super::{ApiError, Kind};
use crate::batches::CancelError;

impl From<CancelError> for ApiError {
    fn from(error: CancelError) -> ApiError {
        match error {
            CancelError::NoBatch => ApiError::not_found(error.to_string()),
            CancelError::Ended(_) => {
                ApiError::new(Kind::BatchEnded, format!("{error}; there is nothing left to cancel"))
            }
            CancelError::Database(error) => error.into(),
        }
    }
}
