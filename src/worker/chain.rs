//! The chainer's loop: once a second while the process works, and once more when its last job has ended, so that what was
//! booked while stopping is chained and pinned too.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::ledger::LedgerError;
use crate::steps::{Chainer, Studio};

const EVERY: Duration = Duration::from_secs(1);
/// How long the last pass may take; the next process goes on from wherever it ended.
const FINISH_WITHIN: Duration = Duration::from_secs(4);

/// Chains until `stop`, and then the rest.
pub(super) async fn chain_regularly(studio: Arc<Studio>, stop: CancellationToken) {
    let mut chainer = Chainer::default();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        // between two commits nothing is lost: a long backlog does not hold up a stop
        tokio::select! {
            () = stop.cancelled() => break,
            chained = chainer.run(&studio) => tell(chained),
        }
    }
    match tokio::time::timeout(FINISH_WITHIN, chainer.finish(&studio)).await {
        Ok(finished) => tell(finished),
        Err(_) => tracing::warn!("the end of the ledger's chain took too long; the next worker goes on"),
    }
}

fn tell(chained: Result<(), LedgerError>) {
    if let Err(error) = chained {
        tracing::warn!(%error, "the ledger could not be chained; it is tried again");
    }
}
