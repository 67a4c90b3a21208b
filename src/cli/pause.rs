//! `freezeframe pause` and `resume`: nothing new begins of a tenant, a model or a batch, whoever's it is.

use std::process::ExitCode;

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;

use super::limits::{ChangeArgs, said, tell};
use super::output;
use crate::config::Config;
use crate::control::words::{self, Whose};
use crate::service::{self, Store};

const EXAMPLES: &str = "\
Examples:
  freezeframe pause tenant=ten_01J... --for 2h --reason \"they asked\"
  freezeframe pause model=veo-3.1 --reason \"wrong prices\"
  freezeframe resume model=veo-3.1 --reason \"prices are right\"
  freezeframe provider stop sora --reason \"for an account\"";

/// Begin nothing new of a tenant, a model or a batch.
///
/// What is under way goes on, and what waits keeps its credits. A pause holds in the whole cluster within two seconds, over
/// restarts and deploys.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PauseArgs {
    /// Whose: tenant=ID, model=NAME or batch=ID
    #[arg(value_name = "WHOSE", value_parser = words::pausable)]
    whose: Whose,
    /// Until when [default: until somebody resumes]
    #[arg(long, value_name = "TIME", value_parser = words::moment_to_come)]
    until: Option<DateTime<Utc>>,
    /// For how long, such as 90m, 12h or 3d
    #[arg(long = "for", value_name = "DURATION", value_parser = words::span, conflicts_with = "until")]
    span: Option<TimeDelta>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Take operators' pauses of a tenant, a model or a batch away.
///
/// A batch stays paused while its tenant or model is, or its customer paused it.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ResumeArgs {
    /// Whose: tenant=ID, model=NAME or batch=ID
    #[arg(value_name = "WHOSE", value_parser = words::pausable)]
    whose: Whose,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) async fn pause(config: Config, args: PauseArgs) -> Result<ExitCode> {
    let said = said(&args.change)?;
    let until = args.until.or_else(|| args.span.map(|span| Utc::now() + span));
    let store = Store::open(&config).await?;
    let controls = service::controls(&config, store.connect("pause", 1, false).await?)?;
    let changed = controls.pause(&args.whose, until, &said).await;
    controls.close().await;
    store.release().await?;
    output::line(&tell(&changed.context("nothing was paused")?, args.change.json))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn resume(config: Config, args: ResumeArgs) -> Result<ExitCode> {
    let said = said(&args.change)?;
    let store = Store::open(&config).await?;
    let controls = service::controls(&config, store.connect("resume", 1, false).await?)?;
    let changed = controls.resume(&args.whose, &said).await;
    controls.close().await;
    store.release().await?;
    let changed = changed.context("nothing was resumed")?;
    let text = match changed.is_empty() && !args.change.json {
        true => "it was not paused by an operator".to_owned(),
        false => tell(&changed, args.change.json),
    };
    output::line(&text)?;
    Ok(ExitCode::SUCCESS)
}
