//! `freezeframe operator`: who may use the operators' API.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::output::{self, Table};
use super::provider::{actor, moment};
use crate::config::Config;
use crate::operators::{self, Listed, Operator};
use crate::service::Store;

/// Give and revoke keys of the operators' API.
///
/// The operators' API stands under /api/operator, beside the customers' one. Whoever holds a key has its name in the history of
/// everything that he changes.
#[derive(Args)]
pub(super) struct OperatorArgs {
    #[command(subcommand)]
    command: OperatorCommand,
}

#[derive(Subcommand)]
enum OperatorCommand {
    /// Add an operator and show the key, this one time
    Add(AddArgs),
    /// Show every operator there is and was
    List(ListArgs),
    /// Revoke an operator's key; it works for two seconds more at most
    Revoke(RevokeArgs),
}

#[derive(Args)]
struct AddArgs {
    /// The operator's name, as the histories show it
    #[arg(value_parser = operators::name)]
    name: String,
    /// What the operator may do
    #[arg(long, value_enum)]
    role: Role,
    /// Who says so [default: the user that runs this command]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    /// See limits, pauses, accounts, and what a bulk action would change
    Viewer,
    /// See and change them, and batches of any customer
    Ops,
}

impl From<Role> for operators::Role {
    fn from(role: Role) -> operators::Role {
        match role {
            Role::Viewer => operators::Role::Viewer,
            Role::Ops => operators::Role::Ops,
        }
    }
}

#[derive(Args)]
struct ListArgs {
    /// Print one JSON array instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct RevokeArgs {
    /// The operator's name
    name: String,
    /// Who says so [default: the user that runs this command]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

pub(super) async fn run(config: Config, args: OperatorArgs) -> Result<ExitCode> {
    match args.command {
        OperatorCommand::Add(args) => add(&config, args).await,
        OperatorCommand::List(args) => list(&config, args.json).await,
        OperatorCommand::Revoke(args) => revoke(&config, args).await,
    }
}

async fn add(config: &Config, args: AddArgs) -> Result<ExitCode> {
    let store = Store::open(config).await?;
    let db = store.connect("operator", 1, false).await?;
    let new = Operator { name: args.name, role: args.role.into() };
    let key = operators::add(&db, &new, &actor(args.by)).await;
    db.close().await;
    let key = key.context("the operator was not added, as far as is known; `operator list` shows whether")?;
    output::line(&match args.json {
        true => json!({ "name": new.name, "role": new.role.name(), "key": key.expose() }).to_string(),
        false => format!("name  {}\nrole  {}\nkey   {}", new.name, new.role.name(), key.expose()),
    })?;
    output::aside("keep the key now: it is shown this once and cannot be shown again");
    store.release().await?;
    Ok(ExitCode::SUCCESS)
}

async fn list(config: &Config, as_json: bool) -> Result<ExitCode> {
    let store = Store::open(config).await?;
    let db = store.connect("operator", 1, false).await?;
    let all = operators::list(&db).await;
    db.close().await;
    store.release().await?;
    output::line(&shown(&all.context("the operators could not be read")?, as_json))?;
    Ok(ExitCode::SUCCESS)
}

fn shown(all: &[Listed], as_json: bool) -> String {
    if as_json {
        let one = |listed: &Listed| {
            json!({
                "name": listed.operator.name,
                "role": listed.operator.role.name(),
                "key": listed.key_hint,
                "created_at": listed.created_at,
                "revoked_at": listed.revoked_at,
            })
        };
        return Value::from(all.iter().map(one).collect::<Vec<_>>()).to_string();
    }
    if all.is_empty() {
        return "there are no operators: the command line alone changes what runs".to_owned();
    }
    let mut table = Table::new(["name", "role", "key", "since", "revoked"]);
    for Listed { operator, key_hint, created_at, revoked_at } in all {
        table.row([
            operator.name.clone(),
            operator.role.name().to_owned(),
            key_hint.clone(),
            moment(*created_at),
            revoked_at.map_or_else(|| "-".to_owned(), moment),
        ]);
    }
    table.render()
}

async fn revoke(config: &Config, args: RevokeArgs) -> Result<ExitCode> {
    let store = Store::open(config).await?;
    let db = store.connect("operator", 1, false).await?;
    let revoked = operators::revoke(&db, &args.name, &actor(args.by)).await;
    db.close().await;
    store.release().await?;
    anyhow::ensure!(revoked.context("nothing was revoked")?, "there is no operator {:?} with a key", args.name);
    output::line(&format!("the key of {} is revoked", args.name))?;
    Ok(ExitCode::SUCCESS)
}
