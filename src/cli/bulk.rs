//! `freezeframe bulk`: many batches at once, whoever's they are. Shows what would change, and asks.

use std::io::{IsTerminal as _, stdin};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand};
use serde_json::json;

use super::output::{self, amount, count};
use super::provider::actor;
use crate::batches::bulk::{Action, Affected, Filter};
use crate::config::Config;
use crate::control::{Controls, words};
use crate::domain::{BatchId, BatchStatus, TenantId};
use crate::operators::{self, Said};
use crate::service::{self, Store};

/// Batches that are named before the question.
const NAMED: usize = 10;

const EXAMPLES: &str = "\
Examples:
  freezeframe bulk pause --tenant ten_01J... --for 2h --reason \"they asked\"
  freezeframe bulk cancel --model veo-3.1 --status queued \\
      --created-before 2027-01-08T18:00:00Z --reason \"wrong prices\" --yes";

/// Cancel, pause or resume many batches of any customers at once.
///
/// Chosen are batches that have not ended and that everything given fits. Nothing is changed if by then it is another number of
/// batches than was shown.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BulkArgs {
    #[command(subcommand)]
    command: BulkCommand,
}

#[derive(Subcommand)]
enum BulkCommand {
    /// Cancel batches: what has not begun is refunded, the rest goes on unless its provider can stop it
    Cancel(ChosenArgs),
    /// Pause batches: nothing new of them begins, nothing is refunded
    Pause(PauseArgs),
    /// Take operators' pauses of batches away
    Resume(ChosenArgs),
}

#[derive(Args)]
struct PauseArgs {
    #[command(flatten)]
    chosen: ChosenArgs,
    /// Until when [default: until somebody resumes]
    #[arg(long, value_name = "TIME", value_parser = words::moment_to_come)]
    until: Option<DateTime<Utc>>,
    /// For how long, such as 90m, 12h or 3d
    #[arg(long = "for", value_name = "DURATION", value_parser = words::span, conflicts_with = "until")]
    span: Option<TimeDelta>,
}

#[derive(Args)]
struct ChosenArgs {
    /// Of this customer
    #[arg(long, value_name = "TENANT_ID")]
    tenant: Option<TenantId>,
    /// With videos of this model
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Of this status: queued or processing
    #[arg(long, value_name = "STATUS", value_parser = words::open_status)]
    status: Option<BatchStatus>,
    /// Ordered before
    #[arg(long, value_name = "TIME", value_parser = words::moment)]
    created_before: Option<DateTime<Utc>>,
    /// Ordered then or later
    #[arg(long, value_name = "TIME", value_parser = words::moment)]
    created_after: Option<DateTime<Utc>>,
    /// This batch; may be given several times
    #[arg(long = "id", value_name = "BATCH_ID")]
    ids: Vec<BatchId>,
    /// Why, for those who find it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who says so [default: the user that runs this command]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

impl ChosenArgs {
    fn filter(&self) -> Filter {
        Filter {
            tenant: self.tenant,
            model: self.model.clone(),
            status: self.status,
            created_before: self.created_before,
            created_after: self.created_after,
            ids: (!self.ids.is_empty()).then(|| self.ids.clone()),
        }
    }
}

pub(super) async fn run(config: Config, args: BulkArgs) -> Result<ExitCode> {
    let (action, chosen) = match args.command {
        BulkCommand::Cancel(chosen) => (Action::Cancel, chosen),
        BulkCommand::Pause(PauseArgs { chosen, until, span }) => {
            (Action::Pause(until.or_else(|| span.map(|span| Utc::now() + span))), chosen)
        }
        BulkCommand::Resume(chosen) => (Action::Resume, chosen),
    };
    let reason = operators::reason(&chosen.reason).map_err(|why| anyhow!("--reason {why}"))?;
    let said = Said { by: actor(chosen.by.clone()), reason };
    let store = Store::open(&config).await?;
    let controls = service::controls(&config, store.connect("bulk", 1, false).await?)?;
    let done = change(&controls, action, &chosen, &said).await;
    controls.close().await;
    store.release().await?;
    output::line(&done?)?;
    Ok(ExitCode::SUCCESS)
}

async fn change(controls: &Controls, action: Action, chosen: &ChosenArgs, said: &Said) -> Result<String> {
    // what is ordered while somebody makes up their mind was not shown
    let now = Utc::now();
    let mut filter = chosen.filter();
    let is_empty = filter == Filter::default();
    filter.created_before = filter.created_before.map_or(Some(now).filter(|_| !is_empty), |at| Some(at.min(now)));
    let preview = controls.preview(action, &filter).await.context("nothing was changed")?;
    if preview.ids.is_empty() {
        return Ok(told(action, &preview, chosen.json));
    }
    if !chosen.yes {
        output::aside(&describe(action, &preview));
        agree(action)?;
    }
    let done = controls.change_batches(action, (&filter, preview.batches()), said).await;
    Ok(told(action, &done.context("not done")?, chosen.json))
}

/// What is about to happen.
fn describe(action: Action, preview: &Affected) -> String {
    let mut text = format!("to {}: {}, in which {}", action.name(), batches(preview), waiting(preview));
    for id in preview.ids.iter().take(NAMED) {
        text.push_str(&format!("\n  {id}"));
    }
    if preview.ids.len() > NAMED {
        text.push_str(&format!("\n  and {} more", amount((preview.ids.len() - NAMED) as i64)));
    }
    text
}

/// # Errors
/// When nobody is there to agree, or says no.
fn agree(action: Action) -> Result<()> {
    if !stdin().is_terminal() {
        bail!("nothing was changed: say --yes to {} them, since nobody can be asked here", action.name());
    }
    output::aside(&format!("{} them? [y/N]", action.name()));
    let mut answer = String::new();
    stdin().read_line(&mut answer).context("the answer could not be read")?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}

fn told(action: Action, done: &Affected, as_json: bool) -> String {
    if as_json {
        let ids = &done.ids;
        return json!({ "action": action.name(), "batches": ids.len(), "waiting_videos": done.waiting, "ids": ids })
            .to_string();
    }
    let what = match action {
        Action::Cancel => "cancelled",
        Action::Pause(_) => "paused",
        Action::Resume => "resumed",
    };
    format!("{} {what}, in which {}", batches(done), waiting(done))
}

fn batches(affected: &Affected) -> String {
    match affected.ids.len() {
        1 => "1 batch".to_owned(),
        number => format!("{} batches", amount(i64::try_from(number).unwrap_or(i64::MAX))),
    }
}

fn waiting(affected: &Affected) -> String {
    let videos = usize::try_from(affected.waiting).unwrap_or(usize::MAX);
    format!("{} wait{}", count(videos, "video"), if videos == 1 { "s" } else { "" })
}
