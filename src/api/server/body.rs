//! Bodies in both directions, at the pace that their clients keep.
//!
//! Always holds: a request's body that comes too slowly ends with [`BodyFault::Slow`]; only the time in which we were ready to
//! read counts. An answer leaves in pieces of at most [`PIECE_BYTES`], so that a client which reads nothing is told from one
//! that reads slowly, on every version of HTTP.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use super::super::error::BodyFault;
use super::watch::{Underway, Watch};
use crate::config::WaitLimits;
use crate::metrics;

/// The most of an answer that is handed over at once.
const PIECE_BYTES: usize = 64 << 10;

/// One of the requests that may be processed at a time; empty while its client is waited for.
#[derive(Clone, Default)]
pub struct Turn(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Turn {
    /// Whether the request may be processed, now and until the last clone is dropped.
    pub fn take(&self, turns: &Arc<Semaphore>) -> bool {
        let mut turn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if turn.is_none() {
            *turn = turns.clone().try_acquire_owned().ok();
        }
        turn.is_some()
    }

    /// The client is waited for: others may be served meanwhile.
    fn give_back(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// What a client owes: so many bytes in so much waiting.
struct Pace {
    limits: WaitLimits,
    /// Waited for all of the body, and since the last look at the rate.
    waited: Duration,
    waited_lately: Duration,
    bytes_lately: u64,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    fn new(limits: WaitLimits) -> Pace {
        Pace {
            limits,
            waited: Duration::ZERO,
            waited_lately: Duration::ZERO,
            bytes_lately: 0,
            waiting_since: None,
            timer: None,
        }
    }

    fn received(&mut self, bytes: usize, now: Instant) {
        self.stop_waiting(now);
        self.bytes_lately += bytes as u64;
    }

    fn stop_waiting(&mut self, now: Instant) {
        if let Some(since) = self.waiting_since.take() {
            let waited = now - since;
            self.waited += waited;
            self.waited_lately += waited;
        }
    }

    /// The longest wait from `now` on, or `None` when the client was too slow.
    fn patience(&mut self, now: Instant) -> Option<Duration> {
        self.stop_waiting(now);
        self.waiting_since = Some(now);
        if self.waited_lately >= self.limits.body_stall {
            let owed = self.limits.body_min_bytes_per_sec.saturating_mul(self.waited_lately.as_secs());
            if self.bytes_lately < owed {
                return None;
            }
            (self.waited_lately, self.bytes_lately) = (Duration::ZERO, 0);
        }
        let left = self.limits.body.checked_sub(self.waited).filter(|left| !left.is_zero())?;
        Some(left.min(self.limits.body_stall - self.waited_lately))
    }

    /// Ready when the client was too slow.
    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            let Some(patience) = self.patience(now) else { return Poll::Ready(()) };
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
            timer.as_mut().reset(now + patience);
            ready!(timer.as_mut().poll(cx));
        }
    }
}

/// The body of a request.
pub struct Incoming<S> {
    inner: S,
    pace: Pace,
    turn: Turn,
    turns: Arc<Semaphore>,
    watch: Option<Arc<Watch>>,
    ended: bool,
}

impl<S> Incoming<S> {
    /// `turn` is given back while the client is waited for, and taken from `turns` again when the body is there.
    pub fn new(
        inner: S,
        limits: WaitLimits,
        (turn, turns): (Turn, Arc<Semaphore>),
        watch: Option<Arc<Watch>>,
    ) -> Incoming<S> {
        Incoming { inner, pace: Pace::new(limits), turn, turns, watch, ended: false }
    }
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> Stream for Incoming<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.inner).poll_next(cx) {
            Poll::Ready(Some(Ok(chunk))) => {
                this.pace.received(chunk.len(), Instant::now());
                Poll::Ready(Some(Ok(chunk)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
            Poll::Ready(None) => {
                let first = !std::mem::replace(&mut this.ended, true);
                let refused = first && !this.turn.take(&this.turns);
                if refused {
                    metrics::http_request_refused("requests");
                }
                Poll::Ready(refused.then(|| Err(io::Error::other(BodyFault::Busy))))
            }
            Poll::Pending => {
                this.turn.give_back();
                ready!(this.pace.poll_too_slow(cx));
                Poll::Ready(Some(Err(io::Error::other(BodyFault::Slow))))
            }
        }
    }
}

impl<S> Drop for Incoming<S> {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.as_ref().filter(|_| !self.ended) {
            watch.leave_body();
        }
    }
}

/// The body of an answer. The request is under way for as long as this lives.
pub struct Outgoing<B> {
    inner: B,
    /// What of the last frame was not handed over yet.
    rest: Bytes,
    underway: Underway,
}

impl<B> Outgoing<B> {
    pub fn new(inner: B, underway: Underway) -> Outgoing<B> {
        // with HTTP/2 the first piece is not asked for before the client allows it
        underway.handed_over();
        Outgoing { inner, rest: Bytes::new(), underway }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Outgoing<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        this.underway.asked_for();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => {
                        this.underway.handed_over();
                        return Poll::Ready(Some(Ok(trailers)));
                    }
                },
                other => return Poll::Ready(other),
            }
        }
        this.underway.handed_over();
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper().and_then(|upper| upper.checked_add(rest)) {
            hint.set_upper(upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Pace;
    use crate::config::Config;

    /// 10 s of stalling at 256 bytes a second, 300 s in all.
    fn pace() -> Pace {
        Pace::new(Config::from_sources("", []).unwrap().http.waits)
    }

    #[tokio::test]
    async fn a_body_owes_so_many_bytes_in_so_much_waiting() {
        let (mut pace, start) = (pace(), Instant::now());
        let at = |secs: u64| start + Duration::from_secs(secs);
        assert_eq!(pace.patience(at(0)), Some(Duration::from_secs(10)));
        pace.received(2_560, at(9));
        assert_eq!(pace.patience(at(9)), Some(Duration::from_secs(1)));
        assert_eq!(pace.patience(at(10)), Some(Duration::from_secs(10)), "what was owed came");
        pace.received(2_559, at(15));
        assert!(pace.patience(at(15)).is_some());
        assert_eq!(pace.patience(at(20)), None, "one byte too few");
    }

    #[tokio::test]
    async fn time_in_which_we_did_not_read_does_not_count() {
        let (mut pace, start) = (pace(), Instant::now());
        let at = |secs: u64| start + Duration::from_secs(secs);
        assert!(pace.patience(at(0)).is_some());
        pace.received(1, at(1));
        assert_eq!(pace.patience(at(1_000)), Some(Duration::from_secs(9)));
    }

    #[tokio::test]
    async fn no_body_takes_for_ever_however_steadily_it_comes() {
        let (mut pace, start) = (pace(), Instant::now());
        for secs in 0..300 {
            assert!(pace.patience(start + Duration::from_secs(secs)).is_some(), "{secs}");
            pace.received(10_000, start + Duration::from_secs(secs + 1));
        }
        assert_eq!(pace.patience(start + Duration::from_secs(300)), None);
    }
}
