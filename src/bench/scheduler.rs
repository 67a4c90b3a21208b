//! The scheduler bench: what a round costs while very many videos of very many tenants wait.
//!
//! Always holds: batches are admitted through the same door as customers' are, and the rounds are the leader's own, played one
//! by one against the same database; nothing is made. A round is measured beside one plain insert of as many rows as it
//! releases, in the same database and the same run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono::Utc;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::process::{self, Program};
use crate::batches::{self, Admission, OrderLimits};
use crate::billing;
use crate::config::{Config, Live, ProviderConfig};
use crate::db::Database;
use crate::domain::{Credits, GrantSource, MasterKey, Secret, TenantId};
use crate::engine::queue::names::GENERATE;
use crate::providers::catalogue::Catalogue;
use crate::scheduler::{Scheduler, SchedulerSettings};
use crate::service::{self, Store};

/// A key of nobody's.
const MASTER_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// Batches admitted at once.
const CLIENTS: usize = 4;
/// How long a leader of its own leads while its memory is looked at.
const LEADS_FOR: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(60);

/// What is run.
#[derive(Clone, Debug)]
pub struct SchedulerBench {
    /// How many videos wait, ascending; each a multiple of the tenants, and at most 10,000 for each of them more than the one
    /// before.
    pub waiting: Vec<usize>,
    pub tenants: usize,
    /// Rounds of each kind.
    pub rounds: usize,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct SchedulerReport {
    pub tenants: usize,
    pub scales: Vec<Scale>,
}

/// Rounds while so many videos wait. Times are milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Scale {
    pub waiting: usize,
    /// Batches by model.
    pub lanes: usize,
    /// A round in which no worker has a free slot.
    pub full_p50_ms: f64,
    pub full_most_ms: f64,
    /// A round that releases a whole wave.
    pub wave_p50_ms: f64,
    pub wave_most_ms: f64,
    pub wave: usize,
    /// One insert of as many plain rows, committed.
    pub insert_p50_ms: f64,
    /// A wave over that.
    pub ratio: f64,
    /// The most memory that a process had which did nothing but lead; zero where the system does not tell.
    pub leader_kilobytes: u64,
}

/// Runs against a database of its own on the configured server.
///
/// # Errors
/// When a batch is refused or a round fails.
pub async fn run_scheduler(config: &Config, bench: &SchedulerBench) -> Result<SchedulerReport> {
    ensure!(
        bench.waiting.is_sorted() && bench.waiting.iter().all(|waiting| *waiting > 0),
        "the numbers have to ascend"
    );
    let mut config = config.clone();
    // the same everywhere, and not more than there is: half of the fewest videos are released
    let fewest = bench.waiting.first().copied().unwrap_or_default();
    config.scheduler.wave = config.scheduler.wave.min(fewest / (2 * bench.rounds)).max(1);
    let store = Store::open_scratch(&config, "freezeframe_bench_scheduler").await?;
    let report = Run::new(&config, &store).await;
    let report = match report {
        Ok(run) => run.measure(bench).await,
        Err(error) => Err(error),
    };
    store.drop_scratch().await?;
    report
}

struct Run<'a> {
    config: Config,
    store: &'a Store,
    owner: Database,
    engine: Database,
    catalogue: Arc<Catalogue>,
}

impl<'a> Run<'a> {
    async fn new(config: &Config, store: &'a Store) -> Result<Run<'a>> {
        let mut config = config.clone();
        let accounts = config.models.iter().flat_map(|model| model.accounts().map(str::to_owned));
        for account in accounts.collect::<std::collections::BTreeSet<String>>() {
            config.set_provider(ProviderConfig {
                requests_per_minute: 60_000_000,
                max_in_flight: 1_000_000,
                ..ProviderConfig::embedded(&account, "http://127.0.0.1:9/v1".parse()?, Secret::new("none"))
            });
        }
        let catalogue = Arc::new(Catalogue::from_config(&config)?);
        let (owner, engine) = (store.connect_as_owner().await?, store.connect("bench", 2, true).await?);
        Ok(Run { config, store, owner, engine, catalogue })
    }

    async fn measure(self, bench: &SchedulerBench) -> Result<SchedulerReport> {
        let tenants = self.onboard(bench.tenants).await?;
        // as if videos had been made before: what batches can expect is worked out as well
        sqlx::query("insert into model_outlooks (model, video_secs) values ('sora-2', 60)")
            .execute(self.owner.pool())
            .await?;
        let (mut scales, mut ordered) = (Vec::new(), 0);
        for waiting in &bench.waiting {
            let each = waiting.saturating_sub(ordered) / tenants.len();
            ensure!(each > 0, "each scale has to be larger than the one before");
            self.order(&tenants, each).await?;
            ordered += each * tenants.len();
            let scale = self.scale(bench.rounds).await?;
            scales.push(Scale { waiting: ordered, ..scale });
        }
        self.engine.close().await;
        self.owner.close().await;
        Ok(SchedulerReport { tenants: tenants.len(), scales })
    }

    async fn onboard(&self, tenants: usize) -> Result<Vec<TenantId>> {
        let master = MasterKey::from_hex(MASTER_KEY)?;
        let mut ids = Vec::with_capacity(tenants);
        for at in 0..tenants {
            let credits = (Credits::new(1_000_000_000)?, GrantSource::Paid);
            let name = format!("bench {at}");
            let new = billing::onboard(&self.owner, &master, (&name, 60_000_000, 1_000_000), credits).await?;
            ids.push(new.tenant.id);
        }
        Ok(ids)
    }

    /// One batch of so many videos of every tenant.
    async fn order(&self, tenants: &[TenantId], videos: usize) -> Result<()> {
        let requests = self.store.connect_requests("bench requests", CLIENTS as u32).await?;
        let admission = Admission::new(requests.clone());
        let items: Vec<Value> = (0..videos)
            .map(|at| json!({ "prompt": format!("a red fox runs through fresh snow at dawn, take {at}"), "model": "sora-2" }))
            .collect();
        let limits = OrderLimits { max_items: videos, ..OrderLimits::new(&self.config) };
        let order = batches::parse(&json!({ "items": items }), &[], limits, (&self.catalogue, Utc::now()))
            .map_err(|wrong| anyhow::anyhow!("the bench's order is wrong: {wrong:?}"))?;
        let order = Arc::new(order);
        let mut orders = JoinSet::new();
        for tenant in tenants.iter().copied() {
            while orders.len() >= CLIENTS {
                orders.join_next().await.context("an order was lost")???;
            }
            let (admission, order) = (admission.clone(), order.clone());
            orders.spawn(async move { admission.admit(tenant, order).await.map(|_| ()) });
        }
        while let Some(order) = orders.join_next().await {
            order??;
        }
        requests.close().await;
        Ok(())
    }

    async fn scale(&self, rounds: usize) -> Result<Scale> {
        let settings = SchedulerSettings {
            lease_ttl: self.config.scheduler.lease_ttl,
            tick: self.config.scheduler.tick,
            wave: u32::try_from(self.config.scheduler.wave).unwrap_or(u32::MAX),
            worker_dead_after: self.config.engine.dead_after,
            probe: self.config.scheduler.probe,
        };
        let plan = Live::new(service::route_plan(&self.config)?);
        let mut scheduler = Scheduler::new(self.engine.clone(), settings, plan);
        // the first reads what a leader remembers afterwards
        self.offer(0).await?;
        scheduler.measured_round().await?.context("another process leads")?;
        let (mut full, mut waves, mut wave) = (Vec::new(), Vec::new(), 0);
        for _ in 0..rounds {
            self.offer(0).await?;
            let round = scheduler.measured_round().await?.context("another process leads")?;
            ensure!(round.released == 0, "a round released videos although no slot was free");
            full.push(round.took.as_secs_f64() * 1000.0);
        }
        for _ in 0..rounds {
            self.offer(self.config.scheduler.wave as i64).await?;
            let round = scheduler.measured_round().await?.context("another process leads")?;
            ensure!(round.released > 0, "a round released nothing although slots were free");
            wave = round.released;
            waves.push(round.took.as_secs_f64() * 1000.0);
        }
        scheduler.stop().await;
        let inserts = self.inserts(wave, rounds).await?;
        let lanes: i64 = sqlx::query_scalar("select count(*) from batch_lanes where not closed")
            .fetch_one(self.owner.pool())
            .await?;
        let leader_kilobytes = self.leader_memory().await?;
        let ([full_p50_ms, full_most_ms], [wave_p50_ms, wave_most_ms]) =
            (middle_and_most(full), middle_and_most(waves));
        let [insert_p50_ms, _] = middle_and_most(inserts);
        Ok(Scale {
            waiting: 0,
            lanes: usize::try_from(lanes)?,
            full_p50_ms,
            full_most_ms,
            wave_p50_ms,
            wave_most_ms,
            wave,
            insert_p50_ms,
            ratio: wave_p50_ms / insert_p50_ms,
            leader_kilobytes,
        })
    }

    /// A worker that is alive offers so many slots more than are taken.
    async fn offer(&self, slots: i64) -> Result<()> {
        sqlx::query(
            "insert into workers (name, queue, slots)
             select 'bench', $1, $2 + coalesce(sum(total - waiting - settled), 0) from batch_lanes where not closed
             on conflict (name) do update set slots = excluded.slots, seen_at = now()",
        )
        .bind(GENERATE)
        .bind(slots)
        .execute(self.owner.pool())
        .await?;
        Ok(())
    }

    async fn inserts(&self, rows: usize, times: usize) -> Result<Vec<f64>> {
        let pool = self.owner.pool();
        sqlx::query("create table if not exists bench_inserts (id bigint primary key, word text not null)")
            .execute(pool)
            .await?;
        let mut took = Vec::new();
        for _ in 0..times {
            let started = Instant::now();
            sqlx::query(
                "insert into bench_inserts select m + i, 'a red fox runs through fresh snow' from generate_series(1, $1) i,
                     (select coalesce(max(id), 0) as m from bench_inserts) before",
            )
            .bind(rows as i64)
            .execute(pool)
            .await?;
            took.push(started.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(took)
    }

    /// The most memory of a process that leads for a while and does nothing else.
    async fn leader_memory(&self) -> Result<u64> {
        self.offer(0).await?;
        let dir = self.config.data_dir.join("bench-scheduler");
        std::fs::create_dir_all(&dir)?;
        let mut settings = format!("data_dir = {:?}\n", dir.join("data"));
        for account in &self.config.providers {
            settings.push_str(&format!(
                "[[provider]]\nname = {:?}\nkind = \"openai_videos\"\nbase_url = \"http://127.0.0.1:9/v1\"\n\
                 api_key_env = \"BENCH_KEY\"\nrequests_per_minute = 1000000\nmax_in_flight = 1000000\n",
                account.name
            ));
        }
        let file = dir.join("freezeframe.toml");
        std::fs::write(&file, settings)?;
        let file = file.to_str().context("the data directory has no readable name")?.to_owned();
        let program = Program::start(
            &["serve", "--roles", "scheduler", "--config", &file],
            &[
                ("DATABASE_URL", self.store.url()),
                ("FREEZEFRAME_MASTER_KEY", MASTER_KEY),
                ("BENCH_KEY", "none"),
                ("FREEZEFRAME_LOG__FILTER", "error"),
            ],
        )?;
        let end = Instant::now() + PATIENCE;
        let led = "select exists (select from leader_leases where expires_at > now())";
        while !sqlx::query_scalar::<_, bool>(led).fetch_one(self.owner.pool()).await? {
            ensure!(Instant::now() < end, "no process took the lead");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(LEADS_FOR).await;
        let kilobytes = process::kilobytes(program.id(), "VmHWM:");
        drop(program);
        let freed = "update leader_leases set expires_at = now() - interval '1 second'";
        sqlx::query(freed).execute(self.owner.pool()).await?;
        // what stays is a few settings, and the next run replaces them
        let _ = std::fs::remove_dir_all(&dir);
        Ok(kilobytes)
    }
}

/// The median and the largest.
fn middle_and_most(mut times: Vec<f64>) -> [f64; 2] {
    times.sort_by(f64::total_cmp);
    [times.get(times.len() / 2), times.last()].map(|time| time.copied().unwrap_or_default())
}
