//! `freezeframe batch show`: one batch, its money, and why videos of it failed.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use chrono::{DateTime, Utc};
use clap::Args;

use super::Connection;
use crate::cli::client::{Api, Batch, CallError, Outlook};
use crate::cli::output::{self, Table, amount, duration, plain, wrap};
use crate::cli::progress::{counts_words, money_words, number};

/// Not worth a line.
const USUAL_PRIORITY: u8 = 5;
/// Where values begin.
const INDENT: usize = 12;

/// Show how far a batch is, and its money.
#[derive(Args)]
pub(super) struct ShowArgs {
    /// The batch, bat_ and 26 characters
    #[arg(value_name = "BATCH")]
    id: String,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: ShowArgs) -> Result<ExitCode> {
    let api = args.connection.api()?;
    let batch = api.batch(&args.id).await?;
    if args.connection.json {
        output::json(&batch.raw)?;
        return Ok(ExitCode::SUCCESS);
    }
    let failed = failures(&api, &batch.value).await?;
    output::line(&summary(&batch.value, &failed))?;
    advise(&batch.value);
    Ok(ExitCode::SUCCESS)
}

/// The failures of one type.
pub(super) struct FailedFor {
    kind: String,
    videos: usize,
    refunded: i64,
    retryable: bool,
    /// What it means.
    message: String,
    /// The name of one of them, and what was said of it.
    example: (String, Option<String>),
}

/// Every failure of a batch by its type, the most frequent first.
pub(super) async fn failures(api: &Api, batch: &Batch) -> Result<Vec<FailedFor>, CallError> {
    let mut kinds: BTreeMap<String, FailedFor> = BTreeMap::new();
    if batch.counts.failed == 0 {
        return Ok(vec![]);
    }
    for video in api.videos(&batch.batch_id, Some("failed")).await?.into_iter().map(|video| video.value) {
        let name = video.name();
        let Some(failure) = video.failure else { continue };
        let group = kinds.entry(failure.kind.clone()).or_insert_with(|| FailedFor {
            kind: failure.kind,
            videos: 0,
            refunded: 0,
            retryable: failure.retryable,
            message: failure.message,
            example: (name, failure.detail),
        });
        group.videos += 1;
        group.refunded += video.refunded_credits;
    }
    let mut groups: Vec<FailedFor> = kinds.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.videos));
    Ok(groups)
}

/// All that there is to say about a batch.
pub(super) fn summary(batch: &Batch, failed: &[FailedFor]) -> String {
    let width = output::width();
    let mut lines = vec![];
    let mut add = |name: &str, value: String| {
        for (at, line) in wrap(&value, width.saturating_sub(INDENT)).iter().enumerate() {
            lines.push(format!("  {:<10}{line}", if at == 0 { name } else { "" }));
        }
    };
    add("batch", plain(&batch.batch_id));
    add("status", status(batch));
    add("videos", format!("{}: {}", number(batch.counts.total), counts_words(&batch.counts)));
    if let Some(reason) = &batch.waiting_reason {
        add("waits for", waiting_words(reason));
    }
    if let Some(outlook) = &batch.outlook {
        let expected = expected(outlook);
        if !expected.is_empty() {
            add("expect", expected);
        }
    }
    if let Some(at) = batch.paused_at {
        add("paused", format!("by you since {}", moment(at)));
    }
    if let Some(at) = batch.cancelled_at {
        add("cancelled", moment(at));
    }
    if let Some(at) = batch.complete_by {
        add("until", format!("{}; what has not begun by then is refunded", moment(at)));
    }
    if let Some(id) = &batch.retry_of {
        add("retry of", plain(id));
    }
    if !batch.retried_by.is_empty() {
        add("retried", format!("by {}", batch.retried_by.iter().map(|id| plain(id)).collect::<Vec<_>>().join(" ")));
    }
    add("credits", money_words(&batch.credits));
    add("submitted", moment(batch.created_at));
    add("key", plain(&batch.request_id));
    if let Some(url) = &batch.webhook_url {
        add("webhook", plain(url));
    }
    if let Some(priority) = batch.priority.filter(|priority| *priority != USUAL_PRIORITY) {
        add("priority", format!("{priority} of 9"));
    }
    if let Some(pace) = batch.videos_per_minute {
        add("pace", format!("{} a minute at most", amount(pace.into())));
    }
    for (at, (name, text)) in batch.metadata.iter().enumerate() {
        add(if at == 0 { "metadata" } else { "" }, format!("{} = {}", plain(name), plain(text)));
    }
    let mut text = lines.join("\n");
    if !failed.is_empty() {
        text.push_str(&format!("\n\n{}", reasons(failed, width)));
    }
    text
}

/// What to expect, as far as anybody can tell.
fn expected(outlook: &Outlook) -> String {
    let ahead = outlook.videos_ahead.filter(|ahead| *ahead > 0);
    let parts = [
        ahead.map(|ahead| format!("{} of your videos go before", amount(ahead.into()))),
        outlook.starts_at.map(|at| format!("the next begins about {}", moment(at))),
        outlook.finishes_at.map(|at| format!("the last ends about {}", moment(at))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn reasons(failed: &[FailedFor], width: usize) -> String {
    let mut table = Table::new(["failed for", ">videos", ">refunded", "worth another try", "~for example"]);
    for group in failed {
        let again = if group.retryable { "yes" } else { "no" };
        table.row([
            plain(&group.kind),
            number(group.videos),
            amount(group.refunded),
            again.to_owned(),
            plain(&group.example.0),
        ]);
    }
    let mut text = table.render_within(width);
    text.push('\n');
    for FailedFor { kind, message, example: (name, detail), .. } in failed {
        text.push_str(&format!("\n  {}:\n", plain(kind)));
        let detail = detail.as_ref().map(|detail| format!("{}: {}", plain(name), plain(detail)));
        for paragraph in [Some(plain(message)), detail].into_iter().flatten() {
            for line in wrap(&paragraph, width.saturating_sub(4)) {
                text.push_str(&format!("    {line}\n"));
            }
        }
    }
    text.trim_end().to_owned()
}

fn status(batch: &Batch) -> String {
    let word = batch.status.to_string();
    match (batch.finished_at, batch.started_at) {
        (Some(at), _) => {
            let took = (at - batch.created_at).num_seconds();
            format!("{word} after {}, at {}", duration(u64::try_from(took).unwrap_or(0)), moment(at))
        }
        (None, Some(at)) => format!("{word} since {}", moment(at)),
        (None, None) => word,
    }
}

/// In universal time, so that it reads the same for everybody.
pub(super) fn moment(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// What one would do next.
pub(super) fn advise(batch: &Batch) {
    let id = plain(&batch.batch_id);
    if !batch.status.has_ended() {
        output::aside(&format!("next: freezeframe batch watch {id}"));
    } else if batch.counts.succeeded > 0 {
        output::aside(&format!("next: freezeframe batch results {id} --download DIR"));
    }
    if batch.status.has_ended() && batch.counts.failed > 0 && batch.retried_by.is_empty() {
        output::aside(&format!("what failed: freezeframe batch retry {id}"));
    }
}

/// Why most of the waiting videos wait, in words.
fn waiting_words(reason: &str) -> String {
    let words = match reason {
        "queued" => "its turn, which is near",
        "back_off" => "another attempt after a failed one",
        "tenant_limit" => "your limit of videos per minute, or at once",
        "model_limit" => "the model's limit",
        "provider_limit" => "the provider's limit",
        "batch_pace" => "the pace that it was ordered with",
        "cooldown" => "the provider, which asked for a pause",
        "circuit_open" => "the provider, where orders failed one after the other",
        "paused" => "the end of a pause, yours or our operators'",
        "out_of_quota" | "refused" | "no_route" => "our operators: the way to the provider is closed",
        "no_worker" => "a free worker",
        other => return plain(other),
    };
    words.to_owned()
}
