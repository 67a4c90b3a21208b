//! The outermost layer: every request gets a trace id, is counted and timed by the pattern of its route, survives a panic
//! of its handler, and leaves an error only as a problem.
//!
//! Refuses: to take a trace id from a client, to write a query (it may hold a signature), the
//! token of a callback, a header or a body into a log.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use poem::error::ResponseError as _;
use poem::http::header::{self, HeaderName, HeaderValue};
use poem::{Endpoint, PathPattern, Request, Response};
use tracing::Instrument as _;
use ulid::Ulid;

use super::error::{ApiError, RequestName};
use super::operations::RoutePattern;
use crate::metrics;

static TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");
/// Counted for addresses that lead nowhere, whatever they are.
const NO_ROUTE: &str = "none";

/// An endpoint and what is written down about it.
pub struct Observed<E>(pub E);

impl<E: Endpoint> Endpoint for Observed<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let started = Instant::now();
        let trace_id = Ulid::generate().to_string();
        let (method, path) = (request.method().clone(), shown(request.uri().path()));
        let span = tracing::info_span!("request", %trace_id, %method, path);
        let answer = async {
            let answer = AssertUnwindSafe(self.0.get_response(request)).catch_unwind().await;
            answer.unwrap_or_else(|_| ApiError::internal("a handler panicked").as_response())
        };
        let name = RequestName { path, trace_id: trace_id.clone() };
        let mut response = name.answering(answer.instrument(span.clone())).await;
        let _entered = span.enter();
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&trace_id) {
            headers.insert(TRACE_ID.clone(), value);
        }
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let took = started.elapsed();
        metrics::http_request(method_name(&method), &route_of(&response), response.status().as_u16(), took);
        tracing::debug!(status = response.status().as_u16(), took_ms = took.as_millis() as u64, "answered");
        Ok(response)
    }
}

/// A path as it may be seen: what stands behind the account of a callback is as good as a key.
fn shown(path: &str) -> String {
    let account = path.strip_prefix("/callbacks/").and_then(|rest| rest.split_once('/')).map(|(account, _)| account);
    account.map_or_else(|| path.to_owned(), |account| format!("/callbacks/{account}/***"))
}

fn route_of(response: &Response) -> Arc<str> {
    if let Some(RoutePattern(pattern)) = response.data() {
        return pattern.clone();
    }
    response.data::<PathPattern>().map_or_else(|| NO_ROUTE.into(), |pattern| pattern.0.clone())
}

/// A client may send any word as a method; the number of series stays bounded.
fn method_name(method: &poem::http::Method) -> &'static str {
    use poem::http::Method;
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn the_token_of_a_callback_is_not_shown() {
        assert_eq!(shown("/callbacks/fal/c2VjcmV0"), "/callbacks/fal/***");
        assert_eq!(shown("/callbacks/fal/c2VjcmV0/more"), "/callbacks/fal/***");
        assert_eq!(shown("/callbacks/sora"), "/callbacks/sora");
        assert_eq!(shown("/api/enterprise/video-batch"), "/api/enterprise/video-batch");
    }
}
