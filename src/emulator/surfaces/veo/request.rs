//! The body of `:predictLongRunning`, checked as strictly as the vendor does.
//!
//! The two flavours differ in which parameters they take and in whether a length may be a text. A length goes with some
//! resolutions only.

use std::sync::Arc;

use poem::Response;
use serde_json::{Map, Value};

use super::super::super::jobs::Order;
use super::super::super::outcomes::Invalid;
use super::super::super::profile::Profile;
use super::super::google::errors;
use super::super::image;

const INSTANCE: [&str; 5] = ["prompt", "image", "lastFrame", "referenceImages", "video"];
const BOTH: [&str; 8] = [
    "aspectRatio",
    "durationSeconds",
    "resolution",
    "personGeneration",
    "negativePrompt",
    "sampleCount",
    "enhancePrompt",
    "seed",
];
const VERTEX: [&str; 6] = ["storageUri", "fps", "generateAudio", "pubsubTopic", "compressionQuality", "resizeMode"];
const SIZES: [(&str, &str, &str); 6] = [
    ("16:9", "720p", "1280x720"),
    ("9:16", "720p", "720x1280"),
    ("16:9", "1080p", "1920x1080"),
    ("9:16", "1080p", "1080x1920"),
    ("16:9", "4k", "3840x2160"),
    ("9:16", "4k", "2160x3840"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    Gemini,
    Vertex,
}

/// The order and its price in US cents.
pub(super) fn order(
    flavour: Flavour,
    model: &str,
    body: &Value,
    profile: &Profile,
) -> Result<(Order, u64), Invalid<Response>> {
    let Some(card) = profile.model(model) else {
        let answer = errors::no_such_model(model);
        return Err(Invalid { answer: Box::new(answer), model: Some(model.to_owned()), kind: "model_not_found" });
    };
    read(flavour, body)
        .and_then(|read| {
            let known = card.seconds.iter().any(|seconds| *seconds == read.seconds.to_string());
            let cents = card.cents_per_second.get(read.size).filter(|_| known);
            let cents =
                cents.ok_or_else(|| "durationSeconds and resolution are out of bound for the model".to_owned())?;
            let order = Order {
                model: model.into(),
                prompt: read.prompt.into(),
                size: read.size.into(),
                seconds: read.seconds,
                destination: read.storage_uri.map(Into::into),
                image_sha256: read.image_sha256,
            };
            Ok((order, u64::from(*cents) * u64::from(read.seconds)))
        })
        .map_err(|message| Invalid {
            answer: Box::new(errors::answer(400, &message, &[])),
            model: Some(model.to_owned()),
            kind: "invalid_request",
        })
}

struct Read<'b> {
    prompt: &'b str,
    seconds: u32,
    size: &'static str,
    storage_uri: Option<String>,
    image_sha256: Option<Arc<str>>,
}

fn read(flavour: Flavour, body: &Value) -> Result<Read<'_>, String> {
    if flavour == Flavour::Vertex && body.get("webhookConfig").is_some() {
        return Err("webhookConfig is not supported".to_owned());
    }
    let Some([instance]) = body["instances"].as_array().map(Vec::as_slice) else {
        return Err("instances must have exactly one element".to_owned());
    };
    known(instance.as_object(), &[&INSTANCE])?;
    let prompt = instance["prompt"].as_str().filter(|prompt| !prompt.is_empty());
    let prompt = prompt.ok_or_else(|| "prompt is required".to_owned())?;
    let empty = Map::new();
    let parameters = body["parameters"].as_object().unwrap_or(&empty);
    match flavour {
        Flavour::Gemini => known(Some(parameters), &[&BOTH])?,
        Flavour::Vertex => known(Some(parameters), &[&BOTH, &VERTEX])?,
    }
    let seconds = match (parameters.get("durationSeconds"), flavour) {
        (None, _) => Some(8),
        (Some(Value::String(digits)), Flavour::Gemini) => digits.parse().ok(),
        (Some(number), _) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
    };
    let seconds = seconds.ok_or_else(|| "durationSeconds must be a whole number".to_owned())?;
    let word = |key: &str, default: &'static str| match parameters.get(key) {
        None => Ok(default),
        Some(value) => value.as_str().ok_or_else(|| format!("{key} must be a text")),
    };
    let (aspect, resolution) = (word("aspectRatio", "16:9")?, word("resolution", "720p")?);
    let size = SIZES.iter().find(|(a, r, _)| (*a, *r) == (aspect, resolution)).map(|(.., size)| *size);
    let size = size.ok_or_else(|| "aspectRatio or resolution is not supported".to_owned())?;
    if resolution != "720p" && seconds != 8 {
        return Err(format!("durationSeconds must be 8 for {resolution}"));
    }
    if parameters.get("sampleCount").is_some_and(|count| count.as_u64() != Some(1)) {
        return Err("sampleCount must be 1".to_owned());
    }
    let image_sha256 = image(instance)?;
    let person = if image_sha256.is_some() { "allow_adult" } else { "allow_all" };
    if flavour == Flavour::Gemini && word("personGeneration", person)? != person {
        return Err(format!("personGeneration must be {person} for this kind of order"));
    }
    let storage_uri = parameters.get("storageUri").and_then(Value::as_str).map(str::to_owned);
    if storage_uri.as_deref().is_some_and(|uri| !uri.starts_with("gs://")) {
        return Err("storageUri must start with gs://".to_owned());
    }
    Ok(Read { prompt, seconds, size, storage_uri, image_sha256 })
}

/// The hash of the image that an instance starts from, in the form of the SDK or of the REST page.
fn image(instance: &Value) -> Result<Option<Arc<str>>, String> {
    let Some(image) = instance.get("image") else { return Ok(None) };
    let inline = image.get("inlineData").unwrap_or(image);
    let data = inline.get("bytesBase64Encoded").or_else(|| inline.get("data")).and_then(Value::as_str);
    let seen = data.and_then(image::of_base64).and_then(|bytes| image::Seen::of(&bytes));
    let seen = seen.filter(|seen| inline["mimeType"] == seen.media_type);
    seen.map(|seen| Some(seen.sha256)).ok_or_else(|| "image must have bytesBase64Encoded and mimeType".to_owned())
}

fn known(given: Option<&Map<String, Value>>, known: &[&[&str]]) -> Result<(), String> {
    let given = given.ok_or_else(|| "an object is missing".to_owned())?;
    match given.keys().find(|key| !known.iter().any(|names| names.contains(&key.as_str()))) {
        Some(unknown) => Err(format!("{unknown} isn't supported by this model")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ordered(flavour: Flavour, parameters: Value) -> Result<(String, u32, u64), u16> {
        let body = json!({"instances": [{"prompt": "a fox"}], "parameters": parameters});
        match order(flavour, "veo-3.1-generate-preview", &body, &Profile::calm()) {
            Ok((order, cents)) => Ok((order.size.to_string(), order.seconds, cents)),
            Err(invalid) => Err(invalid.answer.status().as_u16()),
        }
    }

    #[test]
    fn defaults_are_the_vendors_and_cost_the_most() {
        assert_eq!(ordered(Flavour::Gemini, json!({})), Ok(("1280x720".to_owned(), 8, 320)));
        let full = json!({"aspectRatio": "9:16", "resolution": "4k", "durationSeconds": "8"});
        assert_eq!(ordered(Flavour::Gemini, full), Ok(("2160x3840".to_owned(), 8, 480)));
    }

    #[test]
    fn what_the_flavour_does_not_take_is_refused() {
        for (parameters, gemini, vertex) in [
            (json!({"durationSeconds": 6}), true, true),
            (json!({"durationSeconds": "6"}), true, false),
            (json!({"durationSeconds": 5}), false, false),
            (json!({"durationSeconds": 6, "resolution": "1080p"}), false, false),
            (json!({"generateAudio": true}), false, true),
            (json!({"storageUri": "gs://b/x/"}), false, true),
            (json!({"storageUri": "/tmp"}), false, false),
            (json!({"personGeneration": "allow_adult"}), false, true),
            (json!({"sampleCount": 2}), false, false),
            (json!({"colour": "red"}), false, false),
        ] {
            let taken = [Flavour::Gemini, Flavour::Vertex].map(|flavour| ordered(flavour, parameters.clone()).is_ok());
            assert_eq!(taken, [gemini, vertex], "{parameters}");
        }
    }
}
