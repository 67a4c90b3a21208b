//! Chaining the ledger: one pass after another, and a checkpoint in the object store now and then.
//!
//! Always holds: every worker process does it, and a lock in the database lets one at a time; no network call inside the
//! transaction; a checkpoint is of what is committed. A checkpoint is due with every [`ENTRIES_PER_CHECKPOINT`] rows (for
//! the process whose pass crosses that line), every hour in which the process chained something, and at its end.
//! Refuses: to fail its process. What did not work is told and comes again.

use std::time::{Duration, Instant};

use super::Studio;
use crate::billing;
use crate::db;
use crate::ledger::LedgerError;
use crate::ledger::chain::{self, Backlog, Extended, Head, Progress};
use crate::metrics;

/// Entries of one transaction.
const MOST: i64 = 2_000;
const ENTRIES_PER_CHECKPOINT: i64 = 10_000;
const CHECKPOINT_EVERY: Duration = Duration::from_secs(3600);
/// Before a checkpoint that the store refused is tried again.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(60);
/// How often the backlog is measured while there is one.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// What one process knows of the chain. Losing it costs nothing.
#[derive(Debug)]
pub struct Chainer {
    progress: Progress,
    /// The last row that this process wrote, and the last of which it kept a checkpoint.
    head: Option<Head>,
    kept_seq: i64,
    /// When the next checkpoint is due in any case.
    due: Instant,
    measured: Option<Instant>,
}

impl Default for Chainer {
    fn default() -> Chainer {
        let due = Instant::now() + CHECKPOINT_EVERY;
        Chainer { progress: Progress::default(), head: None, kept_seq: 0, due, measured: None }
    }
}

impl Chainer {
    /// Chains whatever there is, and keeps a checkpoint if one is due.
    ///
    /// # Errors
    /// The database's. What was committed by then stays.
    pub async fn run(&mut self, studio: &Studio) -> Result<(), LedgerError> {
        let chained = self.chain_all(studio).await;
        // also when chaining fails: that is when it matters
        self.measure(studio).await?;
        if chained? || self.due <= Instant::now() {
            self.keep_checkpoint(studio).await;
        }
        Ok(())
    }

    /// Answers whether enough was chained for a checkpoint.
    async fn chain_all(&mut self, studio: &Studio) -> Result<bool, LedgerError> {
        let (mut enough, mut idle) = (false, self.is_idle(studio).await?);
        while !idle {
            let Some(pass) = self.pass(studio).await? else { break };
            idle = !pass.more;
            if let Some(head) = pass.head {
                let before = head.seq.saturating_sub_unsigned(pass.appended);
                enough |= head.seq / ENTRIES_PER_CHECKPOINT > before / ENTRIES_PER_CHECKPOINT;
            }
        }
        Ok(enough)
    }

    /// What is left, and a checkpoint of it.
    ///
    /// # Errors
    /// As [`Chainer::run`].
    pub async fn finish(&mut self, studio: &Studio) -> Result<(), LedgerError> {
        self.run(studio).await?;
        self.keep_checkpoint(studio).await;
        Ok(())
    }

    async fn is_idle(&self, studio: &Studio) -> Result<bool, LedgerError> {
        let mut conn = studio.db.pool().acquire().await?;
        self.progress.is_idle(&mut conn).await
    }

    async fn pass(&mut self, studio: &Studio) -> Result<Option<Extended>, LedgerError> {
        let mut tx = studio.db.begin().await?;
        let Some(pass) = chain::extend(&mut tx, &self.progress, MOST).await? else {
            tx.rollback().await?;
            return Ok(None);
        };
        db::commit("chain the ledger", tx).await?;
        self.progress = pass.progress.clone();
        if pass.appended > 0 {
            if pass.head.is_some_and(|head| head.seq <= self.kept_seq) {
                // put back: rows of these numbers were pinned before
                self.kept_seq = 0;
            }
            self.head = pass.head;
            metrics::ledger_chained(pass.appended);
        }
        Ok(Some(pass))
    }

    async fn is_there(&self, studio: &Studio, head: Head) -> Result<bool, LedgerError> {
        let mut conn = studio.db.pool().acquire().await?;
        Ok(chain::row(&mut conn, head.seq).await? == Some(head))
    }

    /// Everybody measures, not only who chains: a chainer that hangs must be seen.
    async fn measure(&mut self, studio: &Studio) -> Result<(), LedgerError> {
        if self.measured.is_some_and(|at| at.elapsed() < MEASURE_EVERY) {
            return Ok(());
        }
        let mut conn = studio.db.pool().acquire().await?;
        let Backlog { entries, oldest_secs } = self.progress.backlog(&mut conn).await?;
        metrics::ledger_unchained(entries, oldest_secs);
        self.measured = Some(Instant::now());
        Ok(())
    }

    async fn keep_checkpoint(&mut self, studio: &Studio) {
        self.due = Instant::now() + CHECKPOINT_EVERY;
        let Some(head) = self.head.filter(|head| head.seq > self.kept_seq) else { return };
        match self.is_there(studio, head).await {
            Ok(true) => {}
            Ok(false) => {
                // put back: what is chained from now on has numbers that were kept before
                (self.head, self.kept_seq) = (None, 0);
                return;
            }
            Err(error) => {
                self.due = Instant::now() + CHECKPOINT_PAUSE;
                return tracing::warn!(%error, "no checkpoint of the ledger could be kept; it is tried again");
            }
        }
        match billing::keep(&studio.storage, &studio.checkpoint_key, head).await {
            Ok(checkpoint) => {
                self.kept_seq = head.seq;
                metrics::ledger_checkpoint("kept");
                tracing::info!(seq = checkpoint.seq(), hash = %checkpoint.hash(), "kept a checkpoint of the ledger");
            }
            Err(error) => {
                self.due = Instant::now() + CHECKPOINT_PAUSE;
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                metrics::ledger_checkpoint("failed");
                tracing::warn!(%error, cause, "no checkpoint of the ledger could be kept; it is tried again");
            }
        }
    }
}
