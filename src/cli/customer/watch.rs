//! `freezeframe batch watch`: looks at a batch again and again until its money is settled.
//!
//! Always holds: watching changes nothing, so it may be stopped and taken up at any time; a service that is away for a while
//! (restart, deploy, network) ends nothing; every failure up to [`MOST_TOLD`] is told once, when it happens.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use chrono::Local;
use clap::Args;

use super::{Connection, show};
use crate::cli::client::{Answer, Api, Batch, BatchStatus, CallError, Video};
use crate::cli::output::{self, amount, duration, plain, wrap};
use crate::cli::progress::{Live, Pace, counts_words, percent};
use crate::cli::signals::Signals;

/// Failures that are told one by one; more of them would hide everything else.
const MOST_TOLD: usize = 20;
/// A service that gives no answer for so long is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Without a terminal there is a line for a change, but not more often than this, and one now and then in any case.
const LINE_EVERY: Duration = Duration::from_secs(5);
const LATER_LINE_EVERY: Duration = Duration::from_secs(30);
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(300);
const PARTIAL: u8 = 3;
const FAILED: u8 = 4;
/// As shells number an end by Ctrl-C.
const STOPPED: u8 = 130;

const EXAMPLES: &str = "\
Ctrl-C stops watching; the batch goes on, and watching it again takes it up.

Exit codes: 0 completed, 1 error, 3 ended partial, 4 failed,
130 stopped watching.";

/// Watch a batch to its end.
///
/// On a terminal a bar shows videos, credits and the time left; elsewhere a line is written now and then.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct WatchArgs {
    /// The batch, bat_ and 26 characters
    #[arg(value_name = "BATCH")]
    id: String,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: WatchArgs) -> Result<ExitCode> {
    let api = args.connection.api()?;
    let signals = Signals::listen()?;
    follow(&api, &args.id, (signals, args.connection.json), false).await
}

/// Watches to the end and shows it. `exists` says that the batch was seen already, so that no answer is no mistyped address.
pub(super) async fn follow(
    api: &Api,
    id: &str,
    (mut signals, json): (Signals, bool),
    exists: bool,
) -> Result<ExitCode> {
    let mut watch = Watch::new(api, id);
    let ended = tokio::select! {
        ended = watch.until_it_ends(exists) => Some(ended),
        () = signals.next() => None,
    };
    watch.live.end();
    let last = watch.last.as_ref().map(|(batch, _)| batch);
    let Some(ended) = ended else {
        output::aside(&format!("stopped watching; the batch goes on: freezeframe batch watch {}", plain(id)));
        if let (true, Some(batch)) = (json, last) {
            output::json(&batch.raw)?;
        }
        return Ok(ExitCode::from(STOPPED));
    };
    let batch = ended?;
    if json {
        output::json(&batch.raw)?;
    } else {
        let failed = show::failures(api, &batch.value).await?;
        output::line(&show::summary(&batch.value, &failed))?;
        show::advise(&batch.value);
    }
    Ok(match batch.value.status {
        BatchStatus::Partial => ExitCode::from(PARTIAL),
        BatchStatus::Failed => ExitCode::from(FAILED),
        _ => ExitCode::SUCCESS,
    })
}

struct Watch<'a> {
    api: &'a Api,
    id: &'a str,
    live: Live,
    pace: Pace,
    began: Instant,
    last: Option<(Answer<Batch>, Instant)>,
    /// Places in the batch of the failures that were told.
    told: HashSet<usize>,
    last_line: Option<(Instant, Batch)>,
    /// Since when there is no answer.
    lost: Option<Instant>,
}

impl<'a> Watch<'a> {
    fn new(api: &'a Api, id: &'a str) -> Watch<'a> {
        Watch {
            api,
            id,
            live: Live::start(),
            pace: Pace::default(),
            began: Instant::now(),
            last: None,
            told: HashSet::new(),
            last_line: None,
            lost: None,
        }
    }

    async fn until_it_ends(&mut self, exists: bool) -> Result<Answer<Batch>> {
        let mut misses = 0u32;
        loop {
            let pause = match self.api.look(self.id).await {
                Ok(batch) => {
                    misses = 0;
                    let ended = batch.value.status.has_ended();
                    self.seen(&batch).await;
                    if ended {
                        return Ok(batch);
                    }
                    self.pause()
                }
                Err(error) if error.passes() && (exists || self.last.is_some()) => {
                    let pause = Duration::from_millis(500) * 2u32.pow(misses.min(5));
                    misses += 1;
                    self.missed(&error)?;
                    error.retry_after().unwrap_or(pause).min(LONGEST_PAUSE)
                }
                Err(error) => return Err(error.into()),
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Batches that take hours are not looked at every second of them.
    fn pause(&self) -> Duration {
        match self.began.elapsed().as_secs() {
            0..60 => Duration::from_millis(500),
            60..600 => Duration::from_secs(1),
            _ => Duration::from_secs(3),
        }
    }

    async fn seen(&mut self, batch: &Answer<Batch>) {
        let now = Instant::now();
        if let Some(since) = self.lost.take() {
            self.news(&format!("connected again after {}", duration(since.elapsed().as_secs())));
        }
        self.pace.note(now, batch.value.counts.done());
        self.last = Some((batch.clone(), now));
        self.tell_failures(&batch.value).await;
        self.draw(None);
        if !self.live.is_drawn() {
            self.line(&batch.value, now);
        }
    }

    fn draw(&self, note: Option<&str>) {
        if let Some((batch, _)) = &self.last {
            let counts = &batch.value.counts;
            let settling = counts.done() == counts.total && !batch.value.status.has_ended();
            let settling = settling.then_some("every video has ended; the money is being settled");
            self.live.draw(&batch.value, &self.pace, note.or(settling));
        }
    }

    /// # Errors
    /// When the service has been away for too long.
    fn missed(&mut self, error: &CallError) -> Result<()> {
        let since = *self.lost.get_or_insert_with(|| {
            if !self.live.is_drawn() {
                output::aside(&format!("{}  {}; trying again", clock(), error.brief()));
            }
            Instant::now()
        });
        let away = since.elapsed();
        if away > GIVE_UP_AFTER {
            let (id, away) = (plain(self.id), duration(away.as_secs()));
            return Err(anyhow!("{error}; no answer for {away}. The batch goes on: freezeframe batch watch {id}"));
        }
        self.draw(Some(&format!("{} for {}; trying again", error.brief(), duration(away.as_secs()))));
        Ok(())
    }

    /// A plain line about the whole, where nothing is drawn.
    fn line(&mut self, batch: &Batch, now: Instant) {
        let every = if self.began.elapsed() < Duration::from_secs(120) { LINE_EVERY } else { LATER_LINE_EVERY };
        let due = self.last_line.as_ref().is_none_or(|(at, seen)| {
            let changed = seen.counts != batch.counts || seen.credits != batch.credits || seen.status != batch.status;
            let past = now - *at;
            past >= SIGN_OF_LIFE_EVERY || changed && (past >= every || batch.status.has_ended())
        });
        if !due {
            return;
        }
        self.last_line = Some((now, batch.clone()));
        let (counts, money) = (&batch.counts, &batch.credits);
        let pace = self.pace.words(counts.total - counts.done().min(counts.total));
        let pace = if pace.is_empty() { pace } else { format!(" ({pace})") };
        output::aside(&format!(
            "{}  {:>3}%  {}{pace}; credits: {} charged, {} refunded, {} held",
            clock(),
            percent(counts),
            counts_words(counts),
            amount(money.charged),
            amount(money.refunded),
            amount(money.held)
        ));
    }

    async fn tell_failures(&mut self, batch: &Batch) {
        if batch.counts.failed <= self.told.len() || self.told.len() >= MOST_TOLD {
            return;
        }
        // what cannot be read now is told at the next look
        let Ok(page) = self.api.videos_page(self.id, Some("failed"), None).await else { return };
        for video in page.data.iter().map(|video| &video.value) {
            if self.told.len() < MOST_TOLD && self.told.insert(video.index) {
                self.tell(video);
            }
        }
        let rest = batch.counts.failed.saturating_sub(self.told.len());
        if self.told.len() >= MOST_TOLD && (rest > 0 || !batch.status.has_ended()) {
            self.news("further failures are counted, and grouped at the end");
        }
    }

    fn tell(&self, video: &Video) {
        let name = plain(&video.name());
        let (kind, reason) = match &video.failure {
            Some(failure) => (plain(&failure.kind), plain(failure.particulars())),
            None => ("failed".to_owned(), String::new()),
        };
        if !self.live.is_drawn() {
            let price = amount(video.price_credits);
            self.news(&format!("{name} failed ({kind}), {price} credits are back: {reason}"));
            return;
        }
        let width = self.live.width();
        for (at, line) in wrap(&format!("{name}: {kind}. {reason}"), width.saturating_sub(6)).iter().enumerate() {
            let indent = if at == 0 { "  " } else { "      " };
            self.live.line(&output::fit(&format!("{indent}{line}"), width));
        }
    }

    fn news(&self, text: &str) {
        if self.live.is_drawn() {
            self.live.line(&output::fit(&format!("  {text}"), self.live.width()));
        } else {
            output::aside(&format!("{}  {text}", clock()));
        }
    }
}

fn clock() -> String {
    Local::now().format("%H:%M:%S").to_string()
}
