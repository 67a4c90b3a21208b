//! The words in which operators say what they mean, the same at each door. Errors are words that follow the name of what is
//! wrong.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};

use crate::batches::bulk::Action;
use crate::domain::{BatchId, BatchStatus, TenantId};
use crate::limits::{LimitKey, Rule, Scope};

/// The longest time that something can be said to last.
const LONGEST: TimeDelta = TimeDelta::days(3_660);

/// Whose limit or pause: on the command line `SCOPE=SUBJECT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    pub scope: Scope,
    /// As the database names it: ids without prefix.
    pub subject: String,
}

impl Whose {
    /// Of a subject as it is shown, by id or name. Whether there is such a one only the database knows.
    ///
    /// # Errors
    /// What the subject must be.
    pub fn new(scope: Scope, subject: &str) -> Result<Whose, String> {
        let subject = match scope {
            Scope::Tenant => subject.parse::<TenantId>().map_err(|error| error.to_string())?.bare(),
            Scope::Batch => subject.parse::<BatchId>().map_err(|error| error.to_string())?.bare(),
            Scope::Account | Scope::Model if subject.is_empty() => return Err("must be a name".to_owned()),
            Scope::Account | Scope::Model => subject.to_owned(),
        };
        Ok(Whose { scope, subject })
    }

    pub fn key(&self, rule: Rule) -> LimitKey {
        LimitKey { scope: self.scope, subject: self.subject.clone(), rule }
    }
}

impl FromStr for Whose {
    type Err = String;

    fn from_str(text: &str) -> Result<Whose, String> {
        let wrong = || format!("{text:?} is not tenant=ID, account=NAME or model=NAME");
        let (scope, subject) = text.split_once('=').ok_or_else(wrong)?;
        let scope = Scope::from_name(scope).filter(|scope| !scope.rules().is_empty()).ok_or_else(wrong)?;
        if subject.is_empty() { Err(wrong()) } else { Whose::new(scope, subject) }
    }
}

/// What can be paused, as `SCOPE=SUBJECT`.
///
/// # Errors
/// Names what can be.
pub fn pausable(text: &str) -> Result<Whose, String> {
    let wrong = || format!("{text:?} is not tenant=ID, model=NAME or batch=ID; accounts have `provider stop`");
    let (scope, subject) = text.split_once('=').ok_or_else(wrong)?;
    let scope = Scope::from_name(scope).filter(|scope| scope.can_be_paused()).ok_or_else(wrong)?;
    if subject.is_empty() { Err(wrong()) } else { Whose::new(scope, subject) }
}

/// The subject of a limit as it is shown: ids with their prefix.
pub fn shown_subject(scope: Scope, subject: &str) -> String {
    let shown = match scope {
        Scope::Tenant => TenantId::from_bare(subject).ok().map(|id| id.to_string()),
        Scope::Batch => BatchId::from_bare(subject).ok().map(|id| id.to_string()),
        Scope::Account | Scope::Model => None,
    };
    shown.unwrap_or_else(|| subject.to_owned())
}

/// A rule that can be set to a number somewhere.
///
/// # Errors
/// Names the rules.
pub fn rule(text: &str) -> Result<Rule, String> {
    let found = Rule::NUMBERS.into_iter().find(|rule| rule.name() == text);
    found.ok_or_else(|| format!("{text:?} is no rule; rules are {}", Rule::NUMBERS.map(Rule::name).join(", ")))
}

/// Looks whether a rule holds for such subjects.
///
/// # Errors
/// Names the rules that do.
pub fn rule_of(scope: Scope, rule: Rule) -> Result<Rule, String> {
    let rules = scope.rules();
    if rules.contains(&rule) {
        return Ok(rule);
    }
    let names = rules.iter().map(|rule| rule.name()).collect::<Vec<_>>().join(", ");
    Err(format!("is no rule of {}s; theirs are {names}", scope.name()))
}

/// What a limit can be set to.
///
/// # Errors
/// Says between what it must be.
pub fn value(rule: Rule, number: Option<u64>) -> Result<u32, String> {
    let possible = rule.least()..=rule.most();
    let value = number.and_then(|number| u32::try_from(number).ok()).filter(|value| possible.contains(value));
    value.ok_or_else(|| format!("must be from {} to {}", rule.least(), rule.most()))
}

/// A moment.
///
/// # Errors
/// Says how it is written.
pub fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    let at = DateTime::parse_from_rfc3339(text).map_err(|_| "must be a time like 2027-01-08T18:00:00Z".to_owned())?;
    Ok(at.to_utc())
}

/// A moment that has not come.
///
/// # Errors
/// Says how it is written, or that it is past.
pub fn moment_to_come(text: &str) -> Result<DateTime<Utc>, String> {
    let at = moment(text)?;
    if at <= Utc::now() { Err("is in the past".to_owned()) } else { Ok(at) }
}

/// How long something lasts, such as `90m`.
///
/// # Errors
/// Says how it is written.
pub fn span(text: &str) -> Result<TimeDelta, String> {
    let wrong = || "must be a whole number of m, h or d, such as 90m".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let number: i64 = number.parse().map_err(|_| wrong())?;
    let span = match unit {
        "m" => TimeDelta::try_minutes(number),
        "h" => TimeDelta::try_hours(number),
        "d" => TimeDelta::try_days(number),
        _ => None,
    };
    span.filter(|span| *span > TimeDelta::zero() && *span <= LONGEST).ok_or_else(wrong)
}

/// The status of a batch that has not ended.
///
/// # Errors
/// Names those.
pub fn open_status(text: &str) -> Result<BatchStatus, String> {
    let open = || BatchStatus::ALL.iter().copied().filter(|status| !status.is_final());
    open().find(|status| status.word() == text).ok_or_else(|| {
        let words: Vec<&str> = open().map(BatchStatus::word).collect();
        format!("must be {}: what has ended cannot be changed", words.join(" or "))
    })
}

/// What is done to batches, by its name; a pause without an end.
///
/// # Errors
/// Names what can be done.
pub fn action(text: &str) -> Result<Action, String> {
    let found = Action::ALL.into_iter().find(|action| action.name() == text);
    found.ok_or_else(|| format!("must be one of {}", Action::ALL.map(Action::name).join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_understood_or_refused_in_words() {
        let id = TenantId::generate();
        assert_eq!(format!("tenant={id}").parse(), Ok(Whose { scope: Scope::Tenant, subject: id.bare() }));
        assert_eq!("account=a=b".parse(), Ok(Whose { scope: Scope::Account, subject: "a=b".to_owned() }));
        for wrong in ["tenant", "tenant=", "tenant=x", "queue=x", "=x", "batch=x"] {
            assert!(wrong.parse::<Whose>().is_err(), "{wrong}");
        }
        assert!(pausable(&format!("tenant={id}")).is_ok() && pausable("model=a").is_ok());
        for wrong in ["account=a", "model=", "batch=x", "model", "tenant=x"] {
            assert!(pausable(wrong).is_err(), "{wrong}");
        }
        assert!(rule("weight").is_ok() && rule("paused").is_err() && rule("most").is_err());
        assert_eq!((value(Rule::MaxInFlight, Some(7)), value(Rule::Weight, Some(1_000))), (Ok(7), Ok(1_000)));
        for (rule, wrong) in [(Rule::MaxInFlight, 0), (Rule::MaxInFlight, 3_000_000_000), (Rule::Weight, 1_001)] {
            assert!(value(rule, Some(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(span("90m"), Ok(TimeDelta::minutes(90)));
        for wrong in ["", "90", "h", "0m", "-1h", "99999d", "9ü"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
        assert!(moment_to_come("2020-01-01T00:00:00Z").is_err() && moment("Friday").is_err());
        assert_eq!(open_status("queued"), Ok(BatchStatus::Queued));
        assert!(open_status("completed").is_err_and(|why| why.contains("queued or processing")));
    }

    #[test]
    fn each_scope_has_its_own_rules() {
        assert!(rule_of(Scope::Model, Rule::VideosPerMinute).is_ok());
        // what an account may cost is no rule of those who pay us
        let of_accounts = |rule: &Rule| matches!(rule, Rule::SpendCredits | Rule::SpendWindowSecs);
        for rule in Rule::NUMBERS {
            assert_eq!(rule_of(Scope::Tenant, rule).is_err(), of_accounts(&rule), "{}", rule.name());
        }
        assert!(Scope::Account.rules().iter().filter(|rule| of_accounts(rule)).count() == 2);
        let refused = rule_of(Scope::Model, Rule::RequestsPerMinute).unwrap_err();
        assert!(refused.contains("videos_per_minute, max_in_flight"), "{refused}");
    }
}
