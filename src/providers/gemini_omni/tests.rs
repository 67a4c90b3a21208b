//! The adapter against servers that say what the documents say, and what they leave open.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::TryStreamExt;
use serde_json::json;

use super::super::tests::{Server, reply};
use super::*;
use crate::config::Config;
use crate::domain::{Secret, Size};

const KEY: &str = "AIza-test-9f8e7d6c5b4a";
const PROMPT: &str = "a red fox jumps over a sleeping dog";

fn omni(base: &Url) -> GeminiOmni {
    let account = ProviderConfig::embedded("main", base.clone(), Secret::new(KEY));
    GeminiOmni::new(&account, &Config::from_sources("", []).unwrap().attempts, &Egress::new()).unwrap()
}

fn request(size: &str) -> GenerationRequest<'static> {
    let size: Size = size.parse().unwrap();
    GenerationRequest { prompt: PROMPT, upstream_model: "gemini-omni-1.1-flash", seconds: 8, size, image: None }
}

fn handle() -> Handle {
    Handle("v1_abc".to_owned())
}

/// A finished interaction with this content.
fn completed(content: Value) -> Value {
    json!({"id": "v1_abc", "status": "completed", "steps": [
        {"type": "user_input", "content": [{"type": "text", "text": PROMPT}]},
        {"type": "model_output", "content": content},
    ]})
}

fn film_at(uri: &str) -> Value {
    completed(json!([{"type": "text", "text": "Here it is."}, {"type": "video", "uri": uri, "mime_type": "video/mp4"}]))
}

async fn polled(answers: impl IntoIterator<Item = Value>) -> PollOutcome {
    let server = Server::start(answers.into_iter().map(|answer| reply(200, answer))).await;
    omni(&server.base).poll(&handle()).await.unwrap()
}

async fn bytes_of(provider: &GeminiOmni, output: &Output) -> Vec<u8> {
    let pieces: Vec<bytes::Bytes> = provider.fetch(output).await.unwrap().try_collect().await.unwrap();
    pieces.concat()
}

#[tokio::test]
async fn an_order_is_in_the_background_and_says_everything_that_costs() {
    let server = Server::start([reply(200, json!({"id": "v1_abc", "status": "in_progress"}))]).await;
    let attempt = AttemptId::generate();
    let outcome = omni(&server.base).submit(&request("1080x1920"), attempt).await;
    assert_eq!(outcome, SubmitOutcome::Accepted { handle: handle() });
    let seen = server.seen();
    assert_eq!((seen.len(), seen[0].line().as_str()), (1, "POST /v1/interactions"));
    assert_eq!((seen[0].header("x-goog-api-key"), seen[0].header("authorization")), (Some(KEY), None));
    let body: Value = serde_json::from_str(&seen[0].body).unwrap();
    let expected = json!({
        "model": "gemini-omni-1.1-flash",
        "background": true,
        "store": true,
        "input": [{"type": "text", "text": PROMPT}],
        "generation_config": {"video_config": {"task": "text_to_video"}},
        "response_format": {
            "type": "video", "aspect_ratio": "9:16", "resolution": "1080p", "duration": "8s", "delivery": "uri",
        },
        "labels": {"attempt": attempt.to_string().to_lowercase()},
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_size_without_a_name_is_refused_before_anything_is_sent() {
    let server = Server::start([reply(200, json!({"id": "v1_abc"}))]).await;
    let outcome = omni(&server.base).submit(&request("1000x600"), AttemptId::generate()).await;
    assert!(matches!(outcome, SubmitOutcome::Rejected { class: FailureClass::InvalidInput, .. }), "{outcome:?}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn both_error_shapes_have_their_class_and_their_wait() {
    let retry = json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"});
    let quota = json!({"@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}]});
    let front = |details: Value| {
        json!([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details,
            "message": "You exceeded your current quota, please check your plan and billing details."}}])
    };
    let service = |code: &str, message: &str| json!({"error": {"code": code, "message": message}});
    let wrong_key = json!({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "API key not valid."}});
    for (status, body, class, wait) in [
        (429, front(json!([retry])), FailureClass::RateLimited, Some(Duration::from_secs(34))),
        (429, front(json!([quota, retry])), FailureClass::NoCredit, Some(Duration::from_secs(34))),
        (400, service("invalid_request", "Blocked by SAFETY filters."), FailureClass::Moderation, None),
        (400, service("invalid_request", "This is prohibited content."), FailureClass::Moderation, None),
        (400, service("invalid_request", "'duration' must be a Duration."), FailureClass::InvalidInput, None),
        (400, service("failed_precondition", "Enable it first."), FailureClass::NoCredit, None),
        (400, wrong_key, FailureClass::Auth, None),
        (403, service("permission_denied", "No."), FailureClass::Auth, None),
        (404, service("not_found", "No longer available."), FailureClass::ModelRetired, None),
    ] {
        let server = Server::start([reply(status, &body)]).await;
        match omni(&server.base).submit(&request("1280x720"), AttemptId::generate()).await {
            SubmitOutcome::Rejected { class: told, retry_after, .. } => {
                assert_eq!((told, retry_after), (class, wait), "{status} {body}");
            }
            other => panic!("{status} {body}: {other:?}"),
        }
        assert_eq!(server.seen().len(), 1);
    }
    let limited = reply(429, front(json!([retry]))).with("retry-after", 7);
    let server = Server::start([limited]).await;
    match omni(&server.base).submit(&request("1280x720"), AttemptId::generate()).await {
        SubmitOutcome::Rejected { retry_after, .. } => assert_eq!(retry_after, Some(Duration::from_secs(7))),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_status_word_has_its_meaning_and_a_new_one_ends_nothing() {
    let fault = |class, billed| Some((class, billed));
    for (word, ended) in [
        (json!("in_progress"), None),
        (json!("rendering"), None),
        (json!(null), None),
        (json!(7), None),
        (json!("failed"), fault(FailureClass::ProviderFault, Billed::Unknown)),
        (json!("cancelled"), fault(FailureClass::ProviderFault, Billed::Unknown)),
        (json!("incomplete"), fault(FailureClass::ProviderFault, Billed::Unknown)),
        (json!("requires_action"), fault(FailureClass::ProviderFault, Billed::Unknown)),
        (json!("budget_exceeded"), fault(FailureClass::NoCredit, Billed::Unknown)),
    ] {
        match (polled([json!({"id": "v1_abc", "status": word})]).await, ended) {
            (PollOutcome::Running { progress: None }, None) => {}
            (PollOutcome::Failed { class, billed, message }, Some(expected)) => {
                assert_eq!((class, billed), expected, "{word}");
                assert!(!message.is_empty(), "{word}");
            }
            (other, _) => panic!("{word}: {other:?}"),
        }
    }
    assert_eq!(polled([json!({"status": "queued"})]).await, PollOutcome::Queued);
}

#[tokio::test]
async fn an_error_is_found_wherever_it_stands() {
    let policy = json!({"code": 3, "message": format!("Prohibited content: {PROMPT}")});
    let user = json!({"type": "user_input", "content": [{"type": "text", "text": PROMPT}]});
    for job in [
        json!({"status": "failed", "error": policy, "steps": [user]}),
        json!({"status": "failed", "errors": [policy], "steps": [user]}),
        json!({"status": "incomplete", "steps": [user, {"type": "model_output", "error": policy}]}),
        json!({"status": "completed", "steps": [user, {"type": "model_output", "error": policy}]}),
    ] {
        match polled([job.clone()]).await {
            PollOutcome::Failed { class: FailureClass::Moderation, billed: Billed::No, message } => {
                assert_eq!(message, "Prohibited content: [removed]", "{job}");
            }
            other => panic!("{job}: {other:?}"),
        }
    }
    let input = json!({"status": "failed", "errors": [{"code": "invalid_request", "message": "Too long."}]});
    let outcome = polled([input]).await;
    assert!(matches!(outcome, PollOutcome::Failed { class: FailureClass::InvalidInput, .. }), "{outcome:?}");
}

#[tokio::test]
async fn words_in_place_of_a_film_are_a_refusal_and_nothing_at_all_is_not() {
    let words = completed(json!([{"type": "text", "text": format!("I will not show {PROMPT}.")}]));
    match polled([words]).await {
        PollOutcome::Failed { class: FailureClass::Moderation, billed: Billed::No, message } => {
            assert!(message.contains("words in place of a video") && !message.contains(PROMPT), "{message}");
        }
        other => panic!("{other:?}"),
    }
    for nothing in [completed(json!([])), json!({"status": "completed"}), json!({"status": "completed", "steps": "x"})]
    {
        assert_eq!(polled([nothing.clone()]).await, PollOutcome::Running { progress: None }, "{nothing}");
    }
}

#[tokio::test]
async fn a_film_counts_when_its_file_is_ready() {
    for (record, expected) in [
        (reply(200, json!({"state": "ACTIVE", "expirationTime": "2026-11-25T10:00:00Z"})), "ready"),
        (reply(200, json!({"state": "a new word"})), "ready"),
        (reply(403, json!({"error": {"code": 403, "message": "no permission"}})), "ready"),
        (reply(404, ""), "ready"),
        (reply(200, json!({"state": "PROCESSING"})), "running"),
        (reply(200, json!({"state": "FAILED", "error": {"code": 13, "message": "Encoding broke."}})), "failed"),
    ] {
        let uri = "files/xyz:download?alt=media";
        let server = Server::start([reply(200, film_at(uri)), record]).await;
        let outcome = omni(&server.base).poll(&handle()).await.unwrap();
        match (outcome, expected) {
            (PollOutcome::Succeeded { output }, "ready") => assert_eq!(output.place, Place::Url(uri.to_owned())),
            (PollOutcome::Running { .. }, "running") => {}
            (PollOutcome::Failed { class: FailureClass::ProviderFault, message, .. }, "failed") => {
                assert_eq!(message, "Encoding broke.");
            }
            (other, _) => panic!("{expected}: {other:?}"),
        }
        assert_eq!(server.seen()[1].line(), "GET /v1/files/xyz");
    }
}

#[tokio::test]
async fn a_film_is_fetched_from_its_link_or_out_of_the_answer() {
    let film: Vec<u8> = (0..=255).cycle().take(20_000).collect();
    let inline = |bytes: &[u8]| completed(json!([{"type": "video", "data": STANDARD.encode(bytes)}]));

    let server = Server::start([reply(200, inline(&film))]).await;
    let provider = omni(&server.base);
    let PollOutcome::Succeeded { output } = provider.poll(&handle()).await.unwrap() else { panic!("not finished") };
    assert_eq!(output.place, Place::Inline(0));
    assert_eq!(bytes_of(&provider, &output).await, film);

    let PollOutcome::Succeeded { output } = polled([inline(b"small film")]).await else { panic!("not finished") };
    assert_eq!(bytes_of(&provider, &output).await, b"small film");

    let server = Server::start([reply(200, "the film")]).await;
    let link = |uri: String| Output { handle: handle(), place: Place::Url(uri), expires_at: None };
    assert_eq!(bytes_of(&omni(&server.base), &link(format!("{}/files/xyz", server.base))).await, b"the film");
    let seen = server.seen();
    assert_eq!(seen[0].line(), "GET /v1/files/xyz:download?alt=media");
    assert_eq!(seen[0].header("x-goog-api-key"), Some(KEY));
}

#[tokio::test]
async fn the_key_stays_at_home() {
    let (home, elsewhere) =
        (Server::start([reply(200, json!({}))]).await, Server::start([reply(200, "the film")]).await);
    let uri = format!("{}/files/xyz:download", elsewhere.base);
    let output = Output { handle: handle(), place: Place::Url(uri), expires_at: None };
    assert_eq!(bytes_of(&omni(&home.base), &output).await, b"the film");
    assert!(elsewhere.seen()[0].headers.values().all(|value| !value.as_bytes().windows(4).any(|part| part == b"AIza")));
    assert!(home.seen().is_empty());
    for place in ["gs://bucket/film.mp4", "file:///etc/passwd", "http://169.254.169.254/latest"] {
        let output = Output { handle: handle(), place: Place::Url(place.to_owned()), expires_at: None };
        let refused = omni(&home.base).fetch(&output).await.err().unwrap();
        assert!(matches!(refused, FetchError::Read(ReadError::Refused { .. })), "{place}: {refused:?}");
    }
}

#[tokio::test]
async fn an_unknown_id_is_gone_and_a_refused_key_is_not() {
    let unknown = json!({"error": {"code": "invalid_request", "message": "Interaction not found."}});
    for (status, body) in [(400, unknown.to_string()), (404, String::new()), (400, "<html>".to_owned())] {
        let server = Server::start([reply(status, body)]).await;
        assert_eq!(omni(&server.base).poll(&handle()).await, Ok(PollOutcome::gone()), "{status}");
    }
    let details = json!([{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]);
    let wrong = json!({"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT", "details": details}});
    let server = Server::start([reply(400, wrong)]).await;
    let refused = omni(&server.base).poll(&handle()).await;
    assert!(matches!(refused, Err(ReadError::Refused { class: FailureClass::Auth, .. })), "{refused:?}");
}

#[tokio::test]
async fn a_job_is_cancelled_when_the_provider_says_so() {
    for (status, answer, expected) in [
        (200, json!({"status": "cancelled"}), CancelOutcome::Cancelled),
        (200, json!({}), CancelOutcome::Cancelled),
        (200, json!({"status": "completed"}), CancelOutcome::TooLate),
        (400, json!({"error": {"code": "invalid_request", "message": "no"}}), CancelOutcome::TooLate),
        (500, json!({}), CancelOutcome::TooLate),
    ] {
        let server = Server::start([reply(status, answer)]).await;
        assert_eq!(omni(&server.base).cancel(&handle()).await, expected, "{status}");
        assert_eq!(server.seen()[0].line(), "POST /v1/interactions/v1_abc/cancel");
    }
}

#[test]
fn only_files_of_the_provider_have_a_record_there() {
    let base: Url = "https://api.example.com/v1beta".parse().unwrap();
    let id = |uri: &str| wire::file_id(uri, &base);
    for uri in ["https://api.example.com/v1beta/files/x-1:download?alt=media", "files/x-1", "/v1beta/files/x-1"] {
        assert_eq!(id(uri).as_deref(), Some("x-1"), "{uri}");
        let download = wire::download_url(uri, &base).unwrap();
        assert_eq!(download.as_str(), "https://api.example.com/v1beta/files/x-1:download?alt=media", "{uri}");
    }
    for uri in [
        "https://other.example.com/v1beta/files/x-1",
        "//other.example.com/v1beta/files/x-1",
        "https://api.example.com/v1beta/files/../interactions/x",
        "https://api.example.com/v1beta/files/a/b",
        "https://api.example.com/v1beta/files/",
        "gs://bucket/files/x",
    ] {
        assert_eq!(id(uri), None, "{uri}");
    }
    assert_eq!(wire::download_url("gs://bucket/x", &base), None);
}
