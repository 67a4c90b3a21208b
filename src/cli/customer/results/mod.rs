//! `freezeframe batch results`: every video of a batch, and its files.
//!
//! Always holds: a batch that still runs may be asked; what is there is given, and another run fetches the rest.

mod download;
mod names;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::Connection;
use crate::cli::client::{Answer, Api, Batch, CallError, Video};
use crate::cli::output::{self, Table, amount, bytes, count, plain};
use crate::cli::progress::number;
use download::{Fetched, Sheet, What, Wishes};

const EXAMPLES: &str = "\
Files are named after custom_id, or by their place in the batch. One that is
there with the right SHA-256 is not fetched again; one with other content is
left alone unless --overwrite says otherwise.

Examples:
  freezeframe batch results bat_01KC... --download videos --thumbnails
  freezeframe batch results bat_01KC... --format csv > spring.csv";

/// List the videos of a batch, and fetch their files.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ResultsArgs {
    /// The batch, bat_ and 26 characters
    #[arg(value_name = "BATCH")]
    id: String,
    /// Fetch the files into this directory; each is checked by its SHA-256
    #[arg(long, value_name = "DIR")]
    download: Option<PathBuf>,
    /// How the videos are listed [default: table; with --download only a summary]
    #[arg(long, value_enum, conflicts_with = "json")]
    format: Option<ListFormat>,
    /// Fetch the small pictures of the videos too, where there are any
    #[arg(long, requires = "download")]
    thumbnails: bool,
    /// Replace files of the same name and other content
    #[arg(long, requires = "download")]
    overwrite: bool,
    /// Files fetched at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    Table,
    Jsonl,
    Csv,
}

/// A video and the files that it has on this machine, if it has any.
struct Row {
    video: Answer<Video>,
    file: Option<PathBuf>,
    thumbnail: Option<PathBuf>,
}

pub(super) async fn run(args: ResultsArgs) -> Result<ExitCode> {
    let api = args.connection.api()?;
    let batch = api.batch(&args.id).await?;
    let sheets = sheets(&api, &args.id).await?;
    let fetched = match &args.download {
        Some(directory) => {
            let ResultsArgs { thumbnails, overwrite, parallel, .. } = args;
            let wishes = Wishes { directory, thumbnails, overwrite, parallel };
            Some(download::fetch(&api, &args.id, &sheets, &wishes).await?)
        }
        None => None,
    };
    let rows: Vec<Row> = sheets
        .into_iter()
        .flat_map(|sheet| sheet.videos)
        .map(|video| {
            let index = video.value.index;
            let file = fetched.as_ref().and_then(|fetched| fetched.files.get(&index).cloned());
            let thumbnail = fetched.as_ref().and_then(|fetched| fetched.thumbnails.get(&index).cloned());
            Row { video, file, thumbnail }
        })
        .collect();
    if args.connection.json {
        output::json(&document(&batch, &rows, fetched.as_ref()))?;
    } else if args.format.is_some() || fetched.is_none() {
        list(&rows, args.format.unwrap_or(ListFormat::Table))?;
    }
    if let (Some(fetched), Some(directory)) = (&fetched, &args.download) {
        summarize(fetched, &batch.value, directory, args.connection.json || args.format.is_some())?;
    }
    if !batch.value.status.has_ended() {
        let left = number(batch.value.counts.total - batch.value.counts.done().min(batch.value.counts.total));
        output::aside(&format!("the batch still runs: {left} videos are to come; run this again for them"));
    }
    let failed = fetched.is_some_and(|fetched| !fetched.faults.is_empty());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// All pages, each with what finds it again.
async fn sheets(api: &Api, id: &str) -> Result<Vec<Sheet>, CallError> {
    let mut sheets = Vec::new();
    let mut cursor = None;
    loop {
        let page = api.videos_page(id, None, cursor).await?;
        sheets.push(Sheet { cursor: page.cursor, videos: page.data });
        cursor = page.next;
        if cursor.is_none() {
            return Ok(sheets);
        }
    }
}

fn document(batch: &Answer<Batch>, rows: &[Row], fetched: Option<&Fetched>) -> Value {
    let mut document = json!({ "batch": batch.raw, "videos": rows.iter().map(Row::json).collect::<Vec<_>>() });
    if let Some(Fetched { new, new_bytes, present, faults, .. }) = fetched {
        let faults: Vec<Value> = faults
            .iter()
            .map(|((index, what), fault)| json!({ "index": index, "error": in_words(*what, fault) }))
            .collect();
        document["download"] =
            json!({ "fetched": new, "fetched_bytes": new_bytes, "already_there": present, "errors": faults });
    }
    document
}

impl Row {
    fn json(&self) -> Value {
        let mut video = self.video.raw.clone();
        if let Some(file) = &self.file {
            video["file"] = json!(file.to_string_lossy());
        }
        if let Some(thumbnail) = &self.thumbnail {
            video["thumbnail_file"] = json!(thumbnail.to_string_lossy());
        }
        video
    }
}

fn list(rows: &[Row], format: ListFormat) -> Result<()> {
    match format {
        ListFormat::Table => output::line(&table(rows, output::width()))?,
        ListFormat::Jsonl => rows.iter().try_for_each(|row| output::json(&row.json()))?,
        ListFormat::Csv => output::line(csv(rows)?.trim_end())?,
    }
    Ok(())
}

fn table(rows: &[Row], width: usize) -> String {
    let mut table = Table::new([">#", "~video", "~model", ">s", "state", ">tries", ">credits", "~result"]);
    for Row { video, file, .. } in rows {
        let video = &video.value;
        let result = match (&video.failure, &video.output, file) {
            (Some(failure), ..) => plain(&failure.kind),
            (None, _, Some(file)) => {
                file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
            }
            (None, Some(output), None) if output.url.is_none() => "no longer kept".to_owned(),
            (None, Some(output), None) => bytes(output.bytes),
            (None, None, None) => String::new(),
        };
        table.row([
            video.index.to_string(),
            plain(&video.custom_id.clone().unwrap_or_else(|| video.video_id.clone())),
            plain(&video.model),
            video.seconds.to_string(),
            plain(&video.state),
            video.attempts.to_string(),
            amount(video.price_credits),
            result,
        ]);
    }
    table.render_within(width)
}

fn csv(rows: &[Row]) -> Result<String> {
    let path =
        |file: &Option<PathBuf>| file.as_ref().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "index",
        "custom_id",
        "video_id",
        "model",
        "seconds",
        "size",
        "state",
        "attempts",
        "price_credits",
        "charged_credits",
        "refunded_credits",
        "failure_type",
        "failure_message",
        "failure_detail",
        "retryable",
        "bytes",
        "sha256",
        "url",
        "file",
        "thumbnail_file",
    ])?;
    for Row { video, file, thumbnail } in rows {
        let video = &video.value;
        let (failure, output) = (video.failure.as_ref(), video.output.as_ref());
        let cells = [
            video.index.to_string(),
            video.custom_id.clone().unwrap_or_default(),
            video.video_id.clone(),
            video.model.clone(),
            video.seconds.to_string(),
            video.size.clone(),
            video.state.clone(),
            video.attempts.to_string(),
            video.price_credits.to_string(),
            video.charged_credits.to_string(),
            video.refunded_credits.to_string(),
            failure.map(|failure| failure.kind.clone()).unwrap_or_default(),
            failure.map(|failure| failure.message.clone()).unwrap_or_default(),
            failure.and_then(|failure| failure.detail.clone()).unwrap_or_default(),
            failure.map(|failure| failure.retryable.to_string()).unwrap_or_default(),
            output.map(|output| output.bytes.to_string()).unwrap_or_default(),
            output.map(|output| output.sha256.clone()).unwrap_or_default(),
            output.and_then(|output| output.url.clone()).unwrap_or_default(),
            path(file),
            path(thumbnail),
        ];
        writer.write_record(cells.map(|cell| plain(&cell)))?;
    }
    let bytes = writer.into_inner().context("the table cannot be written")?;
    Ok(String::from_utf8(bytes)?)
}

fn in_words(what: What, fault: &str) -> String {
    match what {
        What::Film => fault.to_owned(),
        What::Thumbnail => format!("its picture: {fault}"),
    }
}

fn summarize(fetched: &Fetched, batch: &Batch, directory: &Path, aside: bool) -> Result<()> {
    for ((index, what), fault) in &fetched.faults {
        output::aside(&format!("not fetched: #{index}: {}", plain(&in_words(*what, fault))));
    }
    let (new, size) = (count(fetched.new, "file"), bytes(fetched.new_bytes));
    let mut text = format!("{new} fetched ({size})");
    if fetched.present > 0 {
        text.push_str(&format!(", {} were there already", number(fetched.present)));
    }
    if !fetched.faults.is_empty() {
        text.push_str(&format!(", {} not fetched", number(fetched.faults.len())));
    }
    let failed = match batch.counts.failed {
        0 => String::new(),
        failed => format!("; {} failed and cost nothing", count(failed, "video")),
    };
    let text = format!("{}: {text}{failed}", plain(&directory.display().to_string()));
    if aside {
        output::aside(&text)
    } else {
        output::line(&text)?
    }
    Ok(())
}
