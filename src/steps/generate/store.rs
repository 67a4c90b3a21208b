//! Store: copy the finished file into our object store, hash it, check that it is a video. Only then is it a success.

use std::time::Duration;

use freezeframe_workflows::video::{VideoEnd, VideoStep};
use tokio::time::Instant;

use super::{Attempt, LeaseLost};
use crate::domain::FailureClass;
use crate::providers::{FetchError, ReadError};
use crate::steps::record::Output;
use crate::storage::{ObjectKey, StoreError};

/// How long a copy may take that is begun after the deadline.
const ONE_TRY: Duration = Duration::from_secs(300);

impl Attempt<'_> {
    pub(super) async fn store(&mut self) -> Result<VideoEnd, LeaseLost> {
        let (Some(provider), Some(output)) = (self.provider.clone(), self.ready.clone()) else {
            return Ok(VideoEnd::StoreFailed(FailureClass::OutputExpired));
        };
        // a file that is ready is worth one whole try, however late it is
        let until = self.deadline.max(Instant::now() + ONE_TRY);
        let copied = tokio::time::timeout_at(until, async {
            let stream = provider.fetch(&output).await.map_err(|error| fetch_failure(&error))?;
            let key =
                ObjectKey::video(self.video.tenant, self.video.batch, self.video.lease.video, self.video.attempt.id);
            let announced = stream.length();
            let stored = self.studio.storage.put_video(&key, stream, announced).await;
            Ok((key, stored.map_err(|error| store_failure(&error))?))
        });
        let copied = copied.await;
        self.asked = Some(VideoStep::Store);
        match copied {
            Ok(Ok((key, stored))) => {
                let (bytes, sha256) = (stored.bytes, stored.sha256);
                // before anything else: a process that stops now has made this video
                self.stored = Some(Output { key: key.to_string(), bytes, sha256, thumbnail: None });
                let thumbnail = self.thumbnail(&*provider, &output, &key).await;
                self.stored.iter_mut().for_each(|stored| stored.thumbnail = thumbnail);
                Ok(VideoEnd::Stored)
            }
            Ok(Err((class, message))) => {
                tracing::warn!(video = %self.video.lease.video, provider = %self.video.attempt.provider, failure = class.name(), %message, "a finished video could not be stored");
                self.message = Some(message);
                self.copy_failed = Some(class);
                Ok(VideoEnd::StoreFailed(class))
            }
            Err(_) => Ok(self.copy_overdue()),
        }
    }

    /// The copy was not made in time. Where the provider's side was what failed last, it delivered nothing: our own store is
    /// not to blame.
    pub(super) fn copy_overdue(&self) -> VideoEnd {
        match self.copy_failed {
            Some(FailureClass::Network) => VideoEnd::StoreFailed(FailureClass::ProviderFault),
            _ => VideoEnd::DeadlinePassed,
        }
    }
}

/// (what it means, in words for the customer)
fn fetch_failure(error: &FetchError) -> (FailureClass, String) {
    let class = match error {
        FetchError::Gone { .. } => FailureClass::OutputExpired,
        FetchError::Read(ReadError::RateLimited { .. } | ReadError::Unavailable { .. }) => FailureClass::Network,
        FetchError::Read(ReadError::Refused { class, .. }) => *class,
    };
    (class, error.to_string())
}

fn store_failure(error: &StoreError<FetchError>) -> (FailureClass, String) {
    match error {
        StoreError::Source(error) => fetch_failure(error),
        StoreError::Length { .. } | StoreError::NotAVideo(_) | StoreError::TooLarge { .. } => {
            (FailureClass::ProviderFault, error.to_string())
        }
        StoreError::Store { .. } => (FailureClass::StorageFault, "Our object store did not take the file.".to_owned()),
    }
}
