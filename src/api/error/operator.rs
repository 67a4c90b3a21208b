//! Refusals of the operators' API, and what may go wrong with its operations.

use poem::http::Method;
use poem_openapi::registry::{MetaOperation, MetaParamIn, MetaResponse};

use super::problems::{ProblemError, response};
use super::{ApiError, Kind};
use crate::control::ControlError;
use crate::db;
use crate::domain::Wrong;

/// How the document names the operators' keys.
pub(super) const SCHEME: &str = "OperatorKey";

impl ApiError {
    /// The operator may only look.
    pub fn role_forbids(name: &str) -> ApiError {
        ApiError::new(Kind::RoleForbids, format!("the key of {name} has the role viewer, which changes nothing"))
    }

    /// Everything that is wrong with what an operator sent.
    pub fn invalid_change(wrong: Vec<Wrong>) -> ApiError {
        let detail = match wrong.as_slice() {
            [one] if one.pointer.is_empty() => format!("{}; nothing was changed", one.detail),
            [one] => format!("`{}` {}; nothing was changed", one.pointer, one.detail),
            all => format!("{} things are wrong, see `errors`; nothing was changed", all.len()),
        };
        let errors = wrong.into_iter().map(|Wrong { pointer, detail }| ProblemError {
            pointer: Some(pointer),
            parameter: None,
            detail,
        });
        ApiError { errors: errors.collect(), ..ApiError::new(Kind::InvalidChange, detail) }
    }

    /// A change that was begun, and whose end nobody saw.
    pub fn change_unknown() -> ApiError {
        let detail = "the database did not answer in time, so the change may or may not have been made: look before you repeat it";
        ApiError::new(Kind::OutcomeUnknown, detail).retry_later()
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> ApiError {
        match error {
            ControlError::Unknown(detail) => ApiError::not_found(detail),
            ControlError::Invalid(wrong) => ApiError::invalid_change(wrong),
            ControlError::Ended(_) => ApiError::new(Kind::BatchEnded, format!("{error}; nothing was changed")),
            ControlError::Differs { expected, present } => {
                let detail = format!("was {expected}, and it would be {present} now");
                let wrong = ProblemError { pointer: Some("/expected".to_owned()), parameter: None, detail };
                let problem = ApiError::new(Kind::OtherCount, error.to_string());
                ApiError { errors: vec![wrong], present: Some(present), ..problem }
            }
            ControlError::Database(error) if db::commit_unknown(&error).is_some() => ApiError::change_unknown(),
            ControlError::Database(error) => error.into(),
        }
    }
}

/// The errors of an operation of operators.
pub(super) fn responses_of(operation: &MetaOperation) -> Vec<MetaResponse> {
    let takes = |place| operation.params.iter().any(|param| param.in_type == place);
    let (body, changes) = (operation.request.is_some(), operation.method != Method::GET);
    let possible = [
        (
            takes(MetaParamIn::Query) || body,
            400,
            "The body is not JSON, or a parameter cannot be used; `errors` names it.",
        ),
        (true, 401, "The key is missing, malformed, revoked or unknown; a customer's key is."),
        (changes, 403, "The key's role is `viewer`, and this would change something."),
        (
            takes(MetaParamIn::Path) || takes(MetaParamIn::Query) || body,
            404,
            "Nothing has that name; known names are told.",
        ),
        (body, 408, "The body came too slowly."),
        (
            body,
            409,
            "The batch has ended; or a bulk action would change another number of batches than `expected`: `present`.",
        ),
        (body, 413, "The body is too large."),
        (body, 415, "The body is not declared as `application/json`."),
        (
            body,
            422,
            "Something is wrong: everything is listed in `errors` with JSON pointers, and nothing was changed.",
        ),
        (true, 429, "Too many keys from this address were nobody's; repeat the request after `Retry-After`."),
        (true, 500, "Something went wrong on our side."),
        (
            true,
            503,
            "Temporarily unavailable; repeat the request after `Retry-After`. `outcome-unknown`: look before that.",
        ),
    ];
    possible.into_iter().filter(|(applies, ..)| *applies).map(|(_, status, words)| response(status, words)).collect()
}
