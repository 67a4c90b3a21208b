//! One accepted job: its life as a function of the clock, its video object and its line in the book.
//!
//! A job never needs a timer or a task: everything that will become of it is decided when it is accepted, and each reading
//! derives the state from the time it is given. Time is always an argument, in milliseconds since the epoch.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::book::{BookedJob, JobState, Totals};
use super::request::VideoRequest;
use super::script::Fault;

/// What `progress` shows on successive polls of a job whose progress jumps.
const JUMPING_PROGRESS: [u8; 6] = [40, 70, 20, 85, 35, 60];
/// Where the progress of a failed job stopped.
const FAILED_PROGRESS: u8 = 50;

/// An accepted job.
pub(super) struct Job {
    pub(super) id: Arc<str>,
    pub(super) request: VideoRequest,
    pub(super) terms: Terms,
    pub(super) created_ms: u64,
    pub(super) deleted: bool,
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
}

/// Why a finished video cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unavailable {
    NotReady,
    Expired,
}

/// How the bytes of a download are spoiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoil {
    Nothing,
    Short,
    Empty,
    Html,
}

impl Job {
    pub(super) fn state(&self, now_ms: u64) -> JobState {
        if now_ms < self.started_ms() {
            return JobState::Queued;
        }
        if self.terms.on_job == Some(Fault::Stall) || now_ms < self.done_ms() {
            return JobState::InProgress;
        }
        match self.terms.on_job {
            Some(Fault::JobModerated | Fault::JobFailed) => JobState::Failed,
            _ => JobState::Completed,
        }
    }

    pub(super) fn is_finished(&self, now_ms: u64) -> bool {
        matches!(self.state(now_ms), JobState::Completed | JobState::Failed)
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
            _ => Spoil::Nothing,
        }
    }

    /// The protocol's video object.
    pub(super) fn video_object(&self, now_ms: u64) -> Value {
        let state = self.state(now_ms);
        let finished = matches!(state, JobState::Completed | JobState::Failed);
        let completed_at = finished.then(|| self.done_ms() / 1000);
        let expires_at = (state == JobState::Completed).then(|| self.expires_ms() / 1000);
        let error = (state == JobState::Failed).then(|| self.failure());
        let mut video = Map::new();
        video.insert("id".into(), json!(&*self.id));
        video.insert("object".into(), json!("video"));
        video.insert("model".into(), json!(&*self.request.model));
        video.insert("status".into(), json!(self.status_word(state)));
        video.insert("progress".into(), json!(self.progress(state, now_ms)));
        video.insert("created_at".into(), json!(self.created_ms / 1000));
        video.insert("completed_at".into(), json!(completed_at));
        video.insert("expires_at".into(), json!(expires_at));
        video.insert("prompt".into(), json!(&*self.request.prompt));
        video.insert("size".into(), json!(&*self.request.size));
        video.insert("seconds".into(), json!(self.request.seconds.to_string()));
        video.insert("remixed_from_video_id".into(), Value::Null);
        video.insert("error".into(), json!(error));
        if self.terms.sparse {
            video.retain(|_, value| !value.is_null());
        }
        Value::Object(video)
    }

    /// The job's line in the book.
    pub(super) fn booked(&self, now_ms: u64) -> BookedJob {
        let state = self.state(now_ms);
        let at_create = self.terms.at_create.as_ref();
        BookedJob {
            id: self.id.to_string(),
            model: self.request.model.to_string(),
            prompt: self.request.prompt.to_string(),
            prompt_sha256: hex(&self.terms.prompt_sha256),
            size: self.request.size.to_string(),
            seconds: self.request.seconds,
            nth: self.terms.nth,
            created_at_ms: self.created_ms,
            state,
            price_cents: self.terms.price_cents,
            charged_cents: self.charged_cents(state),
            answer_lost: self.answer_lost(),
            deleted: self.deleted,
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

    fn status_word(&self, state: JobState) -> &'static str {
        match state {
            JobState::Completed => "completed",
            JobState::Failed => "failed",
            _ if self.terms.on_job == Some(Fault::UnknownStatus) => "post_processing",
            JobState::Queued => "queued",
            JobState::InProgress => "in_progress",
        }
    }

    fn progress(&self, state: JobState, now_ms: u64) -> u8 {
        match state {
            JobState::Completed => 100,
            JobState::Failed => FAILED_PROGRESS,
            _ if self.terms.on_job == Some(Fault::ProgressBackwards) => {
                JUMPING_PROGRESS[self.polls as usize % JUMPING_PROGRESS.len()]
            }
            JobState::Queued => 0,
            JobState::InProgress => {
                let (gone, whole) = (now_ms - self.started_ms(), self.done_ms() - self.started_ms());
                (u128::from(gone) * 100 / u128::from(whole.max(1))).min(99) as u8
            }
        }
    }

    fn failure(&self) -> Value {
        match self.terms.on_job {
            Some(Fault::JobModerated) => json!({
                "code": "moderation_blocked",
                "message": "The request was blocked by the content policy.",
            }),
            _ => json!({
                "code": "video_generation_failed",
                "message": "The video could not be generated because of an internal error.",
            }),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble & 0xF)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(on_job: Option<Fault>) -> Job {
        let request =
            VideoRequest { model: "sora-2".into(), prompt: "a fox".into(), size: "1280x720".into(), seconds: 4 };
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
        };
        Job { id: "video_1".into(), request, terms, created_ms: 5_000_000, deleted: false, polls: 0, downloads: 0 }
    }

    #[test]
    fn a_job_walks_from_queued_to_completed_by_the_clock_alone() {
        let job = job(None);
        let seen = |at: u64| {
            let video = job.video_object(5_000_000 + at);
            (video["status"].as_str().unwrap().to_owned(), video["progress"].as_u64().unwrap())
        };
        assert_eq!(seen(0), ("queued".into(), 0));
        assert_eq!(seen(100), ("in_progress".into(), 0));
        assert_eq!(seen(550), ("in_progress".into(), 50));
        assert_eq!(seen(999), ("in_progress".into(), 99));
        assert_eq!(seen(1_000), ("completed".into(), 100));
        let done = job.video_object(5_001_000);
        assert_eq!((&done["completed_at"], &done["expires_at"]), (&json!(5_001), &json!(5_061)));
        assert_eq!(done["seconds"], json!("4"));
        assert_eq!(done["error"], Value::Null);
    }

    #[test]
    fn a_failed_job_has_an_error_no_expiry_and_no_charge_unless_the_vendor_charges_failures() {
        let mut job = job(Some(Fault::JobModerated));
        let video = job.video_object(5_001_000);
        assert_eq!(video["error"]["code"], json!("moderation_blocked"));
        assert_eq!(video["expires_at"], Value::Null);
        assert_eq!(job.booked(5_001_000).charged_cents, 0);
        job.terms.charge_failed = true;
        assert_eq!(job.booked(5_001_000).charged_cents, 40);
        let running = job.booked(5_000_999);
        assert_eq!((running.charged_cents, running.prompt_sha256), (0, "ab".repeat(32)));
    }

    #[test]
    fn a_sparse_object_leaves_out_exactly_the_null_keys() {
        let mut job = job(None);
        let full = job.video_object(5_000_000);
        job.terms.sparse = true;
        let sparse = job.video_object(5_000_000);
        assert_eq!(full.as_object().unwrap().len(), 13);
        assert_eq!(sparse.as_object().unwrap().len(), 9);
        assert!(sparse.as_object().unwrap().iter().all(|(key, value)| &full[key] == value));
    }

    #[test]
    fn a_stalled_job_never_ends_and_never_costs() {
        let job = job(Some(Fault::Stall));
        assert_eq!(job.state(u64::MAX), JobState::InProgress);
        assert_eq!(job.booked(u64::MAX).charged_cents, 0);
        assert_eq!(job.video_object(u64::MAX)["progress"], json!(99));
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
