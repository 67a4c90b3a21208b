//! The locks of lanes, taken in the one order that everybody keeps: by batch and model as the scheduler's release does, and
//! after those of batches (see [`crate::ledger::lock_batches`]). Whoever keeps it waits for others and never deadlocks.
//!
//! Refuses: to write.

use sqlx::PgConnection;

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
