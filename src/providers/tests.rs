//! The adapter and the guarded client against small servers of our own on loopback.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::TryStreamExt;
use poem::http::HeaderMap;
use poem::listener::TcpAcceptor;
use poem::{Request, Response};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use url::Url;

use super::*;
use crate::config::{AttemptsConfig, ProviderConfig};
use crate::domain::{Secret, Size};

const KEY: &str = "sk-test-9f8e7d6c5b4a";
const PROMPT: &str = "a red fox jumps over a sleeping dog";

#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    authorization: Option<String>,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// `POST /v1/videos`
    pub(super) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

#[derive(Clone)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

pub(super) fn reply(status: u16, body: impl ToString) -> Reply {
    Reply { status, headers: Vec::new(), body: body.to_string() }
}

impl Reply {
    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Reply {
        self.headers.push((name, value.to_string()));
        self
    }
}

/// Gives its replies in order, the last one for ever, and keeps what it was asked.
pub(super) struct Server {
    pub(super) base: Url,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(super) async fn start(replies: impl IntoIterator<Item = Reply>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let replies = Arc::new(Mutex::new(replies.into_iter().collect::<VecDeque<Reply>>()));
        let book = Arc::clone(&seen);
        let endpoint = poem::endpoint::make(move |mut request: Request| {
            let (book, replies) = (Arc::clone(&book), Arc::clone(&replies));
            async move {
                let body = request.take_body().into_bytes().await.unwrap();
                book.lock().unwrap().push(Seen {
                    method: request.method().to_string(),
                    target: request.uri().path_and_query().unwrap().to_string(),
                    authorization: request.header("authorization").map(str::to_owned),
                    headers: request.headers().clone(),
                    body: String::from_utf8_lossy(&body).into_owned(),
                });
                let mut replies = replies.lock().unwrap();
                let reply = if replies.len() > 1 { replies.pop_front().unwrap() } else { replies[0].clone() };
                let mut response = Response::builder().status(reply.status.try_into().unwrap());
                for (name, value) in reply.headers {
                    response = response.header(name, value);
                }
                response.body(reply.body)
            }
        });
        let server = poem::Server::new_with_acceptor(TcpAcceptor::from_tokio(listener).unwrap());
        let task = tokio::spawn(async move { server.run(endpoint).await.unwrap() });
        Server { base, seen, task }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn provider(&self) -> OpenaiVideos {
        provider(self.base.clone(), |_, _| {})
    }
}

/// Reads one request of each connection, writes `answer` as it is and hangs up (or, with `None`, stays silent).
async fn raw_server(answer: Option<&'static str>) -> (Url, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let mut read = Vec::new();
            // The last boundary of the form is the end of the request; TLS greets with less and waits.
            while !read.ends_with(b"--\r\n") && read.first() != Some(&0x16) {
                let mut chunk = [0; 4096];
                match stream.read(&mut chunk).await {
                    Ok(0) => break,
                    Ok(length) => read.extend_from_slice(&chunk[..length]),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
                }
            }
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                None => silent.push(stream),
            }
        }
    });
    (base, connections)
}

/// Answers every request with `start`, and then with a byte now and then.
async fn raw_drip(start: &'static str) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(start.as_bytes()).await.unwrap();
                while stream.write_all(b"A").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
        }
    });
    base
}

fn provider(base: Url, change: impl Fn(&mut ProviderConfig, &mut AttemptsConfig)) -> OpenaiVideos {
    let mut account = ProviderConfig::embedded("main", base, Secret::new(KEY));
    let mut attempts = Config::from_sources("", []).unwrap().attempts;
    change(&mut account, &mut attempts);
    OpenaiVideos::new(&account, &attempts, &Egress::new()).unwrap()
}

fn request() -> GenerationRequest<'static> {
    let size = Size { width: 1280, height: 720 };
    GenerationRequest { prompt: PROMPT, upstream_model: "sora-2", seconds: 4, size, image: None }
}

fn request_of(prompt: &str) -> GenerationRequest<'_> {
    GenerationRequest { prompt, ..request() }
}

fn attempt() -> AttemptId {
    AttemptId::generate()
}

async fn submit(provider: &OpenaiVideos) -> SubmitOutcome {
    provider.submit(&request(), AttemptId::generate()).await
}

fn handle() -> Handle {
    Handle("video_1".to_owned())
}

fn error(code: &str) -> serde_json::Value {
    json!({"error": {"message": "words", "type": "invalid_request_error", "param": null, "code": code}})
}

#[tokio::test]
async fn a_video_is_ordered_watched_and_fetched() {
    let job = |status: &str, progress: u8| json!({"id": "video_1", "status": status, "progress": progress});
    let done = json!({"id": "video_1", "status": "completed", "progress": 100, "expires_at": 1_900_000_000});
    let server = Server::start([
        reply(200, job("queued", 0)),
        reply(200, job("queued", 0)),
        reply(200, job("in_progress", 60)),
        reply(200, job("in_progress", 40)),
        reply(200, done),
        reply(200, "the film").with("content-type", "video/mp4"),
    ])
    .await;
    let provider = server.provider();
    assert_eq!(submit(&provider).await, SubmitOutcome::Accepted { handle: handle() });
    assert_eq!(provider.poll(&handle()).await, Ok(PollOutcome::Queued));
    assert_eq!(provider.poll(&handle()).await, Ok(PollOutcome::Running { progress: Some(60) }));
    assert_eq!(provider.poll(&handle()).await, Ok(PollOutcome::Running { progress: Some(40) }));
    let Ok(PollOutcome::Succeeded { output }) = provider.poll(&handle()).await else { panic!("not finished") };
    assert_eq!(output.expires_at, DateTime::from_timestamp(1_900_000_000, 0));
    let film: Vec<Bytes> = provider.fetch(&output).await.unwrap().try_collect().await.unwrap();
    assert_eq!(film.concat(), b"the film");

    let seen = server.seen();
    let targets: Vec<String> = seen.iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect();
    assert_eq!(targets[..2], ["POST /v1/videos", "GET /v1/videos/video_1"]);
    assert_eq!(targets[5], "GET /v1/videos/video_1/content");
    assert!(seen.iter().all(|seen| seen.authorization.as_deref() == Some(&format!("Bearer {KEY}"))));
    for (field, value) in [("model", "sora-2"), ("prompt", PROMPT), ("seconds", "4"), ("size", "1280x720")] {
        let part = format!("name=\"{field}\"\r\n\r\n{value}\r\n");
        assert!(seen[0].body.contains(&part), "{field} in {}", seen[0].body);
    }
}

#[tokio::test]
async fn a_definite_refusal_has_its_class_and_is_asked_once() {
    for (status, code, class) in [
        (400, "invalid_value", FailureClass::InvalidInput),
        (400, "sentinel_block", FailureClass::Moderation),
        (401, "invalid_api_key", FailureClass::Auth),
        (403, "unsupported_country", FailureClass::Auth),
        (402, "", FailureClass::NoCredit),
        (404, "model_not_found", FailureClass::ModelRetired),
        (429, "rate_limit_exceeded", FailureClass::RateLimited),
        (429, "insufficient_quota", FailureClass::NoCredit),
        (429, "server_is_overloaded", FailureClass::Capacity),
    ] {
        let server = Server::start([reply(status, error(code))]).await;
        match submit(&server.provider()).await {
            SubmitOutcome::Rejected { class: told, .. } => assert_eq!(told, class, "{status} {code}"),
            other => panic!("{status} {code}: {other:?}"),
        }
        assert_eq!(server.seen().len(), 1, "{status} {code}");
    }
}

#[tokio::test]
async fn a_rate_limit_carries_the_time_to_wait_when_there_is_one() {
    let limited = reply(429, error("rate_limit_exceeded"));
    let server = Server::start([limited.clone().with("retry-after", 7), limited]).await;
    let provider = server.provider();
    for expected in [Some(Duration::from_secs(7)), None] {
        match submit(&provider).await {
            SubmitOutcome::Rejected { retry_after, .. } => assert_eq!(retry_after, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_answer_that_proves_nothing_is_unknown_and_is_never_sent_again() {
    for answer in [
        reply(500, error("server_error")),
        reply(503, error("slow_down")).with("retry-after", 1),
        reply(503, error("server_is_overloaded")),
        reply(502, "<html>Bad Gateway</html>"),
        reply(409, error("conflict")),
        reply(408, ""),
        reply(307, "").with("location", "/v1/elsewhere"),
        reply(303, "").with("location", "/v1/elsewhere"),
        reply(200, "{\"id\": \"video_"),
        reply(200, "<html>welcome</html>"),
        reply(200, json!({"object": "video"})),
        reply(200, json!({"id": "..", "status": "queued"})),
        reply(200, format!("{{\"id\": \"video_1\", \"x\": \"{}\"}}", "x".repeat(2 << 20))),
    ] {
        let server = Server::start([answer.clone()]).await;
        let outcome = submit(&server.provider()).await;
        let start: String = answer.body.chars().take(60).collect();
        assert!(matches!(outcome, SubmitOutcome::Unknown { .. }), "{} {start}: {outcome:?}", answer.status);
        assert_eq!(server.seen().len(), 1, "{} {start}", answer.status);
    }
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_is_never_sent_again() {
    for answer in [
        Some(""),
        Some("HTTP/1.1 200 OK\r\ncontent-len"),
        Some("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"id\": \"video_1\"}"),
        Some("no HTTP at all\r\n\r\n"),
        None,
    ] {
        let (base, connections) = raw_server(answer).await;
        let provider = provider(base, |_, attempts| attempts.submit_timeout = Duration::from_millis(500));
        let outcome = submit(&provider).await;
        assert!(matches!(outcome, SubmitOutcome::Unknown { .. }), "{answer:?}: {outcome:?}");
        assert_eq!(connections.load(Ordering::SeqCst), 1, "{answer:?}");
    }
}

#[tokio::test]
async fn without_a_connection_nothing_was_bought() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed: Url = format!("http://{}/v1", free.local_addr().unwrap()).parse().unwrap();
    drop(free);
    let (plain, _) = raw_server(Some("HTTP/1.1 400 Bad Request\r\n\r\n")).await;
    let no_tls: Url = plain.as_str().replace("http://", "https://").parse().unwrap();
    for base in [closed, no_tls, "http://nobody.invalid/v1".parse().unwrap()] {
        match submit(&provider(base.clone(), |_, _| {})).await {
            SubmitOutcome::Rejected { class, message, .. } => {
                assert_eq!(class, FailureClass::Network, "{base}");
                assert!(!message.contains("127.0.0.1") && !message.contains("nobody"), "{message}");
            }
            other => panic!("{base}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_job_is_read_whatever_keys_are_missing_or_null() {
    let server = Server::start([
        reply(200, json!({"id": "video_1", "status": "queued", "progress": null, "error": null})),
        reply(200, json!({"status": "in_progress"})),
        reply(200, json!({"status": "daydreaming", "progress": 12.5})),
        reply(200, json!({})),
        reply(200, json!({"status": "completed", "expires_at": null})),
        reply(200, json!({"status": "failed", "error": null})),
        reply(200, json!({"status": "failed", "error": {"code": "moderation_blocked", "message": "No: video_77 bad"}})),
        reply(200, json!({"status": "expired"})),
        reply(404, error("not_found")),
    ])
    .await;
    let provider = server.provider();
    let mut outcomes = Vec::new();
    for _ in 0..9 {
        outcomes.push(provider.poll(&handle()).await.unwrap());
    }
    let failed =
        |class, message: &str| PollOutcome::Failed { class, message: message.to_owned(), billed: Billed::Unknown };
    let expected = [
        PollOutcome::Queued,
        PollOutcome::Running { progress: None },
        PollOutcome::Running { progress: Some(12) },
        PollOutcome::Running { progress: None },
        PollOutcome::Succeeded { output: Output { handle: handle(), place: Place::Handle, expires_at: None } },
        failed(FailureClass::ProviderFault, "the provider reported a failure without a reason"),
        failed(FailureClass::Moderation, "No: [removed] bad"),
        failed(FailureClass::OutputExpired, "the job expired at the provider before it was finished"),
    ];
    assert_eq!(outcomes[..8], expected);
    assert!(matches!(outcomes[8], PollOutcome::Gone { .. }), "{:?}", outcomes[8]);
}

#[tokio::test]
async fn a_poll_survives_passing_faults_and_tells_lasting_ones() {
    let server = Server::start([
        reply(502, "<html>"),
        reply(200, "{\"status\""),
        reply(200, json!({"status": "queued"})),
        reply(429, error("rate_limit_exceeded")).with("retry-after", 3),
        reply(401, error("invalid_api_key")),
    ])
    .await;
    let provider = server.provider();
    assert_eq!(provider.poll(&handle()).await, Ok(PollOutcome::Queued));
    assert_eq!(server.seen().len(), 3);
    let retry_after = Some(Duration::from_secs(3));
    assert_eq!(provider.poll(&handle()).await, Err(ReadError::RateLimited { retry_after }));
    let refused = provider.poll(&handle()).await;
    assert!(matches!(refused, Err(ReadError::Refused { class: FailureClass::Auth, .. })), "{refused:?}");
    assert_eq!(server.seen().len(), 5);
}

#[tokio::test]
async fn a_handle_cannot_leave_its_place_in_the_path() {
    let server = Server::start([reply(404, "")]).await;
    let provider = server.provider();
    provider.poll(&Handle("../models?x=1#y/z".to_owned())).await.unwrap();
    assert_eq!(server.seen()[0].target, "/v1/videos/..%2Fmodels%3Fx=1%23y%2Fz");
}

fn listed(id: &str, created_at: DateTime<Utc>, prompt: &str) -> serde_json::Value {
    json!({"id": id, "created_at": created_at.timestamp(), "prompt": prompt, "model": "sora-2-2025-12-08",
        "seconds": "4", "size": "1280x720", "status": "queued"})
}

#[tokio::test]
async fn a_lost_job_is_found_by_fingerprint_and_window_over_several_pages() {
    let now = Utc::now();
    let ago = |seconds| now - TimeDelta::seconds(seconds);
    let server = Server::start([
        reply(
            200,
            json!({"data": [listed("after", now + TimeDelta::seconds(90), PROMPT),
            listed("other", ago(10), "a blue whale"), listed("second", ago(20), PROMPT)], "has_more": true}),
        ),
        reply(
            200,
            json!({"data": [listed("first", ago(50), PROMPT), listed("before", ago(90), PROMPT)], "has_more": true}),
        ),
    ])
    .await;
    let Ok(FindOutcome::Candidates(found)) = server.provider().find(&request(), attempt(), (ago(60), now)).await else {
        panic!("no candidates")
    };
    assert_eq!(found.iter().map(|found| found.handle.0.as_str()).collect::<Vec<_>>(), ["first", "second"]);
    let targets: Vec<String> = server.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/v1/videos?limit=100&order=desc", "/v1/videos?limit=100&order=desc&after=second"]);
}

#[tokio::test]
async fn look_ups_of_one_moment_share_a_walk_and_each_gets_its_own_answer() {
    let now = Utc::now();
    let ago = |seconds| now - TimeDelta::seconds(seconds);
    let page =
        json!({"data": [listed("fox", ago(10), PROMPT), listed("whale", ago(20), "a blue whale")], "has_more": false});
    let server = Server::start([reply(200, page)]).await;
    let (provider, window) = (server.provider(), (ago(60), now));
    let (fox, whale, owl) = (request(), request_of("a blue whale"), request_of("an owl"));
    let handles = |found: Result<FindOutcome, ReadError>| match found {
        Ok(FindOutcome::Candidates(found)) => found.into_iter().map(|found| found.handle.0).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let many = futures_util::future::join_all((0..100).map(|_| provider.find(&whale, attempt(), window)));
    let (foxes, whales, owls) =
        tokio::join!(provider.find(&fox, attempt(), window), many, provider.find(&owl, attempt(), window));
    assert_eq!(handles(foxes), ["fox"]);
    assert!(whales.into_iter().all(|found| handles(found) == ["whale"]));
    assert!(handles(owls).is_empty());
    assert!(server.seen().len() <= 3, "{} walks for 102 look-ups", server.seen().len());
}

#[tokio::test]
async fn a_look_up_whose_walker_was_dropped_walks_by_itself() {
    let now = Utc::now();
    let page = json!({"data": [listed("fox", now - TimeDelta::seconds(10), PROMPT)], "has_more": false});
    let server = Server::start([reply(200, page)]).await;
    let (provider, window) = (server.provider(), (now - TimeDelta::seconds(60), now));
    let (fox, owl) = (request(), request_of("an owl"));
    let mut first = Box::pin(provider.find(&owl, attempt(), window));
    let mut second = Box::pin(provider.find(&fox, attempt(), window));
    // both have asked, and the first walks for both
    assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut second).is_pending());
    drop(first);
    assert!(matches!(second.await, Ok(FindOutcome::Candidates(found)) if found.len() == 1));
}

#[tokio::test]
async fn a_list_in_another_order_is_read_to_its_end() {
    let now = Utc::now();
    let ago = |seconds| now - TimeDelta::seconds(seconds);
    let server = Server::start([
        reply(200, json!({"data": [listed("old", ago(900), "x"), listed("newer", ago(800), "x")], "has_more": true})),
        reply(200, json!({"data": [listed("wanted", ago(5), PROMPT)], "has_more": false})),
    ])
    .await;
    let found = server.provider().find(&request(), attempt(), (ago(60), now)).await.unwrap();
    assert!(matches!(&found, FindOutcome::Candidates(found) if found.len() == 1), "{found:?}");
}

#[tokio::test]
async fn a_list_that_cannot_decide_does_not_say_that_nothing_is_there() {
    let now = Utc::now();
    let window = (now - TimeDelta::seconds(60), now);
    let without = |key: &str| {
        let mut job = listed("a", now, PROMPT);
        job.as_object_mut().unwrap().remove(key);
        json!({"data": [job], "has_more": false})
    };
    let endless = json!({"data": [listed("a", now, "x")], "has_more": true});
    for page in [
        reply(200, without("prompt")),
        reply(200, without("created_at")),
        reply(200, without("id")),
        reply(200, json!({"object": "list"})),
        reply(200, endless),
        reply(404, ""),
    ] {
        let server = Server::start([page.clone()]).await;
        let found = server.provider().find(&request(), attempt(), window).await;
        assert_eq!(found, Ok(FindOutcome::Unsupported), "{} {}", page.status, page.body);
    }
    let nothing = Server::start([reply(200, json!({"data": [], "has_more": false}))]).await;
    assert_eq!(nothing.provider().find(&request(), attempt(), window).await, Ok(FindOutcome::Candidates(Vec::new())));

    let cannot = provider(nothing.base.clone(), |account, _| account.can_list = false);
    assert_eq!(cannot.find(&request(), attempt(), window).await, Ok(FindOutcome::Unsupported));
    assert!(!cannot.capabilities().find);
    assert_eq!(nothing.seen().len(), 1);
}

#[tokio::test]
async fn a_file_on_another_host_is_fetched_without_the_key() {
    let files = Server::start([reply(200, "the film")]).await;
    let home = Server::start([reply(302, "").with("location", files.base.join("/film").unwrap())]).await;
    let provider = home.provider();
    let output = Output { handle: handle(), place: Place::Handle, expires_at: None };
    let film: Vec<Bytes> = provider.fetch(&output).await.unwrap().try_collect().await.unwrap();
    assert_eq!(film.concat(), b"the film");
    assert!(home.seen()[0].authorization.is_some());
    assert_eq!(files.seen()[0].authorization, None);
}

#[tokio::test]
async fn a_file_that_is_gone_late_or_cut_off_is_told_apart() {
    let past = Some(Utc::now() - TimeDelta::seconds(1));
    let future = Some(Utc::now() + TimeDelta::hours(1));
    let server = Server::start([reply(404, ""), reply(410, ""), reply(404, ""), reply(200, "the film")]).await;
    let provider = server.provider();
    for expires_at in [past, future] {
        let gone = provider.fetch(&Output { handle: handle(), place: Place::Handle, expires_at }).await.err();
        assert!(matches!(gone, Some(FetchError::Gone { .. })), "{gone:?}");
    }
    // Not there yet, then there.
    assert!(provider.fetch(&Output { handle: handle(), place: Place::Handle, expires_at: future }).await.is_ok());
}

#[tokio::test]
async fn a_file_comes_as_it_is_and_with_its_length() {
    let packed = || reply(200, "packed").with("content-encoding", "gzip");
    let files = Server::start([reply(200, "the film"), packed()]).await;
    let there = || reply(302, "").with("location", files.base.join("/film").unwrap());
    let plain = reply(200, "the film").with("content-encoding", "identity");
    let home = Server::start([plain, packed(), there(), there()]).await;
    let provider = home.provider();
    let output = Output { handle: handle(), place: Place::Handle, expires_at: None };
    for from in ["home", "elsewhere"] {
        assert_eq!(provider.fetch(&output).await.unwrap().length(), Some(8), "{from}");
        let refused = provider.fetch(&output).await.err();
        let told = matches!(&refused, Some(FetchError::Read(ReadError::Refused { class: FailureClass::ProviderFault, message }))
            if message.contains("content coding"));
        assert!(told, "{from}: {refused:?}");
    }
    let seen = [home.seen(), files.seen()].concat();
    assert_eq!(seen.len(), 6);
    assert!(seen.iter().all(|seen| seen.header("accept-encoding") == Some("identity")), "{seen:?}");
}

#[tokio::test]
async fn a_thumbnail_is_asked_for_once_and_may_be_missing() {
    let output = Output { handle: handle(), place: Place::Handle, expires_at: None };
    for (answer, found) in [
        (reply(200, "a picture"), Ok(Some(Some(9)))),
        (reply(404, error("not_found")), Ok(None)),
        (reply(400, error("unknown_parameter")), Ok(None)),
        (reply(501, ""), Ok(None)),
        (reply(500, ""), Err(())),
        (reply(429, error("rate_limit_exceeded")), Err(())),
        (reply(200, "packed").with("content-encoding", "gzip"), Err(())),
    ] {
        let status = answer.status;
        let server = Server::start([answer]).await;
        let provider = server.provider();
        let fetched = provider.fetch_thumbnail(&output).await;
        assert_eq!(fetched.map(|picture| picture.map(|picture| picture.length())).map_err(|_| ()), found, "{status}");
        let lines: Vec<String> = server.seen().iter().map(Seen::line).collect();
        assert_eq!(lines, ["GET /v1/videos/video_1/content?variant=thumbnail"], "{status}");
    }
}

#[tokio::test]
async fn a_download_that_breaks_off_ends_with_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut chunk = [0; 4096];
        assert!(stream.read(&mut chunk).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf a film").await.unwrap();
    });
    let stream = provider(base, |_, _| {})
        .fetch(&Output { handle: handle(), place: Place::Handle, expires_at: None })
        .await
        .unwrap();
    let ended: Result<Vec<Bytes>, FetchError> = stream.try_collect().await;
    assert!(matches!(ended, Err(FetchError::Read(ReadError::Unavailable { .. }))), "{ended:?}");
}

#[tokio::test]
async fn a_file_that_comes_too_slowly_is_ended_wherever_it_comes_from() {
    let start = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
    let slow = raw_drip(start).await;
    let redirect = Server::start([reply(302, "").with("location", slow.join("/film").unwrap())]).await;
    let attempts = Config::from_sources("", []).unwrap().attempts;
    for base in [&slow, &redirect.base] {
        let account = ProviderConfig::embedded("main", base.clone(), Secret::new(KEY));
        let provider = OpenaiVideos::new(&account, &attempts, &Egress::hasty()).unwrap();
        let output = Output { handle: handle(), place: Place::Handle, expires_at: None };
        let ended: Result<Vec<Bytes>, _> = provider.fetch(&output).await.unwrap().try_collect().await;
        let told =
            matches!(&ended, Err(FetchError::Read(ReadError::Unavailable { cause })) if cause.contains("too slowly"));
        assert!(told, "{ended:?}");
    }
    let slow = raw_drip("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{\"video\": \"").await;
    let account = ProviderConfig::embedded("main", slow, Secret::new(KEY));
    let credential = adapter::Credential::key(&account, "authorization", "Bearer ").unwrap();
    let api = adapter::ApiClient::new(&account, &attempts, &Egress::hasty(), credential, &adapter::Vocabulary::EMPTY)
        .unwrap();
    let inline = api.fetch_inline(&adapter::Ask::Get(api.url(["video"])), 0).await.unwrap();
    let ended = inline.try_collect::<Vec<Bytes>>().await;
    let told =
        matches!(&ended, Err(FetchError::Read(ReadError::Unavailable { cause })) if cause.contains("too slowly"));
    assert!(told, "{ended:?}");
}

#[tokio::test]
async fn neither_key_nor_prompt_nor_ids_stand_in_any_message() {
    let words = format!("Key {KEY} with prompt '{PROMPT}' for video_68d7512d at https://internal/x failed");
    let body = json!({"error": {"message": words, "code": KEY, "type": words}});
    let job = json!({"status": "failed", "prompt": PROMPT, "error": {"code": "x", "message": words}});
    let mut shown = String::new();
    for status in [400, 401, 403, 404, 422, 429, 500] {
        let server = Server::start([reply(status, &body)]).await;
        let provider = server.provider();
        shown += &format!("{:?}\n", submit(&provider).await);
        if status < 500 {
            shown += &format!("{:?}\n", provider.poll(&handle()).await);
        }
    }
    let server = Server::start([reply(200, &job)]).await;
    shown += &format!("{:?} {:?}", server.provider().poll(&handle()).await, request());
    for secret in [KEY, PROMPT, "68d7512d", "internal", "127.0.0.1"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    assert!(shown.contains("[removed]"), "{shown}");
}

#[test]
fn the_registry_names_every_account_and_model_that_cannot_work() {
    let mut config = Config::from_sources("", []).unwrap();
    let base: Url = "http://127.0.0.1:9/v1".parse().unwrap();
    config.set_provider(ProviderConfig::embedded("sora", base.clone(), Secret::new("k")));
    let registry = Registry::from_config(&config, &Egress::new()).unwrap();
    let catalogue = Catalogue::from_config(&config).unwrap();
    let error = registry.check(&catalogue).unwrap_err().to_string();
    assert!(error.contains("\"veo-3.1\" needs the account \"veo\"") && !error.contains("sora-2"), "{error}");
    assert_eq!(registry.get("sora").unwrap().name(), "sora");

    let without_key = ProviderConfig {
        api_key: None,
        api_key_env: Some("VEO_KEY".to_owned()),
        ..ProviderConfig::embedded("veo", base.clone(), Secret::new(""))
    };
    config.set_provider(without_key);
    config.set_provider(ProviderConfig::embedded("odd", base, Secret::new("line\nbreak")));
    let error = Registry::from_config(&config, &Egress::new()).unwrap_err();
    assert_eq!(error.0.len(), 2, "{error}");
    assert!(error.to_string().contains("VEO_KEY") && !error.to_string().contains("break"), "{error}");
}

/// Longer than any answer of these servers takes.
const PATIENT: Duration = Duration::from_secs(20);

fn guarded(allow_private: bool, timeout: Duration) -> GuardedClient {
    let policy = EgressPolicy { allow_private, timeout, max_response_bytes: 8 };
    Egress::new().guarded(policy).unwrap()
}

#[tokio::test]
async fn a_guarded_post_returns_every_answer_capped_and_follows_no_redirect() {
    let server = Server::start([
        reply(200, "twelve bytes").with("content-type", "text/plain").with("set-cookie", "a=b"),
        reply(302, "").with("location", "http://169.254.169.254/"),
        reply(503, "busy").with("retry-after", 9),
    ])
    .await;
    let client = guarded(true, PATIENT);
    let post = || client.post(&server.base, &[("webhook-id", "msg_1")], Bytes::from_static(b"{}"));
    let first = post().await.unwrap();
    assert_eq!((first.status, &first.body_prefix[..], first.truncated), (200, &b"twelve b"[..], true));
    assert_eq!(first.headers, [("content-type".to_owned(), "text/plain".to_owned())]);
    assert_eq!(post().await.unwrap().status, 302);
    let third = post().await.unwrap();
    assert_eq!((third.status, third.retry_after, third.truncated), (503, Some(Duration::from_secs(9)), false));
    assert_eq!(server.seen()[0].body, "{}");

    let refused = guarded(false, PATIENT).post(&server.base, &[], Bytes::new()).await;
    assert!(matches!(refused, Err(EgressError::RefusedUrl(_))), "{refused:?}");
    let wrong = client.post(&server.base, &[("x", "a\nb")], Bytes::new()).await;
    assert!(matches!(wrong, Err(EgressError::Setup(_))), "{wrong:?}");
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_guarded_post_without_an_answer_says_why() {
    let (silent, _) = raw_server(None).await;
    let hasty = Duration::from_millis(500);
    let timeout = guarded(true, hasty).post(&silent, &[], Bytes::new()).await.unwrap_err();
    assert_eq!(timeout, EgressError::Timeout(hasty));
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed: Url = format!("http://{}/", free.local_addr().unwrap()).parse().unwrap();
    drop(free);
    let refused = guarded(true, PATIENT).post(&closed, &[], Bytes::new()).await;
    assert!(matches!(refused, Err(EgressError::Connect(_))), "{refused:?}");
    let unknown: Url = "http://nobody.invalid/".parse().unwrap();
    let unresolved = guarded(true, PATIENT).post(&unknown, &[], Bytes::new()).await;
    assert!(matches!(unresolved, Err(EgressError::Unresolved)), "{unresolved:?}");
}
