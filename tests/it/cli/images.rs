//! Reference images from a customer's directory.

use serde_json::json;

use super::Machine;
use crate::app::image_host::png;
use crate::app::{TestApp, TestSettings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_beside_the_table_are_uploaded_once_and_the_batch_starts_from_them() {
    let app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(10_000).await;
    let machine = Machine::of(&customer);
    std::fs::create_dir(machine.home.path().join("spring")).unwrap();
    std::fs::write(machine.home.path().join("spring/fox.png"), png(1280, 720, 1)).unwrap();
    std::fs::write(machine.home.path().join("spring/copy.png"), png(1280, 720, 1)).unwrap();
    std::fs::write(machine.home.path().join("spring/page.png"), "<html>").unwrap();
    let header = "prompt,model,reference_image\n";
    machine
        .file("spring/good.csv", &format!("{header}a fox,sora-2,fox.png\na hare,sora-2,copy.png\na heron,sora-2,\n"));
    let ran = machine.run(&["batch", "submit", "spring/good.csv", "--watch"]).await.ends_with(0);
    ran.says(&["1 file", "1 uploaded, 0 there already"]);
    let images: Vec<_> =
        app.emulator.book().jobs.into_iter().map(|job| (job.prompt, job.image_sha256.is_some())).collect();
    for (prompt, has_image) in &images {
        assert_eq!(*has_image, prompt != "a heron", "{images:?}");
    }
    let ran = machine.run(&["batch", "submit", "spring/good.csv"]).await.ends_with(0);
    ran.says(&["0 uploaded, 1 there already"]);

    machine.file(
        "spring/bad.jsonl",
        &[
            json!({"prompt": "a", "model": "sora-2", "reference_image": "page.png"}),
            json!({"prompt": "b", "model": "sora-2", "reference_image": "nowhere.png"}),
            json!({"prompt": "c", "model": "sora-2", "reference_image": "fox.png", "reference_image_url": "https://x.y/z"}),
        ]
        .map(|item| item.to_string())
        .join("\n"),
    );
    let batches = app.count("select count(*) from batches").await;
    for arguments in
        [&["batch", "submit", "spring/bad.jsonl"][..], &["batch", "submit", "spring/bad.jsonl", "--dry-run"]]
    {
        machine.run(arguments).await.ends_with(1).says(&[
            "3 things are wrong, nothing was bought",
            "bad.jsonl:1: `reference_image` spring/page.png: it is no JPEG, PNG or WebP",
            "bad.jsonl:2: `reference_image` spring/nowhere.png cannot be read",
            "bad.jsonl:3: `reference_image` stands beside `reference_image_url`",
        ]);
    }
    assert_eq!(app.count("select count(*) from batches").await, batches);
    machine.run(&["models", "sora-2"]).await.ends_with(0).says(&["takes a reference image of the video's size"]);
    app.all_batches_end().await;
    app.finish().await;
}
