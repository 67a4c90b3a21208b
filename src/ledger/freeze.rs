//! The freeze: the whole price of a batch leaves the wallet before the batch exists for anybody else.

use sqlx::PgConnection;

use super::{LedgerError, Stamp};
use crate::domain::{BatchId, Credits, TenantId};

/// A price that was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frozen {
    pub amount: Credits,
    /// What the tenant may still spend.
    pub available_after: Credits,
}

/// Why nothing was frozen.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    #[error("{required} credits are required and {available} are available")]
    Short { required: Credits, available: Credits },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl From<sqlx::Error> for FreezeError {
    fn from(error: sqlx::Error) -> FreezeError {
        FreezeError::Ledger(error.into())
    }
}

/// Freezes `amount` for `batch`, drawing promotional credits first, then paid ones, then the credit line.
///
/// Concurrent freezes of one tenant wait for each other, so a refusal is always a true one: [`FreezeError::Short`] with what
/// was available at that moment, and nothing changed.
///
/// # Errors
/// [`FreezeError::Short`], or the database's.
pub async fn freeze(
    conn: &mut PgConnection,
    (tenant, batch): (TenantId, BatchId),
    amount: Credits,
    videos: u32,
    stamp: Stamp<'_>,
) -> Result<Frozen, FreezeError> {
    let videos = i32::try_from(videos).map_err(|_| LedgerError::OutOfRange { doing: "counting videos" })?;
    sqlx::query!("select from wallets where tenant_id = $1 order by source for update", tenant as TenantId)
        .execute(&mut *conn)
        .await?;
    let drawn = sqlx::query_file!(
        "src/ledger/sql/freeze.sql",
        tenant as TenantId,
        batch as BatchId,
        amount.get(),
        videos,
        stamp.actor,
        stamp.reason,
        stamp.request_id,
    )
    .fetch_one(conn)
    .await?;
    let credits = |n: i64| Credits::new(n).map_err(|_| LedgerError::OutOfRange { doing: "freezing credits" });
    let (frozen, available) = (credits(drawn.frozen)?, credits(drawn.available_before)?);
    if frozen != amount {
        return Err(FreezeError::Short { required: amount, available });
    }
    let available_after = available.minus(frozen).ok_or(LedgerError::OutOfRange { doing: "freezing credits" })?;
    Ok(Frozen { amount, available_after })
}
