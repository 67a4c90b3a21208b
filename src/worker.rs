//! The worker process: which queue is worked on by which step, and what is done regularly: sweep, purge, comparison of the
//! books, chaining the ledger, looks at jobs that may succeed too late, and hearing of providers' callbacks.
//!
//! Refuses: SQL, decisions. It only connects the queue with the steps.

mod chain;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::billing::{self, Auditor, Rest};
use crate::callbacks;
use crate::config::{Config, ReconcileConfig};
use crate::engine::queue;
use crate::engine::queue::{SlotSettings, Workers, WorkersStopped, names};
use crate::metrics;
use crate::steps::{self, Studio};

/// How often a process looks for videos that are not to begin any more.
const WITHDRAW_EVERY: Duration = Duration::from_millis(500);
/// How often a process looks whether the books are due for a comparison.
const LOOK_AT_BOOKS: Duration = Duration::from_secs(15);
/// Differences that are named in the log.
const MOST_LOGGED: usize = 20;
/// Files whose time is over are looked for once in so many sweeps.
const SWEEPS_PER_PURGE: u32 = 4;
/// Jobs that may have succeeded too late are asked about once in so many sweeps.
const SWEEPS_PER_LATE_LOOK: u32 = 2;

/// Slots of each queue and the pulse of this process.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Videos made at once.
    pub video_slots: usize,
    pub finalize_slots: usize,
    pub webhook_slots: usize,
    pub max_fetch: usize,
    pub heartbeat: Duration,
    /// Without a heartbeat for this long a worker counts as dead.
    pub dead_after: Duration,
    pub poll: Duration,
    pub sweep_every: Duration,
    pub reconcile: ReconcileConfig,
    /// Of this process, for whoever reads what it has found.
    pub name: String,
}

impl WorkerSettings {
    /// As the settings say, for the process of that name.
    pub fn new(config: &Config, name: String) -> WorkerSettings {
        let engine = &config.engine;
        WorkerSettings {
            video_slots: engine.slots,
            finalize_slots: engine.finalize_slots,
            webhook_slots: engine.webhook_slots,
            max_fetch: engine.max_fetch,
            heartbeat: engine.heartbeat,
            dead_after: engine.dead_after,
            poll: engine.poll,
            sweep_every: engine.sweep,
            reconcile: config.reconcile.clone(),
            name,
        }
    }

    fn slots(&self, queue: &'static str, slots: usize) -> SlotSettings {
        SlotSettings {
            queue,
            slots,
            max_fetch: self.max_fetch,
            heartbeat: self.heartbeat,
            dead_after: self.dead_after,
            poll: self.poll,
        }
    }
}

/// Works until `stop`; then hands over what it holds and returns.
///
/// # Errors
/// [`WorkersStopped`] when the job workers end by themselves.
pub async fn work(
    studio: Arc<Studio>,
    settings: WorkerSettings,
    stop: CancellationToken,
) -> Result<(), WorkersStopped> {
    let mut beside = start_regular_work(&studio, &settings, &stop);
    // ends after everything else: the last jobs book too
    let worked_out = CancellationToken::new();
    let chainer = tokio::spawn(chain::chain_regularly(studio.clone(), worked_out.clone()));
    beside.spawn(callbacks::listen(studio.db.clone(), studio.ears.clone(), stop.clone()));
    let (generate, finalize, notify) = (studio.clone(), studio.clone(), studio.clone());
    let worked = Workers::new(studio.db.clone(), stop)
        .add(settings.slots(names::GENERATE, settings.video_slots), move |job| steps::generate(generate.clone(), job))
        .add(settings.slots(names::FINALIZE, settings.finalize_slots), move |job| {
            steps::finalize(finalize.clone(), job)
        })
        .add(settings.slots(names::NOTIFY, settings.webhook_slots), move |job| steps::notify(notify.clone(), job))
        .run()
        .await;
    beside.abort_all();
    worked_out.cancel();
    if let Err(error) = chainer.await {
        tracing::error!(%error, "the chainer of the ledger panicked");
    }
    worked
}

/// Whatever this process does beside its jobs; each at its own pace, and none waits for another.
fn start_regular_work(studio: &Arc<Studio>, settings: &WorkerSettings, stop: &CancellationToken) -> JoinSet<()> {
    let mut beside = JoinSet::new();
    let every = settings.sweep_every;
    let with = || (studio.clone(), stop.clone());
    let (own, ended) = with();
    beside.spawn(regularly(every, ended, move || {
        let studio = own.clone();
        async move { sweep(&studio).await }
    }));
    let (own, ended) = with();
    beside.spawn(regularly(WITHDRAW_EVERY, ended, move || {
        let studio = own.clone();
        async move { withdraw(&studio).await }
    }));
    let (own, ended) = with();
    beside.spawn(regularly(WITHDRAW_EVERY, ended, move || {
        let studio = own.clone();
        async move { look_for_cancellations(&studio).await }
    }));
    let (own, ended) = with();
    beside.spawn(regularly(every * SWEEPS_PER_PURGE, ended.clone(), move || {
        let (studio, stop) = (own.clone(), ended.clone());
        async move { purge(&studio, &stop).await }
    }));
    let (own, ended) = with();
    beside.spawn(regularly(every * SWEEPS_PER_LATE_LOOK, ended, move || {
        let studio = own.clone();
        async move { look_late(&studio).await }
    }));
    let (own, ended) = with();
    let books = Arc::new((settings.name.clone(), Rest::default(), settings.reconcile.clone()));
    beside.spawn(regularly(LOOK_AT_BOOKS.min(books.2.every), ended, move || {
        let (studio, books) = (own.clone(), books.clone());
        async move { reconcile(&studio, (&books.0, &books.1, &books.2)).await }
    }));
    beside
}

/// Does `work` at once and then every `every` until `stop`; what is under way then is ended by whoever waits for it.
async fn regularly<Work, Done>(every: Duration, stop: CancellationToken, mut work: Work)
where
    Work: FnMut() -> Done,
    Done: Future<Output = ()>,
{
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        work().await;
    }
}

async fn look_for_cancellations(studio: &Studio) {
    if let Err(error) = studio.cancelled.look(&studio.db).await {
        tracing::warn!(%error, "cancelled batches could not be read; they are looked for again");
    }
}

async fn withdraw(studio: &Studio) {
    if let Err(error) = steps::record::withdraw(&studio.db).await {
        tracing::warn!(?error, "cancelled or overdue videos were not withdrawn; they are tried again");
    }
}

async fn sweep(studio: &Studio) {
    if let Err(error) = steps::sweep(&studio.db).await {
        tracing::warn!(%error, "the sweep failed; it comes again");
    }
    if let Err(error) = measure_queues(studio).await {
        tracing::debug!(%error, "the queues could not be measured");
    }
}

async fn purge(studio: &Studio, stop: &CancellationToken) {
    purge_images(studio, stop).await;
    loop {
        match steps::purge(&studio.db, &studio.storage).await {
            Ok(purged) if purged.more && !stop.is_cancelled() => {}
            Ok(_) => return,
            Err(error) => return tracing::warn!(%error, "the purge failed; it comes again"),
        }
    }
}

async fn purge_images(studio: &Studio, stop: &CancellationToken) {
    loop {
        let days = studio.references.retention_days();
        match steps::purge_images(&studio.db, &studio.storage, days).await {
            Ok(true) if !stop.is_cancelled() => {}
            Ok(_) => return,
            Err(error) => return tracing::warn!(%error, "the purge of images failed; it comes again"),
        }
    }
}

async fn look_late(studio: &Studio) {
    if let Err(error) = billing::book_missing_losses(&studio.db).await {
        tracing::warn!(%error, "losses that nobody booked were not booked; it is tried again");
    }
    if let Err(error) = steps::look_late(studio).await {
        tracing::warn!(%error, "what was learned of ended attempts was not written; they are looked at again");
    }
}

/// Compares the books when the cluster's next comparison is due; whatever differs is named in the log.
async fn reconcile(studio: &Studio, (who, rest, config): (&str, &Rest, &ReconcileConfig)) {
    let providers = studio.providers.get();
    let auditor = Auditor { db: &studio.db, storage: &studio.storage, providers: &providers, who, rest };
    match auditor.when_due(config.every, config.ask_providers_every).await {
        Ok(None) => {}
        Ok(Some(found)) if found.is_clean() => {}
        Ok(Some(found)) => {
            let first = &found.differences[..found.differences.len().min(MOST_LOGGED)];
            let kinds = found.kinds();
            tracing::error!(sum = found.books.sum, ?kinds, ?first, "the books disagree: run `freezeframe reconcile`")
        }
        Err(error) => tracing::warn!(%error, "the books could not be compared; it is tried again"),
    }
}

async fn measure_queues(studio: &Studio) -> Result<(), sqlx::Error> {
    let mut conn = studio.db.pool().acquire().await?;
    for name in [names::GENERATE, names::FINALIZE, names::NOTIFY] {
        let (waiting, held) = queue::depth(&mut conn, name).await?;
        metrics::queue_jobs(name, waiting, held);
    }
    Ok(())
}
