//! The database goes away and comes back, again and again, while orders come in and videos are made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use freezeframe::emulator::Profile;
use serde_json::Value;

use super::{Waits, count_of, seeded};
use crate::app::client::{BATCHES, Customer, order_of};
use crate::app::own_server::Death;
use crate::app::{PATIENCE, TestApp, TestSettings};

/// From the server's first answer.
const MADE_AGAIN_WITHIN: Duration = Duration::from_secs(10);
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// A customer who never stops ordering; what is not acknowledged is ordered again under the same key.
struct Buyer {
    customer: Customer,
    stop: Arc<AtomicBool>,
}

/// What the buyer was told.
#[derive(Default)]
struct Bought {
    /// Keys and the batches that they were answered with.
    acknowledged: Vec<(String, String)>,
    unanswered: usize,
    /// How long each answer took that was none of success.
    refused: Vec<Duration>,
}

impl Buyer {
    async fn buy(self) -> Bought {
        let mut bought = Bought::default();
        for nth in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let key = format!("order-{nth}");
            let body = order_of(1 + nth % 3, &format!("bought {nth}")).to_string();
            let since = Instant::now();
            loop {
                assert!(since.elapsed() < PATIENCE, "order {nth} is not taken");
                let asked = Instant::now();
                match self.post(&key, &body).await {
                    Some((202, batch)) => {
                        bought.acknowledged.push((key, batch));
                        break;
                    }
                    Some((503, _)) => bought.refused.push(asked.elapsed()),
                    Some((409, _)) => {}
                    Some((status, text)) => panic!("order {nth} was answered {status}: {text}"),
                    None => bought.unanswered += 1,
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bought
    }

    /// The status, with the batch's id or the whole text.
    async fn post(&self, key: &str, body: &str) -> Option<(u16, String)> {
        let request = self.customer.http.post(format!("{}{BATCHES}", self.customer.base));
        let request = request.header("X-API-Key", &self.customer.api_key).header("Idempotency-Key", key);
        let answer = request.header("content-type", "application/json").body(body.to_owned()).send().await.ok()?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.ok()?;
        if status == 503 {
            assert!(headers.contains_key("retry-after"), "a 503 without Retry-After: {text}");
        }
        let batch =
            serde_json::from_str::<Value>(&text).ok().and_then(|body| Some(body["batch_id"].as_str()?.to_owned()));
        Some((status, batch.unwrap_or(text)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_of_the_database_lose_nothing_that_was_acknowledged_and_need_no_human() {
    let (seed, _) = seeded();
    let (videos, restarts) = (count_of("VIDEOS", 90), count_of("RESTARTS", 3));
    let away = Duration::from_secs(count_of("AWAY_SECS", 1) as u64);
    let profile = Profile { latency_ms: (200, 1_500), ..TestSettings::default().profile };
    let settings = TestSettings { profile, seed, slots: 20, own_server: true, ..TestSettings::default() };
    let app = TestApp::start(settings).await;
    let customer = app.customer(10_000_000).await;
    let id = customer.order(&order_of(videos, "frame")).await;
    let stop = Arc::new(AtomicBool::new(false));
    let buying = tokio::spawn(Buyer { customer: customer.clone(), stop: stop.clone() }.buy());
    let mut again = Waits(Vec::new());
    for nth in 0..restarts {
        let done = format!("select (count(*) >= {})::int::bigint from settlements", videos * nth / restarts);
        app.until(&format!("restart {nth}"), async || app.try_count(&done).await == Some(1)).await;
        app.server().go_down(Death::ALL[nth % Death::ALL.len()]).await;
        tokio::time::sleep(away).await;
        app.server().bring_back().await;
        let ready = app.server().until_it_answers().await;
        let settled = app.count_when_back("select count(*) from settlements").await;
        let more = format!("select (count(*) > {settled})::int::bigint from settlements");
        app.until("videos are made again", async || app.try_count(&more).await == Some(1)).await;
        again.0.push(ready.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    let bought = buying.await.unwrap();
    again.print("videos were made again after the server answered", MADE_AGAIN_WITHIN);
    let mut refused = Waits(bought.refused);
    refused.print("the API said 503 after", TOLD_WITHIN);
    eprintln!("{} orders acknowledged, {} not answered", bought.acknowledged.len(), bought.unanswered);
    app.all_batches_end().await;
    assert_eq!(customer.batch(&id).await.word("/status"), "completed");
    for (key, batch) in &bought.acknowledged {
        let bare = batch.trim_start_matches("bat_");
        let same =
            format!("select count(*) from idempotency_keys where key = '{key}' and answer ->> 'batch_id' = '{batch}'");
        assert_eq!(app.count(&same).await, 1, "{key} was acknowledged as {batch}");
        assert_eq!(app.count(&format!("select count(*) from batches where id = '{bare}'")).await, 1, "{batch} is gone");
    }
    let batches = app.count("select count(*) from batches").await;
    assert_eq!(batches, bought.acknowledged.len() as i64 + 1, "a repeated key bought twice");
    app.finish().await;
}
