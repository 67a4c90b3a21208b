//! Generated files that are checked in are what the code generates today. `FREEZEFRAME_REGENERATE=1` rewrites them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use freezeframe::config::Config;

fn in_house(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn is_checked_in(name: &str, generated: &str) {
    let path = in_house(name);
    if std::env::var_os("FREEZEFRAME_REGENERATE").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, generated).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = checked_in.lines().zip(generated.lines()).position(|(old, new)| old != new);
    assert!(
        checked_in == generated,
        "{name} is not what the code generates (first difference in line {:?}): run `make generate`",
        differs.map(|at| at + 1)
    );
}

#[test]
fn the_openapi_documents_are_what_the_code_serves() {
    is_checked_in("openapi/openapi.json", &freezeframe::api::openapi_json());
    is_checked_in("openapi/operator.json", &freezeframe::api::operator_openapi_json());
}

/// The example as it is, and with every setting switched on that stands behind a single `#`.
fn example() -> (String, String) {
    let text = std::fs::read_to_string(in_house("freezeframe.example.toml")).unwrap();
    let switched_on = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if is_setting(rest) => rest,
        _ => line,
    });
    (text.clone(), switched_on.collect::<Vec<_>>().join("\n"))
}

/// `key = value`, `[section]` or `[[list]]`: what a comment in prose is not.
fn is_setting(line: &str) -> bool {
    let key = line.split('=').next().unwrap_or_default().trim_end();
    let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    line.starts_with('[') || (line.contains('=') && is_key)
}

#[test]
fn the_example_settings_are_valid_as_they_are_and_with_every_line_switched_on() {
    let (as_it_is, switched_on) = example();
    Config::from_sources(&as_it_is, []).unwrap();
    // the example's replacement names a model that only its reader would have
    let lines: Vec<&str> = switched_on.lines().filter(|line| !line.starts_with("replacement =")).collect();
    Config::from_sources(&lines.join("\n"), []).unwrap();
}

/// Every setting there is, told by the settings themselves: an unknown one is answered with the known ones.
fn known_settings() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    let sections = ["log", "engine", "scheduler", "limits", "webhooks", "storage", "images", "attempts"];
    let lists = [("provider", "kind = \"openai_videos\""), ("model", "provider = \"x\"")];
    let mut probes = vec![(String::new(), "zzz = 1".to_owned())];
    probes.extend(sections.map(|section| (format!("{section}."), format!("[{section}]\nzzz = 1"))));
    probes.extend(lists.map(|(list, with)| (format!("{list}."), format!("[[{list}]]\nname = \"x\"\n{with}\nzzz = 1"))));
    for (prefix, probe) in probes {
        let problems = Config::from_sources(&probe, []).unwrap_err().to_string();
        let line = problems.lines().find(|line| line.contains("zzz")).unwrap_or_else(|| panic!("{probe}: {problems}"));
        let names = line.split("known here: ").nth(1).unwrap_or_else(|| panic!("{line}"));
        known.extend(names.split(", ").map(|name| format!("{prefix}{name}")));
    }
    known
}

#[test]
fn the_example_names_every_setting() {
    let (_, switched_on) = example();
    let table: toml::Table = switched_on.parse().unwrap();
    let mut shown = BTreeSet::new();
    for (name, value) in &table {
        let entries: Vec<&toml::Table> = match value {
            toml::Value::Table(section) => vec![section],
            toml::Value::Array(list) if list.iter().all(toml::Value::is_table) => {
                list.iter().filter_map(toml::Value::as_table).collect()
            }
            _ => {
                shown.insert(name.clone());
                continue;
            }
        };
        shown.extend(entries.iter().flat_map(|entry| entry.keys()).map(|key| format!("{name}.{key}")));
    }
    let known = known_settings();
    assert!(known.len() > 40, "{known:?}");
    let missing: Vec<_> = known.difference(&shown).collect();
    assert!(missing.is_empty(), "freezeframe.example.toml does not show {missing:?}");
}
