//! A database that is there and says no: it gives transactions up, or has no session left.

use std::time::Duration;

use freezeframe::emulator::Profile;
use sqlx::{Connection, PgConnection};
use tokio::sync::watch;

use super::{count_of, seeded};
use crate::app::client::order_of;
use crate::app::{TestApp, TestSettings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_the_database_gives_up_are_played_again_and_nothing_happens_twice() {
    let (seed, _) = seeded();
    let videos = count_of("VIDEOS", 120);
    let profile = Profile { latency_ms: (50, 600), ..TestSettings::default().profile };
    let app = TestApp::start(TestSettings { profile, seed, slots: 40, ..TestSettings::default() }).await;
    app.execute(
        "create function give_up() returns trigger language plpgsql as $$ begin
             if random() < 0.15 then raise exception 'could not serialize' using errcode = '40001'; end if;
             if random() < 0.15 then raise exception 'deadlock' using errcode = '40P01'; end if;
             return null;
         end $$",
    )
    .await;
    let customer = app.customer(10_000_000).await;
    for (table, act) in [("attempts", "insert or update"), ("settlements", "insert"), ("credit_ledger", "insert")] {
        let trigger =
            format!("create trigger give_up after {act} on {table} for each statement execute function give_up()");
        app.execute(&trigger).await;
    }
    let url = app.receiver.endpoint("hooks", &customer.webhook_secret);
    let mut body = order_of(videos, "frame");
    body["webhook_url"] = url.into();
    let id = loop {
        // an act is played six times at the most; then it is the client's turn, under the same key
        let answer = customer.submit_with(&[("Idempotency-Key", "stubborn")], &body).await;
        match answer.status.as_u16() {
            503 => assert!(answer.headers.contains_key("retry-after"), "{}", answer.text),
            _ => break answer.expect(202).batch_id(),
        }
    };
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!((batch.word("/status"), batch.number("/counts/succeeded")), ("completed", videos as i64));
    assert_eq!(app.emulator.totals().accepted, videos as u64, "bought twice");
    assert!(app.receiver.wait_for("hooks", 1).await[0].verified);
    app.finish().await;
}

/// Takes every session that the server has to give, again and again, until told to stop.
async fn take_all_sessions(url: String, mut stop: watch::Receiver<bool>) {
    let mut taken = Vec::new();
    while !*stop.borrow_and_update() {
        match PgConnection::connect(&url).await {
            Ok(session) => taken.push(session),
            Err(_) => {
                let _ = tokio::time::timeout(Duration::from_millis(5), stop.changed()).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_a_session_left_costs_time_and_nothing_else() {
    let videos = count_of("VIDEOS", 60);
    let profile = Profile { latency_ms: (50, 600), ..TestSettings::default().profile };
    let app = TestApp::start(TestSettings { profile, slots: 20, own_server: true, ..TestSettings::default() }).await;
    let customer = app.customer(10_000_000).await;
    let id = customer.order(&order_of(videos, "frame")).await;
    let third = format!("select (count(*) >= {})::int::bigint from settlements", videos / 3);
    app.until("a third is made", async || app.count(&third).await == 1).await;
    let (stop, stopped) = watch::channel(false);
    let takers: Vec<_> = (0..4).map(|_| tokio::spawn(take_all_sessions(app.db.url.clone(), stopped.clone()))).collect();
    // of ours every session is cut, and the takers are quicker to have the next
    let ours = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and application_name like 'freezeframe%'";
    app.until("the API has no session left and says so", async || {
        app.count(ours).await;
        let answer = customer.submit(&order_of(1, "too many")).await;
        if answer.status.as_u16() == 503 {
            assert!(answer.headers.contains_key("retry-after"), "{}", answer.text);
            return true;
        }
        answer.expect(202);
        false
    })
    .await;
    stop.send(true).unwrap();
    for taker in takers {
        taker.await.unwrap();
    }
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    app.all_batches_end().await;
    let made = app.count("select count(*) from videos where state = 'succeeded'").await;
    assert_eq!(app.emulator.totals().accepted, made as u64, "bought twice");
    app.finish().await;
}
