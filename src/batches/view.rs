//! How a batch and its videos are shown: each answer is one statement, so that its counts and its credits are of one
//! moment and always add up.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use crate::domain::{BatchId, BatchStatus, Credits, FailureClass, TenantId, VideoId, VideoState, WaitingReason};
use crate::storage::{ImageKind, Retention, StoredImage};

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
fn waiting_for(waits: bool, seen: Option<WaitingReason>) -> Option<WaitingReason> {
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

/// A video at one moment.
#[derive(Clone, Debug)]
pub struct VideoView {
    pub id: VideoId,
    pub position: u32,
    pub custom_id: Option<String>,
    pub model: String,
    pub seconds: u32,
    pub size: String,
    pub metadata: Option<Value>,
    pub state: VideoState,
    /// Why it waits, while it does.
    pub waiting_for: Option<WaitingReason>,
    /// Attempts at providers so far, the present one included.
    pub attempts: u32,
    pub price: Credits,
    pub failure: Option<VideoFailure>,
    pub output: Option<VideoOutput>,
    /// When a video in back-off may be tried again.
    pub eligible_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    /// The failed video that it stands for.
    pub retry_of: Option<VideoId>,
    /// The video that stands for it since it failed.
    pub retried_by: Option<VideoId>,
}

/// Why a video failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoFailure {
    pub class: FailureClass,
    /// What was said of this very video, or the sentence that explains its class.
    pub message: String,
}

/// Where a video lies in our object store, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoOutput {
    pub key: String,
    pub bytes: u64,
    pub sha256: [u8; 32],
    /// The small picture of the video, if there is one: it lies beside the video and is kept as long.
    pub thumbnail: Option<StoredImage>,
    pub stored_at: DateTime<Utc>,
    /// The tenant's own retention, if it has one.
    pub retention_days: Option<u32>,
    /// The file is being deleted, or was.
    pub purging: bool,
    pub purged_at: Option<DateTime<Utc>>,
}

impl VideoOutput {
    pub fn kept_until(&self, retention: Retention) -> DateTime<Utc> {
        retention.kept_until(self.stored_at, self.retention_days)
    }

    /// Whether the file may still be fetched.
    pub fn is_kept(&self, retention: Retention, now: DateTime<Utc>) -> bool {
        !self.purging && now < self.kept_until(retention)
    }
}

/// The columns of an output.
struct OutputRow {
    key: Option<String>,
    bytes: Option<i64>,
    sha256: Option<Vec<u8>>,
    thumbnail_kind: Option<String>,
    thumbnail_bytes: Option<i32>,
    thumbnail_sha256: Option<Vec<u8>>,
    finished_at: Option<DateTime<Utc>>,
    retention_days: Option<i32>,
    purging_at: Option<DateTime<Utc>>,
    purged_at: Option<DateTime<Utc>>,
}

impl OutputRow {
    fn thumbnail(&self) -> Option<StoredImage> {
        Some(StoredImage {
            kind: ImageKind::from_extension(self.thumbnail_kind.as_deref()?)?,
            bytes: self.thumbnail_bytes?.unsigned_abs().into(),
            sha256: self.thumbnail_sha256.as_deref()?.try_into().ok()?,
        })
    }

    fn read(self) -> Option<VideoOutput> {
        let thumbnail = self.thumbnail();
        Some(VideoOutput {
            key: self.key?,
            bytes: self.bytes?.unsigned_abs(),
            sha256: self.sha256?.try_into().ok()?,
            thumbnail,
            stored_at: self.finished_at?,
            retention_days: self.retention_days.map(i32::unsigned_abs),
            purging: self.purging_at.is_some(),
            purged_at: self.purged_at,
        })
    }
}

/// The videos of a tenant's batch in the order of its items, after position `after`.
///
/// # Errors
/// The database's.
pub async fn videos(
    conn: &mut PgConnection,
    (tenant, batch): (TenantId, BatchId),
    after: Option<u32>,
    state: Option<VideoState>,
    limit: i64,
) -> Result<Vec<VideoView>, sqlx::Error> {
    let after = after.map_or(-1, |after| i32::try_from(after).unwrap_or(i32::MAX));
    let rows = sqlx::query!(
        r#"select id as "id: VideoId", position, custom_id, model, seconds, size, metadata, state as "state: VideoState",
               attempts_made, price_credits as "price: Credits", failure_class::text as failure_class, failure_message,
               output_key, output_bytes, output_sha256, thumbnail_kind, thumbnail_bytes, thumbnail_sha256,
               eligible_at, created_at, finished_at, purging_at, purged_at,
               (select retention_days from tenants where id = $1) as retention_days,
               case when state <> 'waiting' then null when eligible_at > now() then 'back_off'
                   else (select l.waiting_for from batch_lanes l where l.batch_id = $2 and l.model = videos.model)
               end as "waiting_for?: WaitingReason",
               retry_of as "retry_of: VideoId",
               case when state = 'failed' then (select r.id from videos r where r.retry_of = videos.id) end
                   as "retried_by?: VideoId"
           from videos
           where batch_id = $2 and tenant_id = $1 and position > $3 and ($4::video_state is null or state = $4)
           order by position limit $5"#,
        tenant as TenantId,
        batch as BatchId,
        after,
        state as Option<VideoState>,
        limit,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| VideoView {
            id: row.id,
            position: row.position.unsigned_abs(),
            custom_id: row.custom_id,
            model: row.model,
            seconds: row.seconds.unsigned_abs(),
            size: row.size,
            metadata: row.metadata,
            state: row.state,
            waiting_for: waiting_for(row.state == VideoState::Waiting, row.waiting_for),
            attempts: row.attempts_made.unsigned_abs(),
            price: row.price,
            failure: failure(row.failure_class.as_deref(), row.failure_message),
            output: OutputRow {
                key: row.output_key,
                bytes: row.output_bytes,
                sha256: row.output_sha256,
                thumbnail_kind: row.thumbnail_kind,
                thumbnail_bytes: row.thumbnail_bytes,
                thumbnail_sha256: row.thumbnail_sha256,
                finished_at: row.finished_at,
                retention_days: row.retention_days,
                purging_at: row.purging_at,
                purged_at: row.purged_at,
            }
            .read(),
            eligible_at: row.eligible_at,
            created_at: row.created_at,
            finished_at: row.finished_at,
            retry_of: row.retry_of,
            retried_by: row.retried_by,
        })
        .collect())
}

fn failure(class: Option<&str>, message: Option<String>) -> Option<VideoFailure> {
    let class = FailureClass::ALL.into_iter().find(|known| Some(known.name()) == class)?;
    Some(VideoFailure { class, message: message.unwrap_or_default() })
}

/// The stored file of a video, whoever's it is: for a signed link, which is its own permission.
///
/// # Errors
/// The database's.
pub async fn output_of(conn: &mut PgConnection, video: VideoId) -> Result<Option<VideoOutput>, sqlx::Error> {
    let row = sqlx::query_as!(
        OutputRow,
        "select output_key as key, output_bytes as bytes, output_sha256 as sha256, thumbnail_kind, thumbnail_bytes,
             thumbnail_sha256, finished_at, retention_days, purging_at, purged_at
         from stored_file($1)",
        video as VideoId,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.and_then(OutputRow::read))
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
