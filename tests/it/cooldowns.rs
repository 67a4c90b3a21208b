//! Cool-downs: after a 429 nothing is ordered from the account for as long as the provider asked for, whoever leads, dies and
//! is started meanwhile; other accounts do not notice.
//!
//! `FREEZEFRAME_COOLDOWN_SECS=30` asks for so long in place of a few seconds.

use freezeframe::emulator::{Fault, Rule};
use serde_json::json;

use crate::app::client::item;
use crate::app::{API, TestApp, TestSettings};
use crate::pacing::{kill_the_leader, leading};
use crate::routes::{FOR_EVER_MS, clips, second, two_accounts};

/// Long enough for another leader to take over within it.
const USUAL_SECS: u32 = 20;
/// Videos under way at the account when the 429 comes, videos that wait for it, and videos of the other account.
const BEFORE: usize = 50;
const WAITING: usize = 40;
const ELSEWHERE: usize = 40;
/// Of each process: it takes all three to carry what is under way.
const SLOTS: usize = 20;

fn asked_secs() -> u32 {
    std::env::var("FREEZEFRAME_COOLDOWN_SECS").ok().and_then(|text| text.parse().ok()).unwrap_or(USUAL_SECS)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_process_orders_from_an_account_before_the_pause_of_its_429_is_over_whoever_leads() {
    let asked_secs = asked_secs();
    let refusal = Fault::RateLimited { retry_after_secs: Some(asked_secs) };
    let mut app = TestApp::start(TestSettings {
        roles: API,
        skip_back_off: false,
        slots: SLOTS,
        rules: vec![Rule::on_prompt("refused", refusal).times(1), Rule::takes("before", FOR_EVER_MS)],
        ..two_accounts()
    })
    .await;
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(app.start_process("worker,scheduler").await);
    }
    let customer = app.customer(1_000_000).await;
    let only_there = |prompt: &str, count: usize| json!({"items": (0..count).map(|n| item(&format!("{prompt} {n}"))).collect::<Vec<_>>()});
    // every process works with the account, and goes on asking about its jobs
    customer.order(&only_there("before", BEFORE)).await;
    let accepted = "from attempts where provider = 'sora' and state = 'accepted'";
    app.until("the account has work", async || {
        app.count(&format!("select count(*) {accepted}")).await == BEFORE as i64
    })
    .await;
    let workers = app.count(&format!("select count(distinct worker) {accepted}")).await;
    assert_eq!(workers, 3, "not every process works");

    customer.order(&only_there("refused", 1)).await;
    let cools = "select count(*) from provider_accounts where name = 'sora' and cooled_until > now()";
    app.until("the account cools", async || app.count(cools).await == 1).await;
    customer.order(&only_there("waiting", WAITING)).await;
    customer.order(&clips(ELSEWHERE, "elsewhere")).await;
    let old = leading(&mut app, &processes).await;
    let old = app.process(processes[old]).id();
    kill_the_leader(&mut app, &mut processes).await;
    let new = leading(&mut app, &processes).await;
    let new = app.process(processes[new]).id();
    assert_ne!(old, new);
    assert_eq!(app.count(cools).await, 1, "the leader was not killed within the pause");
    let made_elsewhere = async || second(&app).book().creates.len();
    app.until("the other account has its videos", async || made_elsewhere().await >= ELSEWHERE).await;
    assert_eq!(app.count(cools).await, 1, "the other account was held up");

    app.emulator.clear_script();
    let came_back = async || app.emulator.book().creates.len() > BEFORE + 1;
    app.until("the account is used again", came_back).await;
    let creates = app.emulator.book().creates;
    let refused = creates.iter().find(|create| !create.accepted).expect("nothing was refused").at_ms;
    let later: Vec<u64> =
        creates.iter().filter(|create| create.at_ms > refused).map(|create| create.at_ms - refused).collect();
    let asked_ms = u64::from(asked_secs) * 1_000;
    let within = later.iter().filter(|after| **after < asked_ms).count();
    println!(
        "{workers} processes used the account, leader {old} was killed within the pause and {new} led on: {within} \
         creates within {asked_secs} s of the 429, the first one after {} ms; the other account had {} meanwhile",
        later[0],
        made_elsewhere().await,
    );
    assert_eq!(within, 0, "{later:?}");
    // not much later either: jitter is a tenth
    assert!(later[0] <= asked_ms + asked_ms / 10 + 3_000, "{later:?}");
    // all but those that are made for ever: what is done and not fetched yet would be gone with the next hour
    let made = "select count(*) from videos where state = 'succeeded'";
    let short = (1 + WAITING + ELSEWHERE) as i64;
    app.until("everything else is made", async || app.count(made).await == short).await;
    app.emulator.advance_clock(FOR_EVER_MS);
    app.all_batches_end().await;
    let waited = "select count(*) from videos where state = 'succeeded' and attempts_spent > 1 and deaths = 0";
    assert_eq!(app.count(waited).await, 0, "a pause was charged as an attempt");
    app.finish().await;
}
