//! The ledger's evidence against tampering: checkpoints of its chain in the object store, the verification against them, and
//! the notes of those who put a database back on purpose.
//!
//! Always holds: what is verified is one snapshot, and the checkpoints were read before it, so that a busy installation shows
//! no false alarm; of kept checkpoints the latest [`KEPT`] stay: each of them pins everything before it. A note of a restore
//! is signed only for a chain that is sound in itself and agrees with every checkpoint up to the row that it names.
//! Refuses: to change the books, to believe a checkpoint whose signature is not ours.

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

/// A restore that is not noted.
#[derive(Debug, thiserror::Error)]
pub enum RestoreRefused {
    #[error("the ledger has faults that no restore explains ({0}): `freezeframe ledger verify` names them")]
    OtherFaults(u64),
    #[error(
        "rows were chained since the database was put back, so it has to be said how far: name the last row that it had then \
         with --row, before row {0}, of which a checkpoint saw another hash"
    )]
    RowNeeded(i64),
    #[error(
        "a checkpoint disagrees with row {disagrees} already: the database did not have the rows up to {row} unchanged"
    )]
    DisagreesBefore { disagrees: i64, row: i64 },
    #[error("the chain has no row {row}: it ends at row {end}")]
    NoSuchRow { row: i64, end: i64 },
    #[error(
        "more checkpoints disagree than a note can name: move those of rows behind the restored one out of the store"
    )]
    TooManyCheckpoints,
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
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
    // of later rows are those that a restore retired, and a few of another process
    let mut kept = storage.evidence(Evidence::Checkpoint).await?;
    kept.retain(|other| *other != object && other.evidence_row().is_some_and(|row| row <= head.seq));
    for old in kept.iter().take((kept.len() + 1).saturating_sub(KEPT)) {
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
    verify_against(db, Known::read(storage, key, given).await?).await.map(|(found, _)| found)
}

/// What is held against the chain.
struct Known {
    checkpoints: Vec<Checkpoint>,
    restores: Vec<RestoreNote>,
    forged: Vec<Finding>,
}

impl Known {
    async fn read(storage: &Storage, key: &CheckpointKey, given: &[Given]) -> Result<Known, EvidenceError> {
        let mut forged = Vec::new();
        let mut kept = texts(storage, Evidence::Checkpoint).await?;
        kept.extend(given.iter().cloned());
        let checkpoints = known(&kept, |text| Checkpoint::read(key, text), &mut forged);
        let restores = texts(storage, Evidence::Restore).await?;
        let restores = known(&restores, |text| RestoreNote::read(key, text), &mut forged);
        Ok(Known { checkpoints, restores, forged })
    }
}

/// Answers the checkpoints too.
async fn verify_against(db: &Database, known: Known) -> Result<(Verification, Vec<Checkpoint>), EvidenceError> {
    let Known { checkpoints, restores, forged } = known;
    let mut tx = db.begin().await?;
    // a page is read in no time, except where everything is to be looked for what is not chained
    tx.execute("set transaction isolation level repeatable read, read only; set local statement_timeout = '15min'")
        .await?;
    let mut found = chain::verify(&mut tx, &checkpoints, &restores).await?;
    tx.rollback().await?;
    found.findings.extend(forged);
    Ok((found, checkpoints))
}

/// Notes that the database was put back on purpose to `row`, by default the present end of the chain: the checkpoints of
/// later rows that are in the store and in `given` count no more. The note stands in every later verification, and a checkpoint of the present end is kept beside it.
/// `None` when every checkpoint agrees with the chain: then nothing is to be noted.
///
/// # Errors
/// [`RestoreRefused`]: nothing was noted then.
pub async fn note_restore(
    (db, storage, key): (&Database, &Storage, &CheckpointKey),
    given: &[Given],
    (row, reason): (Option<i64>, &str),
) -> Result<Option<RestoreNote>, RestoreRefused> {
    let (found, checkpoints) = verify_against(db, Known::read(storage, key, given).await?).await?;
    let listed = found.findings.iter().filter(|finding| !finding.fault.is_of_checkpoint()).count();
    let others = found.unlisted + listed as u64;
    if others > 0 {
        return Err(RestoreRefused::OtherFaults(others));
    }
    let noted = match found.disagrees_at {
        Some(disagrees) => {
            let row = match row {
                Some(row) => row,
                None if disagrees > found.end => found.end,
                None => return Err(RestoreRefused::RowNeeded(disagrees)),
            };
            if disagrees <= row && disagrees <= found.end {
                return Err(RestoreRefused::DisagreesBefore { disagrees, row });
            }
            let note = RestoreNote::sign(key, row_of(db, row, found.end).await?, &checkpoints, reason, Utc::now());
            let object = ObjectKey::evidence(Evidence::Restore, row, &note.mac().to_string());
            if note.line().len() as u64 > Evidence::Restore.most_bytes() {
                return Err(RestoreRefused::TooManyCheckpoints);
            }
            storage.put_evidence(&object, note.line()).await.map_err(EvidenceError::from)?;
            Some(note)
        }
        None => None,
    };
    let mut conn = db.pool().acquire().await.map_err(EvidenceError::from)?;
    let end = chain::head(&mut conn).await.map_err(EvidenceError::from)?;
    drop(conn);
    if let Some(end) = end {
        keep(storage, key, end).await.map_err(EvidenceError::from)?;
    }
    Ok(noted)
}

/// Row 0 stands before the first.
async fn row_of(db: &Database, row: i64, end: i64) -> Result<Head, RestoreRefused> {
    if row == 0 {
        return Ok(Head { seq: 0, hash: chain::GENESIS });
    }
    let mut conn = db.pool().acquire().await.map_err(EvidenceError::from)?;
    let found = chain::row(&mut conn, row).await.map_err(EvidenceError::from)?;
    found.ok_or(RestoreRefused::NoSuchRow { row, end })
}

/// Whether the chain ends before a row that a checkpoint in the store has seen and no restore explains: the database was put
/// back. Answers that checkpoint. What is not ours in the store is left to [`verify`].
///
/// # Errors
/// [`EvidenceError`].
pub async fn set_back(
    db: &Database,
    storage: &Storage,
    key: &CheckpointKey,
) -> Result<Option<Checkpoint>, EvidenceError> {
    let mut latest = storage.evidence(Evidence::Checkpoint).await?;
    // read after the checkpoints, which were committed before they were kept
    let end = checkpoint(db, key).await?.map_or(0, |end| end.seq());
    latest.retain(|object| object.evidence_row().is_some_and(|row| row > end));
    if latest.is_empty() {
        return Ok(None);
    }
    let restores = texts(storage, Evidence::Restore).await?;
    let restores = known(&restores, |text| RestoreNote::read(key, text), &mut Vec::new());
    let seen = given(storage.read_evidence(latest).await?);
    let seen = known(&seen, |text| Checkpoint::read(key, text), &mut Vec::new());
    let unexplained = |seen: &Checkpoint| seen.seq() > end && !restores.iter().any(|note| note.retires(seen));
    Ok(seen.into_iter().rev().find(unexplained))
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
