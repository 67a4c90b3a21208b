//! The adapter against servers that say what the documents say, and what they leave open.

use serde_json::json;

use super::super::tests::{Reply as Scripted, Server, reply};
use super::*;
use crate::config::Config;
use crate::domain::{Secret, Size};

const KEY: &str = "0a1b2c3d-test:9f8e7d6c5b4a";
const PROMPT: &str = "a red fox jumps over a sleeping dog";
const MODEL: &str = "fal-ai/veo3.1/fast";
const ID: &str = "80e732af-660e-45cd-bd63-580e4f2a94cc";

fn fal(base: &Url) -> Fal {
    let account = ProviderConfig::embedded("main", base.clone(), Secret::new(KEY));
    let inputs = r#"
        "fal-ai/veo3.1" = { duration = "{seconds}s", aspect_ratio = "{aspect_ratio}", resolution = "{resolution}" }
    "#;
    let config = FalConfig::from_inputs(&inputs.parse().unwrap()).unwrap();
    Fal::new(&account, &config, &Config::from_sources("", []).unwrap().attempts, &Egress::new()).unwrap()
}

fn request(model: &'static str, size: &str) -> GenerationRequest<'static> {
    let size: Size = size.parse().unwrap();
    GenerationRequest { prompt: PROMPT, upstream_model: model, seconds: 8, size, image: None }
}

/// The answer to an order, with URLs below this one.
fn accepted(below: &str) -> Value {
    json!({"status": "IN_QUEUE", "request_id": ID, "queue_position": 3, "response_url": format!("{below}/requests/{ID}"),
        "status_url": format!("{below}/requests/{ID}/status"), "cancel_url": format!("{below}/requests/{ID}/cancel")})
}

fn handle_at(base: &Url) -> Handle {
    Ticket::of(&json!({"request_id": ID}), MODEL, base).unwrap().handle()
}

async fn polled(replies: impl IntoIterator<Item = Scripted>) -> (Result<PollOutcome, ReadError>, Vec<String>) {
    let server = Server::start(replies).await;
    let outcome = fal(&server.base).poll(&handle_at(&server.base)).await;
    (outcome, server.seen().iter().map(|seen| seen.line()).collect())
}

fn completed() -> Scripted {
    reply(200, json!({"status": "COMPLETED", "request_id": ID, "metrics": {"inference_time": 60.7}}))
}

#[tokio::test]
async fn an_order_says_what_the_model_wants_and_forbids_the_platform_to_buy_again() {
    let server = Server::start([reply(200, json!({}))]).await;
    let below = format!("{}/fal-ai/veo3.1", server.base);
    let answering = Server::start([reply(200, accepted(&below))]).await;
    let provider = fal(&answering.base);
    let outcome = provider.submit(&request(MODEL, "720x1280"), AttemptId::generate()).await;
    let SubmitOutcome::Accepted { handle } = outcome else { panic!("{outcome:?}") };
    let seen = answering.seen();
    assert_eq!((seen.len(), seen[0].line().as_str()), (1, "POST /v1/fal-ai/veo3.1/fast"));
    assert_eq!(seen[0].header("authorization"), Some(format!("Key {KEY}").as_str()));
    assert_eq!(seen[0].header("x-fal-no-retry"), Some("1"));
    let body: Value = serde_json::from_str(&seen[0].body).unwrap();
    let expected = json!({"prompt": PROMPT, "duration": "8s", "aspect_ratio": "9:16", "resolution": "720p"});
    assert_eq!(body, expected);
    // the URLs of the answer led to another host
    assert_eq!(handle, handle_at(&answering.base));
    assert!(!handle.0.contains("://"), "{handle:?}");
}

#[tokio::test]
async fn what_cannot_be_said_is_refused_before_anything_is_sent() {
    let server = Server::start([reply(200, json!({}))]).await;
    for (model, size, class) in [
        ("fal-ai/kling-video/v3", "1280x720", FailureClass::ModelRetired),
        (MODEL, "1000x600", FailureClass::InvalidInput),
    ] {
        match fal(&server.base).submit(&request(model, size), AttemptId::generate()).await {
            SubmitOutcome::Rejected { class: told, .. } => assert_eq!(told, class, "{model} {size}"),
            other => panic!("{model} {size}: {other:?}"),
        }
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn every_refusal_has_its_class() {
    let field =
        |kind: &str| json!({"detail": [{"loc": ["body", "prompt"], "msg": "no", "type": kind, "input": PROMPT}]});
    let plain = |message: &str| json!({ "detail": message });
    for (status, body, class) in [
        (422, field("content_policy_violation"), FailureClass::Moderation),
        (422, field("string_too_long"), FailureClass::InvalidInput),
        (401, plain("authentication is required"), FailureClass::Auth),
        (403, plain("User is locked. Reason: Exhausted balance."), FailureClass::NoCredit),
        (403, plain("Forbidden"), FailureClass::Auth),
        (404, plain("Application 'veo4' not found"), FailureClass::ModelRetired),
        (429, plain("Too many requests"), FailureClass::RateLimited),
    ] {
        let server = Server::start([reply(status, &body)]).await;
        match fal(&server.base).submit(&request(MODEL, "1280x720"), AttemptId::generate()).await {
            SubmitOutcome::Rejected { class: told, message, .. } => {
                assert_eq!(told, class, "{status} {body}");
                assert!(!message.contains(PROMPT), "{message}");
            }
            other => panic!("{status} {body}: {other:?}"),
        }
        assert_eq!(server.seen().len(), 1);
    }
}

#[test]
fn a_ticket_follows_the_answer_at_home_and_the_rule_elsewhere() {
    let base: Url = "https://queue.fal.run".parse().unwrap();
    let of = |answer: &Value, model: &str| Ticket::of(answer, model, &base).unwrap();
    let ruled = of(&json!({"request_id": ID}), MODEL);
    assert_eq!(ruled.status.as_str(), format!("https://queue.fal.run/fal-ai/veo3.1/requests/{ID}/status"));
    assert_eq!(ruled.result.as_str(), format!("https://queue.fal.run/fal-ai/veo3.1/requests/{ID}"));
    assert_eq!(ruled.cancel.as_str(), format!("https://queue.fal.run/fal-ai/veo3.1/requests/{ID}/cancel"));
    let three = of(&json!({"request_id": ID}), "workflows/me/film/long");
    assert_eq!(three.result.path(), format!("/workflows/me/film/requests/{ID}"));
    let of_a_job = fal(&base).handle_of(ID, "comfy/me/film/image").unwrap();
    assert_eq!(
        of_a_job,
        of(&json!({"request_id": ID}), "comfy/me/film").handle(),
        "a path of the app makes no difference"
    );

    let told = accepted("https://queue.fal.run/elsewhere/on/it");
    assert_eq!(of(&told, MODEL).result.path(), format!("/elsewhere/on/it/requests/{ID}"));
    let other_request = json!({"request_id": ID, "response_url": "https://queue.fal.run/fal-ai/veo3.1/requests/other"});
    for answer in [
        accepted("https://queue.fal.run.evil.example/fal-ai/veo3.1"),
        accepted("http://queue.fal.run/fal-ai/veo3.1"),
        accepted("https://queue.fal.run:444/fal-ai/veo3.1"),
        accepted("no url"),
        other_request,
        json!({"request_id": ID, "response_url": 7, "status_url": null, "cancel_url": []}),
    ] {
        assert_eq!(of(&answer, MODEL), ruled, "{answer}");
    }
    for answer in [json!({}), json!({"request_id": ".."}), json!({"request_id": 7})] {
        assert_eq!(Ticket::of(&answer, MODEL, &base), None, "{answer}");
    }
    assert_eq!(Ticket::read(&ruled.handle(), &base), Some(ruled));
    for handle in ["", "{}", r#"{"status": "x", "result": "/y", "cancel": "/z"}"#] {
        assert_eq!(Ticket::read(&Handle(handle.to_owned()), &base), None, "{handle}");
    }
    let escape = Handle(r#"{"status": "//evil.example/x", "result": "/a?b", "cancel": "/c#d"}"#.to_owned());
    let ticket = Ticket::read(&escape, &base).unwrap();
    assert!([&ticket.status, &ticket.result, &ticket.cancel].iter().all(|url| url.origin() == base.origin()));
}

#[tokio::test]
async fn the_queue_is_asked_first_and_the_result_only_when_it_is_complete() {
    for (status, word, expected) in [
        (202, json!("IN_QUEUE"), PollOutcome::Queued),
        (202, json!("IN_PROGRESS"), PollOutcome::Running { progress: None }),
        (200, json!("A_NEW_WORD"), PollOutcome::Running { progress: None }),
        (200, json!(null), PollOutcome::Running { progress: None }),
    ] {
        let (outcome, asked) = polled([reply(status, json!({ "status": word }))]).await;
        assert_eq!((outcome, asked.len()), (Ok(expected), 1), "{word}");
    }
    let (outcome, _) = polled([reply(404, json!({"detail": "Not found"}))]).await;
    assert_eq!(outcome, Ok(PollOutcome::gone()));

    let url = "https://v3.fal.media/files/panda/output.mp4";
    for result in [
        json!({"video": {"url": url, "content_type": "video/mp4"}, "seed": 7}),
        json!({"videos": [{"url": url}]}),
        json!({"video_url": url}),
        json!({"output": {"video": {"url": url}}}),
    ] {
        let (outcome, asked) = polled([completed(), reply(200, &result)]).await;
        let Ok(PollOutcome::Succeeded { output }) = outcome else { panic!("{result}: {outcome:?}") };
        assert_eq!(output.place, Place::Url(url.to_owned()));
        let below = format!("GET /v1/fal-ai/veo3.1/requests/{ID}");
        assert_eq!(asked, [format!("{below}/status"), below]);
    }
}

#[tokio::test]
async fn a_result_tells_how_a_request_ended() {
    let field = |kind: &str| json!({"detail": [{"loc": ["body", "duration"], "msg": "not on offer", "type": kind}]});
    let failed = |class, message: &str, billed| PollOutcome::Failed { class, message: message.to_owned(), billed };
    for (status, body, expected) in [
        (
            422,
            field("content_policy_violation"),
            failed(FailureClass::Moderation, "duration: not on offer", Billed::Unknown),
        ),
        (422, field("literal_error"), failed(FailureClass::InvalidInput, "duration: not on offer", Billed::Unknown)),
        (
            500,
            field("internal_server_error"),
            failed(FailureClass::ProviderFault, "duration: not on offer", Billed::No),
        ),
        (
            504,
            json!({"detail": "Request timed out", "error_type": "request_timeout"}),
            failed(FailureClass::ProviderFault, "Request timed out", Billed::No),
        ),
        (
            499,
            json!({"detail": "gone away", "error_type": "client_cancelled"}),
            failed(FailureClass::ProviderFault, "the request was cancelled at the provider", Billed::Unknown),
        ),
        (400, json!({"detail": "Request is still in progress"}), PollOutcome::Running { progress: None }),
        (404, json!({"detail": "Request not found"}), PollOutcome::gone()),
    ] {
        let (outcome, _) = polled([completed(), reply(status, &body)]).await;
        assert_eq!(outcome, Ok(expected), "{status} {body}");
    }
    let told = reply(200, json!({"status": "COMPLETED", "error": "Runner broke", "error_type": "runner_disconnected"}));
    let (outcome, _) = polled([told, reply(503, json!({"detail": "broken"}))]).await;
    assert_eq!(outcome, Ok(failed(FailureClass::ProviderFault, "Runner broke", Billed::No)));
    let (outcome, _) = polled([completed(), reply(401, json!({"detail": "no"}))]).await;
    assert!(matches!(outcome, Err(ReadError::Refused { class: FailureClass::Auth, .. })), "{outcome:?}");
    let (outcome, _) = polled([completed(), reply(429, json!({"detail": "no"})).with("retry-after", 3)]).await;
    assert_eq!(outcome, Err(ReadError::RateLimited { retry_after: Some(Duration::from_secs(3)) }));
}

/// An outage of the queue is not the end of a video that was paid for.
#[test]
fn an_answer_that_is_not_fals_own_ends_nothing() {
    let provider = fal(&"https://queue.fal.run".parse().unwrap());
    for (status, value) in [
        (502, Err("HTTP 502 with a body that is no JSON".to_owned())),
        (503, Ok(json!({"detail": "upstream unavailable"}))),
        (500, Ok(json!({}))),
        (422, Err("no JSON".to_owned())),
        (200, Ok(json!({}))),
        (200, Ok(json!({"video": null}))),
        (200, Ok(json!({"video": {"url": [7]}}))),
        (200, Err("too much".to_owned())),
        (302, Ok(json!({}))),
        (408, Ok(json!({}))),
    ] {
        let reply = Reply { status, value, too_much: false, retry_after: None };
        assert_eq!(provider.verdict(&Handle("x".to_owned()), &reply, None), None, "{reply:?}");
    }
}

#[tokio::test]
async fn a_request_is_cancelled_when_fal_says_so() {
    for (status, expected) in [
        (200, CancelOutcome::Cancelled),
        (202, CancelOutcome::Cancelled),
        (400, CancelOutcome::TooLate),
        (404, CancelOutcome::TooLate),
        (500, CancelOutcome::TooLate),
    ] {
        let server = Server::start([reply(status, json!({"status": "x"}))]).await;
        assert_eq!(fal(&server.base).cancel(&handle_at(&server.base)).await, expected, "{status}");
        assert_eq!(server.seen()[0].line(), format!("PUT /v1/fal-ai/veo3.1/requests/{ID}/cancel"));
    }
}

#[tokio::test]
async fn the_file_is_fetched_without_the_key() {
    let (home, elsewhere) =
        (Server::start([reply(200, json!({}))]).await, Server::start([reply(200, "the film")]).await);
    let place = |url: String| Output { handle: Handle("x".to_owned()), place: Place::Url(url), expires_at: None };
    let output = place(format!("{}/files/output.mp4", elsewhere.base));
    assert!(fal(&home.base).fetch(&output).await.is_ok());
    assert_eq!(elsewhere.seen()[0].header("authorization"), None);
    assert!(home.seen().is_empty());
    for url in ["file:///etc/passwd", "data:video/mp4;base64,AAAA", "http://169.254.169.254/latest"] {
        let refused = fal(&home.base).fetch(&place(url.to_owned())).await.err().unwrap();
        assert!(matches!(refused, FetchError::Read(ReadError::Refused { .. })), "{url}: {refused:?}");
    }
}

#[test]
fn a_callback_would_stand_in_the_query_of_an_order() {
    let provider = fal(&"https://queue.fal.run".parse().unwrap());
    let callback: Url = "https://video.example.com/callbacks/fal/token".parse().unwrap();
    assert_eq!(provider.order_url(MODEL, None).as_str(), "https://queue.fal.run/fal-ai/veo3.1/fast");
    let url = provider.order_url(MODEL, Some(&callback));
    assert_eq!(url.query_pairs().next().unwrap(), ("fal_webhook".into(), callback.as_str().into()));
}
