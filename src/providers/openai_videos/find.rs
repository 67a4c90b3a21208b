//! Looks for jobs whose submission lost its answer, and tells all jobs of a window, by walking the account's list of jobs
//! from the newest back.
//!
//! Always holds: the walk ends early only where the list itself shows that nothing older can matter. A list that cannot
//! decide - it hides prompts or times, or does not turn its pages - is [`FindOutcome::Unsupported`], never "not there".
//! One walk at a time, for everybody who asked before it began: after a crash hundreds of submissions are looked up at
//! once, and the list of a busy account has thousands of pages.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tokio::sync::oneshot;

use super::super::{Candidate, FindOutcome, Fingerprint, GenerationRequest, JobList, ListedJob, ReadError};
use super::OpenaiVideos;
use super::wire::{Job, Likeness};
use crate::domain::Size;

const PAGE: usize = 100;

/// Jobs older than this many pages are not looked at; an account that makes more in the window cannot be searched.
const MAX_PAGES: usize = 2_000;

/// How far the provider's clock may be from ours. Its times are whole seconds, too.
const CLOCK_SLACK: TimeDelta = TimeDelta::seconds(5);

type Found = Result<FindOutcome, ReadError>;

/// Who waits for a walk, and the right to walk.
#[derive(Default)]
pub(super) struct LookUps {
    waiting: Mutex<Vec<Wanted>>,
    walking: tokio::sync::Mutex<()>,
}

/// A submission to be found.
struct Wanted {
    prompt: String,
    upstream_model: String,
    seconds: u32,
    size: Size,
    window: (DateTime<Utc>, DateTime<Utc>),
    found: Vec<Candidate>,
    undecidable: bool,
    answer: oneshot::Sender<Found>,
}

impl Wanted {
    fn request(&self) -> GenerationRequest<'_> {
        GenerationRequest {
            prompt: &self.prompt,
            upstream_model: &self.upstream_model,
            seconds: self.seconds,
            size: self.size,
            // no list tells of images
            image: None,
        }
    }

    fn compare(&mut self, job: &Job<'_>, created_at: Option<DateTime<Utc>>) {
        let inside = created_at.map(|at| (self.window.0..=self.window.1).contains(&at));
        match (inside, job.likeness(&self.request()), job.handle(), created_at) {
            (Some(false), ..) | (_, Likeness::Other, ..) => {}
            (Some(true), Likeness::Same, Some(handle), Some(created_at)) => {
                self.found.push(Candidate { handle, created_at });
            }
            _ => self.undecidable = true,
        }
    }
}

impl LookUps {
    fn waiting(&self) -> MutexGuard<'_, Vec<Wanted>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) async fn find(
    provider: &OpenaiVideos,
    request: &GenerationRequest<'_>,
    window: (DateTime<Utc>, DateTime<Utc>),
) -> Found {
    loop {
        let (answer, mut answered) = oneshot::channel();
        provider.look_ups.waiting().push(Wanted {
            prompt: request.prompt.to_owned(),
            upstream_model: request.upstream_model.to_owned(),
            seconds: request.seconds,
            size: request.size,
            window: (window.0 - CLOCK_SLACK, window.1 + CLOCK_SLACK),
            found: Vec::new(),
            undecidable: false,
            answer,
        });
        let walking = provider.look_ups.walking.lock().await;
        match answered.try_recv() {
            // a walk that began after we had asked answered for us
            Ok(found) => return found,
            // whoever walked for us was dropped on the way: ask again
            Err(oneshot::error::TryRecvError::Closed) => continue,
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
        let wanted = std::mem::take(&mut *provider.look_ups.waiting());
        walk(provider, wanted).await;
        drop(walking);
        if let Ok(found) = answered.try_recv() {
            return found;
        }
    }
}

/// Every job of the account that was created within `window`.
pub(super) async fn jobs(
    provider: &OpenaiVideos,
    window: (DateTime<Utc>, DateTime<Utc>),
) -> Result<JobList, ReadError> {
    let mut found = Vec::new();
    let mut timeless = false;
    let mut walk = Walk::back_to(Some(window.0 - CLOCK_SLACK));
    let told = turn_pages(provider, &mut walk, |job, created_at| match (job.handle(), created_at) {
        (Some(handle), Some(created_at)) if (window.0..=window.1).contains(&created_at) => {
            found.push(ListedJob { handle, created_at, made: job.made(), prompt: job.prompt().map(Fingerprint::of) });
        }
        (Some(_), Some(_)) => {}
        _ => timeless = true,
    });
    Ok(match told.await? && !timeless {
        true => JobList::Jobs(found),
        false => JobList::NotComparable("it has no list that can be read back that far"),
    })
}

/// Walks once and answers everybody.
async fn walk(provider: &OpenaiVideos, mut wanted: Vec<Wanted>) {
    let mut walk = Walk::back_to(wanted.iter().map(|wanted| wanted.window.0).min());
    let compare = |job: &Job<'_>, created_at| wanted.iter_mut().for_each(|wanted| wanted.compare(job, created_at));
    let ended = turn_pages(provider, &mut walk, compare).await;
    for mut wanted in wanted {
        let found = match &ended {
            Err(error) => Err(error.clone()),
            Ok(false) => Ok(FindOutcome::Unsupported),
            Ok(true) if wanted.undecidable => Ok(FindOutcome::Unsupported),
            Ok(true) => {
                wanted.found.sort_by_key(|candidate| candidate.created_at);
                Ok(FindOutcome::Candidates(wanted.found))
            }
        };
        // whoever asked may have stopped waiting
        let _ = wanted.answer.send(found);
    }
}

/// Whether the list could be read as far back as needed; `each` sees every job on the way once.
async fn turn_pages(
    provider: &OpenaiVideos,
    walk: &mut Walk,
    mut each: impl FnMut(&Job<'_>, Option<DateTime<Utc>>) + Send,
) -> Result<bool, ReadError> {
    let mut after: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let Some(page) = provider.list_page(PAGE, after.as_deref()).await? else { return Ok(false) };
        match walk.turn(&page, &mut each) {
            Turn::Undecidable => return Ok(false),
            Turn::Finished => return Ok(true),
            Turn::Next(last) => after = Some(last),
        }
    }
    Err(ReadError::Unavailable { cause: format!("the account lists more than {} jobs", PAGE * MAX_PAGES) })
}

enum Turn {
    Next(String),
    Finished,
    Undecidable,
}

struct Walk {
    /// Nothing older matters to anybody.
    earliest: Option<DateTime<Utc>>,
    seen: HashSet<String>,
    oldest: Option<DateTime<Utc>>,
    /// Newest first so far. A list in another order has to be read to its end.
    ordered: bool,
}

impl Walk {
    fn back_to(earliest: Option<DateTime<Utc>>) -> Walk {
        Walk { earliest, seen: HashSet::new(), oldest: None, ordered: true }
    }

    fn turn(&mut self, page: &Value, each: &mut impl FnMut(&Job<'_>, Option<DateTime<Utc>>)) -> Turn {
        let Some(jobs) = page.get("data").and_then(Value::as_array) else { return Turn::Undecidable };
        let mut last = None;
        let mut fresh = false;
        for job in jobs.iter().map(Job) {
            let Some(handle) = job.handle() else { return Turn::Undecidable };
            last = Some(handle.0.clone());
            let created_at = job.moment("created_at");
            if let Some(created_at) = created_at {
                self.ordered &= self.oldest.is_none_or(|oldest| created_at <= oldest);
                self.oldest = Some(created_at);
            }
            if self.seen.insert(handle.0.clone()) {
                fresh = true;
                each(&job, created_at);
            }
        }
        let behind = self.ordered && self.oldest.zip(self.earliest).is_some_and(|(oldest, earliest)| oldest < earliest);
        // Without the flag a full page is taken to have a successor.
        let more = page.get("has_more").and_then(Value::as_bool).unwrap_or(jobs.len() >= PAGE);
        match last {
            _ if behind || !more => Turn::Finished,
            Some(last) if fresh => Turn::Next(last),
            // It says that there is more, and shows the same again.
            _ => Turn::Undecidable,
        }
    }
}
