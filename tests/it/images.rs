//! Reference images from the order to the provider: refused with their place, uploaded once, fetched once, sent bit for bit,
//! and every way in which one cannot be had ends as its own failure, refunded and told.

use std::collections::BTreeMap;

use freezeframe::db::{Database, DatabaseSettings};
use freezeframe::domain::ImageId;
use freezeframe::emulator::BookedJob;
use freezeframe::images::{deleted, mark_due};
use freezeframe::steps::purge_images;
use freezeframe::storage::Storage;
use reqwest::Method;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::app::client::{Answer, Customer};
use crate::app::image_host::{ImageHost, png};
use crate::app::{API, API_AND_SCHEDULER, TestApp, TestSettings};

const IMAGES: &str = "/api/enterprise/images";
/// Images may come from this machine, and are not waited for long.
const LOCAL: &str = "\n[images]\nallow_private_sources = true\n";
const SOURCES: &str = "select count(*) from videos where reference_image is not null";
const PLAIN_MODEL: &str = r#"
[[model]]
name = "sora-2"
provider = "sora"
price_credits = 61
standard_seconds = 4
seconds = [4]
sizes = ["1280x720", "720x1280"]
reference_image = true
reference_image_matches_size = true

[[model]]
name = "veo-3.1"
provider = "veo"
upstream = "veo-3.1"
price_credits = 61
standard_seconds = 4
seconds = [4]
sizes = ["1280x720"]
reference_image = true

[[model]]
name = "words-alone"
provider = "sora"
upstream = "sora-2"
price_credits = 61
standard_seconds = 4
seconds = [4]
sizes = ["1280x720"]
"#;

async fn app(settings: TestSettings) -> TestApp {
    let more_storage = format!("{LOCAL}{}", settings.more_storage);
    TestApp::start(TestSettings { more_storage, models: PLAIN_MODEL.to_owned(), ..settings }).await
}

async fn upload(customer: &Customer, image: &[u8]) -> Answer {
    let url = format!("{}{IMAGES}", customer.base);
    let request = customer.http.post(url).header("X-API-Key", &customer.api_key).header("content-type", "image/png");
    let response = request.body(image.to_vec()).send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::Null), text }
}

fn sha256(bytes: &[u8]) -> String {
    let hash: [u8; 32] = digest(&SHA256, bytes).as_ref().try_into().unwrap();
    ImageId::new(hash).to_string()
}

fn with_url(prompt: &str, url: &str) -> Value {
    json!({"prompt": prompt, "model": "sora-2", "reference_image_url": url})
}

fn with_upload(prompt: &str, id: &str) -> Value {
    json!({"prompt": prompt, "model": "sora-2", "reference_image": id})
}

fn faults(problem: &Value) -> Vec<(&str, &str)> {
    let text = |error: &Value, field: &str| error[field].as_str().unwrap_or_default().to_owned().leak() as &str;
    problem["errors"].as_array().unwrap().iter().map(|error| (text(error, "pointer"), text(error, "detail"))).collect()
}

fn jobs(app: &TestApp) -> Vec<BookedJob> {
    app.emulator.book().jobs
}

async fn close_desk(mut app: TestApp) {
    for part in ["videos that never ended", "batches that never ended"] {
        app.excuse(part);
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_is_refused_at_its_place_before_anything_is_frozen() {
    let settings = TestSettings { roles: API, models: PLAIN_MODEL.to_owned(), ..TestSettings::default() };
    let app = TestApp::start(settings).await;
    let customer = app.customer(10_000).await;
    let good = "https://images.example.com/a.png?signature=1";
    let item = |fields: Value| {
        let mut item = json!({"prompt": "a fox", "model": "sora-2"});
        item.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        item
    };
    let items = json!({"items": [
        item(json!({"reference_image_url": good})),
        item(json!({"reference_image_url": good, "model": "words-alone"})),
        item(json!({"reference_image_url": good, "reference_image": sha256(b"x")})),
        item(json!({"reference_image_url": "http://images.example.com/a.png"})),
        item(json!({"reference_image_url": "https://10.0.0.7/a.png"})),
        item(json!({"reference_image_url": "https://me:secret@images.example.com/a.png"})),
        item(json!({"reference_image_url": format!("https://images.example.com/{}", "x".repeat(2100))})),
        item(json!({"reference_image_url": 7})),
        item(json!({"reference_image": "a.png"})),
        item(json!({"reference_image": sha256(b"x").to_uppercase()})),
        item(json!({"reference_image": null, "reference_image_url": null})),
    ]});
    let problem = customer.submit(&items).await.problem(422);
    let found = faults(&problem);
    let pointers: Vec<&str> = found.iter().map(|(pointer, _)| *pointer).collect();
    let expected: Vec<String> = [
        (1, "reference_image_url"),
        (2, "reference_image"),
        (3, "reference_image_url"),
        (4, "reference_image_url"),
        (5, "reference_image_url"),
        (6, "reference_image_url"),
        (7, "reference_image_url"),
        (8, "reference_image"),
        (9, "reference_image"),
    ]
    .map(|(at, field)| format!("/items/{at}/{field}"))
    .to_vec();
    assert_eq!(pointers, expected);
    assert!(found[0].1.contains("`words-alone` takes no reference image"), "{}", found[0].1);
    assert!(!problem.to_string().contains("secret"));

    // what only the database knows is told in one go as well
    let small = upload(&customer, &png(640, 360, 1)).await.expect(201).word("/id").to_owned();
    let stranger = app.customer(10_000).await;
    let theirs = upload(&stranger, &png(1280, 720, 2)).await.expect(201).word("/id").to_owned();
    let fits_anywhere = json!({"prompt": "b", "model": "veo-3.1", "reference_image": small});
    let items = json!({"items": [with_upload("a", &small), fits_anywhere, with_upload("c", &theirs), with_upload("d", &sha256(b"x"))]});
    let problem = customer.submit(&items).await.problem(422);
    let found = faults(&problem);
    let pointers: Vec<&str> = found.iter().map(|(pointer, _)| *pointer).collect();
    assert_eq!(pointers, ["/items/0/reference_image", "/items/2/reference_image", "/items/3/reference_image"]);
    assert!(found[0].1.contains("640x360") && found[0].1.contains("1280x720"), "{}", found[0].1);
    // that somebody else has it is not told
    assert_eq!(found[1].1, found[2].1);
    assert_eq!(app.count("select count(*) from batches").await, 0);
    assert_eq!(app.count("select count(*) from reference_image_uses").await, 0);
    assert_eq!(customer.available().await, 10_000);

    let models = customer.get("/api/enterprise/models").await.expect(200);
    let takes: BTreeMap<&str, (bool, bool)> = models.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| {
            let flag = |name: &str| model[name].as_bool().unwrap();
            let takes = (flag("accepts_reference_image"), flag("reference_image_matches_size"));
            (model["name"].as_str().unwrap(), takes)
        })
        .collect();
    assert_eq!(takes["sora-2"], (true, true));
    assert_eq!((takes["veo-3.1"], takes["words-alone"]), ((true, false), (false, false)));
    close_desk(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_known_by_its_bytes_and_by_its_tenant_alone() {
    let settings = TestSettings {
        roles: API,
        more_storage: "max_image_bytes = 100000\nmax_per_tenant = 2\nmemory_bytes = 1000000".to_owned(),
        ..TestSettings::default()
    };
    let app = app(settings).await;
    let (customer, stranger) = (app.customer(1_000).await, app.customer(1_000).await);
    let image = png(1280, 720, 0);
    let first = upload(&customer, &image).await.expect(201);
    assert_eq!(first.word("/id"), sha256(&image));
    assert_eq!((first.word("/media_type"), first.number("/width"), first.number("/height")), ("image/png", 1280, 720));
    assert_eq!(first.number("/bytes"), image.len() as i64);
    let again = upload(&customer, &image).await.expect(200);
    assert_eq!(again.word("/id"), first.word("/id"));
    let path = format!("{IMAGES}/{}", first.word("/id"));
    assert_eq!(customer.get(&path).await.expect(200).word("/id"), first.word("/id"));
    stranger.get(&path).await.problem(404);
    customer.get(&format!("{IMAGES}/nothing")).await.problem(404);
    // the same bytes are another tenant's own image
    upload(&stranger, &image).await.expect(201);
    assert_eq!(app.count("select count(*) from reference_images").await, 2);

    upload(&customer, b"<html>").await.problem(415);
    upload(&customer, b"").await.problem(415);
    upload(&customer, &image[..image.len() - 1]).await.problem(422);
    upload(&customer, &vec![0; 100_001]).await.problem(413);
    let nobody = customer.call(Method::POST, IMAGES, &[("x-api-key", "ff_live_no")], Some("x".to_owned())).await;
    nobody.problem(401);
    upload(&customer, &png(1280, 720, 1)).await.expect(201);
    let full = upload(&customer, &png(1280, 720, 2)).await.problem(409);
    assert_eq!(full["type"], "/problems#image-quota");
    upload(&customer, &png(1280, 720, 1)).await.expect(200);
    close_desk(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_arrive_bit_for_bit_and_one_url_is_asked_for_once() {
    let app = app(TestSettings::default()).await;
    let host = ImageHost::start().await;
    let customer = app.customer(100_000).await;
    let own = png(1280, 720, 9);
    let id = upload(&customer, &own).await.expect(201).word("/id").to_owned();
    let mut items: Vec<Value> = (0..60).map(|n| with_url(&format!("same {n}"), &host.url("good.png"))).collect();
    items.extend((0..20).map(|n| with_upload(&format!("own {n}"), &id)));
    items.push(with_url("moved", &host.url("moved.png?signature=1")));
    items.push(json!({"prompt": "other", "model": "veo-3.1", "reference_image_url": host.url("other.png")}));
    items.push(json!({"prompt": "none", "model": "sora-2"}));
    let batch = customer.order(&json!({"items": items})).await;
    let ended = app.finished_batch(&customer, &batch).await;
    assert_eq!(ended.word("/status"), "completed", "{}", ended.text);
    let host_image = sha256(&png(1280, 720, 0));
    for job in jobs(&app) {
        let expected = match job.prompt.split(' ').next().unwrap() {
            "same" | "moved" | "other" => Some(host_image.clone()),
            "own" => Some(id.clone()),
            _ => None,
        };
        assert_eq!(job.image_sha256.map(|hash| format!("sha256:{hash}")), expected, "{}", job.prompt);
    }
    // the redirected one is another URL
    assert_eq!((host.asked("good.png"), host.asked("moved.png")), (2, 1));
    // where they came from may be a signed URL, and nobody needs it any more
    assert_eq!(app.count(SOURCES).await, 0);
    assert_eq!(app.count("select count(*) from attempts where unsent").await, 0);
    app.finish().await;
}

/// What lies behind a URL, the class of the failure, words of what the customer is told, and how often it was tried.
type Case = (&'static str, &'static str, &'static str, u32);

/// A batch of images that cannot be had: each ends as its own failure, and all of it is refunded.
async fn fails_with_its_images(app: &TestApp, host: &ImageHost, customer: &Customer, cases: &[Case]) {
    let url = |file: &str| host.url(&format!("{file}?signature=hunter2"));
    let items: Vec<Value> = cases.iter().map(|(file, ..)| with_url(file, &url(file))).collect();
    let batch = customer.order(&json!({"items": items})).await;
    let ended = app.finished_batch(customer, &batch).await;
    assert_eq!((ended.word("/status"), ended.number("/credits/refunded")), ("failed", 61 * cases.len() as i64));
    let videos = customer.videos(&batch).await;
    assert_eq!(videos.len(), cases.len());
    for (video, (file, class, words, attempts)) in videos.iter().zip(cases) {
        let failure = &video["failure"];
        let message = failure["detail"].as_str().unwrap_or_else(|| panic!("{file}: {failure}"));
        assert_eq!(failure["type"], *class, "{file}: {message}");
        assert!(message.starts_with("The reference image could not be used: "), "{file}: {message}");
        assert!(message.contains(words), "{file}: {message}");
        assert!(!message.contains("hunter2"), "{file}: {message}");
        assert_eq!(video["attempts"], *attempts, "{file}");
    }
    // what was tried again had its source until the end, and no longer
    assert_eq!(app.count(SOURCES).await, 0);
    // nothing of it was anybody's fault but the image's
    assert_eq!(app.count("select count(*) from videos where avoid is not null").await, 0);
    assert_eq!(app.count("select count(*) from attempts where state = 'unresolved'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_never_comes_is_given_up_and_refunded() {
    let more_storage = "fetch_timeout_secs = 1\n".to_owned();
    let app = app(TestSettings { more_storage, ..TestSettings::default() }).await;
    let host = ImageHost::start().await;
    let customer = app.customer(1_000).await;
    let silent = ("silent.png", "network", "no complete answer within", 8);
    fails_with_its_images(&app, &host, &customer, &[silent]).await;
    assert_eq!((jobs(&app).len(), customer.available().await), (0, 1_000));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_image_that_cannot_be_had_ends_as_its_own_failure_and_is_refunded() {
    let more_storage = "max_image_bytes = 1000000\n".to_owned();
    let app = app(TestSettings { more_storage, ..TestSettings::default() }).await;
    let host = ImageHost::start().await;
    let customer = app.customer(100_000).await;
    let cases = [
        ("gone.png", "invalid_input", "answered 404", 1),
        ("page.png", "invalid_input", "no JPEG, PNG or WebP", 1),
        ("cut.png", "invalid_input", "damaged or cut off", 1),
        ("huge.png", "invalid_input", "more than the 1000000 bytes", 1),
        ("small.png", "invalid_input", "640x360", 1),
        ("metadata.png", "invalid_input", "private or reserved address", 1),
        ("downgrade.png", "invalid_input", "must start with https", 1),
        ("loop.png", "invalid_input", "redirects too often", 1),
        ("away.png", "network", "answered 503", 8),
    ];
    let flaky = with_url("flaky", &host.url("flaky.png?signature=hunter2"));
    let flaky = customer.order(&json!({"items": [flaky]})).await;
    assert_eq!(app.finished_batch(&customer, &flaky).await.word("/status"), "completed");
    fails_with_its_images(&app, &host, &customer, &cases).await;
    assert_eq!(jobs(&app).len(), 1);
    assert_eq!(customer.available().await, 100_000 - 61);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_replaced_over_an_image_never_sends_and_its_successor_sends_once() {
    let app = app(TestSettings { roles: freezeframe::service::Roles::ALL, ..TestSettings::default() }).await;
    let host = ImageHost::start().await;
    let customer = app.customer(1_000).await;
    let batch = customer.order(&json!({"items": [with_url("a fox", &host.url("held.png"))]})).await;
    app.until("the image is asked for", async || host.asked("held.png") > 0).await;
    assert_eq!(app.count("select count(*) from attempts where unsent and state = 'sent'").await, 1);
    // somebody else takes the video over meanwhile
    let statement =
        "with v as (update videos set lease_epoch = lease_epoch + 1, claim_id = 'other' returning id, lease_epoch)
                     update attempts a set lease_epoch = v.lease_epoch from v where a.video_id = v.id";
    assert_eq!(app.execute(statement).await, 1);
    host.open();
    let ended = app.finished_batch(&customer, &batch).await;
    assert_eq!(ended.word("/status"), "completed", "{}", ended.text);
    assert_eq!(jobs(&app).len(), 1);
    // the attempt was never sent before, so it is the same one, and nobody looked it up
    assert_eq!(app.count("select count(*) from attempts").await, 1);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_video_that_kills_three_workers_over_its_image_is_failed_and_refunded_unsent() {
    let mut app = app(TestSettings { roles: API_AND_SCHEDULER, ..TestSettings::default() }).await;
    let host = ImageHost::start().await;
    let customer = app.customer(1_000).await;
    let batch = customer.order(&json!({"items": [with_url("a fox", &host.url("held.png"))]})).await;
    for death in 1..=3 {
        let asked = host.asked("held.png");
        let worker = app.start_process("worker").await;
        let claimed = format!("select count(*) from videos where state = 'running' and lease_epoch = {death}");
        app.until(&format!("worker {death} has it"), async || app.count(&claimed).await == 1).await;
        app.until("the image is asked for", async || host.asked("held.png") > asked).await;
        app.process(worker).kill();
    }
    // whoever gives it up wants no image any more
    let asked = host.asked("held.png");
    app.start_process("worker").await;
    assert_eq!(app.finished_batch(&customer, &batch).await.word("/status"), "failed");
    assert_eq!(customer.videos(&batch).await.remove(0)["failure"]["type"], "poison");
    assert_eq!((host.asked("held.png"), jobs(&app).len()), (asked, 0));
    assert_eq!(customer.available().await, 1_000);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_over_an_image_hands_the_video_over_unsent() {
    let mut app = app(TestSettings::default()).await;
    let host = ImageHost::start().await;
    let customer = app.customer(1_000).await;
    let batch = customer.order(&json!({"items": [with_url("a fox", &host.url("held.png"))]})).await;
    app.until("the image is asked for", async || host.asked("held.png") > 0).await;
    app.stop_service().await;
    assert_eq!(app.count("select count(*) from attempts where unsent and finished_at is null").await, 1);
    host.open();
    app.start_service().await;
    let customer = app.here(&customer);
    let ended = app.finished_batch(&customer, &batch).await;
    assert_eq!(ended.word("/status"), "completed", "{}", ended.text);
    assert_eq!((jobs(&app).len(), app.count("select max(deaths)::bigint from videos").await), (1, 0));
    assert_eq!(app.count("select count(*) from attempts").await, 1);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_kept_while_it_is_used_and_deleted_some_days_after() {
    let app = app(TestSettings { more_storage: "retention_days = 2\n".to_owned(), ..TestSettings::default() }).await;
    let customer = app.customer(1_000).await;
    let used = upload(&customer, &png(1280, 720, 1)).await.expect(201).word("/id").to_owned();
    let unused = upload(&customer, &png(1280, 720, 2)).await.expect(201).word("/id").to_owned();
    let batch = customer.order(&json!({"items": [with_upload("a fox", &used), with_upload("a hare", &used)]})).await;
    app.finished_batch(&customer, &batch).await;
    assert_eq!(app.count("select count(*) from reference_image_uses").await, 1);
    let old = "update reference_images set uploaded_at = now() - interval '3 days'";
    assert_eq!(app.execute(old).await, 2);
    app.until("what nobody used is deleted", async || app.count("select count(*) from reference_images").await == 1)
        .await;
    customer.get(&format!("{IMAGES}/{used}")).await.expect(200);
    customer.get(&format!("{IMAGES}/{unused}")).await.problem(404);
    customer.submit(&json!({"items": [with_upload("a fox", &unused)]})).await.problem(422);
    let files = || {
        let tenants = std::fs::read_dir(app.videos_dir()).unwrap().map(|entry| entry.unwrap().path().join("images"));
        tenants.filter_map(|images| std::fs::read_dir(images).ok()).map(Iterator::count).sum::<usize>()
    };
    assert_eq!(files(), 1);
    assert_eq!(app.execute("update batches set finished_at = now() - interval '3 days'").await, 1);
    app.until("what was used is deleted", async || app.count("select count(*) from reference_images").await == 0).await;
    assert_eq!((files(), app.count("select count(*) from reference_image_uses").await), (0, 0));
    // it may come again
    upload(&customer, &png(1280, 720, 1)).await.expect(201);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_order_is_answered_as_before_although_its_image_is_gone() {
    let app = app(TestSettings { roles: API, ..TestSettings::default() }).await;
    let customer = app.customer(1_000).await;
    let id = upload(&customer, &png(1280, 720, 1)).await.expect(201).word("/id").to_owned();
    let body = json!({"items": [with_upload("a fox", &id)], "x-request-id": "spring-1"});
    let first = customer.submit(&body).await.expect(202);
    app.execute("update reference_images set purging_at = now()").await;
    assert_eq!(customer.submit(&body).await.expect(202).body, first.body);
    assert_eq!(app.count("select count(*) from batches").await, 1);
    close_desk(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_purged_by_one_process_at_a_time_and_one_that_came_again_keeps_its_uses() {
    let app = app(TestSettings { roles: API, ..TestSettings::default() }).await;
    let customer = app.customer(1_000).await;
    let image = png(1280, 720, 1);
    let id = upload(&customer, &image).await.expect(201).word("/id").to_owned();
    app.execute("update reference_images set uploaded_at = now() - interval '99 days'").await;
    let db = Database::connect(&DatabaseSettings::new(&app.db.url)).await.unwrap();
    let purged = async || {
        assert!(!purge_images(&db, &Storage::in_memory(), 30).await.unwrap());
        app.count("select count(*) from reference_images").await == 0
    };
    // another process is at it
    let mut other = app.pool().begin().await.unwrap();
    let lock = "select pg_advisory_xact_lock(hashtextextended('freezeframe purge', 7))";
    sqlx::query(lock).execute(&mut *other).await.unwrap();
    assert!(!purged().await, "two purges at once");
    other.rollback().await.unwrap();
    assert!(purged().await);

    // two that saw the same image as due: one is done with it, and it comes again before the other one is
    upload(&customer, &image).await.expect(201);
    app.execute("update reference_images set uploaded_at = now() - interval '99 days'").await;
    let mut conn = app.pool().acquire().await.unwrap();
    let due = mark_due(&mut conn, 30, 10).await.unwrap();
    assert_eq!(due.len(), 1);
    deleted(&mut conn, &due).await.unwrap();
    assert_eq!(app.count("select count(*) from reference_images").await, 0);
    upload(&customer, &image).await.expect(201);
    customer.order(&json!({"items": [with_upload("a fox", &id)]})).await;
    deleted(&mut conn, &due).await.unwrap();
    customer.get(&format!("{IMAGES}/{id}")).await.expect(200);
    assert_eq!(app.count("select count(*) from reference_image_uses").await, 1);
    db.close().await;
    close_desk(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_that_cannot_be_deleted_are_in_no_others_way() {
    let app = app(TestSettings { roles: API, ..TestSettings::default() }).await;
    let customer = app.customer(1_000).await;
    let old = |nth: u8, days: u8| {
        let (customer, app) = (&customer, &app);
        async move {
            let id = upload(customer, &png(1280, 720, nth)).await.expect(201).word("/id").to_owned();
            let hash = id.trim_start_matches("sha256:");
            app.execute(&format!(
                "update reference_images set uploaded_at = now() - interval '{days} days' where encode(sha256, 'hex') = '{hash}'"
            ))
            .await;
            id
        }
    };
    let stuck = [old(1, 90).await, old(2, 89).await];
    let others = [old(3, 50).await, old(4, 49).await];
    // a purge takes two, and the store deletes none of them
    let take_two = async || {
        let mut tx = app.pool().begin().await.unwrap();
        let mut ids: Vec<String> =
            mark_due(&mut tx, 30, 2).await.unwrap().iter().map(|due| due.id.to_string()).collect();
        tx.commit().await.unwrap();
        ids.sort();
        ids
    };
    let sorted = |ids: &[String; 2]| {
        let mut ids = ids.to_vec();
        ids.sort();
        ids
    };
    let (stuck, others) = (sorted(&stuck), sorted(&others));
    let taken = [take_two().await, take_two().await, take_two().await, take_two().await, take_two().await];
    assert_eq!(taken[0], stuck);
    assert!(taken[1..3].contains(&others), "{taken:?}");
    assert!(taken[3..].contains(&others) && taken[3..].contains(&stuck), "everybody has a turn: {taken:?}");
    close_desk(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_uploads_of_one_tenant_take_no_other_tenants_connections() {
    let app = app(TestSettings { roles: API, ..TestSettings::default() }).await;
    let (busy, other) = (app.customer(1_000).await, app.customer(1_000).await);
    let known = upload(&busy, &png(1280, 720, 200)).await.expect(201);
    let theirs = upload(&other, &png(1280, 720, 0)).await.expect(201).word("/id").to_owned();
    // an upload of the same tenant in another process takes its time
    let mut slow = app.pool().begin().await.unwrap();
    let lock = "select pg_advisory_xact_lock(hashtextextended('images ' || tenant_id, 7)) from reference_images
                where sha256 = decode($1, 'hex')";
    let hash = known.word("/id").trim_start_matches("sha256:").to_owned();
    assert_eq!(sqlx::query(lock).bind(hash).execute(&mut *slow).await.unwrap().rows_affected(), 1);
    let uploads = futures_util::future::join_all((1..=40u8).map(|nth| {
        let busy = busy.clone();
        tokio::spawn(async move {
            let mut answer = upload(&busy, &png(1280, 720, nth)).await;
            // who has waited long enough for its turn is told to come back
            while answer.status == 503 {
                answer = upload(&busy, &png(1280, 720, nth)).await;
            }
            assert!(answer.status.is_success(), "{}", answer.text);
        })
    }));
    let waiting = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
                   where d.datname = current_database() and l.locktype = 'advisory' and not l.granted";
    app.until("uploads wait", async || app.count(waiting).await > 0).await;
    for _ in 0..20 {
        customer_sees(&other, &theirs).await;
        // what is there already waits for nobody
        assert_eq!(upload(&busy, &png(1280, 720, 200)).await.expect(200).body, known.body);
    }
    // none between one that gave up and the next one's turn
    assert!(app.count(waiting).await <= 1, "who waits holds a connection");
    slow.rollback().await.unwrap();
    for uploaded in uploads.await {
        uploaded.unwrap();
    }
    assert_eq!(app.count("select count(*) from reference_images").await, 42);
    close_desk(app).await;
}

async fn customer_sees(customer: &Customer, id: &str) {
    customer.get(&format!("{IMAGES}/{id}")).await.expect(200);
}
