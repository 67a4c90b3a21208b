//! How long a client is waited for.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;

use super::clients::{Line, close, get, post, server};

/// Longer than any limit set here, shorter than any default.
const SOON: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let app = server("header_timeout_secs = 1").await;
    let customer = app.customer(100).await;
    let base = app.base();
    let mut silent = Line::open(&base).await;
    let mut torn = Line::open(&base).await;
    torn.send("GET /healthz HTTP/1.1\r\nHost: te").await;
    let mut preface = Line::open(&base).await;
    preface.send("PRI * HTTP/2.0\r\n\r\nSM").await;
    let mut slow = Line::open(&base).await;
    let drip = async {
        let started = Instant::now();
        slow.send("GET / HTTP/1.1\r\n").await;
        assert_eq!(slow.trickle("a: b\r\n", Duration::from_millis(50)).await, "");
        started.elapsed()
    };
    let honest = async {
        for _ in 0..20 {
            customer.get("/api/enterprise/wallet").await.expect(200);
        }
    };
    let (silent, torn, preface, slow, ()) = tokio::join!(silent.ends(), torn.ends(), preface.ends(), drip, honest);
    for took in [silent, torn, preface, slow] {
        assert!(took < SOON, "{took:?}");
    }
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_requests_is_closed_later_than_one_with_half_a_head() {
    let app = server("header_timeout_secs = 3\nidle_timeout_secs = 9").await;
    let (mut idle, mut second) = (Line::open(&app.base()).await, Line::open(&app.base()).await);
    // the server's own clock starts later, when it has answered
    let asked = Instant::now();
    for line in [&mut idle, &mut second] {
        line.send(&get("/healthz")).await;
        assert!(line.answer().await.starts_with("HTTP/1.1 200"));
    }
    second.send("GET /hea").await;
    let ended = async |line: &mut Line| {
        line.ends().await;
        asked.elapsed()
    };
    let (idle, second) = tokio::join!(ended(&mut idle), ended(&mut second));
    // without the setting it would be 75 s
    assert!(idle >= Duration::from_secs(9) && idle < Duration::from_secs(40), "{idle:?}");
    assert!(second < idle, "{second:?} and {idle:?}");
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_trickles_is_answered_408_and_nothing_is_written() {
    let app = server("body_stall_secs = 1\nbody_min_bytes_per_sec = 1000").await;
    let customer = app.customer(10_000).await;
    let mut stopped = Line::open(&app.base()).await;
    stopped.send(&post(&customer, 5_000, "stopped")).await;
    stopped.send("{\"items\":[").await;
    let mut dripping = Line::open(&app.base()).await;
    dripping.send(&post(&customer, 5_000, "dripping")).await;
    let (stopped, dripping) = tokio::join!(stopped.rest(), dripping.trickle(" ", Duration::from_millis(50)));
    for said in [stopped, dripping] {
        assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("/problems#body-too-slow"), "{said}");
        assert!(said.contains("connection: close") && said.contains("trace_id"), "{said}");
    }
    assert_eq!(app.count("select count(*) from batches").await, 0);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_never_ends_is_given_up_however_steadily_it_comes() {
    let app = server("body_timeout_secs = 2\nbody_min_bytes_per_sec = 1").await;
    let customer = app.customer(10_000).await;
    let mut endless = Line::open(&app.base()).await;
    endless.send(&post(&customer, 4_000_000, "endless")).await;
    let said = endless.trickle(&" ".repeat(500), Duration::from_millis(50)).await;
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_body_that_keeps_its_pace_is_accepted() {
    let app = server("body_stall_secs = 3\nbody_min_bytes_per_sec = 10").await;
    let customer = app.customer(10_000).await;
    let body = format!("{{\"items\":[{{\"model\":\"sora-2\",\"prompt\":\"a slow heron\"}}]{}}}", " ".repeat(900));
    let mut slow = Line::open(&app.base()).await;
    slow.send(&post(&customer, body.len(), "slow")).await;
    // all of it takes longer than a pause may
    let began = Instant::now();
    for part in body.as_bytes().chunks(16) {
        slow.send(std::str::from_utf8(part).unwrap()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
    let answer = slow.answer().await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    close(app).await;
}

/// Far more than what lies between two ends of a connection.
const MUCH: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_cut_off_and_one_that_reads_slowly_is_not() {
    let app = server("response_stall_secs = 4").await;
    let document = app.http.get(format!("{}/openapi.json", app.base())).send().await.unwrap().bytes().await.unwrap();
    let (mut stuck, mut slow) = (Line::open(&app.base()).await, Line::open(&app.base()).await);
    for line in [&mut stuck, &mut slow] {
        line.send(&get("/openapi.json").repeat(MUCH)).await;
    }
    // reads for longer than a stuck client is waited for
    let started = Instant::now();
    let mut buffer = vec![0; 128 << 10];
    while started.elapsed() < Duration::from_secs(10) {
        let read = slow.0.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "cut off while it read");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let said = stuck.rest().await;
    assert!(said.len() < document.len() * MUCH, "everything was sent: {} bytes", said.len());
    let mut rest = Vec::new();
    slow.send("GET /healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await;
    slow.0.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"{\"status\":\"ok\"}"), "the slow one was not answered to the end");
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_http2_that_is_not_read_is_cut_off_although_its_connection_lives() {
    let app = server("response_stall_secs = 1").await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .http2_initial_stream_window_size(1024)
        .build()
        .unwrap();
    let mut stuck = client.get(format!("{}/openapi.json", app.base())).send().await.unwrap();
    assert_eq!((stuck.status().as_u16(), stuck.version()), (200, reqwest::Version::HTTP_2));
    assert!(stuck.chunk().await.unwrap().is_some());
    // nothing tells a client that does not read; the counters are those of all tests of this process
    tokio::time::sleep(SOON).await;
    let rest = async {
        while stuck.chunk().await?.is_some() {}
        Ok::<_, reqwest::Error>(())
    };
    assert!(rest.await.is_err(), "the answer came to its end");
    // on a new connection, all is well
    let whole = client.get(format!("{}/openapi.json", app.base())).send().await.unwrap().text().await.unwrap();
    assert!(whole.starts_with('{') && whole.ends_with("}\n"));
    close(app).await;
}
