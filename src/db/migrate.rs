//! Brings a database's schema up to date, and makes and drops whole databases.
//!
//! Two sets of migrations run in one go under one lock: first the queue's own, because ours grant rights on its tables,
//! then ours from `migrations/`. Each set has its own history table. The queue's schema belongs to the schema of this
//! database, so this is the one place beside `engine/queue.rs` that names its crate; nothing of its machinery is used here.
//! Migrations run as the owner of the database, never as the role that the service acts as.

use std::{str::FromStr, time::Duration};

use anyhow::{Context, Result, bail};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection,
    migrate::{MigrateError, Migrator},
    postgres::PgConnectOptions,
};

use super::redact;

/// The history of our own migrations.
const HISTORY_TABLE: &str = "public.freezeframe_migrations";

/// The advisory lock of a migration: the ASCII of "migrate!" as a number.
const MIGRATION_LOCK: i64 = 0x6d69_6772_6174_6521;
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How often the migrations are tried that lose against traffic.
const TRIES: u32 = 5;

/// How long a migration waits for a table that is in use, so that it does not block everybody who queues behind it.
const DDL_LOCK_TIMEOUT: &str = "set lock_timeout = '15s'";

/// What the queue's tables need; the server's packages bring both.
const EXTENSIONS: [&str; 2] = ["hstore", "pgcrypto"];

/// Applies every migration that is missing. Safe to call from many processes at once: one works, the others wait.
///
/// `url` must log in as the owner of the database. Fails when a migration that was applied has changed since, and when the
/// database is newer than this program.
pub async fn migrate(url: &str) -> Result<()> {
    let options = PgConnectOptions::from_str(url)
        .with_context(|| format!("not a database address: {}", redact(url)))?
        .application_name("freezeframe-migrate");
    let mut connection =
        options.connect().await.with_context(|| format!("cannot connect to the database {}", redact(url)))?;
    lock(&mut connection).await.context("cannot take the migration lock")?;
    let mut outcome = run_all(&mut connection).await;
    for _ in 1..TRIES {
        // each migration is one transaction, and what was applied stays applied
        let Err(error) = &outcome else { break };
        if !lost_to_traffic(error) {
            break;
        }
        tracing::warn!(error = format!("{error:#}"), "a migration gave way to what was under way; trying again");
        tokio::time::sleep(LOCK_POLL_INTERVAL).await;
        outcome = run_all(&mut connection).await;
    }
    // Closing the session frees the lock, whatever happened.
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "the migration's connection did not close cleanly");
    }
    outcome.with_context(|| format!("cannot migrate the database {}", redact(url)))
}

/// Whether a migration failed because others had the tables that it wants: a deadlock, or a lock that did not come.
fn lost_to_traffic(error: &anyhow::Error) -> bool {
    let databases = error.chain().filter_map(|cause| cause.downcast_ref::<sqlx::Error>());
    let mut codes = databases.filter_map(|error| error.as_database_error()?.code());
    codes.any(|code| ["40P01", "55P03"].contains(&code.as_ref()))
}

async fn run_all(connection: &mut PgConnection) -> Result<()> {
    connection.execute(DDL_LOCK_TIMEOUT).await?;
    for extension in EXTENSIONS {
        ensure_extension(connection, extension).await?;
    }
    run("queue", apalis_postgres::PostgresStorage::<()>::migrations(), connection).await?;
    let mut ours = ours();
    ours.dangerous_set_table_name(HISTORY_TABLE);
    run("freezeframe", ours, connection).await?;
    // so that the service can tell whether it is ready
    let granted = format!("grant select on {HISTORY_TABLE} to freezeframe_app, freezeframe_api");
    connection.execute(AssertSqlSafe(granted)).await?;
    // Belongs to the database and not to its schema, so a copy of it begins without. Only its owner may, and for anybody
    // else it is a warning: nothing of ours finds a temporary table before one of ours.
    let database: String = sqlx::query_scalar("select current_database()::text").fetch_one(&mut *connection).await?;
    let temporary = format!("revoke temporary on database {} from public", quoted(&database));
    if let Err(error) = connection.execute(AssertSqlSafe(temporary)).await {
        tracing::debug!(%error, "everybody may go on making temporary tables in this database");
    }
    Ok(())
}

fn ours() -> Migrator {
    sqlx::migrate!("./migrations")
}

/// Whether the schema is at least as new as this program; `false` also for a database that was never migrated.
pub(super) async fn is_migrated(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    const UNDEFINED_TABLE: &str = "42P01";
    const INSUFFICIENT_PRIVILEGE: &str = "42501";
    let newest = format!("select max(version) from {HISTORY_TABLE} where success");
    match sqlx::query_scalar::<_, Option<i64>>(AssertSqlSafe(newest)).fetch_one(connection).await {
        Ok(applied) => Ok(applied >= ours().iter().map(|migration| migration.version).max()),
        Err(error) => match error.as_database_error().and_then(|answer| answer.code()).as_deref() {
            Some(UNDEFINED_TABLE | INSUFFICIENT_PRIVILEGE) => Ok(false),
            _ => Err(error),
        },
    }
}

async fn run(set: &str, mut migrator: Migrator, connection: &mut PgConnection) -> Result<()> {
    // Our lock covers both sets.
    migrator.set_locking(false);
    match migrator.run_direct(None, connection, false).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(version)) => {
            bail!("the database has {set} migration {version}, which this program does not know: run a newer program")
        }
        Err(MigrateError::VersionMismatch(version)) => {
            bail!("{set} migration {version} was changed after it had been applied: restore it and add a new one")
        }
        Err(error) => Err(error).with_context(|| format!("a {set} migration failed and was rolled back")),
    }
}

/// Polls instead of waiting inside the server: a session that waits there holds a snapshot, and `create index
/// concurrently` of the one that works would wait for it in turn.
async fn lock(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut announced = false;
    loop {
        let taken: bool = sqlx::query_scalar("select pg_try_advisory_lock($1)")
            .bind(MIGRATION_LOCK)
            .fetch_one(&mut *connection)
            .await?;
        if taken {
            return Ok(());
        }
        if !announced {
            tracing::info!("another process is migrating this database; waiting for it");
            announced = true;
        }
        tokio::time::sleep(LOCK_POLL_INTERVAL).await;
    }
}

async fn ensure_extension(connection: &mut PgConnection, extension: &str) -> Result<()> {
    let statement = format!("create extension if not exists {extension}");
    let Err(error) = connection.execute(AssertSqlSafe(statement)).await else {
        return Ok(());
    };
    const INSUFFICIENT_PRIVILEGE: &str = "42501";
    let state = error.as_database_error().and_then(|answer| answer.code()).unwrap_or_default().into_owned();
    let remedy = match state.as_str() {
        INSUFFICIENT_PRIVILEGE => format!(
            "this login may not create the extension {extension}: let the database's owner or a superuser run \
             \"create extension {extension}\" in it, or migrate as the owner"
        ),
        // The control file is absent (0A000 from PostgreSQL 13 on, 58P01 before).
        "0A000" | "58P01" => {
            format!("the server does not have the extension {extension}: install its contrib package there")
        }
        _ => format!("cannot create the extension {extension}"),
    };
    Err(error).context(remedy)
}

/// Creates a database, as a copy of `template` if given (nobody may be connected to that one).
pub async fn create_database(admin_url: &str, name: &str, template: Option<&str>) -> Result<()> {
    let copied = template.map(|template| format!(" template {}", quoted(template))).unwrap_or_default();
    administer(admin_url, format!("create database {}{copied}", quoted(name)))
        .await
        .with_context(|| format!("cannot create the database {name}"))
}

/// Creates a database unless it is there already; another process may be creating it at this moment.
pub async fn ensure_database(admin_url: &str, name: &str) -> Result<()> {
    // duplicate_database, or unique_violation when both inserted into the catalogue at once
    const EXISTS: [&str; 2] = ["42P04", "23505"];
    let Err(error) = create_database(admin_url, name, None).await else { return Ok(()) };
    let refusal = error.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
    match refusal.and_then(|refusal| refusal.code()) {
        Some(code) if EXISTS.contains(&code.as_ref()) => Ok(()),
        _ => Err(error),
    }
}

/// Lets `role` log in, if it may not yet.
pub async fn allow_login(admin_url: &str, role: &str) -> Result<()> {
    // asked first, and again after a failure: two processes that change a role at once make one of them fail
    if may_log_in(admin_url, role).await? {
        return Ok(());
    }
    match administer(admin_url, format!("alter role {} login", quoted(role))).await {
        Err(error) if !may_log_in(admin_url, role).await? => {
            Err(error).with_context(|| format!("cannot let {role} log in"))
        }
        _ => Ok(()),
    }
}

async fn may_log_in(url: &str, role: &str) -> Result<bool> {
    let options = PgConnectOptions::from_str(url)?;
    let mut connection =
        options.connect().await.with_context(|| format!("cannot connect to the database {}", redact(url)))?;
    let may: Option<bool> = sqlx::query_scalar("select rolcanlogin from pg_roles where rolname = $1")
        .bind(role)
        .fetch_optional(&mut connection)
        .await?;
    connection.close().await?;
    Ok(may.unwrap_or_default())
}

/// Drops a database if it exists, ending the sessions in it.
pub async fn drop_database(admin_url: &str, name: &str) -> Result<()> {
    administer(admin_url, format!("drop database if exists {} with (force)", quoted(name)))
        .await
        .with_context(|| format!("cannot drop the database {name}"))
}

async fn administer(admin_url: &str, statement: String) -> Result<()> {
    let options = PgConnectOptions::from_str(admin_url)?;
    let mut connection =
        options.connect().await.with_context(|| format!("cannot connect to the database {}", redact(admin_url)))?;
    connection.execute(AssertSqlSafe(statement)).await?;
    connection.close().await?;
    Ok(())
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
