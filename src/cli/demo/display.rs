//! What the audience sees: a live display on a terminal, plain lines elsewhere, tables at the end; 80 columns are enough.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use chrono::Utc;

use super::outcome::Outcome;
use super::stage::{OPENING_CREDITS, Stage};
use crate::cli::client::{Accepted, Batch, Counts, Failure, Video};
use crate::cli::customer::ledger_table;
use crate::cli::output::{self, Table, amount, count, wrap};
use crate::cli::progress::{Live, Pace};

const TEXT_WIDTH: usize = 76;
/// Without a terminal there is a line for each change, but not more often than this.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Where the demo shows itself.
pub(super) struct Screen {
    /// Standard output is kept for the summary.
    aside: bool,
    live: Option<Live>,
    pace: Pace,
    told: HashMap<String, (u32, bool)>,
    last_line: Option<(Duration, Counts)>,
}

impl Screen {
    pub(super) fn new(aside: bool) -> Screen {
        Screen { aside, live: None, pace: Pace::default(), told: HashMap::new(), last_line: None }
    }

    fn line(&self, text: &str) -> Result<()> {
        let write = || {
            if self.aside {
                eprintln!("{text}");
                Ok(())
            } else {
                output::line(text)
            }
        };
        match &self.live {
            Some(live) => live.aside(write)?,
            None => write()?,
        }
        Ok(())
    }

    fn heading(&self, text: &str) -> Result<()> {
        self.line(&format!("\n{text}\n"))
    }

    pub(super) fn curtain(&self) -> Result<()> {
        self.line("Freezeframe demo: 20 videos in one batch. What fails costs nothing.")
    }

    pub(super) fn curtain_call(&self) {
        eprintln!("stopping; the data stays");
    }

    pub(super) fn scenery(&self, stage: &Stage) -> Result<()> {
        self.line("")?;
        self.line(&format!("  provider  an emulator on {} (nothing is bought)", stage.emulator.base_url()))?;
        self.line(&format!("  service   http://{}, data in {}", stage.address, stage.directory.display()))?;
        let tenant = &stage.tenant.tenant;
        let credits = amount(OPENING_CREDITS);
        self.line(&format!(
            "  customer  {} with {credits} promotional credits, {} videos at once",
            tenant.name, tenant.max_in_flight
        ))
    }

    pub(super) fn ordered(&mut self, accepted: &Accepted, took: Duration) -> Result<()> {
        self.heading(&format!("POST /api/enterprise/video-batch: 202 after {} ms", took.as_millis()))?;
        self.line(&format!("  {}, {}\n", accepted.batch_id, accepted.status))?;
        self.live = Some(Live::start()).filter(Live::is_drawn);
        Ok(())
    }

    /// Shows how far the batch is, and tells what happened to single videos since the last look.
    pub(super) fn progress(&mut self, batch: &Batch, videos: &[Video], at: Duration) -> Result<()> {
        for video in videos {
            self.tell(video, at)?;
        }
        let (counts, money) = (batch.counts, batch.credits);
        let work = format!(
            "{} made, {} failed, {} running, {} waiting",
            counts.succeeded, counts.failed, counts.in_progress, counts.waiting
        );
        self.pace.note(Instant::now(), counts.done());
        if let Some(live) = &self.live {
            live.draw(batch, &self.pace, None);
            return Ok(());
        }
        let due = self.last_line.is_none_or(|(last, seen)| seen != counts && at.saturating_sub(last) >= LINE_EVERY);
        if due {
            self.last_line = Some((at, counts));
            let (held, refunded) = (amount(money.held), amount(money.refunded));
            self.news(at, &format!("{work}; {held} credits held, {refunded} refunded"))?;
        }
        Ok(())
    }

    fn news(&self, at: Duration, text: &str) -> Result<()> {
        self.line(&format!("  {:>4.1} s  {text}", at.as_secs_f64()))
    }

    /// Tells what happened to a video since the last look, if it is worth telling.
    fn tell(&mut self, video: &Video, at: Duration) -> Result<()> {
        let (name, tries) = (video.name(), video.attempts);
        let over = video.failure.is_some() || video.output.is_some();
        let seen = (tries, over || video.retry_at.is_some());
        if self.told.insert(name.clone(), seen) == Some(seen) {
            return Ok(());
        }
        let news = match (&video.failure, video.retry_at) {
            (Some(failure), _) => {
                let credits = amount(video.price_credits);
                format!("{name} failed ({}, {}): {credits} credits are back", failure.kind, tried(tries))
            }
            (None, Some(retry_at)) => {
                let wait = (retry_at - Utc::now()).num_seconds().max(0);
                format!("{name}: try {tries} failed, the next one follows in {wait} s")
            }
            (None, None) if over && tries > 1 => format!("{name} succeeded at try {tries}"),
            (None, None) => return Ok(()),
        };
        self.news(at, &news)
    }

    pub(super) fn end_progress(&mut self) {
        self.live = None;
    }

    pub(super) fn outcome(&self, outcome: &Outcome) -> Result<()> {
        let counts = outcome.batch.counts;
        let (made, failed) = (counts.succeeded, counts.failed);
        self.heading(&format!(
            "{} after {:.1} s: {made} made, {failed} failed",
            outcome.batch.status, outcome.seconds
        ))?;
        match (&outcome.event, outcome.webhook_verified()) {
            (Some(event), true) => {
                let kind = event["type"].as_str().unwrap_or_default();
                self.line(&format!("  The webhook {kind} arrived and its signature is valid."))?;
            }
            (Some(_), false) => self.line("  A webhook with a valid signature arrived, but about something else.")?,
            (None, _) => self.line("  No webhook with a valid signature arrived.")?,
        }
        self.failures(outcome)?;
        self.credits(outcome)
    }

    fn failures(&self, outcome: &Outcome) -> Result<()> {
        self.heading("Why videos failed")?;
        let mut table = Table::new(["video", "model", ">tries", "type", ">refunded"]);
        let mut reasons: Vec<(String, &Failure)> = Vec::new();
        for video in outcome.failed() {
            let Some(failure) = &video.failure else { continue };
            table.row([
                video.name(),
                video.model.clone(),
                video.attempts.to_string(),
                failure.kind.clone(),
                amount(video.price_credits),
            ]);
            reasons.push((video.name(), failure));
        }
        self.line(&table.render())?;
        for (name, failure) in reasons {
            self.line(&format!("\n  {name}:"))?;
            for paragraph in [Some(&failure.message), failure.detail.as_ref()].into_iter().flatten() {
                for line in wrap(paragraph, TEXT_WIDTH - 4) {
                    self.line(&format!("    {line}"))?;
                }
            }
        }
        Ok(())
    }

    fn credits(&self, outcome: &Outcome) -> Result<()> {
        self.heading("Where every credit went")?;
        self.line(&ledger_table(&outcome.entries, usize::MAX))?;
        let money = outcome.batch.credits;
        let (before, after) = (outcome.wallet_before.available, outcome.wallet_after.available);
        self.line(&format!(
            "\n  wallet   {} before, {} after: {} were charged for {}",
            amount(before),
            amount(after),
            amount(money.charged),
            count(outcome.batch.counts.succeeded, "video")
        ))?;
        self.line(&format!(
            "  batch    {} frozen = {} charged + {} refunded + {} held",
            amount(money.frozen),
            amount(money.charged),
            amount(money.refunded),
            amount(money.held)
        ))?;
        let books = &outcome.reconciled;
        let differences = count(books.differences.len(), "difference");
        self.line(&format!("  books    all accounts sum to {}, {differences}", amount(books.books.sum)))?;
        let provider = &outcome.provider;
        let (jobs, lost) = (count(provider.accepted, "job"), count(provider.answers_lost, "lost answer"));
        let finished = provider.finished;
        self.line(&format!("  provider {jobs} accepted, {finished} finished; {lost} looked up, not bought again"))
    }

    pub(super) fn left_running(&self, stage: &Stage, outcome: &Outcome) -> Result<()> {
        let base = format!("http://{}", stage.address);
        self.heading("Everything goes on running until Ctrl-C")?;
        self.line(&format!("  API      {base}/api/enterprise"))?;
        self.line(&format!("  docs     {base}/docs"))?;
        self.line(&format!("  metrics  {base}/metrics"))?;
        if let Some(link) = outcome.videos.iter().find_map(|video| video.output.as_ref()?.url.as_ref()) {
            self.line(&format!("  a video  {link}"))?;
        }
        let directory = stage.directory.display();
        self.line(&format!("  books    FREEZEFRAME_DATA_DIR={directory} freezeframe reconcile"))?;
        self.heading("Order more")?;
        self.line(&format!("  curl -s {base}/api/enterprise/video-batch \\"))?;
        self.line(&format!("    -H 'X-API-Key: {}' \\", stage.tenant.api_key.expose()))?;
        self.line("    -H 'Content-Type: application/json' \\")?;
        self.line("    -d '{\"items\":[{\"model\":\"sora-2\",\"prompt\":\"A red fox in the snow\"}]}'\n")
    }
}

/// "1 try", "3 tries".
fn tried(tries: u32) -> String {
    if tries == 1 { "1 try".to_owned() } else { format!("{tries} tries") }
}
