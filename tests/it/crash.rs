//! Processes of the real program, killed with work in their hands. Nothing is lost, bought twice or charged twice.
//!
//! `FREEZEFRAME_CHAOS=200` takes so many videos in place of the few that an ordinary run can afford.

use std::time::{Duration, Instant};

use freezeframe::emulator::{Fault, Profile, Rule};
use freezeframe::service::Roles;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::app::client::order_of;
use crate::app::{API_AND_SCHEDULER, TestApp, TestSettings, count};
use freezeframe::domain::GrantSource::Paid;

const FOR_EVER_MS: u64 = 3_600_000;
/// From the death of a worker until the last of its videos is in other hands.
const RESUMED_WITHIN: Duration = Duration::from_secs(15);

fn videos() -> usize {
    std::env::var("FREEZEFRAME_CHAOS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_videos_of_a_killed_worker_are_resumed_and_none_is_bought_twice() {
    let all = videos();
    let profile = Profile { latency_ms: (FOR_EVER_MS, FOR_EVER_MS), ..TestSettings::default().profile };
    let mut app = TestApp::start(TestSettings {
        roles: API_AND_SCHEDULER,
        profile,
        slots: 1_000,
        // some are killed between their submission and its answer
        rules: vec![Rule { latency_ms: Some(FOR_EVER_MS), ..Rule::on_prompt("7", Fault::SlowAnswer { ms: 600_000 }) }],
        submit_timeout_secs: 120,
        ..TestSettings::default()
    })
    .await;
    let customer = app.customer(1_000_000).await;
    let killed = app.start_process("worker").await;
    let id = customer.order(&order_of(all, "frame")).await;
    let slow = (0..all).filter(|n| n.to_string().contains('7')).count();
    let ready = format!(
        "select (count(*) filter (where state = 'accepted') = {} and count(*) = {all})::int::bigint from attempts",
        all - slow
    );
    app.until("all are sent, and most of them answered", async || app.count(&ready).await == 1).await;
    app.until("the provider has them all", async || app.emulator.totals().accepted == all as u64).await;
    let other = app.start_process("worker").await;
    let died = Instant::now();
    app.process(killed).kill();
    let pid = app.process(other).id();
    let resumed = format!(
        "select (count(*) = {all})::int::bigint from attempts where worker like '%-{pid}-%' and state = 'accepted'"
    );
    app.until("the other worker goes on with all of them", async || app.count(&resumed).await == 1).await;
    let took = died.elapsed();
    eprintln!("all {all} resumed after {took:?}");
    assert!(took < RESUMED_WITHIN, "resumed only after {took:?}");
    app.emulator.advance_clock(FOR_EVER_MS);
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!((batch.word("/status"), batch.number("/credits/charged")), ("completed", 61 * all as i64));
    assert_eq!(app.emulator.totals().accepted, all as u64, "bought twice");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_right_after_the_answer_has_lost_nothing() {
    let all = videos() * 5;
    let none = Roles { api: false, worker: false, scheduler: false };
    let mut app = TestApp::start(TestSettings {
        roles: none,
        rules: vec![Rule::on_prompt("3", Fault::ModerationAtSubmit), Rule::on_prompt("7", Fault::DroppedAfterAccept)],
        ..TestSettings::default()
    })
    .await;
    let first = app.start_process("api,worker,scheduler").await;
    let base = app.process(first).base.clone();
    let mut customer = app.customer_at(&base, &[(Paid, 1_000_000)]).await;
    app.until_serving(&base).await;
    let url = app.receiver.endpoint("hooks", &customer.webhook_secret);
    let mut body = order_of(all, "frame");
    body["webhook_url"] = url.into();
    let id = customer.order(&body).await;
    app.process(first).kill();
    let second = app.start_process("api,worker,scheduler").await;
    customer.base = app.process(second).base.clone();
    app.until_serving(&customer.base).await;
    let batch = app.finished_batch(&customer, &id).await;
    let refused = (0..all).filter(|n| n.to_string().contains('3')).count() as i64;
    assert_eq!((batch.word("/status"), batch.number("/counts/failed")), ("partial", refused));
    assert!(app.receiver.wait_for("hooks", 1).await[0].verified);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_killed_at_random_moments_leave_the_books_exact() {
    let seed = rand::rng().random::<u64>();
    eprintln!("killing with seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let all = videos() * 3;
    let profile = Profile { latency_ms: (100, 2_000), one_clip_for_all: true, clip_seconds: 1, ..Profile::rough() };
    let mut app =
        TestApp::start(TestSettings { roles: API_AND_SCHEDULER, profile, seed, slots: 30, ..TestSettings::default() })
            .await;
    let customer = app.customer(1_000_000).await;
    let id = customer.order(&order_of(all, "frame")).await;
    let mut workers = vec![app.start_process("worker").await, app.start_process("worker").await];
    for round in 1..=4 {
        // some more work is done, then a moment more
        let settled = count(app.pool(), "select count(*) from settlements").await;
        let enough = format!("select (count(*) >= least({all}, {settled} + 5))::int::bigint from settlements");
        app.until(&format!("round {round}"), async || app.count(&enough).await == 1).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        let victim = workers.remove(random.random_range(0..workers.len()));
        app.process(victim).kill();
        workers.push(app.start_process("worker").await);
    }
    app.finished_batch(&customer, &id).await;
    app.finish().await;
}
