//! Withdrawing: what waits of a batch that was cancelled, or that was to be complete by now, ends as failed and is refunded at
//! once. What was released and has not begun comes back to wait when a worker would claim it (see `give_back`), and is
//! withdrawn then; what is under way goes on to its end, unless its provider can stop it.
//!
//! Always holds: a video with a live attempt is never withdrawn, because it does not wait; videos, counters, refunds and the
//! batch's `finalize` job are one transaction for each group of a batch. Processes that do it at the same moment do different
//! batches, and a batch without waiting videos costs a look at its lanes and no lock.

use std::collections::BTreeMap;

use freezeframe_workflows::retry;
use sqlx::PgConnection;

use crate::db::{self, Database};
use crate::domain::{BatchId, Credits, FailureClass, VideoId};
use crate::engine::queue::{self, RunAt};
use crate::engine::recorder::JournalError;
use crate::ledger::{self, Settlement};
use crate::metrics;

/// Videos of one transaction.
const MOST: i64 = 2_000;

/// A video that was withdrawn.
struct Withdrawn {
    video: VideoId,
    model: String,
    price: Credits,
    price_offset: Credits,
}

/// A batch of which nothing more is to begin, with waiting videos.
struct Found {
    id: BatchId,
    cancelled: bool,
}

/// Withdraws whatever there is; answers how many videos.
///
/// # Errors
/// The database's, or the ledger's refusal: then the group is as it was.
pub async fn withdraw(db: &Database) -> Result<u64, JournalError> {
    let batches = sqlx::query_as!(
        Found,
        r#"select id as "id: BatchId", cancelled_at is not null as "cancelled!" from batches b
           where finished_at is null and (cancelled_at is not null or complete_by <= now())
               and exists (select from batch_lanes l where l.batch_id = b.id and l.waiting > 0)
           order by id"#,
    )
    .fetch_all(db.pool())
    .await?;
    let mut all = 0;
    for batch in batches {
        let class = if batch.cancelled { FailureClass::Cancelled } else { FailureClass::Expired };
        loop {
            let withdrawn = withdraw_group(db, batch.id, class).await?;
            all += withdrawn;
            if withdrawn < MOST.unsigned_abs() {
                break;
            }
        }
    }
    Ok(all)
}

/// Up to [`MOST`] videos of a batch; none while somebody else is at it.
async fn withdraw_group(db: &Database, batch: BatchId, class: FailureClass) -> Result<u64, JournalError> {
    let mut tx = db.begin().await?;
    let mine = sqlx::query_scalar!(
        r#"select pg_try_advisory_xact_lock(hashtextextended('freezeframe withdraw ' || $1, 7)) as "mine!""#,
        batch.bare(),
    )
    .fetch_one(&mut *tx)
    .await?;
    if !mine {
        return Ok(0);
    }
    ledger::lock_batches(&mut tx, [batch].into()).await?;
    if !lanes_are_mine(&mut tx, batch).await? {
        return Ok(0);
    }
    let withdrawn = end_videos(&mut tx, batch, class).await?;
    if withdrawn.is_empty() {
        return Ok(0);
    }
    let settlement = |one: &Withdrawn| Settlement {
        video: one.video,
        batch,
        price: one.price,
        price_offset: one.price_offset,
        failure: Some(class),
    };
    ledger::settle(&mut tx, &withdrawn.iter().map(settlement).collect::<Vec<_>>()).await?;
    count(&mut tx, batch, class, &withdrawn).await?;
    db::commit("withdraw videos", tx).await?;
    withdrawn.iter().for_each(|one| metrics::video_failed(class, one.price.get()));
    tracing::info!(%batch, videos = withdrawn.len(), class = class.name(), "videos that had not begun were withdrawn and refunded");
    Ok(withdrawn.len() as u64)
}

/// Locks the lanes of a batch whose row is locked. A release holds lanes and may want the batch, so nobody waits for it here:
/// it is over soon, and the next look comes soon.
async fn lanes_are_mine(conn: &mut PgConnection, batch: BatchId) -> Result<bool, sqlx::Error> {
    let locked = sqlx::query_scalar!(
        "select model from batch_lanes where batch_id = $1 order by model for update skip locked",
        batch as BatchId,
    )
    .fetch_all(&mut *conn)
    .await?;
    let all =
        sqlx::query_scalar!(r#"select count(*) as "lanes!" from batch_lanes where batch_id = $1"#, batch as BatchId);
    Ok(usize::try_from(all.fetch_one(conn).await?).is_ok_and(|all| all == locked.len()))
}

/// Ends up to [`MOST`] videos that wait.
async fn end_videos(
    conn: &mut PgConnection,
    batch: BatchId,
    class: FailureClass,
) -> Result<Vec<Withdrawn>, sqlx::Error> {
    sqlx::query_as!(
        Withdrawn,
        r#"update videos v set state = 'failed', finished_at = now(), failure_class = $2::text::failure_class,
               failure_message = $3, eligible_at = null, turn_until = null, turn_credits = null, waits = 0,
               reference_image = case when reference_image like 'sha256:%' then reference_image end,
               image_forgotten = case when reference_image not like 'sha256:%' then true end
           where id in (select id from videos where batch_id = $1 and state = 'waiting' order by position limit $4)
               and state = 'waiting'
           returning v.id as "video: VideoId", v.model, v.price_credits as "price: Credits",
               v.price_offset as "price_offset: Credits""#,
        batch as BatchId,
        class.name(),
        retry::explain(class),
        MOST,
    )
    .fetch_all(conn)
    .await
}

/// Counts in bulk; pushes `finalize` when nothing of the batch is left.
async fn count(
    conn: &mut PgConnection,
    batch: BatchId,
    class: FailureClass,
    withdrawn: &[Withdrawn],
) -> Result<(), sqlx::Error> {
    let mut lanes: BTreeMap<&str, i32> = BTreeMap::new();
    withdrawn.iter().for_each(|one| *lanes.entry(&one.model).or_default() += 1);
    sqlx::query!(
        "update batch_lanes l set waiting = l.waiting - i.videos, settled = l.settled + i.videos,
             closed = l.settled + i.videos = l.total
         from unnest($2::text[], $3::int[]) as i (model, videos)
         where l.batch_id = $1 and l.model = i.model",
        batch as BatchId,
        &lanes.keys().map(|model| (*model).to_owned()).collect::<Vec<_>>(),
        &lanes.values().copied().collect::<Vec<_>>(),
    )
    .execute(&mut *conn)
    .await?;
    let videos = i32::try_from(withdrawn.len()).unwrap_or(i32::MAX);
    let (cancelled, expired) = if class == FailureClass::Cancelled { (videos, 0) } else { (0, videos) };
    let remaining = sqlx::query_scalar!(
        r#"update batches set failed = failed + $2, cancelled = cancelled + $3, expired = expired + $4
           where id = $1 returning total - succeeded - failed as "remaining!""#,
        batch as BatchId,
        videos,
        cancelled,
        expired,
    )
    .fetch_one(&mut *conn)
    .await?;
    if remaining == 0 {
        queue::push(conn, queue::names::FINALIZE, &[batch.ulid()], RunAt::Now).await?;
    }
    Ok(())
}
