//! The ledger's evidence against tampering: checkpoints of its chain in the object store, the verification against them, and
//! the notes of those who put a database back on purpose.
//!
//! Always holds: what is verified is one snapshot, and the checkpoints were read before it, so that a busy installation shows
//! no false alarm; of kept checkpoints the latest [`KEPT`] stay: each of them pins everything before it.
//! Refuses: to change the books, to take a checkpoint whose signature is not ours for more than a finding.

use chrono::Utc;
use sqlx::Executor as _;

use crate::db::Database;
use crate::ledger::LedgerError;
use crate::ledger::chain::{
    self, Checkpoint, CheckpointKey, Fault, Finding, Head, InvalidCheckpoint, RestoreNote, Verification,
};
use crate::storage::{Evidence, ObjectKey, ReadError, Storage};

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
    let object = ObjectKey::evidence(Evidence::Checkpoint, head.seq, &head.hash.to_string());
    storage.put_evidence(&object, checkpoint.line()).await?;
    let kept = storage.evidence(Evidence::Checkpoint).await?;
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
    let mut forged = Vec::new();
    let mut kept = texts(storage, Evidence::Checkpoint).await?;
    kept.extend(given.iter().cloned());
    let checkpoints = known(&kept, |text| Checkpoint::read(key, text), &mut forged);
    let restores = texts(storage, Evidence::Restore).await?;
    let restores = known(&restores, |text| RestoreNote::read(key, text), &mut forged);
    let mut tx = db.begin().await?;
    // a page is read in no time, except where everything is to be looked for what is not chained
    tx.execute("set transaction isolation level repeatable read, read only; set local statement_timeout = '15min'")
        .await?;
    let mut found = chain::verify(&mut tx, &checkpoints, &restores).await?;
    tx.rollback().await?;
    found.findings.extend(forged);
    Ok(found)
}

/// Notes that the database was put back on purpose: checkpoints of rows that it lacks, or that were written anew since, count
/// no more. The note stands in every later verification, and a checkpoint of the present end is kept beside it. `None` when
/// every checkpoint agrees with the chain: then nothing is to be noted.
///
/// # Errors
/// [`EvidenceError`].
pub async fn note_restore(
    db: &Database,
    storage: &Storage,
    key: &CheckpointKey,
    reason: &str,
) -> Result<Option<RestoreNote>, EvidenceError> {
    let found = verify(db, storage, key, &[]).await?;
    let of_checkpoint = |fault: Fault| matches!(fault, Fault::DiffersFromCheckpoint | Fault::ShorterThanCheckpoint);
    let first =
        found.findings.iter().filter(|finding| of_checkpoint(finding.fault)).filter_map(|finding| finding.seq).min();
    let Some(first) = first else { return Ok(None) };
    let mut conn = db.pool().acquire().await?;
    let before = match chain::row(&mut conn, first - 1).await? {
        Some(row) => row,
        None => Head { seq: 0, hash: chain::GENESIS },
    };
    let note = RestoreNote::sign(key, before, reason, Utc::now());
    let end = chain::head(&mut conn).await?;
    drop(conn);
    let object = ObjectKey::evidence(Evidence::Restore, before.seq, &note.mac().to_string());
    storage.put_evidence(&object, note.line()).await?;
    if let Some(end) = end {
        keep(storage, key, end).await?;
    }
    Ok(Some(note))
}

/// Whether the chain ends before a row that a checkpoint in the store has seen and no restore explains: the database was put
/// back. Answers that checkpoint.
///
/// # Errors
/// [`EvidenceError`].
pub async fn set_back(
    db: &Database,
    storage: &Storage,
    key: &CheckpointKey,
) -> Result<Option<Checkpoint>, EvidenceError> {
    let keys = storage.evidence(Evidence::Checkpoint).await?;
    let restores = texts(storage, Evidence::Restore).await?;
    let restores = known(&restores, |text| RestoreNote::read(key, text), &mut Vec::new());
    // read after the checkpoints, which were committed before they were kept
    let end = checkpoint(db, key).await?.map_or(0, |end| end.seq());
    for latest in keys.into_iter().rev().take_while(|object| object.evidence_row().is_some_and(|row| row > end)) {
        let text = given(storage.read_evidence(vec![latest]).await?);
        let seen = known(&text, |text| Checkpoint::read(key, text), &mut Vec::new());
        let unexplained = seen.into_iter().find(|seen| !restores.iter().any(|note| note.retires(seen)));
        if unexplained.is_some() {
            return Ok(unexplained);
        }
    }
    Ok(None)
}

async fn texts(storage: &Storage, kind: Evidence) -> Result<Vec<Given>, ReadError> {
    Ok(given(storage.read_evidence(storage.evidence(kind).await?).await?))
}

fn given(texts: Vec<(ObjectKey, String)>) -> Vec<Given> {
    texts.into_iter().map(|(object, text)| Given { name: object.to_string(), text }).collect()
}

/// What is ours of `texts`; the others are named.
fn known<T>(texts: &[Given], read: impl Fn(&str) -> Result<T, InvalidCheckpoint>, forged: &mut Vec<Finding>) -> Vec<T> {
    let mut ours = Vec::new();
    for Given { name, text } in texts {
        match read(text) {
            Ok(one) => ours.push(one),
            Err(error) => forged.push(Finding {
                fault: Fault::ForgedCheckpoint,
                seq: None,
                entry_id: None,
                detail: format!("{name}: {error}"),
            }),
        }
    }
    ours
}
