//! Reads the JSON of the `/v1/videos` shape leniently: a key may be missing, null, or a number where the schema has a
//! string. Servers that speak this shape differ in exactly that.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::super::{GenerationRequest, Handle};

/// The longest handle that is taken, in bytes.
const MAX_HANDLE_BYTES: usize = 512;

/// A video object; every key is optional.
pub(super) struct Job<'a>(pub(super) &'a Value);

impl<'a> Job<'a> {
    /// The id, if it can stand as one segment of a path.
    pub(super) fn handle(&self) -> Option<Handle> {
        let id = self.0.get("id")?.as_str()?;
        let fit = (1..=MAX_HANDLE_BYTES).contains(&id.len())
            && !matches!(id, "." | "..")
            && !id.chars().any(|c| c.is_control() || c.is_whitespace());
        fit.then(|| Handle(id.to_owned()))
    }

    pub(super) fn status(&self) -> Option<&'a str> {
        self.0.get("status")?.as_str()
    }

    /// Per cent, cut to 0..=100.
    pub(super) fn progress(&self) -> Option<u8> {
        let progress = self.0.get("progress")?;
        let whole = progress.as_i64().or_else(|| progress.as_f64().map(|number| number as i64))?;
        u8::try_from(whole.clamp(0, 100)).ok()
    }

    pub(super) fn prompt(&self) -> Option<&'a str> {
        self.0.get("prompt")?.as_str()
    }

    /// A moment given in seconds since 1970.
    pub(super) fn moment(&self, key: &str) -> Option<DateTime<Utc>> {
        let seconds = self.0.get(key)?;
        DateTime::from_timestamp(seconds.as_i64().or_else(|| seconds.as_f64().map(|number| number as i64))?, 0)
    }

    /// How this job compares with a request.
    pub(super) fn likeness(&self, request: &GenerationRequest<'_>) -> Likeness {
        let model = self.text("model").map(|model| is_model(&model, request.upstream_model));
        let seconds = self.text("seconds").map(|seconds| seconds.trim() == request.seconds.to_string());
        let size = self.text("size").map(|size| size == request.size.to_string());
        let prompt = self.prompt().map(|prompt| same_prompt(prompt, request.prompt));
        if [model, seconds, size, prompt].contains(&Some(false)) {
            Likeness::Other
        } else if prompt.is_none() {
            Likeness::Undecidable
        } else {
            Likeness::Same
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        match self.0.get(key)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

/// Whether a listed job has the fingerprint of a request: prompt, model, length and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    Same,
    Other,
    /// The list keeps the prompt to itself, and nothing else tells the two apart.
    Undecidable,
}

/// An alias may come back as one of its dated versions: `sora-2` as `sora-2-2025-12-08`.
fn is_model(told: &str, asked: &str) -> bool {
    told == asked
        || told
            .strip_prefix(asked)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|version| version.len() == 10 && version.parse::<chrono::NaiveDate>().is_ok())
}

/// Servers trim prompts and change line ends.
fn same_prompt(told: &str, asked: &str) -> bool {
    told == asked || told.split_whitespace().eq(asked.split_whitespace())
}

/// The `error` object of an answer or of a failed job.
#[derive(Default)]
pub(super) struct ErrorBody {
    pub(super) code: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) message: Option<String>,
}

impl ErrorBody {
    pub(super) fn of(body: &Value) -> ErrorBody {
        // Some front ends answer with a list of one error.
        let body = body.get(0).unwrap_or(body);
        match body.get("error") {
            Some(Value::String(message)) => ErrorBody { message: Some(message.clone()), ..ErrorBody::default() },
            Some(error) => {
                ErrorBody { code: word(error, "code"), kind: word(error, "type"), message: text(error, "message") }
            }
            None => {
                ErrorBody { message: text(body, "message").or_else(|| text(body, "detail")), ..ErrorBody::default() }
            }
        }
    }

    pub(super) fn of_bytes(body: &Bytes) -> ErrorBody {
        serde_json::from_slice(body).map(|body| ErrorBody::of(&body)).unwrap_or_default()
    }

    /// Whether the code or the type is one of `words`.
    pub(super) fn is(&self, words: &[&str]) -> bool {
        [&self.code, &self.kind].into_iter().flatten().any(|told| words.contains(&told.as_str()))
    }
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}

/// A code: short, and made of nothing that would be awkward in a message.
fn word(value: &Value, key: &str) -> Option<String> {
    let word = match value.get(key)? {
        Value::String(word) => word.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let plain = word.len() <= 64 && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    (plain && !word.is_empty()).then_some(word)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const REQUEST: GenerationRequest<'_> = GenerationRequest {
        prompt: "a red fox\nruns",
        upstream_model: "sora-2",
        seconds: 4,
        size: crate::domain::Size { width: 1280, height: 720 },
    };

    #[test]
    fn the_fingerprint_is_compared_leniently_and_never_guessed() {
        for (job, likeness) in [
            (
                json!({"model": "sora-2", "prompt": "a red fox\nruns", "seconds": "4", "size": "1280x720"}),
                Likeness::Same,
            ),
            (json!({"model": "sora-2-2025-12-08", "prompt": " a red fox\r\nruns", "seconds": 4}), Likeness::Same),
            (json!({"model": null, "prompt": "a red fox runs", "size": null}), Likeness::Same),
            (json!({"model": "sora-2-pro", "prompt": "a red fox\nruns"}), Likeness::Other),
            (json!({"prompt": "a red fox"}), Likeness::Other),
            (json!({"prompt": "a red fox\nruns", "seconds": "8"}), Likeness::Other),
            (json!({"prompt": "a red fox\nruns", "size": "720x1280"}), Likeness::Other),
            (json!({"model": "sora-2", "seconds": "4", "size": "1280x720"}), Likeness::Undecidable),
            (json!({"seconds": "8"}), Likeness::Other),
        ] {
            assert_eq!(Job(&job).likeness(&REQUEST), likeness, "{job}");
        }
    }

    #[test]
    fn an_id_that_would_change_the_path_is_no_handle() {
        for id in [json!("."), json!(".."), json!(""), json!(7), json!(null), json!("a b"), json!("x".repeat(513))] {
            assert_eq!(Job(&json!({ "id": id })).handle(), None, "{id}");
        }
        assert_eq!(Job(&json!({"id": "video_1/../2"})).handle(), Some(Handle("video_1/../2".to_owned())));
    }

    #[test]
    fn progress_and_moments_may_be_missing_null_or_fractions() {
        let progress = |value: Value| Job(&json!({ "progress": value })).progress();
        assert_eq!(
            [progress(json!(7)), progress(json!(99.9)), progress(json!(-3)), progress(json!(1e9))],
            [Some(7), Some(99), Some(0), Some(100)]
        );
        assert_eq!([progress(json!(null)), progress(json!("7"))], [None, None]);
        assert!(Job(&json!({"created_at": 1_759_774_864})).moment("created_at").is_some());
        assert!(Job(&json!({"created_at": i64::MAX})).moment("created_at").is_none());
    }

    #[test]
    fn an_error_is_found_in_every_form_that_servers_use() {
        let error = ErrorBody::of(&json!([{"error": {"code": 429, "type": "x y", "message": "slow"}}]));
        assert_eq!((error.code.as_deref(), error.kind, error.message.as_deref()), (Some("429"), None, Some("slow")));
        assert_eq!(ErrorBody::of(&json!({"error": "text"})).message.as_deref(), Some("text"));
        assert_eq!(ErrorBody::of(&json!({"detail": "text"})).message.as_deref(), Some("text"));
        assert_eq!(ErrorBody::of_bytes(&Bytes::from_static(b"<html>")).message, None);
    }
}
