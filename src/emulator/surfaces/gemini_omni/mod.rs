//! The Interactions API as Gemini Omni speaks it: create, look, cancel, and the files behind a `uri`.
//!
//! Without `background` the create blocks until the video is there, as the vendor's does. An unknown id is a 400. There is no
//! list. A film is a link to `files/{id}:download` that needs the key, or inside of every answer when `delivery` said so; at
//! a second prefix it is inside whatever was said, since nobody has published whether it may be.

mod errors;
mod object;
mod request;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use poem::http::Method;
use poem::web::{Data, Path};
use poem::{Body, Endpoint, EndpointExt, IntoResponse, Request, Response, Route, get, handler, post};
use serde_json::{Value, json};

use super::super::book::JobState;
use super::super::callbacks::{Form, Hook};
use super::super::content;
use super::super::jobs::Sight;
use super::super::office::{Office, json_response};
use super::super::outcomes::{Created, NoFile, NotSeen};
use super::google::{errors as front_end, inline_film};
use errors::ApiFault;
use object::interaction;
use request::Fields;

const MAX_BODY_BYTES: usize = 32 << 20;
/// How often a create that blocks looks whether its video is there.
const BLOCKED_PAUSE: Duration = Duration::from_millis(10);

/// Where the films are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Films {
    AsAsked,
    Inline,
}

/// The jobs whose film is to be inside of the answers.
struct InlineJobs {
    films: Films,
    asked: Mutex<HashSet<Arc<str>>>,
}

impl InlineJobs {
    fn add(&self, id: &Arc<str>) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(id));
    }

    fn has(&self, id: &str) -> bool {
        self.films == Films::Inline || self.asked.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}

/// The surface, below its prefix.
pub(super) fn routes(films: Films) -> impl Endpoint {
    Route::new()
        .at("/interactions", post(create))
        .at("/interactions/:id", get(look))
        .at("/interactions/:id/cancel", post(cancel))
        .at("/files/:name", get(file))
        .around(with_key)
        .data(Arc::new(InlineJobs { films, asked: Mutex::default() }))
}

async fn with_key<E: Endpoint>(endpoint: Arc<E>, request: Request) -> poem::Result<Response> {
    let in_query = request.uri().query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("key="));
    let key = request.header("x-goog-api-key").or(in_query);
    if let Some(office) = request.data::<Arc<Office>>()
        && !key.is_some_and(|key| office.studio.knows_key(key))
    {
        if request.method() == Method::POST {
            office.studio.note_unauthorized();
        }
        return Ok(front_end::wrong_key());
    }
    Ok(endpoint.call(request).await?.into_response())
}

#[handler]
async fn create(
    request: &Request,
    body: Body,
    office: Data<&Arc<Office>>,
    inline: Data<&Arc<InlineJobs>>,
) -> poem::Result<Response> {
    let bytes = body.into_bytes_limit(MAX_BODY_BYTES).await.unwrap_or_default();
    let fields = match Fields::from_json(&bytes) {
        Ok(fields) => fields,
        Err(fault) => {
            office.studio.note_unreadable();
            return Ok(fault.into_response());
        }
    };
    let manner = fields.manner();
    Ok(match office.studio.create(|profile| fields.order(profile)) {
        Created::Invalid(fault) => fault.into_response(),
        Created::Refused { fault, model, prompt } => super::refused_without_words((&fault, &prompt), request, &office)
            .unwrap_or_else(|| ApiFault::of_refusal(&fault, &model).into_response()),
        Created::Accepted { job, fault } => {
            if manner.inline {
                inline.add(&job.id);
            }
            let hook = Hook::of_google(fields.callback(), Form::GoogleInteraction);
            office.callbacks.expect(&job, hook).await;
            let job = if manner.background { job } else { finished(job, &office).await };
            let answer = interaction(&job, film_of(&job, &office, &inline).await?);
            let answer = (answer, &*job.id, &*job.order.prompt);
            let outage = |status| ApiFault::outage(status).into_response();
            super::created(answer, fault.as_ref(), request, &office, outage).await
        }
    })
}

/// Waits for the end of a job.
async fn finished(mut job: Sight, office: &Office) -> Sight {
    while !matches!(job.state, JobState::Completed | JobState::Failed) {
        tokio::time::sleep(BLOCKED_PAUSE).await;
        match office.studio.glance(&job.id) {
            Some(seen) => job = seen,
            None => break,
        }
    }
    job
}

#[handler]
async fn look(
    Path(id): Path<String>,
    request: &Request,
    office: Data<&Arc<Office>>,
    inline: Data<&Arc<InlineJobs>>,
) -> poem::Result<Response> {
    Ok(match office.studio.look(&id) {
        Ok(job) => {
            let answer = interaction(&job, film_of(&job, &office, &inline).await?);
            office.shown((200, &answer), &job.id, &job, request)
        }
        Err(NotSeen::Unknown) => ApiFault::unknown_id().into_response(),
        Err(NotSeen::Outage(status)) => ApiFault::outage(status).into_response(),
    })
}

/// The content part of a finished film.
async fn film_of(job: &Sight, office: &Office, inline: &InlineJobs) -> poem::Result<Option<Value>> {
    if job.state != JobState::Completed {
        return Ok(None);
    }
    if !inline.has(&job.id) {
        let uri = format!("{}{}/files/{}:download?alt=media", office.home, super::GEMINI_OMNI, job.id);
        return Ok(Some(json!({"type": "video", "uri": uri, "mime_type": "video/mp4"})));
    }
    Ok(Some(json!({"type": "video", "data": inline_film(job, office).await?, "mime_type": "video/mp4"})))
}

#[handler]
async fn cancel(Path(id): Path<String>, office: Data<&Arc<Office>>) -> Response {
    match office.studio.cancel(&id) {
        None => ApiFault::unknown_id().into_response(),
        Some(false) => ApiFault::invalid("Only an interaction that is under way can be cancelled.").into_response(),
        Some(true) => match office.studio.glance(&id) {
            Some(job) => json_response(interaction(&job, None).to_string()),
            None => ApiFault::unknown_id().into_response(),
        },
    }
}

/// `files/{id}` is the record of a file, `files/{id}:download` the file.
#[handler]
async fn file(Path(name): Path<String>, request: &Request, office: Data<&Arc<Office>>) -> poem::Result<Response> {
    let Some(id) = name.strip_suffix(":download") else { return Ok(record(&name, &office)) };
    if let Some(detour) = office.studio.detour(id) {
        return Ok(content::redirect(detour, id, request.original_uri().path(), &office));
    }
    match office.studio.download(id, true) {
        Ok(download) => content::respond(download, request, &office).await,
        Err(NoFile::Missing) => Ok(ApiFault::new(404, "not_found", "The file is not available.").into_response()),
        Err(_) => Ok(no_file()),
    }
}

fn record(id: &str, office: &Office) -> Response {
    let state = match office.studio.download(id, false) {
        Ok(_) | Err(NoFile::Missing) => "ACTIVE",
        Err(NoFile::NotReady { .. }) => "PROCESSING",
        Err(NoFile::Unknown | NoFile::Expired) => return no_file(),
    };
    json_response(json!({"name": format!("files/{id}"), "mimeType": "video/mp4", "state": state}).to_string())
}

fn no_file() -> Response {
    front_end::answer(403, "You do not have permission to access the file, or it may not exist.", &[])
}
