//! Lost answers of orders with images, at an account whose list tells nothing of images: a job that can be one order's alone
//! is found; one that may have been made from another order's image is nobody's, and costs the customer nothing.

use freezeframe::emulator::{Fault, Profile, Rule};
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::client::{Customer, item};
use crate::app::image_host::png;
use crate::app::{TestApp, TestSettings};

/// An attempt that nobody can tell anything about is over after ten seconds.
const MODELS: &str = r#"
[[model]]
name = "sora-2"
provider = "sora"
price_credits = 61
standard_seconds = 4
seconds = [4]
sizes = ["1280x720"]
reference_image = true
deadline_secs = 10
"#;

/// Nothing can be looked up at its provider before [`list_again`].
async fn app() -> TestApp {
    let rules = vec![Rule::on_prompt("lost", Fault::DroppedAfterAccept)];
    let usual = TestSettings::default();
    let profile = Profile { list_outage_status: Some(503), ..usual.profile.clone() };
    TestApp::start(TestSettings { rules, profile, models: MODELS.to_owned(), ..usual }).await
}

/// Once so many orders have lost their answers, each may look for its job: whoever looked before the others had sent theirs
/// would know that the only job there is its own.
async fn list_again(app: &TestApp, orders: usize) {
    app.until("every order is at the provider", async || app.emulator.book().jobs.len() == orders).await;
    app.emulator.set_profile(TestSettings::default().profile);
}

/// An item that starts from an uploaded image of its own.
async fn with_image(app: &TestApp, customer: &Customer, prompt: &str, nth: u8) -> Value {
    let url = format!("{}/api/enterprise/images", customer.base);
    let upload = app.http.request(Method::POST, url).header("X-API-Key", &customer.api_key);
    let upload = upload.header("content-type", "image/png").body(png(1280, 720, nth));
    let stored: Value = serde_json::from_slice(&upload.send().await.unwrap().bytes().await.unwrap()).unwrap();
    json!({"prompt": prompt, "model": "sora-2", "reference_image": stored["id"]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lost_job_of_an_order_with_an_image_is_found_when_no_other_order_is_like_it() {
    let app = app().await;
    let customer = app.customer(1_000).await;
    let items = vec![
        with_image(&app, &customer, "a lost fox", 1).await,
        with_image(&app, &customer, "a lost heron", 2).await,
        item("a lost owl"),
    ];
    let id = customer.order(&json!({"items": items})).await;
    list_again(&app, 3).await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    assert_eq!(app.emulator.book().jobs.len(), 3, "bought once each");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_job_that_may_be_from_another_image_is_given_to_nobody_and_refunded() {
    let app = app().await;
    let customer = app.customer(1_000).await;
    let items = vec![
        with_image(&app, &customer, "a lost fox", 1).await,
        with_image(&app, &customer, "a lost fox", 2).await,
        item("a lost fox"),
    ];
    let id = customer.order(&json!({"items": items})).await;
    list_again(&app, 3).await;
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!((batch.word("/status"), batch.number("/credits/refunded")), ("failed", 3 * 61));
    for video in customer.videos(&id).await {
        assert_eq!(video["failure"]["type"], "outcome_unknown", "{video}");
    }
    assert_eq!(app.emulator.book().jobs.len(), 3, "bought once each, and never again");
    assert_eq!(customer.available().await, 1_000);
    app.finish().await;
}
