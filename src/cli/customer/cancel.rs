//! `freezeframe batch cancel`: nothing more of a batch begins.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::Connection;
use crate::cli::output::{self, plain};

/// Cancel a batch: what has not begun is refunded, what is being made goes on unless the provider can stop it.
#[derive(Args)]
pub(super) struct CancelArgs {
    /// The batch's id
    #[arg(value_name = "BATCH_ID")]
    batch: String,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: CancelArgs) -> Result<ExitCode> {
    let api = args.connection.api()?;
    let cancelled = api.cancel(&args.batch).await?;
    if args.connection.json {
        output::json(&cancelled.raw)?;
    } else {
        let id = plain(&cancelled.value.batch_id);
        output::line(&format!(
            "{id} is cancelled since {}",
            cancelled.value.cancelled_at.format("%Y-%m-%d %H:%M:%S UTC")
        ))?;
        output::aside(&format!("what has not begun is refunded; `freezeframe batch watch {id}` shows the rest end"));
    }
    Ok(ExitCode::SUCCESS)
}
