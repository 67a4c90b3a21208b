//! The JSON of the Interactions API: the order that is sent, and an interaction read leniently.

use serde_json::{Value, json};
use url::Url;

use super::super::adapter::{ErrorBody, ImageSlot, shape, sieve};
use super::super::{Billed, Billing, GenerationRequest, Place};
use crate::domain::{AttemptId, FailureClass};

/// The body of a create, with the image in its slot; `None` when the size has no name there.
pub(super) fn order(request: &GenerationRequest<'_>, attempt: AttemptId, slot: &ImageSlot) -> Option<Value> {
    let image = request
        .image
        .map(|image| json!({"type": "image", "data": slot.base64(), "mime_type": image.format.media_type()}));
    let task = if image.is_some() { "image_to_video" } else { "text_to_video" };
    let words = json!({"type": "text", "text": request.prompt});
    let input: Vec<Value> = image.into_iter().chain([words]).collect();
    Some(json!({
        "model": request.upstream_model,
        "background": true,
        "store": true,
        "input": input,
        "generation_config": {"video_config": {"task": task}},
        "response_format": {
            "type": "video",
            "aspect_ratio": shape::aspect_ratio(request.size),
            "resolution": shape::resolution(request.size)?,
            // a protobuf Duration; a bare number is refused
            "duration": format!("{}s", request.seconds),
            "delivery": "uri",
        },
        // values may have lower-case letters, digits, `_` and `-` only
        "labels": {"attempt": attempt.to_string().to_lowercase()},
    }))
}

/// What an interaction says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Status<'a> {
    Queued,
    Running,
    Completed,
    Ended(Ending),
    /// A word that is new, or none.
    Other(&'a str),
}

/// How an interaction ends that does not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Failed,
    Cancelled,
    /// It stopped before its output was whole.
    Incomplete,
    BudgetExceeded,
    /// It waits for an answer to a question that nobody here can read.
    AsksBack,
}

impl Ending {
    pub(super) fn class(self) -> FailureClass {
        match self {
            Ending::BudgetExceeded => FailureClass::NoCredit,
            Ending::Failed | Ending::Cancelled | Ending::Incomplete | Ending::AsksBack => FailureClass::ProviderFault,
        }
    }

    pub(super) fn billed(self, billing: &Billing) -> Billed {
        if self == Ending::Cancelled { billing.cancelled } else { billing.failed }
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Ending::Failed => "the provider reported a failure without a reason",
            Ending::Cancelled => "the job was cancelled at the provider",
            Ending::Incomplete => "the provider stopped before the video was whole",
            Ending::BudgetExceeded => "our account's budget at the provider is used up",
            Ending::AsksBack => "the provider asked back in place of making the video",
        }
    }
}

/// An interaction; every key is optional.
pub(super) struct Interaction<'a>(pub(super) &'a Value);

impl<'a> Interaction<'a> {
    pub(super) fn status(&self) -> Status<'a> {
        match self.0.get("status").and_then(Value::as_str).unwrap_or("(none)") {
            "queued" => Status::Queued,
            "in_progress" => Status::Running,
            "completed" => Status::Completed,
            "failed" => Status::Ended(Ending::Failed),
            "cancelled" => Status::Ended(Ending::Cancelled),
            "incomplete" => Status::Ended(Ending::Incomplete),
            "budget_exceeded" => Status::Ended(Ending::BudgetExceeded),
            "requires_action" | "continuation_required" => Status::Ended(Ending::AsksBack),
            other => Status::Other(other),
        }
    }

    fn steps(&self, kind: &'static str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let steps = self.0.get("steps").and_then(Value::as_array).into_iter().flatten();
        steps.filter(move |step| step.get("type").and_then(Value::as_str) == Some(kind))
    }

    fn content(&self, step: &'static str, kind: &'static str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let content = self.steps(step).filter_map(|step| step.get("content")?.as_array()).flatten();
        content.filter(move |part| part.get("type").and_then(Value::as_str) == Some(kind))
    }

    /// Where the film is: at a URI, further on in the answer, or right here.
    pub(super) fn film(&self) -> Option<Place> {
        self.content("model_output", "video").find_map(|film| {
            let text = |key| film.get(key).and_then(Value::as_str);
            if let Some(uri) = text("uri").filter(|uri| !uri.is_empty()) {
                return Some(Place::Url(uri.to_owned()));
            }
            // an empty one is a film of no bytes: the store says what it thinks of it
            let data = text("data")?;
            match sieve::inline_number(data) {
                Some(number) => Some(Place::Inline(number)),
                None => sieve::decoded(data).ok().map(|bytes| Place::Bytes(bytes.into())),
            }
        })
    }

    /// The model's own words, if it answered with some.
    pub(super) fn words(&self) -> Option<&'a str> {
        let mut texts = self.content("model_output", "text").filter_map(|part| part.get("text")?.as_str());
        texts.find(|text| !text.trim().is_empty())
    }

    /// The prompt, where the record repeats it.
    pub(super) fn prompt(&self) -> Option<&'a str> {
        self.content("user_input", "text").find_map(|part| part.get("text")?.as_str())
    }

    /// What went wrong: told of the whole, or of the step that was to make the film.
    pub(super) fn error(&self) -> Option<ErrorBody> {
        let listed = self.0.get("errors").and_then(|errors| errors.get(0));
        let of_step = self.steps("model_output").find_map(|step| step.get("error"));
        let error = self.0.get("error").filter(|error| !error.is_null()).or(listed).or(of_step)?;
        match error {
            Value::Object(_) => Some(ErrorBody::of_error(error)),
            Value::String(_) => Some(ErrorBody { message: error.as_str().map(str::to_owned), ..ErrorBody::default() }),
            _ => None,
        }
    }
}

/// What a `uri` means, relative ones included.
fn absolute(uri: &str, base: &Url) -> Option<Url> {
    let mut directory = base.clone();
    directory.set_path(&format!("{}/", base.path().trim_end_matches('/')));
    directory.join(uri).ok()
}

/// The id of a file that is kept at the provider itself; `base` is the API's base URL.
pub(super) fn file_id(uri: &str, base: &Url) -> Option<String> {
    let url = absolute(uri, base).filter(|url| url.origin() == base.origin())?;
    let rest = url.path().strip_prefix(base.path().trim_end_matches('/'))?.strip_prefix("/files/")?;
    let id = rest.strip_suffix(":download").unwrap_or(rest);
    (!id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))).then(|| id.to_owned())
}

/// What to ask for the bytes of a file: a `uri` may lead to the file's record.
pub(super) fn download_url(uri: &str, base: &Url) -> Option<Url> {
    let mut url = absolute(uri, base).filter(|url| matches!(url.scheme(), "https" | "http"))?;
    if file_id(uri, base).is_some() {
        if !url.path().ends_with(":download") {
            url.set_path(&format!("{}:download", url.path()));
        }
        if !url.query_pairs().any(|(key, _)| key == "alt") {
            url.query_pairs_mut().append_pair("alt", "media");
        }
    }
    Some(url)
}
