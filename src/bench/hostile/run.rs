//! The run: honest batches alone, the same beside the hostile ones, and what the books say afterwards.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::super::process::{Program, kilobytes};
use super::installation::{self, KEY, MASTER_KEY};
use super::kinds::{Kind, Vendor};
use super::report::{HostileReport, HostileVideo, Timing};
use super::verdict::End;
use crate::api;
use crate::billing;
use crate::config::Config;
use crate::db::Database;
use crate::domain::{Credits, GrantSource, MasterKey};
use crate::emulator::{Fault, Nth, Rule};
use crate::providers::Egress;
use crate::providers::egress::ClientTimeouts;
use crate::service::Store;

const BATCHES: &str = "/api/enterprise/video-batch";
/// The longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(600);
const GLANCE: Duration = Duration::from_millis(50);
/// How often the worker's memory is looked at.
const SAMPLE: Duration = Duration::from_millis(100);
const SECRET: &str = "the secret plan of this customer, which nobody may quote to anybody else";

/// What is run.
#[derive(Clone, Debug)]
pub struct HostileBench {
    /// `all`, or the kinds whose name has this in it; with `!` before it those whose name has not.
    pub kinds: String,
    /// Hostile videos; the kinds take turns.
    pub hostile: usize,
    /// Honest videos of one batch.
    pub honest: usize,
    /// Honest batches, one after the other, alone and again beside the hostile videos.
    pub rounds: usize,
}

/// Runs against a database of its own on the configured server.
///
/// # Errors
/// When a process does not start, an order is refused, or something does not come to an end.
pub async fn run_hostile(config: &Config, bench: HostileBench) -> Result<HostileReport> {
    // for the processes of this run, which have as many as this one: several connections a video
    api::allow_files(16 * 1024);
    let store = Store::open_scratch(config, "freezeframe_bench_hostile").await?;
    let dir = config.data_dir.join("bench-hostile");
    let report = run_on(&store, &dir, bench).await;
    // what stays is some videos, and the next run replaces them
    let _ = std::fs::remove_dir_all(&dir);
    store.drop_scratch().await?;
    report
}

async fn run_on(store: &Store, dir: &Path, bench: HostileBench) -> Result<HostileReport> {
    let stage = Stage::open(store, dir).await?;
    // fills pools and caches
    stage.round(bench.honest).await?;
    let memory = Memory::watch(stage.worker.id());
    let mut alone = Vec::new();
    for _ in 0..bench.rounds {
        alone.push(stage.round(bench.honest).await?);
    }
    let steady = memory.steady().await;
    let wanted = |kind: &Kind| match bench.kinds.strip_prefix('!') {
        Some(unwanted) => !kind.to_string().contains(unwanted),
        None => bench.kinds == "all" || kind.to_string().contains(&bench.kinds),
    };
    // every vendor has had every kind after so many rounds
    let all: Vec<Kind> = (0..Vendor::ALL.len()).flat_map(Kind::round).filter(wanted).collect();
    ensure!(!all.is_empty(), "no kind is called like {:?}", bench.kinds);
    let kinds: Vec<Kind> = all.into_iter().cycle().take(bench.hostile).collect();
    stage.script(&kinds).await?;
    let began = Instant::now();
    let batch = stage.hostile.order(&kinds.iter().map(hostile_item).collect::<Vec<_>>()).await?;
    let skipping = skip_back_off(&stage.db, &batch);
    let memory = Memory::watch(stage.worker.id());
    let mut beside = Vec::new();
    for _ in 0..bench.rounds {
        beside.push(stage.round(bench.honest).await?);
    }
    stage.ended(&batch).await?;
    let hostile_seconds = began.elapsed().as_secs_f64();
    skipping.abort();
    let peak = memory.peak(&steady).await;
    let videos = stage.ends_of(&batch, &kinds).await?;
    let mut complaints: Vec<String> = videos.iter().flat_map(|video| video.complaints.clone()).collect();
    complaints.extend(stage.not_alone(&batch).await?);
    let books = billing::reconcile(&stage.db).await?;
    if !books.is_clean() {
        complaints.push(format!("the books: {books:?}"));
    }
    stage.db.close().await;
    Ok(HostileReport {
        hostile: kinds.len(),
        kinds: kinds.iter().map(|kind| kind.attack).collect::<std::collections::HashSet<_>>().len(),
        honest: bench.honest,
        alone: Timing::median(&alone),
        beside: Timing::median(&beside),
        hostile_seconds,
        rss_alone_kilobytes: steady.kilobytes,
        rss_peak_kilobytes: peak,
        videos,
        complaints,
    })
}

fn hostile_item(kind: &Kind) -> Value {
    item(&kind.model(), &format!("{} {SECRET}", kind.mark()))
}

fn item(model: &str, prompt: &str) -> Value {
    json!({"model": model, "prompt": prompt})
}

/// Every process of the run, and its two customers.
struct Stage {
    /// Killed with the stage.
    _emulator: Program,
    _api: Program,
    worker: Program,
    db: Database,
    http: reqwest::Client,
    control: String,
    honest: Customer,
    hostile: Customer,
}

struct Customer {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl Stage {
    async fn open(store: &Store, dir: &Path) -> Result<Stage> {
        let mut emulator = Program::start(&["emulate", "--listen", "127.0.0.1:0", "--api-key", KEY], &[])?;
        let control = format!("http://{}", emulator.announces("control   http://").await?);
        let home = control.trim_end_matches("/control").to_owned();
        std::fs::create_dir_all(dir)?;
        let file = dir.join("freezeframe.toml");
        std::fs::write(&file, installation::settings(&dir.join("data"), &home))?;
        let file = file.to_str().context("the data directory has no readable name")?.to_owned();
        let variables = [
            ("DATABASE_URL", store.url()),
            ("FREEZEFRAME_MASTER_KEY", MASTER_KEY),
            ("FREEZEFRAME_LOG__FILTER", "error"),
            ("BENCH_KEY", KEY),
        ];
        let serve = |roles: &str| {
            Program::start(&["serve", "--roles", roles, "--listen", "127.0.0.1:0", "--config", &file], &variables)
        };
        let (mut api, worker) = (serve("api,scheduler")?, serve("worker")?);
        let address = api.announces("http://").await?;
        let base = format!("http://{}", address.split('/').next().unwrap_or_default());
        let timeouts = ClientTimeouts {
            connect: Duration::from_secs(5),
            total: Duration::from_secs(60),
            keep_idle: Duration::from_secs(1),
        };
        let http = Egress::new().provider_client(timeouts)?;
        let db = store.connect_as_owner().await?;
        let customer = async |name: &str| {
            let credits = (Credits::new(1_000_000_000)?, GrantSource::Paid);
            let master = MasterKey::from_hex(MASTER_KEY)?;
            let tenant = billing::onboard(&db, &master, (name, 60_000_000, 1_000_000), credits).await?;
            let (http, base, key) = (http.clone(), base.clone(), tenant.api_key.expose().to_owned());
            Ok::<_, anyhow::Error>(Customer { http, base, key })
        };
        let (honest, hostile) = (customer("honest").await?, customer("hostile").await?);
        let stage = Stage { _emulator: emulator, _api: api, worker, db, http, control, honest, hostile };
        stage
            .told(
                "PATCH",
                "/profile",
                &json!({"latency_ms": [1500, 2500], "clip_seconds": 1, "one_clip_for_all": true}),
            )
            .await?;
        wait("the workers offer their slots", async || {
            let workers: i64 = sqlx::query_scalar("select count(*) from workers").fetch_one(stage.db.pool()).await?;
            Ok(workers >= 3)
        })
        .await?;
        Ok(stage)
    }

    /// Tells the emulator.
    async fn told(&self, method: &str, path: &str, body: &Value) -> Result<()> {
        let request = self.http.request(method.parse()?, format!("{}{path}", self.control));
        let answer = request.header("content-type", "application/json").body(body.to_string()).send().await?;
        ensure!(answer.status() == 200, "the emulator refused {path}: {}", answer.text().await?);
        Ok(())
    }

    /// Has the emulator attack what is marked.
    async fn script(&self, kinds: &[Kind]) -> Result<()> {
        let marks: BTreeMap<String, Kind> = kinds.iter().map(|kind| (kind.mark(), *kind)).collect();
        let rules: Vec<Rule> = marks
            .into_iter()
            .map(|(mark, kind)| {
                let rule = Rule::on_prompt(mark, Fault::Attack { attack: kind.attack });
                match kind.attack.first_creates() {
                    Some(last) => rule.nth(Nth { from: 1, to: Some(last) }),
                    None => rule,
                }
            })
            .collect();
        self.told("POST", "/rules", &serde_json::to_value(rules)?).await
    }

    /// An honest batch, from the order to its end.
    async fn round(&self, videos: usize) -> Result<Timing> {
        let models = Vendor::ALL.map(Vendor::shared);
        let items: Vec<Value> =
            (0..videos).map(|n| item(&models[n % models.len()], &format!("A calm lake, take {n}"))).collect();
        let batch = self.honest.order(&items).await?;
        self.ended(&batch).await?;
        let mut made: Vec<f64> = sqlx::query_scalar(
            "select (extract(epoch from v.finished_at - min(a.sent_at)) * 1000)::float8
             from videos v join attempts a on a.video_id = v.id where v.batch_id = $1 group by v.id",
        )
        .bind(&batch)
        .fetch_all(self.db.pool())
        .await?;
        let batch_ms: f64 = sqlx::query_scalar(
            "select (extract(epoch from finished_at - created_at) * 1000)::float8 from batches where id = $1",
        )
        .bind(&batch)
        .fetch_one(self.db.pool())
        .await?;
        made.sort_by(f64::total_cmp);
        let at = |share: f64| made[((made.len() - 1) as f64 * share).round() as usize];
        Ok(Timing { made_p50_ms: at(0.5), made_p95_ms: at(0.95), batch_ms })
    }

    async fn ended(&self, batch: &str) -> Result<()> {
        wait("a batch ends", async || {
            let query = "select finished_at is not null from batches where id = $1";
            Ok(sqlx::query_scalar(query).bind(batch).fetch_one(self.db.pool()).await?)
        })
        .await
    }

    async fn ends_of(&self, batch: &str, kinds: &[Kind]) -> Result<Vec<HostileVideo>> {
        let rows: Vec<(String, String, String, bool, i32, f64)> = sqlx::query_as(
            "select v.state::text, coalesce(v.failure_class::text, ''), coalesce(v.failure_message, ''),
                 coalesce(s.outcome::text = 'refunded' and s.amount = v.price_credits, false), v.attempts_made,
                 coalesce(extract(epoch from v.finished_at - v.created_at), 0)::float8
             from videos v left join settlements s on s.video_id = v.id where v.batch_id = $1 order by v.position",
        )
        .bind(batch)
        .fetch_all(self.db.pool())
        .await?;
        ensure!(rows.len() == kinds.len(), "{} videos where {} were ordered", rows.len(), kinds.len());
        let ends = rows.into_iter().zip(kinds).map(|((state, class, message, refunded, attempts, seconds), kind)| {
            let end = End { state, class, message, refunded, attempts, seconds };
            let complaints = kind.complaints(&end, &["secret plan", KEY]);
            let fate = kind.expected().fate;
            HostileVideo { kind: kind.to_string(), fate, money: fate.money(), end, complaints }
        });
        Ok(ends.collect())
    }

    /// Every video of another batch that failed.
    async fn not_alone(&self, hostile: &str) -> Result<Vec<String>> {
        let failed: Vec<(String, String, String)> = sqlx::query_as(
            "select model, state::text, coalesce(failure_message, '') from videos
             where batch_id <> $1 and state <> 'succeeded'",
        )
        .bind(hostile)
        .fetch_all(self.db.pool())
        .await?;
        let told = failed.into_iter();
        Ok(told.map(|(model, state, message)| format!("an honest video of {model} is {state}: {message}")).collect())
    }
}

impl Customer {
    /// Orders a batch; answers its id as it is stored.
    async fn order(&self, items: &[Value]) -> Result<String> {
        let request = self.http.post(format!("{}{BATCHES}", self.base)).header("x-api-key", &self.key);
        let body = json!({ "items": items }).to_string();
        let answer = request.header("content-type", "application/json").body(body).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status == 202, "an order was refused: {status} {text}");
        let answer: Value = serde_json::from_str(&text)?;
        let id = answer["batch_id"].as_str().context("an answer without batch_id")?;
        Ok(id.trim_start_matches("bat_").to_owned())
    }
}

/// Back-offs of minutes are decided and written as always, and then moved up to now: for this batch alone.
fn skip_back_off(db: &Database, batch: &str) -> JoinHandle<()> {
    let (pool, batch) = (db.pool().clone(), batch.to_owned());
    tokio::spawn(async move {
        loop {
            let moved =
                sqlx::query("update videos set eligible_at = now() where batch_id = $1 and eligible_at > now()");
            // a lost race is repeated at the next look
            let _ = moved.bind(&batch).execute(&pool).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
}

/// Looks at the memory of a process until it is asked.
struct Memory {
    id: u32,
    over: Arc<AtomicBool>,
    samples: JoinHandle<Vec<u64>>,
}

/// What a process takes when nobody attacks.
struct Steady {
    /// The median.
    kilobytes: u64,
    /// The most so far.
    most: u64,
}

impl Memory {
    fn watch(id: u32) -> Memory {
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let samples = tokio::spawn(async move {
            let mut samples = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                samples.push(kilobytes(id, "VmRSS:"));
                tokio::time::sleep(SAMPLE).await;
            }
            samples
        });
        Memory { id, over, samples }
    }

    async fn sorted(self) -> Vec<u64> {
        self.over.store(true, Ordering::Relaxed);
        let mut samples = self.samples.await.unwrap_or_default();
        samples.sort_unstable();
        samples
    }

    async fn steady(self) -> Steady {
        let most = kilobytes(self.id, "VmHWM:");
        let samples = self.sorted().await;
        Steady { kilobytes: samples.get(samples.len() / 2).copied().unwrap_or_default(), most }
    }

    /// The most since then. The kernel's own mark tells what fell between two looks, if it was the most of all times.
    async fn peak(self, before: &Steady) -> u64 {
        let most = kilobytes(self.id, "VmHWM:");
        let seen = self.sorted().await.last().copied().unwrap_or_default();
        if most > before.most { most } else { seen }
    }
}

async fn wait(what: &str, holds: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds().await? {
        ensure!(Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(GLANCE).await;
    }
    Ok(())
}
