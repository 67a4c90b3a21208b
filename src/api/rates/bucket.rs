//! Buckets of requests: one for each key, tenant or address, each with a size of its own.
//!
//! Owns the limiters of `governor`. Always holds: a bucket of `n` fills up within [`MINUTE`], one request at a time, so `n`
//! are answered at once, `n` a minute for long, and fewer than `2n` in any minute; a request that is refused uses nothing
//! up. A bucket whose size changes stays as empty as it was (in parts of its size), so no change grants anything afresh. One
//! that nobody asked for a minute is full and is forgotten.
//!
//! Refuses: more than so many buckets at once; whoever finds no room shares one with all others who found none.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, Reference as _};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// The window of every limit.
pub const MINUTE: Duration = Duration::from_secs(60);
/// Between two searches for room, when all of it is taken: each looks at every bucket.
const SEARCH_PAUSE: Duration = Duration::from_secs(1);

type Limiter<C> = RateLimiter<NotKeyed, InMemoryState, C, StateInformationMiddleware>;

/// What a bucket said to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    pub allowed: bool,
    /// Requests that fit into the bucket.
    pub quota: u32,
    /// Requests that may follow at once.
    pub remaining: u32,
    /// Until the next request may follow; zero while any remain.
    pub wait: Duration,
}

struct Bucket<C: Clock> {
    limiter: Limiter<C>,
    quota: NonZeroU32,
    asked: C::Instant,
    /// Requests that turned out not to count.
    given_back: u32,
}

impl<C: Clock + Clone> Bucket<C> {
    fn full(quota: NonZeroU32, clock: &C) -> Bucket<C> {
        let limiter = RateLimiter::direct_with_clock(Quota::per_minute(quota), clock.clone()).with_middleware();
        Bucket { limiter, quota, asked: clock.now(), given_back: 0 }
    }

    fn ask(&mut self, clock: &C) -> Level {
        let quota = self.quota.get();
        let level = |allowed, remaining, wait| Level { allowed, quota, remaining, wait };
        if self.given_back > 0 {
            self.given_back -= 1;
            return level(true, 0, Duration::ZERO);
        }
        match self.limiter.check() {
            Ok(state) => match state.remaining_burst_capacity() {
                0 => level(true, 0, MINUTE / quota),
                remaining => level(true, remaining, Duration::ZERO),
            },
            // time goes on between the two looks at the clock, and nobody is told to come back at once
            Err(until) => level(false, 0, until.wait_time_from(clock.now()).max(Duration::from_nanos(1))),
        }
    }

    /// Takes another size, and is as empty as before: a limiter cannot change its size, and a new one is full.
    fn resize(&mut self, quota: NonZeroU32, clock: &C) {
        if quota == self.quota {
            return;
        }
        let left = self.limiter.check().map_or(0, |state| state.remaining_burst_capacity().saturating_add(1));
        let used = u64::from(self.quota.get().saturating_sub(left));
        let used = (used * u64::from(quota.get())).div_ceil(u64::from(self.quota.get()));
        let fresh = Bucket::full(quota, clock);
        if let Some(used) = u32::try_from(used).ok().and_then(NonZeroU32::new) {
            // never more than fits: `used` was a part of the old size and is the same part of the new one
            let _ = fresh.limiter.check_n(used);
        }
        *self = fresh;
    }
}

/// The buckets of everybody, by whose they are.
pub struct Buckets<K, C: Clock> {
    clock: C,
    /// Buckets at once.
    most: usize,
    kept: Mutex<Kept<K, C>>,
}

struct Kept<K, C: Clock> {
    /// `None` is shared by those for whom there was no room.
    all: HashMap<Option<K>, Bucket<C>>,
    searched: C::Instant,
}

impl<K: Eq + Hash, C: Clock + Clone> Buckets<K, C> {
    pub fn new(most: usize, clock: C) -> Buckets<K, C> {
        let kept = Kept { all: HashMap::new(), searched: clock.now() };
        Buckets { clock, most, kept: Mutex::new(kept) }
    }

    /// A request of `whose`, who may make `quota` a minute from now on.
    pub fn ask(&self, whose: K, quota: NonZeroU32) -> Level {
        let now = self.clock.now();
        let mut kept = self.kept();
        self.forget_the_full(&mut kept, now);
        let whose = self.place(&kept, whose);
        let bucket = kept.all.entry(whose).or_insert_with(|| Bucket::full(quota, &self.clock));
        bucket.resize(quota, &self.clock);
        bucket.asked = now;
        bucket.ask(&self.clock)
    }

    /// The last request of `whose` does not count after all.
    pub fn give_back(&self, whose: K) {
        let mut kept = self.kept();
        let whose = self.place(&kept, whose);
        if let Some(bucket) = kept.all.get_mut(&whose) {
            bucket.given_back = bucket.given_back.saturating_add(1).min(bucket.quota.get());
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept<K, C>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, kept: &Kept<K, C>, whose: K) -> Option<K> {
        let whose = Some(whose);
        if kept.all.len() < self.most || kept.all.contains_key(&whose) { whose } else { None }
    }

    fn forget_the_full(&self, kept: &mut Kept<K, C>, now: C::Instant) {
        let since = |then: C::Instant| Duration::from(now.duration_since(then));
        let pause = if kept.all.len() < self.most { MINUTE } else { SEARCH_PAUSE };
        if since(kept.searched) < pause {
            return;
        }
        kept.searched = now;
        kept.all.retain(|_, bucket| since(bucket.asked) < MINUTE);
        kept.all.shrink_to(kept.all.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;

    fn buckets(most: usize) -> (Buckets<u8, FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Buckets::new(most, clock.clone()), clock)
    }

    fn size(quota: u32) -> NonZeroU32 {
        NonZeroU32::new(quota).unwrap()
    }

    /// How many of `tries` requests are answered.
    fn answered(buckets: &Buckets<u8, FakeRelativeClock>, whose: u8, quota: u32, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(buckets.ask(whose, size(quota)).allowed)).sum()
    }

    #[test]
    fn a_bucket_says_what_is_left_and_when_the_next_request_may_follow() {
        let (buckets, clock) = buckets(10);
        let level = |allowed, remaining, wait| Level { allowed, quota: 3, remaining, wait: Duration::from_secs(wait) };
        assert_eq!(buckets.ask(1, size(3)), level(true, 2, 0));
        assert_eq!(buckets.ask(1, size(3)), level(true, 1, 0));
        assert_eq!(buckets.ask(1, size(3)), level(true, 0, 20));
        clock.advance(Duration::from_secs(5));
        assert_eq!(buckets.ask(1, size(3)), level(false, 0, 15));
        assert_eq!(buckets.ask(2, size(3)).remaining, 2, "everybody has their own");
        clock.advance(Duration::from_secs(15));
        assert_eq!(buckets.ask(1, size(3)), level(true, 0, 20), "those that were refused used nothing up");
    }

    #[test]
    fn over_many_minutes_nobody_gets_more_than_the_limit_and_one_bucket() {
        let (buckets, clock) = buckets(10);
        let mut all = 0;
        for _ in 0..600 {
            all += answered(&buckets, 1, 60, 5);
            clock.advance(Duration::from_secs(1));
        }
        assert_eq!(all, 60 + 599);
    }

    #[test]
    fn a_changed_size_grants_nothing_afresh_however_often_it_changes() {
        let (buckets, clock) = buckets(10);
        assert_eq!(answered(&buckets, 1, 60, 100), 60);
        for quota in [600, 60, 1, 1_000_000, 60] {
            assert_eq!(answered(&buckets, 1, quota, 10), 0, "{quota}");
        }
        clock.advance(Duration::from_secs(1));
        assert_eq!(answered(&buckets, 1, 600, 100), 10, "a second of the new pace");
        // half of one is half of the other
        assert_eq!(answered(&buckets, 2, 60, 30), 30);
        assert_eq!(answered(&buckets, 2, 600, 1_000), 300);
        clock.advance(MINUTE);
        assert_eq!(answered(&buckets, 2, 10, 100), 10, "what is full stays full");
    }

    #[test]
    fn what_is_given_back_may_be_used_again_and_is_never_more_than_the_bucket() {
        let (buckets, _) = buckets(10);
        assert_eq!(answered(&buckets, 1, 5, 10), 5);
        buckets.give_back(1);
        assert_eq!(answered(&buckets, 1, 5, 10), 1);
        (0..100).for_each(|_| buckets.give_back(1));
        assert_eq!(answered(&buckets, 1, 5, 100), 5);
    }

    #[test]
    fn the_idle_are_forgotten_and_beyond_the_room_all_share_one_bucket() {
        let (buckets, clock) = buckets(3);
        assert_eq!(answered(&buckets, 1, 4, 10), 4);
        assert_eq!((2..=3).map(|whose| answered(&buckets, whose, 4, 10)).sum::<u32>(), 8);
        assert_eq!((4..=200).map(|whose| answered(&buckets, whose, 4, 10)).sum::<u32>(), 4, "one for all of them");
        assert_eq!(buckets.kept().all.len(), 4);
        clock.advance(Duration::from_secs(45));
        assert_eq!(answered(&buckets, 1, 4, 10), 3);
        clock.advance(Duration::from_secs(45));
        assert_eq!(answered(&buckets, 9, 4, 10), 4, "the idle made room");
        assert_eq!(buckets.kept().all.len(), 2);
        assert_eq!(answered(&buckets, 1, 4, 10), 3, "and nobody else was forgotten");
    }
}
