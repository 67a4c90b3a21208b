//! `freezeframe tenant`: customers, from the operator's side.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::output::{self, Table, amount, plain};
use super::provider::actor;
use crate::billing;
use crate::config::{Config, LONGEST_RETENTION_DAYS};
use crate::domain::{Credits, GrantSource, TenantId};
use crate::ledger::Adjustment;
use crate::service::{Store, master_key};
use crate::tenants::{self, NewTenant, TenantListed};

/// Rows of one query.
const LISTED_AT_ONCE: i64 = 1_000;

/// Manage customers.
#[derive(Args)]
pub(super) struct TenantArgs {
    #[command(subcommand)]
    command: TenantCommand,
}

#[derive(Subcommand)]
enum TenantCommand {
    /// Create a customer and show its API key and webhook secret, this one time
    Create(CreateArgs),
    /// List the customers with their ids
    List(ListArgs),
    /// Set how long a customer's files are kept; holds for those that are there already
    Retention(RetentionArgs),
    /// Correct a customer's credits, with a reason; the ledger shows who and why
    Adjust(AdjustArgs),
}

#[derive(Args)]
struct ListArgs {
    /// Only those whose names have this in them, in capitals or not
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Print one JSON array instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct AdjustArgs {
    /// The customer's id
    #[arg(value_name = "TENANT_ID")]
    tenant: TenantId,
    /// Credits to add
    #[arg(long, value_name = "N", value_parser = parse_credits)]
    add: Option<Credits>,
    /// Credits to take away; never more than are available
    #[arg(long, value_name = "N", value_parser = parse_credits, conflicts_with = "add", required_unless_present = "add")]
    take: Option<Credits>,
    /// Which of the customer's credits
    #[arg(long, value_enum, default_value = "paid")]
    source: Source,
    /// Why, for those who read the ledger
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who says so [default: the user that runs this command]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Args)]
struct RetentionArgs {
    /// The customer's id
    #[arg(value_name = "TENANT_ID")]
    tenant: TenantId,
    /// Days of 24 hours [default: back to the setting storage.retention_days]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=LONGEST_RETENTION_DAYS as i64))]
    days: Option<u32>,
}

#[derive(Args)]
struct CreateArgs {
    /// The customer's name
    name: String,
    /// Credits to begin with (1 credit = 1 US cent at list price)
    #[arg(long, value_name = "N", value_parser = parse_credits)]
    credits: Credits,
    /// Where these credits come from
    #[arg(long, value_enum, default_value = "paid")]
    source: Source,
    /// Videos that may start per minute [default: the setting limits.default_videos_per_minute]
    #[arg(long, value_name = "N")]
    videos_per_minute: Option<u32>,
    /// Videos under way at once [default: the setting limits.default_max_in_flight]
    #[arg(long, value_name = "N")]
    max_in_flight: Option<u32>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Source {
    /// Given free of charge: a pilot, goodwill
    Promotional,
    /// Bought
    Paid,
    /// Lent, to be invoiced
    CreditLine,
}

impl From<Source> for GrantSource {
    fn from(source: Source) -> GrantSource {
        match source {
            Source::Promotional => GrantSource::Promotional,
            Source::Paid => GrantSource::Paid,
            Source::CreditLine => GrantSource::CreditLine,
        }
    }
}

pub(super) async fn run(config: Config, args: TenantArgs) -> Result<ExitCode> {
    match args.command {
        TenantCommand::Create(args) => create(config, args).await,
        TenantCommand::List(args) => list(config, args).await,
        TenantCommand::Retention(args) => set_retention(config, args).await,
        TenantCommand::Adjust(args) => adjust(config, args).await,
    }
}

async fn create(config: Config, args: CreateArgs) -> Result<ExitCode> {
    let limits = &config.limits;
    let limits = (
        args.name.as_str(),
        args.videos_per_minute.unwrap_or(limits.default_videos_per_minute),
        args.max_in_flight.unwrap_or(limits.default_max_in_flight),
    );
    let store = Store::open(&config).await?;
    let db = store.connect("tenant", 1, false).await?;
    let created = billing::onboard(&db, &master_key(&config)?, limits, (args.credits, args.source.into())).await;
    db.close().await;
    store.release().await?;
    show(&created.context("the tenant was not created")?, args.credits, args.json)?;
    Ok(ExitCode::SUCCESS)
}

async fn list(config: Config, ListArgs { name, json }: ListArgs) -> Result<ExitCode> {
    let store = Store::open(&config).await?;
    let db = store.connect("tenant", 1, false).await?;
    let listed = async {
        let (mut conn, mut all) = (db.pool().acquire().await?, Vec::new());
        loop {
            let after = all.last().map(|tenant: &TenantListed| tenant.id);
            let page = tenants::list(&mut conn, after, name.as_deref(), LISTED_AT_ONCE).await?;
            let more = i64::try_from(page.len()).is_ok_and(|rows| rows == LISTED_AT_ONCE);
            all.extend(page);
            if !more {
                return Ok::<_, sqlx::Error>(all);
            }
        }
    }
    .await;
    db.close().await;
    store.release().await?;
    let listed = listed.context("the tenants could not be read")?;
    if json {
        output::json(&json!(listed))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["id", "name", "since", ">waiting", ">under way"]);
    for TenantListed { id, name, created_at, waiting, in_flight } in &listed {
        let since = created_at.format("%Y-%m-%d").to_string();
        table.row([id.to_string(), plain(name), since, amount(*waiting), amount(*in_flight)]);
    }
    output::line(&table.render())?;
    Ok(ExitCode::SUCCESS)
}

async fn set_retention(config: Config, RetentionArgs { tenant, days }: RetentionArgs) -> Result<ExitCode> {
    let store = Store::open(&config).await?;
    let db = store.connect("tenant", 1, false).await?;
    let known = async { tenants::set_retention(&mut *db.pool().acquire().await?, tenant, days).await }.await;
    db.close().await;
    store.release().await?;
    anyhow::ensure!(known.context("the retention was not changed")?, "there is no tenant {tenant}");
    output::line(&match days {
        Some(days) => format!("files of {tenant} are kept for {days} days"),
        None => format!("files of {tenant} are kept for {} days, as the settings say", config.storage.retention_days),
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn adjust(config: Config, args: AdjustArgs) -> Result<ExitCode> {
    let adjustment = match (args.add, args.take) {
        (Some(credits), _) => Adjustment::Add(credits),
        (None, take) => Adjustment::TakeAway(take.unwrap_or(Credits::ZERO)),
    };
    let by = format!("operator {}", actor(args.by));
    let store = Store::open(&config).await?;
    let db = store.connect("tenant", 1, false).await?;
    let wallet = (args.tenant, args.source.into());
    let after = billing::adjust(&db, wallet, adjustment, (&by, &args.reason)).await;
    db.close().await;
    store.release().await?;
    let after = match after {
        Err(error) if error.is_unknown() => {
            return Err(error).context(
                "whether the wallet was adjusted is unknown: look at its entries (act adjustment, this reason) before \
                 you repeat it",
            );
        }
        after => after.context("the wallet was not adjusted")?,
    };
    output::line(&format!("{} has {} credits of that source now", args.tenant, amount(after.get())))?;
    Ok(ExitCode::SUCCESS)
}

fn show(new: &NewTenant, granted: Credits, as_json: bool) -> Result<()> {
    let NewTenant { tenant, api_key, webhook_secret } = new;
    if as_json {
        let shown = json!({
            "tenant_id": tenant.id,
            "name": tenant.name,
            "api_key": api_key.expose(),
            "webhook_secret": webhook_secret.expose(),
            "credits": granted,
            "videos_per_minute": tenant.videos_per_minute,
            "max_in_flight": tenant.max_in_flight,
        });
        output::line(&shown.to_string())?;
    } else {
        output::line(&format!("tenant_id       {}", tenant.id))?;
        output::line(&format!("api_key         {}", api_key.expose()))?;
        output::line(&format!("webhook_secret  {}", webhook_secret.expose()))?;
        output::line(&format!("credits         {}", amount(granted.get())))?;
        output::line(&format!(
            "limits          {} videos per minute, {} at once",
            tenant.videos_per_minute, tenant.max_in_flight
        ))?;
    }
    eprintln!("keep the key and the secret now: they are shown this once and cannot be shown again");
    Ok(())
}

fn parse_credits(text: &str) -> Result<Credits, String> {
    let amount: i64 = text.parse().map_err(|_| "must be a whole number of credits".to_owned())?;
    Credits::new(amount).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::parse_credits;

    #[test]
    fn credits_are_whole_and_not_negative() {
        assert!(parse_credits("625000").is_ok_and(|credits| credits.get() == 625_000));
        assert!(parse_credits("-1").is_err());
        assert!(parse_credits("61.5").is_err());
        assert!(parse_credits("9223372036854775808").is_err());
    }
}
