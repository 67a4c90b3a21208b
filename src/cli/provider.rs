//! `freezeframe provider`: what stands against each provider account, and an operator's word on it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use nix::unistd::{Uid, User};
use serde_json::{Value, json};

use super::output::{self, Table, amount};
use crate::accounts::{self, Account};
use crate::config::{Config, ProviderConfig};
use crate::db::Database;
use crate::scheduler;
use crate::service::Store;

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
    let db = store.connect("provider", 1, false).await?;
    let text = match args.command {
        ProviderCommand::List(args) => list(&config, &db, args.json).await,
        ProviderCommand::Stop(args) => stop(&config, &db, args).await,
        ProviderCommand::Start(args) => start(&config, &db, args).await,
    };
    db.close().await;
    store.release().await?;
    output::line(&text?)?;
    Ok(ExitCode::SUCCESS)
}

async fn list(config: &Config, db: &Database, as_json: bool) -> Result<String> {
    let under_way = scheduler::under_way(db).await.context("the videos under way could not be counted")?;
    let mut rows: BTreeMap<String, Account> = accounts::list(db)
        .await
        .context("the accounts could not be read")?
        .into_iter()
        .map(|row| (row.name.clone(), row))
        .collect();
    for account in &config.providers {
        rows.entry(account.name.clone()).or_insert_with(|| Account::open(&account.name));
    }
    let settings: HashMap<&str, &ProviderConfig> =
        config.providers.iter().map(|account| (account.name.as_str(), account)).collect();
    let lines = rows.values().map(|account| {
        let in_flight = under_way.get(&account.name).copied().unwrap_or(0);
        Line { account, in_flight, settings: settings.get(account.name.as_str()).copied() }
    });
    if as_json {
        return Ok(Value::from(lines.map(|line| line.json()).collect::<Vec<_>>()).to_string());
    }
    let mut table = Table::new(["account", "state", ">under way", ">at most", ">per minute", "why"]);
    lines.for_each(|line| table.row(line.cells()));
    Ok(table.render())
}

/// An account as it is shown.
struct Line<'a> {
    account: &'a Account,
    in_flight: i64,
    settings: Option<&'a ProviderConfig>,
}

impl Line<'_> {
    fn state(&self) -> &'static str {
        self.account.shut().map_or("open", accounts::Shut::name)
    }

    fn json(&self) -> Value {
        let mut shown = json!({
            "state": self.state(),
            "in_flight": self.in_flight,
            "configured": self.settings.is_some(),
            "max_in_flight": self.settings.map(|settings| settings.max_in_flight),
            "requests_per_minute": self.settings.map(|settings| settings.requests_per_minute),
        });
        if let (Some(shown), Ok(Value::Object(row))) = (shown.as_object_mut(), serde_json::to_value(self.account)) {
            shown.extend(row);
        }
        shown
    }

    fn cells(&self) -> [String; 6] {
        let limit = |limit: Option<u32>| limit.map_or_else(|| "-".to_owned(), |limit| amount(limit.into()));
        let mut why = why(self.account);
        if self.settings.is_none() {
            why.insert(0, "not in these settings".to_owned());
        }
        [
            self.account.name.clone(),
            self.state().to_owned(),
            amount(self.in_flight),
            limit(self.settings.map(|settings| settings.max_in_flight)),
            limit(self.settings.map(|settings| settings.requests_per_minute)),
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

fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

async fn stop(config: &Config, db: &Database, args: StopArgs) -> Result<String> {
    let reason = args.reason.trim();
    if reason.is_empty() {
        bail!("--reason must say why the account is stopped");
    }
    known(config, db, &args.name).await?;
    let changed = accounts::stop(db, &args.name, &actor(args.common.by), reason).await;
    told(&changed.context("the account was not stopped")?, "stopped: nothing new goes there", args.common.json)
}

async fn start(config: &Config, db: &Database, args: StartArgs) -> Result<String> {
    known(config, db, &args.name).await?;
    let changed = accounts::start(db, &args.name, &actor(args.common.by)).await;
    told(&changed.context("the account was not started")?, "open: it takes videos again", args.common.json)
}

fn told(changed: &accounts::Changed, now: &str, as_json: bool) -> Result<String> {
    if as_json {
        return Ok(json!({ "before": changed.before, "after": changed.after }).to_string());
    }
    let before = why(&changed.before);
    let before = if before.is_empty() { "nothing stood against it".to_owned() } else { before.join("; ") };
    Ok(format!("{} is {now}\nbefore: {before}", changed.after.name))
}

/// A slip in a name must not stop nothing.
async fn known(config: &Config, db: &Database, name: &str) -> Result<()> {
    let mut names: BTreeSet<String> = config.providers.iter().map(|account| account.name.clone()).collect();
    names.extend(accounts::list(db).await.context("the accounts could not be read")?.into_iter().map(|row| row.name));
    if names.contains(name) {
        return Ok(());
    }
    let names = if names.is_empty() { "none".to_owned() } else { names.into_iter().collect::<Vec<_>>().join(", ") };
    bail!("there is no provider account {name:?}; known are: {names}")
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
        let line = Line { account: &account, in_flight: 3, settings: None };
        assert_eq!(line.cells()[..4], ["lab", "stopped", "3", "-"].map(str::to_owned));
        let json = line.json();
        assert_eq!(
            (&json["state"], &json["name"], &json["stopped_by"]),
            (&json!("stopped"), &json!("lab"), &json!("ann"))
        );
    }
}
