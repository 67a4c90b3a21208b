//! One accepted job: its life as a function of the clock, what a look at it shows, and its line in the book.
//!
//! A job never needs a timer or a task: everything that will become of it is decided when it is accepted, and each reading
//! derives the state from the time it is given. Time is always an argument, in milliseconds since the epoch.

use std::sync::Arc;

use super::book::{BookedJob, JobState, Totals};
use super::callbacks::CallbackFault;
use super::hostile::Attack;
use super::script::{Detour, Fault, Hostile, OddPicture};

/// What `progress` shows on successive polls of a job whose progress jumps.
const JUMPING_PROGRESS: [u8; 6] = [40, 70, 20, 85, 35, 60];
/// Where the progress of a failed job stopped.
const FAILED_PROGRESS: u8 = 50;

/// What a create orders, in no vendor's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) model: Arc<str>,
    pub(super) prompt: Arc<str>,
    /// `WIDTHxHEIGHT`, one of the model's sizes.
    pub(super) size: Arc<str>,
    pub(super) seconds: u32,
    /// Where the client wants the file, such as `gs://bucket/prefix/`.
    pub(super) destination: Option<Arc<str>>,
    /// SHA-256 of the image that the video starts from, in hex.
    pub(super) image_sha256: Option<Arc<str>>,
}

/// What one look at a job shows. Each surface spells it in its vendor's words.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    pub(super) id: Arc<str>,
    pub(super) order: Order,
    pub(super) state: JobState,
    /// Of a failed job: the content policy ended it.
    pub(super) moderated: bool,
    /// Of a failed job: its client did.
    pub(super) cancelled: bool,
    /// Speaks of its state in a word outside the protocol.
    pub(super) odd_word: bool,
    /// Per cent.
    pub(super) progress: u8,
    pub(super) created_ms: u64,
    pub(super) done_ms: u64,
    pub(super) expires_ms: u64,
    /// Leave keys out that would be null.
    pub(super) sparse: bool,
    pub(super) hostile: Option<Hostile>,
    pub(super) callback: Option<CallbackFault>,
    /// What strikes its polls, and which poll this is.
    pub(super) attack: Option<(Attack, u32)>,
}

/// An accepted job.
pub(super) struct Job {
    pub(super) id: Arc<str>,
    pub(super) order: Order,
    pub(super) terms: Terms,
    pub(super) created_ms: u64,
    pub(super) deleted: bool,
    /// Since when it is cancelled.
    pub(super) cancelled_ms: Option<u64>,
    pub(super) polls: u32,
    pub(super) downloads: u32,
}

/// What was decided at the create and holds for the job's life.
pub(super) struct Terms {
    pub(super) prompt_sha256: [u8; 32],
    pub(super) nth: u32,
    pub(super) latency_ms: u64,
    pub(super) output_ttl_ms: u64,
    pub(super) price_cents: u64,
    pub(super) charge_failed: bool,
    /// Leave keys that would be null out of the video object.
    pub(super) sparse: bool,
    /// The fault that was spent at the create, if any.
    pub(super) at_create: Option<Fault>,
    /// The fault that the job carries, if any.
    pub(super) on_job: Option<Fault>,
    /// What goes wrong with its callback, if anything.
    pub(super) callback: Option<CallbackFault>,
    /// The idempotency key that it was ordered under.
    pub(super) key: Option<Arc<str>>,
}

/// Why a finished video cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unavailable {
    NotReady,
    Expired,
    Missing,
}

/// How the bytes of a download are spoiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoil {
    Nothing,
    Short,
    Empty,
    Html,
    Endless { claimed_bytes: Option<u64> },
    Trickle { pause_ms: u64 },
    Attack(Attack),
}

impl Job {
    pub(super) fn state(&self, now_ms: u64) -> JobState {
        if self.cancelled_ms.is_some() {
            return JobState::Failed;
        }
        if now_ms < self.started_ms() {
            return JobState::Queued;
        }
        if self.terms.on_job == Some(Fault::Stall) || now_ms < self.done_ms() {
            return JobState::InProgress;
        }
        match self.terms.on_job {
            Some(Fault::JobModerated | Fault::JobFailed) => JobState::Failed,
            Some(Fault::Attack { attack }) if attack.fails_the_job() => JobState::Failed,
            _ => JobState::Completed,
        }
    }

    pub(super) fn is_finished(&self, now_ms: u64) -> bool {
        matches!(self.state(now_ms), JobState::Completed | JobState::Failed)
    }

    /// For how long it has ended, in milliseconds; `None` while it has not.
    pub(super) fn ended_for(&self, now_ms: u64) -> Option<u64> {
        let since = self.cancelled_ms.unwrap_or(self.done_ms());
        self.is_finished(now_ms).then(|| now_ms.saturating_sub(since))
    }

    /// Whether polls and lists know the job.
    pub(super) fn is_visible(&self) -> bool {
        !self.deleted && self.terms.on_job != Some(Fault::Gone)
    }

    /// The status with which this poll fails, if it does. Counts the poll.
    pub(super) fn poll(&mut self) -> Option<u16> {
        self.polls = self.polls.saturating_add(1);
        match self.terms.on_job {
            Some(Fault::PollErrors { first, status }) if self.polls <= first => Some(status),
            _ => None,
        }
    }

    /// Whether the finished video can be had now.
    pub(super) fn availability(&self, now_ms: u64) -> Result<(), Unavailable> {
        if self.state(now_ms) != JobState::Completed {
            return Err(Unavailable::NotReady);
        }
        if now_ms >= self.expires_ms() {
            return Err(Unavailable::Expired);
        }
        if self.terms.on_job == Some(Fault::MissingFile) {
            return Err(Unavailable::Missing);
        }
        Ok(())
    }

    /// Counts a download of the video, and says how it goes wrong.
    pub(super) fn download(&mut self) -> Spoil {
        self.downloads = self.downloads.saturating_add(1);
        let struck = |first: Option<u32>| first.is_none_or(|first| self.downloads <= first);
        match self.terms.on_job {
            Some(Fault::ShortBody { first }) if struck(first) => Spoil::Short,
            Some(Fault::EmptyBody { first }) if struck(first) => Spoil::Empty,
            Some(Fault::NotAVideo { first }) if struck(first) => Spoil::Html,
            Some(Fault::EndlessFile { claimed_bytes }) => Spoil::Endless { claimed_bytes },
            Some(Fault::TrickledFile { pause_ms }) => Spoil::Trickle { pause_ms },
            Some(Fault::Attack { attack }) => Spoil::Attack(attack),
            _ => Spoil::Nothing,
        }
    }

    /// What comes in place of its picture.
    pub(super) fn odd_picture(&self) -> Option<OddPicture> {
        match self.terms.on_job {
            Some(Fault::OddThumbnail { form }) => Some(form),
            _ => None,
        }
    }

    /// Where whoever asks for the file is sent instead.
    pub(super) fn detour(&self) -> Option<Detour> {
        match self.terms.on_job {
            Some(Fault::RedirectedFile { to }) => Some(to),
            _ => None,
        }
    }

    /// Ends it, unless it has ended.
    pub(super) fn cancel(&mut self, now_ms: u64) -> bool {
        let running = !self.is_finished(now_ms);
        if running {
            self.cancelled_ms = Some(now_ms);
        }
        running
    }

    pub(super) fn sight(&self, now_ms: u64) -> Sight {
        let mut state = self.state(now_ms);
        if state == JobState::Completed
            && self.terms.on_job == Some(Fault::ContradictoryPolls)
            && self.polls.is_multiple_of(2)
        {
            state = JobState::InProgress;
        }
        Sight {
            id: Arc::clone(&self.id),
            order: self.order.clone(),
            state,
            moderated: self.terms.on_job == Some(Fault::JobModerated),
            cancelled: self.cancelled_ms.is_some(),
            odd_word: self.terms.on_job == Some(Fault::UnknownStatus)
                && matches!(state, JobState::Queued | JobState::InProgress),
            progress: self.progress(state, now_ms),
            created_ms: self.created_ms,
            done_ms: self.done_ms(),
            expires_ms: self.expires_ms(),
            sparse: self.terms.sparse,
            hostile: self.hostile_poll(),
            callback: self.terms.callback.clone(),
            attack: self.attack().map(|attack| (attack, self.polls)),
        }
    }

    /// What strikes those who look at it; a create's own answer is no poll.
    fn attack(&self) -> Option<Attack> {
        match self.terms.on_job {
            Some(Fault::Attack { attack }) if self.polls > 0 => Some(attack),
            _ => None,
        }
    }

    fn hostile_poll(&self) -> Option<Hostile> {
        match self.terms.on_job {
            // a create's own answer is no poll
            Some(Fault::HostilePolls { form, first }) if self.polls > 0 => {
                first.is_none_or(|first| self.polls <= first).then_some(form)
            }
            _ => None,
        }
    }

    /// The job's line in the book.
    pub(super) fn booked(&self, now_ms: u64) -> BookedJob {
        let state = self.state(now_ms);
        let at_create = self.terms.at_create.as_ref();
        BookedJob {
            id: self.id.to_string(),
            model: self.order.model.to_string(),
            prompt: self.order.prompt.to_string(),
            prompt_sha256: hex(&self.terms.prompt_sha256),
            image_sha256: self.order.image_sha256.as_deref().map(str::to_owned),
            size: self.order.size.to_string(),
            seconds: self.order.seconds,
            nth: self.terms.nth,
            created_at_ms: self.created_ms,
            state,
            price_cents: self.terms.price_cents,
            charged_cents: self.charged_cents(state),
            answer_lost: self.answer_lost(),
            idempotency_key: self.terms.key.as_deref().map(str::to_owned),
            deleted: self.deleted,
            cancelled: self.cancelled_ms.is_some(),
            polls: self.polls,
            downloads: self.downloads,
            fault: at_create.or(self.terms.on_job.as_ref()).cloned(),
        }
    }

    /// Adds the job to the book's sums.
    pub(super) fn add_to(&self, totals: &mut Totals, now_ms: u64) {
        let state = self.state(now_ms);
        let of_state = match state {
            JobState::Queued => &mut totals.queued,
            JobState::InProgress => &mut totals.in_progress,
            JobState::Completed => &mut totals.completed,
            JobState::Failed => &mut totals.failed,
        };
        *of_state += 1;
        totals.accepted += 1;
        totals.charged_cents += self.charged_cents(state);
        totals.answers_lost += u64::from(self.answer_lost());
        totals.downloads += u64::from(self.downloads);
    }

    fn charged_cents(&self, state: JobState) -> u64 {
        match state {
            JobState::Completed => self.terms.price_cents,
            JobState::Failed if self.cancelled_ms.is_some() => 0,
            JobState::Failed if self.terms.charge_failed => self.terms.price_cents,
            JobState::Failed | JobState::Queued | JobState::InProgress => 0,
        }
    }

    fn answer_lost(&self) -> bool {
        self.terms.at_create.as_ref().is_some_and(Fault::loses_answer)
    }

    /// A tenth of its life the job is queued.
    fn started_ms(&self) -> u64 {
        self.created_ms.saturating_add(self.terms.latency_ms / 10)
    }

    fn done_ms(&self) -> u64 {
        self.created_ms.saturating_add(self.terms.latency_ms)
    }

    fn expires_ms(&self) -> u64 {
        match self.terms.on_job {
            Some(Fault::ExpiredLink) => self.done_ms(),
            _ => self.done_ms().saturating_add(self.terms.output_ttl_ms),
        }
    }

    fn progress(&self, state: JobState, now_ms: u64) -> u8 {
        match state {
            JobState::Completed => 100,
            JobState::Failed => FAILED_PROGRESS,
            _ if self.terms.on_job == Some(Fault::ProgressBackwards) => {
                JUMPING_PROGRESS[self.polls as usize % JUMPING_PROGRESS.len()]
            }
            _ if self.terms.on_job == Some(Fault::FullProgress) => 100,
            JobState::Queued => 0,
            JobState::InProgress => {
                let (gone, whole) =
                    (now_ms.saturating_sub(self.started_ms()), self.done_ms().saturating_sub(self.started_ms()));
                (u128::from(gone) * 100 / u128::from(whole.max(1))).min(99) as u8
            }
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble & 0xF)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(on_job: Option<Fault>) -> Job {
        let order = Order {
            model: "sora-2".into(),
            prompt: "a fox".into(),
            size: "1280x720".into(),
            seconds: 4,
            destination: None,
            image_sha256: None,
        };
        let terms = Terms {
            prompt_sha256: [0xab; 32],
            nth: 1,
            latency_ms: 1_000,
            output_ttl_ms: 60_000,
            price_cents: 40,
            charge_failed: false,
            sparse: false,
            at_create: None,
            on_job,
            callback: None,
            key: None,
        };
        Job {
            id: "video_1".into(),
            order,
            terms,
            created_ms: 5_000_000,
            deleted: false,
            cancelled_ms: None,
            polls: 0,
            downloads: 0,
        }
    }

    #[test]
    fn a_job_walks_from_queued_to_completed_by_the_clock_alone() {
        let job = job(None);
        let seen = |at: u64| {
            let sight = job.sight(5_000_000 + at);
            (sight.state, sight.progress)
        };
        assert_eq!(seen(0), (JobState::Queued, 0));
        assert_eq!(seen(100), (JobState::InProgress, 0));
        assert_eq!(seen(550), (JobState::InProgress, 50));
        assert_eq!(seen(999), (JobState::InProgress, 99));
        assert_eq!(seen(1_000), (JobState::Completed, 100));
        let done = job.sight(5_001_000);
        assert_eq!((done.done_ms, done.expires_ms), (5_001_000, 5_061_000));
    }

    #[test]
    fn a_failed_job_costs_nothing_unless_the_vendor_charges_failures() {
        let mut job = job(Some(Fault::JobModerated));
        assert!(job.sight(5_001_000).moderated);
        assert_eq!(job.booked(5_001_000).charged_cents, 0);
        job.terms.charge_failed = true;
        assert_eq!(job.booked(5_001_000).charged_cents, 40);
        let running = job.booked(5_000_999);
        assert_eq!((running.charged_cents, running.prompt_sha256), (0, "ab".repeat(32)));
    }

    #[test]
    fn a_job_is_cancelled_only_while_it_runs_and_then_costs_nothing() {
        let mut late = job(None);
        assert!(!late.cancel(5_001_000) && late.booked(5_001_000).charged_cents == 40);
        let mut early = job(None);
        assert!(early.cancel(5_000_500));
        let booked = early.booked(5_001_000);
        assert_eq!((booked.state, booked.cancelled, booked.charged_cents), (JobState::Failed, true, 0));
    }

    #[test]
    fn a_contradictory_job_takes_its_end_back_at_every_other_poll() {
        let mut job = job(Some(Fault::ContradictoryPolls));
        let states = [1, 2, 3].map(|_| {
            job.poll();
            job.sight(5_001_000).state
        });
        assert_eq!(states, [JobState::Completed, JobState::InProgress, JobState::Completed]);
    }

    #[test]
    fn a_stalled_job_never_ends_and_never_costs() {
        let job = job(Some(Fault::Stall));
        assert_eq!(job.state(u64::MAX), JobState::InProgress);
        assert_eq!(job.booked(u64::MAX).charged_cents, 0);
        assert_eq!(job.sight(u64::MAX).progress, 99);
    }

    #[test]
    fn a_download_is_spoiled_only_as_often_as_asked() {
        let mut job = job(Some(Fault::ShortBody { first: Some(1) }));
        assert_eq!(job.availability(5_000_500), Err(Unavailable::NotReady));
        assert_eq!(job.availability(5_001_000), Ok(()));
        assert_eq!(job.availability(5_061_000), Err(Unavailable::Expired));
        assert_eq!(job.download(), Spoil::Short);
        assert_eq!(job.download(), Spoil::Nothing);
        assert_eq!(job.downloads, 2);
    }
}
