//! Our attempts against what each provider says it made.
//!
//! Every job that an account lists must be an attempt of ours, and every job of ours must be in its list. Who owns a job
//! that no attempt names is decided in this order: an attempt whose answer was lost, of the same prompt and the same time,
//! explains one job; a job of a prompt that we sent there at the time is ours, and was bought twice or lost
//! (`provider_job_without_attempt`); any other cannot be ours, since we sent no such prompt - unless the database was
//! restored after the job had been made, and has forgotten (`provider_job_lost`). What is left is another installation's:
//! counted, and no difference. So is every job of a list that keeps prompts to itself.
//!
//! Always holds: the list is read before the database, and to its newest end: a job may be much younger than its
//! attempt. No job and no answer of the last moments counts as unexplained or missing, so that nothing under way looks
//! wrong.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{ReconcileError, record, snapshot};
use crate::db::Database;
use crate::domain::AttemptState;
use crate::ledger::Difference;
use crate::providers::{Fingerprint, JobList, ListedJob, Made, Provider};

/// How far a provider's clock may be from the database's; its times are whole seconds, too.
const CLOCK_SLACK: TimeDelta = TimeDelta::seconds(10);
/// A job may have been made so long after its attempt was written.
const LONGEST_SUBMIT: TimeDelta = TimeDelta::hours(1);
/// Lists are read to so long after the window: to their newest end, by whatever clock.
const NEWEST: TimeDelta = TimeDelta::days(1);

/// An account and what came of its comparison.
#[derive(Clone, Debug, Serialize)]
pub struct AccountCompared {
    pub account: String,
    #[serde(flatten)]
    pub outcome: JobsCompared,
}

/// What came of the comparison with an account's list.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum JobsCompared {
    Compared {
        jobs: u64,
        /// Of attempts that name them.
        owned: u64,
        /// Of attempts whose answer was lost.
        explained: u64,
        /// Of somebody else.
        strangers: u64,
    },
    /// The account cannot tell.
    NotComparable { why: String },
    /// It can, and did not answer.
    Unavailable { why: String },
}

struct Attempt {
    video_id: String,
    n: i32,
    state: AttemptState,
    handle: Option<String>,
    sent_at: DateTime<Utc>,
    accepted_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

impl Attempt {
    fn id(&self) -> String {
        format!("{}/{}", self.video_id, self.n)
    }

    /// Its answer was lost, and a job of that moment may be its own.
    fn may_have_made(&self, at: DateTime<Utc>) -> bool {
        let lost = matches!(self.state, AttemptState::Sent | AttemptState::Unknown | AttemptState::Unresolved);
        let ended = self.finished_at.is_some_and(|end| at > end + CLOCK_SLACK);
        self.handle.is_none() && lost && at >= self.sent_at - CLOCK_SLACK && !ended
    }
}

/// Compares the jobs of one account that were made within `window`; those of our attempts also when made later.
pub(super) async fn compare(
    db: &Database,
    provider: &dyn Provider,
    window: (DateTime<Utc>, DateTime<Utc>),
) -> Result<(AccountCompared, Vec<Difference>), ReconcileError> {
    let account = provider.name().to_owned();
    let outcome = match provider.jobs((window.0, window.1 + NEWEST)).await {
        Ok(JobList::Jobs(jobs)) => return settle(db, account, jobs, window).await,
        Ok(JobList::NotComparable(why)) => JobsCompared::NotComparable { why: why.to_owned() },
        Err(error) => JobsCompared::Unavailable { why: error.to_string() },
    };
    Ok((AccountCompared { account, outcome }, Vec::new()))
}

async fn settle(
    db: &Database,
    account: String,
    jobs: Vec<ListedJob>,
    (since, until): (DateTime<Utc>, DateTime<Utc>),
) -> Result<(AccountCompared, Vec<Difference>), ReconcileError> {
    let mut tx = snapshot(db).await?;
    let attempts = sqlx::query_as!(
        Attempt,
        r#"select video_id, n, state as "state: AttemptState", handle, sent_at, accepted_at, finished_at
           from attempts where provider = $1 and sent_at >= $2"#,
        account,
        since - LONGEST_SUBMIT,
    )
    .fetch_all(&mut *tx)
    .await?;
    let owners: HashMap<&str, &Attempt> =
        attempts.iter().filter_map(|attempt| Some((attempt.handle.as_deref()?, attempt))).collect();
    let (owned, mut unowned): (Vec<&ListedJob>, Vec<&ListedJob>) =
        jobs.iter().partition(|job| owners.contains_key(job.handle.0.as_str()));
    // whose attempt may be about to name it
    unowned.retain(|job| job.created_at <= until);
    let compared = (owned.len() + unowned.len()) as u64;
    let mut differences = not_made(&account, &owned, &owners);
    differences.extend(not_listed(&account, &attempts, &jobs, (since + CLOCK_SLACK, until - CLOCK_SLACK)));
    let (mut explained, mut strangers) = (0, 0);
    if !unowned.is_empty() {
        let restored_at = record::restored_at(&mut tx).await?;
        let prompts = prompts(&mut tx, &attempts).await?;
        let mut lost: HashMap<Fingerprint, Vec<&Attempt>> = HashMap::new();
        for attempt in &attempts {
            if let Some(prompt) = prompts.get(&attempt.video_id) {
                lost.entry(*prompt).or_default().push(attempt);
            }
        }
        for job in unowned {
            let ours = job.prompt.and_then(|prompt| lost.get_mut(&prompt));
            let what = match ours {
                Some(attempts) => match attempts.iter().position(|attempt| attempt.may_have_made(job.created_at)) {
                    Some(at) => {
                        attempts.swap_remove(at);
                        explained += 1;
                        continue;
                    }
                    None => "provider_job_without_attempt",
                },
                None if restored_at.is_some_and(|restored| job.created_at < restored) => "provider_job_lost",
                None => {
                    strangers += 1;
                    continue;
                }
            };
            differences.push(difference(what, &account, &job.handle.0, 1, 0));
        }
    }
    tx.rollback().await?;
    let outcome = JobsCompared::Compared { jobs: compared, owned: owned.len() as u64, explained, strangers };
    Ok((AccountCompared { account, outcome }, differences))
}

/// Delivered here, and there is no film there.
fn not_made(account: &str, owned: &[&ListedJob], owners: &HashMap<&str, &Attempt>) -> Vec<Difference> {
    let delivered = |job: &ListedJob| {
        owners.get(job.handle.0.as_str()).is_some_and(|attempt| attempt.state == AttemptState::Succeeded)
    };
    let wrong = owned.iter().filter(|job| job.made == Made::No && delivered(job));
    wrong.map(|job| difference("provider_job_not_made", account, &job.handle.0, 1, 0)).collect()
}

/// Jobs that we hold for delivered or under way, and that the list does not have. What failed may have failed for that.
fn not_listed(
    account: &str,
    attempts: &[Attempt],
    jobs: &[ListedJob],
    (since, until): (DateTime<Utc>, DateTime<Utc>),
) -> Vec<Difference> {
    let listed: HashSet<&str> = jobs.iter().map(|job| job.handle.0.as_str()).collect();
    let counts = |attempt: &&Attempt| {
        matches!(attempt.state, AttemptState::Accepted | AttemptState::Succeeded)
            // its job was made between the two moments; one accepted later may be younger than the list
            && attempt.sent_at >= since && attempt.sent_at <= until
            && attempt.accepted_at.is_none_or(|at| at <= until)
            && attempt.handle.as_deref().is_some_and(|handle| !listed.contains(handle))
    };
    let missing = attempts.iter().filter(counts);
    missing.map(|attempt| difference("attempt_unknown_to_provider", account, &attempt.id(), 1, 0)).collect()
}

/// The prompts that were sent.
async fn prompts(
    conn: &mut sqlx::PgConnection,
    attempts: &[Attempt],
) -> Result<HashMap<String, Fingerprint>, sqlx::Error> {
    let ids: Vec<String> = attempts.iter().map(|attempt| attempt.video_id.clone()).collect();
    let mut found = HashMap::with_capacity(ids.len());
    for ids in ids.chunks(10_000) {
        let rows = sqlx::query!("select id, prompt from videos where id = any($1)", ids).fetch_all(&mut *conn).await?;
        found.extend(rows.into_iter().map(|row| (row.id, Fingerprint::of(&row.prompt))));
    }
    Ok(found)
}

fn difference(what: &str, account: &str, id: &str, stored: i64, expected: i64) -> Difference {
    Difference { what: what.to_owned(), id: format!("{account}/{id}"), stored, expected }
}
