//! Every kind of hostility once, through the real worker: each video fails alone, is refunded, and its customer reads
//! nothing that the enemy wrote for him.
//!
//! `FREEZEFRAME_HOSTILE_ROUND=1` (2, 3) takes the next vendor for each kind.

use std::time::{Duration, Instant};

use freezeframe::bench::hostile::{End, Kind, Vendor, accounts_and_models};
use freezeframe::emulator::{Fault, Nth, Profile, Rule};
use serde_json::{Value, json};

use crate::app::{TestApp, TestSettings};

/// Longer than three attempts of 10 s and the last looks behind them.
const PATIENCE: Duration = Duration::from_secs(200);
const SECRET: &str = "the secret plan of this customer, which nobody may quote to anybody else";
/// What the settings of tests give every account.
const KEY: &str = "emulator-key";

fn item(model: &str, prompt: &str) -> Value {
    json!({"model": model, "prompt": prompt, "seconds": 4, "size": "1280x720"})
}

fn word<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn end_of(video: &Value) -> End {
    // the sentence is ours, what stands beside it came from outside
    let (sentence, detail) = (word(video, "/failure/message"), word(video, "/failure/detail"));
    End {
        state: word(video, "/state").to_owned(),
        class: word(video, "/failure/type").to_owned(),
        message: if detail.is_empty() { sentence } else { detail }.to_owned(),
        refunded: video["refunded_credits"] == video["price_credits"],
        seconds: 0.0,
        attempts: video["attempts"].as_i64().and_then(|attempts| i32::try_from(attempts).ok()).unwrap_or_default(),
    }
}

/// The model of honest customers: on the account that the enemy uses too.
fn patient(vendor: Vendor) -> String {
    format!("patient-{}", vendor.shared())
}

/// The shared models once more, with a deadline that a slow machine keeps as well.
fn patient_models(offered: &str) -> String {
    let copies = Vendor::ALL.map(|vendor| {
        let head = format!("[[model]]\nname = \"{}\"", vendor.shared());
        let model = &offered[offered.find(&head).expect("every vendor has a shared model")..];
        let model = model.split("\n[[").next().unwrap_or_default();
        let (usual, long) = ("deadline_secs = 10\n", "deadline_secs = 120\n");
        assert!(model.contains(usual), "{model}");
        model.replace(&head, &format!("\n[[model]]\nname = \"{}\"", patient(vendor))).replace(usual, long)
    });
    copies.concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_hostility_fails_alone_and_is_refunded() {
    let mut app = TestApp::start(TestSettings {
        slots: 500,
        profile: Profile { one_clip_for_all: true, clip_seconds: 1, latency_ms: (300, 600), ..Profile::calm() },
        submit_timeout_secs: 8,
        more_attempts: "download_timeout_secs = 4",
        more_storage: "max_video_bytes = 33554432".to_owned(),
        ..TestSettings::default()
    })
    .await;
    let offered = accounts_and_models(&app.emulator.url(""), "EMULATOR_KEY", (10, 250));
    let settings = format!("{}{offered}{}", app.settings, patient_models(&offered));
    app.reload(&settings);
    let (honest, attacked) = (app.customer(100_000).await, app.customer(100_000).await);
    let honest_items = |count: usize| -> Vec<Value> {
        (0..count).map(|n| item(&patient(Vendor::ALL[n % 4]), &format!("A calm lake, take {n}"))).collect()
    };
    // the jobs that liars will claim to be theirs
    let first = honest.order(&json!({"items": honest_items(4)})).await;
    app.finished_batch(&honest, &first).await;

    let round = std::env::var("FREEZEFRAME_HOSTILE_ROUND").ok().and_then(|round| round.parse().ok()).unwrap_or(0);
    let kinds = Kind::round(round);
    for kind in &kinds {
        let rule = Rule::on_prompt(kind.mark(), Fault::Attack { attack: kind.attack });
        let first = kind.attack.first_creates();
        app.emulator.script(match first {
            Some(last) => rule.nth(Nth { from: 1, to: Some(last) }),
            None => rule,
        });
    }
    let prompt = |kind: &Kind| format!("{} {SECRET}", kind.mark());
    let items: Vec<Value> = kinds.iter().map(|kind| item(&kind.model(), &prompt(kind))).collect();
    let began = Instant::now();
    let hostile = attacked.order(&json!({"items": items})).await;
    let beside = honest.order(&json!({"items": honest_items(24)})).await;

    let answer = app.finished_batch(&honest, &beside).await;
    assert_eq!(answer.word("/status"), "completed", "honest videos: {}", answer.text);
    let ended = format!("select count(*) from batches where finished_at is not null and 'bat_' || id = '{hostile}'");
    while app.count(&ended).await == 0 {
        assert!(began.elapsed() < PATIENCE, "still under way: {:?}", open(&app).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{} kinds ended within {:?}", kinds.len(), began.elapsed());

    let videos = attacked.videos(&hostile).await;
    assert_eq!(videos.len(), kinds.len());
    let mut wrong = Vec::new();
    for (kind, video) in kinds.iter().zip(&videos) {
        let end = end_of(video);
        println!("{kind}: {end:?}");
        wrong.extend(kind.complaints(&end, &["secret plan", KEY]));
    }
    assert!(wrong.is_empty(), "{} complaints:\n- {}", wrong.len(), wrong.join("\n- "));
    // the audit compares ids as one vendor spells them, and here the provider's word about its jobs is worth nothing
    for part in ["the provider's job", "the provider never gave out", "jobs accepted, but"] {
        app.excuse(part);
    }
    app.finish().await;
}

/// What has not ended yet.
async fn open(app: &TestApp) -> Vec<String> {
    let query = "select state::text || ' ' || left(prompt, 60) from videos where finished_at is null";
    sqlx::query_scalar(query).fetch_all(app.pool()).await.unwrap()
}
