//! What a submission needs beforehand: the image that the video starts from.
//!
//! The attempt is live and *unsent* while its image is being got: whoever takes it over submits it instead of looking it up,
//! and a stopping process hands it over at once. When the image is there, one fenced write makes the attempt `sent`, and
//! every time that counts from the sending (staleness, deadline, the window of a look-up) counts from that write. So a
//! worker that stalled over an image for however long is refused by the write, or by the look at the clock behind it,
//! before a byte leaves. A video without an image never comes here and pays nothing.

use std::time::{Duration, SystemTime};

use freezeframe_workflows::video::{VideoEnd, VideoStep};
use tokio::time::Instant;

use super::{Attempt, DEADLY, LeaseLost, times};
use crate::domain::{ImageFacts, Size};
use crate::steps::record::Transition;
use crate::steps::reference::Unusable;

/// When a claim was asked for, by two clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimTime {
    pub(super) at: Instant,
    wall: SystemTime,
}

impl ClaimTime {
    pub(super) fn now() -> ClaimTime {
        ClaimTime { at: Instant::now(), wall: SystemTime::now() }
    }

    /// How old it is by the clock that says more.
    pub(super) fn age(&self) -> Duration {
        self.at.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
}

impl Attempt<'_> {
    /// Whether this step waits for an image first.
    pub(super) fn has_to_prepare(&self, step: VideoStep) -> bool {
        step == VideoStep::Submit
            && self.video.reference_image.is_some()
            && self.image.is_none()
            && self.video.deaths < DEADLY
    }

    /// Gets the image. May be dropped at any time: nothing was sent or written.
    ///
    /// # Errors
    /// The end of the attempt, when there is no image to be had.
    pub(super) async fn prepare(&mut self, step: VideoStep) -> Result<(), VideoEnd> {
        let Some(source) = self.video.reference_image.clone().filter(|_| self.has_to_prepare(step)) else {
            return Ok(());
        };
        let got = match self.refuses_images() {
            Some(refusal) => Err(refusal),
            None => self.studio.references.get(self.video.tenant, &source).await,
        };
        match got.and_then(|image| self.fits(image.facts()).map(|()| image)) {
            Ok(image) => {
                self.image = Some(image);
                Ok(())
            }
            Err(Unusable { class, message, retry_after }) => {
                // where it comes from stays out of the log: it may hold a signature
                tracing::info!(video = %self.video.lease.video, class = class.name(), "a reference image could not be had");
                self.message = Some(message);
                self.retry_after = retry_after;
                self.before_account = true;
                Err(VideoEnd::Rejected(class))
            }
        }
    }

    /// The account cannot take one: asked before anybody's server is.
    fn refuses_images(&self) -> Option<Unusable> {
        let takes = self.provider.as_ref().is_none_or(|provider| provider.capabilities().reference_image);
        (!takes).then(|| Unusable::invalid("the provider that makes this model's videos takes none"))
    }

    /// Whether the image has the size that the model wants.
    pub(super) fn fits(&self, facts: Option<ImageFacts>) -> Result<(), Unusable> {
        let wants_size = self
            .studio
            .catalogue
            .get()
            .model(&self.video.model)
            .is_some_and(|model| model.reference_image_matches_size);
        let size = self.video.size.parse::<Size>().ok().filter(|_| wants_size);
        match (facts, size) {
            (Some(facts), Some(size)) if !facts.matches(size) => Err(Unusable::invalid(format_args!(
                "it has {}x{} pixels and the video {size}; this model wants an image of the video's size",
                facts.width, facts.height
            ))),
            _ => Ok(()),
        }
    }

    /// Makes the attempt `sent`. From here on its outcome is the provider's to tell.
    pub(super) async fn begin_to_send(&mut self) -> Result<(), LeaseLost> {
        let asked_at = ClaimTime::now();
        self.record_fenced(Transition::Sending { lease: self.video.lease.clone() }).await?;
        self.claimed_at = asked_at;
        (self.deadline, self.last_look, self.settled_at) =
            times(self.studio, &self.video.model, asked_at.at, Duration::ZERO);
        Ok(())
    }
}
