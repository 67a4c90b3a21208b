//! The JSON of fal's queue: the input that is sent, the ticket that comes back, and where a result has its film.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::super::adapter::{ErrorBody, ImageSlot, json, shape};
use super::super::{GenerationRequest, Handle, Place};
use crate::config::{FalConfig, Quantity};
use crate::domain::FailureClass;

/// A longer path is not taken from an answer, in bytes.
const MAX_PATH_BYTES: usize = 1024;

/// The id under which an order is placed.
pub(super) fn model<'a>(config: &'a FalConfig, request: &GenerationRequest<'a>) -> &'a str {
    match request.image {
        Some(_) => config.image_model(request.upstream_model),
        None => request.upstream_model,
    }
}

/// The body of an order; the image goes into the slot.
///
/// # Errors
/// Why this order cannot be said, in words for the customer.
pub(super) fn input(
    config: &FalConfig,
    request: &GenerationRequest<'_>,
    slot: &ImageSlot,
) -> Result<Value, (FailureClass, String)> {
    if request.image.is_some() && !config.takes_image(request.upstream_model) {
        let message = "this model takes no reference image at the provider".to_owned();
        return Err((FailureClass::InvalidInput, message));
    }
    let not_served = || (FailureClass::ModelRetired, "this model is not set up at the provider".to_owned());
    let pattern = config.input(model(config, request)).ok_or_else(not_served)?;
    let size = request.size;
    let value_of = |quantity| match quantity {
        Quantity::Seconds => Some(request.seconds.to_string()),
        Quantity::Width => Some(size.width.to_string()),
        Quantity::Height => Some(size.height.to_string()),
        Quantity::Size => Some(size.to_string()),
        Quantity::AspectRatio => Some(shape::aspect_ratio(size)),
        Quantity::Resolution => shape::resolution(size).map(str::to_owned),
        Quantity::Image => request.image.map(|image| slot.data_uri(&image)),
    };
    let no_name = |_| (FailureClass::InvalidInput, format!("the provider has no name for the resolution of {size}"));
    let mut fields: Map<String, Value> = pattern.fill(&value_of).map_err(no_name)?;
    fields.insert("prompt".to_owned(), Value::String(request.prompt.to_owned()));
    Ok(Value::Object(fields))
}

/// Where a request is watched, fetched and cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) status: Url,
    pub(super) result: Url,
    pub(super) cancel: Url,
}

/// A ticket as it is stored: paths alone, so that what a provider once answered can never name a host.
#[derive(Serialize, Deserialize)]
struct Paths {
    status: String,
    result: String,
    cancel: String,
}

impl Ticket {
    /// The ticket that the answer to an order names; `base` is the account's base URL.
    pub(super) fn of(answer: &Value, model: &str, base: &Url) -> Option<Ticket> {
        let id = json::id(answer, "request_id")?;
        let place = |key: &str, behind: Option<&str>| {
            at_home(answer, key, &id, base).unwrap_or_else(|| by_rule(model, &id, behind, base))
        };
        Some(Ticket {
            status: place("status_url", Some("status")),
            result: place("response_url", None),
            cancel: place("cancel_url", Some("cancel")),
        })
    }

    /// The id of the request: what stands behind `requests`, or at the end.
    pub(super) fn request_id(&self) -> Option<String> {
        let segments: Vec<&str> = self.result.path_segments()?.collect();
        let behind = segments.iter().rposition(|segment| *segment == "requests").and_then(|at| segments.get(at + 1));
        behind.or(segments.last()).filter(|id| !id.is_empty()).map(|id| (*id).to_owned())
    }

    pub(super) fn handle(&self) -> Handle {
        let paths = Paths {
            status: self.status.path().to_owned(),
            result: self.result.path().to_owned(),
            cancel: self.cancel.path().to_owned(),
        };
        Handle(serde_json::to_string(&paths).unwrap_or_default())
    }

    pub(super) fn read(handle: &Handle, base: &Url) -> Option<Ticket> {
        let paths: Paths = serde_json::from_str(&handle.0).ok()?;
        let url = |path: &str| {
            let mut url = base.clone();
            url.set_path(path);
            path.starts_with('/').then_some(url)
        };
        Some(Ticket { status: url(&paths.status)?, result: url(&paths.result)?, cancel: url(&paths.cancel)? })
    }
}

/// A URL of the answer, if it stays on the account's host and is about this request.
fn at_home(answer: &Value, key: &str, id: &str, base: &Url) -> Option<Url> {
    let mut url = Url::parse(answer.get(key)?.as_str()?).ok()?;
    url.set_query(None);
    url.set_fragment(None);
    let mut segments = url.path_segments()?;
    let is_its_own = segments.any(|segment| segment == id) && url.path().len() <= MAX_PATH_BYTES;
    (is_its_own && url.origin() == base.origin()).then_some(url)
}

/// `{base}/{owner}/{app}/requests/{id}`, and what stands behind it.
fn by_rule(model: &str, id: &str, behind: Option<&str>, base: &Url) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(FalConfig::app(model)).extend(["requests", id]).extend(behind);
    }
    url
}

/// What the status of a completed request tells of a failure.
pub(super) fn failure(request: &Value) -> Option<ErrorBody> {
    let told = ["error", "error_type"].iter().any(|key| request.get(key).is_some_and(|value| !value.is_null()));
    told.then(|| {
        let error = ErrorBody::of(request);
        ErrorBody { kind: json::word(request, "error_type").or(error.kind.clone()), ..error }
    })
}

/// Whether an error of the result only says that there is none yet.
pub(super) fn is_in_progress(error: &ErrorBody) -> bool {
    error.message.as_deref().is_some_and(|message| message.to_lowercase().contains("in progress"))
}

/// The film of a result: `video.url` with most models, `videos[0].url`, or the link itself.
pub(super) fn film(result: &Value) -> Option<Place> {
    let places = ["video", "videos", "output", "video_url"];
    places.iter().find_map(|key| link(result.get(key)?)).map(|link| Place::Url(link.to_owned()))
}

fn link(value: &Value) -> Option<&str> {
    match value {
        Value::String(link) => Some(link.as_str()).filter(|link| link.starts_with("http")),
        Value::Array(list) => link(list.first()?),
        Value::Object(file) => link(file.get("url").or_else(|| file.get("video"))?),
        _ => None,
    }
}
