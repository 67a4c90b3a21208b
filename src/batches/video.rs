//! How the videos of a batch are shown, and where their files lie.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::view::waiting_for;
use crate::domain::{BatchId, Credits, FailureClass, TenantId, VideoId, VideoState, WaitingReason};
use crate::storage::{ImageKind, Retention, StoredImage};

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
