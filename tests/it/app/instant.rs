//! A provider inside the test that answers at once, for tests of the engine alone.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use freezeframe::domain::AttemptId;
use freezeframe::providers::{
    Billed, BilledWhen, Billing, ByteStream, CancelOutcome, Capabilities, FetchError, FindOutcome, GenerationRequest,
    Handle, Output, Place, PollOutcome, Provider, ReadError, SubmitOutcome,
};

struct Instant {
    account: String,
    clip: Bytes,
}

/// An account of that name; its clip is the least that passes as an MP4.
pub fn instant_provider(account: &str) -> Arc<dyn Provider> {
    let mut clip = Vec::new();
    for (kind, body_bytes) in [(b"ftyp", 8u32), (b"moov", 8), (b"mdat", 64)] {
        clip.extend((body_bytes + 8).to_be_bytes());
        clip.extend(kind);
        clip.resize(clip.len() + body_bytes as usize, 0);
    }
    Arc::new(Instant { account: account.to_owned(), clip: clip.into() })
}

#[async_trait]
impl Provider for Instant {
    fn name(&self) -> &str {
        &self.account
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
        Duration::from_millis(50)
    }

    async fn submit(&self, _request: &GenerationRequest<'_>, attempt: AttemptId) -> SubmitOutcome {
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
