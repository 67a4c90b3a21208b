//! What may be spent at a provider account in any window: counted from the release on by what each video may cost, whoever
//! leads; given back for what did not begin or was refused; and what does not fit is waited for.

use std::time::Duration;

use freezeframe::emulator::{Fault, Rule};
use freezeframe::service::Roles;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::app::client::Customer;
use crate::app::{API_AND_SCHEDULER, TestApp, TestSettings};
use crate::pacing::limit;

/// A video of 4 seconds costs 40 credits at either account, one of 8 seconds 80. `clip` may flow over to the second account.
const MODELS: &str = r#"
[[model]]
name = "clip"
routes = [{ provider = "sora", upstream = "sora-2" }, { provider = "veo", upstream = "sora-2" }]
overflow = true
price_credits = 60
cost_credits = 40
standard_seconds = 4
seconds = [4, 8]
sizes = ["1280x720"]

[[model]]
name = "sora-2"
provider = "sora"
price_credits = 60
cost_credits = 40
standard_seconds = 4
seconds = [4, 8]
sizes = ["1280x720"]
"#;
const SPENT: &str = "select coalesce(sum(credits), 0)::bigint from account_spend where account = 'sora'";
/// Long enough for a scheduler to release whatever it would.
const A_WHILE: Duration = Duration::from_secs(3);

fn settings() -> TestSettings {
    TestSettings { models: MODELS.to_owned(), ..TestSettings::default() }
}

fn videos(model: &str, prompt: &str, seconds: &[u32]) -> Value {
    let items = seconds.iter().map(|seconds| json!({"prompt": prompt, "model": model, "seconds": seconds}));
    json!({"items": items.collect::<Vec<_>>()})
}

fn creates(app: &TestApp) -> usize {
    app.emulator.book().creates.len()
}

async fn spend(app: &TestApp, credits: u32) {
    limit(app, &["account=sora", &format!("spend_credits={credits}"), "spend_window_secs=600"]).await;
}

async fn begin(app: &TestApp, videos: usize) {
    app.until(&format!("{videos} have begun"), async || creates(app) == videos).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(creates(app), videos, "more began than may be spent");
}

async fn waits_for_the_account(app: &TestApp, customer: &Customer, id: &str) {
    app.until("it waits for the account", async || customer.batch(id).await.body["waiting_reason"] == "provider_limit")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_costs_more_than_the_limit_whoever_leads_and_a_changed_limit_counts_at_once() {
    let mut app = TestApp::start(settings()).await;
    let customer = app.customer(100_000).await;
    let tenant: String = sqlx::query_scalar("select id from tenants").fetch_one(app.pool()).await.unwrap();
    app.write_settings(&app.settings);
    // counted before anybody limits it
    let before = customer.order(&videos("sora-2", "before", &[4, 8])).await;
    app.finished_batch(&customer, &before).await;
    assert_eq!(app.count(SPENT).await, 120);
    spend(&app, 400).await;
    let id = customer.order(&videos("sora-2", "after", &[4; 30])).await;
    begin(&app, 2 + 7).await;
    waits_for_the_account(&app, &customer, &id).await;
    let explained = app.output(&["limits", "explain", &format!("tenant=ten_{tenant}"), "model=sora-2", "--json"]).await;
    let explained: Value = serde_json::from_str(&explained).unwrap();
    let rule = explained["routes"][0]["rules"].as_array().unwrap().iter().find(|rule| rule["rule"] == "spend_credits");
    let rule = rule.unwrap();
    assert_eq!((&rule["limit"], &rule["used"]), (&json!(400), &json!(400)), "{explained}");
    assert!(rule["free_at"].is_string() && explained["next_free"] == rule["free_at"], "{explained}");

    // another leader knows what its predecessor spent; more is allowed, and so much more begins
    app.stop_service().await;
    app.start_service().await;
    spend(&app, 520).await;
    begin(&app, 2 + 10).await;
    // most of a window, which is longer than anything else is waited for
    limit(&app, &["account=sora", "spend_window_secs=60"]).await;
    tokio::time::sleep(Duration::from_secs(25)).await;
    app.until("what was spent leaves the window", async || creates(&app) >= 2 + 13).await;
    tokio::time::sleep(A_WHILE).await;
    let most = app.emulator.book().busiest_window(60_000, None);
    assert!(most <= 520 / 40, "{most} videos began in a minute");
    app.output(&["limits", "clear", "account=sora", "--reason", "the end"]).await;
    app.all_batches_end().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dearer_video_is_waited_for_and_whatever_can_go_elsewhere_does() {
    let app = TestApp::start(settings()).await;
    let customer = app.customer(100_000).await;
    // with a second account nothing waits, and nothing is left behind
    spend(&app, 200).await;
    let flows = customer.order(&videos("clip", "over", &[4, 8, 4, 8, 8, 4, 4, 8, 4, 4])).await;
    let batch = app.finished_batch(&customer, &flows).await;
    assert_eq!(batch.word("/status"), "completed", "{}", batch.text);
    let spent = app.count(SPENT).await;
    assert!((40..=200).contains(&spent), "{spent}");
    // without one, the dear one is waited for
    spend(&app, u32::try_from(spent).unwrap() + 120).await;
    let id = customer.order(&videos("sora-2", "dear", &[8, 8, 4, 4])).await;
    begin(&app, 10 + 1).await;
    waits_for_the_account(&app, &customer, &id).await;
    assert_eq!(app.count(SPENT).await, spent + 80);
    app.output(&["limits", "clear", "account=sora", "--reason", "the end"]).await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_spent_is_shared_fairly_whatever_videos_cost() {
    let app = TestApp::start(settings()).await;
    let (one, other) = (app.customer(100_000).await, app.customer(100_000).await);
    app.output(&["provider", "stop", "sora", "--reason", "until both wait"]).await;
    one.order(&videos("sora-2", "one", &[8; 30])).await;
    other.order(&videos("sora-2", "other", &[8; 30])).await;
    spend(&app, 10 * 80).await;
    app.output(&["provider", "start", "sora"]).await;
    begin(&app, 10).await;
    // and what becomes free piece by piece as well
    for videos in 11..=16 {
        spend(&app, videos * 80).await;
        app.until("one more begins", async || creates(&app) == videos as usize).await;
    }
    let of_one = app.emulator.book().creates.iter().filter(|create| create.prompt.as_deref() == Some("one")).count();
    assert!((7..=9).contains(&of_one), "{of_one} of 16");
    app.output(&["limits", "clear", "account=sora", "--reason", "the end"]).await;
    app.all_batches_end().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_or_did_not_begin_costs_nothing() {
    let rules = vec![Rule::on_prompt("refused", Fault::ModerationAtSubmit)];
    let mut app = TestApp::start(TestSettings { rules, ..settings() }).await;
    let customer = app.customer(100_000).await;
    app.write_settings(&app.settings);
    spend(&app, 400).await;
    let refused = customer.order(&videos("sora-2", "refused", &[4; 10])).await;
    app.finished_batch(&customer, &refused).await;
    assert_eq!((creates(&app), app.count(SPENT).await), (10, 0));

    // released to a worker that does not come in time, and then the account is stopped
    app.stop_service().await;
    app.set_roles(API_AND_SCHEDULER);
    app.start_service().await;
    let customer = app.here(&customer);
    let worker = app.start_process("worker").await;
    app.until("its slots are known", async || {
        app.count("select count(*) from workers where queue = 'generate'").await > 0
    })
    .await;
    app.process(worker).signal(Signal::SIGSTOP);
    let id = customer.order(&videos("sora-2", "later", &[4; 5])).await;
    app.until("they are released", async || app.count(SPENT).await == 200).await;
    app.output(&["provider", "stop", "sora", "--reason", "a test"]).await;
    app.process(worker).signal(Signal::SIGCONT);
    app.until("they wait again", async || app.count("select count(*) from videos where state = 'waiting'").await == 5)
        .await;
    assert_eq!((creates(&app), app.count(SPENT).await), (10, 0));
    app.output(&["provider", "start", "sora"]).await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    assert_eq!(app.count(SPENT).await, 200);
    app.process(worker).terminate();
    app.set_roles(Roles::ALL);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spend_that_affords_no_video_or_has_no_sense_is_refused_with_what_is_possible() {
    let app = TestApp::start(settings()).await;
    app.write_settings(&app.settings);
    for (wrong, why) in [
        (["account=sora", "spend_credits=79"], "must be at least 80, which is what the dearest video of"),
        (["account=sora", "spend_credits=0"], "must be from 1 to"),
        (["account=sora", "spend_window_secs=59"], "must be from 60 to 86400"),
        (["account=sora", "spend_window_secs=86401"], "must be from 60 to 86400"),
        (["model=sora-2", "spend_credits=1000"], "is no rule of models"),
    ] {
        let refused = app.command(&[&["limits", "set"], &wrong[..], &["--reason", "x"]].concat()).await;
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(why), "{wrong:?}: {told}");
    }
    assert_eq!(app.count("select count(*) from limit_changes").await, 0);
    app.finish().await;
}
