//! What is wrong with what somebody sent, each fault with the JSON pointer (RFC 6901) to its field.
//!
//! Always holds: one pass collects all of them. Refuses: to know any field by name.

use serde_json::{Map, Value};

/// A fault and where it is, as a JSON pointer into the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub pointer: String,
    pub detail: String,
}

/// Collects what is wrong, each with its JSON pointer.
pub struct Faults<'a> {
    /// The pointer to what is looked at.
    pub base: String,
    pub found: &'a mut Vec<Wrong>,
}

impl Faults<'_> {
    /// A fault of a field, or of the whole when `field` is empty.
    pub fn add(&mut self, field: &str, detail: impl Into<String>) {
        let pointer = if field.is_empty() { self.base.clone() } else { format!("{}/{}", self.base, escaped(field)) };
        self.found.push(Wrong { pointer, detail: detail.into() });
    }
}

/// A field name as a part of a JSON pointer (RFC 6901).
fn escaped(field: &str) -> String {
    field.replace('~', "~0").replace('/', "~1")
}

/// Names fields that nobody knows: a misspelt `webhook_url` must not be ignored.
pub fn refuse_unknown(object: &Map<String, Value>, known: &[&str], faults: &mut Faults<'_>) {
    for field in object.keys().filter(|field| !known.contains(&field.as_str())) {
        faults.add(field, format!("is not a known field; known are {}", known.join(", ")));
    }
}

/// A text, if there is one; anything else is a fault.
pub fn text<'v>(object: &'v Map<String, Value>, field: &str, faults: &mut Faults<'_>) -> Option<&'v str> {
    match object.get(field) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(_) => {
            faults.add(field, "must be a string");
            None
        }
    }
}
