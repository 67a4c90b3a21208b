//! The books as every process of the engine shows them, and the question that a worker asks before it starts.

use std::time::Duration;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use crate::billing::{self, KINDS, NotAdmitted};
use crate::db::Database;
use crate::ledger::chain::CheckpointKey;
use crate::metrics;
use crate::storage::Storage;

/// How old the shown result may be beyond the cluster's last one.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How long checkpoints are looked for before a worker starts without knowing.
const LOOK_BACK_WITHIN: Duration = Duration::from_secs(10);
/// Between two questions whether a worker may start on books that were in doubt, and after one that got no answer.
const ASK_AGAIN: Duration = Duration::from_secs(30);
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Kinds that only a newer process knows.
const OTHER: &str = "other";

/// The name of this process in what it stores: host and process id.
pub(super) fn process_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "unknown".to_owned());
    format!("{}-{}", host.trim(), std::process::id())
}

/// Returns when workers may start on this database.
///
/// # Errors
/// Why they may not, or the database's.
pub(super) async fn admit_workers(
    db: &Database,
    (storage, key): (&Storage, &CheckpointKey),
    despite: bool,
) -> Result<()> {
    while billing::book_missing_losses(db).await? > 0 {}
    let looked = tokio::time::timeout(LOOK_BACK_WITHIN, billing::set_back(db, storage, key)).await;
    let looked = looked.map_err(anyhow::Error::from).and_then(|looked| Ok(looked?));
    let set_back = looked.unwrap_or_else(|error| {
        tracing::warn!(
            error = format!("{error:#}"),
            "the ledger's checkpoints in the object store could not be read (the service needs to list there): whether the \
             database was put back is not known"
        );
        None
    });
    if let Some(seen) = &set_back {
        tracing::error!(
            row = seen.seq(),
            at = seen.at(),
            "the ledger is shorter than a checkpoint saw it: the database was put back. The books are compared before any \
             worker starts; look at what providers made since (`freezeframe reconcile --providers`), and if it was put back \
             on purpose, say so with `freezeframe ledger restored --reason ...`"
        );
    }
    Ok(billing::admit_workers(db, &process_name(), (set_back.map(|seen| seen.age()), despite)).await?)
}

/// Asks again and again, where the process has other work to do meanwhile. Returns whether workers may start; `false` at
/// `stop`.
pub(super) async fn await_admission(
    db: &Database,
    evidence: (&Storage, &CheckpointKey),
    despite: bool,
    stop: &CancellationToken,
) -> bool {
    loop {
        // whatever a comparison holds ends with its connection
        let Some(admitted) = stop.run_until_cancelled(admit_workers(db, evidence, despite)).await else { return false };
        let Err(error) = admitted else { return true };
        let in_doubt = matches!(error.downcast_ref::<NotAdmitted>(), Some(NotAdmitted::MoneyInDoubt { .. }));
        let again_after = if in_doubt { ASK_AGAIN } else { TRY_AGAIN };
        tracing::error!(
            error = format!("{error:#}"),
            ?again_after,
            "no worker starts in this process; requests are served, and batches wait"
        );
        if stop.run_until_cancelled(tokio::time::sleep(again_after)).await.is_none() {
            return false;
        }
    }
}

/// Keeps the gauges of the books at the cluster's last comparison until `stop`.
pub(super) async fn show(db: Database, stop: CancellationToken) -> Result<()> {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        match billing::last_run(&db).await {
            Ok(Some(last)) => {
                let known = KINDS.iter().map(|(kind, _)| (*kind, last.kinds.get(*kind).copied().unwrap_or(0)));
                let all: u64 = last.kinds.values().sum();
                let other = all - known.clone().map(|(_, count)| count).sum::<u64>();
                metrics::books(last.sum, last.at.timestamp(), known.chain([(OTHER, other)]));
            }
            // an alarm on the age of the last comparison tells of a cluster that makes none
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the last comparison of the books could not be read"),
        }
    }
}
