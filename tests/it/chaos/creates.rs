//! Clients that give up while the database is slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use rand::RngExt;
use serde_json::Value;

use super::{count_of, seeded};
use crate::app::client::{BATCHES, order_of};
use crate::app::{API, TestApp, TestSettings};

/// Clients at a time.
const AT_ONCE: usize = 40;
/// No client of ours may leave a transaction open for longer.
const LONGEST_OPEN: f64 = 5.0;
const PRICE: i64 = 61;

/// The longest that a session of ours idled in a transaction, looked at again and again until `stop`.
async fn longest_open(pool: sqlx::PgPool, stop: Arc<AtomicBool>) -> f64 {
    let mut longest: f64 = 0.0;
    while !stop.load(Ordering::Relaxed) {
        let open: Option<f64> = sqlx::query_scalar(
            "select max(extract(epoch from now() - xact_start))::float8 from pg_stat_activity
             where datname = current_database() and application_name like 'freezeframe%'
                 and state like 'idle in transaction%'",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        longest = longest.max(open.unwrap_or_default());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_cut_by_their_clients_on_a_slow_database_are_one_batch_or_none() {
    let (_, mut random) = seeded();
    let cuts = count_of("CREATES", 120);
    let mut app = TestApp::start(TestSettings { roles: API, ..TestSettings::default() }).await;
    let customer = app.customer(100_000_000).await;
    // every batch takes up to a second to be written
    app.execute(
        "create function doze() returns trigger language plpgsql as
         $$ begin perform pg_sleep(random()); return new; end $$",
    )
    .await;
    app.execute("create trigger slow before insert on batches for each row execute function doze()").await;
    let stop = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(longest_open(app.pool().clone(), stop.clone()));
    let body = |nth: usize| order_of(2, &format!("film {nth}"));
    let posts = (0..cuts).map(|nth| {
        let (customer, patience) = (customer.clone(), Duration::from_millis(random.random_range(0..3_000)));
        let body = body(nth).to_string();
        async move {
            let request = customer.http.post(format!("{}{BATCHES}", customer.base)).timeout(patience);
            let request = request.header("X-API-Key", &customer.api_key);
            let request = request.header("Idempotency-Key", format!("cut-{nth}"));
            let answer = request.header("content-type", "application/json").body(body).send().await.ok()?;
            if answer.status() != 202 {
                return None;
            }
            let body: Value = serde_json::from_str(&answer.text().await.ok()?).ok()?;
            Some((nth, body["batch_id"].as_str()?.to_owned()))
        }
    });
    let answers: Vec<Option<(usize, String)>> = stream::iter(posts).buffer_unordered(AT_ONCE).collect().await;
    let acknowledged: Vec<(usize, String)> = answers.into_iter().flatten().collect();
    // what was begun is ended or undone by the stop; what was acknowledged is there after the restart
    app.stop_service().await;
    app.start_service().await;
    let customer = app.here(&customer);
    for (nth, batch) in &acknowledged {
        assert_eq!(customer.batch(batch).await.number("/counts/total"), 2, "cut-{nth}");
    }
    let written = app.count("select count(*) from batches").await;
    eprintln!("of {cuts} creates {} were acknowledged, {written} written", acknowledged.len());
    app.execute("drop trigger slow on batches").await;
    for nth in 0..cuts {
        let key = format!("cut-{nth}");
        let again = customer.submit_with(&[("Idempotency-Key", &key)], &body(nth)).await.expect(202).batch_id();
        if let Some((_, first)) = acknowledged.iter().find(|(cut, _)| *cut == nth) {
            assert_eq!(&again, first, "{key}");
        }
    }
    let batches = app.count("select count(*) from batches").await;
    assert_eq!(batches, cuts as i64, "one batch for each key");
    assert_eq!(customer.available().await, 100_000_000 - batches * 2 * PRICE);
    stop.store(true, Ordering::Relaxed);
    let longest = watching.await.unwrap();
    eprintln!("no session idled in a transaction for more than {longest:.2} s");
    assert!(longest < LONGEST_OPEN, "a session idled in a transaction for {longest:.2} s");
    for part in ["videos that never ended", "batches that never ended"] {
        app.excuse(part);
    }
    app.finish().await;
}
