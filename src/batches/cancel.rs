//! Cancelling: the customer's word that nothing more of a batch is to begin. The engine does the rest within two seconds.
//!
//! Always holds: a batch stays cancelled, and cancelling it again is answered the same. Refuses: to move money, to touch
//! videos; a finished batch.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::db::ActError;
use crate::domain::{BatchId, BatchStatus, TenantId};

/// Why a batch is not cancelled.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    #[error("there is no such batch of this tenant")]
    NoBatch,
    #[error("the batch has ended: it is {}", .0.word())]
    Ended(BatchStatus),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl ActError for CancelError {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            CancelError::Database(error) => Some(error),
            CancelError::NoBatch | CancelError::Ended(_) => None,
        }
    }
}

/// Cancels a batch; answers since when it is cancelled.
///
/// # Errors
/// [`CancelError`]; nothing was changed then.
pub async fn cancel(conn: &mut PgConnection, tenant: TenantId, batch: BatchId) -> Result<DateTime<Utc>, CancelError> {
    sqlx::query!(
        "update batches set cancelled_at = now()
         where tenant_id = $1 and id = $2 and finished_at is null and cancelled_at is null",
        tenant as TenantId,
        batch as BatchId,
    )
    .execute(&mut *conn)
    .await?;
    let row = sqlx::query!(
        r#"select cancelled_at, status as "status: BatchStatus" from batches where tenant_id = $1 and id = $2"#,
        tenant as TenantId,
        batch as BatchId,
    )
    .fetch_optional(conn)
    .await?;
    let row = row.ok_or(CancelError::NoBatch)?;
    row.cancelled_at.ok_or(CancelError::Ended(row.status))
}
