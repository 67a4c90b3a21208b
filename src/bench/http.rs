//! The HTTP bench: what honest clients wait for with and without thousands of slow or stuck ones beside them, and what those
//! leave behind. The server is a process of its own, so that its files and memory are told from the clients'.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;

use super::process::Program;
use super::stuck::Stuck;
use crate::api;
use crate::billing;
use crate::config::{Config, MAX_REQUESTS_PER_MINUTE};
use crate::domain::{Credits, GrantSource, MasterKey};
use crate::providers::Egress;
use crate::providers::egress::ClientTimeouts;
use crate::service::Store;

/// How long the server may take to be rid of what clients left.
const PATIENCE: Duration = Duration::from_secs(120);
/// Connections of the server's pool to the database, which grows with the load and stays.
const POOL: usize = 16;
const GLANCE: Duration = Duration::from_millis(100);
/// Of an installation that lives for one run.
const MASTER_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const BATCHES: &str = "/api/enterprise/video-batch";

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct HttpBench {
    /// Slow or stuck clients.
    pub stuck: usize,
    /// Requests of honest clients in each round; every third is an order.
    pub requests: usize,
    /// Honest clients at a time.
    pub clients: usize,
}

/// By so much the server's memory may grow from the second wave of the same clients to the third. The first ones make the
/// allocator's free lists what they stay (measured over eight waves: 165, 186, 189, 190, 190, 198, 198, 199 MB); 2,000
/// clients of whom each left a buffer behind would add more than this with every wave.
const MEMORY_NOISE_KILOBYTES: u64 = 16 << 10;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct HttpReport {
    pub stuck: usize,
    /// Connections that the stuck clients opened in all: each that was ended came back.
    pub stuck_connections: u64,
    /// No stuck client there.
    pub without: Round,
    pub with: Round,
    /// The stuck clients are gone, for the first, the second and the third time.
    pub after: [Round; 3],
    pub get_p99_ratio: f64,
    pub post_p99_ratio: f64,
}

/// Honest clients, and the server's state at the end of their round.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Round {
    pub get_p50_ms: f64,
    pub get_p99_ms: f64,
    pub post_p50_ms: f64,
    pub post_p99_ms: f64,
    pub connections: f64,
    pub files: usize,
    pub rss_kilobytes: u64,
}

/// Runs against a database of its own on the configured server.
///
/// # Errors
/// When the server does not start, an honest request is refused, or something is left behind.
pub async fn run_http(config: &Config, bench: HttpBench) -> Result<HttpReport> {
    api::allow_files(bench.stuck as u64 + 1024);
    let store = Store::open_scratch(config, "freezeframe_bench_http").await?;
    let dir = config.data_dir.join("bench-http");
    let report = run_on(&store, &dir, bench).await;
    // what stays is a few settings, and the next run replaces them
    let _ = std::fs::remove_dir_all(&dir);
    store.drop_scratch().await?;
    report
}

async fn run_on(store: &Store, dir: &Path, bench: HttpBench) -> Result<HttpReport> {
    let db = store.connect("bench", 2, false).await?;
    let credits = (Credits::new(1_000_000_000)?, GrantSource::Paid);
    let master = MasterKey::from_hex(MASTER_KEY)?;
    let tenant = billing::onboard(&db, &master, ("bench", 60_000_000, 1_000_000), credits).await?;
    db.close().await;
    let server = Server::start(store, dir, bench).await?;
    let timeouts = ClientTimeouts {
        connect: Duration::from_secs(5),
        total: Duration::from_secs(60),
        keep_idle: Duration::from_secs(30),
    };
    let http = Egress::new().provider_client(timeouts)?;
    let honest = Honest { http, base: format!("http://{}", server.address), key: tenant.api_key.expose().to_owned() };

    honest.round("warm-up", bench, &server).await?;
    let without = honest.round("without", bench, &server).await?;
    let (with, first, stuck_connections) = wave("first", &honest, bench, &server).await?;
    let (_, second, _) = wave("second", &honest, bench, &server).await?;
    let (_, third, _) = wave("third", &honest, bench, &server).await?;
    ensure!(
        third.files <= without.files + bench.clients + POOL,
        "{} files were open before the stuck clients and {} after them",
        without.files,
        third.files
    );
    ensure!(
        third.rss_kilobytes <= second.rss_kilobytes + MEMORY_NOISE_KILOBYTES,
        "{} kB of memory after the second wave of stuck clients, {} after the third",
        second.rss_kilobytes,
        third.rss_kilobytes
    );
    Ok(HttpReport {
        stuck: bench.stuck,
        stuck_connections,
        without,
        with,
        after: [first, second, third],
        get_p99_ratio: with.get_p99_ms / without.get_p99_ms,
        post_p99_ratio: with.post_p99_ms / without.post_p99_ms,
    })
}

/// The stuck clients come, stay for a round and go; the round with them, the one after them, and their connections.
async fn wave(name: &str, honest: &Honest, bench: HttpBench, server: &Server) -> Result<(Round, Round, u64)> {
    let stuck = Stuck::start(server.address, &honest.key, bench.stuck)?;
    // those that vanish and those that are being ended are always a few
    wait("the stuck clients are there", async || Ok(stuck.open() * 10 >= bench.stuck * 9)).await?;
    let with = honest.round(&format!("{name}-with"), bench, server).await?;
    let connections = stuck.stop().await;
    wait("the server is rid of them", async || Ok(honest.connections().await? <= bench.clients as f64)).await?;
    let after = honest.round(&format!("{name}-after"), bench, server).await?;
    Ok((with, after, connections))
}

/// The program itself, as an API alone.
struct Server {
    address: SocketAddr,
    program: Program,
}

impl Server {
    async fn start(store: &Store, dir: &Path, bench: HttpBench) -> Result<Server> {
        std::fs::create_dir_all(dir)?;
        let file = dir.join("freezeframe.toml");
        // one customer is all of them
        let most = MAX_REQUESTS_PER_MINUTE;
        let mut settings = format!(
            "data_dir = {:?}\n[limits]\ndefault_requests_per_minute = {most}\n\
             default_requests_per_minute_per_key = {most}\n[http]\n",
            dir.join("data")
        );
        let places = bench.stuck * 2 + 1000;
        settings.push_str(&format!("max_connections = {places}\nmax_connections_per_peer = {places}\n"));
        for name in ["sora", "veo"] {
            settings.push_str(&format!(
                "[[provider]]\nname = {name:?}\nkind = \"openai_videos\"\nbase_url = \"http://127.0.0.1:9/v1\"\n\
                 api_key_env = \"BENCH_KEY\"\nrequests_per_minute = 1\nmax_in_flight = 1\n"
            ));
        }
        std::fs::write(&file, settings)?;
        let file = file.to_str().context("the data directory has no readable name")?;
        let mut program = Program::start(
            &["serve", "--roles", "api", "--listen", "127.0.0.1:0", "--config", file],
            &[
                ("DATABASE_URL", store.url()),
                ("FREEZEFRAME_MASTER_KEY", MASTER_KEY),
                ("FREEZEFRAME_LOG__FILTER", "error"),
            ],
        )?;
        let url = program.announces("http://").await?;
        Ok(Server { address: url.split('/').next().unwrap_or_default().parse()?, program })
    }

    /// Open files and kilobytes of memory; zero where the system does not tell.
    fn footprint(&self) -> (usize, u64) {
        (self.program.files(), self.program.rss_kilobytes())
    }
}

/// Customers who do nothing wrong.
#[derive(Clone)]
struct Honest {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl Honest {
    async fn round(&self, name: &str, bench: HttpBench, server: &Server) -> Result<Round> {
        let each = (bench.requests / bench.clients).max(1);
        let mut clients = JoinSet::new();
        for client in 0..bench.clients {
            let (honest, name) = (self.clone(), name.to_owned());
            clients.spawn(async move { honest.work(&format!("{name}-{client}"), each).await });
        }
        let (mut gets, mut posts) = (Vec::new(), Vec::new());
        while let Some(client) = clients.join_next().await {
            let (their_gets, their_posts) = client??;
            gets.extend(their_gets);
            posts.extend(their_posts);
        }
        let connections = self.connections().await?;
        let (files, rss_kilobytes) = server.footprint();
        let ([get_p50_ms, get_p99_ms], [post_p50_ms, post_p99_ms]) = (percentiles(gets), percentiles(posts));
        Ok(Round { get_p50_ms, get_p99_ms, post_p50_ms, post_p99_ms, connections, files, rss_kilobytes })
    }

    /// The times of one client's requests in milliseconds: reads and orders.
    async fn work(self, name: &str, requests: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        let (mut gets, mut posts) = (Vec::new(), Vec::new());
        let mut batch = String::new();
        for at in 0..requests {
            let asked = Instant::now();
            if at % 3 == 0 {
                let order = json!({
                    "items": [{"model": "sora-2", "prompt": "a red fox in the snow"}],
                    "x-request-id": format!("{name}-{at}"),
                });
                let request =
                    self.http.post(format!("{}{BATCHES}", self.base)).header("content-type", "application/json");
                let answer = request.header("x-api-key", &self.key).body(order.to_string()).send().await?;
                ensure!(answer.status() == 202, "an order was refused: {} {}", answer.status(), answer.text().await?);
                let answer: serde_json::Value = serde_json::from_str(&answer.text().await?)?;
                batch = answer["batch_id"].as_str().context("an answer without batch_id")?.to_owned();
                posts.push(asked.elapsed().as_secs_f64() * 1000.0);
            } else {
                let request = self.http.get(format!("{}{BATCHES}/{batch}", self.base));
                let answer = request.header("x-api-key", &self.key).send().await?;
                ensure!(answer.status() == 200, "a read was refused: {} {}", answer.status(), answer.text().await?);
                answer.text().await?;
                gets.push(asked.elapsed().as_secs_f64() * 1000.0);
            }
        }
        Ok((gets, posts))
    }

    /// What the server says is open.
    async fn connections(&self) -> Result<f64> {
        let page = self.http.get(format!("{}/metrics", self.base)).send().await?.text().await?;
        let of_api = page.lines().filter(|line| line.starts_with("freezeframe_http_connections{port=\"api\""));
        Ok(of_api.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    }
}

/// The median and the 99th of a hundred.
fn percentiles(mut times: Vec<f64>) -> [f64; 2] {
    times.sort_by(f64::total_cmp);
    let last = times.len().saturating_sub(1) as f64;
    [0.5, 0.99].map(|share| times.get((last * share).round() as usize).copied().unwrap_or_default())
}

async fn wait(what: &str, holds: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds().await? {
        ensure!(Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(GLANCE).await;
    }
    Ok(())
}
