//! Routes: a model that leads to two accounts, each an emulator with a book of its own. A shut account is passed over before
//! anything is sent to it, an attempt keeps its route, and what the settings say is read again without a restart.

use freezeframe::domain::{AttemptId, AttemptState, Credits, FailureClass, GrantSource};
use freezeframe::emulator::{Book, Emulator, Fault, Rule};
use freezeframe::engine::queue::Ticket;
use freezeframe::engine::recorder::Journal;
use freezeframe::service::Roles;
use freezeframe::steps::record::{AttemptEnd, Claim, Close, Reply, Transition, Verdict, VideoJournal};
use freezeframe_workflows::money::CreditMove;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::app::client::{BATCHES, Customer, http_client, item};
use crate::app::{API_AND_SCHEDULER, TestApp, TestSettings};

/// `clip` may be made by both accounts, `sora-2` by the first alone.
const MODELS: &str = r#"
[[model]]
name = "clip"
routes = [{ provider = "sora", upstream = "sora-2" }, { provider = "veo", upstream = "sora-2" }]
price_credits = 60
standard_seconds = 4
seconds = [4]
sizes = ["1280x720"]

[[model]]
name = "sora-2"
provider = "sora"
price_credits = 61
standard_seconds = 4
seconds = [4]
sizes = ["1280x720"]
"#;
const BOTH: &str = r#"{ provider = "sora", upstream = "sora-2" }, { provider = "veo", upstream = "sora-2" }"#;

/// Longer than any test: such jobs end when the emulator's clock is advanced.
pub const FOR_EVER_MS: u64 = 3_600_000;

/// A batch that has just ended may still have a job of its own for a moment; a video that waits has none.
const VIDEO_JOBS: &str = "select count(*) from apalis.jobs where job_type = 'generate'";

pub fn two_accounts() -> TestSettings {
    TestSettings { two_emulators: true, models: MODELS.to_owned(), ..TestSettings::default() }
}

pub fn clips(count: usize, prompt: &str) -> Value {
    let items = (0..count).map(|n| json!({"prompt": format!("{prompt} {n}"), "model": "clip"}));
    json!({"items": items.collect::<Vec<_>>()})
}

pub fn second(app: &TestApp) -> &Emulator {
    app.second.as_ref().unwrap()
}

/// Creates that reached the first and the second account.
pub fn creates(app: &TestApp) -> (usize, usize) {
    (app.emulator.book().creates.len(), second(app).book().creates.len())
}

/// An account as `provider list --json` shows it.
pub async fn shown(app: &TestApp, account: &str) -> Value {
    let list: Value = serde_json::from_str(&app.output(&["provider", "list", "--json"]).await).unwrap();
    let found = list.as_array().unwrap().iter().find(|row| row["name"] == account);
    found.unwrap_or_else(|| panic!("{account} is not in {list}")).clone()
}

pub async fn acts(app: &TestApp) -> Vec<String> {
    let query = "select account || ' ' || act || ' by ' || actor from provider_account_changes order by id";
    sqlx::query_scalar(query).fetch_all(app.pool()).await.unwrap()
}

pub async fn completed(app: &TestApp, customer: &Customer, id: &str) -> i64 {
    let batch = app.finished_batch(customer, id).await;
    assert_eq!(batch.word("/status"), "completed", "{}", batch.text);
    batch.number("/credits/charged")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_account_gets_nothing_and_the_next_route_everything_until_it_is_started() {
    let app = TestApp::start(two_accounts()).await;
    let customer = app.customer(100_000).await;
    app.output(&["provider", "stop", "sora", "--reason", "price dispute", "--by", "ann"]).await;
    let id = customer.order(&clips(12, "a stopped account")).await;
    assert_eq!(completed(&app, &customer, &id).await, 12 * 60);
    assert_eq!(creates(&app), (0, 12));
    let stopped = shown(&app, "sora").await;
    assert_eq!((&stopped["state"], &stopped["stop_reason"]), (&json!("stopped"), &json!("price dispute")));
    assert_eq!(shown(&app, "veo").await["state"], "open");

    // a model with that one route waits, holds nothing, and goes on afterwards
    let waiting = customer.order(&json!({"items": [item("patience")]})).await;
    let elsewhere = customer.order(&clips(3, "meanwhile")).await;
    completed(&app, &customer, &elsewhere).await;
    assert_eq!(customer.batch(&waiting).await.number("/counts/waiting"), 1);
    assert_eq!(app.count(VIDEO_JOBS).await, 0);
    app.output(&["provider", "start", "sora", "--by", "bob"]).await;
    completed(&app, &customer, &waiting).await;
    let again = customer.order(&clips(4, "back to the first")).await;
    completed(&app, &customer, &again).await;
    assert_eq!(creates(&app), (5, 15));
    assert_eq!(acts(&app).await, ["sora stop by ann", "sora start by bob"]);

    let unknown = app.command(&["provider", "stop", "soar", "--reason", "x"]).await;
    assert!(!unknown.status.success());
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("known are: sora, veo"));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_and_starting_while_a_batch_runs_loses_nothing() {
    let mut settings = two_accounts();
    settings.slots = 8;
    settings.profile.latency_ms = (50, 150);
    let app = TestApp::start(settings).await;
    app.emulator.script(Rule { latency_ms: Some(FOR_EVER_MS), ..Rule::default() });
    let customer = app.customer(100_000).await;
    let id = customer.order(&clips(80, "a busy day")).await;
    let other =
        customer.order(&json!({"items": (0..20).map(|n| item(&format!("only here {n}"))).collect::<Vec<_>>()})).await;
    // until the account is stopped nothing ends, so that every slot is taken and most clips are still to come
    app.until("the first account works", async || creates(&app).0 == 8).await;
    app.output(&["provider", "stop", "sora", "--reason", "maintenance"]).await;
    app.emulator.clear_script();
    app.emulator.advance_clock(FOR_EVER_MS);
    app.until("the second account has taken over", async || creates(&app).1 >= 10).await;
    assert_eq!(creates(&app).0, 8, "a create reached the account after its stop");
    app.output(&["provider", "start", "sora"]).await;
    assert_eq!(completed(&app, &customer, &id).await, 80 * 60);
    assert_eq!(completed(&app, &customer, &other).await, 20 * 61);
    let (first, second) = creates(&app);
    assert_eq!(first + second, 100, "a video was submitted twice");
    assert_eq!(app.count("select sum(attempts_spent) from videos").await, 100);
    app.finish().await;
}

/// When the first create was refused, and when the account was used again, by the emulator's clock.
fn refusal_and_return(book: &Book) -> (u64, Vec<u64>) {
    let refused = book.creates.iter().find(|create| !create.accepted).expect("nothing was refused").at_ms;
    (refused, book.creates.iter().map(|create| create.at_ms).filter(|at| *at > refused).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_429_cools_the_account_for_every_worker_process_while_the_other_account_goes_on() {
    let busy = Rule::on_prompt("busy", Fault::RateLimited { retry_after_secs: Some(4) });
    let mut app = TestApp::start(TestSettings {
        roles: API_AND_SCHEDULER,
        skip_back_off: false,
        slots: 30,
        rules: vec![busy],
        ..two_accounts()
    })
    .await;
    for _ in 0..2 {
        app.start_process("worker").await;
    }
    let customer = app.customer(100_000).await;
    let first = customer.order(&clips(1, "busy")).await;
    // the pause that was written lasts until all of this is over, however long that takes
    let longer = "update provider_accounts set cooled_until = cooled_until + interval '10 minutes'
                  where name = 'sora' and cooled_until is not null";
    app.until("the account cools", async || app.execute(longer).await == 1).await;
    assert_eq!(shown(&app, "sora").await["state"], "cooling");
    // more than one process has slots for: both have a part in it
    second(&app).script(Rule::takes("calm", FOR_EVER_MS));
    let crowd = customer.order(&clips(50, "calm")).await;
    let alone = customer.order(&json!({"items": [item("calm and only here")]})).await;
    let accepted = "from attempts a join videos v on v.id = a.video_id
                    where a.state = 'accepted' and v.prompt like 'calm%'";
    app.until("the other account has them", async || app.count(&format!("select count(*) {accepted}")).await == 50)
        .await;
    assert!(app.count(&format!("select count(distinct a.worker) {accepted}")).await >= 2);
    second(&app).advance_clock(FOR_EVER_MS);
    completed(&app, &customer, &crowd).await;
    completed(&app, &customer, &first).await;
    assert_eq!(creates(&app), (1, 51));
    app.execute("update provider_accounts set cooled_until = cooled_until - interval '10 minutes'").await;
    completed(&app, &customer, &alone).await;
    let (refused, later) = refusal_and_return(&app.emulator.book());
    assert_eq!(later.len(), 1);
    assert!(later[0] - refused >= 3_950, "a create came {} ms after a 429 that asked for 4 s", later[0] - refused);
    assert_eq!(app.count("select sum(attempts_spent) from videos").await, 52, "a wait was charged as an attempt");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_without_credit_is_passed_over_until_a_probe_is_taken() {
    let spent = Rule::on_prompt("poor", Fault::QuotaExhausted);
    let app = TestApp::start(TestSettings { skip_back_off: false, rules: vec![spent], ..two_accounts() }).await;
    let customer = app.customer(100_000).await;
    let id = customer.order(&clips(10, "poor")).await;
    completed(&app, &customer, &id).await;
    let (refused, made) = creates(&app);
    assert!((1..=10).contains(&refused) && made == 10, "{refused} refused, {made} made elsewhere");
    assert_eq!(app.count("select sum(attempts_spent) from videos").await, 10);
    let list = shown(&app, "sora").await;
    assert_eq!(list["state"], "out_of_quota");
    assert!(list["quota_exhausted_at"].is_string() && list["probe_at"].is_string(), "{list}");

    // the credit is back, and nobody has asked yet
    let id = customer.order(&clips(5, "rich")).await;
    completed(&app, &customer, &id).await;
    assert_eq!(creates(&app), (refused, 15));
    app.execute("update provider_accounts set probe_at = now()").await;
    let id = customer.order(&clips(1, "rich and curious")).await;
    completed(&app, &customer, &id).await;
    assert_eq!(creates(&app), (refused + 1, 15));
    app.until("the account is known to be back", async || {
        app.count("select count(*) from provider_accounts where quota_exhausted_at is not null").await == 0
    })
    .await;
    let id = customer.order(&clips(5, "rich again")).await;
    completed(&app, &customer, &id).await;
    assert_eq!(creates(&app), (refused + 6, 15));
    assert_eq!(acts(&app).await, ["sora quota_exhausted by worker", "sora answered_again by worker"]);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_video_at_a_time_asks_an_account_that_is_out_of_credit_and_the_others_hold_nothing() {
    let spent = Rule::on_prompt("poor", Fault::QuotaExhausted);
    let app = TestApp::start(TestSettings { skip_back_off: false, rules: vec![spent], ..two_accounts() }).await;
    let customer = app.customer(100_000).await;
    let only_here =
        |prompt: &str, n: usize| json!({"items": (0..n).map(|n| item(&format!("{prompt} {n}"))).collect::<Vec<_>>()});
    // nowhere else to go: told as what it is, and refunded
    let id = customer.order(&only_here("poor", 1)).await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "failed");
    assert_eq!(customer.videos(&id).await[0]["failure"]["type"], "no_credit");
    assert_eq!(customer.available().await, 100_000);

    let id = customer.order(&only_here("poor still", 6)).await;
    app.execute("update provider_accounts set probe_at = now()").await;
    app.until("the probe has failed", async || app.emulator.book().creates.len() == 2).await;
    app.until("its end is written", async || customer.batch(&id).await.number("/counts/failed") == 1).await;
    assert_eq!(customer.batch(&id).await.number("/counts/waiting"), 5);
    assert_eq!(app.count(VIDEO_JOBS).await, 0);
    // an operator knows better than a probe
    app.emulator.clear_script();
    app.output(&["provider", "start", "sora"]).await;
    assert_eq!(app.finished_batch(&customer, &id).await.number("/counts/succeeded"), 5);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_video_that_an_account_failed_goes_to_the_other_one() {
    let rules = vec![
        Rule::on_prompt("breaks", Fault::JobFailed),
        Rule::on_prompt("unknown", Fault::ModelNotFound),
        Rule::on_prompt("gore", Fault::ModerationAtSubmit),
    ];
    let app = TestApp::start(TestSettings { rules, ..two_accounts() }).await;
    let customer = app.customer(100_000).await;
    let prompts = ["breaks", "unknown", "gore"].map(|prompt| json!({"prompt": prompt, "model": "clip"}));
    let id = customer.order(&json!({"items": prompts})).await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "partial");
    let videos = customer.videos(&id).await;
    assert_eq!((&videos[0]["state"], &videos[0]["attempts"]), (&json!("succeeded"), &json!(2)));
    assert_eq!((&videos[1]["state"], &videos[1]["attempts"]), (&json!("succeeded"), &json!(2)));
    // what no account may make is asked of none but the first
    assert_eq!(videos[2]["failure"]["type"], "moderation");
    assert_eq!(creates(&app), (3, 2));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_past_its_last_day_is_passed_over_and_a_model_past_all_of_them_is_refused_before_any_freeze() {
    let clip = MODELS.replace(BOTH, &BOTH.replacen("\"sora-2\" }", "\"sora-2\", available_until = 2020-01-01 }", 1));
    let ended = r#"
[[model]]
name = "old"
routes = [{ provider = "sora", upstream = "sora-2", available_until = 2020-01-01 },
    { provider = "veo", upstream = "sora-2", available_until = 2020-02-02 }]
replacement = "older"
price_credits = 60
standard_seconds = 4
seconds = [4]
sizes = ["1280x720"]
"#;
    let older =
        ended.replace("\"old\"", "\"oldest\"").replace("\"older\"", "\"clip\"").replace("\"oldest\"", "\"older\"");
    let app = TestApp::start(TestSettings { models: format!("{clip}{ended}{older}"), ..two_accounts() }).await;
    let customer = app.customer(100_000).await;
    let id = customer.order(&clips(6, "today")).await;
    completed(&app, &customer, &id).await;
    assert_eq!(creates(&app), (0, 6));

    let left = customer.available().await;
    let order = json!({"items": [{"prompt": "new", "model": "clip"}, {"prompt": "late", "model": "old"}]});
    let refused = customer.submit(&order).await.problem(422);
    let told = json!([{
        "pointer": "/items/1/model",
        "detail": "`old` is no longer offered, its last day was 2020-02-02; order `clip` instead"
    }]);
    assert_eq!(refused["errors"], told, "{refused}");
    assert_eq!(customer.available().await, left);
    assert_eq!(app.count("select count(*) from batches").await, 1);
    let models = customer.get("/api/enterprise/models").await.expect(200).body["data"].clone();
    let old = models.as_array().unwrap().iter().find(|model| model["name"] == "old").unwrap();
    assert_eq!(
        (&old["available"], &old["available_until"], &old["replacement"]),
        (&json!(false), &json!("2020-02-02"), &json!("clip"))
    );
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_keeps_its_account_and_an_order_its_price_when_the_settings_change_under_them() {
    let app = TestApp::start(TestSettings { rules: vec![Rule::takes("slow", 600_000)], ..two_accounts() }).await;
    let customer = app.customer(100_000).await;
    let id = customer.order(&clips(3, "slow")).await;
    app.until("the first account has them", async || {
        app.count("select count(*) from attempts where state = 'accepted'").await == 3
    })
    .await;
    let mut app = app;
    // the first account is gone altogether, the model is dearer and leads to the second alone
    let (head, accounts) = app.settings.split_once("[[provider]]").unwrap();
    let (_, second_account) = accounts.split_once("[[provider]]").unwrap();
    let (second_account, _) = second_account.split_once("[[model]]").unwrap();
    let (clip, _) = MODELS.split_at(MODELS.rfind("[[model]]").unwrap());
    let clip = clip.replace(BOTH, r#"{ provider = "veo", upstream = "sora-2" }"#).replace("= 60", "= 90");
    let changed = format!("{head}[[provider]]{second_account}{clip}");
    app.reload(&changed);
    let later = customer.order(&clips(2, "quick")).await;
    assert_eq!(completed(&app, &customer, &later).await, 2 * 90);
    assert_eq!(creates(&app), (3, 2));
    app.emulator.advance_clock(600_000);
    assert_eq!(completed(&app, &customer, &id).await, 3 * 60);
    assert_eq!(creates(&app), (3, 2));
    assert!(customer.videos(&id).await.iter().all(|video| video["attempts"] == 1));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_model_whose_last_route_ends_is_refunded_and_not_sent_anywhere() {
    let mut app = TestApp::start(two_accounts()).await;
    let customer = app.customer(100_000).await;
    for account in ["sora", "veo"] {
        app.output(&["provider", "stop", account, "--reason", "both at once"]).await;
    }
    let id = customer.order(&clips(4, "too late")).await;
    let ended = MODELS.replace(BOTH, &BOTH.replace("\"sora-2\" }", "\"sora-2\", available_until = 2020-01-01 }"));
    let changed = app.settings.replace(MODELS, &ended);
    assert_ne!(changed, app.settings);
    app.reload(&changed);
    for account in ["sora", "veo"] {
        app.output(&["provider", "start", account]).await;
    }
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "failed");
    let types: Vec<Value> = customer.videos(&id).await.iter().map(|video| video["failure"]["type"].clone()).collect();
    assert_eq!(types, vec![json!("model_retired"); 4]);
    assert_eq!((creates(&app), customer.available().await), ((0, 0), 100_000));
    app.finish().await;
}

/// The price of a clip as the API of that process tells it.
async fn price(customer: &Customer) -> i64 {
    let models = customer.get("/api/enterprise/models").await.expect(200).body["data"].clone();
    let clip = models.as_array().unwrap().iter().find(|model| model["name"] == "clip").unwrap().clone();
    clip["prices"][0]["price_credits"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_reads_its_settings_again_on_sighup_and_when_their_file_has_changed() {
    let none = Roles { api: false, worker: false, scheduler: false };
    let mut app = TestApp::start(TestSettings { roles: none, ..two_accounts() }).await;
    let at = app.start_process("api,worker,scheduler").await;
    let base = app.process(at).base.clone();
    app.until_serving(&base).await;
    let customer = app.customer_at(&base, &[(GrantSource::Paid, 100_000)]).await;
    assert_eq!(price(&customer).await, 60);
    let good = app.settings.clone();

    // a broken file changes nothing, and every problem of it is told
    app.write_settings(&good.replace("price_credits = 60", "price_credits = 0\ncolour = \"blue\""));
    app.process(at).signal(Signal::SIGHUP);
    let base_of = &base;
    app.process(at).logged("not taken over").await;
    let log = app.process(at).log();
    assert!(log.contains(".price_credits` must be") && log.contains(".colour`; known here"), "{log}");
    assert_eq!(price(&customer).await, 60);
    let id = customer.order(&clips(2, "as before")).await;
    assert_eq!(completed(&app, &customer, &id).await, 120);

    app.write_settings(&good.replace("price_credits = 60", "price_credits = 75"));
    app.process(at).signal(Signal::SIGHUP);
    app.until("the new price holds", async || price(&customer).await == 75).await;
    let id = customer.order(&clips(2, "dearer")).await;
    assert_eq!(completed(&app, &customer, &id).await, 150);

    // nobody says a word: the file is seen by itself
    app.write_settings(&good.replace("price_credits = 60", "price_credits = 7500"));
    app.until("the changed file was read", async || price(&customer).await == 7500).await;

    // what waits for an account is counted by its reason
    app.settings = good;
    app.output(&["provider", "stop", "sora", "--reason", "to be counted"]).await;
    let id = customer.order(&json!({"items": [item("counted")]})).await;
    let http = http_client();
    app.until("the metric says why it waits", async || {
        let text = http.get(format!("{base_of}/metrics")).send().await.unwrap().text().await.unwrap();
        text.contains("freezeframe_videos_waiting{reason=\"paused\"} 1")
    })
    .await;
    app.process(at).logged("no route of this model takes videos").await;
    app.output(&["provider", "start", "sora"]).await;
    app.until("it is made", async || customer.get(&format!("{BATCHES}/{id}")).await.body["status"] == "completed")
        .await;
    app.finish().await;
}

/// A worker that lives in the test's head takes the jobs of the queue, in the order of their videos.
async fn take_jobs(app: &TestApp) -> Vec<Ticket> {
    app.execute(
        "insert into apalis.workers (id, worker_type, storage_name, last_seen) values ('head', 'generate', 'test', now())
         on conflict do nothing",
    )
    .await;
    let rows: Vec<(String, i32)> = sqlx::query_as(
        "update apalis.jobs set status = 'Queued', lock_by = 'head', lock_at = now() returning id, attempts",
    )
    .fetch_all(app.pool())
    .await
    .unwrap();
    let by_position: Vec<String> =
        sqlx::query_scalar("select id from videos order by position").fetch_all(app.pool()).await.unwrap();
    let mut tickets: Vec<Ticket> =
        rows.into_iter().map(|(id, attempts)| Ticket { id: id.parse().unwrap(), attempts }).collect();
    tickets.sort_by_key(|ticket| by_position.iter().position(|id| *id == ticket.id.to_string()));
    tickets
}

async fn claim(app: &TestApp, tickets: &[Ticket]) -> Vec<Reply> {
    let claims: Vec<Transition> = tickets
        .iter()
        .map(|ticket| Claim { ticket: *ticket, worker: "head".into(), claim_id: AttemptId::generate() })
        .map(Transition::Claim)
        .collect();
    let mut tx = app.pool().begin().await.unwrap();
    let replies = VideoJournal.write(&mut tx, &claims).await.unwrap();
    tx.commit().await.unwrap();
    replies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_video_of_an_account_that_was_stopped_meanwhile_goes_back_to_its_place_unless_it_was_sent() {
    let mut app = TestApp::start(TestSettings { roles: API_AND_SCHEDULER, ..two_accounts() }).await;
    // it does not beat, and is not to be taken for dead
    app.execute(
        "insert into workers (name, queue, slots, seen_at) values ('head', 'generate', 3, now() + interval '1 hour')",
    )
    .await;
    let customer = app.customer(100_000).await;
    let id = customer.order(&json!({"items": (0..5).map(|n| item(&format!("calm {n}"))).collect::<Vec<_>>()})).await;
    app.until("three are released", async || app.count("select count(*) from apalis.jobs").await == 3).await;
    app.stop_service().await;
    let tickets = take_jobs(&app).await;
    // the second one was sent before, and its worker handed it over
    let Reply::Claimed(sent) = claim(&app, &tickets[1..2]).await.remove(0) else { panic!("not claimed") };
    let mut tx = app.pool().begin().await.unwrap();
    let over = [
        Transition::Accepted { lease: sent.lease.clone(), handle: "video_of_the_test".to_owned() },
        Transition::HandOver { lease: sent.lease.clone() },
    ];
    VideoJournal.write(&mut tx, &over).await.unwrap();
    tx.commit().await.unwrap();
    app.output(&["provider", "stop", "sora", "--reason", "after the release"]).await;

    let replies = claim(&app, &tickets).await;
    assert!(matches!(&replies[..], [Reply::GivenBack, Reply::Claimed(_), Reply::GivenBack]), "{replies:?}");
    let counts = "select (l.waiting * 100 + l.next_position * 10 + r.in_flight)::bigint
                  from batch_lanes l join lane_routes r on r.batch_id = l.batch_id and r.model = l.model";
    assert_eq!(app.count(&format!("{counts} limit 1")).await, 4 * 100 + 1, "4 wait from place 0 on, 1 is under way");
    assert_eq!(app.count("select count(*) from apalis.jobs").await, 1);
    assert_eq!(app.count("select count(*) from attempts").await, 1);
    assert_eq!(app.count("select sum(attempts_made + attempts_spent + waits) from videos").await, 1);

    // the place is kept: the first one goes first when the account is back
    app.output(&["provider", "start", "sora"]).await;
    let Reply::Claimed(video) = &replies[1] else { panic!("not claimed") };
    let attempt = AttemptEnd {
        state: AttemptState::Failed,
        handle: None,
        failure: Some(FailureClass::Timeout),
        message: Some("too late".to_owned()),
        blames_account: true,
        possible_cost: Credits::ZERO,
        may_succeed: false,
    };
    let close = Close {
        lease: video.lease.clone(),
        batch: video.batch,
        attempt,
        verdict: Verdict::Fail,
        credits: CreditMove::Refund,
    };
    let mut tx = app.pool().begin().await.unwrap();
    VideoJournal.write(&mut tx, &[Transition::Close(Box::new(close))]).await.unwrap();
    tx.commit().await.unwrap();
    app.excuse("the provider never gave out the handle");
    app.excuse("jobs accepted, but");
    app.execute("delete from workers").await;
    app.set_roles(Roles::ALL);
    app.start_service().await;
    let here = app.here(&customer);
    assert_eq!(app.finished_batch(&here, &id).await.number("/counts/succeeded"), 4);
    app.finish().await;
}
