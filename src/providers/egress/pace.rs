//! How slowly a file may come.
//!
//! A source that drips holds a slot and memory that others wait for, so a file that comes more slowly than
//! [`LEAST_BYTES_PER_SEC`] is ended: at the latest about a minute after it stopped coming. Always holds: only the time in
//! which we wait for the source counts, never the time in which it waits for us. Where many files share a line of ours that
//! is full, the line is to blame and not the source: then a file is ended only if it is far behind the others.
//! Refuses: to bound the whole download, which the request's own time limit does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, Stream, StreamExt as _};
use tokio::time::Instant;

use super::super::{FetchError, ReadError};

/// Half a megabit a second: a clip of 4 MB takes a minute then. Providers keep their files at hosts that send a hundred
/// times as fast.
const LEAST_BYTES_PER_SEC: u64 = 64 << 10;
/// The average is taken over as much waiting as this. The first window is for starting up and is not judged.
const WINDOW: Duration = Duration::from_secs(30);
/// A process that receives less than this in all has room on its line for more: a machine that has not does not serve files.
const BUSY_BYTES_PER_SEC: u64 = 1 << 20;
/// Behind the others means: less than this part of what the average download got.
const FAR_BEHIND: u64 = 4;

/// The line on which all downloads of a process come. Clones are the same line.
#[derive(Clone, Debug, Default)]
pub(in crate::providers) struct Line(Arc<Traffic>);

#[derive(Debug, Default)]
struct Traffic {
    received_bytes: AtomicU64,
    downloads: AtomicU64,
}

/// A download's place on the line.
struct Place(Arc<Traffic>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.downloads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What came in the present stretch of time.
struct Window {
    /// Of the waiting that belongs to it.
    left: Duration,
    bytes: u64,
    began: Instant,
    /// What the line had received when it began.
    line_bytes: u64,
    judged: bool,
}

struct Paced {
    source: BoxStream<'static, Result<Bytes, FetchError>>,
    place: Place,
    window: Window,
}

impl Line {
    /// `source`, for as long as it comes fast enough.
    pub(in crate::providers) fn paced(
        &self,
        source: impl Stream<Item = Result<Bytes, FetchError>> + Send + 'static,
    ) -> impl Stream<Item = Result<Bytes, FetchError>> + Send + 'static {
        self.0.downloads.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&self.0));
        let window = Window::begin(&place.0, false);
        stream::try_unfold(Paced { source: source.boxed(), place, window }, Paced::next)
    }
}

impl Window {
    fn begin(line: &Traffic, judged: bool) -> Window {
        let line_bytes = line.received_bytes.load(Ordering::Relaxed);
        Window { left: WINDOW, bytes: 0, began: Instant::now(), line_bytes, judged }
    }

    fn is_too_slow(&self, line: &Traffic) -> bool {
        self.judged && self.bytes < LEAST_BYTES_PER_SEC * WINDOW.as_secs() && !self.excused_by(line)
    }

    /// Whether the line was full, and this download had a fair part of it.
    fn excused_by(&self, line: &Traffic) -> bool {
        let all = line.received_bytes.load(Ordering::Relaxed).saturating_sub(self.line_bytes);
        let downloads = line.downloads.load(Ordering::Relaxed).max(1);
        let is_busy = all >= BUSY_BYTES_PER_SEC.saturating_mul(self.began.elapsed().as_secs().max(1));
        is_busy && self.bytes >= all / downloads / FAR_BEHIND
    }
}

impl Paced {
    async fn next(mut self) -> Result<Option<(Bytes, Paced)>, FetchError> {
        loop {
            let asked = Instant::now();
            match tokio::time::timeout(self.window.left, self.source.next()).await {
                Ok(None) => return Ok(None),
                Ok(Some(chunk)) => {
                    let chunk = chunk?;
                    self.window.left = self.window.left.saturating_sub(asked.elapsed());
                    self.window.bytes += chunk.len() as u64;
                    self.place.0.received_bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    return Ok(Some((chunk, self)));
                }
                Err(_) if self.window.is_too_slow(&self.place.0) => {
                    let cause =
                        format!("the file comes too slowly: {} bytes in {} s", self.window.bytes, WINDOW.as_secs());
                    return Err(FetchError::Read(ReadError::Unavailable { cause }));
                }
                Err(_) => self.window = Window::begin(&self.place.0, true),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;
    use tokio::time::{advance, sleep};

    use super::*;

    /// A source that sends `chunk` bytes every `pause`, `times` times.
    fn source(chunk: usize, pause: Duration, times: usize) -> impl Stream<Item = Result<Bytes, FetchError>> + Send {
        stream::unfold(0, move |sent| async move {
            if sent == times {
                return None;
            }
            sleep(pause).await;
            Some((Ok(Bytes::from(vec![7; chunk])), sent + 1))
        })
    }

    /// How long it took to come to its end, and how that was.
    async fn drained(
        line: &Line,
        source: impl Stream<Item = Result<Bytes, FetchError>> + Send + 'static,
    ) -> (u64, bool) {
        let began = Instant::now();
        let ended = line.paced(source).try_for_each(|_| async { Ok(()) }).await;
        if let Err(error) = &ended {
            let told =
                matches!(error, FetchError::Read(ReadError::Unavailable { cause }) if cause.contains("too slowly"));
            assert!(told, "{error:?}");
        }
        (began.elapsed().as_secs(), ended.is_ok())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_source_that_drips_or_falls_silent_is_ended_after_a_minute() {
        let line = Line::default();
        assert_eq!(drained(&line, source(1, SECOND, usize::MAX)).await, (60, false));
        assert_eq!(drained(&line, stream::pending()).await, (60, false));
        // it had been fast: what it had brought before does not count
        let fast_first = source(10 << 20, SECOND, 45).chain(source(1, SECOND, usize::MAX));
        let (secs, ended_well) = drained(&line, fast_first).await;
        assert!(!ended_well && (61..=90).contains(&secs), "{secs}");
        assert_eq!(line.0.downloads.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_of_the_least_rate_comes_to_its_end_however_unevenly_it_sends() {
        let line = Line::default();
        assert_eq!(drained(&line, source(64 << 10, SECOND, 200)).await, (200, true));
        assert_eq!(drained(&line, source(1 << 20, 14 * SECOND, 20)).await, (280, true));
        // slow to begin
        let late = stream::once(async {
            sleep(29 * SECOND).await;
            Ok(Bytes::new())
        });
        assert_eq!(drained(&line, late.chain(source(1 << 20, SECOND, 10))).await, (39, true));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_in_which_nobody_asks_for_more_is_not_the_sources() {
        let line = Line::default();
        let mut paced = Box::pin(line.paced(source(1000, SECOND, 10)));
        while let Some(chunk) = paced.next().await {
            assert_eq!(chunk.unwrap().len(), 1000);
            advance(100 * SECOND).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn on_a_full_line_only_those_far_behind_the_others_are_ended() {
        let line = Line::default();
        let mut downloads = tokio::task::JoinSet::new();
        // 100 share 2 MB a second, less for each than the least rate
        for _ in 0..100 {
            let line = line.clone();
            downloads.spawn(async move { (true, drained(&line, source(20_000, SECOND, 150)).await) });
        }
        for _ in 0..5 {
            let line = line.clone();
            downloads.spawn(async move { (false, drained(&line, source(1, SECOND, usize::MAX)).await) });
        }
        for (honest, ended) in downloads.join_all().await {
            assert_eq!(ended, if honest { (150, true) } else { (60, false) });
        }
    }
}
