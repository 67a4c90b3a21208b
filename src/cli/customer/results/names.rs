//! What files are called: after the customer's own names where these make good file names, otherwise by their place.
//!
//! Always holds: a name stays below its directory whatever the custom id is; two videos of a batch never share one, not
//! even on file systems that do not tell capitals; the same batch gives the same names again.

use std::collections::{HashMap, HashSet};

/// File systems take 255 bytes; the rest is for the number, the ending and the temporary name.
const MAX_STEM_BYTES: usize = 120;
const ENDING: &str = "mp4";
/// Names that some systems keep for devices.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// A file name for each (place, custom id), in order.
pub(super) fn file_names<'v>(videos: impl Iterator<Item = (usize, Option<&'v str>)>) -> HashMap<usize, String> {
    let stems: Vec<(usize, String, bool)> = videos
        .map(|(index, custom_id)| match custom_id {
            Some(id) => {
                let stem = safe(id);
                let verbatim = stem == id;
                (index, stem, verbatim)
            }
            None => (index, String::new(), false),
        })
        .collect();
    let mut times: HashMap<String, usize> = HashMap::new();
    for (_, stem, _) in stems.iter().filter(|(_, _, verbatim)| *verbatim) {
        *times.entry(stem.to_lowercase()).or_default() += 1;
    }
    let keeps = |stem: &str, verbatim: bool| verbatim && times.get(&stem.to_lowercase()) == Some(&1);
    let mut taken: HashSet<String> = stems
        .iter()
        .filter(|(_, stem, verbatim)| keeps(stem, *verbatim))
        .map(|(_, stem, _)| stem.to_lowercase())
        .collect();
    let mut names = HashMap::new();
    for (index, stem, verbatim) in stems {
        let mut name = if keeps(&stem, verbatim) {
            stem
        } else {
            let mut name = format!("{index:05}{}{stem}", if stem.is_empty() { "" } else { "-" });
            while !taken.insert(name.to_lowercase()) {
                name.push('_');
            }
            name
        };
        name.push('.');
        name.push_str(ENDING);
        names.insert(index, name);
    }
    names
}

/// Letters and digits of any script and `_`, `-` but not at the beginning, a point only behind a letter or digit; the rest
/// becomes `_`.
fn safe(id: &str) -> String {
    let mut stem = String::new();
    for c in id.chars() {
        let within = stem.ends_with(char::is_alphanumeric);
        let fine = c.is_alphanumeric() || c == '_' || (c == '-' && !stem.is_empty()) || (c == '.' && within);
        let c = if fine { c } else { '_' };
        if stem.len() + c.len_utf8() > MAX_STEM_BYTES {
            break;
        }
        stem.push(c);
    }
    let first = stem.split('.').next().unwrap_or_default().to_lowercase();
    let numbered = |port: &str| first.strip_prefix(port).is_some_and(|rest| rest.chars().count() == 1);
    if DEVICES.contains(&first.as_str()) || numbered("com") || numbered("lpt") {
        stem.insert(0, '_');
    }
    stem
}

#[cfg(test)]
mod tests {
    use super::file_names;

    fn names(ids: &[Option<&str>]) -> Vec<String> {
        let names = file_names(ids.iter().copied().enumerate());
        (0..ids.len()).map(|index| names[&index].clone()).collect()
    }

    #[test]
    fn a_good_name_is_kept_and_no_name_becomes_the_place() {
        let ids = [Some("fox"), None, Some("狐-1.final"), Some("Take_2")];
        assert_eq!(names(&ids), ["fox.mp4", "00001.mp4", "狐-1.final.mp4", "Take_2.mp4"]);
    }

    #[test]
    fn a_hostile_name_stays_below_its_directory() {
        let long = "x".repeat(128);
        let hostile = [
            "../../etc/passwd",
            "/etc/passwd",
            "..",
            ".bashrc",
            "-rf",
            "a\u{0}b",
            "a\nb",
            "a\\b",
            "C:\\x",
            "con",
            "COM1.x",
            "a/../b",
            " ",
            "\u{202e}gpj",
            "~",
            "$(id)",
            &long,
        ];
        for name in names(&hostile.map(Some)) {
            assert!(!name.contains(['/', '\\', '\0', '\n', ':', '$', '~', ' ', '\u{202e}']), "{name:?}");
            assert!(!name.starts_with(['.', '-']) && name.ends_with(".mp4") && name.len() < 140, "{name:?}");
            assert_eq!(std::path::Path::new(&name).components().count(), 1);
        }
    }

    #[test]
    fn no_two_videos_share_a_name() {
        let ids = [Some("a/b"), Some("a_b"), Some("Fox"), Some("fox"), Some("00000-a_b"), None, Some("00005")];
        let names = names(&ids);
        let distinct: std::collections::HashSet<String> = names.iter().map(|name| name.to_lowercase()).collect();
        assert_eq!(distinct.len(), ids.len(), "{names:?}");
        assert_eq!(names[1], "a_b.mp4", "an innocent name is kept beside a hostile one");
        assert_eq!(names[4], "00000-a_b.mp4");
        assert_eq!(names[0], "00000-a_b_.mp4");
    }
}
