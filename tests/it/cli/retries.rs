//! `batch retry` and `batch quote` on a customer's machine.

use serde_json::{Value, json};

use super::proxy::Proxy;
use super::{Machine, app, path};
use crate::app::image_host::png;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_is_retried_watched_and_shown_and_a_second_time_is_told_where() {
    let app = app().await;
    let customer = app.customer(1_000).await;
    let machine = Machine::of(&customer);
    let file = machine.file("a.csv", "prompt,model,custom_id\nsea,sora-2,sea\ngore,sora-2,bad\nphysics,sora-2,worse\n");
    let ran = machine.run(&["batch", "submit", path(&file), "--watch"]).await.ends_with(3);
    let id = ran.out.split(' ').next().unwrap().to_owned();
    ran.says(&[&format!("what failed: freezeframe batch retry {id}")]);

    let ran = machine.run(&["batch", "retry", &id, "--only", "moderation", "--json"]).await.ends_with(0);
    let accepted = ran.document();
    assert_eq!((&accepted["total"], &accepted["replayed"]), (&json!(1), &json!(false)));
    let second = accepted["batch_id"].as_str().unwrap();
    ran.says(&[&format!("retrying what failed of {id}, idempotency key cli-")]);
    let watched = machine.run(&["batch", "watch", second]).await.ends_with(4);
    watched.fits_80_columns();
    watched.says(&[&format!("retry of  {id}")]);
    let shown = machine.run(&["batch", "show", &id]).await.ends_with(0);
    shown.fits_80_columns();
    shown.says(&[&format!("retried   by {second}")]);

    machine
        .run(&["batch", "retry", &id, "--only", "moderation"])
        .await
        .ends_with(1)
        .says(&["Failed videos were retried before", second]);
    let key = ["batch", "retry", &id, "--only", "provider_fault,timeout", "--key", "again-1", "--watch", "--json"];
    let third = machine.run(&key).await.ends_with(4).document();
    assert_eq!((&third["retry_of"], &third["counts"]["failed"]), (&json!(id), &json!(1)));
    let again = machine.run(&key).await.ends_with(4);
    again.says(&["nothing was bought again"]);
    assert_eq!(again.document()["batch_id"], third["batch_id"]);
    machine
        .run(&["batch", "retry", &id, "--only", "moderation,Timeout", "--webhook-url", "gopher://x"])
        .await
        .ends_with(1)
        .says(&[
            "2 things are wrong, nothing was bought",
            "`--only` is no failure type; known are",
            "`--webhook-url` must",
        ]);
    let images = ["batch", "retry", &id, "--image", "1=https://example.com/x.png"];
    machine.run(&images).await.ends_with(1).says(&["Failed videos were retried before"]);
    machine.run(&["batch", "retry", &id, "--image", "x"]).await.ends_with(2).says(&["INDEX=IMAGE"]);
    machine.run(&["batch", "retry", "bat_1"]).await.ends_with(1).says(&["the batch id in the address"]);
    assert_eq!(customer.available().await, 1_000 - 61);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_a_retry_is_asked_for_again_and_never_bought_twice() {
    let app = app().await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&json!({"items": [{"prompt": "gore", "model": "sora-2"}]})).await;
    app.finished_batch(&customer, &id).await;
    let proxy = Proxy::start(&customer.base).await;
    let machine = Machine::new(&proxy.base, &customer.api_key);
    proxy.swallow_answers(2);
    let ran = machine.run(&["batch", "retry", &id, "--json"]).await.ends_with(0);
    ran.says(&["no answer", "with the same key", "nothing was bought again"]);
    assert_eq!(ran.document()["replayed"], true);
    assert_eq!(app.count("select count(*) from batches").await, 2);
    app.all_batches_end().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quote_of_a_file_is_a_table_or_a_document_and_buys_and_uploads_nothing() {
    let app = app().await;
    let customer = app.customer(200).await;
    let machine = Machine::of(&customer);
    let file = machine.file("plan.csv", "prompt,seconds\na sea,4\na fox,4\na hill,8\n");
    let ran = machine.run(&["batch", "quote", path(&file), "--model", "sora-2"]).await.ends_with(1);
    ran.fits_80_columns();
    ran.says(&["sora-2        4", "credits for 3 videos", "200 credits available, 44 too few"]);
    let short =
        machine.run(&["batch", "quote", path(&file), "--model", "sora-2", "--json"]).await.ends_with(1).document();
    assert_eq!((&short["missing_credits"], &short["would_be_accepted"]), (&json!(44), &json!(false)));
    let one = machine.file("one.jsonl", "{\"prompt\":\"sea\",\"model\":\"sora-2\"}\n");
    let ran = machine.run(&["batch", "quote", path(&one)]).await.ends_with(0);
    ran.says(&["61 credits for 1 video", "200 credits available, 139 would be left"]);

    std::fs::write(machine.home.path().join("fox.png"), png(1280, 720, 1)).unwrap();
    let images = machine.file("images.csv", "prompt,model,reference_image\na fox,sora-2,fox.png\na hen,sora-2,\n");
    let ran = machine.run(&["batch", "quote", path(&images), "--json"]).await.ends_with(0);
    ran.says(&["are not uploaded for a quote"]);
    assert_eq!(ran.document()["price_credits"], 122);
    assert_eq!(app.count("select count(*) from reference_images").await, 0);

    let wrong = machine.file("wrong.csv", "prompt,model,seconds\na,sora-2,5\nb,sora-3,\n");
    machine.run(&["batch", "quote", path(&wrong), "--webhook-url", "gopher://x"]).await.ends_with(1).says(&[
        "wrong.csv:2: `seconds` must be one of 4",
        "wrong.csv:3: `model` is not offered",
        "`--webhook-url` must",
    ]);
    let keyless = Machine::new(&customer.base, "");
    let file = keyless.file("plan.csv", "prompt,model\na sea,sora-2\n");
    keyless.run(&["batch", "quote", path(&file)]).await.ends_with(1).says(&["no API key: set FREEZEFRAME_API_KEY"]);
    let dry = keyless.run(&["batch", "submit", path(&file), "--dry-run", "--json"]).await.ends_with(0).document();
    assert_eq!((&dry["items"], &dry["submitted"]), (&json!(1), &Value::Bool(false)));
    assert_eq!(app.count("select count(*) from batches").await, 0);
    app.finish().await;
}
