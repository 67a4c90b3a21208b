//! Every kind of difference that the database can show, planted one by one into copies of one database.

use std::collections::BTreeSet;

use freezeframe::billing::{self, About, KINDS};
use freezeframe::db::{self, Database, DatabaseSettings};
use freezeframe::emulator::{Fault, Rule};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use url::Url;

use crate::app::client::item;
use crate::app::{API, TestApp, TestSettings};

/// What the parts of the file call what they change.
const NAMES: &str = "
    create temp table tenants_one as select id as tenant_id from tenants;
    create temp table finished as select * from batches where finished_at is not null;
    create temp table waiting as select * from batches where finished_at is null;
    create temp table made as select * from videos where state = 'succeeded' order by position limit 1;
    create temp table failed as select * from videos where state = 'failed';
    create temp table idle as select v.* from videos v join waiting w on w.id = v.batch_id order by v.position desc limit 1;
    set session_replication_role = replica;";

/// A difference to be planted.
struct Planted {
    kind: String,
    /// Kinds that cannot but come with it.
    beside: BTreeSet<String>,
    id: String,
    statements: String,
}

fn planted() -> Vec<Planted> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/reconcile/planted.sql");
    let text = std::fs::read_to_string(path).unwrap();
    let parts = text.split("\n--- ").skip(1).map(|part| {
        let (head, statements) = part.split_once('\n').unwrap();
        let (kinds, id) = head.split_once(" = ").unwrap();
        let mut kinds = kinds.split(", ").map(str::to_owned);
        let kind = kinds.next().unwrap();
        Planted { kind, beside: kinds.collect(), id: id.to_owned(), statements: statements.to_owned() }
    });
    parts.collect()
}

#[test]
fn every_kind_of_the_database_is_planted() {
    let of_the_database = |(_, about): &&(&str, About)| matches!(about, About::Money | About::Work);
    let known: BTreeSet<String> = KINDS.iter().filter(of_the_database).map(|(kind, _)| (*kind).to_owned()).collect();
    assert_eq!(planted().into_iter().map(|planted| planted.kind).collect::<BTreeSet<_>>(), known);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_planted_difference_is_named_with_its_id_and_nothing_else_is() {
    let rules = vec![Rule::on_prompt("gore", Fault::ModerationAtSubmit)];
    // whoever moves back-offs up would keep a connection, and a database with connections cannot be copied
    let mut app = TestApp::start(TestSettings { rules, skip_back_off: false, ..TestSettings::default() }).await;
    let customer = app.customer(10_000).await;
    let items = ["a calm sea", "gore in the snow", "a lighthouse"].map(item);
    let done = customer.order(&json!({"items": items.clone()})).await;
    app.finished_batch(&customer, &done).await;
    app.until("its job is gone", async || app.count("select count(*) from apalis.jobs").await == 0).await;
    app.stop_service().await;
    app.set_roles(API);
    app.start_service().await;
    app.here(&customer).order(&json!({"items": items})).await;
    app.stop_service().await;

    let mut wrong = Vec::new();
    for planted in planted() {
        if let Err(why) = find(&app, &planted).await {
            wrong.push(format!("{}: {why}", planted.kind));
        }
    }
    assert!(wrong.is_empty(), "{} of the planted differences:\n{}", wrong.len(), wrong.join("\n"));
    app.set_roles(freezeframe::service::Roles::ALL);
    app.start_service().await;
    app.all_batches_end().await;
    app.finish().await;
}

/// Plants one in a copy of its own and compares that.
async fn find(app: &TestApp, planted: &Planted) -> Result<(), String> {
    let name = format!("{}_{}", app.db.name, planted.kind);
    let mut url = Url::parse(&app.db.url).unwrap();
    url.set_path("postgres");
    let admin = url.to_string();
    url.set_path(&name);
    copy(&admin, &app.db.name, &name).await;
    let id = plant(url.as_str(), planted).await?;
    let settings = DatabaseSettings { role: Some("freezeframe_app".to_owned()), ..DatabaseSettings::new(url.as_str()) };
    let db = Database::connect(&settings).await.unwrap();
    let found = billing::reconcile(&db).await.unwrap();
    db.close().await;
    db::drop_database(&admin, &name).await.unwrap();
    let kinds: BTreeSet<String> = found.kinds().into_keys().map(str::to_owned).collect();
    let expected: BTreeSet<String> = planted.beside.iter().cloned().chain([planted.kind.clone()]).collect();
    if kinds != expected {
        return Err(format!("found were {kinds:?}, expected {expected:?}"));
    }
    match found.differences.iter().any(|difference| difference.what == planted.kind && difference.id == id) {
        true => Ok(()),
        false => Err(format!("the id {id:?} is not named in {:?}", found.differences)),
    }
}

async fn copy(admin: &str, from: &str, to: &str) {
    let others = format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{from}'");
    // sessions end a moment after they were told to, and a pool may open a new one
    crate::app::until("the database is copied", async || {
        let mut conn = PgConnection::connect(admin).await.unwrap();
        conn.execute(AssertSqlSafe(others.clone())).await.unwrap();
        conn.close().await.unwrap();
        db::create_database(admin, to, Some(from)).await.is_ok()
    })
    .await;
}

async fn plant(url: &str, planted: &Planted) -> Result<String, String> {
    let mut conn = PgConnection::connect(url).await.unwrap();
    conn.execute(NAMES).await.unwrap();
    let id = sqlx::query_scalar(AssertSqlSafe(planted.id.clone())).fetch_one(&mut conn).await;
    let id: String = id.map_err(|error| format!("the question for its id: {error}"))?;
    conn.execute(AssertSqlSafe(planted.statements.clone())).await.map_err(|error| format!("planting: {error}"))?;
    conn.close().await.unwrap();
    Ok(id)
}
