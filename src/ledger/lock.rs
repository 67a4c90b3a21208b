//! The lock under which a batch is settled: whoever books for batches that exist takes it first, in the order of their ids, so
//! that two of them wait for each other and never deadlock, and the later one sees the other's counts.
//!
//! Refuses: to write.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use crate::domain::BatchId;

/// Locks these batches until the end of the transaction, before anything else that it locks.
///
/// # Errors
/// The database's.
pub async fn lock_batches(conn: &mut PgConnection, batches: BTreeSet<BatchId>) -> Result<(), sqlx::Error> {
    if batches.is_empty() {
        return Ok(());
    }
    let batches: Vec<String> = batches.into_iter().map(BatchId::bare).collect();
    sqlx::query!("select id from batches where id = any($1) order by id for update", &batches).fetch_all(conn).await?;
    Ok(())
}
