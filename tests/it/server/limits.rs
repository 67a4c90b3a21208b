//! How much may be open, sent and under way.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use sqlx::Connection as _;

use super::clients::{Line, close, get, half_a_post, server};
use crate::app::client::{BATCHES, item, order_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_only_so_many_connections_and_others_still_get_theirs() {
    let app = server("max_connections = 7\nmax_connections_per_peer = 4").await;
    // not from the address that is filled up
    let other = Ipv4Addr::new(127, 0, 0, 2);
    let customer = app.customer(100).await;
    let base = app.base();
    let mut lines = join_all((0..4).map(|_| half_a_post(&base, &customer))).await;
    let said = Line::open(&app.base()).await.rest().await;
    assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("retry-after: "), "{said}");
    let body = said.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["type"], "/problems#unavailable");
    let mut from_elsewhere = Line::open_from(&app.base(), other).await;
    from_elsewhere.send(&get("/healthz")).await;
    assert!(from_elsewhere.answer().await.starts_with("HTTP/1.1 200 "));
    // a place that becomes free is given again
    drop(lines.pop());
    app.until("the place is free", async || {
        let mut line = Line::open(&app.base()).await;
        line.send("GET /healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await;
        line.rest().await.starts_with("HTTP/1.1 200 ")
    })
    .await;
    drop(lines);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_holds_places_without_using_them_makes_room() {
    let app = server("max_connections = 4\nmax_connections_per_peer = 4").await;
    let customer = app.customer(100).await;
    let mut busy = half_a_post(&app.base(), &customer).await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        let mut line = Line::open(&app.base()).await;
        line.send(&get("/healthz")).await;
        line.answer().await;
        idle.push(line);
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let mut newcomer = Line::open(&app.base()).await;
    newcomer.send(&get("/healthz")).await;
    assert!(newcomer.answer().await.starts_with("HTTP/1.1 200 "));
    idle.remove(0).ends().await;
    // the request under way was left alone
    busy.send(&" ".repeat(998)).await;
    busy.send("}").await;
    assert!(busy.answer().await.starts_with("HTTP/1.1 422 "));
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_beyond_its_bounds_is_refused_by_status() {
    let app = server("max_header_bytes = 8192\nmax_headers = 20").await;
    let mut long = Line::open(&app.base()).await;
    long.send(&format!("GET /healthz HTTP/1.1\r\nHost: test\r\nX-Long: {}\r\n\r\n", "a".repeat(100_000))).await;
    let mut many = Line::open(&app.base()).await;
    many.send(&format!("GET /healthz HTTP/1.1\r\nHost: test\r\n{}\r\n", "a: b\r\n".repeat(30))).await;
    for line in [&mut long, &mut many] {
        let said = line.rest().await;
        assert!(said.starts_with("HTTP/1.1 431 "), "{said}");
    }
    let mut fitting = Line::open(&app.base()).await;
    fitting.send(&format!("GET /healthz HTTP/1.1\r\nHost: test\r\nX-Long: {}\r\n\r\n", "a".repeat(7_000))).await;
    assert!(fitting.answer().await.starts_with("HTTP/1.1 200 "));
    let http2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let refused = http2.get(format!("{}/healthz", app.base())).header("x-long", "a".repeat(100_000)).send().await;
    assert!(refused.is_err() || refused.unwrap().status() == 431);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_of_a_hundred_thousand_levels_is_refused_precisely_wherever_it_stands() {
    let app = server("").await;
    let customer = app.customer(10_000).await;
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let (arrays, objects) = (deep("[", "]"), format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)));
    for nested in [&arrays, &objects] {
        for body in [
            nested.clone(),
            format!("{{\"items\":{nested}}}"),
            format!("{{\"items\":[{}],\"unknown\":{nested}}}", item("a heron")),
            format!("{{\"x-request-id\":{nested},\"items\":[]}}"),
            format!("{{\"items\":{}", "[".repeat(100_000)),
        ] {
            let problem = customer.call(Method::POST, BATCHES, &[], Some(body)).await.problem(400);
            assert_eq!(problem["type"], "/problems#too-deep");
            assert!(problem["detail"].as_str().unwrap().contains("127 levels deep (line 1, column"), "{problem}");
        }
    }
    // what is only strange is told by its place
    let strange = format!("{{\"items\":[{}],\"unknown\":{}1{}}}", item("a"), "[".repeat(100), "]".repeat(100));
    let problem = customer.call(Method::POST, BATCHES, &[], Some(strange)).await.problem(422);
    assert_eq!(problem["errors"][0]["pointer"], "/unknown");
    assert_eq!(app.count("select count(*) from batches").await, 0);
    close(app).await;
}

/// Holds every query that touches batches until it is dropped.
async fn batches_locked(url: &str) -> sqlx::PgConnection {
    let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql("begin; lock table batches in access exclusive mode").execute(&mut conn).await.unwrap();
    conn
}

const WAITING: &str = "select count(*) from pg_stat_activity where datname = current_database()
    and wait_event_type = 'Lock' and application_name = 'freezeframe api'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_connection_to_the_database_left_a_request_is_told_to_come_back_and_never_hangs() {
    let app = server("").await;
    let customer = app.customer(10_000).await;
    let id = customer.order(&order_of(1, "a heron")).await;
    let path = format!("{BATCHES}/{id}");
    let lock = batches_locked(&app.db.url).await;
    let waiting = tokio::spawn({
        let (customer, path) = (customer.clone(), path.clone());
        async move { join_all((0..16).map(|_| customer.get(&path))).await }
    });
    app.until("the pool is exhausted", async || app.count(WAITING).await == 16).await;
    let asked = Instant::now();
    let body = json!({"items": [item("a lighthouse")], "x-request-id": "exhausted"});
    let (read, write) = tokio::join!(customer.get("/api/enterprise/wallet"), customer.submit(&body));
    let took = asked.elapsed();
    for answer in [read, write] {
        assert!(answer.headers.contains_key("retry-after"), "{:?}", answer.headers);
        assert_eq!(answer.problem(503)["type"], "/problems#unavailable");
    }
    // a connection is waited for for 4 s; after 10 s those that hold them would be told that the lock takes too long
    assert!(took < Duration::from_secs(9), "{took:?}");
    customer.http.get(format!("{}/healthz", app.base())).send().await.unwrap().error_for_status().unwrap();
    drop(lock);
    for answer in waiting.await.unwrap() {
        // those that waited for the lock for too long were told so
        assert!(matches!(answer.status.as_u16(), 200 | 503), "{}", answer.text);
    }
    // the same request is now accepted, once
    customer.submit(&body).await.expect(202);
    assert_eq!(customer.available().await, 10_000 - 2 * 61);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_requests_at_a_time_the_answer_is_503_at_once_and_slow_clients_take_no_turn() {
    let app = server("max_requests = 2").await;
    let customer = app.customer(10_000).await;
    let id = customer.order(&order_of(1, "a heron")).await;
    let path = format!("{BATCHES}/{id}");
    // bodies that do not come, and answers that are not read
    let base = app.base();
    let mut slow = join_all((0..8).map(|_| half_a_post(&base, &customer))).await;
    let mut stuck = Line::open(&app.base()).await;
    stuck.send(&get("/openapi.json").repeat(300)).await;
    customer.get(&path).await.expect(200);

    let lock = batches_locked(&app.db.url).await;
    let waiting = tokio::spawn({
        let (customer, path) = (customer.clone(), path.clone());
        async move { tokio::join!(customer.get(&path), customer.get(&path)) }
    });
    app.until("two requests are being processed", async || app.count(WAITING).await == 2).await;
    let refused = customer.get("/api/enterprise/wallet").await;
    assert!(refused.headers.contains_key("retry-after"), "{:?}", refused.headers);
    assert!(refused.problem(503)["detail"].as_str().unwrap().contains("too many requests"));
    customer.submit(&order_of(1, "a lighthouse")).await.problem(503);
    // a body that comes to its end now finds no turn either
    slow[0].send(&" ".repeat(999)).await;
    let late = slow[0].answer().await;
    assert!(late.starts_with("HTTP/1.1 503 ") && late.contains("retry-after: "), "{late}");
    for always in ["/healthz", "/readyz", "/metrics"] {
        customer.get(always).await.expect(200);
    }
    drop(lock);
    let (one, other) = waiting.await.unwrap();
    assert_eq!((one.status.as_u16(), other.status.as_u16()), (200, 200), "{}{}", one.text, other.text);
    customer.submit(&order_of(1, "a lighthouse")).await.expect(202);
    drop(slow);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_have_a_port_of_their_own_when_one_is_set() {
    let app = server("metrics_listen = \"127.0.0.1:0\"").await;
    let customer = app.customer(100).await;
    let own = app.metrics_base();
    let text = customer.get(&format!("{own}/metrics")).await.expect(200).text;
    assert!(text.contains("freezeframe_http_connections_refused_total"), "{text}");
    customer.get(&format!("{own}/readyz")).await.expect(200);
    customer.get(&format!("{own}/api/enterprise/wallet")).await.problem(404);
    customer.get("/metrics").await.problem(404);
    customer.get("/readyz").await.expect(200);
    close(app).await;
}
