//! A crowd of clients that are slow or stuck in every way at once. `STUCK_CLIENTS` says how many (default 150).

use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::AsyncWriteExt as _;

use super::clients::{Line, close, get, post};
use crate::app::client::{Customer, order_of};
use crate::app::{NOTHING, TestApp, TestSettings};

async fn stuck(base: &str, customer: &Customer, kind: usize) -> Line {
    let mut line = Line::open(base).await;
    match kind % 7 {
        0 => {}
        1 => line.send("GET /healthz HTTP/1.1\r\nHos").await,
        2 => {
            line.send(&get("/healthz")).await;
            line.answer().await;
        }
        3 => line.send(&post(customer, 100_000, "stuck")).await,
        4 => {
            line.send(&post(customer, 100_000, "stuck")).await;
            line.send(&" ".repeat(90_000)).await;
        }
        // its answers fill whatever lies between, or are not even half asked for
        5 => drop(line.0.write(get("/openapi.json").repeat(300).as_bytes()).await),
        _ => line.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await,
    }
    line
}

/// The value of a line of the metrics.
async fn shown(app: &TestApp, base: &str, series: &str) -> f64 {
    let page = app.http.get(format!("{base}/metrics")).send().await.unwrap().text().await.unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("{series} is not in\n{page}"))
}

/// The connections that the server has ended, for whatever reason.
async fn ended(app: &TestApp, base: &str) -> f64 {
    let page = app.http.get(format!("{base}/metrics")).send().await.unwrap().text().await.unwrap();
    let series = page.lines().filter(|line| line.starts_with("freezeframe_http_connections_ended_total{"));
    series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

fn open_files(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_stuck_clients_keeps_nobody_from_being_served_and_leaves_nothing_behind() {
    let count: usize = std::env::var("STUCK_CLIENTS").map_or(150, |count| count.parse().unwrap());
    let http = "max_connections_per_peer = 4096\nheader_timeout_secs = 3\nidle_timeout_secs = 4\nbody_stall_secs = 15
        response_stall_secs = 3\nmax_requests = 16";
    let mut app = TestApp::start(TestSettings { roles: NOTHING, http, ..TestSettings::default() }).await;
    let process = app.start_process("api").await;
    let (base, pid) = (app.process(process).base.clone(), app.process(process).id());
    app.until_serving(&base).await;
    let customer = app.customer_at(&base, &[(freezeframe::domain::GrantSource::Paid, 1_000_000)]).await;
    let honest = async |round: usize| {
        let id = customer.order(&order_of(2, &format!("round {round}"))).await;
        customer.batch(&id).await;
        customer.get("/api/enterprise/wallet").await.expect(200);
    };
    for round in 0..10 {
        honest(round).await;
    }
    let files = open_files(pid);
    let crowd = join_all((0..count).map(|kind| stuck(&base, &customer, kind))).await;
    let states = |state| format!("freezeframe_http_connections{{port=\"api\",state=\"{state}\"}}");
    let (busy, waiting) = (states("busy"), states("waiting"));
    let open = async || shown(&app, &base, &busy).await + shown(&app, &base, &waiting).await;
    // the first of a large crowd may have had their time before the last ones came
    app.until("the crowd is counted", async || open().await + ended(&app, &base).await >= (count / 7 * 6) as f64).await;
    for round in 10..30 {
        honest(round).await;
    }
    // the honest client keeps one
    app.until("the server is rid of the crowd, which is still there", async || open().await <= 2.0).await;
    for reason in ["header", "idle", "response"] {
        let series = format!("freezeframe_http_connections_ended_total{{reason=\"{reason}\"}}");
        let ended = shown(&app, &base, &series).await;
        assert!(ended >= (count / 7) as f64, "{ended} connections were ended for want of: {reason}");
    }
    app.until(&format!("as few files are open as before, {files}"), async || open_files(pid) <= files + 4).await;
    honest(30).await;
    drop(crowd);
    let took = app.process(process).terminate();
    assert!(took < Duration::from_secs(20), "{took:?}");
    close(app).await;
}
