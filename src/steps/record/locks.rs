//! The locks of what many videos share, each taken in the one order that everybody keeps: batches by id before anything
//! else, lanes by batch and model as the scheduler's release does. Whoever keeps it waits for others and never deadlocks.
//!
//! Refuses: to write.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use crate::domain::BatchId;

/// Two recorders that end videos of the same batches wait for each other here, and the later one sees the other's counts.
pub(super) async fn lock_batches(conn: &mut PgConnection, batches: BTreeSet<BatchId>) -> Result<(), sqlx::Error> {
    if batches.is_empty() {
        return Ok(());
    }
    let batches: Vec<String> = batches.into_iter().map(BatchId::bare).collect();
    sqlx::query!("select id from batches where id = any($1) order by id for update", &batches).fetch_all(conn).await?;
    Ok(())
}

/// Locks the lanes of these batches and models, one each.
pub(super) async fn lock_lanes(
    conn: &mut PgConnection,
    batches: &[String],
    models: &[String],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "select l.batch_id from batch_lanes l join unnest($1::text[], $2::text[]) as i (batch_id, model)
             on l.batch_id = i.batch_id and l.model = i.model
         order by l.batch_id, l.model for update of l",
        batches,
        models,
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}
