//! Limits that operators set while the service runs: for a tenant, a provider account or a model, each by its rule. Its hardest
//! rule is the pause: nothing new begins of a tenant, a model or a batch. (What stops an account is the account's, see
//! [`accounts`](crate::accounts).) Its softest is a tenant's weight beside others.
//!
//! Always holds: what is set here stands before the value of the settings, and before what a tenant was made with; a value
//! with an end stands before the one without, until then; a change is one act with its row in the history; time is the
//! database's. Whoever paces looks at [`version`] before every round, so a change holds in the whole cluster with the next
//! one; the API reads its part of a tenant's limits with every key that it looks up.
//! Refuses: to know what is under way, and what the settings say.

mod change;
mod many;

use std::collections::HashMap;
use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

pub use change::{Changed, clear, one_at_a_time, set};
pub use many::{clear_many, set_many};

/// What a limit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Tenant,
    Account,
    Model,
    Batch,
}

impl Scope {
    pub const ALL: [Scope; 4] = [Scope::Tenant, Scope::Account, Scope::Model, Scope::Batch];

    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Scope::Tenant => "tenant",
            Scope::Account => "account",
            Scope::Model => "model",
            Scope::Batch => "batch",
        }
    }

    pub fn from_name(name: &str) -> Option<Scope> {
        Scope::ALL.into_iter().find(|scope| scope.name() == name)
    }

    /// What can be limited there, by a number.
    pub const fn rules(self) -> &'static [Rule] {
        match self {
            Scope::Tenant => &[Rule::VideosPerMinute, Rule::RequestsPerMinute, Rule::MaxInFlight, Rule::Weight],
            Scope::Account => &[Rule::RequestsPerMinute, Rule::MaxInFlight, Rule::SpendCredits, Rule::SpendWindowSecs],
            Scope::Model => &[Rule::VideosPerMinute, Rule::MaxInFlight],
            Scope::Batch => &[],
        }
    }

    /// Whether [`Rule::Paused`] can be set there.
    pub const fn can_be_paused(self) -> bool {
        !matches!(self, Scope::Account)
    }
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Videos that start in any 60 seconds.
    VideosPerMinute,
    /// Orders that an account gets in any 60 seconds; requests of a tenant that one API process answers in a minute.
    RequestsPerMinute,
    /// Videos released or running at once.
    MaxInFlight,
    /// A tenant's share of what several tenants want at once, beside theirs: twice the weight, twice the videos. 1 where nobody
    /// set any, at most [`Rule::MOST_WEIGHT`].
    Weight,
    /// What the videos may cost us, in credits, that begin at an account in any window.
    SpendCredits,
    /// How long that window is, in seconds.
    SpendWindowSecs,
    /// Nothing new begins. Its value is 1.
    Paused,
}

impl Rule {
    /// Those that are set by a number.
    pub const NUMBERS: [Rule; 6] = [
        Rule::VideosPerMinute,
        Rule::RequestsPerMinute,
        Rule::MaxInFlight,
        Rule::Weight,
        Rule::SpendCredits,
        Rule::SpendWindowSecs,
    ];
    pub const ALL: [Rule; 7] = [
        Rule::VideosPerMinute,
        Rule::RequestsPerMinute,
        Rule::MaxInFlight,
        Rule::Weight,
        Rule::SpendCredits,
        Rule::SpendWindowSecs,
        Rule::Paused,
    ];
    pub const MOST_WEIGHT: u32 = 1_000;
    /// In seconds: from a minute to a day.
    pub const SPEND_WINDOWS: RangeInclusive<u32> = 60..=86_400;

    /// The lowest value that can be set.
    pub const fn least(self) -> u32 {
        match self {
            Rule::SpendWindowSecs => *Rule::SPEND_WINDOWS.start(),
            _ => 1,
        }
    }

    /// The highest value that can be set.
    pub const fn most(self) -> u32 {
        match self {
            Rule::VideosPerMinute | Rule::RequestsPerMinute | Rule::MaxInFlight | Rule::SpendCredits => {
                i32::MAX.cast_unsigned()
            }
            Rule::SpendWindowSecs => *Rule::SPEND_WINDOWS.end(),
            Rule::Weight => Rule::MOST_WEIGHT,
            Rule::Paused => 1,
        }
    }

    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Rule::VideosPerMinute => "videos_per_minute",
            Rule::RequestsPerMinute => "requests_per_minute",
            Rule::MaxInFlight => "max_in_flight",
            Rule::Weight => "weight",
            Rule::SpendCredits => "spend_credits",
            Rule::SpendWindowSecs => "spend_window_secs",
            Rule::Paused => "paused",
        }
    }

    pub fn from_name(name: &str) -> Option<Rule> {
        Rule::ALL.into_iter().find(|rule| rule.name() == name)
    }
}

/// Which limit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct LimitKey {
    pub scope: Scope,
    /// A tenant's or a batch's id without prefix, or the name of an account or a model.
    pub subject: String,
    pub rule: Rule,
}

/// A limit that somebody set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    #[serde(flatten)]
    pub key: LimitKey,
    pub value: u32,
    /// From then on it holds no more.
    pub expires_at: Option<DateTime<Utc>>,
    pub set_by: String,
    pub reason: String,
    pub set_at: DateTime<Utc>,
}

/// Every limit that holds now.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    in_force: HashMap<Scope, HashMap<String, HashMap<Rule, Limit>>>,
    version: Version,
}

/// What tells one state of the limits from another: the last change, and how many have run out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    last_change: i64,
    run_out: i64,
}

impl Limits {
    /// The limit that somebody set, if it holds.
    pub fn get(&self, scope: Scope, subject: &str, rule: Rule) -> Option<&Limit> {
        self.in_force.get(&scope)?.get(subject)?.get(&rule)
    }

    /// Its value, or what holds where nobody set any.
    pub fn value_or(&self, scope: Scope, subject: &str, rule: Rule, otherwise: u32) -> u32 {
        self.get(scope, subject, rule).map_or(otherwise, |limit| limit.value)
    }

    /// Whether somebody paused it.
    pub fn paused(&self, scope: Scope, subject: &str) -> bool {
        self.get(scope, subject, Rule::Paused).is_some()
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn is_empty(&self) -> bool {
        self.in_force.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn of(limits: &[(Scope, &str, Rule, u32)]) -> Limits {
        let limit = |(scope, subject, rule, value): &(Scope, &str, Rule, u32)| Limit {
            key: LimitKey { scope: *scope, subject: (*subject).to_owned(), rule: *rule },
            value: *value,
            expires_at: None,
            set_by: "test".to_owned(),
            reason: "test".to_owned(),
            set_at: Utc::now(),
        };
        let mut all = Limits::default();
        limits.iter().map(limit).for_each(|limit| all.put(limit));
        all
    }

    fn put(&mut self, limit: Limit) {
        let LimitKey { scope, subject, rule } = limit.key.clone();
        self.in_force.entry(scope).or_default().entry(subject).or_default().insert(rule, limit);
    }
}

/// What the present state is called. Cheap: two look-ups in small tables.
///
/// # Errors
/// The database's.
pub async fn version(conn: &mut PgConnection) -> Result<Version, sqlx::Error> {
    sqlx::query_as!(
        Version,
        r#"select coalesce((select max(id) from limit_changes), 0) as "last_change!",
               (select count(*) from limits where expires_at <= now()) as "run_out!""#,
    )
    .fetch_one(conn)
    .await
}

/// Every limit that holds now.
///
/// # Errors
/// The database's.
pub async fn in_force(conn: &mut PgConnection) -> Result<Limits, sqlx::Error> {
    // before the limits: a change that comes between is read again
    let mut limits = Limits { version: version(&mut *conn).await?, ..Limits::default() };
    // the temporary one of each comes last, and stays
    all(conn).await?.into_iter().filter(|(_, holds)| *holds).for_each(|(limit, _)| limits.put(limit));
    Ok(limits)
}

/// Every limit that is set, by what it limits, and whether it has not run out. One without an end comes before one with.
///
/// # Errors
/// The database's.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<(Limit, bool)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select scope, subject, rule, value, expires_at, set_by, reason, set_at,
               coalesce(expires_at > now(), true) as "holds!"
           from limits order by scope, subject, rule, temporary"#,
    )
    .fetch_all(conn)
    .await?;
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        let (Some(scope), Some(rule)) = (Scope::from_name(&row.scope), Rule::from_name(&row.rule)) else { continue };
        let limit = Limit {
            key: LimitKey { scope, subject: row.subject, rule },
            value: row.value.unsigned_abs(),
            expires_at: row.expires_at,
            set_by: row.set_by,
            reason: row.reason,
            set_at: row.set_at,
        };
        all.push((limit, row.holds));
    }
    Ok(all)
}
