//! Circuits: an account that fails order after order gets few more, the others take what they can, and one video at a time
//! finds out when it is well again.

use std::time::Duration;

use freezeframe::accounts::{CircuitLaw, Fault as AccountFault, News};
use freezeframe::domain::{AttemptId, VideoId};
use freezeframe::emulator::{Fault, Rule};
use freezeframe::engine::recorder::Journal;
use freezeframe::steps::record::{Transition, VideoJournal};
use serde_json::{Value, json};

use crate::app::client::{Customer, item};
use crate::app::{API, TestApp, TestSettings};
use crate::routes::{acts, clips, completed, creates, shown, two_accounts};

const SLOTS: usize = 8;
const THRESHOLD: usize = 4;

/// The first account answers every order with 500.
fn down(more_scheduler: &'static str) -> TestSettings {
    TestSettings {
        slots: SLOTS,
        skip_back_off: false,
        more_scheduler,
        rules: vec![Rule::always(Fault::ServerError { status: 500 })],
        ..two_accounts()
    }
}

/// Videos that the first account alone can make.
fn only_there(count: usize) -> Value {
    json!({"items": (0..count).map(|n| item(&format!("only there {n}"))).collect::<Vec<_>>()})
}

async fn is_open(app: &TestApp) -> bool {
    app.count("select count(*) from provider_accounts where name = 'sora' and circuit_opened_at is not null").await == 1
}

async fn waits_for_the_circuit(app: &TestApp, customer: &Customer, id: &str) {
    app.until("the API says that it waits for the circuit", async || {
        customer.batch(id).await.body["waiting_reason"] == "circuit_open"
            && customer.videos(id).await.iter().any(|video| video["waiting_reason"] == "circuit_open")
    })
    .await;
}

/// When creates reached the first account, in milliseconds since the first of them.
fn arrivals(app: &TestApp) -> Vec<u64> {
    let book = app.emulator.book();
    let first = book.creates.first().map_or(0, |create| create.at_ms);
    book.creates.iter().map(|create| create.at_ms - first).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_answers_500_gets_few_orders_and_the_other_one_the_rest_until_it_is_well() {
    let app = TestApp::start(down("circuit_faults = 4\ncircuit_secs = 1\nmax_circuit_secs = 3")).await;
    let customer = app.customer(100_000).await;
    let alone = customer.order(&only_there(20)).await;
    let crowd = customer.order(&clips(30, "anywhere")).await;
    app.until("the circuit opens", async || is_open(&app).await).await;
    assert_eq!(shown(&app, "sora").await["state"], "circuit_open");
    waits_for_the_circuit(&app, &customer, &alone).await;
    // the other account is as open as ever, and makes everything that it can
    completed(&app, &customer, &crowd).await;
    assert_eq!(shown(&app, "veo").await["state"], "open");
    assert_eq!(creates(&app).1, 30);
    let tenant: String = sqlx::query_scalar("select id from tenants").fetch_one(app.pool()).await.unwrap();
    let explained = app.output(&["limits", "explain", &format!("tenant=ten_{tenant}"), "model=sora-2"]).await;
    assert!(explained.contains("account sora takes nothing new: circuit_open"), "{explained}");

    app.until("three probes were not taken", async || arrivals(&app).iter().filter(|at| **at > 900).count() >= 3).await;
    let (burst, probes): (Vec<u64>, Vec<u64>) = arrivals(&app).into_iter().partition(|at| *at <= 900);
    println!("{} creates before the circuit was open, then probes at {probes:?} ms", burst.len());
    assert!((THRESHOLD..=THRESHOLD + SLOTS).contains(&burst.len()), "{burst:?}");
    // the pause is one second, two and then three, each a little longer
    for (pair, least) in probes.windows(2).zip([2_000, 3_000].into_iter().chain(std::iter::repeat(3_000))) {
        assert!(pair[1] - pair[0] >= least, "{probes:?}: less than {least} ms after the last probe");
    }
    // who has not begun pays nothing for the pause
    let paid = "select count(*) from videos where attempts_made = 0 and (attempts_spent > 0 or waits > 0)";
    assert_eq!(app.count(paid).await, 0);
    assert!(app.count("select count(*) from videos where attempts_made = 0").await >= 20 - (THRESHOLD + SLOTS) as i64);

    app.emulator.clear_script();
    app.until("the circuit closes", async || !is_open(&app).await).await;
    assert_eq!(completed(&app, &customer, &alone).await, 20 * 61);
    assert_eq!(acts(&app).await, ["sora circuit_opened by worker", "sora circuit_closed by worker"]);
    let (there, elsewhere) = creates(&app);
    let spent = app.count("select sum(attempts_spent) from videos").await;
    assert_eq!(spent, (there + elsewhere) as i64, "each order counts as the retry table says, and no pause");
    assert_eq!(customer.available().await, 100_000 - 20 * 61 - 30 * 60);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_closes_a_circuit_at_once_and_an_account_that_cannot_be_reached_opens_it_too() {
    let mut settings = down("circuit_faults = 3\ncircuit_secs = 3600\nmax_circuit_secs = 3600");
    settings.rules = vec![Rule::always(Fault::DroppedBeforeAccept)];
    let app = TestApp::start(settings).await;
    let customer = app.customer(100_000).await;
    let id = customer.order(&only_there(10)).await;
    app.until("the circuit opens", async || is_open(&app).await).await;
    waits_for_the_circuit(&app, &customer, &id).await;
    let row = shown(&app, "sora").await;
    assert!(row["circuit_opened_at"].is_string() && row["probe_at"].is_string(), "{row}");
    let list = app.output(&["provider", "list"]).await;
    assert!(list.contains("circuit_open") && list.contains("orders failed one after the other since"), "{list}");
    let before = creates(&app).0;
    app.emulator.clear_script();
    let told = app.output(&["provider", "start", "sora", "--by", "ann"]).await;
    assert!(told.contains("before: circuit open"), "{told}");
    completed(&app, &customer, &id).await;
    assert_eq!(creates(&app).0, before + 10);
    assert_eq!(acts(&app).await, ["sora circuit_opened by worker", "sora start by ann"]);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_of_a_job_that_was_taken_opens_no_circuit() {
    let rules = vec![
        Rule::on_prompt("breaks", Fault::JobFailed),
        Rule::on_prompt("bad", Fault::JobModerated),
        Rule::on_prompt("gore", Fault::ModerationAtSubmit),
    ];
    let settings = TestSettings { more_scheduler: "circuit_faults = 1", rules, ..two_accounts() };
    let app = TestApp::start(settings).await;
    let customer = app.customer(100_000).await;
    let items = ["breaks", "bad", "gore"].map(item);
    let id = customer.order(&json!({"items": items})).await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "failed");
    assert_eq!(app.count("select count(*) from provider_accounts").await, 0);
    app.finish().await;
}

const LAW: CircuitLaw = CircuitLaw { faults: 3, pause: Duration::from_secs(10), max_pause: Duration::from_secs(60) };

fn fault(video: VideoId) -> News {
    News::Fault(AccountFault {
        attempt: AttemptId::generate(),
        video,
        after_success: false,
        law: LAW,
        jitter_permille: 0,
    })
}

/// Has one transaction of a worker's recorder write the news.
async fn hear(app: &TestApp, news: &[&News]) {
    let tell = |news: &&News| Transition::Account {
        account: "lab".into(),
        news: (*news).clone(),
        probe: Duration::from_secs(300),
    };
    let ops: Vec<Transition> = news.iter().map(tell).collect();
    let mut tx = app.pool().begin().await.unwrap();
    VideoJournal.write(&mut tx, &ops).await.unwrap();
    tx.commit().await.unwrap();
}

/// (faults that are counted, pause of the open circuit in seconds, seconds until the next probe)
async fn circuit(app: &TestApp) -> (i32, Option<i64>, Option<i64>) {
    sqlx::query_as(
        "select cardinality(circuit_faults), circuit_pause_ms / 1000,
             round(extract(epoch from probe_at - now()))::bigint from provider_accounts where name = 'lab'",
    )
    .fetch_one(app.pool())
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_faults_of_all_workers_count_together_and_once_however_often_they_are_written() {
    let app = TestApp::start(TestSettings { roles: API, skip_back_off: false, ..TestSettings::default() }).await;
    let (video, probe) = (VideoId::generate(), VideoId::generate());
    let faults: Vec<News> = (0..3).map(|_| fault(video)).collect();
    // an order that was taken writes nothing where nothing is counted
    hear(&app, &[&News::Took, &News::ProbeOver { video }]).await;
    assert_eq!(app.count("select count(*) from provider_accounts").await, 0);
    for _ in 0..2 {
        hear(&app, &[&faults[0], &faults[1]]).await;
        assert_eq!(circuit(&app).await, (2, None, None), "the answer to the first commit may have been lost");
    }
    hear(&app, &[&News::Took]).await;
    assert_eq!(circuit(&app).await, (0, None, None));
    // what is long ago is no outage
    hear(&app, &[&faults[0], &faults[1]]).await;
    app.execute("update provider_accounts set circuit_fault_at = now() - interval '11 minutes'").await;
    hear(&app, &[&faults[2]]).await;
    assert_eq!(circuit(&app).await, (1, None, None));

    // two workers at once
    let (one, other) = ([&faults[0]], [&faults[1]]);
    tokio::join!(hear(&app, &one), hear(&app, &other));
    assert_eq!(circuit(&app).await, (0, Some(10), Some(10)));
    hear(&app, &[&fault(video), &News::Took, &News::ProbeOver { video }]).await;
    assert_eq!(circuit(&app).await, (0, Some(10), Some(10)), "what was under way says nothing new");
    let sent = format!(
        "update provider_accounts set probe_video = '{}', probe_at = now() + interval '300 seconds'",
        probe.bare()
    );
    app.execute(&sent).await;
    let failed = fault(probe);
    for _ in 0..2 {
        hear(&app, &[&failed, &News::ProbeOver { video: probe }]).await;
        assert_eq!(circuit(&app).await, (0, Some(20), Some(20)));
    }
    app.execute(&sent).await;
    hear(&app, &[&News::ProbeOver { video: probe }]).await;
    assert_eq!(circuit(&app).await, (0, Some(20), Some(20)), "a probe that found nothing makes nothing longer");
    // out of credit as well: it is not tried before that is due, and one probe ends both
    hear(&app, &[&News::OutOfQuota]).await;
    assert_eq!(circuit(&app).await, (0, Some(20), Some(300)));
    hear(&app, &[&fault(video), &News::AnsweredAgain, &fault(video)]).await;
    assert_eq!(circuit(&app).await, (1, None, None));
    assert_eq!(
        acts(&app).await,
        [
            "lab circuit_opened by worker",
            "lab quota_exhausted by worker",
            "lab answered_again by worker",
            "lab circuit_closed by worker"
        ]
    );
    app.finish().await;
}
