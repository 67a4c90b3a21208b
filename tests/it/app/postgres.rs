//! One Postgres for the test binary, a migrated template in it, and a fresh copy of that for every test.
//!
//! Without `DATABASE_URL` the server belongs to this process alone. A small shell that reads from a pipe outlives us by a
//! moment: when we are gone, however that came about, the pipe ends and the shell stops the server and removes its
//! directory. With it, the databases are made on that server, by a role that may create them, and dropped with their tests;
//! the template, and what a failed test left, go with the next run from the same host.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use freezeframe::db::{self, Embedded, EmbeddedSettings};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::sync::{Mutex, OnceCell};
use url::Url;

use super::own_server::OwnServer;

/// What every database of this kind begins with on a server that others use as well.
const FAMILY: &str = "freezeframe_test";

/// Waits for the pipe to end, stops the server whose process id stands in the first line of the file, waits for the file
/// to go, removes the directory.
const JANITOR: &str = r#"cat > /dev/null; kill -INT "$(head -n 1 "$1")"
n=0; while [ -e "$1" ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done; rm -rf "$2""#;

struct Cluster {
    /// Of the database to connect to for making others.
    admin: Url,
    /// What the names of this run's databases begin with.
    run: String,
    /// A server of our own, and the process whose standard input is the pipe; dropped with this process.
    _own: Option<(Embedded, Child)>,
    /// Postgres copies a template only while nobody else does anything with it.
    copying: Mutex<()>,
}

impl Cluster {
    fn url(&self, database: &str) -> String {
        let mut url = self.admin.clone();
        url.set_path(database);
        url.to_string()
    }

    fn template(&self) -> String {
        format!("{}_template", self.run)
    }
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
        let name = format!("{}_{}", cluster.run, NEXT.fetch_add(1, Ordering::Relaxed));
        {
            let _turn = cluster.copying.lock().await;
            db::create_database(cluster.admin.as_str(), &name, Some(&cluster.template())).await.unwrap();
        }
        let url = cluster.url(&name);
        let test = std::thread::current().name().unwrap_or("?").to_owned();
        eprintln!("{test}: database {name}");
        TestDatabase { pool: pool(&url).await, name, url }
    }
}

impl TestDatabase {
    /// The only one of a server of the test's own.
    pub async fn on(server: &OwnServer) -> TestDatabase {
        let name = "freezeframe".to_owned();
        db::create_database(&server.url("postgres"), &name, None).await.unwrap();
        let url = server.url(&name);
        db::migrate(&url).await.unwrap();
        TestDatabase { pool: pool(&url).await, name, url }
    }
}

impl Drop for TestDatabase {
    /// On a server of our own nothing needs to go; on another's only what a failed test may want looked at stays.
    fn drop(&mut self) {
        let Some(Cluster { admin, _own: None, .. }) = CLUSTER.get() else { return };
        if std::thread::panicking() {
            return;
        }
        let (admin, name) = (admin.to_string(), self.name.clone());
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(db::drop_database(&admin, &name)).unwrap();
        });
        dropping.join().unwrap();
    }
}

async fn pool(url: &str) -> PgPool {
    let url = format!("{url}{}application_name=oracle", if url.contains('?') { '&' } else { '?' });
    PgPoolOptions::new().max_connections(4).connect(&url).await.unwrap()
}

async fn start() -> Cluster {
    let (admin, own) = match std::env::var("DATABASE_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let root = home();
            let embedded = Embedded::start(EmbeddedSettings::new(root.join("postgres"))).await.unwrap();
            let janitor = janitor(&embedded, &root);
            hurry(&embedded).await;
            (embedded.url("postgres"), Some((embedded, janitor)))
        }
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.replace(|c: char| !c.is_ascii_alphanumeric(), "");
    let family = format!("{FAMILY}_{host}");
    let run = format!("{family}_{}", std::process::id());
    let cluster = Cluster { admin: Url::parse(&admin).unwrap(), run, _own: own, copying: Mutex::new(()) };
    drop_leftovers(&cluster, &family).await;
    db::create_database(cluster.admin.as_str(), &cluster.template(), None).await.unwrap();
    db::migrate(&cluster.url(&cluster.template())).await.unwrap();
    cluster
}

/// Databases of runs on this host whose process is gone.
async fn drop_leftovers(cluster: &Cluster, family: &str) {
    let mut admin = PgConnection::connect(cluster.admin.as_str()).await.unwrap();
    let names: Vec<String> =
        sqlx::query_scalar("select datname::text from pg_database where starts_with(datname, $1 || '_')")
            .bind(family)
            .fetch_all(&mut admin)
            .await
            .unwrap();
    admin.close().await.unwrap();
    for name in names {
        let process = name[family.len() + 1..].split('_').next().unwrap_or_default().to_owned();
        if process.parse::<u32>().is_ok() && !std::path::Path::new("/proc").join(process).exists() {
            db::drop_database(cluster.admin.as_str(), &name).await.unwrap();
        }
    }
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

pub fn janitor(embedded: &Embedded, root: &std::path::Path) -> Child {
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
async fn hurry(embedded: &Embedded) {
    let mut admin = PgConnection::connect(&embedded.url("postgres")).await.unwrap();
    for setting in ["fsync = off", "full_page_writes = off", "synchronous_commit = off", "log_min_messages = error"] {
        sqlx::query(AssertSqlSafe(format!("alter system set {setting}"))).execute(&mut admin).await.unwrap();
    }
    sqlx::query("select pg_reload_conf()").execute(&mut admin).await.unwrap();
    admin.close().await.unwrap();
}
