//! `{"error":{"code","message","status","details"}}`, the envelope of Google's APIs.

use poem::Response;
use poem::http::{StatusCode, header};
use serde_json::{Value, json};

use super::super::super::script::Fault;

pub(in super::super) fn answer(status: u16, message: &str, details: &[Value]) -> Response {
    let mut error = json!({"code": status, "message": message, "status": word(status)});
    if !details.is_empty() {
        error["details"] = json!(details);
    }
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Response::builder().status(code).content_type("application/json").body(json!({ "error": error }).to_string())
}

fn word(status: u16) -> &'static str {
    match status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "INTERNAL",
    }
}

/// What an API that takes tokens says to everybody else.
pub(in super::super) fn unauthenticated() -> Response {
    answer(
        401,
        "Request had invalid authentication credentials.",
        &[detail("ErrorInfo", json!({"reason": "ACCESS_TOKEN_TYPE_UNSUPPORTED"}))],
    )
}

/// What the Gemini API says of a key that is none: not 401.
pub(in super::super) fn wrong_key() -> Response {
    let info = detail("ErrorInfo", json!({"reason": "API_KEY_INVALID", "domain": "googleapis.com"}));
    answer(400, "API key not valid. Please pass a valid API key.", &[info])
}

pub(in super::super) fn outage(status: u16) -> Response {
    answer(status, "The service is currently unavailable.", &[])
}

pub(in super::super) fn no_such_model(model: &str) -> Response {
    let message = format!("Publisher model {model} was not found or is no longer available.");
    answer(404, &message, &[])
}

/// The answer to a create that this fault refuses.
pub(in super::super) fn of_refusal(fault: &Fault, model: &str) -> Response {
    match fault {
        Fault::ModerationAtSubmit => {
            let message = "The prompt could not be submitted: it contains words that violate our Responsible AI \
                           practices. Support codes: 89371032";
            answer(400, message, &[])
        }
        Fault::RateLimited { retry_after_secs } => {
            rate_limited(&[], retry_after_secs.map(|secs| secs.to_string()).as_deref())
        }
        Fault::RateLimitedUntil { secs } => rate_limited(&[], Some(&super::super::http_date(*secs))),
        Fault::RateLimitedInBody { secs } => {
            let wait = detail("RetryInfo", json!({"retryDelay": format!("{secs}s")}));
            rate_limited(&[quota("GenerateRequestsPerMinutePerProjectPerModel"), wait], None)
        }
        Fault::QuotaExhausted => rate_limited(&[quota("GenerateRequestsPerDayPerProjectPerModel")], None),
        Fault::ModelNotFound => no_such_model(model),
        Fault::ServerError { status } => outage(*status),
        _ => outage(500),
    }
}

/// All of them say the same words, whether waiting helps or not.
fn rate_limited(details: &[Value], retry_after: Option<&str>) -> Response {
    let message = "You exceeded your current quota, please check your plan and billing details.";
    let mut limited = answer(429, message, details);
    if let Some(wait) = retry_after.and_then(|wait| wait.parse().ok()) {
        limited.headers_mut().insert(header::RETRY_AFTER, wait);
    }
    limited
}

fn quota(id: &str) -> Value {
    detail("QuotaFailure", json!({"violations": [{"quotaId": id, "quotaValue": "10"}]}))
}

fn detail(kind: &str, mut fields: Value) -> Value {
    fields["@type"] = json!(format!("type.googleapis.com/google.rpc.{kind}"));
    fields
}
