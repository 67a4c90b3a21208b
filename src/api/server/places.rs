//! The places that connections take: so many in all, so many from one client.
//!
//! Always holds: a place is given back exactly once, however its connection ends; when all are taken, whoever has been waited
//! for longest makes room, so that clients which only hold connections keep nobody out.
//!
//! Refuses: to end a connection whose request we are working on for the sake of a newcomer.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::watch::{Ended, Watch};
use crate::config::{ConnectionLimits, WaitLimits};
use crate::metrics;

/// A newcomer is left alone for this long, even when all places are taken.
const GRACE: Duration = Duration::from_secs(1);
/// After a search for somebody to make room found nobody, the next one waits this long: it looks at every connection.
const SEARCH_PAUSE: Duration = Duration::from_millis(100);
/// One search frees up to this part of the places, for the newcomers after this one.
const FREED_AT_ONCE: usize = 64;

/// Why a connection got no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All places are taken by requests under way.
    Total,
    /// This client has all that it may have.
    Peer,
}

impl Full {
    pub const ALL: [Full; 2] = [Full::Total, Full::Peer];

    pub fn word(self) -> &'static str {
        match self {
            Full::Total => "total",
            Full::Peer => "peer",
        }
    }
}

/// Every open connection of one port.
pub struct Places {
    /// The port's word in the metrics.
    port: &'static str,
    limits: ConnectionLimits,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    open: HashMap<u64, (IpAddr, Arc<Watch>)>,
    by_peer: HashMap<IpAddr, usize>,
    /// Whose connections were searched last without finding one to end, and when.
    fruitless_search: Option<(Option<IpAddr>, Instant)>,
}

/// The place of one connection.
pub struct Place {
    places: Arc<Places>,
    number: u64,
    pub watch: Arc<Watch>,
}

impl Places {
    pub fn new(port: &'static str, limits: ConnectionLimits) -> Arc<Places> {
        Arc::new(Places { port, limits, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `peer`.
    pub fn take(self: &Arc<Self>, peer: IpAddr, now: Instant) -> Result<Place, Full> {
        let peer = client(peer);
        let mut taken = self.taken();
        let of_peer = |taken: &Taken| taken.by_peer.get(&peer).copied().unwrap_or_default();
        if of_peer(&taken) >= self.limits.per_peer && !taken.make_room(Some(peer), self.limits.per_peer, now) {
            return Err(Full::Peer);
        }
        if taken.open.len() >= self.limits.total && !taken.make_room(None, self.limits.total, now) {
            return Err(Full::Total);
        }
        taken.next += 1;
        let (number, watch) = (taken.next, Watch::new(now));
        taken.open.insert(number, (peer, watch.clone()));
        *taken.by_peer.entry(peer).or_default() += 1;
        Ok(Place { places: self.clone(), number, watch })
    }

    /// Ends every connection whose client was waited for too long, and counts the others.
    fn sweep(&self, limits: &WaitLimits, now: Instant) {
        let (mut busy, mut waiting) = (0, 0);
        for (_, watch) in self.taken().open.values() {
            if let Some(reason) = watch.overdue(limits, now) {
                end(watch, reason);
            } else if watch.is_busy() {
                busy += 1;
            } else {
                waiting += 1;
            }
        }
        metrics::http_connections(self.port, busy, waiting);
    }

    /// Sweeps until `stop`, often enough that no limit is passed by more than a quarter of it or a second.
    pub async fn keep_swept(self: Arc<Self>, limits: WaitLimits, stop: CancellationToken) {
        let shortest = limits.header.min(limits.idle).min(limits.response_stall);
        let mut tick = tokio::time::interval((shortest / 4).min(Duration::from_secs(1)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.sweep(&limits, Instant::now());
        }
        metrics::http_connections(self.port, 0, 0);
    }
}

impl Taken {
    fn give_back(&mut self, number: u64) -> Option<Arc<Watch>> {
        let (peer, watch) = self.open.remove(&number)?;
        if let Some(count) = self.by_peer.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.by_peer.remove(&peer);
            }
        }
        Some(watch)
    }

    /// Ends those connections (of `peer` alone, if named) that were waited for longest; answers whether there were any.
    fn make_room(&mut self, peer: Option<IpAddr>, places: usize, now: Instant) -> bool {
        let lately =
            |(whose, at): (Option<IpAddr>, Instant)| whose == peer && now.saturating_duration_since(at) < SEARCH_PAUSE;
        if self.fruitless_search.is_some_and(lately) {
            return false;
        }
        let theirs = self.open.iter().filter(|(_, (owner, _))| peer.is_none_or(|peer| *owner == peer));
        let mut waiting: Vec<(Duration, u64)> = theirs
            .filter_map(|(number, (_, watch))| Some((watch.waiting(now)?, *number)))
            .filter(|(waited, _)| *waited >= GRACE)
            .collect();
        if waiting.is_empty() {
            self.fruitless_search = Some((peer, now));
            return false;
        }
        waiting.sort_unstable_by(|one, other| other.cmp(one));
        for (_, number) in waiting.into_iter().take((places / FREED_AT_ONCE).max(1)) {
            if let Some(watch) = self.give_back(number) {
                end(&watch, Ended::Evicted);
            }
        }
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().give_back(self.number);
    }
}

/// Ends a connection and counts it.
pub fn end(watch: &Watch, reason: Ended) {
    if watch.end(reason) {
        metrics::http_connection_ended(reason.word());
    }
}

/// One customer has one IPv4 address, or a whole IPv6 network of 64 bits.
pub fn client(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::{Full, Place, Places, client};
    use crate::config::ConnectionLimits;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn places(total: usize, per_peer: usize) -> Arc<Places> {
        Places::new("test", ConnectionLimits { total, per_peer, streams: 1 })
    }

    #[test]
    fn a_client_is_an_address_or_a_network() {
        assert_eq!(client(ip("::ffff:10.1.2.3")), ip("10.1.2.3"));
        assert_eq!(client(ip("2001:db8:1:2:3:4:5:6")), ip("2001:db8:1:2::"));
    }

    #[test]
    fn places_come_back_and_nobody_is_counted_twice() {
        let (places, now) = (places(3, 2), Instant::now());
        let take = |peer: &str| places.take(ip(peer), now);
        let (a, b) = (take("10.0.0.1").ok().unwrap(), take("10.0.0.1").ok().unwrap());
        assert_eq!(take("10.0.0.1").err(), Some(Full::Peer));
        let c = take("10.0.0.2").ok().unwrap();
        assert_eq!(take("10.0.0.3").err(), Some(Full::Total));
        drop((a, c));
        assert_eq!(places.taken().open.len(), 1);
        drop(b);
        assert!(places.taken().open.is_empty() && places.taken().by_peer.is_empty());
    }

    #[test]
    fn who_waits_longest_makes_room_and_who_is_served_does_not() {
        let (places, start) = (places(3, 3), Instant::now());
        let take = |after: u64| places.take(ip("10.0.0.1"), start + Duration::from_secs(after));
        let served: Place = take(0).ok().unwrap();
        let _request = served.watch.begin(false);
        let (older, newer) = (take(1).ok().unwrap(), take(2).ok().unwrap());
        let fourth = take(4).ok().unwrap();
        assert!(older.watch.is_ended() && !newer.watch.is_ended() && !served.watch.is_ended());
        assert_eq!(places.taken().open.len(), 3);
        drop(older);
        assert_eq!(places.taken().open.len(), 3, "its place was given back when it was ended");
        // the newest of all is left alone
        let _requests = (newer.watch.begin(false), fourth.watch.begin(false));
        assert_eq!(take(9).err(), Some(Full::Peer));
    }
}
