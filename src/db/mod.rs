//! The database: the only room that makes pools and begins transactions.
//!
//! The engine and operators have a [`Database`], across tenants; requests have a [`RequestDb`], one tenant at a time and
//! bounded in time, and no way from the one to the other.
//!
//! Every session starts with the same settings: UTC, time-outs, the role it acts as. No borrower ever receives a connection
//! with somebody else's open transaction: a future dropped while its `BEGIN` is under way leaves one behind, so each
//! connection is asked before it is handed out. (`PgPool::try_acquire` would skip that question: never call it.) Money moves
//! only in an act ([`Database::act`], [`RequestDb::act`]), which a disconnecting client cannot cancel.

mod act;
mod embedded;
mod migrate;
mod request;
mod session;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use anyhow::{Context, Result};
use sqlx::{
    ConnectOptions, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio_util::task::TaskTracker;

pub use act::{ActError, CommitUnknown, Tx, commit, commit_unknown};
pub use embedded::{Embedded, EmbeddedSettings};
pub use migrate::{allow_login, create_database, drop_database, ensure_database, migrate};
pub use request::{OutOfTime, REQUEST_WITHIN, RequestDb, counting_waits, in_time};
pub use session::redact;

/// How to reach the database and how its sessions behave.
#[derive(Clone)]
pub struct DatabaseSettings {
    /// `postgres://user:password@host:port/database`, or with `?host=/directory` for a unix socket. May hold a password.
    pub url: String,
    /// Shown by `pg_stat_activity` and in the server's log.
    pub application_name: String,
    /// Size of the pool; dedicated connections and listeners come on top.
    pub max_connections: u32,
    /// How long a borrower waits for a connection before it fails with `PoolTimedOut`.
    pub acquire_timeout: Duration,
    /// The longest single statement.
    pub statement_timeout: Duration,
    /// The longest wait for a row or table lock.
    pub lock_timeout: Duration,
    /// The role that every session acts as, for instance `freezeframe_app`; the login role itself when absent.
    pub role: Option<String>,
    /// Gives the pool's sessions the planner settings of the engine too (see [`Database::engine_connection`]).
    pub engine_plans: bool,
}

impl DatabaseSettings {
    pub fn new(url: impl Into<String>) -> DatabaseSettings {
        DatabaseSettings {
            url: url.into(),
            application_name: "freezeframe".to_owned(),
            max_connections: 20,
            acquire_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(60),
            lock_timeout: Duration::from_secs(10),
            role: None,
            engine_plans: false,
        }
    }
}

impl fmt::Debug for DatabaseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseSettings")
            .field("url", &redact(&self.url))
            .field("application_name", &self.application_name)
            .field("max_connections", &self.max_connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("lock_timeout", &self.lock_timeout)
            .field("role", &self.role)
            .field("engine_plans", &self.engine_plans)
            .finish()
    }
}

/// A pool and the means to open connections like its own. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    engine_options: PgConnectOptions,
    /// Acts under way, so that a shutdown can wait for them.
    acts: TaskTracker,
}

impl Database {
    /// Opens the pool with one connection in it; fails when the database cannot be reached within the acquire time-out.
    pub async fn connect(settings: &DatabaseSettings) -> Result<Database> {
        let pool = open_pool(settings).await?;
        Ok(Database { pool, engine_options: session::options(settings, true)?, acts: TaskTracker::new() })
    }

    /// For reads and for single statements. A transaction is begun by [`Database::act`] or [`Database::begin`] instead.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Options of the engine's sessions, for connections it opens (and opens again) itself.
    pub fn connect_options(&self) -> PgConnectOptions {
        self.engine_options.clone()
    }

    /// A connection outside the pool, with the engine's planner settings: its hot tables grow from nothing to thousands
    /// of rows between two `analyze` runs, and a plan made for "one row" is then a quadratic loop.
    pub async fn engine_connection(&self) -> Result<PgConnection, sqlx::Error> {
        self.engine_options.connect().await
    }

    /// A listener on a connection of its own, which it replaces by itself when it breaks. Notifications sent meanwhile
    /// are lost: whoever listens must poll besides.
    pub async fn listener(&self) -> Result<PgListener, sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_with(self.engine_options.clone())
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.ignore_pool_close_event(true);
        Ok(listener)
    }

    /// A transaction for bulk work of the engine. End it with [`commit`]; dropping it rolls back. The caller's task must
    /// not be one that a client can cancel.
    pub async fn begin(&self) -> Result<Tx, sqlx::Error> {
        self.pool.begin().await
    }

    /// Like [`Database::begin`], but the commit does not wait for the disk: a crash of the server may undo it, whole. Only
    /// for what has no effect before somebody else commits durably upon it, which makes it durable too: the server's log
    /// has one order. Never for money, never for a lock on a job.
    pub async fn begin_relaxed(&self) -> Result<Tx, sqlx::Error> {
        self.pool.begin_with("begin; set local synchronous_commit = off").await
    }

    /// Waits for every act under way, then closes the pool. Acts begun later fail with `PoolClosed`.
    pub async fn close(&self) {
        self.acts.close();
        self.acts.wait().await;
        self.pool.close().await;
    }
}

/// Opens a pool with one connection in it; fails when the database cannot be reached within the acquire time-out.
async fn open_pool(settings: &DatabaseSettings) -> Result<PgPool> {
    PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .acquire_timeout(settings.acquire_timeout)
        // The question below is a liveness test as well, and costs the same round trip.
        .test_before_acquire(false)
        .before_acquire(|connection, _| Box::pin(session::is_fit(connection)))
        .connect_with(session::options(settings, settings.engine_plans)?)
        .await
        .with_context(|| format!("cannot connect to the database {}", redact(&settings.url)))
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("size", &self.pool.size())
            .field("idle", &self.pool.num_idle())
            .field("acts", &self.acts.len())
            .finish()
    }
}
