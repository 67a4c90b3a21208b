//! Refusals of orders.

use super::problems::ProblemError;
use super::{ApiError, Kind};
use crate::batches::{AdmissionError, Wrong};
use crate::domain::Credits;

impl From<AdmissionError> for ApiError {
    fn from(error: AdmissionError) -> ApiError {
        match error {
            AdmissionError::ShortOfCredits { required, available } => {
                let missing = required.minus(available).unwrap_or(Credits::ZERO);
                let detail = format!(
                    "the batch costs {required} credits and {available} are available, {missing} too few; nothing was frozen"
                );
                ApiError { credits: Some((required, available)), ..ApiError::new(Kind::ShortOfCredits, detail) }
            }
            AdmissionError::KeyUsedForOtherContent => {
                let wrong = key_used();
                let detail = format!("the idempotency key {}; nothing was frozen", wrong.detail);
                let error = ProblemError { pointer: Some(wrong.pointer), parameter: None, detail: wrong.detail };
                ApiError { errors: vec![error], ..ApiError::new(Kind::KeyReused, detail) }
            }
            AdmissionError::KeyInFlight => {
                let detail = "a request with this idempotency key is being processed: repeat this one in a moment for its answer";
                ApiError::new(Kind::KeyInFlight, detail).retry_later()
            }
            AdmissionError::Images(wrong) => ApiError::invalid_order(wrong),
            AdmissionError::Retry(error) => error.into(),
            AdmissionError::BrokenAnswer(cause) => ApiError::internal(cause),
            AdmissionError::Ledger(error) => error.into(),
            AdmissionError::Database(error) => error.into(),
        }
    }
}

/// What is wrong with a key that belongs to another request.
pub fn key_used() -> Wrong {
    Wrong {
        pointer: "/x-request-id".to_owned(),
        detail: "was used before for another request; send a new one, or that request unchanged".to_owned(),
    }
}
