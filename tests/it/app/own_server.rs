//! A Postgres of one test's own, which keeps every promise (`fsync` and all) and may be killed.
//!
//! The server that the other tests share has those promises switched off: a restart of it would lose what it had
//! acknowledged.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Child;
use std::time::Instant;

use freezeframe::db::{Embedded, EmbeddedSettings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{Connection, PgConnection};

use super::postgres::janitor;
use super::until;

pub struct OwnServer {
    root: PathBuf,
    embedded: Embedded,
    _janitor: Child,
}

/// How a server goes down.
#[derive(Clone, Copy, Debug)]
pub enum Death {
    /// Ends every session and writes what it has to write.
    Fast,
    /// Ends at once and recovers at its start.
    Immediate,
    /// `kill -9` of the postmaster.
    Killed,
}

impl Death {
    pub const ALL: [Death; 3] = [Death::Fast, Death::Immediate, Death::Killed];

    fn signal(self) -> Signal {
        match self {
            Death::Fast => Signal::SIGINT,
            Death::Immediate => Signal::SIGQUIT,
            Death::Killed => Signal::SIGKILL,
        }
    }
}

impl OwnServer {
    pub async fn start() -> OwnServer {
        let root = tempfile::Builder::new()
            .prefix("freezeframe-own-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .unwrap()
            .keep();
        let embedded = Embedded::start(EmbeddedSettings::new(root.join("postgres"))).await.unwrap();
        let _janitor = janitor(&embedded, &root);
        OwnServer { root, embedded, _janitor }
    }

    pub fn url(&self, database: &str) -> String {
        self.embedded.url(database)
    }

    pub fn postmaster(&self) -> Pid {
        let file = std::fs::read_to_string(self.embedded.home().join("data/postmaster.pid")).unwrap();
        Pid::from_raw(file.lines().next().unwrap().parse().unwrap())
    }

    /// Takes the server down; answers when it has gone.
    pub async fn go_down(&self, how: Death) {
        let postmaster = self.postmaster();
        kill(postmaster, how.signal()).unwrap();
        until("the postmaster has gone", async || kill(postmaster, None).is_err() || is_zombie(postmaster)).await;
    }

    /// Starts the server again, as its supervisor would.
    pub async fn bring_back(&self) {
        // joins what it has started; dropping it leaves the server running
        Embedded::start(EmbeddedSettings::new(self.root.join("postgres"))).await.unwrap();
    }

    /// Waits until the server answers; answers the moment.
    pub async fn until_it_answers(&self) -> Instant {
        let url = self.url("postgres");
        until("the server answers", async || match PgConnection::connect(&url).await {
            Ok(mut session) => sqlx::query("select 1").execute(&mut session).await.is_ok(),
            Err(_) => false,
        })
        .await;
        Instant::now()
    }
}

/// Gone, and nobody has asked how.
fn is_zombie(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
}
