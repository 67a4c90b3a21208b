//! Files: fetched, checked, found again, and never trusted.

use std::sync::atomic::Ordering;

use ring::digest;
use serde_json::{Value, json};

use super::fake::{self, Fake};
use super::{Machine, app, path};

fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_fetched_checked_and_not_fetched_again() {
    let app = app().await;
    let customer = app.customer(10_000).await;
    let machine = Machine::of(&customer);
    let ids = ["fox", "../../escape", "fox/2", ".hidden"];
    let mut lines: String = ids
        .iter()
        .map(|id| json!({"prompt": format!("sea {id}"), "model": "sora-2", "custom_id": id}).to_string() + "\n")
        .collect();
    lines.push_str("{\"prompt\":\"no name\",\"model\":\"sora-2\"}\n{\"prompt\":\"gore\",\"model\":\"sora-2\"}\n");
    let file = machine.file("a.jsonl", &lines);
    let batch = machine.run(&["batch", "submit", path(&file), "--watch", "--json"]).await.ends_with(3).document();
    let id = batch["batch_id"].as_str().unwrap();

    let first = machine.run(&["batch", "results", id, "--download", "videos", "--json"]).await.ends_with(0).document();
    assert_eq!((&first["download"]["fetched"], &first["download"]["already_there"]), (&json!(5), &json!(0)));
    let names = machine.names("videos");
    assert_eq!(names, ["00001-______escape.mp4", "00002-fox_2.mp4", "00003-_hidden.mp4", "00004.mp4", "fox.mp4"]);
    for video in first["videos"].as_array().unwrap().iter().filter(|video| video["state"] == "succeeded") {
        let bytes = std::fs::read(machine.home.path().join(video["file"].as_str().unwrap())).unwrap();
        assert_eq!(video["output"]["sha256"], sha256(&bytes));
    }
    let again = machine.run(&["batch", "results", id, "--download", "videos"]).await.ends_with(0);
    again.says(&["videos: 0 files fetched (0 B), 5 were there already; 1 video failed and cost nothing"]);

    // what is there with other content is somebody's
    let fox = machine.home.path().join("videos/fox.mp4");
    std::fs::write(&fox, "my own film").unwrap();
    let ran = machine.run(&["batch", "results", id, "--download", "videos"]).await.ends_with(1);
    ran.says(&["not fetched: #0: videos/fox.mp4 is there with other content: --overwrite replaces it"]);
    assert_eq!(std::fs::read_to_string(&fox).unwrap(), "my own film");
    machine
        .run(&["batch", "results", id, "--download", "videos", "--overwrite"])
        .await
        .ends_with(0)
        .says(&["1 file fetched"]);
    assert_eq!(sha256(&std::fs::read(&fox).unwrap()), first["videos"][0]["output"]["sha256"].as_str().unwrap());
    assert_eq!(machine.names("videos"), names, "no part of a file is left");

    // the pictures too, beside their videos
    let pictures = machine
        .run(&["batch", "results", id, "--download", "videos", "--thumbnails", "--json"])
        .await
        .ends_with(0)
        .document();
    assert_eq!((&pictures["download"]["fetched"], &pictures["download"]["already_there"]), (&json!(5), &json!(5)));
    for video in pictures["videos"].as_array().unwrap().iter().filter(|video| video["state"] == "succeeded") {
        let (file, picture) = (video["file"].as_str().unwrap(), video["thumbnail_file"].as_str().unwrap());
        assert_eq!(picture, file.replace(".mp4", ".webp"));
        let bytes = std::fs::read(machine.home.path().join(picture)).unwrap();
        assert_eq!(video["output"]["thumbnail_sha256"], sha256(&bytes));
    }
    std::fs::write(machine.home.path().join("videos/fox.webp"), "my own picture").unwrap();
    let ran = machine.run(&["batch", "results", id, "--download", "videos", "--thumbnails"]).await.ends_with(1);
    ran.says(&["not fetched: #0: its picture: videos/fox.webp is there with other content", "9 were there already"]);
    machine.run(&["batch", "results", id, "--thumbnails"]).await.ends_with(2);

    let lines = machine.run(&["batch", "results", id, "--format", "jsonl"]).await.ends_with(0);
    let states: Vec<Value> =
        lines.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["state"].clone()).collect();
    assert_eq!(states.iter().filter(|state| *state == "succeeded").count(), 5);
    let table = machine.run(&["batch", "results", id, "--format", "csv"]).await.ends_with(0);
    assert_eq!(table.out.lines().count(), 7);
    assert!(table.out.starts_with("index,custom_id,video_id,model,"), "{}", table.out);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_link_is_replaced_and_a_file_that_breaks_off_is_fetched_again() {
    let fake = Fake::start().await;
    let machine = Machine::new(&fake.base, "ff_live_fake");
    let ran = machine.run(&["batch", "results", fake::BATCH, "--download", "v", "--parallel", "4"]).await.ends_with(1);
    ran.says(&[
        "3 files fetched",
        "2 not fetched",
        "#3: ",
        "its SHA-256 is not the promised one",
        "#5: the file is no longer kept, it was deleted on 2026-11-24",
    ]);
    assert_eq!(machine.names("v"), ["broken.mp4", "expired.mp4", "good.mp4"]);
    assert!(
        machine
            .names("v")
            .iter()
            .all(|name| std::fs::read(machine.home.path().join("v").join(name)).unwrap() == fake::FILM)
    );
    assert_eq!(fake.state.pages.load(Ordering::SeqCst), 2, "one page, and once more for a new link");
    assert_eq!(fake.state.keys_at_files.load(Ordering::SeqCst), 0, "a link never gets the key");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_words_of_a_service_do_not_steer_the_terminal() {
    let fake = Fake::start().await;
    let machine = Machine::new(&fake.base, "ff_live_fake");
    // `run` itself refuses escape codes
    let shown = machine.run(&["batch", "show", fake::BATCH]).await.ends_with(0);
    shown.says(&["]0;owned"]);
    for arguments in [
        vec!["batch", "results", fake::BATCH],
        vec!["batch", "results", fake::BATCH, "--format", "csv"],
        vec!["batch", "results", fake::BATCH, "--json"],
        vec!["batch", "show", fake::BATCH, "--json"],
        vec!["batch", "watch", fake::BATCH],
    ] {
        let ran = machine.run(&arguments).await;
        let controls = |c: char| c.is_control() && c != '\n';
        assert!(!ran.out.contains(controls) && !ran.err.contains(controls), "{arguments:?}: {:?}", ran.out);
    }
}
