//! The reconciliation: the ledger's own differences, every place where money and work tell different stories, and what the
//! object store and the providers say to that.
//!
//! Owns the stored results ([`record`]), from which the whole cluster knows when the next comparison is due ([`audit`]) and
//! whether this incarnation of the database was ever compared ([`admission`]).
//! Always holds: everything of the database is read in one snapshot, so that a busy installation shows no false alarm; what
//! is outside of it is looked at again in the database before it counts as missing.
//! Refuses: to change anything but its own results.

mod admission;
mod audit;
mod files;
mod jobs;
mod kinds;
mod record;

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::Executor as _;

use crate::db::{Database, Tx};
use crate::ledger::{self, Books, Difference, LedgerError};
pub use admission::{NotAdmitted, admit_workers};
pub use audit::{Auditor, Rest, Scope};
pub use files::{FileDepth, FilesCompared};
pub use jobs::{AccountCompared, JobsCompared};
pub use kinds::{About, KINDS, about};
pub use record::{LastRun, last_run};

/// The books of one moment and everything that is wrong with them.
#[derive(Clone, Debug, Serialize)]
pub struct Reconciliation {
    pub books: Books,
    /// Ids as they are stored, without their prefix; `batch/model` and `tenant/source` where there is no single one.
    pub differences: Vec<Difference>,
    /// What was looked at outside of the database.
    pub compared: Compared,
}

/// What was looked at outside of the database, and what could not be.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Compared {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesCompared>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<AccountCompared>,
}

impl Reconciliation {
    /// Whether no credit appeared or disappeared and every record has its counterpart.
    pub fn is_clean(&self) -> bool {
        self.books.sum == 0 && self.differences.is_empty()
    }

    /// Whether everything that was to be compared could be read.
    pub fn is_complete(&self) -> bool {
        self.compared.files.as_ref().is_none_or(|files| files.unreadable == 0)
            && self
                .compared
                .providers
                .iter()
                .all(|account| !matches!(account.outcome, JobsCompared::Unavailable { .. }))
    }

    /// How many differences there are of each kind.
    pub fn kinds(&self) -> BTreeMap<&str, u64> {
        let mut kinds = BTreeMap::new();
        self.differences.iter().for_each(|difference| *kinds.entry(difference.what.as_str()).or_default() += 1);
        kinds
    }

    /// Whether the money itself is in doubt. A kind that is not known here counts as money.
    pub fn doubts_money(&self) -> bool {
        self.books.sum != 0 || self.differences.iter().any(|difference| about(&difference.what) == About::Money)
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

/// Compares the whole database, every row of it.
///
/// # Errors
/// The database's.
pub async fn reconcile(db: &Database) -> Result<Reconciliation, ReconcileError> {
    let mut tx = snapshot(db).await?;
    let books = ledger::books(&mut tx).await?;
    let mut differences = ledger::differences(&mut tx).await?;
    differences.extend(sqlx::query_file_as!(Difference, "src/billing/reconcile.sql").fetch_all(&mut *tx).await?);
    differences
        .extend(sqlx::query_file_as!(Difference, "src/billing/reconcile/records.sql").fetch_all(&mut *tx).await?);
    tx.rollback().await?;
    Ok(Reconciliation { books, differences, compared: Compared::default() })
}

/// Everything of one moment, with plans for whole tables: the engine's own are made for a few rows.
async fn snapshot(db: &Database) -> Result<Tx, sqlx::Error> {
    let mut tx = db.begin().await?;
    // a comparison of everything may take longer than any other statement is allowed to
    tx.execute(
        "set transaction isolation level repeatable read, read only; set local statement_timeout = '15min';
         set local enable_seqscan = on; set local enable_bitmapscan = on",
    )
    .await?;
    Ok(tx)
}
