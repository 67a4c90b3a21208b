//! The law of a rate: how many turns were given out in the last minute, exactly, as the whole cluster knows it.
//!
//! A turn may be used for some time after it was given out (its validity), so it counts for that time and [`COUNTED`] more:
//! then no 60 seconds in which turns were used hold more of them than the rate says, whenever each was used. Turns that were
//! given back count no more.
//!
//! Refuses: clocks. Time is the database's, in microseconds.

use std::collections::VecDeque;
use std::time::Duration;

/// How long a turn counts after the last moment at which it may be used: a minute, and what may pass from that moment to the
/// request's arrival.
pub(super) const COUNTED: Duration = Duration::from_millis(60_500);

/// The turns of one subject that still count.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Turns by the time (microseconds of the database) from which on they count no more, ascending.
    turns: VecDeque<(i64, u32)>,
    given_out: u32,
    /// Turns of a round that is not settled yet.
    tentative: u32,
}

impl Window {
    /// Forgets what counts no more.
    pub(super) fn advance(&mut self, now: i64) {
        while let Some((until, turns)) = self.turns.front().copied()
            && until <= now
        {
            self.turns.pop_front();
            self.given_out -= turns.min(self.given_out);
        }
    }

    pub(super) fn used(&self) -> u32 {
        self.given_out.saturating_add(self.tentative)
    }

    /// Takes a turn that is settled or taken back by [`Window::settle`].
    pub(super) fn take(&mut self) {
        self.tentative += 1;
    }

    /// Undoes one [`Window::take`].
    pub(super) fn untake(&mut self) {
        self.tentative = self.tentative.saturating_sub(1);
    }

    /// The round is over: what was taken in it is counted by [`Window::count`], or not at all.
    pub(super) fn settle(&mut self) {
        self.tentative = 0;
    }

    /// Counts turns until a time.
    pub(super) fn count(&mut self, until: i64, turns: u32) {
        let at = self.turns.partition_point(|(other, _)| *other <= until);
        match at.checked_sub(1).and_then(|before| self.turns.get_mut(before)) {
            Some((other, counted)) if *other == until => *counted += turns,
            _ => self.turns.insert(at, (until, turns)),
        }
        self.given_out = self.given_out.saturating_add(turns);
    }

    /// Counts turns no more that would have counted until a time.
    pub(super) fn give_back(&mut self, until: i64, turns: u32) {
        let at = self.turns.partition_point(|(other, _)| *other < until);
        let Some((_, counted)) = self.turns.get_mut(at).filter(|(other, _)| *other == until) else { return };
        let turns = turns.min(*counted);
        *counted -= turns;
        self.given_out -= turns.min(self.given_out);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used() == 0
    }

    /// When there are fewer turns than `limit`, if nothing more is given out; `None` when that is so now.
    pub(super) fn next_free(&self, limit: u32) -> Option<i64> {
        let mut left = self.used();
        if left < limit {
            return None;
        }
        self.turns.iter().find_map(|(until, turns)| {
            left -= left.min(*turns);
            (left < limit).then_some(*until)
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    #[test]
    fn turns_count_until_their_time_and_those_given_back_no_more() {
        let mut window = Window::default();
        window.count(100, 2);
        window.count(50, 1);
        window.count(100, 3);
        assert_eq!((window.used(), window.next_free(7), window.next_free(6)), (6, None, Some(50)));
        assert_eq!((window.next_free(5), window.next_free(1)), (Some(100), Some(100)));
        window.give_back(100, 4);
        window.give_back(99, 4);
        assert_eq!(window.used(), 2);
        window.advance(49);
        assert_eq!(window.used(), 2);
        window.advance(50);
        window.take();
        window.take();
        window.untake();
        assert_eq!(window.used(), 2);
        window.settle();
        window.advance(100);
        assert!(window.is_empty());
    }

    /// The law itself, against every way in which turns may be used.
    #[test]
    fn whenever_turns_are_used_no_minute_holds_more_of_them_than_the_limit() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let counted = i64::try_from(COUNTED.as_micros()).unwrap();
        for _ in 0..50 {
            let (limit, valid) = (random.random_range(1..100u32), random.random_range(1..30_000_000i64));
            let (mut window, mut now, mut starts) = (Window::default(), 0i64, Vec::new());
            while now < 600_000_000 {
                now += random.random_range(1..2_000_000);
                window.advance(now);
                let free = limit.saturating_sub(window.used());
                let turns = random.random_range(0..=free);
                if turns > 0 {
                    window.count(now + valid + counted, turns);
                }
                // used at any time while it is valid, and then half a second on its way
                starts.extend((0..turns).map(|_| now + random.random_range(0..=valid + 499_999)));
            }
            starts.sort_unstable();
            for (at, start) in starts.iter().enumerate() {
                let until = starts.partition_point(|other| *other < start + 60_000_000);
                assert!(until - at <= limit as usize, "{} starts in a minute of {limit}", until - at);
            }
        }
    }
}
