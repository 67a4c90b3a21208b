//! `freezeframe batch ledger`: every movement of a batch's credits.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{Connection, list_document};
use crate::cli::client::Entry;
use crate::cli::output::{self, Table, amount, plain};
use crate::cli::progress::number;

/// Show every movement of a batch's credits.
#[derive(Args)]
pub(super) struct LedgerArgs {
    /// The batch, bat_ and 26 characters
    #[arg(value_name = "BATCH")]
    id: String,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: LedgerArgs) -> Result<ExitCode> {
    let entries = args.connection.api()?.ledger(&args.id).await?;
    if args.connection.json {
        output::json(&list_document(&entries))?;
    } else {
        output::line(&table(entries.iter().map(|entry| &entry.value), output::width()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The entries of a batch, in their order.
pub(in crate::cli) fn table<'e>(entries: impl IntoIterator<Item = &'e Entry>, width: usize) -> String {
    let mut table = Table::new(["act", ">credits", "~reason", ">videos", "balance", ">before", "", ">after"]);
    for entry in entries {
        table.row([
            plain(&entry.act),
            amount(entry.amount),
            plain(&entry.reason),
            number(entry.video_count),
            plain(&entry.balance_of),
            amount(entry.balance_before),
            "->".to_owned(),
            amount(entry.balance_after),
        ]);
    }
    table.render_within(width)
}
