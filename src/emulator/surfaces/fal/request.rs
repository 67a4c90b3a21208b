//! The input of a model, checked by the schema of that model as the vendor's runners do: unknown fields are passed over,
//! known ones of another form are a 422 that names the field. What is left out is what the model makes unasked.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::super::super::jobs::Order;
use super::super::super::outcomes::Invalid;
use super::super::super::profile::{ModelCard, Profile};
use super::super::{image, sizes};
use super::errors::ApiFault;

/// How a model wants its `duration`.
#[derive(Clone, Copy)]
enum Duration {
    /// `"8s"`
    WithUnit,
    /// `"8"`
    Digits,
    /// `8`
    Number,
}

/// The schemas that are emulated, by the beginning of the model's id; whether they have a `resolution`.
const SCHEMAS: [(&str, Duration, bool); 3] = [
    ("fal-ai/veo3.1", Duration::WithUnit, true),
    ("fal-ai/kling-video", Duration::Digits, false),
    ("blackforestlabs/flux-3-max", Duration::Number, true),
];

/// The input of an order before it is checked.
pub(super) struct Fields {
    model: String,
    values: Map<String, Value>,
}

impl Fields {
    pub(super) fn from_json(model: &str, bytes: &[u8]) -> Result<Fields, ApiFault> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(values)) => Ok(Fields { model: model.to_owned(), values }),
            _ => Err(ApiFault::of_field(422, &["body"], "Input should be a valid dictionary", "model_attributes_type")),
        }
    }

    /// The order and its price in US cents, or the refusal with what the book has to know.
    pub(super) fn order(&self, profile: &Profile) -> Result<(Order, u64), Invalid<ApiFault>> {
        self.check(profile).map_err(|answer| {
            let kind = if answer.status == 404 { "model_not_found" } else { "invalid_request" };
            Invalid { answer: Box::new(answer), model: Some(self.model.clone()), kind }
        })
    }

    fn check(&self, profile: &Profile) -> Result<(Order, u64), ApiFault> {
        let schema = SCHEMAS.iter().find(|(beginning, ..)| self.model.starts_with(beginning));
        let (Some(&(_, duration, has_resolution)), Some(card)) = (schema, profile.model(&self.model)) else {
            return Err(ApiFault::unknown_model(&self.model));
        };
        let prompt = self.values.get("prompt").and_then(Value::as_str).filter(|prompt| !prompt.is_empty());
        let prompt = prompt.ok_or_else(|| wrong("prompt", "Field required", "missing"))?;
        let seconds = self.seconds(card, duration)?;
        let size = self.size(card, has_resolution)?;
        let cents = card.cents_per_second.get(&size).copied().unwrap_or_default();
        let order = Order {
            model: self.model.as_str().into(),
            prompt: prompt.into(),
            size: size.into(),
            seconds,
            destination: None,
            image_sha256: self.image()?,
        };
        Ok((order, u64::from(cents) * u64::from(seconds)))
    }

    /// The hash of `image_url`, which models of image to video must have.
    fn image(&self) -> Result<Option<Arc<str>>, ApiFault> {
        let Some(url) = self.values.get("image_url") else {
            return match self.model.ends_with("/image-to-video") {
                true => Err(wrong("image_url", "Field required", "missing")),
                false => Ok(None),
            };
        };
        let seen = url.as_str().and_then(image::of_data_uri).and_then(|bytes| image::Seen::of(&bytes));
        let seen = seen.ok_or_else(|| wrong("image_url", "Failed to load the image", "image_load_error"))?;
        Ok(Some(seen.sha256))
    }

    fn seconds(&self, card: &ModelCard, form: Duration) -> Result<u32, ApiFault> {
        let said = match (self.values.get("duration"), form) {
            (None, _) => card.seconds.first().cloned(),
            (Some(Value::String(text)), Duration::WithUnit) => text.strip_suffix('s').map(str::to_owned),
            (Some(Value::String(text)), Duration::Digits) => Some(text.clone()),
            (Some(Value::Number(number)), Duration::Number) => Some(number.to_string()),
            _ => None,
        };
        let known = said.filter(|said| card.seconds.contains(said)).and_then(|said| said.parse().ok());
        known.ok_or_else(|| wrong("duration", "Input should be one of the lengths on offer", "literal_error"))
    }

    fn size(&self, card: &ModelCard, has_resolution: bool) -> Result<String, ApiFault> {
        let word = |key: &str, unsaid: &'static str| match self.values.get(key) {
            None => Ok(unsaid.to_owned()),
            Some(Value::String(word)) => Ok(word.clone()),
            Some(_) => Err(wrong(key, "Input should be a valid string", "string_type")),
        };
        let shape = word("aspect_ratio", "16:9")?;
        let resolution = if has_resolution { word("resolution", "720p")? } else { "720p".to_owned() };
        let size = card.cents_per_second.keys().find(|size| sizes::is(size, &shape, &resolution));
        size.cloned()
            .ok_or_else(|| wrong("aspect_ratio", "Input should be one of the shapes on offer", "literal_error"))
    }
}

fn wrong(field: &str, message: &str, kind: &str) -> ApiFault {
    ApiFault::of_field(422, &["body", field], message, kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(model: &str, input: Value) -> Result<(Order, u64), ApiFault> {
        Fields::from_json(model, input.to_string().as_bytes())?.check(&Profile::calm())
    }

    #[test]
    fn each_model_wants_its_own_form() {
        for (model, duration, seconds) in [
            ("fal-ai/veo3.1/fast", json!("4s"), 4),
            ("fal-ai/kling-video/v3/turbo/text-to-video", json!("10"), 10),
            ("blackforestlabs/flux-3-max/text-to-video", json!(7), 7),
        ] {
            let input = |duration: &Value| json!({"prompt": "a fox", "duration": duration, "aspect_ratio": "9:16"});
            let (order, cents) = check(model, input(&duration)).unwrap();
            assert_eq!((order.seconds, &*order.size), (seconds, "720x1280"), "{model}");
            assert!(cents > 0, "{model}");
            for other in [json!("4s"), json!("10"), json!(7)].iter().filter(|other| **other != duration) {
                let fault = check(model, input(other)).unwrap_err();
                assert_eq!((fault.status, &fault.body["detail"][0]["loc"][1]), (422, &json!("duration")), "{model}");
            }
        }
    }

    #[test]
    fn what_is_left_out_is_what_the_model_makes_unasked() {
        let (order, cents) = check("fal-ai/veo3.1", json!({"prompt": "a fox", "unknown": 1})).unwrap();
        assert_eq!((order.seconds, &*order.size, cents), (8, "1280x720", 320));
        let full = json!({"prompt": "a fox", "resolution": "1080p"});
        assert_eq!(&*check("fal-ai/veo3.1", full).unwrap().0.size, "1920x1080");
        assert_eq!(check("fal-ai/unheard-of", json!({"prompt": "a fox"})).unwrap_err().status, 404);
        assert_eq!(check("fal-ai/veo3.1", json!({})).unwrap_err().status, 422);
    }
}
