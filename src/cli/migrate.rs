//! `freezeframe migrate`: the schema, and nothing else.

use std::process::ExitCode;

use anyhow::Result;

use super::output;
use crate::config::Config;
use crate::service::Store;

pub(super) async fn run(config: Config) -> Result<ExitCode> {
    Store::open(&config).await?.release().await?;
    output::line("the database is up to date")?;
    Ok(ExitCode::SUCCESS)
}
