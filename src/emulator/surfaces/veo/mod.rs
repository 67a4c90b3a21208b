//! Veo: long-running operations, as the Gemini API and as Vertex AI serve them.
//!
//! An operation has no progress and no status word: it is done or it is not. One that was filtered is done without a
//! sample. The Gemini API's file is a link that wants the key and redirects to another host; Vertex AI puts the file into
//! the bucket that the request names, or into the answer.

mod operation;
mod request;

use std::sync::Arc;

use poem::http::Method;
use poem::web::{Data, Path};
use poem::{Body, Endpoint, Request, Response, Route, handler};
use serde_json::{Value, json};

use super::super::callbacks::{Form, Hook};
use super::super::content;
use super::super::office::Office;
use super::super::outcomes::{Created, NoFile, NotSeen};
use super::super::script::Detour;
use super::google::{errors, has_token};
use request::Flavour;

/// A request may carry an image of 20 MB as base64.
const MAX_BODY_BYTES: usize = 28 << 20;

/// Below `/veo/v1beta`.
pub(super) fn gemini_routes() -> impl Endpoint {
    Route::new().at("/*path", gemini)
}

/// Below `/vertex/v1`.
pub(super) fn vertex_routes() -> impl Endpoint {
    Route::new().at("/*path", vertex)
}

#[handler]
async fn gemini(
    Path(path): Path<String>,
    request: &Request,
    body: Body,
    office: Data<&Arc<Office>>,
) -> poem::Result<Response> {
    let from_query = request.uri().query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("key="));
    let key = request.header("x-goog-api-key").or(from_query);
    if !key.is_some_and(|key| office.studio.knows_key(key)) {
        return Ok(refused_key(request, &office, errors::wrong_key()));
    }
    let segments: Vec<&str> = path.split('/').collect();
    match (request.method(), &segments[..]) {
        (&Method::POST, ["models", call]) => match call.split_once(':') {
            Some((model, "predictLongRunning")) => create(Flavour::Gemini, model, request, body, &office).await,
            _ => Ok(unknown_path()),
        },
        (&Method::GET, ["models", _, "operations", id]) => look(Flavour::Gemini, (id, &path), request, &office).await,
        (&Method::GET, ["files", call]) => match call.split_once(':') {
            Some((id, "download")) => Ok(send_to_file(&job_id(id), request, &office)),
            _ => Ok(unknown_path()),
        },
        _ => Ok(unknown_path()),
    }
}

#[handler]
async fn vertex(
    Path(path): Path<String>,
    request: &Request,
    body: Body,
    office: Data<&Arc<Office>>,
) -> poem::Result<Response> {
    if !has_token(request, &office) {
        return Ok(refused_key(request, &office, errors::unauthenticated()));
    }
    let segments: Vec<&str> = path.split('/').collect();
    let (&Method::POST, ["projects", _, "locations", _, "publishers", "google", "models", call]) =
        (request.method(), &segments[..])
    else {
        return Ok(unknown_path());
    };
    match call.split_once(':') {
        Some((model, "predictLongRunning")) => create(Flavour::Vertex, model, request, body, &office).await,
        Some((model, "fetchPredictOperation")) => {
            let asked = json_of(body).await.unwrap_or_default();
            let name = asked["operationName"].as_str().unwrap_or_default();
            match name.rsplit_once(&format!("/models/{model}/operations/")) {
                Some((_, id)) => look(Flavour::Vertex, (id, name), request, &office).await,
                None => Ok(errors::answer(400, "The operation is not one of this model.", &[])),
            }
        }
        _ => Ok(unknown_path()),
    }
}

fn refused_key(request: &Request, office: &Office, answer: Response) -> Response {
    if request.method() == Method::POST {
        office.studio.note_unauthorized();
    }
    answer
}

fn unknown_path() -> Response {
    errors::answer(404, "Method not found.", &[])
}

async fn json_of(body: Body) -> Option<Value> {
    serde_json::from_slice(&body.into_bytes_limit(MAX_BODY_BYTES).await.ok()?).ok()
}

/// The id of an operation leaves out what the studio's ids begin with.
fn job_id(operation: &str) -> String {
    format!("video_{operation}")
}

async fn create(
    flavour: Flavour,
    model: &str,
    request: &Request,
    body: Body,
    office: &Office,
) -> poem::Result<Response> {
    let Some(asked) = json_of(body).await else {
        office.studio.note_unreadable();
        return Ok(errors::answer(400, "Invalid JSON payload received.", &[]));
    };
    Ok(match office.studio.create(|profile| request::order(flavour, model, &asked, profile)) {
        Created::Invalid(answer) => answer,
        Created::Refused { fault, model, prompt } => super::refused_without_words((&fault, &prompt), request, office)
            .unwrap_or_else(|| errors::of_refusal(&fault, &model)),
        Created::Accepted { job, fault } => {
            let hook = Hook::of_google(asked.get("webhookConfig"), Form::GoogleVideo);
            office.callbacks.expect(&job, hook).await;
            let id = job.id.trim_start_matches("video_");
            let path = request.original_uri().path().trim_start_matches("/vertex/v1/");
            let above = if flavour == Flavour::Vertex { path.split_once("/models/") } else { None };
            let above = above.map(|(above, _)| format!("{above}/")).unwrap_or_default();
            let answer = json!({"name": format!("{above}models/{model}/operations/{id}")});
            super::created((answer, id, &job.order.prompt), fault.as_ref(), request, office, errors::outage).await
        }
    })
}

async fn look(
    flavour: Flavour,
    (id, name): (&str, &str),
    request: &Request,
    office: &Office,
) -> poem::Result<Response> {
    let job = match office.studio.look(&job_id(id)) {
        Ok(job) => job,
        Err(NotSeen::Unknown) => return Ok(errors::answer(404, "Operation not found.", &[])),
        Err(NotSeen::Outage(status)) => return Ok(errors::outage(status)),
    };
    let answer = match flavour {
        Flavour::Gemini => operation::of_gemini(name, id, &job, office),
        Flavour::Vertex => operation::of_vertex(name, &job, office).await?,
    };
    Ok(office.shown((200, &answer), id, &job, request))
}

/// The Gemini API never gives out a file itself.
fn send_to_file(id: &str, request: &Request, office: &Office) -> Response {
    match office.studio.download(id, false) {
        Ok(_) => {
            let here = request.original_uri().path_and_query().map(ToString::to_string).unwrap_or_default();
            content::redirect(office.studio.detour(id).unwrap_or(Detour::OtherHost), id, &here, office)
        }
        Err(NoFile::NotReady { .. }) => errors::answer(400, "The file is not in an ACTIVE state.", &[]),
        Err(NoFile::Missing) => errors::answer(404, "The file was not found.", &[]),
        Err(NoFile::Unknown | NoFile::Expired) => {
            errors::answer(403, "You do not have permission to access the file, or it may not exist.", &[])
        }
    }
}
