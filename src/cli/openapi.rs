//! `freezeframe openapi`: what the API promises, as generated from its code.

use std::process::ExitCode;

use anyhow::Result;

use super::output;
use crate::api;

pub(super) fn run() -> Result<ExitCode> {
    output::line(api::openapi_json().trim_end())?;
    Ok(ExitCode::SUCCESS)
}
