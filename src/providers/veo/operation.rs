//! A long-running operation: its name, and what its answer means.
//!
//! Always holds: only an operation that is done and carries a sample is a success. Done without a sample is a failure of
//! the content policy; done with nothing that could be read is no end at all, because nobody can tell which.

use bytes::Bytes;
use serde_json::Value;

use super::super::adapter::sieve::{decoded, inline_number};
use super::super::adapter::{ErrorBody, json, refusal};
use super::super::google::VOCABULARY;
use super::super::{Billing, Handle, Output, Place, PollOutcome, ReadError};
use crate::domain::FailureClass;

/// `models/{model}/operations/{id}`, at Vertex below a project and a location.
pub(super) struct Operation<'n> {
    segments: Vec<&'n str>,
}

impl<'n> Operation<'n> {
    /// `None` for a name that could lead anywhere else.
    pub(super) fn parse(name: &'n str) -> Option<Operation<'n>> {
        let segments: Vec<&str> = name.split('/').collect();
        let plain = |segment: &&str| {
            !matches!(*segment, "" | "." | "..")
                && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b))
        };
        let shape = matches!(segments[..], [.., "models", _, "operations", _]);
        (shape && segments.iter().all(plain)).then_some(Operation { segments })
    }

    /// The operation that the answer to a submission names.
    pub(super) fn handle_in(answer: &Value) -> Option<Handle> {
        json::id(answer, "name").filter(|name| Operation::parse(name).is_some()).map(Handle)
    }

    pub(super) fn segments(&self) -> Vec<&'n str> {
        self.segments.clone()
    }

    pub(super) fn model(&self) -> &'n str {
        self.segments.len().checked_sub(3).map_or("", |at| self.segments[at])
    }
}

/// What the answer to a poll says; `hidden` must not stand in a message.
///
/// # Errors
/// [`ReadError::Unavailable`] when it claims an end that cannot be read.
pub(super) fn outcome(
    handle: &Handle,
    answer: &Value,
    billing: Billing,
    hidden: &str,
) -> Result<PollOutcome, ReadError> {
    if !json::is_true(answer, "done") {
        return Ok(PollOutcome::Running { progress: None });
    }
    if let Some(error) = answer.get("error").filter(|error| error.is_object()) {
        return Ok(failed(error, billing, hidden));
    }
    let Some(response) = answer.get("response").filter(|response| response.is_object()) else {
        return Err(ReadError::Unavailable { cause: "an operation that is done, without a result".to_owned() });
    };
    // Gemini nests what Vertex has at the top.
    let result = response.get("generateVideoResponse").filter(|nested| nested.is_object()).unwrap_or(response);
    let samples = ["generatedSamples", "generatedVideos", "videos"]
        .iter()
        .find_map(|key| result.get(key).filter(|samples| !samples.is_null()));
    match samples {
        Some(Value::Array(samples)) if !samples.is_empty() => {
            let place = samples.iter().find_map(place_of).ok_or_else(|| ReadError::Unavailable {
                cause: "an operation that is done, with samples that cannot be read".to_owned(),
            })?;
            Ok(PollOutcome::Succeeded { output: Output { handle: handle.clone(), place, expires_at: None } })
        }
        None | Some(Value::Array(_)) => Ok(filtered(result, billing, hidden)),
        Some(_) => {
            Err(ReadError::Unavailable { cause: "an operation that is done, with no list of samples".to_owned() })
        }
    }
}

/// Where a sample says that its video is.
fn place_of(sample: &Value) -> Option<Place> {
    let video = sample.get("video").filter(|video| video.is_object()).unwrap_or(sample);
    let text = |key: &str| video.get(key).and_then(Value::as_str);
    if let Some(uri) = text("gcsUri").or_else(|| text("uri")).filter(|uri| !uri.is_empty()) {
        let in_bucket = uri.starts_with("gs://");
        return Some(if in_bucket { Place::Object(uri.to_owned()) } else { Place::Url(uri.to_owned()) });
    }
    let inline = text("bytesBase64Encoded").or_else(|| text("encodedVideo"))?;
    match inline_number(inline) {
        Some(nth) => Some(Place::Inline(nth)),
        None => decoded(inline).ok().map(|bytes| Place::Bytes(Bytes::from(bytes))),
    }
}

/// The content policy kept the result back, and sometimes says why.
fn filtered(result: &Value, billing: Billing, hidden: &str) -> PollOutcome {
    let reasons = result.get("raiMediaFilteredReasons").and_then(Value::as_array);
    let reasons: Vec<&str> = reasons.into_iter().flatten().filter_map(Value::as_str).collect();
    let message = match reasons.is_empty() {
        true => "The provider's content policy kept the video back, without a reason.".to_owned(),
        false => reasons.join(" "),
    };
    let error = ErrorBody { message: Some(message), ..ErrorBody::default() };
    PollOutcome::Failed {
        class: FailureClass::Moderation,
        message: refusal::failed_job_message(&error, &[hidden]),
        billed: billing.moderated,
    }
}

/// An operation that ended with an error.
fn failed(error: &Value, billing: Billing, hidden: &str) -> PollOutcome {
    let body = ErrorBody::of_error(error);
    let class = class_of(json::whole(error, "code"), &body);
    let billed = if class == FailureClass::Moderation { billing.moderated } else { billing.failed };
    PollOutcome::Failed { class, message: refusal::failed_job_message(&body, &[hidden]), billed }
}

/// By `google.rpc.Code`.
fn class_of(code: Option<i64>, error: &ErrorBody) -> FailureClass {
    match code {
        Some(3 | 7 | 9) if VOCABULARY.is_moderation(error) => FailureClass::Moderation,
        // INVALID_ARGUMENT, OUT_OF_RANGE
        Some(3 | 11) => FailureClass::InvalidInput,
        // PERMISSION_DENIED, UNAUTHENTICATED
        Some(7 | 16) => FailureClass::Auth,
        // RESOURCE_EXHAUSTED, UNAVAILABLE: how a model under load ends what it has begun
        Some(8 | 14) => FailureClass::Capacity,
        // NOT_FOUND: the model went away while the operation waited
        Some(5) => FailureClass::ModelRetired,
        _ => FailureClass::ProviderFault,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::super::GEMINI_BILLING;
    use super::*;
    use crate::providers::Billed;

    fn read(answer: Value) -> Result<PollOutcome, ReadError> {
        outcome(&Handle("models/m/operations/o".to_owned()), &answer, GEMINI_BILLING, "key-of-ours")
    }

    fn place(response: Value) -> Place {
        match read(json!({"done": true, "response": response})).unwrap() {
            PollOutcome::Succeeded { output } => output.place,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_name_of_an_operation_is_a_handle() {
        for name in
            ["models/veo-3.1/operations/abc", "projects/p/locations/l/publishers/google/models/m/operations/7-f"]
        {
            assert_eq!(Operation::handle_in(&json!({ "name": name })), Some(Handle(name.to_owned())));
        }
        assert_eq!(Operation::parse("a/models/veo-3.1/operations/x").unwrap().model(), "veo-3.1");
        for name in [
            json!("models/m/operations/"),
            json!("models/m/operations/.."),
            json!("models/../operations/x"),
            json!("models/m/operations/x?key=1"),
            json!("models/m/operations/x%2f"),
            json!("operations/x"),
            json!("gs://b/models/m/operations/x"),
            json!("/models/m/operations/x"),
            json!(7),
            json!(null),
        ] {
            assert_eq!(Operation::handle_in(&json!({ "name": name })), None, "{name}");
        }
    }

    #[test]
    fn a_sample_may_be_a_link_an_object_or_the_film_itself() {
        let url = "https://files.example/v1beta/files/x:download?alt=media";
        let nested = |video: Value| json!({"generateVideoResponse": {"generatedSamples": [{"video": video}]}});
        assert_eq!(place(nested(json!({"uri": url}))), Place::Url(url.to_owned()));
        assert_eq!(place(json!({"videos": [{"gcsUri": "gs://b/o.mp4"}]})), Place::Object("gs://b/o.mp4".to_owned()));
        let small = STANDARD.encode("film");
        for key in ["bytesBase64Encoded", "encodedVideo"] {
            assert_eq!(place(nested(json!({ key: small }))), Place::Bytes(Bytes::from_static(b"film")));
        }
        assert_eq!(place(json!({"videos": [{"bytesBase64Encoded": "\u{0}inline 3"}]})), Place::Inline(3));
    }

    #[test]
    fn done_without_a_sample_is_moderation_and_never_a_success() {
        for response in [
            json!({"generateVideoResponse": {"raiMediaFilteredCount": 1, "raiMediaFilteredReasons": ["It was not safe."]}}),
            json!({"generateVideoResponse": {"generatedSamples": [], "raiMediaFilteredCount": "1"}}),
            json!({"raiMediaFilteredCount": 1, "videos": []}),
            json!({"videos": null}),
            json!({}),
        ] {
            match read(json!({"done": "true", "response": response.clone()})).unwrap() {
                PollOutcome::Failed { class: FailureClass::Moderation, billed: Billed::No, message } => {
                    assert!(!message.is_empty(), "{response}");
                }
                other => panic!("{response}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_end_that_cannot_be_read_is_no_end() {
        for answer in [
            json!({"done": true}),
            json!({"done": true, "response": [7]}),
            json!({"done": true, "response": {"videos": [{"gcsUri": 7}]}}),
            json!({"done": true, "response": {"videos": "many"}}),
            json!({"done": true, "error": "text"}),
        ] {
            assert!(matches!(read(answer.clone()), Err(ReadError::Unavailable { .. })), "{answer}");
        }
        for answer in
            [json!({}), json!({"done": null}), json!({"done": [true]}), json!(null), json!({"error": {"code": 3}})]
        {
            assert_eq!(read(answer.clone()), Ok(PollOutcome::Running { progress: None }), "{answer}");
        }
    }

    #[test]
    fn an_error_of_an_operation_has_the_class_of_its_code() {
        for (error, expected) in [
            (json!({"code": 3, "message": "bad aspect ratio"}), FailureClass::InvalidInput),
            (
                json!({"code": "3", "message": "It violates our usage guidelines. Support codes: 29310472"}),
                FailureClass::Moderation,
            ),
            (json!({"code": 13, "message": "Internal error."}), FailureClass::ProviderFault),
            (json!({"code": 14, "message": "high load"}), FailureClass::Capacity),
            (json!({"code": 8}), FailureClass::Capacity),
            (json!({"code": 5}), FailureClass::ModelRetired),
            (json!({"code": 7}), FailureClass::Auth),
            (json!({"code": 16}), FailureClass::Auth),
            (json!({"code": 4}), FailureClass::ProviderFault),
            (json!({}), FailureClass::ProviderFault),
        ] {
            match read(json!({"done": true, "error": error})).unwrap() {
                PollOutcome::Failed { class, message, .. } => {
                    assert_eq!(class, expected, "{error}");
                    assert!(!message.is_empty());
                }
                other => panic!("{error}: {other:?}"),
            }
        }
        let quoting = read(json!({"done": true, "error": {"code": 13, "message": "with key-of-ours at https://x/y"}}));
        assert!(!format!("{quoting:?}").contains("key-of-ours"), "{quoting:?}");
    }
}
