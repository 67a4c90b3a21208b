//! The operators' API: who gets in, and that each control does what the command line's does.

use std::time::Duration;

use chrono::{DateTime, Utc};
use freezeframe::emulator::Profile;
use freezeframe::limits::{self, Rule, Scope};
use freezeframe::operators::OperatorKey;
use freezeframe::tenants::ApiKey;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::app::client::{Answer, BATCHES, Customer, order_of};
use crate::app::{API, TestApp, TestSettings};

const OPERATOR: &str = "/api/operator";
const WALLET: &str = "/api/enterprise/wallet";
const PRICE: i64 = 61;

/// An operator's program: the same as a customer's, with another key.
struct Op(Customer);

impl Op {
    async fn add(app: &TestApp, name: &str, role: &str) -> Op {
        let added = app.output(&["operator", "add", name, "--role", role, "--by", "root", "--json"]).await;
        let added: Value = serde_json::from_str(&added).unwrap();
        assert_eq!((&added["name"], &added["role"]), (&json!(name), &json!(role)));
        Op::with(app, added["key"].as_str().unwrap())
    }

    fn with(app: &TestApp, key: &str) -> Op {
        let (api_key, webhook_secret) = (key.to_owned(), String::new());
        Op(Customer { api_key, webhook_secret, base: app.base(), http: app.http.clone() })
    }

    async fn get(&self, path: &str) -> Answer {
        self.0.get(&format!("{OPERATOR}{path}")).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.0.call(Method::POST, &format!("{OPERATOR}{path}"), &[], Some(body.to_string())).await
    }

    async fn put(&self, path: &str, body: &Value) -> Answer {
        self.0.call(Method::PUT, &format!("{OPERATOR}{path}"), &[], Some(body.to_string())).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.0.call(Method::DELETE, &format!("{OPERATOR}{path}"), &[], None).await
    }
}

/// Only the API: nothing is made.
async fn api_alone() -> TestApp {
    TestApp::start(TestSettings { roles: API, ..TestSettings::default() }).await
}

async fn close(mut app: TestApp) {
    for part in ["videos that never ended", "batches that never ended"] {
        app.excuse(part);
    }
    app.finish().await;
}

async fn tenant_of(app: &TestApp, batch: &str) -> String {
    let query = "select 'ten_' || tenant_id from batches where 'bat_' || id = $1";
    sqlx::query_scalar(query).bind(batch).fetch_one(app.pool()).await.unwrap()
}

/// Everything that tells of a change.
async fn histories(app: &TestApp) -> i64 {
    app.count(
        "select (select count(*) from limit_changes) + (select count(*) from provider_account_changes)
             + (select count(*) from operator_acts where act not like '%operator')
             + (select count(*) from limits) + (select count(*) from batches where cancelled_at is not null)",
    )
    .await
}

/// The pointers or parameters that a problem names.
fn named(problem: &Value) -> Vec<&str> {
    let errors = problem["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    errors.iter().filter_map(|error| error["pointer"].as_str().or(error["parameter"].as_str())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn viewers_read_ops_change_and_a_revoked_key_ends() {
    let app = api_alone().await;
    let customer = app.customer(1_000).await;
    let batch = customer.order(&order_of(1, "frame")).await;
    let tenant = tenant_of(&app, &batch).await;
    let (viewer, ops) = (Op::add(&app, "vera", "viewer").await, Op::add(&app, "olga", "ops").await);
    let reads = ["/limits".to_owned(), "/accounts".to_owned(), format!("/limits/explain?tenant={tenant}&model=sora-2")];
    for path in &reads {
        for op in [&viewer, &ops] {
            let answer = op.get(path).await.expect(200);
            assert!(answer.headers["cache-control"] == "no-store" && !answer.headers.contains_key("ratelimit"));
        }
    }
    let reason = json!({"reason": "a test"});
    let pause = json!({"scope": "tenant", "subject": tenant, "reason": "a test"});
    let bulk = json!({"action": "cancel", "filter": {"tenant": tenant}, "expected": 1, "reason": "a test"});
    // wrong bodies too: whoever may not change anything is told that first
    for body in [&reason, &json!({"x": 1})] {
        for path in ["/accounts/sora/stop", "/accounts/sora/start", "/pause", "/resume", "/batches/bulk"] {
            let problem = viewer.post(path, body).await.problem(403);
            assert_eq!(problem["type"], "/problems#role-forbids", "{path}");
        }
        viewer.put(&format!("/limits/tenant/{tenant}"), body).await.problem(403);
        viewer.post(&format!("/batches/{batch}/cancel"), body).await.problem(403);
    }
    viewer.delete(&format!("/limits/tenant/{tenant}?reason=x")).await.problem(403);
    viewer.post("/pause", &pause).await.problem(403);
    viewer.post("/batches/bulk", &bulk).await.problem(403);
    assert_eq!(histories(&app).await, 0);
    let preview = json!({"action": "cancel", "filter": {"tenant": tenant}, "preview": true});
    assert_eq!(viewer.post("/batches/bulk", &preview).await.expect(200).number("/batches"), 1);

    let taken = app.command(&["operator", "add", "vera", "--role", "ops"]).await;
    assert!(
        !taken.status.success() && String::from_utf8_lossy(&taken.stderr).contains("there is an operator \"vera\"")
    );
    for wrong in [["operator", "add", "two words", "--role", "ops"], ["operator", "add", "x", "--role", "king"]] {
        assert!(!app.command(&wrong).await.status.success(), "{wrong:?}");
    }
    let told = app.output(&["operator", "revoke", "vera", "--by", "root"]).await;
    assert!(told.contains("vera is revoked"), "{told}");
    app.until("the key is refused", async || viewer.get("/limits").await.status == 401).await;
    assert!(!app.command(&["operator", "revoke", "vera"]).await.status.success(), "there is nothing left to revoke");
    // the name may have another key, and the list shows both
    let again = Op::add(&app, "vera", "ops").await;
    again.get("/limits").await.expect(200);
    let list = app.output(&["operator", "list", "--json"]).await;
    assert!(!list.contains(&again.0.api_key) && !list.contains(&ops.0.api_key), "{list}");
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    let shown = |at: usize| (list[at]["name"].as_str().unwrap(), list[at]["revoked_at"].is_null());
    assert_eq!([shown(0), shown(1), shown(2)], [("olga", true), ("vera", false), ("vera", true)]);
    let text = app.output(&["operator", "list"]).await;
    assert!(text.contains("olga") && text.contains("ffop_..."), "{text}");
    let acts = "select count(*) from operator_acts where actor = 'root' and about ->> 'operator' in ('vera', 'olga')";
    assert_eq!(app.count(acts).await, 4);
    let keys = "select count(*) from operators where strpos(operators::text, $1) > 0";
    let key = sqlx::query_scalar::<_, i64>(keys).bind(&again.0.api_key[5..]).fetch_one(app.pool()).await.unwrap();
    assert_eq!(key, 0, "a key stands in the database");
    assert!(
        sqlx::raw_sql("delete from operator_acts").execute(app.pool()).await.is_err(),
        "the history is only added to"
    );
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_opens_one_of_the_two_apis_alone_and_guesses_at_both_are_counted_together() {
    let limits = "failed_keys_per_minute = 4";
    let app = TestApp::start(TestSettings { roles: API, limits, ..TestSettings::default() }).await;
    let customer = app.customer(1_000).await;
    let ops = Op::add(&app, "olga", "ops").await;
    customer.get(WALLET).await.expect(200);
    ops.get("/limits").await.expect(200);
    // known keys at the wrong door are guesses there
    let problem = Op(customer.clone()).get("/limits").await.problem(401);
    assert!(problem["detail"].as_str().unwrap().contains("an operator's key starts with `ffop_`"), "{problem}");
    let problem = ops.0.get(WALLET).await.problem(401);
    assert!(problem["detail"].as_str().unwrap().contains("an API key starts with `ff_live_`"), "{problem}");
    let unknown = Op::with(&app, OperatorKey::generate().expose()).get("/limits").await;
    assert!(unknown.headers.contains_key("www-authenticate"), "{unknown:?}");
    let problem = unknown.problem(401);
    assert_eq!(problem["detail"], "the API key is unknown or was revoked");
    let keyless = app.http.get(format!("{}{OPERATOR}/limits", app.base())).send().await.unwrap();
    assert_eq!(keyless.status(), 401);
    // the fourth uses the address's guesses up; one may have come back meanwhile
    app.until("the address is refused", async || {
        Op::with(&app, OperatorKey::generate().expose()).get("/limits").await.status == 429
    })
    .await;
    let refused = Op::with(&app, "ffop_mistyped").get("/limits").await;
    let refused = if refused.status == 401 { Op::with(&app, "ffop_mistyped").get("/limits").await } else { refused };
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    assert_eq!(refused.problem(429)["type"], "/problems#too-many-failed-keys");
    let stranger = Customer { api_key: ApiKey::generate().expose().to_owned(), ..customer.clone() };
    app.until("at the other door as well", async || stranger.get(WALLET).await.status == 429).await;
    ops.get("/limits").await.expect(200);
    customer.get(WALLET).await.expect(200);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_of_either_api_takes_a_key_of_the_other_or_none() {
    let app = api_alone().await;
    let customer = app.customer(1_000).await;
    let ops = Op::add(&app, "olga", "ops").await;
    let mut asked = 0;
    for (document, key) in [("openapi/operator.json", &customer.api_key), ("openapi/openapi.json", &ops.0.api_key)] {
        let document: Value = serde_json::from_str(&std::fs::read_to_string(document).unwrap()).unwrap();
        for (path, methods) in document["paths"].as_object().unwrap() {
            let there = path.split('/').map(|part| if part.starts_with('{') { "tenant" } else { part });
            let there = there.collect::<Vec<_>>().join("/");
            for method in methods.as_object().unwrap().keys() {
                let method: Method = method.to_uppercase().parse().unwrap();
                for headers in [&[("x-api-key", key.as_str())][..], &[("x-api-key", "")], &[]] {
                    let stranger = Op::with(&app, "x");
                    let answer = stranger.0.call(method.clone(), &there, headers, Some("{}".to_owned())).await;
                    assert_eq!(answer.status, 401, "{method} {there} {headers:?}: {}", answer.text);
                    asked += 1;
                }
            }
        }
    }
    assert!(asked >= 3 * 20, "the routes were not found: {asked}");
    let served = customer.get("/operator/openapi.json").await.expect(200);
    assert_eq!(served.text, std::fs::read_to_string("openapi/operator.json").unwrap());
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_set_listed_explained_and_cleared_under_the_operators_name() {
    let app = api_alone().await;
    let customer = app.customer(1_000).await;
    let batch = customer.order(&order_of(1, "frame")).await;
    let tenant = tenant_of(&app, &batch).await;
    let ops = Op::add(&app, "olga", "ops").await;
    let path = format!("/limits/tenant/{tenant}");
    let body = json!({"values": {"videos_per_minute": 600, "max_in_flight": 5}, "reason": "launch week"});
    let set = ops.put(&path, &body).await.expect(200);
    assert_eq!(set.word("/data/0/rule"), "max_in_flight");
    assert_eq!((set.number("/data/1/after/value"), set.body.pointer("/data/1/before")), (600, None), "{}", set.text);
    let body = json!({"values": {"videos_per_minute": 700}, "for": "90m", "reason": "their launch"});
    let set = ops.put(&path, &body).await.expect(200);
    let end: DateTime<Utc> = set.word("/data/0/after/expires_at").parse().unwrap();
    assert!((88..=90).contains(&(end - Utc::now()).num_minutes()), "{}", set.text);
    ops.put("/limits/account/sora", &json!({"values": {"requests_per_minute": 40}, "reason": "x"})).await.expect(200);
    let wrong = json!({"values": {"spend_credits": 1, "spend_window_secs": 60}, "reason": "x"});
    let problem = ops.put("/limits/account/sora", &wrong).await.problem(422);
    assert_eq!(problem["errors"][0]["pointer"], "/values/spend_credits", "{problem}");
    ops.put("/limits/model/sora-2", &json!({"values": {"max_in_flight": 9}, "reason": "x"})).await.expect(200);

    let db = app.connect().await;
    let in_force = limits::in_force(&mut db.pool().acquire().await.unwrap()).await.unwrap();
    let bare = tenant.trim_start_matches("ten_");
    let value =
        |scope, subject, rule| in_force.get(scope, subject, rule).map(|limit| (limit.value, limit.set_by.clone()));
    assert_eq!(value(Scope::Tenant, bare, Rule::VideosPerMinute), Some((700, "olga".to_owned())));
    assert_eq!(value(Scope::Tenant, bare, Rule::MaxInFlight), Some((5, "olga".to_owned())));
    assert_eq!(value(Scope::Account, "sora", Rule::RequestsPerMinute), Some((40, "olga".to_owned())));
    assert_eq!(value(Scope::Model, "sora-2", Rule::MaxInFlight), Some((9, "olga".to_owned())));
    db.close().await;
    let list = ops.get("/limits").await.expect(200);
    let listed: Vec<&Value> = list.body["data"].as_array().unwrap().iter().collect();
    assert_eq!(listed.len(), 5, "{}", list.text);
    assert!(listed.iter().any(|one| one["subject"] == json!(tenant) && one["value"] == 700 && one["in_force"] == true));
    let explained = ops.get(&format!("/limits/explain?tenant={tenant}&model=sora-2")).await.expect(200);
    assert_eq!((explained.number("/rules/0/limit"), explained.word("/rules/0/origin")), (700, "set"));
    assert_eq!(explained.word("/rules/0/reason"), "their launch");
    assert_eq!(
        (explained.number("/routes/0/rules/0/limit"), explained.number("/waiting")),
        (40, 1),
        "{}",
        explained.text
    );

    let cleared = ops.delete(&format!("{path}?temporary=true&reason=over")).await.expect(200);
    assert_eq!(cleared.body["data"].as_array().unwrap().len(), 1, "{}", cleared.text);
    assert_eq!((cleared.number("/data/0/before/value"), cleared.body.pointer("/data/0/after")), (700, None));
    let cleared = ops.delete(&format!("{path}?rule=max_in_flight&reason=over")).await.expect(200);
    assert_eq!(cleared.word("/data/0/rule"), "max_in_flight");
    let cleared = ops.delete(&format!("{path}?reason=all%20over")).await.expect(200);
    assert_eq!(cleared.number("/data/0/before/value"), 600);
    assert_eq!(ops.delete(&format!("{path}?reason=again")).await.expect(200).body["data"], json!([]));
    let told = "select count(*) from limit_changes where actor = 'olga' and reason <> ''";
    assert_eq!(app.count(told).await, 5 + 3);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "a line for each thing that is tried")]
async fn whatever_is_wrong_is_named_and_changes_nothing() {
    let app = api_alone().await;
    let customer = app.customer(1_000).await;
    let batch = customer.order(&order_of(1, "frame")).await;
    let tenant = tenant_of(&app, &batch).await;
    let ops = Op::add(&app, "olga", "ops").await;
    let nobody = "ten_00000000000000000000000000";
    let no_batch = "bat_00000000000000000000000000";
    let good = json!({"values": {"max_in_flight": 1}, "reason": "x"});
    for path in [
        &*format!("/limits/tenant/{nobody}"),
        "/limits/tenant/x",
        "/limits/account/nobody",
        "/limits/model/nothing",
        "/limits/batch/x",
        "/limits/queue/x",
        "/limits/model/%00",
    ] {
        ops.put(path, &good).await.problem(404);
        ops.delete(&format!("{path}?reason=x")).await.problem(404);
    }
    let known = ops.put("/limits/account/nobody", &good).await.problem(404);
    assert!(known["detail"].as_str().unwrap().contains("known are: sora, veo"), "{known}");
    let path = format!("/limits/tenant/{tenant}");
    for (body, pointers) in [
        (json!({}), &["/values", "/reason"][..]),
        (
            json!({"values": {"max_in_flight": 0, "paused": 1, "weight": 1_001, "x/y": 1}, "reason": " ", "who": "me"}),
            &["/who", "/values/max_in_flight", "/values/paused", "/values/weight", "/values/x~1y", "/reason"],
        ),
        (json!({"values": {"max_in_flight": 1}, "until": "2020-01-01T00:00:00Z", "reason": "x"}), &["/until"]),
        (
            json!({"values": {"max_in_flight": 1}, "until": "2120-01-01T00:00:00Z", "for": "1h", "reason": "x"}),
            &["/for"],
        ),
        (json!({"values": {"max_in_flight": 1}, "reason": "a\u{0}b"}), &["/reason"]),
        (json!({"values": {"max_in_flight": 1}, "reason": "e".repeat(1_001)}), &["/reason"]),
    ] {
        let problem = ops.put(&path, &body).await.problem(422);
        assert_eq!(
            (named(&problem), &problem["type"]),
            (pointers.to_vec(), &json!("/problems#invalid-change")),
            "{body}"
        );
    }
    ops.put("/limits/model/sora-2", &json!({"values": {"requests_per_minute": 1}, "reason": "x"})).await.problem(422);
    for (query, parameter) in [
        ("", "reason"),
        ("?reason=", "reason"),
        ("?reason=x&rule=most", "rule"),
        ("?reason=x&rule=paused", "rule"),
        ("?reason=x&temporary=perhaps", "temporary"),
        ("?reason=x&rules=weight", "rules"),
    ] {
        let problem = ops.delete(&format!("{path}{query}")).await.problem(400);
        assert_eq!(named(&problem), [parameter], "{query}");
    }
    ops.get(&format!("/limits/explain?tenant={nobody}&model=sora-2")).await.problem(404);
    ops.get(&format!("/limits/explain?tenant={tenant}&model=nothing")).await.problem(404);
    let problem = ops.get("/limits/explain?tenant=x&model=sora-2").await.problem(400);
    assert_eq!(named(&problem), ["tenant"]);
    ops.post("/accounts/nobody/stop", &json!({"reason": "x"})).await.problem(404);
    for path in ["/accounts/sora/stop", "/accounts/sora/start"] {
        assert_eq!(named(&ops.post(path, &json!({})).await.problem(422)), ["/reason"], "{path}");
    }
    for (scope, subject) in
        [("tenant", nobody), ("tenant", "x"), ("model", "nothing"), ("batch", no_batch), ("batch", nobody)]
    {
        for path in ["/pause", "/resume"] {
            let body = json!({"scope": scope, "subject": subject, "reason": "x"});
            assert_eq!(named(&ops.post(path, &body).await.problem(422)), ["/subject"], "{path} {body}");
        }
    }
    let problem = ops.post("/pause", &json!({"scope": "account", "subject": "sora"})).await.problem(422);
    assert_eq!(named(&problem), ["/scope", "/reason"]);
    ops.post(&format!("/batches/{no_batch}/cancel"), &json!({"reason": "x"})).await.problem(404);
    ops.post("/batches/x/cancel", &json!({"reason": "x"})).await.problem(404);
    assert_eq!(named(&ops.post(&format!("/batches/{batch}/cancel"), &json!({})).await.problem(422)), ["/reason"]);
    let filters = json!({"tenant": nobody, "model": "nothing", "ids": [batch, no_batch]});
    for step in [json!({"preview": true}), json!({"expected": 0, "reason": "x"})] {
        let mut body = json!({"action": "cancel", "filter": filters});
        body.as_object_mut().unwrap().extend(step.as_object().unwrap().clone());
        let problem = ops.post("/batches/bulk", &body).await.problem(422);
        assert_eq!(named(&problem), ["/filter/tenant", "/filter/model", "/filter/ids/1"]);
        body["filter"] = json!({});
        assert_eq!(named(&ops.post("/batches/bulk", &body).await.problem(422)), ["/filter"]);
    }
    let body = json!({"action": "cancel", "filter": {"tenant": tenant}, "reason": "x"});
    assert_eq!(named(&ops.post("/batches/bulk", &body).await.problem(422)), ["/expected"]);
    let (url, key) = (format!("{}{OPERATOR}/pause", app.base()), &ops.0.api_key);
    let form = app.http.post(&url).header("x-api-key", key).header("content-type", "text/plain").body("{}");
    assert_eq!(form.send().await.unwrap().status(), 415);
    for (body, status) in [("{", 400), ("", 400), (&*" ".repeat(70_000), 413)] {
        let sent = app.http.post(&url).header("x-api-key", key).header("content-type", "application/json");
        assert_eq!(sent.body(body.to_owned()).send().await.unwrap().status(), status);
    }
    assert_eq!(histories(&app).await, 0);
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_stopped_and_started_with_its_reason() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(10_000).await;
    let ops = Op::add(&app, "olga", "ops").await;
    let stopped = ops.post("/accounts/sora/stop", &json!({"reason": "price dispute"})).await.expect(200);
    assert_eq!((stopped.word("/before/state"), stopped.word("/after/state")), ("open", "stopped"));
    let list = ops.get("/accounts").await.expect(200);
    let account = |list: &Answer, name: &str| {
        let found = list.body["data"].as_array().unwrap().iter().find(|account| account["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {}", list.text)).clone()
    };
    let sora = account(&list, "sora");
    assert_eq!(
        (&sora["state"], &sora["stopped_by"], &sora["stop_reason"]),
        (&json!("stopped"), &json!("olga"), &json!("price dispute"))
    );
    assert_eq!((&sora["configured"], &sora["max_in_flight"]), (&json!(true), &json!(100_000)));
    assert_eq!(account(&list, "veo")["state"], "open");
    let id = customer.order(&order_of(3, "frame")).await;
    app.until("it waits for the account", async || customer.batch(&id).await.body["waiting_reason"] == "paused").await;
    let told = app.output(&["provider", "list"]).await;
    assert!(told.contains("stopped by olga"), "{told}");
    let started = ops.post("/accounts/sora/start", &json!({"reason": "settled"})).await.expect(200);
    assert_eq!((started.word("/before/state"), started.word("/after/state")), ("stopped", "open"));
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    let told = "select count(*) from provider_account_changes where actor = 'olga' and (act, reason) in
                (('stop', 'price dispute'), ('start', 'settled'))";
    assert_eq!(app.count(told).await, 2);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_models_and_batches_are_paused_and_resumed() {
    let app = api_alone().await;
    let customer = app.customer(1_000).await;
    let batch = customer.order(&order_of(1, "frame")).await;
    let tenant = tenant_of(&app, &batch).await;
    let ops = Op::add(&app, "olga", "ops").await;
    let db = app.connect().await;
    let paused = async |scope: Scope, subject: &str| {
        let bare = subject.trim_start_matches("ten_").trim_start_matches("bat_");
        limits::in_force(&mut db.pool().acquire().await.unwrap()).await.unwrap().paused(scope, bare)
    };
    for (scope, subject) in [(Scope::Tenant, &*tenant), (Scope::Model, "sora-2"), (Scope::Batch, &*batch)] {
        let mut body = json!({"scope": scope.name(), "subject": subject, "reason": "their incident"});
        let answer = ops.post("/pause", &body).await.expect(200);
        assert_eq!(
            (answer.word("/data/0/rule"), answer.word("/data/0/subject")),
            ("paused", subject),
            "{}",
            answer.text
        );
        assert!(paused(scope, subject).await, "{scope:?}");
        body["for"] = json!("1h");
        ops.post("/pause", &body).await.expect(200);
        // clearing limits resumes nothing
        if scope != Scope::Batch {
            let cleared = ops.delete(&format!("/limits/{}/{subject}?reason=x", scope.name())).await.expect(200);
            assert_eq!(cleared.body["data"], json!([]));
        }
        assert!(paused(scope, subject).await);
        body.as_object_mut().unwrap().remove("for");
        let answer = ops.post("/resume", &body).await.expect(200);
        assert_eq!(answer.body["data"].as_array().unwrap().len(), 2, "{}", answer.text);
        assert!(!paused(scope, subject).await);
        assert_eq!(ops.post("/resume", &body).await.expect(200).body["data"], json!([]));
    }
    let told =
        "select count(*) from limit_changes where actor = 'olga' and reason = 'their incident' and rule = 'paused'";
    assert_eq!(app.count(told).await, 3 * 4);
    db.close().await;
    close(app).await;
}

/// A provider that takes its time, and five slots.
fn slow() -> TestSettings {
    let profile = Profile { latency_ms: (4_000, 5_000), one_clip_for_all: true, clip_seconds: 1, ..Profile::calm() };
    TestSettings { profile, slots: 5, ..TestSettings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_cancels_a_batch_as_its_customer_would() {
    let app = TestApp::start(slow()).await;
    let customer = app.customer(10_000).await;
    let ops = Op::add(&app, "olga", "ops").await;
    let id = customer.order(&order_of(20, "frame")).await;
    app.until("five are being made", async || app.emulator.book().jobs.len() == 5).await;
    let path = format!("/batches/{id}/cancel");
    let first = ops.post(&path, &json!({"reason": "the customer called"})).await.expect(200);
    assert_eq!(first.word("/batch_id"), id);
    assert_eq!(ops.post(&path, &json!({"reason": "again"})).await.expect(200).text, first.text);
    let theirs = customer.call(Method::POST, &format!("{BATCHES}/{id}/cancel"), &[], None).await.expect(200);
    assert_eq!(theirs.word("/cancelled_at"), first.word("/cancelled_at"));
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!((batch.word("/status"), batch.number("/counts/cancelled")), ("partial", 15), "{}", batch.text);
    assert_eq!((batch.number("/credits/charged"), batch.number("/credits/refunded")), (5 * PRICE, 15 * PRICE));
    assert_eq!(customer.available().await, 10_000 - 5 * PRICE);
    let done = customer.order(&order_of(1, "frame")).await;
    app.finished_batch(&customer, &done).await;
    let reason = json!({"reason": "too late"});
    let problem = ops.post(&format!("/batches/{done}/cancel"), &reason).await.problem(409);
    assert!(problem["detail"].as_str().unwrap().contains("it is completed"), "{problem}");
    let pause = json!({"scope": "batch", "subject": done, "reason": "too late"});
    assert_eq!(ops.post("/pause", &pause).await.problem(409)["type"], "/problems#batch-ended");
    let acts: Vec<(String, String, String, Vec<String>)> =
        sqlx::query_as("select actor, act, reason, batches from operator_acts where act = 'cancel'")
            .fetch_all(app.pool())
            .await
            .unwrap();
    let told = |text: &str| text.to_owned();
    let bare = id.trim_start_matches("bat_").to_owned();
    assert_eq!(
        acts,
        [(told("olga"), told("cancel"), told("the customer called"), vec![bare])],
        "what changes nothing is no act"
    );
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "a line for each thing that is tried")]
async fn a_bulk_action_changes_what_its_preview_told_or_nothing() {
    let app = TestApp::start(slow()).await;
    let (one, other) = (app.customer(100_000).await, app.customer(100_000).await);
    let ops = Op::add(&app, "olga", "ops").await;
    ops.post("/accounts/sora/stop", &json!({"reason": "so that all of it waits"})).await.expect(200);
    let mut batches = Vec::new();
    for (customer, videos) in [(&one, 3), (&one, 4), (&other, 5)] {
        batches.push(customer.order(&order_of(videos, "frame")).await);
    }
    let mixed = json!({"items": [{"prompt": "frame", "model": "sora-2-pro"}]});
    batches.push(one.order(&mixed).await);
    let tenant = tenant_of(&app, &batches[0]).await;
    let created: DateTime<Utc> = one.batch(&batches[1]).await.word("/created_at").parse().unwrap();
    let preview = async |action: &str, filter: Value| {
        let body = json!({"action": action, "filter": filter, "preview": true});
        let answer = ops.post("/batches/bulk", &body).await.expect(200);
        assert_eq!((answer.body["preview"].as_bool(), answer.word("/action")), (Some(true), action));
        (answer.number("/batches"), answer.number("/waiting_videos"), answer.body["ids"].clone())
    };
    // each part of a filter, and all together
    for (filter, ids) in [
        (json!({"tenant": tenant}), vec![0, 1, 3]),
        (json!({"model": "sora-2-pro"}), vec![3]),
        (json!({"model": "sora-2", "tenant": tenant}), vec![0, 1]),
        (json!({"status": "queued"}), vec![0, 1, 2, 3]),
        (json!({"status": "processing"}), vec![]),
        (json!({"created_before": created}), vec![0]),
        (json!({"created_after": created}), vec![1, 2, 3]),
        (json!({"ids": [batches[2], batches[0]]}), vec![0, 2]),
        (json!({"ids": [batches[2], batches[0]], "tenant": tenant, "created_before": created}), vec![0]),
    ] {
        let ids: Vec<&String> = ids.into_iter().map(|at: usize| &batches[at]).collect();
        let videos = ids.iter().map(|id| [3, 4, 5, 1][batches.iter().position(|batch| batch == *id).unwrap()]).sum();
        assert_eq!(preview("cancel", filter.clone()).await, (ids.len() as i64, videos, json!(ids)), "{filter}");
    }
    let act = async |action: &str, filter: &Value, expected: i64| {
        ops.post(
            "/batches/bulk",
            &json!({"action": action, "filter": filter, "expected": expected, "reason": "their word"}),
        )
        .await
    };
    let mine = json!({"tenant": tenant});
    // pauses: what is paused for as long already is not paused again
    assert_eq!(preview("resume", mine.clone()).await.0, 0);
    let paused = act("pause", &mine, 3).await.expect(200);
    assert_eq!((paused.number("/batches"), paused.number("/waiting_videos")), (3, 8), "{}", paused.text);
    assert_eq!((preview("pause", mine.clone()).await.0, preview("pause", json!({"status": "queued"})).await.0), (0, 1));
    assert_eq!(preview("resume", json!({"status": "queued"})).await.0, 3);
    let set = "select count(*) from limit_changes where rule = 'paused' and act = 'set' and actor = 'olga'
               and state_before is null and state_after ->> 'reason' = 'their word'";
    assert_eq!(app.count(set).await, 3);
    let resumed = act("resume", &mine, 3).await.expect(200);
    assert_eq!(resumed.body["ids"], json!([batches[0], batches[1], batches[3]]));
    assert_eq!(app.count("select count(*) from limits").await, 0);
    // a pause that is to last longer is another one
    let mut short =
        json!({"action": "pause", "filter": {"ids": [batches[2]]}, "expected": 1, "for": "1h", "reason": "x"});
    ops.post("/batches/bulk", &short).await.expect(200);
    assert_eq!(preview("pause", json!({"ids": [batches[2]]})).await.0, 1, "one without an end lasts longer");
    short["for"] = json!("30m");
    assert_eq!(ops.post("/batches/bulk", &short).await.problem(409)["present"], 0);
    act("resume", &json!({"ids": [batches[2]]}), 1).await.expect(200);

    // another number than expected changes nothing
    let before = histories(&app).await;
    for wrong in [0, 2, 4] {
        let problem = act("cancel", &mine, wrong).await.problem(409);
        assert_eq!((&problem["type"], &problem["present"]), (&json!("/problems#other-count"), &json!(3)), "{problem}");
        assert_eq!(named(&problem), ["/expected"]);
    }
    assert_eq!(histories(&app).await, before);
    let cancelled = act("cancel", &mine, 3).await.expect(200);
    assert_eq!((cancelled.number("/batches"), cancelled.number("/waiting_videos")), (3, 8));
    assert_eq!((preview("cancel", mine.clone()).await.0, preview("pause", mine.clone()).await.0), (0, 0));
    for id in [&batches[0], &batches[1], &batches[3]] {
        let batch = app.finished_batch(&one, id).await;
        assert_eq!((batch.word("/status"), batch.number("/credits/charged")), ("failed", 0), "{}", batch.text);
        assert!(batch.number("/counts/cancelled") == batch.number("/counts/total"));
    }
    assert_eq!(one.available().await, 100_000);
    let act: (String, Value, Vec<String>) = sqlx::query_as(
        "select actor, about, batches from operator_acts where act = 'cancel' and reason = 'their word'",
    )
    .fetch_one(app.pool())
    .await
    .unwrap();
    let bare: Vec<&str> = [0, 1, 3].into_iter().map(|at: usize| batches[at].trim_start_matches("bat_")).collect();
    assert_eq!((act.0.as_str(), &act.1, act.2), ("olga", &mine, bare.into_iter().map(str::to_owned).collect()));
    ops.post("/accounts/sora/start", &json!({"reason": "go on"})).await.expect(200);
    assert_eq!(app.finished_batch(&other, &batches[2]).await.word("/status"), "completed");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_shows_what_it_would_change_and_needs_a_yes() {
    let app = TestApp::start(slow()).await;
    let customer = app.customer(100_000).await;
    app.output(&["provider", "stop", "sora", "--reason", "so that all of it waits", "--by", "ann"]).await;
    let first = customer.order(&order_of(3, "frame")).await;
    customer.order(&order_of(4, "frame")).await;
    let tenant = tenant_of(&app, &first).await;
    let chosen = ["--tenant", &tenant, "--reason", "a test", "--by", "ann"];
    let with = |before: &[&str], after: &[&str]| -> Vec<String> {
        [&["bulk"], before, &chosen[..], after].concat().into_iter().map(str::to_owned).collect()
    };
    let run =
        async |arguments: Vec<String>| app.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let asked = run(with(&["cancel"], &[])).await;
    let told = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert_eq!(asked.status.code(), Some(1));
    for part in ["to cancel: 2 batches, in which 7 videos wait", &first, "say --yes to cancel them"] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    for (wrong, why) in [
        (&["bulk", "cancel", "--reason", "x", "--yes"][..], "is empty and would choose every batch"),
        (&["bulk", "cancel", "--model", "nothing", "--reason", "x"], "names no model"),
        (&["bulk", "cancel", "--tenant", "ten_00000000000000000000000000", "--reason", "x"], "names no tenant"),
        (&["bulk", "cancel", "--id", "bat_00000000000000000000000000", "--reason", "x"], "names no batch"),
        (&["bulk", "cancel", "--tenant", &tenant, "--reason", " ", "--yes"], "--reason must say why"),
        (&["bulk", "cancel", "--tenant", &tenant], "--reason"),
        (&["bulk", "cancel", "--status", "completed", "--reason", "x"], "queued or processing"),
        (&["bulk", "cancel", "--tenant", &tenant, "--for", "1h", "--reason", "x"], "--for"),
    ] {
        let refused = app.command(wrong).await;
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(why), "{wrong:?}: {told}");
    }
    assert_eq!(app.count("select count(*) from operator_acts").await, 0);
    let done = run(with(&["pause"], &["--for", "2h", "--yes"])).await;
    assert_eq!(String::from_utf8_lossy(&done.stdout), "2 batches paused, in which 7 videos wait\n");
    let done = run(with(&["resume"], &["--yes", "--json"])).await;
    let document: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&document["batches"], &document["action"]), (&json!(2), &json!("resume")));
    let done = run(with(&["cancel"], &["--id", &first, "--yes"])).await;
    assert_eq!(String::from_utf8_lossy(&done.stdout), "1 batch cancelled, in which 3 videos wait\n");
    assert_eq!(app.finished_batch(&customer, &first).await.word("/status"), "failed");
    let done = run(with(&["cancel"], &["--yes"])).await;
    assert_eq!(String::from_utf8_lossy(&done.stdout), "1 batch cancelled, in which 4 videos wait\n");
    let done = run(with(&["cancel"], &[])).await;
    assert_eq!(
        String::from_utf8_lossy(&done.stdout),
        "0 batches cancelled, in which 0 videos wait\n",
        "nothing to ask about"
    );
    let acts: Vec<String> = sqlx::query_scalar("select act from operator_acts where actor = 'ann' order by id")
        .fetch_all(app.pool())
        .await
        .unwrap();
    assert_eq!(acts, ["pause", "resume", "cancel", "cancel"]);
    app.all_batches_end().await;
    assert_eq!(customer.available().await, 100_000);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_holds_an_operator_up_is_told_within_the_time_of_a_request() {
    let app = api_alone().await;
    let ops = Op::add(&app, "olga", "ops").await;
    ops.get("/limits").await.expect(200);
    let mut lock = sqlx::PgConnection::connect(&app.db.url).await.unwrap();
    sqlx::raw_sql("begin; lock table limits in access exclusive mode").execute(&mut lock).await.unwrap();
    let body = json!({"values": {"max_in_flight": 9}, "reason": "x"});
    let started = std::time::Instant::now();
    let (looked, changed) = tokio::join!(ops.get("/limits"), ops.put("/limits/model/sora-2", &body));
    assert!(started.elapsed() < Duration::from_secs(5), "after {:?}", started.elapsed());
    for answer in [looked, changed] {
        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
        // a lock that does not come is told as such: nothing was changed
        assert_eq!(answer.problem(503)["type"], "/problems#unavailable");
    }
    lock.close().await.unwrap();
    assert_eq!(app.count("select count(*) from limits").await, 0);
    app.until("it is served again", async || ops.put("/limits/model/sora-2", &body).await.status == 200).await;
    close(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_are_found_by_name_page_by_page_with_what_they_have_open() {
    let app = api_alone().await;
    let viewer = Op::add(&app, "vera", "viewer").await;
    for name in ["Northwind", "Southwind", "Contoso"] {
        app.output(&["tenant", "create", name, "--credits", "1000"]).await;
    }
    let customer = app.customer(1_000).await;
    customer.order(&order_of(3, "frame")).await;
    let names = |answer: &Answer| -> Vec<String> {
        let rows = answer.body["data"].as_array().unwrap();
        rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = viewer.get("/tenants?limit=2").await.expect(200);
    assert_eq!(names(&first), ["Northwind", "Southwind"]);
    let next = viewer.get(&format!("/tenants?limit=2&cursor={}", first.word("/next_cursor"))).await.expect(200);
    assert_eq!((names(&next)[0].as_str(), next.number("/data/1/waiting")), ("Contoso", 3), "{}", next.text);
    assert!(next.body.get("next_cursor").is_none(), "{}", next.text);
    assert_eq!(names(&viewer.get("/tenants?name=WIND").await.expect(200)), ["Northwind", "Southwind"]);
    assert!(names(&viewer.get("/tenants?name=%25").await.expect(200)).is_empty(), "a per cent sign is no wildcard");
    viewer.get("/tenants?cursor=nonsense").await.problem(400);
    viewer.get("/tenants?limit=0").await.problem(400);

    let listed = app.output(&["tenant", "list", "--name", "south", "--json"]).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["name"]), (1, &json!("Southwind")), "{listed}");
    let table = app.output(&["tenant", "list"]).await;
    assert!(["Northwind", "Contoso", "under way", "ten_"].iter().all(|part| table.contains(part)), "{table}");
    close(app).await;
}
