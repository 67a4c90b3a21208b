//! The two error shapes of the Interactions API: the service's own object, and the front end's list.
//!
//! The service says `{"error":{"code":"word","message":"..."}}`. What never reaches it is said by the front end in Google's
//! form with a number, a status and details; limits come wrapped in a list.

use poem::Response;
use poem::http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::super::super::script::Fault;

const PACKAGE: &str = "type.googleapis.com/google.rpc";

/// An answer with an error.
#[derive(Clone, Debug)]
pub(super) struct ApiFault {
    pub(super) status: u16,
    pub(super) body: Value,
    retry_after: Option<String>,
}

impl ApiFault {
    /// The service's own shape.
    pub(super) fn new(status: u16, code: &str, message: &str) -> Self {
        ApiFault { status, body: json!({"error": {"code": code, "message": message}}), retry_after: None }
    }

    pub(super) fn invalid(message: &str) -> Self {
        ApiFault::new(400, "invalid_request", message)
    }

    pub(super) fn unknown_id() -> Self {
        ApiFault::invalid("The interaction does not exist.")
    }

    pub(super) fn unknown_model(model: &str) -> Self {
        ApiFault::new(404, "not_found", &format!("Model '{model}' does not exist or is no longer available."))
    }

    pub(super) fn outage(status: u16) -> Self {
        match status {
            429 => ApiFault::limited(json!([])),
            _ => ApiFault::new(status, "internal", "An internal error has occurred. Please retry."),
        }
    }

    /// The answer to a create that this fault refuses.
    pub(super) fn of_refusal(fault: &Fault, model: &str) -> Self {
        match fault {
            Fault::ModerationAtSubmit => {
                ApiFault::invalid("The input was blocked because it asks for prohibited content.")
            }
            Fault::RateLimited { retry_after_secs } => {
                let wait = retry_after_secs.map(|secs| secs.to_string());
                ApiFault { retry_after: wait, ..ApiFault::limited(json!([])) }
            }
            Fault::RateLimitedUntil { secs } => {
                ApiFault { retry_after: Some(super::super::http_date(*secs)), ..ApiFault::limited(json!([])) }
            }
            Fault::RateLimitedInBody { secs } => {
                ApiFault::limited(json!([{"@type": format!("{PACKAGE}.RetryInfo"), "retryDelay": format!("{secs}s")}]))
            }
            Fault::QuotaExhausted => {
                let quota = json!({"quotaId": "GenerateRequestsPerDayPerProjectPerModel"});
                ApiFault::limited(json!([{"@type": format!("{PACKAGE}.QuotaFailure"), "violations": [quota]}]))
            }
            Fault::ModelNotFound => ApiFault::unknown_model(model),
            Fault::ServerError { status } => ApiFault::outage(*status),
            _ => ApiFault::outage(500),
        }
    }

    fn limited(details: Value) -> Self {
        let message = "You exceeded your current quota, please check your plan and billing details.";
        let error = json!({"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details});
        ApiFault { status: 429, body: json!([{"error": error}]), retry_after: None }
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
