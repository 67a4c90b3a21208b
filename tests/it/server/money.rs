//! Money and clients that vanish.

use std::time::Instant;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::clients::{Line, close, post, server};
use crate::app::client::item;

const PRICE: i64 = 61;
const CUTS: usize = 100;
const AT_ONCE: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_posts_cut_at_any_moment_each_is_one_batch_or_none() {
    let seed = 0x5eed_u64;
    eprintln!("cuts: seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut app = server("").await;
    let customer = app.customer(1_000_000).await;
    let order = |n: usize| json!({"items": [item(&format!("film {n}")), item(&format!("other film {n}"))]});
    let base = app.base();
    // as many at a time, undisturbed, show how long one takes on this machine
    let asked = Instant::now();
    join_all((CUTS..CUTS + AT_ONCE).map(async |n| customer.submit(&order(n)).await.expect(202))).await;
    let whole = asked.elapsed();
    let cuts = (0..CUTS).map(|n| {
        let body = order(n).to_string();
        let text = format!("{}{body}", post(&customer, body.len(), &format!("cut-{n}")));
        // some within the request, most after it: while it is parsed, frozen, committed, answered
        let sent = if n % 4 == 0 { random.random_range(0..text.len()) } else { text.len() };
        // dense where an act begins
        let (pause, reset) = (whole.mul_f64(random.random_range(0.0_f64..1.1).powi(4)), n % 2 == 0);
        let base = base.clone();
        async move {
            let mut line = Line::open(&base).await;
            line.0.write_all(&text.as_bytes()[..sent]).await.unwrap();
            if n % 3 > 0 {
                tokio::time::sleep(pause).await;
            }
            if reset {
                line.0.set_zero_linger().unwrap();
            }
        }
    });
    stream::iter(cuts).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    // a stop waits for whatever was begun, and what it has not read by then it never will
    app.stop_service().await;
    app.start_service().await;
    let customer = app.here(&customer);
    let (cuts, at_once) = (i64::try_from(CUTS).unwrap(), i64::try_from(AT_ONCE).unwrap());
    let written = "select (select count(*) from batches), (select count(*) from idempotency_keys)";
    let (batches, cut): (i64, i64) = sqlx::query_as(written).fetch_one(app.pool()).await.unwrap();
    eprintln!("{cut} of {cuts} were accepted although their client was gone");
    assert!(cut > 0 && cut < cuts, "the cuts came too early or too late to prove anything: {cut}");
    assert_eq!(batches, cut + at_once);
    assert_eq!(app.count("select count(*) from videos").await, 2 * batches);
    assert_eq!(customer.available().await, 1_000_000 - batches * 2 * PRICE);
    // the client comes back for every one of them
    for n in 0..CUTS {
        let key = format!("cut-{n}");
        customer.submit_with(&[("X-Request-Id", &key)], &order(n)).await.expect(202);
    }
    assert_eq!(app.count("select count(*) from batches").await, cuts + at_once);
    assert_eq!(app.count("select count(*) from credit_ledger where act = 'freeze'").await, cuts + at_once);
    assert_eq!(customer.available().await, 1_000_000 - (cuts + at_once) * 2 * PRICE);
    close(app).await;
}
