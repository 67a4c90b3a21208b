//! The reconciliation names what is wrong, and nothing else: every kind of difference is planted and found by its id, clean
//! books under load stay clean, a restored database is compared before anybody works on it, and the cluster compares once
//! however many processes it has.

mod outside;
mod planted;

use std::time::Duration;

use freezeframe::billing::{self, FileDepth, Rest, Scope};
use freezeframe::emulator::{Fault, Rule};
use serde_json::{Value, json};

use crate::app::client::{item, order_of};
use crate::app::{API, API_AND_SCHEDULER, PATIENCE, TestApp, TestSettings, count};

/// A third of the videos fail, in different ways.
fn faulty() -> TestSettings {
    let rules = vec![
        Rule::on_prompt("gore", Fault::ModerationAtSubmit),
        Rule::on_prompt("broken", Fault::JobFailed),
        Rule::on_prompt("cut", Fault::DroppedAfterAccept),
    ];
    TestSettings { rules, ..TestSettings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_in_motion_raise_no_false_alarm() {
    let app = TestApp::start(faulty()).await;
    let customer = app.customer(1_000_000).await;
    let db = app.connect().await;
    let words = ["calm", "gore", "calm", "broken", "calm", "calm", "cut", "calm", "calm"];
    let items: Vec<Value> = (0..90).map(|n| item(&format!("{} {n}", words[n % words.len()]))).collect();
    let mut compared = 0;
    for _ in 0..4 {
        customer.order(&json!({"items": items.clone()})).await;
        loop {
            let found = billing::reconcile(&db).await.unwrap();
            assert!(found.is_clean(), "{found:?}");
            compared += 1;
            if app.count("select count(*) from batches where finished_at is null").await == 0 {
                break;
            }
        }
    }
    assert!(compared >= 8, "{compared} comparisons are too few to have met anything under way");
    let providers = app.registry();
    let storage = app.storage();
    let auditor =
        billing::Auditor { db: &db, storage: &storage, providers: &providers, who: "test", rest: &Rest::default() };
    let accounts = providers.names().map(str::to_owned).collect();
    let scope = Scope { files: Some(FileDepth::Hashes), accounts, settled: -SECONDS_AHEAD, ..Scope::default() };
    let found = auditor.on_command(&scope).await.unwrap();
    assert!(found.is_clean() && found.is_complete(), "{found:?}");
    db.close().await;
    app.finish().await;
}

/// Far enough that what was made just now is compared.
pub const SECONDS_AHEAD: chrono::TimeDelta = chrono::TimeDelta::seconds(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_database_is_compared_before_a_worker_starts_and_money_in_doubt_keeps_it_away() {
    let mut app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&order_of(2, "a lighthouse")).await;
    app.finished_batch(&customer, &id).await;
    app.stop_service().await;
    let starts = "select count(*) from reconciliations where occasion = 'start'";
    assert_eq!(app.count(starts).await, 1, "the first start compares the empty books");

    // the same database again: nothing to compare
    app.start_service().await;
    app.stop_service().await;
    assert_eq!(app.count(starts).await, 1);

    restore(&app).await;
    app.start_service().await;
    app.until("a restored database is compared", async || app.count(starts).await == 2).await;
    app.stop_service().await;

    restore(&app).await;
    app.execute("update wallets set available = available + 5 where source = 'paid'").await;
    let refused = app.command(&["serve", "--roles", "worker"]).await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{told}");
    for part in ["no worker starts", "wallet: 1", "freezeframe reconcile", "start_despite_differences"] {
        assert!(told.contains(part), "{part:?} is missing in {told}");
    }
    // a person who looks does not open the door by it
    assert_eq!(app.command(&["reconcile"]).await.status.code(), Some(1));
    assert!(!app.command(&["serve", "--roles", "worker"]).await.status.success());
    assert_eq!(app.count("select count(*) from workers").await, 0);

    app.settings.push_str("\n[reconcile]\nstart_despite_differences = true\n");
    let worker = app.start_process("worker").await;
    app.process(worker).stop();
    app.execute("update wallets set available = available - 5 where source = 'paid'").await;
    app.start_service().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_note_of_a_restore_lets_no_worker_at_money_in_doubt() {
    let mut app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&order_of(2, "a lighthouse")).await;
    app.finished_batch(&customer, &id).await;
    let unchained = "select (select count(*) from credit_ledger) - (select count(*) from ledger_chain)";
    app.until("everything is chained", async || app.count(unchained).await == 0).await;
    app.stop_service().await;
    // a snapshot put back in place, whose ledger ends earlier and whose wallet is not what its entries say
    for statement in [
        "alter table ledger_chain disable trigger user",
        "delete from ledger_chain where seq = (select max(seq) from ledger_chain)",
        "alter table ledger_chain enable trigger user",
        "delete from workers",
        "update wallets set available = available + 5 where source = 'paid'",
    ] {
        app.execute(statement).await;
    }
    let refused = app.command(&["serve", "--roles", "worker"]).await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("wallet: 1"), "{told}");
    app.output(&["ledger", "restored", "--reason", "the disk was lost"]).await;
    let refused = app.command(&["serve", "--roles", "worker"]).await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("wallet: 1"), "{told}");
    assert_eq!(app.count("select count(*) from workers").await, 0);
    // a process that serves requests does that meanwhile, and its worker starts when the money is right
    app.start_service().await;
    app.until_serving(&app.base()).await;
    app.here(&customer).batch(&id).await;
    assert_eq!(app.count("select count(*) from workers").await, 0);
    app.execute("update wallets set available = available - 5 where source = 'paid'").await;
    assert!(app.command(&["reconcile"]).await.status.success());
    app.stop_service().await;
    app.start_service().await;
    app.until("the worker has started", async || app.count("select count(*) from workers").await > 0).await;
    app.finish().await;
}

/// As if everything stored so far came from another incarnation of the database.
async fn restore(app: &TestApp) {
    for statement in [
        "alter table reconciliations disable trigger all",
        "update reconciliations set incarnation = 'elsewhere'",
        "alter table reconciliations enable trigger all",
        "delete from workers",
    ] {
        app.execute(statement).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_compare_once_and_every_process_shows_the_result() {
    let more_attempts = "[reconcile]\nevery_secs = 2";
    let settings = TestSettings { roles: API_AND_SCHEDULER, more_attempts, ..TestSettings::default() };
    let mut app = TestApp::start(settings).await;
    app.start_process("worker").await;
    app.start_process("worker").await;
    let regular = "select count(*) from reconciliations where occasion = 'regular'";
    app.until("the books were compared five times", async || app.count(regular).await >= 5).await;
    let soonest = "select (extract(epoch from min(gap)) * 1000)::bigint from (
        select at - lag(at) over (order by id) as gap from reconciliations) g";
    let soonest = app.count(soonest).await;
    assert!(soonest >= 2_000, "two comparisons were {soonest} ms apart");
    assert_eq!(app.count("select count(*) from reconciliations where occasion = 'start'").await, 1);
    let metrics = format!("{}/metrics", app.base());
    // the process that shows it compares nothing itself
    app.until("the API's process shows the comparison", async || {
        let text = app.http.get(&metrics).send().await.unwrap().text().await.unwrap();
        let at = text.lines().find_map(|line| line.strip_prefix("freezeframe_books_compared_timestamp_seconds "));
        at.is_some_and(|at| at.parse::<f64>().unwrap() > 1e9) && text.contains("differences{kind=\"wallet\"} 0")
    })
    .await;
    app.finish().await;
}

/// The next comparison, as soon as nothing rests any more.
async fn next(auditor: &billing::Auditor<'_>, ask_every: Duration) -> billing::Reconciliation {
    let wait = async {
        loop {
            match auditor.when_due(Duration::ZERO, ask_every).await.unwrap() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("a comparison is due")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_never_changed_and_a_regular_one_goes_on_where_the_last_one_stopped() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&order_of(3, "a lighthouse")).await;
    app.finished_batch(&customer, &id).await;
    let db = app.connect().await;
    for forbidden in ["update reconciliations set clean = true", "delete from reconciliations"] {
        let refused = sqlx::query(sqlx::AssertSqlSafe(forbidden)).execute(app.pool()).await.unwrap_err();
        assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "42501", "{refused}");
    }
    let (providers, storage) = (app.registry(), app.storage());
    let auditor =
        billing::Auditor { db: &db, storage: &storage, providers: &providers, who: "test", rest: &Rest::default() };
    let hour = Duration::from_secs(3_600);
    assert!(auditor.when_due(hour, hour).await.unwrap().is_none(), "the start's comparison is not an hour old");
    let first = next(&auditor, hour).await;
    assert_eq!(first.compared.files.as_ref().map(|files| files.checked), Some(3));
    assert_eq!(first.compared.providers.len(), 2, "both accounts are asked the first time: {first:?}");
    let second = next(&auditor, hour).await;
    assert!(second.compared.providers.is_empty(), "and not again within the hour");
    assert!(first.is_clean() && second.is_clean());

    // a file that was wrong is looked at again, wherever the walk is by now
    let key: String =
        sqlx::query_scalar("select output_key from videos order by id limit 1").fetch_one(app.pool()).await.unwrap();
    let (file, aside) = (app.videos_dir().join(&key), app.dir.path().join("aside"));
    std::fs::rename(&file, &aside).unwrap();
    for _ in 0..2 {
        let found = next(&auditor, hour).await;
        assert_eq!(found.kinds().into_iter().collect::<Vec<_>>(), [("file_missing", 1)]);
    }
    std::fs::rename(&aside, &file).unwrap();
    assert!(next(&auditor, hour).await.is_clean());

    // nothing is stored of a comparison that failed, and yet it is not repeated at once
    let every = Duration::from_secs(5);
    app.execute("alter table wallets rename to wallets_aside").await;
    app.until("a comparison fails", async || auditor.when_due(every, hour).await.is_err()).await;
    app.execute("alter table wallets_aside rename to wallets").await;
    assert!(auditor.when_due(every, hour).await.unwrap().is_none(), "the failed one was just now");
    assert!(next(&auditor, hour).await.is_clean());
    db.close().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_corrects_a_wallet_by_an_adjustment_with_name_and_reason_alone() {
    let app = TestApp::start(TestSettings { roles: API, ..TestSettings::default() }).await;
    let customer = app.customer(100).await;
    let tenant: String = sqlx::query_scalar("select 'ten_' || id from tenants").fetch_one(app.pool()).await.unwrap();
    let adjust = async |more: &[&str]| {
        let args: Vec<&str> = ["tenant", "adjust", &tenant].into_iter().chain(more.iter().copied()).collect();
        app.command(&args).await
    };
    let given = adjust(&["--add", "50", "--reason", "goodwill for ticket 7", "--by", "ann"]).await;
    assert!(given.status.success(), "{given:?}");
    assert_eq!(customer.available().await, 150);
    assert!(adjust(&["--take", "150", "--reason", "a chargeback"]).await.status.success());
    assert_eq!(customer.available().await, 0);

    let refused = adjust(&["--take", "1", "--reason", "one more"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("1 credits were to be taken and 0 are available"));
    for unexplained in [&["--add", "1", "--reason", " "][..], &["--add", "1"], &["--reason", "x"]] {
        assert!(!adjust(unexplained).await.status.success(), "{unexplained:?}");
    }
    let rows: Vec<(i64, String, String)> = sqlx::query_as(
        "select balance_after - balance_before, actor, reason from credit_ledger where act = 'adjustment' order by id",
    )
    .fetch_all(app.pool())
    .await
    .unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0], (50, "operator ann".to_owned(), "goodwill for ticket 7".to_owned()));
    assert_eq!((rows[1].0, rows[1].2.as_str()), (-150, "a chargeback"));
    assert_eq!(count(app.pool(), "select count(*) from wallets where available <> 0").await, 0);
    app.finish().await;
}
