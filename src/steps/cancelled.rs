//! Which batches are cancelled while videos of them are being made, as every step of this process knows it.
//!
//! Always holds: what is known is one look old at the most; a look that fails leaves it as it was. That somebody learns of a
//! cancellation late costs work at the provider and nothing else: what has not begun is kept from beginning by the database.
//! Refuses: to end anything. Whoever has a job at a provider asks for it to be stopped.

use std::collections::HashSet;

use tokio::sync::watch;

use crate::db::Database;
use crate::domain::BatchId;

/// The open batches that are cancelled.
#[derive(Debug)]
pub struct CancelledBatches(watch::Sender<HashSet<BatchId>>);

impl Default for CancelledBatches {
    fn default() -> CancelledBatches {
        CancelledBatches(watch::Sender::new(HashSet::new()))
    }
}

impl CancelledBatches {
    pub(super) fn has(&self, batch: BatchId) -> bool {
        self.0.borrow().contains(&batch)
    }

    /// Resolves when the batch is cancelled.
    pub(super) async fn until(&self, batch: BatchId) {
        // an error would say that the sender is gone, which this borrows
        let _ = self.0.subscribe().wait_for(|open| open.contains(&batch)).await;
    }

    /// Looks which there are now.
    ///
    /// # Errors
    /// The database's.
    pub async fn look(&self, db: &Database) -> Result<(), sqlx::Error> {
        let open = sqlx::query_scalar!(
            r#"select id as "id: BatchId" from batches where finished_at is null and cancelled_at is not null"#,
        )
        .fetch_all(db.pool())
        .await?;
        let open: HashSet<BatchId> = open.into_iter().collect();
        self.0.send_if_modified(|known| {
            let changed = *known != open;
            *known = open;
            changed
        });
        Ok(())
    }
}
