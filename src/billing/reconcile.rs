//! The reconciliation: the ledger's own differences, and every place where money and work tell different stories.
//!
//! Always holds: everything is read in one snapshot, so that a busy installation shows no false alarm.
//! Refuses: to change anything; the transaction is read only.

use serde::Serialize;
use sqlx::Executor as _;

use crate::db::Database;
use crate::ledger::{self, Books, Difference, LedgerError};
use crate::metrics;

/// The books of one moment and everything that is wrong with them.
#[derive(Clone, Debug, Serialize)]
pub struct Reconciliation {
    pub books: Books,
    /// Ids as they are stored, without their prefix; `batch/model` and `tenant/source` where there is no single one.
    pub differences: Vec<Difference>,
}

impl Reconciliation {
    /// Whether no credit appeared or disappeared and every record has its counterpart.
    pub fn is_clean(&self) -> bool {
        self.books.sum == 0 && self.differences.is_empty()
    }
}

/// A reconciliation that could not be made; it says nothing about the books.
#[derive(Debug, thiserror::Error)]
#[error("the books could not be compared: {0}")]
pub struct ReconcileError(LedgerError);

impl From<LedgerError> for ReconcileError {
    fn from(error: LedgerError) -> ReconcileError {
        ReconcileError(error)
    }
}

impl From<sqlx::Error> for ReconcileError {
    fn from(error: sqlx::Error) -> ReconcileError {
        ReconcileError(error.into())
    }
}

/// Compares the whole database, every row of it, and sets the gauges of the books.
///
/// # Errors
/// The database's.
pub async fn reconcile(db: &Database) -> Result<Reconciliation, ReconcileError> {
    let mut tx = db.begin().await?;
    // a comparison of everything may take longer than any other statement is allowed to
    tx.execute("set transaction isolation level repeatable read, read only; set local statement_timeout = '15min'")
        .await?;
    let books = ledger::books(&mut tx).await?;
    let mut differences = ledger::differences(&mut tx).await?;
    let beyond = sqlx::query_file_as!(Difference, "src/billing/reconcile.sql").fetch_all(&mut *tx).await?;
    differences.extend(beyond);
    tx.rollback().await?;
    metrics::books(books.sum, differences.len());
    Ok(Reconciliation { books, differences })
}
