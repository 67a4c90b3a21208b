//! `freezeframe reconcile`: does every credit have its explanation?

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::output::{self, Table, amount, count};
use crate::billing::{self, Reconciliation};
use crate::config::Config;
use crate::service::Store;

/// Compare the books with themselves and with the work; exits with 1 if anything differs.
#[derive(Args)]
pub(super) struct ReconcileArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Config, args: ReconcileArgs) -> Result<ExitCode> {
    let store = Store::open(&config).await?;
    let db = store.connect("reconcile", 1, false).await?;
    let found = billing::reconcile(&db).await;
    db.close().await;
    store.release().await?;
    let found = found?;
    let text = if args.json {
        json!({ "clean": found.is_clean(), "books": found.books, "differences": found.differences }).to_string()
    } else {
        report(&found)
    };
    output::line(&text)?;
    Ok(if found.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
    if found.differences.is_empty() {
        let verdict = if books.sum == 0 { "clean: no difference" } else { "the books do not sum to zero" };
        return format!("{}\n\n{verdict}", accounts.render());
    }
    let mut table = Table::new(["difference", "id", ">stored", ">expected"]);
    for difference in &found.differences {
        let (stored, expected) = (amount(difference.stored), amount(difference.expected));
        table.row([difference.what.clone(), difference.id.clone(), stored, expected]);
    }
    let found = count(found.differences.len(), "difference");
    format!(
        "{}\n\n{}\n\n{found}: a person must look; correct money by an adjustment only",
        accounts.render(),
        table.render()
    )
}
