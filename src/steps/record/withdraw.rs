//! Withdrawing: what has not begun of a batch that was cancelled, or that was to be complete by now, ends as failed and is
//! refunded at once. What is under way goes on to its end.
//!
//! Always holds: a video with a live attempt is never withdrawn; videos, counters, refunds and the batch's `finalize` job
//! are one transaction for each group of a batch; processes that do it at the same moment do different batches.

use std::collections::BTreeMap;

use freezeframe_workflows::retry;
use sqlx::PgConnection;

use super::close::land;
use super::locks::lock_lanes;
use crate::db::{self, Database};
use crate::domain::{BatchId, Credits, FailureClass, TenantId, VideoId};
use crate::engine::queue::{self, RunAt};
use crate::engine::recorder::JournalError;
use crate::ledger::{self, Settlement};
use crate::metrics;
use crate::scheduler::{self, Subject};

/// Videos of one transaction.
const MOST: i64 = 2_000;

/// A video that was withdrawn.
struct Withdrawn {
    video: VideoId,
    batch: BatchId,
    tenant: TenantId,
    model: String,
    price: Credits,
    price_offset: Credits,
    /// Where it was to go, if it was released.
    provider: Option<String>,
    turn_until: Option<chrono::DateTime<chrono::Utc>>,
}

/// Withdraws whatever there is; answers how many videos.
///
/// # Errors
/// The database's, or the ledger's refusal: then the group is as it was.
pub async fn withdraw(db: &Database) -> Result<u64, JournalError> {
    let (mut all, mut after) = (0, String::new());
    while let Some((batch, withdrawn)) = withdraw_group(db, &after).await? {
        all += withdrawn;
        // a group that is not full was the batch's last
        if withdrawn < MOST.unsigned_abs() {
            after = batch.bare();
        }
    }
    Ok(all)
}

/// One group of the first batch behind `after` that has to be looked at; `None` when there is none.
async fn withdraw_group(db: &Database, after: &str) -> Result<Option<(BatchId, u64)>, JournalError> {
    let mut tx = db.begin().await?;
    let found = sqlx::query!(
        r#"select id as "id: BatchId", cancelled_at is not null as "cancelled!" from batches b
           where id > $1 and finished_at is null and (cancelled_at is not null or complete_by <= now())
               and exists (select from batch_lanes l where l.batch_id = b.id and not l.closed)
           order by id limit 1 for update skip locked"#,
        after,
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(found) = found else { return Ok(None) };
    let class = if found.cancelled { FailureClass::Cancelled } else { FailureClass::Expired };
    let withdrawn = end_videos(&mut tx, found.id, class).await?;
    if withdrawn.is_empty() {
        return Ok(Some((found.id, 0)));
    }
    let settlements: Vec<Settlement> = withdrawn
        .iter()
        .map(|one| Settlement {
            video: one.video,
            batch: one.batch,
            price: one.price,
            price_offset: one.price_offset,
            failure: Some(class),
        })
        .collect();
    ledger::settle(&mut tx, &settlements).await?;
    count(&mut tx, found.id, class, &withdrawn).await?;
    give_turns_back(&mut tx, &withdrawn).await?;
    db::commit("withdraw videos", tx).await?;
    withdrawn.iter().for_each(|one| metrics::video_failed(class, one.price.get()));
    tracing::info!(batch = %found.id, videos = withdrawn.len(), class = class.name(), "videos that had not begun were withdrawn and refunded");
    Ok(Some((found.id, withdrawn.len() as u64)))
}

/// Ends up to [`MOST`] videos that have not begun.
async fn end_videos(
    conn: &mut PgConnection,
    batch: BatchId,
    class: FailureClass,
) -> Result<Vec<Withdrawn>, sqlx::Error> {
    // locked first: whoever claims one of them from now on waits, and whether there is an attempt is asked after that
    let ids = sqlx::query_scalar!(
        r#"select id from videos where batch_id = $1 and state in ('waiting', 'released')
           order by position limit $2 for update"#,
        batch as BatchId,
        MOST,
    )
    .fetch_all(&mut *conn)
    .await?;
    if ids.is_empty() {
        return Ok(vec![]);
    }
    sqlx::query_as!(
        Withdrawn,
        r#"with before as (
               select id, state from videos where id = any($1)
           )
           update videos v set state = 'failed', finished_at = now(), failure_class = $2::text::failure_class,
               failure_message = $3, eligible_at = null, reference_image = null, waits = 0
           from before b
           where v.id = b.id and v.state in ('waiting', 'released')
               and not exists (select from attempts a where a.video_id = v.id and a.finished_at is null)
           returning v.id as "video: VideoId", v.batch_id as "batch: BatchId", v.tenant_id as "tenant: TenantId", v.model,
               v.price_credits as "price: Credits", v.price_offset as "price_offset: Credits",
               case when b.state = 'released' then v.provider end as provider,
               case when b.state = 'released' then v.turn_until end as turn_until"#,
        &ids,
        class.name(),
        retry::explain(class),
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
    let mut lanes: BTreeMap<&str, (i32, i32)> = BTreeMap::new();
    let mut landed: BTreeMap<(BatchId, &str, &str), i32> = BTreeMap::new();
    for one in withdrawn {
        let lane = lanes.entry(&one.model).or_default();
        lane.0 += 1;
        match &one.provider {
            Some(provider) => *landed.entry((batch, &one.model, provider)).or_default() += 1,
            None => lane.1 += 1,
        }
    }
    let models: Vec<String> = lanes.keys().map(|model| (*model).to_owned()).collect();
    lock_lanes(conn, &vec![batch.bare(); models.len()], &models).await?;
    sqlx::query!(
        "update batch_lanes l set waiting = l.waiting - i.waiting, settled = l.settled + i.settled,
             closed = l.settled + i.settled = l.total
         from unnest($2::text[], $3::int[], $4::int[]) as i (model, settled, waiting)
         where l.batch_id = $1 and l.model = i.model",
        batch as BatchId,
        &models,
        &lanes.values().map(|(settled, _)| *settled).collect::<Vec<_>>(),
        &lanes.values().map(|(_, waiting)| *waiting).collect::<Vec<_>>(),
    )
    .execute(&mut *conn)
    .await?;
    land(conn, &landed).await?;
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

/// Nobody used the turns of those that were released.
async fn give_turns_back(conn: &mut PgConnection, withdrawn: &[Withdrawn]) -> Result<(), sqlx::Error> {
    let turns = withdrawn.iter().filter_map(|one| Some((one.turn_until?, one))).flat_map(|(until, one)| {
        let account = one.provider.clone().map(Subject::Account);
        let own = [Subject::Tenant(one.tenant), Subject::Batch(one.batch), Subject::Model(one.model.clone())];
        own.into_iter().chain(account).map(move |subject| (until, subject))
    });
    scheduler::give_turns_back(conn, &turns.collect::<Vec<_>>()).await
}
