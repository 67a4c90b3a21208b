//! The protocols that the emulator speaks, one module each, all in front of the same studio, book and script of faults.
//!
//! | prefix | protocol |
//! |---|---|
//! | `/v1/videos` | [`openai_videos`] |
//! | `/veo/v1beta` | [`veo`], as the Gemini API serves it |
//! | `/vertex/v1` | [`veo`], as Vertex AI serves it |
//! | `/gcs/storage/v1`, `/oauth/token` | the bucket and the tokens that belong to Vertex AI: [`google`] |
//! | `/omni/v1beta`, `/omni-inline/v1beta` | [`gemini_omni`], with films behind links and always inside of the answers |
//! | `/fal` | [`fal`] |
//! | `/.well-known/jwks.json` | the keys that sign callbacks |
//!
//! A surface turns bytes into an [`Order`](super::jobs::Order) as strictly as its vendor does, and what the studio says
//! into the vendor's words; it decides nothing. A new one is a module with `routes()` and a line in [`mount`]. It has to
//! answer every [`Fault`](super::script::Fault): [`created`] does what all have in common.

mod fal;
mod gemini_omni;
mod google;
mod image;
mod openai_videos;
mod sizes;
mod veo;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use poem::http::{HeaderValue, StatusCode};
use poem::web::Data;
use poem::{Endpoint, IntoResponse, Request, Response, Route, get, handler};
use serde_json::Value;

use super::content;
use super::hostile::Scene;
use super::office::{Office, json_response};
use super::script::Fault;
use gemini_omni::Films;

/// What a gateway says when what is behind it does not answer.
const GATEWAY_PAGE: &str =
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><h1>502 Bad Gateway</h1></body>\r\n</html>\r\n";

/// Where Gemini Omni is; links in answers lead below it.
const GEMINI_OMNI: &str = "/omni/v1beta";
/// Where fal is.
const FAL: &str = "/fal";

/// Every surface at its prefix.
pub(super) fn mount(routes: Route) -> Route {
    let routes = routes.nest("/v1/videos", openai_videos::routes()).at("/.well-known/jwks.json", get(key_set));
    let routes = routes.nest("/veo/v1beta", veo::gemini_routes()).nest("/vertex/v1", veo::vertex_routes());
    let routes = routes.nest("/gcs/storage/v1", google::storage_routes()).at("/oauth/token", google::token_route());
    let routes = routes.nest(GEMINI_OMNI, gemini_omni::routes(Films::AsAsked));
    routes.nest("/omni-inline/v1beta", gemini_omni::routes(Films::Inline)).nest(FAL, fal::routes())
}

#[handler]
fn key_set(office: Data<&Arc<Office>>) -> Response {
    json_response(office.callbacks.key_set().to_string())
}

/// An error of the server itself, such as an unknown path.
pub(super) fn refused_by_server(error: &poem::Error) -> Response {
    plain_refusal(error.status().as_u16(), &format!("Invalid request: {}.", error.status()))
}

/// An error outside of every protocol, in the envelope that most of them share.
pub(super) fn plain_refusal(status: u16, message: &str) -> Response {
    openai_videos::refusal(status, message)
}

pub(super) async fn with_request_id<E: Endpoint>(endpoint: Arc<E>, request: Request) -> poem::Result<Response> {
    static REQUESTS: AtomicU64 = AtomicU64::new(1);
    let mut answer = endpoint.call(request).await?.into_response();
    let id = format!("req_{:016x}", REQUESTS.fetch_add(1, Ordering::Relaxed));
    if let Ok(id) = HeaderValue::try_from(id) {
        answer.headers_mut().insert("x-request-id", id);
    }
    Ok(answer)
}

/// The answer to a create that was booked (with the id in it, and the prompt), spoiled as its fault asks; `outage` words an
/// error status.
async fn created(
    (answer, id, prompt): (Value, &str, &str),
    fault: Option<&Fault>,
    request: &Request,
    office: &Office,
    outage: fn(u16) -> Response,
) -> Response {
    match fault {
        Some(Fault::DroppedAfterAccept) => office.cut(request),
        Some(Fault::Attack { attack }) => {
            let scene = Scene { status: 200, answer: &answer, id, prompt, polls: 0, finished: false };
            office.attacked(*attack, &scene, request)
        }
        Some(Fault::ErrorAfterAccept { status }) => outage(*status),
        Some(Fault::HtmlBadGateway { .. }) => gateway_page(),
        Some(Fault::TruncatedAnswer) => {
            let text = answer.to_string();
            let half = text.len() / 2;
            content::broken_off("application/json", text.into(), half)
        }
        Some(Fault::SlowAnswer { ms }) => {
            tokio::time::sleep(Duration::from_millis(*ms)).await;
            office.json(&answer, None)
        }
        Some(Fault::SlowBody { ms }) => {
            content::late_body("application/json", answer.to_string().into(), Duration::from_millis(*ms))
        }
        Some(Fault::HostileAnswer { form }) => office.json(&answer, Some(*form)),
        _ => office.json(&answer, None),
    }
}

/// The answer to a create that was refused in no vendor's words; `None` when the vendor has words for it.
fn refused_without_words((fault, prompt): (&Fault, &str), request: &Request, office: &Office) -> Option<Response> {
    match fault {
        Fault::Attack { attack } => {
            let scene = Scene { status: 200, answer: &Value::Null, id: "", prompt, polls: 0, finished: false };
            Some(office.attacked(*attack, &scene, request))
        }
        Fault::DroppedBeforeAccept => Some(office.cut(request)),
        Fault::HtmlBadGateway { accepted: false } => Some(gateway_page()),
        _ => None,
    }
}

fn gateway_page() -> Response {
    Response::builder().status(StatusCode::BAD_GATEWAY).content_type("text/html").body(GATEWAY_PAGE)
}

/// An HTTP date so many seconds from now.
fn http_date(secs: u32) -> String {
    let at = chrono::Utc::now() + chrono::TimeDelta::seconds(i64::from(secs));
    at.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
