//! Every step of a batch's life - submit, look up, poll, store, finalize, notify - fails once, is asked for again when it is
//! done, dies between its act and its record, and dies right after its record. Each time the batch ends as if nothing had
//! happened: one job bought, one charge, one event.
//!
//! A death between act and record is made exact by a lock: the table that the record goes to is locked, the worker's session
//! is seen waiting for it, and then the worker is killed. Its server process rolls back, because nobody commits.

use std::collections::HashSet;

use freezeframe::emulator::{Fault, Profile, Rule};
use sqlx::AssertSqlSafe;
use ulid::Ulid;

use crate::app::client::{Customer, order_of};
use crate::app::receiver::Reply;
use crate::app::{API_AND_SCHEDULER, TestApp, TestSettings};

const FOR_EVER_MS: u64 = 3_600_000;
/// A session of the service waits for a lock.
const BLOCKED: &str = "select count(*) from pg_stat_activity where datname = current_database()
    and application_name like 'freezeframe%' and wait_event_type = 'Lock'";

/// An installation with one order of one video, which takes for ever until the clock is moved on.
struct Scene {
    app: TestApp,
    customer: Customer,
    batch: String,
}

impl Scene {
    /// `list_out`: the provider's list is out until [`Scene::list_again`].
    async fn open(fault: Option<Fault>, list_out: bool) -> Scene {
        let usual = TestSettings::default().profile;
        let latency_ms = (FOR_EVER_MS, FOR_EVER_MS);
        // the clock is moved on more than once, and the file is still there
        let output_ttl_secs = 10 * FOR_EVER_MS / 1_000;
        let profile = Profile { latency_ms, output_ttl_secs, list_outage_status: list_out.then_some(503), ..usual };
        let rules = fault.map(|fault| Rule { latency_ms: Some(FOR_EVER_MS), ..Rule::always(fault).times(1) });
        let app = TestApp::start(TestSettings {
            roles: API_AND_SCHEDULER,
            profile,
            rules: rules.into_iter().collect(),
            submit_timeout_secs: 30,
            ..TestSettings::default()
        })
        .await;
        let customer = app.customer(1_000).await;
        let mut body = order_of(1, "frame");
        body["webhook_url"] = app.receiver.endpoint("hooks", &customer.webhook_secret).into();
        let batch = customer.order(&body).await;
        Scene { app, customer, batch }
    }

    fn list_again(&self) {
        self.app.emulator.set_profile(TestSettings::default().profile);
    }

    async fn until(&self, question: &str) {
        self.app.until(question, async || self.app.count(question).await >= 1).await;
    }

    /// Until the provider has the job and that much is written of it.
    async fn until_sent(&self, question: &str) {
        self.app.until("the provider has it", async || self.app.emulator.totals().accepted == 1).await;
        self.until(question).await;
    }

    /// The batch ends well, and everything happened once, however often it was begun.
    async fn ends_well(self, step: &str) {
        let batch = self.app.finished_batch(&self.customer, &self.batch).await;
        assert_eq!((batch.word("/status"), batch.number("/credits/charged")), ("completed", 61), "{step}");
        self.until("select count(*) from deliveries where state = 'delivered'").await;
        let told = self.app.receiver.received();
        assert!(!told.is_empty() && told.iter().all(|told| told.verified), "{step}: {told:?}");
        let ids: HashSet<&str> = told.iter().map(|told| told.id.as_str()).collect();
        assert_eq!(ids.len(), 1, "{step}: one event, however often it was sent");
        for (what, times) in [("settlements", 1), ("credit_ledger where act = 'charge'", 1), ("events", 1)] {
            assert_eq!(self.app.count(&format!("select count(*) from {what}")).await, times, "{step}: {what}");
        }
        self.app.finish().await;
    }
}

/// A session that keeps everybody else from writing to a table.
async fn hold_writes_to(app: &TestApp, table: &str) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut holding = app.pool().begin().await.unwrap();
    let lock = format!("lock table {table} in share row exclusive mode");
    sqlx::query(AssertSqlSafe(lock)).execute(&mut *holding).await.unwrap();
    holding
}

/// Plays a scene up to the act of a step whose record is kept from being written, kills the worker there, and lets another
/// one go on.
async fn dies_between_act_and_record(step: &str, scene: Scene, table: &str, act: impl AsyncFn(&Scene)) {
    let mut scene = scene;
    let holding = hold_writes_to(&scene.app, table).await;
    act(&scene).await;
    scene.app.until(&format!("{step}: the record waits"), async || scene.app.count(BLOCKED).await >= 1).await;
    scene.app.process(0).kill();
    holding.rollback().await.unwrap();
    scene.app.start_process("worker").await;
    scene.app.emulator.advance_clock(FOR_EVER_MS);
    scene.ends_well(step).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_of_an_order_leaves_before_its_attempt_is_committed() {
    let mut scene = Scene::open(None, false).await;
    // everything is written, and the commit itself waits
    scene
        .app
        .execute(
            "create function wait_for_the_test() returns trigger language plpgsql security definer as $$ begin
                 perform pg_advisory_xact_lock_shared(7041);
                 return null;
             end $$",
        )
        .await;
    scene
        .app
        .execute(
            "create constraint trigger wait after insert on attempts deferrable initially deferred
             for each row execute function wait_for_the_test()",
        )
        .await;
    let mut holding = scene.app.pool().begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(7041)").execute(&mut *holding).await.unwrap();
    scene.app.start_process("worker").await;
    // so long that whoever does not wait for it has ordered by then
    scene.until(&format!("{BLOCKED} and query_start < clock_timestamp() - interval '1 s'")).await;
    scene.app.process(0).kill();
    scene.app.execute(&BLOCKED.replace("count(*)", "pg_terminate_backend(pid)")).await;
    holding.rollback().await.unwrap();
    let attempts = scene.app.count("select count(*) from attempts").await;
    assert_eq!((attempts, scene.app.emulator.totals().creates_seen), (0, 0), "it ordered what nobody knows of");
    scene.app.start_process("worker").await;
    scene.until_sent("select count(*) from attempts where state = 'accepted'").await;
    scene.app.emulator.advance_clock(FOR_EVER_MS);
    scene.ends_well("intent").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_between_a_submission_and_its_record_is_found_out_about_the_job() {
    let mut scene = Scene::open(Some(Fault::SlowAnswer { ms: 1_500 }), false).await;
    scene.app.start_process("worker").await;
    scene.until_sent("select count(*) from attempts where state = 'sent'").await;
    dies_between_act_and_record("submit", scene, "attempts", async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_between_a_look_up_and_its_record_is_followed_by_one_that_looks_again() {
    let mut scene = Scene::open(Some(Fault::DroppedAfterAccept), true).await;
    scene.app.start_process("worker").await;
    scene.until_sent("select count(*) from attempts where state = 'unknown'").await;
    dies_between_act_and_record("look up", scene, "attempts", async |scene| scene.list_again()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_between_storing_a_film_and_its_record_is_charged_for_once() {
    let mut scene = Scene::open(None, false).await;
    scene.app.start_process("worker").await;
    scene.until_sent("select count(*) from attempts where state = 'accepted'").await;
    dies_between_act_and_record("store", scene, "settlements", async |scene| {
        scene.app.emulator.advance_clock(FOR_EVER_MS);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_while_a_batch_is_finalized_leaves_it_to_the_next() {
    let mut scene = Scene::open(None, false).await;
    scene.app.start_process("worker").await;
    scene.until_sent("select count(*) from attempts where state = 'accepted'").await;
    // the video is settled; the charge is what waits
    dies_between_act_and_record("finalize", scene, "credit_ledger", async |scene| {
        scene.app.emulator.advance_clock(FOR_EVER_MS);
        scene.until("select count(*) from settlements").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_between_a_delivery_and_its_record_is_followed_by_the_same_event() {
    let mut scene = Scene::open(None, false).await;
    scene.app.start_process("worker").await;
    scene.until_sent("select count(*) from attempts where state = 'accepted'").await;
    dies_between_act_and_record("notify", scene, "delivery_attempts", async |scene| {
        scene.app.emulator.advance_clock(FOR_EVER_MS);
        scene.app.receiver.wait_for("hooks", 1).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_right_after_a_record_has_left_everything_to_the_next() {
    let slow = || Some(Fault::SlowAnswer { ms: FOR_EVER_MS });
    for (step, fault, clock_ms, recorded) in [
        ("submit begun", slow(), 0, "select count(*) from attempts where state = 'sent'"),
        ("submitted", None, 0, "select count(*) from attempts where state = 'accepted'"),
        ("stored", None, FOR_EVER_MS, "select count(*) from settlements"),
        ("finalized", None, FOR_EVER_MS, "select count(*) from batches where finished_at is not null"),
        ("notified", None, FOR_EVER_MS, "select count(*) from deliveries where state = 'delivered'"),
    ] {
        let mut scene = Scene::open(fault, false).await;
        scene.app.start_process("worker").await;
        scene.until_sent("select count(*) from attempts").await;
        scene.app.emulator.advance_clock(clock_ms);
        scene.until(recorded).await;
        scene.app.process(0).kill();
        scene.app.start_process("worker").await;
        scene.app.emulator.advance_clock(FOR_EVER_MS);
        scene.ends_well(step).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_fails_is_done_again() {
    for (step, fault, list_out) in [
        ("submit", Some(Fault::ServerError { status: 503 }), false),
        ("look up", Some(Fault::DroppedAfterAccept), true),
        ("poll", Some(Fault::PollErrors { first: 3, status: 500 }), false),
        ("store", Some(Fault::ShortBody { first: Some(1) }), false),
        ("finalize", None, false),
        ("notify", None, false),
    ] {
        let mut scene = Scene::open(fault, list_out).await;
        match step {
            "finalize" => fail_to_finalize_twice(&scene.app).await,
            "notify" => scene.app.receiver.script("hooks", [Reply::Status(500), Reply::Status(503)]),
            _ => {}
        }
        scene.app.start_process("worker").await;
        scene.until_sent("select count(*) from attempts").await;
        if list_out {
            scene.until("select count(*) from attempts where state = 'unknown'").await;
            scene.list_again();
        }
        scene.until("select count(*) from attempts where state = 'accepted'").await;
        scene.app.emulator.advance_clock(FOR_EVER_MS);
        scene.ends_well(step).await;
    }
}

/// The database refuses the end of a batch two times; a sequence counts, because it is not rolled back.
async fn fail_to_finalize_twice(app: &TestApp) {
    app.execute("create sequence refusals").await;
    app.execute(
        "create function refuse() returns trigger language plpgsql security definer as $$ begin
             if nextval('refusals') <= 2 then raise exception 'not now'; end if;
             return new;
         end $$",
    )
    .await;
    app.execute(
        "create trigger refuse before update on batches for each row when (new.finished_at is not null)
         execute function refuse()",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_is_asked_for_again_changes_nothing() {
    let mut scene = Scene::open(None, false).await;
    scene.app.start_process("worker").await;
    scene.until_sent("select count(*) from attempts where state = 'accepted'").await;
    scene.app.emulator.advance_clock(FOR_EVER_MS);
    scene.app.finished_batch(&scene.customer, &scene.batch).await;
    scene.until("select count(*) from deliveries where state = 'delivered'").await;
    let before = everything(&scene.app).await;
    for (queue, ids) in [
        ("generate", "select id from videos"),
        ("finalize", "select id from batches"),
        ("notify", "select id from deliveries"),
    ] {
        let again = format!("insert into apalis.jobs (job, id, job_type) select '{{}}', id, '{queue}' from ({ids}) s");
        for _ in 0..3 {
            scene.app.execute(&again).await;
            let left = "select count(*) from apalis.jobs";
            scene.app.until("the job is seen to be done", async || scene.app.count(left).await == 0).await;
        }
    }
    // a job of nothing is nothing
    let nobody =
        format!("insert into apalis.jobs (job, id, job_type) values ('{{}}', '{}', 'finalize')", Ulid::generate());
    scene.app.execute(&nobody).await;
    let left = "select count(*) from apalis.jobs";
    scene.app.until("the job of nothing is gone", async || scene.app.count(left).await == 0).await;
    assert_eq!(everything(&scene.app).await, before);
    assert_eq!(scene.app.receiver.received().len(), 1);
    scene.ends_well("again").await;
}

/// All that a repeated step might change.
async fn everything(app: &TestApp) -> String {
    let tables = [
        "batches",
        "videos",
        "attempts",
        "settlements",
        "credit_ledger",
        "wallets",
        "batch_holds",
        "events",
        "deliveries",
        "delivery_attempts",
    ];
    let parts: Vec<String> = tables
        .iter()
        .map(|table| format!("(select jsonb_agg(to_jsonb(t) order by to_jsonb(t)) from {table} t)"))
        .collect();
    let question = format!("select jsonb_build_array({})::text", parts.join(", "));
    sqlx::query_scalar(AssertSqlSafe(question)).fetch_one(app.pool()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_that_kills_three_workers_is_given_up_refunded_and_its_cost_is_ours() {
    let mut scene = Scene::open(Some(Fault::DroppedAfterAccept), true).await;
    for death in 0..3 {
        scene.app.start_process("worker").await;
        let looking = format!(
            "select count(*) from attempts a join videos v on v.id = a.video_id
             where a.state = 'unknown' and v.state = 'running' and v.lease_epoch = {}",
            death + 1
        );
        scene.until_sent(&looking).await;
        scene.app.process(death).kill();
    }
    scene.app.start_process("worker").await;
    let batch = scene.app.finished_batch(&scene.customer, &scene.batch).await;
    assert_eq!((batch.word("/status"), batch.number("/credits/refunded")), ("failed", 61));
    let video = scene.customer.videos(&scene.batch).await.remove(0);
    assert_eq!(video["failure"]["type"], "poison");
    assert_eq!(scene.customer.available().await, 1_000);
    assert_eq!(scene.app.count("select sum(credits)::bigint from provider_losses").await, 61);
    assert_eq!(scene.app.emulator.totals().accepted, 1, "bought twice");
    scene.until("select count(*) from deliveries where state = 'delivered'").await;
    scene.app.finish().await;
}
