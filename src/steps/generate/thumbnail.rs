//! The small picture of a video that is stored: fetched where the provider makes one, kept beside the video.
//!
//! Always holds: nobody pays for a picture, so whatever becomes of it changes nothing about its video, and the video waits
//! for it for [`WITHIN`] at most. What is kept is a whole picture, whatever the provider calls it. One that is in the store
//! while the video's row does not say so (the time was over in the very moment) is deleted with the video all the same.
//! Refuses: to try again.

use std::time::Duration;

use super::Attempt;
use crate::metrics;
use crate::providers::{self, FetchError, Provider};
use crate::storage::{ImageError, MAX_IMAGE_BYTES, ObjectKey, StoredImage};

/// From the request to the stored picture. One is fetched and stored in a tenth of it.
const WITHIN: Duration = Duration::from_secs(3);

impl Attempt<'_> {
    /// The picture of the video that was stored under `key`; `None` when there is none to be had.
    pub(super) async fn thumbnail(
        &self,
        provider: &dyn Provider,
        output: &providers::Output,
        key: &ObjectKey,
    ) -> Option<StoredImage> {
        let storage = &self.studio.storage;
        if !storage.keeps_thumbnails() || !provider.capabilities().thumbnail {
            return None;
        }
        let kept = tokio::time::timeout(WITHIN, async {
            let Some(stream) = provider.fetch_thumbnail(output).await.map_err(ImageError::Source)? else {
                return Ok(None);
            };
            if stream.length().is_some_and(|bytes| bytes > MAX_IMAGE_BYTES as u64) {
                return Err(ImageError::TooLarge);
            }
            storage.put_image(&key.its_thumbnail(), stream).await.map(Some)
        });
        let kept = kept.await;
        let (result, kept) = match &kept {
            Ok(Ok(Some(kept))) => ("kept", Some(*kept)),
            Ok(Ok(None)) => ("none", None),
            Ok(Err(error)) => (self.missed(error), None),
            Err(_) => ("late", None),
        };
        metrics::thumbnail(result);
        kept
    }

    /// The metric's word for it.
    fn missed(&self, error: &ImageError<FetchError>) -> &'static str {
        let (video, provider) = (self.video.lease.video, &self.video.attempt.provider);
        match error {
            ImageError::Store { .. } => {
                tracing::warn!(%video, %error, "the picture of a video was not stored; the video has none");
                "not_stored"
            }
            ImageError::Source(_) | ImageError::TooLarge | ImageError::NotAnImage => {
                tracing::debug!(%video, %provider, %error, "the provider's picture of a video is of no use; the video has none");
                "of_no_use"
            }
        }
    }
}
