//! Fetching: a slot first, then exactly as many rows as there are free slots, in one statement.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use ulid::Ulid;

use super::jobs::Ticket;
use super::slots::SlotPool;

/// A statement that takes longer has lost its connection.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Runs until the pool is stopped. A database error is waited out, never handed on.
pub(super) async fn fetch_jobs(pool: Arc<SlotPool>) {
    let mut connection = None;
    let mut backoff = FIRST_BACKOFF;
    tokio::select! {
        () = pool.registered.cancelled() => {}
        () = pool.stop.cancelled() => {}
    }
    while let Some(permits) = free_slots(&pool).await {
        let wanted = permits.num_permits();
        match timeout(FETCH_TIMEOUT, fetch(&pool, &mut connection, wanted)).await {
            Ok(Ok(tickets)) => {
                backoff = FIRST_BACKOFF;
                let more_may_wait = tickets.len() == wanted;
                if tickets.is_empty() {
                    drop(permits);
                } else {
                    pool.offer(tickets, permits);
                }
                if !more_may_wait {
                    tokio::select! {
                        () = pool.stop.cancelled() => {}
                        () = pool.wake.notified() => {}
                        () = sleep(pool.settings.poll) => {}
                    }
                }
            }
            failed => {
                drop(permits);
                connection = None;
                let error = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => format!("no answer within {FETCH_TIMEOUT:?}"),
                };
                tracing::warn!(worker = %pool.worker, %error, backoff_ms = backoff.as_millis() as u64, "fetching jobs failed; trying again");
                sleep(backoff).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        }
    }
    pool.end_fetching();
}

/// Waits for one free slot, then takes all that are free. `None` when the pool is stopped.
async fn free_slots(pool: &SlotPool) -> Option<OwnedSemaphorePermit> {
    let mut permits = tokio::select! {
        biased;
        () = pool.stop.cancelled() => return None,
        permit = pool.slots.clone().acquire_owned() => permit.ok()?,
    };
    let more = pool.slots.available_permits().min(pool.settings.max_fetch.saturating_sub(1));
    if let Ok(more) = u32::try_from(more)
        && more > 0
        && let Ok(rest) = pool.slots.clone().try_acquire_many_owned(more)
    {
        permits.merge(rest);
    }
    Some(permits)
}

async fn fetch(
    pool: &SlotPool,
    connection: &mut Option<PgConnection>,
    wanted: usize,
) -> Result<Vec<Ticket>, sqlx::Error> {
    let conn = match connection {
        Some(conn) => conn,
        None => {
            let mut fresh = pool.db.engine_connection().await?;
            give_back_lost(pool, &mut fresh, 0.0).await?;
            connection.insert(fresh)
        }
    };
    let rows = sqlx::query!(
        "update apalis.jobs set status = 'Queued', lock_by = $1, lock_at = now()
         where ctid = any(array(
             select ctid from apalis.jobs
             where status = 'Pending' and run_at <= now() and job_type = $2
             order by priority desc, run_at limit $3 for update skip locked))
         returning id, attempts",
        pool.worker,
        pool.settings.queue,
        wanted as i64,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| match Ulid::from_string(&row.id) {
            Ok(id) => Some(Ticket { id, attempts: row.attempts }),
            Err(_) => {
                // not pushed by us: left locked under our name until this worker ends, so that it harms nobody
                tracing::error!(worker = %pool.worker, job = %row.id, "a job whose id is no ULID was fetched and is ignored; delete it");
                None
            }
        })
        .collect())
}

/// A fetch may have committed although its answer was lost: rows that have stood in our name for `locked_secs` and that
/// nobody here holds go back.
pub(super) async fn give_back_lost(
    pool: &SlotPool,
    conn: &mut PgConnection,
    locked_secs: f64,
) -> Result<(), sqlx::Error> {
    let held: Vec<String> = pool
        .held()
        .keys()
        .copied()
        .chain(pool.unsettled().iter().map(|back| back.ticket.id))
        .map(|id| id.to_string())
        .collect();
    let lost = sqlx::query!(
        "update apalis.jobs set status = 'Pending', lock_by = null, lock_at = null, attempts = attempts + 1
         where lock_by = $1 and id <> all($2) and lock_at <= now() - $3 * interval '1 s'",
        pool.worker,
        &held,
        locked_secs,
    )
    .execute(conn)
    .await?;
    if lost.rows_affected() > 0 {
        tracing::info!(worker = %pool.worker, jobs = lost.rows_affected(), "gave back jobs whose fetch was answered into a lost connection");
    }
    Ok(())
}
