//! An operator's correction of a wallet: one act, with who and why.

use crate::db::{self, ActError, Database};
use crate::domain::{Credits, GrantSource, TenantId};
use crate::ledger::{self, Adjustment, LedgerError, Stamp};

/// A correction that was not made.
#[derive(Debug, thiserror::Error)]
pub enum AdjustmentError {
    #[error("an adjustment needs a name and a reason: whoever reads the ledger asks for both")]
    NotExplained,
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl AdjustmentError {
    /// Whether it may have been made all the same: the answer to its commit was lost.
    pub fn is_unknown(&self) -> bool {
        self.database_error().and_then(db::commit_unknown).is_some()
    }
}

impl ActError for AdjustmentError {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            AdjustmentError::Database(error) | AdjustmentError::Ledger(LedgerError::Database(error)) => Some(error),
            AdjustmentError::Ledger(_) | AdjustmentError::NotExplained => None,
        }
    }
}

/// Adjusts one source of a tenant's wallet, in the name of `actor` and for `reason`. Answers the balance after it.
///
/// # Errors
/// [`AdjustmentError`]; nothing was changed then, unless it [is unknown](AdjustmentError::is_unknown).
pub async fn adjust(
    db: &Database,
    (tenant, source): (TenantId, GrantSource),
    adjustment: Adjustment,
    (actor, reason): (&str, &str),
) -> Result<Credits, AdjustmentError> {
    let (actor, reason) = (actor.trim().to_owned(), reason.trim().to_owned());
    if actor.is_empty() || reason.is_empty() {
        return Err(AdjustmentError::NotExplained);
    }
    let request_id = format!("adjustment-{}", ulid::Ulid::generate());
    db.act("adjust wallet", move |tx| {
        let (actor, reason, request_id) = (actor.clone(), reason.clone(), request_id.clone());
        Box::pin(async move {
            let stamp = Stamp { actor: &actor, reason: &reason, request_id: &request_id };
            Ok(ledger::adjust(tx, tenant, source, adjustment, stamp).await?)
        })
    })
    .await
}
