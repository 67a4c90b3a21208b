//! What an order says on the command line: a file of items, and what holds for all of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Value, json};

use super::input::{self, Defaults, Format, Items, LocalImage};

#[derive(Args)]
pub(super) struct OrderArgs {
    /// A .jsonl or .csv file; - reads standard input
    file: PathBuf,
    /// Where the end of the batch is told
    #[arg(long, value_name = "URL")]
    webhook_url: Option<String>,
    /// Your own words about the batch; may be repeated
    #[arg(long, value_name = "NAME=TEXT", value_parser = name_and_text)]
    metadata: Vec<(String, String)>,
    /// A pace of its own: no more of its videos start in any 60 seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    videos_per_minute: Option<u32>,
    /// Of your batches the one with the higher goes first: 0 to 9, 5 when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    /// What has not begun by then is refunded, such as 2027-01-08T18:00:00Z
    #[arg(long, value_name = "TIME")]
    complete_by: Option<DateTime<Utc>>,
    /// The model of items that name none
    #[arg(long, help_heading = "Defaults of items")]
    model: Option<String>,
    /// The length of items that name none
    #[arg(long, value_name = "N", help_heading = "Defaults of items")]
    seconds: Option<u32>,
    /// The size of items that name none, such as 1280x720
    #[arg(long, value_name = "WxH", help_heading = "Defaults of items")]
    size: Option<String>,
    /// How the file is written [default: by its name, else by its first character]
    #[arg(long, value_enum)]
    format: Option<Format>,
}

fn name_and_text(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, text)) if !name.is_empty() => Ok((name.to_owned(), text.to_owned())),
        _ => Err("must be written NAME=TEXT".to_owned()),
    }
}

impl OrderArgs {
    /// The items of the file, and the images beside it that they start from.
    pub(super) fn read(&self) -> Result<(Items, Vec<LocalImage>)> {
        let defaults = Defaults { model: self.model.clone(), seconds: self.seconds, size: self.size.clone() };
        let mut items = input::read(&self.file, self.format, &defaults)?;
        let images = items.resolve_images(&self.file)?;
        Ok((items, images))
    }

    /// The body that the API takes.
    pub(super) fn body(&self, items: Value) -> Result<Value> {
        let mut body = json!({ "items": items });
        if let Some(url) = &self.webhook_url {
            body["webhook_url"] = json!(url);
        }
        if let Some(pace) = self.videos_per_minute {
            body["videos_per_minute"] = json!(pace);
        }
        if let Some(priority) = self.priority {
            body["priority"] = json!(priority);
        }
        if let Some(at) = self.complete_by {
            body["complete_by"] = json!(at);
        }
        let metadata: BTreeMap<&String, &String> = self.metadata.iter().map(|(name, text)| (name, text)).collect();
        anyhow::ensure!(metadata.len() == self.metadata.len(), "--metadata names something twice");
        if !metadata.is_empty() {
            body["metadata"] = json!(metadata);
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::name_and_text;

    #[test]
    fn metadata_may_hold_equals_signs() {
        assert_eq!(name_and_text("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert!(name_and_text("a").is_err() && name_and_text("=b").is_err());
    }
}
