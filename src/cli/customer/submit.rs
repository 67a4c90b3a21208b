//! `freezeframe batch submit`: a file becomes a batch, once.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use clap::Args;

use super::input::{self, Items};
use super::order::OrderArgs;
use super::send::{SendArgs, announce};
use super::{Connection, quote, watch};
use crate::cli::client::CallError;
use crate::cli::output::{self, count};
use crate::cli::signals::Signals;

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
    #[command(flatten)]
    order: OrderArgs,
    /// Watch the batch to its end
    #[arg(long)]
    watch: bool,
    /// Check the file and tell the price, but submit nothing
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    #[command(flatten)]
    send: SendArgs,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: SubmitArgs) -> Result<ExitCode> {
    let (items, images) = args.order.read()?;
    if args.dry_run {
        return quote::dry_run(&args.order, (&items, &images), &args.connection).await;
    }
    let api = args.connection.api()?;
    let mut signals = Signals::listen()?;
    let key = args.send.key();
    let body = Bytes::from(args.order.body(items.to_json())?.to_string());
    tokio::select! {
        uploaded = input::upload(&api, &images, args.send.patience()) => uploaded?,
        () = signals.next() => return Err(anyhow!("stopped while images were uploaded; nothing was bought")),
    }
    output::aside(&format!("sending {}, idempotency key {key}", count(items.items.len(), "item")));
    let call = async || api.submit(body.clone(), &key).await;
    let submitted = args.send.send(call, (&mut signals, &key), |error| explain(error, &items)).await?;
    announce(&submitted, &key, (args.connection.json, args.watch))?;
    if !args.watch {
        return Ok(ExitCode::SUCCESS);
    }
    watch::follow(&api, &submitted.receipt.value.batch_id, (signals, args.connection.json), true).await
}

/// Places of the body as places of the file.
fn explain(error: CallError, items: &Items) -> anyhow::Error {
    match error {
        CallError::Refused(problem) if problem.names_places() => items.explain(&problem).into(),
        error => error.into(),
    }
}
