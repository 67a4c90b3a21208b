//! Finalize: the batch is settled, its event written, its delivery queued and its job deleted, in one transaction.

use std::sync::Arc;

use serde_json::Value;

use super::Studio;
use crate::batches::{self, BatchView};
use crate::db::{ActError, Tx};
use crate::domain::{BatchId, TenantId};
use crate::engine::queue::{self, Job, RunAt, Ticket};
use crate::ledger::{self, Finalized, LedgerError};
use crate::metrics;
use crate::webhooks::{self, NewEvent};

/// A batch whose books are wrong is looked at again after this many seconds, in case an operator has mended them.
const OUT_OF_BALANCE_PAUSE_SECS: u64 = 60;

#[derive(Debug, thiserror::Error)]
enum FinalizeError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl ActError for FinalizeError {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            FinalizeError::Database(error) | FinalizeError::Ledger(LedgerError::Database(error)) => Some(error),
            FinalizeError::Ledger(_) => None,
        }
    }
}

/// Settles the batch that the job names. Running it twice, or twice at once, changes nothing.
pub async fn finalize(studio: Arc<Studio>, job: Job) {
    let Ok(batch) = BatchId::from_bare(&job.id().to_string()) else { return };
    let (ticket, worker) = (job.ticket(), job.worker().to_owned());
    let done = studio
        .db
        .act("finalize batch", move |tx| {
            let worker = worker.clone();
            Box::pin(async move { settle(tx, batch, ticket, &worker).await })
        })
        .await;
    match done {
        Ok(finalized) => {
            job.settled();
            if finalized.first_time {
                metrics::batch_finished(finalized.status, finalized.charged.get());
                tracing::info!(%batch, status = finalized.status.word(), charged = finalized.charged.get(),
                    refunded = finalized.refunded.get(), "batch settled");
            }
        }
        Err(error) => set_aside(&studio, job, batch, &error).await,
    }
}

async fn settle(tx: &mut Tx, batch: BatchId, ticket: Ticket, worker: &str) -> Result<Finalized, FinalizeError> {
    let finalized = ledger::finalize(tx, batch).await?;
    if finalized.first_time
        && let Some((tenant, view)) = batches::settled_batch(tx, batch).await?
    {
        tell(tx, tenant, &view).await?;
    }
    queue::ack(tx, worker, &[ticket]).await?;
    Ok(finalized)
}

async fn tell(tx: &mut Tx, tenant: TenantId, view: &BatchView) -> Result<(), sqlx::Error> {
    let payload: Value = webhooks::batch_payload(&webhooks::BatchSummary {
        batch: view.id,
        status: view.status,
        total: view.counts.total,
        succeeded: view.counts.succeeded,
        failed: view.counts.failed,
        frozen: view.frozen,
        charged: view.charged,
        refunded: view.refunded,
        metadata: view.metadata.clone(),
        created_at: view.created_at,
        finished_at: view.finished_at,
    });
    let url = view.webhook_url.as_deref();
    let Some(kind) = webhooks::EventKind::of(view.status) else { return Ok(()) };
    let event = NewEvent { tenant, batch: view.id, kind, payload, url };
    if let Some(delivery) = webhooks::record(tx, &event).await? {
        queue::push(tx, queue::names::NOTIFY, &[delivery.ulid()], RunAt::Now).await?;
    }
    Ok(())
}

/// The batch was not settled. Its job is deleted when it came too early (the end of the last video pushes it again), and
/// put off when the books do not add up: that needs a human.
async fn set_aside(studio: &Studio, job: Job, batch: BatchId, error: &FinalizeError) {
    let code = error.database_error().and_then(|e| e.as_database_error()?.code().map(|code| code.into_owned()));
    let put_off_secs = match code.as_deref() {
        Some("P0002") => {
            tracing::warn!(%batch, %error, "finalize came before the last video was settled; it will come again");
            None
        }
        Some("P0003" | "23514" | "23505") => {
            tracing::error!(%batch, %error, "the batch's books do not add up and nothing was settled: run `freezeframe reconcile`");
            Some(OUT_OF_BALANCE_PAUSE_SECS)
        }
        _ => {
            tracing::warn!(%batch, %error, "finalize failed; its job goes back to the queue");
            return;
        }
    };
    let (ticket, worker) = (job.ticket(), job.worker().to_owned());
    let moved: Result<(), sqlx::Error> = studio
        .db
        .act("set finalize aside", move |tx| {
            let worker = worker.clone();
            Box::pin(async move {
                if queue::ack(tx, &worker, &[ticket]).await? == 1
                    && let Some(secs) = put_off_secs
                {
                    queue::push(tx, queue::names::FINALIZE, &[ticket.id], RunAt::InSecs(secs)).await?;
                }
                Ok(())
            })
        })
        .await;
    match moved {
        Ok(()) => job.settled(),
        Err(error) => tracing::warn!(%batch, %error, "finalize was not put off; its job goes back to the queue"),
    }
}
