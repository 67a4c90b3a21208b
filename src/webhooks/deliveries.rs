//! Deliveries: how far the telling of each event is, with a log of every attempt.
//!
//! Always holds: attempt n is logged once, by whoever moves the delivery from n - 1 to n attempts; a delivery that ended
//! is never moved again; a due time exists exactly while the delivery is pending. All times but an attempt's start are
//! the database's.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use freezeframe_workflows::webhook::{DeliveryEnd, DeliveryNext};
use serde_json::Value;
use sqlx::PgConnection;

use crate::domain::{BatchId, DeliveryId, DeliveryState, EventId, TenantId};

/// A due delivery without a job for so long has lost it.
const OVERDUE_SECS: f64 = 10.0;

/// A delivery that is due, with all it takes to make it. Not `Debug`: an address may carry a receiver's token.
pub struct Due {
    pub delivery: DeliveryId,
    /// The same in every attempt: the receiver's key against repetitions.
    pub event: EventId,
    pub tenant: TenantId,
    pub url: String,
    pub payload: Value,
    /// Attempts before this one.
    pub deliveries_made: u32,
    /// The tenant's, to be opened with [`WebhookSecret::open`](crate::tenants::WebhookSecret::open).
    pub sealed_secret: Vec<u8>,
}

/// One attempt that was made.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub delivery: DeliveryId,
    /// Counts from 1.
    pub n: u32,
    /// By the sender's clock; also the time in the signature.
    pub started_at: DateTime<Utc>,
    pub duration: Duration,
    pub end: DeliveryEnd,
    /// Why it did not count as delivered, in words for the customer.
    pub error: Option<String>,
    /// The beginning of the answer's body, fit to be shown as text: at most 1 KiB, no control characters.
    pub response_excerpt: Option<String>,
    /// What the receiver asked for.
    pub retry_after_secs: Option<u64>,
}

impl Attempt {
    /// The HTTP status, if there was an answer.
    pub const fn status(&self) -> Option<u16> {
        match self.end {
            DeliveryEnd::Status(status) => Some(status),
            DeliveryEnd::TimedOut | DeliveryEnd::Unreachable | DeliveryEnd::Refused => None,
        }
    }
}

/// A delivery to be made now; `None` when it ended, is not due yet, or does not exist.
///
/// # Errors
/// The database's.
pub async fn due(conn: &mut PgConnection, delivery: DeliveryId) -> Result<Option<Due>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select d.event_id as "event: EventId", d.tenant_id as "tenant: TenantId", d.url, d.attempts_made,
               e.payload, t.webhook_secret_sealed
           from deliveries d
           join events e on e.id = d.event_id
           join tenants t on t.id = d.tenant_id
           where d.id = $1 and d.next_attempt_at <= now()"#,
        delivery as DeliveryId,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Due {
        delivery,
        event: row.event,
        tenant: row.tenant,
        url: row.url,
        payload: row.payload,
        deliveries_made: row.attempts_made.unsigned_abs(),
        sealed_secret: row.webhook_secret_sealed,
    }))
}

/// Logs an attempt and moves its delivery to `next`. Answers after how many seconds the delivery's job is to run again,
/// for the caller to push in the same transaction: counted as the queue counts, and never before the delivery is due.
///
/// `None`: there is nothing to push. The delivery ended, or another worker has logged this attempt; then nothing changes.
///
/// # Errors
/// The database's.
pub async fn record_attempt(
    conn: &mut PgConnection,
    attempt: &Attempt,
    next: DeliveryNext,
) -> Result<Option<u64>, sqlx::Error> {
    let (state, delay_ms) = match next {
        DeliveryNext::Delivered => (DeliveryState::Delivered, None),
        DeliveryNext::BackOff { delay_ms } => (DeliveryState::Pending, Some(delay_ms)),
        // an address belongs to one batch: giving up its delivery is all there is to disable
        DeliveryNext::GiveUp | DeliveryNext::Disable => (DeliveryState::GivenUp, None),
    };
    let logged = sqlx::query!(
        r#"with moved as (
               update deliveries set
                   attempts_made = $2, state = $3,
                   next_attempt_at = now() + $4 * interval '1 ms',
                   finished_at = case when $4::float8 is null then now() end
               where id = $1 and attempts_made = $2 - 1 and state = 'pending'
               returning id, attempts_made, next_attempt_at
           )
           insert into delivery_attempts (delivery_id, n, started_at, duration_ms, status_code, error, response_excerpt,
               next_attempt_at)
           select id, attempts_made, $5, $6, $7, $8, $9, next_attempt_at from moved"#,
        attempt.delivery as DeliveryId,
        i32::try_from(attempt.n).unwrap_or(i32::MAX),
        state as DeliveryState,
        delay_ms.map(|ms| ms as f64),
        attempt.started_at,
        i32::try_from(attempt.duration.as_millis()).unwrap_or(i32::MAX),
        attempt.status().map(i32::from),
        attempt.error,
        attempt.response_excerpt,
    )
    .execute(conn)
    .await?
    .rows_affected();
    if logged == 0 {
        tracing::debug!(delivery = %attempt.delivery, n = attempt.n, "this attempt was logged by another worker");
        return Ok(None);
    }
    Ok(delay_ms.map(queue_secs))
}

/// The queue adds whole seconds to a clock cut down to whole seconds: one more, or the job would come up to a second
/// before its delivery is due, find nothing to do, and be gone.
fn queue_secs(delay_ms: u64) -> u64 {
    delay_ms.div_ceil(1000) + 1
}

/// Deliveries that have been due for 10 seconds, the longest first; a job that is running or waiting may exist.
///
/// # Errors
/// The database's.
pub async fn pending_due(conn: &mut PgConnection, limit: i64) -> Result<Vec<DeliveryId>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select id as "id: DeliveryId" from deliveries
           where next_attempt_at <= now() - $1 * interval '1 s'
           order by next_attempt_at limit $2"#,
        OVERDUE_SECS,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// A delivery as its owner sees it.
#[derive(Clone, Debug)]
pub struct DeliveryView {
    pub delivery: DeliveryId,
    pub event: EventId,
    /// Such as `batch.partial`.
    pub kind: String,
    pub url: String,
    pub state: DeliveryState,
    pub created_at: DateTime<Utc>,
    /// When it will be sent next; only while it is pending.
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    /// In order.
    pub attempts: Vec<LoggedAttempt>,
}

/// A line of a delivery's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedAttempt {
    pub n: i32,
    pub started_at: DateTime<Utc>,
    pub duration_ms: i32,
    pub status_code: Option<i32>,
    pub error: Option<String>,
    pub response_excerpt: Option<String>,
    /// When the next attempt was to follow; `None` for the last one.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// The deliveries of a tenant's batch with their logs, in the order in which they were made.
///
/// # Errors
/// The database's.
pub async fn list_for_batch(
    conn: &mut PgConnection,
    tenant: TenantId,
    batch: BatchId,
) -> Result<Vec<DeliveryView>, sqlx::Error> {
    let deliveries = sqlx::query!(
        r#"select d.id as "delivery: DeliveryId", d.event_id as "event: EventId", e.kind, d.url,
               d.state as "state: DeliveryState", d.created_at, d.next_attempt_at, d.finished_at
           from events e join deliveries d on d.event_id = e.id
           where e.tenant_id = $1 and e.batch_id = $2 order by d.id"#,
        tenant as TenantId,
        batch as BatchId,
    )
    .fetch_all(&mut *conn)
    .await?;
    let ids: Vec<String> = deliveries.iter().map(|row| row.delivery.bare()).collect();
    let mut logs = logs(conn, &ids).await?;
    Ok(deliveries
        .into_iter()
        .map(|row| DeliveryView {
            delivery: row.delivery,
            event: row.event,
            kind: row.kind,
            url: row.url,
            state: row.state,
            created_at: row.created_at,
            next_attempt_at: row.next_attempt_at,
            finished_at: row.finished_at,
            attempts: logs.remove(&row.delivery).unwrap_or_default(),
        })
        .collect())
}

async fn logs(
    conn: &mut PgConnection,
    deliveries: &[String],
) -> Result<HashMap<DeliveryId, Vec<LoggedAttempt>>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select delivery_id as "delivery: DeliveryId", n, started_at, duration_ms, status_code, error,
               response_excerpt, next_attempt_at
           from delivery_attempts where delivery_id = any($1) order by delivery_id, n"#,
        deliveries,
    )
    .fetch_all(conn)
    .await?;
    let mut logs: HashMap<DeliveryId, Vec<LoggedAttempt>> = HashMap::new();
    for row in rows {
        logs.entry(row.delivery).or_default().push(LoggedAttempt {
            n: row.n,
            started_at: row.started_at,
            duration_ms: row.duration_ms,
            status_code: row.status_code,
            error: row.error,
            response_excerpt: row.response_excerpt,
            next_attempt_at: row.next_attempt_at,
        });
    }
    Ok(logs)
}

#[cfg(test)]
mod tests {
    use super::queue_secs;

    #[test]
    fn a_job_never_comes_before_its_delivery_is_due() {
        for delay_ms in [0, 1, 999, 1000, 1001, 5300, 86_400_000] {
            // the queue's clock is up to 999 ms behind
            for cut_off_ms in [0, 1, 500, 999] {
                assert!(queue_secs(delay_ms) * 1000 >= delay_ms + cut_off_ms, "{delay_ms} ms, {cut_off_ms} ms");
            }
        }
    }
}
