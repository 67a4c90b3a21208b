//! Looks for a job whose submission lost its answer, by walking the account's list of jobs from the newest back.
//!
//! Always holds: the walk ends early only where the list itself shows that nothing older can matter. A list that cannot
//! decide - it hides prompts or times, or does not turn its pages - is [`FindOutcome::Unsupported`], never "not there".

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::super::{Candidate, FindOutcome, GenerationRequest, ReadError};
use super::OpenaiVideos;
use super::wire::{Job, Likeness};

const PAGE: usize = 100;

/// Jobs older than this many pages are not looked at; an account that makes more in the window cannot be searched.
const MAX_PAGES: usize = 100;

/// How far the provider's clock may be from ours. Its times are whole seconds, too.
const CLOCK_SLACK: TimeDelta = TimeDelta::seconds(5);

pub(super) async fn find(
    provider: &OpenaiVideos,
    request: &GenerationRequest<'_>,
    window: (DateTime<Utc>, DateTime<Utc>),
) -> Result<FindOutcome, ReadError> {
    let window = (window.0 - CLOCK_SLACK, window.1 + CLOCK_SLACK);
    let mut walk = Walk { window, seen: HashSet::new(), found: Vec::new(), oldest: None, ordered: true };
    let mut after: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let Some(page) = provider.list_page(PAGE, after.as_deref()).await? else {
            return Ok(FindOutcome::Unsupported);
        };
        match walk.turn(&page, request) {
            Turn::Undecidable => return Ok(FindOutcome::Unsupported),
            Turn::Finished => {
                walk.found.sort_by_key(|candidate| candidate.created_at);
                return Ok(FindOutcome::Candidates(walk.found));
            }
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
    window: (DateTime<Utc>, DateTime<Utc>),
    seen: HashSet<String>,
    found: Vec<Candidate>,
    oldest: Option<DateTime<Utc>>,
    /// Newest first so far. A list in another order has to be read to its end.
    ordered: bool,
}

impl Walk {
    fn turn(&mut self, page: &Value, request: &GenerationRequest<'_>) -> Turn {
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
            if !self.seen.insert(handle.0.clone()) {
                continue;
            }
            fresh = true;
            let inside = created_at.map(|at| (self.window.0..=self.window.1).contains(&at));
            match (job.likeness(request), inside, created_at) {
                (Likeness::Other, ..) | (_, Some(false), _) => {}
                (Likeness::Same, Some(true), Some(created_at)) => self.found.push(Candidate { handle, created_at }),
                _ => return Turn::Undecidable,
            }
        }
        let behind = self.ordered && self.oldest.is_some_and(|oldest| oldest < self.window.0);
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
