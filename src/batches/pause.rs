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
    let since = sqlx::query_scalar!(
        r#"update batches set paused_at = coalesce(paused_at, now())
           where tenant_id = $1 and id = $2 and finished_at is null and cancelled_at is null
           returning paused_at as "since!""#,
        tenant as TenantId,
        batch as BatchId,
    )
    .fetch_optional(&mut *conn)
    .await?;
    match since {
        Some(since) => Ok(since),
        None => Err(refused(conn, (tenant, batch)).await?),
    }
}

/// Resumes a batch that its customer paused.
///
/// # Errors
/// [`PauseError`]; nothing was changed then.
pub async fn resume(conn: &mut PgConnection, tenant: TenantId, batch: BatchId) -> Result<(), PauseError> {
    let resumed = sqlx::query!(
        "update batches set paused_at = null
         where tenant_id = $1 and id = $2 and finished_at is null and cancelled_at is null",
        tenant as TenantId,
        batch as BatchId,
    )
    .execute(&mut *conn)
    .await?;
    match resumed.rows_affected() {
        0 => Err(refused(conn, (tenant, batch)).await?),
        _ => Ok(()),
    }
}

/// Why a batch could be neither paused nor resumed.
async fn refused(conn: &mut PgConnection, (tenant, batch): (TenantId, BatchId)) -> Result<PauseError, sqlx::Error> {
    let row = sqlx::query!(
        r#"select finished_at is not null as "ended!", status as "status: BatchStatus"
           from batches where tenant_id = $1 and id = $2"#,
        tenant as TenantId,
        batch as BatchId,
    )
    .fetch_optional(conn)
    .await?;
    Ok(match row {
        None => PauseError::NoBatch,
        Some(row) if row.ended => PauseError::Ended(row.status),
        Some(_) => PauseError::Cancelled,
    })
}
