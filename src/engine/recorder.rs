//! Group commit: whatever transitions wait at a moment are written in one transaction.
//!
//! Always holds: a reply is sent only after the commit; one recorder writes in the order it was handed things; a
//! database that is away or restarts delays replies and loses none; a transition that the database refuses for its content
//! fails alone, whatever it was written together with.
//!
//! A commit whose answer was lost is written again, so a [`Journal`] must recognise what it has written already.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgConnection;
use tokio::sync::{mpsc, oneshot};

use crate::db::{self, Database};

/// Transitions of one transaction at the most. More gains nothing (measured).
const MAX_GROUP: usize = 512;
/// Transitions that may wait; beyond it `record` waits too.
const QUEUE: usize = 8192;
/// So often a group is tried whose failure is none of a passing kind.
const MAX_ODD_FAILURES: u32 = 4;
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// What is written, and how: the domain's part of a recorder.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    type Op: Send + Sync + 'static;
    type Reply: Send + 'static;

    /// Writes all of `ops` in the given transaction; one reply for each, in order. Called again with the same ops when it
    /// is not certain that they were committed.
    async fn write(&self, conn: &mut PgConnection, ops: &[Self::Op]) -> Result<Vec<Self::Reply>, JournalError>;
}

/// Why ops were not written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The content is at fault: writing it again would fail again.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for JournalError {
    /// Classes 22 (data), 23 (constraints) and P0 (raised by our own functions) speak about the content.
    fn from(error: sqlx::Error) -> JournalError {
        let code = error.as_database_error().and_then(|e| e.code()).unwrap_or_default();
        if ["22", "23", "P0"].iter().any(|class| code.starts_with(class)) {
            JournalError::Refused(error.to_string())
        } else {
            JournalError::Database(error)
        }
    }
}

/// A transition that was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum NotRecorded {
    #[error("the database refused the transition: {0}")]
    Refused(String),
    #[error("the recorder has stopped")]
    Stopped,
}

type Outcome<J> = Result<<J as Journal>::Reply, NotRecorded>;

/// A handle to a recorder. Cheap to clone.
pub struct Recorder<J: Journal> {
    sender: mpsc::Sender<(J::Op, oneshot::Sender<Outcome<J>>)>,
}

impl<J: Journal> Clone for Recorder<J> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone() }
    }
}

impl<J: Journal> Recorder<J> {
    /// Starts recording; ends when the last handle is dropped and everything handed in is written.
    pub fn start(db: Database, journal: J) -> Recorder<J> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(record_all(db, journal, receiver));
        Recorder { sender }
    }

    /// Hands a transition in and waits until it is committed.
    ///
    /// # Errors
    /// [`NotRecorded`]; nothing of the transition was written then.
    pub async fn record(&self, op: J::Op) -> Outcome<J> {
        self.hand_in(op).await?.await.map_err(|_| NotRecorded::Stopped)?
    }

    /// Hands a transition in without waiting for its commit; the receiver tells when it is.
    ///
    /// # Errors
    /// [`NotRecorded::Stopped`].
    pub async fn hand_in(&self, op: J::Op) -> Result<oneshot::Receiver<Outcome<J>>, NotRecorded> {
        let (reply, outcome) = oneshot::channel();
        self.sender.send((op, reply)).await.map_err(|_| NotRecorded::Stopped)?;
        Ok(outcome)
    }
}

async fn record_all<J: Journal>(
    db: Database,
    journal: J,
    mut receiver: mpsc::Receiver<(J::Op, oneshot::Sender<Outcome<J>>)>,
) {
    let mut waiting = Vec::with_capacity(MAX_GROUP);
    while receiver.recv_many(&mut waiting, MAX_GROUP).await > 0 {
        let (ops, replies): (Vec<J::Op>, Vec<_>) = waiting.drain(..).unzip();
        let started = std::time::Instant::now();
        let outcomes = write_group(&db, &journal, &ops).await;
        crate::metrics::recorder_flush(ops.len(), started.elapsed());
        for (reply, outcome) in replies.into_iter().zip(outcomes) {
            // whoever asked may be gone: the transition stands all the same
            let _ = reply.send(outcome);
        }
    }
}

/// Writes a group; when its content is refused, writes each half of it, down to the one transition at fault.
async fn write_group<J: Journal>(db: &Database, journal: &J, ops: &[J::Op]) -> Vec<Outcome<J>> {
    let mut outcomes = Vec::with_capacity(ops.len());
    // halves still to be written, the next one last
    let mut groups = vec![ops];
    while let Some(group) = groups.pop() {
        match write_until_certain(db, journal, group).await {
            Ok(replies) => outcomes.extend(replies.into_iter().map(Ok)),
            Err(why) if group.len() <= 1 => {
                tracing::error!(%why, "the database refused a transition for its content");
                outcomes.extend(group.iter().map(|_| Err(NotRecorded::Refused(why.clone()))));
            }
            Err(_) => {
                let (first, second) = group.split_at(group.len() / 2);
                groups.push(second);
                groups.push(first);
            }
        }
    }
    outcomes
}

/// Tries until the group is committed or its content refused.
async fn write_until_certain<J: Journal>(db: &Database, journal: &J, ops: &[J::Op]) -> Result<Vec<J::Reply>, String> {
    let mut backoff = FIRST_BACKOFF;
    let mut odd_failures = 0;
    loop {
        match write_once(db, journal, ops).await {
            Ok(replies) if replies.len() == ops.len() => return Ok(replies),
            Ok(replies) => return Err(format!("{} transitions were answered by {} replies", ops.len(), replies.len())),
            Err(JournalError::Refused(why)) => return Err(why),
            // neither the connection nor a lost race: if it stays, the content must be at fault after all
            Err(JournalError::Database(error)) if !passes(&error) && odd_failures >= MAX_ODD_FAILURES => {
                return Err(error.to_string());
            }
            Err(JournalError::Database(error)) => {
                odd_failures += u32::from(!passes(&error));
                tracing::warn!(%error, transitions = ops.len(), backoff_ms = backoff.as_millis() as u64, "recording failed; trying again");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        }
    }
}

/// Whether an error speaks of the database's state and not of what was written: connections (08), lost races (40),
/// resources (53), locks (55), shutdown (57P) and the system (58).
fn passes(error: &sqlx::Error) -> bool {
    match error.as_database_error().and_then(|e| e.code()) {
        Some(code) => ["08", "40", "53", "55", "57P", "58"].iter().any(|class| code.starts_with(class)),
        None => !matches!(
            error,
            sqlx::Error::Decode(_)
                | sqlx::Error::Encode(_)
                | sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::ColumnNotFound(_)
                | sqlx::Error::ColumnIndexOutOfBounds { .. }
                | sqlx::Error::TypeNotFound { .. }
                | sqlx::Error::RowNotFound
        ),
    }
}

async fn write_once<J: Journal>(db: &Database, journal: &J, ops: &[J::Op]) -> Result<Vec<J::Reply>, JournalError> {
    let mut tx = db.begin().await?;
    let replies = journal.write(&mut tx, ops).await?;
    db::commit("record transitions", tx).await?;
    Ok(replies)
}
