//! What whoever pays reads about a failure: its type, one plain sentence, what the provider said, and the refund under that
//! reason.

use std::collections::{BTreeMap, BTreeSet};

use freezeframe::domain::FailureClass;
use freezeframe::emulator::{Fault, Rule};
use freezeframe_workflows::retry::explain;
use serde_json::{Value, json};

use crate::app::client::item;
use crate::app::{TestApp, TestSettings};

/// Twelve seconds are on offer here and not at the provider; nothing may take longer than ten.
const MODELS: &str = "
[[model]]
name = \"sora-2\"
provider = \"sora\"
price_credits = 61
standard_seconds = 4
seconds = [4, 12]
sizes = [\"1280x720\"]
deadline_secs = 10
";

/// Words of our trade that say nothing to anybody else.
const JARGON: [&str; 12] = [
    "HTTP",
    "http",
    "status code",
    "JSON",
    "null",
    "token",
    "upstream",
    "lease",
    "poll",
    "attempt_",
    "Err(",
    "127.0.0.1",
];

fn class_of(name: &str) -> FailureClass {
    FailureClass::ALL.into_iter().find(|class| class.name() == name).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_ways_to_fail_are_eight_refunds_with_reasons_of_their_own_and_a_plain_sentence_each() {
    // what the prompt says, the fault, the failure type, whether the provider had something to say
    let table = [
        ("gore in the snow", Fault::ModerationAtSubmit, "moderation", true),
        ("a machine that breaks", Fault::JobFailed, "provider_fault", true),
        ("an empty purse", Fault::QuotaExhausted, "no_credit", true),
        ("yesterday's model", Fault::ModelNotFound, "model_retired", true),
        ("a link that dies", Fault::ExpiredLink, "expired", true),
        ("a never ending story", Fault::Stall, "timeout", false),
        ("a line that is cut", Fault::DroppedBeforeAccept, "network", false),
    ];
    let mut profile = TestSettings::default().profile;
    profile.models.iter_mut().for_each(|model| model.seconds.retain(|seconds| seconds != "12"));
    let rules = table.iter().map(|(prompt, fault, ..)| Rule::on_prompt(*prompt, fault.clone())).collect();
    let app = TestApp::start(TestSettings { rules, profile, models: MODELS.to_owned(), ..TestSettings::default() });
    let app = app.await;
    let customer = app.customer(10_000).await;
    let mut items: Vec<Value> = table.iter().map(|(prompt, ..)| item(prompt)).collect();
    items.push(json!({"prompt": "a long one", "model": "sora-2", "seconds": 12}));
    items.extend((0..3).map(|n| item(&format!("a lighthouse {n}"))));
    let id = customer.order(&json!({"items": items})).await;
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!((batch.word("/status"), batch.number("/credits/charged")), ("partial", 3 * 61));

    let videos = customer.videos(&id).await;
    let told = table.iter().map(|(prompt, _, class, detail)| (*prompt, *class, *detail));
    for (video, (prompt, class, detail)) in videos.iter().zip(told.chain([("a long one", "invalid_input", true)])) {
        let failure = &video["failure"];
        assert_eq!(failure["type"], class, "{prompt}: {video}");
        assert_eq!(failure["message"], explain(class_of(class)), "{prompt}");
        assert_eq!(failure["detail"].is_string(), detail, "{prompt}: {failure}");
        let said = failure["detail"].as_str().unwrap_or_default();
        assert!(!said.contains(prompt) && said.len() < 500, "{prompt}: {said}");
        assert_eq!(video["refunded_credits"], video["price_credits"], "{prompt}");
    }
    for class in FailureClass::ALL {
        let used = JARGON.iter().find(|word| explain(class).contains(**word));
        assert_eq!(used, None, "{}", class.name());
    }

    let mut refunds: BTreeMap<String, i64> = BTreeMap::new();
    for entry in customer.entries(&id).await.iter().filter(|entry| entry["act"] == "refund") {
        *refunds.entry(entry["reason"].as_str().unwrap().to_owned()).or_default() += entry["amount"].as_i64().unwrap();
    }
    let expected: BTreeSet<&str> = table.iter().map(|(_, _, class, _)| *class).chain(["invalid_input"]).collect();
    assert_eq!((expected.len(), refunds.keys().map(String::as_str).collect()), (8, expected));
    assert_eq!(refunds.remove("invalid_input"), Some(183));
    assert!(refunds.values().all(|amount| *amount == 61), "{refunds:?}");
    assert_eq!(customer.available().await, 10_000 - 3 * 61);
    app.finish().await;
}
