//! The control endpoint under `/control`: what a test or an operator of the demo tells the emulator, as JSON.
//!
//! | call | meaning |
//! |---|---|
//! | `POST /control/rules` | one rule or a list of rules, added to the script; answers all rules |
//! | `GET /control/rules`, `DELETE /control/rules` | the script; an empty script |
//! | `GET /control/book`, `GET /control/totals` | the whole book; only its sums |
//! | `GET /control/profile`, `PATCH /control/profile` | the profile; some of its fields changed |
//! | `POST /control/clock` | `{"advance_ms": n}`: jobs and links age by so much at once |
//! | `POST /control/requests`, `GET /control/requests` | keep every request from now on; those that were kept |
//! | `POST /control/callbacks`, `GET /control/callbacks` | `{"url": "http://...", "secret": "whsec_..."}`: where every end of a `/v1/videos` job is told; the calls that were made |
//! | `POST /control/reset` | forgets jobs, counts and script |
//!
//! It needs no key, and therefore answers only clients on this machine, whatever address the emulator listens on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use poem::http::StatusCode;
use poem::web::{Data, Json};
use poem::{Endpoint, EndpointExt, IntoResponse, Request, Response, Route, get, handler, post};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::office::{Office, json_response};
use super::profile::Profile;
use super::script::Rule;
use super::surfaces;

pub(super) fn routes() -> impl Endpoint {
    Route::new()
        .at("/rules", get(show_rules).post(add_rules).delete(clear_rules))
        .at("/book", get(show_book))
        .at("/totals", get(show_totals))
        .at("/profile", get(show_profile).patch(change_profile))
        .at("/clock", post(advance_clock))
        .at("/requests", get(show_requests).post(keep_requests))
        .at("/callbacks", get(show_callbacks).post(register_callback))
        .at("/reset", post(reset))
        .around(from_this_machine)
}

async fn from_this_machine<E: Endpoint>(endpoint: Arc<E>, request: Request) -> poem::Result<Response> {
    let client = request.remote_addr().as_socket_addr();
    if !client.is_some_and(|client| client.ip().to_canonical().is_loopback()) {
        return Ok(surfaces::plain_refusal(403, "The control endpoint answers only this machine."));
    }
    Ok(endpoint.call(request).await?.into_response())
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    More(Vec<Rule>),
    One(Box<Rule>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_ms: u64,
}

#[handler]
fn show_rules(office: Data<&Arc<Office>>) -> poem::Result<Response> {
    answer(&office.studio.rules())
}

#[handler]
fn add_rules(Json(rules): Json<OneOrMore>, office: Data<&Arc<Office>>) -> poem::Result<Response> {
    match rules {
        OneOrMore::More(rules) => office.studio.add_rules(rules),
        OneOrMore::One(rule) => office.studio.add_rules([*rule]),
    }
    answer(&office.studio.rules())
}

#[handler]
fn clear_rules(office: Data<&Arc<Office>>) -> poem::Result<Response> {
    office.studio.clear_rules();
    answer(&office.studio.rules())
}

#[handler]
fn show_book(office: Data<&Arc<Office>>) -> poem::Result<Response> {
    answer(&office.studio.book())
}

#[handler]
fn show_totals(office: Data<&Arc<Office>>) -> poem::Result<Response> {
    answer(&office.studio.totals())
}

#[handler]
fn show_profile(office: Data<&Arc<Office>>) -> poem::Result<Response> {
    answer(&office.studio.profile())
}

#[handler]
fn change_profile(Json(changes): Json<Map<String, Value>>, office: Data<&Arc<Office>>) -> poem::Result<Response> {
    match changed(&office.studio.profile(), changes) {
        Ok(profile) => office.studio.set_profile(profile),
        Err(error) => return Ok(surfaces::plain_refusal(400, &format!("Not a profile: {error}."))),
    }
    answer(&office.studio.profile())
}

#[handler]
fn advance_clock(Json(advance): Json<Advance>, office: Data<&Arc<Office>>) -> poem::Result<Response> {
    office.studio.advance_clock(advance.advance_ms);
    answer(&json!({"advanced_ms": advance.advance_ms}))
}

#[handler]
fn keep_requests(office: Data<&Arc<Office>>) -> poem::Result<Response> {
    office.journal.kept.store(true, Ordering::Relaxed);
    answer(&json!({"kept": true}))
}

#[handler]
fn show_requests(office: Data<&Arc<Office>>) -> poem::Result<Response> {
    answer(&office.journal.seen())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProjectCallback {
    url: String,
    secret: String,
}

#[handler]
fn register_callback(Json(hook): Json<ProjectCallback>, office: Data<&Arc<Office>>) -> poem::Result<Response> {
    office.callbacks.register(&hook.url, &hook.secret);
    answer(&json!({"url": hook.url}))
}

#[handler]
fn show_callbacks(office: Data<&Arc<Office>>) -> poem::Result<Response> {
    answer(&office.callbacks.sent())
}

#[handler]
fn reset(office: Data<&Arc<Office>>) -> poem::Result<Response> {
    office.studio.reset();
    answer(&office.studio.totals())
}

fn changed(profile: &Profile, changes: Map<String, Value>) -> serde_json::Result<Profile> {
    let mut fields = serde_json::to_value(profile)?;
    if let Some(fields) = fields.as_object_mut() {
        fields.extend(changes);
    }
    serde_json::from_value(fields)
}

fn answer(value: &impl Serialize) -> poem::Result<Response> {
    let text = serde_json::to_string(value);
    text.map(json_response).map_err(|error| poem::Error::new(error, StatusCode::INTERNAL_SERVER_ERROR))
}
