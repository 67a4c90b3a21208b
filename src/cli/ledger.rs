//! `freezeframe ledger`: has anybody rewritten the books?

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::json;

use super::output::{self, amount, count};
use crate::billing::{self, Given};
use crate::config::Config;
use crate::db::Database;
use crate::ledger::chain::{CheckpointKey, Verification};
use crate::providers::Egress;
use crate::service::{Store, master_key, store_clients};
use crate::storage::Storage;

/// Prove that nobody has rewritten the books.
#[derive(Args)]
pub(super) struct LedgerArgs {
    #[command(subcommand)]
    command: LedgerCommand,
}

#[derive(Subcommand)]
enum LedgerCommand {
    /// Hold every entry against the hash chain and its checkpoints; exits with 1 and names the first bad row if anything was
    /// changed, removed or slipped in
    Verify(VerifyArgs),
    /// Print a signed checkpoint of the chain's end as a line of JSON, to be kept outside of the installation
    Checkpoint,
    /// Note that the database was put back on purpose: checkpoints that it no longer agrees with count no more, and every
    /// later verification tells so
    Restored(RestoredArgs),
}

#[derive(Args)]
struct RestoredArgs {
    /// Why it was put back, for whoever audits it
    #[arg(long)]
    reason: String,
    /// The last row of the chain that it had then [default: the present end, as long as nothing was chained since]
    #[arg(long, value_name = "N")]
    row: Option<i64>,
    /// A file of checkpoints, one in a line, beside those in the object store; may be repeated
    #[arg(long = "checkpoint", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
}

#[derive(Args)]
struct VerifyArgs {
    /// A file of checkpoints, one in a line, beside those in the object store; may be repeated
    #[arg(long = "checkpoint", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Config, args: LedgerArgs) -> Result<ExitCode> {
    let key = CheckpointKey::new(&master_key(&config)?);
    let store = Store::open(&config).await?;
    let db = store.connect("ledger", 1, false).await?;
    let done = match args.command {
        LedgerCommand::Verify(args) => verify(&config, &db, &key, args).await,
        LedgerCommand::Checkpoint => checkpoint(&db, &key).await,
        LedgerCommand::Restored(args) => restored(&config, &db, &key, args).await,
    };
    db.close().await;
    store.release().await?;
    let (text, code) = done?;
    output::line(&text)?;
    Ok(code)
}

async fn checkpoint(db: &Database, key: &CheckpointKey) -> Result<(String, ExitCode)> {
    let checkpoint = billing::checkpoint(db, key).await?;
    let checkpoint = checkpoint.context("no entry of the ledger is chained yet: a worker does it within a second")?;
    Ok((checkpoint.line(), ExitCode::SUCCESS))
}

async fn restored(
    config: &Config,
    db: &Database,
    key: &CheckpointKey,
    args: RestoredArgs,
) -> Result<(String, ExitCode)> {
    let reason = args.reason.trim();
    anyhow::ensure!(!reason.is_empty(), "--reason is empty: say why the database was put back");
    let (storage, given) = (open_storage(config)?, read_all(&args.checkpoints)?);
    let noted = billing::note_restore((db, &storage, key), &given, (args.row, reason)).await?;
    let found = billing::verify(db, &storage, key, &given).await?;
    let told = match noted {
        Some(note) => format!("noted: the chain goes on anew behind row {}\n\n", amount(note.restored().seq())),
        None => "nothing to note: every checkpoint agrees with the chain\n\n".to_owned(),
    };
    Ok((told + &report(&found), exit_code(&found)))
}

fn open_storage(config: &Config) -> Result<Storage> {
    Storage::open(&config.storage, || store_clients(&Egress::new()))
}

fn exit_code(found: &Verification) -> ExitCode {
    if found.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn verify(config: &Config, db: &Database, key: &CheckpointKey, args: VerifyArgs) -> Result<(String, ExitCode)> {
    let given = read_all(&args.checkpoints)?;
    let found = billing::verify(db, &open_storage(config)?, key, &given).await?;
    let text = match args.json {
        true => {
            let mut object = json!(found);
            object["clean"] = json!(found.is_clean());
            object.to_string()
        }
        false => report(&found),
    };
    Ok((text, exit_code(&found)))
}

fn read_all(files: &[PathBuf]) -> Result<Vec<Given>> {
    let read: Vec<Vec<Given>> = files.iter().map(|file| read(file)).collect::<Result<_>>()?;
    Ok(read.concat())
}

/// The checkpoints of a file, one in each line.
fn read(file: &Path) -> Result<Vec<Given>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let name = |at: usize| format!("{}, line {}", file.display(), at + 1);
    let given: Vec<Given> = lines.map(|(at, line)| Given { name: name(at), text: line.to_owned() }).collect();
    anyhow::ensure!(!given.is_empty(), "{} holds no checkpoint", file.display());
    Ok(given)
}

fn report(found: &Verification) -> String {
    let entries = |number: u64| amount(i64::try_from(number).unwrap_or(i64::MAX));
    let mut lines = vec![format!("{} entries chained", entries(found.chained))];
    if let Some(hash) = &found.head {
        lines.push(format!("{hash} is the hash at the end"));
    }
    lines.push(match found.checkpoints {
        0 => "no checkpoint to hold it against: a chain that was made anew or cut would not be noticed".to_owned(),
        some => format!("held against {}", count(some, "checkpoint")),
    });
    for restored in &found.restores {
        lines.push(format!(
            "put back to row {} by {}: {}; {} no more",
            amount(restored.after_row),
            restored.noted_at,
            output::plain(&restored.reason),
            match restored.retired_checkpoints {
                1 => "1 checkpoint counts".to_owned(),
                some => format!("{} checkpoints count", entries(some as u64)),
            }
        ));
    }
    if found.waiting.entries > 0 {
        let oldest = found.waiting.oldest_at.map_or(String::new(), |at| format!(", the oldest of {}", at.to_rfc3339()));
        lines.push(format!("{} not chained yet{oldest}: a worker does it", entries(found.waiting.entries)));
    }
    if found.is_clean() {
        lines.push("\nclean: nothing was changed, removed or slipped in".to_owned());
        return lines.join("\n");
    }
    lines.push("\nthe first bad row:".to_owned());
    for (at, finding) in found.findings.iter().enumerate() {
        if at == 1 {
            lines.push("further ones:".to_owned());
        }
        lines.push(format!("  {}", output::plain(&finding.to_string())));
    }
    if found.unlisted > 0 {
        lines.push(format!("  and {} more", entries(found.unlisted)));
    }
    lines.join("\n")
}
