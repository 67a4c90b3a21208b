//! How many requests are answered a minute.

use std::net::Ipv4Addr;
use std::time::Duration;

use freezeframe::tenants::ApiKey;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection as _;

use super::clients::close;
use crate::app::client::{Answer, BATCHES, Customer, order_of};
use crate::app::{API, TestApp, TestSettings};

const WALLET: &str = "/api/enterprise/wallet";
const LOOKING: &str = "select count(*) from pg_stat_activity where datname = current_database()
    and wait_event_type = 'Lock' and application_name = 'freezeframe api'";

/// Only the API, with these limits.
async fn limited(limits: &'static str) -> TestApp {
    TestApp::start(TestSettings { roles: API, limits, ..TestSettings::default() }).await
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// What `RateLimit` says of `whose` limit: requests that remain, and seconds.
fn left(answer: &Answer, whose: &str) -> (u32, u64) {
    let text = header(answer, "ratelimit");
    let item = text.split(", ").find_map(|item| item.strip_prefix(&format!("\"{whose}\";r=")));
    let (remain, secs) =
        item.and_then(|item| item.split_once(";t=")).unwrap_or_else(|| panic!("no {whose} in {text:?}"));
    (remain.parse().unwrap(), secs.parse().unwrap())
}

fn retry_after(answer: &Answer) -> u64 {
    header(answer, "retry-after").parse().unwrap_or_else(|_| panic!("no Retry-After: {:?}", answer.headers))
}

/// The first answer that is none of `at_least` and not many more.
async fn until_refused(customer: &Customer, at_least: usize) -> Answer {
    for answered in 0..100 + at_least * 10 {
        let answer = customer.get(WALLET).await;
        if answer.status != 200 {
            assert!(answered >= at_least, "refused after {answered}: {}", answer.text);
            return answer;
        }
    }
    panic!("no limit");
}

/// The same program with another key.
fn with_key(customer: &Customer, key: &ApiKey) -> Customer {
    Customer { api_key: key.expose().to_owned(), ..customer.clone() }
}

/// The same customer from another address of this machine.
fn elsewhere(customer: &Customer) -> Customer {
    let http = reqwest::Client::builder().no_proxy().local_address(Some(Ipv4Addr::new(127, 0, 0, 2).into()));
    Customer { http: http.build().unwrap(), ..customer.clone() }
}

async fn tenant_of(app: &TestApp) -> String {
    sqlx::query_scalar("select id from tenants").fetch_one(app.pool()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_to_a_valid_key_says_what_is_left_whatever_the_answer_is() {
    let app = limited("default_requests_per_minute = 100\ndefault_requests_per_minute_per_key = 40").await;
    let customer = app.customer(1_000).await;
    let answers = [
        customer.get(WALLET).await.expect(200),
        customer.submit(&order_of(1, "a heron")).await.expect(202),
        customer.submit(&order_of(100, "a heron")).await.expect(402),
        customer.submit(&json!({"items": []})).await.expect(422),
        customer.get(&format!("{BATCHES}/bat_01J00000000000000000000000")).await.expect(404),
        customer.get(&format!("{BATCHES}?limit=x")).await.expect(400),
    ];
    for (used, answer) in (1..).zip(&answers) {
        assert_eq!(header(answer, "ratelimit-policy"), "\"key\";q=40;w=60, \"tenant\";q=100;w=60");
        // one comes back every 1.5 s or faster
        let ((key, wait), (tenant, _)) = (left(answer, "key"), left(answer, "tenant"));
        assert!((40 - used..40).contains(&key) && (100 - used..100).contains(&tenant) && wait == 0, "{answer:?}");
    }
    assert!(left(&answers[5], "key").0 < 40 - 1, "nothing is counted");

    let unknown = customer.call(Method::GET, WALLET, &[("x-api-key", ApiKey::generate().expose())], None).await;
    let keyless = app.http.get(format!("{}{WALLET}", app.base())).send().await.unwrap();
    assert_eq!((unknown.status.as_u16(), keyless.status().as_u16()), (401, 401));
    let mut untouched = vec![unknown.headers, keyless.headers().clone()];
    for open in ["/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/problems"] {
        untouched.push(customer.get(open).await.expect(200).headers);
    }
    for headers in untouched {
        assert!(!headers.contains_key("ratelimit") && !headers.contains_key("ratelimit-policy"), "{headers:?}");
    }
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_its_limit_a_key_is_told_when_to_come_again_and_nothing_is_bought() {
    let app = limited("default_requests_per_minute = 90\ndefault_requests_per_minute_per_key = 60").await;
    let (customer, other) = (app.customer(100_000).await, app.customer(100).await);
    let refused = until_refused(&customer, 60).await;
    let wait = retry_after(&refused);
    assert_eq!((left(&refused, "key"), wait), ((0, 1), 1));
    let problem = refused.problem(429);
    assert_eq!((&problem["type"], &problem["status"]), (&json!("/problems#too-many-requests"), &json!(429)));
    assert!(problem["detail"].as_str().unwrap().starts_with("this API key may make 60 requests a minute"), "{problem}");
    assert!(problem["trace_id"].is_string(), "{problem}");

    // as many orders as there are turns again, and no more
    let (mut bought, mut refusals) = (0, 0);
    while refusals < 5 {
        match customer.submit(&order_of(1, "a heron")).await.status.as_u16() {
            202 => bought += 1,
            status => refusals += u32::from(status == 429),
        }
    }
    assert_eq!(app.count("select count(*) from batches").await, bought);
    other.get(WALLET).await.expect(200);
    for open in ["/healthz", "/metrics", "/docs"] {
        customer.get(open).await.expect(200);
    }
    let metrics = customer.get("/metrics").await.text;
    let counted =
        metrics.lines().find(|line| line.starts_with("freezeframe_http_requests_limited_total{reason=\"key\"} "));
    assert!(counted.is_some_and(|line| !line.ends_with(" 0")), "{counted:?}");

    // one may have come back meanwhile
    let wait = retry_after(&until_refused(&customer, 0).await);
    tokio::time::sleep(Duration::from_secs(wait)).await;
    customer.get(WALLET).await.expect(200);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_a_tenant_share_its_limit() {
    let app = limited("default_requests_per_minute = 6\ndefault_requests_per_minute_per_key = 4").await;
    let customer = app.customer(100).await;
    let key = ApiKey::generate();
    sqlx::query("insert into api_keys (hash, tenant_id, hint) select $1, id, $2 from tenants")
        .bind(key.hash().to_vec())
        .bind(key.hint())
        .execute(app.pool())
        .await
        .unwrap();
    let refused = until_refused(&customer, 4).await;
    assert!((1..=15).contains(&retry_after(&refused)), "{refused:?}");
    assert!(refused.problem(429)["detail"].as_str().unwrap().starts_with("this API key may make 4 requests"));
    let refused = until_refused(&with_key(&customer, &key), 2).await;
    assert!(left(&refused, "key").0 > 0, "{refused:?}");
    assert_eq!(left(&refused, "tenant"), (0, retry_after(&refused)));
    let problem = refused.problem(429);
    let told = problem["detail"].as_str().unwrap();
    assert!(told.starts_with("this tenant, with all of its API keys, may make 6 requests"), "{problem}");
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_changes_a_tenant_s_limit_while_it_runs_and_no_change_grants_a_fresh_burst() {
    let app = limited("default_requests_per_minute = 1000\ndefault_requests_per_minute_per_key = 500").await;
    let customer = app.customer(100).await;
    let whose = format!("tenant=ten_{}", tenant_of(&app).await);
    let why = ["--reason", "a test", "--by", "ann"];
    let set = async |value: &str| app.output(&[&["limits", "set", &whose, value][..], &why].concat()).await;
    // the first answer under another policy
    let under = async |policy: &str| loop {
        let answer = customer.get(WALLET).await;
        if header(&answer, "ratelimit-policy") == policy {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    customer.get(WALLET).await.expect(200);
    let told = set("requests_per_minute=6").await;
    assert!(told.contains("requests_per_minute: not set -> 6"), "{told}");
    let few = "\"key\";q=3;w=60, \"tenant\";q=6;w=60";
    under(few).await;
    app.until("the key has made its three requests", async || customer.get(WALLET).await.status == 429).await;
    let list: Vec<Value> = serde_json::from_str(&app.output(&["limits", "list", "--json"]).await).unwrap();
    assert_eq!((&list[0]["rule"], &list[0]["value"]), (&json!("requests_per_minute"), &json!(6)), "{list:?}");

    set("requests_per_minute=1200").await;
    let raised = under("\"key\";q=600;w=60, \"tenant\";q=1200;w=60").await;
    assert!(left(&raised, "key").0 <= 20, "a fresh burst: {:?}", raised.headers);
    app.until("it goes on at the new pace", async || customer.get(WALLET).await.status == 200).await;
    app.output(&[&["limits", "clear", &whose, "requests_per_minute"][..], &why].concat()).await;
    let cleared = under("\"key\";q=500;w=60, \"tenant\";q=1000;w=60").await;
    assert!(left(&cleared, "key").0 <= 100, "a fresh burst: {:?}", cleared.headers);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_guesses_is_refused_without_a_look_and_nobody_with_a_known_key_suffers() {
    let app = limited("failed_keys_per_minute = 2").await;
    let known = app.customer(100).await;
    let whose = tenant_of(&app).await;
    known.get(WALLET).await.expect(200);
    let guess = || with_key(&known, &ApiKey::generate());
    guess().get(WALLET).await.problem(401);
    Customer { api_key: "ff_live_mistyped".to_owned(), ..known.clone() }.get(WALLET).await.problem(401);

    // with the keys locked, whoever asks the database for one is seen waiting
    let mut lock = sqlx::PgConnection::connect(&app.db.url).await.unwrap();
    sqlx::raw_sql("begin; lock table api_keys in access exclusive mode").execute(&mut lock).await.unwrap();
    let guesser = guess();
    let refused = tokio::select! {
        answer = guesser.get(WALLET) => answer,
        () = app.until("it is looked up", async || app.count(LOOKING).await > 0) => panic!("it was looked up"),
    };
    assert!((1..=30).contains(&retry_after(&refused)), "{refused:?}");
    assert!(!refused.headers.contains_key("ratelimit"), "{refused:?}");
    assert_eq!(refused.problem(429)["type"], "/problems#too-many-failed-keys");
    Customer { api_key: "ff_live_mistyped".to_owned(), ..known.clone() }.get(WALLET).await.problem(429);
    lock.close().await.unwrap();

    // the known key is looked up again: what was changed since is told
    app.execute(&format!(
        "insert into limits (scope, subject, rule, value, temporary, set_by, reason)
         values ('tenant', '{whose}', 'videos_per_minute', 77, false, 'ann', 'a test')"
    ))
    .await;
    app.until("the known key was looked up again", async || {
        known.get(WALLET).await.expect(200).number("/limits/videos_per_minute") == 77
    })
    .await;
    // a key that was never seen here is told to wait, and works from anywhere else
    let newcomer = app.customer(100).await;
    app.until("the address is refused still", async || guess().get(WALLET).await.status == 429).await;
    newcomer.get(WALLET).await.problem(429);
    elsewhere(&newcomer).get(WALLET).await.expect(200);
    // once it was seen, its address does not matter
    newcomer.get(WALLET).await.expect(200);
    let metrics = known.get("/metrics").await.text;
    let counted = |line: &&str| line.starts_with("freezeframe_http_requests_limited_total{reason=\"address\"} ");
    assert!(metrics.lines().find(counted).is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_turn_out_to_be_somebody_s_never_count_as_guesses_and_revoked_ones_do() {
    let app = limited("failed_keys_per_minute = 1").await;
    let mut customers = Vec::new();
    for _ in 0..5 {
        let customer = app.customer(100).await;
        customer.get(WALLET).await.expect(200);
        customers.push(customer);
    }
    app.execute("update api_keys set revoked_at = now()").await;
    // nobody's guess at first, and from then on
    app.until("the key is known to be revoked", async || customers[0].get(WALLET).await.status == 401).await;
    customers[0].get(WALLET).await.problem(401);
    customers[0].get(WALLET).await.problem(429);
    close(app).await;
}
