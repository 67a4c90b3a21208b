//! Store: copy the finished file into our object store, hash it, check that it is a video. Only then is it a success.

use freezeframe_workflows::video::VideoEnd;

use super::{Attempt, LeaseLost};
use crate::domain::FailureClass;
use crate::providers::{FetchError, ReadError};
use crate::steps::record::Output;
use crate::storage::{ObjectKey, StoreError};

impl Attempt<'_> {
    pub(super) async fn store(&mut self) -> Result<VideoEnd, LeaseLost> {
        let (Some(provider), Some(output)) = (self.provider.clone(), self.ready.clone()) else {
            return Ok(VideoEnd::StoreFailed(FailureClass::Expired));
        };
        let copied = tokio::time::timeout_at(self.deadline, async {
            let stream = provider.fetch(&output).await.map_err(|error| fetch_failure(&error))?;
            let key =
                ObjectKey::video(self.video.tenant, self.video.batch, self.video.lease.video, self.video.attempt.id);
            let stored =
                self.studio.storage.put_video(&key, stream, None).await.map_err(|error| store_failure(&error))?;
            Ok((key, stored))
        });
        match copied.await {
            Ok(Ok((key, stored))) => {
                self.stored = Some(Output { key: key.to_string(), bytes: stored.bytes, sha256: stored.sha256 });
                Ok(VideoEnd::Stored)
            }
            Ok(Err((class, message))) => {
                tracing::warn!(video = %self.video.lease.video, provider = %self.video.attempt.provider, failure = class.name(), %message, "a finished video could not be stored");
                self.message = Some(message);
                Ok(VideoEnd::StoreFailed(class))
            }
            Err(_) => Ok(VideoEnd::DeadlinePassed),
        }
    }
}

/// (what it means, in words for the customer)
fn fetch_failure(error: &FetchError) -> (FailureClass, String) {
    let class = match error {
        FetchError::Gone { .. } => FailureClass::Expired,
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
