//! JSONL: one object per line, as the API takes it. Empty lines are passed over. Fields are not judged here: one that the
//! service does not know is refused by it, and told with its line.

use serde_json::Value;

use super::{Fault, Item};

pub(super) fn parse(text: &str) -> Result<Vec<Item>, Vec<Fault>> {
    let (mut items, mut found) = (Vec::new(), Vec::new());
    for (line, text) in (1u64..).zip(text.lines()) {
        if text.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(fields)) => items.push(Item { line, fields }),
            Ok(Value::Array(_)) => {
                let detail = "must be an object, not an array; `jq -c '.[]'` turns an array into lines";
                found.push(Fault::at(line, "", detail));
            }
            Ok(_) => found.push(Fault::at(line, "", "must be an object with `prompt` and `model`")),
            Err(error) => {
                found.push(not_json(line, text, &error));
                // what is spread over many lines would be as many faults
                if opens_a_document(text) {
                    break;
                }
            }
        }
    }
    if found.is_empty() { Ok(items) } else { Err(found) }
}

fn opens_a_document(text: &str) -> bool {
    matches!(text.trim(), "[" | "{" | "[{")
}

fn not_json(line: u64, text: &str, error: &serde_json::Error) -> Fault {
    let detail = if opens_a_document(text) {
        "a JSON document over several lines; write each item as an object in one line: `jq -c '.[]'` does that"
            .to_owned()
    } else {
        let words = error.to_string();
        let words = words.split(" at line ").next().unwrap_or_default();
        format!("not valid JSON: {words}")
    };
    Fault { column: Some(error.column().max(1)), ..Fault::at(line, "", detail) }
}
