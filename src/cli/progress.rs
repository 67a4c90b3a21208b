//! How far a batch is, on a terminal: a bar and a few lines that are drawn again and again, with news scrolling away above
//! them. Where standard error is no terminal nothing is drawn; whoever shows progress prints plain lines then.
//!
//! Always holds: no escape code reaches anything but a terminal; no colour where `NO_COLOR` is set; no line is longer than
//! the terminal is wide, however often that changes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use console::{Style, Term, colors_enabled_stderr, is_dumb};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::client::{Batch, Counts, Money};
use super::output::{self, amount, columns, duration, fit};

const WIDEST_BAR: usize = 60;
const NARROWEST_BAR: usize = 8;
/// The rate is that of so much of the past.
const RATE_WINDOW: Duration = Duration::from_secs(60);
/// Less of the past says nothing about the future.
const LEAST_PAST: Duration = Duration::from_secs(2);

/// How fast videos come to their end.
#[derive(Default)]
pub(super) struct Pace {
    seen: VecDeque<(Instant, usize)>,
}

impl Pace {
    pub(super) fn note(&mut self, now: Instant, done: usize) {
        while self.seen.len() > 2 && self.seen.get(1).is_some_and(|(at, _)| now - *at >= RATE_WINDOW) {
            self.seen.pop_front();
        }
        self.seen.push_back((now, done));
    }

    /// Videos per second; `None` while too little was seen.
    pub(super) fn per_sec(&self) -> Option<f64> {
        let ((first, before), (last, done)) = (self.seen.front()?, self.seen.back()?);
        let past = *last - *first;
        (past >= LEAST_PAST && done > before).then(|| (done - before) as f64 / past.as_secs_f64())
    }

    /// "12.4/s, 31 s left"; empty while nothing can be said.
    pub(super) fn words(&self, left: usize) -> String {
        let Some(rate) = self.per_sec() else { return String::new() };
        let speed = if rate >= 1.0 { format!("{rate:.1}/s") } else { format!("{:.1}/min", rate * 60.0) };
        if left == 0 {
            return speed;
        }
        format!("{speed}, {} left", duration((left as f64 / rate).ceil() as u64))
    }
}

/// "588 succeeded, 24 failed, 200 running, 188 waiting"
pub(super) fn counts_words(counts: &Counts) -> String {
    let [made, failed, running, waiting] =
        [counts.succeeded, counts.failed, counts.in_progress, counts.waiting].map(number);
    format!("{made} succeeded, {failed} failed, {running} running, {waiting} waiting")
}

/// "61,000 frozen = 0 charged + 1,464 refunded + 59,536 held"
pub(super) fn money_words(money: &Money) -> String {
    let [frozen, charged, refunded, held] = [money.frozen, money.charged, money.refunded, money.held].map(amount);
    format!("{frozen} frozen = {charged} charged + {refunded} refunded + {held} held")
}

pub(super) fn number(count: usize) -> String {
    amount(i64::try_from(count).unwrap_or(i64::MAX))
}

/// The part that is done, rounded down, so that 100 % means all.
pub(super) fn percent(counts: &Counts) -> usize {
    (counts.done() * 100).checked_div(counts.total).unwrap_or(0)
}

/// The live part of the screen.
pub(super) struct Live {
    bar: Option<ProgressBar>,
    term: Term,
}

impl Live {
    /// On standard error, if that is a terminal that can move its cursor.
    pub(super) fn start() -> Live {
        let term = Term::stderr();
        let bar = (term.is_term() && !is_dumb()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // the template is a constant, so that it is valid by construction
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar
        });
        Live { bar, term }
    }

    pub(super) fn is_drawn(&self) -> bool {
        self.bar.is_some()
    }

    /// The columns that may be used: the last one is left free, where terminals disagree about wrapping.
    pub(super) fn width(&self) -> usize {
        columns(&self.term) - usize::from(self.is_drawn())
    }

    /// Draws the state anew. `note` is a further line, such as that the connection is lost.
    pub(super) fn draw(&self, batch: &Batch, pace: &Pace, note: Option<&str>) {
        if let Some(bar) = &self.bar {
            let paint = Paint { colours: colors_enabled_stderr() };
            bar.set_message(frame(batch, pace, note, (self.width(), paint)).join("\n"));
        }
    }

    /// Does something that writes elsewhere while nothing is drawn.
    pub(super) fn aside<R>(&self, write: impl FnOnce() -> R) -> R {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Lets a line scroll away above the bar.
    pub(super) fn line(&self, text: &str) {
        self.aside(|| output::aside(text));
    }

    /// Removes the live part.
    pub(super) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}

/// How many files have come, while they come. Drawn on a terminal alone.
pub(super) struct FilesBar(Option<ProgressBar>);

impl FilesBar {
    pub(super) fn start(files: usize) -> FilesBar {
        let drawn = Term::stderr().is_term() && !is_dumb() && files > 0;
        FilesBar(drawn.then(|| {
            let bar = ProgressBar::with_draw_target(Some(files as u64), ProgressDrawTarget::stderr());
            let template = if colors_enabled_stderr() {
                "  {wide_bar:.green/dim}  {pos}/{len} files  {msg}"
            } else {
                "  {wide_bar}  {pos}/{len} files  {msg}"
            };
            // the template is a constant, so that it is valid by construction
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("█▓░"));
            }
            bar
        }))
    }

    pub(super) fn note(&self, files: usize, bytes: u64) {
        if let Some(bar) = &self.0 {
            let rate = bytes as f64 / bar.elapsed().as_secs_f64().max(0.1);
            bar.set_message(format!("{}, {}/s", output::bytes(bytes), output::bytes(rate as u64)));
            bar.set_position(files as u64);
        }
    }
}

impl Drop for FilesBar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[derive(Clone, Copy)]
struct Paint {
    colours: bool,
}

impl Paint {
    fn style(self, text: &str, style: Style) -> String {
        if self.colours { style.force_styling(true).apply_to(text).to_string() } else { text.to_owned() }
    }
}

/// The lines, each at most `width` columns.
fn frame(batch: &Batch, pace: &Pace, note: Option<&str>, (width, paint): (usize, Paint)) -> Vec<String> {
    let (counts, money) = (&batch.counts, &batch.credits);
    let share = format!("{:>3}%  {}/{}", percent(counts), number(counts.done()), number(counts.total));
    let pace = pace.words(counts.total - counts.done().min(counts.total));
    let bar_width = width.saturating_sub(4 + share.len()).min(WIDEST_BAR);
    let mut lines = vec![match bar_width {
        0..NARROWEST_BAR => fit(&format!("  {share}"), width),
        _ => format!("  {}  {share}", bar(counts, bar_width, paint)),
    }];
    let mut add = |text: String| lines.push(fit(&format!("  {text}"), width));
    let work = counts_words(counts);
    if pace.is_empty() {
        add(work);
    } else if work.len() + pace.len() + 5 <= width {
        add(format!("{work} - {pace}"));
    } else {
        add(work);
        add(pace);
    }
    let credits = money_words(money);
    if credits.len() + 11 <= width {
        add(format!("credits: {credits}"));
    } else {
        for (at, part) in credits.split_inclusive(['=', '+']).enumerate() {
            add(format!("{}{}", if at == 0 { "credits: " } else { "         " }, part.trim()));
        }
    }
    if let Some(note) = note {
        lines.push(paint.style(&fit(&format!("  {note}"), width), Style::new().yellow()));
    }
    lines
}

/// What succeeded, what failed, what is being made, what waits: told apart without colours too. `width` is one at least.
fn bar(counts: &Counts, width: usize, paint: Paint) -> String {
    let total = counts.total.max(1);
    let upto = |count: usize| count.min(total) * width / total;
    let made = upto(counts.succeeded);
    let done = upto(counts.done());
    let begun = upto(counts.done() + counts.in_progress);
    // a single failure among thousands is seen
    let (made, done) =
        if counts.failed > 0 && done == made { (made.saturating_sub(1), done.max(1)) } else { (made, done) };
    let begun = begun.max(done);
    [
        paint.style(&"█".repeat(made), Style::new().green()),
        paint.style(&"▓".repeat(done - made), Style::new().red()),
        paint.style(&"▒".repeat(begun - done), Style::new().cyan()),
        paint.style(&"░".repeat(width - begun), Style::new().dim()),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::json;
    use unicode_width::UnicodeWidthStr as _;

    use super::{Pace, Paint, frame};
    use crate::cli::client::Batch;

    fn batch(counts: [usize; 4], price: i64) -> Batch {
        let [waiting, in_progress, succeeded, failed] = counts;
        let total: usize = counts.iter().sum();
        let (frozen, refunded) = (total as i64 * price, failed as i64 * price);
        serde_json::from_value(json!({
            "batch_id": "bat_1", "status": "processing", "request_id": "r", "created_at": "2026-11-23T10:00:00Z",
            "counts": {"total": total, "waiting": waiting, "in_progress": in_progress, "succeeded": succeeded, "failed": failed},
            "credits": {"frozen": frozen, "charged": 0, "refunded": refunded, "held": frozen - refunded},
        }))
        .unwrap()
    }

    fn pace(per_sec: usize) -> Pace {
        let (mut pace, start) = (Pace::default(), Instant::now());
        (0..=5).for_each(|second| pace.note(start + Duration::from_secs(second as u64), second * per_sec));
        pace
    }

    const PLAIN: Paint = Paint { colours: false };

    #[test]
    fn the_frame_at_80_columns() {
        let lines = frame(&batch([188, 200, 588, 24], 61), &pace(12), None, (79, PLAIN));
        assert_eq!(
            lines,
            [
                "  ███████████████████████████████████▓▒▒▒▒▒▒▒▒▒▒▒▒░░░░░░░░░░░░   61%  612/1,000",
                "  588 succeeded, 24 failed, 200 running, 188 waiting - 12.0/s, 33 s left",
                "  credits: 61,000 frozen = 0 charged + 1,464 refunded + 59,536 held",
            ]
        );
    }

    #[test]
    fn no_line_is_longer_than_the_terminal_is_wide() {
        for counts in [[1_000_000, 0, 0, 0], [0, 10_000, 888_888, 999_999], [0, 0, 1, 0], [0, 0, 0, 9_999]] {
            for width in 20..200 {
                for line in frame(&batch(counts, 123_456_789), &pace(3), Some(&"lost ".repeat(60)), (width, PLAIN)) {
                    assert!(line.width() <= width, "{width}: {line}");
                }
            }
        }
    }

    #[test]
    fn one_failure_among_thousands_is_seen_and_the_bar_is_full_only_at_the_end() {
        let line = |counts| frame(&batch(counts, 1), &Pace::default(), None, (79, PLAIN)).remove(0);
        assert!(line([0, 0, 9_999, 1]).contains('▓'));
        assert!(line([5_000, 0, 4_999, 1]).contains('▓'));
        let nearly = line([0, 1, 9_999, 0]);
        assert!(nearly.contains("99%") && nearly.contains('▒'), "{nearly}");
        assert!(line([0, 0, 10_000, 0]).contains("100%"));
    }

    #[test]
    fn the_pace_is_that_of_the_last_minute() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.note(start, 500);
        assert_eq!(pace.per_sec(), None);
        (1..=300).for_each(|second| pace.note(start + Duration::from_secs(second), 500 + second as usize / 10));
        let rate = pace.per_sec().unwrap();
        assert!((0.09..0.11).contains(&rate), "{rate}");
        assert_eq!(pace.words(30), format!("{:.1}/min, 5 min 00 s left", rate * 60.0));
    }
}
