//! The release: waiting -> released, with the job that wakes a worker, in one fenced transaction.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Route, leader};
use crate::db::{self, Database};
use crate::domain::{BatchId, TenantId, VideoId};
use crate::engine::queue;

/// A batch's videos of one model, with its tenant's limits, while any of them is unsettled.
#[derive(Clone, Debug)]
pub struct OpenLane {
    pub batch: BatchId,
    pub model: String,
    pub tenant: TenantId,
    /// Waiting and not in back-off.
    pub eligible: i32,
    pub waiting: i32,
    /// Released or running.
    pub in_flight: i32,
    pub videos_per_minute: i32,
    pub max_in_flight: i32,
}

/// What a lane may release in this round.
#[derive(Clone, Debug)]
pub(super) struct Share {
    pub(super) batch: BatchId,
    pub(super) model: String,
    pub(super) tenant: TenantId,
    pub(super) videos: u32,
    pub(super) route: Route,
}

/// Released videos by lane.
pub(super) type Released = HashMap<(BatchId, String), u32>;

/// Told when videos begin to wait.
pub const WAKE_CHANNEL: &str = "freezeframe_waiting";
const LISTEN_PAUSE: Duration = Duration::from_millis(500);

/// Wakes the leader when the transaction commits. Losing it costs one tick.
///
/// # Errors
/// The database's.
pub async fn wake(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("select pg_notify($1, '')", WAKE_CHANNEL).execute(conn).await?;
    Ok(())
}

pub(super) async fn listen(db: Database, woken: mpsc::Sender<()>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let run = async {
            let mut listener = db.listener().await?;
            listener.listen(WAKE_CHANNEL).await?;
            loop {
                listener.recv().await?;
                // a full channel means that a wake-up is under way already
                let _ = woken.try_send(());
            }
        };
        let ended: Result<(), sqlx::Error> = tokio::select! {
            () = stop.cancelled() => return,
            ended = run => ended,
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "listening for new batches failed; looking regularly meanwhile");
        }
        tokio::time::sleep(LISTEN_PAUSE).await;
    }
}

/// Every lane with unsettled videos, by tenant and age.
pub(super) async fn open_lanes(conn: &mut PgConnection) -> Result<Vec<OpenLane>, sqlx::Error> {
    sqlx::query_as!(
        OpenLane,
        r#"select l.batch_id as "batch: BatchId", l.model, l.tenant_id as "tenant: TenantId", l.waiting,
               case when l.waiting = 0 then 0 else l.waiting - (select count(*) from videos v
                   where v.batch_id = l.batch_id and v.model = l.model and v.eligible_at > now())::integer end as "eligible!",
               l.total - l.waiting - l.settled as "in_flight!", t.videos_per_minute, t.max_in_flight
           from batch_lanes l join tenants t on t.id = l.tenant_id
           where not l.closed
           order by l.tenant_id, l.batch_id, l.model"#,
    )
    .fetch_all(conn)
    .await
}

/// Releases up to each share's videos. A leader that was replaced releases nothing.
pub(super) async fn release(
    db: &Database,
    (holder, epoch): (&str, i64),
    shares: &[Share],
) -> Result<Released, sqlx::Error> {
    // nothing follows from a release before a worker has fetched its jobs, which is committed durably
    let mut tx = db.begin_relaxed().await?;
    if !leader::still_leads(&mut tx, holder, epoch).await? {
        tracing::warn!(epoch, "another leader has taken over; nothing was released");
        return Ok(Released::new());
    }
    let batches: Vec<String> = shares.iter().map(|s| s.batch.bare()).collect();
    let models: Vec<String> = shares.iter().map(|s| s.model.clone()).collect();
    // in the order that the ends of videos keep as well
    sqlx::query!(
        "select l.batch_id from batch_lanes l join unnest($1::text[], $2::text[]) as i (batch_id, model)
             on l.batch_id = i.batch_id and l.model = i.model
         order by l.batch_id, l.model for update of l",
        &batches,
        &models,
    )
    .fetch_all(&mut *tx)
    .await?;
    let rows = sqlx::query_file!(
        "src/scheduler/release.sql",
        &batches,
        &models,
        &shares.iter().map(|s| i64::from(s.videos)).collect::<Vec<_>>(),
        &shares.iter().map(|s| s.route.provider.clone()).collect::<Vec<_>>(),
        &shares.iter().map(|s| s.route.upstream_model.clone()).collect::<Vec<_>>(),
    )
    .fetch_all(&mut *tx)
    .await?;
    let ids: Vec<_> = rows.iter().map(|row| row.id.ulid()).collect();
    // a job that outlived its video's last release may still be there; its worker finds the video released again
    queue::push_missing(&mut tx, queue::names::GENERATE, &ids).await?;
    db::commit("release videos", tx).await?;
    let mut released = Released::new();
    for row in rows {
        *released.entry((row.batch, row.model)).or_default() += 1;
    }
    Ok(released)
}
