//! Who is served when not everybody can be: tenants by their weights, their batches by priority and age, and nobody waits
//! behind what is limited or paused.
//!
//! `FREEZEFRAME_WAITING=100000` makes the long queue as long as that, and holds the times to what is promised: on a release
//! build and a quiet machine. Without it, what the rounds released is looked at alone, which no machine is too slow for.

use std::time::{Duration, Instant};

use freezeframe::emulator::{CreateStamp, Profile, Rule};
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::client::{Answer, BATCHES, Customer, item, order_of};
use crate::app::{TestApp, TestSettings};
use crate::pacing::limit;

/// What a batch takes at the most beside a long queue, over what it takes alone.
const SLOWER_AT_MOST: f64 = 1.2;
const STARTS_WITHIN: Duration = Duration::from_secs(2);
const SMALL: usize = 10;
/// Of one order: what a slow machine takes in time.
const MOST_ITEMS: usize = 1_000;

/// How long the long queue is when somebody says so.
fn promised() -> Option<usize> {
    std::env::var("FREEZEFRAME_WAITING").ok().and_then(|text| text.parse().ok())
}

fn waiting() -> usize {
    promised().unwrap_or(3_000)
}

/// Has the database note how many videos of a batch each release gives out: when they reach the provider depends on how busy
/// the machine is, what a round chose does not.
async fn note_releases(app: &TestApp) {
    let note = "create table noted_releases (release xid8 not null, batch_id text not null, videos integer not null);
        create function note_release() returns trigger language plpgsql security definer as $$
        begin
            insert into noted_releases values (pg_current_xact_id(), new.batch_id, old.waiting - new.waiting);
            return null;
        end $$;
        create trigger note_release after update on batch_lanes
            for each row when (new.waiting < old.waiting) execute function note_release()";
    sqlx::raw_sql(note).execute(app.pool()).await.unwrap();
}

/// While the small batch had more to release than its last one gave out, the others got no more than it did, but for the odd
/// one of a release.
async fn assert_evenly_released(app: &TestApp, small: &str) {
    let (acts, own, others): (i64, i64, i64) = sqlx::query_as(
        "with of_small as (select release, videos from noted_releases where batch_id = $1),
            before as (select r.release, r.batch_id, r.videos from noted_releases r
                where r.release >= (select min(release) from of_small) and r.release < (select max(release) from of_small))
        select (select count(*) from of_small), coalesce(sum(videos) filter (where batch_id = $1), 0)::bigint,
            coalesce(sum(videos) filter (where batch_id <> $1), 0)::bigint
        from before",
    )
    .bind(small.trim_start_matches("bat_"))
    .fetch_one(app.pool())
    .await
    .unwrap();
    println!("the small batch took {acts} releases; before the last one it got {own} videos, the others {others}");
    assert!(acts > 0, "no release was noted");
    assert!(others <= own + 1, "{others} others beside {own}");
}

/// Tenants in the order in which they came, as operators name them.
async fn tenants(app: &TestApp) -> Vec<String> {
    let ids: Vec<String> =
        sqlx::query_scalar("select id from tenants order by id").fetch_all(app.pool()).await.unwrap();
    ids.iter().map(|id| format!("tenant=ten_{id}")).collect()
}

fn starts(app: &TestApp, prompt: &str) -> Vec<u64> {
    let is_of = |create: &&CreateStamp| create.prompt.as_deref().is_some_and(|text| text.starts_with(prompt));
    app.emulator.book().creates.iter().filter(is_of).map(|create| create.at_ms).collect()
}

/// (the batch, until its first video reached the provider, until it had ended)
async fn times(app: &TestApp, customer: &Customer, prompt: &str) -> (String, Duration, Duration) {
    let before = starts(app, prompt).len();
    let ordered = Instant::now();
    let id = customer.order(&order_of(SMALL, prompt)).await;
    app.until("its first video starts", async || starts(app, prompt).len() > before).await;
    let first = ordered.elapsed();
    assert_eq!(app.finished_batch(customer, &id).await.word("/status"), "completed");
    (id, first, ordered.elapsed())
}

async fn cancel_all(customer: &Customer, ids: &[String]) {
    for id in ids {
        customer.call(Method::POST, &format!("{BATCHES}/{id}/cancel"), &[], None).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_batch_beside_a_long_queue_starts_at_once_and_takes_hardly_longer_than_alone() {
    const SLOTS: usize = 200;
    let profile = Profile { latency_ms: (2_500, 7_500), one_clip_for_all: true, clip_seconds: 1, ..Profile::calm() };
    let rules = vec![Rule::takes("small", 5_000)];
    let app = TestApp::start(TestSettings { profile, rules, slots: SLOTS, ..TestSettings::default() }).await;
    let (large, small) = (app.customer(100_000_000).await, app.customer(1_000_000).await);
    note_releases(&app).await;
    let (_, _, alone) = times(&app, &small, "small").await;

    let (mut left, mut queue) = (waiting(), Vec::new());
    while left > 0 {
        let videos = left.min(MOST_ITEMS);
        queue.push(large.order(&order_of(videos, "large")).await);
        left -= videos;
    }
    let in_flight = "select coalesce(sum(total - waiting - settled), 0)::bigint from batch_lanes where not closed";
    app.until("one tenant alone fills all slots", async || app.count(in_flight).await == SLOTS as i64).await;
    // until the ends of its videos have spread
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (batch, first, beside) = times(&app, &small, "small").await;
    println!(
        "{SMALL} videos took {alone:?} alone, {beside:?} beside {} that waited; the first began after {first:?}",
        waiting()
    );
    assert_evenly_released(&app, &batch).await;
    let slower = |beside: Duration| beside.as_secs_f64() / alone.as_secs_f64();
    if promised().is_some() {
        assert!(first <= STARTS_WITHIN, "the first began after {first:?}");
        assert!(slower(beside) <= SLOWER_AT_MOST, "{:.2} times as long as alone", slower(beside));
    }

    // at its limit it delays nobody
    let whose = tenants(&app).await;
    limit(&app, &[&whose[0], "videos_per_minute=1"]).await;
    app.until("slots are free", async || app.count(in_flight).await < 20).await;
    let (_, first, beside) = times(&app, &small, "small").await;
    println!("beside a tenant at its limit: the first after {first:?}, the last after {beside:?}");
    if promised().is_some() {
        assert!(first <= STARTS_WITHIN && slower(beside) <= SLOWER_AT_MOST, "{first:?}, {beside:?}");
    }
    cancel_all(&large, &queue).await;
    app.all_batches_end().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_that_want_more_than_there_is_are_served_by_their_weights_and_a_changed_weight_counts_at_once() {
    let profile = Profile { latency_ms: (200, 600), one_clip_for_all: true, clip_seconds: 1, ..Profile::calm() };
    let app = TestApp::start(TestSettings { profile, slots: 10, ..TestSettings::default() }).await;
    let (heavy, light) = (app.customer(1_000_000).await, app.customer(1_000_000).await);
    let whose = tenants(&app).await;
    limit(&app, &[&whose[0], "weight=3"]).await;
    let ids = (heavy.order(&order_of(600, "heavy")).await, light.order(&order_of(600, "light")).await);
    let both = async || (starts(&app, "heavy").len(), starts(&app, "light").len());
    app.until("a few have started", async || both().await.1 >= 10).await;
    let share = async |from: (usize, usize), videos: usize| {
        app.until("more have started", async || {
            let now = both().await;
            now.0 + now.1 >= from.0 + from.1 + videos
        })
        .await;
        let now = both().await;
        (now.0 - from.0) as f64 / (now.0 + now.1 - from.0 - from.1) as f64
    };
    let by_three = share(both().await, 120).await;
    assert!((by_three - 0.75).abs() <= 0.05, "weight 3 beside 1 gets {by_three:.2}");
    limit(&app, &[&whose[1], "weight=3"]).await;
    let from = both().await;
    // those that are under way were chosen before
    app.until("the change is seen", async || both().await.0 + both().await.1 >= from.0 + from.1 + 10).await;
    let evenly = share(both().await, 120).await;
    assert!((evenly - 0.5).abs() <= 0.05, "weight 3 beside 3 gets {evenly:.2}");
    println!("of what started, weight 3 beside 1 got {by_three:.3}, beside 3 {evenly:.3}");
    for wrong in [vec![&*whose[0], "weight=0"], vec![&*whose[0], "weight=1001"], vec!["model=sora-2", "weight=2"]] {
        let refused = app.command(&[&["limits", "set"], &*wrong, &["--reason", "x"]].concat()).await;
        assert!(!refused.status.success(), "{wrong:?}");
    }
    cancel_all(&heavy, &[ids.0]).await;
    cancel_all(&light, &[ids.1]).await;
    app.all_batches_end().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_tenants_batches_the_higher_priority_goes_first_and_then_the_older() {
    let profile = Profile { latency_ms: (300, 300), one_clip_for_all: true, clip_seconds: 1, ..Profile::calm() };
    let app = TestApp::start(TestSettings { profile, slots: 2, ..TestSettings::default() }).await;
    let customer = app.customer(100_000).await;
    for wrong in [json!(-1), json!(10), json!("high"), json!(1.5)] {
        let mut body = order_of(1, "frame");
        body["priority"] = wrong;
        let problem = customer.submit(&body).await.problem(422);
        assert_eq!(problem["errors"][0]["pointer"], "/priority", "{problem}");
    }
    let order = async |prompt: &str, priority: Option<u8>| {
        let mut body = order_of(6, prompt);
        if let Some(priority) = priority {
            body["priority"] = json!(priority);
        }
        customer.order(&body).await
    };
    let usual = order("usual", None).await;
    app.until("it has begun", async || starts(&app, "usual").len() >= 2).await;
    let later = order("later", None).await;
    let low = order("low", Some(0)).await;
    let high = order("high", Some(9)).await;
    let shown = async |id: &str| customer.batch(id).await.number("/priority");
    assert_eq!((shown(&usual).await, shown(&low).await, shown(&high).await), (5, 0, 9));
    app.all_batches_end().await;
    let first = |prompt: &str| starts(&app, prompt)[0];
    let last = |prompt: &str| *starts(&app, prompt).last().unwrap();
    assert!(last("high") <= last("usual") && last("usual") <= last("later") && last("later") <= last("low"));
    assert!(last("high") <= first("later") && last("later") <= first("low"));
    assert_eq!(customer.batch(&later).await.word("/status"), "completed");
    app.finish().await;
}

async fn say(customer: &Customer, id: &str, what: &str) -> Answer {
    customer.call(Method::POST, &format!("{BATCHES}/{id}/{what}"), &[], None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_batch_lets_the_others_pass_and_goes_on_where_it_was() {
    let profile = Profile { latency_ms: (400, 400), one_clip_for_all: true, clip_seconds: 1, ..Profile::calm() };
    let app = TestApp::start(TestSettings { profile, slots: 2, ..TestSettings::default() }).await;
    let (customer, other) = (app.customer(100_000).await, app.customer(1_000).await);
    let id = customer.order(&order_of(12, "paused")).await;
    app.until("it has begun", async || starts(&app, "paused").len() >= 2).await;
    let first = say(&customer, &id, "pause").await.expect(200);
    assert_eq!(say(&customer, &id, "pause").await.expect(200).text, first.text, "repeated");
    app.until("nothing of it is being made", async || {
        let batch = customer.batch(&id).await;
        batch.number("/counts/in_progress") == 0 && batch.body["waiting_reason"] == "paused"
    })
    .await;
    let begun = starts(&app, "paused").len();
    let passing = customer.order(&order_of(4, "passing")).await;
    assert_eq!(app.finished_batch(&customer, &passing).await.word("/status"), "completed");
    assert_eq!(starts(&app, "paused").len(), begun, "something of a paused batch began");
    let batch = customer.batch(&id).await;
    assert_eq!(batch.word("/paused_at"), first.word("/paused_at"));
    assert!(customer.videos(&id).await.iter().any(|video| video["waiting_reason"] == "paused"));
    assert_eq!(batch.number("/credits/held"), batch.number("/credits/frozen"), "what waits keeps its credits");

    let connection = ["--url", &*customer.base, "--api-key", &*customer.api_key];
    let command = async |what: &str, id: &str| app.command(&[&["batch", what, id], &connection[..]].concat()).await;
    let told =
        |output: std::process::Output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let shown = told(command("show", &id).await);
    assert!(shown.contains("by you since") && shown.contains("the end of a pause"), "{shown}");
    let shown = told(command("resume", &id).await);
    assert!(shown.contains("goes on"), "{shown}");
    let shown = told(command("pause", &id).await);
    assert!(shown.contains("is paused since") && shown.contains("batch resume"), "{shown}");
    let refused = command("pause", "bat_1").await;
    assert!(!refused.status.success(), "{}", told(refused));

    let resumed = say(&customer, &id, "resume").await.expect(200);
    assert!(resumed.body.get("paused_at").is_none(), "{}", resumed.text);
    assert_eq!(say(&customer, &id, "resume").await.expect(200).text, resumed.text, "repeated");
    assert_eq!(app.finished_batch(&customer, &id).await.number("/counts/succeeded"), 12);

    for what in ["pause", "resume"] {
        say(&other, &id, what).await.problem(404);
        say(&customer, "bat_1", what).await.problem(404);
        let problem = say(&customer, &id, what).await.problem(409);
        assert!(problem["detail"].as_str().unwrap().contains("it is completed"), "{problem}");
    }
    let cancelled = customer.order(&order_of(30, "cancelled")).await;
    say(&customer, &cancelled, "pause").await.expect(200);
    say(&customer, &cancelled, "cancel").await.expect(200);
    let batch = app.finished_batch(&customer, &cancelled).await;
    assert!(batch.number("/counts/cancelled") >= 28, "a paused batch can be cancelled: {}", batch.text);
    app.finish().await;
}

/// `total = waiting + in_progress + succeeded + failed`; what has ended, and what no longer waits.
fn ended_and_begun(batch: &Value) -> (i64, i64) {
    let count = |name: &str| batch["counts"][name].as_i64().unwrap();
    let (waiting, failed) = (count("waiting"), count("failed"));
    assert_eq!(count("total"), waiting + count("in_progress") + count("succeeded") + failed, "{batch}");
    let credits = |name: &str| batch["credits"][name].as_i64().unwrap();
    assert_eq!(credits("frozen"), credits("charged") + credits("refunded") + credits("held"), "{batch}");
    (count("succeeded") + failed, count("total") - waiting)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_of_a_running_batch_asked_for_a_thousand_times_add_up_and_never_go_back() {
    let profile = Profile { latency_ms: (500, 3_000), one_clip_for_all: true, clip_seconds: 1, ..Profile::calm() };
    let rules = vec![Rule::on_prompt("bad", freezeframe::emulator::Fault::ModerationAtSubmit)];
    let app = TestApp::start(TestSettings { profile, rules, slots: 20, ..TestSettings::default() }).await;
    let customer = app.customer(1_000_000).await;
    let items: Vec<Value> =
        (0..200).map(|at| item(&format!("{} {at}", if at % 5 == 0 { "bad" } else { "good" }))).collect();
    let id = customer.order(&json!({ "items": items })).await;
    let (mut before, mut polls, mut running) = ((0, 0), 0, 0);
    loop {
        let batch = customer.batch(&id).await.body;
        let now = ended_and_begun(&batch);
        assert!(now.0 >= before.0 && now.1 >= before.1, "{before:?} and then {now:?}: {batch}");
        before = now;
        polls += 1;
        let ended = batch["finished_at"].is_string();
        running += usize::from(!ended);
        if ended && polls >= 1_000 {
            break;
        }
    }
    println!("{polls} polls, {running} of them while it ran");
    assert!(running >= 100, "only {running} polls while it ran");
    assert_eq!(before, (200, 200));
    app.finish().await;
}
