//! A database that is there and does not answer, refuses, or is away: every request is answered within its bound, nothing is
//! left half done, and everything is served again when the database is back.

use std::time::{Duration, Instant};

use freezeframe::db::REQUEST_WITHIN;
use reqwest::Method;
use reqwest::header::RETRY_AFTER;
use serde_json::{Value, json};

use crate::app::client::{Answer, BATCHES, Customer, order_of};
use crate::app::image_host::png;
use crate::app::{API, PATIENCE, TestApp, TestSettings};

/// The promise is five seconds; the rest is for a slow machine.
const PROMISED: Duration = Duration::from_secs(5);
const SLACK: Duration = Duration::from_secs(3);

/// On a server of its own where the server's processes themselves are stopped: they hold what all databases share.
async fn app(own_server: bool) -> TestApp {
    TestApp::start(TestSettings { roles: API, through_proxy: true, own_server, ..TestSettings::default() }).await
}

/// One request to each route that needs the database.
fn requests(batch: &str, file: &str) -> Vec<(Method, String, Option<String>)> {
    let order = |key: &str| {
        let mut order = order_of(3, "a fox");
        order["x-request-id"] = json!(key);
        Some(order.to_string())
    };
    // not valid any more, and known under its key perhaps
    let invalid = Some(json!({"items": [{"model": "none", "prompt": "x"}], "x-request-id": "old"}).to_string());
    let image = format!("/api/enterprise/images/sha256:{}", "0".repeat(64));
    vec![
        (Method::GET, "/readyz".to_owned(), None),
        (Method::GET, "/api/enterprise/wallet".to_owned(), None),
        (Method::GET, BATCHES.to_owned(), None),
        (Method::GET, format!("{BATCHES}/{batch}"), None),
        (Method::GET, format!("{BATCHES}/{batch}/videos"), None),
        (Method::GET, format!("{BATCHES}/{batch}/ledger"), None),
        (Method::GET, image, None),
        (Method::GET, file.to_owned(), None),
        (Method::POST, BATCHES.to_owned(), order("outage-1")),
        (Method::POST, BATCHES.to_owned(), order("outage-2")),
        (Method::POST, BATCHES.to_owned(), invalid),
    ]
}

async fn upload(customer: &Customer, nth: u8) -> Answer {
    let request = customer.http.post(format!("{}/api/enterprise/images", customer.base));
    let request = request.header("X-API-Key", &customer.api_key).header("content-type", "image/png");
    let response = request.body(png(64, 64, nth)).send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::Null), text }
}

/// All at once, by a key that is remembered and by one that has to be looked up.
async fn all_are_told_to_come_back(trouble: &str, app: &TestApp, customers: &[Customer; 2], batch: &str, file: &str) {
    let mut asking = Vec::new();
    for (customer, whose) in customers.iter().zip(["known", "unknown"]) {
        for (method, path, body) in requests(batch, file) {
            let customer = customer.clone();
            asking.push(tokio::spawn(async move {
                let asked = Instant::now();
                let answer = customer.call(method.clone(), &path, &[], body).await;
                (format!("{method} {path} by the {whose} key"), asked.elapsed(), answer)
            }));
        }
        // three of one tenant, which take turns
        for nth in 0..3 {
            let customer = customer.clone();
            asking.push(tokio::spawn(async move {
                let asked = Instant::now();
                let answer = upload(&customer, nth).await;
                (format!("upload {nth} by the {whose} key"), asked.elapsed(), answer)
            }));
        }
    }
    let (mut slowest, mut count) = (Duration::ZERO, 0);
    for one in asking {
        let (what, took, answer) = one.await.unwrap();
        assert_eq!(answer.status, 503, "{trouble}: {what}: {}", answer.text);
        assert!(answer.headers.contains_key(RETRY_AFTER), "{trouble}: {what}: {:?}", answer.headers);
        assert!(took < PROMISED + SLACK, "{trouble}: {what} took {took:?}");
        (slowest, count) = (slowest.max(took), count + 1);
    }
    println!("{trouble}: {count} requests were told to come back, the slowest after {slowest:?}");
    assert_eq!(app.http.get(format!("{}/healthz", app.base())).send().await.unwrap().status(), 200);
}

async fn all_is_served_again(app: &TestApp, customers: &[Customer; 2], batch: &str) {
    let back = Instant::now();
    app.until_serving(&app.base()).await;
    for path in ["/api/enterprise/wallet".to_owned(), format!("{BATCHES}/{batch}/videos")] {
        customers[0].get(&path).await.expect(200);
    }
    println!("served again after {:?}", back.elapsed());
}

/// Ids of the server processes that work for requests.
async fn backends(app: &TestApp) -> Vec<i32> {
    let query =
        "select pid from pg_stat_activity where datname = current_database() and application_name like 'freezeframe%'";
    sqlx::query_scalar(query).fetch_all(app.pool()).await.unwrap()
}

async fn wait_for_forgotten_keys() {
    // there is no signal for it: a key is believed for this long by design
    tokio::time::sleep(Duration::from_millis(5_200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_database_does_every_route_answers_in_time_and_serves_again_afterwards() {
    let mut app = app(true).await;
    let customers = [app.customer(10_000).await, app.customer(10_000).await];
    let batch = customers[0].order(&order_of(2, "a hen")).await;
    let links = freezeframe::storage::LinkSigner::new(
        &app.master,
        format!("{}/", app.base()).parse().unwrap(),
        Duration::from_secs(600),
    )
    .unwrap();
    let video = customers[0].videos(&batch).await[0]["video_id"].as_str().unwrap().parse().unwrap();
    let now = chrono::Utc::now();
    let file = links.sign(video, now, now + chrono::TimeDelta::hours(1)).url.to_string();
    let wire = app.wire.as_ref().unwrap();

    wait_for_forgotten_keys().await;
    customers[0].get("/api/enterprise/wallet").await.expect(200);
    wire.stall();
    all_are_told_to_come_back("no byte passes", &app, &customers, &batch, &file).await;
    wire.resume();
    all_is_served_again(&app, &customers, &batch).await;

    wait_for_forgotten_keys().await;
    wire.refuse();
    all_are_told_to_come_back("nobody listens", &app, &customers, &batch, &file).await;
    wire.resume();
    all_is_served_again(&app, &customers, &batch).await;

    wait_for_forgotten_keys().await;
    let name = app.db.name.clone();
    app.execute(&format!("alter database \"{name}\" connection limit 0")).await;
    wire.cut_all();
    all_are_told_to_come_back("no connection is free", &app, &customers, &batch, &file).await;
    app.execute(&format!("alter database \"{name}\" connection limit -1")).await;
    all_is_served_again(&app, &customers, &batch).await;

    // one more time with the server's own processes: those of this database alone
    let stopped = backends(&app).await;
    let frozen = stopped.iter().filter(|pid| signal(**pid, nix::sys::signal::Signal::SIGSTOP)).count();
    if frozen > 0 {
        // the connections that are open; a new one gets a process of its own, and an answer
        let asked = Instant::now();
        let answer = customers[0].get(&format!("{BATCHES}/{batch}")).await;
        let took = asked.elapsed();
        for pid in &stopped {
            signal(*pid, nix::sys::signal::Signal::SIGCONT);
        }
        assert!(took < PROMISED + SLACK && [200, 503].contains(&answer.status.as_u16()), "{took:?}: {}", answer.text);
        println!("{frozen} server processes stood still: {} after {took:?}", answer.status);
        all_is_served_again(&app, &customers, &batch).await;
    }
    // an order that was told to come back was not accepted behind its customer's back, or is one batch under its key
    let order = |key: &str| {
        let mut order = order_of(3, "a fox");
        order["x-request-id"] = json!(key);
        order
    };
    for key in ["outage-1", "outage-2"] {
        let batch = customers[0].order(&order(key)).await;
        assert_eq!(customers[0].order(&order(key)).await, batch);
    }
    assert_eq!(app.count("select count(*) from batches").await, 3);
    app.excuse("videos that never ended");
    app.excuse("batches that never ended");
    app.finish().await;
}

fn signal(pid: i32, signal: nix::sys::signal::Signal) -> bool {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_whose_commit_is_not_answered_is_unknown_and_its_key_tells() {
    let mut app = app(false).await;
    let customer = app.customer(10_000).await;
    let mut order = order_of(2, "a fox");
    order["x-request-id"] = json!("key-1");
    let wire = app.wire.as_ref().unwrap();
    customer.get("/api/enterprise/wallet").await.expect(200);
    wire.stall_behind("COMMIT");
    let asked = Instant::now();
    let answer = customer.submit(&order).await;
    let took = asked.elapsed();
    assert!(took < PROMISED + SLACK, "{took:?}");
    let problem = answer.clone().problem(503);
    assert_eq!(problem["type"], "/problems#outcome-unknown", "{problem}");
    assert!(answer.headers.contains_key(RETRY_AFTER));
    println!("unknown after {took:?}");
    wire.resume();
    app.until_serving(&app.base()).await;
    // the database has decided: it was accepted
    app.until("the order is there", async || app.count("select count(*) from batches").await == 1).await;
    let again = customer.submit(&order).await.expect(202);
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(customer.available().await, 10_000 - 2 * 61);
    app.excuse("videos that never ended");
    app.excuse("batches that never ended");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_waits_for_a_lock_is_told_that_nothing_was_changed_and_leaves_no_transaction_open() {
    let app = TestApp::start(TestSettings { roles: API, ..TestSettings::default() }).await;
    let customer = app.customer(10_000).await;
    let mut blocker = app.pool().begin().await.unwrap();
    sqlx::query("select from wallets for update").fetch_all(&mut *blocker).await.unwrap();
    let asked = Instant::now();
    let problem = customer.submit(&order_of(2, "a fox")).await.problem(503);
    assert!(asked.elapsed() < PROMISED + SLACK, "{:?}", asked.elapsed());
    assert_eq!(problem["type"], "/problems#unavailable", "{problem}");
    blocker.rollback().await.unwrap();
    assert_eq!((app.count("select count(*) from batches").await, customer.available().await), (0, 10_000));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_whose_client_falls_silent_ends_within_seconds() {
    let app = app(false).await;
    let customer = app.customer(10_000).await;
    let wire = app.wire.as_ref().unwrap();
    customer.get("/api/enterprise/wallet").await.expect(200);
    // the answer to the beginning of the act does not come back, so nothing more follows it
    wire.stall_behind("begin; set local");
    let order = order_of(2, "a fox");
    let submitting = tokio::spawn(async move { customer.submit(&order).await });
    tokio::time::timeout(PATIENCE, wire.stalled()).await.unwrap();
    let idle = "select count(*) from pg_stat_activity where datname = current_database()
                and application_name like 'freezeframe%' and state like 'idle in transaction%'";
    app.until("the act is begun", async || app.count(idle).await > 0).await;
    let since = Instant::now();
    app.until("the server ends it", async || app.count(idle).await == 0).await;
    println!("a silent transaction was ended after {:?}", since.elapsed());
    assert!(since.elapsed() < PROMISED + SLACK, "{:?}", since.elapsed());
    let answer = submitting.await.unwrap();
    assert_eq!(answer.clone().problem(503)["type"], "/problems#outcome-unknown", "{}", answer.text);
    wire.resume();
    app.until_serving(&app.base()).await;
    assert_eq!(app.count("select count(*) from batches").await, 0);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_request_has_waited_for_its_key_is_not_left_to_wait_for_its_answer() {
    const FOR_ITS_KEY: Duration = Duration::from_secs(3);
    let app = TestApp::start(TestSettings { roles: API, ..TestSettings::default() }).await;
    let customer = app.customer(10_000).await;
    let mut wallets = app.pool().begin().await.unwrap();
    sqlx::query("lock table wallets in access exclusive mode").execute(&mut *wallets).await.unwrap();
    let mut keys = app.pool().begin().await.unwrap();
    sqlx::query("lock table api_keys in access exclusive mode").execute(&mut *keys).await.unwrap();
    let asked = Instant::now();
    let asking = tokio::spawn(async move { customer.get("/api/enterprise/wallet").await });
    let long_since = format!(
        "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'freezeframe%'
             and wait_event_type = 'Lock' and query_start < clock_timestamp() - {} * interval '1 s'",
        FOR_ITS_KEY.as_secs()
    );
    app.until("the request has waited for its key", async || app.count(&long_since).await > 0).await;
    keys.rollback().await.unwrap();
    // the wallet stays locked: of the one budget only the rest is waited
    let answer = asking.await.unwrap();
    let took = asked.elapsed();
    wallets.rollback().await.unwrap();
    assert!(took < FOR_ITS_KEY + REQUEST_WITHIN, "each wait had a budget of its own: {took:?}");
    assert_eq!(answer.problem(503)["type"], "/problems#unavailable");
    app.finish().await;
}
