//! Pausing: the customer's word that nothing more of a batch is to begin until further notice.
//!
//! Always holds: what is under way goes on, what waits keeps its money and its place; pausing what is paused changes nothing,
//! and so does resuming what goes on. Refuses: an operator's pause, which is a limit; a batch that has ended or is cancelled.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::db::ActError;
use crate::domain::{BatchId, BatchStatus, TenantId};

/// Why a batch is neither paused nor resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    #[error("there is no such batch of this tenant")]
    NoBatch,
    #[error("the batch has ended: it is {}", .0.word())]
    Ended(BatchStatus),
    #[error("the batch is cancelled: nothing more of it begins")]
    Cancelled,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl ActError for PauseError {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            PauseError::Database(error) => Some(error),
            PauseError::NoBatch | PauseError::Ended(_) | PauseError::Cancelled => None,
        }
    }
}

/// Pauses a batch; answers since when it is paused.
///
/// # Errors
/// [`PauseError`]; nothing was changed then.
pub async fn pause(conn: &mut PgConnection, tenant: TenantId, batch: BatchId) -> Result<DateTime<Utc>, PauseError> {
    Ok(set(conn, (tenant, batch), true).await?.unwrap_or_else(Utc::now))
}

/// Resumes a batch that its customer paused.
///
/// # Errors
/// [`PauseError`]; nothing was changed then.
pub async fn resume(conn: &mut PgConnection, tenant: TenantId, batch: BatchId) -> Result<(), PauseError> {
    set(conn, (tenant, batch), false).await?;
    Ok(())
}

async fn set(
    conn: &mut PgConnection,
    (tenant, batch): (TenantId, BatchId),
    paused: bool,
) -> Result<Option<DateTime<Utc>>, PauseError> {
    sqlx::query!(
        "update batches set paused_at = case when $3 then now() end
         where tenant_id = $1 and id = $2 and finished_at is null and cancelled_at is null and (paused_at is null) = $3",
        tenant as TenantId,
        batch as BatchId,
        paused,
    )
    .execute(&mut *conn)
    .await?;
    let row = sqlx::query!(
        r#"select paused_at, cancelled_at, finished_at, status as "status: BatchStatus"
           from batches where tenant_id = $1 and id = $2"#,
        tenant as TenantId,
        batch as BatchId,
    )
    .fetch_optional(conn)
    .await?
    .ok_or(PauseError::NoBatch)?;
    match (row.finished_at, row.cancelled_at) {
        (Some(_), _) => Err(PauseError::Ended(row.status)),
        (None, Some(_)) => Err(PauseError::Cancelled),
        (None, None) => Ok(row.paused_at),
    }
}
