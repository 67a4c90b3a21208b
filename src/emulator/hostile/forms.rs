//! JSON answers, and how they are turned into ones that nobody should trust.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::stream;
use poem::{Body, Response};
use serde_json::{Value, json};

use super::super::journal::Journal;
use super::super::script::Hostile;

const DEEP: usize = 100_000;
const PIECE: &[u8] = &[b'x'; 64 * 1024];

/// `value` as it is, or in the form that a fault asks for.
pub(in super::super) fn json_answer(value: &Value, form: Option<Hostile>, journal: &Arc<Journal>) -> Response {
    let answer = Response::builder().content_type("application/json");
    match form {
        None => answer.body(value.to_string()),
        Some(Hostile::Huge) => answer.body(endless(Bytes::from_static(b"{\"padding\":\""), journal)),
        Some(Hostile::Deep) => answer.body("[".repeat(DEEP)),
        Some(Hostile::WrongTypes) => answer.body(each_value(value, &wrong).to_string()),
        Some(Hostile::Nulls) => answer.body(each_value(value, &|_| Value::Null).to_string()),
        Some(Hostile::Missing) => answer.body("{}"),
        Some(Hostile::Swapped) => answer.body(each_value(value, &swapped).to_string()),
    }
}

/// `first`, and then the same piece for ever. The journal counts what the client takes.
pub(in super::super) fn endless(first: Bytes, journal: &Arc<Journal>) -> Body {
    let journal = Arc::clone(journal);
    let pieces = stream::unfold(Some(first), move |first| {
        let piece = first.unwrap_or(Bytes::from_static(PIECE));
        journal.poured.fetch_add(piece.len() as u64, Ordering::Relaxed);
        async move {
            tokio::task::yield_now().await;
            Some((Ok::<_, io::Error>(piece), None))
        }
    });
    Body::from_bytes_stream(pieces)
}

/// Changes every value that is no object and no list.
pub(super) fn each_value(value: &Value, change: &dyn Fn(&Value) -> Value) -> Value {
    map_values(value, &|plain| Some(change(plain)))
}

/// The same, and leaves out what becomes `None`.
pub(super) fn map_values(value: &Value, change: &dyn Fn(&Value) -> Option<Value>) -> Value {
    fn mapped(value: &Value, change: &dyn Fn(&Value) -> Option<Value>) -> Option<Value> {
        match value {
            Value::Object(fields) => {
                let kept = fields.iter().filter_map(|(key, value)| Some((key.clone(), mapped(value, change)?)));
                Some(kept.collect())
            }
            Value::Array(items) => Some(items.iter().filter_map(|item| mapped(item, change)).collect()),
            plain => change(plain),
        }
    }
    mapped(value, change).unwrap_or(Value::Null)
}

/// Changes every field by its key, as text.
pub(super) fn each_key(value: &Value, change: &dyn Fn(&str, &Value) -> Value) -> String {
    fn changed(value: &Value, change: &dyn Fn(&str, &Value) -> Value) -> Value {
        match value {
            Value::Object(fields) => {
                let fields = fields.iter().map(|(key, value)| match change(key, value) {
                    same if same == *value => (key.clone(), changed(value, change)),
                    other => (key.clone(), other),
                });
                fields.collect()
            }
            Value::Array(items) => items.iter().map(|item| changed(item, change)).collect(),
            plain => plain.clone(),
        }
    }
    changed(value, change).to_string()
}

fn wrong(value: &Value) -> Value {
    match value {
        Value::String(_) => json!([7]),
        Value::Number(_) => json!({"number": true}),
        Value::Bool(_) => json!([]),
        _ => json!(7),
    }
}

fn swapped(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.to_string()),
        Value::Bool(flag) => json!(flag.to_string()),
        Value::String(text) => text.parse::<u64>().map_or_else(|_| value.clone(), |number| json!(number)),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapped_values_say_the_same_in_another_type() {
        let value = json!({"seconds": "4", "done": true, "list": [{"n": 7, "word": "queued", "nothing": null}]});
        let swapped = each_value(&value, &swapped);
        assert_eq!(
            swapped,
            json!({"seconds": 4, "done": "true", "list": [{"n": "7", "word": "queued", "nothing": null}]})
        );
    }
}
