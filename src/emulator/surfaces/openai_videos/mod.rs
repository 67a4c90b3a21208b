//! `/v1/videos` in the OpenAI shape.
//!
//! Every success is 200 and every error is the envelope. This file turns decisions of the studio into bytes and never
//! decides anything itself.

mod errors;
mod object;
mod request;

use std::sync::Arc;

use poem::http::{HeaderValue, Method};
use poem::web::{Data, Path, Query};
use poem::{Body, Endpoint, EndpointExt, IntoResponse, Request, Response, Route, get, handler};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::content;
use super::super::jobs::Sight;
use super::super::keys::Key;
use super::super::listing::Page;
use super::super::office::{Office, json_response};
use super::super::outcomes::{Created, NoFile, NotDeleted, NotSeen};
use errors::ApiFault;
use object::video_object;
use request::Fields;

const DEFAULT_PAGE: usize = 20;
const LARGEST_PAGE: usize = 100;

/// The surface, below its prefix.
pub(super) fn routes() -> impl Endpoint {
    Route::new()
        .at("/", get(list_videos).post(create_video))
        .at("/:id", get(retrieve_video).delete(delete_video))
        .at("/:id/content", get(download_video))
        .around(with_key)
}

/// The envelope with nothing but a message in it.
pub(super) fn refusal(status: u16, message: &str) -> Response {
    ApiFault::new(status, message).into_response()
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

#[handler]
async fn create_video(request: &Request, body: Body, office: Data<&Arc<Office>>) -> Response {
    let fields = match Fields::read(request, body).await {
        Ok(fields) => fields,
        Err(fault) => {
            office.studio.note_unreadable();
            return fault.into_response();
        }
    };
    let key = request.header("idempotency-key").map(|key| Key { text: key.into(), reused: ApiFault::key_reused });
    match office.studio.create_under(key, |profile| fields.order(profile)) {
        Created::Invalid(fault) => fault.into_response(),
        Created::Refused { fault, model, prompt } => super::refused_without_words((&fault, &prompt), request, &office)
            .unwrap_or_else(|| ApiFault::of_refusal(&fault, &model).into_response()),
        Created::Accepted { job, fault } => {
            office.callbacks.expect(&job, office.callbacks.project_hook()).await;
            let outage = |status| ApiFault::outage(status).into_response();
            let answer = (video_object(&job), &*job.id, &*job.order.prompt);
            let answer = super::created(answer, fault.as_ref(), request, &office, outage).await;
            with_poll_hint(answer, &office)
        }
    }
}

#[handler]
async fn retrieve_video(Path(id): Path<String>, request: &Request, office: Data<&Arc<Office>>) -> Response {
    match office.studio.look(&id) {
        Ok(job) => with_poll_hint(office.shown((200, &video_object(&job)), &job.id, &job, request), &office),
        Err(NotSeen::Unknown) => ApiFault::video_not_found(&id).into_response(),
        Err(NotSeen::Outage(status)) => ApiFault::outage(status).into_response(),
    }
}

#[handler]
async fn delete_video(Path(id): Path<String>, office: Data<&Arc<Office>>) -> Response {
    match office.studio.delete(&id) {
        Ok(()) => json_response(json!({"id": id, "object": "video.deleted", "deleted": true}).to_string()),
        Err(NotDeleted::Unknown) => ApiFault::video_not_found(&id).into_response(),
        Err(NotDeleted::Unfinished) => {
            let message = "Only videos that are completed or failed can be deleted.";
            ApiFault::new(400, message).param("video_id").into_response()
        }
    }
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
    let listed = match office.studio.list(&page) {
        Ok(listed) => listed,
        Err(NotSeen::Outage(status)) => return ApiFault::outage(status).into_response(),
        Err(NotSeen::Unknown) => {
            return ApiFault::video_not_found(page.after.as_deref().unwrap_or_default()).into_response();
        }
    };
    let id_of = |job: Option<&Sight>| job.map_or(Value::Null, |job| json!(&*job.id));
    let (first_id, last_id) = (id_of(listed.jobs.first()), id_of(listed.jobs.last()));
    let data: Vec<Value> = listed.jobs.iter().map(video_object).collect();
    let answer = json!({"object": "list", "data": data, "first_id": first_id, "last_id": last_id,
        "has_more": listed.has_more});
    json_response(answer.to_string())
}

/// The `variant` of a download.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Variant {
    #[default]
    Video,
    Thumbnail,
    Spritesheet,
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
    request: &Request,
    office: Data<&Arc<Office>>,
) -> poem::Result<Response> {
    let is_video = query.variant == Variant::Video;
    if let Some(detour) = office.studio.detour(&id).filter(|_| is_video) {
        return Ok(content::redirect(detour, &id, request.original_uri().path(), &office));
    }
    match office.studio.download(&id, is_video) {
        Ok(download) if is_video => content::respond(download, request, &office).await,
        Ok(download) => content::picture(&download, &office).await,
        Err(reason) => Ok(no_file(reason, &id).into_response()),
    }
}

fn no_file(reason: NoFile, id: &str) -> ApiFault {
    match reason {
        NoFile::Unknown => ApiFault::video_not_found(id),
        NoFile::NotReady { status } => ApiFault::new(status, "Video is not ready yet.").param("video_id"),
        NoFile::Expired => ApiFault::new(404, "The content of this video has expired.").param("video_id"),
        NoFile::Missing => ApiFault::new(404, "The content of this video is not available.").param("video_id"),
    }
}

fn with_poll_hint(mut answer: Response, office: &Office) -> Response {
    if let Some(ms) = office.studio.poll_after_ms().filter(|_| answer.status().is_success()) {
        answer.headers_mut().insert("openai-poll-after-ms", HeaderValue::from(ms));
    }
    answer
}
