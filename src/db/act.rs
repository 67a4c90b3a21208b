//! A money act: one closure, one transaction, run to its end.
//!
//! An act runs in a task of its own, because an HTTP handler's future is dropped when its client goes away and half an act
//! must never depend on a client's patience. It is committed when the closure answers `Ok` and rolled back otherwise. The
//! whole closure runs again when the database itself gave the transaction up (serialization failure, deadlock), and for no
//! other reason: a commit whose answer was lost may have happened, so it is reported as [`CommitUnknown`] and never tried
//! again here. An act that swallowed a failed statement is refused instead of being silently rolled back.

use std::{fmt, io, time::Duration};

use futures_util::future::BoxFuture;
use rand::RngExt;
use sqlx::{
    Executor, PgPool, Postgres,
    postgres::{PgDatabaseError, PgSeverity},
};
use tokio::task::JoinError;
use tracing::Instrument;

use super::Database;

/// The transaction inside an act: `sqlx::query!(..).execute(&mut **tx)`.
pub type Tx = sqlx::Transaction<'static, Postgres>;

/// How often an act runs at most.
const MAX_ATTEMPTS: u32 = 6;

/// The pause after the first lost race, in milliseconds; doubled each time, of which a random half to whole is waited.
const FIRST_PAUSE_MS: u64 = 10;

const SERIALIZATION_FAILURE: &str = "40001";
const DEADLOCK_DETECTED: &str = "40P01";
const IN_FAILED_TRANSACTION: &str = "25P02";

/// An error that an act can end with. It says which database error it stems from, so that a lost race can be told apart.
pub trait ActError: From<sqlx::Error> + Send + 'static {
    /// The database error behind this one, if there is one.
    fn database_error(&self) -> Option<&sqlx::Error>;
}

impl ActError for sqlx::Error {
    fn database_error(&self) -> Option<&sqlx::Error> {
        Some(self)
    }
}

impl ActError for anyhow::Error {
    fn database_error(&self) -> Option<&sqlx::Error> {
        self.chain().find_map(|cause| cause.downcast_ref())
    }
}

/// The connection broke after COMMIT was sent and before its answer came: the act happened, or it did not. Reading the
/// act's own row (by its idempotency key) tells. Found in any error with [`commit_unknown`].
#[derive(Debug)]
pub struct CommitUnknown {
    /// The act's name.
    pub act: &'static str,
    /// What broke.
    pub cause: String,
}

impl fmt::Display for CommitUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CommitUnknown { act, cause } = self;
        write!(f, "the answer to the commit of {act:?} was lost, so whether it happened is unknown ({cause})")
    }
}

impl std::error::Error for CommitUnknown {}

impl CommitUnknown {
    pub(super) fn into_error(self) -> sqlx::Error {
        tracing::error!(act = self.act, cause = %self.cause, "the answer to a commit was lost");
        sqlx::Error::Io(io::Error::other(self))
    }
}

/// The lost commit that `error` reports, if it does.
pub fn commit_unknown(error: &sqlx::Error) -> Option<&CommitUnknown> {
    match error {
        sqlx::Error::Io(io) => io.get_ref()?.downcast_ref(),
        _ => None,
    }
}

impl Database {
    /// Runs `work` in one transaction and commits it; see the module's text for what is retried and what is not.
    ///
    /// `work` may run several times: what it captures it clones, and it does nothing outside the transaction. Dropping
    /// the returned future after its first poll does not stop the act. A panic in `work` rolls back and goes on here.
    pub async fn act<T, E, F>(&self, name: &'static str, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: ActError,
        F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + Sync + 'static,
    {
        let pool = self.pool.clone();
        let act = async move { attempt_until_settled(name, || attempt_once(&pool, name, &work)).await };
        ended(name, self.acts.spawn(act.in_current_span()).await)
    }
}

/// What came of the task of an act. A panic in it goes on here.
pub(super) fn ended<T, E: ActError>(name: &'static str, task: Result<Result<T, E>, JoinError>) -> Result<T, E> {
    match task {
        Ok(outcome) => outcome,
        Err(gone) => match gone.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(stopped) => Err(CommitUnknown { act: name, cause: stopped.to_string() }.into_error().into()),
        },
    }
}

/// Makes attempts until one is committed or fails for good.
pub(super) async fn attempt_until_settled<T, E: ActError, A: Future<Output = Result<T, E>>>(
    name: &'static str,
    once: impl Fn() -> A,
) -> Result<T, E> {
    let mut attempt = 1;
    loop {
        match once().await {
            Err(error) if attempt < MAX_ATTEMPTS && lost_a_race(&error) => {
                tracing::debug!(act = name, attempt, "the database gave the transaction up; running it again");
                tokio::time::sleep(pause_after(attempt)).await;
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

async fn attempt_once<T, E, F>(pool: &PgPool, name: &'static str, work: &F) -> Result<T, E>
where
    E: ActError,
    F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, E>>,
{
    let mut tx = pool.begin().await?;
    let done = work(&mut tx).await;
    end(name, tx, done).await
}

/// Commits what was done and rolls back what failed.
pub(super) async fn end<T, E: ActError>(
    name: &'static str,
    tx: sqlx::Transaction<'_, Postgres>,
    done: Result<T, E>,
) -> Result<T, E> {
    match done {
        Ok(value) => {
            commit(name, tx).await?;
            Ok(value)
        }
        Err(error) => {
            // A failed rollback means a broken connection, which ends the transaction as well.
            if let Err(broken) = tx.rollback().await {
                tracing::debug!(act = name, %broken, "rolling back by closing the connection");
            }
            Err(error)
        }
    }
}

/// Commits `tx` and tells the three outcomes apart: done, refused by the database (any other error), and
/// [`CommitUnknown`]. Plain `Transaction::commit` answers `Ok` for a failed transaction, which the server rolls back.
pub async fn commit(name: &'static str, mut tx: sqlx::Transaction<'_, Postgres>) -> Result<(), sqlx::Error> {
    // Fails in a failed transaction, and raises what deferred constraints object to while the answer is still certain.
    match tx.execute("set constraints all immediate").await {
        Ok(_) => {}
        Err(error) if has_state(&error, &[IN_FAILED_TRANSACTION]) => {
            let message = format!("{name:?} went on after one of its statements had failed; nothing was committed");
            return Err(sqlx::Error::Protocol(message));
        }
        Err(error) => return Err(error),
    }
    match tx.commit().await {
        Ok(()) => Ok(()),
        Err(error) if certainly_refused(&error) => Err(error),
        Err(error) => Err(CommitUnknown { act: name, cause: error.to_string() }.into_error()),
    }
}

/// An answer of severity ERROR aborts the transaction. FATAL and PANIC end the session, possibly after the commit was
/// written (a shutdown while waiting for a standby), and say nothing certain.
fn certainly_refused(error: &sqlx::Error) -> bool {
    let answer = error.as_database_error().and_then(|answer| answer.try_downcast_ref::<PgDatabaseError>());
    answer.is_some_and(|answer| answer.severity() == PgSeverity::Error)
}

fn lost_a_race(error: &impl ActError) -> bool {
    error.database_error().is_some_and(|error| has_state(error, &[SERIALIZATION_FAILURE, DEADLOCK_DETECTED]))
}

fn has_state(error: &sqlx::Error, states: &[&str]) -> bool {
    let state = error.as_database_error().and_then(|answer| answer.code());
    state.is_some_and(|state| states.contains(&state.as_ref()))
}

fn pause_after(attempt: u32) -> Duration {
    let whole = FIRST_PAUSE_MS << attempt.min(MAX_ATTEMPTS);
    Duration::from_millis(rand::rng().random_range(whole / 2..=whole))
}
