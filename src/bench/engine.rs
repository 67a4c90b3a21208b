//! The engine bench: batches over HTTP, a provider that answers at once, until every video is settled and every batch told.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::baseline;
use super::footprint::Footprint;
use super::instant_provider::{InstantProvider, REFUSED};
use super::receiver;
use crate::billing;
use crate::config::Config;
use crate::db::Database;
use crate::domain::{Credits, GrantSource};
use crate::ledger;
use crate::providers::egress::ClientTimeouts;
use crate::providers::{Egress, Registry};
use crate::service::{Parts, Roles, Service, Store};
use crate::storage::Storage;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct EngineBench {
    pub batches: usize,
    pub videos_per_batch: usize,
    /// Batches posted at once.
    pub clients: usize,
    /// Of 1,000 videos this many are refused by the provider and refunded.
    pub refused_permille: usize,
    pub baseline: Duration,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct EngineReport {
    pub videos: usize,
    /// From the first POST to the last webhook received.
    pub seconds: f64,
    pub videos_per_second: f64,
    pub admission_p50_ms: f64,
    pub admission_p99_ms: f64,
    pub row_writes_per_video: f64,
    pub transactions_per_video: f64,
    pub wal_kilobytes_per_video: f64,
    pub postgres_cpu_us_per_video: f64,
    pub own_cpu_us_per_video: f64,
    /// Single-row-update commits per second by 16 clients, before and after the run.
    pub baseline_before: f64,
    pub baseline_after: f64,
    /// Videos per second over the mean of the two.
    pub ratio: f64,
    pub ledger_sum: i64,
}

/// Runs against a database of its own on the configured server.
///
/// # Errors
/// When a part does not start, a request is refused, or the books are wrong at the end.
pub async fn run_engine(config: &Config, bench: EngineBench) -> Result<EngineReport> {
    let store = Store::open_scratch(config, "freezeframe_bench").await?;
    let report = run_on(config, &store, bench).await;
    store.drop_scratch().await?;
    report
}

async fn run_on(config: &Config, store: &Store, bench: EngineBench) -> Result<EngineReport> {
    let mut config = config.clone();
    config.listen = "127.0.0.1:0".parse()?;
    config.public_url = None;
    (config.http.tls, config.http.metrics_listen) = (None, None);
    config.webhooks.allow_private_targets = true;
    config.limits.answer_every_request();
    let mut providers = Registry::default();
    let accounts = config.models.iter().flat_map(|model| model.accounts().map(str::to_owned));
    for account in accounts.collect::<std::collections::BTreeSet<String>>() {
        providers.insert(std::sync::Arc::new(InstantProvider::new(&account)));
        config.set_provider(crate::config::ProviderConfig {
            requests_per_minute: 60_000_000,
            max_in_flight: 1_000_000,
            ..crate::config::ProviderConfig::embedded(
                &account,
                "http://127.0.0.1:9/v1".parse()?,
                crate::domain::Secret::new("none"),
            )
        });
    }
    let parts = Parts { providers: Some(providers), storage: Some(Storage::in_memory()) };
    let owner = store.connect_as_owner().await?;
    let baseline_before = baseline::commits_per_second(&owner, bench.baseline).await?;
    let service = Service::start(&config, store, Roles::ALL, parts).await?;
    let measured = measure(&service, &owner, bench).await;
    service.stop().await?;
    let (seconds, mut admissions, footprint) = measured?;
    let baseline_after = baseline::commits_per_second(&owner, bench.baseline).await?;
    let ledger_sum = checked_books(&owner).await?;
    owner.close().await;
    let videos = bench.batches * bench.videos_per_batch;
    let each = |total: i64| total as f64 / videos as f64;
    admissions.sort_by(f64::total_cmp);
    let at = |share: f64| admissions[((admissions.len() - 1) as f64 * share).round() as usize];
    Ok(EngineReport {
        videos,
        seconds,
        videos_per_second: videos as f64 / seconds,
        admission_p50_ms: at(0.5),
        admission_p99_ms: at(0.99),
        row_writes_per_video: each(footprint.row_writes),
        transactions_per_video: each(footprint.transactions),
        wal_kilobytes_per_video: each(footprint.wal_bytes) / 1024.0,
        postgres_cpu_us_per_video: each(footprint.postgres_cpu_ms * 1000),
        own_cpu_us_per_video: each(footprint.own_cpu_ms * 1000),
        baseline_before,
        baseline_after,
        ratio: videos as f64 / seconds / ((baseline_before + baseline_after) / 2.0),
        ledger_sum,
    })
}

/// Posts everything and waits for the last webhook: (seconds, admission times in ms, cost).
async fn measure(service: &Service, owner: &Database, bench: EngineBench) -> Result<(f64, Vec<f64>, Footprint)> {
    let credits = (Credits::new(1_000_000_000_000)?, GrantSource::Paid);
    let tenant = billing::onboard(owner, &service.master, ("bench", 60_000_000, 1_000_000), credits).await?;
    let (hook, mut told) = receiver::start().await?;
    let address = service.address.context("the API has no address")?;
    let timeouts = ClientTimeouts {
        connect: Duration::from_secs(5),
        total: Duration::from_secs(60),
        keep_idle: Duration::from_secs(30),
    };
    let client = Egress::new().provider_client(timeouts)?;
    let bodies: Vec<String> = (0..bench.batches).map(|at| body(bench, &hook, at)).collect();
    // the workers' first heartbeat offers their slots
    wait_for_workers(owner).await?;
    let before = Footprint::take(owner).await?;
    let started = Instant::now();
    let mut admissions = Vec::with_capacity(bench.batches);
    let mut posts = JoinSet::new();
    for body in bodies {
        while posts.len() >= bench.clients {
            admissions.push(posts.join_next().await.context("a post was lost")???);
        }
        let request = client
            .post(format!("http://{address}/api/enterprise/video-batch"))
            .header("x-api-key", tenant.api_key.expose())
            .header("content-type", "application/json")
            .body(body);
        posts.spawn(async move {
            let asked = Instant::now();
            let answer = request.send().await?;
            ensure!(answer.status() == 202, "a batch was refused: {} {}", answer.status(), answer.text().await?);
            Ok::<_, anyhow::Error>(asked.elapsed().as_secs_f64() * 1000.0)
        });
    }
    while let Some(post) = posts.join_next().await {
        admissions.push(post??);
    }
    tokio::time::timeout(Duration::from_secs(600), told.wait_for(|count| *count == bench.batches))
        .await
        .context("not every batch was told within 10 minutes")??;
    let seconds = started.elapsed().as_secs_f64();
    Ok((seconds, admissions, Footprint::take(owner).await?.since(before)))
}

fn body(bench: EngineBench, hook: &str, batch: usize) -> String {
    let items: Vec<Value> = (0..bench.videos_per_batch)
        .map(|at| {
            let refused = if at % 1000 * 1000 / bench.videos_per_batch.clamp(1, 1000) < bench.refused_permille {
                REFUSED
            } else {
                ""
            };
            let prompt =
                format!("bench {batch}/{at} {refused}: {}", "a red fox runs through fresh snow at dawn ".repeat(4));
            json!({ "prompt": prompt, "model": if at % 4 == 0 { "veo-3.1" } else { "sora-2" } })
        })
        .collect();
    json!({ "items": items, "webhook_url": hook, "x-request-id": format!("bench-{batch}") }).to_string()
}

async fn wait_for_workers(db: &Database) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let workers: i64 = sqlx::query_scalar("select count(*) from workers").fetch_one(db.pool()).await?;
        if workers >= 3 {
            return Ok(());
        }
        ensure!(Instant::now() < end, "the workers did not start");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn checked_books(db: &Database) -> Result<i64> {
    let mut conn = db.pool().acquire().await?;
    let differences = ledger::differences(&mut conn).await?;
    ensure!(differences.is_empty(), "the books are wrong after the run: {differences:?}");
    Ok(ledger::books(&mut conn).await?.sum)
}
