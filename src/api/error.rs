//! Every refusal: the only place that knows status codes, and the one shape in which a client reads an error
//! (`application/problem+json`, RFC 9457).
//!
//! Always holds: a problem says what is wrong, where (a JSON pointer or a parameter) and what to do; its `type` is stable
//! and its words are for people. What went wrong inside is logged once, here, under the trace id that the client sees,
//! and is never part of an answer.
//!
//! Refuses: to repeat secrets or prompts, to invent a cause.

mod admission;
mod body_fault;
mod callbacks;
mod cancel;
mod images;
mod operator;
mod pause;
mod problems;
mod rates;
mod retry;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use poem::Response;
use poem::error::{ReadBodyError, ResponseError};
use poem::http::header::{self, HeaderName, HeaderValue};
use poem::http::{Method, StatusCode};
use poem_openapi::ApiResponse;
use poem_openapi::error::{AuthorizationError, ContentTypeError, ParseParamError, ParsePathError};
use poem_openapi::registry::{MetaResponses, Registry};
use poem_openapi::types::Type;

pub use admission::key_used;
pub use body_fault::BodyFault;
use problems::ProblemError;
pub use problems::{Kind, Problem, responses_of};

use crate::batches::Wrong;
use crate::db;
use crate::domain::Credits;
use crate::ledger::LedgerError;

/// Statuses of answers that are no errors and no documented operations.
pub const PARTIAL_CONTENT: StatusCode = StatusCode::PARTIAL_CONTENT;
pub const NOT_MODIFIED: StatusCode = StatusCode::NOT_MODIFIED;
/// What a client that may try again is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How the JSON parser begins to say that it went as deep as it goes, which is `MAX_DEPTH` levels.
const TOO_DEEP: &str = "recursion limit exceeded";
const MAX_DEPTH: usize = 127;
/// SQLSTATE classes and codes that pass by themselves: connection lost, resources, shutdown, lock and statement time-outs,
/// lost races, a server that is read-only while another takes over, a database that takes no connections.
const PASSING_STATES: [&str; 10] = ["08", "53", "57P", "57014", "55P03", "55000", "40001", "40P01", "25006", "25P03"];

/// Why a request is not answered as it wished.
#[derive(Debug)]
pub struct ApiError {
    kind: Kind,
    detail: String,
    errors: Vec<ProblemError>,
    /// Required and available credits.
    credits: Option<(Credits, Credits)>,
    /// What a count is that was expected to be another one.
    present: Option<u32>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ApiError {
    fn new(kind: Kind, detail: impl Into<String>) -> ApiError {
        ApiError { kind, detail: detail.into(), errors: vec![], credits: None, present: None, headers: vec![] }
    }

    fn header(mut self, name: HeaderName, value: impl fmt::Display) -> ApiError {
        if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
            self.headers.push((name, value));
        }
        self
    }

    fn retry_later(self) -> ApiError {
        self.header(header::RETRY_AFTER, RETRY_AFTER.as_secs())
    }

    /// Nothing of that name for this caller; whether it is somebody else's is not told.
    pub fn not_found(detail: impl Into<String>) -> ApiError {
        ApiError::new(Kind::NotFound, detail)
    }

    /// A parameter of the query or the path that cannot be used.
    pub fn bad_parameter(name: impl Into<String>, detail: impl Into<String>) -> ApiError {
        let error = ProblemError { pointer: None, parameter: Some(name.into()), detail: detail.into() };
        let detail = format!("the parameter `{}` {}", error.parameter.as_deref().unwrap_or_default(), error.detail);
        ApiError { errors: vec![error], ..ApiError::new(Kind::BadParameter, detail) }
    }

    /// The body is no JSON, or JSON that is nested deeper than we read.
    pub fn not_json(error: &serde_json::Error) -> ApiError {
        if error.to_string().starts_with(TOO_DEEP) {
            let (line, column) = (error.line(), error.column());
            let detail = format!("the body is nested more than {MAX_DEPTH} levels deep (line {line}, column {column})");
            return ApiError::new(Kind::TooDeep, detail);
        }
        ApiError::new(Kind::NotJson, format!("the body is not valid JSON: {error}"))
    }

    pub fn empty_body() -> ApiError {
        ApiError::new(Kind::NotJson, "the body is empty; send a JSON object with `items`")
    }

    pub fn body_too_slow() -> ApiError {
        let detail = "the body came too slowly and was given up; nothing was changed: repeat the request";
        ApiError::new(Kind::BodyTooSlow, detail).header(header::CONNECTION, "close")
    }

    /// The body ended early, came too slowly, or came when no more requests can be processed.
    pub fn body_failed(error: &io::Error) -> ApiError {
        match BodyFault::of(error) {
            Some(BodyFault::Slow) => ApiError::body_too_slow(),
            Some(BodyFault::Busy) => ApiError::too_busy(),
            None => ApiError::new(Kind::NotJson, "the body could not be read to its end"),
        }
    }

    /// As many requests are being processed as may be.
    pub fn too_busy() -> ApiError {
        ApiError::unavailable("too many requests are being processed; nothing was changed: repeat this one")
    }

    pub fn unauthorized(detail: impl Into<String>) -> ApiError {
        ApiError::new(Kind::Unauthorized, detail).header(header::WWW_AUTHENTICATE, "ApiKey")
    }

    /// Everything that is wrong with an order.
    pub fn invalid_order(wrong: Vec<Wrong>) -> ApiError {
        let places = wrong.len();
        let detail = match wrong.first() {
            Some(first) if places == 1 && first.pointer.is_empty() => format!("{}; nothing was frozen", first.detail),
            Some(first) if places == 1 => format!("`{}` {}; nothing was frozen", first.pointer, first.detail),
            _ => format!("{places} things are wrong with the batch, see `errors`; nothing was frozen"),
        };
        let errors = wrong.into_iter().map(|wrong| ProblemError {
            pointer: Some(wrong.pointer),
            parameter: None,
            detail: wrong.detail,
        });
        ApiError { errors: errors.collect(), ..ApiError::new(Kind::InvalidOrder, detail) }
    }

    pub fn method_not_allowed(method: &Method, allow: &str) -> ApiError {
        let detail = format!("{method} is not possible here; possible are {allow}");
        ApiError::new(Kind::MethodNotAllowed, detail).header(header::ALLOW, allow)
    }

    /// A file link that was not made by us, or was changed.
    pub fn forged_link(detail: impl Into<String>) -> ApiError {
        ApiError::new(Kind::ForgedLink, detail)
    }

    pub fn expired_link(detail: impl Into<String>) -> ApiError {
        ApiError::new(Kind::ExpiredLink, detail)
    }

    /// A file whose time is over.
    pub fn file_purged(kept_until: DateTime<Utc>) -> ApiError {
        let until = kept_until.to_rfc3339_opts(SecondsFormat::Secs, true);
        ApiError::new(Kind::FilePurged, format!("the file was kept until {until} and is no longer there"))
    }

    /// A range outside of a file of `bytes`.
    pub fn range_outside(bytes: u64) -> ApiError {
        ApiError::new(Kind::RangeOutside, format!("the range lies outside of the file, which has {bytes} bytes"))
            .header(header::CONTENT_RANGE, format!("bytes */{bytes}"))
    }

    /// Something that passes by itself; `detail` is for the client.
    pub fn unavailable(detail: impl Into<String>) -> ApiError {
        ApiError::new(Kind::Unavailable, detail).retry_later()
    }

    /// The database could not be reached, so nothing was changed; whatever it said is for our log.
    pub fn no_database(cause: &sqlx::Error) -> ApiError {
        tracing::warn!(error = %cause, "the database is not available");
        ApiError::unavailable("the database is busy or restarting; nothing was changed: repeat the request")
    }

    /// Our own fault: logged with its cause, told without it.
    pub fn internal(cause: impl fmt::Display) -> ApiError {
        tracing::error!(%cause, "a request failed");
        let detail = "something went wrong on our side: repeat the request with the same idempotency key, and tell support \
                      the trace id";
        ApiError::new(Kind::Internal, detail)
    }

    /// For an answer that was made without words, by the router for instance.
    fn of_status(status: StatusCode) -> ApiError {
        match status {
            StatusCode::NOT_FOUND => ApiError::not_found("there is nothing at this address; see /docs"),
            StatusCode::METHOD_NOT_ALLOWED => {
                ApiError::new(Kind::MethodNotAllowed, "only GET and HEAD are possible here")
                    .header(header::ALLOW, "GET, HEAD")
            }
            other => match Kind::ALL.into_iter().find(|kind| kind.status() == other) {
                Some(kind) => ApiError::new(kind, kind.title()),
                None if other.is_client_error() => ApiError::new(Kind::BadRequest, "the request cannot be understood"),
                None => ApiError::internal(format_args!("an answer with status {other} and no cause")),
            },
        }
    }

    /// Translates what the web framework refuses by itself.
    pub fn from_framework(error: poem::Error) -> Response {
        if let Some(ours) = error.downcast_ref::<ApiError>() {
            return ours.as_response();
        }
        let ours = if let Some(ParseParamError { name, reason }) = error.downcast_ref() {
            ApiError::bad_parameter(*name, plain(reason))
        } else if let Some(ParsePathError { name, reason }) = error.downcast_ref() {
            ApiError::bad_parameter(*name, plain(reason))
        } else if error.is::<AuthorizationError>() {
            ApiError::unauthorized("the header `X-API-Key` is missing: send your API key in it")
        } else if let Some(error) = error.downcast_ref::<ContentTypeError>() {
            ApiError::not_declared_json(match error {
                ContentTypeError::NotSupported { content_type } => Some(content_type),
                ContentTypeError::ExpectContentType => None,
            })
        } else if let Some(ReadBodyError::Io(error)) = error.downcast_ref() {
            ApiError::body_failed(error)
        } else if error.is::<ReadBodyError>() {
            ApiError::new(Kind::NotJson, "the body could not be read")
        } else if error.status().is_server_error() {
            ApiError::internal(&error)
        } else {
            ApiError::of_status(error.status())
        };
        ours.as_response()
    }
}

/// The framework's words without its names of types: `failed to parse "limit": WORDS (occurred while parsing "optional")`.
fn plain(reason: &str) -> &str {
    let words = reason.strip_prefix("failed to parse \"").and_then(|rest| rest.split_once("\": "));
    let words = words.map_or(reason, |(_, words)| words);
    words.split_once(" (occurred while parsing \"").map_or(words, |(words, _)| words)
}

tokio::task_local! {
    /// The request that this task answers, for the problem that it may become. The framework drops what an error's response
    /// carries beside its body, so the body has to be whole when it is made.
    static REQUEST: RequestName;
}

/// What an error says about its request.
#[derive(Clone, Debug)]
pub struct RequestName {
    pub path: String,
    pub trace_id: String,
}

impl RequestName {
    /// Answers a request; every error of it is a problem that names it.
    pub async fn answering(self, answer: impl Future<Output = Response>) -> Response {
        REQUEST.scope(self, async { complete(answer.await) }).await
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.title(), self.detail)
    }
}

impl std::error::Error for ApiError {}

impl ResponseError for ApiError {
    fn status(&self) -> StatusCode {
        self.kind.status()
    }

    fn as_response(&self) -> Response {
        let mut problem = Problem::new(self.kind, self.detail.clone(), self.errors.clone());
        problem.present = self.present;
        if let Some((required, available)) = self.credits {
            problem.required = Some(required.get());
            problem.available = Some(available.get());
            problem.shortfall = required.minus(available).map(Credits::get);
        }
        if let Ok(request) = REQUEST.try_with(RequestName::clone) {
            problem.instance = Some(request.path);
            problem.trace_id = Some(request.trace_id);
        }
        let mut response = Response::builder()
            .status(self.kind.status())
            .content_type(Problem::CONTENT_TYPE)
            .header(header::CACHE_CONTROL, "no-store")
            .body(problem.to_text());
        for (name, value) in &self.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }
}

/// Makes a problem of an error answer that is none yet; other answers stay as they are.
fn complete(mut response: Response) -> Response {
    let status = response.status();
    let is_problem = response.content_type() == Some(Problem::CONTENT_TYPE);
    if is_problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let mut problem = ApiError::of_status(status).as_response();
    response.set_status(problem.status());
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.headers_mut().extend(std::mem::take(problem.headers_mut()));
    response.set_body(problem.take_body());
    response
}

/// In the document, the errors of an operation follow from what it takes (`operations`), not from a handler's type.
impl ApiResponse for ApiError {
    fn meta() -> MetaResponses {
        MetaResponses { responses: vec![] }
    }

    fn register(registry: &mut Registry) {
        Problem::register(registry);
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> ApiError {
        if db::commit_unknown(&error).is_some() {
            let detail = "the answer of the database was lost, so the batch may or may not have been accepted: repeat the \
                          request with the same idempotency key, which never buys twice; without a key, look at the list of \
                          your batches first";
            return ApiError::new(Kind::OutcomeUnknown, detail).retry_later();
        }
        if !passes(&error) {
            return ApiError::internal(format_args!("the database answered: {error}"));
        }
        ApiError::no_database(&error)
    }
}

fn passes(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(answer) => {
            answer.code().is_some_and(|code| PASSING_STATES.iter().any(|state| code.starts_with(state)))
        }
        sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

impl From<LedgerError> for ApiError {
    fn from(error: LedgerError) -> ApiError {
        match error {
            LedgerError::Database(error) => error.into(),
            other => ApiError::internal(other),
        }
    }
}
