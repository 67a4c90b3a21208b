//! The customer's commands: submit a batch, watch it, fetch what came of it, order again what failed. They speak to the API
//! alone, with a key, like any customer's program: no settings file, no database, no data directory.
//!
//! Always holds: standard output carries the result and nothing else, with `--json` exactly one document; progress and
//! advice go to standard error. Exit codes: 0 well (a watched batch completed), 1 error, 2 command line not understood,
//! 3 a watched batch ended partial, 4 it failed, 130 watching was stopped and the batch goes on.

mod cancel;
mod input;
mod ledger;
mod list;
mod models;
mod order;
mod pause;
mod quote;
mod results;
mod retry;
mod send;
mod show;
mod submit;
mod wallet;
mod watch;

use std::future::Future;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use url::{Host, Url};

use super::client::{Answer, Api};
use super::output;
use crate::domain::Secret;

pub(super) use ledger::table as ledger_table;

const LOCAL: &str = "http://127.0.0.1:8080";

/// Where the API is and who asks.
#[derive(Args)]
struct Connection {
    /// Where Freezeframe is [default: http://127.0.0.1:8080]
    #[arg(long, env = "FREEZEFRAME_URL", hide_env_values = true, value_name = "URL", help_heading = "Connection")]
    url: Option<String>,
    /// Your API key; others on this machine can see a command line, so prefer the variable
    #[arg(
        long,
        env = "FREEZEFRAME_API_KEY",
        hide_env_values = true,
        value_name = "KEY",
        value_parser = secret,
        help_heading = "Connection"
    )]
    api_key: Option<Secret>,
    /// Print one JSON document and nothing else
    #[arg(long)]
    json: bool,
    /// Stands for the option that the operator's commands have; nothing here reads settings.
    #[arg(id = "config", long = "config", hide = true)]
    _settings: Option<PathBuf>,
}

/// Never fails: a message about a wrong value would repeat it.
#[expect(clippy::unnecessary_wraps, reason = "the form of a value parser")]
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

impl Connection {
    fn has_key(&self) -> bool {
        self.api_key.as_ref().is_some_and(|key| !key.expose().trim().is_empty())
    }

    fn api(&self) -> Result<Api> {
        let key =
            self.api_key.as_ref().filter(|_| self.has_key()).context(
                "no API key: set FREEZEFRAME_API_KEY to yours; it was shown once, when the account was made",
            )?;
        let url = self.url.as_deref().map(str::trim).filter(|url| !url.is_empty()).unwrap_or(LOCAL);
        let api = Api::new(url, key)?;
        if travels_in_the_open(api.base()) {
            output::aside(&format!("warning: the API key travels unencrypted to {}; use https", api.base()));
        }
        Ok(api)
    }
}

fn travels_in_the_open(base: &str) -> bool {
    let Ok(url) = Url::parse(base) else { return false };
    let local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "http" && !local
}

/// Batches of videos: submit, watch, fetch.
#[derive(Args)]
pub(super) struct BatchArgs {
    #[command(subcommand)]
    command: BatchCommand,
    #[arg(id = "config", long = "config", hide = true)]
    _settings: Option<PathBuf>,
}

#[derive(Subcommand)]
enum BatchCommand {
    /// Submit the videos of a file as one batch
    Submit(submit::SubmitArgs),
    /// Ask what the videos of a file would cost
    Quote(quote::QuoteArgs),
    /// Watch a batch to its end
    Watch(watch::WatchArgs),
    /// Show how far a batch is, and its money
    Show(show::ShowArgs),
    /// List your batches, newest first
    List(list::ListArgs),
    /// Cancel a batch: what has not begun is refunded
    Cancel(cancel::CancelArgs),
    /// Pause a batch: nothing more of it begins
    Pause(pause::PauseArgs),
    /// Let a paused batch go on
    Resume(pause::PauseArgs),
    /// Order the failed videos of a batch again
    Retry(retry::RetryArgs),
    /// List the videos of a batch, and fetch their files
    Results(results::ResultsArgs),
    /// Show every movement of a batch's credits
    Ledger(ledger::LedgerArgs),
}

pub(super) use models::ModelsArgs;
pub(super) use wallet::WalletArgs;

pub(super) async fn batch(args: BatchArgs) -> Result<ExitCode> {
    match args.command {
        BatchCommand::Submit(args) => quietly(submit::run(args)).await,
        BatchCommand::Quote(args) => quietly(quote::run(args)).await,
        BatchCommand::Watch(args) => quietly(watch::run(args)).await,
        BatchCommand::Show(args) => quietly(show::run(args)).await,
        BatchCommand::List(args) => quietly(list::run(args)).await,
        BatchCommand::Cancel(args) => quietly(cancel::run(args)).await,
        BatchCommand::Pause(args) => quietly(pause::run(args, true)).await,
        BatchCommand::Resume(args) => quietly(pause::run(args, false)).await,
        BatchCommand::Retry(args) => quietly(retry::run(args)).await,
        BatchCommand::Results(args) => quietly(results::run(args)).await,
        BatchCommand::Ledger(args) => quietly(ledger::run(args)).await,
    }
}

pub(super) async fn wallet(args: WalletArgs) -> Result<ExitCode> {
    quietly(wallet::run(args)).await
}

pub(super) async fn models(args: ModelsArgs) -> Result<ExitCode> {
    quietly(models::run(args)).await
}

/// `... | head` is no error worth a message.
async fn quietly(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    match Box::pin(command).await {
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == ErrorKind::BrokenPipe) => {
            Ok(ExitCode::FAILURE)
        }
        ended => ended,
    }
}

/// A list as one document, in the form of the API's own pages.
fn list_document<T>(answers: &[Answer<T>]) -> Value {
    json!({ "data": answers.iter().map(|answer| &answer.raw).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::travels_in_the_open;

    #[test]
    fn a_key_may_travel_unencrypted_within_this_machine_alone() {
        for fine in ["https://example.com", "http://127.0.0.1:8080", "http://localhost", "http://[::1]:80"] {
            assert!(!travels_in_the_open(fine), "{fine}");
        }
        assert!(travels_in_the_open("http://example.com") && travels_in_the_open("http://10.0.0.7"));
    }
}
