//! A provider in this process that answers at once, so that what is measured is the engine and not a network.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::domain::{AttemptId, FailureClass};
use crate::providers::{
    Billed, BilledWhen, Billing, ByteStream, CancelOutcome, Capabilities, FetchError, FindOutcome, GenerationRequest,
    Handle, Output, Place, PollOutcome, Provider, ReadError, SubmitOutcome,
};

/// Prompts that contain this are refused, so that refunds are part of the measured work.
pub(super) const REFUSED: &str = "(refused)";

pub(super) struct InstantProvider {
    name: String,
    clip: Bytes,
}

impl InstantProvider {
    pub(super) fn new(name: &str) -> InstantProvider {
        InstantProvider { name: name.to_owned(), clip: smallest_clip() }
    }
}

/// The smallest file that passes as an MP4: the three boxes that must be there.
fn smallest_clip() -> Bytes {
    let mut clip = Vec::new();
    for (kind, body_bytes) in [(b"ftyp", 8u32), (b"moov", 8), (b"mdat", 512)] {
        clip.extend((body_bytes + 8).to_be_bytes());
        clip.extend(kind);
        clip.resize(clip.len() + body_bytes as usize, 0);
    }
    Bytes::from(clip)
}

#[async_trait]
impl Provider for InstantProvider {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            find: true,
            marks_orders: false,
            idempotency_key: false,
            cancel: false,
            thumbnail: false,
            reference_image: true,
            billing: Billing {
                when: BilledWhen::OnSuccess,
                moderated: Billed::No,
                failed: Billed::No,
                cancelled: Billed::No,
            },
        }
    }

    fn poll_interval(&self) -> Duration {
        Duration::from_millis(100)
    }

    async fn submit(&self, request: &GenerationRequest<'_>, attempt: AttemptId) -> SubmitOutcome {
        if request.prompt.contains(REFUSED) {
            let message = "refused by the benchmark's provider".to_owned();
            return SubmitOutcome::Rejected { class: FailureClass::Moderation, message, retry_after: None };
        }
        SubmitOutcome::Accepted { handle: Handle(attempt.bare()) }
    }

    async fn poll(&self, handle: &Handle) -> Result<PollOutcome, ReadError> {
        Ok(PollOutcome::Succeeded { output: Output { handle: handle.clone(), place: Place::Handle, expires_at: None } })
    }

    async fn find(
        &self,
        _request: &GenerationRequest<'_>,
        _attempt: AttemptId,
        _window: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<FindOutcome, ReadError> {
        Ok(FindOutcome::Candidates(vec![]))
    }

    async fn cancel(&self, _handle: &Handle) -> CancelOutcome {
        CancelOutcome::Unsupported
    }

    async fn fetch(&self, _output: &Output) -> Result<ByteStream, FetchError> {
        Ok(ByteStream::whole(self.clip.clone()))
    }
}
