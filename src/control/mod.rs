//! What operators do with what runs, by HTTP (`api/operator`) or on the command line: limits, pauses, provider accounts, and
//! batches of any tenant.
//!
//! Always holds: what is named is looked for before anything is written, so that a slip in a name changes nothing; each change
//! has a name and a reason (the start of an account may go without), and its row in a history. Both doors read what they are told by the same words ([`words`], [`ask`]).
//! Refuses: SQL of its own, requests of customers (they have another database handle and no way here), status codes.

pub mod ask;
mod bulk;
pub mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::accounts::{self, Account, Shut};
use crate::batches::bulk::BulkError;
use crate::batches::{self, CancelError};
use crate::config::Live;
use crate::db::Database;
use crate::domain::{BatchId, BatchStatus, TenantId, Wrong};
use crate::limits::{self, Changed, Limit, LimitKey, Rule, Scope};
use crate::operators::{self, Operator, Said};
use crate::scheduler::{self, AccountLimits, Asked, Explanation, RoutePlan};
use crate::tenants::{self, TenantListed};
use words::Whose;

/// How long a stop waits for changes that go on without their caller.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The controls of an installation. Cheap to clone.
#[derive(Clone)]
pub struct Controls {
    db: Database,
    plan: Live<RoutePlan>,
    worker_dead_after: Duration,
}

/// Why something was not done or cannot be shown. Nothing was changed then, but as [`ControlError::Database`] says.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nothing has that name.
    #[error("{0}")]
    Unknown(String),
    /// What was sent names things that are not there, or does not fit together.
    #[error("{}", in_words(.0))]
    Invalid(Vec<Wrong>),
    #[error("the batch has ended: it is {}", .0.word())]
    Ended(BatchStatus),
    #[error("{expected} batches were expected, and it would be {present} now; nothing was changed")]
    Differs { expected: u32, present: u32 },
    /// It may say that the outcome is unknown: see [`commit_unknown`](crate::db::commit_unknown).
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

fn in_words(wrong: &[Wrong]) -> String {
    let one = |wrong: &Wrong| format!("{} {}", wrong.pointer.trim_start_matches('/').replace('/', " "), wrong.detail);
    wrong.iter().map(one).collect::<Vec<_>>().join("; ")
}

impl ControlError {
    /// What was named by a field of a body, and is not there, is a fault of that field.
    pub fn in_field(self, pointer: &str) -> ControlError {
        match self {
            ControlError::Unknown(detail) => ControlError::Invalid(vec![Wrong {
                pointer: pointer.to_owned(),
                detail: format!("names nothing: {detail}"),
            }]),
            other => other,
        }
    }
}

impl From<BulkError> for ControlError {
    fn from(error: BulkError) -> ControlError {
        match error {
            BulkError::EmptyFilter => ControlError::Invalid(vec![Wrong {
                pointer: "/filter".to_owned(),
                detail: ask::EMPTY_FILTER.to_owned(),
            }]),
            BulkError::Differs { expected, present } => ControlError::Differs { expected, present },
            BulkError::Database(error) => ControlError::Database(error),
        }
    }
}

/// A provider account: what stands against it, and what it takes.
#[derive(Clone, Debug)]
pub struct AccountState {
    pub account: Account,
    /// Videos released or running there.
    pub in_flight: i64,
    /// As the settings say; `None` when they do not name it.
    pub limits: Option<AccountLimits>,
}

impl AccountState {
    /// `open`, or the heaviest of what stands against it.
    pub fn word(&self) -> &'static str {
        self.account.shut().map_or("open", Shut::name)
    }
}

impl Controls {
    /// `plan` is what the settings offer at present. A worker without heartbeat for `worker_dead_after` offers no slots.
    pub fn new(db: Database, plan: Live<RoutePlan>, worker_dead_after: Duration) -> Controls {
        Controls { db, plan, worker_dead_after }
    }

    /// Waits for every change under way, for five seconds at most: the database decides what hangs.
    pub async fn close(&self) {
        if tokio::time::timeout(CLOSE_WITHIN, self.db.close()).await.is_err() {
            tracing::warn!(within = ?CLOSE_WITHIN, "not every change of an operator ended in time");
        }
    }

    /// The operator of a key that is in force, by its hash.
    ///
    /// # Errors
    /// The database's.
    pub async fn operator_of(&self, key_hash: [u8; 32]) -> Result<Option<Operator>, sqlx::Error> {
        operators::authenticate(&mut *self.db.pool().acquire().await?, key_hash).await
    }

    /// Up to `most` tenants behind `after`, see [`tenants::list`].
    ///
    /// # Errors
    /// The database's.
    pub async fn tenants(
        &self,
        after: Option<TenantId>,
        name: Option<&str>,
        most: i64,
    ) -> Result<Vec<TenantListed>, ControlError> {
        Ok(tenants::list(&mut *self.db.pool().acquire().await?, after, name, most).await?)
    }

    /// Every limit that somebody set, and whether it has not run out.
    ///
    /// # Errors
    /// The database's.
    pub async fn limits(&self) -> Result<Vec<(Limit, bool)>, ControlError> {
        Ok(limits::all(&mut *self.db.pool().acquire().await?).await?)
    }

    /// Sets limits of one subject, until `until` if that is given.
    ///
    /// # Errors
    /// [`ControlError::Unknown`], [`ControlError::Invalid`] for a spend that affords no video, or the database's.
    pub async fn set_limits(
        &self,
        whose: &Whose,
        values: &[(Rule, u32)],
        until: Option<DateTime<Utc>>,
        said: &Said,
    ) -> Result<Vec<(LimitKey, Changed)>, ControlError> {
        self.find(whose).await?;
        self.affords_a_video(whose, values)?;
        let values: Vec<(LimitKey, u32)> = values.iter().map(|(rule, value)| (whose.key(*rule), *value)).collect();
        let changed = limits::set(&self.db, &values, until, said.parts()).await?;
        Ok(values.into_iter().map(|(key, _)| key).zip(changed).collect())
    }

    /// Takes limits of one subject away, those with an end and, unless `temporary`, those without; every one of its rules when
    /// none is named. Answers those that there were.
    ///
    /// # Errors
    /// [`ControlError::Unknown`], or the database's.
    pub async fn clear_limits(
        &self,
        whose: &Whose,
        rules: &[Rule],
        temporary: bool,
        said: &Said,
    ) -> Result<Vec<(LimitKey, Changed)>, ControlError> {
        self.find_or_set(whose).await?;
        let rules = if rules.is_empty() { whose.scope.rules() } else { rules };
        self.clear(whose, rules, temporary, said).await
    }

    async fn clear(
        &self,
        whose: &Whose,
        rules: &[Rule],
        temporary: bool,
        said: &Said,
    ) -> Result<Vec<(LimitKey, Changed)>, ControlError> {
        let keys: Vec<LimitKey> = rules.iter().map(|rule| whose.key(*rule)).collect();
        Ok(limits::clear(&self.db, &keys, temporary, said.parts()).await?)
    }

    /// Says what decides when a tenant's next video of a model starts.
    ///
    /// # Errors
    /// [`ControlError::Unknown`], or the database's.
    pub async fn explain(&self, tenant: TenantId, model: &str) -> Result<Explanation, ControlError> {
        self.find(&Whose { scope: Scope::Model, subject: model.to_owned() }).await?;
        let plan = self.plan.get();
        let asked = Asked { tenant, model, plan: &plan, worker_dead_after: self.worker_dead_after };
        let found = scheduler::explain(&self.db, &asked).await?;
        found.ok_or_else(|| ControlError::Unknown(format!("there is no tenant {tenant}")))
    }

    /// Nothing new begins of a tenant, a model or a batch, until `until` or until somebody resumes.
    ///
    /// # Errors
    /// [`ControlError::Unknown`], [`ControlError::Ended`], or the database's.
    pub async fn pause(
        &self,
        whose: &Whose,
        until: Option<DateTime<Utc>>,
        said: &Said,
    ) -> Result<Vec<(LimitKey, Changed)>, ControlError> {
        let ended = self.find(whose).await?.filter(|status| status.is_final());
        if let Some(status) = ended {
            return Err(ControlError::Ended(status));
        }
        let key = whose.key(Rule::Paused);
        let changed = limits::set(&self.db, &[(key.clone(), 1)], until, said.parts()).await?;
        Ok(changed.into_iter().map(|changed| (key.clone(), changed)).collect())
    }

    /// Takes the pauses of a tenant, a model or a batch away. Answers those that there were.
    ///
    /// # Errors
    /// [`ControlError::Unknown`], or the database's.
    pub async fn resume(&self, whose: &Whose, said: &Said) -> Result<Vec<(LimitKey, Changed)>, ControlError> {
        self.find_or_set(whose).await?;
        self.clear(whose, &[Rule::Paused], false, said).await
    }

    /// Every provider account of the settings or of the database, by name.
    ///
    /// # Errors
    /// The database's.
    pub async fn accounts(&self) -> Result<Vec<AccountState>, ControlError> {
        let under_way = scheduler::under_way(&self.db).await?;
        let mut known: BTreeMap<String, Account> =
            accounts::list(&self.db).await?.into_iter().map(|row| (row.name.clone(), row)).collect();
        let plan = self.plan.get();
        for name in plan.accounts.keys() {
            known.entry(name.clone()).or_insert_with(|| Account::open(name));
        }
        let state = |account: Account| AccountState {
            in_flight: under_way.get(&account.name).copied().unwrap_or(0),
            limits: plan.accounts.get(&account.name).copied(),
            account,
        };
        Ok(known.into_values().map(state).collect())
    }

    /// Nothing new goes to an account until it is started.
    ///
    /// # Errors
    /// [`ControlError::Unknown`], or the database's.
    pub async fn stop_account(&self, name: &str, said: &Said) -> Result<accounts::Changed, ControlError> {
        self.find_account(name).await?;
        Ok(accounts::stop(&self.db, name, &said.by, &said.reason).await?)
    }

    /// An account gets videos again, whatever stood against it.
    ///
    /// # Errors
    /// [`ControlError::Unknown`], or the database's.
    pub async fn start_account(
        &self,
        name: &str,
        (by, reason): (&str, Option<&str>),
    ) -> Result<accounts::Changed, ControlError> {
        self.find_account(name).await?;
        Ok(accounts::start(&self.db, name, by, reason).await?)
    }

    /// Cancels a batch, as its customer would; answers since when it is cancelled.
    ///
    /// # Errors
    /// [`ControlError::Unknown`], [`ControlError::Ended`], or the database's.
    pub async fn cancel(&self, batch: BatchId, said: &Said) -> Result<DateTime<Utc>, ControlError> {
        batches::cancel_as_operator(&self.db, batch, said).await.map_err(|error| match error {
            CancelError::NoBatch => no_batch(batch),
            CancelError::Ended(status) => ControlError::Ended(status),
            CancelError::Database(error) => ControlError::Database(error),
        })
    }

    /// A video that costs more than all that may be spent would wait for ever, and those behind it with it.
    fn affords_a_video(&self, whose: &Whose, values: &[(Rule, u32)]) -> Result<(), ControlError> {
        let plan = self.plan.get();
        let (Some((_, credits)), Some((dearest, model))) =
            (values.iter().find(|(rule, _)| *rule == Rule::SpendCredits), plan.dearest_at(&whose.subject))
        else {
            return Ok(());
        };
        if i64::from(*credits) >= dearest {
            return Ok(());
        }
        Err(ControlError::Invalid(vec![Wrong {
            pointer: format!("/values/{}", Rule::SpendCredits.name()),
            detail: format!(
                "must be at least {dearest}, which is what the dearest video of {model} may cost at {}",
                whose.subject
            ),
        }]))
    }

    /// As [`Controls::find`]; what is gone from the settings is found where something is still set.
    async fn find_or_set(&self, whose: &Whose) -> Result<(), ControlError> {
        match self.find(whose).await {
            Err(ControlError::Unknown(why)) => {
                let is_of = |key: &LimitKey| key.scope == whose.scope && key.subject == whose.subject;
                let set = self.limits().await?.iter().any(|(limit, _)| is_of(&limit.key));
                if set { Ok(()) } else { Err(ControlError::Unknown(why)) }
            }
            found => found.map(|_| ()),
        }
    }

    /// Looks for a subject; answers the status of a batch.
    async fn find(&self, whose: &Whose) -> Result<Option<BatchStatus>, ControlError> {
        let plan = self.plan.get();
        let names: BTreeSet<&str> = match whose.scope {
            Scope::Tenant => {
                let id = id_of(TenantId::from_bare(&whose.subject))?;
                return match tenants::exists(&mut *self.db.pool().acquire().await?, id).await? {
                    true => Ok(None),
                    false => Err(ControlError::Unknown(format!("there is no tenant {id}"))),
                };
            }
            Scope::Batch => {
                let id = id_of(BatchId::from_bare(&whose.subject))?;
                let found = batches::settled_batch(&mut *self.db.pool().acquire().await?, id).await?;
                return found.map(|(_, batch)| Some(batch.status)).ok_or_else(|| no_batch(id));
            }
            Scope::Account => plan.accounts.keys().map(String::as_str).collect(),
            Scope::Model => plan.models.keys().map(String::as_str).collect(),
        };
        match names.contains(whose.subject.as_str()) {
            true => Ok(None),
            false => Err(nothing_called(whose.scope, &whose.subject, &names)),
        }
    }

    /// An account that is gone from the settings may still be known.
    async fn find_account(&self, name: &str) -> Result<(), ControlError> {
        let plan = self.plan.get();
        let rows = accounts::list(&self.db).await?;
        let mut names: BTreeSet<&str> = plan.accounts.keys().map(String::as_str).collect();
        names.extend(rows.iter().map(|row| row.name.as_str()));
        if names.contains(name) { Ok(()) } else { Err(nothing_called(Scope::Account, name, &names)) }
    }
}

/// Subjects were read before, so this does not happen.
fn id_of<T, E: ToString>(id: Result<T, E>) -> Result<T, ControlError> {
    id.map_err(|error| ControlError::Unknown(error.to_string()))
}

fn no_batch(id: BatchId) -> ControlError {
    ControlError::Unknown(format!("there is no batch {id}"))
}

fn nothing_called(scope: Scope, name: &str, names: &BTreeSet<&str>) -> ControlError {
    let known = if names.is_empty() { "none".to_owned() } else { names.iter().copied().collect::<Vec<_>>().join(", ") };
    let what = if scope == Scope::Account { "provider account" } else { scope.name() };
    // the name is a stranger's text
    let name: String = name.chars().take(64).collect();
    ControlError::Unknown(format!("there is no {what} {name:?} in these settings; known are: {known}"))
}
