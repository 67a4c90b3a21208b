//! The provider's own book: what it accepted and what it charged, whatever its clients believe.
//!
//! A test holds the house's books against this one: videos bought = videos delivered + known failures. Every row in
//! [`Book::jobs`] was accepted; a create that was refused only leaves a stamp and a count. Rows are never removed, not even
//! for a deleted video (only by a reset of the whole emulator).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::script::Fault;

/// A copy of the book at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    pub totals: Totals,
    /// In order of acceptance.
    pub jobs: Vec<BookedJob>,
    /// Every create that passed the key check, in order of arrival.
    pub creates: Vec<CreateStamp>,
}

/// Sums over the whole book.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Creates that passed the key check: `accepted`, `replayed` and everything in `refused` except `unauthorized`.
    pub creates_seen: u64,
    pub accepted: u64,
    /// Creates that were answered by the job that their idempotency key had bought before.
    #[serde(default)]
    pub replayed: u64,
    /// By kind: `unauthorized`, `invalid_request`, `model_not_found`, `moderation`, `rate_limited`, `quota`,
    /// `server_error`, `bad_gateway`, `dropped`, `hostile`, `key_reused`.
    pub refused: BTreeMap<String, u64>,
    pub queued: u64,
    pub in_progress: u64,
    pub completed: u64,
    pub failed: u64,
    /// US cents.
    pub charged_cents: u64,
    /// Accepted creates whose client never got the id.
    pub answers_lost: u64,
    /// Downloads of finished videos that were answered with 200.
    pub downloads: u64,
}

/// One accepted job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookedJob {
    pub id: String,
    pub model: String,
    pub prompt: String,
    /// SHA-256 of the prompt's UTF-8 bytes, in hex.
    pub prompt_sha256: String,
    /// SHA-256 of the image that the video starts from, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_sha256: Option<String>,
    pub size: String,
    pub seconds: u32,
    /// Which create of this prompt it was, from 1, refused ones counted too.
    pub nth: u32,
    /// Milliseconds since the epoch by the emulator's clock; the protocol's `created_at` is this in whole seconds.
    pub created_at_ms: u64,
    pub state: JobState,
    /// What the job costs if it is charged, in US cents.
    pub price_cents: u64,
    /// What it has cost so far, in US cents.
    pub charged_cents: u64,
    /// The connection was dropped, or the answer was an error or cut off: the client does not know the id.
    pub answer_lost: bool,
    pub deleted: bool,
    /// Its client cancelled it while it ran.
    pub cancelled: bool,
    pub polls: u32,
    pub downloads: u32,
    /// The idempotency key that it was ordered under, honoured or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The fault that the create or the job was given, if any.
    pub fault: Option<Fault>,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Queued,
    InProgress,
    Completed,
    Failed,
}

/// The arrival of one create, for checking rates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateStamp {
    /// Milliseconds since the epoch by the emulator's clock.
    pub at_ms: u64,
    /// `None` when the request was too broken to name one.
    pub model: Option<String>,
    /// `None` when the request was refused before it was understood.
    #[serde(default)]
    pub prompt: Option<String>,
    #[serde(default)]
    pub idempotency_key: Option<String>,
    pub accepted: bool,
    /// It was answered by the job of an earlier create with the same key.
    #[serde(default)]
    pub replayed: bool,
}

impl Book {
    /// The largest number of creates, refused ones included, that arrived within any window of `window_ms` milliseconds;
    /// of one model, or of all.
    pub fn busiest_window(&self, window_ms: u64, model: Option<&str>) -> usize {
        let wanted = |stamp: &&CreateStamp| model.is_none() || stamp.model.as_deref() == model;
        let times: Vec<u64> = self.creates.iter().filter(wanted).map(|stamp| stamp.at_ms).collect();
        let mut first = 0;
        let mut busiest = 0;
        for (last, time) in times.iter().enumerate() {
            while time.saturating_sub(times[first]) >= window_ms && first < last {
                first += 1;
            }
            busiest = busiest.max(last + 1 - first);
        }
        busiest
    }

    /// The accepted jobs of exactly this prompt, oldest first.
    pub fn of_prompt<'a>(&'a self, prompt: &'a str) -> impl Iterator<Item = &'a BookedJob> {
        self.jobs.iter().filter(move |job| job.prompt == prompt)
    }
}

impl Totals {
    /// How many creates were refused for this reason (see [`Totals::refused`]).
    pub fn refused_as(&self, kind: &str) -> u64 {
        self.refused.get(kind).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_window_slides_and_can_look_at_one_model() {
        let stamp = |at_ms, model: &str| CreateStamp {
            at_ms,
            model: Some(model.to_owned()),
            prompt: None,
            idempotency_key: None,
            accepted: true,
            replayed: false,
        };
        let creates = vec![
            stamp(0, "sora-2"),
            stamp(900, "sora-2"),
            stamp(1_000, "veo-3.1"),
            stamp(1_899, "sora-2"),
            stamp(1_900, "sora-2"),
        ];
        let book = Book { totals: Totals::default(), jobs: Vec::new(), creates };
        assert_eq!(book.busiest_window(1_000, None), 3);
        assert_eq!(book.busiest_window(1_001, None), 4);
        assert_eq!(book.busiest_window(1_000, Some("sora-2")), 2);
        assert_eq!(book.busiest_window(60_000, Some("veo-3.1")), 1);
        assert_eq!(book.busiest_window(60_000, Some("unknown")), 0);
    }
}
