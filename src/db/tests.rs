//! The database room against a real server: one shared cluster for sessions and acts, a private one where it is killed.

use std::{
    fs::Permissions,
    future::Future,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::{Connection, Executor, PgPool, postgres::PgPoolOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{Notify, mpsc},
};
use tokio_util::sync::CancellationToken;

use super::*;

/// A server in use by one test; released even when the test fails.
struct Server(Option<Embedded>);

impl Server {
    async fn shared() -> Server {
        let root = std::env::temp_dir().join(format!("freezeframe-db-tests-{}", geteuid()));
        Server::at(root).await
    }

    async fn at(root: PathBuf) -> Server {
        Server(Some(Embedded::start(EmbeddedSettings::new(root)).await.unwrap()))
    }

    fn get(&self) -> &Embedded {
        self.0.as_ref().unwrap()
    }

    async fn release(mut self) -> bool {
        self.0.take().unwrap().release().await.unwrap()
    }

    fn postmaster(&self) -> Pid {
        let file = std::fs::read_to_string(self.get().home().join("data/postmaster.pid")).unwrap();
        Pid::from_raw(file.lines().next().unwrap().parse().unwrap())
    }

    async fn one(&self, database: &str) -> sqlx::PgConnection {
        sqlx::PgConnection::connect(&self.get().url(database)).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(embedded) = self.0.take() {
            let _ = embedded.release_blocking();
        }
    }
}

/// A directory that the server's user may enter also when we are root.
fn private_root() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
    let root = dir.path().join("postgres");
    (dir, root)
}

/// A fresh database on the shared server, dropped by [`Fresh::done`].
struct Fresh {
    server: Server,
    name: String,
}

impl Fresh {
    async fn new() -> Fresh {
        let server = Server::shared().await;
        let name = format!("db_{}", uuid::Uuid::now_v7().simple());
        create_database(&server.get().url("postgres"), &name, None).await.unwrap();
        Fresh { server, name }
    }

    fn settings(&self) -> DatabaseSettings {
        DatabaseSettings::new(self.server.get().url(&self.name))
    }

    async fn connect(&self, max_connections: u32) -> Database {
        Database::connect(&DatabaseSettings { max_connections, ..self.settings() }).await.unwrap()
    }

    async fn done(self) {
        drop_database(&self.server.get().url("postgres"), &self.name).await.unwrap();
        self.server.release().await;
    }
}

async fn number(pool: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

/// Whether the server has a transaction open, asked in the way that the pool asks.
async fn is_open(connection: &mut PgConnection) -> bool {
    !matches!(connection.begin_with("select").await, Err(sqlx::Error::BeginFailed))
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}

// ---- the embedded server ----

#[tokio::test]
async fn a_second_start_joins_and_only_the_last_release_stops_and_data_is_kept() {
    let (_dir, root) = private_root();
    let first = Server::at(root.clone()).await;
    let second = Server::at(root.clone()).await;
    assert_eq!(first.postmaster(), second.postmaster());
    assert_eq!(first.get().url("postgres"), second.get().url("postgres"));
    let address = first.get().url("postgres");
    first.one("postgres").await.execute("create table kept as select 42::int8 as n").await.unwrap();

    assert!(!first.release().await, "the first of two must not stop the server");
    let n: i64 = sqlx::query_scalar("select n from kept").fetch_one(&mut second.one("postgres").await).await.unwrap();
    assert_eq!(n, 42);
    assert!(second.release().await, "the last one stops it");
    assert!(sqlx::PgConnection::connect(&address).await.is_err(), "nobody accepts any more");

    let third = Server::at(root).await;
    let n: i64 = sqlx::query_scalar("select n from kept").fetch_one(&mut third.one("postgres").await).await.unwrap();
    assert_eq!(n, 42);
    for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
        let statement = format!("select current_setting('{setting}')");
        let mut connection = third.one("postgres").await;
        let value: String =
            sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).fetch_one(&mut connection).await.unwrap();
        assert_eq!(value, "on", "{setting}");
    }
}

#[tokio::test]
async fn a_killed_postmaster_is_recovered_on_the_same_port_and_a_dead_user_is_forgotten() {
    let (_dir, root) = private_root();
    let first = Server::at(root.clone()).await;
    let port_before = first.get().url("postgres");
    first.one("postgres").await.execute("create table kept as select 7::int8 as n").await.unwrap();
    kill(first.postmaster(), Signal::SIGKILL).unwrap();
    // Like a process killed by the kernel: its lock goes, the server's files stay.
    drop({ first }.0.take());

    let second = Server::at(root).await;
    assert_eq!(second.get().url("postgres"), port_before);
    let n: i64 = sqlx::query_scalar("select n from kept").fetch_one(&mut second.one("postgres").await).await.unwrap();
    assert_eq!(n, 7);
    assert!(second.release().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_under_its_users_is_brought_back_by_one_of_them() {
    let (_dir, root) = private_root();
    let (first, second) = (Server::at(root.clone()).await, Server::at(root).await);
    first.one("postgres").await.execute("create table kept as select 7::int8 as n").await.unwrap();
    let stop = CancellationToken::new();
    let guards = [tokio::spawn(first.get().guard(stop.clone())), tokio::spawn(second.get().guard(stop.clone()))];
    let postmaster = first.postmaster();
    kill(postmaster, Signal::SIGKILL).unwrap();
    let back = async {
        while !sqlx::PgConnection::connect(&first.get().url("postgres"))
            .await
            .is_ok_and(|_| first.postmaster() != postmaster)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), back).await.expect("nobody brought it back");
    let n: i64 = sqlx::query_scalar("select n from kept").fetch_one(&mut first.one("postgres").await).await.unwrap();
    assert_eq!(n, 7);
    // a guard that is ended is no user any more: the last real one stops the server
    stop.cancel();
    for guard in guards {
        guard.await.unwrap();
    }
    assert!(!first.release().await);
    assert!(second.release().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_starts_at_once_of_a_new_directory_share_one_server() {
    let (_dir, root) = private_root();
    let servers = futures_util::future::join_all((0..6).map(|_| Server::at(root.clone()))).await;
    assert!(servers.iter().all(|server| server.postmaster() == servers[0].postmaster()));
    let mut stopped = 0;
    for server in servers {
        server.one("postgres").await.ping().await.unwrap();
        stopped += u32::from(server.release().await);
    }
    assert_eq!(stopped, 1);
}

#[tokio::test]
async fn tcp_asks_for_the_password_and_a_taken_port_is_replaced() {
    let (_dir, root) = private_root();
    let first = Server::at(root.clone()).await;
    let with_password = first.get().tcp_url("postgres").unwrap();
    sqlx::PgConnection::connect(&with_password).await.unwrap();
    let port = url::Url::parse(&with_password).unwrap().port().unwrap();
    let wrong = format!("postgres://postgres:wrong@127.0.0.1:{port}/postgres");
    let refused = sqlx::PgConnection::connect(&wrong).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "28P01");
    let password_file = first.get().home().join("password");
    assert_eq!(std::fs::metadata(password_file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!format!("{:?}", first.get()).contains(&first.get().tcp_url("x").unwrap()[20..52]));
    assert!(first.release().await);

    let _thief = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let second = Server::at(root).await;
    assert_ne!(url::Url::parse(&second.get().tcp_url("x").unwrap()).unwrap().port().unwrap(), port);
    second.one("postgres").await.ping().await.unwrap();
}

#[tokio::test]
async fn root_falls_back_to_an_enterable_directory_and_finds_it_again() {
    if !geteuid().is_root() {
        return;
    }
    let closed = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
    let root = closed.path().join("postgres");
    let settings = EmbeddedSettings { run_as: Some("nobody".into()), ..EmbeddedSettings::new(root) };
    let first = Server(Some(Embedded::start(settings.clone()).await.unwrap()));
    let home = first.get().home().to_path_buf();
    assert!(!home.starts_with(closed.path()), "{}", home.display());
    let second = Server(Some(Embedded::start(settings).await.unwrap()));
    assert_eq!(second.get().home(), home);
    first.release().await;
    assert!(second.release().await);
    std::fs::remove_dir_all(home).unwrap();
}

// ---- sessions ----

#[tokio::test]
async fn every_session_has_the_settings_and_acts_as_the_role() {
    let fresh = Fresh::new().await;
    let role = format!("role_{}", uuid::Uuid::now_v7().simple());
    let mut admin = fresh.server.one(&fresh.name).await;
    admin.execute(sqlx::AssertSqlSafe(format!("create role {role} nologin"))).await.unwrap();

    let settings = DatabaseSettings {
        role: Some(role.clone()),
        lock_timeout: Duration::from_millis(1_500),
        application_name: "room test".into(),
        ..fresh.settings()
    };
    let database = Database::connect(&settings).await.unwrap();
    let ask = "select current_user::text, current_setting('timezone'), current_setting('lock_timeout'), \
               current_setting('idle_in_transaction_session_timeout'), current_setting('application_name'), \
               current_setting('enable_seqscan')";
    type Answer = (String, String, String, String, String, String);
    let pooled: Answer = sqlx::query_as(ask).fetch_one(database.pool()).await.unwrap();
    let expected = |seqscan: &str| -> Answer {
        let [zone, lock, idle, name, seqscan] =
            ["UTC", "1500ms", "30s", "room test", seqscan].map(|value| value.to_owned());
        (role.clone(), zone, lock, idle, name, seqscan)
    };
    assert_eq!(pooled, expected("on"));
    let mut engine = database.engine_connection().await.unwrap();
    let dedicated: Answer = sqlx::query_as(ask).fetch_one(&mut engine).await.unwrap();
    assert_eq!(dedicated, expected("off"));

    engine.close().await.unwrap();
    database.close().await;
    admin.execute(sqlx::AssertSqlSafe(format!("drop role {role}"))).await.unwrap();
    fresh.done().await;
}

#[tokio::test]
async fn a_listener_hears_what_an_act_announces() {
    let fresh = Fresh::new().await;
    let database = fresh.connect(2).await;
    let mut listener = database.listener().await.unwrap();
    listener.listen("news").await.unwrap();
    let told = database.act("announce", |tx| {
        Box::pin(async move { tx.execute("select pg_notify('news', 'hello')").await.map(|_| ()) })
    });
    told.await.unwrap();
    assert_eq!(listener.recv().await.unwrap().payload(), "hello");
    drop(listener);
    database.close().await;
    fresh.done().await;
}

#[test]
fn addresses_lose_their_passwords_before_anyone_reads_them() {
    assert_eq!(redact("postgres://me:hunter2@db.example:5432/x"), "postgres://me:***@db.example:5432/x");
    assert_eq!(redact("postgres://me@h/x?host=/run/pg&password=hunter2"), "postgres://me@h/x?host=/run/pg");
    assert_eq!(redact("hunter2"), "(not an address)");
    let settings = DatabaseSettings::new("postgres://me:hunter2@h/x");
    assert!(!format!("{settings:?}").contains("hunter2"));
}

// ---- cancellation ----

/// Begins on the pool's only connection, drops the future after its first step, and answers whether the next borrower
/// finds a transaction open.
async fn next_borrower_is_inside(pool: &PgPool) -> bool {
    let mut victim = pool.acquire().await.unwrap();
    // Now and then the answer comes within the first step: that transaction ends properly, and the next try counts.
    while let Some(begun) = victim.begin().now_or_never() {
        begun.unwrap().rollback().await.unwrap();
    }
    drop(victim);
    is_open(&mut pool.acquire().await.unwrap()).await
}

#[tokio::test]
async fn a_begin_dropped_under_way_reaches_nobody_else() {
    let fresh = Fresh::new().await;
    let stock = PgPoolOptions::new().max_connections(1).connect(&fresh.settings().url).await.unwrap();
    assert!(next_borrower_is_inside(&stock).await, "the driver no longer leaks: the question may be dropped");
    stock.close().await;
    let database = fresh.connect(1).await;
    assert!(!next_borrower_is_inside(database.pool()).await);
    database.close().await;
    fresh.done().await;
}

#[tokio::test]
async fn callers_dropped_at_random_points_leave_no_transaction_and_lose_no_row() {
    const CONNECTIONS: u32 = 4;
    let fresh = Fresh::new().await;
    let database = fresh.connect(CONNECTIONS).await;
    database.pool().execute("create table told (id int8 primary key)").await.unwrap();
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for id in 0..400_i64 {
        let patience = Duration::from_micros(random.random_range(0..600));
        let begun = database.begin();
        tokio::select! { biased; _ = begun => {}, () = tokio::time::sleep(patience) => {} }
        let act = database.act("insert", move |tx| {
            Box::pin(async move {
                sqlx::query("insert into told values ($1)").bind(id).execute(&mut **tx).await.map(|_| ())
            })
        });
        tokio::select! { biased; _ = act => {}, () = tokio::time::sleep(patience) => {} }
        // A single statement of an innocent borrower: it must be there in the end.
        let statement = sqlx::query("insert into told values ($1)").bind(1_000 + id);
        statement.execute(database.pool()).await.unwrap();
    }
    until("all acts end", || async { database.acts.is_empty() }).await;
    let mut all = Vec::new();
    for _ in 0..CONNECTIONS {
        all.push(database.pool().acquire().await.unwrap());
    }
    for connection in &mut all {
        assert!(!is_open(connection).await, "a connection came out of the pool inside a transaction (seed {seed})");
    }
    drop(all);
    let mut outside = fresh.server.one(&fresh.name).await;
    let innocent: i64 =
        sqlx::query_scalar("select count(*) from told where id >= 1000").fetch_one(&mut outside).await.unwrap();
    assert_eq!(innocent, 400, "seed {seed}");
    outside.close().await.unwrap();
    database.close().await;
    fresh.done().await;
}

// ---- acts ----

#[tokio::test]
async fn an_act_survives_its_caller_and_a_shutdown_waits_for_it() {
    let fresh = Fresh::new().await;
    let database = fresh.connect(2).await;
    database.pool().execute("create table told (id int8)").await.unwrap();
    let (entered, mut has_entered) = mpsc::unbounded_channel();
    let go_on = Arc::new(Notify::new());
    let gate = Arc::clone(&go_on);
    let caller = tokio::spawn({
        let database = database.clone();
        async move {
            let act = database.act::<_, sqlx::Error, _>("slow", move |tx| {
                let (gate, entered) = (Arc::clone(&gate), entered.clone());
                Box::pin(async move {
                    tx.execute("insert into told values (1)").await?;
                    entered.send(()).unwrap();
                    gate.notified().await;
                    Ok(())
                })
            });
            act.await
        }
    });
    has_entered.recv().await.unwrap();
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    let closing = tokio::spawn({
        let database = database.clone();
        async move { database.close().await }
    });
    go_on.notify_one();
    closing.await.unwrap();
    let mut outside = fresh.server.one(&fresh.name).await;
    let rows: i64 = sqlx::query_scalar("select count(*) from told").fetch_one(&mut outside).await.unwrap();
    assert_eq!(rows, 1);
    outside.close().await.unwrap();
    fresh.done().await;
}

#[tokio::test]
async fn an_act_that_loses_a_race_runs_again_and_one_that_fails_does_not() {
    let fresh = Fresh::new().await;
    let database = fresh.connect(4).await;
    database.pool().execute("create table counter as select 0::int8 as n").await.unwrap();
    let runs = Arc::new(AtomicU32::new(0));
    let (counted, rival) = (Arc::clone(&runs), database.pool().clone());
    let seen: i64 = database
        .act::<_, anyhow::Error, _>("race", move |tx| {
            let (counted, rival) = (Arc::clone(&counted), rival.clone());
            Box::pin(async move {
                tx.execute("set transaction isolation level repeatable read").await?;
                let n: i64 = sqlx::query_scalar("select n from counter").fetch_one(&mut **tx).await?;
                if counted.fetch_add(1, Ordering::SeqCst) < 2 {
                    rival.execute("update counter set n = n + 10").await?;
                }
                tx.execute("update counter set n = n + 1").await.map_err(|e| anyhow::Error::from(e).context("late"))?;
                Ok(n)
            })
        })
        .await
        .unwrap();
    assert_eq!((seen, runs.load(Ordering::SeqCst)), (20, 3));
    assert_eq!(number(database.pool(), "select n from counter").await, 21);

    runs.store(0, Ordering::SeqCst);
    let counted = Arc::clone(&runs);
    let failed = database.act::<(), sqlx::Error, _>("fail", move |tx| {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            tx.execute("update counter set n = 0").await?;
            Err(sqlx::Error::RowNotFound)
        })
    });
    assert!(matches!(failed.await, Err(sqlx::Error::RowNotFound)));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert_eq!(number(database.pool(), "select n from counter").await, 21);
    database.close().await;
    fresh.done().await;
}

#[tokio::test]
async fn an_act_that_swallowed_a_failed_statement_is_refused() {
    let fresh = Fresh::new().await;
    let database = fresh.connect(2).await;
    database.pool().execute("create table told (id int8 primary key)").await.unwrap();
    let act = database.act::<(), sqlx::Error, _>("careless", |tx| {
        Box::pin(async move {
            tx.execute("insert into told values (1)").await?;
            let _ = tx.execute("insert into told values (1)").await;
            Ok(())
        })
    });
    let refused = act.await.unwrap_err().to_string();
    assert!(refused.contains("careless") && refused.contains("nothing was committed"), "{refused}");
    assert_eq!(number(database.pool(), "select count(*) from told").await, 0);
    database.close().await;
    fresh.done().await;
}

#[tokio::test]
async fn deferred_constraints_refuse_with_certainty_and_a_panic_rolls_back() {
    let fresh = Fresh::new().await;
    let database = fresh.connect(2).await;
    let tables = "create table parent (id int8 primary key);
                  create table child (id int8 references parent deferrable initially deferred)";
    database.pool().execute(tables).await.unwrap();
    let orphan = database.act::<(), sqlx::Error, _>("orphan", |tx| {
        Box::pin(async move { tx.execute("insert into child values (1)").await.map(|_| ()) })
    });
    let refused = orphan.await.unwrap_err();
    assert!(commit_unknown(&refused).is_none());
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "23503");

    let panics = database.act::<(), sqlx::Error, _>("panics", |tx| {
        Box::pin(async move {
            tx.execute("insert into parent values (1)").await?;
            panic!("on purpose")
        })
    });
    assert!(std::panic::AssertUnwindSafe(panics).catch_unwind().await.is_err());
    assert_eq!(number(database.pool(), "select count(*) from parent").await, 0);
    database.close().await;
    fresh.done().await;
}

/// Forwards one client after the other to the server's socket; after passing a COMMIT on, hangs up on the client.
async fn lose_commit_answers(listener: TcpListener, socket: PathBuf) {
    while let Ok((client, _)) = listener.accept().await {
        let server = UnixStream::connect(&socket).await.unwrap();
        tokio::spawn(forward(client, server));
    }
}

async fn forward(mut client: TcpStream, mut server: UnixStream) {
    let (mut from_client, mut from_server) = ([0; 8_192], [0; 8_192]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Some(bytes) = read.ok().filter(|n| *n > 0).map(|n| &from_client[..n]) else { return };
                server.write_all(bytes).await.unwrap();
                if bytes.windows(6).any(|word| word == b"COMMIT") {
                    let _ = server.read(&mut from_server).await;
                    return;
                }
            }
            read = server.read(&mut from_server) => {
                let Some(bytes) = read.ok().filter(|n| *n > 0).map(|n| &from_server[..n]) else { return };
                client.write_all(bytes).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_commit_is_named_and_never_tried_again() {
    let fresh = Fresh::new().await;
    let direct = fresh.connect(1).await;
    direct.pool().execute("create table told (id int8)").await.unwrap();
    let address = url::Url::parse(&fresh.settings().url).unwrap();
    let socket_dir = address.query_pairs().find(|(key, _)| key == "host").unwrap().1.into_owned();
    let socket = PathBuf::from(socket_dir).join(format!(".s.PGSQL.{}", address.port().unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = format!("postgres://postgres@{}/{}?sslmode=disable", listener.local_addr().unwrap(), fresh.name);
    let proxy = tokio::spawn(lose_commit_answers(listener, socket));

    let database = Database::connect(&DatabaseSettings::new(through)).await.unwrap();
    let act = database.act::<(), sqlx::Error, _>("purchase", |tx| {
        Box::pin(async move { tx.execute("insert into told values (1)").await.map(|_| ()) })
    });
    let lost = act.await.unwrap_err();
    assert_eq!(commit_unknown(&lost).map(|lost| lost.act), Some("purchase"), "{lost:?}");
    assert_eq!(number(direct.pool(), "select count(*) from told").await, 1);
    proxy.abort();
    direct.close().await;
    fresh.done().await;
}

// ---- migrations ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_run_once_although_many_start_them() {
    let fresh = Fresh::new().await;
    let url = fresh.settings().url;
    for outcome in futures_util::future::join_all((0..4).map(|_| migrate(&url))).await {
        outcome.unwrap();
    }
    let database = fresh.connect(1).await;
    assert!(number(database.pool(), "select count(*) from apalis._sqlx_migrations").await > 0);
    let ours = sqlx::migrate!("./migrations").iter().count() as i64;
    assert_eq!(number(database.pool(), "select count(*) from public.freezeframe_migrations").await, ours);
    database.close().await;
    fresh.done().await;
}

#[tokio::test]
async fn a_login_without_the_right_to_make_extensions_is_told_the_remedy() {
    let fresh = Fresh::new().await;
    let role = format!("role_{}", uuid::Uuid::now_v7().simple());
    let mut admin = fresh.server.one(&fresh.name).await;
    admin.execute(sqlx::AssertSqlSafe(format!("create role {role} login"))).await.unwrap();
    let refused = migrate(&fresh.settings().url.replacen("postgres@", &format!("{role}@"), 1)).await.unwrap_err();
    assert!(format!("{refused:#}").contains("superuser run \"create extension hstore\""), "{refused:#}");
    admin.execute(sqlx::AssertSqlSafe(format!("drop role {role}"))).await.unwrap();
    admin.close().await.unwrap();
    fresh.done().await;
}

#[tokio::test]
async fn a_database_made_from_a_template_has_its_tables() {
    let fresh = Fresh::new().await;
    let mut original = fresh.server.one(&fresh.name).await;
    original.execute("create table copied as select 5::int8 as n").await.unwrap();
    original.close().await.unwrap();
    let admin = fresh.server.get().url("postgres");
    let copy = format!("{}_copy\"quoted", fresh.name);
    create_database(&admin, &copy, Some(&fresh.name)).await.unwrap();
    drop_database(&admin, &copy).await.unwrap();
    drop_database(&admin, &copy).await.unwrap();
    fresh.done().await;
}
