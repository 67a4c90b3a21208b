//! Pages: how many, and where to go on. A cursor is opaque to clients, so that what it holds may change.
//!
//! Always holds: a cursor of one list is refused by another; following `next_cursor` shows each thing once, because it names
//! the last one shown and not a count.

use std::borrow::Cow;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseError, ParseFromParameter, ParseResult, ToJSON, Type};
use serde_json::Value;

use super::error::ApiError;

/// Longer text is no cursor of ours.
const MAX_CURSOR_CHARS: usize = 128;

/// A cursor after the thing that `last` names in the list `list`.
pub fn cursor(list: &str, last: impl ToString) -> String {
    URL_SAFE_NO_PAD.encode(format!("{list}:{}", last.to_string()))
}

/// Where the list `list` goes on; `None` without a cursor.
///
/// # Errors
/// Names the parameter `cursor`.
pub fn after<T: FromStr>(list: &str, cursor: Option<&str>) -> Result<Option<T>, ApiError> {
    let Some(cursor) = cursor else { return Ok(None) };
    let read = || {
        let bytes = URL_SAFE_NO_PAD.decode(cursor.get(..MAX_CURSOR_CHARS.min(cursor.len()))?).ok()?;
        String::from_utf8(bytes).ok()?.strip_prefix(list)?.strip_prefix(':')?.parse().ok()
    };
    match read() {
        Some(last) if cursor.len() <= MAX_CURSOR_CHARS => Ok(Some(last)),
        _ => Err(ApiError::bad_parameter(
            "cursor",
            "is not a cursor of this list: send `next_cursor` of the page before",
        )),
    }
}

/// Cuts rows read with [`Limit::rows`] to a page, and says where the next one begins, if there is one.
pub fn page<R>(mut rows: Vec<R>, limit: Limit, cursor_of: impl Fn(&R) -> String) -> (Vec<R>, Option<String>) {
    let shown = usize::from(limit.0);
    let more = rows.len() > shown;
    rows.truncate(shown);
    let next = if more { rows.last().map(cursor_of) } else { None };
    (rows, next)
}

/// How many things a page shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(u16);

impl Limit {
    const MAX: u16 = 1000;

    /// Rows to read: one more than is shown, which tells whether there is another page.
    pub fn rows(self) -> i64 {
        i64::from(self.0) + 1
    }
}

impl Default for Limit {
    fn default() -> Limit {
        Limit(100)
    }
}

impl Type for Limit {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "limit".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        let bounds = (Some(1.0), Some(f64::from(Limit::MAX)));
        let schema =
            MetaSchema { minimum: bounds.0, maximum: bounds.1, ..MetaSchema::new_with_format("integer", "int32") };
        MetaSchemaRef::Inline(Box::new(schema))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ParseFromParameter for Limit {
    fn parse_from_parameter(value: &str) -> ParseResult<Limit> {
        match value.parse() {
            Ok(limit) if (1..=Limit::MAX).contains(&limit) => Ok(Limit(limit)),
            _ => Err(ParseError::custom(format!("must be a whole number from 1 to {}", Limit::MAX))),
        }
    }
}

impl ToJSON for Limit {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.into())
    }
}

#[cfg(test)]
mod tests {
    use poem_openapi::types::ParseFromParameter as _;

    use super::{Limit, after, cursor, page};
    use crate::domain::BatchId;

    #[test]
    fn a_cursor_leads_back_to_what_it_was_made_of() {
        let batch = BatchId::generate();
        let text = cursor("batches", batch);
        assert!(!text.contains(&batch.bare()), "{text} is not opaque");
        assert_eq!(after::<BatchId>("batches", Some(&text)).unwrap(), Some(batch));
        assert_eq!(after::<u32>("videos", Some(&cursor("videos", 17))).unwrap(), Some(17));
        assert_eq!(after::<u32>("videos", None).unwrap(), None);
    }

    #[test]
    fn other_text_is_no_cursor() {
        let long = "A".repeat(100_000);
        let wrong = ["", "abc", "!!", "é", &cursor("videos", "x"), &cursor("videos", -1), &cursor("ledger", 1), &long];
        for text in wrong {
            let error = after::<u32>("videos", Some(text)).unwrap_err();
            assert!(error.to_string().contains("`cursor`"), "{text}: {error}");
        }
        let cut = format!("{}{}", cursor("videos", 1), " ".repeat(200));
        assert!(after::<u32>("videos", Some(&cut)).is_err());
    }

    #[test]
    fn only_a_further_row_makes_a_next_page() {
        let limit = Limit(2);
        let of = |row: &u32| cursor("videos", row);
        assert_eq!(page(vec![1, 2, 3], limit, of), (vec![1, 2], Some(cursor("videos", 2))));
        assert_eq!(page(vec![1, 2], limit, of), (vec![1, 2], None));
        assert_eq!(page(vec![], limit, of), (vec![], None));
    }

    #[test]
    fn a_limit_is_between_one_and_a_thousand() {
        assert_eq!(Limit::parse_from_parameter("1000").unwrap(), Limit(1000));
        for wrong in ["0", "1001", "-1", "1.5", "ten", "", "99999999999"] {
            assert!(Limit::parse_from_parameter(wrong).is_err(), "{wrong}");
        }
    }
}
