//! Fields of an answer, read leniently: a key may be missing or null, a number may be a text and a text a number. Servers
//! that claim the same shape differ in exactly that.

use chrono::{DateTime, Utc};
use serde_json::Value;

/// The longest job id that is taken, in bytes.
const MAX_ID_BYTES: usize = 512;

/// A text, or a number as its digits.
pub(in crate::providers) fn text(value: &Value, key: &str) -> Option<String> {
    match value.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A whole number, a fraction cut to one, or a text of digits.
pub(in crate::providers) fn whole(value: &Value, key: &str) -> Option<i64> {
    match value.get(key)? {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|number| number as i64)),
        Value::String(digits) => digits.trim().parse().ok(),
        _ => None,
    }
}

/// `true`, `"true"` or 1.
pub(in crate::providers) fn is_true(value: &Value, key: &str) -> bool {
    match value.get(key) {
        Some(Value::Bool(flag)) => *flag,
        Some(Value::String(word)) => word.trim().eq_ignore_ascii_case("true"),
        Some(Value::Number(number)) => number.as_i64() == Some(1),
        _ => false,
    }
}

/// Per cent, cut to 0..=100.
pub(in crate::providers) fn percent(value: &Value, key: &str) -> Option<u8> {
    u8::try_from(whole(value, key)?.clamp(0, 100)).ok()
}

/// A moment given in seconds since 1970, or as RFC 3339 has it.
pub(in crate::providers) fn moment(value: &Value, key: &str) -> Option<DateTime<Utc>> {
    match whole(value, key) {
        Some(seconds) => DateTime::from_timestamp(seconds, 0),
        None => Some(DateTime::parse_from_rfc3339(value.get(key)?.as_str()?.trim()).ok()?.to_utc()),
    }
}

/// An id that can stand as segments of a path: no empty and no relative one, nothing invisible.
pub(in crate::providers) fn id(value: &Value, key: &str) -> Option<String> {
    let id = value.get(key)?.as_str()?;
    let fit = (1..=MAX_ID_BYTES).contains(&id.len())
        && !matches!(id, "." | "..")
        && !id.chars().any(|c| c.is_control() || c.is_whitespace());
    fit.then(|| id.to_owned())
}

/// A code word: short, and made of nothing that would be awkward in a message.
pub(in crate::providers) fn word(value: &Value, key: &str) -> Option<String> {
    let word = text(value, key)?;
    let plain = word.len() <= 64 && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    (plain && !word.is_empty()).then_some(word)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_may_be_texts_fractions_null_or_missing() {
        let read = |value: Value| percent(&json!({ "p": value }), "p");
        assert_eq!(
            [read(json!(7)), read(json!(99.9)), read(json!(-3)), read(json!(1e9))].map(Option::unwrap),
            [7, 99, 0, 100]
        );
        assert_eq!(
            [read(json!("7")), read(json!(null)), read(json!("x")), read(json!([7]))],
            [Some(7), None, None, None]
        );
        assert!(moment(&json!({"at": 1_759_774_864}), "at").is_some());
        assert!(moment(&json!({"at": "1759774864"}), "at").is_some());
        assert!(moment(&json!({"at": "2026-11-25T10:00:00.123Z"}), "at").is_some());
        assert!(moment(&json!({"at": "tomorrow"}), "at").is_none());
        assert!(moment(&json!({"at": i64::MAX}), "at").is_none());
        assert_eq!(text(&json!({"s": 4}), "s").as_deref(), Some("4"));
        let truth = json!({"a": true, "b": "true", "c": 1, "d": "no", "e": null, "f": {}});
        assert_eq!(
            ["a", "b", "c", "d", "e", "f", "g"].map(|key| is_true(&truth, key)),
            [true, true, true, false, false, false, false]
        );
    }

    #[test]
    fn an_id_that_would_change_the_path_is_none() {
        for bad in [json!("."), json!(".."), json!(""), json!(7), json!(null), json!("a b"), json!("x".repeat(513))] {
            assert_eq!(id(&json!({ "id": bad }), "id"), None, "{bad}");
        }
        assert_eq!(id(&json!({"id": "video_1/../2"}), "id").as_deref(), Some("video_1/../2"));
    }
}
