//! Finds the PostgreSQL server programs of this machine.
//!
//! Nothing is downloaded. Without an override the highest version wins, unless a data directory already exists: then only
//! programs of its own major version may touch it. Versions below 14 are refused, as are directories without all of
//! `postgres`, `initdb` and `pg_ctl`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// The oldest major version accepted: the first with SCRAM as the default password hash.
const OLDEST_MAJOR: u32 = 14;

/// Where Debian and Ubuntu keep one directory per major version.
const VERSIONED_ROOT: &str = "/usr/lib/postgresql";

/// One usable installation.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    pub(super) major: u32,
}

impl Binaries {
    /// `wanted_major` is the version of the existing data directory, if there is one.
    pub(super) fn find(override_dir: Option<&Path>, wanted_major: Option<u32>) -> Result<Binaries> {
        if let Some(dir) = override_dir {
            let found = inspect(dir).with_context(|| {
                format!("{} holds no PostgreSQL server programs (postgres, initdb, pg_ctl)", dir.display())
            })?;
            return choose(vec![found], wanted_major);
        }
        choose(candidates().iter().filter_map(|dir| inspect(dir)).collect(), wanted_major)
    }

    pub(super) fn tool(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn choose(mut found: Vec<Binaries>, wanted_major: Option<u32>) -> Result<Binaries> {
    found.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
    let newest = found.first().map(|binaries| binaries.major);
    match wanted_major {
        Some(major) => found.into_iter().find(|binaries| binaries.major == major).with_context(|| {
            let present = newest.map_or("none".to_owned(), |newest| format!("version {newest}"));
            format!(
                "the data directory belongs to PostgreSQL {major}, but this machine has {present}: \
                 install it again (apt-get install postgresql-{major}), or dump and restore the data"
            )
        }),
        None => {
            let Some(best) = found.into_iter().next() else {
                bail!(
                    "no PostgreSQL server found (PATH, pg_config --bindir, {VERSIONED_ROOT}/*/bin): \
                     install one (apt-get install postgresql), name its bin directory, or give a database URL"
                );
            };
            ensure!(
                best.major >= OLDEST_MAJOR,
                "PostgreSQL {} in {} is too old: version {OLDEST_MAJOR} or later is needed (apt-get install postgresql)",
                best.major,
                best.dir.display()
            );
            Ok(best)
        }
    }
}

/// Every directory that may hold server programs; most do not.
fn candidates() -> Vec<PathBuf> {
    let on_path = first_line("sh", &["-c", "command -v postgres"])
        .and_then(|program| fs::canonicalize(program).ok())
        .and_then(|program| program.parent().map(Path::to_path_buf));
    let configured = first_line("pg_config", &["--bindir"]).map(PathBuf::from);
    let versioned = fs::read_dir(VERSIONED_ROOT).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    on_path.into_iter().chain(configured).chain(versioned).collect()
}

fn inspect(dir: &Path) -> Option<Binaries> {
    if !["postgres", "initdb", "pg_ctl"].iter().all(|tool| dir.join(tool).is_file()) {
        return None;
    }
    let version = first_line(dir.join("postgres"), &["--version"])?;
    Some(Binaries { dir: dir.to_path_buf(), major: major_of(&version)? })
}

/// `postgres (PostgreSQL) 17.2 (Debian 17.2-1)` is 17; `postgres (PostgreSQL) 18beta1` is 18.
fn major_of(version_line: &str) -> Option<u32> {
    let version = version_line.split_whitespace().nth(2)?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).map_or(version, |end| &version[..end]);
    digits.parse().ok()
}

fn first_line(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(str::to_owned).filter(|line| output.status.success() && !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_up(majors: &[u32]) -> Vec<Binaries> {
        majors.iter().map(|&major| Binaries { dir: format!("/opt/pg{major}").into(), major }).collect()
    }

    #[test]
    fn the_major_version_is_read_from_release_and_beta_lines() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_of("postgres"), None);
    }

    #[test]
    fn a_new_cluster_takes_the_highest_version_and_an_old_one_its_own() {
        assert_eq!(choose(made_up(&[14, 17, 15]), None).unwrap().major, 17);
        assert_eq!(choose(made_up(&[14, 17, 15]), Some(15)).unwrap().major, 15);
        let refused = choose(made_up(&[17]), Some(15)).unwrap_err().to_string();
        assert!(refused.contains("apt-get install postgresql-15"), "{refused}");
    }

    #[test]
    fn missing_or_old_programs_are_one_clear_line_with_the_remedy() {
        let missing = format!("{:#}", choose(Vec::new(), None).unwrap_err());
        assert!(missing.contains("apt-get install postgresql") && !missing.contains('\n'), "{missing}");
        let old = format!("{:#}", choose(made_up(&[13]), None).unwrap_err());
        assert!(old.contains("version 14 or later"), "{old}");
        let empty = tempfile::tempdir().unwrap();
        let wrong = format!("{:#}", Binaries::find(Some(empty.path()), None).unwrap_err());
        assert!(wrong.contains("holds no PostgreSQL server programs"), "{wrong}");
    }
}
