//! Quotes: what an order would cost, held against what is frozen when it is placed.

use freezeframe::domain::GrantSource;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::client::{Answer, BATCHES, Customer, item, order_of};
use crate::app::image_host::png;
use crate::app::{API, TestApp, TestSettings};

async fn desk() -> TestApp {
    TestApp::start(TestSettings { roles: API, ..TestSettings::default() }).await
}

async fn close(mut app: TestApp) {
    for part in ["videos that never ended", "batches that never ended"] {
        app.excuse(part);
    }
    app.finish().await;
}

async fn quote_with(customer: &Customer, headers: &[(&str, &str)], body: &Value) -> Answer {
    customer.call(Method::POST, &format!("{BATCHES}/quote"), headers, Some(body.to_string())).await
}

async fn quote(customer: &Customer, body: &Value) -> Answer {
    quote_with(customer, &[], body).await
}

/// All that is written of tenants; a sequence that moved would tell of a row that was taken back.
async fn written(app: &TestApp) -> String {
    let query = "select concat_ws(' ', (select count(*) from batches), (select count(*) from videos), (select count(*) from batch_lanes),
        (select count(*) from batch_holds), (select count(*) from idempotency_keys), (select count(*) from credit_ledger),
        (select sum(available) from wallets), (select count(*) from reference_image_uses),
        (select last_value from credit_ledger_id_seq))";
    sqlx::query_scalar(query).fetch_one(app.pool()).await.unwrap()
}

/// Every offered way to order a video.
async fn variants(customer: &Customer) -> Vec<(String, i64, String)> {
    let models = customer.get("/api/enterprise/models").await.expect(200);
    let mut variants = Vec::new();
    for model in models.body["data"].as_array().unwrap().iter().filter(|model| model["available"] == true) {
        for price in model["prices"].as_array().unwrap() {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            variants.push((text(&model["name"]), price["seconds"].as_i64().unwrap(), text(&price["size"])));
        }
    }
    assert!(variants.len() > 10, "{variants:?}");
    variants
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_random_quotes_are_what_is_frozen_afterwards_to_the_credit_or_refused() {
    let seed = rand::rng().random::<u64>();
    eprintln!("quoting with seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let app = desk().await;
    let first = app.customer(1_000).await;
    let variants = variants(&first).await;
    let (mut accepted, mut refused) = (0, 0);
    let mut customer = first;
    for nth in 0..100 {
        if nth % 10 == 0 {
            let grants = [
                (GrantSource::Promotional, random.random_range(1..5_000)),
                (GrantSource::Paid, random.random_range(1..50_000)),
            ];
            customer = app.customer_at(&app.base(), &grants).await;
        }
        let items: Vec<Value> = (0..random.random_range(1..60))
            .map(|n| {
                let (model, seconds, size) = &variants[random.random_range(0..variants.len())];
                let mut item = json!({"prompt": format!("a heron {n}"), "model": model});
                // what is left out is the model's own
                if random.random_range(0..4) > 0 {
                    item["seconds"] = json!(seconds);
                    item["size"] = json!(size);
                }
                item
            })
            .collect();
        let many = items.len() as i64;
        let body = json!({ "items": items });
        let before = customer.available().await;
        let quoted = quote(&customer, &body).await.expect(200);
        let (price, missing) = (quoted.number("/price_credits"), quoted.number("/missing_credits"));
        let groups = quoted.body["groups"].as_array().unwrap();
        let sum = |part: fn(&Value) -> i64| groups.iter().map(part).sum::<i64>();
        let number = |group: &Value, field: &str| group[field].as_i64().unwrap();
        assert_eq!(sum(|group| group["count"].as_i64().unwrap()), many);
        assert_eq!(sum(|group| group["credits"].as_i64().unwrap()), price);
        assert!(
            groups
                .iter()
                .all(|group| number(group, "count") * number(group, "credits_each") == number(group, "credits"))
        );
        assert_eq!((quoted.number("/total"), quoted.number("/available_credits")), (many, before));
        let ordered = customer.submit(&body).await;
        if quoted.body["would_be_accepted"] == true {
            accepted += 1;
            assert_eq!((ordered.expect(202).number("/frozen_credits"), missing), (price, 0), "seed {seed}");
            assert_eq!(customer.available().await, before - price);
        } else {
            refused += 1;
            let problem = ordered.problem(402);
            let told = (&problem["required"], &problem["available"], &problem["shortfall"]);
            assert_eq!(told, (&json!(price), &json!(before), &json!(missing)), "seed {seed}");
            assert_eq!(customer.available().await, before);
        }
    }
    eprintln!("{accepted} were accepted, {refused} refused");
    assert!(accepted > 0 && refused > 0, "seed {seed} proves nothing");
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quote_writes_nothing_and_leaves_the_key_unused() {
    let app = desk().await;
    let customer = app.customer(100).await;
    let before = written(&app).await;
    let mut body = order_of(3, "a heron");
    body["x-request-id"] = "spring-1".into();
    body["webhook_url"] = "https://hooks.example.com/x".into();
    body["videos_per_minute"] = 5.into();
    let quoted = quote(&customer, &body).await.expect(200);
    let group =
        json!([{"model": "sora-2", "seconds": 4, "size": "1280x720", "count": 3, "credits_each": 61, "credits": 183}]);
    assert_eq!(quoted.body["groups"], group);
    assert_eq!((&quoted.body["would_be_accepted"], quoted.number("/missing_credits")), (&json!(false), 83));
    assert_eq!(quoted.body["idempotency_key_used"], false);
    assert_eq!(written(&app).await, before);
    assert!(quote(&customer, &order_of(1, "x")).await.expect(200).body.get("idempotency_key_used").is_none());
    assert_eq!(written(&app).await, before);

    let mut smaller = order_of(1, "a heron");
    smaller["x-request-id"] = "spring-1".into();
    let id = customer.order(&smaller).await;
    let after = written(&app).await;
    for (body, headers) in [(&smaller, &[][..]), (&body, &[]), (&order_of(1, "z"), &[("Idempotency-Key", "spring-1")])]
    {
        assert_eq!(quote_with(&customer, headers, body).await.expect(200).body["idempotency_key_used"], true);
    }
    assert_eq!(written(&app).await, after);
    assert_eq!(customer.submit(&smaller).await.expect(202).batch_id(), id);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quote_refuses_with_the_words_of_an_order() {
    let app =
        TestApp::start(TestSettings { roles: API, allow_private_webhooks: false, ..TestSettings::default() }).await;
    let (customer, other) = (app.customer(1_000_000).await, app.customer(1_000_000).await);
    let upload = async |customer: &Customer, image: Vec<u8>| {
        let request = customer.http.post(format!("{}/api/enterprise/images", customer.base));
        let request = request.header("X-API-Key", &customer.api_key).header("content-type", "image/png");
        let text = request.body(image).send().await.unwrap().text().await.unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["id"].clone()
    };
    let (theirs, small) = (upload(&other, png(1280, 720, 1)).await, upload(&customer, png(320, 200, 2)).await);
    let mine = upload(&customer, png(1280, 720, 3)).await;
    let before = written(&app).await;
    let with = |field: &str, value: Value| {
        let mut item = item("a heron");
        item[field] = value;
        json!({"items": [item]})
    };
    let mut many = order_of(500, "sea");
    many["items"][17]["model"] = "sora-9".into();
    many["items"][499]["seconds"] = 7.into();
    for body in [
        json!({}),
        json!([]),
        json!({"items": []}),
        json!({"items": [1]}),
        many,
        order_of(10_001, "x"),
        with("prompt", "bell \u{7}".into()),
        with("model", "sora2".into()),
        with("seconds", 5.into()),
        with("size", "1x1".into()),
        with("promt", "typo".into()),
        with("custom_id", "".into()),
        with("metadata", json!([1])),
        with("reference_image", theirs),
        with("reference_image", small),
        with("reference_image_url", "http://127.0.0.1/x.png".into()),
        json!({"items": [item("x")], "webhook_url": "http://127.0.0.1/x"}),
        json!({"items": [item("x")], "x-request-id": "a b"}),
        json!({"items": [item("x")], "complete_by": "tomorrow"}),
        json!({"items": [item("x")], "videos_per_minute": 0}),
    ] {
        let (quoted, ordered) = (quote(&customer, &body).await.problem(422), customer.submit(&body).await.problem(422));
        for field in ["type", "detail", "errors"] {
            assert_eq!(quoted[field], ordered[field], "{body}");
        }
    }
    let post = async |headers: &[(&str, &str)], body: &str| {
        customer.call(Method::POST, &format!("{BATCHES}/quote"), headers, Some(body.to_owned())).await
    };
    post(&[], "{").await.problem(400);
    post(&[], "").await.problem(400);
    post(&[("X-API-Key", "nonsense")], "{}").await.problem(401);
    post(&[], &" ".repeat(5 << 20)).await.problem(413);
    customer.get(&format!("{BATCHES}/quote")).await.problem(405);
    quote(&customer, &with("reference_image", mine)).await.expect(200);
    assert_eq!(written(&app).await, before);
    close(app).await;
}
