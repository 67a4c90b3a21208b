//! Money and clients that vanish.

use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::clients::{Line, close, post, server};
use crate::app::client::item;

const PRICE: i64 = 61;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_posts_cut_at_any_moment_each_is_one_batch_or_none() {
    let seed = 0x5eed_u64;
    eprintln!("cuts: seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let app = server("").await;
    let customer = app.customer(1_000_000).await;
    let order = |n: usize| json!({"items": [item(&format!("film {n}")), item(&format!("other film {n}"))]});
    let base = app.base();
    let cuts = (0..100).map(|n| {
        let body = order(n).to_string();
        let text = format!("{}{body}", post(&customer, body.len(), &format!("cut-{n}")));
        // some within the request, most after it: while it is parsed, frozen, committed, answered
        let sent = if n % 4 == 0 { random.random_range(0..text.len()) } else { text.len() };
        let (pause, reset) = (Duration::from_micros(random.random_range(0..60_000)), n % 2 == 0);
        let base = base.clone();
        async move {
            let mut line = Line::open(&base).await;
            line.0.write_all(&text.as_bytes()[..sent]).await.unwrap();
            tokio::time::sleep(pause).await;
            if reset {
                line.0.set_zero_linger().unwrap();
            }
        }
    });
    join_all(cuts).await;
    // what was begun comes to its end without anybody waiting for it
    app.until("no act is under way", async || {
        app.count(
            "select count(*) from pg_stat_activity where datname = current_database() and state <> 'idle'
             and application_name = 'freezeframe api'",
        )
        .await
            == 0
    })
    .await;
    let batches = app.count("select count(*) from batches").await;
    eprintln!("{batches} of 100 were accepted before their client was gone");
    assert!(batches > 0, "every cut came too early to prove anything");
    assert_eq!(app.count("select count(*) from idempotency_keys").await, batches);
    assert_eq!(app.count("select count(*) from videos").await, 2 * batches);
    // the client comes back for every one of them
    for n in 0..100 {
        let key = format!("cut-{n}");
        customer.submit_with(&[("X-Request-Id", &key)], &order(n)).await.expect(202);
    }
    assert_eq!(app.count("select count(*) from batches").await, 100);
    assert_eq!(app.count("select count(*) from credit_ledger where act = 'freeze'").await, 100);
    assert_eq!(customer.available().await, 1_000_000 - 100 * 2 * PRICE);
    close(app).await;
}
