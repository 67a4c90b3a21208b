//! The stored results: what was found, when, and on which incarnation of the database.
//!
//! Always holds: time is the database's; a result is written once, when its comparison is over.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{Reconciliation, about, kinds::About};
use crate::db::Database;
use crate::ledger::Difference;

/// Differences kept of one comparison, of every kind some; the kinds count all of them.
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
    pub(super) duration_ms: i32,
    /// On the present incarnation.
    pub(super) same_incarnation: bool,
    pub(super) files_after: String,
    pub(super) providers_age_secs: Option<f64>,
    pub(super) differences: Value,
}

impl Before {
    pub(super) fn took(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.duration_ms).unwrap_or(0))
    }

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
    pub(super) took: Duration,
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
        r#"select extract(epoch from clock_timestamp() - at)::float8 as "age_secs!", duration_ms,
               incarnation = database_incarnation() as "same_incarnation!", files_after,
               extract(epoch from clock_timestamp() - providers_at)::float8 as providers_age_secs, differences
           from reconciliations where occasion <> 'command' order by id desc limit 1"#,
    )
    .fetch_optional(conn)
    .await
}

/// Whether workers may start on this incarnation without a comparison: one admits them, and none refused a start since.
pub(super) async fn is_admitted(db: &Database) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select coalesce(max(id) filter (where admits), 0)
                   > coalesce(max(id) filter (where not admits and occasion = 'start'), 0) as "is!"
           from reconciliations where incarnation = database_incarnation()"#,
    )
    .fetch_one(db.pool())
    .await
}

/// The last comparison for a start.
pub(super) struct LastStart {
    pub(super) admits: bool,
    pub(super) age_secs: f64,
    duration_ms: i32,
    pub(super) sum: i64,
    kinds: Value,
}

impl LastStart {
    pub(super) fn took(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.duration_ms).unwrap_or(0))
    }

    pub(super) fn kinds(&self) -> BTreeMap<String, u64> {
        serde_json::from_value(self.kinds.clone()).unwrap_or_default()
    }
}

/// The last comparison for a start on this incarnation; `None` before the first.
pub(super) async fn last_start(db: &Database) -> Result<Option<LastStart>, sqlx::Error> {
    sqlx::query_as!(
        LastStart,
        r#"select admits, extract(epoch from clock_timestamp() - at)::float8 as "age_secs!", duration_ms,
               (books ->> 'sum')::bigint as "sum!", kinds
           from reconciliations where occasion = 'start' and incarnation = database_incarnation()
           order by id desc limit 1"#,
    )
    .fetch_optional(db.pool())
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
        json!(kept(found)),
        entry.files_after,
        json!(found.compared),
        entry.providers_age_secs,
    )
    .execute(db.pool())
    .await?;
    Ok(())
}

/// As many of each kind as there is room for: thousands of one kind crowd out no other.
fn kept(found: &Reconciliation) -> Vec<&Difference> {
    let counts = found.kinds();
    let fits = |most: &usize| {
        let of_kind = |count: &u64| usize::try_from(*count).map_or(*most, |count| count.min(*most));
        counts.values().map(of_kind).sum::<usize>() <= MOST_KEPT
    };
    let most = (1..=MOST_KEPT).rev().find(fits).unwrap_or(1);
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    let of_every_kind = found.differences.iter().filter(|difference| {
        let taken = taken.entry(difference.what.as_str()).or_default();
        *taken += 1;
        *taken <= most
    });
    of_every_kind.take(MOST_KEPT).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Compared, KINDS};
    use super::*;
    use crate::ledger::Books;

    fn found(counts: &[(&str, usize)]) -> Reconciliation {
        let books =
            Books { issued: 0, available: 0, held: 0, revenue: 0, provider_payable: 0, provider_loss: 0, sum: 0 };
        let of_kind = |(kind, count): &(&str, usize)| {
            let one = Difference { what: (*kind).to_owned(), id: "x".to_owned(), stored: 1, expected: 0 };
            vec![one; *count]
        };
        Reconciliation { books, differences: counts.iter().flat_map(of_kind).collect(), compared: Compared::default() }
    }

    #[test]
    fn a_kind_with_thousands_leaves_room_for_every_other() {
        let many = found(&[("wallet", 5_000), ("lane_total", 3), ("file_missing", 5_000)]);
        let mut of_kind: BTreeMap<&str, usize> = BTreeMap::new();
        kept(&many).iter().for_each(|one| *of_kind.entry(one.what.as_str()).or_default() += 1);
        assert_eq!(of_kind.into_iter().collect::<Vec<_>>(), [("file_missing", 98), ("lane_total", 3), ("wallet", 98)]);
        assert_eq!(kept(&found(&[("file_missing", 5_000)])).len(), MOST_KEPT);
        let everything = found(&KINDS.map(|(kind, _)| (kind, 1_000)));
        let kinds: std::collections::BTreeSet<&str> = kept(&everything).iter().map(|one| one.what.as_str()).collect();
        assert_eq!(kinds.len(), KINDS.len());
        assert!(kept(&everything).len() <= MOST_KEPT);
    }
}
