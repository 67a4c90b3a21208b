//! `freezeframe openapi`: what the APIs promise, as generated from their code.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::output;
use crate::api;

/// Print the OpenAPI document.
#[derive(Args)]
pub(super) struct OpenapiArgs {
    /// The operators' document in place of the customers'
    #[arg(long)]
    operator: bool,
}

pub(super) fn run(args: &OpenapiArgs) -> Result<ExitCode> {
    let document = if args.operator { api::operator_openapi_json() } else { api::openapi_json() };
    output::line(document.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
