//! What does not begin any more: videos of a batch that was cancelled, or that was to be complete by now.

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use freezeframe::emulator::{Fault, Nth, Profile, Rule};
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::client::{Answer, BATCHES, Customer, order_of};
use crate::app::{API_AND_SCHEDULER, TestApp, TestSettings};

const PRICE: i64 = 61;
/// Promised from the cancellation to the last refund of what had not begun.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(2);

async fn cancel(customer: &Customer, id: &str) -> Answer {
    customer.call(Method::POST, &format!("{BATCHES}/{id}/cancel"), &[], None).await
}

/// A provider that takes its time, and five slots.
fn slow() -> TestSettings {
    let profile = Profile { latency_ms: (8_000, 9_000), one_clip_for_all: true, clip_seconds: 1, ..Profile::calm() };
    TestSettings { profile, slots: 5, ..TestSettings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_batch_refunds_what_has_not_begun_and_finishes_the_rest_however_often_it_is_said() {
    let app = TestApp::start(slow()).await;
    let customer = app.customer(100_000).await;
    let id = customer.order(&order_of(40, "frame")).await;
    app.until("five are being made", async || app.emulator.book().jobs.len() == 5).await;
    let first = cancel(&customer, &id).await.expect(200);
    let said = Instant::now();
    app.until("nothing waits any more", async || customer.batch(&id).await.number("/counts/waiting") == 0).await;
    println!("withdrawn after {:?}", said.elapsed());
    assert!(said.elapsed() < WITHDRAWN_WITHIN, "after {:?}", said.elapsed());
    let batch = customer.batch(&id).await;
    let withdrawn = batch.number("/counts/cancelled");
    assert_eq!((withdrawn, batch.number("/counts/in_progress")), (35, 5), "{}", batch.text);
    assert_eq!((batch.number("/credits/refunded"), batch.number("/credits/held")), (35 * PRICE, 5 * PRICE));
    assert_eq!(customer.available().await, 100_000 - 5 * PRICE);
    assert_eq!(cancel(&customer, &id).await.expect(200).text, first.text);

    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!((batch.word("/status"), batch.number("/counts/succeeded")), ("partial", 5), "{}", batch.text);
    assert_eq!((batch.number("/counts/failed"), batch.number("/counts/cancelled")), (35, 35));
    assert_eq!(batch.number("/credits/charged"), 5 * PRICE);
    assert!(batch.word("/cancelled_at") == first.word("/cancelled_at"));
    assert_eq!(cancel(&customer, &id).await.expect(200).text, first.text, "ended, and cancelled as before");
    assert_eq!(app.emulator.book().creates.len(), 5, "nothing began after the word");
    let types: Vec<Value> = customer.videos(&id).await.iter().map(|video| video["failure"]["type"].clone()).collect();
    assert_eq!(types.iter().filter(|class| **class == json!("cancelled")).count(), 35);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_batch_of_ones_own_that_has_not_ended_can_be_cancelled() {
    let app = TestApp::start(TestSettings::default()).await;
    let (customer, other) = (app.customer(1_000).await, app.customer(1_000).await);
    let id = customer.order(&order_of(1, "frame")).await;
    let problem = cancel(&other, &id).await.problem(404);
    assert!(problem["detail"].as_str().unwrap().contains("no such batch"), "{problem}");
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    let problem = cancel(&customer, &id).await.problem(409);
    assert!(problem["detail"].as_str().unwrap().contains("it is completed"), "{problem}");
    cancel(&customer, "bat_1").await.problem(404);
    let forgot = "update batches set cancelled_at = now(); update batches set cancelled_at = null";
    assert!(sqlx::raw_sql(forgot).execute(app.pool()).await.is_err(), "a batch stays cancelled");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_of_a_cancelled_batch_and_a_released_video_do_not_begin() {
    // one fails once and would be tried again; another one is released, and no worker comes
    let rules = vec![Rule::on_prompt("flaky", Fault::JobFailed).nth(Nth::only(1))];
    let mut app = TestApp::start(TestSettings { rules, ..slow() }).await;
    let customer = app.customer(1_000).await;
    let flaky = customer.order(&order_of(1, "flaky")).await;
    app.until("it is being made", async || app.emulator.book().jobs.len() == 1).await;
    cancel(&customer, &flaky).await.expect(200);
    let batch = app.finished_batch(&customer, &flaky).await;
    assert_eq!((batch.word("/status"), batch.number("/counts/cancelled")), ("failed", 1), "{}", batch.text);
    assert_eq!(customer.videos(&flaky).await[0]["attempts"], 1);

    app.stop_service().await;
    app.set_roles(API_AND_SCHEDULER);
    app.start_service().await;
    let asleep =
        "insert into workers (name, queue, slots, seen_at) values ('asleep', 'generate', 1, now() + interval '1 hour')";
    app.execute(asleep).await;
    let customer = app.here(&customer);
    let released = customer.order(&order_of(1, "frame")).await;
    app.until("it is released", async || app.count("select count(*) from videos where state = 'released'").await == 1)
        .await;
    cancel(&customer, &released).await.expect(200);
    app.stop_service().await;
    app.execute("delete from workers where name = 'asleep'").await;
    app.set_roles(freezeframe::service::Roles::ALL);
    app.start_service().await;
    let customer = app.here(&customer);
    let batch = app.finished_batch(&customer, &released).await;
    assert_eq!(batch.word("/status"), "failed");
    assert_eq!((app.emulator.book().creates.len(), customer.available().await), (1, 1_000));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_begun_by_the_time_that_the_batch_was_to_be_complete_expires_and_is_refunded() {
    let app = TestApp::start(slow()).await;
    let customer = app.customer(100_000).await;
    for (wrong, why) in [
        (json!("tomorrow"), "must be a time like"),
        (json!(7), "must be a time like"),
        (json!(Utc::now() - TimeDelta::seconds(1)), "must lie in the future"),
        (json!(Utc::now() + TimeDelta::days(31)), "at most 30 days away"),
    ] {
        let mut body = order_of(1, "frame");
        body["complete_by"] = wrong;
        let problem = customer.submit(&body).await.problem(422);
        assert_eq!(problem["errors"][0]["pointer"], "/complete_by");
        assert!(problem["errors"][0]["detail"].as_str().unwrap().contains(why), "{problem}");
    }
    let mut body = order_of(20, "frame");
    body["complete_by"] = json!(Utc::now() + TimeDelta::seconds(6));
    let id = customer.order(&body).await;
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!((batch.word("/status"), batch.number("/counts/expired")), ("partial", 15), "{}", batch.text);
    assert_eq!((batch.number("/credits/charged"), batch.number("/counts/cancelled")), (5 * PRICE, 0));
    let types: Vec<Value> = customer.videos(&id).await.iter().map(|video| video["failure"]["type"].clone()).collect();
    assert_eq!(types.iter().filter(|class| **class == json!("expired")).count(), 15);
    app.finish().await;
}

/// Two accounts that can stop a job and one that cannot, each with a model of its name. They are asked how far a job is every
/// `poll_ms`.
fn accounts_that_stop(poll_ms: u64) -> String {
    let account = |name: &str, kind: &str, path: &str, upstream: &str, more: &str| {
        format!(
            "[[provider]]\nname = \"{name}\"\nkind = \"{kind}\"\nbase_url = \"{{emulator}}{path}\"\napi_key_env = \
             \"EMULATOR_KEY\"\nrequests_per_minute = 1000000\nmax_in_flight = 100000\npoll_interval_ms = {poll_ms}\n{more}\n\
             [[model]]\nname = \"{name}\"\nprovider = \"{name}\"\nupstream = \"{upstream}\"\nprice_credits = 61\n\
             standard_seconds = 4\nseconds = [4]\nsizes = [\"1280x720\"]\n"
        )
    };
    let inputs = "inputs = { \"fal-ai/veo3.1\" = { duration = \"{seconds}s\", aspect_ratio = \"{aspect_ratio}\", \
                  resolution = \"{resolution}\" } }\ncallbacks = false";
    [
        account("fal", "fal", "/fal", "fal-ai/veo3.1/fast", inputs),
        account("omni", "gemini_omni", "/omni/v1beta", "gemini-omni-1.1-flash", "callbacks = false"),
        account("steady", "openai_videos", "/v1", "sora-2", ""),
    ]
    .concat()
}

fn on(models: &[&str]) -> Value {
    let items = models.iter().map(|model| json!({"prompt": format!("a frame by {model}"), "model": model}));
    json!({"items": items.collect::<Vec<_>>()})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_can_stops_what_it_makes_of_a_cancelled_batch_and_that_is_refunded() {
    let profile = Profile { latency_ms: (600_000, 600_000), ..slow().profile };
    let app = TestApp::start(TestSettings { models: accounts_that_stop(100), profile, slots: 4, ..slow() }).await;
    let customer = app.customer(100_000).await;
    // of one priority, and in this order: two are made by those that can, one by the other, one of another batch; two wait
    let id = customer.order(&on(&["fal", "omni", "steady"])).await;
    let other = customer.order(&on(&["fal", "fal"])).await;
    let waits = customer.order(&on(&["omni", "omni"])).await;
    app.until("four are being made", async || {
        app.count("select count(*) from attempts where state = 'accepted'").await == 4
    })
    .await;
    cancel(&customer, &waits).await.expect(200);
    cancel(&customer, &id).await.expect(200);
    let said = Instant::now();
    app.until("only one is being made", async || {
        let batch = customer.batch(&id).await;
        (batch.number("/counts/cancelled"), batch.number("/counts/in_progress")) == (2, 1)
    })
    .await;
    println!("stopped after {:?}", said.elapsed());
    let batch = customer.batch(&id).await;
    assert_eq!((batch.number("/credits/refunded"), batch.number("/credits/held")), (2 * PRICE, PRICE));
    let jobs = || app.emulator.book().jobs;
    app.until("the other batch is made", async || jobs().len() == 5).await;
    app.emulator.advance_clock(600_000);
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!((batch.word("/status"), batch.number("/credits/charged")), ("partial", PRICE), "{}", batch.text);
    assert_eq!(app.finished_batch(&customer, &other).await.word("/status"), "completed");
    assert_eq!(app.finished_batch(&customer, &waits).await.number("/counts/cancelled"), 2);
    let types: Vec<Value> = customer.videos(&id).await.iter().map(|video| video["failure"]["type"].clone()).collect();
    assert_eq!(types.iter().filter(|class| **class == json!("cancelled")).count(), 2);
    assert_eq!(jobs().iter().filter(|job| job.cancelled).count(), 2, "of the batch, each at a provider that can");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_finished_before_it_could_be_stopped_is_delivered_and_charged() {
    let profile = Profile { latency_ms: (600_000, 600_000), ..slow().profile };
    // nobody looks a second time by himself
    let app = TestApp::start(TestSettings { models: accounts_that_stop(600_000), profile, ..slow() }).await;
    let customer = app.customer(100_000).await;
    let id = customer.order(&on(&["fal", "omni"])).await;
    app.until("both were looked at", async || {
        let jobs = app.emulator.book().jobs;
        jobs.len() == 2 && jobs.iter().all(|job| job.polls > 0)
    })
    .await;
    app.emulator.advance_clock(600_000);
    cancel(&customer, &id).await.expect(200);
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!((batch.word("/status"), batch.number("/credits/charged")), ("completed", 2 * PRICE), "{}", batch.text);
    assert!(app.emulator.book().jobs.iter().all(|job| !job.cancelled));
    app.finish().await;
}
