//! `freezeframe batch retry`: what failed of a batch becomes a batch of its own, once.

use std::process::ExitCode;

use anyhow::Result;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Value, json};

use super::input::{Fault, Faults};
use super::send::{SendArgs, announce};
use super::{Connection, watch};
use crate::cli::client::{CallError, Problem};
use crate::cli::output::{self, plain};
use crate::cli::signals::Signals;

const EXAMPLES: &str = "\
A failed video is retried once; what fails again is retried from the new batch.
What is left out is as it was, but for the time to be complete by, and URLs of
images: they are not kept, and --image names them again.

Examples:
  freezeframe batch retry bat_01JD0000000000000000000000 --watch
  freezeframe batch retry bat_01JD0000000000000000000000 --only timeout,capacity

Exit codes: 0 accepted (with --watch: completed), 1 error, 3 ended partial,
4 failed, 130 stopped watching; the batch goes on.";

/// Order the failed videos of a batch again.
///
/// They become a batch of their own at today's prices, which are frozen; the batch has to have ended.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RetryArgs {
    /// The batch, bat_ and 26 characters
    #[arg(value_name = "BATCH")]
    id: String,
    /// Only what failed for these types, such as timeout,capacity
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    only: Vec<String>,
    /// Another image for a video that started from one: a URL, an uploaded one's id, or nothing to leave it out
    #[arg(long, value_name = "INDEX=IMAGE", value_parser = index_and_image)]
    image: Vec<(u32, Option<String>)>,
    /// Watch the new batch to its end
    #[arg(long)]
    watch: bool,
    /// Where the end of the new batch is told
    #[arg(long, value_name = "URL")]
    webhook_url: Option<String>,
    /// A pace of its own: no more of its videos start in any 60 seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    videos_per_minute: Option<u32>,
    /// Of your batches the one with the higher goes first: 0 to 9, that of the retried one when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    /// What has not begun by then is refunded, such as 2027-01-08T18:00:00Z
    #[arg(long, value_name = "TIME")]
    complete_by: Option<DateTime<Utc>>,
    #[command(flatten)]
    send: SendArgs,
    #[command(flatten)]
    connection: Connection,
}

fn index_and_image(text: &str) -> Result<(u32, Option<String>), String> {
    let wrong = || "must be written INDEX=IMAGE, with the index of a video as `batch results` shows it".to_owned();
    let (index, image) = text.split_once('=').ok_or_else(wrong)?;
    Ok((index.parse().map_err(|_| wrong())?, Some(image.to_owned()).filter(|image| !image.is_empty())))
}

pub(super) async fn run(args: RetryArgs) -> Result<ExitCode> {
    let api = args.connection.api()?;
    let mut signals = Signals::listen()?;
    let (key, body) = (args.send.key(), Bytes::from(body(&args).to_string()));
    output::aside(&format!("retrying what failed of {}, idempotency key {key}", plain(&args.id)));
    let call = async || api.retry(&args.id, body.clone(), &key).await;
    let submitted = args.send.send(call, (&mut signals, &key), |error| explain(error, &args.id)).await?;
    announce(&submitted, &key, (args.connection.json, args.watch))?;
    if !args.watch {
        return Ok(ExitCode::SUCCESS);
    }
    watch::follow(&api, &submitted.receipt.value.batch_id, (signals, args.connection.json), true).await
}

fn body(args: &RetryArgs) -> Value {
    let mut body = json!({});
    if !args.only.is_empty() {
        body["failure_types"] = json!(args.only);
    }
    for (index, image) in &args.image {
        body["reference_images"][index.to_string()] = json!(image);
    }
    if let Some(url) = &args.webhook_url {
        body["webhook_url"] = json!(url);
    }
    if let Some(pace) = args.videos_per_minute {
        body["videos_per_minute"] = json!(pace);
    }
    if let Some(priority) = args.priority {
        body["priority"] = json!(priority);
    }
    if let Some(at) = args.complete_by {
        body["complete_by"] = json!(at);
    }
    body
}

fn explain(error: CallError, batch: &str) -> anyhow::Error {
    match error {
        CallError::Refused(problem) if problem.names_places() => faults(&problem, batch).into(),
        error => error.into(),
    }
}

/// The server's pointers as options, or as items of the batch that is retried (`items.17.model`).
fn faults(problem: &Problem, batch: &str) -> Faults {
    let found = problem.errors.iter().map(|error| {
        let pointer = error.pointer.as_deref().unwrap_or_default().trim_start_matches('/');
        let field = match pointer.split('/').next().unwrap_or_default() {
            "failure_types" => "--only".to_owned(),
            "reference_images" => format!("--image {}", pointer.rsplit('/').next().unwrap_or_default()),
            "webhook_url" => "--webhook-url".to_owned(),
            "videos_per_minute" => "--videos-per-minute".to_owned(),
            "priority" => "--priority".to_owned(),
            "complete_by" => "--complete-by".to_owned(),
            "x-request-id" => "--key".to_owned(),
            _ => pointer.replace('/', "."),
        };
        Fault::at(0, field, error.detail.clone())
    });
    Faults { name: plain(batch), found: found.collect() }
}
