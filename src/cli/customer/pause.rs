//! `freezeframe batch pause` and `resume`: nothing more of a batch begins for now.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::Connection;
use super::show::moment;
use crate::cli::output::{self, plain};

/// Pause a batch, or resume it: what is being made goes on, what waits keeps its credits.
#[derive(Args)]
pub(super) struct PauseArgs {
    /// The batch's id
    #[arg(value_name = "BATCH_ID")]
    batch: String,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: PauseArgs, pause: bool) -> Result<ExitCode> {
    let api = args.connection.api()?;
    let changed = if pause { api.pause(&args.batch).await? } else { api.resume(&args.batch).await? };
    if args.connection.json {
        output::json(&changed.raw)?;
        return Ok(ExitCode::SUCCESS);
    }
    let id = plain(&changed.value.batch_id);
    match changed.value.paused_at {
        Some(at) => {
            output::line(&format!("{id} is paused since {}", moment(at)))?;
            output::aside(&format!("next: freezeframe batch resume {id}"));
        }
        None => output::line(&format!("{id} goes on"))?,
    }
    Ok(ExitCode::SUCCESS)
}
