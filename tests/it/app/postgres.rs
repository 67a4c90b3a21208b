//! One Postgres for the test binary, a migrated template in it, and a fresh copy of that for every test.
//!
//! The server belongs to this process alone. A small shell that reads from a pipe outlives us by a moment: when we are
//! gone, however that came about, the pipe ends and the shell stops the server and removes its directory.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use freezeframe::db::{self, Embedded, EmbeddedSettings};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::sync::{Mutex, OnceCell};

const TEMPLATE: &str = "freezeframe_template";

/// Waits for the pipe to end, stops the server whose process id stands in the first line of the file, waits for the file
/// to go, removes the directory.
const JANITOR: &str = r#"cat > /dev/null; kill -INT "$(head -n 1 "$1")"
n=0; while [ -e "$1" ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done; rm -rf "$2""#;

struct Cluster {
    embedded: Embedded,
    /// Its standard input is the pipe; dropped with the process.
    _janitor: Child,
    /// Postgres copies a template only while nobody else does anything with it.
    copying: Mutex<()>,
}

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A database of one test's own.
pub struct TestDatabase {
    pub name: String,
    /// As the owner. The service itself acts as `freezeframe_app`.
    pub url: String,
    /// For preparing and for looking: as the owner, with its own application name.
    pub pool: PgPool,
}

impl TestDatabase {
    pub async fn fresh() -> TestDatabase {
        let cluster = CLUSTER.get_or_init(start).await;
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        {
            let _turn = cluster.copying.lock().await;
            db::create_database(&cluster.embedded.url("postgres"), &name, Some(TEMPLATE)).await.unwrap();
        }
        let url = cluster.embedded.url(&name);
        let test = std::thread::current().name().unwrap_or("?").to_owned();
        eprintln!("{test}: database {name}");
        TestDatabase { pool: pool(&url).await, name, url }
    }

    pub async fn drop_it(self) {
        self.pool.close().await;
        if let Some(cluster) = CLUSTER.get() {
            db::drop_database(&cluster.embedded.url("postgres"), &self.name).await.unwrap();
        }
    }
}

async fn pool(url: &str) -> PgPool {
    let url = format!("{url}{}application_name=oracle", if url.contains('?') { '&' } else { '?' });
    PgPoolOptions::new().max_connections(4).connect(&url).await.unwrap()
}

async fn start() -> Cluster {
    let root = home();
    let embedded = Embedded::start(EmbeddedSettings::new(root.join("postgres"))).await.unwrap();
    let janitor = janitor(&embedded, &root);
    prepare(&embedded).await;
    Cluster { embedded, _janitor: janitor, copying: Mutex::new(()) }
}

/// A directory that the server's user may enter also when we are root.
fn home() -> PathBuf {
    let dir = tempfile::Builder::new()
        .prefix("freezeframe-it-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir()
        .unwrap();
    dir.keep()
}

fn janitor(embedded: &Embedded, root: &std::path::Path) -> Child {
    Command::new("sh")
        .args(["-c", JANITOR, "janitor"])
        .arg(embedded.home().join("data/postmaster.pid"))
        .arg(root)
        // a signal to our group (Ctrl-C) must not end it before its work
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Nothing here has to survive a power cut, and a kill of our own processes needs no flush: that is the kernel's affair.
async fn prepare(embedded: &Embedded) {
    let mut admin = PgConnection::connect(&embedded.url("postgres")).await.unwrap();
    for setting in ["fsync = off", "full_page_writes = off", "synchronous_commit = off", "log_min_messages = error"] {
        sqlx::query(AssertSqlSafe(format!("alter system set {setting}"))).execute(&mut admin).await.unwrap();
    }
    sqlx::query("select pg_reload_conf()").execute(&mut admin).await.unwrap();
    db::create_database(&embedded.url("postgres"), TEMPLATE, None).await.unwrap();
    db::migrate(&embedded.url(TEMPLATE)).await.unwrap();
    admin.close().await.unwrap();
}
