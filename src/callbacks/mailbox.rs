//! The table of calls: written in groups, read by subject.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgConnection;

use super::{About, Hint, KEPT_DAYS};
use crate::db::Database;
use crate::domain::AttemptId;
use crate::engine::recorder::{Journal, JournalError, Recorder};

/// Rows that one sweep deletes.
const MOST_FORGOTTEN: i64 = 10_000;

/// What a call was to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It said something new.
    New,
    /// It said nothing that was not known.
    Again,
    /// It names another job than an earlier call about the same attempt, whose name stands.
    Contradiction,
}

/// A call that was not written in time. It may be written yet; the provider should repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the database did not take the callback in time")]
pub struct NotNoted;

/// Where calls are left. Cheap to clone.
#[derive(Clone)]
pub struct Mailbox(Recorder<HintJournal>);

impl Mailbox {
    pub fn open(db: Database) -> Mailbox {
        Mailbox(Recorder::start(db, HintJournal))
    }

    /// Writes a call, together with others that come at the same moment.
    ///
    /// # Errors
    /// [`NotNoted`] when it is not committed `within` this time, whatever the reason.
    pub async fn note(&self, hint: Hint, within: Duration) -> Result<Noted, NotNoted> {
        match tokio::time::timeout(within, self.0.record(hint)).await {
            Ok(Ok(noted)) => Ok(noted),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a callback was not written");
                Err(NotNoted)
            }
            Err(_) => Err(NotNoted),
        }
    }
}

pub struct HintJournal;

/// What the calls of one group say about one subject, and which they are.
#[derive(Default)]
struct Merged {
    job: Option<String>,
    ended: bool,
    calls: Vec<usize>,
}

#[async_trait]
impl Journal for HintJournal {
    type Op = Hint;
    type Reply = Noted;

    async fn write(&self, conn: &mut PgConnection, hints: &[Hint]) -> Result<Vec<Noted>, JournalError> {
        // one row each, in the order that every writer keeps
        let mut merged: BTreeMap<(&str, String), Merged> = BTreeMap::new();
        for (at, hint) in hints.iter().enumerate() {
            let one = merged.entry((&*hint.account, hint.about.subject())).or_default();
            one.job = one.job.take().or_else(|| hint.job.clone());
            one.ended |= hint.ended;
            one.calls.push(at);
        }
        let accounts: Vec<String> = merged.keys().map(|(account, _)| (*account).to_owned()).collect();
        let subjects: Vec<String> = merged.keys().map(|(_, subject)| subject.clone()).collect();
        let rows = sqlx::query!(
            r#"with input as (
                   select * from unnest($1::text[], $2::text[], $3::text[], $4::boolean[]) as i (account, subject, job, ended)
               ), written as (
                   insert into provider_callbacks as c (account, subject, job, ended)
                   select account, subject, job, ended from input
                   on conflict (account, subject) do update
                   set job = coalesce(c.job, excluded.job), ended = c.ended or excluded.ended, noted_at = clock_timestamp()
                   where (excluded.ended and not c.ended) or (c.job is null and excluded.job is not null)
                   returning account, subject, job
               )
               select i.account as "account!", i.subject as "subject!", w.subject is not null as "written!",
                   -- the statement's snapshot has the row as it was before
                   coalesce(w.job, c.job) as job
               from input i left join written w using (account, subject)
                   left join provider_callbacks c using (account, subject)"#,
            &accounts,
            &subjects,
            &merged.values().map(|one| one.job.clone()).collect::<Vec<_>>() as &[Option<String>],
            &merged.values().map(|one| one.ended).collect::<Vec<_>>(),
        )
        .fetch_all(conn)
        .await?;
        let mut replies = vec![Noted::Again; hints.len()];
        for row in rows {
            let Some(one) = merged.get(&(row.account.as_str(), row.subject)) else { continue };
            let mut new = row.written;
            for at in &one.calls {
                replies[*at] = match (&hints[*at].job, &row.job) {
                    (Some(named), Some(kept)) if named != kept => Noted::Contradiction,
                    _ if std::mem::take(&mut new) => Noted::New,
                    _ => Noted::Again,
                };
            }
        }
        Ok(replies)
    }
}

/// The job that a call named as that of an attempt.
///
/// # Errors
/// The database's.
pub async fn named_job(db: &Database, account: &str, attempt: AttemptId) -> Result<Option<String>, sqlx::Error> {
    let job = sqlx::query_scalar!(
        "select job from provider_callbacks where account = $1 and subject = $2",
        account,
        About::Attempt(attempt).subject(),
    )
    .fetch_optional(db.pool())
    .await?;
    Ok(job.flatten())
}

/// Deletes what is too old to matter; answers how many rows.
///
/// # Errors
/// The database's.
pub async fn forget_old(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let forgotten = sqlx::query!(
        "delete from provider_callbacks where (account, subject) in (
             select account, subject from provider_callbacks where noted_at < now() - make_interval(days => $1)
             order by noted_at limit $2 for update skip locked)",
        KEPT_DAYS,
        MOST_FORGOTTEN,
    )
    .execute(conn)
    .await?;
    Ok(forgotten.rows_affected())
}
