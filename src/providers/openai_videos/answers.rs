//! What an answer that is not a success means: for a submission, for a read, and inside a failed job.
//!
//! Always holds: a submission counts as refused only for statuses by which the server says that it did not take the
//! request. No 5xx does that, `slow_down` and `server_is_overloaded` included: a gateway sends them for a job that its
//! backend may have taken. Neither do 3xx, 408, 409, 425 and 499.

use std::time::Duration;

use super::super::redact::fit_for_customers;
use super::super::{Billed, PollOutcome, ReadError, SubmitOutcome};
use super::wire::{ErrorBody, Job};
use crate::domain::FailureClass;

const MODERATION: [&str; 5] =
    ["moderation_blocked", "sentinel_block", "content_policy_violation", "content_filter", "safety_violation"];
const NO_CREDIT: [&str; 5] = [
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "credits_exhausted",
    "insufficient_credits",
];
const OVERLOADED: [&str; 3] = ["slow_down", "server_is_overloaded", "engine_overloaded"];
const NO_MODEL: [&str; 3] = ["model_not_found", "model_not_available", "model_deprecated"];

/// The texts that must not stand in any message.
pub(super) type Hidden<'a> = [&'a str];

/// The class by which `status` refuses a submission; `None` when it proves nothing.
fn refusal(status: u16, error: &ErrorBody) -> Option<FailureClass> {
    match status {
        300..400 | 408 | 409 | 425 | 499 => None,
        402 => Some(FailureClass::NoCredit),
        400..500 if error.is(&MODERATION) => Some(FailureClass::Moderation),
        400..500 if error.is(&NO_CREDIT) => Some(FailureClass::NoCredit),
        429 if error.is(&OVERLOADED) => Some(FailureClass::Capacity),
        429 => Some(FailureClass::RateLimited),
        404 | 410 => Some(FailureClass::ModelRetired),
        400..500 if error.is(&NO_MODEL) => Some(FailureClass::ModelRetired),
        401 | 403 => Some(FailureClass::Auth),
        400 | 413 | 422 => Some(FailureClass::InvalidInput),
        400..500 => Some(FailureClass::ProviderFault),
        _ => None,
    }
}

/// What a submission came to that was answered with `status`, other than success.
pub(super) fn of_submission(
    status: u16,
    error: &ErrorBody,
    retry_after: Option<Duration>,
    hidden: &Hidden<'_>,
) -> SubmitOutcome {
    match refusal(status, error) {
        Some(class) => SubmitOutcome::Rejected { class, message: message(class, status, error, hidden), retry_after },
        None => SubmitOutcome::Unknown { cause: told(status, error, hidden) },
    }
}

/// What a read came to that was answered with `status`, other than success or "not there".
pub(super) fn of_read(status: u16, error: &ErrorBody, retry_after: Option<Duration>, hidden: &Hidden<'_>) -> ReadError {
    match refusal(status, error) {
        Some(FailureClass::RateLimited | FailureClass::Capacity) => ReadError::RateLimited { retry_after },
        // No words of the provider: they are about our request, and may quote a prompt that is not known here.
        Some(class) => ReadError::Refused { class, message: summary(class, status, error, hidden) },
        None => ReadError::Unavailable { cause: told(status, error, hidden) },
    }
}

/// A job that the provider reports as failed. What failed jobs cost is not documented anywhere.
pub(super) fn of_failed_job(job: &Job<'_>, hidden: &Hidden<'_>) -> PollOutcome {
    let error = ErrorBody::of(job.0);
    let class = if error.is(&MODERATION) { FailureClass::Moderation } else { FailureClass::ProviderFault };
    let mut hidden = hidden.to_vec();
    hidden.extend(job.prompt());
    let words =
        error.message.as_deref().map(|words| fit_for_customers(words, &hidden)).filter(|words| !words.is_empty());
    let message = match (words, error.code) {
        (Some(words), _) => words,
        (None, Some(code)) => format!("the provider reported a failure ({})", fit_for_customers(&code, &hidden)),
        (None, None) => "the provider reported a failure without a reason".to_owned(),
    };
    PollOutcome::Failed { class, message, billed: Billed::Unknown }
}

/// `HTTP 503 (slow_down)`.
fn told(status: u16, error: &ErrorBody, hidden: &Hidden<'_>) -> String {
    match error.code.as_ref().or(error.kind.as_ref()) {
        Some(code) => format!("HTTP {status} ({})", fit_for_customers(code, hidden)),
        None => format!("HTTP {status}"),
    }
}

/// Our words, with status and code.
fn summary(class: FailureClass, status: u16, error: &ErrorBody, hidden: &Hidden<'_>) -> String {
    let ours = match class {
        FailureClass::Moderation => "the provider's content policy refused the request",
        FailureClass::Auth => "the provider refused our account",
        FailureClass::NoCredit => "our account at the provider has run out of credit",
        FailureClass::RateLimited => "the provider limits our rate of requests",
        FailureClass::Capacity => "the provider has no room at the moment",
        FailureClass::ModelRetired => "the provider does not serve this model",
        _ => "the provider refused the request",
    };
    format!("{ours}: {}", told(status, error, hidden))
}

/// Our words, and the provider's own behind them where they are about the customer's order and not about our account.
fn message(class: FailureClass, status: u16, error: &ErrorBody, hidden: &Hidden<'_>) -> String {
    let summary = summary(class, status, error, hidden);
    if !matches!(class, FailureClass::InvalidInput | FailureClass::Moderation) {
        return summary;
    }
    match error.message.as_deref().map(|words| fit_for_customers(words, hidden)) {
        Some(words) if !words.is_empty() => format!("{summary}: {words}"),
        _ => summary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str) -> ErrorBody {
        ErrorBody { code: Some(code.to_owned()), ..ErrorBody::default() }
    }

    #[test]
    fn only_a_definite_refusal_proves_that_nothing_was_bought() {
        for status in [301, 303, 307, 408, 409, 425, 499, 500, 502, 503, 504, 520] {
            for code in ["slow_down", "server_is_overloaded", "insufficient_quota", "moderation_blocked"] {
                assert_eq!(refusal(status, &error(code)), None, "{status} {code}");
            }
        }
        for status in (400..500).filter(|status| ![408, 409, 425, 499].contains(status)) {
            assert!(refusal(status, &ErrorBody::default()).is_some(), "{status}");
        }
    }

    #[test]
    fn a_refusal_has_the_class_that_its_status_and_code_say() {
        for (status, code, class) in [
            (400, "invalid_value", FailureClass::InvalidInput),
            (422, "", FailureClass::InvalidInput),
            (400, "sentinel_block", FailureClass::Moderation),
            (403, "moderation_blocked", FailureClass::Moderation),
            (400, "billing_hard_limit_reached", FailureClass::NoCredit),
            (401, "invalid_api_key", FailureClass::Auth),
            (403, "unsupported_country", FailureClass::Auth),
            (402, "", FailureClass::NoCredit),
            (404, "model_not_found", FailureClass::ModelRetired),
            (400, "model_not_found", FailureClass::ModelRetired),
            (410, "", FailureClass::ModelRetired),
            (429, "rate_limit_exceeded", FailureClass::RateLimited),
            (429, "", FailureClass::RateLimited),
            (429, "insufficient_quota", FailureClass::NoCredit),
            (429, "server_is_overloaded", FailureClass::Capacity),
            (405, "", FailureClass::ProviderFault),
        ] {
            assert_eq!(refusal(status, &error(code)), Some(class), "{status} {code}");
        }
        let by_type = ErrorBody { kind: Some("insufficient_quota".to_owned()), ..ErrorBody::default() };
        assert_eq!(refusal(429, &by_type), Some(FailureClass::NoCredit));
    }

    #[test]
    fn words_about_our_account_do_not_reach_the_customer() {
        let error = ErrorBody { message: Some("Key of ACME Corp is invalid".to_owned()), ..error("invalid_api_key") };
        let shown = message(FailureClass::Auth, 401, &error, &[]);
        assert_eq!(shown, "the provider refused our account: HTTP 401 (invalid_api_key)");
    }
}
