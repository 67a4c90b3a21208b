//! `freezeframe provider`: what stands against each provider account, and an operator's word on it.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use nix::unistd::{Uid, User};
use serde_json::{Value, json};

use super::output::{self, Table, amount};
use crate::accounts::{self, Account};
use crate::config::Config;
use crate::control::{AccountState, Controls};
use crate::operators::{self, Said};
use crate::service::{self, Store};

/// See, stop and start provider accounts.
#[derive(Args)]
pub(super) struct ProviderArgs {
    #[command(subcommand)]
    command: ProviderCommand,
}

#[derive(Subcommand)]
enum ProviderCommand {
    /// Show every account: whether it takes videos, and if not, why and until when
    List(ListArgs),
    /// Send nothing new to an account; what is under way there goes on
    Stop(StopArgs),
    /// Let an account have videos again, whatever stood against it
    Start(StartArgs),
}

#[derive(Args)]
struct ListArgs {
    /// Print one JSON array instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct StopArgs {
    /// The account, as in the settings
    name: String,
    /// Why, for those who find it stopped
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    common: ChangeArgs,
}

#[derive(Args)]
struct StartArgs {
    /// The account, as in the settings
    name: String,
    /// Why, for those who read its history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    common: ChangeArgs,
}

#[derive(Args)]
struct ChangeArgs {
    /// Who says so [default: the user that runs this command]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Config, args: ProviderArgs) -> Result<ExitCode> {
    let store = Store::open(&config).await?;
    let controls = service::controls(&config, store.connect("provider", 1, false).await?)?;
    let text = match args.command {
        ProviderCommand::List(args) => list(&controls, args.json).await,
        ProviderCommand::Stop(args) => stop(&controls, args).await,
        ProviderCommand::Start(args) => start(&controls, args).await,
    };
    controls.close().await;
    store.release().await?;
    output::line(&text?)?;
    Ok(ExitCode::SUCCESS)
}

async fn list(controls: &Controls, as_json: bool) -> Result<String> {
    let accounts = controls.accounts().await.context("the accounts could not be read")?;
    if as_json {
        return Ok(Value::from(accounts.iter().map(|account| Line(account).json()).collect::<Vec<_>>()).to_string());
    }
    let mut table = Table::new(["account", "state", ">under way", ">at most", ">per minute", "why"]);
    accounts.iter().for_each(|account| table.row(Line(account).cells()));
    Ok(table.render())
}

/// An account as it is shown.
struct Line<'a>(&'a AccountState);

impl Line<'_> {
    fn json(&self) -> Value {
        let mut shown = json!({
            "state": self.0.word(),
            "in_flight": self.0.in_flight,
            "configured": self.0.limits.is_some(),
            "max_in_flight": self.0.limits.map(|limits| limits.max_in_flight),
            "requests_per_minute": self.0.limits.map(|limits| limits.requests_per_minute),
            "spend_credits": self.0.limits.and_then(|limits| limits.spend).map(|spend| spend.credits),
            "spend_window_secs": self.0.limits.and_then(|limits| limits.spend).map(|spend| spend.window.as_secs()),
        });
        if let (Some(shown), Ok(Value::Object(row))) = (shown.as_object_mut(), serde_json::to_value(&self.0.account)) {
            shown.extend(row);
        }
        shown
    }

    fn cells(&self) -> [String; 6] {
        let limit = |limit: Option<u32>| limit.map_or_else(|| "-".to_owned(), |limit| amount(limit.into()));
        let mut why = why(&self.0.account);
        if self.0.limits.is_none() {
            why.insert(0, "not in these settings".to_owned());
        }
        [
            self.0.account.name.clone(),
            self.0.word().to_owned(),
            amount(self.0.in_flight),
            limit(self.0.limits.map(|limits| limits.max_in_flight)),
            limit(self.0.limits.map(|limits| limits.requests_per_minute)),
            why.join("; "),
        ]
    }
}

/// Everything that stands against an account, in words.
fn why(account: &Account) -> Vec<String> {
    let mut why = Vec::new();
    if let (Some(at), Some(by), Some(reason)) = (account.stopped_at, &account.stopped_by, &account.stop_reason) {
        why.push(format!("stopped by {by} at {}: {reason}", moment(at)));
    }
    let marks = [
        ("access refused", account.refused_at),
        ("out of credit or quota", account.quota_exhausted_at),
        ("circuit open: orders failed one after the other", account.circuit_opened_at),
    ];
    why.extend(marks.into_iter().filter_map(|(what, at)| at.map(|at| format!("{what} since {}", moment(at)))));
    if let Some(at) = account.probe_at {
        why.push(format!("one video tries it from {}", moment(at)));
    }
    if let (Some(until), Some(cause), true) = (account.cooled_until, &account.cool_cause, account.cooling) {
        why.push(format!("rests until {} ({cause})", moment(until)));
    }
    why
}

pub(super) fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

async fn stop(controls: &Controls, args: StopArgs) -> Result<String> {
    let said = Said { by: actor(args.common.by), reason: reason(&args.reason)? };
    let changed = controls.stop_account(&args.name, &said).await;
    told(&changed.context("the account was not stopped")?, "stopped: nothing new goes there", args.common.json)
}

async fn start(controls: &Controls, args: StartArgs) -> Result<String> {
    let why = args.reason.as_deref().map(reason).transpose()?;
    let changed = controls.start_account(&args.name, (&actor(args.common.by), why.as_deref())).await;
    told(&changed.context("the account was not started")?, "open: it takes videos again", args.common.json)
}

fn reason(text: &str) -> Result<String> {
    operators::reason(text).map_err(|why| anyhow!("--reason {why}"))
}

fn told(changed: &accounts::Changed, now: &str, as_json: bool) -> Result<String> {
    if as_json {
        return Ok(json!({ "before": changed.before, "after": changed.after }).to_string());
    }
    let before = why(&changed.before);
    let before = if before.is_empty() { "nothing stood against it".to_owned() } else { before.join("; ") };
    Ok(format!("{} is {now}\nbefore: {before}", changed.after.name))
}

/// The name given, else the user that runs this.
pub(super) fn actor(by: Option<String>) -> String {
    let given = by.map(|by| by.trim().to_owned()).filter(|by| !by.is_empty());
    given.unwrap_or_else(|| match User::from_uid(Uid::current()) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {}", Uid::current()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_says_everything_that_stands_against_it() {
        let at: DateTime<Utc> = "2026-11-23T12:00:00Z".parse().unwrap();
        assert_eq!(why(&Account::open("lab")), Vec::<String>::new());
        let account = Account {
            stopped_at: Some(at),
            stopped_by: Some("ann".to_owned()),
            stop_reason: Some("price dispute".to_owned()),
            quota_exhausted_at: Some(at),
            probe_at: Some(at),
            cooled_until: Some(at),
            cool_cause: Some("rate_limited".to_owned()),
            ..Account::open("lab")
        };
        let told = why(&account).join("; ");
        assert!(
            told.starts_with("stopped by ann at 2026-11-23T12:00:00Z: price dispute; out of credit or quota since")
        );
        assert!(!told.contains("rests"), "a pause that is over is nothing: {told}");
        let broken = Account {
            circuit_opened_at: Some(at),
            circuit_pause_ms: Some(10_000),
            probe_at: Some(at),
            ..Account::open("lab")
        };
        assert_eq!(
            why(&broken).join("; "),
            "circuit open: orders failed one after the other since 2026-11-23T12:00:00Z; one video tries it from \
             2026-11-23T12:00:00Z"
        );
        let state = AccountState { account, in_flight: 3, limits: None };
        let line = Line(&state);
        assert_eq!(line.cells()[..4], ["lab", "stopped", "3", "-"].map(str::to_owned));
        let json = line.json();
        assert_eq!(
            (&json["state"], &json["name"], &json["stopped_by"]),
            (&json!("stopped"), &json!("lab"), &json!("ann"))
        );
    }
}
