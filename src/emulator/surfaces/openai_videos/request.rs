//! The body of a create: JSON or multipart, read and checked as strictly as the vendor does.
//!
//! Strictness is the point: `seconds` must be a string and unknown parameters are refused, so that an adapter that is sloppy
//! about the protocol fails here and not with money. Fields and limits follow OpenAI's published OpenAPI document; lengths and
//! sizes come from the profile's model cards.

use std::collections::BTreeMap;
use std::sync::Arc;

use poem::web::Multipart;
use poem::{Body, FromRequest, Request, RequestBody};
use serde_json::Value;

use super::super::super::jobs::Order;
use super::super::super::outcomes::Invalid;
use super::super::super::profile::Profile;
use super::super::image;
use super::errors::ApiFault;

/// An `input_reference` image as a data URL may have 20,971,520 characters; the rest is room for prompt and envelope.
const MAX_BODY_BYTES: usize = 21 * 1024 * 1024;
const MAX_PROMPT_CHARS: usize = 32_000;
const DEFAULT_MODEL: &str = "sora-2";
const DEFAULT_SIZE: &str = "720x1280";
const KNOWN_FIELDS: [&str; 5] = ["prompt", "model", "seconds", "size", "input_reference"];

/// The fields of a create before they are checked.
#[derive(Debug, Default)]
pub(super) struct Fields {
    values: BTreeMap<String, Value>,
    /// The file `input_reference` of a form.
    file: Option<Vec<u8>>,
}

impl Fields {
    /// Reads the body. Errors when it is too large, not parsable, or neither JSON nor multipart.
    pub(super) async fn read(request: &Request, body: Body) -> Result<Fields, ApiFault> {
        if request.content_type().unwrap_or_default().to_ascii_lowercase().starts_with("multipart/form-data") {
            return read_multipart(request, RequestBody::new(body)).await;
        }
        let bytes = body.into_bytes_limit(MAX_BODY_BYTES).await;
        Fields::from_json(&bytes.map_err(|_| ApiFault::new(413, "The request body is too large."))?)
    }

    fn from_json(bytes: &[u8]) -> Result<Fields, ApiFault> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Fields { values: map.into_iter().collect(), file: None }),
            _ => Err(unreadable()),
        }
    }

    /// The model as far as it can be read, for the book.
    fn model(&self) -> Option<&str> {
        match self.values.get("model") {
            None | Some(Value::Null) => Some(DEFAULT_MODEL),
            Some(value) => value.as_str(),
        }
    }

    /// The order, its price, or the refusal with what the book has to know.
    pub(super) fn order(&self, profile: &Profile) -> Result<(Order, u64), Invalid<ApiFault>> {
        self.check(profile).map_err(|answer| {
            let model_unknown = answer.code.as_deref() == Some("model_not_found");
            let kind = if model_unknown { "model_not_found" } else { "invalid_request" };
            Invalid { answer: Box::new(answer), model: self.model().map(str::to_owned), kind }
        })
    }

    /// Checks every field against the protocol and the model's card; also gives the price in US cents.
    fn check(&self, profile: &Profile) -> Result<(Order, u64), ApiFault> {
        if let Some(unknown) = self.values.keys().find(|key| !KNOWN_FIELDS.contains(&key.as_str())) {
            let message = format!("Unknown parameter: '{unknown}'.");
            return Err(ApiFault::new(400, message).param(unknown).code("unknown_parameter"));
        }
        let prompt = self.prompt()?;
        let model = self.text("model")?.unwrap_or(DEFAULT_MODEL);
        let card = profile.model(model).ok_or_else(|| ApiFault::model_not_found(model))?;
        let seconds = self.text("seconds")?.or(card.seconds.first().map(String::as_str)).unwrap_or_default();
        if !card.seconds.iter().any(|known| known == seconds) {
            return Err(invalid_value("seconds", seconds, &card.seconds));
        }
        let size = self.text("size")?.unwrap_or(DEFAULT_SIZE);
        let Some(cents) = card.cents_per_second.get(size) else {
            return Err(invalid_value("size", size, card.cents_per_second.keys()));
        };
        self.check_reference()?;
        let image_sha256 = self.image(size)?;
        let seconds: u32 = seconds.parse().map_err(|_| invalid_value("seconds", seconds, &card.seconds))?;
        let request = Order {
            model: model.into(),
            prompt: prompt.into(),
            size: size.into(),
            seconds,
            destination: None,
            image_sha256,
        };
        Ok((request, u64::from(*cents) * u64::from(seconds)))
    }

    fn prompt(&self) -> Result<&str, ApiFault> {
        let Some(prompt) = self.text("prompt")? else {
            let fault = ApiFault::new(400, "Missing required parameter: 'prompt'.");
            return Err(fault.param("prompt").code("missing_required_parameter"));
        };
        match prompt.chars().take(MAX_PROMPT_CHARS + 1).count() {
            0 => Err(ApiFault::new(400, "Invalid 'prompt': empty string.").param("prompt").code("empty_string")),
            count if count > MAX_PROMPT_CHARS => {
                let message = format!("Invalid 'prompt': at most {MAX_PROMPT_CHARS} characters are allowed.");
                Err(ApiFault::new(400, message).param("prompt").code("string_above_max_length"))
            }
            _ => Ok(prompt),
        }
    }

    fn text(&self, name: &str) -> Result<Option<&str>, ApiFault> {
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => {
                let message = format!("Invalid type for '{name}': expected a string, but got {}.", kind_of(other));
                Err(ApiFault::new(400, message).param(name).code("invalid_type"))
            }
        }
    }

    /// The hash of the reference image, which must have the size of the video.
    fn image(&self, size: &str) -> Result<Option<Arc<str>>, ApiFault> {
        let wrong = |message: &str| ApiFault::new(400, message).param("input_reference").code("invalid_value");
        let url = self.values.get("input_reference").and_then(|reference| reference.get("image_url")?.as_str());
        let bytes = match (&self.file, url) {
            (Some(bytes), _) => bytes.clone(),
            // a link of anybody's is not followed here
            (None, Some(url)) if url.starts_with("data:") => {
                image::of_data_uri(url).ok_or_else(|| wrong("Invalid 'input_reference': no data URL of an image."))?
            }
            (None, _) => return Ok(None),
        };
        let seen = image::Seen::of(&bytes).ok_or_else(|| wrong("Invalid 'input_reference': no image."))?;
        if !seen.has_size(size) {
            return Err(wrong("Inpaint image must match the requested width and height"));
        }
        Ok(Some(seen.sha256))
    }

    /// An object with exactly one of `image_url` and `file_id`; a multipart file arrives here as a string and is fine.
    fn check_reference(&self) -> Result<(), ApiFault> {
        let good = match self.values.get("input_reference") {
            None | Some(Value::Null | Value::String(_)) => true,
            Some(Value::Object(map)) => {
                map.len() == 1 && ["image_url", "file_id"].iter().any(|key| map.get(*key).is_some_and(Value::is_string))
            }
            Some(_) => false,
        };
        if good {
            return Ok(());
        }
        let fault = ApiFault::new(400, "Invalid 'input_reference': give exactly one of 'image_url' and 'file_id'.");
        Err(fault.param("input_reference").code("invalid_value"))
    }
}

async fn read_multipart(request: &Request, mut body: RequestBody) -> Result<Fields, ApiFault> {
    let mut form = Multipart::from_request(request, &mut body).await.map_err(|_| unreadable())?;
    let mut fields = Fields::default();
    let mut room = MAX_BODY_BYTES;
    while let Some(field) = form.next_field().await.map_err(|_| unreadable())? {
        let name = field.name().unwrap_or_default().to_owned();
        let is_file = field.file_name().is_some();
        let bytes = field.bytes().await.map_err(|_| unreadable())?;
        room = room.checked_sub(bytes.len()).ok_or_else(|| ApiFault::new(413, "The request body is too large."))?;
        let value = if is_file {
            fields.file = Some(bytes);
            String::from("file")
        } else {
            String::from_utf8(bytes).map_err(|_| unreadable())?
        };
        fields.values.insert(name, Value::String(value));
    }
    Ok(fields)
}

fn unreadable() -> ApiFault {
    ApiFault::new(400, "We could not parse the body of your request: send JSON or multipart/form-data.")
}

fn invalid_value<'a>(name: &str, value: &str, known: impl IntoIterator<Item = &'a String>) -> ApiFault {
    let known: Vec<String> = known.into_iter().map(|text| format!("'{text}'")).collect();
    let message = format!("Invalid value: '{value}'. Supported values are: {}.", known.join(", "));
    ApiFault::new(400, message).param(name).code("invalid_value")
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(body: Value) -> Result<(Order, u64), ApiFault> {
        Fields::from_json(body.to_string().as_bytes())?.check(&Profile::calm())
    }

    fn refusal(body: Value) -> (u16, Option<String>, Option<String>) {
        let fault = check(body).unwrap_err();
        (fault.status, fault.code.clone(), fault.param.clone())
    }

    #[test]
    fn defaults_are_those_of_the_protocol() {
        let (request, cents) = check(json!({"prompt": "a fox"})).unwrap();
        assert_eq!((&*request.model, &*request.size, request.seconds), ("sora-2", "720x1280", 4));
        assert_eq!(cents, 40);
        let (_, cents) = check(json!({"prompt": "a fox", "model": "veo-3.1", "size": "1920x1080"})).unwrap();
        assert_eq!(cents, 320);
        let pro = json!({"prompt": "x", "model": "sora-2-pro", "size": "1792x1024", "seconds": "12", "input_reference": null});
        assert_eq!(check(pro).unwrap().1, 600);
    }

    #[test]
    fn each_bad_field_is_named_in_the_refusal() {
        let refused = |code: &str, param: &str| (400, Some(code.to_owned()), Some(param.to_owned()));
        assert_eq!(refusal(json!({})), refused("missing_required_parameter", "prompt"));
        assert_eq!(refusal(json!({"prompt": ""})), refused("empty_string", "prompt"));
        assert_eq!(refusal(json!({"prompt": "é".repeat(32_001)})), refused("string_above_max_length", "prompt"));
        assert_eq!(refusal(json!({"prompt": "x", "seconds": 4})), refused("invalid_type", "seconds"));
        assert_eq!(refusal(json!({"prompt": "x", "seconds": "5"})), refused("invalid_value", "seconds"));
        assert_eq!(refusal(json!({"prompt": "x", "size": "1920x1080"})), refused("invalid_value", "size"));
        assert_eq!(refusal(json!({"prompt": "x", "seed": 1})), refused("unknown_parameter", "seed"));
        let both = json!({"prompt": "x", "input_reference": {"image_url": "a", "file_id": "b"}});
        assert_eq!(refusal(both), refused("invalid_value", "input_reference"));
        let retired = json!({"prompt": "x", "model": "sora-1"});
        assert_eq!(refusal(retired), (404, Some("model_not_found".into()), Some("model".into())));
        assert!(check(json!({"prompt": "é".repeat(32_000)})).is_ok());
    }

    #[test]
    fn a_body_that_is_not_an_object_is_refused() {
        for body in ["", "[]", "{", "\"prompt\"", "\u{0}"] {
            assert_eq!(Fields::from_json(body.as_bytes()).unwrap_err().status, 400, "{body:?}");
        }
    }
}
