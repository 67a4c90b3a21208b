//! The provider's HTTP surface: `/v1/videos` in the OpenAI shape.
//!
//! Every success is 200 and every error is the envelope, also for unknown paths. This file turns decisions of the studio into
//! bytes and never decides anything itself; faults that are no HTTP at all (a cut connection, a body that breaks off) are
//! made here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use poem::http::{HeaderValue, Method, StatusCode};
use poem::web::{Data, Path, Query};
use poem::{Body, Endpoint, EndpointExt, IntoResponse, Request, Response, Route, get, handler};
use serde::Deserialize;
use serde_json::Value;

use super::content::{self, Variant};
use super::control;
use super::errors::ApiFault;
use super::office::{Office, json_response};
use super::request::Fields;
use super::script::Fault;
use super::studio::{Created, Page};

const DEFAULT_PAGE: usize = 20;
const LARGEST_PAGE: usize = 100;
/// What a gateway says when what is behind it does not answer.
const GATEWAY_PAGE: &str =
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><h1>502 Bad Gateway</h1></body>\r\n</html>\r\n";

/// The whole surface.
pub(super) fn routes(office: Arc<Office>) -> impl Endpoint {
    let videos = Route::new()
        .at("/", get(list_videos).post(create_video))
        .at("/:id", get(retrieve_video).delete(delete_video))
        .at("/:id/content", get(download_video))
        .around(with_key);
    Route::new()
        .nest("/v1/videos", videos)
        .nest("/control", control::routes())
        .data(office)
        .catch_all_error(|error: poem::Error| async move {
            let status = error.status().as_u16();
            ApiFault::new(status, format!("Invalid request: {}.", error.status())).into_response()
        })
        .around(with_request_id)
}

/// Lets only requests with the right key in; to others even the existence of a path is nothing to know.
async fn with_key<E: Endpoint>(endpoint: Arc<E>, request: Request) -> poem::Result<Response> {
    let bearer = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let office = request.data::<Arc<Office>>();
    if let Some(office) = office
        && !bearer.is_some_and(|bearer| office.studio.knows_key(bearer))
    {
        if request.method() == Method::POST {
            office.studio.note_unauthorized();
        }
        return Ok(ApiFault::unauthorized().into_response());
    }
    Ok(endpoint.call(request).await?.into_response())
}

async fn with_request_id<E: Endpoint>(endpoint: Arc<E>, request: Request) -> poem::Result<Response> {
    static REQUESTS: AtomicU64 = AtomicU64::new(1);
    let mut answer = endpoint.call(request).await?.into_response();
    let id = format!("req_{:016x}", REQUESTS.fetch_add(1, Ordering::Relaxed));
    if let Ok(id) = HeaderValue::try_from(id) {
        answer.headers_mut().insert("x-request-id", id);
    }
    Ok(answer)
}

#[handler]
async fn create_video(request: &Request, body: Body, office: Data<&Arc<Office>>) -> Response {
    let fields = match Fields::read(request, body).await {
        Ok(fields) => fields,
        Err(fault) => {
            office.studio.note_unreadable();
            return fault.into_response();
        }
    };
    match office.studio.create(&fields) {
        Created::Invalid(fault) => fault.into_response(),
        Created::Refused { fault, model } => refusal(&fault, &model, request, &office),
        Created::Accepted { video, fault } => acceptance(&video, fault.as_ref(), request, &office).await,
    }
}

#[handler]
async fn retrieve_video(Path(id): Path<String>, office: Data<&Arc<Office>>) -> Response {
    match office.studio.retrieve(&id) {
        Ok(video) => video_response(&video, &office),
        Err(fault) => fault.into_response(),
    }
}

#[handler]
async fn delete_video(Path(id): Path<String>, office: Data<&Arc<Office>>) -> Response {
    office.studio.delete(&id).map_or_else(ApiFault::into_response, |answer| json_response(answer.to_string()))
}

#[derive(Deserialize)]
struct ListQuery {
    limit: Option<usize>,
    order: Option<Order>,
    after: Option<String>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Order {
    Asc,
    Desc,
}

#[handler]
async fn list_videos(Query(query): Query<ListQuery>, office: Data<&Arc<Office>>) -> Response {
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if limit > LARGEST_PAGE {
        let message = format!("Invalid 'limit': at most {LARGEST_PAGE} is allowed.");
        return ApiFault::new(400, message).param("limit").code("integer_above_max_value").into_response();
    }
    let page = Page { limit, ascending: query.order == Some(Order::Asc), after: query.after };
    office.studio.list(&page).map_or_else(ApiFault::into_response, |answer| json_response(answer.to_string()))
}

#[derive(Deserialize)]
struct ContentQuery {
    #[serde(default)]
    variant: Variant,
}

#[handler]
async fn download_video(
    Path(id): Path<String>,
    Query(query): Query<ContentQuery>,
    office: Data<&Arc<Office>>,
) -> poem::Result<Response> {
    match office.studio.download(&id, query.variant == Variant::Video) {
        Ok(download) => content::respond(download, query.variant, &office.clips).await,
        Err(fault) => Ok(fault.into_response()),
    }
}

/// The answer to a create that a fault refuses.
fn refusal(fault: &Fault, model: &str, request: &Request, office: &Office) -> Response {
    match ApiFault::of_refusal(fault, model) {
        Some(envelope) => envelope.into_response(),
        None if *fault == Fault::DroppedBeforeAccept => cut(request, office),
        None => gateway_page(),
    }
}

/// The answer to a create that was booked.
async fn acceptance(video: &Value, fault: Option<&Fault>, request: &Request, office: &Office) -> Response {
    match fault {
        Some(Fault::DroppedAfterAccept) => cut(request, office),
        Some(Fault::ErrorAfterAccept { status }) => ApiFault::outage(*status).into_response(),
        Some(Fault::HtmlBadGateway { .. }) => gateway_page(),
        Some(Fault::TruncatedAnswer) => {
            let text = video.to_string();
            let half = text.len() / 2;
            content::broken_off("application/json", text.into(), half)
        }
        Some(Fault::SlowAnswer { ms }) => {
            tokio::time::sleep(Duration::from_millis(*ms)).await;
            video_response(video, office)
        }
        Some(Fault::SlowBody { ms }) => {
            content::late_body("application/json", video.to_string().into(), Duration::from_millis(*ms))
        }
        _ => video_response(video, office),
    }
}

/// Closes the connection; the answer returned here never leaves the process.
fn cut(request: &Request, office: &Office) -> Response {
    if let Some(client) = request.remote_addr().as_socket_addr() {
        office.connections.cut(*client);
    }
    Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).finish()
}

fn gateway_page() -> Response {
    Response::builder().status(StatusCode::BAD_GATEWAY).content_type("text/html").body(GATEWAY_PAGE)
}

fn video_response(video: &Value, office: &Office) -> Response {
    let mut answer = json_response(video.to_string());
    if let Some(ms) = office.studio.poll_after_ms() {
        answer.headers_mut().insert("openai-poll-after-ms", HeaderValue::from(ms));
    }
    answer
}
