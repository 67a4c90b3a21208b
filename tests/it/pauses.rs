//! Pauses of tenants, models and batches, by operators and by customers: they hold for what is released already, say why
//! something waits, end by themselves, and are forgotten with their batch.

use reqwest::Method;
use serde_json::Value;

use crate::app::client::{BATCHES, Customer, order_of};
use crate::app::{API_AND_SCHEDULER, TestApp, TestSettings};

const ASLEEP: &str =
    "insert into workers (name, queue, slots, seen_at) values ('asleep', 'generate', 1, now() + interval '1 hour')";

async fn say(customer: &Customer, id: &str, what: &str) {
    customer.call(Method::POST, &format!("{BATCHES}/{id}/{what}"), &[], None).await.expect(200);
}

async fn tenant(app: &TestApp) -> String {
    let id: String = sqlx::query_scalar("select id from tenants").fetch_one(app.pool()).await.unwrap();
    format!("tenant=ten_{id}")
}

async fn operator(app: &TestApp, what: &str, whose: &str, more: &[&str]) -> String {
    app.output(&[&[what, whose, "--reason", "a test", "--by", "ann"], more].concat()).await
}

/// A batch of one video that is released, and that no worker takes.
async fn released(app: &mut TestApp, customer: &Customer) -> String {
    app.stop_service().await;
    app.set_roles(API_AND_SCHEDULER);
    app.start_service().await;
    app.execute(ASLEEP).await;
    let id = app.here(customer).order(&order_of(1, "frame")).await;
    let released = "select count(*) from videos where state = 'released'";
    app.until("it is released", async || app.count(released).await == 1).await;
    id
}

async fn workers_come(app: &mut TestApp) {
    app.stop_service().await;
    app.execute("delete from workers").await;
    app.set_roles(freezeframe::service::Roles::ALL);
    app.start_service().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_pauses_whatever_nothing_of_it_begins_that_was_released_before() {
    let mut app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let whose = tenant(&app).await;
    for (begun, by) in ["tenant", "model", "batch", "customer"].into_iter().enumerate() {
        let id = released(&mut app, &customer).await;
        let subject = match by {
            "tenant" => whose.clone(),
            "model" => "model=sora-2".to_owned(),
            _ => format!("batch={id}"),
        };
        match by {
            "customer" => say(&app.here(&customer), &id, "pause").await,
            _ => drop(operator(&app, "pause", &subject, &[]).await),
        }
        workers_come(&mut app).await;
        let waits = "select count(*) from videos where state = 'waiting' and attempts_made = 0";
        app.until(&format!("it waits again, paused by {by}"), async || app.count(waits).await == 1).await;
        let here = app.here(&customer);
        app.until("it says so", async || here.batch(&id).await.body["waiting_reason"] == "paused").await;
        assert_eq!(app.emulator.book().creates.len(), begun, "paused by {by}, and it began");
        match by {
            "customer" => say(&here, &id, "resume").await,
            _ => drop(operator(&app, "resume", &subject, &[]).await),
        }
        assert_eq!(app.finished_batch(&here, &id).await.word("/status"), "completed", "paused by {by}");
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_is_explained_ends_by_itself_and_goes_with_its_batch() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let whose = tenant(&app).await;
    let told = operator(&app, "pause", &whose, &["--for", "2h"]).await;
    assert!(told.contains("paused: not set -> 1 until 20"), "{told}");
    let id = customer.order(&order_of(2, "frame")).await;
    app.until("it waits", async || customer.batch(&id).await.body["waiting_reason"] == "paused").await;
    let explain =
        async |more: &[&str]| app.output(&[&["limits", "explain", &*whose, "model=sora-2"], more].concat()).await;
    let explained = explain(&[]).await;
    assert!(explained.contains("paused") && explained.contains("ann until 20"), "{explained}");
    assert!(explained.contains("no limit is in the way from 20"), "{explained}");
    operator(&app, "pause", "model=sora-2", &[]).await;
    let explained: Value = serde_json::from_str(&explain(&["--json"]).await).unwrap();
    assert!(explained["next_free"].is_null(), "nobody knows: {explained}");
    let explained = explain(&[]).await;
    assert!(explained.contains("when resumed"), "{explained}");
    operator(&app, "resume", "model=sora-2", &[]).await;
    app.execute("update limits set expires_at = now()").await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_pause_of_a_batch_is_forgotten_when_it_has_ended_and_slips_pause_nothing() {
    let app = TestApp::start(TestSettings { slots: 1, ..TestSettings::default() }).await;
    let customer = app.customer(10_000).await;
    let id = customer.order(&order_of(40, "frame")).await;
    operator(&app, "pause", &format!("batch={id}"), &[]).await;
    app.until("it is paused", async || customer.batch(&id).await.body["waiting_reason"] == "paused").await;
    let shown = app.output(&["limits", "explain", &tenant(&app).await, "model=sora-2"]).await;
    assert!(shown.contains("of them in paused batches"), "{shown}");
    say(&customer, &id, "cancel").await;
    app.finished_batch(&customer, &id).await;
    app.until("its pause is forgotten", async || app.count("select count(*) from limits").await == 0).await;
    let told = "select count(*) from limit_changes where actor = 'scheduler' and act = 'clear' and rule = 'paused'";
    assert_eq!(app.count(told).await, 1);
    for (wrong, why) in [
        (vec!["pause", "account=sora", "--reason", "x"], "accounts have `provider stop`"),
        (vec!["pause", "model=nothing", "--reason", "x"], "known are: sora-2"),
        (vec!["pause", "batch=bat_00000000000000000000000000", "--reason", "x"], "there is no batch"),
        (vec!["pause", &*format!("batch={id}"), "--reason", "x"], "the batch has ended"),
        (vec!["pause", "model=sora-2", "--reason", " "], "--reason must say why"),
        (vec!["pause", "model=sora-2", "--reason", "x", "--until", "2020-01-01T00:00:00Z"], "in the past"),
        (vec!["resume", "tenant=x", "--reason", "x"], "tenant=x"),
    ] {
        let refused = app.command(&wrong).await;
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(why), "{wrong:?}: {told}");
    }
    assert_eq!(app.count("select count(*) from limits").await, 0, "slips pause nothing");
    let nothing = operator(&app, "resume", "model=sora-2", &[]).await;
    assert!(nothing.contains("it was not paused"), "{nothing}");
    app.finish().await;
}
