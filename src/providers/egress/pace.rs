//! How slowly a file may come.
//!
//! A source that drips holds a slot and memory that others wait for, so a file that comes more slowly than [`PACE`] is ended:
//! about a minute after it stopped coming. Always holds: only the time in which we wait for the source counts, never the time
//! in which it waits for us. Where many files share a line of ours that is full, the line is to blame and not the source: then
//! a file is ended only if it is far behind the others, or a crowd of honest ones would be fetched again and again.
//! Refuses: to bound the whole download, which the request's own time limit does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, Stream, StreamExt as _};
use tokio::time::Instant;

use super::super::{FetchError, ReadError};

/// How fast a file has to come.
#[derive(Clone, Copy, Debug)]
struct Pace {
    least_bytes_per_sec: u64,
    /// The average is taken over as much waiting as this. The first window is for starting up and is not judged.
    window: Duration,
}

/// Half a megabit a second: a clip of 4 MB takes a minute then. Providers keep their files at hosts that send a hundred times
/// as fast.
const PACE: Pace = Pace { least_bytes_per_sec: 64 << 10, window: Duration::from_secs(30) };
/// A process that receives less than this in all has room on its line for more: a machine that has not does not serve files.
const BUSY_BYTES_PER_SEC: u64 = 1 << 20;
/// Behind the others means: less than this part of what the average download got.
const FAR_BEHIND: u64 = 4;

/// The line on which all downloads of a process come. Clones are the same line.
#[derive(Clone, Debug)]
pub(in crate::providers) struct Line {
    traffic: Arc<Traffic>,
    pace: Pace,
}

#[derive(Debug, Default)]
struct Traffic {
    received_bytes: AtomicU64,
    downloads: AtomicU64,
}

/// A download's place on the line.
struct Place(Arc<Traffic>);

impl Place {
    fn on(traffic: &Arc<Traffic>) -> Place {
        traffic.downloads.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(traffic))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.downloads.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Line {
    fn default() -> Line {
        Line { traffic: Arc::default(), pace: PACE }
    }
}

impl Line {
    /// One that does not wait for long.
    #[cfg(test)]
    pub(in crate::providers) fn hasty() -> Line {
        Line { pace: Pace { window: Duration::from_millis(100), ..PACE }, ..Line::default() }
    }

    /// `source`, for as long as it comes fast enough.
    pub(in crate::providers) fn paced(
        &self,
        source: impl Stream<Item = Result<Bytes, FetchError>> + Send + 'static,
    ) -> impl Stream<Item = Result<Bytes, FetchError>> + Send + 'static {
        let (place, pace) = (Place::on(&self.traffic), self.pace);
        let window = Window::begin(pace, &place.0, false);
        stream::try_unfold(Paced { source: source.boxed(), place, pace, window }, Paced::next)
    }
}

/// What came in the present stretch of waiting.
struct Window {
    /// Of the waiting that belongs to it.
    left: Duration,
    bytes: u64,
    began: Instant,
    /// What the line had received when it began.
    line_bytes: u64,
    judged: bool,
}

/// What the whole line did meanwhile.
struct Others {
    bytes: u64,
    downloads: u64,
    passed: Duration,
}

impl Pace {
    fn least_bytes(self) -> u64 {
        let millis = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        self.least_bytes_per_sec.saturating_mul(millis) / 1000
    }
}

impl Window {
    fn begin(pace: Pace, traffic: &Traffic, judged: bool) -> Window {
        let line_bytes = traffic.received_bytes.load(Ordering::Relaxed);
        Window { left: pace.window, bytes: 0, began: Instant::now(), line_bytes, judged }
    }

    fn others(&self, traffic: &Traffic) -> Others {
        Others {
            bytes: traffic.received_bytes.load(Ordering::Relaxed).saturating_sub(self.line_bytes),
            downloads: traffic.downloads.load(Ordering::Relaxed),
            passed: self.began.elapsed(),
        }
    }

    fn is_too_slow(&self, pace: Pace, traffic: &Traffic) -> bool {
        self.judged && self.bytes < pace.least_bytes() && !self.others(traffic).excuse(self.bytes)
    }
}

impl Others {
    /// Whether the line was full, and a download that got `bytes` had its part of it.
    fn excuse(&self, bytes: u64) -> bool {
        let is_full = self.bytes >= BUSY_BYTES_PER_SEC.saturating_mul(self.passed.as_secs().max(1));
        is_full && bytes >= self.bytes / self.downloads.max(1) / FAR_BEHIND
    }
}

struct Paced {
    source: BoxStream<'static, Result<Bytes, FetchError>>,
    place: Place,
    pace: Pace,
    window: Window,
}

impl Paced {
    async fn next(mut self) -> Result<Option<(Bytes, Paced)>, FetchError> {
        loop {
            let asked = Instant::now();
            match tokio::time::timeout(self.window.left, self.source.next()).await {
                Ok(None) => return Ok(None),
                Ok(Some(chunk)) => {
                    let chunk = chunk?;
                    self.came(chunk.len() as u64, asked.elapsed());
                    return Ok(Some((chunk, self)));
                }
                Err(_) => self.window = self.next_window()?,
            }
        }
    }

    fn came(&mut self, bytes: u64, waited: Duration) {
        self.window.left = self.window.left.saturating_sub(waited);
        self.window.bytes += bytes;
        self.place.0.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn next_window(&self) -> Result<Window, FetchError> {
        let Window { bytes, .. } = self.window;
        if self.window.is_too_slow(self.pace, &self.place.0) {
            let cause = format!("the file comes too slowly: {bytes} bytes in {} s", self.pace.window.as_secs_f32());
            return Err(FetchError::Read(ReadError::Unavailable { cause }));
        }
        Ok(Window::begin(self.pace, &self.place.0, true))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;

    /// Plays a download second by second against the judge: what it brings in each. Answers in which second it is ended.
    fn ended_in(brings: impl Fn(u64) -> u64, seconds: u64) -> Option<u64> {
        let line = Line::default();
        let place = Place::on(&line.traffic);
        let window = Window::begin(PACE, &place.0, false);
        let mut paced = Paced { source: stream::pending().boxed(), place, pace: PACE, window };
        for second in 1..=seconds {
            paced.came(brings(second), Duration::from_secs(1));
            paced.window.began -= Duration::from_secs(1);
            if paced.window.left.is_zero() {
                match paced.next_window() {
                    Ok(next) => paced.window = next,
                    Err(FetchError::Read(ReadError::Unavailable { .. })) => return Some(second),
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
        None
    }

    #[test]
    fn a_source_that_drips_or_falls_silent_is_ended_within_a_minute() {
        assert_eq!(ended_in(|_| 1, 300), Some(60));
        assert_eq!(ended_in(|_| 0, 300), Some(60));
        assert_eq!(ended_in(|_| (64 << 10) - 1, 300), Some(60));
        // what it brought before does not count
        assert_eq!(ended_in(|second| if second <= 45 { 10 << 20 } else { 1 }, 300), Some(90));
    }

    #[test]
    fn a_source_of_the_least_rate_is_waited_for_however_unevenly_it_sends() {
        assert_eq!(ended_in(|_| 64 << 10, 3000), None);
        assert_eq!(ended_in(|second| if second.is_multiple_of(15) { 960 << 10 } else { 0 }, 3000), None);
        // slow to begin
        assert_eq!(ended_in(|second| if second < 30 { 0 } else { 64 << 10 }, 3000), None);
    }

    #[test]
    fn on_a_full_line_only_what_is_far_behind_the_others_is_ended() {
        // a hundred share two megabytes a second
        let full = Others { bytes: 60_000_000, downloads: 100, passed: Duration::from_secs(30) };
        assert!(full.excuse(600_000) && full.excuse(150_000) && !full.excuse(149_999) && !full.excuse(30));
        // a line that has room is no excuse, and neither is one that is full with oneself
        let idle = Others { bytes: 30_000_000, ..full };
        assert!(!idle.excuse(300_000));
    }

    #[test]
    fn a_download_leaves_the_line_when_it_is_dropped() {
        let line = Line::default();
        let downloads = || line.traffic.downloads.load(Ordering::Relaxed);
        let paced = line.paced(stream::empty());
        assert_eq!(downloads(), 1);
        drop(paced);
        assert_eq!(downloads(), 0);
    }

    #[tokio::test]
    async fn a_silent_stream_ends_with_an_error_and_a_short_one_whole() {
        let line = Line::hasty();
        let first = stream::iter([Ok(Bytes::from_static(b"film"))]);
        let ended = line.paced(first.clone().chain(stream::pending())).try_collect::<Vec<_>>().await;
        assert!(
            matches!(&ended, Err(FetchError::Read(ReadError::Unavailable { cause })) if cause.contains("too slowly")),
            "{ended:?}"
        );
        assert_eq!(line.paced(first).try_collect::<Vec<_>>().await.unwrap(), ["film"]);
    }

    #[tokio::test]
    async fn the_time_in_which_nobody_asks_for_more_is_not_the_sources() {
        let line = Line::hasty();
        let mut paced = Box::pin(line.paced(stream::iter((0..5).map(|_| Ok(Bytes::from_static(b"film"))))));
        while let Some(chunk) = paced.next().await {
            assert_eq!(chunk.unwrap(), "film");
            // longer than two windows
            tokio::time::sleep(3 * line.pace.window).await;
        }
    }
}
