//! Events: that a batch ended, and what the receiver is told of it.
//!
//! Always holds: an event of a kind happens to a batch once; its payload is fixed when it is written.
//! Refuses: prompts, files, provider names and handles in a payload. It is thin: the receiver asks the API for more.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::domain::{BatchId, BatchStatus, Credits, DeliveryId, EventId, TenantId};

/// What can happen to a batch that somebody is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    BatchCompleted,
    BatchPartial,
    BatchFailed,
}

impl EventKind {
    /// The event of a batch that reached `status`; `None` while it still runs.
    pub const fn of(status: BatchStatus) -> Option<EventKind> {
        match status {
            BatchStatus::Completed => Some(EventKind::BatchCompleted),
            BatchStatus::Partial => Some(EventKind::BatchPartial),
            BatchStatus::Failed => Some(EventKind::BatchFailed),
            BatchStatus::Queued | BatchStatus::Processing => None,
        }
    }

    /// The word in the database and in the payload's `type`.
    pub const fn word(self) -> &'static str {
        match self {
            EventKind::BatchCompleted => "batch.completed",
            EventKind::BatchPartial => "batch.partial",
            EventKind::BatchFailed => "batch.failed",
        }
    }
}

/// A batch as its event shows it.
#[derive(Clone, Debug)]
pub struct BatchSummary {
    pub batch: BatchId,
    pub status: BatchStatus,
    pub total: u32,
    pub succeeded: u32,
    pub failed: u32,
    pub frozen: Credits,
    pub charged: Credits,
    pub refunded: Credits,
    /// The customer's own, returned as it came.
    pub metadata: Option<Value>,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// The body of a batch's webhook: `type`, `timestamp` (when the batch finished) and `data`, as Standard Webhooks suggests.
/// Times are RFC 3339 in UTC with milliseconds.
pub fn batch_payload(summary: &BatchSummary) -> Value {
    let rfc3339 = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let finished_at = summary.finished_at.map(rfc3339);
    json!({
        "type": EventKind::of(summary.status).map(EventKind::word),
        "timestamp": finished_at,
        "data": {
            "batch_id": summary.batch,
            "status": summary.status,
            "counts": { "total": summary.total, "succeeded": summary.succeeded, "failed": summary.failed },
            "credits": { "frozen": summary.frozen, "charged": summary.charged, "refunded": summary.refunded },
            "metadata": summary.metadata,
            "created_at": rfc3339(summary.created_at),
            "finished_at": finished_at,
        },
    })
}

/// An event to be written.
#[derive(Clone, Debug)]
pub struct NewEvent<'a> {
    pub tenant: TenantId,
    pub batch: BatchId,
    pub kind: EventKind,
    pub payload: Value,
    /// Whom to tell; without one the event is kept and nobody is told.
    pub url: Option<&'a str>,
}

/// Writes an event and its delivery, due now. Answers the delivery that was made, for which the caller pushes a job in
/// the same transaction; `None` when the event names no address, or was written before (then nothing changes).
///
/// # Errors
/// The database's.
pub async fn record(conn: &mut PgConnection, event: &NewEvent<'_>) -> Result<Option<DeliveryId>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"with written as (
               insert into events (id, tenant_id, batch_id, kind, payload) values ($1, $2, $3, $4, $5)
               on conflict (batch_id, kind) do nothing
               returning id, tenant_id
           )
           insert into deliveries (id, event_id, tenant_id, url)
           select $6, id, tenant_id, $7 from written where $7::text is not null
           returning id as "id: DeliveryId""#,
        EventId::generate() as EventId,
        event.tenant as TenantId,
        event.batch as BatchId,
        event.kind.word(),
        event.payload,
        DeliveryId::generate() as DeliveryId,
        event.url,
    )
    .fetch_optional(conn)
    .await
}
