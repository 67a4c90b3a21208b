//! Retries: what failed of a batch, ordered again as a batch of its own, once, at today's price.

use std::collections::BTreeSet;
use std::time::Instant;

use freezeframe::emulator::{Fault, Nth, Rule};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::app::client::{Answer, BATCHES, Customer, item, order_of};
use crate::app::image_host::{ImageHost, png};
use crate::app::{API, TestApp, TestSettings};

const PRICE: i64 = 61;

async fn retry_with(customer: &Customer, id: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
    let body = body.map(Value::to_string);
    customer.call(Method::POST, &format!("{BATCHES}/{id}/retry"), headers, body).await
}

async fn retry(customer: &Customer, id: &str) -> Answer {
    retry_with(customer, id, &[], None).await
}

/// A provider that refuses "gore" once and "blood" always, fails "physics" for good, and takes everything else.
async fn app() -> TestApp {
    let rules = vec![
        Rule::on_prompt("gore", Fault::ModerationAtSubmit).nth(Nth::only(1)),
        Rule::on_prompt("blood", Fault::ModerationAtSubmit),
        Rule::on_prompt("physics", Fault::JobFailed),
    ];
    TestApp::start(TestSettings { rules, ..TestSettings::default() }).await
}

fn named(prompt: &str, custom_id: &str) -> Value {
    json!({"prompt": prompt, "model": "sora-2", "custom_id": custom_id, "metadata": {"of": custom_id}})
}

fn pointers(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect()
}

#[track_caller]
fn is_of(problem: &Value, kind: &str) {
    assert_eq!(problem["type"], format!("/problems#{kind}"), "{problem}");
}

/// A video of those, by its `custom_id`.
#[track_caller]
fn find<'v>(videos: &'v [Value], custom_id: &str) -> &'v Value {
    let found = videos.iter().find(|video| video["custom_id"] == custom_id);
    found.unwrap_or_else(|| panic!("no {custom_id} in {videos:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_and_nothing_else_is_made_again_and_both_batches_name_each_other() {
    let app = app().await;
    let customer = app.customer(1_000).await;
    let items = [named("sea", "sea"), named("gore", "gore"), named("hill", "hill"), named("blood", "blood")];
    let hook = app.receiver.endpoint("retries", &customer.webhook_secret);
    let body =
        json!({"items": items, "metadata": {"campaign": "spring"}, "videos_per_minute": 1000, "webhook_url": hook});
    let first = customer.order(&body).await;
    assert_eq!(app.finished_batch(&customer, &first).await.number("/counts/failed"), 2);
    assert_eq!(customer.available().await, 1_000 - 2 * PRICE);

    let accepted = retry(&customer, &first).await.expect(202);
    let second = accepted.batch_id();
    assert_eq!(accepted.headers["location"].to_str().unwrap(), format!("{BATCHES}/{second}"));
    assert_eq!((accepted.number("/total"), accepted.number("/frozen_credits")), (2, 2 * PRICE));
    let batch = app.finished_batch(&customer, &second).await;
    assert_eq!((batch.word("/status"), batch.word("/retry_of")), ("partial", first.as_str()), "{}", batch.text);
    assert_eq!((batch.number("/credits/charged"), batch.number("/credits/refunded")), (PRICE, PRICE));
    assert_eq!((batch.number("/videos_per_minute"), batch.word("/webhook_url")), (1_000, hook.as_str()));
    assert_eq!(batch.body["metadata"], json!({"campaign": "spring"}));
    assert_eq!(customer.available().await, 1_000 - 3 * PRICE);

    let original = customer.batch(&first).await;
    assert_eq!(original.body["retried_by"], json!([second]));
    assert!(original.body.get("retry_of").is_none() && batch.body.get("retried_by").is_none(), "{}", batch.text);
    let (before, after) = (customer.videos(&first).await, customer.videos(&second).await);
    assert_eq!(after.iter().map(|video| &video["custom_id"]).collect::<Vec<_>>(), ["gore", "blood"]);
    for name in ["gore", "blood"] {
        let (failed, again) = (find(&before, name), find(&after, name));
        assert_eq!((&again["retry_of"], &failed["retried_by"]), (&failed["video_id"], &again["video_id"]));
        assert_eq!((&again["metadata"], &again["size"]), (&failed["metadata"], &failed["size"]));
    }
    assert_eq!(find(&after, "gore")["state"], "succeeded");
    assert_eq!(find(&before, "gore")["state"], "failed", "what happened stays");
    assert!(find(&before, "sea").get("retried_by").is_none());
    // the prompts are those of the first order
    let made: Vec<String> = app.emulator.book().jobs.into_iter().map(|job| job.prompt).collect();
    assert_eq!(made.iter().filter(|prompt| *prompt == "gore").count(), 1);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_video_is_retried_once_and_what_fails_again_from_the_batch_that_retried_it() {
    let app = app().await;
    let customer = app.customer(1_000).await;
    let first =
        customer.order(&json!({"items": [named("gore", "a"), named("blood", "b"), named("physics", "c")]})).await;
    app.finished_batch(&customer, &first).await;
    let only = json!({"failure_types": ["moderation"]});
    let second = retry_with(&customer, &first, &[], Some(&only)).await.expect(202).batch_id();
    let problem = retry_with(&customer, &first, &[], Some(&only)).await.problem(409);
    is_of(&problem, "retried-before");
    assert!(problem["detail"].as_str().unwrap().contains(&second), "{problem}");
    // what was left out is still to be had, once
    let third = retry(&customer, &first).await.expect(202);
    assert_eq!(third.number("/total"), 1);
    let problem = retry(&customer, &first).await.problem(409);
    assert!(
        [&second, &third.batch_id()].iter().all(|id| problem["detail"].as_str().unwrap().contains(*id)),
        "{problem}"
    );
    app.all_batches_end().await;
    assert_eq!(customer.batch(&first).await.body["retried_by"], json!([second, third.batch_id()]));

    // a retry of a retry: "b" fails again and again, and each time from where it failed last
    let mut chain = vec![first, second];
    for _ in 0..3 {
        let last = chain.last().unwrap();
        let next = retry(&customer, last).await.expect(202);
        assert_eq!(next.number("/total"), 1);
        assert_eq!(app.finished_batch(&customer, &next.batch_id()).await.word("/retry_of"), last);
        chain.push(next.batch_id());
    }
    for earlier in &chain[..4] {
        is_of(&retry(&customer, earlier).await.problem(409), "retried-before");
    }
    assert_eq!(customer.available().await, 1_000 - PRICE, "the one that was made");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_equal_retries_at_once_make_one_batch_with_a_key_and_without_one() {
    let app = app().await;
    let customer = app.customer(1_000_000).await;
    for key in [None, Some("again-1")] {
        let before = customer.available().await;
        let batches = app.count("select count(*) from batches").await;
        let id = customer.order(&order_of(30, "blood")).await;
        app.finished_batch(&customer, &id).await;
        let headers: Vec<(&str, &str)> = key.iter().map(|key| ("Idempotency-Key", *key)).collect();
        let answers = join_all((0..12).map(|_| retry_with(&customer, &id, &headers, None))).await;
        let accepted: BTreeSet<String> =
            answers.iter().filter(|answer| answer.status == 202).map(Answer::batch_id).collect();
        assert_eq!(accepted.len(), 1, "{key:?}");
        let new = answers.iter().filter(|a| a.status == 202 && !a.headers.contains_key("idempotent-replayed")).count();
        assert_eq!(new, 1, "{key:?}");
        for answer in answers.iter().filter(|answer| answer.status != 202) {
            // busy for a moment (then it may be asked again), or told by whom they are retried
            assert!([409, 503].contains(&answer.status.as_u16()), "{}", answer.text);
            let kind = answer.word("/type").to_owned();
            let passes = answer.headers.contains_key("retry-after");
            assert!(passes || kind == "/problems#retried-before" && key.is_none(), "{}", answer.text);
        }
        assert_eq!(app.count("select count(*) from batches").await, batches + 2);
        let again = retry_with(&customer, &id, &headers, None).await;
        match key {
            Some(_) => assert_eq!(again.expect(202).batch_id(), *accepted.first().unwrap()),
            None => is_of(&again.problem(409), "retried-before"),
        }
        app.all_batches_end().await;
        assert_eq!(customer.available().await, before);
    }
    let freezes = app.count("select count(*) from credit_ledger where act = 'freeze'").await;
    assert_eq!(freezes, 4);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_belongs_to_one_retry_and_its_answer_outlives_what_made_it_valid() {
    let app = app().await;
    let customer = app.customer(10_000).await;
    let (one, two) = (customer.order(&order_of(1, "blood")).await, customer.order(&order_of(1, "blood too")).await);
    app.all_batches_end().await;
    let soon = chrono::Utc::now() + chrono::TimeDelta::seconds(3);
    let body = json!({"x-request-id": "k", "complete_by": soon});
    let first = retry_with(&customer, &one, &[], Some(&body)).await.expect(202);
    for (id, other) in [(&one, json!({"x-request-id": "k"})), (&two, body.clone())] {
        let problem = retry_with(&customer, id, &[], Some(&other)).await.problem(422);
        assert_eq!(pointers(&problem), ["/x-request-id"]);
    }
    // an order with the same key and nothing else in common, and the other way round
    let mut order = order_of(1, "sea");
    order["x-request-id"] = "k".into();
    assert_eq!(pointers(&customer.submit(&order).await.problem(422)), ["/x-request-id"]);
    order["x-request-id"] = "o".into();
    customer.order(&order).await;
    assert_eq!(
        pointers(&retry_with(&customer, &two, &[("X-Request-Id", "o")], None).await.problem(422)),
        ["/x-request-id"]
    );
    app.until("its time is over", async || chrono::Utc::now() > soon).await;
    let again = retry_with(&customer, &one, &[], Some(&body)).await.expect(202);
    assert_eq!((again.body, again.headers["idempotent-replayed"].to_str().unwrap()), (first.body, "true"));
    app.all_batches_end().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_runs_has_no_failure_or_is_anothers_is_not_retried() {
    let mut app = app().await;
    let (customer, other) = (app.customer(1_000).await, app.customer(1_000).await);
    let fine = customer.order(&order_of(1, "sea")).await;
    let failed = customer.order(&order_of(1, "blood")).await;
    app.all_batches_end().await;
    is_of(&retry(&customer, &fine).await.problem(409), "nothing-to-retry");
    let timeouts = json!({"failure_types": ["timeout"]});
    is_of(&retry_with(&customer, &failed, &[], Some(&timeouts)).await.problem(409), "nothing-to-retry");
    let problem = retry(&other, &failed).await.problem(404);
    assert_eq!(problem["detail"], retry(&customer, "bat_01ARZ3NDEKTSV4RRFFQ69G5FAV").await.problem(404)["detail"]);
    retry(&customer, "bat_1").await.problem(404);
    retry_with(&customer, &failed, &[("X-API-Key", "nonsense")], None).await.problem(401);

    // while a video of it is under way nobody knows what fails of it
    app.stop_service().await;
    app.set_roles(API);
    app.start_service().await;
    let (customer, other) = (app.here(&customer), app.here(&other));
    let running = customer.order(&order_of(2, "sea")).await;
    let problem = retry(&customer, &running).await.problem(409);
    is_of(&problem, "batch-not-ended");
    assert!(problem["detail"].as_str().unwrap().contains("it is queued"), "{problem}");
    assert_eq!(retry(&other, &running).await.status, 404);
    assert_eq!(app.count("select count(*) from batches where retry_of is not null").await, 0);
    assert_eq!(customer.available().await, 1_000 - 3 * PRICE);
    app.stop_service().await;
    app.set_roles(freezeframe::service::Roles::ALL);
    app.start_service().await;
    app.all_batches_end().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_body_is_told_field_by_field_and_nothing_is_frozen() {
    let app = TestApp::start(TestSettings {
        rules: vec![Rule::on_prompt("blood", Fault::ModerationAtSubmit)],
        allow_private_webhooks: false,
        ..TestSettings::default()
    })
    .await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&order_of(1, "blood")).await;
    app.finished_batch(&customer, &id).await;
    for (body, pointer) in [
        (json!([]), ""),
        (json!({"failure_types": []}), "/failure_types"),
        (json!({"failure_types": "timeout"}), "/failure_types"),
        (json!({"failure_types": ["timeout", "Moderation"]}), "/failure_types/1"),
        (json!({"failure_types": [7]}), "/failure_types/0"),
        (json!({"only": ["timeout"]}), "/only"),
        (json!({"reference_images": []}), "/reference_images"),
        (json!({"reference_images": {"0": 7}}), "/reference_images/0"),
        (json!({"reference_images": {"00": null}}), "/reference_images/00"),
        (json!({"reference_images": {"0": "https://example.com/x.png"}}), "/reference_images/0"),
        (json!({"items": []}), "/items"),
        (json!({"webhook_url": "http://127.0.0.1/x"}), "/webhook_url"),
        (json!({"videos_per_minute": 0}), "/videos_per_minute"),
        (json!({"complete_by": "2020-01-01T00:00:00Z"}), "/complete_by"),
        (json!({"metadata": {"a": 1}}), "/metadata"),
        (json!({"x-request-id": "two words"}), "/x-request-id"),
    ] {
        let problem = retry_with(&customer, &id, &[], Some(&body)).await.problem(422);
        assert_eq!(pointers(&problem), [pointer], "{body}");
    }
    let all = json!({"failure_types": ["x"], "videos_per_minute": 0, "y": 1});
    assert_eq!(retry_with(&customer, &id, &[], Some(&all)).await.problem(422)["errors"].as_array().unwrap().len(), 3);
    let keys = [("X-Request-Id", "a"), ("Idempotency-Key", "b")];
    assert_eq!(pointers(&retry_with(&customer, &id, &keys, None).await.problem(422)), ["/x-request-id"]);
    let post = |body: &str, kind: &str| {
        let request = customer.http.post(format!("{}{BATCHES}/{id}/retry", customer.base));
        request.header("X-API-Key", &customer.api_key).header("content-type", kind).body(body.to_owned()).send()
    };
    assert_eq!(post("{", "application/json").await.unwrap().status(), 400);
    assert_eq!(post("{}", "text/plain").await.unwrap().status(), 415);
    assert_eq!(post(&" ".repeat(5 << 20), "application/json").await.unwrap().status(), 413);
    assert_eq!(app.count("select count(*) from batches").await, 1);
    assert_eq!(customer.available().await, 1_000);
    // nulls are as good as nothing, and a body may be empty
    let nulls = json!({"failure_types": null, "webhook_url": null, "complete_by": null});
    retry_with(&customer, &id, &[], Some(&nulls)).await.expect(202);
    app.all_batches_end().await;
    app.finish().await;
}

/// Sells `clip` for so many credits, `sora-2` for 61, and whatever else is said.
fn models(clip: i64, more: &str) -> String {
    format!(
        r#"
[[model]]
name = "sora-2"
provider = "sora"
price_credits = 61
standard_seconds = 4
seconds = [4]
sizes = ["1280x720"]

[[model]]
name = "clip"
routes = [{{ provider = "sora", upstream = "sora-2" }}]
price_credits = {clip}
standard_seconds = 4
seconds = [4]
sizes = ["1280x720"]
{more}"#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_costs_what_it_costs_today_and_what_is_no_longer_offered_is_named_before_anything_is_frozen() {
    let rules = vec![Rule::on_prompt("blood", Fault::ModerationAtSubmit)];
    let mut app = TestApp::start(TestSettings { rules, models: models(60, ""), ..TestSettings::default() }).await;
    let customer = app.customer(1_000).await;
    let clip = |prompt: &str| json!({"prompt": prompt, "model": "clip"});
    let body = json!({"items": [item("blood"), clip("blood 1"), item("sea"), clip("blood 2")]});
    let first = customer.order(&body).await;
    app.finished_batch(&customer, &first).await;
    let left = 1_000 - PRICE;
    assert_eq!(customer.available().await, left);

    let settings = app.settings.clone();
    let gone = settings.replace("name = \"clip\"", "name = \"film\"");
    app.reload(&gone);
    let problem = retry(&customer, &first).await.problem(422);
    assert_eq!(pointers(&problem), ["/items/1/model", "/items/3/model"]);
    let retired = settings.replace("price_credits = 60", "price_credits = 60\navailable_until = \"2026-01-01\"");
    app.reload(&retired);
    let problem = retry(&customer, &first).await.problem(422);
    assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("no longer offered"), "{problem}");
    // dearer than the wallet: told with what is missing
    let dear = settings.replace("price_credits = 60", "price_credits = 500");
    app.reload(&dear);
    let problem = retry(&customer, &first).await.problem(402);
    assert_eq!(
        (&problem["required"], &problem["available"], &problem["shortfall"]),
        (&json!(1061), &json!(left), &json!(122))
    );
    assert_eq!((customer.available().await, app.count("select count(*) from batches").await), (left, 1));
    let cheaper = settings.replace("price_credits = 60", "price_credits = 7");
    app.reload(&cheaper);
    let second = retry(&customer, &first).await.expect(202);
    assert_eq!(second.number("/frozen_credits"), PRICE + 2 * 7);
    app.finished_batch(&customer, &second.batch_id()).await;
    assert_eq!(customer.available().await, left);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_video_that_started_from_an_image_starts_from_it_again_or_is_named() {
    let app = app().await;
    let customer = app.customer(1_000).await;
    let upload = async || {
        let request = customer.http.post(format!("{}/api/enterprise/images", customer.base));
        let request = request.header("X-API-Key", &customer.api_key).header("content-type", "image/png");
        let answer = request.body(png(1280, 720, 1)).send().await.unwrap();
        let stored = answer.status().is_success();
        stored.then_some(serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap()["id"].clone())
    };
    let image = upload().await.unwrap();
    let with_image = |prompt: &str| json!({"prompt": prompt, "model": "sora-2", "reference_image": image});
    let first = customer
        .order(&json!({"items": [item("sea"), with_image("gore"), item("blood"), with_image("blood 2")]}))
        .await;
    app.finished_batch(&customer, &first).await;
    // as after its retention
    assert_eq!(app.execute("update reference_images set purging_at = now()").await, 1);
    let problem = retry(&customer, &first).await.problem(422);
    assert_eq!(pointers(&problem), ["/items/1/reference_image", "/items/3/reference_image"]);
    assert_eq!((customer.available().await, app.count("select count(*) from batches").await), (1_000 - PRICE, 1));
    // the same bytes are the same image again
    app.until("it is uploaded again", async || upload().await.is_some()).await;
    let second = retry(&customer, &first).await.expect(202).batch_id();
    app.finished_batch(&customer, &second).await;
    let jobs = app.emulator.book().jobs;
    let again = jobs.iter().find(|job| job.prompt == "gore").unwrap();
    assert!(again.image_sha256.is_some());
    let kept =
        format!("select count(*) from reference_image_uses where batch_id = '{}'", second.trim_start_matches("bat_"));
    assert_eq!(app.count(&kept).await, 1, "the image is kept for the new batch");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_url_of_an_image_is_not_kept_and_has_to_be_named_again_or_its_video_is_left_out() {
    let rules = vec![
        Rule::on_prompt("gore", Fault::ModerationAtSubmit).nth(Nth::only(1)),
        Rule::on_prompt("blood", Fault::ModerationAtSubmit),
    ];
    let local = "\n[images]\nallow_private_sources = true\n".to_owned();
    let mut app = TestApp::start(TestSettings { rules, more_storage: local, ..TestSettings::default() }).await;
    let (host, customer) = (ImageHost::start().await, app.customer(10_000).await);
    let with_url = |prompt: &str, file: &str| json!({"prompt": prompt, "model": "sora-2", "reference_image_url": host.url(&format!("{file}?signature=hunter2"))});
    let items = [with_url("gore", "good.png"), item("sea"), item("gore plain"), with_url("blood", "good.png")];
    let first = customer.order(&json!({ "items": items })).await;
    app.finished_batch(&customer, &first).await;
    assert_eq!(app.count("select count(*) from videos where reference_image is not null").await, 0);
    let forgotten = ["/items/0/reference_image_url", "/items/3/reference_image_url"];
    assert_eq!(pointers(&retry(&customer, &first).await.problem(422)), forgotten);
    for (images, expected) in [
        (json!({"0": host.url("good.png")}), vec!["/items/3/reference_image_url"]),
        (json!({"0": "gopher://x", "3": null}), vec!["/reference_images/0"]),
        (json!({"0": format!("sha256:{}", "a".repeat(64)), "3": null}), vec!["/reference_images/0"]),
        // made, without an image, and none at all
        (
            json!({"0": null, "1": null, "2": null, "3": null, "9": null}),
            vec!["/reference_images/1", "/reference_images/2", "/reference_images/9"],
        ),
    ] {
        let body = json!({ "reference_images": images });
        assert_eq!(pointers(&retry_with(&customer, &first, &[], Some(&body)).await.problem(422)), expected, "{body}");
    }
    let body = json!({"reference_images": {"0": host.url("good.png"), "3": null}});
    let second = retry_with(&customer, &first, &[], Some(&body)).await.expect(202);
    assert_eq!(second.number("/total"), 2);
    assert_eq!(app.finished_batch(&customer, &second.batch_id()).await.number("/counts/succeeded"), 2);
    let jobs = app.emulator.book().jobs;
    for (prompt, has_image) in [("gore", true), ("gore plain", false)] {
        assert_eq!(jobs.iter().find(|job| job.prompt == prompt).unwrap().image_sha256.is_some(), has_image, "{prompt}");
    }
    // what was left out can still be had; without it nothing is left
    let nothing = json!({"reference_images": {"3": null}});
    assert_eq!(pointers(&retry_with(&customer, &first, &[], Some(&nothing)).await.problem(422)), ["/reference_images"]);

    // what was withdrawn had its image too
    app.stop_service().await;
    app.set_roles(API);
    app.start_service().await;
    let customer = app.here(&customer);
    let third = customer.order(&json!({"items": [with_url("late", "good.png")]})).await;
    customer.call(Method::POST, &format!("{BATCHES}/{third}/cancel"), &[], None).await.expect(200);
    app.stop_service().await;
    app.set_roles(freezeframe::service::Roles::ALL);
    app.start_service().await;
    let customer = app.here(&customer);
    app.finished_batch(&customer, &third).await;
    assert_eq!(pointers(&retry(&customer, &third).await.problem(422)), forgotten[..1]);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_cancelled_videos_are_retried_in_one_act_within_the_time_of_a_request() {
    let mut app = TestApp::start(TestSettings { roles: API, ..TestSettings::default() }).await;
    let customer = app.customer(610_000).await;
    let first = customer.order(&order_of(10_000, "frame")).await;
    customer.call(Method::POST, &format!("{BATCHES}/{first}/cancel"), &[], None).await.expect(200);
    let mut id = first.clone();
    for _ in 0..2 {
        // withdrawn before a video begins: nothing is released of what is cancelled
        app.stop_service().await;
        app.set_roles(freezeframe::service::Roles { api: true, worker: true, scheduler: false });
        app.start_service().await;
        let customer = app.here(&customer);
        assert_eq!(app.finished_batch(&customer, &id).await.number("/counts/cancelled"), 10_000);
        if id != first {
            break;
        }
        app.stop_service().await;
        app.set_roles(API);
        app.start_service().await;
        let customer = app.here(&customer);
        let asked = Instant::now();
        let second = retry(&customer, &id).await.expect(202);
        eprintln!("10,000 videos were retried in {:?}", asked.elapsed());
        assert_eq!((second.number("/total"), second.number("/frozen_credits")), (10_000, 610_000));
        assert_eq!(customer.available().await, 0);
        id = second.batch_id();
        let asked = Instant::now();
        is_of(&retry(&customer, &first).await.problem(409), "retried-before");
        eprintln!("the second click was answered in {:?}", asked.elapsed());
        customer.call(Method::POST, &format!("{BATCHES}/{id}/cancel"), &[], None).await.expect(200);
    }
    let pairs = "select count(*) from videos r join videos v on v.id = r.retry_of
                 where r.position = v.position and r.prompt = v.prompt and r.price_offset = v.price_offset";
    assert_eq!(app.count(pairs).await, 10_000);
    assert_eq!(app.here(&customer).available().await, 610_000);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_itself_refuses_a_second_retry_and_one_of_what_did_not_fail() {
    let app = app().await;
    let (customer, other) = (app.customer(1_000).await, app.customer(1_000).await);
    let first = customer.order(&json!({"items": [item("blood"), item("sea"), item("blood 2")]})).await;
    let theirs = other.order(&order_of(1, "blood")).await;
    app.all_batches_end().await;
    let only = json!({"failure_types": ["moderation"]});
    let second = retry_with(&customer, &first, &[], Some(&only)).await.expect(202).batch_id();
    app.all_batches_end().await;
    let bare = |id: &str| id.trim_start_matches("bat_").to_owned();
    let state_of = async |statement: String| {
        let error = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(app.pool()).await.err();
        let error = error.unwrap_or_else(|| panic!("not refused: {statement}"));
        error.as_database_error().unwrap().code().unwrap().into_owned()
    };
    // a video more in the retrying batch that stands for one of those
    let video = |of: &str, batch: &str| {
        format!(
            "insert into videos (id, batch_id, tenant_id, position, model, prompt, seconds, size, price_credits, price_offset, retry_of)
             select 'X', '{}', v.tenant_id, 99, v.model, v.prompt, v.seconds, v.size, 0, 0, v.id
             from videos v where v.batch_id = '{}' and v.prompt = '{of}'",
            bare(&second),
            bare(batch)
        )
    };
    assert_eq!(state_of(video("blood", &first)).await, "23505", "retried twice");
    assert_eq!(state_of(video("sea", &first)).await, "23514", "made already");
    assert_eq!(state_of(video("blood 0", &theirs)).await, "23514", "another's");
    let batch = |of: &str, tenant_of: &str| {
        format!(
            "insert into batches (id, tenant_id, total, frozen_credits, request_id, retry_of)
             select 'X', tenant_id, 1, 0, 'r', '{}' from batches where id = '{}'",
            bare(of),
            bare(tenant_of)
        )
    };
    assert_eq!(state_of(batch(&theirs, &first)).await, "23514", "another's");
    assert_eq!(state_of(batch("X", &first)).await, "23514", "itself, or nothing");
    app.finish().await;
}
