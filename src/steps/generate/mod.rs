//! One video, from the claim of its job to the end of the attempt: submit, poll, store, as the rules of
//! [`workflows::video`](freezeframe_workflows::video) say.
//!
//! The slot lives through all of it; the row says how far it is, so that another process can go on from there: an attempt
//! with a handle is polled on, one that was sent and never answered is looked up, never submitted again blindly.

mod account;
mod act;
mod called;
mod look_up;
mod prepare;
mod store;
mod thumbnail;

use std::sync::Arc;
use std::time::Duration;

use freezeframe_workflows::video::{self, Spent, VideoEnd, VideoNext, VideoStep};
use freezeframe_workflows::{money, retry};
use rand::RngExt;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub use self::account::TakenSince;
use self::prepare::ClaimTime;
use super::Studio;
use super::record::{AttemptEnd, Claim, ClaimedVideo, Close, Output, Reply, Transition, Verdict};
use super::reference::Lent;
use crate::callbacks::Ear;
use crate::domain::{AttemptId, AttemptState, Credits, FailureClass};
use crate::engine::queue::Job;
use crate::engine::recorder::NotRecorded;
use crate::metrics;
use crate::providers::{self, Handle, Provider};
pub(super) use look_up::CLOCK_SKEW;

/// The third worker that dies with a video is the last one.
const DEADLY: u32 = 3;
/// After its deadline an attempt is asked about once more, for as long as this, before it is given up: the time may have
/// passed while nobody could ask. No longer than the attempt itself may take.
const LAST_LOOK: Duration = Duration::from_secs(600);
/// A claim older than this is not sent any more: somebody else may have taken the video for dead. By both clocks: a machine
/// that sleeps stops the one, and the other may be set.
const STALE_CLAIM: Duration = Duration::from_secs(4);
/// How long a stopping worker waits for the answer to a submission. Part of the time that a whole stop may take.
const SUBMISSION_LEFT_AFTER: Duration = Duration::from_secs(10);
/// How long a video rests whose step the database refused or the rules do not know.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);
/// An attempt of a model that is no longer in the catalogue may take this long.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(3600);

/// Somebody else holds the video now, or the recorder is gone: nothing more may be done about it here.
#[derive(Debug)]
struct LeaseLost;

/// An attempt in progress.
struct Attempt<'a> {
    studio: &'a Studio,
    video: ClaimedVideo,
    provider: Option<Arc<dyn Provider>>,
    deadline: Instant,
    /// Until when it is asked about although its deadline has passed.
    last_look: Instant,
    /// When it was certain for the last time that nobody else holds the video.
    claimed_at: ClaimTime,
    /// From when on its turn is counted.
    turn_asked_at: ClaimTime,
    /// From when on a submission that is not listed counts as not bought.
    settled_at: Instant,
    handle: Option<Handle>,
    /// What the video starts from, from before the submission until its answer.
    image: Option<Lent>,
    /// The attempt ended over something of the customer's, before the account was asked.
    before_account: bool,
    ready: Option<providers::Output>,
    stored: Option<Output>,
    /// Why the last copy was not made.
    copy_failed: Option<FailureClass>,
    /// What went wrong last, in words for the customer.
    message: Option<String>,
    /// The provider's wish for a pause, where it is this video's to wait for.
    retry_after: Option<Duration>,
    /// The provider's wish for a pause before the next question about the job.
    rest: Duration,
    /// Whether the step that is waited for past the deadline has had an answer.
    asked: Option<VideoStep>,
    /// Since when the provider says that it does not know the job.
    gone_since: Option<Instant>,
    /// Hears what the provider calls about the attempt; `None` where it does not call.
    ear: Option<Ear>,
    /// What became of the wish to stop the job because its batch is cancelled.
    stop: act::Stop,
    /// How often the order was repeated under its key by this worker.
    repeats: u32,
    /// When the mailbox was last asked for the job, and whether there was no call since.
    mailbox_asked: Option<Instant>,
    /// Tells whether the handle was written.
    handle_written: Option<oneshot::Receiver<Result<Reply, NotRecorded>>>,
}

/// Works on the video that the job names, until its attempt ends or this process stops.
pub async fn generate(studio: Arc<Studio>, job: Job) {
    let claim = Claim { ticket: job.ticket(), worker: job.worker().into(), claim_id: AttemptId::generate() };
    // taken before the claim: what passes from here on may have let the lease run out
    let claimed_at = ClaimTime::now();
    match studio.claims.record(Transition::Claim(claim)).await {
        Ok(Reply::Claimed(video)) => Attempt::new(&studio, *video, claimed_at).run(job).await,
        Ok(Reply::NothingToClaim | Reply::GivenBack) => job.settled(),
        // somebody else holds the job: it is not ours to give back, and giving it back is fenced anyway
        Ok(Reply::Written | Reply::HandleTaken | Reply::LeaseLost) => metrics::lease_lost(),
        Err(error) => {
            tracing::error!(video = %job.id(), %error, "a video could not be claimed; its job goes back to the queue");
            job.set_aside(REFUSED_PAUSE);
        }
    }
}

impl<'a> Attempt<'a> {
    fn new(studio: &'a Studio, video: ClaimedVideo, claimed_at: ClaimTime) -> Attempt<'a> {
        let (deadline, last_look, settled_at) = times(studio, &video.model, claimed_at.at, video.attempt.age);
        // taken once: the account that gave a handle is asked about it, whatever the settings say by then
        let provider = studio.providers.get().get(&video.attempt.provider).cloned();
        let calls = provider.as_ref().is_some_and(|provider| provider.has_callbacks());
        let mut attempt = Attempt {
            studio,
            provider,
            ear: calls.then(|| studio.ears.listen(&video.attempt.provider, video.attempt.id)),
            stop: act::Stop::default(),
            repeats: 0,
            mailbox_asked: None,
            deadline,
            last_look,
            claimed_at,
            turn_asked_at: claimed_at,
            settled_at,
            handle: video.attempt.handle.clone().map(Handle),
            image: None,
            before_account: false,
            ready: None,
            stored: None,
            copy_failed: None,
            message: None,
            retry_after: None,
            rest: Duration::ZERO,
            asked: None,
            gone_since: None,
            handle_written: None,
            video,
        };
        attempt.listen_for_job();
        attempt
    }

    fn first_step(&self) -> VideoStep {
        match (self.video.attempt.fresh, &self.handle) {
            (true, _) => VideoStep::Submit,
            (false, Some(_)) => VideoStep::Poll,
            (false, None) => VideoStep::LookUp,
        }
    }

    async fn run(mut self, job: Job) {
        let mut step = self.first_step();
        loop {
            match self.handle_was_refused(step).await {
                Ok(false) => {}
                Ok(true) => step = VideoStep::LookUp,
                Err(LeaseLost) => return metrics::lease_lost(),
            }
            let unprepared = tokio::select! {
                // nothing was sent, and the attempt says so: whoever goes on submits it
                () = job.stopping(), if self.has_to_prepare(step) => return self.hand_over(job).await,
                prepared = self.prepare(step) => prepared.err(),
            };
            let ended = match unprepared {
                Some(end) => Ok(end),
                None => tokio::select! {
                    () = to_be_left(&job, step) => return self.stop(job).await,
                    ended = self.act(step) => ended,
                },
            };
            let Ok(end) = ended else { return metrics::lease_lost() };
            let spent = Spent {
                attempts: self.video.attempts_spent,
                waits: self.video.waits,
                jitter_permille: rand::rng().random_range(0..=1000),
            };
            match video::next(step, end, spent) {
                Ok(VideoNext::Step(next)) => step = next,
                Ok(VideoNext::Again(next)) => {
                    tokio::select! {
                        () = job.stopping() => return self.hand_over(job).await,
                        () = self.rest_before(next) => step = next,
                    }
                }
                Ok(over @ (VideoNext::Succeed | VideoNext::Fail(_) | VideoNext::RetryLater { .. })) => {
                    return self.close(job, end, over).await;
                }
                Err(impossible) => {
                    tracing::error!(video = %self.video.lease.video, %impossible, "the video stays as it is and its job goes back");
                    return job.set_aside(REFUSED_PAUSE);
                }
            }
        }
    }

    async fn act(&mut self, step: VideoStep) -> Result<VideoEnd, LeaseLost> {
        if step == VideoStep::Submit && self.turn_is_over() {
            self.message = Some("The video was not ready to begin before its turn was over.".to_owned());
            self.before_account = true;
            return Ok(VideoEnd::Rejected(FailureClass::RateLimited));
        }
        if step == VideoStep::Submit && self.image.is_some() {
            self.begin_to_send().await?;
        }
        let now = Instant::now();
        let overdue = now >= self.deadline && (self.asked == Some(step) || now >= self.last_look);
        let poisoned = self.video.deaths >= DEADLY;
        match step {
            VideoStep::Submit if poisoned => Ok(VideoEnd::Rejected(FailureClass::Poison)),
            VideoStep::Submit if self.claimed_at.age() > STALE_CLAIM => {
                self.message = Some("The worker stalled before the request was sent.".to_owned());
                Ok(VideoEnd::Rejected(FailureClass::Network))
            }
            VideoStep::Submit => self.submit().await,
            VideoStep::LookUp | VideoStep::Poll if overdue => Ok(VideoEnd::DeadlinePassed),
            VideoStep::Store if overdue => Ok(self.copy_overdue()),
            VideoStep::LookUp if poisoned => Ok(VideoEnd::Poisoned),
            VideoStep::LookUp => self.look_up().await,
            VideoStep::Poll if poisoned => Ok(VideoEnd::ProviderFailed(FailureClass::Poison)),
            VideoStep::Poll => {
                self.stop_cancelled_job().await;
                self.poll().await
            }
            VideoStep::Store => self.store().await,
        }
    }

    /// Nothing is sent after the turn that the scheduler gave: in whichever minute that is, it was not counted.
    fn turn_is_over(&self) -> bool {
        self.video.turn_left.is_some_and(|left| self.turn_asked_at.age() > left)
    }

    /// The handle went to another attempt, or was not taken by the database: whose job it is has to be looked up.
    async fn handle_was_refused(&mut self, step: VideoStep) -> Result<bool, LeaseLost> {
        let Some(written) = &mut self.handle_written else { return Ok(false) };
        let told = match step {
            VideoStep::Submit | VideoStep::LookUp => return Ok(false),
            // nobody's job is stopped either
            VideoStep::Poll if self.studio.cancelled.has(self.video.batch) => written.await.ok(),
            VideoStep::Poll => match written.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return Ok(false),
                told => told.ok(),
            },
            // nobody's film is fetched before it is known whose it is
            VideoStep::Store => written.await.ok(),
        };
        self.handle_written = None;
        if matches!(told, Some(Ok(Reply::LeaseLost))) {
            self.tell_the_holder().await;
            return Err(LeaseLost);
        }
        let refused = matches!(told, Some(Ok(Reply::HandleTaken) | Err(NotRecorded::Refused(_))));
        if refused {
            self.handle = None;
            if let Some(ear) = &mut self.ear {
                ear.forget_job();
            }
            // what was said of another's job is not said of this one
            self.message = None;
        }
        Ok(refused)
    }

    /// This process stops in the middle of a step. What is stored by then is a success, whatever else was under way.
    async fn stop(self, job: Job) {
        match self.stored {
            Some(_) => self.close(job, VideoEnd::Stored, VideoNext::Succeed).await,
            None => self.hand_over(job).await,
        }
    }

    /// This process stops: another one goes on, and no death is counted.
    async fn hand_over(self, job: Job) {
        let lease = self.video.lease.clone();
        if let Err(error) = self.studio.recorder.record(Transition::HandOver { lease }).await {
            tracing::warn!(video = %self.video.lease.video, %error, "not handed over; the video resumes when its job is rescued");
        }
        drop(job);
    }

    /// Records the end of the attempt and what follows from it.
    async fn close(self, job: Job, end: VideoEnd, next: VideoNext) {
        let (failure, verdict) = match (next, self.stored.clone()) {
            (VideoNext::Succeed, Some(output)) => (None, Verdict::Succeed(output)),
            (VideoNext::Fail(class), _) => (Some(class), Verdict::Fail),
            (VideoNext::RetryLater { class, delay_ms, spends_attempt }, _) => {
                let asked_ms = self.retry_after.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                (Some(class), Verdict::RetryLater { delay_ms: delay_ms.max(asked_ms), spends_attempt })
            }
            (VideoNext::Succeed, None) | (VideoNext::Step(_) | VideoNext::Again(_), _) => {
                tracing::error!(video = %self.video.lease.video, ?next, "an attempt was to be closed that is not over; its job goes back");
                return job.set_aside(REFUSED_PAUSE);
            }
        };
        let state = attempt_state(end, failure);
        let retried = matches!(verdict, Verdict::RetryLater { .. });
        let explained = |class| self.message.clone().unwrap_or_else(|| retry::explain(class).to_owned());
        let handle = self.handle.as_ref().map(|handle| handle.0.clone());
        let close = Close {
            lease: self.video.lease.clone(),
            batch: self.video.batch,
            attempt: AttemptEnd {
                state,
                handle,
                failure,
                message: failure.map(explained),
                blames_account: !self.before_account && failure.is_some_and(retry::accounts_fault),
                possible_cost: self.possible_cost(),
                may_succeed: may_succeed(end, state, self.handle.is_some()),
            },
            verdict,
            credits: money::of_video(next),
        };
        self.probe_is_over().await;
        let known = Instant::now();
        match self.studio.recorder.record(Transition::Close(Box::new(close))).await {
            Ok(Reply::Written) => {
                job.settled();
                metrics::attempt_ended(&self.video.attempt.provider, state.word());
                if state == AttemptState::Unresolved {
                    metrics::credits_moved("loss", self.possible_cost().get());
                }
                match failure {
                    None => metrics::video_succeeded(),
                    Some(class) if !retried => {
                        metrics::video_failed(class, self.video.price.get());
                        metrics::refunded(known.elapsed());
                    }
                    Some(_) => {}
                }
                if failure.is_some() && end != VideoEnd::Cancelled {
                    self.drop_abandoned_job().await;
                }
            }
            Ok(_) => metrics::lease_lost(),
            Err(error) => {
                tracing::error!(video = %self.video.lease.video, %error, "the end of a video was not recorded; its job goes back to the queue");
                job.set_aside(REFUSED_PAUSE);
            }
        }
    }

    fn possible_cost(&self) -> Credits {
        let ClaimedVideo { model, seconds, size, price, attempt, .. } = &self.video;
        self.studio.cost(model, (&attempt.provider, &attempt.upstream_model), (*seconds, size), *price)
    }
}

/// Resolves when the process stops and the step may be left. A submission under way is waited for, because its answer says
/// whether something was bought, but not for as long as a slow provider likes: without an answer it is looked up by whoever
/// goes on.
async fn to_be_left(job: &Job, step: VideoStep) {
    job.stopping().await;
    if step == VideoStep::Submit {
        tokio::time::sleep(SUBMISSION_LEFT_AFTER).await;
    }
}

/// The deadline of an attempt that was sent `age` before `now`, until when it is asked about all the same, and from when on it
/// counts as not bought if it is not listed: another worker's request may be accepted for as long as it may stay open.
fn times(studio: &Studio, model: &str, now: Instant, age: Duration) -> (Instant, Instant, Instant) {
    let deadline = studio.catalogue.get().model(model).map_or(DEFAULT_DEADLINE, |model| model.deadline);
    let settled = studio.timing.submit_timeout + studio.timing.lookup_settle;
    (now + deadline.saturating_sub(age), now + deadline.min(LAST_LOOK), now + settled.saturating_sub(age))
}

/// What the attempt row says afterwards.
fn attempt_state(end: VideoEnd, failure: Option<FailureClass>) -> AttemptState {
    match end {
        VideoEnd::Stored => AttemptState::Succeeded,
        VideoEnd::Rejected(_) | VideoEnd::RouteRefused(_) | VideoEnd::NotBought => AttemptState::Rejected,
        VideoEnd::Poisoned => AttemptState::Unresolved,
        _ if failure == Some(FailureClass::OutcomeUnknown) => AttemptState::Unresolved,
        _ => AttemptState::Failed,
    }
}

/// Whether the provider may finish, or has finished, the job of an attempt that ended so: nobody saw its end, nobody could
/// have the film, or a list that did not show it says less than a callback that comes later.
fn may_succeed(end: VideoEnd, state: AttemptState, has_handle: bool) -> bool {
    let unseen = matches!(
        end,
        VideoEnd::DeadlinePassed
            | VideoEnd::Gone
            | VideoEnd::ProviderFailed(FailureClass::Poison)
            | VideoEnd::StoreFailed(_)
    );
    state == AttemptState::Unresolved || end == VideoEnd::NotBought || (has_handle && unseen)
}
