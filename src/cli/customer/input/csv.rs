//! CSV: a header, then one record per video. Commas, semicolons and tabs separate (the header tells which), cells may be
//! quoted and then hold line breaks. An empty cell is an absent field, a record of empty cells is no item.

use ::csv::{ReaderBuilder, StringRecord, Trim};
use serde_json::{Map, Value, json};

use super::{Fault, Item};

const COLUMNS: [&str; 7] =
    ["prompt", "model", "seconds", "size", "custom_id", "reference_image_url", "reference_image"];
const METADATA: &str = "metadata.";

pub(super) fn parse(text: &str) -> Result<Vec<Item>, Vec<Fault>> {
    let mut reader =
        ReaderBuilder::new().delimiter(delimiter(text)).flexible(true).trim(Trim::Headers).from_reader(text.as_bytes());
    let headers = reader.headers().cloned().map_err(|error| vec![unreadable(&error)])?;
    let columns = columns(&headers)?;
    let (mut items, mut found) = (Vec::new(), Vec::new());
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                found.push(unreadable(&error));
                continue;
            }
        };
        if record.iter().all(|cell| cell.trim().is_empty()) {
            continue;
        }
        let line = line_of(&record, text);
        match fields(&columns, &record, line) {
            Ok(fields) => items.push(Item { line, fields }),
            Err(mut faults) => found.append(&mut faults),
        }
        if let Some(fault) = never_closed(&record, text, line) {
            return Err(vec![fault]);
        }
    }
    if found.is_empty() { Ok(items) } else { Err(found) }
}

/// The one of the three that the header holds most of.
fn delimiter(text: &str) -> u8 {
    let header = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let times = |delimiter: &u8| header.bytes().filter(|byte| byte == delimiter).count();
    // of equals the last one is the greatest, so that a header of one column has the comma
    [b'\t', b';', b','].into_iter().max_by_key(times).unwrap_or(b',')
}

/// The fields that the columns stand for, in order; empty for a column without a name.
fn columns(headers: &StringRecord) -> Result<Vec<String>, Vec<Fault>> {
    let mut found = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for header in headers {
        let name = match header.split_once('.') {
            Some((first, rest)) if first.eq_ignore_ascii_case("metadata") && !rest.is_empty() => {
                format!("{METADATA}{rest}")
            }
            _ => header.to_ascii_lowercase(),
        };
        let known = name.is_empty()
            || COLUMNS.contains(&name.as_str())
            || name.starts_with(METADATA) && name.len() > METADATA.len();
        if !known {
            let known = COLUMNS.join(", ");
            found.push(Fault::at(1, header, format!("is no column of a batch; known are {known} and metadata.NAME")));
        } else if !name.is_empty() && names.contains(&name) {
            found.push(Fault::at(1, header, "is there twice"));
        }
        names.push(name);
    }
    if !names.iter().any(|name| name == "prompt") {
        let detail =
            "has no column `prompt`; the first line of a table names its columns, such as prompt,model,seconds";
        found.push(Fault::at(1, "", detail));
    }
    if found.is_empty() { Ok(names) } else { Err(found) }
}

fn fields(columns: &[String], record: &StringRecord, line: u64) -> Result<Map<String, Value>, Vec<Fault>> {
    let (mut fields, mut metadata, mut found) = (Map::new(), Map::new(), Vec::new());
    if record.len() != columns.len() && record.iter().skip(columns.len()).any(|cell| !cell.trim().is_empty()) {
        let detail = format!(
            "has {} cells, the header names {}; a text with a comma must stand in quotes",
            record.len(),
            columns.len()
        );
        return Err(vec![Fault::at(line, "", detail)]);
    }
    for (column, cell) in columns.iter().zip(record) {
        if cell.trim().is_empty() {
            continue;
        }
        if column.is_empty() {
            found.push(Fault::at(line, "", "has a text in a column without a name"));
        } else if let Some(name) = column.strip_prefix(METADATA) {
            metadata.insert(name.to_owned(), json!(cell));
        } else if column == "prompt" {
            fields.insert(column.clone(), json!(cell));
        } else if column == "seconds" {
            match cell.trim().parse::<u32>() {
                Ok(seconds) => drop(fields.insert(column.clone(), json!(seconds))),
                Err(_) => found.push(Fault::at(line, column, "must be a whole number, such as 8")),
            }
        } else {
            fields.insert(column.clone(), json!(cell.trim()));
        }
    }
    if !metadata.is_empty() {
        fields.insert("metadata".to_owned(), Value::Object(metadata));
    }
    if found.is_empty() { Ok(fields) } else { Err(found) }
}

/// The line in which a record begins; the reader's own position may stand on empty lines before it.
fn line_of(record: &StringRecord, text: &str) -> u64 {
    let Some(position) = record.position() else { return 0 };
    let at = usize::try_from(position.byte()).unwrap_or(usize::MAX).min(text.len());
    let skipped = text.as_bytes()[at..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
    position.line() + skipped.filter(|byte| **byte == b'\n').count() as u64
}

/// A quote that is opened and never closed swallows the rest of the file.
fn never_closed(record: &StringRecord, text: &str, line: u64) -> Option<Fault> {
    let at = usize::try_from(record.position()?.byte()).ok()?;
    let last = record.iter().next_back()?;
    let swallowed = last.lines().count() > 1 && text.trim_end().ends_with(last.trim_end());
    let quotes = if swallowed { text.as_bytes().get(at..)?.iter().filter(|byte| **byte == b'"').count() } else { 0 };
    (quotes % 2 == 1).then(|| Fault::at(line, "", "opens a quote that is never closed"))
}

fn unreadable(error: &::csv::Error) -> Fault {
    let line = error.position().map_or(0, ::csv::Position::line);
    Fault::at(line, "", format!("cannot be read as CSV: {error}"))
}
