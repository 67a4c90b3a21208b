//! Operators: their keys and roles, what may be said as a reason, and the history of what they did.
//!
//! Always holds: a key is kept as its hash alone; a name has one key that is in force; whoever changes something has a name and
//! a reason, and by HTTP the role [`Role::Ops`]. What is done to operators and across tenants to batches is one row of
//! `operator_acts` in the transaction that did it; limits and provider accounts have their own histories.
//! Refuses: text that is no key of an operator, before the database is asked; to know what an act means.

mod act;
mod keys;

use chrono::{DateTime, Utc};

pub use crate::domain::OperatorKey;
pub use act::{Act, note};
pub use keys::{AddError, add, authenticate, list, revoke};

/// What an operator may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// See limits, pauses, provider accounts, and what a bulk action would change.
    Viewer,
    /// See and change them, and batches of any tenant.
    Ops,
}

impl Role {
    pub const ALL: [Role; 2] = [Role::Viewer, Role::Ops];

    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Ops => "ops",
        }
    }

    pub fn from_name(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// Whom a request of an operator speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    pub name: String,
    pub role: Role,
}

/// An operator as the list shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub operator: Operator,
    pub key_hint: String,
    pub created_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Characters of a reason, at the most.
const MAX_REASON_CHARS: usize = 1_000;
/// Characters of an operator's name, at the most.
const MAX_NAME_CHARS: usize = 64;

/// Who writes histories beside operators.
const OF_PROCESSES: [&str; 2] = ["worker", "scheduler"];

/// Who changes something, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub by: String,
    pub reason: String,
}

impl Said {
    /// As the rooms that keep a history take it.
    pub fn parts(&self) -> (&str, &str) {
        (&self.by, &self.reason)
    }
}

/// A reason as it is kept.
///
/// # Errors
/// What it must be, in words that follow its name.
pub fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > MAX_REASON_CHARS || text.chars().any(char::is_control) {
        return Err(format!("must say why, in 1 to {MAX_REASON_CHARS} characters without control characters"));
    }
    Ok(text.to_owned())
}

/// An operator's name, which stands in histories and tables.
///
/// # Errors
/// What it must be, in words that follow its name.
pub fn name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    if OF_PROCESSES.contains(&text) {
        return Err(format!("must not be {text}: histories call a process so"));
    }
    if text.is_empty() || text.len() > MAX_NAME_CHARS || !text.chars().all(is_plain) {
        return Err(format!("must have 1 to {MAX_NAME_CHARS} letters, digits and characters of `._@-`"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Role, name, reason};

    #[test]
    fn reasons_and_names_are_short_plain_text() {
        assert_eq!(reason("  their incident \n"), Ok("their incident".to_owned()));
        assert!(reason(&"é".repeat(1_000)).is_ok());
        for wrong in ["", " \t", "a\u{0}b", "a\nb", &"e".repeat(1_001)] {
            assert!(reason(wrong).is_err(), "{wrong:?}");
        }
        assert!(name("ann.o-neil_2@example.com").is_ok());
        for wrong in ["", "worker", "scheduler", "ann b", "änn", "a\u{0}", &"a".repeat(65)] {
            assert!(name(wrong).is_err(), "{wrong:?}");
        }
        assert!(Role::ALL.into_iter().all(|role| Role::from_name(role.name()) == Some(role)));
    }
}
