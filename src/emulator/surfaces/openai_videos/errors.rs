//! The provider's error envelope: `{"error":{"message","type","param","code"}}`.
//!
//! All four keys are always there, `param` and `code` possibly null. Codes are those that the vendor documents or that its
//! clients have reported; where none is known, the code is null rather than invented.

use poem::Response;
use poem::http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::super::super::script::Fault;

/// A request that is answered with an error.
#[derive(Clone, Debug)]
pub(super) struct ApiFault {
    pub(super) status: u16,
    pub(super) message: String,
    pub(super) param: Option<String>,
    pub(super) code: Option<String>,
    kind: &'static str,
    retry_after: Option<String>,
}

impl ApiFault {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        let kind = if status >= 500 { "server_error" } else { "invalid_request_error" };
        ApiFault { status, message: message.into(), param: None, code: None, kind, retry_after: None }
    }

    pub(super) fn param(self, param: &str) -> Self {
        ApiFault { param: Some(param.to_owned()), ..self }
    }

    pub(super) fn code(self, code: &str) -> Self {
        ApiFault { code: Some(code.to_owned()), ..self }
    }

    fn kind(self, kind: &'static str) -> Self {
        ApiFault { kind, ..self }
    }

    pub(super) fn unauthorized() -> Self {
        ApiFault::new(401, "Incorrect API key provided.").code("invalid_api_key")
    }

    pub(super) fn video_not_found(id: &str) -> Self {
        ApiFault::new(404, format!("Video with id '{id}' not found.")).param("video_id").code("not_found")
    }

    pub(super) fn model_not_found(model: &str) -> Self {
        let message = format!("The model '{model}' does not exist or you do not have access to it.");
        ApiFault::new(404, message).param("model").code("model_not_found")
    }

    /// Another order has used this idempotency key.
    pub(super) fn key_reused() -> Self {
        let message = "This idempotency key was used before for a request with other parameters.";
        ApiFault::new(422, message).code("idempotency_key_reused").kind("idempotency_error")
    }

    /// An outage, with the code that goes with its status.
    pub(super) fn outage(status: u16) -> Self {
        let fault = ApiFault::new(status, "The server had an error while processing your request.");
        if status == 503 { fault.code("server_is_overloaded") } else { fault }
    }

    /// The answer to a create that this fault refuses.
    pub(super) fn of_refusal(fault: &Fault, model: &str) -> Self {
        match fault {
            Fault::ModerationAtSubmit => {
                let message = "This request was blocked by our content policy.";
                ApiFault::new(400, message).param("prompt").code("sentinel_block")
            }
            Fault::RateLimited { retry_after_secs } => {
                ApiFault::rate_limited(retry_after_secs.map(|secs| secs.to_string()))
            }
            Fault::RateLimitedUntil { secs } => ApiFault::rate_limited(Some(super::super::http_date(*secs))),
            Fault::RateLimitedInBody { secs } => ApiFault::rate_limited(Some(secs.to_string())),
            Fault::QuotaExhausted => {
                let fault = ApiFault::new(429, "You exceeded your current quota, check your plan and billing details.");
                fault.code("insufficient_quota").kind("insufficient_quota")
            }
            Fault::ModelNotFound => ApiFault::model_not_found(model),
            Fault::ServerError { status } => ApiFault::outage(*status),
            _ => ApiFault::outage(500),
        }
    }

    fn rate_limited(retry_after: Option<String>) -> Self {
        let fault = ApiFault::new(429, "Rate limit reached for requests.");
        ApiFault { retry_after, ..fault.code("rate_limit_exceeded").kind("requests") }
    }

    pub(super) fn into_response(self) -> Response {
        let error = json!({"message": self.message, "type": self.kind, "param": self.param, "code": self.code});
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let answer = Response::builder().status(status).content_type("application/json");
        let mut answer = answer.body(json!({"error": error}).to_string());
        if let Some(wait) = self.retry_after.and_then(|wait| HeaderValue::try_from(wait).ok()) {
            answer.headers_mut().insert(header::RETRY_AFTER, wait);
        }
        answer
    }
}
