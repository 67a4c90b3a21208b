//! The customer's commands, as the real program against the real service. What they print is looked at the way people and
//! scripts do: standard output, standard error and the exit code apart.

mod failing;
mod fake;
mod help;
mod images;
mod proxy;
mod results;
mod retries;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use freezeframe::emulator::{Fault, Rule};
use serde_json::Value;
use tokio::process::Command;

use crate::app::client::Customer;
use crate::app::{TestApp, TestSettings};

/// A customer's machine: an empty directory, nothing in the environment but the address and the key.
struct Machine {
    home: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

/// What a command left behind.
struct Ran {
    out: String,
    err: String,
    code: Option<i32>,
}

impl Machine {
    fn new(base: &str, key: &str) -> Machine {
        let variables = vec![("FREEZEFRAME_URL", base.to_owned()), ("FREEZEFRAME_API_KEY", key.to_owned())];
        Machine { home: tempfile::tempdir().unwrap(), variables }
    }

    fn of(customer: &Customer) -> Machine {
        Machine::new(&customer.base, &customer.api_key)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_freezeframe"));
        command.args(arguments).env_clear().current_dir(self.home.path()).envs(self.variables.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        let done = tokio::time::timeout(crate::app::PATIENCE, self.command(arguments).output()).await;
        let ran = Ran::from(done.unwrap_or_else(|_| panic!("{arguments:?} never ended")).unwrap());
        for (name, text) in [("stdout", &ran.out), ("stderr", &ran.err)] {
            assert!(!text.contains('\u{1b}'), "{arguments:?} wrote escape codes to a pipe, {name}: {text:?}");
            for (_, secret) in self.variables.iter().filter(|(name, _)| *name == "FREEZEFRAME_API_KEY") {
                assert!(secret.is_empty() || !text.contains(secret), "{arguments:?} told the key on {name}: {text}");
            }
        }
        ran
    }

    /// The names of what is in a directory below the home, sorted.
    fn names(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.home.path().join(directory)).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { out: text(output.stdout), err: text(output.stderr), code: output.status.code() }
    }
}

impl Ran {
    #[track_caller]
    fn ends_with(self, code: i32) -> Ran {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.out.contains(part) || self.err.contains(part), "no {part:?} in\n{}\n{}", self.out, self.err);
        }
    }

    /// The one document on standard output.
    #[track_caller]
    fn document(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{}", self.out);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    #[track_caller]
    fn fits_80_columns(&self) {
        for line in self.out.lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        }
    }
}

/// An app whose provider refuses "gore" and fails "physics" for good.
async fn app() -> TestApp {
    let rules = vec![Rule::on_prompt("gore", Fault::ModerationAtSubmit), Rule::on_prompt("physics", Fault::JobFailed)];
    TestApp::start(TestSettings { rules, ..TestSettings::default() }).await
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_lines_is_submitted_and_watched_in_a_pipe_to_its_partial_end() {
    let app = app().await;
    let customer = app.customer(100_000).await;
    let machine = Machine::of(&customer);
    let lines: String = (0..40)
        .map(|n| match n {
            7 => "{\"prompt\":\"gore\",\"model\":\"sora-2\",\"custom_id\":\"bad\"}\n".to_owned(),
            _ => format!("{{\"prompt\":\"a calm sea {n}\",\"model\":\"sora-2\"}}\n"),
        })
        .collect();
    let file = machine.file("spring.jsonl", &lines);
    let ran =
        machine.run(&["batch", "submit", path(&file), "--watch", "--metadata", "campaign=spring"]).await.ends_with(3);
    ran.fits_80_columns();
    ran.says(&[
        "sending 40 items, idempotency key cli-",
        "accepted: 40 videos, 2,440 credits frozen",
        "bad failed (moderation), 61 credits are back: ",
        "100%  39 succeeded, 1 failed, 0 running, 0 waiting",
        "credits: 2,379 charged, 61 refunded, 0 held",
        "status    partial after",
        "2,440 frozen = 2,379 charged + 61 refunded + 0 held",
        "campaign = spring",
    ]);
    assert!(!ran.out.contains("sending") && ran.out.starts_with("bat_"), "{}", ran.out);
    assert_eq!(customer.available().await, 100_000 - 2_379);
    assert_eq!(machine.names("."), ["spring.jsonl"], "a customer's machine gets no data directory");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_submitted_with_its_metadata_and_all_its_videos_may_fail() {
    let app = app().await;
    let customer = app.customer(100_000).await;
    let machine = Machine::of(&customer);
    let table = "\u{feff}prompt,custom_id,metadata.team\r\n\"gore,\r\nand more\",one,red\r\ngore two,two,\r\n";
    let file = machine.file("spring.csv", table);
    let ran = machine
        .run(&["batch", "submit", path(&file), "--model", "sora-2", "--seconds", "8", "--watch", "--json"])
        .await
        .ends_with(4);
    let batch = ran.document();
    assert_eq!(batch["status"], "failed");
    assert_eq!(batch["counts"]["failed"], 2);
    let videos = customer.videos(batch["batch_id"].as_str().unwrap()).await;
    assert_eq!(videos[0]["metadata"]["team"], "red");
    assert_eq!((&videos[1]["seconds"], &videos[1]["custom_id"]), (&Value::from(8), &Value::from("two")));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_buys_once_and_another_file_under_it_is_refused() {
    let app = app().await;
    let customer = app.customer(1_000).await;
    let machine = Machine::of(&customer);
    let file = machine.file("a.jsonl", "{\"prompt\":\"a calm sea\",\"model\":\"sora-2\"}\n");
    let submit = ["batch", "submit", path(&file), "--key", "spring-1", "--json"];
    let first = machine.run(&submit).await.ends_with(0).document();
    let again = machine.run(&submit).await.ends_with(0).document();
    assert_eq!(first["batch_id"], again["batch_id"]);
    assert_eq!((&first["replayed"], &again["replayed"]), (&Value::Bool(false), &Value::Bool(true)));
    assert_eq!(first["idempotency_key"], "spring-1");
    machine.file("a.jsonl", "{\"prompt\":\"another sea\",\"model\":\"sora-2\"}\n");
    machine.run(&submit).await.ends_with(1).says(&["a.jsonl: `--key` was used before for another request"]);
    assert_eq!(app.count("select count(*) from batches").await, 1);
    app.all_batches_end().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_a_file_and_a_dry_run_prices_it_without_buying() {
    let app = app().await;
    let customer = app.customer(200).await;
    let machine = Machine::of(&customer);
    let table = "prompt,model,seconds\na sea,sora-2,4\na fox,sora-2,4\na hill,sora-2,8\n";
    let file = machine.file("plan", table);
    let mut command = machine.command(&["batch", "submit", "-", "--dry-run", "--json"]);
    command.stdin(Stdio::from(std::fs::File::open(&file).unwrap()));
    let ran = Ran::from(command.output().await.unwrap()).ends_with(1);
    let document = ran.document();
    assert_eq!((&document["items"], &document["available_credits"]), (&Value::from(3), &Value::from(200)));
    assert_eq!(document["price_credits"].as_i64().unwrap() - 200, document["shortfall_credits"].as_i64().unwrap());
    let ran = machine.run(&["batch", "submit", path(&file), "--dry-run"]).await.ends_with(1);
    ran.fits_80_columns();
    ran.says(&[
        "sora-2        4",
        "credits for 3 videos",
        "200 credits available, 44 too few",
        "nothing was submitted",
    ]);
    let wrong = machine.file("wrong.csv", "prompt,model,seconds,size\na,sora-2,5,1x1\nb,sora-3,,\n");
    machine.run(&["batch", "submit", path(&wrong), "--dry-run"]).await.ends_with(1).says(&[
        "wrong.csv:2: `seconds` must be one of 4",
        "wrong.csv:2: `size` must be one of",
        "wrong.csv:3: `model` is not offered; did you mean `sora-2`? Offered are",
    ]);
    assert_eq!(app.count("select count(*) from batches").await, 0);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_wallet_models_and_ledger_are_shown_as_text_of_80_columns_and_as_one_document() {
    let app = app().await;
    let customer = app.customer(100_000).await;
    let machine = Machine::of(&customer);
    let file = machine
        .file("a.jsonl", "{\"prompt\":\"sea\",\"model\":\"sora-2\"}\n{\"prompt\":\"gore\",\"model\":\"sora-2\"}\n");
    let submitted = machine.run(&["batch", "submit", path(&file), "--watch", "--json"]).await.ends_with(3).document();
    let id = submitted["batch_id"].as_str().unwrap();
    let list = machine.run(&["batch", "list"]).await.ends_with(0);
    list.says(&[id, "partial", "122"]);
    let show = machine.run(&["batch", "show", id]).await.ends_with(0);
    show.says(&[
        "2: 1 succeeded, 1 failed",
        "122 frozen = 61 charged + 61 refunded + 0 held",
        "moderation",
        "--download DIR",
    ]);
    let ledger = machine.run(&["batch", "ledger", id]).await.ends_with(0);
    ledger.says(&["freeze", "refund", "charge", "->"]);
    let wallet = machine.run(&["wallet"]).await.ends_with(0);
    wallet.says(&["Test & Sons", "99,939", "paid"]);
    let models = machine.run(&["models"]).await.ends_with(0);
    models.says(&["sora-2", "veo-3.1"]);
    let prices = machine.run(&["models", "sora-2"]).await.ends_with(0);
    prices.says(&["(default)", "61"]);
    let results = machine.run(&["batch", "results", id]).await.ends_with(0);
    results.says(&["succeeded", "moderation"]);
    [&list, &show, &ledger, &wallet, &models, &prices, &results].iter().for_each(|ran| ran.fits_80_columns());

    let document = async |arguments: &[&str]| {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        machine.run(&arguments).await.ends_with(0).document()
    };
    assert_eq!(document(&["batch", "list", "--status", "partial"]).await["data"][0]["batch_id"], id);
    assert_eq!(document(&["batch", "list", "--status", "completed"]).await["data"], Value::Array(vec![]));
    assert_eq!(document(&["batch", "show", id]).await["credits"]["charged"], 61);
    let watched = machine.run(&["batch", "watch", id, "--json"]).await.ends_with(3).document();
    assert_eq!(watched["status"], "partial");
    assert_eq!(document(&["batch", "ledger", id]).await["data"].as_array().unwrap().len(), 3);
    assert_eq!(document(&["wallet"]).await["available"], 99_939);
    assert!(document(&["models"]).await["data"].as_array().unwrap().len() > 1);
    assert_eq!(document(&["models", "sora-2"]).await["data"][0]["name"], "sora-2");
    assert_eq!(document(&["batch", "results", id]).await["videos"].as_array().unwrap().len(), 2);
    app.finish().await;
}
