//! What a demo came to, and whether everything that was promised held.

use serde::Serialize;
use serde_json::Value;

use crate::billing::Reconciliation;
use crate::cli::client::{Accepted, Batch, BatchStatus, Entry, Video, Wallet};
use crate::emulator::{Book, JobState};

/// All that there is to know at the end.
pub(super) struct Outcome {
    pub(super) accepted: Accepted,
    pub(super) batch: Batch,
    pub(super) videos: Vec<Video>,
    pub(super) entries: Vec<Entry>,
    pub(super) wallet_before: Wallet,
    pub(super) wallet_after: Wallet,
    pub(super) reconciled: Reconciliation,
    pub(super) provider: Provided,
    /// The event, if one with a valid signature arrived.
    pub(super) event: Option<Value>,
    /// What was wrong with the first delivered file, fetched by its signed link.
    pub(super) file_fault: Option<String>,
    /// From the order to the verified webhook.
    pub(super) seconds: f64,
}

/// What the provider's own book says of this demo's videos.
pub(super) struct Provided {
    pub(super) accepted: usize,
    pub(super) finished: usize,
    /// Accepted, but the answer never arrived.
    pub(super) answers_lost: usize,
}

impl Provided {
    pub(super) fn of(book: &Book, take: &str) -> Provided {
        let ours = || book.jobs.iter().filter(|job| job.prompt.ends_with(take));
        Provided {
            accepted: ours().count(),
            finished: ours().filter(|job| job.state == JobState::Completed).count(),
            answers_lost: ours().filter(|job| job.answer_lost).count(),
        }
    }
}

impl Outcome {
    pub(super) fn failed(&self) -> impl Iterator<Item = &Video> {
        self.videos.iter().filter(|video| video.failure.is_some())
    }

    fn prices(&self, failed: bool) -> i64 {
        self.videos.iter().filter(|video| video.failure.is_some() == failed).map(|video| video.price_credits).sum()
    }

    /// Whether the webhook that arrived speaks of this batch and its end.
    pub(super) fn webhook_verified(&self) -> bool {
        let Some(event) = &self.event else { return false };
        event["type"] == format!("batch.{}", self.batch.status) && event["data"]["batch_id"] == self.accepted.batch_id
    }

    /// Everything that is not as it should be; empty when the demo shows what it is meant to show.
    pub(super) fn broken_promises(&self) -> Vec<String> {
        let (money, counts) = (&self.batch.credits, &self.batch.counts);
        let failed_for = |kind: &str| self.failed().any(|v| v.failure.as_ref().is_some_and(|f| f.kind == kind));
        let delivered = self.videos.iter().filter(|video| video.output.is_some()).count();
        let checks = [
            (self.batch.status == BatchStatus::Partial, format!("the batch ended {}, not partial", self.batch.status)),
            (counts.succeeded + counts.failed == counts.total, "the counts do not add up".to_owned()),
            (delivered == counts.succeeded, format!("{} succeeded but {delivered} have a file", counts.succeeded)),
            (failed_for("moderation"), "no video failed for moderation".to_owned()),
            (self.failed().any(|video| video.attempts > 1), "no video failed after retries".to_owned()),
            (self.videos.iter().any(|v| v.failure.is_none() && v.attempts > 1), "no retry succeeded".to_owned()),
            (money.held == 0, format!("{} credits are still held", money.held)),
            (money.charged == self.prices(false), format!("charged {}, not the successes' price", money.charged)),
            (money.refunded == self.prices(true), format!("refunded {}, not the failures' price", money.refunded)),
            (
                self.wallet_before.available - self.wallet_after.available == money.charged
                    && self.wallet_after.held == 0,
                "the wallet lost something else than the charge".to_owned(),
            ),
            (self.reconciled.is_clean(), "the books do not agree: run `freezeframe reconcile`".to_owned()),
            (
                self.provider.finished == counts.succeeded,
                format!("the provider made {} videos, {} were delivered", self.provider.finished, counts.succeeded),
            ),
            (self.webhook_verified(), "no webhook about this batch with a valid signature arrived".to_owned()),
        ];
        let broken = checks.into_iter().filter(|(kept, _)| !kept).map(|(_, what)| what);
        broken.chain(self.file_fault.iter().map(|fault| format!("a delivered file: {fault}"))).collect()
    }

    pub(super) fn summary(&self) -> Summary<'_> {
        let (money, counts) = (&self.batch.credits, &self.batch.counts);
        Summary {
            batch_id: &self.accepted.batch_id,
            status: self.batch.status,
            total: counts.total,
            succeeded: counts.succeeded,
            failed: counts.failed,
            frozen_credits: money.frozen,
            charged_credits: money.charged,
            refunded_credits: money.refunded,
            held_credits: money.held,
            ledger_sum: self.reconciled.books.sum,
            webhook_verified: self.webhook_verified(),
            seconds: (self.seconds * 10.0).round() / 10.0,
        }
    }
}

/// The outcome for programs.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    batch_id: &'a str,
    status: BatchStatus,
    total: usize,
    succeeded: usize,
    failed: usize,
    frozen_credits: i64,
    charged_credits: i64,
    refunded_credits: i64,
    held_credits: i64,
    ledger_sum: i64,
    webhook_verified: bool,
    /// From the order to the verified webhook.
    seconds: f64,
}
