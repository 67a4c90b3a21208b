//! What is known of one connection: whether it sends a head, is answered, or waits; and since when.
//!
//! Always holds: at every moment a connection either has work of ours under way or a moment at which its client has waited
//! long enough; whoever finds that moment passed ends it, once and with its reason.
//!
//! Refuses: timers of its own. One sweep looks at all connections ([`super::places`]), so that thousands of idle ones cost
//! nothing in between.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::config::WaitLimits;

/// Why we ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No TLS session within the time allowed.
    Handshake,
    /// No whole head of a request.
    Header,
    /// No request.
    Idle,
    /// An answer that is not read.
    Response,
    /// Nothing wrong, but somebody else needed the place more.
    Evicted,
    /// The service stopped before the last request was answered.
    Stopped,
}

impl Ended {
    pub const ALL: [Ended; 6] =
        [Ended::Handshake, Ended::Header, Ended::Idle, Ended::Response, Ended::Evicted, Ended::Stopped];

    pub fn word(self) -> &'static str {
        match self {
            Ended::Handshake => "handshake",
            Ended::Header => "header",
            Ended::Idle => "idle",
            Ended::Response => "response",
            Ended::Evicted => "evicted",
            Ended::Stopped => "stopped",
        }
    }
}

/// One connection. Shared by its socket, its requests and the sweep.
pub struct Watch {
    state: Mutex<State>,
    ended: CancellationToken,
}

struct State {
    /// Since when the client is waited for, while no request is under way.
    waiting_since: Instant,
    /// Since when a head is being received.
    head_since: Option<Instant>,
    /// No request came yet.
    fresh: bool,
    /// Frames of HTTP/2 that are no requests come at any time; a head is not told from them.
    http2: bool,
    /// Requests under way, from the end of the head to the end of the answer.
    requests: usize,
    /// Answers of which a piece has been handed over and no further one was asked for, since when. Few, as streams are.
    unread: Vec<(u64, Instant)>,
    answers: u64,
    /// Since when the socket takes nothing more of what was handed over.
    blocked_since: Option<Instant>,
    /// A body was left unread, so the client may still be sending it.
    body_left: bool,
    reason: Option<Ended>,
}

impl Watch {
    pub fn new(now: Instant) -> Arc<Watch> {
        let state = State {
            waiting_since: now,
            head_since: None,
            fresh: true,
            http2: false,
            requests: 0,
            unread: Vec::new(),
            answers: 0,
            blocked_since: None,
            body_left: false,
            reason: None,
        };
        Arc::new(Watch { state: Mutex::new(state), ended: CancellationToken::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The TLS session is there: the wait for the first request begins anew.
    pub fn encrypted(&self) {
        let mut state = self.state();
        state.waiting_since = Instant::now();
        state.head_since = None;
    }

    /// Bytes came from the client.
    pub fn received(&self) {
        let mut state = self.state();
        if state.requests == 0 && !state.http2 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
        }
    }

    /// The socket took nothing more.
    pub fn blocked(&self) {
        self.state().blocked_since.get_or_insert_with(Instant::now);
    }

    /// The socket took something. Meanwhile nothing was read, so other waits begin anew.
    pub fn unblocked(&self) {
        let mut state = self.state();
        if state.blocked_since.take().is_some() {
            let now = Instant::now();
            state.waiting_since = now;
            state.head_since = state.head_since.map(|_| now);
        }
    }

    /// The head of a request is complete; the request is under way until what this answers is dropped.
    pub fn begin(self: &Arc<Self>, http2: bool) -> Underway {
        let mut state = self.state();
        state.fresh = false;
        state.http2 = http2;
        state.head_since = None;
        state.requests += 1;
        state.answers += 1;
        Underway { watch: self.clone(), answer: state.answers }
    }

    pub fn leave_body(&self) {
        self.state().body_left = true;
    }

    /// Whether the client may be in the middle of sending, so that closing at once would destroy our answer on its way.
    pub fn may_be_sending(&self) -> bool {
        let state = self.state();
        state.body_left || state.head_since.is_some()
    }

    pub fn is_busy(&self) -> bool {
        self.state().requests > 0
    }

    /// How long the client has been waited for, if we have nothing to do for it: it sends no request, or it reads none of
    /// its answers.
    pub fn waiting(&self, now: Instant) -> Option<Duration> {
        let state = self.state();
        let since = match state.requests {
            _ if state.reason.is_some() => None,
            0 => state.blocked_since.or(state.head_since).or(Some(state.waiting_since)),
            requests if requests == state.unread.len() => state.unread.iter().map(|(_, since)| *since).max(),
            _ => None,
        };
        since.map(|since| now.saturating_duration_since(since))
    }

    /// What the client has been waited for too long for.
    pub fn overdue(&self, limits: &WaitLimits, now: Instant) -> Option<Ended> {
        let state = self.state();
        let past = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        if state.reason.is_some() {
            return None;
        }
        if state.requests > 0 || state.blocked_since.is_some() {
            let mut unread = state.unread.iter().map(|(_, since)| *since).chain(state.blocked_since);
            return unread.any(|since| past(since, limits.response_stall)).then_some(Ended::Response);
        }
        if let Some(since) = state.head_since {
            return past(since, limits.header).then_some(Ended::Header);
        }
        let (limit, reason) = if state.fresh { (limits.header, Ended::Header) } else { (limits.idle, Ended::Idle) };
        past(state.waiting_since, limit).then_some(reason)
    }

    /// Ends the connection; answers whether it was not ended yet.
    pub fn end(&self, reason: Ended) -> bool {
        let first = self.state().reason.replace(reason).is_none();
        self.ended.cancel();
        first
    }

    /// Resolves when somebody ended the connection.
    pub fn ended(&self) -> WaitForCancellationFuture<'_> {
        self.ended.cancelled()
    }

    pub fn is_ended(&self) -> bool {
        self.ended.is_cancelled()
    }
}

/// A request from the end of its head to the end of its answer.
pub struct Underway {
    watch: Arc<Watch>,
    answer: u64,
}

impl Underway {
    /// A piece of the answer was handed over: the client's turn.
    pub fn handed_over(&self) {
        let mut state = self.watch.state();
        if !state.unread.iter().any(|(answer, _)| *answer == self.answer) {
            state.unread.push((self.answer, Instant::now()));
        }
    }

    /// The next piece is asked for: our turn.
    pub fn asked_for(&self) {
        self.watch.state().unread.retain(|(answer, _)| *answer != self.answer);
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut state = self.watch.state();
        state.unread.retain(|(answer, _)| *answer != self.answer);
        state.requests -= 1;
        if state.requests == 0 {
            state.waiting_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Ended, Watch};
    use crate::config::{Config, WaitLimits};

    fn limits() -> WaitLimits {
        Config::from_sources("", []).unwrap().http.waits
    }

    fn after(secs: u64) -> Instant {
        Instant::now() + Duration::from_secs(secs)
    }

    #[test]
    fn a_client_is_waited_for_by_what_it_owes() {
        let (limits, watch) = (limits(), Watch::new(Instant::now()));
        assert_eq!((watch.overdue(&limits, after(9)), watch.overdue(&limits, after(11))), (None, Some(Ended::Header)));
        let request = watch.begin(false);
        assert_eq!(watch.overdue(&limits, after(100_000)), None, "our own work has no end here");
        request.handed_over();
        assert_eq!(
            (watch.overdue(&limits, after(59)), watch.overdue(&limits, after(61))),
            (None, Some(Ended::Response))
        );
        request.asked_for();
        assert_eq!(watch.overdue(&limits, after(100_000)), None);
        drop(request);
        assert_eq!((watch.overdue(&limits, after(74)), watch.overdue(&limits, after(76))), (None, Some(Ended::Idle)));
        watch.received();
        assert_eq!(watch.overdue(&limits, after(11)), Some(Ended::Header));
        assert!(watch.end(Ended::Header) && !watch.end(Ended::Idle) && watch.is_ended());
        assert_eq!(watch.overdue(&limits, after(11)), None, "a connection ends once");
    }

    #[test]
    fn an_answer_that_was_handed_over_has_still_to_be_taken() {
        let (limits, watch) = (limits(), Watch::new(Instant::now()));
        drop(watch.begin(false));
        watch.received();
        watch.blocked();
        assert_eq!(
            (watch.overdue(&limits, after(59)), watch.overdue(&limits, after(61))),
            (None, Some(Ended::Response))
        );
        watch.unblocked();
        assert_eq!((watch.overdue(&limits, after(9)), watch.overdue(&limits, after(11))), (None, Some(Ended::Header)));
    }

    #[test]
    fn frames_between_requests_are_no_head() {
        let (limits, watch) = (limits(), Watch::new(Instant::now()));
        drop((watch.begin(true), watch.begin(true)));
        watch.received();
        assert_eq!((watch.overdue(&limits, after(74)), watch.overdue(&limits, after(76))), (None, Some(Ended::Idle)));
    }

    #[test]
    fn one_stuck_answer_among_many_is_seen() {
        let (limits, watch) = (limits(), Watch::new(Instant::now()));
        let (first, second) = (watch.begin(true), watch.begin(true));
        first.handed_over();
        second.handed_over();
        second.asked_for();
        assert_eq!(watch.overdue(&limits, after(61)), Some(Ended::Response));
        drop(first);
        assert_eq!(watch.overdue(&limits, after(61)), None);
        assert!(watch.is_busy() && watch.waiting(after(1)).is_none());
        second.handed_over();
        assert!(watch.waiting(after(5)).unwrap() > Duration::from_secs(4));
        drop(second);
        assert!(!watch.is_busy() && watch.waiting(after(5)).unwrap() > Duration::from_secs(4));
    }
}
