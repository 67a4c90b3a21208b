//! What customers are told to expect: when a batch that waits begins and ends, and when one that is not ordered yet would.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use freezeframe::emulator::Profile;
use reqwest::Method;
use serde_json::Value;

use crate::app::client::{BATCHES, Customer, order_of};
use crate::app::{API_AND_SCHEDULER, TestApp, TestSettings};

const MEDIAN_ERROR: f64 = 0.25;

fn time(batch: &Value, pointer: &str) -> Option<DateTime<Utc>> {
    batch.pointer(pointer)?.as_str()?.parse().ok()
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// Ten slots, and videos that take about half a second.
fn steady() -> TestSettings {
    let profile = Profile { latency_ms: (400, 600), one_clip_for_all: true, clip_seconds: 1, ..Profile::calm() };
    TestSettings { profile, slots: 10, ..TestSettings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_batches_half_end_within_a_quarter_of_the_time_that_was_expected_and_begin_so_too() {
    let app = TestApp::start(steady()).await;
    let mut customers = Vec::new();
    for _ in 0..5 {
        customers.push(app.customer(1_000_000).await);
    }
    // how long videos take is learned from the first ones
    let first = customers[0].order(&order_of(20, "first")).await;
    app.finished_batch(&customers[0], &first).await;
    let mut batches: Vec<(&Customer, String)> = Vec::new();
    for at in 0..50 {
        let customer = &customers[at % 5];
        batches.push((customer, customer.order(&order_of(4 + at % 13, "frame")).await));
    }
    let ordered = Instant::now();
    // one look of the leader, and the next one's corrections
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut expected = Vec::new();
    for (customer, id) in &batches {
        let batch = customer.batch(id).await.body;
        if batch["finished_at"].is_null() {
            let told = time(&batch, "/outlook/finishes_at").unwrap_or_else(|| panic!("nothing is expected of {batch}"));
            expected.push((*customer, id, Utc::now(), told, time(&batch, "/outlook/starts_at")));
        }
    }
    println!("{} of 50 batches had not ended {:?} after they were ordered", expected.len(), ordered.elapsed());
    app.all_batches_end().await;
    let (mut ends, mut begins) = (Vec::new(), Vec::new());
    for (customer, id, asked, told, told_start) in expected {
        let batch = customer.batch(id).await.body;
        let secs = |at: DateTime<Utc>| (at - asked).as_seconds_f64();
        let error =
            |told: DateTime<Utc>, really: DateTime<Utc>| (secs(told) - secs(really)).abs() / secs(really).max(1.0);
        ends.push(error(told, time(&batch, "/finished_at").unwrap()));
        if let (Some(told), Some(really)) = (told_start, time(&batch, "/started_at").filter(|really| *really > asked)) {
            begins.push(error(told, really));
        }
        assert!(batch.get("outlook").is_none(), "it has ended: {batch}");
    }
    assert!(ends.len() >= 35 && begins.len() >= 20, "too few waited: {} and {}", ends.len(), begins.len());
    let (many, end, begin) = (ends.len(), median(ends), median(begins));
    println!("median error of {many} ends {:.1} %, of beginnings {:.1} %", end * 100.0, begin * 100.0);
    assert!(end < MEDIAN_ERROR && begin < MEDIAN_ERROR, "ends {end:.3}, beginnings {begin:.3}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_knows_how_many_go_before_it_and_a_pause_has_no_end_that_anybody_knows() {
    let app = TestApp::start(steady()).await;
    let customer = app.customer(1_000_000).await;
    let first = customer.order(&order_of(20, "first")).await;
    app.finished_batch(&customer, &first).await;
    let long = customer.order(&order_of(400, "long")).await;
    let behind = customer.order(&order_of(10, "behind")).await;
    let outlook = async |id: &str| customer.batch(id).await.body["outlook"].clone();
    app.until("both are told", async || {
        let (long, behind) = (outlook(&long).await, outlook(&behind).await);
        let ahead = behind["videos_ahead"].as_i64().unwrap_or_default();
        long["videos_ahead"] == 0 && (200..=400).contains(&ahead) && behind["starts_at"].is_string()
    })
    .await;
    let times = outlook(&behind).await;
    assert!(time(&times, "/starts_at") < time(&times, "/finishes_at"), "{times}");
    let connection = ["--url", &*customer.base, "--api-key", &*customer.api_key];
    let shown = app.output(&[&["batch", "show", &*behind], &connection[..]].concat()).await;
    assert!(shown.contains("of your videos go before") && shown.contains("the last ends about"), "{shown}");
    let said = customer.call(Method::POST, &format!("{BATCHES}/{behind}/pause"), &[], None).await;
    said.expect(200);
    app.until("nobody knows", async || {
        let outlook = outlook(&behind).await;
        outlook["starts_at"].is_null() && outlook["finishes_at"].is_null()
    })
    .await;
    for id in [&long, &behind] {
        customer.call(Method::POST, &format!("{BATCHES}/{id}/cancel"), &[], None).await.expect(200);
    }
    app.all_batches_end().await;
    assert!(customer.batch(&behind).await.body.get("outlook").is_none());
    app.until("outlooks of what has ended are forgotten", async || {
        app.count("select count(*) from batch_outlooks").await == 0
    })
    .await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quote_says_when_the_order_would_begin_and_end_and_nothing_where_nobody_can_tell() {
    let mut app = TestApp::start(steady()).await;
    let customer = app.customer(1_000_000).await;
    let quote = async |customer: &Customer, count: usize, pace: Option<u32>| {
        let mut body = order_of(count, "frame");
        if let Some(pace) = pace {
            body["videos_per_minute"] = pace.into();
        }
        customer.call(Method::POST, &format!("{BATCHES}/quote"), &[], Some(body.to_string())).await.expect(200).body
    };
    let unknown = quote(&customer, 5, None).await;
    assert!(unknown.get("finishes_at").is_none(), "no video was ever made: {unknown}");
    let first = customer.order(&order_of(40, "first")).await;
    app.finished_batch(&customer, &first).await;
    // looked at since nobody is in the way any more
    let told = "select count(*) from model_outlooks o where o.model = 'sora-2' and o.video_secs is not null
                and o.told_at > (select max(finished_at) from batches)";
    app.until("it is known how long videos take", async || app.count(told).await == 1).await;
    assert!(quote(&customer, 5, None).await["finishes_at"].is_string());
    let quoted = quote(&customer, 100, None).await;
    let secs = |quote: &Value| (time(quote, "/finishes_at").unwrap() - Utc::now()).as_seconds_f64();
    let told = secs(&quoted);
    let ordered = Instant::now();
    let id = customer.order(&order_of(100, "frame")).await;
    let batch = app.finished_batch(&customer, &id).await;
    let really = ordered.elapsed().as_secs_f64();
    println!("100 videos: {told:.1} s quoted, {really:.1} s really");
    assert!((told - really).abs() / really < 0.5, "{told} quoted, {really} really");
    assert_eq!(batch.number("/credits/frozen"), quoted["price_credits"].as_i64().unwrap());
    let paced = secs(&quote(&customer, 100, Some(60)).await);
    assert!((60.0..=100.0).contains(&paced), "a hundred at 60 a minute take {paced} s");
    app.stop_service().await;
    app.set_roles(API_AND_SCHEDULER);
    app.start_service().await;
    app.finish().await;
}
