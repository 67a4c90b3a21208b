//! The small pictures of videos: kept where the provider has one, served by links of their own, deleted with their videos;
//! and whatever a provider sends in place of one, no video pays for it.

use std::collections::BTreeMap;

use chrono::{TimeDelta, Utc};
use freezeframe::emulator::{Fault, OddPicture, Rule, clip};
use freezeframe::storage::{ImageKind, LinkSigner};
use reqwest::{Method, Response};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::app::client::{BATCHES, Customer, item, order_of};
use crate::app::s3::S3;
use crate::app::{TestApp, TestSettings};
use crate::storage::{header, hex, on_s3, pass, show_files_to_the_audit, walk};

const ODD: [OddPicture; 6] =
    [OddPicture::Missing, OddPicture::Page, OddPicture::Film, OddPicture::Endless, OddPicture::Silent, OddPicture::Cut];

fn url_of(video: &Value) -> &str {
    video["output"]["thumbnail_url"].as_str().unwrap_or_else(|| panic!("no picture in {video}"))
}

async fn ask(app: &TestApp, method: Method, url: &str, headers: &[(&str, &str)]) -> Response {
    let request = app.http.request(method, url);
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
}

async fn problem(app: &TestApp, url: &str) -> (u16, String) {
    let answer = ask(app, Method::GET, url, &[]).await;
    let status = answer.status().as_u16();
    let problem: Value = answer.json().await.unwrap();
    (status, problem["type"].as_str().unwrap_or_default().trim_start_matches("/problems#").to_owned())
}

/// Everything that a client may do with the link, against what the API says of the picture and what the provider painted.
async fn assert_served(app: &TestApp, video: &Value, prompt: &str) {
    let output = &video["output"];
    let url = url_of(video);
    let painted = clip::still(prompt, 640, 360);
    assert_eq!(output["thumbnail_content_type"], "image/webp");
    assert_eq!(output["thumbnail_bytes"], painted.len());
    let sha256 = hex(digest(&SHA256, &painted).as_ref());
    assert_eq!(output["thumbnail_sha256"], sha256.as_str());

    let etag = format!("\"{sha256}\"");
    for method in [Method::GET, Method::HEAD] {
        let answer = ask(app, method.clone(), url, &[]).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, "image/webp"), "{method}");
        assert_eq!((header(&answer, "x-content-type-options"), header(&answer, "etag")), ("nosniff", etag.as_str()));
        assert_eq!(header(&answer, "content-length"), painted.len().to_string());
        let name = format!("inline; filename=\"{}.webp\"", video["video_id"].as_str().unwrap());
        assert_eq!(header(&answer, "content-disposition"), name);
        let body = answer.bytes().await.unwrap();
        assert!(if method == Method::GET { body == painted } else { body.is_empty() }, "{method}");
    }
    assert_eq!(ImageKind::of(&painted), Some(ImageKind::Webp));
    assert_eq!(ask(app, Method::GET, url, &[("if-none-match", &etag)]).await.status(), 304);
    // a picture is sent whole
    assert_eq!(ask(app, Method::GET, url, &[("range", "bytes=0-3")]).await.status(), 200);
    // its link opens nothing else
    assert_eq!(problem(app, &url.replace(".thumbnail", ".mp4")).await.0, 403);
    let other = output["url"].as_str().unwrap().replace(".mp4", ".thumbnail");
    assert_eq!(problem(app, &other).await.0, 403);
}

async fn are_purged(customer: &Customer, id: &str) -> bool {
    let page = customer.get(&format!("{BATCHES}/{id}/videos")).await;
    page.body["data"].as_array().unwrap().iter().all(|video| video["output"]["purged_at"].is_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_are_served_from_disk_and_from_s3_and_go_with_their_videos() {
    let s3 = S3::start().await;
    for settings in [TestSettings::default(), on_s3(&s3, TestSettings::default())] {
        let is_s3 = settings.storage.is_some();
        let app = TestApp::start(settings).await;
        if is_s3 {
            show_files_to_the_audit(&app, &s3);
        }
        let customer = app.customer(1_000).await;
        let id = customer.order(&json!({"items": [item("a calm sea"), item("a red fox")]})).await;
        assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
        let videos = customer.videos(&id).await;
        assert_served(&app, &videos[0], "a calm sea").await;
        assert_served(&app, &videos[1], "a red fox").await;
        // the links of a video end together, and with it
        let expires = |name: &str| {
            let url = videos[0]["output"][name].as_str().unwrap();
            url.split("expires=").nth(1).unwrap().split('&').next().unwrap().to_owned()
        };
        assert_eq!(expires("url"), expires("thumbnail_url"));
        let files = || if is_s3 { s3.objects().len() } else { walk(&app.videos_dir()).len() };
        assert_eq!(files(), 4);

        pass(&app, 31 * 24).await;
        app.until("all is deleted", async || files() == 0).await;
        app.until("it says so", async || are_purged(&customer, &id).await).await;
        let video = customer.videos(&id).await.remove(0);
        assert!(video["output"].get("thumbnail_url").is_none(), "{video}");
        assert_eq!(problem(&app, url_of(&videos[0])).await, (410, "file-purged".to_owned()));
        app.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_comes_in_place_of_a_picture_costs_its_video_nothing() {
    let word = |form: OddPicture| format!("{form:?}").to_lowercase();
    let rules = ODD.map(|form| Rule::on_prompt(word(form), Fault::OddThumbnail { form })).to_vec();
    let app = TestApp::start(TestSettings { rules, ..TestSettings::default() }).await;
    let customer = app.customer(1_000).await;
    let prompts: Vec<String> = ODD.into_iter().map(word).chain(["a calm sea".to_owned()]).collect();
    let items: Vec<Value> = prompts.iter().map(|prompt| item(prompt)).collect();
    let id = customer.order(&json!({"items": items})).await;
    let batch = app.finished_batch(&customer, &id).await;
    assert_eq!((batch.word("/status"), batch.number("/credits/charged")), ("completed", 7 * 61));
    let signer = LinkSigner::new(&app.master, app.base().parse().unwrap(), std::time::Duration::from_secs(60)).unwrap();
    for (video, prompt) in customer.videos(&id).await.iter().zip(&prompts) {
        assert_eq!((&video["state"], &video["attempts"]), (&json!("succeeded"), &json!(1)), "{prompt}");
        if prompt == "a calm sea" {
            assert_served(&app, video, prompt).await;
            continue;
        }
        let output = video["output"].as_object().unwrap();
        assert!(output.keys().all(|key| !key.starts_with("thumbnail")), "{prompt}: {video}");
        // a link that nobody gave, but genuine
        let id = video["video_id"].as_str().unwrap().parse().unwrap();
        let link = signer.sign_thumbnail(id, Utc::now(), Utc::now() + TimeDelta::days(1)).url;
        assert_eq!(problem(&app, link.as_str()).await.0, 404, "{prompt}");
    }
    let mut endings = BTreeMap::new();
    for file in walk(&app.videos_dir()) {
        *endings.entry(file.extension().unwrap().to_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(endings, BTreeMap::from([("mp4".to_owned(), 7), ("thumbnail".to_owned(), 1)]));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_no_picture_still_has_the_video() {
    let s3 = S3::start().await;
    let app = TestApp::start(on_s3(&s3, TestSettings::default())).await;
    show_files_to_the_audit(&app, &s3);
    for mood in [crate::app::s3::Mood::Forbidden, crate::app::s3::Mood::Silent] {
        s3.set_mood(mood, |method, path| method == Method::PUT && path.contains(".thumbnail"));
        let customer = app.customer(1_000).await;
        let id = customer.order(&order_of(2, "a calm sea")).await;
        assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed", "{mood:?}");
        assert!(customer.videos(&id).await.iter().all(|video| video["output"].get("thumbnail_url").is_none()));
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_pictures_are_switched_off_none_is_asked_for() {
    let settings = TestSettings { more_storage: "thumbnails = false".to_owned(), ..TestSettings::default() };
    let app = TestApp::start(settings).await;
    app.emulator.keep_requests();
    let customer = app.customer(1_000).await;
    let id = customer.order(&order_of(2, "a calm sea")).await;
    assert_eq!(app.finished_batch(&customer, &id).await.word("/status"), "completed");
    let asked: Vec<String> = app.emulator.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(asked.iter().filter(|target| target.ends_with("/content")).count(), 2, "{asked:?}");
    assert!(asked.iter().all(|target| !target.contains("variant")), "{asked:?}");
    let films = walk(&app.videos_dir());
    assert_eq!(films.len(), 2);
    // a process died between a picture and the row that would have told of it: it goes with its video
    std::fs::write(films[0].with_extension("thumbnail"), "a picture").unwrap();
    pass(&app, 31 * 24).await;
    app.until("all is deleted", async || walk(&app.videos_dir()).is_empty()).await;
    app.until("it says so", async || are_purged(&customer, &id).await).await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picture_that_was_changed_in_the_store_is_not_served() {
    let mut app = TestApp::start(TestSettings::default()).await;
    app.excuse("the picture of video");
    let customer = app.customer(1_000).await;
    let id = customer.order(&order_of(1, "a calm sea")).await;
    app.finished_batch(&customer, &id).await;
    let video = customer.videos(&id).await.remove(0);
    let stored = walk(&app.videos_dir()).into_iter().find(|file| file.extension().unwrap() == "thumbnail").unwrap();
    for other in [b"<svg onload='alert(1)'/>".to_vec(), [[0xff, 0xd8, 0xff].as_slice(), &[0xff, 0xd9]].concat()] {
        std::fs::write(&stored, other).unwrap();
        assert_eq!(problem(&app, url_of(&video)).await.0, 500);
    }
    std::fs::remove_file(&stored).unwrap();
    assert_eq!(problem(&app, url_of(&video)).await.0, 500);
    assert_eq!(ask(&app, Method::GET, video["output"]["url"].as_str().unwrap(), &[]).await.status(), 200);
    app.finish().await;
}
