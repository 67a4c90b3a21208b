//! The errors of fal: a `detail` that is a text, a `detail` that lists what is wrong with which field, and a text with an
//! `error_type` where the platform itself failed.

use poem::Response;
use poem::http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::super::super::script::Fault;

/// An answer with an error.
#[derive(Clone, Debug)]
pub(super) struct ApiFault {
    pub(super) status: u16,
    pub(super) body: Value,
    retry_after: Option<String>,
}

impl ApiFault {
    pub(super) fn plain(status: u16, message: &str) -> Self {
        ApiFault { status, body: json!({"detail": message}), retry_after: None }
    }

    /// The platform's own failure.
    pub(super) fn of_request(status: u16, message: &str, kind: &str) -> Self {
        ApiFault { status, body: json!({"detail": message, "error_type": kind}), retry_after: None }
    }

    /// What is wrong with the field at `place`.
    pub(super) fn of_field(status: u16, place: &[&str], message: &str, kind: &str) -> Self {
        let wrong = json!({"loc": place, "msg": message, "type": kind, "url": "https://docs.fal.ai/errors"});
        ApiFault { status, body: json!({"detail": [wrong]}), retry_after: None }
    }

    pub(super) fn moderated(status: u16) -> Self {
        let message = "The content could not be processed because it was flagged by a content checker.";
        ApiFault::of_field(status, &["body", "prompt"], message, "content_policy_violation")
    }

    pub(super) fn unknown_model(model: &str) -> Self {
        ApiFault::plain(404, &format!("Application '{model}' not found"))
    }

    pub(super) fn outage(status: u16) -> Self {
        ApiFault::plain(status, "The queue is not available.")
    }

    /// The answer to an order that this fault refuses.
    pub(super) fn of_refusal(fault: &Fault, model: &str) -> Self {
        let limited = ApiFault::plain(429, "Too many requests.");
        match fault {
            Fault::ModerationAtSubmit => ApiFault::moderated(422),
            Fault::RateLimited { retry_after_secs } => {
                ApiFault { retry_after: retry_after_secs.map(|secs| secs.to_string()), ..limited }
            }
            Fault::RateLimitedUntil { secs } => {
                ApiFault { retry_after: Some(super::super::http_date(*secs)), ..limited }
            }
            // fal has no form of its own
            Fault::RateLimitedInBody { secs } => ApiFault { retry_after: Some(secs.to_string()), ..limited },
            Fault::QuotaExhausted => {
                ApiFault::plain(403, "User is locked. Reason: Exhausted balance. Top up your balance.")
            }
            Fault::ModelNotFound => ApiFault::unknown_model(model),
            Fault::ServerError { status } => ApiFault::outage(*status),
            _ => ApiFault::outage(500),
        }
    }

    pub(super) fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let answer = Response::builder().status(status).content_type("application/json");
        let mut answer = answer.body(self.body.to_string());
        if let Some(wait) = self.retry_after.and_then(|wait| HeaderValue::try_from(wait).ok()) {
            answer.headers_mut().insert(header::RETRY_AFTER, wait);
        }
        answer
    }
}
