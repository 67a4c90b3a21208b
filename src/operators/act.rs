//! The history of what operators did. Only ever added to.

use serde_json::Value;
use sqlx::PgConnection;

use crate::domain::BatchId;

/// What was done.
pub struct Act<'a> {
    /// `add_operator`, `revoke_operator`, `cancel`, `pause` or `resume`.
    pub name: &'static str,
    pub by: &'a str,
    /// Only acts on operators may go without.
    pub reason: Option<&'a str>,
    /// The operator, or the batches that were asked for.
    pub about: Value,
    /// Those that were changed.
    pub batches: &'a [BatchId],
}

/// Writes an act down, in the transaction that does it.
///
/// # Errors
/// The database's.
pub async fn note(conn: &mut PgConnection, act: &Act<'_>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into operator_acts (act, actor, reason, about, batches) values ($1, $2, $3, $4, $5)",
        act.name,
        act.by,
        act.reason,
        act.about,
        &act.batches.iter().map(|id| id.bare()).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}
