//! The stored results: what was found, when, and on which incarnation of the database.
//!
//! Always holds: time is the database's; a result is written once, when its comparison is over.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{Reconciliation, about, kinds::About};
use crate::db::Database;
use crate::ledger::Difference;

/// Differences kept of one comparison; the kinds count all of them.
const MOST_KEPT: usize = 200;

/// The last comparison that the cluster made by itself.
#[derive(Clone, Debug)]
pub struct LastRun {
    pub at: DateTime<Utc>,
    pub sum: i64,
    /// How many differences there were of each kind.
    pub kinds: BTreeMap<String, u64>,
}

/// Why a comparison was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    Start,
    Regular,
    Command,
}

impl Occasion {
    fn word(self) -> &'static str {
        match self {
            Occasion::Start => "start",
            Occasion::Regular => "regular",
            Occasion::Command => "command",
        }
    }
}

/// What the next comparison goes on from.
pub(super) struct Before {
    /// Seconds since then.
    pub(super) age_secs: f64,
    /// On the present incarnation.
    pub(super) same_incarnation: bool,
    pub(super) files_after: String,
    pub(super) providers_age_secs: Option<f64>,
    pub(super) differences: Value,
}

impl Before {
    /// The stored differences that are about this.
    pub(super) fn differences_about(&self, wanted: About) -> Vec<Difference> {
        let stored: Vec<Difference> = serde_json::from_value(self.differences.clone()).unwrap_or_default();
        stored.into_iter().filter(|difference| about(&difference.what) == wanted).collect()
    }
}

/// What is stored of a comparison beside what it found.
pub(super) struct Entry<'a> {
    pub(super) occasion: Occasion,
    pub(super) who: &'a str,
    pub(super) took: std::time::Duration,
    pub(super) admits: bool,
    pub(super) files_after: &'a str,
    /// Seconds since the provider accounts were compared.
    pub(super) providers_age_secs: Option<f64>,
}

/// The last comparison of the cluster's own, for metrics; `None` before the first.
///
/// # Errors
/// The database's.
pub async fn last_run(db: &Database) -> Result<Option<LastRun>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select at, (books ->> 'sum')::bigint as "sum!", kinds from reconciliations
           where occasion <> 'command' order by id desc limit 1"#,
    )
    .fetch_optional(db.pool())
    .await?;
    Ok(row.map(|row| LastRun {
        at: row.at,
        sum: row.sum,
        kinds: serde_json::from_value(row.kinds).unwrap_or_default(),
    }))
}

pub(super) async fn before(conn: &mut PgConnection) -> Result<Option<Before>, sqlx::Error> {
    sqlx::query_as!(
        Before,
        r#"select extract(epoch from clock_timestamp() - at)::float8 as "age_secs!",
               incarnation = database_incarnation() as "same_incarnation!", files_after,
               extract(epoch from clock_timestamp() - providers_at)::float8 as providers_age_secs, differences
           from reconciliations where occasion <> 'command' order by id desc limit 1"#,
    )
    .fetch_optional(conn)
    .await
}

/// Whether workers may start on this incarnation without a comparison.
pub(super) async fn is_admitted(db: &Database) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from reconciliations where incarnation = database_incarnation() and admits) as "is!""#,
    )
    .fetch_one(db.pool())
    .await
}

/// When this incarnation was first seen, if there was another one before it.
pub(super) async fn restored_at(conn: &mut PgConnection) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select min(at) from reconciliations where incarnation = database_incarnation()
               and exists (select from reconciliations where incarnation <> database_incarnation())"#,
    )
    .fetch_one(conn)
    .await
}

pub(super) async fn now(db: &Database) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(db.pool()).await
}

pub(super) async fn insert(db: &Database, found: &Reconciliation, entry: Entry<'_>) -> Result<(), sqlx::Error> {
    let kept = &found.differences[..found.differences.len().min(MOST_KEPT)];
    sqlx::query!(
        r#"insert into reconciliations (duration_ms, who, occasion, incarnation, clean, admits, books, kinds, differences,
               files_after, compared, providers_at)
           values ($1, $2, $3, database_incarnation(), $4, $5, $6, $7, $8, $9, $10,
               clock_timestamp() - make_interval(secs => $11))"#,
        i32::try_from(entry.took.as_millis()).unwrap_or(i32::MAX),
        entry.who,
        entry.occasion.word(),
        found.is_clean(),
        entry.admits,
        json!(found.books),
        json!(found.kinds()),
        json!(kept),
        entry.files_after,
        json!(found.compared),
        entry.providers_age_secs,
    )
    .execute(db.pool())
    .await?;
    Ok(())
}
