//! What operators send as JSON, read into valid types with everything that is wrong said at once, each by its pointer.
//!
//! Refuses: to ask the database. Whether what is named is there, [`Controls`](super::Controls) finds out.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::words::{self, Whose};
use crate::batches::bulk::{Action, Filter};
use crate::domain::faults::{Faults, Wrong, refuse_unknown, text};
use crate::limits::{Rule, Scope};
use crate::operators;

pub const EMPTY_FILTER: &str = "is empty and would choose every batch of every tenant: name at least one thing";
/// Ids that a filter names, at the most.
pub const MAX_IDS: usize = 1_000;
/// Words that are longer are no names of ours.
const MAX_NAME_CHARS: usize = 255;

/// Limits to be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitChange {
    pub values: Vec<(Rule, u32)>,
    pub until: Option<DateTime<Utc>>,
    pub reason: String,
}

/// A subject to be paused or resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseChange {
    pub whose: Whose,
    /// Until somebody resumes, without it.
    pub until: Option<DateTime<Utc>>,
    pub reason: String,
}

/// Something to be done to many batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkChange {
    pub action: Action,
    pub filter: Filter,
    pub step: Step,
}

/// Looking, or doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Preview,
    Apply { expected: u32, reason: String },
}

/// `{reason}`.
///
/// # Errors
/// Everything that is wrong.
pub fn reason(body: &Value) -> Result<String, Vec<Wrong>> {
    read(body, &["reason"], reason_in)
}

/// `{values: {RULE: N}, until?, for?, reason}` for subjects of `scope`.
///
/// # Errors
/// Everything that is wrong.
pub fn limits(body: &Value, scope: Scope) -> Result<LimitChange, Vec<Wrong>> {
    read(body, &["values", "until", "for", "reason"], |object, faults| {
        let values = values(object, scope, faults);
        let until = end(object, faults);
        Some(LimitChange { reason: reason_in(object, faults)?, values: values?, until })
    })
}

/// `{scope, subject, until?, for?, reason}`.
///
/// # Errors
/// Everything that is wrong.
pub fn pause(body: &Value) -> Result<PauseChange, Vec<Wrong>> {
    read(body, &["scope", "subject", "until", "for", "reason"], |object, faults| {
        let (whose, until) = (paused(object, faults), end(object, faults));
        Some(PauseChange { reason: reason_in(object, faults)?, whose: whose?, until })
    })
}

/// `{scope, subject, reason}`.
///
/// # Errors
/// Everything that is wrong.
pub fn resume(body: &Value) -> Result<PauseChange, Vec<Wrong>> {
    read(body, &["scope", "subject", "reason"], |object, faults| {
        let whose = paused(object, faults);
        Some(PauseChange { reason: reason_in(object, faults)?, whose: whose?, until: None })
    })
}

/// `{action, filter, preview: true}`, or `{action, filter, expected, reason}`; with a pause, `until?` or `for?`.
///
/// # Errors
/// Everything that is wrong.
pub fn bulk(body: &Value) -> Result<BulkChange, Vec<Wrong>> {
    let known = ["action", "filter", "preview", "expected", "reason", "until", "for"];
    read(body, &known, |object, faults| {
        let action = word(object, "action", faults, words::action);
        let until = end(object, faults);
        let action = match action {
            Some(Action::Pause(_)) => Some(Action::Pause(until)),
            Some(action) => {
                for field in ["until", "for"].into_iter().filter(|field| given(object, field)) {
                    faults.add(field, format!("is for a pause, not for {}", action.name()));
                }
                Some(action)
            }
            None => None,
        };
        let filter = filter(object, faults);
        let step = step(object, faults);
        Some(BulkChange { action: action?, filter: filter?, step: step? })
    })
}

/// Reads an object of known fields.
fn read<T>(
    body: &Value,
    known: &[&str],
    fields: impl FnOnce(&Map<String, Value>, &mut Faults<'_>) -> Option<T>,
) -> Result<T, Vec<Wrong>> {
    let mut found = Vec::new();
    let mut faults = Faults { base: String::new(), found: &mut found };
    let read = match body.as_object() {
        Some(object) => {
            refuse_unknown(object, known, &mut faults);
            fields(object, &mut faults)
        }
        None => {
            faults.add("", format!("the body must be a JSON object with {}", known.join(", ")));
            None
        }
    };
    read.filter(|_| found.is_empty()).ok_or(found)
}

fn given(object: &Map<String, Value>, field: &str) -> bool {
    object.get(field).is_some_and(|value| !value.is_null())
}

/// A required word, read by `parse`.
fn word<T>(
    object: &Map<String, Value>,
    field: &str,
    faults: &mut Faults<'_>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    if !given(object, field) {
        faults.add(field, "is required");
        return None;
    }
    optional(object, field, faults, parse)
}

fn optional<T>(
    object: &Map<String, Value>,
    field: &str,
    faults: &mut Faults<'_>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let text = text(object, field, faults)?;
    parse(text).map_err(|why| faults.add(field, why)).ok()
}

fn reason_in(object: &Map<String, Value>, faults: &mut Faults<'_>) -> Option<String> {
    word(object, "reason", faults, operators::reason)
}

/// From `until` or `for`; both are checked.
fn end(object: &Map<String, Value>, faults: &mut Faults<'_>) -> Option<DateTime<Utc>> {
    let until = optional(object, "until", faults, words::moment_to_come);
    let span = optional(object, "for", faults, words::span);
    if given(object, "until") && given(object, "for") {
        faults.add("for", "cannot stand beside `until`");
    }
    until.or_else(|| span.map(|span| Utc::now() + span))
}

fn values(object: &Map<String, Value>, scope: Scope, faults: &mut Faults<'_>) -> Option<Vec<(Rule, u32)>> {
    let rules = || scope.rules().iter().map(|rule| rule.name()).collect::<Vec<_>>().join(", ");
    let Some(given) = object.get("values").and_then(Value::as_object).filter(|values| !values.is_empty()) else {
        faults.add("values", format!("is required: an object with numbers for some of {}", rules()));
        return None;
    };
    let mut faults = Faults { base: "/values".to_owned(), found: &mut *faults.found };
    let mut values = Vec::with_capacity(given.len());
    for (name, number) in given {
        let read = words::rule(name)
            .and_then(|rule| words::rule_of(scope, rule))
            .map_err(|_| format!("is no rule of {}s; theirs are {}", scope.name(), rules()))
            .and_then(|rule| Ok((rule, words::value(rule, number.as_u64())?)));
        match read {
            Ok(read) => values.push(read),
            Err(why) => faults.add(name, why),
        }
    }
    Some(values)
}

/// Whose pause.
fn paused(object: &Map<String, Value>, faults: &mut Faults<'_>) -> Option<Whose> {
    let pausable = || Scope::ALL.into_iter().filter(|scope| scope.can_be_paused());
    let scope = word(object, "scope", faults, |name| {
        let names = || pausable().map(Scope::name).collect::<Vec<_>>().join(", ");
        pausable().find(|scope| scope.name() == name).ok_or_else(|| format!("must be one of {}", names()))
    });
    let subject = word(object, "subject", faults, name);
    let (scope, subject) = (scope?, subject?);
    Whose::new(scope, &subject).map_err(|why| faults.add("subject", format!("is {why}"))).ok()
}

fn name(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.chars().count() <= MAX_NAME_CHARS && !text.chars().any(char::is_control);
    if is_name { Ok(text.to_owned()) } else { Err("must be a name or an id".to_owned()) }
}

fn filter(object: &Map<String, Value>, faults: &mut Faults<'_>) -> Option<Filter> {
    let Some(object) = object.get("filter").and_then(Value::as_object) else {
        faults.add("filter", "is required and must be an object");
        return None;
    };
    let before = faults.found.len();
    let mut faults = Faults { base: "/filter".to_owned(), found: &mut *faults.found };
    refuse_unknown(object, &["tenant", "model", "status", "created_before", "created_after", "ids"], &mut faults);
    let id = |text: &str| text.parse().map_err(|error: crate::domain::ids::InvalidId| format!("is {error}"));
    let filter = Filter {
        tenant: optional(object, "tenant", &mut faults, id),
        model: optional(object, "model", &mut faults, name),
        status: optional(object, "status", &mut faults, words::open_status),
        created_before: optional(object, "created_before", &mut faults, words::moment),
        created_after: optional(object, "created_after", &mut faults, words::moment),
        ids: ids(object, &mut faults),
    };
    if filter.is_empty() && faults.found.len() == before {
        faults.add("", EMPTY_FILTER);
    }
    Some(filter)
}

fn ids(object: &Map<String, Value>, faults: &mut Faults<'_>) -> Option<Vec<crate::domain::BatchId>> {
    if !given(object, "ids") {
        return None;
    }
    let Some(given) = object["ids"].as_array().filter(|ids| (1..=MAX_IDS).contains(&ids.len())) else {
        faults.add("ids", format!("must be an array of 1 to {MAX_IDS} ids of batches"));
        return None;
    };
    let mut faults = Faults { base: format!("{}/ids", faults.base), found: &mut *faults.found };
    let mut ids = Vec::with_capacity(given.len());
    for (at, value) in given.iter().enumerate() {
        match value.as_str().unwrap_or_default().parse() {
            Ok(id) => ids.push(id),
            Err(error) => faults.add(&at.to_string(), format!("is {error}")),
        }
    }
    Some(ids)
}

fn step(object: &Map<String, Value>, faults: &mut Faults<'_>) -> Option<Step> {
    let preview = match object.get("preview") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(preview)) => *preview,
        Some(_) => {
            faults.add("preview", "must be true or false");
            return None;
        }
    };
    if preview {
        for field in ["expected", "reason"].into_iter().filter(|field| given(object, field)) {
            faults.add(field, "is for the act itself, without `preview`");
        }
        return Some(Step::Preview);
    }
    let expected = object.get("expected").and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
    if expected.is_none() {
        faults.add("expected", "is required: how many batches the preview told");
    }
    let reason = reason_in(object, faults);
    Some(Step::Apply { expected: expected?, reason: reason? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::{BatchId, TenantId};

    fn wrong<T: std::fmt::Debug>(read: Result<T, Vec<Wrong>>) -> Vec<String> {
        read.unwrap_err().into_iter().map(|wrong| wrong.pointer).collect()
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        assert_eq!(wrong(reason(&json!([]))), [""]);
        assert_eq!(wrong(reason(&json!({"why": "x"}))), ["/why", "/reason"]);
        let body = json!({"values": {"max_in_flight": 0, "colour": 1, "paused": 1}, "until": "Friday", "for": "9x"});
        let found = wrong(limits(&body, Scope::Model));
        let expected =
            ["/values/colour", "/values/max_in_flight", "/values/paused", "/until", "/for", "/for", "/reason"];
        assert_eq!(found, expected);
        assert_eq!(wrong(limits(&json!({"values": {}, "reason": "x"}), Scope::Model)), ["/values"]);
        assert_eq!(
            wrong(pause(&json!({"scope": "account", "subject": 7, "reason": " "}))),
            ["/scope", "/subject", "/reason"]
        );
        assert_eq!(wrong(pause(&json!({"scope": "batch", "subject": "ten_1", "reason": "x"}))), ["/subject"]);
        assert_eq!(
            wrong(resume(&json!({"scope": "model", "subject": "a\u{0}", "until": 1, "reason": "x"}))),
            ["/until", "/subject"]
        );
    }

    #[test]
    fn a_limit_may_have_an_end_by_time_or_by_length() {
        let body = json!({"values": {"max_in_flight": 7, "weight": 3}, "for": "90m", "reason": " launch "});
        let read = limits(&body, Scope::Tenant).unwrap();
        assert_eq!(
            (read.values.as_slice(), read.reason.as_str()),
            (&[(Rule::MaxInFlight, 7), (Rule::Weight, 3)][..], "launch")
        );
        let left = read.until.unwrap() - Utc::now();
        assert!((89..=90).contains(&left.num_minutes()), "{left}");
    }

    #[test]
    fn a_bulk_change_names_something_and_says_what_it_expects() {
        for (body, pointers) in [
            (json!({"action": "cancel", "filter": {}, "preview": true}), &["/filter"][..]),
            (json!({"action": "cancel", "filter": {"tenant": null}, "preview": true}), &["/filter"]),
            (json!({"action": "burn", "preview": 1}), &["/action", "/filter", "/preview"]),
            (
                json!({"action": "cancel", "filter": {"status": "completed", "colour": 1}, "for": "1h"}),
                &["/for", "/filter/colour", "/filter/status", "/expected", "/reason"],
            ),
            (
                json!({"action": "pause", "filter": {"ids": ["x", BatchId::generate(), 7]}, "preview": true, "expected": 1}),
                &["/filter/ids/0", "/filter/ids/2", "/expected"],
            ),
            (json!({"action": "pause", "filter": {"ids": []}, "preview": true}), &["/filter/ids"]),
        ] {
            assert_eq!(wrong(bulk(&body)), pointers, "{body}");
        }
        let tenant = TenantId::generate();
        let body = json!({"action": "resume", "filter": {"tenant": tenant}, "expected": 3, "reason": "over"});
        let expected = BulkChange {
            action: Action::Resume,
            filter: Filter { tenant: Some(tenant), ..Filter::default() },
            step: Step::Apply { expected: 3, reason: "over".to_owned() },
        };
        assert_eq!(bulk(&body), Ok(expected));
    }
}
