//! How a batch is shown: each answer is one statement, so that its counts and its credits are of one moment and always add
//! up.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use crate::domain::{BatchId, BatchStatus, Credits, TenantId, WaitingReason};

/// Below and above every id of a batch, in any collation.
const FIRST_ID: &str = "";
const LAST_ID: &str = "zzzz";

/// A batch at one moment.
#[derive(Clone, Debug)]
pub struct BatchView {
    pub id: BatchId,
    pub status: BatchStatus,
    pub counts: BatchCounts,
    /// Why most of its waiting videos wait.
    pub waiting_for: Option<WaitingReason>,
    /// `frozen = charged + refunded + held`
    pub frozen: Credits,
    pub charged: Credits,
    pub refunded: Credits,
    pub held: Credits,
    pub request_id: String,
    pub webhook_url: Option<String>,
    pub metadata: Option<Value>,
    /// Its own pace, beside the tenant's.
    pub videos_per_minute: Option<u32>,
    /// Of its tenant's batches the one with the higher goes first.
    pub priority: u8,
    /// What its customer can expect, as the scheduler saw it last; none before it has looked, and at the end.
    pub outlook: Option<BatchOutlook>,
    /// What has not begun by then is not to begin any more.
    pub complete_by: Option<DateTime<Utc>>,
    /// Since when its customer lets nothing more of it begin for now.
    pub paused_at: Option<DateTime<Utc>>,
    /// Since when nothing more of it is to begin.
    pub cancelled_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    /// The batch whose failed videos it holds.
    pub retry_of: Option<BatchId>,
    /// The batches that hold failed videos of it, oldest first.
    pub retried_by: Vec<BatchId>,
}

/// What to expect of a batch that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOutlook {
    /// Waiting videos of the tenant that go before its first waiting one; none when nothing of it waits.
    pub videos_ahead: Option<u32>,
    /// About when its first waiting video begins; none when nothing of it waits, or nobody can tell.
    pub starts_at: Option<DateTime<Utc>>,
    /// About when its last video ends; none when nobody can tell.
    pub finishes_at: Option<DateTime<Utc>>,
}

/// `total = waiting + in_progress + succeeded + failed`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchCounts {
    pub total: u32,
    pub waiting: u32,
    pub in_progress: u32,
    pub succeeded: u32,
    pub failed: u32,
    /// Of the failed: those that had not begun when the batch was cancelled.
    pub cancelled: u32,
    /// Of the failed: those that had not begun when the batch was to be complete.
    pub expired: u32,
}

struct BatchRow {
    id: BatchId,
    status: BatchStatus,
    total: i32,
    waiting: i32,
    succeeded: i32,
    failed: i32,
    cancelled: i32,
    expired: i32,
    frozen: Credits,
    charged: Credits,
    refunded: Credits,
    held: Credits,
    waiting_for: Option<WaitingReason>,
    request_id: String,
    webhook_url: Option<String>,
    metadata: Option<Value>,
    videos_per_minute: Option<i32>,
    priority: i16,
    complete_by: Option<DateTime<Utc>>,
    paused_at: Option<DateTime<Utc>>,
    cancelled_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    retry_of: Option<BatchId>,
    retried_by: Option<Vec<BatchId>>,
    ahead: Option<i32>,
    starts_at: Option<DateTime<Utc>>,
    finishes_at: Option<DateTime<Utc>>,
}

impl From<BatchRow> for BatchView {
    fn from(row: BatchRow) -> BatchView {
        let [total, waiting, succeeded, failed] =
            [row.total, row.waiting, row.succeeded, row.failed].map(i32::unsigned_abs);
        BatchView {
            id: row.id,
            status: row.status,
            counts: BatchCounts {
                total,
                waiting,
                in_progress: total.saturating_sub(waiting + succeeded + failed),
                succeeded,
                failed,
                cancelled: row.cancelled.unsigned_abs(),
                expired: row.expired.unsigned_abs(),
            },
            waiting_for: waiting_for(row.waiting > 0 && row.cancelled_at.is_none(), row.waiting_for),
            frozen: row.frozen,
            charged: row.charged,
            refunded: row.refunded,
            held: row.held,
            request_id: row.request_id,
            webhook_url: row.webhook_url,
            metadata: row.metadata,
            videos_per_minute: row.videos_per_minute.map(i32::unsigned_abs),
            priority: row.priority.unsigned_abs().try_into().unwrap_or_default(),
            outlook: row.ahead.map(|ahead| BatchOutlook {
                videos_ahead: (waiting > 0).then_some(ahead.unsigned_abs()),
                starts_at: row.starts_at.filter(|_| waiting > 0),
                finishes_at: row.finishes_at,
            }),
            complete_by: row.complete_by,
            paused_at: row.paused_at,
            cancelled_at: row.cancelled_at,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
            retry_of: row.retry_of,
            retried_by: row.retried_by.unwrap_or_default(),
        }
    }
}

/// Before the leader has looked at a batch, its videos are queued.
pub(super) fn waiting_for(waits: bool, seen: Option<WaitingReason>) -> Option<WaitingReason> {
    waits.then(|| seen.unwrap_or(WaitingReason::Queued))
}

/// A batch of the tenant; `None` when the tenant has no such batch.
///
/// # Errors
/// The database's.
pub async fn batch(
    conn: &mut PgConnection,
    tenant: TenantId,
    batch: BatchId,
) -> Result<Option<BatchView>, sqlx::Error> {
    let row = sqlx::query_file_as!(
        BatchRow,
        "src/batches/batches.sql",
        tenant as TenantId,
        batch.bare(),
        batch.bare(),
        None::<BatchStatus> as Option<BatchStatus>,
        1,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(BatchView::from))
}

/// The tenant's batches, newest first, older than `before`, of `status` if one is asked for.
///
/// # Errors
/// The database's.
pub async fn batches(
    conn: &mut PgConnection,
    tenant: TenantId,
    before: Option<BatchId>,
    status: Option<BatchStatus>,
    limit: i64,
) -> Result<Vec<BatchView>, sqlx::Error> {
    let rows = sqlx::query_file_as!(
        BatchRow,
        "src/batches/batches.sql",
        tenant as TenantId,
        FIRST_ID,
        before.map_or_else(|| LAST_ID.to_owned(), BatchId::bare),
        status as Option<BatchStatus>,
        limit,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(BatchView::from).collect())
}

/// A batch, whoever's it is, and its tenant: for the engine's own steps.
///
/// # Errors
/// The database's.
pub async fn settled_batch(conn: &mut PgConnection, id: BatchId) -> Result<Option<(TenantId, BatchView)>, sqlx::Error> {
    let tenant =
        sqlx::query_scalar!(r#"select tenant_id as "tenant: TenantId" from batches where id = $1"#, id as BatchId)
            .fetch_optional(&mut *conn)
            .await?;
    let Some(tenant) = tenant else { return Ok(None) };
    Ok(batch(conn, tenant, id).await?.map(|view| (tenant, view)))
}
