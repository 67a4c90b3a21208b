//! What an operator does with accounts: look, stop, start. Each change is one act with its row in the history.

use sqlx::PgConnection;

use super::Account;
use crate::db::Database;

/// An account before and after an operator's act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub before: Account,
    pub after: Account,
}

/// Every account with a row, by name.
///
/// # Errors
/// The database's.
pub async fn list(db: &Database) -> Result<Vec<Account>, sqlx::Error> {
    super::all(&mut *db.pool().acquire().await?).await
}

/// Nothing new goes to the account until [`start`]. What is under way there goes on. Stopping again renews the reason.
///
/// # Errors
/// The database's.
pub async fn stop(db: &Database, account: &str, actor: &str, reason: &str) -> Result<Changed, sqlx::Error> {
    let (account, actor, reason) = (account.to_owned(), actor.to_owned(), reason.to_owned());
    db.act("stop account", move |tx| {
        let (account, actor, reason) = (account.clone(), actor.clone(), reason.clone());
        Box::pin(async move {
            let before = locked(tx, &account).await?;
            sqlx::query!(
                "update provider_accounts set stopped_at = coalesce(stopped_at, now()), stopped_by = $2, stop_reason = $3
                 where name = $1",
                account,
                actor,
                reason,
            )
            .execute(&mut **tx)
            .await?;
            audited(tx, before, (&actor, "stop", Some(&reason))).await
        })
    })
    .await
}

/// Clears everything that stands against the account: an operator's stop, a pause, the marks, an open circuit. What is still true is soon
/// learned again.
///
/// # Errors
/// The database's.
pub async fn start(db: &Database, account: &str, actor: &str, reason: Option<&str>) -> Result<Changed, sqlx::Error> {
    let (account, actor, reason) = (account.to_owned(), actor.to_owned(), reason.map(str::to_owned));
    db.act("start account", move |tx| {
        let (account, actor, reason) = (account.clone(), actor.clone(), reason.clone());
        Box::pin(async move {
            let before = locked(tx, &account).await?;
            sqlx::query!(
                "update provider_accounts set stopped_at = null, stopped_by = null, stop_reason = null,
                     cooled_until = null, cool_cause = null, quota_exhausted_at = null, refused_at = null,
                     circuit_faults = '{}', circuit_fault_at = null, circuit_opened_at = null, circuit_pause_ms = null,
                     probe_at = null, probe_video = null
                 where name = $1",
                account,
            )
            .execute(&mut **tx)
            .await?;
            audited(tx, before, (&actor, "start", reason.as_deref())).await
        })
    })
    .await
}

/// The account's row, made if there is none, locked until the transaction ends.
async fn locked(conn: &mut PgConnection, account: &str) -> Result<Account, sqlx::Error> {
    sqlx::query!("insert into provider_accounts (name) values ($1) on conflict (name) do nothing", account)
        .execute(&mut *conn)
        .await?;
    sqlx::query!("select name from provider_accounts where name = $1 for update", account)
        .fetch_one(&mut *conn)
        .await?;
    one(conn, account).await
}

async fn one(conn: &mut PgConnection, account: &str) -> Result<Account, sqlx::Error> {
    let all = super::all(conn).await?;
    all.into_iter().find(|row| row.name == account).ok_or(sqlx::Error::RowNotFound)
}

async fn audited(
    conn: &mut PgConnection,
    before: Account,
    (actor, act, reason): (&str, &str, Option<&str>),
) -> Result<Changed, sqlx::Error> {
    let after = one(&mut *conn, &before.name).await?;
    let json = |account: &Account| serde_json::to_value(account).map_err(|error| sqlx::Error::Encode(error.into()));
    sqlx::query!(
        "insert into provider_account_changes (account, actor, act, reason, state_before, state_after)
         values ($1, $2, $3, $4, $5, $6)",
        before.name,
        actor,
        act,
        reason,
        json(&before)?,
        json(&after)?,
    )
    .execute(conn)
    .await?;
    Ok(Changed { before, after })
}
