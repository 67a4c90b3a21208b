//! Job rows inside the caller's transaction: push, acknowledge, check who holds what.

use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::task_id::TaskId;
use apalis_postgres::queries;
use sqlx::PgConnection;
use ulid::Ulid;

/// Told the name of a queue when jobs were pushed to it. A lost notification costs one poll interval, nothing else.
pub(super) const INSERT_CHANNEL: &str = "freezeframe_jobs";

/// A fetched job as its holder knows it: the fence of everything done about the job row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub id: Ulid,
    /// Grows each time the job is given back or rescued.
    pub attempts: i32,
}

/// From when on a job may be fetched, by the database's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAt {
    Now,
    InSecs(u64),
}

fn database(error: apalis_postgres::Error) -> sqlx::Error {
    match error {
        apalis_postgres::Error::Database(error) => error,
        other => sqlx::Error::Protocol(other.to_string()),
    }
}

/// Pushes a job for each id. An id that has a job already is a unique violation (23505) of the whole statement.
///
/// # Errors
/// The database's.
pub async fn push(conn: &mut PgConnection, queue: &str, ids: &[Ulid], when: RunAt) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    // apalis would take the application's clock, which may run ahead of the database's
    let now = sqlx::query_scalar!(r#"select floor(extract(epoch from now()))::bigint as "now!""#)
        .fetch_one(&mut *conn)
        .await?
        .unsigned_abs();
    let run_at = match when {
        RunAt::Now => now,
        RunAt::InSecs(secs) => now.saturating_add(secs),
    };
    let tasks = ids
        .iter()
        .map(|id| TaskBuilder::new(b"{}".to_vec()).task_id(TaskId::from_ulid(*id)).run_at_timestamp(run_at).build())
        .collect();
    queries::push_tasks(&mut *conn, queue, tasks).await.map_err(database)?;
    if when == RunAt::Now {
        // one for all rows; the trigger that notifies for each is off
        sqlx::query!("select pg_notify($1, $2)", INSERT_CHANNEL, queue).execute(conn).await?;
    }
    Ok(())
}

/// Pushes a job for each id that has none; answers how many were missing.
///
/// # Errors
/// The database's.
pub async fn push_missing(conn: &mut PgConnection, queue: &str, ids: &[Ulid]) -> Result<u64, sqlx::Error> {
    if ids.is_empty() {
        return Ok(0);
    }
    let texts: Vec<String> = ids.iter().map(Ulid::to_string).collect();
    let there =
        sqlx::query_scalar!("select id from apalis.jobs where id = any($1)", &texts).fetch_all(&mut *conn).await?;
    let there: std::collections::HashSet<String> = there.into_iter().collect();
    let missing: Vec<Ulid> =
        ids.iter().zip(&texts).filter(|(_, text)| !there.contains(*text)).map(|(id, _)| *id).collect();
    push(conn, queue, &missing, RunAt::Now).await?;
    Ok(missing.len() as u64)
}

/// Which of the tickets `worker` still holds. The rows stay locked until the transaction ends, so that a rescue cannot
/// come in between.
///
/// # Errors
/// The database's.
pub async fn still_held(conn: &mut PgConnection, worker: &str, tickets: &[Ticket]) -> Result<Vec<Ticket>, sqlx::Error> {
    let ids: Vec<String> = tickets.iter().map(|t| t.id.to_string()).collect();
    let rows = sqlx::query!(
        "select id, attempts from apalis.jobs where id = any($1) and lock_by is not distinct from $2 for update",
        &ids,
        worker,
    )
    .fetch_all(conn)
    .await?;
    let held: std::collections::HashSet<Ticket> = rows
        .into_iter()
        .filter_map(|row| Ulid::from_string(&row.id).ok().map(|id| Ticket { id, attempts: row.attempts }))
        .collect();
    Ok(tickets.iter().copied().filter(|ticket| held.contains(ticket)).collect())
}

/// Deletes the jobs that `worker` holds under these tickets; a job that went to somebody else stays.
///
/// # Errors
/// The database's.
pub async fn ack(conn: &mut PgConnection, worker: &str, tickets: &[Ticket]) -> Result<u64, sqlx::Error> {
    if tickets.is_empty() {
        return Ok(0);
    }
    let ids: Vec<String> = tickets.iter().map(|t| t.id.to_string()).collect();
    let attempts: Vec<i32> = tickets.iter().map(|t| t.attempts).collect();
    // the statistics of this table say nothing true: a scalar look-up by key cannot turn into a nested loop over all
    let done = sqlx::query!(
        "delete from apalis.jobs where ctid = any(array(
             select (select j.ctid from apalis.jobs j
                 where j.id = t.id and j.lock_by is not distinct from $3 and j.attempts = t.attempts)
             from unnest($1::text[], $2::int[]) as t (id, attempts)))",
        &ids,
        &attempts,
        worker,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Jobs of a queue: (waiting to be fetched, held by a worker).
///
/// # Errors
/// The database's.
pub async fn depth(conn: &mut PgConnection, queue: &str) -> Result<(i64, i64), sqlx::Error> {
    let row = sqlx::query!(
        r#"select count(*) filter (where lock_by is null) as "waiting!", count(*) filter (where lock_by is not null) as "held!"
           from apalis.jobs where job_type = $1"#,
        queue,
    )
    .fetch_one(conn)
    .await?;
    Ok((row.waiting, row.held))
}

/// Slots of the queue's living workers, free or not.
///
/// # Errors
/// The database's.
pub async fn living_slots(conn: &mut PgConnection, queue: &str, dead_after_ms: i64) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select coalesce(sum(slots), 0)::bigint as "slots!" from workers
           where queue = $1 and seen_at > now() - $2 * interval '1 ms'"#,
        queue,
        dead_after_ms as f64,
    )
    .fetch_one(conn)
    .await
}

/// Forgets workers that have been gone for a day and hold nothing.
///
/// # Errors
/// The database's.
pub async fn forget_dead_workers(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from workers where seen_at < now() - interval '1 day'").execute(&mut *conn).await?;
    sqlx::query!(
        "delete from apalis.workers w where w.last_seen < now() - interval '1 day'
         and not exists (select from apalis.jobs j where j.lock_by = w.id)"
    )
    .execute(conn)
    .await?;
    Ok(())
}
