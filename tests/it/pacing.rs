//! Pacing: exact limits over any number of processes, changed while everything runs.
//!
//! `FREEZEFRAME_PACING_SECS=600` watches the exact rate for so long in place of a little more than a minute.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::app::client::{Customer, order_of};
use crate::app::{API, API_AND_SCHEDULER, TestApp, TestSettings};

fn watched() -> Duration {
    let secs = std::env::var("FREEZEFRAME_PACING_SECS").ok().and_then(|text| text.parse().ok()).unwrap_or(75);
    Duration::from_secs(secs)
}

/// Sets a limit as an operator does.
pub async fn limit(app: &TestApp, arguments: &[&str]) -> String {
    let arguments = [&["limits", "set"], arguments, &["--reason", "a test", "--by", "ann"]].concat();
    app.output(&arguments).await
}

async fn tenant_of(app: &TestApp) -> String {
    let id: String = sqlx::query_scalar("select id from tenants").fetch_one(app.pool()).await.unwrap();
    format!("tenant=ten_{id}")
}

/// The process that leads, by its number.
async fn leader(app: &TestApp) -> Option<u32> {
    let holder: Option<String> = sqlx::query_scalar("select holder from leader_leases where expires_at > now()")
        .fetch_optional(app.pool())
        .await
        .unwrap();
    holder?.split('-').next()?.parse().ok()
}

/// So that the end of the test need not wait for the pace.
async fn unlimited(app: &TestApp, whose: &str) {
    app.output(&["limits", "clear", whose, "--reason", "the end"]).await;
    limit(app, &[whose, "videos_per_minute=1000000"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_minute_holds_more_starts_than_the_limit_and_few_less_whoever_leads() {
    let mut app = TestApp::start(TestSettings { roles: API, ..TestSettings::default() }).await;
    let customer = app.customer(10_000_000).await;
    let tenant = tenant_of(&app).await;
    limit(&app, &[&tenant, "videos_per_minute=60"]).await;
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(app.start_process("worker,scheduler").await);
    }
    customer.order(&order_of(1_000, "frame")).await;
    app.until("the first video starts", async || !app.emulator.book().creates.is_empty()).await;
    let begun = Instant::now();
    let first_ms = app.emulator.book().creates[0].at_ms;
    let mut blow_at = Duration::from_secs(20);
    let mut blows = [Blow::Kill, Blow::Freeze].into_iter().cycle();
    while begun.elapsed() < watched() {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if begun.elapsed() >= blow_at {
            blow_at += Duration::from_secs(30);
            // the one that wakes up again leads as if nothing had been, if nobody else does
            match blows.next() {
                Some(Blow::Kill) => kill_the_leader(&mut app, &mut processes).await,
                _ => freeze_the_leader(&mut app, &processes).await,
            }
        }
    }
    let book = app.emulator.book();
    let watched_ms = u64::try_from(watched().as_millis()).unwrap();
    let started = book.creates.iter().filter(|create| create.at_ms < first_ms + watched_ms).count();
    let (most, per_minute) = (book.busiest_window(60_000, None), started as f64 * 60_000.0 / watched_ms as f64);
    println!("at most {most} starts in a minute, {per_minute:.1} a minute in {watched:?}", watched = watched());
    assert!(most <= 60, "{most} starts in a minute");
    assert!(per_minute >= 57.0, "only {per_minute:.1} starts a minute");
    assert_eq!(
        app.count("select coalesce(max(attempts_made), 0)::bigint from videos where state = 'waiting'").await,
        0
    );
    unlimited(&app, &tenant).await;
    app.all_batches_end().await;
    app.finish().await;
}

#[derive(Clone, Copy)]
enum Blow {
    Kill,
    Freeze,
}

/// Which of the processes leads.
pub async fn leading(app: &mut TestApp, processes: &[usize]) -> usize {
    loop {
        let pid = leader(app).await;
        if let Some(at) = processes.iter().position(|at| Some(app.process(*at).id()) == pid) {
            return at;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Stops the leader for longer than its lease, so that another one leads, then that one for as long: the first leads again.
async fn freeze_the_leader(app: &mut TestApp, processes: &[usize]) {
    let first = processes[leading(app, processes).await];
    app.process(first).signal(Signal::SIGSTOP);
    let others: Vec<usize> = processes.iter().copied().filter(|at| *at != first).collect();
    let second = others[leading(app, &others).await];
    tokio::time::sleep(Duration::from_secs(1)).await;
    others.iter().for_each(|at| app.process(*at).signal(Signal::SIGSTOP));
    app.process(first).signal(Signal::SIGCONT);
    let again = leading(app, &[first]).await;
    others.iter().for_each(|at| app.process(*at).signal(Signal::SIGCONT));
    assert_eq!((again, second != first), (0, true));
}

pub async fn kill_the_leader(app: &mut TestApp, processes: &mut Vec<usize>) {
    let at = leading(app, processes).await;
    let victim = processes.remove(at);
    app.process(victim).kill();
    processes.push(app.start_process("worker,scheduler").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_limit_holds_at_once_and_grants_no_second_burst() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(10_000_000).await;
    let tenant = tenant_of(&app).await;
    limit(&app, &[&tenant, "videos_per_minute=60"]).await;
    customer.order(&order_of(300, "frame")).await;
    let started = async || app.emulator.book().creates.len();
    app.until("a few start", async || started().await >= 6).await;
    let before = started().await;
    limit(&app, &[&tenant, "videos_per_minute=240", "--for", "1h"]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // twice the rate while there are turns left in the minute, and no burst: in any three seconds of the provider's clock,
    // however long this test slept
    let (faster, busiest) = (started().await - before, app.emulator.book().busiest_window(3_000, None));
    assert!(faster >= 10 && busiest <= 30, "{faster} starts, {busiest} in three seconds, at 240 a minute");
    limit(&app, &[&tenant, "videos_per_minute=20", "--for", "2h"]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = started().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(started().await, before, "more than 20 have started in this minute");
    // what had an end is over: the one without holds again, and its minute is used by more than half
    app.execute("update limits set expires_at = now() where expires_at is not null").await;
    app.until("it goes on", async || started().await > before).await;
    assert!(app.emulator.book().busiest_window(60_000, None) <= 240);
    unlimited(&app, &tenant).await;
    app.all_batches_end().await;
    app.finish().await;
}

/// Creates within `[from, to)` milliseconds.
fn starts_between(app: &TestApp, from: u64, to: u64) -> usize {
    app.emulator.book().creates.iter().filter(|create| (from..to).contains(&create.at_ms)).count()
}

fn now_ms() -> u64 {
    u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap()
}

/// Each limit in force for `FREEZEFRAME_PACING_SECS`, or long enough to see it: 60 a minute, 240, 30.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_raised_and_lowered_over_three_workers_is_the_new_one_within_two_seconds() {
    let each = if watched() > Duration::from_secs(75) { watched() / 3 } else { Duration::from_secs(15) };
    let each_ms = u64::try_from(each.as_millis()).unwrap();
    let mut app = TestApp::start(TestSettings { roles: API, ..TestSettings::default() }).await;
    let customer = app.customer(10_000_000).await;
    let tenant = tenant_of(&app).await;
    limit(&app, &[&tenant, "videos_per_minute=60"]).await;
    for _ in 0..3 {
        app.start_process("worker,scheduler").await;
    }
    customer.order(&order_of(3_000, "frame")).await;
    app.until("the first video starts", async || !app.emulator.book().creates.is_empty()).await;
    tokio::time::sleep(each).await;
    limit(&app, &[&tenant, "videos_per_minute=240"]).await;
    let raised = now_ms();
    tokio::time::sleep(each).await;
    limit(&app, &[&tenant, "videos_per_minute=30"]).await;
    let lowered = now_ms();
    tokio::time::sleep(each).await;
    let end = now_ms();

    let soon = starts_between(&app, raised, raised + 2_000);
    let fast = starts_between(&app, raised, lowered) as f64 * 60_000.0 / (lowered - raised) as f64;
    let late = starts_between(&app, lowered + 2_000, end);
    let (most, before) = (app.emulator.book().busiest_window(60_000, None), starts_between(&app, 0, raised));
    println!(
        "each {each:?}: {before} at 60 a minute; {soon} within 2 s of 240, then {fast:.0} a minute; {late} later than 2 s \
         after 30; at most {most} in any minute"
    );
    // at 60 there would be two, or four in a fresh minute
    assert!(soon >= 5, "{soon} starts in the two seconds after the limit was raised");
    assert!(fast >= 228.0, "{fast} starts a minute of 240");
    // the minute before holds more than 30 until it is over
    let allowed = if each_ms > 62_000 { 30.0 * (each_ms as f64 / 60_000.0) } else { 0.0 };
    assert!(late as f64 <= allowed, "{late} starts at 30 a minute");
    assert!(most <= 240, "{most} starts in a minute");
    let first_minute = app.emulator.book().creates[0].at_ms;
    assert!(starts_between(&app, first_minute, (first_minute + 60_000).min(raised)) <= 60);
    unlimited(&app, &tenant).await;
    app.all_batches_end().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_video_that_is_picked_up_too_late_gives_its_turn_back_and_spends_no_attempt() {
    let mut app = TestApp::start(TestSettings { roles: API_AND_SCHEDULER, ..TestSettings::default() }).await;
    app.execute(
        "insert into apalis.workers (id, worker_type, storage_name, last_seen) values ('asleep', 'generate', 'test', now())",
    )
    .await;
    let asleep =
        "insert into workers (name, queue, slots, seen_at) values ('asleep', 'generate', 1, now() + interval '1 hour')";
    app.execute(asleep).await;
    let customer = app.customer(1_000).await;
    let tenant = tenant_of(&app).await;
    limit(&app, &[&tenant, "videos_per_minute=1"]).await;
    let ordered = Instant::now();
    customer.order(&order_of(1, "frame")).await;
    let too_late = "select count(*) from videos where state = 'released' and turn_until < now()";
    app.until("its turn is over", async || app.count(too_late).await == 1).await;
    app.stop_service().await;
    app.execute("delete from workers").await;
    app.set_roles(freezeframe::service::Roles::ALL);
    app.start_service().await;
    app.all_batches_end().await;
    assert!(ordered.elapsed() < Duration::from_secs(50), "its turn was not given back");
    assert_eq!(app.count("select count(*) from release_log where given_back").await, 1);
    assert_eq!(app.count("select sum(attempts_made)::bigint from videos").await, 1);
    assert_eq!(app.emulator.book().creates.len(), 1);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_keeps_its_own_pace_and_holds_nobody_up() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(10_000).await;
    for wrong in [json!(0), json!(-1), json!(1.5), json!("60"), json!(1_000_001)] {
        let mut body = order_of(1, "frame");
        body["videos_per_minute"] = wrong;
        let problem = customer.submit(&body).await.problem(422);
        assert_eq!(problem["errors"][0]["pointer"], "/videos_per_minute", "{problem}");
    }
    let mut slow = order_of(10, "slow");
    slow["videos_per_minute"] = json!(2);
    let slow = customer.order(&slow).await;
    let fast = customer.order(&order_of(10, "fast")).await;
    assert_eq!(app.finished_batch(&customer, &fast).await.word("/status"), "completed");
    let batch = customer.batch(&slow).await;
    assert_eq!(batch.number("/videos_per_minute"), 2);
    assert!((1..=2).contains(&app.emulator.book().creates.iter().filter(|one| is_of(one, "slow")).count()));
    app.execute("update batch_lanes set videos_per_minute = null").await;
    app.all_batches_end().await;
    app.finish().await;
}

fn is_of(create: &freezeframe::emulator::CreateStamp, prompt: &str) -> bool {
    create.prompt.as_deref().is_some_and(|text| text.starts_with(prompt))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sets_lists_explains_and_clears_limits_and_slips_are_told() {
    let app = TestApp::start(TestSettings { roles: API, ..TestSettings::default() }).await;
    let customer = app.customer(10_000).await;
    let tenant = tenant_of(&app).await;
    app.write_settings(&app.settings);
    let shown = async |customer: &Customer| {
        let wallet = customer.get("/api/enterprise/wallet").await.expect(200);
        (wallet.number("/limits/videos_per_minute"), wallet.number("/limits/max_in_flight"))
    };
    let usual = shown(&customer).await;
    let told = limit(&app, &[&tenant, "videos_per_minute=77", "max_in_flight=5"]).await;
    assert!(
        told.contains("videos_per_minute: not set -> 77") && told.contains("max_in_flight: not set -> 5"),
        "{told}"
    );
    let told = limit(&app, &[&tenant, "videos_per_minute=600", "--for", "3d"]).await;
    assert!(told.contains("not set -> 600 until 20"), "{told}");
    limit(&app, &["model=sora-2", "max_in_flight=9"]).await;
    limit(&app, &["account=sora", "requests_per_minute=40"]).await;
    app.until("the customer is told", async || shown(&customer).await == (600, 5)).await;
    let list = app.output(&["limits", "list"]).await;
    for part in [&*tenant, "model=sora-2", "account=sora", "ann", "a test"] {
        assert!(list.contains(part), "{part} is missing in\n{list}");
    }

    let explained = app.output(&["limits", "explain", &tenant, "model=sora-2"]).await;
    for part in ["600", "ann until 20", "ann: a test", "0 waiting, 0 worker slots free", "no limit is in the way now"] {
        assert!(explained.contains(part), "{part} is missing in\n{explained}");
    }
    let explained = app.output(&["limits", "explain", &tenant, "model=sora-2", "--json"]).await;
    let explained: Value = serde_json::from_str(&explained).unwrap();
    let at = |pointer: &str| explained.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!((at("/rules/0/limit"), at("/routes/0/rules/0/limit")), (json!(600), json!(40)), "{explained}");
    assert_eq!(at("/routes/0/rules/1/source/kind"), "settings", "{explained}");

    app.output(&["limits", "clear", &tenant, "--temporary", "--reason", "over", "--by", "ann"]).await;
    app.until("the customer is told", async || shown(&customer).await == (77, 5)).await;
    app.output(&["limits", "clear", &tenant, "--reason", "over", "--by", "ann"]).await;
    app.until("the customer is told", async || shown(&customer).await == usual).await;
    let changes = "select count(*) from limit_changes where actor = 'ann' and reason <> '' and (state_before is not null or act = 'set')";
    assert_eq!(app.count(changes).await, 8);
    for (wrong, why) in [
        (
            vec!["set", "tenant=ten_00000000000000000000000000", "max_in_flight=1", "--reason", "x"],
            "there is no tenant",
        ),
        (vec!["set", "account=nobody", "max_in_flight=1", "--reason", "x"], "known are: sora, veo"),
        (vec!["set", "model=nothing", "max_in_flight=1", "--reason", "x"], "known are: sora-2"),
        (vec!["set", "model=sora-2", "requests_per_minute=1", "--reason", "x"], "is no rule of models"),
        (vec!["set", "model=sora-2", "max_in_flight=0", "--reason", "x"], "must be from 1 to"),
        (vec!["set", "model=sora-2", "max_in_flight=1", "max_in_flight=2", "--reason", "x"], "given twice"),
        (vec!["set", "model=sora-2", "max_in_flight=1", "--reason", " "], "--reason must say why"),
        (vec!["set", "model=sora-2", "max_in_flight=1"], "--reason"),
        (
            vec!["set", "model=sora-2", "max_in_flight=1", "--reason", "x", "--until", "2020-01-01T00:00:00Z"],
            "in the past",
        ),
        (vec!["explain", "model=sora-2", "model=sora-2"], "name a tenant and a model"),
        (vec!["clear", "queue=x", "--reason", "x"], "is not tenant=ID"),
    ] {
        let refused = app.command(&[&["limits"], &*wrong].concat()).await;
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(why), "{wrong:?}: {told}");
    }
    assert_eq!(app.count(changes).await, 8, "slips change nothing");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reason_that_is_shown_is_the_one_that_holds() {
    let mut app = TestApp::start(TestSettings { skip_back_off: false, ..TestSettings::default() }).await;
    let customer = app.customer(100_000).await;
    let tenant = tenant_of(&app).await;
    let waits_for = async |app: &TestApp, id: &str, reason: &str| {
        let customer = app.here(&customer);
        app.until(&format!("it waits for {reason}"), async || {
            customer.batch(id).await.body["waiting_reason"] == reason
                && customer.videos(id).await.iter().any(|video| video["waiting_reason"] == reason)
        })
        .await;
    };
    let order = async |app: &TestApp, prompt: &str| app.here(&customer).order(&order_of(5, prompt)).await;
    // while one of these is strict, all the others are set too, and lax
    let levels = [
        (&*tenant, "videos_per_minute", "tenant_limit"),
        (&*tenant, "max_in_flight", "tenant_limit"),
        ("account=sora", "requests_per_minute", "provider_limit"),
        ("account=sora", "max_in_flight", "provider_limit"),
        ("model=sora-2", "videos_per_minute", "model_limit"),
        ("model=sora-2", "max_in_flight", "model_limit"),
    ];
    for (whose, rule, reason) in levels {
        for (other, lax, _) in levels {
            limit(&app, &[other, &format!("{lax}=5000")]).await;
        }
        limit(&app, &[whose, &format!("{rule}=1")]).await;
        // long enough to be seen at work
        app.emulator.script(freezeframe::emulator::Rule::takes("limit", 1_500).times(1));
        let id = order(&app, reason).await;
        waits_for(&app, &id, reason).await;
        app.output(&["limits", "clear", whose, "--reason", "it was seen"]).await;
        let batch = app.finished_batch(&app.here(&customer), &id).await;
        assert!(batch.body.get("waiting_reason").is_none(), "{}", batch.text);
    }
    let mut slow = order_of(5, "slow");
    slow["videos_per_minute"] = json!(1);
    let id = customer.order(&slow).await;
    waits_for(&app, &id, "batch_pace").await;
    app.execute("update batch_lanes set videos_per_minute = null").await;
    app.finished_batch(&customer, &id).await;

    app.output(&["provider", "stop", "sora", "--reason", "to be seen"]).await;
    let id = order(&app, "stopped").await;
    waits_for(&app, &id, "paused").await;
    app.output(&["provider", "start", "sora"]).await;
    app.finished_batch(&customer, &id).await;

    app.stop_service().await;
    app.set_roles(API_AND_SCHEDULER);
    app.start_service().await;
    let id = order(&app, "nobody").await;
    waits_for(&app, &id, "no_worker").await;
    app.stop_service().await;
    app.set_roles(freezeframe::service::Roles::ALL);
    app.start_service().await;
    app.all_batches_end().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_is_limited_for_the_first_time_knows_the_minute_before() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(100_000).await;
    let id = customer.order(&order_of(50, "before")).await;
    app.finished_batch(&customer, &id).await;
    limit(&app, &["model=sora-2", "videos_per_minute=40"]).await;
    customer.order(&order_of(5, "after")).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(app.emulator.book().creates.len(), 50, "more than 40 have started in this minute");
    limit(&app, &["model=sora-2", "videos_per_minute=53"]).await;
    app.until("three more start", async || app.emulator.book().creates.len() == 53).await;
    app.output(&["limits", "clear", "model=sora-2", "--reason", "the end"]).await;
    app.all_batches_end().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_video_whose_image_comes_after_its_turn_waits_for_another_one_and_spends_nothing() {
    let mut app = TestApp::start(TestSettings { roles: API_AND_SCHEDULER, ..TestSettings::default() }).await;
    let customer = app.customer(1_000).await;
    let tenant = tenant_of(&app).await;
    limit(&app, &[&tenant, "videos_per_minute=1000"]).await;
    // claimed by a worker that died before it had the image: nothing was sent
    customer.order(&order_of(1, "frame")).await;
    app.execute("update videos set reference_image = 'https://example.com/none.png'").await;
    let asleep =
        "insert into workers (name, queue, slots, seen_at) values ('asleep', 'generate', 1, now() + interval '1 hour')";
    app.execute(asleep).await;
    app.until("it is released", async || app.count("select count(*) from videos where state = 'released'").await == 1)
        .await;
    app.execute(
        "with v as (update videos set state = 'running', lease_epoch = 1, attempts_made = 1, claim_id = 'x',
             turn_until = now() - interval '1 second', reference_image = null returning id)
         insert into attempts (video_id, n, id, lease_epoch, provider, upstream_model, worker, unsent)
         select id, 1, '01M8JCZZZZZZZZZZZZZZZZZZZZ', 1, 'sora', 'sora-2', 'asleep', true from v",
    )
    .await;
    app.stop_service().await;
    app.execute("delete from workers").await;
    app.set_roles(freezeframe::service::Roles::ALL);
    app.start_service().await;
    app.all_batches_end().await;
    let attempts = "select count(*) from attempts where (n, state::text, coalesce(failure_class::text, '')) in
                    ((1, 'rejected', 'rate_limited'), (2, 'succeeded', ''))";
    assert_eq!(app.count(attempts).await, 2);
    assert_eq!(app.count("select attempts_spent::bigint from videos").await, 1);
    assert_eq!(app.emulator.book().creates.len(), 1);
    app.finish().await;
}
