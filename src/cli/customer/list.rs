//! `freezeframe batch list`: batches, newest first.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{Connection, list_document};
use crate::cli::client::{Answer, Batch, BatchStatus};
use crate::cli::output::{self, Table, amount, plain};
use crate::cli::progress::number;

/// From this width on there is room for everything.
const WIDE: usize = 110;

/// List your batches, newest first.
#[derive(Args)]
pub(super) struct ListArgs {
    /// Only batches of this status
    #[arg(long, value_enum)]
    status: Option<BatchStatus>,
    /// How many at the most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: ListArgs) -> Result<ExitCode> {
    let api = args.connection.api()?;
    let batches = api.batches(args.status, usize::try_from(args.limit)?).await?;
    if args.connection.json {
        output::json(&list_document(&batches))?;
    } else if batches.is_empty() {
        output::aside("there is no such batch; `freezeframe batch submit FILE` makes one");
    } else {
        let width = output::width();
        output::line(&if width < WIDE { narrow(&batches) } else { wide(&batches) })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn narrow(batches: &[Answer<Batch>]) -> String {
    let mut table = Table::new(["batch", "status", "UTC", ">videos", ">credits"]);
    for batch in batches.iter().map(|batch| &batch.value) {
        table.row([
            plain(&batch.batch_id),
            batch.status.to_string(),
            batch.created_at.format("%m-%d %H:%M").to_string(),
            number(batch.counts.total),
            amount(batch.credits.frozen),
        ]);
    }
    table.render()
}

fn wide(batches: &[Answer<Batch>]) -> String {
    let mut table = Table::new([
        "batch",
        "status",
        "submitted (UTC)",
        ">videos",
        ">failed",
        ">frozen",
        ">charged",
        ">refunded",
        ">held",
    ]);
    for batch in batches.iter().map(|batch| &batch.value) {
        let (counts, money) = (&batch.counts, &batch.credits);
        table.row([
            plain(&batch.batch_id),
            batch.status.to_string(),
            batch.created_at.format("%Y-%m-%d %H:%M").to_string(),
            number(counts.total),
            number(counts.failed),
            amount(money.frozen),
            amount(money.charged),
            amount(money.refunded),
            amount(money.held),
        ]);
    }
    table.render()
}
