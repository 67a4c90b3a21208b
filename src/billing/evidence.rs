//! The ledger's evidence against tampering: checkpoints of its chain in the object store, and the verification against them.
//!
//! Always holds: what is verified is one snapshot, and the checkpoints were read before it, so that a busy installation shows
//! no false alarm; of kept checkpoints the latest [`KEPT`] stay: each of them pins everything before it.
//! Refuses: to change the books, to take a checkpoint whose signature is not ours for more than a finding.

use chrono::Utc;
use sqlx::Executor as _;

use crate::db::Database;
use crate::ledger::LedgerError;
use crate::ledger::chain::{self, Checkpoint, CheckpointKey, Fault, Finding, Head, Verification};
use crate::storage::{ObjectKey, ReadError, Storage};

/// Checkpoints that stay in the store.
const KEPT: usize = 2_000;

/// A text that should be a checkpoint, and where it is from.
#[derive(Clone, Debug)]
pub struct Given {
    pub name: String,
    pub text: String,
}

/// A verification that could not be made; it says nothing about the books.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    #[error("the ledger could not be read: {0}")]
    Ledger(#[from] LedgerError),
    #[error("the checkpoints in the object store could not be read")]
    Storage(#[from] ReadError),
}

impl From<sqlx::Error> for EvidenceError {
    fn from(error: sqlx::Error) -> EvidenceError {
        EvidenceError::Ledger(error.into())
    }
}

/// A checkpoint of the chain's present end; `None` while nothing is chained.
///
/// # Errors
/// The database's.
pub async fn checkpoint(db: &Database, key: &CheckpointKey) -> Result<Option<Checkpoint>, LedgerError> {
    let mut conn = db.pool().acquire().await?;
    Ok(chain::head(&mut conn).await?.map(|head| Checkpoint::sign(key, head, Utc::now())))
}

/// Puts a checkpoint of `head`, which must be committed, into the store, and drops the earliest beyond [`KEPT`].
///
/// # Errors
/// The store's.
pub async fn keep(storage: &Storage, key: &CheckpointKey, head: Head) -> Result<Checkpoint, ReadError> {
    let checkpoint = Checkpoint::sign(key, head, Utc::now());
    let object = ObjectKey::checkpoint(head.seq, &head.hash.to_string());
    storage.put_checkpoint(&object, checkpoint.line()).await?;
    let kept = storage.checkpoints().await?;
    for old in kept.iter().take(kept.len().saturating_sub(KEPT)) {
        storage.delete(old).await?;
    }
    Ok(checkpoint)
}

/// Verifies the whole ledger against its chain, against the checkpoints in the store and those in `given`.
///
/// # Errors
/// [`EvidenceError`].
pub async fn verify(
    db: &Database,
    storage: &Storage,
    key: &CheckpointKey,
    given: &[Given],
) -> Result<Verification, EvidenceError> {
    let kept = storage.read_checkpoints().await?.into_iter();
    let kept = kept.map(|(object, text)| Given { name: object.to_string(), text });
    let (mut checkpoints, mut forged) = (Vec::new(), Vec::new());
    for Given { name, text } in kept.chain(given.iter().cloned()) {
        match Checkpoint::read(key, &text) {
            Ok(checkpoint) => checkpoints.push(checkpoint),
            Err(error) => forged.push(Finding {
                fault: Fault::ForgedCheckpoint,
                seq: None,
                entry_id: None,
                detail: format!("{name}: {error}"),
            }),
        }
    }
    let mut tx = db.begin().await?;
    // a page is read in no time, except where everything is to be looked for what is not chained
    tx.execute("set transaction isolation level repeatable read, read only; set local statement_timeout = '15min'")
        .await?;
    let mut found = chain::verify(&mut tx, &checkpoints).await?;
    tx.rollback().await?;
    found.findings.extend(forged);
    Ok(found)
}
