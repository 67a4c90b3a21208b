//! The door through which requests reach the database: one tenant at a time, and never for long.
//!
//! Always holds: every statement of a request runs in a transaction that named its tenant when it began, as a role that sees
//! nothing of anybody else ([`RequestDb::look_up`] names none, and sees what its functions show). All that one request waits
//! for the database takes [`REQUEST_WITHIN`] together, whatever the database does: beyond that a read is given up and its
//! connection closed, and an act that was begun goes on in its task, so that its caller is told that the outcome is unknown.
//! An act that had no connection by then is never begun.
//!
//! Refuses: a connection without a tenant, writing outside of an act, and a way from here to the engine's sessions.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgConnection, PgPool, Postgres};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::act::{self, ActError, CommitUnknown};
use super::{DatabaseSettings, redact};
use crate::domain::TenantId;

/// How long one request waits for the database, all its waits together, before it is told to come back: below the five
/// seconds within which it is promised an answer.
pub const REQUEST_WITHIN: Duration = Duration::from_secs(4);
/// The least of that for each wait after the first, which may have used it up.
const LEAST_WAIT: Duration = Duration::from_millis(100);
/// How long an act may go on when nobody waits for it any more, before its connection is closed.
const ACT_WITHIN: Duration = Duration::from_secs(60);
/// How long a connection may take to come back to the pool.
const RETURN_WITHIN: Duration = Duration::from_secs(5);
/// An act without a connection by then is not begun: it would end in time only by luck.
const BEGIN_WITHIN: Duration = Duration::from_secs(2);
/// How long a stop waits for what goes on without its caller.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// A lock that an act does not get is told while its caller still waits: then it is certain that nothing was changed.
const LOCK_WITHIN: Duration = Duration::from_millis(1_500);
/// The longest statement of an act: ten thousand videos on a busy machine take a tenth of it.
const STATEMENT_WITHIN: Duration = Duration::from_secs(30);

tokio::task_local! {
    /// How long this request has waited for the database so far.
    static WAITED: Cell<Duration>;
}

/// Answers one request: its waits for the database are counted together.
pub async fn counting_waits<F: Future>(answer: F) -> F::Output {
    WAITED.scope(Cell::default(), answer).await
}

/// A wait that took all the time that its request had.
#[derive(Debug)]
pub struct OutOfTime;

impl From<OutOfTime> for sqlx::Error {
    fn from(_: OutOfTime) -> sqlx::Error {
        sqlx::Error::PoolTimedOut
    }
}

/// Waits for what the database, or another request that waits for it, holds up.
///
/// # Errors
/// [`OutOfTime`] when this request has waited [`REQUEST_WITHIN`].
pub async fn in_time<F: Future>(wait: F) -> Result<F::Output, OutOfTime> {
    let before = WAITED.try_with(Cell::get).unwrap_or_default();
    let asked = Instant::now();
    let outcome = tokio::time::timeout(REQUEST_WITHIN.saturating_sub(before).max(LEAST_WAIT), wait).await;
    // outside of a request there is no sum to keep
    let _ = WAITED.try_with(|waited| waited.set(before + asked.elapsed()));
    outcome.map_err(|_| OutOfTime)
}

/// The pool of requests. Cheap to clone.
#[derive(Clone)]
pub struct RequestDb {
    pool: PgPool,
    /// Acts under way, so that a shutdown can wait for them.
    acts: TaskTracker,
}

impl RequestDb {
    /// Opens the pool with one connection in it. Without a role in `settings`, the login must be no more than requests need.
    ///
    /// # Errors
    /// When the database cannot be reached, or the login may act as more than `freezeframe_api`.
    pub async fn connect(settings: &DatabaseSettings) -> Result<RequestDb> {
        let settings = DatabaseSettings {
            acquire_timeout: REQUEST_WITHIN,
            // of reads: what nobody waits for any more ends in the database too
            statement_timeout: REQUEST_WITHIN,
            lock_timeout: REQUEST_WITHIN,
            ..settings.clone()
        };
        let pool = super::open_pool(&settings).await?;
        let db = RequestDb { pool, acts: TaskTracker::new() };
        if settings.role.is_none() {
            db.check_login().await.with_context(|| format!("the login of requests, {}", redact(&settings.url)))?;
        }
        Ok(db)
    }

    async fn check_login(&self) -> Result<()> {
        let (login, serves, more): (String, bool, bool) = sqlx::query_as(
            "select session_user::text, pg_has_role(session_user, 'freezeframe_api', 'usage'),
                 rolsuper or rolbypassrls or pg_has_role(session_user, 'freezeframe_app', 'member')
                     or pg_has_role(session_user, (select tableowner from pg_tables where schemaname = 'public'
                         and tablename = 'tenants'), 'member')
             from pg_roles where rolname = session_user",
        )
        .fetch_one(&self.pool)
        .await?;
        if more {
            bail!(
                "{login} may act as more than freezeframe_api: log in as a role that owns nothing and is a member of no other"
            );
        }
        if !serves {
            bail!("{login} may not act as freezeframe_api: run \"grant freezeframe_api to {login}\" as the owner");
        }
        Ok(())
    }

    /// Reads for a tenant, in one transaction that can do nothing else.
    ///
    /// # Errors
    /// Those of `work`, or the database's; `PoolTimedOut` when the request has waited long enough.
    pub async fn read<T, E, F>(&self, tenant: TenantId, work: F) -> Result<T, E>
    where
        E: From<sqlx::Error>,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>> + Send,
    {
        self.transact(begin_reading(Some(tenant))?, work).await
    }

    /// Reads for whoever is not known yet: nothing of any tenant but what functions answer to what they are shown.
    ///
    /// # Errors
    /// As [`RequestDb::read`].
    pub async fn look_up<T, E, F>(&self, work: F) -> Result<T, E>
    where
        E: From<sqlx::Error>,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>> + Send,
    {
        self.transact(begin_reading(None)?, work).await
    }

    async fn transact<T, E, F>(&self, begin: String, work: F) -> Result<T, E>
    where
        E: From<sqlx::Error>,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>> + Send,
    {
        let outcome = in_time(async {
            let mut lent = Lent::of(&self.pool).await?;
            let mut tx = lent.connection()?.begin_with(statement(begin)).await?;
            let outcome = work(&mut tx).await;
            // nothing was written: it ends on the connection's way back, which nobody waits for
            drop(tx);
            lent.give_back();
            outcome
        });
        outcome.await.unwrap_or_else(|late| Err(sqlx::Error::from(late).into()))
    }

    /// Runs `work` for a tenant in one transaction and commits it, as [`Database::act`](super::Database::act) does. It goes
    /// on when its caller leaves, and when the caller is told that it took too long.
    ///
    /// # Errors
    /// Those of `work`, or the database's. [`CommitUnknown`] also when the act was begun and did not end in time;
    /// `PoolTimedOut` when it was not begun, and never will be.
    pub async fn act<T, E, F>(&self, tenant: TenantId, name: &'static str, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: ActError,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>> + Send + Sync + 'static,
    {
        let begin = begin_acting(tenant)?;
        let (pool, stage) = (self.pool.clone(), Arc::new(Stage::default()));
        let started = stage.clone();
        let act = async move {
            let settled = act::attempt_until_settled(name, || attempt(&pool, (name, &begin), &started, &work));
            let late = || CommitUnknown { act: name, cause: format!("it did not end within {ACT_WITHIN:?}") };
            tokio::time::timeout(ACT_WITHIN, settled).await.unwrap_or_else(|_| Err(late().into_error().into()))
        };
        let task = self.acts.spawn(act.in_current_span());
        match in_time(task).await {
            Ok(task) => act::ended(name, task),
            Err(late) if stage.give_up() => Err(sqlx::Error::from(late).into()),
            Err(_) => {
                let cause = "it goes on, but its caller has waited long enough".to_owned();
                Err(CommitUnknown { act: name, cause }.into_error().into())
            }
        }
    }

    /// Whether the schema is at least as new as this program; `false` also for a database that was never migrated.
    ///
    /// # Errors
    /// When the database does not answer in time.
    pub async fn is_migrated(&self) -> Result<bool, sqlx::Error> {
        self.look_up(|conn| Box::pin(super::migrate::is_migrated(conn))).await
    }

    /// Waits for every act under way, then closes the pool, for [`CLOSE_WITHIN`] at most: what hangs is closed with the
    /// process, and the database decides it. Acts begun later fail with `PoolClosed`.
    pub async fn close(&self) {
        let closed = async {
            self.acts.close();
            self.acts.wait().await;
            self.pool.close().await;
        };
        if tokio::time::timeout(CLOSE_WITHIN, closed).await.is_err() {
            tracing::warn!(acts = self.acts.len(), within = ?CLOSE_WITHIN, "not every act of a request ended in time");
        }
    }
}

impl fmt::Debug for RequestDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestDb")
            .field("size", &self.pool.size())
            .field("idle", &self.pool.num_idle())
            .field("acts", &self.acts.len())
            .finish()
    }
}

async fn attempt<T, E, F>(pool: &PgPool, (name, begin): (&'static str, &str), stage: &Stage, work: &F) -> Result<T, E>
where
    E: ActError,
    F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>>,
{
    let lent = tokio::time::timeout(BEGIN_WITHIN, Lent::of(pool)).await;
    let mut lent = lent.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
    if !stage.begin() {
        lent.give_back();
        return Err(sqlx::Error::from(OutOfTime).into());
    }
    let mut tx = lent.connection()?.begin_with(statement(begin.to_owned())).await?;
    let done = work(&mut tx).await;
    let outcome = act::end(name, tx, done).await;
    lent.give_back();
    outcome
}

fn begin_reading(tenant: Option<TenantId>) -> Result<String, sqlx::Error> {
    let named = tenant.map(naming).transpose()?.unwrap_or_default();
    Ok(format!("begin read only; {named}"))
}

fn begin_acting(tenant: TenantId) -> Result<String, sqlx::Error> {
    let (statement, lock) = (STATEMENT_WITHIN.as_millis(), LOCK_WITHIN.as_millis());
    let named = naming(tenant)?;
    Ok(format!("begin; {named}; set local statement_timeout = {statement}; set local lock_timeout = {lock}"))
}

/// Names the tenant of a transaction. The literal needs no quoting, which is made sure of.
fn naming(tenant: TenantId) -> Result<String, sqlx::Error> {
    let id = tenant.bare();
    match id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        true => Ok(format!("set local freezeframe.tenant = '{id}'")),
        false => Err(sqlx::Error::Protocol("the id of a tenant has characters that no id has".to_owned())),
    }
}

/// Made of constants and an id that was looked at.
fn statement(text: String) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(text)
}

/// How far an act is: its caller and its task agree on who was first.
#[derive(Default)]
struct Stage(AtomicU8);

impl Stage {
    const WAITING: u8 = 0;
    const BEGUN: u8 = 1;
    const GIVEN_UP: u8 = 2;

    /// Whether the act may begin, or has begun before.
    fn begin(&self) -> bool {
        self.reach(Stage::BEGUN) != Stage::GIVEN_UP
    }

    /// Whether it never will.
    fn give_up(&self) -> bool {
        self.reach(Stage::GIVEN_UP) != Stage::BEGUN
    }

    fn reach(&self, stage: u8) -> u8 {
        let before = self.0.compare_exchange(Stage::WAITING, stage, Ordering::AcqRel, Ordering::Acquire);
        before.unwrap_or_else(|other| other)
    }
}

/// A connection on loan. Unless it is given back it is closed at once: a caller that left in the middle of an answer leaves
/// it unusable, and a database that does not answer would keep its place in the pool for as long.
struct Lent(Option<PoolConnection<Postgres>>);

impl Lent {
    async fn of(pool: &PgPool) -> Result<Lent, sqlx::Error> {
        Ok(Lent(Some(pool.acquire().await?)))
    }

    fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.0.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// The pool looks at it, which may take as long as the database likes, so that is bounded as well.
    fn give_back(mut self) {
        if let Some(mut connection) = self.0.take() {
            tokio::spawn(async move {
                let _ = tokio::time::timeout(RETURN_WITHIN, connection.return_to_pool()).await;
            });
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Stage;

    #[test]
    fn an_act_is_begun_or_given_up_and_never_both() {
        let stage = Stage::default();
        assert!(
            stage.begin() && stage.begin() && !stage.give_up(),
            "it was begun first, and is begun again after a lost race"
        );
        let stage = Stage::default();
        assert!(stage.give_up() && !stage.begin(), "it was given up first");
    }
}
