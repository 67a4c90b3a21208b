//! Cancelling: the customer's word, or an operator's, that nothing more of a batch is to begin. The engine does the rest within
//! two seconds.
//!
//! Always holds: a batch stays cancelled, and cancelling it again is answered the same; an operator who cancels is written
//! down with the reason in the same transaction. Refuses: to move money, to touch videos; a finished batch.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

use crate::db::{ActError, Database};
use crate::domain::{BatchId, BatchStatus, TenantId};
use crate::operators::{self, Act, Said};

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

/// Cancels a batch, whoever's it is, as its tenant would; answers since when it is cancelled.
///
/// # Errors
/// [`CancelError`]; nothing was changed then.
pub async fn cancel_as_operator(db: &Database, batch: BatchId, said: &Said) -> Result<DateTime<Utc>, CancelError> {
    let said = said.clone();
    db.act("operator cancels batch", move |tx| {
        let said = said.clone();
        Box::pin(async move {
            let row = sqlx::query!(
                r#"select tenant_id as "tenant: TenantId", cancelled_at is null as "first!" from batches
                   where id = $1 for update"#,
                batch as BatchId,
            )
            .fetch_optional(&mut **tx)
            .await?;
            let row = row.ok_or(CancelError::NoBatch)?;
            let since = cancel(tx, row.tenant, batch).await?;
            if row.first {
                let (about, batches) = (json!({ "ids": [batch] }), [batch]);
                let Said { by, reason } = &said;
                operators::note(tx, &Act { name: "cancel", by, reason: Some(reason), about, batches: &batches })
                    .await?;
            }
            Ok(since)
        })
    })
    .await
}

/// Cancels those of these batches that have neither ended nor been cancelled; answers them.
///
/// # Errors
/// The database's.
pub(super) async fn cancel_open(conn: &mut PgConnection, batches: &[BatchId]) -> Result<Vec<BatchId>, sqlx::Error> {
    let ids: Vec<String> = batches.iter().map(|id| id.bare()).collect();
    // in the order in which everybody locks batches
    sqlx::query!("select id from batches where id = any($1) order by id for update", &ids)
        .fetch_all(&mut *conn)
        .await?;
    sqlx::query_scalar!(
        r#"update batches set cancelled_at = now()
           where id = any($1) and finished_at is null and cancelled_at is null returning id as "id: BatchId""#,
        &ids,
    )
    .fetch_all(conn)
    .await
}
