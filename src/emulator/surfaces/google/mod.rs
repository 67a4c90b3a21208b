//! What Google's surfaces have in common: the error envelope, tokens, a bucket, and films inside of answers.
//!
//! A token is `ya29.` and the id of the key that signed the request for it, so that whoever has the emulator's key as the
//! id of his own gets a token that is good here. Signatures are not checked; form, audience, scope and times are.

pub(super) mod errors;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use poem::web::{Data, Form, Path, Query};
use poem::{Endpoint, EndpointExt, Request, Response, Route, get, handler, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::content;
use super::super::jobs::{Sight, Spoil};
use super::super::office::{Office, json_response};
use super::super::outcomes::NoFile;

const TOKEN_PREFIX: &str = "ya29.";
const PAGE: &str = "<!doctype html><html><body>Please sign in.</body></html>";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Whether a request carries a token of this emulator's key.
pub(super) fn has_token(request: &Request, office: &Office) -> bool {
    let bearer = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let key = bearer.and_then(|token| token.strip_prefix(TOKEN_PREFIX));
    key.is_some_and(|key| office.studio.knows_key(key))
}

/// `{place}{job}/sample_0.mp4`: the object that Vertex AI makes of a job.
pub(super) fn object_uri(job: &Sight) -> Option<String> {
    let place = job.order.destination.as_deref()?;
    let slash = if place.ends_with('/') { "" } else { "/" };
    Some(format!("{place}{slash}{}/sample_0.mp4", job.id))
}

/// The film as base64; what spoils a download spoils it too, as far as a text can be spoiled.
pub(super) async fn inline_film(job: &Sight, office: &Office) -> poem::Result<String> {
    let Ok(download) = office.studio.download(&job.id, true) else { return Ok(String::new()) };
    Ok(match download.spoil {
        Spoil::Empty => String::new(),
        Spoil::Html => STANDARD.encode(PAGE),
        Spoil::Short => {
            let film = content::clip_of(&download, &office.clips).await?;
            STANDARD.encode(&film[..film.len() / 2])
        }
        _ => STANDARD.encode(content::clip_of(&download, &office.clips).await?),
    })
}

/// `POST /oauth/token`.
pub(super) fn token_route() -> impl Endpoint {
    post(give_token)
}

#[derive(Deserialize)]
struct TokenRequest {
    grant_type: String,
    assertion: String,
}

#[handler]
fn give_token(Form(request): Form<TokenRequest>, office: Data<&Arc<Office>>) -> Response {
    let here = format!("{}/oauth/token", office.home);
    match key_id(&request, &here) {
        Some(key_id) => {
            let token = format!("{TOKEN_PREFIX}{key_id}");
            json_response(json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}).to_string())
        }
        None => {
            let mut refused = json_response(json!({"error": "invalid_grant"}).to_string());
            refused.set_status(poem::http::StatusCode::BAD_REQUEST);
            refused
        }
    }
}

/// The key by which a well-formed statement is signed.
fn key_id(request: &TokenRequest, here: &str) -> Option<String> {
    let parts: Vec<&str> = request.assertion.split('.').collect();
    let [header, claims, signature] = parts[..] else { return None };
    let read = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    let (header, claims) = (read(header)?, read(claims)?);
    let lifetime = claims["exp"].as_i64()? - claims["iat"].as_i64()?;
    let good = request.grant_type == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        && header["alg"] == "RS256"
        && claims["iss"].as_str().is_some_and(|issuer| !issuer.is_empty())
        && claims["scope"] == SCOPE
        && claims["aud"] == here
        && (1..=3600).contains(&lifetime)
        && URL_SAFE_NO_PAD.decode(signature).is_ok_and(|signature| signature.len() >= 256);
    good.then(|| header["kid"].as_str().map(str::to_owned)).flatten()
}

/// `GET /b/{bucket}/o?prefix=` and `GET /b/{bucket}/o/{object}?alt=media`.
pub(super) fn storage_routes() -> impl Endpoint {
    Route::new().at("/b/:bucket/o", get(list_objects)).at("/b/:bucket/o/*object", get(get_object)).around(with_token)
}

async fn with_token<E: Endpoint>(endpoint: Arc<E>, request: Request) -> poem::Result<Response> {
    match request.data::<Arc<Office>>() {
        Some(office) if !has_token(&request, office) => Ok(errors::unauthenticated()),
        _ => Ok(poem::IntoResponse::into_response(endpoint.call(request).await?)),
    }
}

#[derive(Deserialize)]
struct ListQuery {
    #[serde(default)]
    prefix: String,
}

#[handler]
fn list_objects(Path(bucket): Path<String>, Query(query): Query<ListQuery>, office: Data<&Arc<Office>>) -> Response {
    let here = format!("gs://{bucket}/");
    let found = office.studio.finished_below(&format!("{here}{}", query.prefix));
    let items: Vec<Value> = found.iter().filter_map(|job| object(job, &here)).collect();
    // an empty list is left out
    let answer = if items.is_empty() { json!({"kind": "storage#objects"}) } else { json!({ "items": items }) };
    json_response(answer.to_string())
}

fn object(job: &Sight, here: &str) -> Option<Value> {
    let uri = object_uri(job)?;
    let made = chrono::DateTime::from_timestamp_millis(i64::try_from(job.done_ms).ok()?)?;
    Some(json!({"kind": "storage#object", "name": uri.strip_prefix(here)?, "timeCreated": made.to_rfc3339()}))
}

#[derive(Deserialize)]
struct ObjectQuery {
    alt: Option<String>,
}

#[handler]
async fn get_object(
    Path((_, object)): Path<(String, String)>,
    Query(query): Query<ObjectQuery>,
    request: &Request,
    office: Data<&Arc<Office>>,
) -> poem::Result<Response> {
    let id = object.strip_suffix("/sample_0.mp4").and_then(|rest| rest.rsplit('/').next()).unwrap_or_default();
    if query.alt.as_deref() != Some("media") {
        return Ok(errors::answer(400, "This bucket gives out media alone.", &[]));
    }
    if let Some(detour) = office.studio.detour(id) {
        let here = request.original_uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        return Ok(content::redirect(detour, id, &here, &office));
    }
    match office.studio.download(id, true) {
        Ok(download) => content::respond(download, request, &office).await,
        Err(NoFile::Unknown | NoFile::NotReady { .. } | NoFile::Expired | NoFile::Missing) => {
            Ok(errors::answer(404, "No such object.", &[]))
        }
    }
}
