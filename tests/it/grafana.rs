//! The dashboards show what the service measures: no panel asks for a metric that does not exist, and no metric is
//! declared that nobody looks at.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use freezeframe::metrics::{ALL, Kind};
use serde_json::Value;

/// Every query of every panel below `value`, with the dashboard's name.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("expr").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|inner| queries(inner, found));
        }
        Value::Array(values) => values.iter().for_each(|inner| queries(inner, found)),
        _ => {}
    }
}

/// The names in a query that start as ours do.
fn names(query: &str) -> impl Iterator<Item = &str> {
    query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("freezeframe_"))
}

/// The declared metric that a series belongs to: a histogram is asked for by its parts.
fn declared(series: &str) -> Option<&'static str> {
    let whole = |metric: &str, kind| match kind {
        Kind::Counter | Kind::Gauge => metric == series,
        Kind::Histogram => ["_bucket", "_sum", "_count"].iter().any(|part| series.strip_suffix(part) == Some(metric)),
    };
    ALL.iter().find(|metric| whole(metric.name, metric.kind)).map(|metric| metric.name)
}

fn dashboards() -> Vec<Value> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.map(|path| serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()).collect()
}

#[test]
fn dashboards_and_declared_metrics_are_the_same_set() {
    let mut found = Vec::new();
    dashboards().iter().for_each(|dashboard| queries(dashboard, &mut found));
    assert!(!found.is_empty(), "no dashboard asks for anything");
    let mut shown = BTreeSet::new();
    for query in &found {
        for series in names(query) {
            let metric =
                declared(series).unwrap_or_else(|| panic!("{series} is not measured, but asked for by {query}"));
            shown.insert(metric);
        }
    }
    let unseen: Vec<&str> = ALL.iter().map(|metric| metric.name).filter(|name| !shown.contains(name)).collect();
    assert!(unseen.is_empty(), "measured, but on no dashboard: {unseen:?}");
}
