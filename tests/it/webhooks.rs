//! Deliveries to a customer's endpoint: signed, repeated under one id, logged, given up when told so, and never sent where
//! they may not go.

use std::time::Duration;

use serde_json::json;
use sqlx::Row;

use crate::app::client::{Customer, order_of};
use crate::app::receiver::Reply;
use crate::app::{TestApp, TestSettings};

/// Submits one video and waits for its batch.
async fn play(app: &TestApp, customer: &Customer, url: &str) -> String {
    let mut body = order_of(1, "a calm sea");
    body["webhook_url"] = url.into();
    let id = customer.order(&body).await;
    app.finished_batch(customer, &id).await;
    id
}

/// The log of the only delivery: number, status, error, whether another attempt was to follow.
async fn log(app: &TestApp) -> Vec<(i32, Option<i32>, Option<String>, bool)> {
    let rows =
        sqlx::query("select n, status_code, error, next_attempt_at is not null from delivery_attempts order by n");
    let rows = rows.fetch_all(app.pool()).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

async fn delivery_ends(app: &TestApp, state: &str) {
    let query = format!("select count(*) from deliveries where state = '{state}'");
    app.until(&format!("the delivery is {state}"), async || app.count(&query).await == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_repeated_under_its_id_until_it_is_taken() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let url = app.receiver.endpoint("hooks", &customer.webhook_secret);
    app.receiver.script("hooks", [Reply::Status(500), Reply::Status(503), Reply::Status(429)]);
    let id = play(&app, &customer, &url).await;
    let received = app.receiver.wait_for("hooks", 4).await;
    assert!(received.iter().all(|event| event.verified), "{received:?}");
    assert!(received.iter().all(|event| event.id == received[0].id && event.body == received[0].body));
    assert!(received[0].id.len() > 10);
    assert_eq!(received[0].body["data"]["batch_id"], id.as_str());
    delivery_ends(&app, "delivered").await;
    let log = log(&app).await;
    let statuses: Vec<_> = log.iter().map(|(n, status, _, more)| (*n, *status, *more)).collect();
    assert_eq!(statuses, [(1, Some(500), true), (2, Some(503), true), (3, Some(429), true), (4, Some(200), false)]);
    assert!(log[0].2.is_some() && log[3].2.is_none());
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_attempt_comes_after_the_pause_of_the_schedule() {
    let mut app = TestApp::start(TestSettings { skip_back_off: false, ..TestSettings::default() }).await;
    let customer = app.customer(1_000).await;
    let url = app.receiver.endpoint("hooks", &customer.webhook_secret);
    app.receiver.script("hooks", [Reply::Status(500)]);
    play(&app, &customer, &url).await;
    app.receiver.wait_for("hooks", 1).await;
    app.until("the attempt is logged", async || app.count("select count(*) from delivery_attempts").await == 1).await;
    let pause =
        "select (extract(epoch from next_attempt_at - started_at) * 1000)::bigint from delivery_attempts where n = 1";
    let pause = app.count(pause).await;
    // from the attempt's beginning, which may have taken long; the next step of the schedule is five minutes
    assert!((5_000..60_000).contains(&pause), "{pause} ms after the first failure");
    assert_eq!(app.count("select count(*) from apalis.jobs where run_at > now()").await, 1);
    app.excuse("jobs left in the queue");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_gone_is_given_up_at_once_and_one_that_always_fails_after_eight() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let gone = app.receiver.endpoint("gone", &customer.webhook_secret);
    app.receiver.script("gone", [Reply::Status(410)]);
    play(&app, &customer, &gone).await;
    delivery_ends(&app, "given_up").await;
    assert_eq!(app.receiver.wait_for("gone", 1).await.len(), 1);
    assert_eq!(log(&app).await.len(), 1);

    let broken = app.receiver.endpoint("broken", &customer.webhook_secret);
    app.receiver.script("broken", (0..20).map(|_| Reply::Status(500)));
    play(&app, &customer, &broken).await;
    app.until("both are given up", async || {
        app.count("select count(*) from deliveries where state = 'given_up'").await == 2
    })
    .await;
    assert_eq!(app.receiver.wait_for("broken", 8).await.len(), 8);
    // the money does not depend on who listens
    assert_eq!(customer.available().await, 1_000 - 2 * 61);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_a_failure_and_not_followed() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let elsewhere = app.receiver.endpoint("elsewhere", &customer.webhook_secret);
    let url = app.receiver.endpoint("hooks", &customer.webhook_secret);
    app.receiver.script("hooks", [Reply::Redirect(elsewhere)]);
    play(&app, &customer, &url).await;
    let received = app.receiver.wait_for("hooks", 2).await;
    assert_eq!((received[0].answered, received[1].answered), (302, 200));
    delivery_ends(&app, "delivered").await;
    assert!(app.receiver.received().iter().all(|event| event.endpoint == "hooks"));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_too_late_is_none() {
    let app = TestApp::start(TestSettings { webhook_timeout_secs: 4, ..TestSettings::default() }).await;
    let customer = app.customer(1_000).await;
    let url = app.receiver.endpoint("hooks", &customer.webhook_secret);
    app.receiver.script("hooks", [Reply::Late(Duration::from_secs(60))]);
    play(&app, &customer, &url).await;
    delivery_ends(&app, "delivered").await;
    let log = log(&app).await;
    assert_eq!((log.len(), log[0].1, log[1].1), (2, None, Some(200)));
    assert!(log[0].2.as_deref().is_some_and(|error| !error.is_empty()));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_to_a_private_address_is_refused_at_delivery() {
    let app = TestApp::start(TestSettings { allow_private_webhooks: false, ..TestSettings::default() }).await;
    let customer = app.customer(1_000).await;
    let listening = app.receiver.endpoint("hooks", &customer.webhook_secret);
    // its text does not tell, its address does
    let url = listening.replace("127.0.0.1", "localhost");
    let mut body = order_of(1, "a calm sea");
    body["webhook_url"] = json!(url);
    let answer = customer.submit(&body).await;
    match answer.status.as_u16() {
        // refused by its text already is as good
        422 => assert_eq!(app.count("select count(*) from batches").await, 0),
        _ => {
            let id = answer.expect(202).batch_id();
            app.finished_batch(&customer, &id).await;
            delivery_ends(&app, "given_up").await;
            let log = log(&app).await;
            assert!(log.iter().all(|(_, status, error, _)| status.is_none() && error.is_some()), "{log:?}");
        }
    }
    assert!(app.receiver.received().is_empty());
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_without_an_address_is_settled_and_tells_nobody() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&order_of(2, "a calm sea")).await;
    app.finished_batch(&customer, &id).await;
    assert_eq!(app.count("select count(*) from events").await, 1);
    assert_eq!(app.count("select count(*) from deliveries").await, 0);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_whose_job_is_lost_is_swept_up() {
    let app = TestApp::start(TestSettings { skip_back_off: false, ..TestSettings::default() }).await;
    let customer = app.customer(1_000).await;
    let url = app.receiver.endpoint("hooks", &customer.webhook_secret);
    app.receiver.script("hooks", [Reply::Status(500)]);
    play(&app, &customer, &url).await;
    app.until("the first attempt is logged", async || app.count("select count(*) from delivery_attempts").await == 1)
        .await;
    assert_eq!(app.execute("delete from apalis.jobs").await, 1);
    app.execute("update deliveries set next_attempt_at = now() - interval '1 minute'").await;
    delivery_ends(&app, "delivered").await;
    assert_eq!(app.receiver.wait_for("hooks", 2).await.len(), 2);
    app.finish().await;
}
