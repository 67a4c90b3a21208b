//! What goes wrong on the way, and what the customer is told of it.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use super::proxy::Proxy;
use super::{Machine, Ran, app, path};
use crate::app::{PATIENCE, TestApp, TestSettings};
use freezeframe::emulator::Profile;

const SEA: &str = "{\"prompt\":\"a calm sea\",\"model\":\"sora-2\"}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_is_told_by_line_and_nothing_is_bought() {
    let app = app().await;
    let customer = app.customer(1_000).await;
    let machine = Machine::of(&customer);
    let broken = machine.file("broken.jsonl", &format!("{SEA}{{\"prompt\": }}\n"));
    machine
        .run(&["batch", "submit", path(&broken)])
        .await
        .ends_with(1)
        .says(&["broken.jsonl:2:12: not valid JSON: expected value"]);
    let refused = machine.file(
        "refused.jsonl",
        &format!("{SEA}\n{}", "{\"prompt\":\"x\",\"model\":\"sora-9\",\"colour\":1}\n{\"prompt\":\"x\",\"model\":\"sora-2\",\"seconds\":5}\n"),
    );
    let ran = machine.run(&["batch", "submit", path(&refused), "--webhook-url", "gopher://x"]).await.ends_with(1);
    ran.says(&[
        "4 things are wrong, nothing was bought",
        "refused.jsonl: `--webhook-url` must",
        "refused.jsonl:3: `model` is not offered",
        "refused.jsonl:3: `colour` is not a known field",
        "refused.jsonl:4: `seconds` must be one of",
    ]);
    assert!(ran.out.is_empty(), "{}", ran.out);
    machine.run(&["batch", "submit", "missing.jsonl"]).await.ends_with(1).says(&["cannot read missing.jsonl"]);
    machine
        .run(&["batch", "submit", path(&refused), "--key", "two words"])
        .await
        .ends_with(2)
        .says(&["printable ASCII"]);
    assert_eq!(app.count("select count(*) from batches").await, 0);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn being_short_of_credits_is_told_with_what_is_missing() {
    let app = app().await;
    let customer = app.customer(100).await;
    let machine = Machine::of(&customer);
    let file = machine.file("a.jsonl", &SEA.repeat(2));
    let ran = machine.run(&["batch", "submit", path(&file), "--json"]).await.ends_with(1);
    ran.says(&["not enough credits, nothing was frozen: 122 required, 100 available, 22 too few"]);
    assert!(ran.out.is_empty(), "{}", ran.out);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_asked_for_what_and_why_not_is_told() {
    let app = app().await;
    let customer = app.customer(100).await;
    let machine = Machine::of(&customer);
    let unknown = "bat_01JD0000000000000000000000";
    machine.run(&["batch", "show", unknown]).await.ends_with(1).says(&[unknown, "freezeframe batch list"]);
    machine.run(&["batch", "show", "../wallet"]).await.ends_with(1).says(&["the batch id in the address"]);
    machine.run(&["batch", "watch", "fox"]).await.ends_with(1).says(&["the batch id in the address"]);
    machine.run(&["models", "sora-9"]).await.ends_with(1).says(&["there is no model `sora-9`; there are", "sora-2"]);
    let mistyped = format!("{}x", customer.api_key);
    Machine::new(&customer.base, &mistyped)
        .run(&["wallet"])
        .await
        .ends_with(1)
        .says(&["refused the API key", "FREEZEFRAME_API_KEY"]);
    Machine::new(&customer.base, "").run(&["wallet"]).await.ends_with(1).says(&["no API key: set FREEZEFRAME_API_KEY"]);
    Machine::new("http://127.0.0.1:1", "k")
        .run(&["wallet"])
        .await
        .ends_with(1)
        .says(&["no connection to http://127.0.0.1:1", "--url"]);
    let elsewhere = app.emulator.base_url();
    Machine::new(&elsewhere, "k").run(&["wallet"]).await.ends_with(1).says(&["which is not how Freezeframe answers"]);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_asked_for_again_and_never_bought_twice() {
    let app = app().await;
    let customer = app.customer(1_000).await;
    let proxy = Proxy::start(&customer.base).await;
    let machine = Machine::new(&proxy.base, &customer.api_key);
    let file = machine.file("a.jsonl", SEA);
    proxy.swallow_answers(2);
    let ran = machine.run(&["batch", "submit", path(&file), "--json"]).await.ends_with(0);
    ran.says(&["no answer", "trying again in 0.5 s with the same key", "nothing was bought again"]);
    assert_eq!(ran.document()["replayed"], true);
    assert_eq!((proxy.posts(), app.count("select count(*) from batches").await), (3, 1));
    proxy.swallow_answers(usize::MAX);
    let ran = machine.run(&["batch", "submit", path(&file), "--retry-for", "1"]).await.ends_with(1);
    ran.says(&["whether the batch was accepted is not known", "run the same command again with --key cli-"]);
    let key = ran.err.split("again with --key ").nth(1).unwrap().split(';').next().unwrap().to_owned();
    proxy.swallow_answers(0);
    machine
        .run(&["batch", "submit", path(&file), "--key", &key])
        .await
        .ends_with(0)
        .says(&["nothing was bought again"]);
    assert_eq!(app.count("select count(*) from batches").await, 2);
    proxy.lead_to(None);
    machine.run(&["batch", "submit", path(&file), "--retry-for", "0"]).await.ends_with(1);
    app.all_batches_end().await;
    app.finish().await;
}

/// Waits for a line of standard error that has all these parts.
async fn line_with(lines: &mut tokio::io::Lines<BufReader<tokio::process::ChildStderr>>, part: &str) -> String {
    let wait = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(part) {
                return line;
            }
        }
        panic!("it ended without {part:?}");
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never said: {part:?}"))
}

/// A batch that is still running, and somebody who watches it.
async fn watched(app: &TestApp, proxy: &Proxy, machine: &Machine) -> (String, Child) {
    let file = machine.file("a.jsonl", &SEA.repeat(6));
    let id = machine.run(&["batch", "submit", path(&file), "--json"]).await.ends_with(0).document();
    let id = id["batch_id"].as_str().unwrap().to_owned();
    app.until("a video runs", async || app.count("select count(*) from videos where state = 'running'").await > 0)
        .await;
    assert!(!proxy.base.is_empty());
    let child = machine.command(&["batch", "watch", &id, "--json"]).spawn().unwrap();
    (id, child)
}

/// Longer than any test: such jobs end when the emulator's clock is advanced.
const FOR_EVER_MS: u64 = 3_600_000;

fn slow() -> TestSettings {
    let profile = Profile { latency_ms: (FOR_EVER_MS, FOR_EVER_MS), ..TestSettings::default().profile };
    TestSettings { profile, ..TestSettings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_survives_a_restart_of_the_service() {
    let mut app = TestApp::start(slow()).await;
    let customer = app.customer(1_000).await;
    let proxy = Proxy::start(&customer.base).await;
    let machine = Machine::new(&proxy.base, &customer.api_key);
    let (id, mut child) = watched(&app, &proxy, &machine).await;
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    line_with(&mut lines, "0%  0 succeeded").await;
    proxy.lead_to(None);
    app.stop_service().await;
    line_with(&mut lines, "trying again").await;
    app.start_service().await;
    proxy.lead_to(Some(&app.base()));
    line_with(&mut lines, "connected again").await;
    app.emulator.advance_clock(FOR_EVER_MS);
    line_with(&mut lines, "100%  6 succeeded").await;
    let ran = Ran::from(child.wait_with_output().await.unwrap()).ends_with(0);
    assert_eq!(ran.document()["batch_id"], id);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_the_batch_running_and_says_how_to_go_on() {
    let app = TestApp::start(slow()).await;
    let customer = app.customer(1_000).await;
    let proxy = Proxy::start(&customer.base).await;
    let machine = Machine::new(&proxy.base, &customer.api_key);
    let (id, mut child) = watched(&app, &proxy, &machine).await;
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    line_with(&mut lines, "0 succeeded").await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    line_with(&mut lines, &format!("the batch goes on: freezeframe batch watch {id}")).await;
    let ran = Ran::from(child.wait_with_output().await.unwrap()).ends_with(130);
    assert_eq!(ran.document()["status"], Value::from("processing"));
    app.emulator.advance_clock(FOR_EVER_MS);
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    app.finish().await;
}
