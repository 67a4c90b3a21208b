//! The command line: one file per command, each its arguments and a call into the house.
//!
//! Always holds: a command's result goes to standard output, everything else (logs, progress, advice) to standard error.
//! The exit code is 0 when all is well, 1 when it is not, 2 when the command line was not understood; watching a batch has
//! codes of its own (`customer`).
//! Refuses: SQL, decisions. What a command does is done by the rooms below; only the demo has a story of its own.

mod bench;
mod bulk;
mod client;
mod completions;
mod customer;
mod demo;
mod emulate;
mod ledger;
mod limits;
mod migrate;
mod openapi;
mod operator;
mod output;
mod pause;
mod progress;
mod provider;
mod reconcile;
mod serve;
mod signals;
mod tenant;
mod up;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::{Config, LogConfig};
use crate::telemetry;

#[derive(Parser)]
#[command(
    name = "freezeframe",
    version,
    max_term_width = 80,
    about = "Batch video generation that freezes the price and refunds every failure"
)]
struct Cli {
    /// The settings file [default: $FREEZEFRAME_CONFIG, else freezeframe.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Batches of videos: submit, watch, fetch (as a customer)
    Batch(customer::BatchArgs),
    /// Show what may be spent, and what is set aside (as a customer)
    Wallet(customer::WalletArgs),
    /// List the models, or the prices of one (as a customer)
    Models(customer::ModelsArgs),
    /// Run everything in this one process until Ctrl-C
    Up(up::UpArgs),
    /// Run some of the roles; any number of processes share the work
    Serve(serve::ServeArgs),
    /// Run a video provider that only pretends, with faults on request
    Emulate(emulate::EmulateArgs),
    /// Bring the database up to date, and do nothing else
    Migrate,
    /// Print the OpenAPI document
    Openapi(openapi::OpenapiArgs),
    /// Manage customers
    Tenant(tenant::TenantArgs),
    /// See, stop and start provider accounts
    Provider(provider::ProviderArgs),
    /// See, change and explain the limits of tenants, accounts and models
    Limits(limits::LimitsArgs),
    /// Begin nothing new of a tenant, a model or a batch
    Pause(pause::PauseArgs),
    /// Take operators' pauses of a tenant, a model or a batch away
    Resume(pause::ResumeArgs),
    /// Cancel, pause or resume many batches of any customers at once
    Bulk(bulk::BulkArgs),
    /// Give and revoke keys of the operators' API
    Operator(operator::OperatorArgs),
    /// Compare the books with themselves and with the work; exits with 1 if anything differs
    Reconcile(reconcile::ReconcileArgs),
    /// Prove that nobody has rewritten the books
    Ledger(ledger::LedgerArgs),
    /// Measure speed; nothing of it touches the real database
    Bench(bench::BenchArgs),
    /// Play a batch of 20 videos against the emulator and show where every credit went
    Demo(demo::DemoArgs),
    /// Print what a shell needs to complete commands
    Completions(completions::CompletionsArgs),
}

/// Reads the command line and does what it says.
///
/// # Errors
/// Why the command failed, with the whole chain of causes.
pub async fn run() -> Result<ExitCode> {
    let cli = Cli::parse();
    let config = cli.config.as_deref();
    match cli.command {
        Command::Batch(args) => customer::batch(args).await,
        Command::Wallet(args) => customer::wallet(args).await,
        Command::Models(args) => customer::models(args).await,
        Command::Up(args) => up::run(settings(config)?, args).await,
        Command::Serve(args) => serve::run(settings(config)?, args).await,
        Command::Emulate(args) => emulate::run(args).await,
        Command::Migrate => migrate::run(settings(config)?).await,
        Command::Openapi(args) => openapi::run(&args),
        Command::Tenant(args) => tenant::run(settings(config)?, args).await,
        Command::Provider(args) => provider::run(settings(config)?, args).await,
        Command::Limits(args) => limits::run(settings(config)?, args).await,
        Command::Pause(args) => pause::pause(settings(config)?, args).await,
        Command::Resume(args) => pause::resume(settings(config)?, args).await,
        Command::Bulk(args) => bulk::run(settings(config)?, args).await,
        Command::Operator(args) => operator::run(settings(config)?, args).await,
        Command::Reconcile(args) => reconcile::run(settings(config)?, args).await,
        Command::Ledger(args) => ledger::run(settings(config)?, args).await,
        Command::Bench(args) => Box::pin(bench::run(settings(config)?, args)).await,
        Command::Demo(args) => Box::pin(demo::run(Config::load(config)?, args)).await,
        Command::Completions(args) => completions::run(args, Cli::command()),
    }
}

/// The whole chain of causes in one line, each said once: some errors repeat their cause in their own words.
pub fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The settings, with logging started as they say.
fn settings(path: Option<&Path>) -> Result<Config> {
    let config = Config::load(path)?;
    start_logging(&config.log)?;
    Ok(config)
}

fn start_logging(log: &LogConfig) -> Result<()> {
    telemetry::install(&log.filter, log.json).context("the setting log.filter")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{Cli, explain};

    #[test]
    fn the_command_line_is_free_of_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_cause_that_its_effect_repeats_is_said_once() {
        let disk = std::io::Error::other("no space");
        let error = anyhow::Error::new(disk).context("cannot write x: no space").context("the demo");
        assert_eq!(explain(&error), "the demo: cannot write x: no space");
    }
}
