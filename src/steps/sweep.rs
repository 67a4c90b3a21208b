//! The sweep: whatever should be under way and is not, is set going again. Idempotent and without input: losing or doubling
//! any job changes nothing but time.

use sqlx::PgConnection;

use crate::callbacks;
use crate::db::{self, Database};
use crate::domain::{BatchId, VideoId};
use crate::engine::queue;
use crate::metrics;
use crate::webhooks;

/// Rows of one statement; batches and deliveries beyond it wait for the next sweep.
const MOST: i64 = 10_000;

/// What a sweep put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Released or running videos without a job.
    pub videos: u64,
    /// Batches with every video settled that nobody finalizes.
    pub batches: u64,
    /// Deliveries that are due and that nobody makes.
    pub deliveries: u64,
}

/// Sweeps once. Processes that sweep at the same moment leave it to the first.
///
/// # Errors
/// The database's.
pub async fn sweep(db: &Database) -> Result<Swept, sqlx::Error> {
    let mut tx = db.begin().await?;
    let mine =
        sqlx::query_scalar!(r#"select pg_try_advisory_xact_lock(hashtextextended('freezeframe sweep', 7)) as "mine!""#)
            .fetch_one(&mut *tx)
            .await?;
    if !mine {
        return Ok(Swept::default());
    }
    let batches = sqlx::query_scalar!(
        r#"select id as "id: BatchId" from batches
           where finished_at is null and succeeded + failed = total and status in ('queued', 'processing') limit $1"#,
        MOST,
    )
    .fetch_all(&mut *tx)
    .await?;
    let deliveries = webhooks::pending_due(&mut tx, MOST).await?;
    let batch_ids: Vec<_> = batches.into_iter().map(BatchId::ulid).collect();
    let delivery_ids: Vec<_> = deliveries.into_iter().map(|delivery| delivery.ulid()).collect();
    let swept = Swept {
        videos: sweep_videos(&mut tx).await?,
        batches: queue::push_missing(&mut tx, queue::names::FINALIZE, &batch_ids).await?,
        deliveries: queue::push_missing(&mut tx, queue::names::NOTIFY, &delivery_ids).await?,
    };
    queue::forget_dead_workers(&mut tx).await?;
    callbacks::forget_old(&mut tx).await?;
    super::record::forget_fruitless(&mut tx).await?;
    db::commit("sweep", tx).await?;
    if swept != Swept::default() {
        tracing::info!(
            videos = swept.videos,
            batches = swept.batches,
            deliveries = swept.deliveries,
            "swept up lost jobs"
        );
    }
    metrics::swept("video_without_job", swept.videos);
    metrics::swept("batch_not_finalized", swept.batches);
    metrics::swept("delivery_without_job", swept.deliveries);
    Ok(swept)
}

/// Pushes a job for every released or running video that has none, page by page.
async fn sweep_videos(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let (mut after, mut pushed) = (String::new(), 0);
    loop {
        let page = sqlx::query_scalar!(
            r#"select v.id as "id: VideoId" from batch_lanes l join videos v on v.batch_id = l.batch_id and v.model = l.model
               where not l.closed and l.total - l.waiting - l.settled > 0 and v.state in ('released', 'running')
                   -- whatever was released once lies there
                   and v.position < l.released_below and v.id > $1
               order by v.id limit $2"#,
            after,
            MOST,
        )
        .fetch_all(&mut *conn)
        .await?;
        let Some(last) = page.last() else { return Ok(pushed) };
        after = last.bare();
        let ids: Vec<_> = page.into_iter().map(VideoId::ulid).collect();
        pushed += queue::push_missing(conn, queue::names::GENERATE, &ids).await?;
    }
}
