//! A service that misbehaves in ways that ours does not: links that expire at once, files that break off or are others,
//! words that would steer a terminal.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream;
use poem::http::StatusCode;
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::web::{Data, Json, Path};
use poem::{Body, EndpointExt, Request, Response, Route, Server, get, handler};
use ring::digest;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

pub(super) const BATCH: &str = "bat_01JD0000000000000000000000";
pub(super) const FILM: &[u8] = b"a film of a fox, over and over again";
const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31mred\r\n\u{202e}gnp";

#[derive(Default)]
pub(super) struct State {
    pub(super) pages: AtomicUsize,
    pub(super) keys_at_files: AtomicUsize,
    broken: AtomicUsize,
}

pub(super) struct Fake {
    pub(super) base: String,
    pub(super) state: Arc<State>,
    serving: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Fake {
    pub(super) async fn start() -> Fake {
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let base = format!("http://{}", acceptor.local_addr()[0].as_socket_addr().unwrap());
        let state = Arc::new(State::default());
        let routes = Route::new()
            .at("/api/enterprise/video-batch/:id", get(batch))
            .at("/api/enterprise/video-batch/:id/videos", get(videos))
            .at("/files/:name", get(file))
            .data(state.clone());
        let serving = tokio::spawn(async move {
            let _ = Server::new_with_acceptor(acceptor).run(routes).await;
        });
        Fake { base, state, serving }
    }
}

#[handler]
fn batch() -> Json<Value> {
    Json(json!({
        "batch_id": BATCH, "status": "partial", "request_id": HOSTILE, "metadata": { HOSTILE: HOSTILE },
        "counts": { "total": 6, "waiting": 0, "in_progress": 0, "succeeded": 5, "failed": 1 },
        "credits": { "frozen": 6, "charged": 5, "refunded": 1, "held": 0 },
        "created_at": "2026-11-23T10:00:00Z", "finished_at": "2026-11-23T10:01:00Z", "a_new_field": { "x": 1 },
    }))
}

#[handler]
fn videos(request: &Request, state: Data<&Arc<State>>) -> Json<Value> {
    let failed_only = request.uri().query().unwrap_or_default().contains("state=failed");
    let page = if failed_only { 0 } else { state.pages.fetch_add(1, Ordering::SeqCst) };
    let sha256: String = digest::digest(&digest::SHA256, FILM).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let video = |index: usize, name: &str| {
        let link = if name == "expired" { format!("/files/expired{page}") } else { format!("/files/{name}") };
        json!({
            "video_id": "vid_1", "index": index, "custom_id": name, "model": "m", "seconds": 4, "size": "1x1",
            "state": "succeeded", "attempts": 1, "price_credits": 1, "charged_credits": 1, "refunded_credits": 0,
            "output": { "url": link, "bytes": FILM.len(), "sha256": sha256 },
        })
    };
    let failed = json!({
        "video_id": HOSTILE, "index": 4, "custom_id": HOSTILE, "model": HOSTILE, "seconds": 4, "size": HOSTILE,
        "state": HOSTILE, "attempts": 1, "price_credits": 1, "charged_credits": 0, "refunded_credits": 1,
        "failure": { "type": HOSTILE, "message": HOSTILE, "retryable": false },
    });
    let mut purged = video(5, "purged");
    purged["output"] = json!({ "bytes": 7, "sha256": sha256, "purged_at": "2026-11-24T10:00:00Z" });
    let data = match failed_only {
        true => vec![failed],
        false => vec![video(0, "good"), video(1, "expired"), video(2, "broken"), video(3, "other"), failed, purged],
    };
    Json(json!({ "data": data }))
}

#[handler]
fn file(Path(name): Path<String>, request: &Request, state: Data<&Arc<State>>) -> Response {
    if request.header("x-api-key").is_some() {
        state.keys_at_files.fetch_add(1, Ordering::SeqCst);
    }
    match name.as_str() {
        "expired0" => {
            let problem =
                json!({ "type": "/problems#expired-link", "title": "Link expired", "status": 410, "detail": "gone" });
            Response::builder()
                .status(StatusCode::GONE)
                .content_type("application/problem+json")
                .body(problem.to_string())
        }
        "broken" if state.broken.fetch_add(1, Ordering::SeqCst) == 0 => {
            let pieces = [Ok(FILM[..5].to_vec()), Err(std::io::Error::other("broke off"))];
            Response::builder().body(Body::from_bytes_stream(stream::iter(pieces)))
        }
        "other" => Response::builder().body(FILM.to_ascii_uppercase()),
        _ => Response::builder().body(FILM.to_vec()),
    }
}
