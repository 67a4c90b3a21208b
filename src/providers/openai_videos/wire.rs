//! Reads the JSON of the `/v1/videos` shape leniently: a key may be missing, null, or a number where the schema has a
//! string. Servers that speak this shape differ in exactly that.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::super::adapter::json;
use super::super::{GenerationRequest, Handle, Made};

/// A video object; every key is optional.
pub(super) struct Job<'a>(pub(super) &'a Value);

impl<'a> Job<'a> {
    /// The id, if it can stand as one segment of a path.
    pub(super) fn handle(&self) -> Option<Handle> {
        json::id(self.0, "id").map(Handle)
    }

    pub(super) fn status(&self) -> Option<&'a str> {
        self.0.get("status")?.as_str()
    }

    pub(super) fn made(&self) -> Made {
        match self.status() {
            Some("completed") => Made::Yes,
            // a film may have been made before it expired
            Some("failed") => Made::No,
            _ => Made::NotYet,
        }
    }

    /// Per cent, cut to 0..=100.
    pub(super) fn progress(&self) -> Option<u8> {
        json::percent(self.0, "progress")
    }

    pub(super) fn prompt(&self) -> Option<&'a str> {
        self.0.get("prompt")?.as_str()
    }

    /// A moment given in seconds since 1970.
    pub(super) fn moment(&self, key: &str) -> Option<DateTime<Utc>> {
        json::moment(self.0, key)
    }

    /// How this job compares with a request.
    pub(super) fn likeness(&self, request: &GenerationRequest<'_>) -> Likeness {
        let model = json::text(self.0, "model").map(|model| is_model(&model, request.upstream_model));
        let seconds = json::text(self.0, "seconds").map(|seconds| seconds.trim() == request.seconds.to_string());
        let size = json::text(self.0, "size").map(|size| size == request.size.to_string());
        let prompt = self.prompt().map(|prompt| same_prompt(prompt, request.prompt));
        if [model, seconds, size, prompt].contains(&Some(false)) {
            Likeness::Other
        } else if prompt.is_none() {
            Likeness::Undecidable
        } else {
            Likeness::Same
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const REQUEST: GenerationRequest<'_> = GenerationRequest {
        prompt: "a red fox\nruns",
        upstream_model: "sora-2",
        seconds: 4,
        size: crate::domain::Size { width: 1280, height: 720 },
        image: None,
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
}
