//! The house's own rules, read from its source: floors, doors, sizes, module texts. The last test plants violations and
//! looks whether they are found.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Room and floor. A room imports only from lower floors; what drives the service stands above it.
const FLOORS: [(&str, u32); 26] = [
    ("main", 11),
    ("cli", 10),
    ("bench", 9),
    ("service", 8),
    ("api", 7),
    ("admin", 7),
    ("worker", 7),
    ("control", 6),
    ("steps", 6),
    ("batches", 5),
    ("billing", 5),
    ("callbacks", 5),
    ("webhooks", 5),
    ("providers", 4),
    ("storage", 4),
    ("scheduler", 4),
    ("ledger", 3),
    ("accounts", 3),
    ("limits", 3),
    ("operators", 3),
    ("engine", 3),
    ("images", 3),
    ("tenants", 3),
    ("idempotency", 3),
    ("db", 2),
    ("domain", 1),
];
/// Importable by every room; they themselves import the domain alone.
const BESIDE: [&str; 3] = ["config", "telemetry", "metrics"];
/// A provider on loopback: imports nothing of the house.
const ALONE: &str = "emulator";
const MAX_FILE_LINES: usize = 400;
const MAX_FUNCTION_LINES: usize = 70;

/// A file of the house; `path` is relative to `src`.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    fn room(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The part that is shipped, without comments. Tests stand at the end of a file.
    fn code(&self) -> String {
        let shipped = self.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = shipped.lines().map(without_comment);
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// A line without its `//` comment; the slashes of a URL are none.
fn without_comment(line: &str) -> &str {
    let is_comment = |at: &usize| *at == 0 || !line[..*at].ends_with(':');
    let start = line.match_indices("//").map(|(at, _)| at).find(is_comment);
    start.map_or(line, |at| &line[..at])
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read_all(dir: &Path, base: &Path, extensions: &[&str], found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            read_all(&path, base, extensions, found);
        } else if path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)) {
            let name = path.strip_prefix(base).unwrap().to_string_lossy().into_owned();
            found.push(Source { path: name, text: std::fs::read_to_string(&path).unwrap() });
        }
    }
}

fn sources(extensions: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    read_all(&root().join("src"), &root().join("src"), extensions, &mut found);
    assert!(found.len() > 50, "the house was not found");
    found
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn first_word(text: &str) -> &str {
    let end = text.bytes().position(|b| !is_word(b)).unwrap_or(text.len());
    &text[..end]
}

/// The rooms that a path behind `crate::` names: one word, or the words of a group in braces.
fn named(after: &str) -> Vec<&str> {
    let Some(group) = after.strip_prefix('{') else { return vec![first_word(after)] };
    let mut depth = 1;
    let mut names = vec![first_word(group.trim_start())];
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 1 => names.push(first_word(group[at + 1..].trim_start())),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Rooms that the shipped code of a file names, by `crate::` or by a chain of `super::` that ends at the root.
fn imports(source: &Source) -> BTreeSet<String> {
    let code = source.code();
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if at == 0 || !(is_word(code.as_bytes()[at - 1]) || code.as_bytes()[at - 1] == b'$') {
            rooms.extend(named(&code[at + "crate::".len()..]).into_iter().map(str::to_owned));
        }
    }
    let parts = source.path.trim_end_matches("/mod.rs").split('/').count();
    let to_root = "super::".repeat(parts);
    for (at, _) in code.match_indices(&to_root) {
        if at == 0 || !(is_word(code.as_bytes()[at - 1]) || code.as_bytes()[at - 1] == b':') {
            rooms.extend(named(&code[at + to_root.len()..]).into_iter().map(str::to_owned));
        }
    }
    rooms.remove(source.room());
    rooms
}

fn floor(room: &str) -> Option<u32> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

fn wrong_imports(source: &Source) -> Vec<String> {
    if source.is_test() || source.path == "lib.rs" {
        return vec![];
    }
    let room = source.room();
    let allowed = |other: &str| match (room, floor(room)) {
        (ALONE, _) => false,
        (room, None) if BESIDE.contains(&room) => other == "domain",
        (_, Some(own)) => {
            BESIDE.contains(&other)
                || floor(other).is_some_and(|other| other < own)
                // what plays the provider is started from the top floors alone
                || (other == ALONE && own >= 8)
        }
        (_, None) => false,
    };
    let wrong = imports(source).into_iter().filter(|other| !allowed(other));
    wrong.map(|other| format!("{} imports from `{other}`, which is not below it", source.path)).collect()
}

/// What only one place may do: a text that the shipped code elsewhere must not have, where it may stand, and what to do
/// instead.
const DOORS: [(&str, &[&str], &str); 22] = [
    ("apalis::", &["engine/queue", "db/migrate.rs"], "only the queue names its library"),
    ("apalis_", &["engine/queue", "db/migrate.rs"], "only the queue names its library"),
    ("apalis.", &["engine/queue"], "only the queue knows its tables"),
    ("std::env::var", &["config"], "only config reads the environment"),
    ("env::var", &["config"], "only config reads the environment"),
    ("pool.begin(", &["db"], "only db begins transactions: use Database::act or Database::begin"),
    ("pool().begin(", &["db"], "only db begins transactions: use Database::act or Database::begin"),
    ("begin_with(", &["db"], "only db begins transactions"),
    ("counter!(", &["metrics.rs"], "metrics are declared in metrics.rs alone"),
    ("gauge!(", &["metrics.rs"], "metrics are declared in metrics.rs alone"),
    ("histogram!(", &["metrics.rs"], "metrics are declared in metrics.rs alone"),
    ("Client::builder(", &["providers/egress"], "only egress opens outbound connections"),
    ("reqwest::Client::new(", &["providers/egress"], "only egress opens outbound connections"),
    ("TcpStream::connect", &["providers/egress", "bench/stuck.rs"], "only egress opens outbound connections"),
    ("Controls", &["control", "api/operator", "service.rs", "cli"], "only operators' doors reach across tenants"),
    (
        "OperatorState",
        &["api/operator", "api/mod.rs", "api/server/mod.rs", "service.rs"],
        "only operators' routes get it",
    ),
    ("into wallets", &["ledger"], "only the ledger writes its tables"),
    ("into batch_holds", &["ledger"], "only the ledger writes its tables"),
    ("into settlements", &["ledger"], "only the ledger writes its tables"),
    ("into credit_ledger", &["ledger"], "only the ledger writes its tables"),
    ("into provider_losses", &["ledger"], "only the ledger writes its tables"),
    ("into ledger_chain", &["ledger"], "only the ledger writes its tables"),
];

/// The other ways to write the ledger's tables.
const LEDGER_TABLES: [&str; 6] =
    ["wallets", "batch_holds", "settlements", "credit_ledger", "provider_losses", "ledger_chain"];

fn broken_doors(source: &Source) -> Vec<String> {
    if source.is_test() || source.room() == ALONE {
        return vec![];
    }
    let code = match source.path.ends_with(".sql") {
        true => source.text.clone(),
        false => source.code(),
    };
    let mut broken = Vec::new();
    for (text, places, why) in DOORS {
        if code.contains(text) && !places.iter().any(|place| source.path.starts_with(place)) {
            broken.push(format!("{} has `{text}`: {why}", source.path));
        }
    }
    if source.room() != "ledger" {
        let words: Vec<&str> = code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
        let verbs = ["update", "from", "truncate"];
        for pair in words.windows(3).filter(|w| LEDGER_TABLES.contains(&w[2]) || LEDGER_TABLES.contains(&w[1])) {
            let deletes = pair[0] == "delete" && pair[1] == "from";
            let writes = verbs.contains(&pair[0]) && pair[0] != "from" && LEDGER_TABLES.contains(&pair[1]);
            if deletes || writes {
                broken.push(format!("{} writes a table of the ledger: {}", source.path, pair.join(" ")));
            }
        }
    }
    if ["api", "admin", "cli", "worker", "main", "service"].contains(&source.room()) && code.contains("sqlx::query") {
        broken.push(format!("{} has SQL: that stands on the floors below", source.path));
    }
    if ["api", "admin"].contains(&source.room()) {
        broken.extend(names_the_engine(&code).map(|name| {
            format!("{} names `{name}`: requests have a RequestDb, and no way to the engine's sessions", source.path)
        }));
    }
    broken
}

/// What leads to sessions across tenants. A variant of an error may have the name.
const OUT_OF_REACH: [&str; 5] = ["Database", "DatabaseSettings", "PgPool", "PgPoolOptions", "PgConnection"];

fn names_the_engine(code: &str) -> impl Iterator<Item = &'static str> {
    OUT_OF_REACH.into_iter().filter(move |name| {
        code.match_indices(name).any(|(at, _)| {
            let (before, after) = (&code[..at], &code[at + name.len()..]);
            let is_part = before.bytes().last().is_some_and(is_word) || after.bytes().next().is_some_and(is_word);
            !is_part && !before.ends_with("Error::")
        })
    })
}

/// Lines of code of each function, by name; comments and blank lines do not count.
fn functions(code: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let Some(opened) = lines[at..].iter().position(|l| l.ends_with('{') || l.ends_with(';') || l.ends_with('}'))
        else {
            continue;
        };
        if !lines[at + opened].ends_with('{') {
            continue;
        }
        let end = format!("{indent}}}");
        let body = lines[at + opened + 1..].iter().take_while(|l| **l != end);
        found.push((name.to_owned(), body.filter(|l| !l.trim().is_empty()).count()));
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line
        .trim_start()
        .split(' ')
        .skip_while(|word| ["pub", "const", "async", "unsafe", "extern"].contains(word) || word.starts_with("pub("));
    (words.next() == Some("fn")).then(|| first_word(words.next().unwrap_or_default()))
}

fn wrong_sizes(source: &Source) -> Vec<String> {
    if source.is_test() {
        return vec![];
    }
    let shipped = source.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = shipped.lines().count();
    let mut wrong = Vec::new();
    if lines > MAX_FILE_LINES {
        wrong.push(format!("{} has {lines} lines without tests: split it by meaning", source.path));
    }
    for (name, lines) in functions(&source.code()).into_iter().filter(|(_, lines)| *lines > MAX_FUNCTION_LINES) {
        wrong.push(format!("{}: the function {name} has {lines} lines", source.path));
    }
    wrong
}

fn missing_text(source: &Source) -> Vec<String> {
    match source.text.starts_with("//! ") {
        true => vec![],
        false => vec![format!("{} does not say what it owns: begin it with `//!`", source.path)],
    }
}

#[track_caller]
fn assert_none(found: Vec<String>) {
    assert!(found.is_empty(), "{} found:\n- {}", found.len(), found.join("\n- "));
}

#[test]
fn a_room_imports_only_from_the_floors_below_it() {
    assert_none(sources(&["rs"]).iter().flat_map(wrong_imports).collect());
}

#[test]
fn every_room_has_its_floor() {
    let rooms: BTreeSet<String> = sources(&["rs"]).iter().map(|source| source.room().to_owned()).collect();
    let known = |room: &str| room == "lib" || room == ALONE || BESIDE.contains(&room) || floor(room).is_some();
    assert_none(rooms.into_iter().filter(|room| !known(room)).collect());
}

#[test]
fn every_fact_has_one_door() {
    assert_none(sources(&["rs", "sql"]).iter().flat_map(broken_doors).collect());
}

#[test]
fn files_and_functions_stay_small() {
    assert_none(sources(&["rs"]).iter().flat_map(wrong_sizes).collect());
}

#[test]
fn every_module_says_what_it_owns() {
    let mut all = sources(&["rs"]);
    for dir in ["workflows/src", "tests"] {
        read_all(&root().join(dir), &root(), &["rs"], &mut all);
    }
    assert_none(all.iter().flat_map(missing_text).collect());
}

#[test]
fn the_rules_crate_depends_on_serde_and_thiserror_alone() {
    let manifest: toml::Table = std::fs::read_to_string(root().join("workflows/Cargo.toml")).unwrap().parse().unwrap();
    let names: Vec<&str> = manifest["dependencies"].as_table().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["serde", "thiserror"]);
    assert!(!manifest.contains_key("build-dependencies"));
}

#[test]
fn planted_violations_are_found() {
    let upward = [
        ("ledger/settle.rs", "use crate::batches::BatchView;"),
        ("ledger/settle.rs", "use crate::{domain::Credits, steps};"),
        ("ledger/settle.rs", "use crate::{\n    db::{Tx, commit},\n    api::{self, ApiState},\n};"),
        ("ledger/settle.rs", "fn f() -> crate::webhooks::Courier {"),
        ("ledger/settle.rs", "use super::super::steps::finalize;"),
        ("ledger/settle.rs", "use crate::engine::queue;"),
        ("webhooks/mod.rs", "use crate::batches::BatchView;"),
        ("metrics.rs", "use crate::db::Database;"),
        ("emulator/http.rs", "use crate::domain::Size;"),
        ("steps/mod.rs", "use crate::emulator::Emulator;"),
    ];
    for (path, text) in upward {
        assert_eq!(wrong_imports(&Source::new(path, text)).len(), 1, "{path}: {text}");
    }
    let fine = [
        ("ledger/settle.rs", "use crate::domain::Credits; // crate::steps is above"),
        ("ledger/settle.rs", "use crate::metrics; use super::LedgerError; use super::super::ledger::wallet;"),
        ("ledger/settle.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::steps;\n}"),
        ("cli/up.rs", "use crate::service::Service; use crate::emulator::Emulator;"),
    ];
    for (path, text) in fine {
        assert_none(wrong_imports(&Source::new(path, text)));
    }
    let doors = [
        ("steps/sweep.rs", "use apalis_postgres::queries;"),
        ("steps/sweep.sql", "delete from apalis.jobs"),
        ("api/wallet.rs", "sqlx::query!(\"select 1\")"),
        ("batches/x.rs", "\"update wallets set available = 0\""),
        ("batches/x.sql", "insert into credit_ledger (act) values ('grant')"),
        ("batches/x.sql", "delete from settlements"),
        ("api/mod.rs", "std::env::args(); std::env::vars_os();"),
        ("ledger/x.rs", "let tx = pool.begin().await?;"),
        ("worker.rs", "metrics::counter!(\"x\").increment(1);"),
        ("storage/x.rs", "let client = reqwest::Client::builder().build()?;"),
        ("api/wallet.rs", "use crate::db::{self, Database};"),
        ("api/wallet.rs", "fn f(db: &db::Database) {}"),
        ("api/mod.rs", "let conn = PgConnection::connect(url).await?;"),
        ("api/batches.rs", "use crate::control::Controls;"),
        ("api/auth.rs", "let state = request.data::<OperatorState>();"),
        ("api/operator/limits.rs", "fn f(db: &Database) {}"),
    ];
    for (path, text) in doors {
        assert!(!broken_doors(&Source::new(path, text)).is_empty(), "{path}: {text}");
    }
    assert_none(broken_doors(&Source::new("batches/x.sql", "select * from wallets for update")));
    assert_none(broken_doors(&Source::new(
        "api/error.rs",
        "AdmissionError::Database(error) => error.into(), RequestDb",
    )));
    let long = format!(
        "//! X.\nimpl X {{\n    pub async fn f(\n        a: u8,\n    ) -> u8 {{\n{}    }}\n}}\n",
        "        a;\n".repeat(71)
    );
    assert_eq!(wrong_sizes(&Source::new("db/x.rs", &long)).len(), 1);
    assert_eq!(wrong_sizes(&Source::new("db/x.rs", &"a;\n".repeat(401))).len(), 1);
    assert_eq!(missing_text(&Source::new("db/x.rs", "use x;")).len(), 1);
}
