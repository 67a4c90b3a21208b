//! What the API answers, as far as the command line looks at it. Fields that it does not know are passed over, so that it
//! works with a newer service.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, NaiveDate, Utc};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The receipt of an order.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct Accepted {
    pub(in crate::cli) batch_id: String,
    pub(in crate::cli) status: String,
    pub(in crate::cli) total: usize,
    pub(in crate::cli) frozen_credits: i64,
}

/// How far a batch is: accepted, being made; ended with all, some or none of its videos. The last one stands for words of a
/// newer service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(in crate::cli) enum BatchStatus {
    Queued,
    Processing,
    Completed,
    Partial,
    Failed,
    #[serde(other)]
    #[value(skip)]
    Other,
}

/// As the API writes it.
impl fmt::Display for BatchStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.to_possible_value();
        f.write_str(word.as_ref().map_or("other", |value| value.get_name()))
    }
}

impl BatchStatus {
    pub(in crate::cli) fn has_ended(self) -> bool {
        matches!(self, BatchStatus::Completed | BatchStatus::Partial | BatchStatus::Failed)
    }
}

/// A batch of which nothing more begins.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct Cancelled {
    pub(in crate::cli) batch_id: String,
    pub(in crate::cli) cancelled_at: DateTime<Utc>,
}

/// A batch that was paused or resumed.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct Paused {
    pub(in crate::cli) batch_id: String,
    pub(in crate::cli) paused_at: Option<DateTime<Utc>>,
}

/// What to expect of a batch.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct Outlook {
    pub(in crate::cli) videos_ahead: Option<u32>,
    pub(in crate::cli) starts_at: Option<DateTime<Utc>>,
    pub(in crate::cli) finishes_at: Option<DateTime<Utc>>,
}

/// A batch at one moment.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct Batch {
    pub(in crate::cli) batch_id: String,
    pub(in crate::cli) status: BatchStatus,
    pub(in crate::cli) counts: Counts,
    pub(in crate::cli) waiting_reason: Option<String>,
    pub(in crate::cli) credits: Money,
    pub(in crate::cli) request_id: String,
    pub(in crate::cli) webhook_url: Option<String>,
    #[serde(default)]
    pub(in crate::cli) metadata: BTreeMap<String, String>,
    pub(in crate::cli) videos_per_minute: Option<u32>,
    pub(in crate::cli) priority: Option<u8>,
    pub(in crate::cli) outlook: Option<Outlook>,
    pub(in crate::cli) complete_by: Option<DateTime<Utc>>,
    pub(in crate::cli) paused_at: Option<DateTime<Utc>>,
    pub(in crate::cli) cancelled_at: Option<DateTime<Utc>>,
    pub(in crate::cli) created_at: DateTime<Utc>,
    pub(in crate::cli) started_at: Option<DateTime<Utc>>,
    pub(in crate::cli) finished_at: Option<DateTime<Utc>>,
    pub(in crate::cli) retry_of: Option<String>,
    #[serde(default)]
    pub(in crate::cli) retried_by: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(in crate::cli) struct Counts {
    pub(in crate::cli) total: usize,
    pub(in crate::cli) waiting: usize,
    pub(in crate::cli) in_progress: usize,
    pub(in crate::cli) succeeded: usize,
    pub(in crate::cli) failed: usize,
}

impl Counts {
    /// Videos that have come to their end.
    pub(in crate::cli) fn done(&self) -> usize {
        self.succeeded + self.failed
    }
}

/// In credits: `frozen = charged + refunded + held`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(in crate::cli) struct Money {
    pub(in crate::cli) frozen: i64,
    pub(in crate::cli) charged: i64,
    pub(in crate::cli) refunded: i64,
    pub(in crate::cli) held: i64,
}

#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct Video {
    pub(in crate::cli) video_id: String,
    pub(in crate::cli) index: usize,
    pub(in crate::cli) custom_id: Option<String>,
    pub(in crate::cli) model: String,
    pub(in crate::cli) seconds: u32,
    pub(in crate::cli) size: String,
    pub(in crate::cli) state: String,
    pub(in crate::cli) attempts: u32,
    pub(in crate::cli) retry_at: Option<DateTime<Utc>>,
    pub(in crate::cli) price_credits: i64,
    pub(in crate::cli) charged_credits: i64,
    pub(in crate::cli) refunded_credits: i64,
    pub(in crate::cli) failure: Option<Failure>,
    pub(in crate::cli) output: Option<Output>,
}

impl Video {
    /// The customer's own name for it, or its place in the batch.
    pub(in crate::cli) fn name(&self) -> String {
        self.custom_id.clone().unwrap_or_else(|| format!("#{}", self.index))
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct Failure {
    #[serde(rename = "type")]
    pub(in crate::cli) kind: String,
    /// One plain sentence, the same for every failure of this kind.
    pub(in crate::cli) message: String,
    /// What was said of this very video.
    pub(in crate::cli) detail: Option<String>,
    #[serde(default)]
    pub(in crate::cli) retryable: bool,
}

impl Failure {
    /// The most particular that is known.
    pub(in crate::cli) fn particulars(&self) -> &str {
        self.detail.as_deref().unwrap_or(&self.message)
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct Output {
    /// Signed: works without a key, for a while. Absent once the file is no longer kept.
    pub(in crate::cli) url: Option<String>,
    /// When the file was deleted because its time was over.
    pub(in crate::cli) purged_at: Option<DateTime<Utc>>,
    pub(in crate::cli) bytes: u64,
    /// Lower-case hexadecimal.
    pub(in crate::cli) sha256: String,
    /// Of the small picture, like `url`. Absent for videos without one.
    pub(in crate::cli) thumbnail_url: Option<String>,
    pub(in crate::cli) thumbnail_bytes: Option<u64>,
    pub(in crate::cli) thumbnail_sha256: Option<String>,
    pub(in crate::cli) thumbnail_content_type: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct Entry {
    pub(in crate::cli) act: String,
    pub(in crate::cli) amount: i64,
    pub(in crate::cli) reason: String,
    pub(in crate::cli) balance_of: String,
    pub(in crate::cli) balance_before: i64,
    pub(in crate::cli) balance_after: i64,
    pub(in crate::cli) video_count: usize,
}

#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct Wallet {
    pub(in crate::cli) tenant_id: String,
    pub(in crate::cli) tenant_name: String,
    pub(in crate::cli) available: i64,
    pub(in crate::cli) held: i64,
    pub(in crate::cli) settled: i64,
    pub(in crate::cli) sources: Vec<SourceBalance>,
    pub(in crate::cli) limits: Limits,
}

#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct SourceBalance {
    pub(in crate::cli) source: String,
    pub(in crate::cli) available: i64,
    pub(in crate::cli) held: i64,
}

#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct Limits {
    pub(in crate::cli) videos_per_minute: u32,
    pub(in crate::cli) max_in_flight: u32,
}

/// A model and what it costs.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct Model {
    pub(in crate::cli) name: String,
    pub(in crate::cli) available: bool,
    pub(in crate::cli) available_until: Option<NaiveDate>,
    pub(in crate::cli) replacement: Option<String>,
    pub(in crate::cli) seconds: Vec<u32>,
    pub(in crate::cli) default_seconds: u32,
    pub(in crate::cli) sizes: Vec<String>,
    pub(in crate::cli) default_size: String,
    pub(in crate::cli) max_prompt_chars: usize,
    #[serde(default)]
    pub(in crate::cli) accepts_reference_image: bool,
    #[serde(default)]
    pub(in crate::cli) reference_image_matches_size: bool,
    pub(in crate::cli) prices: Vec<Price>,
}

/// What an order would cost.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct Quote {
    pub(in crate::cli) total: usize,
    pub(in crate::cli) price_credits: i64,
    pub(in crate::cli) available_credits: i64,
    pub(in crate::cli) missing_credits: i64,
    pub(in crate::cli) would_be_accepted: bool,
    pub(in crate::cli) groups: Vec<QuoteGroup>,
    pub(in crate::cli) starts_at: Option<DateTime<Utc>>,
    pub(in crate::cli) finishes_at: Option<DateTime<Utc>>,
}

/// Items that cost the same.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct QuoteGroup {
    pub(in crate::cli) model: String,
    pub(in crate::cli) seconds: u32,
    pub(in crate::cli) size: String,
    pub(in crate::cli) count: usize,
    pub(in crate::cli) credits_each: i64,
    pub(in crate::cli) credits: i64,
}

/// An uploaded image.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct UploadedImage {
    pub(in crate::cli) id: String,
    pub(in crate::cli) expires_at: DateTime<Utc>,
}

/// The price of one video.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::cli) struct Price {
    pub(in crate::cli) seconds: u32,
    pub(in crate::cli) size: String,
    pub(in crate::cli) price_credits: i64,
}
