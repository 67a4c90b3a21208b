//! Reads settings out of a TOML table and an overlay of environment variables, one key at a time.
//!
//! Always holds: a wrong value is noted and replaced by its default, so that one reading finds every problem; a key that
//! nobody asked for is a problem too; no problem repeats a value (it may be a secret), only the name of the setting.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use chrono::NaiveDate;
use toml::{Table, Value};
use url::Url;

/// The prefix of every environment variable that is a setting.
const PREFIX: &str = "FREEZEFRAME_";

/// Everything that was given, and everything that was wrong with it.
pub(super) struct Reader {
    root: Table,
    /// Setting name (`engine.slots`) to the text of its environment variable.
    overlay: BTreeMap<String, String>,
    pub(super) problems: Vec<String>,
}

impl Reader {
    pub(super) fn new(root: Table, overlay: BTreeMap<String, String>) -> Reader {
        Reader { root, overlay, problems: Vec::new() }
    }

    /// The settings outside of every section; the sections must have been taken before it is finished.
    pub(super) fn top(&mut self) -> Section<'_> {
        let table = std::mem::take(&mut self.root);
        Section::new(String::new(), table, Some(&mut self.overlay), &mut self.problems)
    }

    /// The section `[name]`, empty when it is absent.
    pub(super) fn section(&mut self, name: &str) -> Section<'_> {
        let table = match self.root.remove(name) {
            Some(Value::Table(table)) => table,
            None => Table::new(),
            Some(_) => {
                self.problems.push(format!("`{name}` must be a section, written [{name}]"));
                Table::new()
            }
        };
        Section::new(format!("{name}."), table, Some(&mut self.overlay), &mut self.problems)
    }

    /// The entries `[[name]]`, in order.
    pub(super) fn entries(&mut self, name: &str) -> Vec<Table> {
        match self.root.remove(name) {
            None => Vec::new(),
            Some(Value::Array(items)) if items.iter().all(Value::is_table) => items
                .into_iter()
                .filter_map(|item| if let Value::Table(table) = item { Some(table) } else { None })
                .collect(),
            Some(_) => {
                self.problems.push(format!("`{name}` must be a list of sections, each written [[{name}]]"));
                Vec::new()
            }
        }
    }

    /// One of the entries `[[kind]]` as a section; problems name it `kind "name".key`. Not open to the environment.
    pub(super) fn entry(&mut self, kind: &str, position: usize, table: Table) -> Section<'_> {
        let path = match table.get("name").and_then(Value::as_str) {
            Some(name) => format!("{kind} {name:?}."),
            None => format!("{kind} number {}.", position + 1),
        };
        Section::new(path, table, None, &mut self.problems)
    }

    /// Takes a variable out of the overlay because it holds something that is no setting.
    pub(super) fn forget(&mut self, variable: &str) {
        if let Some(setting) = setting_of(variable) {
            self.overlay.remove(&setting);
        }
    }

    /// Every problem, after noting the variables that are no setting.
    pub(super) fn finish(mut self) -> Vec<String> {
        for name in self.overlay.keys() {
            self.problems.push(format!("unknown setting in the environment: {}", variable_of(name)));
        }
        self.problems
    }
}

/// `FREEZEFRAME_ENGINE__SLOTS` to `engine.slots`; `None` for a variable of somebody else.
pub(super) fn setting_of(variable: &str) -> Option<String> {
    variable.strip_prefix(PREFIX).map(|name| name.to_ascii_lowercase().replace("__", "."))
}

fn variable_of(setting: &str) -> String {
    format!("{PREFIX}{}", setting.to_ascii_uppercase().replace('.', "__"))
}

enum Given {
    File(Value),
    Environment(String),
}

impl Given {
    fn text(self) -> Option<String> {
        match self {
            Given::File(Value::String(text)) | Given::Environment(text) => Some(text),
            Given::File(_) => None,
        }
    }

    fn number(self) -> Option<u64> {
        match self {
            Given::File(Value::Integer(number)) => u64::try_from(number).ok(),
            Given::File(_) => None,
            Given::Environment(text) => text.trim().parse().ok(),
        }
    }

    fn flag(self) -> Option<bool> {
        match self {
            Given::File(Value::Boolean(flag)) => Some(flag),
            Given::File(_) => None,
            Given::Environment(text) => text.trim().parse().ok(),
        }
    }
}

/// The settings of one section. Ask for each, then [`Section::finish`].
pub(super) struct Section<'a> {
    path: String,
    table: Table,
    overlay: Option<&'a mut BTreeMap<String, String>>,
    known: Vec<&'static str>,
    problems: &'a mut Vec<String>,
}

impl<'a> Section<'a> {
    fn new(
        path: String,
        table: Table,
        overlay: Option<&'a mut BTreeMap<String, String>>,
        problems: &'a mut Vec<String>,
    ) -> Section<'a> {
        Section { path, table, overlay, known: Vec::new(), problems }
    }

    fn take(&mut self, key: &'static str) -> Option<Given> {
        self.known.push(key);
        let in_file = self.table.remove(key).map(Given::File);
        let name = format!("{}{key}", self.path);
        let in_environment = self.overlay.as_mut().and_then(|overlay| overlay.remove(&name)).map(Given::Environment);
        in_environment.or(in_file)
    }

    pub(super) fn problem(&mut self, key: &str, what: impl Display) {
        self.problems.push(format!("`{}{key}` {what}", self.path));
    }

    /// Whether the file says something about a key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Notes that a key which has no default is missing from the file.
    pub(super) fn require(&mut self, key: &str) {
        if !self.table.contains_key(key) {
            self.problem(key, "is missing");
        }
    }

    pub(super) fn number(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.optional_number(key, range).unwrap_or(default)
    }

    pub(super) fn required_number(&mut self, key: &'static str, range: RangeInclusive<u64>) -> u64 {
        self.require(key);
        self.number(key, *range.start(), range)
    }

    pub(super) fn optional_number(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let given = self.take(key)?;
        let number = given.number().filter(|number| range.contains(number));
        if number.is_none() {
            self.problem(key, format_args!("must be a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    pub(super) fn millis(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.number(key, default, range))
    }

    pub(super) fn secs(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.number(key, default, range))
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let Some(given) = self.take(key) else { return default };
        given.flag().unwrap_or_else(|| {
            self.problem(key, "must be true or false");
            default
        })
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let text = self.take(key)?.text().filter(|text| !text.trim().is_empty());
        if text.is_none() {
            self.problem(key, "must be a text that is not empty");
        }
        text
    }

    pub(super) fn required_text(&mut self, key: &'static str) -> Option<String> {
        self.require(key);
        self.text(key)
    }

    /// A text that `T` can read; `form` says how it has to look.
    pub(super) fn parsed<T: FromStr>(&mut self, key: &'static str, form: &str) -> Option<T> {
        let parsed = self.text(key)?.parse().ok();
        if parsed.is_none() {
            self.problem(key, format_args!("must be {form}"));
        }
        parsed
    }

    /// An http(s) URL without user, password, query or fragment.
    pub(super) fn web_url(&mut self, key: &'static str) -> Option<Url> {
        let form = "a URL that starts with https:// or http:// and has no user, password, query or fragment";
        let url: Url = self.parsed(key, form)?;
        let anonymous = url.username().is_empty() && url.password().is_none();
        let plain = url.query().is_none() && url.fragment().is_none();
        if matches!(url.scheme(), "http" | "https") && url.has_host() && anonymous && plain {
            return Some(url);
        }
        self.problem(key, format_args!("must be {form}"));
        None
    }

    /// A day, written `2026-09-24` with or without quotes.
    pub(super) fn day(&mut self, key: &'static str) -> Option<NaiveDate> {
        let day = match self.take(key)? {
            Given::File(Value::Datetime(day)) => day.to_string().parse().ok(),
            other => other.text().and_then(|text| text.parse().ok()),
        };
        if day.is_none() {
            self.problem(key, "must be a day, such as 2026-09-24");
        }
        day
    }

    /// A list whose items `read` understands; empty when absent.
    pub(super) fn list<T>(&mut self, key: &'static str, form: &str, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
        let items = match self.take(key) {
            None => return Vec::new(),
            Some(Given::File(Value::Array(items))) => items.iter().map(read).collect::<Option<Vec<T>>>(),
            Some(_) => None,
        };
        items.unwrap_or_else(|| {
            self.problem(key, format_args!("must be a list of {form}"));
            Vec::new()
        })
    }

    /// A list of tables, each to be read as a section of its own by [`Section::nested`]; `None` when absent.
    pub(super) fn tables(&mut self, key: &'static str) -> Option<Vec<Table>> {
        let table = |item: Value| if let Value::Table(table) = item { Some(table) } else { None };
        let tables = match self.take(key)? {
            Given::File(Value::Array(items)) => items.into_iter().map(table).collect::<Option<Vec<Table>>>(),
            _ => None,
        };
        Some(tables.unwrap_or_else(|| {
            self.problem(key, "must be a list of tables, such as [{ provider = \"name\" }]");
            Vec::new()
        }))
    }

    /// A table inside this section as a section; problems name it `path.name.key`. Not open to the environment.
    pub(super) fn nested(&mut self, name: &str, table: Table) -> Section<'_> {
        Section::new(format!("{}{name}.", self.path), table, None, self.problems)
    }

    /// A table whose names are a `K` and whose values are whole numbers of at least 1; empty when absent.
    pub(super) fn numbers_by<K: FromStr + Ord>(&mut self, key: &'static str, form: &str) -> BTreeMap<K, i64> {
        let read = |(name, value): (String, Value)| {
            Some((name.parse().ok()?, value.as_integer().filter(|number| *number >= 1)?))
        };
        let numbers = match self.take(key) {
            None => return BTreeMap::new(),
            Some(Given::File(Value::Table(table))) => table.into_iter().map(read).collect::<Option<BTreeMap<K, i64>>>(),
            Some(_) => None,
        };
        numbers.unwrap_or_else(|| {
            self.problem(key, format_args!("must be a table of {form}"));
            BTreeMap::new()
        })
    }

    /// A table, as it stands; empty when absent.
    pub(super) fn table(&mut self, key: &'static str) -> Table {
        match self.take(key) {
            None => Table::new(),
            Some(Given::File(Value::Table(table))) => table,
            Some(_) => {
                self.problem(key, "must be a table");
                Table::new()
            }
        }
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let known = self.known.join(", ");
            self.problems.push(format!("unknown setting `{}{key}`; known here: {known}", self.path));
        }
    }
}
