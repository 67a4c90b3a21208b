//! The list of jobs, a page at a time: which of them a client sees, in which order, and when there is no list to be had.
//!
//! Refuses: to decide about jobs. It reads them.

use super::jobs::{Job, Sight};

/// A page of the list of videos.
pub(super) struct Page {
    pub(super) limit: usize,
    pub(super) ascending: bool,
    /// The job that the page begins behind.
    pub(super) after: Option<String>,
}

/// Some of the jobs, and whether there are more.
pub(super) struct Listed {
    pub(super) jobs: Vec<Sight>,
    pub(super) has_more: bool,
}

/// The page of `jobs`, which lie in order of arrival, behind the position of the job that it begins behind.
pub(super) fn turn(jobs: &[Job], page: &Page, after: Option<usize>, now_ms: u64) -> Listed {
    if page.ascending {
        page_of(jobs[after.map_or(0, |position| position + 1)..].iter(), page.limit, now_ms)
    } else {
        page_of(jobs[..after.unwrap_or(jobs.len())].iter().rev(), page.limit, now_ms)
    }
}

fn page_of<'a>(jobs: impl Iterator<Item = &'a Job>, limit: usize, now_ms: u64) -> Listed {
    let mut visible = jobs.filter(|job| job.is_visible());
    let jobs = visible.by_ref().take(limit).map(|job| job.sight(now_ms)).collect();
    Listed { jobs, has_more: visible.next().is_some() }
}
