//! The hazards of a durable queue, each provoked: slots, panics, foreign rows, lost connections, dead, frozen and stopping
//! workers, lost, doubled and delayed jobs, statistics that lie.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use freezeframe::db::{Database, DatabaseSettings};
use freezeframe::domain::VideoId;
use freezeframe::emulator::{Profile, Rule};
use freezeframe::engine::queue::{self, Job, RunAt, SlotSettings, Workers, names};
use freezeframe::service::Roles;
use nix::sys::signal::Signal;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::app::client::order_of;
use crate::app::instant::instant_provider;
use crate::app::postgres::TestDatabase;
use crate::app::{API, API_AND_SCHEDULER, TestApp, TestSettings, count, until};

/// Longer than any test: such jobs end when the emulator's clock is advanced.
const FOR_EVER_MS: u64 = 3_600_000;

fn long_jobs() -> TestSettings {
    let profile = Profile { latency_ms: (FOR_EVER_MS, FOR_EVER_MS), ..TestSettings::default().profile };
    TestSettings { profile, ..TestSettings::default() }
}

/// The settings of processes in which a worker may be silent for so long before it counts as dead.
fn silent_for(app: &TestApp, dead_after_ms: u64) -> String {
    let usual = "dead_after_ms = 2000";
    assert!(app.settings.contains(usual), "{}", app.settings);
    app.settings.replace(usual, &format!("dead_after_ms = {dead_after_ms}"))
}

/// The queue alone, on a database of its own, with a handler of the test's.
struct Bench {
    test: TestDatabase,
    db: Database,
    stop: CancellationToken,
}

impl Bench {
    async fn open() -> Bench {
        let test = TestDatabase::fresh().await;
        let settings = DatabaseSettings {
            application_name: "freezeframe bench".to_owned(),
            role: Some("freezeframe_app".to_owned()),
            engine_plans: true,
            ..DatabaseSettings::new(&test.url)
        };
        Bench { db: Database::connect(&settings).await.unwrap(), test, stop: CancellationToken::new() }
    }

    fn slots(slots: usize) -> SlotSettings {
        SlotSettings {
            queue: names::GENERATE,
            slots,
            max_fetch: 100,
            heartbeat: Duration::from_millis(100),
            dead_after: Duration::from_secs(2),
            poll: Duration::from_millis(20),
        }
    }

    fn start<H, F>(&self, slots: usize, handler: H) -> tokio::task::JoinHandle<()>
    where
        H: Fn(Job) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let workers = Workers::new(self.db.clone(), self.stop.clone()).add(Bench::slots(slots), handler);
        tokio::spawn(async move { workers.run().await.unwrap() })
    }

    async fn push(&self, count: usize) -> Vec<Ulid> {
        let ids: Vec<Ulid> = (0..count).map(|_| VideoId::generate().ulid()).collect();
        let mut conn = self.db.pool().acquire().await.unwrap();
        queue::push(&mut conn, names::GENERATE, &ids, RunAt::Now).await.unwrap();
        ids
    }

    async fn jobs_left(&self) -> i64 {
        count(&self.test.pool, "select count(*) from apalis.jobs").await
    }

    async fn close(self, running: tokio::task::JoinHandle<()>) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), running).await.expect("the workers did not stop").unwrap();
        self.db.close().await;
    }
}

async fn ack(db: &Database, job: Job) {
    let mut conn = db.pool().acquire().await.unwrap();
    let (worker, ticket) = (job.worker().to_owned(), job.ticket());
    assert_eq!(queue::ack(&mut conn, &worker, &[ticket]).await.unwrap(), 1, "a job was held by two");
    job.settled();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_holds_as_many_rows_as_it_has_slots_and_long_jobs_run_once() {
    let bench = Bench::open().await;
    let gate = Arc::new(Semaphore::new(0));
    let runs = Arc::new(Mutex::new(Vec::new()));
    let running = bench.start(5, {
        let (db, gate, runs) = (bench.db.clone(), gate.clone(), runs.clone());
        move |job| {
            let (db, gate, runs) = (db.clone(), gate.clone(), runs.clone());
            async move {
                runs.lock().unwrap().push(job.id());
                gate.acquire().await.unwrap().forget();
                ack(&db, job).await;
            }
        }
    });
    bench.push(20).await;
    until("all slots are taken", async || runs.lock().unwrap().len() == 5).await;
    // many heartbeats and more than the time after which a silent worker counts as dead
    let held = "select count(*) from apalis.jobs where lock_by is not null";
    let beats = "select (extract(epoch from seen_at) * 1000)::bigint from workers";
    let until_ms = count(&bench.test.pool, beats).await + 2_500;
    until("the worker has beaten on for longer than it may be silent", async || {
        assert_eq!(count(&bench.test.pool, held).await, 5);
        count(&bench.test.pool, beats).await > until_ms
    })
    .await;
    for left in (0..20).rev() {
        gate.add_permits(1);
        until("one more is done", async || bench.jobs_left().await == left).await;
        assert!(count(&bench.test.pool, held).await <= 5);
    }
    let runs = runs.lock().unwrap().clone();
    assert_eq!((runs.len(), runs.iter().collect::<HashSet<_>>().len()), (20, 20), "a job ran twice");
    bench.close(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_panics_gives_its_job_back_and_harms_no_other() {
    let bench = Bench::open().await;
    let gate = Arc::new(Semaphore::new(0));
    let (seen, quiet_runs) = (Arc::new(Mutex::new(HashSet::new())), Arc::new(AtomicUsize::new(0)));
    // one job that is under way while all the others panic
    let quiet = bench.push(1).await[0];
    let running = bench.start(10, {
        let (db, gate, seen, quiet_runs) = (bench.db.clone(), gate.clone(), seen.clone(), quiet_runs.clone());
        move |job: Job| {
            let (db, gate, seen, quiet_runs) = (db.clone(), gate.clone(), seen.clone(), quiet_runs.clone());
            // some panic before their first await, some behind it
            let first = job.id() != quiet && seen.lock().unwrap().insert(job.id());
            assert!(!(first && job.id().random().is_multiple_of(2)), "meant to panic");
            async move {
                tokio::task::yield_now().await;
                assert!(!first, "meant to panic");
                if job.id() == quiet {
                    quiet_runs.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await.unwrap().forget();
                }
                ack(&db, job).await;
            }
        }
    });
    until("the quiet job runs", async || quiet_runs.load(Ordering::SeqCst) == 1).await;
    bench.push(50).await;
    until("all but the quiet one are done", async || bench.jobs_left().await == 1).await;
    assert_eq!(seen.lock().unwrap().len(), 50);
    gate.add_permits(1);
    until("the quiet one is done", async || bench.jobs_left().await == 0).await;
    assert_eq!(quiet_runs.load(Ordering::SeqCst), 1);
    bench.close(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_and_undecodable_rows_do_not_stop_a_worker() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(10_000).await;
    for queue in [names::GENERATE, names::FINALIZE, names::NOTIFY] {
        for (job, id) in [
            ("\\xff00fe", Ulid::generate().to_string()),
            ("{}", Ulid::generate().to_string()),
            ("{}", format!("no ulid {queue}")),
        ] {
            app.execute(&format!(
                "insert into apalis.jobs (job, id, job_type, priority) values ('{job}', '{id}', '{queue}', 9)"
            ))
            .await;
        }
    }
    let id = customer.order(&order_of(30, "a calm sea")).await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    // what names nothing of ours is gone, what is no id of ours is left for a human
    app.until("the unknown ones are gone", async || app.count("select count(*) from apalis.jobs").await == 3).await;
    assert_eq!(app.execute("delete from apalis.jobs where id like 'no ulid%'").await, 3);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cutting_every_database_connection_under_load_costs_time_and_nothing_else() {
    let profile = Profile { latency_ms: (50, 600), ..TestSettings::default().profile };
    let app = TestApp::start(TestSettings { profile, slots: 60, ..TestSettings::default() }).await;
    let customer = app.customer(100_000).await;
    let url = app.receiver.endpoint("hooks", &customer.webhook_secret);
    let mut body = order_of(300, "a calm sea");
    body["webhook_url"] = url.into();
    customer.order(&body).await;
    let ours = "from pg_stat_activity
                where datname = current_database() and application_name like 'freezeframe%'";
    let mut cut = 0;
    for round in 1..=6 {
        let enough = format!("select (count(*) >= {})::int::bigint from settlements", round * 40);
        app.until(&format!("round {round}"), async || app.count(&enough).await == 1).await;
        // not those alone that are just being opened again
        app.until("they are connected", async || app.count(&format!("select count(*) {ours}")).await >= 10).await;
        cut += app.count(&format!("select count(pg_terminate_backend(pid)) {ours}")).await;
    }
    assert!(cut > 50, "only {cut} connections were cut");
    app.all_batches_end().await;
    assert_eq!(app.emulator.totals().accepted, 300, "bought twice");
    assert!(app.receiver.wait_for("hooks", 1).await[0].verified);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_starts_again_has_a_new_name() {
    let mut app = TestApp::start(TestSettings::default()).await;
    let workers = "select count(*) from workers";
    app.until("the workers beat", async || app.count(workers).await == 3).await;
    app.stop_service().await;
    app.start_service().await;
    app.until("the new workers beat under their own names", async || app.count(workers).await == 6).await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_video_that_kills_three_workers_is_failed_and_refunded() {
    let mut app = TestApp::start(TestSettings { roles: API_AND_SCHEDULER, ..long_jobs() }).await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&order_of(1, "deadly")).await;
    for death in 1..=3 {
        let worker = app.start_process("worker").await;
        let claimed = format!("select count(*) from videos where state = 'running' and lease_epoch = {death}");
        app.until(&format!("worker {death} has it"), async || app.count(&claimed).await == 1).await;
        app.until("the provider has it", async || {
            app.count("select count(*) from attempts where state = 'accepted'").await == 1
        })
        .await;
        // whoever gives it up asks nobody any more
        let polls = || app.emulator.book().jobs.iter().map(|job| job.polls).sum::<u32>();
        let before = polls();
        app.until(&format!("worker {death} asks about it"), async || polls() > before).await;
        app.process(worker).kill();
    }
    app.start_process("worker").await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "failed");
    let video = customer.videos(&id).await.remove(0);
    assert_eq!(video["failure"]["type"], "poison");
    assert_eq!(app.emulator.totals().accepted, 1);
    assert_eq!(customer.available().await, 1_000);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_frozen_and_replaced_writes_nothing_any_more() {
    let videos = 12;
    let mut app = TestApp::start(TestSettings { roles: API_AND_SCHEDULER, ..long_jobs() }).await;
    // long enough that only the frozen one is ever taken for dead
    app.settings = silent_for(&app, 6_000);
    let customer = app.customer(10_000).await;
    let stale = app.start_process("worker").await;
    let id = customer.order(&order_of(videos, "a calm sea")).await;
    let accepted = format!("select (count(*) = {videos})::int::bigint from attempts where state = 'accepted'");
    app.until("the first worker has them all", async || app.count(&accepted).await == 1).await;
    app.process(stale).signal(Signal::SIGSTOP);
    let fresh = app.start_process("worker").await;
    let pid = app.process(fresh).id();
    let replaced = format!(
        "select (count(*) = {videos})::int::bigint from attempts where lease_epoch = 2 and worker like '%-{pid}-%'"
    );
    app.until("the second worker has taken them over", async || app.count(&replaced).await == 1).await;
    // the first one wakes up, still believing; both see the videos finished, and both fetch them
    app.process(stale).signal(Signal::SIGCONT);
    app.emulator.advance_clock(FOR_EVER_MS);
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!((batch.word("/status"), batch.number("/credits/charged")), ("completed", 61 * videos as i64));
    app.until("the first one has tried as well", async || app.emulator.totals().downloads >= 2 * videos as u64).await;
    app.process(stale).terminate();
    // what counts is the second one's, file by file
    let stolen = format!("select count(*) from attempts where worker not like '%-{pid}-%' or lease_epoch <> 2");
    assert_eq!(app.count(&stolen).await, 0);
    assert_eq!(app.count("select count(*) from settlements").await, videos as i64);
    assert_eq!(app.emulator.totals().accepted, videos as u64);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_asked_to_stop_hands_everything_over_at_once() {
    let videos = 20;
    let mut app = TestApp::start(TestSettings { roles: API_AND_SCHEDULER, ..long_jobs() }).await;
    app.settings = silent_for(&app, 60_000);
    let customer = app.customer(10_000).await;
    let leaving = app.start_process("worker").await;
    let id = customer.order(&order_of(videos, "a calm sea")).await;
    let accepted = format!("select (count(*) = {videos})::int::bigint from attempts where state = 'accepted'");
    app.until("the first worker has them all", async || app.count(&accepted).await == 1).await;
    let staying = app.start_process("worker").await;
    let left = app.process(leaving).id();
    let took = app.process(leaving).terminate();
    let kept = format!("select count(*) from apalis.jobs where lock_by like '%-{left}-%'");
    assert_eq!(app.count(&kept).await, 0, "jobs still locked by a worker that has ended");
    assert!(took < Duration::from_secs(30), "it took {took:?}: that is waiting for death, not handing over");
    let pid = app.process(staying).id();
    let taken = format!("select (count(*) = {videos})::int::bigint from attempts where worker like '%-{pid}-%'");
    app.until("the other worker has them all", async || app.count(&taken).await == 1).await;
    assert_eq!(app.count("select max(deaths)::bigint from videos").await, 0, "an orderly stop is no death");
    app.emulator.advance_clock(FOR_EVER_MS);
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    assert_eq!(app.emulator.totals().accepted, videos as u64);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_found_without_any_notification_and_leave_no_rows() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(10_000).await;
    // whoever listens hears nothing from now on
    app.execute("create function public.pg_notify(text, text) returns void language sql as ''").await;
    app.execute(&format!("alter database {} set search_path = public, pg_catalog", app.db.name)).await;
    app.execute("alter role freezeframe_app set search_path = public, pg_catalog").await;
    app.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query like 'LISTEN%'",
    )
    .await;
    let id = customer.order(&order_of(10, "a calm sea")).await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    app.until("no row is left", async || app.count("select count(*) from apalis.jobs").await == 0).await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_for_later_waits_and_is_then_found_by_the_poll() {
    let bench = Bench::open().await;
    let ran = Arc::new(AtomicUsize::new(0));
    let running = bench.start(2, {
        let (db, ran) = (bench.db.clone(), ran.clone());
        move |job| {
            let (db, ran) = (db.clone(), ran.clone());
            async move {
                ran.fetch_add(1, Ordering::SeqCst);
                ack(&db, job).await;
            }
        }
    });
    let later = VideoId::generate().ulid();
    let mut conn = bench.db.pool().acquire().await.unwrap();
    queue::push(&mut conn, names::GENERATE, &[later], RunAt::InSecs(3_600)).await.unwrap();
    drop(conn);
    // jobs that were pushed behind it overtake it
    bench.push(5).await;
    until("the others are done", async || bench.jobs_left().await == 1).await;
    assert_eq!(ran.load(Ordering::SeqCst), 5);
    // as time would: no notification comes with it
    sqlx::query("update apalis.jobs set run_at = now()").execute(&bench.test.pool).await.unwrap();
    until("the late one is done", async || bench.jobs_left().await == 0).await;
    assert_eq!(ran.load(Ordering::SeqCst), 6);
    bench.close(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_every_job_row_costs_time_and_nothing_else() {
    let app = TestApp::start(TestSettings {
        rules: vec![Rule::takes("slow", FOR_EVER_MS)],
        slots: 20,
        ..TestSettings::default()
    })
    .await;
    let customer = app.customer(100_000).await;
    let mut body = order_of(60, "a calm sea");
    body["items"].as_array_mut().unwrap().extend(order_of(10, "slow")["items"].as_array().unwrap().clone());
    let id = customer.order(&body).await;
    let slow =
        "from attempts a join videos v on v.id = a.video_id where v.prompt like 'slow%' and a.state = 'accepted'";
    app.until("the slow ones run", async || app.count(&format!("select count(*) {slow}")).await == 10).await;
    assert!(app.execute("delete from apalis.jobs").await >= 10);
    app.until("they are taken up again", async || {
        app.count(&format!("select count(*) {slow} and a.lease_epoch > 1")).await == 10
    })
    .await;
    app.emulator.advance_clock(FOR_EVER_MS);
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!((batch.word("/status"), batch.number("/credits/charged")), ("completed", 70 * 61));
    assert_eq!(app.emulator.totals().accepted, 70, "bought twice");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_finalize_job_was_lost_is_settled_by_the_sweep() {
    let mut app =
        TestApp::start(TestSettings { roles: Roles { worker: false, ..Roles::ALL }, ..TestSettings::default() }).await;
    let customer = app.customer(10_000).await;
    let id = customer.order(&order_of(3, "a calm sea")).await;
    // no finalize job survives while the videos end
    app.execute(
        "create function public.lose() returns trigger language plpgsql as
         'begin if new.job_type = ''finalize'' then return null; end if; return new; end'",
    )
    .await;
    app.execute("create trigger lose before insert on apalis.jobs for each row execute function public.lose()").await;
    app.start_process("worker").await;
    app.until("every video is settled", async || app.count("select count(*) from settlements").await == 3).await;
    assert_eq!(app.count("select count(*) from batches where finished_at is not null").await, 0);
    app.execute("drop trigger lose on apalis.jobs").await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_come_twice_or_too_early_change_nothing() {
    let app =
        TestApp::start(TestSettings { rules: vec![Rule::takes("slow", FOR_EVER_MS)], ..TestSettings::default() }).await;
    let customer = app.customer(10_000).await;
    let url = app.receiver.endpoint("hooks", &customer.webhook_secret);
    let mut body = order_of(5, "a calm sea");
    body["webhook_url"] = url.into();
    let done = customer.order(&body).await;
    app.finished_batch(&customer, &done).await;
    app.until("it is told", async || app.count("select count(*) from deliveries where state = 'delivered'").await == 1)
        .await;
    app.until("the queue is empty", async || app.count("select count(*) from apalis.jobs").await == 0).await;
    let open = customer.order(&order_of(2, "slow")).await;
    app.until("the open batch runs", async || {
        app.count("select count(*) from attempts where state = 'accepted'").await == 2
    })
    .await;
    let books = "select (select count(*) from credit_ledger) * 1000000 + (select sum(available) from wallets)::bigint";
    let (before, creates) = (app.count(books).await, app.emulator.totals().creates_seen);

    let bare = |id: &str| id[4..].to_owned();
    let mut jobs = vec![(bare(&done), names::FINALIZE), (bare(&open), names::FINALIZE)];
    let ids = "select id from videos where state = 'succeeded'";
    jobs.extend(
        sqlx::query_scalar(ids).fetch_all(app.pool()).await.unwrap().into_iter().map(|id| (id, names::GENERATE)),
    );
    let delivery: String = sqlx::query_scalar("select id from deliveries").fetch_one(app.pool()).await.unwrap();
    jobs.push((delivery, names::NOTIFY));
    for (id, queue) in &jobs {
        app.execute(&format!("insert into apalis.jobs (job, id, job_type) values ('{{}}', '{id}', '{queue}')")).await;
    }
    app.until("they are gone", async || {
        app.count("select count(*) from apalis.jobs where job_type <> 'generate' or status = 'Pending'").await == 0
    })
    .await;
    app.until("only the open batch's jobs are left", async || app.count("select count(*) from apalis.jobs").await == 2)
        .await;
    assert_eq!((app.count(books).await, app.emulator.totals().creates_seen), (before, creates));
    assert_eq!(customer.batch(&open).await.word("/status"), "processing");
    assert_eq!(app.receiver.received().len(), 1);
    app.emulator.advance_clock(FOR_EVER_MS);
    app.finished_batch(&customer, &open).await;
    app.finish().await;
}

/// Rows that scans of each hot table have read or fetched so far: (table, sequential, by index).
async fn rows_touched(app: &TestApp) -> Vec<(String, i64, i64)> {
    sqlx::query_as(
        "select relname::text, coalesce(seq_tup_read, 0), coalesce(idx_tup_fetch, 0) from pg_stat_all_tables
         where (schemaname, relname) in (('apalis', 'jobs'), ('public', 'videos'), ('public', 'attempts'), ('public', 'settlements'))
         order by 1",
    )
    .fetch_all(app.pool())
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_that_say_the_tables_are_empty_do_not_make_the_work_quadratic() {
    const VIDEOS: i64 = 5_000;
    let mut app = TestApp::start(TestSettings {
        // a sweep reads by the clock, not by the video
        sweep_secs: 3600,
        // many small waves: each must find its videos without reading the rest of the batch
        slots: 100,
        storage: Some("memory://"),
        provider: Some(instant_provider),
        roles: API,
        // it would read the tables over and over itself
        skip_back_off: false,
        ..TestSettings::default()
    })
    .await;
    for table in
        ["apalis.jobs", "videos", "attempts", "batches", "batch_lanes", "settlements", "wallets", "batch_holds"]
    {
        app.execute(&format!("alter table {table} set (autovacuum_enabled = false)")).await;
        app.execute(&format!("vacuum analyze {table}")).await;
    }
    let customer = app.customer(1_000_000).await;
    let id = customer.order(&order_of(VIDEOS as usize, "frame")).await;
    app.stop_service().await;
    let before = rows_touched(&app).await;
    app.set_roles(Roles::ALL);
    app.start_service().await;
    let customer = app.here(&customer);
    // more than one patience may be needed for; the API counts without reading the tables that are watched
    for part in 1..=10 {
        app.until(&format!("{part} of 10 parts are made"), async || {
            customer.batch(&id).await.number("/counts/succeeded") >= part * VIDEOS / 10
        })
        .await;
    }
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    // a session reports what it touched when it ends
    app.stop_service().await;
    app.until("every session has reported", async || {
        app.count("select count(*) from pg_stat_activity where datname = current_database() and application_name like 'freezeframe%'").await == 0
    })
    .await;
    let mut touched = 0;
    for ((table, seq, idx), (_, seq_before, idx_before)) in rows_touched(&app).await.into_iter().zip(before) {
        let (seq, idx) = (seq - seq_before, idx - idx_before);
        eprintln!("{table}: {} rows read in sequence and {} by an index for each video", seq / VIDEOS, idx / VIDEOS);
        touched += seq + idx;
    }
    assert!(touched > VIDEOS, "nothing was counted");
    assert!(touched < 50 * VIDEOS, "{} rows touched for each of {VIDEOS} videos", touched / VIDEOS);
    for part in ["its file", "never gave out", "jobs accepted, but"] {
        app.excuse(part);
    }
    app.finish().await;
}
