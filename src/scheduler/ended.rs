//! What is kept for batches that wait, and is forgotten when they have ended: what they can expect, and operators' pauses.

use sqlx::PgConnection;

use crate::db::Database;
use crate::limits::{self, Rule, Scope};

/// So many pauses at a time; the rest comes with the next look.
const MOST: i64 = 1_000;

/// Forgets it; a pause leaves its row in the history.
///
/// # Errors
/// The database's.
pub(super) async fn forget(db: &Database) -> Result<(), sqlx::Error> {
    let mut conn = db.pool().acquire().await?;
    sqlx::query!("delete from batch_outlooks o using batches b where b.id = o.batch_id and b.finished_at is not null")
        .execute(&mut *conn)
        .await?;
    // asked first: a change of limits keeps all other changes waiting
    if paused(&mut conn).await?.is_empty() {
        return Ok(());
    }
    drop(conn);
    db.act("forget pauses of batches that have ended", |tx| {
        Box::pin(async move {
            limits::one_at_a_time(tx).await?;
            let ended = paused(tx).await?;
            limits::clear_many(tx, (Scope::Batch, Rule::Paused, &ended), ("scheduler", "the batch has ended")).await
        })
    })
    .await
}

/// Batches that have ended and are paused, by their ids without prefix.
async fn paused(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "select distinct l.subject from limits l join batches b on b.id = l.subject
         where l.scope = 'batch' and b.finished_at is not null order by l.subject limit $1",
        MOST,
    )
    .fetch_all(conn)
    .await
}
