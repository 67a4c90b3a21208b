//! Submit, poll, and drop what nobody waits for.

use freezeframe_workflows::video::{VideoEnd, VideoStep};
use tokio::time::Instant;

use super::{Attempt, LeaseLost, account};
use crate::domain::{FailureClass, Size};
use crate::providers::{CancelOutcome, GenerationRequest, Handle, PollOutcome, SubmitOutcome, without_prompt};
use crate::steps::record::{Reply, Transition};
use crate::steps::reference::Lent;

/// A provider that would not stop a job is asked so often in all: an answer may be lost, and a job may begin to be one that
/// can be stopped.
const STOPS_ASKED_MOST: u32 = 3;

/// A wish to have a job stopped.
#[derive(Debug, Default)]
pub(super) struct Stop {
    /// How often the provider was asked.
    pub(super) asked: u32,
    /// It said that it would.
    promised: bool,
}

impl Attempt<'_> {
    /// The request, always with every option named: a provider's defaults cost money. `None` when the stored size is no
    /// size, which admission does not let through.
    pub(super) fn request(&self) -> Option<GenerationRequest<'_>> {
        Some(GenerationRequest {
            prompt: &self.video.prompt,
            upstream_model: &self.video.attempt.upstream_model,
            seconds: self.video.seconds,
            size: self.video.size.parse::<Size>().ok()?,
            image: self.image.as_ref().and_then(Lent::as_reference),
        })
    }

    /// Sends the request. The attempt is committed as `sent` already.
    pub(super) async fn submit(&mut self) -> Result<VideoEnd, LeaseLost> {
        let Some(provider) = self.provider.clone() else {
            self.message = Some("The provider that served this model is no longer configured.".to_owned());
            return Ok(VideoEnd::Rejected(FailureClass::ModelRetired));
        };
        if self.route_is_over() {
            self.message = Some("The provider that served this model no longer offers it.".to_owned());
            return Ok(VideoEnd::Rejected(FailureClass::ModelRetired));
        }
        let Some(request) = self.request() else {
            return Ok(VideoEnd::Rejected(FailureClass::InvalidInput));
        };
        let outcome = provider.submit(&request, self.video.attempt.id).await;
        // its memory is somebody else's now
        self.image = None;
        match outcome {
            SubmitOutcome::Accepted { handle } => {
                self.remember_handle(handle).await?;
                self.accepted().await?;
                Ok(VideoEnd::Accepted)
            }
            SubmitOutcome::Rejected { class, message, retry_after } => {
                self.message = Some(message);
                self.retry_after = retry_after.filter(|_| !account::cools(class));
                self.refused(class, retry_after).await
            }
            SubmitOutcome::Unknown { cause } => {
                tracing::warn!(video = %self.video.lease.video, attempt = %self.video.attempt.id, %cause,
                    "the answer to a submission was lost; looking it up");
                self.settled_at = Instant::now() + self.studio.timing.lookup_settle;
                self.failed_by_account().await?;
                self.record_fenced(Transition::AnswerLost { lease: self.video.lease.clone(), cause }).await?;
                Ok(VideoEnd::AnswerLost)
            }
        }
    }

    /// Every route of the model has had its last day: the scheduler sends such a video here only to be ended.
    fn route_is_over(&self) -> bool {
        let attempt = &self.video.attempt;
        self.studio.catalogue.get().model(&self.video.model).is_some_and(|model| {
            model.route_over((&attempt.provider, &attempt.upstream_model), attempt.sent_at.date_naive())
        })
    }

    /// Has the handle written without waiting for it: polling may begin, and until the write is committed a crash leaves
    /// what a crash before the answer leaves, an attempt to look up.
    async fn remember_handle(&mut self, handle: Handle) -> Result<(), LeaseLost> {
        let accepted = Transition::Accepted { lease: self.video.lease.clone(), handle: handle.0.clone() };
        self.handle = Some(handle);
        self.listen_for_job();
        self.handle_written = Some(self.studio.recorder.hand_in(accepted).await.map_err(|_| LeaseLost)?);
        Ok(())
    }

    pub(super) async fn record_fenced(&self, transition: Transition) -> Result<(), LeaseLost> {
        match self.studio.recorder.record(transition).await {
            Ok(Reply::Written) => Ok(()),
            Ok(_) => Err(LeaseLost),
            Err(error) => {
                tracing::error!(video = %self.video.lease.video, %error, "a step of a video was not recorded; its job goes back to the queue");
                Err(LeaseLost)
            }
        }
    }

    pub(super) async fn poll(&mut self) -> Result<VideoEnd, LeaseLost> {
        let (Some(provider), Some(handle)) = (self.provider.clone(), self.handle.clone()) else {
            self.message = Some("The provider that took this video is no longer configured.".to_owned());
            return Ok(VideoEnd::Gone);
        };
        let answer = provider.poll(&handle).await;
        if answer.is_ok() {
            self.asked = Some(VideoStep::Poll);
        }
        if !matches!(answer, Ok(PollOutcome::Gone { .. })) {
            self.gone_since = None;
        }
        match answer {
            Ok(PollOutcome::Queued | PollOutcome::Running { .. }) => Ok(VideoEnd::StillRunning),
            Ok(PollOutcome::Succeeded { output }) => {
                self.ready = Some(output);
                Ok(VideoEnd::OutputReady)
            }
            Ok(PollOutcome::Failed { class, .. }) if self.was_stopped(class) => Ok(self.stopped_for_good()),
            Ok(PollOutcome::Failed { class, message, .. }) => {
                self.message = Some(without_prompt(&message, &self.video.prompt));
                Ok(VideoEnd::ProviderFailed(class))
            }
            // a server may show a job later than it took it: one look does not lose a video that was paid for
            Ok(PollOutcome::Gone { message }) => {
                self.message = Some(message);
                let since = *self.gone_since.get_or_insert_with(Instant::now);
                let believed = since.elapsed() >= self.studio.timing.lookup_settle;
                Ok(match believed {
                    true if self.stop.promised => self.stopped_for_good(),
                    true => VideoEnd::Gone,
                    false => VideoEnd::StillRunning,
                })
            }
            // not being able to ask says nothing about the job
            Err(error) => {
                tracing::warn!(video = %self.video.lease.video, provider = %self.video.attempt.provider, %error, "polling failed; asking again");
                self.rest = self.could_not_ask(&error).await?;
                Ok(VideoEnd::StillRunning)
            }
        }
    }

    /// Whether the provider is to be asked to stop the job because its batch is cancelled.
    fn wants_stop(&self) -> bool {
        self.studio.cancelled.has(self.video.batch) && self.may_be_stopped() && self.handle_written.is_none()
    }

    /// Whether the provider can be asked to stop the job, and that could still be of use.
    pub(super) fn may_be_stopped(&self) -> bool {
        let can = self.provider.as_ref().is_some_and(|provider| provider.capabilities().cancel);
        can && !self.stop.promised && self.stop.asked < STOPS_ASKED_MOST
    }

    /// Asks the provider to stop a job that nobody wants any more. What became of it is what polling says afterwards: a film
    /// that was finished by then is stored and charged.
    pub(super) async fn stop_cancelled_job(&mut self) {
        let (true, Some(provider), Some(handle)) = (self.wants_stop(), &self.provider, &self.handle) else { return };
        self.stop.asked += 1;
        let outcome = provider.cancel(handle).await;
        self.stop.promised = outcome == CancelOutcome::Cancelled;
        tracing::info!(video = %self.video.lease.video, provider = %self.video.attempt.provider, ?outcome,
            "asked the provider to stop a job of a cancelled batch");
    }

    /// Whether a job that failed so was stopped because we asked for it, or somebody before us whose answer was lost.
    fn was_stopped(&self, class: FailureClass) -> bool {
        self.stop.promised || (self.stop.asked > 0 && class == FailureClass::ProviderFault)
    }

    /// What follows from it.
    fn stopped_for_good(&mut self) -> VideoEnd {
        self.message = Some("The batch was cancelled, and the provider stopped making the video.".to_owned());
        VideoEnd::Cancelled
    }

    /// A job that nobody waits for any more need not be finished, where the provider can stop it.
    pub(super) async fn drop_abandoned_job(&self) {
        if let (Some(provider), Some(handle)) = (&self.provider, &self.handle)
            && provider.capabilities().cancel
        {
            let cancelled = provider.cancel(handle).await;
            tracing::info!(video = %self.video.lease.video, ?cancelled, "asked the provider to drop an abandoned job");
        }
    }
}
