//! An order: the body of a submission, parsed into valid types, with everything that is wrong with it said at once.

use std::collections::HashSet;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use ring::digest;
use serde_json::Value;

use super::item::{self, OrderItem};
use crate::config::Config;
use crate::domain::faults::{self, Faults, Wrong};
use crate::domain::{BatchId, Credits, CustomId};
use crate::idempotency::RequestHash;
use crate::providers::EgressPolicy;
use crate::providers::catalogue::Catalogue;

/// An idempotency key has 1 to this many printable ASCII characters.
pub const MAX_KEY_CHARS: usize = 255;
const FIELDS: [&str; 7] =
    ["items", "webhook_url", "x-request-id", "metadata", "videos_per_minute", "priority", "complete_by"];
/// What a batch has that names none; the highest goes first.
pub const USUAL_PRIORITY: u8 = 5;
const HIGHEST_PRIORITY: u8 = 9;
/// The fastest pace that a batch can ask for.
const FASTEST_PER_MINUTE: u32 = 1_000_000;
/// The furthest time that a batch may be completed by.
const LONGEST_DAYS: i64 = 30;
/// More faults than this are not listed: nobody reads them, and the answer must stay small.
const MAX_FAULTS: usize = 1_000;

/// A valid order, priced.
#[derive(Clone, Debug)]
pub struct Order {
    pub items: Vec<OrderItem>,
    pub total: Credits,
    pub webhook_url: Option<String>,
    pub metadata: Option<Value>,
    /// Its own pace, beside the tenant's.
    pub videos_per_minute: Option<u32>,
    /// Of a tenant's batches the one with the higher goes first: 0 to 9.
    pub priority: u8,
    /// What has not begun by then is not to begin any more.
    pub complete_by: Option<DateTime<Utc>>,
    /// The customer's idempotency key, if there is one.
    pub key: Option<String>,
    pub hash: RequestHash,
    /// The batch whose failed videos these are.
    pub retry_of: Option<BatchId>,
}

/// What an order may be.
#[derive(Clone, Copy, Debug)]
pub struct OrderLimits {
    pub max_items: usize,
    /// What a webhook address may be.
    pub webhooks: EgressPolicy,
    /// Where reference images may come from.
    pub images: EgressPolicy,
}

impl OrderLimits {
    /// As the settings say.
    pub fn new(config: &Config) -> OrderLimits {
        OrderLimits {
            max_items: config.limits.max_items,
            webhooks: EgressPolicy {
                allow_private: config.webhooks.allow_private_targets,
                timeout: config.webhooks.timeout,
                max_response_bytes: config.webhooks.max_response_bytes,
            },
            images: EgressPolicy {
                allow_private: config.images.allow_private_sources,
                timeout: config.images.fetch_timeout,
                max_response_bytes: config.images.max_image_bytes,
            },
        }
    }
}

/// Parses a body. `header_keys` are the idempotency keys that came as headers (name, value).
///
/// # Errors
/// Everything that is wrong, in the order of the body.
pub fn parse(
    body: &Value,
    header_keys: &[(&str, &str)],
    limits: OrderLimits,
    (catalogue, now): (&Catalogue, DateTime<Utc>),
) -> Result<Order, Vec<Wrong>> {
    let today = now.date_naive();
    let mut found = Vec::new();
    let mut faults = Faults { base: String::new(), found: &mut found };
    let Some(object) = body.as_object() else {
        faults.add("", "the body must be a JSON object with `items`");
        return Err(found);
    };
    faults::refuse_unknown(object, &FIELDS, &mut faults);
    let key = key(body, header_keys, &mut faults);
    let webhook_url = webhook_url(body, limits, &mut faults);
    let metadata = item::metadata(object, &mut faults);
    let videos_per_minute = videos_per_minute(body, &mut faults);
    let priority = priority(body, &mut faults).unwrap_or(USUAL_PRIORITY);
    let complete_by = complete_by(body, now, &mut faults);
    let items = items(body, limits, (catalogue, today), &mut found);
    let total = total(&items, found)?;
    let hash = canonical_hash("", body);
    Ok(Order {
        items,
        total,
        webhook_url,
        metadata,
        videos_per_minute,
        priority,
        complete_by,
        key,
        hash,
        retry_of: None,
    })
}

/// The price of all items, if nothing was found that is wrong with them.
pub(super) fn total(items: &[OrderItem], mut found: Vec<Wrong>) -> Result<Credits, Vec<Wrong>> {
    let of_items = |detail: String| Wrong { pointer: "/items".to_owned(), detail };
    match Credits::total(items.iter().map(|item| item.price)) {
        Some(total) if found.is_empty() => Ok(total),
        Some(_) => {
            let unlisted = found.len().saturating_sub(MAX_FAULTS);
            found.truncate(MAX_FAULTS);
            if unlisted > 0 {
                found.push(of_items(format!("{unlisted} more faults are not listed")));
            }
            Err(found)
        }
        None => Err(vec![of_items("cost more credits than can be counted".to_owned())]),
    }
}

/// The key and the hash of a request, if it has one key, whatever else is wrong with it: a repeated request is answered as
/// before even when it would be refused today.
pub fn repeated_request(body: &Value, header_keys: &[(&str, &str)]) -> Option<(String, RequestHash)> {
    repeated("", body, header_keys)
}

/// The same of a request that is not an order by itself, see [`canonical_hash`].
pub(super) fn repeated(act: &str, body: &Value, header_keys: &[(&str, &str)]) -> Option<(String, RequestHash)> {
    let mut ignored = Vec::new();
    let key = key(body, header_keys, &mut Faults { base: String::new(), found: &mut ignored })?;
    ignored.is_empty().then(|| (key, canonical_hash(act, body)))
}

fn items(
    body: &Value,
    limits: OrderLimits,
    (catalogue, today): (&Catalogue, NaiveDate),
    found: &mut Vec<Wrong>,
) -> Vec<OrderItem> {
    let mut wrong = |detail: String| found.push(Wrong { pointer: "/items".to_owned(), detail });
    let Some(values) = body.get("items").and_then(Value::as_array) else {
        wrong("is required and must be an array".to_owned());
        return vec![];
    };
    if values.is_empty() || values.len() > limits.max_items {
        wrong(format!("has {} items; a batch has 1 to {}", values.len(), limits.max_items));
        return vec![];
    }
    let mut custom_ids: HashSet<CustomId> = HashSet::new();
    let mut items = Vec::with_capacity(values.len());
    for (at, value) in values.iter().enumerate() {
        let mut faults = Faults { base: format!("/items/{at}"), found };
        items.extend(item::parse(value, (catalogue, today), limits.images, &mut custom_ids, &mut faults));
    }
    items
}

pub(super) fn key(body: &Value, header_keys: &[(&str, &str)], faults: &mut Faults<'_>) -> Option<String> {
    let in_body = match body.get("x-request-id") {
        None | Some(Value::Null) => None,
        Some(Value::String(key)) => Some(("x-request-id", key.as_str())),
        Some(_) => {
            faults.add("x-request-id", "must be a string");
            None
        }
    };
    let all: Vec<(&str, &str)> = in_body.into_iter().chain(header_keys.iter().copied()).collect();
    let (_, key) = *all.first()?;
    if let Some((name, other)) = all.iter().find(|(_, other)| *other != key) {
        faults.add("x-request-id", format!("differs from `{name}` ({other:?}): send one idempotency key"));
        return None;
    }
    if key.is_empty() || key.len() > MAX_KEY_CHARS || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        faults.add("x-request-id", format!("must have 1 to {MAX_KEY_CHARS} printable ASCII characters without spaces"));
        return None;
    }
    Some(key.to_owned())
}

pub(super) fn webhook_url(body: &Value, limits: OrderLimits, faults: &mut Faults<'_>) -> Option<String> {
    let value = body.get("webhook_url").filter(|value| !value.is_null())?;
    let checked = match value.as_str() {
        Some(text) => limits.webhooks.check_url(text).map_err(|error| error.to_string()),
        None => Err("must be a string".to_owned()),
    };
    match checked {
        Ok(url) => Some(url.to_string()),
        Err(detail) => {
            faults.add("webhook_url", detail);
            None
        }
    }
}

pub(super) fn videos_per_minute(body: &Value, faults: &mut Faults<'_>) -> Option<u32> {
    let value = body.get("videos_per_minute").filter(|value| !value.is_null())?;
    let pace = value.as_u64().and_then(|pace| u32::try_from(pace).ok());
    let pace = pace.filter(|pace| (1..=FASTEST_PER_MINUTE).contains(pace));
    if pace.is_none() {
        faults.add("videos_per_minute", format!("must be a whole number from 1 to {FASTEST_PER_MINUTE}"));
    }
    pace
}

pub(super) fn priority(body: &Value, faults: &mut Faults<'_>) -> Option<u8> {
    let value = body.get("priority").filter(|value| !value.is_null())?;
    let priority = value.as_u64().and_then(|priority| u8::try_from(priority).ok());
    let priority = priority.filter(|priority| *priority <= HIGHEST_PRIORITY);
    if priority.is_none() {
        faults.add("priority", format!("must be a whole number from 0 to {HIGHEST_PRIORITY}"));
    }
    priority
}

pub(super) fn complete_by(body: &Value, now: DateTime<Utc>, faults: &mut Faults<'_>) -> Option<DateTime<Utc>> {
    let value = body.get("complete_by").filter(|value| !value.is_null())?;
    let at = value.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok()).map(|at| at.to_utc());
    match at {
        Some(at) if at > now && at <= now + TimeDelta::days(LONGEST_DAYS) => Some(at),
        Some(_) => {
            faults.add("complete_by", format!("must lie in the future, and at most {LONGEST_DAYS} days away"));
            None
        }
        None => {
            faults.add("complete_by", "must be a time like 2027-01-08T18:00:00Z");
            None
        }
    }
}

/// Equal for bodies that differ only in white space, the order of keys, or how the idempotency key was sent. `act` is what is
/// asked for beside the body; nothing for an order.
pub(super) fn canonical_hash(act: &str, body: &Value) -> RequestHash {
    let mut text = act.to_owned();
    write_canonical(body, &["x-request-id"], &mut text);
    let mut hash = RequestHash::default();
    hash.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    hash
}

fn write_canonical(value: &Value, leave_out: &[&str], text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().filter(|key| !leave_out.contains(&key.as_str())).collect();
            keys.sort();
            text.push('{');
            for key in keys {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write_canonical(&map[key.as_str()], &[], text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(values) => {
            text.push('[');
            for value in values {
                write_canonical(value, &[], text);
                text.push(',');
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}
