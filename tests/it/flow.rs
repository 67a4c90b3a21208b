//! A batch from the POST to the settled end: what succeeds is charged, what fails is refunded with its reason, nothing is
//! bought twice, and the customer sees numbers that add up all along.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use freezeframe::emulator::{Fault, Nth, Profile, Rule};
use freezeframe::storage::LinkSigner;
use reqwest::Method;
use ring::digest;
use serde_json::{Value, json};

use crate::app::client::{Answer, BATCHES, item, order_of};
use crate::app::{TestApp, TestSettings};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The counts and the credits of one answer must add up.
#[track_caller]
fn assert_adds_up(batch: &Answer) {
    let (count, credit) =
        (|name: &str| batch.number(&format!("/counts/{name}")), |name: &str| batch.number(&format!("/credits/{name}")));
    let sum = count("waiting") + count("in_progress") + count("succeeded") + count("failed");
    assert_eq!(count("total"), sum, "{}", batch.text);
    assert_eq!(credit("frozen"), credit("charged") + credit("refunded") + credit("held"), "{}", batch.text);
}

/// (what the prompt says, the fault of those creates)
fn rule(word: &str, fault: Fault) -> Rule {
    Rule::on_prompt(word, fault)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_twenty_with_failures_ends_partial_and_exact_to_the_credit() {
    let app = TestApp::start(TestSettings {
        rules: vec![
            rule("gore", Fault::ModerationAtSubmit),
            rule("celebrity", Fault::JobModerated),
            rule("impossible", Fault::JobFailed),
            rule("flaky", Fault::JobFailed).nth(Nth::only(1)),
            rule("busy", Fault::RateLimited { retry_after_secs: None }).nth(Nth { from: 1, to: Some(2) }),
        ],
        ..TestSettings::default()
    })
    .await;
    let customer = app.customer(10_000).await;
    let mut items: Vec<Value> = (0..12).map(|n| item(&format!("a lighthouse {n}"))).collect();
    items.extend(["gore 1", "gore 2", "a celebrity", "impossible", "flaky", "busy"].map(item));
    items.extend(
        (0..2).map(|n| json!({"prompt": format!("a heron {n}"), "model": "veo-3.1", "custom_id": format!("veo-{n}")})),
    );
    let url = app.receiver.endpoint("hooks", &customer.webhook_secret);
    let body = json!({"items": items, "webhook_url": url, "metadata": {"campaign": "spring"}});
    let accepted = customer.submit(&body).await.expect(202);
    let id = accepted.batch_id();
    assert_eq!(accepted.word("/status"), "queued");
    let frozen = 18 * 61 + 2 * 595;
    assert_eq!(accepted.number("/frozen_credits"), frozen);

    let batch = app.finished_batch(&customer, &id).await;
    assert_adds_up(&batch);
    assert_eq!(batch.word("/status"), "partial");
    assert_eq!((batch.number("/counts/succeeded"), batch.number("/counts/failed")), (16, 4));
    let charged = 14 * 61 + 2 * 595;
    assert_eq!(batch.number("/credits/charged"), charged);
    assert_eq!(batch.number("/credits/refunded"), 4 * 61);
    assert_eq!(batch.number("/credits/held"), 0);
    assert_eq!(customer.available().await, 10_000 - charged);

    let videos = customer.videos(&id).await;
    let failures: BTreeMap<u64, (&str, u64)> = videos
        .iter()
        .filter(|v| v["state"] == "failed")
        .map(|v| {
            (v["index"].as_u64().unwrap(), (v["failure"]["type"].as_str().unwrap(), v["attempts"].as_u64().unwrap()))
        })
        .collect();
    let expected =
        [(12, ("moderation", 1)), (13, ("moderation", 1)), (14, ("moderation", 1)), (15, ("provider_fault", 3))];
    assert_eq!(failures, expected.into());
    assert_eq!((videos[16]["attempts"].as_u64(), videos[17]["attempts"].as_u64()), (Some(2), Some(3)));
    assert_eq!(videos[18]["custom_id"], "veo-0");
    for video in &videos {
        let (price, failed) = (video["price_credits"].as_i64().unwrap(), video["state"] == "failed");
        assert_eq!(video["charged_credits"].as_i64().unwrap(), if failed { 0 } else { price });
        assert_eq!(video["refunded_credits"].as_i64().unwrap(), if failed { price } else { 0 });
        assert_eq!(video["output"].is_object(), !failed);
    }
    assert_ledger_tells_the_same(&customer.entries(&id).await, frozen, charged);

    let event = app.receiver.wait_for("hooks", 1).await.remove(0);
    assert!(event.verified);
    assert_eq!(event.body["type"], "batch.partial");
    assert_eq!(event.body["data"]["batch_id"], id.as_str());
    assert_eq!(event.body["data"]["credits"], json!({"frozen": frozen, "charged": charged, "refunded": 4 * 61}));
    assert_eq!(event.body["data"]["metadata"], json!({"campaign": "spring"}));
    app.finish().await;
}

#[track_caller]
fn assert_ledger_tells_the_same(entries: &[Value], frozen: i64, charged: i64) {
    let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
    for entry in entries {
        *sums.entry(entry["act"].as_str().unwrap()).or_default() += entry["amount"].as_i64().unwrap();
        for field in ["actor", "reason", "request_id"] {
            assert!(entry[field].as_str().is_some_and(|text| !text.is_empty()), "{entry}");
        }
        // a refund names its videos and their failure: it was made when they failed
        if entry["act"] == "refund" {
            assert_eq!(
                entry["video_ids"].as_array().unwrap().len() as u64,
                entry["video_count"].as_u64().unwrap(),
                "{entry}"
            );
            assert!(
                entry["video_count"].as_u64() > Some(0)
                    && ["moderation", "provider_fault"].contains(&entry["reason"].as_str().unwrap()),
                "{entry}"
            );
        }
        let (before, after) = (entry["balance_before"].as_i64().unwrap(), entry["balance_after"].as_i64().unwrap());
        assert_eq!((before - after).abs(), entry["amount"].as_i64().unwrap(), "{entry}");
    }
    assert_eq!(sums, [("freeze", frozen), ("charge", charged), ("refund", frozen - charged)].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_successes_complete_a_batch_and_all_failures_fail_it() {
    let app = TestApp::start(TestSettings {
        rules: vec![rule("gore", Fault::ModerationAtSubmit)],
        ..TestSettings::default()
    })
    .await;
    let customer = app.customer(1_000).await;
    let url = app.receiver.endpoint("hooks", &customer.webhook_secret);
    let with_hook = |mut body: Value| {
        body["webhook_url"] = url.clone().into();
        body
    };
    let good = customer.order(&with_hook(order_of(5, "a calm sea"))).await;
    let bad = customer.order(&with_hook(order_of(5, "gore"))).await;
    let (good, bad) = (app.finished_batch(&customer, &good).await, app.finished_batch(&customer, &bad).await);
    assert_eq!((good.word("/status"), good.number("/credits/charged")), ("completed", 305));
    assert_eq!(
        (bad.word("/status"), bad.number("/credits/charged"), bad.number("/credits/refunded")),
        ("failed", 0, 305)
    );
    assert_eq!(customer.available().await, 695);
    let mut kinds: Vec<String> =
        app.receiver.wait_for("hooks", 2).await.iter().map(|e| e.body["type"].as_str().unwrap().to_owned()).collect();
    kinds.sort();
    assert_eq!(kinds, ["batch.completed", "batch.failed"]);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_and_credits_add_up_at_every_look_while_a_batch_runs() {
    let profile = Profile { latency_ms: (10, 700), ..TestSettings::default().profile };
    let app = TestApp::start(TestSettings {
        profile,
        slots: 40,
        rules: vec![rule("7", Fault::JobFailed), rule("3", Fault::ModerationAtSubmit)],
        ..TestSettings::default()
    })
    .await;
    let customer = app.customer(100_000).await;
    let id = customer.order(&order_of(150, "frame")).await;
    let (mut looks_while_processing, mut settled) = (0, 0);
    let last = loop {
        let batch = customer.batch(&id).await;
        assert_adds_up(&batch);
        let now_settled = batch.number("/counts/succeeded") + batch.number("/counts/failed");
        assert!(now_settled >= settled, "a settled video came back: {}", batch.text);
        settled = now_settled;
        // a failure is back in the wallet at once, a charge comes at the end
        assert_eq!(batch.number("/credits/refunded"), 61 * batch.number("/counts/failed"));
        match batch.word("/status") {
            "processing" => looks_while_processing += 1,
            "queued" => {}
            _ => break batch,
        }
        assert_eq!(batch.number("/credits/charged"), 0);
    };
    assert!(looks_while_processing > 5, "the batch was looked at {looks_while_processing} times while it ran");
    assert_eq!(last.number("/counts/total"), settled);
    // the counters belong to the whole process: they have at least what this batch moved
    let metrics = app.http.get(format!("{}/metrics", app.base())).send().await.unwrap().text().await.unwrap();
    for (act, part) in [("freeze", "/credits/frozen"), ("charge", "/credits/charged"), ("refund", "/credits/refunded")]
    {
        let series = format!("freezeframe_credits_moved_total{{act=\"{act}\"}} ");
        let moved = metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse::<i64>().ok());
        assert!(moved >= Some(last.number(part)), "{act}: {moved:?}");
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_video_can_be_fetched_while_its_batch_still_runs() {
    let app =
        TestApp::start(TestSettings { rules: vec![Rule::takes("slow", 600_000)], ..TestSettings::default() }).await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&json!({"items": [item("quick"), item("slow")]})).await;
    let path = format!("{BATCHES}/{id}/videos");
    app.until("the first video is there", async || customer.get(&path).await.body["data"][0]["output"].is_object())
        .await;
    assert_eq!(customer.batch(&id).await.word("/status"), "processing");
    let video = customer.videos(&id).await.remove(0);
    let url = video["output"]["url"].as_str().unwrap();

    // the link is its own permission
    let whole = app.http.get(url).send().await.unwrap();
    assert_eq!(whole.status(), 200);
    assert_eq!(whole.headers()["content-type"], "video/mp4");
    let file = whole.bytes().await.unwrap();
    assert_eq!(file.len() as u64, video["output"]["bytes"].as_u64().unwrap());
    assert_eq!(hex(digest::digest(&digest::SHA256, &file).as_ref()), video["output"]["sha256"].as_str().unwrap());
    assert_eq!(&file[4..8], b"ftyp");

    let part = app.http.get(url).header("range", "bytes=4-7").send().await.unwrap();
    assert_eq!(
        (part.status().as_u16(), part.headers()["content-range"].to_str().unwrap().to_owned()),
        (206, format!("bytes 4-7/{}", file.len()))
    );
    assert_eq!(&part.bytes().await.unwrap()[..], b"ftyp");
    let outside = app.http.get(url).header("range", format!("bytes={}-", file.len())).send().await.unwrap();
    assert_eq!(outside.status(), 416);

    assert_links_cannot_be_made_up(&app, &video, url).await;
    // the other one may end now
    app.emulator.advance_clock(600_000);
    app.finished_batch(&customer, &id).await;
    app.finish().await;
}

async fn assert_links_cannot_be_made_up(app: &TestApp, video: &Value, url: &str) {
    let status = async |url: String| app.http.get(url).send().await.unwrap().status().as_u16();
    let (before, signature) = url.split_once("signature=").unwrap();
    let (first, rest) = signature.split_at(1);
    let other = if first == "A" { "B" } else { "A" };
    assert_eq!(status(format!("{before}signature={other}{rest}")).await, 403);
    let later = url.replace("expires=", "expires=9");
    assert_eq!(status(later).await, 403);
    assert!((400..404).contains(&status(url.split_once('?').unwrap().0.to_owned()).await));
    let id = video["video_id"].as_str().unwrap();
    let master = (*app.master).clone();
    let signer = LinkSigner::new(&master, app.base().parse().unwrap(), Duration::from_secs(60)).unwrap();
    let expired = signer.sign(id.parse().unwrap(), Utc::now() - TimeDelta::days(2), DateTime::<Utc>::MAX_UTC);
    assert_eq!(status(expired.url.to_string()).await, 410);
    let stranger = signer.sign(freezeframe::domain::VideoId::generate(), Utc::now(), DateTime::<Utc>::MAX_UTC);
    assert_eq!(status(stranger.url.to_string()).await, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_fail_is_told_by_its_type_after_the_attempts_that_it_deserves() {
    // prompt, fault, failure type, attempts, jobs that the provider took
    let table = [
        ("refused at submit", Fault::ModerationAtSubmit, "moderation", 1, 0),
        ("refused later", Fault::JobModerated, "moderation", 1, 1),
        ("breaks", Fault::JobFailed, "provider_fault", 3, 3),
        ("no quota", Fault::QuotaExhausted, "no_credit", 1, 0),
        ("switched off", Fault::ModelNotFound, "model_retired", 1, 0),
        ("link expires", Fault::ExpiredLink, "output_expired", 2, 2),
        ("no video", Fault::NotAVideo { first: None }, "provider_fault", 3, 3),
        ("empty file", Fault::EmptyBody { first: None }, "provider_fault", 3, 3),
        ("forgotten", Fault::Gone, "provider_fault", 3, 3),
    ];
    // the provider sells one length less than our catalogue says
    let mut profile = TestSettings::default().profile;
    for model in &mut profile.models {
        model.seconds.retain(|seconds| seconds != "12");
    }
    let rules = table.iter().map(|(prompt, fault, ..)| rule(prompt, fault.clone())).collect();
    let app = TestApp::start(TestSettings { rules, profile, ..TestSettings::default() }).await;
    let customer = app.customer(10_000).await;
    let mut items: Vec<Value> = table.iter().map(|(prompt, ..)| item(prompt)).collect();
    items.push(json!({"prompt": "too long", "model": "sora-2", "seconds": 12}));
    let id = customer.order(&json!({"items": items})).await;
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!(batch.word("/status"), "failed");
    let videos = customer.videos(&id).await;
    let book = app.emulator.book();
    for (at, (prompt, _, class, attempts, jobs)) in table.iter().enumerate() {
        let failure = &videos[at]["failure"];
        assert_eq!(
            (failure["type"].as_str(), videos[at]["attempts"].as_u64()),
            (Some(*class), Some(*attempts)),
            "{prompt}"
        );
        assert!(failure["message"].as_str().is_some_and(|text| text.len() > 10), "{prompt}: {failure}");
        assert!(!failure["message"].as_str().unwrap().contains(prompt), "a prompt is no message: {failure}");
        assert_eq!(book.of_prompt(prompt).count(), *jobs, "{prompt}");
    }
    assert_eq!(videos[table.len()]["failure"]["type"], "invalid_input");
    assert_eq!(customer.available().await, 10_000);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passing_fault_costs_time_and_not_the_video() {
    // prompt, fault, attempts, jobs that the provider took
    let table = [
        ("breaks once", Fault::JobFailed, Nth::only(1), 2, 2),
        ("overloaded", Fault::ServerError { status: 503 }, Nth::only(1), 2, 1),
        ("cut before", Fault::DroppedBeforeAccept, Nth::only(1), 2, 1),
        ("slow answer", Fault::SlowAnswer { ms: 300 }, Nth::only(1), 1, 1),
        ("bad polls", Fault::PollErrors { first: 3, status: 500 }, Nth::only(1), 1, 1),
        ("backwards", Fault::ProgressBackwards, Nth::only(1), 1, 1),
        ("strange word", Fault::UnknownStatus, Nth::only(1), 1, 1),
        ("cut file", Fault::ShortBody { first: Some(1) }, Nth::only(1), 1, 1),
    ];
    let rules = table.iter().map(|(prompt, fault, nth, ..)| rule(prompt, fault.clone()).nth(*nth)).collect();
    let app = TestApp::start(TestSettings { rules, ..TestSettings::default() }).await;
    let customer = app.customer(10_000).await;
    let items: Vec<Value> = table.iter().map(|(prompt, ..)| item(prompt)).collect();
    let id = customer.order(&json!({"items": items})).await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    let (videos, book) = (customer.videos(&id).await, app.emulator.book());
    for (at, (prompt, _, _, attempts, jobs)) in table.iter().enumerate() {
        assert_eq!(videos[at]["attempts"].as_u64(), Some(*attempts), "{prompt}");
        assert_eq!(book.of_prompt(prompt).count(), *jobs, "{prompt}");
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_answer_was_lost_is_found_and_never_bought_twice() {
    let lost = [
        ("dropped", Fault::DroppedAfterAccept),
        ("five hundred", Fault::ErrorAfterAccept { status: 500 }),
        ("truncated", Fault::TruncatedAnswer),
        ("gateway", Fault::HtmlBadGateway { accepted: true }),
        ("too late", Fault::SlowAnswer { ms: 4_000 }),
    ];
    let rules = lost.iter().map(|(prompt, fault)| rule(prompt, fault.clone())).collect();
    let app = TestApp::start(TestSettings { rules, submit_timeout_secs: 2, ..TestSettings::default() }).await;
    let customer = app.customer(10_000).await;
    // three of each with the very same prompt: each attempt must take a job of its own
    let items: Vec<Value> = lost.iter().flat_map(|(prompt, _)| (0..3).map(|_| item(prompt))).collect();
    let id = customer.order(&json!({"items": items})).await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    let book = app.emulator.book();
    assert_eq!(book.totals.accepted, 15, "bought twice");
    assert!(book.totals.answers_lost >= 12, "the faults did not happen: {:?}", book.totals);
    assert!(customer.videos(&id).await.iter().all(|video| video["attempts"] == 1));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_a_busy_provider_spends_no_attempt_and_is_as_long_as_it_asked() {
    let app = TestApp::start(TestSettings {
        skip_back_off: false,
        rules: vec![rule("busy", Fault::RateLimited { retry_after_secs: Some(3) }).nth(Nth::only(1))],
        ..TestSettings::default()
    })
    .await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&json!({"items": [item("busy")]})).await;
    app.until("the video waits", async || {
        app.count("select count(*) from videos where waits = 1 and attempts_spent = 0 and state = 'waiting'").await == 1
    })
    .await;
    // what waits holds nothing
    assert_eq!(app.count("select count(*) from apalis.jobs").await, 0);
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    let creates: Vec<u64> = app.emulator.book().creates.iter().map(|create| create.at_ms).collect();
    assert_eq!(creates.len(), 2);
    assert!(creates[1] - creates[0] >= 2_900, "asked for 3 s and waited {} ms", creates[1] - creates[0]);
    // the one that succeeded is all that was spent
    assert_eq!(app.count("select attempts_spent::bigint from videos").await, 1);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_wait_spends_no_attempt_however_often() {
    let app = TestApp::start(TestSettings {
        rules: vec![rule("busy", Fault::RateLimited { retry_after_secs: None }).nth(Nth { from: 1, to: Some(20) })],
        ..TestSettings::default()
    })
    .await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&json!({"items": [item("busy")]})).await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    let video = customer.videos(&id).await.remove(0);
    assert_eq!(video["attempts"], 21);
    assert_eq!(app.count("select attempts_spent::bigint from videos").await, 1);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_video_whose_wait_is_over_goes_before_those_never_tried() {
    const FOR_EVER_MS: u64 = 3_600_000;
    let app = TestApp::start(TestSettings {
        slots: 1,
        rules: vec![
            rule("busy", Fault::RateLimited { retry_after_secs: None }).nth(Nth::only(1)),
            Rule::takes("calm", FOR_EVER_MS),
        ],
        ..TestSettings::default()
    })
    .await;
    let customer = app.customer(10_000).await;
    let mut items: Vec<Value> = (0..5).map(|at| item(&format!("calm {at}"))).collect();
    items[0] = item("busy");
    let id = customer.order(&json!({"items": items})).await;
    // the second one is not made before the first one's wait is over
    app.until("the first one may be tried again while the second one is made", async || {
        app.count(
            "select (select count(*) from videos where position = 0 and attempts_made >= 1
                        and (state <> 'waiting' or eligible_at <= now()))
                  * (select count(*) from videos v join attempts a on a.video_id = v.id
                        where v.position = 1 and a.state = 'accepted')
                  * (select count(*) from provider_accounts where cooled_until <= now())",
        )
        .await
            == 1
    })
    .await;
    app.emulator.clear_script();
    app.emulator.advance_clock(FOR_EVER_MS);
    app.finished_batch(&customer, &id).await;
    let order: Vec<i32> = sqlx::query_scalar(
        "select v.position from attempts a join videos v on v.id = a.video_id order by a.sent_at, a.video_id",
    )
    .fetch_all(app.pool())
    .await
    .unwrap();
    // the back-off of the first one may outlast the release of the second, but not its making
    let again = order.iter().skip(1).position(|position| *position == 0).unwrap();
    assert!(again <= 1, "tried again too late: {order:?}");
    let first_tries: Vec<i32> = order.iter().copied().filter(|position| *position != 0).collect();
    assert_eq!(first_tries, [1, 2, 3, 4], "out of order: {order:?}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_shown_page_by_page_and_only_to_its_tenant() {
    let app = TestApp::start(TestSettings::default()).await;
    let (customer, other) = (app.customer(10_000).await, app.customer(10_000).await);
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(customer.order(&order_of(3, &format!("batch {n}"))).await);
    }
    for id in &ids {
        app.finished_batch(&customer, id).await;
    }
    let mut seen = Vec::new();
    let mut path = format!("{BATCHES}?limit=2");
    loop {
        let page = customer.get(&path).await.expect(200);
        seen.extend(page.body["data"].as_array().unwrap().iter().map(|b| b["batch_id"].as_str().unwrap().to_owned()));
        match page.body["next_cursor"].as_str() {
            Some(cursor) => path = format!("{BATCHES}?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    ids.reverse();
    assert_eq!(seen, ids);
    assert_eq!(customer.get(&format!("{BATCHES}?status=failed")).await.expect(200).body["data"], json!([]));
    customer.get(&format!("{BATCHES}?status=nonsense")).await.problem(400);
    for path in ["", "/videos", "/ledger"] {
        other.get(&format!("{BATCHES}/{}{path}", ids[0])).await.problem(404);
    }
    assert_eq!(other.get(BATCHES).await.expect(200).body["data"], json!([]));
    let no_key = other.call(Method::GET, BATCHES, &[("X-API-Key", "")], None).await;
    no_key.problem(401);
    app.finish().await;
}
