//! Admission over HTTP: an order is whole or it is nothing, whoever repeats it, hurries it, breaks it off or gets it wrong.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::client::{Answer, BATCHES, Customer, item, order_of};
use crate::app::{API, PATIENCE, TestApp, TestSettings};

/// Only the API: what is admitted stays as it is, and nothing may be written by what is refused.
async fn desk() -> TestApp {
    TestApp::start(TestSettings { roles: API, ..TestSettings::default() }).await
}

async fn close(mut app: TestApp) {
    for part in ["videos that never ended", "batches that never ended"] {
        app.excuse(part);
    }
    app.finish().await;
}

/// Asks until the answer is another than "come again": of many at once some wait too long for a connection.
async fn submit_again(customer: &Customer, body: &Value) -> Answer {
    let asked = Instant::now();
    loop {
        let answer = customer.submit(body).await;
        if answer.status != 503 || asked.elapsed() > PATIENCE {
            return answer;
        }
        assert!(answer.headers.contains_key("retry-after"), "{:?}", answer.headers);
    }
}

/// Rows of every table that an admission writes.
async fn written(app: &TestApp) -> i64 {
    app.count(
        "select (select count(*) from batches) + (select count(*) from videos) + (select count(*) from batch_lanes)
            + (select count(*) from batch_holds) + (select count(*) from idempotency_keys)
            + (select count(*) from credit_ledger where act <> 'grant')",
    )
    .await
}

fn pointers(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_bad_items_of_five_hundred_are_named_and_nothing_is_written() {
    let app = desk().await;
    let customer = app.customer(1_000_000).await;
    let mut body = order_of(500, "a calm sea");
    body["items"][17]["model"] = "sora-9".into();
    body["items"][256]["prompt"] = "".into();
    body["items"][499]["seconds"] = 7.into();
    let problem = customer.submit(&body).await.problem(422);
    assert_eq!(pointers(&problem), ["/items/17/model", "/items/256/prompt", "/items/499/seconds"]);
    assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("sora-2"), "no suggestion: {problem}");
    assert_eq!(written(&app).await, 0);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_beyond_the_wallet_is_told_what_is_missing_and_freezes_nothing() {
    let app = desk().await;
    let customer = app.customer(100).await;
    let problem = customer.submit(&order_of(2, "a heron")).await.problem(402);
    assert_eq!(
        (&problem["required"], &problem["available"], &problem["shortfall"]),
        (&json!(122), &json!(100), &json!(22))
    );
    assert_eq!(written(&app).await, 0);
    assert_eq!(customer.available().await, 100);
    // the same key may be used again once there are credits
    let body = json!({"items": [item("a"), item("b")], "x-request-id": "again"});
    customer.submit(&body).await.problem(402);
    customer.submit(&json!({"items": [item("a")], "x-request-id": "again"})).await.expect(202);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_equal_posts_at_once_make_one_batch_and_one_freeze() {
    let app = desk().await;
    let customer = app.customer(1_000_000).await;
    let mut body = order_of(20, "a lighthouse");
    body["x-request-id"] = "spring-17".into();
    let answers = join_all((0..50).map(|_| submit_again(&customer, &body))).await;
    let accepted: Vec<_> = answers.iter().filter(|answer| answer.status == 202).collect();
    assert!(!accepted.is_empty());
    for answer in &answers {
        match answer.status.as_u16() {
            202 => assert_eq!(answer.body, accepted[0].body),
            409 => assert!(answer.headers.contains_key("retry-after"), "{:?}", answer.headers),
            other => panic!("{other}: {}", answer.text),
        }
    }
    assert_eq!(app.count("select count(*) from batches").await, 1);
    assert_eq!(app.count("select count(*) from credit_ledger where act = 'freeze'").await, 1);
    assert_eq!(customer.available().await, 1_000_000 - 20 * 61);
    // however the key is sent and the body is written, it is the same request
    let pretty = serde_json::to_string_pretty(&body).unwrap();
    let again = customer.call(Method::POST, BATCHES, &[], Some(pretty)).await.expect(202);
    assert_eq!(again.body, accepted[0].body);
    body.as_object_mut().unwrap().remove("x-request-id");
    for header in ["X-Request-Id", "Idempotency-Key"] {
        let again = customer.submit_with(&[(header, "spring-17")], &body).await.expect(202);
        assert_eq!(again.body, accepted[0].body);
    }
    assert_eq!(app.count("select count(*) from batches").await, 1);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_and_its_batch_are_written_together_or_not_at_all() {
    let app = desk().await;
    let customer = app.customer(10_000).await;
    app.execute(
        "create function public.refuse() returns trigger language plpgsql as
         'begin raise exception ''the disk is full'' using errcode = ''53100''; end'",
    )
    .await;
    let mut body = order_of(2, "a heron");
    body["x-request-id"] = "spring-18".into();
    // whichever of the writes fails, at once or with the commit
    for table in ["idempotency_keys", "batches", "batch_lanes", "videos", "batch_holds", "credit_ledger"] {
        for (kind, when) in [("", "before insert"), ("constraint", "after insert")] {
            let each = if kind.is_empty() { "" } else { "deferrable initially deferred" };
            app.execute(&format!(
                "create {kind} trigger refuse {when} on {table} {each} for each row execute function public.refuse()"
            ))
            .await;
            let answer = customer.submit(&body).await;
            assert!(answer.status.is_server_error(), "{table} {when}: {}", answer.text);
            assert_eq!(written(&app).await, 0, "{table} {when}");
            assert_eq!(customer.available().await, 10_000, "{table} {when}");
            app.execute(&format!("drop trigger refuse on {table}")).await;
        }
    }
    let first = customer.submit(&body).await.expect(202).batch_id();
    assert_eq!(customer.submit(&body).await.expect(202).batch_id(), first);
    assert_eq!(app.count("select count(*) from batches").await, 1);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_belongs_to_one_body_and_one_tenant() {
    let app = desk().await;
    let (customer, other) = (app.customer(10_000).await, app.customer(10_000).await);
    let keyed = |count| {
        let mut body = order_of(count, "a heron");
        body["x-request-id"] = "mine".into();
        body
    };
    let first = customer.submit(&keyed(1)).await.expect(202).batch_id();
    customer.submit(&keyed(2)).await.problem(422);
    assert_ne!(other.submit(&keyed(1)).await.expect(202).batch_id(), first);
    let conflict = customer.submit_with(&[("X-Request-Id", "yours")], &keyed(1)).await.problem(422);
    assert_eq!(pointers(&conflict), ["/x-request-id"]);
    let conflict =
        customer.submit_with(&[("X-Request-Id", "a"), ("Idempotency-Key", "b")], &order_of(1, "x")).await.problem(422);
    assert_eq!(pointers(&conflict), ["/x-request-id"]);
    customer.submit_with(&[("X-Request-Id", "mine"), ("Idempotency-Key", "mine")], &keyed(1)).await.expect(202);
    assert_eq!(app.count("select count(*) from batches").await, 2);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_orders_at_once_exactly_as_many_are_accepted_as_can_be_paid() {
    let app = desk().await;
    let customer = app.customer(10 * 122 + 121).await;
    let bodies: Vec<Value> = (0..100).map(|n| order_of(2, &format!("order {n}"))).collect();
    let answers = join_all(bodies.iter().map(|body| submit_again(&customer, body))).await;
    let accepted = answers.iter().filter(|answer| answer.status == 202).count();
    let refused = answers.iter().filter(|answer| answer.status == 402).count();
    assert_eq!((accepted, refused), (10, 90));
    for answer in answers.iter().filter(|answer| answer.status == 402) {
        let (available, shortfall) = (answer.number("/available"), answer.number("/shortfall"));
        assert!(available >= 0 && available + shortfall == 122, "{}", answer.text);
    }
    assert_eq!(customer.available().await, 121);
    assert_eq!(app.count("select count(*) from batches").await, 10);
    close(app).await;
}

/// Sends an order over a socket of its own and cuts the connection after `after`, from whatever it has sent by then.
async fn cut_off(customer: &Customer, body: &str, after: Duration) {
    let address = customer.base.trim_start_matches("http://").to_owned();
    let mut socket = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST {BATCHES} HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        customer.api_key,
        body.len()
    );
    let talk = async {
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(body.as_bytes()).await?;
        socket.read(&mut [0; 1024]).await
    };
    let _ = tokio::time::timeout(after, talk).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_leaves_a_whole_batch_or_none() {
    let seed = rand::rng().random::<u64>();
    eprintln!("cutting with seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut app = desk().await;
    let customer = app.customer(100_000_000).await;
    for _ in 0..6 {
        let cuts: Vec<(String, Duration)> = (0..25)
            .map(|_| {
                let body = order_of(random.random_range(1..400), "a heron").to_string();
                (body, Duration::from_micros(random.random_range(0..50_000)))
            })
            .collect();
        join_all(cuts.iter().map(|(body, after)| cut_off(&customer, body, *after))).await;
        // whoever comes next is served as if nothing had happened
        customer.submit(&order_of(1, "after the cut")).await.expect(202);
    }
    // a stop waits for whatever was begun, and what it has not read by then it never will
    app.stop_service().await;
    app.start_service().await;
    // the audit looks for batches without videos, holds without batches and the rest; this is the sum
    let sums = "select count(*), count(*) filter (
                where total = (select count(*) from videos v where v.batch_id = b.id)
                and frozen_credits = (select sum(frozen) from batch_holds h where h.batch_id = b.id)
                and frozen_credits = (select sum(price_credits) from videos v where v.batch_id = b.id)
                and total = (select sum(total) from batch_lanes l where l.batch_id = b.id))
                from batches b";
    let (batches, whole): (i64, i64) = sqlx::query_as(sums).fetch_one(app.pool()).await.unwrap();
    assert!((6..=156).contains(&batches));
    eprintln!("{} of 150 cut requests were admitted", batches - 6);
    assert_eq!(whole, batches);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_client_went_away_is_made_all_the_same() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000_000).await;
    let mut body = order_of(30, "a calm sea");
    body["x-request-id"] = "cut".into();
    let text = body.to_string();
    let address = customer.base.trim_start_matches("http://").to_owned();
    let mut socket = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST {BATCHES} HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        customer.api_key,
        text.len()
    );
    socket.write_all(format!("{head}{text}").as_bytes()).await.unwrap();
    app.until("the batch is there", async || app.count("select count(*) from batches").await == 1).await;
    drop(socket);
    // the answer that was lost is to be had by asking again
    let id = customer.submit(&body).await.expect(202).batch_id();
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_request_is_told_which_field_is_wrong() {
    let app =
        TestApp::start(TestSettings { roles: API, allow_private_webhooks: false, ..TestSettings::default() }).await;
    let customer = app.customer(1_000_000).await;
    let fine = || item("a heron");
    let with = |field: &str, value: Value| {
        let mut item = fine();
        item[field] = value;
        json!({"items": [item]})
    };
    let table = [
        (json!({}), "/items"),
        (json!({"items": []}), "/items"),
        (json!({"items": "sora"}), "/items"),
        (json!({"items": [1]}), "/items/0"),
        (json!({"items": [{"prompt": "x"}]}), "/items/0/model"),
        (json!({"items": [{"model": "sora-2"}]}), "/items/0/prompt"),
        (with("prompt", "   ".into()), "/items/0/prompt"),
        (with("prompt", "bell \u{7}".into()), "/items/0/prompt"),
        (with("prompt", "x".repeat(32_001).into()), "/items/0/prompt"),
        (with("prompt", 5.into()), "/items/0/prompt"),
        (with("model", "sora2".into()), "/items/0/model"),
        (with("seconds", "4".into()), "/items/0/seconds"),
        (with("seconds", 4.5.into()), "/items/0/seconds"),
        (with("size", "1x1".into()), "/items/0/size"),
        (with("custom_id", "".into()), "/items/0/custom_id"),
        (with("metadata", json!([1])), "/items/0/metadata"),
        (with("promt", "typo".into()), "/items/0/promt"),
        (with("a/b~c", "escaped".into()), "/items/0/a~1b~0c"),
        (
            json!({"items": [{"prompt": "a", "model": "sora-2", "custom_id": "x"}, {"prompt": "b", "model": "sora-2", "custom_id": "x"}]}),
            "/items/1/custom_id",
        ),
        (json!({"items": [fine()], "webhok_url": "https://example.com"}), "/webhok_url"),
        (json!({"items": [fine()], "webhook_url": "ftp://example.com"}), "/webhook_url"),
        (json!({"items": [fine()], "webhook_url": "http://127.0.0.1/x"}), "/webhook_url"),
        (json!({"items": [fine()], "webhook_url": "https://user:pw@example.com/"}), "/webhook_url"),
        (json!({"items": [fine()], "webhook_url": "http://[::1]/x"}), "/webhook_url"),
        (json!({"items": [fine()], "webhook_url": "http://169.254.169.254/latest"}), "/webhook_url"),
        (json!({"items": [fine()], "x-request-id": ""}), "/x-request-id"),
        (json!({"items": [fine()], "x-request-id": "a b"}), "/x-request-id"),
        (json!({"items": [fine()], "x-request-id": "x".repeat(256)}), "/x-request-id"),
        (json!({"items": [fine()], "metadata": {"a": 1}}), "/metadata"),
    ];
    for (body, pointer) in table {
        let problem = customer.submit(&body).await.problem(422);
        assert_eq!(pointers(&problem), [pointer], "{body}");
        assert!(problem["errors"][0]["detail"].as_str().is_some_and(|text| text.len() > 5), "{problem}");
        assert_eq!(problem["status"], 422);
    }
    assert_eq!(written(&app).await, 0);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_large_and_foreign_requests_are_refused_by_name() {
    let app = TestApp::start(TestSettings { roles: API, max_body_bytes: 20_000, ..TestSettings::default() }).await;
    let customer = app.customer(1_000_000).await;
    let post = async |headers: &[(&str, &str)], body: &str| {
        customer.call(Method::POST, BATCHES, headers, Some(body.to_owned())).await
    };
    let broken = post(&[], "{\"items\": [\n{\"prompt\": }]}").await.problem(400);
    assert!(broken["detail"].as_str().unwrap().contains("line 2"), "{broken}");
    post(&[], "").await.problem(400);
    assert!(matches!(post(&[], "[]").await.status.as_u16(), 400 | 422));
    post(&[], &order_of(1_000, "a long order").to_string()).await.problem(413);
    // without a length the limit is kept while reading
    let chunks = futures_util::stream::iter((0..1000).map(|_| Ok::<_, std::io::Error>(" ".repeat(1000))));
    let streamed = customer
        .http
        .post(format!("{}{BATCHES}", customer.base))
        .header("X-API-Key", &customer.api_key)
        .header("content-type", "application/json")
        .body(reqwest::Body::wrap_stream(chunks))
        .send()
        .await;
    assert!(streamed.is_err() || streamed.is_ok_and(|answer| answer.status() == 413));
    let fine = order_of(1, "a heron").to_string();
    let mut mistyped = customer.api_key.clone();
    mistyped.pop();
    for key in ["", "nonsense", &mistyped, &format!("{}x", customer.api_key)] {
        post(&[("X-API-Key", key)], &fine).await.problem(401);
    }
    for id in ["bat_01ARZ3NDEKTSV4RRFFQ69G5FAV", "vid_01ARZ3NDEKTSV4RRFFQ69G5FAV", "nonsense", "%00", "..%2f..%2fetc"] {
        customer.get(&format!("{BATCHES}/{id}")).await.problem(404);
    }
    customer.get("/api/enterprise/nothing").await.problem(404);
    customer.call(Method::DELETE, BATCHES, &[], None).await.problem(405);
    assert_eq!(written(&app).await, 0);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_stops_working() {
    let app = desk().await;
    let (customer, other) = (app.customer(1_000).await, app.customer(1_000).await);
    customer.get(BATCHES).await.expect(200);
    app.execute("update api_keys set revoked_at = now()").await;
    other.get(BATCHES).await.problem(401);
    // one that was used a moment ago may be remembered, but not for long
    app.until("the remembered key is refused too", async || customer.get(BATCHES).await.status == 401).await;
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_order_is_admitted_and_one_more_item_is_not() {
    let app = TestApp::start(TestSettings { roles: API, ..TestSettings::default() }).await;
    let customer = app.customer(10_000_000).await;
    let most = customer.submit(&order_of(10_000, "frame")).await.expect(202);
    assert_eq!(most.number("/total"), 10_000);
    assert_eq!(most.headers["location"].to_str().unwrap(), format!("{BATCHES}/{}", most.batch_id()));
    let problem = customer.submit(&order_of(10_001, "frame")).await.problem(422);
    assert_eq!(pointers(&problem), ["/items"]);
    let positions: BTreeSet<i64> =
        customer.videos(&most.batch_id()).await.iter().map(|video| video["index"].as_i64().unwrap()).collect();
    assert_eq!(positions, (0..10_000).collect());
    close(app).await;
}
