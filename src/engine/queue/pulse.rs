//! The pulse of a worker: heartbeat, rescue of dead workers' jobs, return of unsettled ones, wake-ups by notification.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apalis_postgres::queries;
use sqlx::PgConnection;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::fetch::give_back_lost;
use super::jobs::INSERT_CHANNEL;
use super::slots::SlotPool;
use crate::metrics;

/// How often jobs are looked for that stand in our name and that nobody here holds.
const AUDIT_EVERY: Duration = Duration::from_secs(10);
/// A fetch that was given up may still commit until the server's time-out for a statement.
const LOST_AFTER_SECS: f64 = 10.0;
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const LISTEN_PAUSE: Duration = Duration::from_millis(500);

/// Starts the pulse on an operating system thread of its own: no handler, however busy, delays a heartbeat.
///
/// # Errors
/// When the operating system has no thread to give.
pub(super) fn start(pool: Arc<SlotPool>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name(format!("pulse-{}", pool.settings.queue))
        .spawn(move || runtime.block_on(pulse(pool)))?;
    Ok(())
}

/// Beats until the pool is stopped and drained, so that a stopping worker's last jobs are neither lost nor rescued.
async fn pulse(pool: Arc<SlotPool>) {
    let mut connection = None;
    let mut last_beat = Instant::now();
    // since when every beat of ours has got through
    let mut unbroken_since = Instant::now();
    let mut last_audit = Instant::now();
    let mut told_to_stop = false;
    let mut tick = interval(pool.settings.heartbeat);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = pool.beat_now.notified() => {}
            () = pool.stop.cancelled(), if !told_to_stop => told_to_stop = true,
        }
        match timeout(pool.settings.dead_after / 2, beat(&pool, &mut connection, unbroken_since, &mut last_audit)).await
        {
            Ok(Ok(())) => {
                metrics::heartbeat_gap(pool.settings.queue, last_beat.elapsed());
                last_beat = Instant::now();
            }
            failed => {
                connection = None;
                unbroken_since = Instant::now();
                let error = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no answer".to_owned(),
                };
                tracing::warn!(worker = %pool.worker, %error, "heartbeat failed; trying again");
                sleep(RETRY_PAUSE).await;
            }
        }
        if pool.stop.is_cancelled() && pool.is_drained() {
            pool.pulse_ended.cancel();
            pool.waker.wake();
            return;
        }
        pool.waker.wake();
    }
}

async fn beat(
    pool: &SlotPool,
    connection: &mut Option<PgConnection>,
    unbroken_since: Instant,
    last_audit: &mut Instant,
) -> Result<(), sqlx::Error> {
    let conn = match connection {
        Some(conn) => conn,
        None => connection.insert(pool.db.engine_connection().await?),
    };
    // apalis' own registration cannot be called (a type of it is private); its rescue joins this row
    sqlx::query!(
        "insert into apalis.workers (id, worker_type, storage_name, last_seen) values ($1, $2, 'slots', now())
         on conflict (id) do update set last_seen = now()",
        pool.worker,
        pool.settings.queue,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "insert into workers (name, queue, slots) values ($1, $2, $3) on conflict (name) do update set seen_at = now(), slots = $3",
        pool.worker,
        pool.settings.queue,
        // a stopping worker offers nothing any more
        if pool.stop.is_cancelled() { 0 } else { i32::try_from(pool.settings.slots).unwrap_or(i32::MAX) },
    )
    .execute(&mut *conn)
    .await?;
    pool.registered.cancel();
    // after a database outage everybody looks dead: the first one back must not rob the others
    if unbroken_since.elapsed() >= pool.settings.dead_after {
        rescue(pool, conn).await?;
    }
    if last_audit.elapsed() >= AUDIT_EVERY {
        give_back_lost(pool, conn, LOST_AFTER_SECS).await?;
        *last_audit = Instant::now();
    }
    give_back(pool, conn).await
}

/// Returns dead workers' jobs to the queue.
async fn rescue(pool: &SlotPool, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    // whole seconds only: rounded up, or a limit below a second would rob the living
    let dead_after_secs = pool.settings.dead_after.as_secs_f64().ceil();
    // apalis' statement reads every held job; most of the time no dead worker holds any
    let someone_died = sqlx::query_scalar!(
        r#"select exists (select from apalis.workers w
               where w.worker_type = $1 and w.last_seen < now() - $2 * interval '1 s'
               and exists (select from apalis.jobs j where j.lock_by = w.id)) as "died!""#,
        pool.settings.queue,
        dead_after_secs,
    )
    .fetch_one(&mut *conn)
    .await?;
    if someone_died {
        queries::reenqueue_orphaned(conn, pool.settings.queue, dead_after_secs as u64)
            .await
            .map_err(|error| sqlx::Error::Protocol(error.to_string()))?;
    }
    Ok(())
}

/// Returns the jobs that their handlers did not settle.
async fn give_back(pool: &SlotPool, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let back = pool.unsettled().clone();
    if back.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = back.iter().map(|b| b.ticket.id.to_string()).collect();
    let attempts: Vec<i32> = back.iter().map(|b| b.ticket.attempts).collect();
    let pauses: Vec<i64> = back.iter().map(|b| i64::try_from(b.after.as_millis()).unwrap_or(i64::MAX)).collect();
    sqlx::query!(
        "update apalis.jobs j set status = 'Pending', lock_by = null, lock_at = null, attempts = j.attempts + 1,
             run_at = case when t.pause_ms > 0 then now() + t.pause_ms * interval '1 ms' else j.run_at end
         from unnest($1::text[], $2::int[], $4::bigint[]) as t (id, attempts, pause_ms)
         where j.id = t.id and j.lock_by is not distinct from $3 and j.attempts = t.attempts",
        &ids,
        &attempts,
        pool.worker,
        &pauses,
    )
    .execute(conn)
    .await?;
    // only now: had the statement failed they would have to be returned again
    pool.unsettled().retain(|given| !back.contains(given));
    pool.wake.notify_one();
    Ok(())
}

/// Wakes the fetch when jobs were pushed. A lost notification costs one poll interval, nothing else.
pub(super) async fn listen(pool: Arc<SlotPool>) {
    while !pool.stop.is_cancelled() {
        let run = async {
            let mut listener = pool.db.listener().await?;
            listener.listen(INSERT_CHANNEL).await?;
            pool.wake.notify_one(); // whatever was inserted before LISTEN took effect
            loop {
                if listener.recv().await?.payload() == pool.settings.queue {
                    pool.wake.notify_one();
                }
            }
        };
        let ended: Result<(), sqlx::Error> = tokio::select! {
            () = pool.stop.cancelled() => return,
            ended = run => ended,
        };
        if let Err(error) = ended {
            tracing::warn!(worker = %pool.worker, %error, "listening for jobs failed; polling meanwhile");
        }
        sleep(LISTEN_PAUSE).await;
    }
}
