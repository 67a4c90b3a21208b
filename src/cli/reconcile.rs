//! `freezeframe reconcile`: does every credit have its explanation?

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use chrono::TimeDelta;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::output::{self, Table, amount, count};
use super::provider::actor;
use crate::billing::{Auditor, FileDepth, JobsCompared, Reconciliation, Rest, Scope};
use crate::config::Config;
use crate::providers::{Egress, Registry};
use crate::service::{Store, store_clients};
use crate::storage::Storage;

/// Compare the books with themselves and with the work; exits with 1 if anything differs.
#[derive(Args)]
pub(super) struct ReconcileArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Compare every charged video with its file, too
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "sizes")]
    files: Option<Files>,
    /// Compare our attempts with what the providers list, too: of one account, or of all
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true)]
    providers: Option<Option<String>>,
    /// How far back the providers' lists are read, such as 6h or 2d
    #[arg(long, value_name = "TIME", requires = "providers", value_parser = parse_back, default_value = "6h")]
    since: TimeDelta,
}

#[derive(Clone, Copy, ValueEnum)]
enum Files {
    /// Whether they are there, and how long they are
    Sizes,
    /// Every byte of them, against the hash that the customer is told
    Hash,
}

fn parse_back(text: &str) -> Result<TimeDelta, String> {
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let number: i64 = number.parse().ok().filter(|number| (1..=10_000).contains(number)).ok_or(WRONG_TIME)?;
    match unit {
        "m" => Ok(TimeDelta::minutes(number)),
        "h" => Ok(TimeDelta::hours(number)),
        "d" => Ok(TimeDelta::days(number)),
        _ => Err(WRONG_TIME.to_owned()),
    }
}

const WRONG_TIME: &str = "expected a whole number of minutes, hours or days, such as 90m, 6h or 2d";

/// What is done about a difference, and what is not.
const CURE: &str = "A stored balance is set to the sum of its entries by the database's owner; `[reconcile] \
    start_despite_differences = true` lets workers start meanwhile. `freezeframe tenant adjust` is for customers' \
    claims: it moves wallet and entries alike and cures no difference.";

pub(super) async fn run(config: Config, args: ReconcileArgs) -> Result<ExitCode> {
    let egress = Egress::new();
    let providers = match args.providers {
        Some(_) => Registry::from_config(&config, &egress)?,
        None => Registry::default(),
    };
    let accounts: Vec<String> = match args.providers {
        Some(Some(name)) if providers.get(&name).is_none() => bail!("there is no provider account {name:?}"),
        Some(Some(name)) => vec![name],
        Some(None) => providers.names().map(str::to_owned).collect(),
        None => Vec::new(),
    };
    let storage = Storage::open(&config.storage, || store_clients(&egress)).context("the files cannot be compared")?;
    let depth = |files| match files {
        Files::Sizes => FileDepth::Sizes,
        Files::Hash => FileDepth::Hashes,
    };
    let scope = Scope { files: args.files.map(depth), accounts, back: args.since, ..Scope::default() };
    let store = Store::open(&config).await?;
    let db = store.connect("reconcile", 2, false).await?;
    let who = actor(None);
    let auditor = Auditor { db: &db, storage: &storage, providers: &providers, who: &who, rest: &Rest::default() };
    let found = auditor.on_command(&scope).await;
    db.close().await;
    store.release().await?;
    let found = found?;
    output::line(&if args.json { as_json(&found) } else { report(&found) })?;
    let fine = found.is_clean() && found.is_complete();
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn as_json(found: &Reconciliation) -> String {
    json!({
        "clean": found.is_clean(),
        "complete": found.is_complete(),
        "books": found.books,
        "kinds": found.kinds(),
        "differences": found.differences,
        "compared": found.compared,
    })
    .to_string()
}

fn report(found: &Reconciliation) -> String {
    let books = &found.books;
    let mut accounts = Table::new(["account", ">credits", "what it is"]);
    for (name, credits, what) in [
        ("issued", books.issued, "brought in by grants and purchases, as a debt"),
        ("available", books.available, "in the wallets of tenants"),
        ("held", books.held, "frozen for batches that still run"),
        ("revenue", books.revenue, "earned by delivered videos"),
        ("provider_payable", books.provider_payable, "what providers may charge for videos that nobody got, as a debt"),
        ("provider_loss", books.provider_loss, "the same, as our loss"),
        ("sum", books.sum, "zero when nothing appeared or disappeared"),
    ] {
        accounts.row([name.to_owned(), amount(credits), what.to_owned()]);
    }
    let mut parts = vec![accounts.render()];
    parts.extend(compared(found));
    if found.differences.is_empty() {
        parts.push(match (books.sum == 0, found.is_complete()) {
            (false, _) => "the books do not sum to zero".to_owned(),
            (true, true) => "clean: no difference".to_owned(),
            (true, false) => "no difference, but not everything could be compared".to_owned(),
        });
        return parts.join("\n\n");
    }
    let mut table = Table::new(["difference", "id", ">stored", ">expected"]);
    for difference in &found.differences {
        let (stored, expected) = (amount(difference.stored), amount(difference.expected));
        table.row([difference.what.clone(), difference.id.clone(), stored, expected]);
    }
    parts.push(table.render());
    let found = count(found.differences.len(), "difference");
    parts.push(format!("{found}: a person must look at the ids above.\n{CURE}"));
    parts.join("\n\n")
}

/// What was looked at outside of the database, in words.
fn compared(found: &Reconciliation) -> Option<String> {
    let files = found.compared.files.as_ref().map(|files| match files.unreadable {
        0 => format!("files      {} compared", files.checked),
        _ => format!("files      the store did not answer: {} of {} unread", files.unreadable, files.checked),
    });
    let providers = found.compared.providers.iter().map(|account| {
        let told = match &account.outcome {
            JobsCompared::Compared { jobs, owned, explained, strangers } => {
                format!("{jobs} jobs listed: {owned} ours, {explained} of lost answers, {strangers} of somebody else")
            }
            JobsCompared::NotComparable { why } => format!("not comparable: {why}"),
            JobsCompared::Unavailable { why } => format!("not compared: {why}"),
        };
        format!("provider   {}: {told}", account.account)
    });
    let lines: Vec<String> = files.into_iter().chain(providers).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::parse_back;

    #[test]
    fn a_time_back_is_a_number_and_a_unit() {
        assert_eq!(parse_back("90m").unwrap().num_minutes(), 90);
        assert_eq!(parse_back("2d").unwrap().num_hours(), 48);
        for wrong in ["", "h", "6", "-1h", "0h", "6w", "6 h", "1\u{fc}"] {
            assert!(parse_back(wrong).is_err(), "{wrong}");
        }
    }
}
