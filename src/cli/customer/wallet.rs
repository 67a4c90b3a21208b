//! `freezeframe wallet`: what may be spent, and what is set aside.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::Connection;
use crate::cli::client::Wallet;
use crate::cli::output::{self, Table, amount, plain};

/// Show what may be spent, and what is set aside for running batches.
#[derive(Args)]
pub(in crate::cli) struct WalletArgs {
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: WalletArgs) -> Result<ExitCode> {
    let wallet = args.connection.api()?.wallet().await?;
    if args.connection.json {
        output::json(&wallet.raw)?;
    } else {
        output::line(&report(&wallet.value))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn report(wallet: &Wallet) -> String {
    let mut table = Table::new(["credits", ">available", ">held", ">together"]);
    for source in &wallet.sources {
        let (available, held) = (source.available, source.held);
        let together = amount(available.saturating_add(held));
        table.row([plain(&source.source).replace('_', " "), amount(available), amount(held), together]);
    }
    table.row(["all".to_owned(), amount(wallet.available), amount(wallet.held), amount(wallet.settled)]);
    format!(
        "  {} ({})\n\n{}\n\n  held: set aside for batches that still run; what they do not use comes back\n  \
         limits: {} videos started per minute, {} made at once",
        plain(&wallet.tenant_name),
        plain(&wallet.tenant_id),
        table.render(),
        amount(wallet.limits.videos_per_minute.into()),
        amount(wallet.limits.max_in_flight.into())
    )
}
