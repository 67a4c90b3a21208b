//! Submissions that the provider took and whose answer was lost, in three kinds of accounts: one that honours idempotency
//! keys, one that lists its jobs, one that does neither. Held against the provider's own book: nothing is bought twice,
//! nothing is ordered twice but under the same key, and what nobody can find out is our loss, to the credit. Then what is
//! learned late: a job that succeeds after the refund, and one that another worker knew.
//!
//! `FREEZEFRAME_UNKNOWN=5000` takes so many videos in place of the few that an ordinary run can afford.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use freezeframe::emulator::{Book, Fault, Nth, Profile, Rule};
use freezeframe::ledger::{self, Books};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::Row;

use crate::app::client::{Customer, item, order_of};
use crate::app::{API_AND_SCHEDULER, TestApp, TestSettings};

const PRICE: i64 = 61;
/// What a video costs us, other than its price.
const COST: i64 = 40;
const PURSE: i64 = 1_000_000;
/// Every tenth order loses its answer, in one of these ways.
const WAYS: [&str; 4] = ["dropped", "errored", "truncated", "gateway"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    KeyHonoured,
    Listable,
    Neither,
}

fn videos() -> usize {
    std::env::var("FREEZEFRAME_UNKNOWN").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

fn models(deadline_secs: usize) -> String {
    format!(
        r#"
[[model]]
name = "sora-2"
provider = "sora"
price_credits = {PRICE}
cost_credits = {COST}
standard_seconds = 4
seconds = [4]
sizes = ["1280x720"]
deadline_secs = {deadline_secs}
"#
    )
}

fn rules() -> Vec<Rule> {
    let once = Nth::only(1);
    vec![
        Rule::on_prompt("dropped", Fault::DroppedAfterAccept).nth(once),
        // where it is repeated, the answer to that is lost as well
        Rule::on_prompt("errored", Fault::ErrorAfterAccept { status: 500 }).nth(Nth { from: 1, to: Some(2) }),
        Rule::on_prompt("truncated", Fault::TruncatedAnswer).nth(once),
        Rule::on_prompt("gateway", Fault::HtmlBadGateway { accepted: true }).nth(once),
    ]
}

fn settings(mode: Mode, all: usize) -> TestSettings {
    let usual = TestSettings::default();
    // what cannot be found out is waited for until the deadline; nothing else takes so long
    let deadline_secs = if mode == Mode::Neither { 20 + all / 20 } else { 1_800 };
    TestSettings {
        profile: Profile { honours_keys: mode == Mode::KeyHonoured, ..usual.profile.clone() },
        rules: rules(),
        slots: 1_000,
        // a worker that is taken for dead loses the answers under way, which here nobody can find
        dead_after_ms: if mode == Mode::Neither { 60_000 } else { usual.dead_after_ms },
        submit_timeout_secs: 30 + (all as u64) / 100,
        more_account: match mode {
            Mode::KeyHonoured => "idempotency_key = true\ncan_list = false",
            Mode::Listable => "",
            Mode::Neither => "can_list = false",
        },
        models: models(deadline_secs),
        ..usual
    }
}

/// So many orders, every tenth of which loses its answer; and how many those are.
fn orders(all: usize) -> (Value, usize) {
    let way = |n: usize| if n.is_multiple_of(10) { WAYS[n / 10 % WAYS.len()] } else { "plain" };
    let items: Vec<Value> = (0..all).map(|n| item(&format!("frame {n} {}", way(n)))).collect();
    (json!({"items": items}), all.div_ceil(10))
}

async fn settled(app: &TestApp) -> usize {
    usize::try_from(app.count("select count(*) from settlements").await).unwrap()
}

/// Waits until so many are settled; however many there are, the wait has an end.
async fn until_settled(app: &TestApp, wanted: usize) {
    let patience = Duration::from_secs(180) + Duration::from_millis(100) * u32::try_from(wanted).unwrap();
    let begun = Instant::now();
    while settled(app).await < wanted {
        assert!(begun.elapsed() < patience, "{} of {wanted} settled after {patience:?}", settled(app).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn books(app: &TestApp) -> Books {
    ledger::books(&mut app.pool().acquire().await.unwrap()).await.unwrap()
}

/// No prompt was bought twice, and none was sent twice but under the same key.
fn bought_once(book: &Book, mode: Mode, all: usize) {
    let mut jobs: BTreeMap<&str, usize> = BTreeMap::new();
    book.jobs.iter().for_each(|job| *jobs.entry(&job.prompt).or_default() += 1);
    let twice: Vec<_> = jobs.iter().filter(|(_, bought)| **bought > 1).collect();
    assert_eq!((jobs.len(), twice.len()), (all, 0), "bought twice: {twice:?}");
    let mut creates: BTreeMap<&str, Vec<Option<&str>>> = BTreeMap::new();
    for create in &book.creates {
        let prompt = create.prompt.as_deref().unwrap_or_default();
        creates.entry(prompt).or_default().push(create.idempotency_key.as_deref());
    }
    for (prompt, keys) in creates.iter().filter(|(_, keys)| keys.len() > 1) {
        let same = keys[0].is_some() && keys.iter().all(|key| *key == keys[0]);
        assert!(mode == Mode::KeyHonoured && same, "{prompt:?} was sent {} times under {keys:?}", keys.len());
    }
    // a worker that is killed while it sends leaves half a request, of which nothing is understood
    let whole: Vec<_> = book.creates.iter().filter(|create| create.prompt.is_some()).collect();
    let keyed = whole.iter().filter(|create| create.idempotency_key.is_some()).count();
    assert_eq!(keyed, if mode == Mode::KeyHonoured { whole.len() } else { 0 });
}

/// The end of a run: the provider's book, our books, the customer's view.
async fn audit(app: &TestApp, customer: &Customer, id: &str, mode: Mode, (all, lost): (usize, usize)) {
    let unresolved = if mode == Mode::Neither { lost as i64 } else { 0 };
    let batch = app.finished_batch(customer, id).await;
    let ends =
        "select coalesce(jsonb_agg(to_jsonb(t))::text, '') from (select state, failure_class, failure_message, count(*)
                from attempts where state <> 'succeeded' group by 1, 2, 3) t";
    let ends: String = sqlx::query_scalar(ends).fetch_one(app.pool()).await.unwrap();
    assert_eq!(batch.number("/credits/charged"), (all as i64 - unresolved) * PRICE, "{} {ends}", batch.text);
    assert_eq!(batch.number("/counts/failed"), unresolved, "{ends}");
    bought_once(&app.emulator.book(), mode, all);
    assert_eq!(app.count("select count(*) from attempts where state = 'unresolved'").await, unresolved);
    let books = books(app).await;
    assert_eq!((books.provider_loss, books.provider_payable, books.sum), (unresolved * COST, -unresolved * COST, 0));
    let booked = "select coalesce(sum(credits), 0)::bigint from provider_losses where reason = 'outcome_unknown'";
    assert_eq!(app.count(booked).await, unresolved * COST);
    let resolved = "select count(*) from attempts where unknown_at is not null and state = 'succeeded'";
    assert!(app.count(resolved).await >= lost as i64 - unresolved, "the lost ones were looked up and found");
    assert_eq!(customer.available().await, PURSE - (all as i64 - unresolved) * PRICE);
    assert!(customer.entries(id).await.iter().all(|entry| entry["act"] != "loss"), "our losses are not the customer's");
    app.output(&["reconcile"]).await;
    let totals = app.emulator.totals();
    eprintln!(
        "{mode:?}: {all} videos, {} answers lost, {} creates seen, {} jobs, {} replays, {unresolved} unresolved, {} credits of loss",
        totals.answers_lost, totals.creates_seen, totals.accepted, totals.replayed, books.provider_loss
    );
}

async fn lost_answers(mode: Mode) {
    let all = videos();
    let app = TestApp::start(settings(mode, all)).await;
    let customer = app.customer(PURSE).await;
    let (body, lost) = orders(all);
    let id = customer.order(&body).await;
    until_settled(&app, all).await;
    audit(&app, &customer, &id, mode, (all, lost)).await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_are_repeated_under_their_keys_where_keys_are_honoured() {
    lost_answers(Mode::KeyHonoured).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_are_found_in_the_list_where_there_is_one() {
    lost_answers(Mode::Listable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_that_nobody_can_find_are_refunded_and_our_loss_to_the_credit() {
    lost_answers(Mode::Neither).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_among_lost_answers_buys_nothing_twice() {
    let (all, mode) = (videos(), Mode::KeyHonoured);
    let mut app = TestApp::start(TestSettings { roles: API_AND_SCHEDULER, ..settings(mode, all) }).await;
    let customer = app.customer(PURSE).await;
    let killed = app.start_process("worker").await;
    let (body, lost) = orders(all);
    let id = customer.order(&body).await;
    until_settled(&app, all / 4).await;
    app.process(killed).kill();
    app.start_process("worker").await;
    until_settled(&app, all).await;
    audit(&app, &customer, &id, mode, (all, lost)).await;
    app.finish().await;
}

/// The history of the attempts of every video of a batch, by prompt.
async fn histories(customer: &Customer, id: &str) -> Vec<Vec<Value>> {
    let videos = customer.videos(id).await;
    videos.iter().map(|video| video["attempt_history"].as_array().unwrap().clone()).collect()
}

/// Has every ended attempt looked at now, until so many jobs are known to have succeeded.
async fn look_until(app: &TestApp, succeeded: i64) {
    let found = "select count(*) from late_looks where finding = 'succeeded'";
    app.until("what succeeded late is known", async || {
        app.execute("update late_looks set next_look_at = now() where next_look_at > now()").await;
        app.count(found).await == succeeded
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_succeeds_after_the_refund_is_recorded_and_never_charged_nor_taken_from_another() {
    let rules = vec![
        Rule::on_prompt("lost", Fault::DroppedAfterAccept),
        Rule::on_prompt("refused", Fault::DroppedBeforeAccept).nth(Nth::only(1)),
    ];
    let usual = TestSettings::default();
    let profile = Profile { list_outage_status: Some(503), ..usual.profile.clone() };
    let app = TestApp::start(TestSettings { rules, profile, models: models(10), ..usual.clone() }).await;
    let customer = app.customer(PURSE).await;
    // nothing can be looked up before the deadline
    let items: Vec<Value> = ["a lost fox", "a lost fox", "a refused owl"].into_iter().map(item).collect();
    let id = customer.order(&json!({"items": items})).await;
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!((batch.word("/status"), batch.number("/credits/refunded")), ("failed", 3 * PRICE));
    assert_eq!(books(&app).await.provider_loss, 3 * COST);
    // the list is back; the owl's only job in it is another order's
    app.emulator.set_profile(usual.profile);
    let other = customer.order(&json!({"items": [item("a refused owl")]})).await;
    assert_eq!(app.finished_batch(&customer, &other).await.word("/status"), "completed");
    look_until(&app, 2).await;
    let owl =
        "select count(*) from late_looks l join videos v on v.id = l.video_id join attempts a on a.video_id = v.id
               where v.prompt = 'a refused owl' and l.looks > 0 and l.finding is null and a.handle is null";
    app.until("the owl was looked for in vain", async || app.count(owl).await == 1).await;

    let foxes = "select count(distinct handle) from attempts where state = 'unresolved' and handle is not null";
    assert_eq!(app.count(foxes).await, 2, "each its own job");
    assert_eq!(books(&app).await.provider_loss, 3 * COST, "booked once");
    assert_eq!(customer.available().await, PURSE - PRICE);
    let told = histories(&customer, &id).await;
    for (attempts, late) in told.iter().zip([true, true, false]) {
        assert_eq!((attempts.len(), &attempts[0]["state"]), (1, &json!("unresolved")), "{attempts:?}");
        assert_eq!(attempts[0]["failure_type"], "outcome_unknown");
        assert!(attempts[0]["unknown_since"].is_string());
        assert_eq!(attempts[0]["late_success_at"].is_string(), late, "{attempts:?}");
    }
    let shown = customer.videos(&id).await.iter().map(Value::to_string).collect::<String>();
    assert!(!shown.contains("sora\"") && !shown.contains("video_0"), "neither account nor job is told: {shown}");
    app.output(&["reconcile"]).await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_that_names_a_job_after_the_list_did_not_is_our_loss_and_no_second_video() {
    let rules = vec![Rule::on_prompt("unseen", Fault::DroppedBeforeAccept).nth(Nth::only(1))];
    let app = TestApp::start(TestSettings { rules, models: models(1_800), ..TestSettings::default() }).await;
    let customer = app.customer(PURSE).await;
    let id = customer.order(&json!({"items": [item("an unseen fox")]})).await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    let told = &histories(&customer, &id).await[0];
    assert_eq!((told.len(), &told[0]["state"], &told[0]["failure_type"]), (2, &json!("refused"), &json!("network")));
    // the list has the second attempt's job alone, which is nobody else's
    let looked = "select count(*) from late_looks where looks > 0 and finding is null";
    app.until("the list was not believed", async || {
        app.execute("update late_looks set next_look_at = now() where looks = 0").await;
        app.count(looked).await == 1
    })
    .await;
    // the provider took the first order after all, showed it to nobody, and calls
    let job = app.order_past_the_house("an unseen fox").await;
    let written = app
        .execute(&format!(
            "insert into provider_callbacks (account, subject, job, ended)
             select provider, 'att_' || id, '{job}', true from attempts where n = 1"
        ))
        .await;
    assert_eq!(written, 1);
    look_until(&app, 1).await;
    assert!(histories(&customer, &id).await[0][0]["late_success_at"].is_string());
    assert_eq!((books(&app).await.provider_loss, customer.available().await), (COST, PURSE - PRICE));
    app.output(&["reconcile"]).await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_after_the_refund_names_the_job_but_never_another_attempts() {
    let app = TestApp::start(TestSettings { models: models(10), ..settings(Mode::Neither, 1) }).await;
    let customer = app.customer(PURSE).await;
    let items: Vec<Value> = ["a dropped fox", "a dropped owl", "a heron"].into_iter().map(item).collect();
    let id = customer.order(&json!({"items": items})).await;
    assert_eq!(app.finished_batch(&customer, &id).await.number("/counts/failed"), 2);
    // as the door writes them; the owl's names the heron's job, which has an owner
    let book = app.emulator.book();
    for (prompt, of) in [("a dropped fox", "a dropped fox"), ("a dropped owl", "a heron")] {
        let job = &book.of_prompt(of).next().unwrap().id;
        let written = app
            .execute(&format!(
                "insert into provider_callbacks (account, subject, job, ended)
                 select a.provider, 'att_' || a.id, '{job}', true from attempts a join videos v on v.id = a.video_id
                 where v.prompt = '{prompt}'"
            ))
            .await;
        assert_eq!(written, 1);
    }
    look_until(&app, 1).await;
    let owl =
        "select count(*) from late_looks l join videos v on v.id = l.video_id join attempts a on a.video_id = v.id
               where v.prompt = 'a dropped owl' and l.looks > 1 and l.finding is null and a.handle is null";
    app.until("the owl's callback was not believed", async || {
        app.execute("update late_looks set next_look_at = now() where next_look_at > now()").await;
        app.count(owl).await == 1
    })
    .await;
    let late = "select count(*) from late_looks l join videos v on v.id = l.video_id
                where v.prompt = 'a dropped fox' and l.finding = 'succeeded'";
    assert_eq!(app.count(late).await, 1);
    assert_eq!((books(&app).await.provider_loss, customer.available().await), (2 * COST, PURSE - PRICE));
    app.output(&["reconcile"]).await;
    let of_the_heron = "insert into provider_losses (video_id, n, tenant_id, batch_id, reason, credits)
                        select id, 1, tenant_id, batch_id, 'late_success', 9 from videos where prompt = 'a heron'";
    for (done, named) in [
        (vec![], vec![]),
        (
            vec!["alter table provider_losses disable trigger user", "delete from provider_losses"],
            vec!["late_success_without_loss", "unresolved_attempt_without_loss", "unresolved_attempt_without_loss"],
        ),
        (vec![of_the_heron], vec!["loss_not_in_ledger", "loss_without_unresolved_attempt"]),
    ] {
        assert_eq!(reconciled_after(&app, &done).await, named, "{done:?}");
    }
    app.finish().await;
}

/// What the reconciliation names when this has been done to the books, which is undone again.
async fn reconciled_after(app: &TestApp, statements: &[&'static str]) -> Vec<String> {
    let mut tx = app.pool().begin().await.unwrap();
    for statement in statements {
        sqlx::query(*statement).execute(&mut *tx).await.unwrap();
    }
    let rows = sqlx::query(include_str!("../../src/billing/reconcile.sql")).fetch_all(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_given_up_in_time_and_succeeds_later_is_a_certain_loss() {
    const FOR_EVER_MS: u64 = 3_600_000;
    let rules = vec![Rule::takes("slow", FOR_EVER_MS)];
    let app = TestApp::start(TestSettings { rules, models: models(10), ..TestSettings::default() }).await;
    let customer = app.customer(PURSE).await;
    let id = customer.order(&json!({"items": [item("a slow snail")]})).await;
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!((batch.word("/status"), batch.number("/credits/refunded")), ("failed", PRICE));
    let tried = app.emulator.totals().accepted as i64;
    assert_eq!(books(&app).await.provider_loss, 0, "nothing is certain yet");
    app.emulator.advance_clock(FOR_EVER_MS);
    look_until(&app, tried).await;
    let books = books(&app).await;
    assert_eq!((books.provider_loss, books.sum), (tried * COST, 0));
    assert_eq!(customer.available().await, PURSE);
    for attempt in &histories(&customer, &id).await[0] {
        assert_eq!((&attempt["state"], &attempt["failure_type"]), (&json!("failed"), &json!("timeout")));
        assert!(attempt["late_success_at"].is_string(), "{attempt}");
        assert!(attempt["unknown_since"].is_null(), "{attempt}");
    }
    app.output(&["reconcile"]).await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stalled_worker_learned_reaches_whoever_holds_the_video_now() {
    let mut app = TestApp::start(TestSettings {
        roles: API_AND_SCHEDULER,
        rules: vec![Rule::on_prompt("frame", Fault::SlowAnswer { ms: 6_000 })],
        submit_timeout_secs: 60,
        // the job cannot be looked up: only whoever reads the answer can name it
        more_account: "can_list = false",
        ..TestSettings::default()
    })
    .await;
    let customer = app.customer(PURSE).await;
    let workers = [app.start_process("worker").await, app.start_process("worker").await];
    let id = customer.order(&order_of(1, "frame")).await;
    app.until("the provider has it", async || app.emulator.totals().accepted == 1).await;
    let mut held = Vec::new();
    for worker in workers {
        let pid = app.process(worker).id();
        let mine = format!("select count(*) from attempts where worker like '%-{pid}-%'");
        held.push((worker, pid, app.count(&mine).await == 1));
    }
    held.sort_by_key(|(.., mine)| !mine);
    let [(stalled, _, true), (_, other, false)] = held[..] else { panic!("one of the two has it: {held:?}") };
    app.process(stalled).signal(Signal::SIGSTOP);
    let taken = format!("select count(*) from attempts where worker like '%-{other}-%' and unknown_at is not null");
    app.until("the other worker has taken it over", async || app.count(&taken).await == 1).await;
    app.process(stalled).signal(Signal::SIGCONT);
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!(batch.word("/status"), "completed", "{}", app.process(stalled).log());
    assert_eq!(app.emulator.totals().creates_seen, 1);
    let hint = "select count(*) from provider_callbacks where subject like 'att_%' and job is not null";
    assert_eq!(app.count(hint).await, 1);
    let attempts = &histories(&customer, &id).await[0];
    assert!(attempts.len() == 1 && attempts[0]["found_at"].is_string(), "{attempts:?}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_that_an_older_program_left_unbooked_is_booked_once() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&order_of(1, "a calm sea")).await;
    app.finished_batch(&customer, &id).await;
    app.execute(
        "insert into attempts (video_id, n, id, state, lease_epoch, provider, upstream_model, worker, finished_at)
         select id, 2, 'older', 'unresolved', 1, 'sora', 'sora-2', 'older', now() from videos",
    )
    .await;
    app.execute("update videos set attempts_made = 2").await;
    let booked = "select count(*) from provider_losses where n = 2 and credits = 61 and reason = 'outcome_unknown'";
    app.until("somebody books it", async || app.count(booked).await == 1).await;
    // and again, which is no change
    let db = app.connect().await;
    assert_eq!(freezeframe::billing::book_missing_losses(&db).await.unwrap(), 0);
    db.close().await;
    assert_eq!(app.count("select sum(amount)::bigint from credit_ledger where act = 'loss'").await, 61);
    assert_eq!(customer.available().await, 1_000 - 61);
    app.finish().await;
}
