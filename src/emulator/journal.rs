//! What the emulator was asked, to the letter, for tests that look at the wire: kept only when somebody asks for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use poem::{Body, Endpoint, IntoResponse, Request, Response};
use serde::{Deserialize, Serialize};

use super::office::Office;

/// Larger bodies are not kept.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// One request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRequest {
    /// It came to the other host, which has files and no business with keys.
    pub other_host: bool,
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The key, or a token made from it, stood anywhere in target or headers.
    pub key_seen: bool,
    pub content_type: String,
    pub body: String,
}

#[derive(Default)]
pub(super) struct Journal {
    pub(super) kept: AtomicBool,
    pub(super) seen: Mutex<Vec<SeenRequest>>,
    /// Bytes of endless bodies that clients took.
    pub(super) poured: AtomicU64,
}

impl Journal {
    pub(super) fn seen(&self) -> Vec<SeenRequest> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Notes a request to the provider's own address.
pub(super) async fn at_home<E: Endpoint>(endpoint: Arc<E>, request: Request) -> poem::Result<Response> {
    noted(endpoint, request, false).await
}

/// Notes a request to the other host.
pub(super) async fn elsewhere<E: Endpoint>(endpoint: Arc<E>, request: Request) -> poem::Result<Response> {
    noted(endpoint, request, true).await
}

async fn noted<E: Endpoint>(endpoint: Arc<E>, mut request: Request, other_host: bool) -> poem::Result<Response> {
    let office = request.data::<Arc<Office>>().cloned();
    if let Some(office) = office.filter(|office| office.journal.kept.load(Ordering::Relaxed)) {
        let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        let key = office.studio.key();
        let in_headers = request.headers().values().any(|value| value.to_str().is_ok_and(|value| value.contains(key)));
        let body = request.take_body().into_bytes_limit(MAX_KEPT_BYTES).await.unwrap_or_default();
        let seen = SeenRequest {
            other_host,
            method: request.method().to_string(),
            key_seen: in_headers || target.contains(key),
            target,
            content_type: request.content_type().unwrap_or_default().to_owned(),
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        request.set_body(Body::from(body));
        office.journal.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }
    Ok(endpoint.call(request).await?.into_response())
}
