//! Pauses, and what ends them early: a callback of the provider, or of a worker that held the video before, or the
//! cancellation of the batch.
//!
//! Always holds: a callback only moves a question forward in time; what it says is asked of the provider. A pause that the
//! provider asked for is kept, callback or not.

use std::sync::Arc;
use std::time::Duration;

use freezeframe_workflows::video::{VideoEnd, VideoStep};
use rand::RngExt;
use tokio::time::Instant;

use super::look_up::Adopted;
use super::{Attempt, LeaseLost};
use crate::callbacks::{self, About, Hint};
use crate::metrics;
use crate::providers::{Candidate, Handle, PollOutcome, Provider};

/// So often the mailbox is asked for the job of a lost submission although nobody here heard a call: one may have come while
/// nobody listened.
const MAILBOX_EVERY: Duration = Duration::from_secs(15);
/// The jobs of a cancelled batch are stopped over so long, and not all at the same moment.
const STOPS_SPREAD: Duration = Duration::from_secs(2);
/// How long a worker that has lost a video tries to say what it knows of it.
const HINT_WITHIN: Duration = Duration::from_secs(5);

impl Attempt<'_> {
    /// Waits before a step is repeated: for the step's own pause, or until the provider calls or the batch is cancelled. Some
    /// variation keeps thousands of videos of one batch from asking at the same moment.
    pub(super) async fn rest_before(&mut self, step: VideoStep) {
        let base = match step {
            VideoStep::Poll => self.provider.as_ref().map_or(Duration::from_secs(10), |p| p.poll_interval()),
            VideoStep::LookUp => self.studio.timing.lookup_pause,
            VideoStep::Submit | VideoStep::Store => self.studio.timing.store_pause,
        };
        // whatever a provider asks for, the attempt ends when its time is over
        let end = if self.asked == Some(step) { self.deadline } else { self.deadline.max(self.last_look) };
        let left = end.saturating_duration_since(Instant::now());
        let wished = std::mem::take(&mut self.rest).min(left);
        let pause = base.mul_f64(rand::rng().random_range(0.9..=1.1)).max(wished).min(left);
        let until = Instant::now() + pause;
        tokio::time::sleep(wished).await;
        let ear = self.ear.as_ref().filter(|_| matches!(step, VideoStep::Poll | VideoStep::LookUp));
        let called = async {
            match ear {
                Some(ear) => ear.called().await,
                None => std::future::pending().await,
            }
        };
        // whoever was asked to stop the job is asked again at the step's own pace
        let heeds = step == VideoStep::Poll && self.stop.asked == 0 && self.may_be_stopped();
        let (cancellations, batch) = (&self.studio.cancelled, self.video.batch);
        let spread = base.min(STOPS_SPREAD).mul_f64(rand::rng().random_range(0.0..=1.0));
        let cancelled = async {
            if !heeds {
                std::future::pending::<()>().await;
            }
            cancellations.until(batch).await;
            tokio::time::sleep(spread).await;
        };
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = called => self.mailbox_asked = None,
            () = cancelled => {}
        }
    }

    /// Whoever looks for a job listens for its name, at accounts without callbacks too: another worker may know it.
    pub(super) fn listen_for_name(&mut self) {
        if self.ear.is_none() {
            let attempt = &self.video.attempt;
            self.ear = Some(self.studio.ears.listen(&attempt.provider, attempt.id));
        }
    }

    /// This worker learned which job the attempt has and may not write it any more: it is left as a hint, which is asked about
    /// before anybody adopts it, by whoever holds the video now or looks at the attempt later.
    pub(super) async fn tell_the_holder(&self) {
        let attempt = &self.video.attempt;
        let job =
            self.provider.as_ref().zip(self.handle.as_ref()).and_then(|(provider, handle)| provider.job_of(handle));
        let Some(job) = job else { return };
        let account = attempt.provider.as_str().into();
        let hint = Hint { account, about: About::Attempt(attempt.id), job: Some(job), ended: false };
        match self.studio.mailbox.note(hint, HINT_WITHIN).await {
            Ok(_) => {
                tracing::info!(video = %self.video.lease.video, attempt = %attempt.id, "the lease was lost; the job is named to whoever holds the video")
            }
            Err(error) => {
                tracing::warn!(video = %self.video.lease.video, attempt = %attempt.id, %error, "the lease was lost, and the job could not be named to whoever holds the video")
            }
        }
    }

    /// Callbacks about the job of the handle are about this attempt.
    pub(super) fn listen_for_job(&mut self) {
        if let (Some(ear), Some(provider), Some(handle)) = (&mut self.ear, &self.provider, &self.handle)
            && let Some(job) = provider.job_of(handle)
        {
            ear.know(job);
        }
    }

    /// Takes the job that a callback named for exactly this attempt, once the provider has shown that it knows it. `None`
    /// when there is none; then nothing follows from that.
    pub(super) async fn adopt_called(&mut self, provider: &Arc<dyn Provider>) -> Result<Option<VideoEnd>, LeaseLost> {
        let asked_lately = self.mailbox_asked.is_some_and(|at| at.elapsed() < MAILBOX_EVERY);
        if asked_lately {
            return Ok(None);
        }
        let attempt = &self.video.attempt;
        let named = match callbacks::named_job(&self.studio.db, &attempt.provider, attempt.id).await {
            Ok(named) => named,
            Err(error) => {
                tracing::warn!(attempt = %attempt.id, %error, "callbacks could not be read; they are asked for again");
                return Ok(Some(VideoEnd::NotFoundYet));
            }
        };
        let Some(handle) = named.and_then(|job| provider.handle_of(&job, &attempt.upstream_model)) else {
            self.mailbox_asked = Some(Instant::now());
            return Ok(None);
        };
        match provider.poll(&handle).await {
            Ok(PollOutcome::Gone { .. }) => {
                tracing::warn!(attempt = %attempt.id, "a callback names a job that the provider does not know");
                self.mailbox_asked = Some(Instant::now());
                Ok(None)
            }
            Ok(_) => self.adopt_named(handle).await,
            // somebody said that there is a job: that it cannot be asked about must not end as "not bought"
            Err(error) => {
                tracing::warn!(attempt = %attempt.id, %error, "the job that a callback names could not be asked about");
                self.rest = self.could_not_ask(&error).await?;
                Ok(Some(VideoEnd::NotFoundYet))
            }
        }
    }

    async fn adopt_named(&mut self, handle: Handle) -> Result<Option<VideoEnd>, LeaseLost> {
        let created_at = self.video.attempt.sent_at;
        // the callback bears the attempt's own mark
        let adopted = self.adopt(vec![Candidate { handle, created_at }], true).await? == Adopted::Yes;
        if adopted {
            metrics::provider_callback(&self.video.attempt.provider, "adopted");
        }
        self.mailbox_asked = Some(Instant::now());
        Ok(adopted.then_some(VideoEnd::Found))
    }
}
