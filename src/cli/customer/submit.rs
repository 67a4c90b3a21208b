//! `freezeframe batch submit`: a file becomes a batch, once.
//!
//! Always holds: every send of one run carries the same idempotency key, so that a lost answer is repeated and never bought
//! twice; the key is told before the first byte goes out, so that another run can go on with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Value, json};
use ulid::Ulid;

use super::input::{self, Defaults, Format, Items};
use super::{Connection, dry_run, watch};
use crate::cli::client::{Api, CallError, Submitted};
use crate::cli::output::{self, amount, count, plain};
use crate::cli::signals::Signals;

const MAX_KEY_CHARS: usize = 255;
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

const EXAMPLES: &str = "\
The file has one JSON object per line, or it is a table with the columns prompt,
model, seconds, size, custom_id, reference_image_url, reference_image and
metadata.NAME (only prompt is a must). A reference_image is a file beside
this one, which is uploaded first, or the id of an uploaded one:

  {\"prompt\": \"A red fox in the snow\", \"model\": \"sora-2\", \"seconds\": 8}

Examples:
  freezeframe batch submit spring.jsonl --watch
  freezeframe batch submit spring.csv --model sora-2 --seconds 8 --dry-run
  jq -c '.[]' items.json | freezeframe batch submit - --key spring-1

Exit codes: 0 accepted (with --watch: completed), 1 error, 3 ended partial,
4 failed, 130 stopped watching; the batch goes on.";

/// Submit the videos of a file as one batch.
///
/// Everything is checked before anything is bought, the price of the whole batch is frozen, and what fails is refunded.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SubmitArgs {
    /// A .jsonl or .csv file; - reads standard input
    file: PathBuf,
    /// Watch the batch to its end
    #[arg(long)]
    watch: bool,
    /// Check the file and tell the price, but submit nothing
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    /// Idempotency key: repeating the same batch with it buys nothing [default: a new one]
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    key: Option<String>,
    /// Where the end of the batch is told
    #[arg(long, value_name = "URL")]
    webhook_url: Option<String>,
    /// Your own words about the batch; may be repeated
    #[arg(long, value_name = "NAME=TEXT", value_parser = name_and_text)]
    metadata: Vec<(String, String)>,
    /// A pace of its own: no more of its videos start in any 60 seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    videos_per_minute: Option<u32>,
    /// What has not begun by then is refunded, such as 2027-01-08T18:00:00Z
    #[arg(long, value_name = "TIME")]
    complete_by: Option<DateTime<Utc>>,
    /// The model of items that name none
    #[arg(long, help_heading = "Defaults of items")]
    model: Option<String>,
    /// The length of items that name none
    #[arg(long, value_name = "N", help_heading = "Defaults of items")]
    seconds: Option<u32>,
    /// The size of items that name none, such as 1280x720
    #[arg(long, value_name = "WxH", help_heading = "Defaults of items")]
    size: Option<String>,
    /// How the file is written [default: by its name, else by its first character]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// How long an unreachable or busy service is tried again
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    retry_for: u64,
    #[command(flatten)]
    connection: Connection,
}

fn idempotency_key(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_KEY_CHARS || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("must have 1 to {MAX_KEY_CHARS} printable ASCII characters without spaces"));
    }
    Ok(text.to_owned())
}

fn name_and_text(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, text)) if !name.is_empty() => Ok((name.to_owned(), text.to_owned())),
        _ => Err("must be written NAME=TEXT".to_owned()),
    }
}

pub(super) async fn run(args: SubmitArgs) -> Result<ExitCode> {
    let defaults = Defaults { model: args.model.clone(), seconds: args.seconds, size: args.size.clone() };
    let mut items = input::read(&args.file, args.format, &defaults)?;
    let images = items.resolve_images(&args.file)?;
    if args.dry_run {
        return dry_run::run(&items, &args.connection).await;
    }
    let api = args.connection.api()?;
    let mut signals = Signals::listen()?;
    let key = args.key.clone().unwrap_or_else(|| format!("cli-{}", Ulid::generate()));
    let body = Bytes::from(body(&args, &items)?.to_string());
    let patience = Duration::from_secs(args.retry_for);
    tokio::select! {
        uploaded = input::upload(&api, &images, patience) => uploaded?,
        () = signals.next() => return Err(anyhow!("stopped while images were uploaded; nothing was bought")),
    }
    output::aside(&format!("sending {}, idempotency key {key}", count(items.items.len(), "item")));
    let submitted = tokio::select! {
        sent = send(&api, &body, &key, patience) => sent.map_err(|error| refused(error, &items, &key))?,
        () = signals.next() => {
            return Err(anyhow!("stopped before an answer came; whether the batch was accepted is not known: {}", again(&key)));
        }
    };
    announce(&submitted, &key, &args)?;
    if !args.watch {
        return Ok(ExitCode::SUCCESS);
    }
    watch::follow(&api, &submitted.receipt.value.batch_id, (signals, args.connection.json), true).await
}

fn body(args: &SubmitArgs, items: &Items) -> Result<Value> {
    let mut body = json!({ "items": items.to_json() });
    if let Some(url) = &args.webhook_url {
        body["webhook_url"] = json!(url);
    }
    if let Some(pace) = args.videos_per_minute {
        body["videos_per_minute"] = json!(pace);
    }
    if let Some(at) = args.complete_by {
        body["complete_by"] = json!(at);
    }
    let metadata: BTreeMap<&String, &String> = args.metadata.iter().map(|(name, text)| (name, text)).collect();
    anyhow::ensure!(metadata.len() == args.metadata.len(), "--metadata names something twice");
    if !metadata.is_empty() {
        body["metadata"] = json!(metadata);
    }
    Ok(body)
}

/// Why the service did not take the batch, and whether it may have taken it all the same.
struct Unsent {
    error: CallError,
    may_have_arrived: bool,
}

/// Sends until an answer comes that a repetition would not change.
async fn send(api: &Api, body: &Bytes, key: &str, patience: Duration) -> Result<Submitted, Unsent> {
    let began = Instant::now();
    let (mut may_have_arrived, mut attempt) = (false, 0);
    loop {
        let error = match api.submit(body.clone(), key).await {
            Ok(submitted) => return Ok(submitted),
            Err(error) => error,
        };
        // refused requests leave nothing behind; only an answer that is missing leaves a doubt
        let unknown = error.may_have_arrived() && !matches!(&error, CallError::Refused(_))
            || matches!(error.kind(), "outcome-unknown" | "internal" | "key-in-flight");
        may_have_arrived |= unknown;
        let backoff = Duration::from_millis(500) * 2u32.pow(attempt.min(5));
        let pause = error.retry_after().unwrap_or(backoff.min(LONGEST_PAUSE));
        if !error.passes() || began.elapsed() + pause > patience {
            return Err(Unsent { error, may_have_arrived });
        }
        output::aside(&format!("{}; trying again in {:.1} s with the same key", error.brief(), pause.as_secs_f64()));
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
}

fn refused(unsent: Unsent, items: &Items, key: &str) -> anyhow::Error {
    let Unsent { error, may_have_arrived } = unsent;
    match error {
        CallError::Refused(problem) if problem.errors.iter().any(|error| error.pointer.is_some()) => {
            items.explain(&problem).into()
        }
        error if may_have_arrived => {
            anyhow!("{error}; whether the batch was accepted is not known: {}", again(key))
        }
        error @ (CallError::Unreachable { .. } | CallError::Busy { .. }) => anyhow!("{error}; nothing was sent"),
        error => error.into(),
    }
}

fn again(key: &str) -> String {
    format!("run the same command again with --key {key}; the same batch with the same key is never bought twice")
}

fn announce(submitted: &Submitted, key: &str, args: &SubmitArgs) -> Result<()> {
    let receipt = &submitted.receipt.value;
    let id = plain(&receipt.batch_id);
    if submitted.replayed {
        output::aside("this key was used for the same batch before: nothing was bought again");
    }
    if args.connection.json {
        if !args.watch {
            let mut document = submitted.receipt.raw.clone();
            document["idempotency_key"] = json!(key);
            document["replayed"] = json!(submitted.replayed);
            output::json(&document)?;
        }
        return Ok(());
    }
    let frozen = amount(receipt.frozen_credits);
    output::line(&format!("{id} accepted: {}, {frozen} credits frozen", count(receipt.total, "video")))?;
    if !args.watch {
        output::aside(&format!("next: freezeframe batch watch {id}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{idempotency_key, name_and_text};

    #[test]
    fn a_key_that_the_service_would_refuse_is_refused_here() {
        assert!(idempotency_key("spring-1").is_ok() && idempotency_key(&"k".repeat(255)).is_ok());
        for wrong in ["", "two words", "é", &"k".repeat(256)] {
            assert!(idempotency_key(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn metadata_may_hold_equals_signs() {
        assert_eq!(name_and_text("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert!(name_and_text("a").is_err() && name_and_text("=b").is_err());
    }
}
