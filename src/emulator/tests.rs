//! The emulator over HTTP, as an adapter sees it. Time is moved with `advance_clock`, never waited for.

use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

use super::{Emulator, EmulatorSettings, Fault, JobState, Nth, Profile, Rule};

const SEED: u64 = 42;
const KEY: &str = "sk-emulated";
/// Longer than any latency of the profiles used here.
const AGES_MS: u64 = 60_000;

struct Bench {
    emulator: Emulator,
    client: Client,
}

impl Bench {
    /// Jobs take half a minute, so that nothing finishes unless a test advances the clock.
    async fn new() -> Bench {
        Bench::with(SEED, Profile { latency_ms: (30_000, 30_000), ..Profile::calm() }).await
    }

    async fn with(seed: u64, profile: Profile) -> Bench {
        // A second installation is refused, which is fine: some other test came first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listen = "127.0.0.1:0".parse().unwrap();
        let settings = EmulatorSettings { listen, seed, api_key: KEY.to_owned(), profile };
        Bench { emulator: Emulator::start(settings).await.unwrap(), client: Client::new() }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.emulator.base_url())
    }

    async fn post(&self, body: Value) -> reqwest::Result<Response> {
        self.client.post(self.url("/videos")).bearer_auth(KEY).json(&body).send().await
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).bearer_auth(KEY).send().await.unwrap()
    }

    async fn create(&self, prompt: &str) -> Value {
        json_of(self.post(json!({"prompt": prompt})).await.unwrap(), StatusCode::OK).await
    }

    async fn id_of(&self, prompt: &str) -> String {
        text(&self.create(prompt).await["id"])
    }

    async fn poll(&self, id: &str) -> Value {
        json_of(self.get(&format!("/videos/{id}")).await, StatusCode::OK).await
    }

    async fn content(&self, id: &str) -> Response {
        self.get(&format!("/videos/{id}/content")).await
    }

    /// Status, code and `Retry-After` of a create that is refused.
    async fn refused(&self, prompt: &str) -> (u16, Value, Option<String>) {
        let answer = self.post(json!({"prompt": prompt})).await.unwrap();
        let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        let status = answer.status();
        assert!(answer.headers().contains_key("x-request-id"));
        let body = json_of(answer, status).await;
        let error = body["error"].as_object().unwrap();
        assert!(["message", "type", "param", "code"].iter().all(|key| error.contains_key(*key)), "{body}");
        (status.as_u16(), body["error"]["code"].clone(), retry_after)
    }

    async fn control(&self, path: &str, body: Value) -> Value {
        let url = format!("{}{path}", self.emulator.control_url());
        json_of(self.client.post(url).json(&body).send().await.unwrap(), StatusCode::OK).await
    }
}

async fn json_of(answer: Response, expected: StatusCode) -> Value {
    let status = answer.status();
    let body = answer.text().await.unwrap();
    assert_eq!(status, expected, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_video_is_created_polled_downloaded_deleted_and_charged_once() {
    let bench = Bench::new().await;
    let created =
        bench.post(json!({"prompt": "a red fox", "model": "sora-2-pro", "size": "1792x1024", "seconds": "8"}));
    let created = json_of(created.await.unwrap(), StatusCode::OK).await;
    assert_eq!((&created["object"], &created["status"]), (&json!("video"), &json!("queued")));
    assert_eq!((&created["seconds"], &created["size"]), (&json!("8"), &json!("1792x1024")));
    let id = text(&created["id"]);
    assert_eq!(bench.content(&id).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(bench.emulator.totals().charged_cents, 0);

    bench.emulator.advance_clock(15_000);
    let running = bench.poll(&id).await;
    assert_eq!(running["status"], json!("in_progress"));
    assert!((40..60).contains(&running["progress"].as_u64().unwrap()), "{running}");
    let early = bench.client.delete(bench.url(&format!("/videos/{id}"))).bearer_auth(KEY).send().await.unwrap();
    assert_eq!(early.status(), StatusCode::BAD_REQUEST);

    bench.emulator.advance_clock(15_000);
    let done = bench.poll(&id).await;
    assert_eq!((&done["status"], &done["progress"]), (&json!("completed"), &json!(100)));
    assert_eq!(done["expires_at"].as_u64().unwrap(), done["completed_at"].as_u64().unwrap() + 3_600);
    let clip = bench.content(&id).await;
    assert_eq!(clip.headers()["content-type"], "video/mp4");
    assert_eq!(&clip.bytes().await.unwrap()[4..8], b"ftyp");
    for variant in ["thumbnail", "spritesheet"] {
        let still = bench.get(&format!("/videos/{id}/content?variant={variant}")).await;
        assert_eq!(still.headers()["content-type"], "image/webp");
        assert_eq!(&still.bytes().await.unwrap()[..4], b"RIFF");
    }

    let gone = bench.client.delete(bench.url(&format!("/videos/{id}"))).bearer_auth(KEY).send().await.unwrap();
    let gone = json_of(gone, StatusCode::OK).await;
    assert_eq!(gone, json!({"id": id, "object": "video.deleted", "deleted": true}));
    assert_eq!(bench.get(&format!("/videos/{id}")).await.status(), StatusCode::NOT_FOUND);

    let book = bench.emulator.book();
    let job = &book.jobs[0];
    assert_eq!((job.id.as_str(), job.state, job.charged_cents), (id.as_str(), JobState::Completed, 400));
    assert_eq!((job.downloads, job.deleted, job.answer_lost), (1, true, false));
    assert_eq!((book.totals.accepted, book.totals.charged_cents, book.totals.downloads), (1, 400, 1));
    bench.emulator.stop().await.unwrap();
}

#[tokio::test]
async fn a_multipart_create_means_the_same_as_a_json_one() {
    let bench = Bench::new().await;
    let image = reqwest::multipart::Part::bytes(vec![0xFF, 0xD8, 0xFF]).file_name("first.jpg");
    let form = reqwest::multipart::Form::new().text("prompt", "ein Fuchs – im Schnee").text("model", "veo-3.1");
    let form = form.text("seconds", "6").text("size", "1080x1920").part("input_reference", image);
    let answer = bench.client.post(bench.url("/videos")).bearer_auth(KEY).multipart(form).send().await.unwrap();
    let video = json_of(answer, StatusCode::OK).await;
    assert_eq!(video["prompt"], json!("ein Fuchs – im Schnee"));
    let book = bench.emulator.book();
    assert_eq!((book.jobs[0].model.as_str(), book.jobs[0].seconds, book.jobs[0].price_cents), ("veo-3.1", 6, 240));
}

#[tokio::test]
async fn a_wrong_key_an_unknown_path_and_a_bad_body_get_the_envelope() {
    let bench = Bench::new().await;
    let create = bench.client.post(bench.url("/videos")).json(&json!({"prompt": "fox"}));
    let keyless = json_of(create.send().await.unwrap(), StatusCode::UNAUTHORIZED).await;
    assert_eq!(keyless["error"]["code"], json!("invalid_api_key"));
    let wrong = bench.client.get(bench.url("/videos")).bearer_auth("sk-other").send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    for (path, expected) in [
        ("/videos/video_unknown", StatusCode::NOT_FOUND),
        ("/videos/video_unknown/content", StatusCode::NOT_FOUND),
        ("/videos/a/b/c", StatusCode::NOT_FOUND),
        ("/images", StatusCode::NOT_FOUND),
        ("/videos?limit=101", StatusCode::BAD_REQUEST),
        ("/videos?order=sideways", StatusCode::BAD_REQUEST),
    ] {
        let body = json_of(bench.get(path).await, expected).await;
        assert!(body["error"]["message"].is_string(), "{path}: {body}");
    }
    let numeric = bench.post(json!({"prompt": "fox", "seconds": 4})).await.unwrap();
    assert_eq!(json_of(numeric, StatusCode::BAD_REQUEST).await["error"]["code"], json!("invalid_type"));
    let unknown = bench.post(json!({"prompt": "fox", "model": "sora-1"})).await.unwrap();
    assert_eq!(json_of(unknown, StatusCode::NOT_FOUND).await["error"]["code"], json!("model_not_found"));
    let garbage = bench.client.post(bench.url("/videos")).bearer_auth(KEY).body("{").send().await.unwrap();
    assert_eq!(garbage.status(), StatusCode::BAD_REQUEST);

    let totals = bench.emulator.totals();
    assert_eq!((totals.creates_seen, totals.accepted), (3, 0));
    let refused = ["unauthorized", "invalid_request", "model_not_found"].map(|kind| totals.refused_as(kind));
    assert_eq!(refused, [1, 2, 1]);
}

#[tokio::test]
async fn the_list_pages_in_both_orders_without_gap_or_repetition() {
    let bench = Bench::new().await;
    let mut made = Vec::new();
    for number in 0..25 {
        made.push(bench.id_of(&format!("fox {number}")).await);
    }
    for (order, expected) in [("asc", made.clone()), ("desc", made.iter().rev().cloned().collect())] {
        let mut seen = Vec::new();
        loop {
            let after = seen.last().map(|id| format!("&after={id}")).unwrap_or_default();
            let page =
                json_of(bench.get(&format!("/videos?limit=10&order={order}{after}")).await, StatusCode::OK).await;
            let ids: Vec<String> = page["data"].as_array().unwrap().iter().map(|video| text(&video["id"])).collect();
            assert_eq!((&page["first_id"], &page["last_id"]), (&json!(ids.first()), &json!(ids.last())));
            seen.extend(ids);
            if page["has_more"] == json!(false) {
                break;
            }
        }
        assert_eq!(seen, expected, "{order}");
    }
    let empty = json_of(bench.get("/videos?limit=0").await, StatusCode::OK).await;
    assert_eq!((&empty["data"], &empty["first_id"], &empty["has_more"]), (&json!([]), &Value::Null, &json!(true)));
    let newest = json_of(bench.get("/videos").await, StatusCode::OK).await;
    assert_eq!((newest["data"].as_array().unwrap().len(), text(&newest["first_id"])), (20, made[24].clone()));
    assert_eq!(bench.get("/videos?after=video_unknown").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn each_refusal_has_its_answer_and_books_nothing() {
    let bench = Bench::new().await;
    let cases = [
        (Fault::ModerationAtSubmit, (400, json!("sentinel_block"), None), "moderation"),
        (Fault::RateLimited { retry_after_secs: None }, (429, json!("rate_limit_exceeded"), None), "rate_limited"),
        (
            Fault::RateLimited { retry_after_secs: Some(7) },
            (429, json!("rate_limit_exceeded"), Some("7".to_owned())),
            "rate_limited",
        ),
        (Fault::QuotaExhausted, (429, json!("insufficient_quota"), None), "quota"),
        (Fault::ModelNotFound, (404, json!("model_not_found"), None), "model_not_found"),
        (Fault::ServerError { status: 500 }, (500, Value::Null, None), "server_error"),
        (Fault::ServerError { status: 503 }, (503, json!("server_is_overloaded"), None), "server_error"),
    ];
    for (number, (fault, answer, kind)) in cases.into_iter().enumerate() {
        let prompt = format!("case {number}");
        let before = bench.emulator.totals().refused_as(kind);
        bench.emulator.script(Rule::on_prompt(prompt.clone(), fault.clone()));
        assert_eq!(bench.refused(&prompt).await, answer, "{fault:?}");
        assert_eq!(bench.emulator.totals().refused_as(kind), before + 1, "{fault:?}");
    }
    bench.emulator.script(Rule::on_prompt("gateway", Fault::HtmlBadGateway { accepted: false }));
    let page = bench.post(json!({"prompt": "gateway"})).await.unwrap();
    assert_eq!(
        (page.status(), page.headers()["content-type"].to_str().unwrap()),
        (StatusCode::BAD_GATEWAY, "text/html")
    );
    bench.emulator.script(Rule::on_prompt("dropped", Fault::DroppedBeforeAccept));
    assert!(bench.post(json!({"prompt": "dropped"})).await.is_err());
    let totals = bench.emulator.totals();
    assert_eq!((totals.creates_seen, totals.accepted, totals.answers_lost), (9, 0, 0));
}

#[tokio::test]
async fn an_accepted_job_whose_answer_is_lost_is_booked_listed_and_charged() {
    let bench = Bench::new().await;
    bench.emulator.script(Rule::on_prompt("dropped", Fault::DroppedAfterAccept));
    bench.emulator.script(Rule::on_prompt("error", Fault::ErrorAfterAccept { status: 500 }));
    bench.emulator.script(Rule::on_prompt("gateway", Fault::HtmlBadGateway { accepted: true }));
    bench.emulator.script(Rule::on_prompt("truncated", Fault::TruncatedAnswer));

    let dropped = bench.post(json!({"prompt": "dropped"})).await.unwrap_err();
    assert!(!dropped.is_connect() && dropped.is_request(), "{dropped:?}");
    assert_eq!(bench.post(json!({"prompt": "error"})).await.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(bench.post(json!({"prompt": "gateway"})).await.unwrap().status(), StatusCode::BAD_GATEWAY);
    let truncated = bench.post(json!({"prompt": "truncated"})).await.unwrap();
    assert_eq!(truncated.status(), StatusCode::OK);
    assert!(truncated.bytes().await.is_err());

    let list = json_of(bench.get("/videos?order=asc").await, StatusCode::OK).await;
    let prompts: Vec<String> = list["data"].as_array().unwrap().iter().map(|video| text(&video["prompt"])).collect();
    assert_eq!(prompts, ["dropped", "error", "gateway", "truncated"]);
    bench.emulator.advance_clock(AGES_MS);
    let book = bench.emulator.book();
    assert!(book.jobs.iter().all(|job| job.answer_lost && job.charged_cents == 40), "{book:?}");
    assert_eq!((book.totals.accepted, book.totals.answers_lost, book.totals.charged_cents), (4, 4, 160));
}

#[tokio::test]
async fn slow_answers_are_booked_before_the_client_gives_up() {
    let bench = Bench::new().await;
    bench.emulator.script(Rule::on_prompt("slow answer", Fault::SlowAnswer { ms: 60_000 }));
    bench.emulator.script(Rule::on_prompt("slow body", Fault::SlowBody { ms: 60_000 }));
    bench.emulator.script(Rule::on_prompt("bit late", Fault::SlowAnswer { ms: 5 }));
    let impatient = |prompt: &str| {
        let create = bench.client.post(bench.url("/videos")).bearer_auth(KEY).json(&json!({"prompt": prompt}));
        create.timeout(Duration::from_secs(3)).send()
    };
    assert!(impatient("slow answer").await.unwrap_err().is_timeout());
    let headers = impatient("slow body").await.unwrap();
    assert_eq!(headers.status(), StatusCode::OK);
    assert!(headers.bytes().await.unwrap_err().is_timeout());
    bench.create("bit late").await;
    let totals = bench.emulator.totals();
    assert_eq!((totals.accepted, totals.answers_lost), (3, 0));
    bench.emulator.stop().await.unwrap();
}

#[tokio::test]
async fn failed_jobs_say_why_and_cost_nothing() {
    let bench = Bench::new().await;
    bench.emulator.script(Rule::on_prompt("moderated", Fault::JobModerated));
    bench.emulator.script(Rule::on_prompt("broken", Fault::JobFailed));
    for (prompt, code) in [("moderated", "moderation_blocked"), ("broken", "video_generation_failed")] {
        let id = bench.id_of(prompt).await;
        bench.emulator.advance_clock(AGES_MS);
        let video = bench.poll(&id).await;
        assert_eq!((&video["status"], &video["error"]["code"]), (&json!("failed"), &json!(code)));
        assert!(video["error"]["message"].is_string());
        assert_eq!(bench.content(&id).await.status(), StatusCode::NOT_FOUND);
    }
    let totals = bench.emulator.totals();
    assert_eq!((totals.failed, totals.completed, totals.charged_cents), (2, 0, 0));
}

#[tokio::test]
async fn odd_jobs_stall_jump_speak_unknown_words_vanish_or_break_their_polls() {
    let bench = Bench::new().await;
    for (prompt, fault) in [
        ("stalled", Fault::Stall),
        ("jumping", Fault::ProgressBackwards),
        ("worded", Fault::UnknownStatus),
        ("vanished", Fault::Gone),
        ("unreachable", Fault::PollErrors { first: 2, status: 503 }),
    ] {
        bench.emulator.script(Rule::on_prompt(prompt, fault));
    }
    let stalled = bench.id_of("stalled").await;
    let jumping = bench.id_of("jumping").await;
    let worded = bench.id_of("worded").await;
    let vanished = bench.id_of("vanished").await;
    let unreachable = bench.id_of("unreachable").await;

    bench.emulator.advance_clock(15_000);
    let mut progress = Vec::new();
    for _poll in 0..4 {
        progress.push(bench.poll(&jumping).await["progress"].as_u64().unwrap());
    }
    assert!(progress.windows(2).any(|pair| pair[1] < pair[0]), "{progress:?}");
    assert_eq!(bench.poll(&worded).await["status"], json!("post_processing"));
    let polls =
        [bench.get(&format!("/videos/{unreachable}")).await, bench.get(&format!("/videos/{unreachable}")).await];
    assert!(polls.iter().all(|poll| poll.status() == StatusCode::SERVICE_UNAVAILABLE));

    bench.emulator.advance_clock(AGES_MS);
    assert_eq!(bench.poll(&stalled).await["status"], json!("in_progress"));
    for id in [&jumping, &worded, &unreachable] {
        assert_eq!(bench.poll(id).await["status"], json!("completed"));
    }
    assert_eq!(bench.get(&format!("/videos/{vanished}")).await.status(), StatusCode::NOT_FOUND);
    let list = json_of(bench.get("/videos").await, StatusCode::OK).await;
    assert_eq!(list["data"].as_array().unwrap().len(), 4);
    let totals = bench.emulator.totals();
    assert_eq!((totals.accepted, totals.in_progress, totals.charged_cents), (5, 1, 160));
}

#[tokio::test]
async fn downloads_expire_break_off_come_empty_or_are_no_video() {
    let bench = Bench::new().await;
    for (prompt, fault) in [
        ("expired", Fault::ExpiredLink),
        ("short", Fault::ShortBody { first: Some(1) }),
        ("empty", Fault::EmptyBody { first: None }),
        ("page", Fault::NotAVideo { first: Some(1) }),
    ] {
        bench.emulator.script(Rule::on_prompt(prompt, fault));
    }
    let mut ids = Vec::new();
    for prompt in ["expired", "short", "empty", "page", "fine"] {
        ids.push(bench.id_of(prompt).await);
    }
    bench.emulator.advance_clock(AGES_MS);
    assert_eq!(bench.poll(&ids[0]).await["status"], json!("completed"));
    assert_eq!(bench.content(&ids[0]).await.status(), StatusCode::NOT_FOUND);

    let mut short = bench.content(&ids[1]).await;
    let promised = short.content_length().unwrap();
    let mut received = 0;
    let end = loop {
        match short.chunk().await {
            Ok(Some(chunk)) => received += chunk.len() as u64,
            end => break end,
        }
    };
    assert!(end.is_err() && received == promised / 2, "{received} of {promised}: {end:?}");
    assert_eq!(bench.content(&ids[1]).await.bytes().await.unwrap().len() as u64, promised);

    for _every_time in 0..2 {
        assert_eq!(bench.content(&ids[2]).await.bytes().await.unwrap().len(), 0);
    }
    assert!(bench.content(&ids[3]).await.bytes().await.unwrap().starts_with(b"<!doctype html>"));
    assert_eq!(&bench.content(&ids[3]).await.bytes().await.unwrap()[4..8], b"ftyp");

    bench.emulator.advance_clock(3_600_000);
    assert_eq!(bench.content(&ids[4]).await.status(), StatusCode::NOT_FOUND);
    let totals = bench.emulator.totals();
    assert_eq!((totals.downloads, totals.charged_cents), (6, 200), "paid for all, whatever could be downloaded");
}

#[tokio::test]
async fn what_a_prompt_meets_depends_on_the_seed_and_not_on_order_or_time() {
    let fates = async |seed: u64, backwards: bool| {
        let bench = Bench::with(seed, Profile::rough()).await;
        let mut prompts: Vec<String> = (0..60).map(|number| format!("prompt {number}")).collect();
        if backwards {
            prompts.reverse();
        }
        for prompt in prompts.iter().chain(&prompts) {
            // Whether the answer arrives is part of what is compared below.
            let _ = bench.post(json!({"prompt": prompt})).await;
        }
        bench.emulator.advance_clock(AGES_MS);
        let book = bench.emulator.book();
        let mut jobs: Vec<_> = book.jobs.into_iter().map(|job| (job.prompt, job.nth, job.state, job.fault)).collect();
        jobs.sort_by_key(|(prompt, nth, ..)| (prompt.clone(), *nth));
        (jobs, book.totals.refused, book.totals.charged_cents)
    };
    let (first, again, other) = (fates(SEED, false).await, fates(SEED, true).await, fates(SEED + 1, false).await);
    assert_eq!(first, again);
    assert_ne!(first.0, other.0);
    assert!(first.0.iter().any(|(.., fault)| fault.is_some()), "seed {SEED} shows some faults");
}

#[tokio::test]
async fn ids_are_never_used_twice_not_even_with_the_same_seed() {
    let (first, second) = (Bench::new().await, Bench::new().await);
    let mut ids = vec![first.id_of("fox").await, second.id_of("fox").await];
    first.control("/reset", json!({})).await;
    ids.push(first.id_of("fox").await);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3, "{ids:?}");
}

#[tokio::test]
async fn the_demo_profile_gives_every_kind_of_prompt_its_fate() {
    let bench = Bench::with(SEED, Profile::demo()).await;
    assert_eq!(bench.refused("A documentary full of gore").await, (400, json!("sentinel_block"), None));
    // On the connection that the refusal left open: the client must not quietly try again on a new one.
    assert!(bench.post(json!({"prompt": "the lost answer"})).await.is_err());
    assert_eq!(bench.emulator.totals().accepted, 1);
    let mut ids = Vec::new();
    for prompt in ["A Real Celebrity dances", "impossible physics", "flaky weather"].repeat(2) {
        ids.push((prompt, bench.id_of(prompt).await));
    }
    for number in 0..20 {
        ids.push(("fine", bench.id_of(&format!("A calm lake, take {number}")).await));
    }
    bench.emulator.advance_clock(AGES_MS);
    let mut statuses = Vec::new();
    for (prompt, id) in &ids {
        statuses.push((*prompt, text(&bench.poll(id).await["status"])));
    }
    let of = |wanted: &str| {
        let matching = statuses.iter().filter(|(prompt, _)| *prompt == wanted);
        matching.map(|(_, status)| status.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(of("A Real Celebrity dances"), ["failed", "failed"]);
    assert_eq!(of("impossible physics"), ["failed", "failed"]);
    assert_eq!(of("flaky weather"), ["failed", "completed"]);
    assert_eq!(of("fine"), ["completed"; 20]);
}

#[tokio::test]
async fn the_control_endpoint_scripts_changes_ages_and_resets() {
    let bench = Bench::new().await;
    let rule = json!({"prompt_contains": "fox", "on_nth": {"from": 2, "to": 2}, "fault": {"kind": "quota_exhausted"}});
    assert_eq!(bench.control("/rules", rule).await.as_array().unwrap().len(), 1);
    let two = json!([{"model": "veo-3.1", "fault": {"kind": "job_failed"}, "latency_ms": 5}, {"fault": null}]);
    assert_eq!(bench.control("/rules", two).await.as_array().unwrap().len(), 3);
    bench.create("fox").await;
    assert_eq!(bench.refused("fox").await.0, 429);
    bench.create("fox").await;

    let client = &bench.client;
    let url = |path: &str| format!("{}{path}", bench.emulator.control_url());
    let patch = client.patch(url("/profile")).json(&json!({"poll_after_ms": 250, "content_not_ready_status": 400}));
    let profile = json_of(patch.send().await.unwrap(), StatusCode::OK).await;
    assert_eq!((&profile["poll_after_ms"], &profile["latency_ms"]), (&json!(250), &json!([30_000, 30_000])));
    let wrong = client.patch(url("/profile")).json(&json!({"no_such_knob": 1})).send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    let answer = bench.post(json!({"prompt": "heron"})).await.unwrap();
    assert_eq!(answer.headers()["openai-poll-after-ms"], "250");
    let id = text(&json_of(answer, StatusCode::OK).await["id"]);
    assert_eq!(bench.content(&id).await.status(), StatusCode::BAD_REQUEST);

    bench.control("/clock", json!({"advance_ms": AGES_MS})).await;
    assert_eq!(bench.poll(&id).await["status"], json!("completed"));
    let book = json_of(client.get(url("/book")).send().await.unwrap(), StatusCode::OK).await;
    assert_eq!(serde_json::from_value::<super::Book>(book).unwrap(), bench.emulator.book());
    let emptied = json_of(client.delete(url("/rules")).send().await.unwrap(), StatusCode::OK).await;
    assert_eq!(emptied, json!([]));
    let totals = bench.control("/reset", json!({})).await;
    assert_eq!((&totals["accepted"], &totals["creates_seen"]), (&json!(0), &json!(0)));
    assert_eq!(bench.get(&format!("/videos/{id}")).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn rules_set_in_process_count_their_uses_and_their_tries() {
    let bench = Bench::new().await;
    bench.emulator.script(Rule::always(Fault::ServerError { status: 503 }).times(2));
    bench.emulator.script(Rule::on_prompt("fox", Fault::JobFailed).nth(Nth { from: 3, to: Some(4) }).latency_ms(10));
    for _outage in 0..2 {
        assert_eq!(bench.refused("a fox").await.0, 503);
    }
    for _try in 0..3 {
        bench.create("a fox").await;
    }
    bench.emulator.advance_clock(AGES_MS);
    let book = bench.emulator.book();
    let states: Vec<_> = book.of_prompt("a fox").map(|job| (job.nth, job.state)).collect();
    assert_eq!(states, [(3, JobState::Failed), (4, JobState::Failed), (5, JobState::Completed)]);
    assert_eq!((book.creates.len(), book.busiest_window(AGES_MS, Some("sora-2"))), (5, 5));
}

#[tokio::test]
async fn many_clients_at_once_lose_nothing() {
    let bench = Bench::with(SEED, Profile::calm()).await;
    let clients = (0..8).map(|client| {
        let bench = &bench;
        async move {
            for number in 0..50 {
                bench.create(&format!("client {client}, prompt {number}")).await;
            }
        }
    });
    futures_util::future::join_all(clients).await;
    bench.emulator.advance_clock(AGES_MS);
    let book = bench.emulator.book();
    assert_eq!((book.totals.accepted, book.totals.completed, book.totals.charged_cents), (400, 400, 16_000));
    assert_eq!((book.jobs.len(), book.creates.len()), (400, 400));
}

/// A create under an idempotency key.
async fn under_key(bench: &Bench, key: &str, prompt: &str) -> reqwest::Result<Response> {
    let post = bench.client.post(bench.url("/videos")).bearer_auth(KEY).header("idempotency-key", key);
    post.json(&json!({"prompt": prompt})).send().await
}

#[tokio::test]
async fn the_same_key_is_answered_by_the_same_job_also_when_answers_were_lost() {
    let profile = Profile { honours_keys: true, latency_ms: (30_000, 30_000), ..Profile::calm() };
    let bench = Bench::with(SEED, profile).await;
    bench.emulator.script(Rule::on_prompt("lost", Fault::DroppedAfterAccept).nth(Nth { from: 1, to: Some(2) }));
    assert!(under_key(&bench, "k1", "lost").await.is_err());
    assert!(under_key(&bench, "k1", "lost").await.is_err(), "the answer to a repeated create may be lost too");
    let again = json_of(under_key(&bench, "k1", "lost").await.unwrap(), StatusCode::OK).await;
    let book = bench.emulator.book();
    assert_eq!((book.totals.creates_seen, book.totals.accepted, book.totals.replayed), (3, 1, 2));
    assert_eq!((text(&again["id"]), Some("k1")), (book.jobs[0].id.clone(), book.jobs[0].idempotency_key.as_deref()));
    assert!(book.creates.iter().all(|create| create.idempotency_key.as_deref() == Some("k1")), "{book:?}");
    // another key buys another
    json_of(under_key(&bench, "k2", "lost").await.unwrap(), StatusCode::OK).await;
    assert_eq!(bench.emulator.totals().accepted, 2);
}

#[tokio::test]
async fn another_order_under_a_used_key_is_refused_and_a_refused_one_uses_none() {
    let bench = Bench::with(SEED, Profile { honours_keys: true, ..Profile::calm() }).await;
    json_of(under_key(&bench, "k1", "a fox").await.unwrap(), StatusCode::OK).await;
    let error = json_of(under_key(&bench, "k1", "an owl").await.unwrap(), StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(error["error"]["type"], "idempotency_error");
    bench.emulator.script(Rule::on_prompt("busy", Fault::ServerError { status: 503 }).nth(Nth::only(1)));
    assert_eq!(under_key(&bench, "k2", "busy").await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    json_of(under_key(&bench, "k2", "busy").await.unwrap(), StatusCode::OK).await;
    let totals = bench.emulator.totals();
    assert_eq!((totals.accepted, totals.replayed, totals.refused_as("key_reused")), (2, 0, 1));
}

#[tokio::test]
async fn a_provider_that_does_not_honour_keys_makes_a_job_for_each_create() {
    let bench = Bench::new().await;
    for _ in 0..2 {
        json_of(under_key(&bench, "k1", "a fox").await.unwrap(), StatusCode::OK).await;
    }
    assert_eq!(bench.emulator.totals().accepted, 2);
}
