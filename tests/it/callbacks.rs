//! Callbacks of providers, end to end: they shorten waiting and name orphans; lost, doubled, late, forged and wrong ones cost
//! nothing but the wait for the next poll. The audit at the end of each test holds the provider's book against ours.

use std::time::{Duration, Instant};

use freezeframe::emulator::{CallbackFault, Fault, Profile, Rule, SentCallback};
use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::app::client::{BATCHES, Customer, http_client};
use crate::app::process::free_port;
use crate::app::{API_AND_SCHEDULER, HOOK_SECRET, PATIENCE, TestApp, TestSettings};

/// Longer than any test: whoever waits for it has waited in vain.
const FOR_EVER_MS: u64 = 600_000;

/// An account of each kind that calls back, and a model for each.
fn accounts(poll_ms: u64) -> String {
    let account = |name: &str, kind: &str, path: &str, more: &str| {
        format!(
            "[[provider]]\nname = \"{name}\"\nkind = \"{kind}\"\nbase_url = \"{{emulator}}{path}\"\napi_key_env = \
             \"EMULATOR_KEY\"\nrequests_per_minute = 1000000\nmax_in_flight = 100000\npoll_interval_ms = {poll_ms}\n{more}\n"
        )
    };
    let model = |name: &str, upstream: &str| {
        format!(
            "[[model]]\nname = \"{name}\"\nprovider = \"{name}\"\nupstream = \"{upstream}\"\nprice_credits = 60\n\
             standard_seconds = 4\nseconds = [4]\nsizes = [\"1280x720\"]\n"
        )
    };
    let inputs = "inputs = { \"fal-ai/veo3.1\" = { duration = \"{seconds}s\", aspect_ratio = \"{aspect_ratio}\", \
                  resolution = \"{resolution}\" } }";
    [
        account("fal", "fal", "/fal", inputs),
        account("google", "veo_gemini", "/veo/v1beta", ""),
        account("omni", "gemini_omni", "/omni/v1beta", ""),
        account("hooked", "openai_videos", "/v1", "webhook_secret_env = \"EMULATOR_HOOK_SECRET\""),
        model("fal", "fal-ai/veo3.1/fast"),
        model("google", "veo-3.1-generate-preview"),
        model("omni", "gemini-omni-1.1-flash"),
        model("hooked", "sora-2"),
    ]
    .concat()
}

const KINDS: [&str; 4] = ["fal", "google", "omni", "hooked"];

fn settings(poll_ms: u64) -> TestSettings {
    let profile = Profile { latency_ms: (300, 400), ..TestSettings::default().profile };
    TestSettings { profile, models: accounts(poll_ms), ..TestSettings::default() }
}

fn order(items: impl IntoIterator<Item = (&'static str, &'static str)>) -> Value {
    let items = items.into_iter().map(|(model, prompt)| json!({"prompt": prompt, "model": model}));
    json!({"items": items.collect::<Vec<_>>()})
}

async fn start(settings: TestSettings) -> (TestApp, Customer) {
    let app = TestApp::start(settings).await;
    app.emulator.register_project_callback(&format!("{}/callbacks/hooked", app.base()), HOOK_SECRET);
    let customer = app.customer(100_000).await;
    (app, customer)
}

async fn completed(app: &TestApp, customer: &Customer, id: &str) {
    let batch = app.finished_batch(customer, id).await;
    assert_eq!(batch.word("/status"), "completed", "{}", batch.text);
}

fn calls(app: &TestApp, job: &str) -> Vec<SentCallback> {
    app.emulator.sent_callbacks().into_iter().filter(|sent| sent.job == job).collect()
}

fn job_of(app: &TestApp, prompt: &str) -> Option<String> {
    app.emulator.book().of_prompt(prompt).next().map(|job| job.id.clone())
}

/// Waits until the calls about the one job of a prompt were answered like this.
async fn answered(app: &TestApp, prompt: &str, statuses: &[u16]) {
    app.until(&format!("{prompt:?} was answered {statuses:?}"), async || {
        let job = job_of(app, prompt).unwrap_or_default();
        let seen: Vec<u16> = calls(app, &job).iter().filter_map(|sent| sent.status).collect();
        assert!(seen.len() <= statuses.len(), "{prompt:?}: {:?}", calls(app, &job));
        seen == statuses
    })
    .await;
}

/// A counter of this process. Other tests count as well, so that it is good for a lower bound alone.
async fn counted(app: &TestApp, account: &str, outcome: &str) -> u64 {
    let text = app.http.get(format!("{}/metrics", app.base())).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| {
        line.starts_with("freezeframe_provider_callbacks_total{")
            && line.contains(&format!("account=\"{account}\""))
            && line.contains(&format!("outcome=\"{outcome}\""))
    });
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_ends_a_wait_of_ten_minutes() {
    let mut long = settings(FOR_EVER_MS);
    long.profile.latency_ms = (FOR_EVER_MS, FOR_EVER_MS);
    let (app, customer) = start(long).await;
    let id = customer.order(&order(KINDS.map(|kind| (kind, kind)))).await;
    app.until("each job was looked at once", async || {
        let polls: Vec<u32> = app.emulator.book().jobs.iter().map(|job| job.polls).collect();
        polls == [1; KINDS.len()]
    })
    .await;
    let ended = Instant::now();
    app.emulator.advance_clock(FOR_EVER_MS);
    completed(&app, &customer, &id).await;
    assert!(ended.elapsed() < Duration::from_secs(60), "{:?}", ended.elapsed());
    for job in app.emulator.book().jobs {
        assert_eq!(job.polls, 2, "one after the order, one after the callback: {job:?}");
    }
    for kind in KINDS {
        answered(&app, kind, &[200]).await;
        assert!(counted(&app, kind, "noted").await >= 1, "{kind}");
    }
    assert_eq!(app.count("select count(*) from provider_callbacks where ended and job is not null").await, 4);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_found_by_its_callback_and_bought_once() {
    let mut lost = settings(FOR_EVER_MS);
    lost.rules = vec![Rule::always(Fault::DroppedAfterAccept)];
    let (app, customer) = start(lost).await;
    let orders = order([("fal", "fal lost"), ("google", "google lost"), ("omni", "omni lost")]);
    let id = customer.order(&orders).await;
    completed(&app, &customer, &id).await;
    let totals = app.emulator.totals();
    assert_eq!((totals.accepted, totals.answers_lost), (3, 3));
    for kind in ["fal", "google", "omni"] {
        assert!(counted(&app, kind, "adopted").await >= 1, "{kind}");
    }
    assert_eq!(app.count("select count(*) from attempts where n > 1").await, 0);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_may_come_before_the_answer_to_the_order_whether_that_comes_or_not() {
    let mut early = settings(100);
    let rule = |prompt: &str, fault| Rule { prompt_contains: Some(prompt.to_owned()), fault, ..Rule::default() };
    early.rules = vec![
        rule("without an answer", Some(Fault::DroppedAfterAccept)).callback(CallbackFault::Early),
        rule("with an answer", None).callback(CallbackFault::Early),
    ];
    let (app, customer) = start(early).await;
    let id = customer
        .order(&order([
            ("fal", "fal without an answer"),
            ("fal", "fal with an answer"),
            ("google", "google without an answer"),
            ("hooked", "hooked with an answer"),
        ]))
        .await;
    completed(&app, &customer, &id).await;
    assert_eq!(app.emulator.totals().accepted, 4);
    for prompt in ["fal without an answer", "fal with an answer", "google without an answer", "hooked with an answer"] {
        answered(&app, prompt, &[200]).await;
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_that_are_wrong_in_any_way_change_nothing() {
    let faults = [
        ("lost", CallbackFault::Lost, &[][..]),
        ("duplicated", CallbackFault::Duplicated { times: 3 }, &[200, 200, 200]),
        ("reordered", CallbackFault::Reordered, &[200, 200]),
        ("forged", CallbackFault::Forged, &[401]),
        ("stale", CallbackFault::Stale, &[401]),
        ("signed twice", CallbackFault::TwoSignatures, &[200]),
        ("huge", CallbackFault::Huge, &[413]),
        ("other job", CallbackFault::OtherJob, &[200]),
        ("late", CallbackFault::Late { ms: 4_000 }, &[200]),
        ("wrong token", CallbackFault::WrongToken, &[401]),
    ];
    let mut wrong = settings(1_500);
    let rule = |word: &str| Rule { prompt_contains: Some(format!("{word}.")), ..Rule::default() };
    wrong.rules = faults.iter().map(|(word, fault, _)| rule(word).callback(fault.clone())).collect();
    let (app, customer) = start(wrong).await;
    // a project's address has no token
    let prompts: Vec<(&str, String, &[u16])> = KINDS
        .into_iter()
        .flat_map(|kind| faults.iter().map(move |(word, _, statuses)| (kind, format!("{kind}: {word}."), *statuses)))
        .filter(|(kind, prompt, _)| !(*kind == "hooked" && prompt.contains("token")))
        .collect();
    let items = prompts.iter().map(|(kind, prompt, _)| json!({"model": kind, "prompt": prompt}));
    let id = customer.order(&json!({"items": items.collect::<Vec<_>>()})).await;
    completed(&app, &customer, &id).await;
    assert_eq!(app.emulator.totals().accepted as usize, prompts.len());
    let before = app.count("select count(*) from credit_ledger").await;
    for (_, prompt, statuses) in &prompts {
        answered(&app, prompt, statuses).await;
    }
    for (kind, outcome) in [("fal", "forged"), ("omni", "forged"), ("google", "again"), ("fal", "mismatch")] {
        assert!(counted(&app, kind, outcome).await >= 1, "{kind} {outcome}");
    }
    // one that comes after everything is over
    assert_eq!(app.count("select count(*) from credit_ledger").await, before);
    assert_eq!(app.count("select count(*) from attempts where n > 1 or state <> 'succeeded'").await, 0);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_the_provider_does_not_know_is_not_adopted_whoever_named_it() {
    let mut wrong = settings(200);
    let rule = Rule::on_prompt("a fox", Fault::DroppedAfterAccept).callback(CallbackFault::OtherJob);
    wrong.rules = vec![rule];
    let (app, customer) = start(wrong).await;
    app.emulator.keep_requests();
    let id = customer.order(&order([("fal", "a fox")])).await;
    app.until("the named job was asked about", async || {
        app.emulator.requests().iter().any(|seen| seen.target.contains("/requests/video_of_nobody/status"))
    })
    .await;
    assert_eq!(app.count("select count(*) from attempts where handle is not null").await, 0);
    // the name that should have come
    let job = job_of(&app, "a fox").unwrap();
    assert_eq!(
        app.execute(&format!("update provider_callbacks set job = '{job}', noted_at = clock_timestamp()")).await,
        1
    );
    completed(&app, &customer, &id).await;
    assert_eq!(app.emulator.totals().accepted, 1);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_taken_by_one_process_and_acted_on_by_another_that_was_not_there_when_it_came() {
    let mut apart = settings(FOR_EVER_MS);
    apart.roles = API_AND_SCHEDULER;
    apart.listen = Some(free_port());
    apart.submit_timeout_secs = 30;
    apart.rules = vec![
        Rule::on_prompt("orphan", Fault::SlowAnswer { ms: 20_000 }).latency_ms(3_600_000),
        Rule::takes("waits", 1_500),
    ];
    let (mut app, customer) = start(apart).await;
    let first = app.start_process("worker").await;
    let waits = customer.order(&order([("omni", "omni waits"), ("hooked", "hooked waits")])).await;
    completed(&app, &customer, &waits).await;

    let id = customer.order(&order([("fal", "fal orphan")])).await;
    app.until("fal has taken the order", async || app.emulator.totals().accepted == 3).await;
    app.process(first).signal(Signal::SIGKILL);
    app.process(first).wait();
    app.emulator.advance_clock(3_600_000);
    answered(&app, "fal orphan", &[200]).await;
    let second = app.start_process("worker").await;
    completed(&app, &customer, &id).await;
    assert_eq!(app.emulator.totals().accepted, 3);
    let token = calls(&app, &job_of(&app, "fal orphan").unwrap())[0].url.rsplit('/').next().unwrap().to_owned();
    let logs = [app.process(first).log(), app.process(second).log()].concat();
    assert!(!logs.contains(&token), "a token is in the log");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_takes_nothing_providers_are_told_to_come_again() {
    let (app, customer) = start(settings(FOR_EVER_MS)).await;
    let mut blocking = app.pool().begin().await.unwrap();
    sqlx::query("lock table provider_callbacks in share mode").execute(&mut *blocking).await.unwrap();
    let id = customer.order(&order([("fal", "patience")])).await;
    app.until("fal was told to come again", async || {
        app.emulator.sent_callbacks().first().is_some_and(|sent| sent.status == Some(503))
    })
    .await;
    // nobody else waits for it
    assert_eq!(app.http.get(format!("{}/readyz", app.base())).send().await.unwrap().status(), 200);
    customer.batch(&id).await;
    blocking.rollback().await.unwrap();
    completed(&app, &customer, &id).await;
    app.until("a repeated call was taken", async || {
        app.emulator.sent_callbacks().last().is_some_and(|sent| sent.status == Some(200))
    })
    .await;
    assert_eq!(app.count("select count(*) from provider_callbacks").await, 1);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_forged_calls_holds_nothing_up() {
    let (app, customer) = start(settings(FOR_EVER_MS)).await;
    let base = app.base();
    let flood = tokio::spawn(async move {
        let http = http_client();
        let waves = (0..20).map(|wave| {
            let (http, base) = (http.clone(), base.clone());
            async move {
                let mut seen = Vec::new();
                for n in 0..50 {
                    let path = if wave % 2 == 0 { format!("fal/{}", "A".repeat(64)) } else { "hooked".to_owned() };
                    let call = http.post(format!("{base}/callbacks/{path}")).header("webhook-id", n).body("{}");
                    seen.push(call.send().await.unwrap().status().as_u16());
                }
                seen
            }
        });
        futures_util::future::join_all(waves).await.concat()
    });
    let id = customer.order(&order([("fal", "honest"), ("hooked", "honest too")])).await;
    completed(&app, &customer, &id).await;
    let seen = flood.await.unwrap();
    assert_eq!(seen.len(), 1_000);
    assert!(seen.iter().all(|status| [401, 503].contains(status)), "{seen:?}");
    assert!(seen.contains(&401));
    assert_eq!(app.count("select count(*) from provider_callbacks").await, 2);
    app.finish().await;
}

/// A call by hand: its head with these headers, and so many bytes of a body that is longer.
async fn begun_call(base: &str, path: &str, headers: &str, sent: usize) -> TcpStream {
    let mut line = TcpStream::connect(base.rsplit_once("//").unwrap().1).await.unwrap();
    let head = format!("POST /callbacks/{path} HTTP/1.1\r\nHost: test\r\nContent-Length: 65000\r\n{headers}\r\n");
    line.write_all(head.as_bytes()).await.unwrap();
    // it may be refused in the middle
    let _ = line.write_all(&vec![b' '; sent]).await;
    line
}

/// What is said until the connection is closed.
async fn said(mut line: TcpStream) -> String {
    let mut said = Vec::new();
    let read = tokio::time::timeout(PATIENCE, line.read_to_end(&mut said));
    let _ = read.await.expect("the connection is never closed");
    String::from_utf8_lossy(&said).into_owned()
}

/// Headers of a call of a project that say everything but the truth.
fn plausible(at: chrono::DateTime<chrono::Utc>) -> String {
    format!("webhook-id: msg_1\r\nwebhook-timestamp: {}\r\nwebhook-signature: v1,AAAA\r\n", at.timestamp())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_refused_without_its_body_is_not_read() {
    // nobody who waits for a body gives it up within this test
    let patient = "body_stall_secs = 600\nbody_timeout_secs = 600";
    let (app, customer) = start(TestSettings { http: patient, ..settings(FOR_EVER_MS) }).await;
    let now = chrono::Utc::now();
    for (path, headers, status) in [
        ("fal", plausible(now), "404"),
        ("hooked", String::new(), "401"),
        ("hooked", plausible(now - chrono::TimeDelta::seconds(400)), "401"),
        ("hooked", plausible(now).replace("webhook-signature", "signature"), "401"),
    ] {
        let answer = said(begun_call(&app.base(), path, &headers, 0).await).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {headers}: {answer}");
    }
    drop(customer);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_calls_take_no_memory_from_orders_nor_from_calls_whose_address_was_given_out() {
    // as much for the bodies of all customers as one order may have
    let one = "max_buffered_body_bytes = 4194304\nbody_stall_secs = 600\nbody_timeout_secs = 600";
    let (app, customer) = start(TestSettings { http: one, ..settings(FOR_EVER_MS) }).await;
    let (base, headers) = (app.base(), plausible(chrono::Utc::now()));
    let crowd = (0..100).map(|_| begun_call(&base, "hooked", &headers, 60_000));
    let crowd = futures_util::future::join_all(crowd).await;
    let (told, mut answers) = tokio::sync::mpsc::unbounded_channel();
    for line in crowd {
        let told = told.clone();
        tokio::spawn(async move { told.send(said(line).await).unwrap() });
    }
    drop(told);
    // the door's memory is full
    let busy = answers.recv().await.unwrap();
    assert!(busy.starts_with("HTTP/1.1 503 ") && busy.contains("retry-after: "), "{busy}");

    let large = format!("{}{}", order([("fal", "a fox")]), " ".repeat(3_900_000));
    let accepted = customer.call(Method::POST, BATCHES, &[], Some(large)).await.expect(202).batch_id();
    completed(&app, &customer, &accepted).await;
    answered(&app, "a fox", &[200]).await;

    let mut slow = 0;
    while let Some(answer) = answers.recv().await {
        match answer.starts_with("HTTP/1.1 503 ") {
            true => {}
            false => {
                assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close"), "{answer}");
                slow += 1;
            }
        }
    }
    assert!(slow >= 60, "{slow} bodies were waited for");
    // and free again
    let id = customer.order(&order([("hooked", "a heron")])).await;
    completed(&app, &customer, &id).await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_nobody_was_given_is_not_there() {
    let (app, customer) = start(settings(FOR_EVER_MS)).await;
    let post = async |path: &str| {
        let answer = app.http.post(format!("{}/callbacks/{path}", app.base())).body("{}").send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(!text.contains("AAAA"), "{text}");
        (status, serde_json::from_str::<Value>(&text).unwrap()["detail"].as_str().unwrap_or_default().to_owned())
    };
    let nothing = post("unknown").await;
    assert_eq!(nothing.0, StatusCode::NOT_FOUND);
    assert_eq!(post("fal").await, nothing, "fal has no address for a project");
    assert_eq!(post("sora").await, nothing, "an account whose callbacks are not taken");
    assert_eq!(post(&format!("sora/{}", "A".repeat(64))).await, nothing);
    let forged = post(&format!("fal/{}", "A".repeat(64))).await;
    assert_eq!(forged.0, StatusCode::UNAUTHORIZED);
    assert_eq!(post("hooked").await, forged, "whatever is wrong, the answer is the same");
    let get = app.http.get(format!("{}/callbacks/hooked", app.base())).send().await.unwrap();
    assert_eq!((get.status(), &get.headers()["allow"]), (StatusCode::METHOD_NOT_ALLOWED, &"POST".parse().unwrap()));
    drop(customer);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_forgotten_after_some_days() {
    let (app, customer) = start(settings(FOR_EVER_MS)).await;
    let id = customer.order(&order([("fal", "old"), ("omni", "young")])).await;
    completed(&app, &customer, &id).await;
    app.execute("update provider_callbacks set noted_at = now() - interval '4 days' where account = 'fal'").await;
    app.until("the old one is gone", async || app.count("select count(*) from provider_callbacks").await == 1).await;
    assert_eq!(app.count("select count(*) from provider_callbacks where account = 'omni'").await, 1);
    app.finish().await;
}
