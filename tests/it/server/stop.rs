//! The end of a process, as its clients see it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use super::clients::{Line, address, close, get, post};
use crate::app::client::item;
use crate::app::{NOTHING, TestApp, TestSettings};

async fn app(http: &'static str) -> (TestApp, usize, String) {
    let mut app = TestApp::start(TestSettings { roles: NOTHING, http, ..TestSettings::default() }).await;
    let process = app.start_process("api").await;
    let base = app.process(process).base.clone();
    app.until_serving(&base).await;
    (app, process, base)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_turns_readiness_off_first_and_lets_requests_under_way_finish() {
    let (mut app, process, base) = app("drain_secs = 6\nfinish_secs = 60\nbody_stall_secs = 60").await;
    let customer = app.customer_at(&base, &[(freezeframe::domain::GrantSource::Paid, 10_000)]).await;
    let body = format!("{{\"items\":[{}]}}", item("the last order"));
    let mut underway = Line::open(&base).await;
    underway.send(&post(&customer, body.len(), "last")).await;
    let mut idle = Line::open(&base).await;
    idle.send(&get("/healthz")).await;
    idle.answer().await;
    app.process(process).signal(Signal::SIGTERM);
    app.until("readiness is off", async || {
        app.http.get(format!("{base}/readyz")).send().await.unwrap().status() == 503
    })
    .await;
    // whoever was not told yet is still served
    customer.get("/api/enterprise/wallet").await.expect(200);
    let closed = Instant::now();
    idle.ends().await;
    assert!(closed.elapsed() < Duration::from_secs(30), "an idle connection held up the stop");
    app.until("no connection is accepted", async || TcpStream::connect(address(&base)).await.is_err()).await;
    underway.send(&body).await;
    let answer = underway.answer().await;
    assert!(answer.starts_with("HTTP/1.1 202 ") && answer.contains("connection: close"), "{answer}");
    assert!(app.process(process).wait().success());
    assert_eq!(app.count("select count(*) from batches").await, 1);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_stuck_do_not_hold_up_a_stop() {
    let (mut app, process, base) = app("finish_secs = 1").await;
    let customer = app.customer_at(&base, &[(freezeframe::domain::GrantSource::Paid, 10_000)]).await;
    let mut half = Line::open(&base).await;
    half.send(&post(&customer, 1000, "half")).await;
    half.send("{").await;
    let mut torn = Line::open(&base).await;
    torn.send("GET /healthz HT").await;
    let mut stuck = Line::open(&base).await;
    stuck.send(&get("/openapi.json").repeat(300)).await;
    let silent = Line::open(&base).await;
    customer.get("/api/enterprise/wallet").await.expect(200);
    let took = app.process(process).terminate();
    assert!(took < Duration::from_secs(20), "{took:?}");
    for line in [&mut half, &mut torn, &mut stuck] {
        line.rest().await;
    }
    drop(silent);
    assert_eq!(app.count("select count(*) from batches").await, 0);
    close(app).await;
}
