//! How a batch is written and read: the schemas of its request and its answers.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::Object;
use poem_openapi::types::Example;
use serde_json::Value;

use super::PREFIX;
use super::words::Word;
use crate::batches::{BatchView, Receipt};
use crate::domain::{BatchId, BatchStatus, WaitingReason};

/// Metadata as it was stored.
pub(super) fn metadata(stored: Option<Value>) -> Option<BTreeMap<String, String>> {
    stored.and_then(|value| serde_json::from_value(value).ok())
}

/// A batch of videos to be made. Unknown fields are refused.
#[derive(Object)]
#[oai(example, skip_serializing_if_is_none)]
pub struct VideoBatchRequest {
    /// The videos, 1 to 10,000.
    #[oai(validator(min_items = 1, max_items = 10_000))]
    pub items: Vec<VideoItem>,
    /// Where the final status of the batch is told: `https`, a public host, no redirects.
    pub webhook_url: Option<String>,
    /// Your idempotency key; also accepted as the header `X-Request-Id` or `Idempotency-Key`.
    #[oai(rename = "x-request-id", validator(min_length = 1, max_length = 255))]
    pub x_request_id: Option<String>,
    /// Your own words about the batch: at most 16 strings, keys up to 64 and values up to 512 characters.
    pub metadata: Option<BTreeMap<String, String>>,
    /// A pace of its own, slower than your limit: no more videos of the batch start in any 60 seconds.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000000")))]
    pub videos_per_minute: Option<u32>,
    /// Of your batches the one with the higher priority goes first, and of the same the older: 0 to 9, 5 when absent.
    #[oai(validator(minimum(value = "0"), maximum(value = "9")))]
    pub priority: Option<u8>,
    /// Videos that have not begun by then end as `expired` and are refunded; those that have begun go on. At most 30 days away.
    pub complete_by: Option<DateTime<Utc>>,
}

/// One video to be made.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
pub struct VideoItem {
    /// What the video shows, up to the model's limit of characters.
    #[oai(validator(min_length = 1, max_length = 32_000))]
    pub prompt: String,
    /// A model of the catalogue, such as `sora-2`.
    pub model: String,
    /// The length; one of the model's, its default when absent.
    pub seconds: Option<u32>,
    /// Width and height in pixels, such as `1280x720`; one of the model's, its default when absent.
    pub size: Option<String>,
    /// Your own name for the item, unique in the batch.
    #[oai(validator(min_length = 1, max_length = 128))]
    pub custom_id: Option<String>,
    /// Your own words about the item, bounded like the batch's.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Where the image is that the video starts from: `https`, a public host, a JPEG, PNG or WebP. It is fetched when the
    /// video is made. For models with `accepts_reference_image`.
    #[oai(validator(max_length = 2048))]
    pub reference_image_url: Option<String>,
    /// The `id` of an uploaded image, in place of a URL.
    #[oai(validator(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub reference_image: Option<String>,
}

impl Example for VideoBatchRequest {
    fn example() -> Self {
        let item = |prompt: &str, model: &str, custom_id: &str| VideoItem {
            prompt: prompt.to_owned(),
            model: model.to_owned(),
            seconds: None,
            size: None,
            custom_id: Some(custom_id.to_owned()),
            metadata: None,
            reference_image_url: None,
            reference_image: None,
        };
        VideoBatchRequest {
            items: vec![
                VideoItem {
                    seconds: Some(8),
                    size: Some("1280x720".to_owned()),
                    ..item("A lighthouse in a storm, seen from the sea", "sora-2", "lighthouse")
                },
                item("A paper boat crossing a rain puddle, macro", "veo-3.1", "paper-boat"),
            ],
            webhook_url: Some("https://hooks.example.com/freezeframe".to_owned()),
            x_request_id: Some("spring-campaign-17".to_owned()),
            metadata: Some(BTreeMap::from([("campaign".to_owned(), "spring".to_owned())])),
            videos_per_minute: None,
            priority: None,
            complete_by: None,
        }
    }
}

/// A batch that was accepted. A repeated request gets the same answer, word for word.
#[derive(Object)]
pub struct VideoBatchAccepted {
    /// The id of the batch.
    pub batch_id: String,
    /// Always `queued`.
    pub status: Word<BatchStatus>,
    /// How many videos it has.
    pub total: u32,
    /// The price of the whole batch in credits, set aside now. What is not charged in the end comes back.
    pub frozen_credits: i64,
    pub created_at: DateTime<Utc>,
    pub links: VideoBatchLinks,
}

/// Paths to read on.
#[derive(Object)]
pub struct VideoBatchLinks {
    pub batch: String,
    pub videos: String,
    pub ledger: String,
}

impl VideoBatchLinks {
    fn of(id: BatchId) -> VideoBatchLinks {
        let batch = format!("{PREFIX}/video-batch/{id}");
        VideoBatchLinks { videos: format!("{batch}/videos"), ledger: format!("{batch}/ledger"), batch }
    }
}

impl From<Receipt> for VideoBatchAccepted {
    fn from(receipt: Receipt) -> VideoBatchAccepted {
        VideoBatchAccepted {
            batch_id: receipt.batch_id.to_string(),
            status: Word(receipt.status),
            total: receipt.total,
            frozen_credits: receipt.frozen_credits.get(),
            created_at: receipt.created_at,
            links: VideoBatchLinks::of(receipt.batch_id),
        }
    }
}

/// A batch of which nothing more begins.
#[derive(Object)]
pub struct VideoBatchCancelled {
    pub batch_id: String,
    /// Since when it is cancelled: the same however often it is cancelled.
    pub cancelled_at: DateTime<Utc>,
    pub links: VideoBatchLinks,
}

impl VideoBatchCancelled {
    pub fn new(id: BatchId, cancelled_at: DateTime<Utc>) -> VideoBatchCancelled {
        VideoBatchCancelled { batch_id: id.to_string(), cancelled_at, links: VideoBatchLinks::of(id) }
    }
}

/// A batch that was paused or resumed.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
pub struct VideoBatchPaused {
    pub batch_id: String,
    /// Since when you have paused it; absent when it goes on.
    pub paused_at: Option<DateTime<Utc>>,
    pub links: VideoBatchLinks,
}

impl VideoBatchPaused {
    pub fn new(id: BatchId, paused_at: Option<DateTime<Utc>>) -> VideoBatchPaused {
        VideoBatchPaused { batch_id: id.to_string(), paused_at, links: VideoBatchLinks::of(id) }
    }
}

/// A batch at one moment.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
pub struct VideoBatch {
    pub batch_id: String,
    pub status: Word<BatchStatus>,
    pub counts: VideoCounts,
    /// Why most of its waiting videos wait; absent when none does.
    pub waiting_reason: Option<Word<WaitingReason>>,
    pub credits: BatchCredits,
    /// The idempotency key of the request, or the name that we gave it.
    pub request_id: String,
    pub webhook_url: Option<String>,
    pub metadata: Option<BTreeMap<String, String>>,
    /// The pace that it was ordered with.
    pub videos_per_minute: Option<u32>,
    /// Of your batches the one with the higher goes first.
    pub priority: u8,
    /// What to expect; absent before we have looked, and when the batch has ended or is cancelled.
    pub outlook: Option<BatchOutlook>,
    /// The time by which it was to be complete.
    pub complete_by: Option<DateTime<Utc>>,
    /// Since when you have paused it.
    pub paused_at: Option<DateTime<Utc>>,
    /// Since when it is cancelled.
    pub cancelled_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    /// When the first video was handed to a worker.
    pub started_at: Option<DateTime<Utc>>,
    /// When the money was settled.
    pub finished_at: Option<DateTime<Utc>>,
    /// The batch whose failed videos it holds.
    pub retry_of: Option<String>,
    /// The batches that hold failed videos of this one, oldest first. Absent when nothing of it was retried.
    #[oai(skip_serializing_if_is_empty)]
    pub retried_by: Vec<String>,
    pub links: VideoBatchLinks,
}

/// What to expect of a batch, as it looked a few seconds ago. It is no promise: others order, and videos fail.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
pub struct BatchOutlook {
    /// Your waiting videos that go before the first one of this batch that waits; absent when none of it waits.
    pub videos_ahead: Option<u32>,
    /// About when the first one that waits begins; absent when none waits, or that cannot be told, as in a pause.
    pub starts_at: Option<DateTime<Utc>>,
    /// About when the last one ends; absent when that cannot be told.
    pub finishes_at: Option<DateTime<Utc>>,
}

/// `total = waiting + in_progress + succeeded + failed`.
#[derive(Object)]
pub struct VideoCounts {
    pub total: u32,
    pub waiting: u32,
    pub in_progress: u32,
    pub succeeded: u32,
    pub failed: u32,
    /// Of the failed: those that had not begun when the batch was cancelled, and those that the provider stopped then.
    pub cancelled: u32,
    /// Of the failed: those that had not begun at `complete_by`.
    pub expired: u32,
}

/// `frozen = charged + refunded + held`, in credits.
#[derive(Object)]
pub struct BatchCredits {
    /// The price of the whole batch, set aside when it was accepted.
    pub frozen: i64,
    /// Charged for the successes, when the batch ends.
    pub charged: i64,
    /// Back in the wallet, at once for each failure.
    pub refunded: i64,
    /// Still set aside; 0 when the batch has ended.
    pub held: i64,
}

impl From<BatchView> for VideoBatch {
    fn from(view: BatchView) -> VideoBatch {
        let counts = view.counts;
        VideoBatch {
            batch_id: view.id.to_string(),
            status: Word(view.status),
            counts: VideoCounts {
                total: counts.total,
                waiting: counts.waiting,
                in_progress: counts.in_progress,
                succeeded: counts.succeeded,
                failed: counts.failed,
                cancelled: counts.cancelled,
                expired: counts.expired,
            },
            waiting_reason: view.waiting_for.map(Word),
            credits: BatchCredits {
                frozen: view.frozen.get(),
                charged: view.charged.get(),
                refunded: view.refunded.get(),
                held: view.held.get(),
            },
            request_id: view.request_id,
            webhook_url: view.webhook_url,
            metadata: metadata(view.metadata),
            videos_per_minute: view.videos_per_minute,
            priority: view.priority,
            outlook: view.outlook.map(|outlook| BatchOutlook {
                videos_ahead: outlook.videos_ahead,
                starts_at: outlook.starts_at,
                finishes_at: outlook.finishes_at,
            }),
            complete_by: view.complete_by,
            paused_at: view.paused_at,
            cancelled_at: view.cancelled_at,
            created_at: view.created_at,
            started_at: view.started_at,
            finished_at: view.finished_at,
            retry_of: view.retry_of.map(|id| id.to_string()),
            retried_by: view.retried_by.iter().map(BatchId::to_string).collect(),
            links: VideoBatchLinks::of(view.id),
        }
    }
}

/// A page of batches.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
pub struct VideoBatchPage {
    pub data: Vec<VideoBatch>,
    /// For the next page; absent on the last one.
    pub next_cursor: Option<String>,
}
