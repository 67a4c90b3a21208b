//! Where a private cluster lives and whom it runs as.
//!
//! PostgreSQL refuses to run as root, so a root process hands the directory to an unprivileged user. Directories are opened
//! without following links, must belong to that user (or to us), and are made 0700 through the open handle: nobody else can
//! plant or read one. A directory that holds something else than a cluster of ours is refused, never taken over.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    fcntl::OFlag,
    unistd::{Gid, Uid, User, fchown, geteuid},
};

/// A unix socket's path must fit into `sun_path` (104 bytes on the BSDs, 108 on Linux) with its ending zero.
const SOCKET_PATH_LIMIT_BYTES: usize = 103;

/// The longest name the server gives its socket.
const LONGEST_SOCKET_NAME: &str = ".s.PGSQL.65535";

/// Tried in turn when the server's user may not enter the wanted directory.
const FALLBACK_PARENTS: [&str; 2] = ["/var/lib", "/var/tmp"];

/// Marks a directory as ours; also the lock that serializes starting and stopping.
pub(super) const GATE: &str = "gate.lock";

#[derive(Debug)]
pub(super) struct Place {
    /// Holds the data directory, the locks, the log and the password.
    pub(super) home: PathBuf,
    /// Holds the socket: `home`, unless its path is too long or needs quoting.
    pub(super) socket_dir: PathBuf,
    /// The user that server programs run as, when it is not our own.
    pub(super) run_as: Option<User>,
}

impl Place {
    pub(super) fn claim(root: &Path, run_as: Option<&str>) -> Result<Place> {
        let run_as = server_user(run_as)?;
        let wanted = absolute(root)?;
        let home = match &run_as {
            Some(user) if !may_enter(user, wanted.parent().unwrap_or(&wanted))? => {
                let home = fallback_home(&wanted, user)?;
                tracing::warn!(
                    wanted = %wanted.display(),
                    used = %home.display(),
                    user = %user.name,
                    "the database's user may not enter the wanted directory; its data is kept elsewhere"
                );
                home
            }
            _ => {
                claim_home(&wanted, run_as.as_ref())?;
                wanted
            }
        };
        let socket_dir = socket_directory(&home, run_as.as_ref())?;
        Ok(Place { home, socket_dir, run_as })
    }

    /// Opens (or creates, 0600) a file of the cluster without following links, and gives it to the server's user.
    pub(super) fn open(&self, name: &str) -> Result<File> {
        let path = self.home.join(name);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if let Some(user) = &self.run_as {
            fchown(&file, Some(user.uid), Some(user.gid))?;
        }
        Ok(file)
    }
}

/// Whom a root process becomes; `None` when we are an ordinary user already.
fn server_user(wanted: Option<&str>) -> Result<Option<User>> {
    if geteuid().is_root() {
        let names = wanted.map_or(vec!["postgres", "nobody"], |name| vec![name]);
        let user = names
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .with_context(|| format!("PostgreSQL does not run as root, and there is no user {}", names.join(" or ")))?;
        ensure!(!user.uid.is_root(), "PostgreSQL does not run as root: choose another user than {}", user.name);
        return Ok(Some(user));
    }
    let own = User::from_uid(geteuid())?.with_context(|| {
        format!("user id {} has no name on this machine, which initdb needs: add it to the passwd file", geteuid())
    })?;
    if let Some(name) = wanted.filter(|name| *name != own.name) {
        bail!("only root can run the database as {name}; this process is {}", own.name);
    }
    Ok(None)
}

/// Canonical, so that several spellings of one directory are one cluster. The last part may not exist yet.
fn absolute(root: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(root)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        bail!("{} cannot hold a database", root.display());
    };
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let path = parent.canonicalize()?.join(name);
    let shown = path.to_str().with_context(|| format!("{} is not valid UTF-8", path.display()))?;
    // pg_ctl hands the path to a shell inside double quotes, and the settings file quotes with apostrophes.
    ensure!(
        !shown.contains(|c: char| c.is_control() || "\"'`$\\".contains(c)),
        "{shown} has a quote, dollar, backslash or control character: choose another directory for the database"
    );
    Ok(path)
}

/// Asked of the kernel: a child of that user tries to make `dir` its working directory.
fn may_enter(user: &User, dir: &Path) -> Result<bool> {
    let attempt =
        Command::new("/bin/sh").args(["-c", ":"]).current_dir(dir).stdin(Stdio::null()).uid_gid(user).status();
    match attempt {
        Ok(status) => Ok(status.success()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot run a program as user {}", user.name)),
    }
}

/// The same directory every time for one wanted path.
fn fallback_home(wanted: &Path, user: &User) -> Result<PathBuf> {
    let mut refusals = Vec::new();
    for parent in FALLBACK_PARENTS {
        let home = Path::new(parent).join(format!("freezeframe-{}", fingerprint(wanted)));
        match claim_home(&home, Some(user)) {
            Ok(()) => return Ok(home),
            Err(error) => refusals.push(format!("{error:#}")),
        }
    }
    bail!("user {} may not enter {}, nor is there another place: {}", user.name, wanted.display(), refusals.join("; "))
}

fn socket_directory(home: &Path, run_as: Option<&User>) -> Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let fits = home.join(LONGEST_SOCKET_NAME).as_os_str().len() <= SOCKET_PATH_LIMIT_BYTES;
    if fits && home.to_str().is_some_and(|path| path.chars().all(plain)) {
        return Ok(home.to_path_buf());
    }
    let short = PathBuf::from(format!("/tmp/freezeframe-{}", fingerprint(home)));
    claim_directory(&short, run_as)?;
    Ok(short)
}

/// Claims a directory that is new, empty, or holds a cluster of ours already.
fn claim_home(dir: &Path, run_as: Option<&User>) -> Result<()> {
    let foreign = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) && !dir.join(GATE).exists();
    ensure!(
        !foreign,
        "{} holds something else than a database of Freezeframe: choose an empty directory",
        dir.display()
    );
    claim_directory(dir, run_as)
}

/// Makes `dir` exist, be a real directory, belong to the server's user and be closed to everybody else.
fn claim_directory(dir: &Path, run_as: Option<&User>) -> Result<()> {
    let shown = dir.display();
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot create {shown}"));
        }
        _ => {}
    }
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits())
        .open(dir)
        .with_context(|| format!("{shown} cannot be opened as a directory (a link is not accepted)"))?;
    let owner = Uid::from_raw(handle.metadata()?.uid());
    let server = run_as.map_or(geteuid(), |user| user.uid);
    ensure!(owner == server || owner == geteuid(), "{shown} belongs to user id {owner}, not to {server}: not used");
    if owner != server {
        fchown(&handle, Some(server), run_as.map(|user| user.gid))?;
    }
    handle.set_permissions(Permissions::from_mode(0o700))?;
    Ok(())
}

/// Sixteen hex digits that name a path.
fn fingerprint(path: &Path) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, path.as_os_str().as_encoded_bytes());
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Drops a child to a user: uid, gid, and (done by the standard library) no supplementary groups.
pub(super) trait RunAs {
    fn uid_gid(&mut self, user: &User) -> &mut Self;
}

impl RunAs for Command {
    fn uid_gid(&mut self, user: &User) -> &mut Self {
        use std::os::unix::process::CommandExt;
        let (uid, gid): (Uid, Gid) = (user.uid, user.gid);
        self.uid(uid.as_raw()).gid(gid.as_raw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_foreign_content_or_a_link_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let link = parent.path().join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        assert!(claim_directory(&link, None).unwrap_err().to_string().contains("link"));
        let full = parent.path().join("full");
        fs::create_dir(&full).unwrap();
        fs::write(full.join("letters.txt"), "mine").unwrap();
        assert!(claim_home(&full, None).unwrap_err().to_string().contains("something else"));
    }

    #[test]
    fn a_path_that_a_shell_would_read_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        assert!(absolute(&parent.path().join("a$(x)")).is_err());
        assert!(absolute(&parent.path().join("a'b")).is_err());
        assert!(absolute(Path::new("/")).is_err());
        assert!(absolute(&parent.path().join("with space")).is_ok());
    }

    #[test]
    fn a_home_too_deep_for_a_socket_keeps_its_socket_in_a_short_private_directory() {
        let parent = tempfile::tempdir().unwrap();
        let deep = parent.path().join("d".repeat(120));
        let short = socket_directory(&deep, None).unwrap();
        assert!(short.join(LONGEST_SOCKET_NAME).as_os_str().len() <= SOCKET_PATH_LIMIT_BYTES);
        assert_eq!(fs::metadata(&short).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(short, socket_directory(&deep, None).unwrap());
        fs::remove_dir(short).unwrap();
    }
}
