//! The queue of fal: order, status, result and cancel, below the owner and the app of a model.
//!
//! The status is 202 until the request is completed, and completed says nothing of success: that is the result's to say,
//! with the model's own status. A finished file is a link to the other host, which needs no key. There is no list.

mod errors;
mod request;

use std::sync::Arc;

use poem::http::{Method, StatusCode};
use poem::web::{Data, Path};
use poem::{Body, Endpoint, EndpointExt, IntoResponse, Request, Response, Route, handler, post};
use serde_json::{Value, json};

use super::super::book::JobState;
use super::super::callbacks::{Form, Hook};
use super::super::jobs::Sight;
use super::super::office::Office;
use super::super::outcomes::{Created, NotSeen};
use errors::ApiFault;
use request::Fields;

const MAX_BODY_BYTES: usize = 32 << 20;

/// The surface, below its prefix.
pub(super) fn routes() -> impl Endpoint {
    Route::new().at("/*path", post(order).get(look).put(cancel)).around(with_key)
}

async fn with_key<E: Endpoint>(endpoint: Arc<E>, request: Request) -> poem::Result<Response> {
    let key = request.header("authorization").and_then(|value| value.strip_prefix("Key "));
    if let Some(office) = request.data::<Arc<Office>>()
        && !key.is_some_and(|key| office.studio.knows_key(key))
    {
        if request.method() == Method::POST {
            office.studio.note_unauthorized();
        }
        return Ok(ApiFault::plain(401, "Cannot access application: authentication is required.").into_response());
    }
    Ok(endpoint.call(request).await?.into_response())
}

#[handler]
async fn order(Path(model): Path<String>, request: &Request, body: Body, office: Data<&Arc<Office>>) -> Response {
    let bytes = body.into_bytes_limit(MAX_BODY_BYTES).await.unwrap_or_default();
    let fields = match Fields::from_json(&model, &bytes) {
        Ok(fields) => fields,
        Err(fault) => {
            office.studio.note_unreadable();
            return fault.into_response();
        }
    };
    match office.studio.create(|profile| fields.order(profile)) {
        Created::Invalid(fault) => fault.into_response(),
        Created::Refused { fault, model, prompt } => super::refused_without_words((&fault, &prompt), request, &office)
            .unwrap_or_else(|| ApiFault::of_refusal(&fault, &model).into_response()),
        Created::Accepted { job, fault } => {
            office.callbacks.expect(&job, hook(request)).await;
            let outage = |status| ApiFault::outage(status).into_response();
            let answer = (ticket(&job, &office), &*job.id, &*job.order.prompt);
            super::created(answer, fault.as_ref(), request, &office, outage).await
        }
    }
}

/// `fal_webhook` of the query.
fn hook(request: &Request) -> Option<Hook> {
    let pairs = url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
    let mut urls = pairs.filter_map(|(name, value)| (name == "fal_webhook").then(|| value.into_owned()));
    urls.next().map(|url| Hook { url, form: Form::Fal })
}

/// What names a request, in every answer about it.
fn ticket(job: &Sight, office: &Office) -> Value {
    // the model's id without the path behind owner and app
    let app: Vec<&str> = job.order.model.split('/').take(2).collect();
    let request = format!("{}{}/{}/requests/{}", office.home, super::FAL, app.join("/"), job.id);
    json!({
        "status": status_word(job),
        "request_id": &*job.id,
        "response_url": request,
        "status_url": format!("{request}/status"),
        "cancel_url": format!("{request}/cancel"),
        "queue_position": (job.state == JobState::Queued).then_some(0),
    })
}

fn status_word(job: &Sight) -> &'static str {
    match job.state {
        _ if job.odd_word => "POST_PROCESSING",
        JobState::Queued => "IN_QUEUE",
        JobState::InProgress => "IN_PROGRESS",
        JobState::Completed | JobState::Failed => "COMPLETED",
    }
}

/// `{owner}/{app}/requests/{id}`, and what stands behind it.
fn request_of(path: &str) -> Option<(&str, Option<&str>)> {
    let mut segments = path.split('/').skip(2);
    (segments.next()? == "requests").then_some(())?;
    Some((segments.next()?, segments.next()))
}

#[handler]
async fn look(Path(path): Path<String>, request: &Request, office: Data<&Arc<Office>>) -> Response {
    match request_of(&path) {
        Some((id, Some("status"))) => status(id, request, &office),
        Some((id, None)) => result(id, request, &office),
        _ => ApiFault::plain(404, "Path not found.").into_response(),
    }
}

fn status(id: &str, request: &Request, office: &Office) -> Response {
    match office.studio.look(id) {
        Ok(job) => {
            let mut answer = ticket(&job, office);
            if let Some((_, error, kind)) = failure(&job) {
                answer["error"] = json!(error);
                answer["error_type"] = json!(kind);
            }
            let status = if status_word(&job) == "COMPLETED" { 200 } else { 202 };
            office.shown((status, &answer), &job.id, &job, request)
        }
        Err(NotSeen::Unknown) => ApiFault::plain(404, "Request not found.").into_response(),
        Err(NotSeen::Outage(status)) => ApiFault::outage(status).into_response(),
    }
}

/// What the status of a failed request tells, with the status of its result.
fn failure(job: &Sight) -> Option<(u16, &'static str, Option<&'static str>)> {
    match job.state {
        JobState::Failed if job.cancelled => Some((499, "The request was cancelled.", Some("client_cancelled"))),
        JobState::Failed if job.moderated => Some((422, "Unprocessable Entity", None)),
        JobState::Failed => Some((500, "Internal Server Error", None)),
        JobState::Completed | JobState::Queued | JobState::InProgress => None,
    }
}

/// The model's own answer. Asking for it is no look at the queue, so that it does not count as a poll.
fn result(id: &str, request: &Request, office: &Office) -> Response {
    let Some(job) = office.studio.glance(id) else {
        return ApiFault::plain(404, "Request not found.").into_response();
    };
    match (job.state, failure(&job)) {
        (JobState::Queued | JobState::InProgress, _) => {
            ApiFault::plain(400, "Request is still in progress.").into_response()
        }
        (_, Some((status, message, Some(kind)))) => ApiFault::of_request(status, message, kind).into_response(),
        (_, Some((422, ..))) => ApiFault::moderated(422).into_response(),
        (_, Some((status, ..))) => {
            let message = "The model could not make the video.";
            let fault = ApiFault::of_field(status, &["body"], message, "internal_server_error");
            match job.attack {
                Some(_) => office.shown((status, &fault.body), &job.id, &job, request),
                None => fault.into_response(),
            }
        }
        (_, None) => {
            let url = format!("{}/files/{}", office.other_host, job.id);
            let video = json!({"url": url, "content_type": "video/mp4", "file_name": "output.mp4"});
            office.shown((200, &json!({"video": video, "seed": 7})), &job.id, &job, request)
        }
    }
}

#[handler]
async fn cancel(Path(path): Path<String>, office: Data<&Arc<Office>>) -> Response {
    let Some((id, Some("cancel"))) = request_of(&path) else {
        return ApiFault::plain(404, "Path not found.").into_response();
    };
    let (status, word) = match office.studio.cancel(id) {
        Some(true) => (StatusCode::ACCEPTED, "CANCELLATION_REQUESTED"),
        Some(false) => (StatusCode::BAD_REQUEST, "ALREADY_COMPLETED"),
        None => (StatusCode::NOT_FOUND, "NOT_FOUND"),
    };
    Response::builder().status(status).content_type("application/json").body(json!({"status": word}).to_string())
}
