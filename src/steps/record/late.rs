//! Attempts that ended although their job may still succeed: what that may have cost us, when to look again, and what was
//! found in the end.
//!
//! Always holds: the possible cost of an unresolved attempt is booked in the transaction that ends it; a look is written
//! before it is made, so no two workers make the same one and a crash costs a pause; a job that another attempt owns is
//! never taken. Refuses: to touch the customer's money. Time is the database's.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::Close;
use crate::db::{self, Database};
use crate::domain::{AttemptId, AttemptState, BatchId, Credits, LateFinding, VideoId};
use crate::engine::recorder::JournalError;
use crate::ledger::{self, Loss, LossReason};

/// Rows that one sweep deletes.
const MOST_FORGOTTEN: i64 = 10_000;

/// Books what unresolved attempts may have cost, and has those looked at again whose job may still succeed. The batches
/// are locked by the caller.
pub(super) async fn begin(conn: &mut PgConnection, closes: &[&Close]) -> Result<(), JournalError> {
    let unresolved = closes.iter().filter(|close| close.attempt.state == AttemptState::Unresolved);
    let losses: Vec<Loss> = unresolved
        .map(|close| Loss {
            video: close.lease.video,
            attempt: close.lease.attempt,
            batch: close.batch,
            credits: close.attempt.possible_cost,
            reason: LossReason::OutcomeUnknown,
        })
        .collect();
    ledger::book_losses(conn, &losses).await?;
    let late: Vec<&&Close> = closes.iter().filter(|close| close.attempt.may_succeed).collect();
    if late.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into late_looks (video_id, n, tenant_id)
         select i.video_id, i.n, b.tenant_id
         from unnest($1::text[], $2::int[], $3::text[]) as i (video_id, n, batch_id) join batches b on b.id = i.batch_id
         on conflict (video_id, n) do nothing",
        &late.iter().map(|close| close.lease.video.bare()).collect::<Vec<_>>(),
        &late.iter().map(|close| close.lease.attempt).collect::<Vec<_>>(),
        &late.iter().map(|close| close.batch.bare()).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// An attempt that has ended and is looked at again.
#[derive(Clone, Debug)]
pub struct LateAttempt {
    pub video: VideoId,
    pub batch: BatchId,
    /// Its number.
    pub n: i32,
    pub id: AttemptId,
    pub provider: String,
    pub upstream_model: String,
    pub handle: Option<String>,
    pub sent_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
    /// Whether the order had an image; only said of attempts without a handle.
    pub with_image: bool,
    /// It ended because the provider showed no job of it.
    pub not_bought: bool,
    pub model: String,
    pub prompt: String,
    pub seconds: i32,
    pub size: String,
    pub price: Credits,
}

/// Takes up to `limit` attempts whose next look is due, and writes when the one after it is: after as long as has passed
/// since the end, until a day has; then twice more, so that a worker that dies in its look loses nothing.
///
/// # Errors
/// The database's.
pub async fn take_due(db: &Database, limit: i64) -> Result<Vec<LateAttempt>, sqlx::Error> {
    sqlx::query_file_as!(LateAttempt, "src/steps/record/take_late.sql", limit).fetch_all(db.pool()).await
}

/// Forgets looks that brought nothing and are over; answers how many.
///
/// # Errors
/// The database's.
pub async fn forget_fruitless(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let forgotten = sqlx::query!(
        "delete from late_looks where (video_id, n) in (
             select video_id, n from late_looks
             where next_look_at <= now() and next_look_at >= ended_at + interval '1 day 20 minutes'
             order by next_look_at limit $1 for update skip locked)",
        MOST_FORGOTTEN,
    )
    .execute(conn)
    .await?;
    Ok(forgotten.rows_affected())
}

/// Whether a job that looks like this order's may be another's: of an order that is still to be answered, or of one with an
/// image that nobody can see in a list.
///
/// # Errors
/// The database's.
pub async fn late_rivals(db: &Database, provider: &str, prompt: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (
               select from attempts a join videos v on v.id = a.video_id
               where a.finished_at is null and a.handle is null and a.unsent is not true
                   and a.provider = $1 and v.prompt = $2
           ) or exists (
               select from late_looks l join attempts a on a.video_id = l.video_id and a.n = l.n
                   join videos v on v.id = l.video_id
               where a.provider = $1 and a.handle is null and a.unsent is not null and v.prompt = $2
                   and a.state <> 'rejected'
                   -- whatever is older is looked at no more
                   and l.ended_at > now() - interval '2 days'
           ) as "rivals!""#,
        provider,
        prompt,
    )
    .fetch_one(db.pool())
    .await
}

/// What a look brought.
#[derive(Clone, Debug)]
pub struct LateNews {
    pub video: VideoId,
    pub batch: BatchId,
    pub n: i32,
    /// The job, when the attempt did not know it before.
    pub handle: Option<String>,
    /// What became of the job; `None` while it runs.
    pub finding: Option<LateFinding>,
    /// What a success has cost us.
    pub cost: Credits,
}

/// Writes what looks brought, in one transaction: the job, its end, and the loss of a success unless it is booked already.
/// Answers the attempts whose end was written now, and what was booked. A job that another attempt owns is not taken, and nothing follows from it.
///
/// # Errors
/// The database's. Nothing was written then; the next look comes again.
pub async fn write_late(db: &Database, news: &[LateNews]) -> Result<(HashSet<(VideoId, i32)>, Credits), JournalError> {
    if news.is_empty() {
        return Ok((HashSet::new(), Credits::ZERO));
    }
    let mut tx = db.begin().await?;
    let batches: BTreeSet<BatchId> = news.iter().map(|one| one.batch).collect();
    ledger::lock_batches(&mut tx, batches).await?;
    let owned = own(&mut tx, news).await?;
    let theirs = |one: &&LateNews| one.handle.is_none() || owned.contains(&(one.video, one.n));
    let ended = end(&mut tx, &news.iter().filter(theirs).collect::<Vec<_>>()).await?;
    let losses: Vec<Loss> = news
        .iter()
        .filter(|one| one.finding == Some(LateFinding::Succeeded) && ended.contains(&(one.video, one.n)))
        .map(|one| Loss {
            video: one.video,
            attempt: one.n,
            batch: one.batch,
            credits: one.cost,
            reason: LossReason::LateSuccess,
        })
        .collect();
    let booked = ledger::book_losses(&mut tx, &losses).await?;
    db::commit("late looks", tx).await?;
    Ok((ended, booked))
}

/// Gives jobs to the attempts that they are of; answers which took theirs.
async fn own(conn: &mut PgConnection, news: &[LateNews]) -> Result<HashSet<(VideoId, i32)>, sqlx::Error> {
    let found: Vec<&LateNews> = news.iter().filter(|one| one.handle.is_some()).collect();
    let rows = sqlx::query!(
        r#"update attempts a set handle = i.handle, unsent = null
           from unnest($1::text[], $2::int[], $3::text[]) as i (video_id, n, handle)
           where a.video_id = i.video_id and a.n = i.n and a.handle is null and a.finished_at is not null
               and not exists (select from attempts o where o.provider = a.provider and o.handle = i.handle)
           returning a.video_id as "video: VideoId", a.n"#,
        &found.iter().map(|one| one.video.bare()).collect::<Vec<_>>(),
        &found.iter().map(|one| one.n).collect::<Vec<_>>(),
        &found.iter().map(|one| one.handle.clone().unwrap_or_default()).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.video, row.n)).collect())
}

async fn end(conn: &mut PgConnection, news: &[&LateNews]) -> Result<HashSet<(VideoId, i32)>, sqlx::Error> {
    let ended: Vec<(&LateNews, LateFinding)> =
        news.iter().filter_map(|one| one.finding.map(|finding| (*one, finding))).collect();
    let rows = sqlx::query!(
        r#"update late_looks l set finding = i.finding::late_finding, found_at = now(), next_look_at = null
           from unnest($1::text[], $2::int[], $3::text[]) as i (video_id, n, finding)
           where l.video_id = i.video_id and l.n = i.n and l.finding is null
           returning l.video_id as "video: VideoId", l.n"#,
        &ended.iter().map(|(one, _)| one.video.bare()).collect::<Vec<_>>(),
        &ended.iter().map(|(one, _)| one.n).collect::<Vec<_>>(),
        &ended.iter().map(|(_, finding)| finding.word().to_owned()).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.video, row.n)).collect())
}
