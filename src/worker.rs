//! The worker process: which queue is worked on by which step, and what is done regularly: sweep, purge, audit, chaining
//! the ledger, and hearing of providers' callbacks.
//!
//! Refuses: SQL, decisions. It only connects the queue with the steps.

mod chain;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::callbacks;
use crate::engine::queue;
use crate::engine::queue::{SlotSettings, Workers, WorkersStopped, names};
use crate::metrics;
use crate::steps::{self, Studio};

/// How often the books are compared. Each time reads every entry, so not too often.
const RECONCILE_EVERY: Duration = Duration::from_secs(300);
/// Files whose time is over are looked for once in so many sweeps.
const SWEEPS_PER_PURGE: u32 = 4;

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
}

impl WorkerSettings {
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
    let sweeper = tokio::spawn(sweep_regularly(studio.clone(), settings.sweep_every, stop.clone()));
    let purger = tokio::spawn(purge_regularly(studio.clone(), settings.sweep_every * SWEEPS_PER_PURGE, stop.clone()));
    let auditor = tokio::spawn(reconcile_regularly(studio.clone(), stop.clone()));
    // ends after everything else: the last jobs book too
    let worked_out = CancellationToken::new();
    let chainer = tokio::spawn(chain::chain_regularly(studio.clone(), worked_out.clone()));
    let listener = tokio::spawn(callbacks::listen(studio.db.clone(), studio.ears.clone(), stop.clone()));
    let (generate, finalize, notify) = (studio.clone(), studio.clone(), studio.clone());
    let worked = Workers::new(studio.db.clone(), stop)
        .add(settings.slots(names::GENERATE, settings.video_slots), move |job| steps::generate(generate.clone(), job))
        .add(settings.slots(names::FINALIZE, settings.finalize_slots), move |job| {
            steps::finalize(finalize.clone(), job)
        })
        .add(settings.slots(names::NOTIFY, settings.webhook_slots), move |job| steps::notify(notify.clone(), job))
        .run()
        .await;
    sweeper.abort();
    listener.abort();
    purger.abort();
    auditor.abort();
    worked_out.cancel();
    if let Err(error) = chainer.await {
        tracing::error!(%error, "the chainer of the ledger panicked");
    }
    worked
}

async fn sweep_regularly(studio: Arc<Studio>, every: Duration, stop: CancellationToken) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(error) = steps::sweep(&studio.db).await {
            tracing::warn!(%error, "the sweep failed; it comes again");
        }
        if let Err(error) = measure_queues(&studio).await {
            tracing::debug!(%error, "the queues could not be measured");
        }
    }
}

async fn purge_regularly(studio: Arc<Studio>, every: Duration, stop: CancellationToken) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        purge_images(&studio, &stop).await;
        loop {
            match steps::purge(&studio.db, &studio.storage).await {
                Ok(purged) if purged.more && !stop.is_cancelled() => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "the purge failed; it comes again");
                    break;
                }
            }
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

/// Keeps the gauges of the books true; whatever differs is named in the log.
async fn reconcile_regularly(studio: Arc<Studio>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(RECONCILE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        match steps::audit(&studio.db).await {
            Ok(None) => {}
            Ok(Some(found)) if found.is_clean() => {}
            Ok(Some(found)) => {
                tracing::error!(differences = ?found.differences, "the books disagree: run `freezeframe reconcile`")
            }
            Err(error) => tracing::warn!(%error, "the books could not be compared; it is tried again"),
        }
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
