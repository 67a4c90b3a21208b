//! What several operations show: limits and their changes.

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object};
use serde::Deserialize;
use serde_json::Value;

use crate::api::words::Word;
use crate::control::words::shown_subject;
use crate::limits::{Changed, Limit, LimitKey, Rule, Scope};

/// A limit that somebody set.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
pub struct LimitShown {
    pub scope: Word<Scope>,
    /// The id of a tenant or batch, or the name of an account or model.
    pub subject: String,
    pub rule: Word<Rule>,
    pub value: u32,
    /// From then on it holds no more; absent while nobody clears it.
    pub expires_at: Option<DateTime<Utc>>,
    pub set_by: String,
    pub reason: String,
    pub set_at: DateTime<Utc>,
    /// Whether it has not run out. Where one with an end and one without hold, the one with an end is meant.
    pub in_force: bool,
}

impl LimitShown {
    pub fn new(limit: Limit, in_force: bool) -> LimitShown {
        let LimitKey { scope, subject, rule } = limit.key;
        LimitShown {
            scope: Word(scope),
            subject: shown_subject(scope, &subject),
            rule: Word(rule),
            value: limit.value,
            expires_at: limit.expires_at,
            set_by: limit.set_by,
            reason: limit.reason,
            set_at: limit.set_at,
            in_force,
        }
    }
}

/// What a limit was or is.
#[derive(Deserialize, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct LimitValue {
    pub value: u32,
    pub expires_at: Option<DateTime<Utc>>,
    pub set_by: String,
    pub reason: String,
    pub set_at: DateTime<Utc>,
}

/// A limit that was changed.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
pub struct LimitChanged {
    pub scope: Word<Scope>,
    pub subject: String,
    pub rule: Word<Rule>,
    /// Absent where there was none.
    pub before: Option<LimitValue>,
    /// Absent where there is none now.
    pub after: Option<LimitValue>,
}

/// Every limit that was changed; none where there was nothing to change.
#[derive(Object)]
pub struct LimitChanges {
    pub data: Vec<LimitChanged>,
}

impl LimitChanges {
    pub fn new(changed: Vec<(LimitKey, Changed)>) -> LimitChanges {
        // a row of the table, with the columns that are shown among others
        let value = |row: Option<Value>| row.and_then(|row| serde_json::from_value(row).ok());
        let one = |(key, Changed { before, after }): (LimitKey, Changed)| LimitChanged {
            scope: Word(key.scope),
            subject: shown_subject(key.scope, &key.subject),
            rule: Word(key.rule),
            before: value(before),
            after: value(after),
        };
        LimitChanges { data: changed.into_iter().map(one).collect() }
    }
}

/// Where a limit comes from.
#[derive(Clone, Copy, Debug, Enum, PartialEq, Eq)]
#[oai(rename_all = "snake_case")]
pub enum LimitOrigin {
    /// The settings.
    Settings,
    /// What the tenant was made with.
    Tenant,
    /// Somebody set it.
    Set,
}
