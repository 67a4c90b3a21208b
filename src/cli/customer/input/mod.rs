//! The file that a batch is made of: JSONL (an object of the API per line) or CSV with a header.
//!
//! Always holds: every item knows the line it came from, so that a fault, ours or the server's, is told as
//! `FILE:LINE: field`; all faults are told at once; nothing is sent while there is one.
//! Refuses: to know the catalogue. Which models, lengths and sizes there are, the service says.

mod csv;
mod images;
mod jsonl;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::io::{IsTerminal as _, Read, stdin};
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::cli::client::Problem;
use crate::cli::output::{self, count, plain};
use crate::cli::progress::number;
use images::IMAGE_URL;
pub(super) use images::{IMAGE, LocalImage, upload};

/// What one batch holds at the most.
pub(super) const MAX_ITEMS: usize = 10_000;
/// More than any service takes as one body.
const MAX_FILE_BYTES: u64 = 256 << 20;
const MAX_FAULTS_SHOWN: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Jsonl,
    Csv,
}

/// A video to be ordered.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// From 1.
    pub(super) line: u64,
    pub(super) fields: Map<String, Value>,
}

/// Everything of a file.
#[derive(Clone, Debug)]
pub(super) struct Items {
    /// The file's name, as it is shown.
    pub(super) name: String,
    pub(super) items: Vec<Item>,
}

/// Something that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// 0 for the whole file.
    pub(super) line: u64,
    /// `17` of a line, or nothing.
    pub(super) column: Option<usize>,
    /// The field of a JSON object or the column of a table; empty for the whole line.
    pub(super) field: String,
    pub(super) detail: String,
}

impl Fault {
    pub(super) fn at(line: u64, field: impl Into<String>, detail: impl Into<String>) -> Fault {
        Fault { line, column: None, field: field.into(), detail: detail.into() }
    }
}

/// Everything that is wrong with a file.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    pub(super) name: String,
    pub(super) found: Vec<Fault>,
}

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = self.found.len();
        if many != 1 {
            write!(f, "{} are wrong, nothing was bought:", count(many, "thing"))?;
        }
        for fault in self.found.iter().take(MAX_FAULTS_SHOWN) {
            f.write_str(if many == 1 { "" } else { "\n  " })?;
            let Fault { line, column, field, detail } = fault;
            f.write_str(&self.name)?;
            if *line > 0 {
                write!(f, ":{line}")?;
            }
            if let Some(column) = column {
                write!(f, ":{column}")?;
            }
            let field = if field.is_empty() { String::new() } else { format!("`{}` ", plain(field)) };
            write!(f, ": {field}{}", plain(detail))?;
        }
        if many > MAX_FAULTS_SHOWN {
            write!(f, "\n  and {} more", number(many - MAX_FAULTS_SHOWN))?;
        }
        Ok(())
    }
}

/// What stands in for fields that an item leaves out.
#[derive(Clone, Debug, Default)]
pub(super) struct Defaults {
    pub(super) model: Option<String>,
    pub(super) seconds: Option<u32>,
    pub(super) size: Option<String>,
}

/// Reads and checks a file; `-` is standard input.
///
/// # Errors
/// [`Faults`], or why it cannot be read.
pub(super) fn read(path: &Path, format: Option<Format>, defaults: &Defaults) -> Result<Items> {
    let (name, bytes) = contents(path)?;
    let mut items = parse(&name, &bytes, format.or_else(|| format_of(path)))?;
    items.fill(defaults);
    items.check()?;
    Ok(items)
}

fn contents(path: &Path) -> Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut take = |source: &mut dyn Read| source.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    let name = if path == Path::new("-") {
        if stdin().is_terminal() {
            output::aside("reading items from the terminal until Ctrl-D");
        }
        take(&mut stdin().lock()).context("standard input cannot be read")?;
        "standard input".to_owned()
    } else {
        let name = plain(&path.display().to_string());
        let mut file = std::fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
        take(&mut file).with_context(|| format!("cannot read {name}"))?;
        name
    };
    anyhow::ensure!(
        bytes.len() as u64 <= MAX_FILE_BYTES,
        "{name} is larger than {}, which no batch is: is it the right file?",
        output::bytes(MAX_FILE_BYTES)
    );
    Ok((name, bytes))
}

fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "jsonl" | "ndjson" => Some(Format::Jsonl),
        "csv" | "tsv" => Some(Format::Csv),
        _ => None,
    }
}

/// Without a format the first character decides: an object of JSONL starts with a brace.
fn parse(name: &str, bytes: &[u8], format: Option<Format>) -> Result<Items, Faults> {
    let wrong = |found: Vec<Fault>| Faults { name: name.to_owned(), found };
    let text = utf8(bytes).map_err(|fault| wrong(vec![fault]))?;
    let looks_like_json = text.trim_start().starts_with(['{', '[']);
    let format = format.unwrap_or(if looks_like_json { Format::Jsonl } else { Format::Csv });
    let read = match format {
        Format::Jsonl => jsonl::parse(text),
        Format::Csv => csv::parse(text),
    };
    let items = read.map_err(wrong)?;
    if items.is_empty() {
        return Err(wrong(vec![Fault::at(0, "", "there is no item in it")]));
    }
    if items.len() > MAX_ITEMS {
        return Err(wrong(vec![too_many(name, &items, format)]));
    }
    Ok(Items { name: name.to_owned(), items })
}

fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Fault::at(0, "", "is encoded as UTF-16; save it as UTF-8"));
    }
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u64;
        let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
        let detail = "is not encoded as UTF-8 here; save it as UTF-8 (in Excel: CSV UTF-8)";
        Fault { column: Some(column), ..Fault::at(line, "", detail) }
    })
}

fn too_many(name: &str, items: &[Item], format: Format) -> Fault {
    let file = if name.contains([' ', '\'']) { "FILE" } else { name };
    let split = match format {
        Format::Jsonl => format!("split -l {MAX_ITEMS} {file} part-"),
        Format::Csv => format!(
            "tail -n +2 {file} | split -l {MAX_ITEMS} --filter='(head -n 1 {file}; cat) > $FILE.csv' - part- \
             (if no cell holds a line break)"
        ),
    };
    let (has, first) = (number(items.len()), items[MAX_ITEMS].line);
    let detail =
        format!("has {has} items, a batch holds {}; line {first} is the first too many: {split}", number(MAX_ITEMS));
    Fault::at(0, "", detail)
}

impl Items {
    fn fill(&mut self, defaults: &Defaults) {
        let Defaults { model, seconds, size } = defaults;
        let values = [("model", model.as_ref().map(|v| json!(v))), ("seconds", seconds.map(|v| json!(v)))];
        let values: Vec<(&str, Value)> = values
            .into_iter()
            .chain([("size", size.as_ref().map(|v| json!(v)))])
            .filter_map(|(field, value)| Some((field, value?)))
            .collect();
        for item in &mut self.items {
            for (field, value) in &values {
                let slot = item.fields.entry(*field).or_insert(Value::Null);
                if slot.is_null() {
                    *slot = value.clone();
                }
            }
        }
    }

    /// What can be said without the service: what is missing, of another type, or twice.
    fn check(&self) -> Result<(), Faults> {
        let mut found = Vec::new();
        let mut names: HashMap<&str, u64> = HashMap::new();
        for Item { line, fields } in &self.items {
            let mut wrong = |field: &str, detail: String| found.push(Fault::at(*line, field, detail));
            let given = |field: &str| fields.get(field).filter(|value| !value.is_null());
            for field in ["prompt", "model"] {
                match given(field) {
                    None if field == "model" => {
                        wrong(field, "is required; --model names one for every item".to_owned())
                    }
                    None => wrong(field, "is required".to_owned()),
                    Some(value) if value.as_str().is_some_and(|text| text.trim().is_empty()) => {
                        wrong(field, "is empty".to_owned());
                    }
                    Some(_) => {}
                }
            }
            for field in ["prompt", "model", "size", "custom_id", IMAGE_URL, IMAGE] {
                if given(field).is_some_and(|value| !value.is_string()) {
                    wrong(field, "must be a text".to_owned());
                }
            }
            if given("seconds").is_some_and(|value| value.as_u64().is_none()) {
                wrong("seconds", "must be a whole number, such as 8".to_owned());
            }
            if given("metadata").is_some_and(|value| !value.is_object()) {
                wrong("metadata", "must be an object of texts".to_owned());
            }
            if let Some(name) = given("custom_id").and_then(Value::as_str)
                && let Some(first) = names.insert(name, *line)
            {
                wrong("custom_id", format!("is that of line {first} too; it must be unique in the batch"));
            }
        }
        if found.is_empty() { Ok(()) } else { Err(Faults { name: self.name.clone(), found }) }
    }

    /// The array that the API takes.
    pub(super) fn to_json(&self) -> Value {
        self.items.iter().map(|item| Value::Object(item.fields.clone())).collect()
    }

    /// The server's pointers (`/items/17/model`) as places of the file or of the command line.
    pub(super) fn explain(&self, problem: &Problem) -> Faults {
        let found = problem.errors.iter().map(|error| self.place(error.pointer.as_deref(), &error.detail)).collect();
        Faults { name: self.name.clone(), found }
    }

    fn place(&self, pointer: Option<&str>, detail: &str) -> Fault {
        let parts: Vec<String> = pointer
            .unwrap_or_default()
            .split('/')
            .skip(1)
            .map(|part| part.replace("~1", "/").replace("~0", "~"))
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["items", at, field @ ..] => match at.parse::<usize>().ok().and_then(|at| self.items.get(at)) {
                Some(item) => Fault::at(item.line, field.join("."), detail),
                None => Fault::at(0, pointer.unwrap_or_default(), detail),
            },
            ["items"] => Fault::at(0, "", format!("the items: {detail}")),
            ["x-request-id"] => Fault::at(0, "--key", detail),
            ["webhook_url"] => Fault::at(0, "--webhook-url", detail),
            ["metadata", ..] => Fault::at(0, "--metadata", detail),
            ["complete_by"] => Fault::at(0, "--complete-by", detail),
            _ => Fault::at(0, pointer.unwrap_or_default(), detail),
        }
    }
}
