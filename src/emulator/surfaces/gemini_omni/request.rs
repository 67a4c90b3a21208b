//! The body of a create, read as strictly as the vendor does: fields in snake_case, a length that is a protobuf Duration,
//! labels of few characters, and no background without a stored record. What is left out is what the vendor makes unasked.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::super::super::jobs::Order;
use super::super::super::outcomes::Invalid;
use super::super::super::profile::{ModelCard, Profile};
use super::super::{image, sizes};
use super::errors::ApiFault;

const KNOWN_FIELDS: [&str; 8] =
    ["model", "input", "background", "store", "generation_config", "response_format", "labels", "webhook_config"];
const KNOWN_FORMAT: [&str; 6] = ["type", "aspect_ratio", "resolution", "duration", "delivery", "gcs_uri"];
const TASKS: [&str; 5] = ["text_to_video", "image_to_video", "reference_to_video", "edit", "extend"];
const MAX_LABEL_CHARS: usize = 63;

/// The fields of a create before they are checked.
pub(super) struct Fields(Map<String, Value>);

/// What a create asks for beyond the order itself.
pub(super) struct Manner {
    pub(super) background: bool,
    /// The film inside of the answers, in place of a link.
    pub(super) inline: bool,
}

impl Fields {
    pub(super) fn from_json(bytes: &[u8]) -> Result<Fields, ApiFault> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Fields(map)),
            _ => Err(ApiFault::invalid("The request body is no JSON object.")),
        }
    }

    pub(super) fn manner(&self) -> Manner {
        let is_true = |key: &str| self.0.get(key) == Some(&Value::Bool(true));
        let delivery = self.format().and_then(|format| format.get("delivery")).and_then(Value::as_str);
        Manner { background: is_true("background"), inline: delivery != Some("uri") }
    }

    /// The order and its price in US cents, or the refusal with what the book has to know.
    pub(super) fn order(&self, profile: &Profile) -> Result<(Order, u64), Invalid<ApiFault>> {
        self.check(profile).map_err(|answer| {
            let kind = if answer.status == 404 { "model_not_found" } else { "invalid_request" };
            Invalid { answer: Box::new(answer), model: self.text("model").map(str::to_owned), kind }
        })
    }

    fn check(&self, profile: &Profile) -> Result<(Order, u64), ApiFault> {
        only(&self.0, &KNOWN_FIELDS)?;
        let model = self.text("model").ok_or_else(|| ApiFault::invalid("'model' is missing."))?;
        let card = profile.model(model).filter(|card| card.name.starts_with("gemini-omni"));
        let card = card.ok_or_else(|| ApiFault::unknown_model(model))?;
        if self.manner().background && self.0.get("store") == Some(&Value::Bool(false)) {
            return Err(ApiFault::invalid("'background' needs 'store'."));
        }
        if self.callback().is_some() && !self.manner().background {
            return Err(ApiFault::invalid("'webhook_config' needs 'background'."));
        }
        let image_sha256 = self.image()?;
        self.check_task(image_sha256.is_some())?;
        self.check_labels()?;
        let prompt = self.prompt()?;
        let (seconds, size) = self.ordered(card)?;
        let cents = card.cents_per_second.get(&size).copied().unwrap_or_default();
        let order = Order {
            model: model.into(),
            prompt: prompt.into(),
            size: size.into(),
            seconds,
            destination: None,
            image_sha256,
        };
        Ok((order, u64::from(cents) * u64::from(seconds)))
    }

    /// `webhook_config`.
    pub(super) fn callback(&self) -> Option<&Value> {
        self.0.get("webhook_config")
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.as_str()
    }

    fn format(&self) -> Option<&Map<String, Value>> {
        self.0.get("response_format")?.as_object()
    }

    fn prompt(&self) -> Result<&str, ApiFault> {
        let parts = self.0.get("input").and_then(Value::as_array).into_iter().flatten();
        let mut texts = parts.filter(|part| part.get("type").and_then(Value::as_str) == Some("text"));
        let prompt = texts.find_map(|part| part.get("text")?.as_str()).or_else(|| self.text("input"));
        prompt.filter(|prompt| !prompt.trim().is_empty()).ok_or_else(|| ApiFault::invalid("'input' has no text."))
    }

    /// Seconds and size; 10 s of 720p lying, where nothing is said.
    fn ordered(&self, card: &ModelCard) -> Result<(u32, String), ApiFault> {
        let format = self.format().ok_or_else(|| ApiFault::invalid("'response_format' is missing."))?;
        only(format, &KNOWN_FORMAT)?;
        if format.get("type").and_then(Value::as_str) != Some("video") {
            return Err(ApiFault::invalid("'response_format.type' must be 'video'."));
        }
        let word = |key: &str, unsaid: &'static str| match format.get(key) {
            None => Ok(unsaid.to_owned()),
            Some(Value::String(word)) => Ok(word.clone()),
            Some(_) => Err(ApiFault::invalid(&format!("'response_format.{key}' must be a string."))),
        };
        if !matches!(word("delivery", "inline")?.as_str(), "inline" | "uri") {
            return Err(ApiFault::invalid("'response_format.delivery' must be 'inline' or 'uri'."));
        }
        let first = card.seconds.first().map(String::as_str).unwrap_or_default();
        let duration = word("duration", "")?;
        let seconds = if duration.is_empty() { first } else { duration.strip_suffix('s').unwrap_or_default() };
        if !card.seconds.iter().any(|known| known == seconds) {
            return Err(ApiFault::invalid("'response_format.duration' is not on offer, or no Duration such as '8s'."));
        }
        let (shape, resolution) = (word("aspect_ratio", "16:9")?, word("resolution", "720p")?);
        let size = card.cents_per_second.keys().find(|size| sizes::is(size, &shape, &resolution));
        let size = size.ok_or_else(|| ApiFault::invalid("This shape and resolution are not on offer."))?;
        Ok((seconds.parse().unwrap_or_default(), size.clone()))
    }

    /// The hash of the image among the parts of the input.
    fn image(&self) -> Result<Option<Arc<str>>, ApiFault> {
        let mut parts = self.0.get("input").and_then(Value::as_array).into_iter().flatten();
        let Some(part) = parts.find(|part| part["type"] == "image") else { return Ok(None) };
        let seen = part["data"].as_str().and_then(image::of_base64).and_then(|bytes| image::Seen::of(&bytes));
        let seen = seen.filter(|seen| part["mime_type"] == seen.media_type);
        seen.map(|seen| Some(seen.sha256)).ok_or_else(|| ApiFault::invalid("'input' has an image that is none."))
    }

    fn check_task(&self, has_image: bool) -> Result<(), ApiFault> {
        let config = self.0.get("generation_config").and_then(|config| config.get("video_config"));
        match config.and_then(|config| config.get("task")) {
            None => Ok(()),
            Some(task) if task == "text_to_video" && has_image || task == "image_to_video" && !has_image => {
                Err(ApiFault::invalid("'generation_config.video_config.task' does not go with the input."))
            }
            Some(task) if task.as_str().is_some_and(|task| TASKS.contains(&task)) => Ok(()),
            Some(_) => Err(ApiFault::invalid("'generation_config.video_config.task' is unknown.")),
        }
    }

    fn check_labels(&self) -> Result<(), ApiFault> {
        let fits = |text: &str| {
            text.chars().count() <= MAX_LABEL_CHARS
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
        };
        let good = match self.0.get("labels") {
            None => true,
            Some(Value::Object(labels)) => labels.iter().all(|(key, value)| {
                key.starts_with(|c: char| c.is_ascii_lowercase()) && fits(key) && value.as_str().is_some_and(fits)
            }),
            Some(_) => false,
        };
        good.then_some(()).ok_or_else(|| ApiFault::invalid("'labels' must have short keys and values in lower case."))
    }
}

fn only(map: &Map<String, Value>, known: &[&str]) -> Result<(), ApiFault> {
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        Some(unknown) => Err(ApiFault::invalid(&format!("Unknown name '{unknown}'."))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body(change: impl FnOnce(&mut Value)) -> Value {
        let mut body = json!({
            "model": "gemini-omni-1.1-flash", "background": true, "store": true,
            "input": [{"type": "text", "text": "a fox"}],
            "response_format": {"type": "video", "aspect_ratio": "9:16", "resolution": "1080p", "duration": "4s",
                "delivery": "uri"},
            "labels": {"attempt": "att_01j"},
        });
        change(&mut body);
        body
    }

    fn check(body: &Value) -> Result<(Order, u64), ApiFault> {
        Fields::from_json(body.to_string().as_bytes())?.check(&Profile::calm())
    }

    #[test]
    fn an_order_is_read_and_what_is_left_out_costs_what_the_vendor_makes_unasked() {
        let (order, cents) = check(&body(|_| {})).unwrap();
        assert_eq!((&*order.prompt, &*order.size, order.seconds, cents), ("a fox", "1080x1920", 4, 60));
        let (order, cents) = check(&body(|body| body["response_format"] = json!({"type": "video"}))).unwrap();
        assert_eq!((&*order.size, order.seconds, cents), ("1280x720", 10, 100));
    }

    #[test]
    fn what_the_vendor_does_not_take_is_refused() {
        for spoil in [
            |body: &mut Value| body["response_format"]["duration"] = json!(4),
            |body: &mut Value| body["response_format"]["duration"] = json!("4"),
            |body: &mut Value| body["response_format"]["duration"] = json!("99s"),
            |body: &mut Value| body["response_format"]["aspectRatio"] = json!("16:9"),
            |body: &mut Value| body["response_format"]["resolution"] = json!("480p"),
            |body: &mut Value| body["response_format"]["delivery"] = json!("post"),
            |body: &mut Value| body["store"] = json!(false),
            |body: &mut Value| body["labels"]["attempt"] = json!("att_01J"),
            |body: &mut Value| body["seed"] = json!(7),
            |body: &mut Value| body["input"] = json!([]),
        ] {
            let body = body(spoil);
            assert_eq!(check(&body).unwrap_err().status, 400, "{body}");
        }
        assert_eq!(check(&body(|body| body["model"] = json!("sora-2"))).unwrap_err().status, 404);
    }
}
