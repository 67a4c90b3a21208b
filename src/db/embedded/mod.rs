//! A private PostgreSQL for development, tests, the demo and single-host installations.
//!
//! Everything lies in one directory: data, log, password, locks. Any number of processes may start the same directory at
//! once; the first one starts the server, the others join, and the last one that releases it stops it. Both locks belong
//! to the kernel, so a killed process never blocks the next; a server left running by a crash is joined, and a killed
//! server is recovered. Data is kept, and `fsync` is on.
//!
//! The socket lies in a directory that only the server's user (and root) may enter and asks for no password; TCP on
//! loopback, there for psql and graphical tools, asks for a random one. Nothing listens beyond loopback. One directory
//! belongs to one host.
//!
//! A server that dies under its users, by the kernel's hand or by anybody's, is brought back by whichever of them sees it
//! first ([`Embedded::guard`]): nobody else watches over it.

mod binaries;
mod cluster;
mod place;

use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use cluster::Cluster;
use place::{GATE, Place};

/// Held shared by every process that uses the server.
const USERS: &str = "users.lock";
/// Between two looks whether the server lives, and after a start that failed.
const GUARD_EVERY: Duration = Duration::from_secs(1);

/// What an embedded server needs to know; nothing is read from the environment.
#[derive(Debug, Clone)]
pub struct EmbeddedSettings {
    /// The directory of the cluster: new, empty, or one of ours.
    pub root: PathBuf,
    /// Where `postgres`, `initdb` and `pg_ctl` are; found by itself when absent.
    pub bin_dir: Option<PathBuf>,
    /// Whom a root process runs the server as; `postgres`, else `nobody`, when absent.
    pub run_as: Option<String>,
}

impl EmbeddedSettings {
    pub fn new(root: impl Into<PathBuf>) -> EmbeddedSettings {
        EmbeddedSettings { root: root.into(), bin_dir: None, run_as: None }
    }
}

/// A running server that this process uses. Dropping it without [`Embedded::release`] leaves the server running.
pub struct Embedded {
    cluster: Cluster,
    users: File,
    settings: EmbeddedSettings,
}

impl Embedded {
    /// Starts or joins the cluster under `settings.root`: about a second for a new one, under a millisecond to join.
    ///
    /// Fails with one line that names the remedy when the machine has no PostgreSQL 14 or later.
    pub async fn start(settings: EmbeddedSettings) -> Result<Embedded> {
        tokio::task::spawn_blocking(move || Embedded::start_blocking(&settings)).await?
    }

    /// [`Embedded::start`] for callers outside a runtime.
    pub fn start_blocking(settings: &EmbeddedSettings) -> Result<Embedded> {
        let place = Place::claim(&settings.root, settings.run_as.as_deref())?;
        let gate = place.open(GATE)?;
        let users = place.open(USERS)?;
        gate.lock().context("cannot lock the database's directory")?;
        users.lock_shared()?;
        let cluster = Cluster::ensure_running(place, settings.bin_dir.as_deref())
            .with_context(|| format!("cannot start the embedded database under {}", settings.root.display()))?;
        Ok(Embedded { cluster, users, settings: settings.clone() })
    }

    /// Starts the server again whenever it has died, until `stop`. To be ended before [`Embedded::release`].
    ///
    /// A stop by hand is taken for a death: whoever wants the server gone ends its users.
    pub fn guard(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        let (settings, socket) = (self.settings.clone(), self.cluster.socket());
        async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(GUARD_EVERY) => {}
                }
                if tokio::net::UnixStream::connect(&socket).await.is_ok() {
                    continue;
                }
                tracing::warn!(socket = %socket.display(), "the embedded database does not answer; starting it again");
                // one of many guards starts it and the others join; our use of it goes on with or without this one
                match Embedded::start(settings.clone()).await {
                    Ok(_) => tracing::info!("the embedded database answers again"),
                    Err(error) => tracing::error!(error = format!("{error:#}"), "it is tried again"),
                }
            }
        }
    }

    /// The address of a database over the unix socket, without a password; understood by sqlx and psql.
    pub fn url(&self, database: &str) -> String {
        let socket_dir = self.cluster.place.socket_dir.display();
        format!("postgres://postgres@localhost:{}/{database}?host={socket_dir}", self.cluster.port())
    }

    /// The address over loopback TCP for people's tools. It contains the password: never log it.
    pub fn tcp_url(&self, database: &str) -> Result<String> {
        let password = self.cluster.password()?;
        Ok(format!("postgres://postgres:{password}@127.0.0.1:{}/{database}", self.cluster.port()))
    }

    /// Where the cluster really lies: `settings.root`, or the fallback when the server's user may not enter that.
    pub fn home(&self) -> &Path {
        &self.cluster.place.home
    }

    /// Ends this process's use. The last one out stops the server; `true` says that this was the last.
    pub async fn release(self) -> Result<bool> {
        tokio::task::spawn_blocking(move || self.release_blocking()).await?
    }

    /// [`Embedded::release`] for callers outside a runtime.
    pub fn release_blocking(self) -> Result<bool> {
        let gate = self.cluster.place.open(GATE)?;
        gate.lock()?;
        self.users.unlock()?;
        if self.users.try_lock().is_err() {
            return Ok(false);
        }
        self.cluster.stop()?;
        Ok(true)
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("home", &self.home()).field("port", &self.cluster.port()).finish()
    }
}
