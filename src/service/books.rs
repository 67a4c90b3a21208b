//! The books as every process of the engine shows them, and the question that a worker asks before it starts.

use std::time::Duration;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use crate::billing::{self, KINDS};
use crate::config::Config;
use crate::db::Database;
use crate::metrics;

/// How old the shown result may be beyond the cluster's last one.
const LOOK_EVERY: Duration = Duration::from_secs(15);
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
pub(super) async fn admit_workers(db: &Database, config: &Config) -> Result<()> {
    while billing::book_missing_losses(db).await? > 0 {}
    Ok(billing::admit_workers(db, &process_name(), config.reconcile.start_despite_differences).await?)
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
