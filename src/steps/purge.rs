//! The purge: deletes the files whose time is over, and what failed attempts left in the store.
//!
//! Always holds: a file is deleted in three steps (its row is marked, the object is deleted, the row says so), so that a
//! crash between two of them is made good by the next purge and a link never opens half a file. The video stays as it is,
//! made and charged. An object of an attempt that became no success is deleted by its key, which follows from the ids,
//! whether it was ever written or not. One purge at a time in the cluster, a bounded number of files each.
//! Refuses: to decide how long a file is kept (`storage::Retention`); to delete what a success refers to.

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt as _};
use sqlx::{Connection as _, PgConnection};

use crate::db::{self, Database};
use crate::domain::{AttemptId, BatchId, TenantId, VideoId};
use crate::metrics;
use crate::storage::{ObjectKey, ReadError, Storage};

/// Files of one purge. A full one is followed by the next at once.
const MOST: i64 = 500;
/// Deletions under way at a time.
const AT_ONCE: usize = 16;
/// Ids in one line of the log.
const IDS_PER_LINE: usize = 50;
/// An attempt's leftovers are deleted so long after its end: a worker that was replaced and does not know it yet may still
/// be uploading.
const GRACE_SECS: f64 = 7200.0;

/// What a purge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Files whose time was over.
    pub videos: u64,
    /// Failed attempts of which nothing is left in the store.
    pub attempts: u64,
    /// What the store did not delete; it is tried again.
    pub failed: u64,
    /// There is more to do.
    pub more: bool,
}

/// Purges once, unless another process is at it: nothing then.
///
/// # Errors
/// The database's. What was deleted by then is deleted; the next purge goes on.
pub async fn purge(db: &Database, storage: &Storage) -> Result<Purged, sqlx::Error> {
    let Some(lock) = lock(db).await? else { return Ok(Purged::default()) };
    let purged = purge_alone(db, storage).await;
    lock.close().await?;
    purged
}

/// The right to purge, which nobody else in the cluster has until this connection is closed; `None` when somebody has it.
pub(super) async fn lock(db: &Database) -> Result<Option<PgConnection>, sqlx::Error> {
    let mut lock = db.engine_connection().await?;
    let mine =
        sqlx::query_scalar!(r#"select pg_try_advisory_lock(hashtextextended('freezeframe purge', 7)) as "mine!""#)
            .fetch_one(&mut lock)
            .await?;
    if mine {
        return Ok(Some(lock));
    }
    lock.close().await?;
    Ok(None)
}

async fn purge_alone(db: &Database, storage: &Storage) -> Result<Purged, sqlx::Error> {
    let expired = purge_expired(db, storage).await?;
    let leftovers = clear_leftovers(db, storage).await?;
    Ok(Purged {
        videos: expired.videos,
        attempts: leftovers.attempts,
        failed: expired.failed + leftovers.failed,
        // what was refused would be refused again at once
        more: (expired.more || leftovers.more) && expired.failed + leftovers.failed == 0,
    })
}

/// A file that is being deleted.
struct Expired {
    video: VideoId,
    batch: BatchId,
    tenant: TenantId,
    key: String,
}

async fn purge_expired(db: &Database, storage: &Storage) -> Result<Purged, sqlx::Error> {
    let default_days = storage.retention().default_days().cast_signed();
    let mut tx = db.begin().await?;
    let due =
        sqlx::query_file_as!(Expired, "src/steps/due_for_purge.sql", default_days, MOST).fetch_all(&mut *tx).await?;
    db::commit("mark files to purge", tx).await?;
    let more = i64::try_from(due.len()).is_ok_and(|count| count == MOST);
    let (deleted, failed) = delete_each(storage, due, |expired| ObjectKey::from_stored(&expired.key)).await;
    let ids: Vec<String> = deleted.iter().map(|expired| expired.video.bare()).collect();
    let mut tx = db.begin().await?;
    sqlx::query!("update videos set purged_at = now() where id = any($1) and purged_at is null", &ids)
        .execute(&mut *tx)
        .await?;
    close_batches(&mut tx, default_days).await?;
    db::commit("files purged", tx).await?;
    tell(&deleted);
    metrics::files_deleted("expired", deleted.len() as u64);
    Ok(Purged { videos: deleted.len() as u64, failed, more, ..Purged::default() })
}

/// Batches of which no file is left are not looked at again.
async fn close_batches(tx: &mut db::Tx, default_days: i32) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update batches b set purged_at = now()
         from tenants t
             cross join lateral (
                 select id from batches
                 where tenant_id = t.id and purged_at is null
                     and created_at <= now() - coalesce(t.retention_days, $1) * interval '24 hours'
                 order by created_at limit 200) old
         where b.id = old.id and b.finished_at is not null
             and not exists (select from videos v
                             where v.batch_id = b.id and v.state = 'succeeded' and v.purged_at is null)",
        default_days,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// An attempt that a provider took and that became no success.
struct Failed {
    video: VideoId,
    n: i32,
    attempt: AttemptId,
    batch: BatchId,
    tenant: TenantId,
}

async fn clear_leftovers(db: &Database, storage: &Storage) -> Result<Purged, sqlx::Error> {
    let failed = sqlx::query_as!(
        Failed,
        r#"select a.video_id as "video: VideoId", a.n, a.id as "attempt: AttemptId", v.batch_id as "batch: BatchId",
               v.tenant_id as "tenant: TenantId"
           from attempts a join videos v on v.id = a.video_id
           where a.state = 'failed' and a.handle is not null and a.cleared_at is null
               and a.finished_at <= now() - $1 * interval '1 second'
           order by a.finished_at limit $2"#,
        GRACE_SECS,
        MOST,
    )
    .fetch_all(db.pool())
    .await?;
    let more = i64::try_from(failed.len()).is_ok_and(|count| count == MOST);
    let key = |each: &Failed| Some(ObjectKey::video(each.tenant, each.batch, each.video, each.attempt));
    let (cleared, failed) = delete_each(storage, failed, key).await;
    let videos: Vec<String> = cleared.iter().map(|each| each.video.bare()).collect();
    let numbers: Vec<i32> = cleared.iter().map(|each| each.n).collect();
    let mut tx = db.begin().await?;
    sqlx::query!(
        "update attempts a set cleared_at = now() from unnest($1::text[], $2::int[]) as i (video_id, n)
         where a.video_id = i.video_id and a.n = i.n and a.cleared_at is null",
        &videos,
        &numbers,
    )
    .execute(&mut *tx)
    .await?;
    db::commit("leftovers cleared", tx).await?;
    metrics::files_deleted("leftover", cleared.len() as u64);
    Ok(Purged { attempts: cleared.len() as u64, failed, more, ..Purged::default() })
}

/// Deletes what each of `things` has in the store, its picture included. Answers those of which nothing is left, and how
/// many the store refused.
async fn delete_each<T: Send>(
    storage: &Storage,
    things: Vec<T>,
    key: impl Fn(&T) -> Option<ObjectKey>,
) -> (Vec<T>, u64) {
    let keyed: Vec<(T, Option<ObjectKey>)> = things
        .into_iter()
        .map(|thing| {
            let key = key(&thing);
            (thing, key)
        })
        .collect();
    let deletions = stream::iter(keyed).map(async |(thing, key)| match key {
        Some(key) => (thing, delete_with_thumbnail(storage, &key).await),
        // what is no key of ours names nothing that could be deleted
        None => (thing, Ok(())),
    });
    let (mut gone, mut failed, mut first) = (Vec::new(), 0, None);
    let mut deletions = std::pin::pin!(deletions.buffer_unordered(AT_ONCE));
    while let Some((thing, deleted)) = deletions.next().await {
        match deleted {
            Ok(()) => gone.push(thing),
            Err(error) => {
                failed += 1;
                first.get_or_insert(error);
            }
        }
    }
    if let Some(error) = first {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::warn!(failed, %error, cause, "files could not be deleted; it is tried again");
        metrics::files_not_deleted(failed);
    }
    (gone, failed)
}

async fn delete_with_thumbnail(storage: &Storage, key: &ObjectKey) -> Result<(), ReadError> {
    storage.delete(&key.its_thumbnail()).await?;
    storage.delete(key).await
}

/// Says in the log which files are gone, so that it can be proved later.
fn tell(deleted: &[Expired]) {
    let mut by_batch: BTreeMap<(TenantId, BatchId), Vec<VideoId>> = BTreeMap::new();
    for expired in deleted {
        by_batch.entry((expired.tenant, expired.batch)).or_default().push(expired.video);
    }
    for ((tenant, batch), videos) in by_batch {
        for ids in videos.chunks(IDS_PER_LINE) {
            tracing::info!(%tenant, %batch, count = ids.len(), videos = ?ids, "deleted files whose time was over");
        }
    }
}
