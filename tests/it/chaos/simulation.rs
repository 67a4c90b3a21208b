//! Random tenants, orders, faults and kills against a model that knows what each of them may come to.
//!
//! The fate of a video is written into its prompt, so the model knows how it must end, whoever dies meanwhile; only a video
//! that lost three workers may end as `poison` instead. What a tenant can pay for at a moment lies between two bounds, because
//! refunds come when they come: within them both answers are right, outside of them only one is. At the end every wallet is
//! known to the credit.

use std::collections::HashMap;
use std::time::Duration;

use freezeframe::domain::GrantSource;
use freezeframe::emulator::{Fault, Nth, Profile, Rule};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::{count_of, seeded};
use crate::app::client::Customer;
use crate::app::{API, TestApp, TestSettings};

const ROLES: &str = "worker,scheduler";
const MODELS: [(&str, i64); 2] = [("sora-2", 61), ("veo-3.1", 595)];

/// A word, a fault, on which create, how the video fails.
type Fate = (&'static str, Option<Fault>, Option<u32>, Option<&'static str>);

/// What happens to a video: the word in its prompt, the fault that the word stands for, on which of its creates, and how the
/// video fails; `None`: it is made.
const FATES: [Fate; 9] = [
    ("calm", None, None, None),
    ("moderated", Some(Fault::JobModerated), None, Some("moderation")),
    ("refused", Some(Fault::ModerationAtSubmit), None, Some("moderation")),
    ("broken", Some(Fault::JobFailed), None, Some("provider_fault")),
    ("flaky", Some(Fault::JobFailed), Some(1), None),
    ("lost", Some(Fault::DroppedAfterAccept), Some(1), None),
    ("vague", Some(Fault::ErrorAfterAccept { status: 500 }), Some(1), None),
    ("busy", Some(Fault::ServerError { status: 503 }), Some(1), None),
    ("limited", Some(Fault::RateLimited { retry_after_secs: Some(1) }), Some(1), None),
];

/// A tenant as the model has it.
struct Tenant {
    customer: Customer,
    granted: i64,
    /// Prices of all accepted videos by their prompt, with the failure that they must have.
    accepted: HashMap<String, (i64, Option<&'static str>)>,
}

impl Tenant {
    /// What is available at least (no refund has come yet) and at most (all have).
    fn bounds(&self) -> (i64, i64) {
        let prices = |all: bool| {
            let counted = self.accepted.values().filter(move |(_, failure)| all || failure.is_none());
            counted.map(|(price, _)| price).sum::<i64>()
        };
        (self.granted - prices(true), self.granted - prices(false))
    }
}

/// An order: its items, and each prompt with its price and the failure that it must have.
type Order = (Vec<Value>, HashMap<String, (i64, Option<&'static str>)>);

fn order(random: &mut StdRng, nth: usize) -> Order {
    let items = (0..random.random_range(1..9)).map(|at| {
        let (model, price) = MODELS[usize::from(random.random_bool(0.2))];
        let (word, _, _, failure) = &FATES[random.random_range(0..FATES.len())];
        let prompt = format!("{word} film {nth} {at}");
        (json!({"prompt": prompt, "custom_id": prompt, "model": model}), (prompt, (price, *failure)))
    });
    items.unzip()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_every_tenant_pays_for_exactly_what_was_made() {
    let (seed, mut random) = seeded();
    let (orders, kills) = (count_of("ORDERS", 24), count_of("SIMULATED_KILLS", 2));
    let rules = FATES.iter().filter_map(|(word, fault, create, _)| {
        let rule = Rule::on_prompt(format!("{word} film"), fault.clone()?);
        Some(if let Some(create) = create { rule.nth(Nth::only(*create)) } else { rule })
    });
    let rules = rules.collect();
    let profile = Profile { latency_ms: (50, 1_500), ..TestSettings::default().profile };
    let mut app =
        TestApp::start(TestSettings { roles: API, profile, seed, rules, slots: 30, ..TestSettings::default() }).await;
    let mut workers = vec![app.start_process(ROLES).await, app.start_process(ROLES).await];
    let mut tenants = Vec::new();
    for _ in 0..4 {
        let grants = [
            (GrantSource::Promotional, random.random_range(1..2_000)),
            (GrantSource::Paid, random.random_range(1..6_000)),
        ];
        let customer = app.customer_at(&app.base(), &grants).await;
        let granted = grants.iter().map(|(_, credits)| credits).sum();
        tenants.push(Tenant { customer, granted, accepted: HashMap::new() });
    }
    let (mut taken, mut short) = (0, 0);
    for nth in 0..orders {
        let tenant = random.random_range(0..tenants.len());
        let (items, fates) = order(&mut random, nth);
        match place(&mut tenants[tenant], &items, fates).await {
            true => taken += 1,
            false => short += 1,
        }
        if nth % (orders / (kills + 1)).max(1) == orders / (2 * kills + 2) {
            let victim = workers.remove(random.random_range(0..workers.len()));
            app.process(victim).kill();
            workers.push(app.start_process(ROLES).await);
        }
    }
    app.all_batches_end().await;
    eprintln!("{taken} orders taken, {short} beyond their tenant's means");
    let mut poisoned = 0;
    for tenant in &tenants {
        poisoned += compare(&app, tenant).await;
    }
    eprintln!("{poisoned} videos lost three workers");
    app.finish().await;
}

/// Orders, and holds the answer against the bounds; whether it was taken.
async fn place(tenant: &mut Tenant, items: &[Value], fates: HashMap<String, (i64, Option<&'static str>)>) -> bool {
    let price: i64 = fates.values().map(|(price, _)| price).sum();
    let (least, most) = tenant.bounds();
    let key = items[0]["custom_id"].as_str().unwrap().replace(' ', "-");
    let answer = loop {
        let answer = tenant.customer.submit_with(&[("Idempotency-Key", &key)], &json!({ "items": items })).await;
        // busy, or of unknown outcome: the key makes it safe to ask again
        if !matches!(answer.status.as_u16(), 409 | 503) {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    match answer.status.as_u16() {
        202 => {
            assert!(price <= most, "{price} credits were frozen of {most} at the most");
            assert_eq!(answer.number("/frozen_credits"), price);
            tenant.accepted.extend(fates);
            true
        }
        402 => {
            assert!(price > least, "{price} credits were refused although {least} were there: {}", answer.text);
            assert_eq!(answer.number("/required"), price);
            let available = answer.number("/available");
            assert!((least..=most).contains(&available), "{available} is not within {least} and {most}");
            false
        }
        status => panic!("{status}: {}", answer.text),
    }
}

/// Every video ended as it had to, and the wallet holds what the model says; answers how many ended as poison.
async fn compare(app: &TestApp, tenant: &Tenant) -> usize {
    let (mut charged, mut poisoned) = (0, 0);
    let list = tenant.customer.get("/api/enterprise/video-batch?limit=100").await.expect(200);
    let batches: Vec<String> =
        list.body["data"].as_array().unwrap().iter().map(|b| b["batch_id"].as_str().unwrap().to_owned()).collect();
    let mut seen = 0;
    for batch in &batches {
        for video in tenant.customer.videos(batch).await {
            seen += 1;
            let (price, failure) = tenant.accepted[video["custom_id"].as_str().unwrap()];
            let ended = video["failure"]["type"].as_str();
            if ended == Some("poison") {
                let id = video["video_id"].as_str().unwrap_or_default().trim_start_matches("vid_").to_owned();
                let deaths = app.count(&format!("select deaths::bigint from videos where id = '{id}'")).await;
                assert!(deaths >= 3, "{video} lost only {deaths} workers");
                poisoned += 1;
                continue;
            }
            assert_eq!(ended, failure, "{video}");
            charged += if failure.is_none() { price } else { 0 };
        }
    }
    assert_eq!(seen, tenant.accepted.len(), "every video that was paid for is there, and no other");
    assert_eq!(tenant.customer.available().await, tenant.granted - charged);
    poisoned
}
