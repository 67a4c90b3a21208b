//! Deploys: SIGTERM to one process after the other while everything runs.

use std::time::Duration;

use freezeframe::emulator::{Fault, Profile, Rule};

use super::{Waits, count_of};
use crate::app::client::order_of;
use crate::app::{API_AND_SCHEDULER, TestApp, TestSettings, count};

/// Whoever stops processes commonly kills them after this long.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);
const FOR_EVER_MS: u64 = 3_600_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_deploys_under_load_lose_nothing_and_raise_no_attempt() {
    let (videos, rounds) = (count_of("VIDEOS", 120), count_of("DEPLOYS", 4));
    let profile = Profile { latency_ms: (300, 1_500), ..TestSettings::default().profile };
    let mut app = TestApp::start(TestSettings {
        roles: API_AND_SCHEDULER,
        profile,
        slots: 20,
        // some are asked to stop between a submission and its answer
        rules: vec![Rule::on_prompt("7", Fault::SlowAnswer { ms: 700 })],
        ..TestSettings::default()
    })
    .await;
    // three processes share the machine with other tests: one that stands still for two seconds is not dead
    app.settings = app.settings.replace("dead_after_ms = 2000", "dead_after_ms = 20000");
    let customer = app.customer(1_000_000).await;
    let mut workers = vec![app.start_process("worker").await, app.start_process("worker").await];
    let id = customer.order(&order_of(videos, "frame")).await;
    let mut stops = Waits(Vec::new());
    for round in 1..=rounds {
        let enough = videos * round / (rounds + 2);
        let done = format!("select (count(*) >= {enough})::int::bigint from settlements");
        app.until(&format!("deploy {round}"), async || app.count(&done).await == 1).await;
        workers.push(app.start_process("worker").await);
        let leaving = workers.remove(0);
        stops.0.push(app.process(leaving).terminate());
    }
    let batch = app.finished_batch(&customer, &id).await;
    stops.print("stopped after", STOPPED_WITHIN);
    assert_eq!((batch.word("/status"), batch.number("/counts/succeeded")), ("completed", videos as i64));
    assert!(stops.0.iter().all(|took| *took < STOPPED_WITHIN));
    assert_eq!(count(app.pool(), "select max(attempts_made)::bigint from videos").await, 1, "an attempt was raised");
    assert_eq!(count(app.pool(), "select max(deaths)::bigint from videos").await, 0, "a stop was taken for a death");
    assert_eq!(app.emulator.totals().accepted, videos as u64, "bought twice");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_a_slow_providers_answer_only_so_long_and_the_successor_finds_the_job() {
    let profile = Profile { latency_ms: (FOR_EVER_MS, FOR_EVER_MS), ..TestSettings::default().profile };
    let mut app = TestApp::start(TestSettings {
        roles: API_AND_SCHEDULER,
        profile,
        rules: vec![Rule {
            latency_ms: Some(FOR_EVER_MS),
            ..Rule::on_prompt("slow", Fault::SlowAnswer { ms: FOR_EVER_MS })
        }],
        submit_timeout_secs: 600,
        ..TestSettings::default()
    })
    .await;
    let customer = app.customer(1_000).await;
    let leaving = app.start_process("worker").await;
    let id = customer.order(&order_of(1, "slow")).await;
    app.until("the provider has it", async || app.emulator.totals().accepted == 1).await;
    let staying = app.start_process("worker").await;
    let took = app.process(leaving).terminate();
    eprintln!("stopped after {took:?}");
    assert!(took < STOPPED_WITHIN, "{took:?}");
    let pid = app.process(staying).id();
    let found = format!("select count(*) from attempts where state = 'accepted' and n = 1 and worker like '%-{pid}-%'");
    app.until("the successor finds the job", async || app.count(&found).await == 1).await;
    app.emulator.advance_clock(FOR_EVER_MS);
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    assert_eq!(app.count("select sum(deaths + attempts_made)::bigint from videos").await, 1);
    assert_eq!(app.emulator.totals().accepted, 1, "bought twice");
    app.finish().await;
}
