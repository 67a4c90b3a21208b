//! Which of a model's routes are open in this round, and where none is, why. Pure.
//!
//! A route is passed over whose last day has gone, or whose account is shut. A full account is not shut: it is waited for,
//! unless the model overflows (see [`Budget`](super::budget::Budget)). When every route has had its last day, the last
//! one stays open all the same: the worker ends such a video as retired and its credits go back, instead of waiting for ever.

use std::collections::{BTreeMap, HashMap};

use chrono::NaiveDate;

use super::rules::Rules;
use super::{AccountLimits, ModelRoutes, Route};
use crate::accounts::{Account, Shut};
use crate::domain::WaitingReason;

/// Why a model's videos cannot go anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Blocked {
    /// The model is not in the settings, or its accounts are not.
    NoRoute,
    /// The first account that is not past its last day is shut.
    Shut(Shut),
}

impl Blocked {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Blocked::NoRoute => "no_route",
            Blocked::Shut(why) => why.name(),
        }
    }

    /// As those are told who wait for it.
    pub(super) const fn reason(self) -> WaitingReason {
        match self {
            Blocked::NoRoute => WaitingReason::NoRoute,
            Blocked::Shut(Shut::Stopped) => WaitingReason::Paused,
            Blocked::Shut(Shut::Refused) => WaitingReason::Refused,
            Blocked::Shut(Shut::OutOfQuota) => WaitingReason::OutOfQuota,
            Blocked::Shut(Shut::CircuitOpen) => WaitingReason::CircuitOpen,
            Blocked::Shut(Shut::Cooling) => WaitingReason::Cooldown,
        }
    }
}

/// A route that videos may take in this round.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenRoute<'a> {
    pub(super) route: &'a Route,
    pub(super) limits: AccountLimits,
    /// Its account is marked as out of quota or refusing us, or its circuit is open, and one video may try whether that still
    /// holds.
    pub(super) probe: bool,
}

/// The routes of every model in this round.
#[derive(Default)]
pub(super) struct OpenRoutes<'a> {
    models: HashMap<&'a str, Result<Vec<OpenRoute<'a>>, Blocked>>,
    overflows: HashMap<&'a str, bool>,
}

impl<'a> OpenRoutes<'a> {
    pub(super) fn new(rules: &Rules<'a>, accounts: &[Account], today: NaiveDate) -> OpenRoutes<'a> {
        let plan = rules.plan;
        let known: BTreeMap<&str, &Account> = accounts.iter().map(|account| (account.name.as_str(), account)).collect();
        let models = plan.models.iter().map(|(name, model)| (name.as_str(), open(rules, model, &known, today)));
        let overflows = plan.models.iter().map(|(name, model)| (name.as_str(), model.overflow));
        OpenRoutes { models: models.collect(), overflows: overflows.collect() }
    }

    /// The open routes of a model in order; there is at least one.
    pub(super) fn of(&self, model: &str) -> Result<&[OpenRoute<'a>], Blocked> {
        match self.models.get(model) {
            Some(Ok(routes)) => Ok(routes),
            Some(Err(why)) => Err(*why),
            None => Err(Blocked::NoRoute),
        }
    }

    pub(super) fn overflows(&self, model: &str) -> bool {
        self.overflows.get(model).copied().unwrap_or(false)
    }

    /// The models whose videos can choose between accounts.
    pub(super) fn with_a_choice(&self) -> Vec<String> {
        let choice = |routes: &[OpenRoute<'_>]| {
            let first = routes.first().map(|open| &open.route.provider);
            routes.iter().any(|open| Some(&open.route.provider) != first)
        };
        let models = self.models.iter().filter(|(_, routes)| routes.as_ref().is_ok_and(|routes| choice(routes)));
        models.map(|(name, _)| (*name).to_owned()).collect()
    }
}

fn open<'a>(
    rules: &Rules<'a>,
    model: &'a ModelRoutes,
    accounts: &BTreeMap<&str, &Account>,
    today: NaiveDate,
) -> Result<Vec<OpenRoute<'a>>, Blocked> {
    let led = |route: &'a Route| rules.account(&route.provider).map(|limits| (route, limits));
    let led: Vec<(&Route, AccountLimits)> = model.routes.iter().filter_map(led).collect();
    let mut living: Vec<_> = led.iter().filter(|(route, _)| !route.over(today)).collect();
    if living.is_empty() {
        living.extend(led.last());
    }
    let mut blocked = Blocked::NoRoute;
    let mut routes = Vec::new();
    for (route, limits) in living {
        let account = accounts.get(route.provider.as_str());
        match account.and_then(|account| account.shut()) {
            None => routes.push(OpenRoute { route, limits: *limits, probe: false }),
            Some(_) if account.is_some_and(|account| account.may_be_probed()) => {
                routes.push(OpenRoute { route, limits: *limits, probe: true });
            }
            Some(why) if blocked == Blocked::NoRoute => blocked = Blocked::Shut(why),
            Some(_) => {}
        }
    }
    if routes.is_empty() { Err(blocked) } else { Ok(routes) }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::limits::Limits;
    use crate::scheduler::RoutePlan;

    fn day(day: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 9, day).unwrap()
    }

    fn route(provider: &str, until: Option<u32>) -> Route {
        Route {
            provider: provider.to_owned(),
            upstream_model: format!("{provider}-x"),
            available_until: until.map(day),
            costs: std::sync::Arc::new([]),
        }
    }

    fn plan(routes: Vec<Route>) -> RoutePlan {
        let limits = AccountLimits { requests_per_minute: 60, max_in_flight: 10, spend: None };
        RoutePlan {
            models: [("clip".to_owned(), ModelRoutes { routes, overflow: false })].into(),
            accounts: ["a", "b", "c"].map(|name| (name.to_owned(), limits)).into(),
        }
    }

    /// The accounts that videos may take, a probe in brackets; or why not.
    fn chosen(plan: &RoutePlan, accounts: &[Account], today: u32) -> Result<String, Blocked> {
        let limits = Limits::default();
        let open = OpenRoutes::new(&Rules { plan, limits: &limits }, accounts, day(today));
        let name = |open: &OpenRoute<'_>| {
            if open.probe { format!("[{}]", open.route.provider) } else { open.route.provider.clone() }
        };
        open.of("clip").map(|routes| routes.iter().map(name).collect::<Vec<_>>().join(" "))
    }

    fn stopped(name: &str) -> Account {
        Account { stopped_at: Some(Utc::now()), ..Account::open(name) }
    }

    fn cooling(name: &str) -> Account {
        Account { cooling: true, ..Account::open(name) }
    }

    fn spent(name: &str, probe_due: bool) -> Account {
        Account { quota_exhausted_at: Some(Utc::now()), probe_due, ..Account::open(name) }
    }

    #[test]
    fn every_route_is_open_in_order_unless_something_stands_against_it() {
        let plan = plan(vec![route("a", None), route("b", None), route("c", None)]);
        let shut = |accounts: &[Account]| chosen(&plan, accounts, 1).unwrap();
        assert_eq!(shut(&[]), "a b c");
        assert_eq!(shut(&[stopped("a")]), "b c");
        assert_eq!(shut(&[cooling("a"), spent("b", false)]), "c");
        assert_eq!(shut(&[spent("a", true), cooling("c")]), "[a] b");
        let refused = Account { refused_at: Some(Utc::now()), ..Account::open("a") };
        assert_eq!(shut(&[refused]), "b c");
        let broken = |probe_due| Account { circuit_opened_at: Some(Utc::now()), probe_due, ..Account::open("a") };
        assert_eq!(shut(&[broken(false)]), "b c");
        assert_eq!(shut(&[broken(true)]), "[a] b c");
        assert_eq!(shut(&[Account { cooling: true, ..broken(true) }]), "b c");
        let stopped_probe = Account { stopped_at: Some(Utc::now()), ..spent("a", true) };
        assert_eq!(shut(&[stopped_probe, Account { cooling: true, ..spent("b", true) }]), "c");
    }

    #[test]
    fn a_route_past_its_last_day_is_passed_over_until_there_is_no_other() {
        let plan = plan(vec![route("a", Some(24)), route("b", Some(26))]);
        assert_eq!(chosen(&plan, &[], 24).unwrap(), "a b");
        assert_eq!(chosen(&plan, &[], 25).unwrap(), "b");
        // both gone: the worker says so to the customer
        assert_eq!(chosen(&plan, &[], 27).unwrap(), "b");
        assert_eq!(chosen(&plan, &[stopped("b")], 25), Err(Blocked::Shut(Shut::Stopped)));
    }

    #[test]
    fn what_cannot_go_anywhere_says_why() {
        let two = plan(vec![route("a", None), route("b", None)]);
        assert_eq!(chosen(&two, &[cooling("a"), stopped("b")], 1), Err(Blocked::Shut(Shut::Cooling)));
        let broken = Account { circuit_opened_at: Some(Utc::now()), ..Account::open("a") };
        let why = chosen(&two, &[broken, cooling("b")], 1).unwrap_err();
        assert_eq!((why.name(), why.reason()), ("circuit_open", WaitingReason::CircuitOpen));
        assert_eq!(chosen(&plan(vec![route("nobody", None)]), &[], 1), Err(Blocked::NoRoute));
        let limits = Limits::default();
        let rules = |plan| Rules { plan, limits: &limits };
        let open = OpenRoutes::new(&rules(&two), &[], day(1));
        assert!(matches!(open.of("unknown"), Err(Blocked::NoRoute)));
        assert_eq!(open.with_a_choice(), ["clip"]);
        assert!(OpenRoutes::new(&rules(&two), &[stopped("a")], day(1)).with_a_choice().is_empty());
        let same = plan(vec![route("a", None), route("a", Some(24))]);
        assert!(OpenRoutes::new(&rules(&same), &[], day(1)).with_a_choice().is_empty(), "one account is no choice");
    }
}
