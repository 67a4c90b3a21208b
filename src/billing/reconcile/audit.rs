//! Comparisons as the cluster makes them by itself, and as a person asks for them.
//!
//! Always holds: of all processes one compares at a time, and none before the stored result of the last one is as old
//! as the settings say, and ten times as old as it took; a process whose own try failed waits as long. A regular
//! comparison goes on in the files where the one before it stopped, looks again at every file that was wrong, and
//! repeats what it last knew of the providers until they answer again.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use sqlx::{Connection as _, Executor as _, PgConnection};

use super::files::{self, FileDepth};
use super::record::{self, Before, Entry, Occasion};
use super::{About, JobsCompared, ReconcileError, Reconciliation, jobs, reconcile};
use crate::db::Database;
use crate::ledger::Difference;
use crate::providers::{Provider, Registry};
use crate::storage::Storage;

/// How far back a regular comparison asks the providers.
const LAST_HOURS: TimeDelta = TimeDelta::hours(6);
/// What is younger is not compared.
const SETTLED: TimeDelta = TimeDelta::seconds(60);
/// A comparison reads everything there is, so the next one waits so many times as long as it took.
pub(super) const REST_PER_WORK: u32 = 10;
/// How many times the ordinary interval that may become.
const LONGEST_REST: u32 = 12;

/// Until when a process makes no comparison after one that failed: nothing is stored of that one, so it would be due at
/// once. Whoever makes auditors keeps it between them.
#[derive(Debug, Default)]
pub struct Rest(Mutex<Option<Instant>>);

impl Rest {
    fn is_on(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    fn take(&self, pause: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + pause);
    }
}

/// Who compares, and with what.
pub struct Auditor<'a> {
    pub db: &'a Database,
    pub storage: &'a Storage,
    pub providers: &'a Registry,
    /// The name of this process.
    pub who: &'a str,
    pub rest: &'a Rest,
}

/// What a person asks for beside the database.
#[derive(Clone, Debug)]
pub struct Scope {
    pub files: Option<FileDepth>,
    /// Accounts whose lists are read.
    pub accounts: Vec<String>,
    /// How far back.
    pub back: TimeDelta,
    /// Younger jobs are left to the next comparison: a provider may list them late.
    pub settled: TimeDelta,
}

impl Default for Scope {
    fn default() -> Scope {
        Scope { files: None, accounts: Vec::new(), back: LAST_HOURS, settled: SETTLED }
    }
}

impl Auditor<'_> {
    /// Compares if it is time: `every` after the last comparison of the cluster, later if that one took long;
    /// `ask_every` after the providers were asked.
    ///
    /// # Errors
    /// The database's.
    pub async fn when_due(
        &self,
        every: Duration,
        ask_every: Duration,
    ) -> Result<Option<Reconciliation>, ReconcileError> {
        if self.rest.is_on() {
            return Ok(None);
        }
        // the lock goes with this connection
        let mut lock = self.db.engine_connection().await?;
        let found = if try_lock(&mut lock).await? { self.if_due(&mut lock, every, ask_every).await } else { Ok(None) };
        lock.close().await?;
        found
    }

    async fn if_due(
        &self,
        conn: &mut PgConnection,
        every: Duration,
        ask_every: Duration,
    ) -> Result<Option<Reconciliation>, ReconcileError> {
        let before = record::before(conn).await?;
        let same = before.as_ref().filter(|before| before.same_incarnation);
        if same.is_some_and(|before| before.age_secs < pause(every, before.took()).as_secs_f64()) {
            return Ok(None);
        }
        let asked = same.and_then(|before| before.providers_age_secs);
        let ask = asked.is_none_or(|age| age >= ask_every.as_secs_f64());
        let began = Instant::now();
        let found = self.regular(before.as_ref(), (asked, ask)).await;
        if found.is_err() {
            self.rest.take(pause(every, began.elapsed()));
        }
        found.map(Some)
    }

    /// `asked` is how many seconds ago all providers answered, `ask` whether it is time to ask them again.
    async fn regular(
        &self,
        before: Option<&Before>,
        (asked, ask): (Option<f64>, bool),
    ) -> Result<Reconciliation, ReconcileError> {
        let began = Instant::now();
        let mut found = reconcile(self.db).await?;
        let again: Vec<String> = before
            .map(|before| before.differences_about(About::Files))
            .unwrap_or_default()
            .into_iter()
            .map(|difference| difference.id)
            .collect();
        let after = before.map_or("", |before| before.files_after.as_str());
        let (files, wrong) = files::some(self.db, self.storage, FileDepth::Sizes, (after, &again)).await?;
        found.differences.extend(wrong);
        let known = before.map(|before| before.differences_about(About::Providers)).unwrap_or_default();
        let answered = if ask {
            let accounts = self.providers.names().map(str::to_owned).collect();
            self.ask(&mut found, &Scope { accounts, ..Scope::default() }).await?;
            keep_of_unavailable(&mut found, known)
        } else {
            found.differences.extend(known);
            false
        };
        // who did not answer is asked again next time
        let aged = asked.map(|age| age + began.elapsed().as_secs_f64());
        let stopped_at = files.after.clone();
        let entry = Entry {
            occasion: Occasion::Regular,
            who: self.who,
            took: began.elapsed(),
            admits: true,
            files_after: &stopped_at,
            providers_age_secs: if answered { Some(0.0) } else { aged },
        };
        found.compared.files = Some(files);
        record::insert(self.db, &found, entry).await?;
        Ok(found)
    }

    /// Compares everything that a person asks for, now, whatever else is under way.
    ///
    /// # Errors
    /// The database's.
    pub async fn on_command(&self, scope: &Scope) -> Result<Reconciliation, ReconcileError> {
        let began = Instant::now();
        let mut found = reconcile(self.db).await?;
        if let Some(depth) = scope.files {
            let (files, wrong) = files::all(self.db, self.storage, depth).await?;
            found.differences.extend(wrong);
            found.compared.files = Some(files);
        }
        self.ask(&mut found, scope).await?;
        let entry = Entry {
            occasion: Occasion::Command,
            who: self.who,
            took: began.elapsed(),
            admits: !found.doubts_money(),
            files_after: "",
            providers_age_secs: None,
        };
        record::insert(self.db, &found, entry).await?;
        Ok(found)
    }

    async fn ask(&self, found: &mut Reconciliation, scope: &Scope) -> Result<(), ReconcileError> {
        let names: BTreeSet<&String> = scope.accounts.iter().collect();
        let now = record::now(self.db).await?;
        let window = (now - scope.back, now - scope.settled);
        for provider in names.into_iter().filter_map(|name| self.providers.get(name)) {
            let provider: &dyn Provider = provider.as_ref();
            let (account, differences) = jobs::compare(self.db, provider, window).await?;
            found.compared.providers.push(account);
            found.differences.extend(differences);
        }
        Ok(())
    }
}

/// Keeps what was known of accounts that did not answer; tells whether all of them did.
fn keep_of_unavailable(found: &mut Reconciliation, known: Vec<Difference>) -> bool {
    let accounts = found.compared.providers.iter();
    let away = accounts.filter(|account| matches!(account.outcome, JobsCompared::Unavailable { .. }));
    let away: Vec<String> = away.map(|account| format!("{}/", account.account)).collect();
    let of_away = |difference: &Difference| away.iter().any(|account| difference.id.starts_with(account.as_str()));
    found.differences.extend(known.into_iter().filter(of_away));
    away.is_empty()
}

/// How long after the end of a comparison that took so long the next one is due. Slow providers count as well, so there is
/// an end to it.
fn pause(every: Duration, took: Duration) -> Duration {
    every.max(took.saturating_mul(REST_PER_WORK).min(every.saturating_mul(LONGEST_REST)))
}

async fn try_lock(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"select pg_try_advisory_lock(hashtextextended('freezeframe audit', 7)) as "mine!""#)
        .fetch_one(conn)
        .await
}

/// Waits for whoever compares at the moment.
pub(super) async fn wait_for_lock(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    conn.execute("set lock_timeout = 0; set statement_timeout = 0").await?;
    sqlx::query!("select pg_advisory_lock(hashtextextended('freezeframe audit', 7))").fetch_one(conn).await?;
    Ok(())
}
