//! Workers killed and frozen at random moments, one of them or all.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use freezeframe::emulator::Profile;
use nix::sys::signal::Signal;
use rand::RngExt;
use rand::rngs::StdRng;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinSet;

use super::{Waits, count_of, seeded};
use crate::app::client::order_of;
use crate::app::{API, PATIENCE, TestApp, TestSettings, count};

/// Processes that make videos; each may lead the scheduler as well.
const WORKERS: usize = 3;
const ROLES: &str = "worker,scheduler";
/// Promised for all but the slowest hundredth.
const RESUMED_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Kill,
    KillAll,
    /// SIGSTOP for longer than a lease, then SIGCONT: whoever wakes up finds its work in other hands.
    Freeze,
}

/// All blows in a random order.
fn blows(random: &mut StdRng) -> Vec<Blow> {
    let counts = [
        (Blow::Kill, count_of("KILLS", 4)),
        (Blow::KillAll, count_of("KILLS_OF_ALL", 1)),
        (Blow::Freeze, count_of("FREEZES", 1)),
    ];
    let mut left: Vec<Blow> = counts.into_iter().flat_map(|(blow, times)| std::iter::repeat_n(blow, times)).collect();
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        order.push(left.swap_remove(random.random_range(0..left.len())));
    }
    order
}

/// What was seen of the victims.
#[derive(Default)]
struct Seen {
    /// From a death until the last of the victim's videos was in other hands or over.
    resumed: Mutex<Vec<Duration>>,
    /// Attempts of victims whose submission may have been under way.
    in_submit_window: Mutex<usize>,
}

/// Measures, beside everything else, how long the videos of a process that is gone stay in its dead hands.
async fn watch_the_orphans(watches: &mut JoinSet<()>, pool: &PgPool, seen: &Arc<Seen>, pid: u32, died: Instant) {
    let orphans = format!("select count(*) from attempts where finished_at is null and worker like '%-{pid}-%'");
    let window = count(pool, &format!("{orphans} and state = 'sent' and handle is null")).await;
    *seen.in_submit_window.lock().unwrap() += usize::try_from(window).unwrap();
    let (pool, seen) = (pool.clone(), seen.clone());
    watches.spawn(async move {
        while count(&pool, &orphans).await > 0 {
            assert!(died.elapsed() < PATIENCE, "nobody goes on with the videos of {pid}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        seen.resumed.lock().unwrap().push(died.elapsed());
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_killed_one_by_one_and_all_at_once_leave_every_video_ended_exactly_once() {
    let (seed, mut random) = seeded();
    let videos = count_of("VIDEOS", 60);
    // long enough for several blows, short enough for most videos to survive them
    let profile = Profile { latency_ms: (1_000, 4_000), one_clip_for_all: true, clip_seconds: 1, ..Profile::rough() };
    let mut app = TestApp::start(TestSettings { roles: API, profile, seed, slots: 6, ..TestSettings::default() }).await;
    let customer = app.customer(10_000_000).await;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(app.start_process(ROLES).await);
    }
    let id = customer.order(&order_of(videos, "frame")).await;
    let (seen, mut watches) = (Arc::new(Seen::default()), JoinSet::new());
    let blows = blows(&mut random);
    for (nth, blow) in blows.iter().enumerate() {
        let enough = videos * (nth + 1) / (blows.len() + 2);
        let done = format!("select (count(*) >= {enough})::int::bigint from settlements");
        app.until(&format!("blow {nth}"), async || app.count(&done).await == 1).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
        let victims: Vec<usize> = match blow {
            Blow::KillAll => std::mem::take(&mut workers),
            Blow::Kill | Blow::Freeze => vec![workers.remove(random.random_range(0..workers.len()))],
        };
        if *blow == Blow::Freeze {
            freeze(&mut app, victims[0]).await;
            workers.extend(victims);
            continue;
        }
        for victim in &victims {
            let pid = app.process(*victim).id();
            app.process(*victim).kill();
            watch_the_orphans(&mut watches, app.pool(), &seen, pid, Instant::now()).await;
        }
        for _ in victims {
            workers.push(app.start_process(ROLES).await);
        }
    }
    while let Some(watched) = watches.join_next().await {
        watched.unwrap();
    }
    app.all_batches_end().await;
    report(&app, &seen, (videos, blows.len())).await;
    let batch = customer.batch(&id).await;
    assert_eq!(batch.number("/counts/succeeded") + batch.number("/counts/failed"), videos as i64);
    app.finish().await;
}

/// Stops a process until its videos are in other hands, and lets it go on.
async fn freeze(app: &mut TestApp, victim: usize) {
    let pid = app.process(victim).id();
    app.process(victim).signal(Signal::SIGSTOP);
    let held = format!("select count(*) from attempts where finished_at is null and worker like '%-{pid}-%'");
    app.until(&format!("the videos of the frozen {pid} are in other hands"), async || app.count(&held).await == 0)
        .await;
    app.process(victim).signal(Signal::SIGCONT);
}

/// Prints what was measured, and holds the number of orders at the provider against what explains them.
async fn report(app: &TestApp, seen: &Seen, (videos, blows): (usize, usize)) {
    let mut resumed = Waits(std::mem::take(&mut *seen.resumed.lock().unwrap()));
    resumed.print("the videos of a killed worker were in other hands after", RESUMED_WITHIN);
    let window = *seen.in_submit_window.lock().unwrap();
    let attempts = app.count("select sum(attempts_made)::bigint from videos").await as usize;
    let poisoned = app.count("select count(*) from videos where failure_class = 'poison'").await;
    let book = app.emulator.book();
    let submissions = book.creates.len();
    let retries = attempts - videos;
    eprintln!(
        "{blows} blows: {submissions} submissions for {videos} videos, {retries} retries, {window} submissions under way \
         when their worker died; {} jobs bought, {poisoned} videos given up as poison",
        book.totals.accepted
    );
    assert!(submissions <= videos + retries + window, "something was submitted more often than attempts explain");
    // the last word: no job at the provider has two owners, and no attempt two jobs
    let handles: Vec<String> =
        sqlx::query_scalar(AssertSqlSafe("select handle from attempts where handle is not null".to_owned()))
            .fetch_all(app.pool())
            .await
            .unwrap();
    assert_eq!(handles.iter().collect::<HashSet<_>>().len(), handles.len());
}
