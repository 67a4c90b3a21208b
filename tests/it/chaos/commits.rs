//! Sessions that end at their COMMIT: some were done and nobody was told, some never reached the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use freezeframe::emulator::Profile;
use rand::RngExt as _;

use super::{count_of, seeded};
use crate::app::client::order_of;
use crate::app::wire_proxy::LostCommit;
use crate::app::{TestApp, TestSettings};

/// Orders of one customer, each under a key of its own.
const ORDERS: usize = 6;
/// Of a hundred commits.
const LOST: u32 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_are_lost_with_their_session_happen_once_or_are_made_again() {
    let (seed, mut random) = seeded();
    let videos = count_of("VIDEOS", 180) / ORDERS;
    let profile = Profile { latency_ms: (50, 600), provider_fault_permille: 100, ..TestSettings::default().profile };
    let settings = TestSettings { profile, seed, slots: 40, through_proxy: true, ..TestSettings::default() };
    let app = TestApp::start(settings).await;
    let customer = app.customer(10_000_000).await;
    let (answers, orders) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (answers.clone(), orders.clone());
    let wire = app.wire.as_ref().unwrap();
    wire.lose_commits(Some(Box::new(move || {
        let (lost, count) = match random.random_range(0..100) {
            rolled if rolled < LOST / 2 => (LostCommit::Answer, &counts.0),
            rolled if rolled < LOST => (LostCommit::Order, &counts.1),
            _ => return None,
        };
        count.fetch_add(1, Ordering::Relaxed);
        Some(lost)
    })));
    let mut batches = Vec::new();
    for nth in 0..ORDERS {
        let (key, body) = (format!("order-{nth}"), order_of(videos, "frame"));
        batches.push(loop {
            let answer = customer.submit_with(&[("Idempotency-Key", &key)], &body).await;
            match answer.status.as_u16() {
                503 => assert!(answer.headers.contains_key("retry-after"), "{}", answer.text),
                _ => break answer.expect(202).batch_id(),
            }
        });
    }
    app.all_batches_end().await;
    wire.lose_commits(None);
    let (answers, orders) = (answers.load(Ordering::Relaxed), orders.load(Ordering::Relaxed));
    eprintln!("{answers} answers to a commit were lost, and {orders} commits before they were made");
    assert!(answers > 0 && orders > 0);
    assert_eq!(app.count("select count(*) from batches").await, ORDERS as i64, "a repeated key made a second batch");
    for id in &batches {
        let batch = app.finished_batch(&customer, id).await;
        let [total, succeeded, failed] =
            ["total", "succeeded", "failed"].map(|count| batch.number(&format!("/counts/{count}")));
        assert_eq!((total, succeeded + failed), (videos as i64, videos as i64));
    }
    app.finish().await;
}
