//! What the store and the providers say: files that are gone, cut or changed, jobs that nobody ordered or nobody knows.

use std::collections::BTreeMap;
use std::time::Duration;

use freezeframe::billing::{self, JobsCompared, Reconciliation, Rest, Scope};
use serde_json::{Value, json};

use super::{SECONDS_AHEAD, next};
use crate::app::client::order_of;
use crate::app::{TestApp, TestSettings};

/// What the command says, and its exit code.
async fn told(app: &TestApp, args: &[&str]) -> (Option<i32>, Value) {
    let args: Vec<&str> = ["reconcile", "--json"].into_iter().chain(args.iter().copied()).collect();
    let ran = app.command(&args).await;
    let told = serde_json::from_slice(&ran.stdout);
    (ran.status.code(), told.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&ran.stderr))))
}

/// Kind and id of each difference.
fn differences(told: &Value) -> BTreeMap<String, String> {
    let all = told["differences"].as_array().unwrap().iter();
    all.map(|one| (one["what"].as_str().unwrap().to_owned(), one["id"].as_str().unwrap().to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charged_video_whose_file_is_gone_or_cut_or_changed_is_named() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&order_of(5, "a lighthouse")).await;
    app.finished_batch(&customer, &id).await;
    let videos: Vec<(String, String)> =
        sqlx::query_as("select id, output_key from videos order by id").fetch_all(app.pool()).await.unwrap();
    let files: Vec<_> = videos.iter().map(|(_, key)| app.videos_dir().join(key)).collect();
    let (status, found) = told(&app, &["--files=hash"]).await;
    assert_eq!((status, &found["clean"], &found["compared"]["files"]["checked"]), (Some(0), &json!(true), &json!(5)));

    let whole: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    std::fs::remove_file(&files[0]).unwrap();
    std::fs::write(&files[1], &whole[1][..whole[1].len() - 1]).unwrap();
    let mut changed = whole[2].clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&files[2], changed).unwrap();
    // what its retention removes is no difference
    std::fs::remove_file(&files[3]).unwrap();
    app.execute(&format!("update videos set purging_at = now() where id = '{}'", videos[3].0)).await;

    let (status, found) = told(&app, &["--files"]).await;
    let expected = |kinds: &[(&str, usize)]| -> BTreeMap<String, String> {
        kinds.iter().map(|(kind, at)| ((*kind).to_owned(), videos[*at].0.clone())).collect()
    };
    assert_eq!(status, Some(1));
    assert_eq!(differences(&found), expected(&[("file_missing", 0), ("file_size", 1)]));
    let (status, found) = told(&app, &["--files=hash"]).await;
    assert_eq!(status, Some(1));
    assert_eq!(differences(&found), expected(&[("file_missing", 0), ("file_size", 1), ("file_hash", 2)]));
    let (status, found) = told(&app, &[]).await;
    assert_eq!((status, &found["clean"]), (Some(0), &json!(true)), "without --files no file is looked at: {found}");

    files.iter().zip(&whole).for_each(|(file, bytes)| std::fs::write(file, bytes).unwrap());
    app.execute("update videos set purging_at = null").await;
    app.finish().await;
}

/// Compares with the account `sora`, whose jobs were made just now.
async fn with_the_provider(app: &TestApp) -> Reconciliation {
    let (db, storage, providers) = (app.connect().await, app.storage(), app.registry());
    let auditor =
        billing::Auditor { db: &db, storage: &storage, providers: &providers, who: "test", rest: &Rest::default() };
    let scope = Scope { accounts: vec!["sora".to_owned()], settled: -SECONDS_AHEAD, ..Scope::default() };
    let found = auditor.on_command(&scope).await.unwrap();
    db.close().await;
    found
}

fn named(found: &Reconciliation) -> Vec<(&str, &str)> {
    let mut named: Vec<(&str, &str)> =
        found.differences.iter().map(|difference| (difference.what.as_str(), difference.id.as_str())).collect();
    named.sort();
    named
}

#[track_caller]
fn strangers(found: &Reconciliation) -> (u64, u64, u64) {
    match &found.compared.providers[0].outcome {
        JobsCompared::Compared { owned, explained, strangers, .. } => (*owned, *explained, *strangers),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_no_attempt_owns_is_named_unless_it_is_explained_or_somebody_elses() {
    let mut app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&order_of(3, "a lighthouse")).await;
    app.finished_batch(&customer, &id).await;
    let found = with_the_provider(&app).await;
    assert!(found.is_clean(), "{found:?}");
    assert_eq!(strangers(&found), (3, 0, 0));

    let ours = app.order_past_the_house("a lighthouse 1").await;
    let foreign = app.order_past_the_house("a prompt that nobody here sent").await;
    let found = with_the_provider(&app).await;
    assert_eq!(named(&found), [("provider_job_without_attempt", format!("sora/{ours}").as_str())]);
    assert_eq!(strangers(&found), (3, 0, 1));

    // an attempt whose answer was lost explains one job of its prompt and moment
    let second = "(select id from videos where prompt = 'a lighthouse 1')";
    app.execute(&format!(
        "insert into attempts (video_id, n, id, state, lease_epoch, provider, upstream_model, worker, sent_at, finished_at)
         select {second}, 2, 'a', 'unresolved', 1, 'sora', 'sora-2', 'w', now() - interval '1 minute', now()"
    ))
    .await;
    app.execute(&format!("update videos set attempts_made = 2 where id = {second}")).await;
    app.execute(&format!(
        "insert into provider_losses (video_id, n, tenant_id, batch_id, reason, credits)
         select id, 2, tenant_id, batch_id, 'outcome_unknown', 0 from videos where id = {second}"
    ))
    .await;
    let found = with_the_provider(&app).await;
    assert!(found.is_clean(), "{found:?}");
    assert_eq!(strangers(&found), (3, 1, 1));

    // what was made before a restore may be an order that the database has forgotten
    app.execute("alter table reconciliations disable trigger all").await;
    app.execute("update reconciliations set incarnation = 'elsewhere'").await;
    app.execute("alter table reconciliations enable trigger all").await;
    let found = with_the_provider(&app).await;
    assert!(found.is_clean(), "nothing was compared on this incarnation yet: {found:?}");
    let found = with_the_provider(&app).await;
    assert_eq!(named(&found), [("provider_job_lost", format!("sora/{foreign}").as_str())]);

    app.excuse("belongs to no attempt");
    app.excuse("jobs accepted");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivered_job_that_its_provider_does_not_know_or_did_not_make_is_named() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&order_of(2, "a lighthouse")).await;
    app.finished_batch(&customer, &id).await;
    let (video, handle): (String, String) =
        sqlx::query_as("select video_id, handle from attempts order by video_id limit 1")
            .fetch_one(app.pool())
            .await
            .unwrap();
    let owned = format!("sora/{handle}");
    app.execute(&format!("update attempts set handle = 'video_of_nobody' where video_id = '{video}'")).await;
    let found = with_the_provider(&app).await;
    let unknown = format!("sora/{video}/1");
    assert_eq!(
        named(&found),
        [("attempt_unknown_to_provider", unknown.as_str()), ("provider_job_without_attempt", owned.as_str())]
    );
    app.execute(&format!("update attempts set handle = '{handle}' where video_id = '{video}'")).await;
    assert!(with_the_provider(&app).await.is_clean());

    // ours for delivered, theirs for failed
    app.emulator.script(freezeframe::emulator::Rule::on_prompt("doomed", freezeframe::emulator::Fault::JobFailed));
    let doomed = app.order_past_the_house("doomed").await;
    app.until("the doomed job has failed", async || app.emulator.totals().failed == 1).await;
    app.execute(&format!("update attempts set handle = '{doomed}' where video_id = '{video}'")).await;
    let found = with_the_provider(&app).await;
    let (lost, failed) = (format!("sora/{handle}"), format!("sora/{doomed}"));
    assert_eq!(
        named(&found),
        [("provider_job_not_made", failed.as_str()), ("provider_job_without_attempt", lost.as_str())]
    );
    app.execute(&format!("update attempts set handle = '{handle}' where video_id = '{video}'")).await;
    let mut app = app;
    app.excuse("belongs to no attempt");
    app.excuse("jobs accepted");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_much_younger_than_its_attempt_is_listed_and_what_is_known_of_an_account_outlives_its_outage() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&order_of(2, "a lighthouse")).await;
    app.finished_batch(&customer, &id).await;
    let (db, storage, providers) = (app.connect().await, app.storage(), app.registry());
    let auditor =
        billing::Auditor { db: &db, storage: &storage, providers: &providers, who: "test", rest: &Rest::default() };
    // their jobs were made just now: an answer that came late, then a provider's clock that is ahead
    for earlier in ["sent_at = sent_at - interval '5 minutes'", "accepted_at = accepted_at - interval '5 minutes'"] {
        app.execute(&format!("update attempts set {earlier}")).await;
        let scope = Scope { accounts: vec!["sora".to_owned()], ..Scope::default() };
        let found = auditor.on_command(&scope).await.unwrap();
        assert!(found.is_clean(), "{found:?}");
        assert_eq!(strangers(&found), (2, 0, 0));
    }

    let (video, handle): (String, String) =
        sqlx::query_as("select video_id, handle from attempts order by video_id limit 1")
            .fetch_one(app.pool())
            .await
            .unwrap();
    app.execute(&format!("update attempts set handle = 'video_of_nobody' where video_id = '{video}'")).await;
    let unknown = format!("sora/{video}/1");
    let mut profile = TestSettings::default().profile;
    for outage in [None, Some(500)] {
        profile.list_outage_status = outage;
        app.emulator.set_profile(profile.clone());
        let found = next(&auditor, Duration::ZERO).await;
        assert_eq!(found.is_complete(), outage.is_none(), "{found:?}");
        assert_eq!(named(&found), [("attempt_unknown_to_provider", unknown.as_str())], "{outage:?}");
    }
    app.emulator.set_profile(TestSettings::default().profile);
    app.execute(&format!("update attempts set handle = '{handle}' where video_id = '{video}'")).await;
    assert!(next(&auditor, Duration::ZERO).await.is_clean());
    db.close().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_without_a_list_is_told_as_not_comparable_and_one_that_is_away_as_not_compared() {
    let mut app = TestApp::start(TestSettings::default()).await;
    let mut profile = TestSettings::default().profile;
    profile.list_outage_status = Some(404);
    app.emulator.set_profile(profile.clone());
    let (status, found) = told(&app, &["--providers=sora"]).await;
    assert_eq!((status, &found["compared"]["providers"][0]["result"]), (Some(0), &json!("not_comparable")), "{found}");
    profile.list_outage_status = Some(500);
    app.emulator.set_profile(profile);
    let (status, found) = told(&app, &["--providers=sora"]).await;
    assert_eq!((status, &found["complete"]), (Some(1), &json!(false)), "{found}");
    assert_eq!(found["compared"]["providers"][0]["result"], "unavailable");
    app.emulator.set_profile(TestSettings::default().profile);
    let (status, found) = told(&app, &["--providers", "--since=2d"]).await;
    assert_eq!((status, found["compared"]["providers"].as_array().map(Vec::len)), (Some(0), Some(2)), "{found}");
    let unknown = app.command(&["reconcile", "--providers=nobody"]).await;
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no provider account \"nobody\""));
    app.stop_service().await;
    app.finish().await;
}
