//! Turns per minute, for each tenant, provider account, limited model and paced batch.
//!
//! Two things rule each: the [`Window`], which is the law and holds over every change of leader and of limits, and a governor
//! limiter, which spreads the turns of a minute so that no provider gets them all at once: it gives them at twice the rate, so
//! that what could not be used for a moment, such as between two leaders, is caught up. A turn that the limiter gave and nobody
//! used is kept and used first; a limiter whose quota changed, or that is new while turns still count, starts empty.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::subject::Subject;
use super::window::Window;

/// The rate of whatever nobody limited: its turns are only counted.
pub(super) const UNLIMITED: u32 = u32::MAX;
/// Seconds' worth of turns that may come at once after a quiet time.
const BURST_SECS: u32 = 3;
/// How much faster than the limit turns are spread.
const SPREAD: u32 = 2;
/// So many paces that nobody needs are worth tidying up.
const MOST_IDLE: usize = 256;

/// Spreads turns.
struct Spread {
    limiter: DefaultDirectRateLimiter,
    /// At most as many as may come at once.
    unused: u32,
    burst: u32,
}

impl Spread {
    fn new(per_minute: u32) -> Spread {
        let rate = NonZeroU32::new(per_minute.saturating_mul(SPREAD)).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(per_minute / 60 * BURST_SECS).unwrap_or(NonZeroU32::MIN);
        Spread {
            limiter: RateLimiter::direct(Quota::per_minute(rate).allow_burst(burst)),
            unused: 0,
            burst: burst.get(),
        }
    }

    fn empty(per_minute: u32) -> Spread {
        let spread = Spread::new(per_minute);
        // a new one has exactly so many
        let _ = spread.limiter.check_n(NonZeroU32::new(spread.burst).unwrap_or(NonZeroU32::MIN));
        spread
    }

    fn keep(&mut self, turns: u32) {
        self.unused = self.unused.saturating_add(turns).min(self.burst);
    }

    fn take(&mut self) -> bool {
        if self.unused > 0 {
            self.unused -= 1;
            return true;
        }
        self.limiter.check().is_ok()
    }
}

struct Pace {
    /// 0 until it is known.
    per_minute: u32,
    /// None while nothing is limited.
    spread: Option<Spread>,
    window: Window,
}

impl Pace {
    fn set(&mut self, per_minute: u32) {
        if self.per_minute == per_minute {
            return;
        }
        let is_new = self.per_minute == 0 && self.window.is_empty();
        self.spread =
            (per_minute != UNLIMITED).then(|| if is_new { Spread::new(per_minute) } else { Spread::empty(per_minute) });
        self.per_minute = per_minute;
    }
}

/// Where a subject's pace is, during one round.
pub(super) type Place = usize;

/// Whose turns the videos of a share use, and how long they are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShareTurns {
    pub(super) subjects: Vec<Subject>,
    pub(super) places: Vec<Place>,
    pub(super) valid: Duration,
}

/// The paces of the present leader.
#[derive(Default)]
pub(super) struct Paces {
    places: HashMap<Subject, Place>,
    paces: Vec<Pace>,
}

impl Paces {
    /// Begins a round at a time of the database, in microseconds. Earlier places are void.
    pub(super) fn begin(&mut self, now: i64) {
        for pace in &mut self.paces {
            pace.window.settle();
            pace.window.advance(now);
        }
        let idle = self.paces.iter().filter(|pace| pace.window.is_empty()).count();
        if idle > MOST_IDLE && idle > self.paces.len() / 2 {
            self.forget_idle();
        }
    }

    fn forget_idle(&mut self) {
        let mut old: Vec<Option<Pace>> = std::mem::take(&mut self.paces).into_iter().map(Some).collect();
        let places = std::mem::take(&mut self.places);
        for (subject, place) in places {
            let kept = old.get_mut(place).and_then(Option::take).filter(|pace| !pace.window.is_empty());
            if let Some(pace) = kept {
                self.places.insert(subject, self.paces.len());
                self.paces.push(pace);
            }
        }
    }

    fn at(&mut self, subject: &Subject) -> Place {
        if let Some(place) = self.places.get(subject) {
            return *place;
        }
        self.places.insert(subject.clone(), self.paces.len());
        self.paces.push(Pace { per_minute: 0, spread: None, window: Window::default() });
        self.paces.len() - 1
    }

    /// Where a subject's pace is, which has this limit from now on.
    pub(super) fn place(&mut self, subject: &Subject, per_minute: u32) -> Place {
        let place = self.at(subject);
        self.paces[place].set(per_minute);
        place
    }

    /// Turns of a subject that count now.
    pub(super) fn used(&self, subject: &Subject) -> u32 {
        self.places.get(subject).and_then(|place| self.paces.get(*place)).map_or(0, |pace| pace.window.used())
    }

    /// Takes a turn of all, or of none.
    ///
    /// # Errors
    /// Which of `places` has none left.
    pub(super) fn take(&mut self, places: &[Place]) -> Result<(), usize> {
        let is_full = |place: &Place| self.paces[*place].window.used() >= self.paces[*place].per_minute;
        if let Some(full) = places.iter().position(is_full) {
            return Err(full);
        }
        for (at, place) in places.iter().enumerate() {
            let turn = self.paces[*place].spread.as_mut().is_none_or(Spread::take);
            if !turn {
                self.keep(&places[..at], 1);
                return Err(at);
            }
        }
        places.iter().for_each(|place| self.paces[*place].window.take());
        Ok(())
    }

    /// Undoes turns that were taken in this round and are not used.
    pub(super) fn untake(&mut self, places: &[Place], turns: u32) {
        self.keep(places, turns);
        for place in places {
            (0..turns).for_each(|_| self.paces[*place].window.untake());
        }
    }

    fn keep(&mut self, places: &[Place], turns: u32) {
        for place in places {
            if let Some(spread) = &mut self.paces[*place].spread {
                spread.keep(turns);
            }
        }
    }

    /// Whether there would still be half a minute's turns left if so many more were given out.
    pub(super) fn has_plenty_for(&self, place: Place, wanted: u32) -> bool {
        let pace = &self.paces[place];
        pace.window.used().saturating_add(wanted) <= pace.per_minute / 2
    }

    /// Counts turns that were given out, until a time.
    pub(super) fn count(&mut self, subject: &Subject, until: i64, turns: u32) {
        let place = self.at(subject);
        self.paces[place].window.count(until, turns);
    }

    /// Counts turns no more that would have counted until a time.
    pub(super) fn give_back(&mut self, subject: &Subject, until: i64, turns: u32) {
        if let Some(place) = self.places.get(subject) {
            self.paces[*place].window.give_back(until, turns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::TenantId;

    fn account() -> Subject {
        Subject::Account("lab".to_owned())
    }

    fn turns(paces: &mut Paces, tenant: &Subject, tenant_rate: u32, account_rate: u32) -> u32 {
        let places = [paces.place(tenant, tenant_rate), paces.place(&account(), account_rate)];
        (0..10_000).take_while(|_| paces.take(&places).is_ok()).count() as u32
    }

    #[test]
    fn the_stricter_of_tenant_and_account_rules() {
        let (mut paces, tenant) = (Paces::default(), Subject::Tenant(TenantId::generate()));
        let taken = turns(&mut paces, &tenant, 6_000, 60);
        assert!((1..=5).contains(&taken), "{taken} turns against an account of 60 a minute");
    }

    #[test]
    fn a_changed_quota_grants_no_fresh_burst() {
        let (mut paces, tenant) = (Paces::default(), Subject::Tenant(TenantId::generate()));
        assert!(turns(&mut paces, &tenant, 600, 1_000_000) > 0);
        let taken = turns(&mut paces, &tenant, 1_200, 1_000_000);
        assert!(taken < 10, "{taken} turns at once after a change of quota");
    }

    #[test]
    fn an_unused_turn_is_used_first() {
        let (mut paces, tenant) = (Paces::default(), Subject::Tenant(TenantId::generate()));
        let places = [paces.place(&tenant, 60), paces.place(&account(), 60)];
        while paces.take(&places).is_ok() {}
        paces.untake(&places, 2);
        assert_eq!(turns(&mut paces, &tenant, 60, 60), 2);
    }

    #[test]
    fn what_was_given_out_before_counts_for_a_new_leader_whose_burst_is_gone() {
        let (mut paces, tenant) = (Paces::default(), Subject::Tenant(TenantId::generate()));
        paces.count(&tenant, 1_000, 595);
        let place = paces.place(&tenant, 600);
        assert_eq!(paces.take(&[place]), Err(0), "no burst for what has turns already");
        std::thread::sleep(std::time::Duration::from_millis(1_100));
        let taken = (0..100).take_while(|_| paces.take(&[place]).is_ok()).count();
        assert_eq!(taken, 5, "of 600 a minute");
        paces.begin(999);
        assert!(!paces.has_plenty_for(place, 0));
        paces.begin(1_000);
        assert!(paces.has_plenty_for(place, 300), "they count no more, and what was never settled neither");
        assert!(!paces.has_plenty_for(place, 301));
    }

    #[test]
    fn paces_that_nobody_needs_are_forgotten_and_the_others_keep_their_turns() {
        let mut paces = Paces::default();
        let busy = Subject::Tenant(TenantId::generate());
        (0..1_000).for_each(|_| {
            paces.place(&Subject::Tenant(TenantId::generate()), 60);
        });
        paces.count(&busy, 10, 60);
        paces.begin(1);
        assert_eq!(paces.paces.len(), 1);
        let place = paces.place(&busy, 60);
        assert!(!paces.has_plenty_for(place, 0) && paces.take(&[place]).is_err());
    }
}
