//! Look up: was a submission accepted whose answer was lost? Asked until the settle window is over; never resubmitted
//! blindly, and never a job adopted that another attempt owns. A job that a callback named for this very attempt comes first;
//! that there was no callback says nothing.
//!
//! Where the account honours idempotency keys, the very same order is repeated under the attempt's key: its answer is the
//! job, whether the first request arrived or not. Any other answer proves nothing about the first request, and an earlier
//! repeat may arrive late, so there nothing ever counts as not bought: the attempt is asked about until its deadline.
//!
//! Where jobs can only be told apart by what is alike, none is adopted whose image may be another order's: equal prompts with
//! different images are the rule, and no list tells of images. A job that is alone, with no other order like it whose own
//! job is still to be found, is this one's.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use freezeframe_workflows::video::{VideoEnd, VideoStep};
use tokio::time::Instant;

use super::{Attempt, DEADLY, LeaseLost};
use crate::domain::FailureClass;
use crate::engine::recorder::NotRecorded;
use crate::providers::{Candidate, FindOutcome, Handle, Provider, ReadError, SubmitOutcome};
use crate::steps::record::{Reply, Transition, handles_of_others, rivals};

/// How far a provider's clock may differ from the database's.
pub(in crate::steps) const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(120);
/// Providers keep keys for a day or longer; well before that an order is not repeated any more.
const KEY_LIVES: Duration = Duration::from_secs(12 * 3600);
/// The pause between repeats doubles so often.
const MOST_DOUBLINGS: u32 = 5;

impl Attempt<'_> {
    pub(super) async fn look_up(&mut self) -> Result<VideoEnd, LeaseLost> {
        // taken before the look: an answer to an older question proves nothing about the time after it
        let is_old = Instant::now() >= self.settled_at;
        let Some(provider) = self.provider.clone() else { return Ok(VideoEnd::CannotLookUp) };
        self.listen_for_name();
        if let Some(end) = self.adopt_called(&provider).await? {
            return Ok(end);
        }
        if let Some(end) = self.repeat_under_key(&provider).await? {
            return Ok(end);
        }
        let settled = is_old && !provider.capabilities().idempotency_key;
        let Some(request) = self.request() else { return Ok(VideoEnd::CannotLookUp) };
        let window = (self.video.attempt.sent_at - CLOCK_SKEW, Utc::now() + CLOCK_SKEW);
        let candidates = match provider.find(&request, self.video.attempt.id, window).await {
            Ok(FindOutcome::Candidates(candidates)) => candidates,
            Ok(FindOutcome::NotYet) => return Ok(VideoEnd::NotFoundYet),
            Ok(FindOutcome::Unsupported) => {
                // an answer too, and asking again brings no other
                self.asked = Some(VideoStep::LookUp);
                return Ok(VideoEnd::CannotLookUp);
            }
            Err(error) => {
                tracing::warn!(video = %self.video.lease.video, provider = %self.video.attempt.provider, %error, "looking a submission up failed; asking again");
                self.rest = self.could_not_ask(&error).await?;
                return Ok(VideoEnd::NotFoundYet);
            }
        };
        self.asked = Some(VideoStep::LookUp);
        let marked = provider.capabilities().marks_orders;
        Ok(end_of_look(self.adopt(candidates, marked).await?, settled))
    }

    /// Orders the same again under the attempt's own key, where that buys nothing new. `None` when the answer is no job, or
    /// when it cannot be asked so: then nothing follows from that.
    async fn repeat_under_key(&mut self, provider: &Arc<dyn Provider>) -> Result<Option<VideoEnd>, LeaseLost> {
        let age = self.video.attempt.age + self.claimed_at.age();
        let honoured = provider.capabilities().idempotency_key && age < KEY_LIVES;
        if !honoured || self.video.deaths >= DEADLY || !self.has_image_again().await {
            return Ok(None);
        }
        // whoever has lost the video orders nothing
        let cause = "no answer; the same order is repeated under its key".to_owned();
        self.record_fenced(Transition::AnswerLost { lease: self.video.lease.clone(), cause }).await?;
        let Some(request) = self.request() else { return Ok(None) };
        let outcome = provider.submit(&request, self.video.attempt.id).await;
        self.image = None;
        let rest = self.studio.timing.lookup_pause * 2u32.pow(self.repeats.min(MOST_DOUBLINGS));
        self.repeats += 1;
        match outcome {
            SubmitOutcome::Accepted { handle } => {
                let found = Candidate { handle, created_at: self.video.attempt.sent_at };
                Ok(Some(end_of_look(self.adopt(vec![found], true).await?, false)))
            }
            SubmitOutcome::Rejected { class, message, retry_after } => {
                tracing::warn!(video = %self.video.lease.video, attempt = %self.video.attempt.id, class = class.name(), %message, "a repeated order was refused; asking again");
                let asked = match class {
                    FailureClass::RateLimited | FailureClass::Capacity => {
                        self.could_not_ask(&ReadError::RateLimited { retry_after }).await?
                    }
                    _ => Duration::ZERO,
                };
                self.rest = rest.max(asked);
                Ok(None)
            }
            SubmitOutcome::Unknown { cause } => {
                tracing::warn!(video = %self.video.lease.video, attempt = %self.video.attempt.id, %cause, "a repeated order lost its answer too; asking again");
                self.rest = rest;
                Ok(None)
            }
        }
    }

    /// Gets the image again that the order had; an order without one has what it needs.
    async fn has_image_again(&mut self) -> bool {
        let Some(source) = self.video.reference_image.clone() else { return true };
        let got = self.studio.references.get(self.video.tenant, &source).await;
        match got.and_then(|image| self.fits(image.facts()).map(|()| image)) {
            Ok(image) => {
                self.image = Some(image);
                true
            }
            Err(_) => false,
        }
    }

    /// Takes the first job that no other attempt owns. The database has the last word: a handle belongs to one attempt.
    pub(super) async fn adopt(&mut self, candidates: Vec<Candidate>, marked: bool) -> Result<Adopted, LeaseLost> {
        let handles: Vec<String> = candidates.iter().map(|c| c.handle.0.clone()).collect();
        let others = handles_of_others(
            &self.studio.db,
            (self.video.lease.video, self.video.lease.attempt),
            &self.video.attempt.provider,
            &handles,
        );
        let owned = match others.await {
            Ok(owned) => owned,
            Err(error) => return Ok(self.could_not_tell(&error)),
        };
        let mut free: Vec<String> = handles.into_iter().filter(|handle| !owned.contains(handle)).collect();
        if !free.is_empty() && !marked {
            match self.image_is_doubtful(free.len()).await {
                Ok(false) => {}
                Ok(true) => return Ok(Adopted::Doubtful),
                Err(error) => return Ok(self.could_not_tell(&error)),
            }
        }
        // equal prompts have equal candidates: not everybody begins with the same
        let start = self.video.attempt.id.ulid().random() as usize % free.len().max(1);
        free.rotate_left(start);
        for handle in free {
            let accepted = Transition::Accepted { lease: self.video.lease.clone(), handle: handle.clone() };
            match self.studio.recorder.record(accepted).await {
                Ok(Reply::Written) => {
                    tracing::info!(video = %self.video.lease.video, attempt = %self.video.attempt.id, "found the job of a submission whose answer was lost");
                    self.handle = Some(Handle(handle));
                    self.listen_for_job();
                    return Ok(Adopted::Yes);
                }
                // another attempt was quicker to take it
                Ok(Reply::HandleTaken) | Err(NotRecorded::Refused(_)) => {}
                Ok(_) | Err(NotRecorded::Stopped) => return Err(LeaseLost),
            }
        }
        Ok(Adopted::No)
    }

    /// Whether a job that looks like ours may have been made from another image; `free` are those that nobody owns.
    async fn image_is_doubtful(&self, free: usize) -> Result<bool, sqlx::Error> {
        let ours = self.video.reference_image.is_some();
        if ours && free > 1 {
            return Ok(true);
        }
        let attempt = &self.video.attempt;
        // from an image of its own, any rival is one too many; without one, those that have one
        rivals(&self.studio.db, &self.video.lease, (&attempt.provider, &self.video.prompt), !ours).await
    }

    fn could_not_tell(&self, error: &sqlx::Error) -> Adopted {
        tracing::warn!(video = %self.video.lease.video, attempt = %self.video.attempt.id, %error, "the jobs found cannot be told from those of others now; looking again");
        Adopted::CouldNotTell
    }
}

/// What a look came to; `settled` when a job that is not there by now was not bought.
fn end_of_look(adopted: Adopted, settled: bool) -> VideoEnd {
    match adopted {
        Adopted::Yes => VideoEnd::Found,
        Adopted::No if settled => VideoEnd::NotBought,
        Adopted::Doubtful if settled => VideoEnd::CannotLookUp,
        Adopted::No | Adopted::Doubtful | Adopted::CouldNotTell => VideoEnd::NotFoundYet,
    }
}

/// What became of the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Adopted {
    Yes,
    No,
    /// One of them may be ours, or another order's with another image.
    Doubtful,
    /// Nothing was learned about them.
    CouldNotTell,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_look_after_the_settle_window_says_that_nothing_was_bought() {
        for (adopted, late) in [
            (Adopted::Yes, VideoEnd::Found),
            (Adopted::No, VideoEnd::NotBought),
            (Adopted::Doubtful, VideoEnd::CannotLookUp),
            (Adopted::CouldNotTell, VideoEnd::NotFoundYet),
        ] {
            assert_eq!(end_of_look(adopted, true), late, "{adopted:?}");
            let early = if adopted == Adopted::Yes { VideoEnd::Found } else { VideoEnd::NotFoundYet };
            assert_eq!(end_of_look(adopted, false), early, "{adopted:?}");
        }
    }
}
