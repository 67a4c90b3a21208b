//! What limits whom in a round, as supplies of a forecast: slots that turn over, rates, and what may be spent.
//!
//! Refuses: to decide. It reads what the round itself goes by.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::durations::Durations;
use super::forecast::{Flow, Supply};
use super::lane::OpenLane;
use super::pace::{Paces, UNLIMITED};
use super::routes::{OpenRoute, OpenRoutes};
use super::rules::Rules;
use super::spend::Purses;
use super::subject::Subject;
use crate::domain::TenantId;

/// What everything that waits has to go by in this round.
pub(super) struct Present<'a> {
    pub(super) lanes: &'a [OpenLane],
    pub(super) rules: &'a Rules<'a>,
    pub(super) routes: &'a OpenRoutes<'a>,
    pub(super) paces: &'a Paces,
    /// Videos under way at each account.
    pub(super) at_accounts: &'a HashMap<String, i64>,
    /// What is left to spend at accounts where that is limited.
    pub(super) purses: &'a Purses,
    /// Slots of living workers.
    pub(super) slots: i64,
    /// By the database's clock.
    pub(super) now: DateTime<Utc>,
}

/// What is expected of a model for whoever asks now.
pub(super) struct ModelTold {
    pub(super) model: String,
    pub(super) video_secs: Option<f64>,
    pub(super) videos_per_minute: Option<f64>,
}

/// What limits whom, as supplies of a forecast.
pub(super) struct Supplies<'a> {
    present: &'a Present<'a>,
    pub(super) all: Vec<Supply>,
    /// The mean duration of what waits, in seconds.
    mean_secs: f64,
    known: HashMap<(Subject, bool), Vec<usize>>,
    /// What is to be spent at accounts, in credits.
    purses: HashMap<&'a str, usize>,
    /// Videos under way of each tenant and of each model.
    busy: (HashMap<TenantId, i64>, HashMap<&'a str, i64>),
}

impl<'a> Supplies<'a> {
    pub(super) fn new(present: &'a Present<'a>, durations: &Durations) -> Supplies<'a> {
        let waiting = present.lanes.iter().filter(|lane| lane.waiting > 0);
        let (secs, videos) = waiting
            .filter_map(|lane| Some((durations.secs(&lane.model)?, f64::from(lane.waiting))))
            .fold((0.0, 0.0), |sum, (secs, videos)| (sum.0 + secs * videos, sum.1 + videos));
        let mean_secs = if videos > 0.0 { secs / videos } else { 1.0 };
        let busy: i64 = present.lanes.iter().map(|lane| i64::from(lane.in_flight)).sum();
        let all = vec![slots((present.slots, busy), mean_secs)];
        let (mut of_tenants, mut of_models) = (HashMap::new(), HashMap::new());
        for lane in present.lanes {
            *of_tenants.entry(lane.tenant).or_default() += i64::from(lane.in_flight);
            *of_models.entry(lane.model.as_str()).or_default() += i64::from(lane.in_flight);
        }
        let busy = (of_tenants, of_models);
        Supplies { present, all, mean_secs, known: HashMap::new(), purses: HashMap::new(), busy }
    }

    pub(super) fn flow(&mut self, lane: &OpenLane, secs: f64) -> Flow {
        let Present { rules, routes, .. } = *self.present;
        let Ok(open) = routes.of(&lane.model) else { return Flow::shut() };
        if rules.paused(lane) {
            return Flow::shut();
        }
        let mut needs = Vec::new();
        let (per_minute, at_once) = rules.tenant(lane);
        let tenant = Subject::Tenant(lane.tenant);
        needs.extend(self.rate(&tenant, per_minute));
        let of_tenant = self.busy.0.get(&lane.tenant).copied().unwrap_or_default();
        let room = self.slots((tenant, true), (at_once.into(), of_tenant));
        needs.extend(room.into_iter().map(|at| (at, secs)));
        let (per_minute, at_once) = rules.model(&lane.model);
        let model = Subject::Model(lane.model.clone());
        needs.extend(per_minute.map(|rate| self.rate(&model, rate)).unwrap_or_default());
        if let Some(at_once) = at_once {
            let of_model = self.busy.1.get(lane.model.as_str()).copied().unwrap_or_default();
            let room = self.slots((model, true), (at_once.into(), of_model));
            needs.extend(room.into_iter().map(|at| (at, secs)));
        }
        if let Some(rate) = lane.batch_per_minute {
            needs.extend(self.rate(&Subject::Batch(lane.batch), rate.unsigned_abs()));
        }
        // where videos flow over to the next account, the first one's limits are not theirs
        if let (Some(first), false) = (open.first(), routes.overflows(&lane.model) && open.len() > 1) {
            let account = Subject::Account(first.route.provider.clone());
            needs.extend(self.rate(&account, first.limits.requests_per_minute));
            let at_account = self.present.at_accounts.get(&first.route.provider).copied().unwrap_or(0);
            let room = self.slots((account, true), (first.limits.max_in_flight.into(), at_account));
            needs.extend(room.into_iter().map(|at| (at, secs)));
            needs.extend(self.purse(first));
        }
        Flow { tenant: 0, videos: lane.waiting.into(), shut: false, shared: secs, needs }
    }

    /// A rate gives turns at once as far as they are left of the minute, at twice its speed, and then as they come.
    fn rate(&mut self, subject: &Subject, per_minute: u32) -> Vec<(usize, f64)> {
        if per_minute == UNLIMITED {
            return vec![];
        }
        let key = (subject.clone(), false);
        if !self.known.contains_key(&key) {
            let limit = f64::from(per_minute);
            let left = (limit - f64::from(self.present.paces.used(subject))).max(0.0);
            let window = Supply { level: left / 2.0, per_second: limit / 60.0, most: limit / 2.0 };
            let burst = (limit / 20.0).max(1.0);
            let spread = Supply { level: burst.min(left), per_second: limit / 30.0, most: burst };
            self.all.extend([window, spread]);
            self.known.insert(key.clone(), vec![self.all.len() - 2, self.all.len() - 1]);
        }
        self.known.get(&key).into_iter().flatten().map(|at| (*at, 1.0)).collect()
    }

    /// What is left to spend is there at once, and then comes back as what was spent leaves the window.
    fn purse(&mut self, open: &OpenRoute<'a>) -> Option<(usize, f64)> {
        let limit = open.limits.spend?;
        let name = open.route.provider.as_str();
        let at = *self.purses.entry(name).or_insert_with(|| {
            let (most, left) = (f64::from(limit.credits), self.present.purses.get(name).copied().unwrap_or(0));
            self.all.push(Supply { level: left.max(0) as f64, per_second: most / limit.window.as_secs_f64(), most });
            self.all.len() - 1
        });
        Some((at, open.route.mean_cost()))
    }

    fn slots(&mut self, key: (Subject, bool), (most, busy): (i64, i64)) -> Vec<usize> {
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        self.all.push(slots((most, busy), self.mean_secs));
        let places = vec![self.all.len() - 1];
        self.known.insert(key, places.clone());
        places
    }

    /// What a tenant that begins now would get of each model, beside so many others.
    pub(super) fn models(&self, durations: &Durations, others: usize) -> Vec<ModelTold> {
        let Present { rules, routes, slots, .. } = *self.present;
        let told = |model: &String| {
            let video_secs = durations.secs(model);
            let (per_minute, at_once) = rules.model(model);
            let open = routes.of(model).ok().filter(|_| slots > 0 && !rules.model_is_paused(model));
            let in_a_minute = |room: f64, secs: f64| room * 60.0 / secs.max(0.001);
            let videos_per_minute = open.zip(video_secs).map(|(open, secs)| {
                let rooms = at_once.into_iter().chain(open.iter().map(|open| open.limits.max_in_flight));
                let rates = per_minute.into_iter().chain(open.iter().map(|open| open.limits.requests_per_minute));
                let mine = in_a_minute(slots as f64 / (others as f64 + 1.0), secs);
                let rooms = rooms.map(|room| in_a_minute(room.into(), secs));
                let purses = open.iter().filter_map(spent_in_a_minute);
                rooms.chain(rates.map(f64::from)).chain(purses).fold(mine, f64::min)
            });
            ModelTold { model: model.clone(), video_secs, videos_per_minute }
        };
        rules.plan.models.keys().map(told).collect()
    }
}

/// Videos that a route's limit of spend lets begin in a minute, on the average.
fn spent_in_a_minute(open: &OpenRoute<'_>) -> Option<f64> {
    let limit = open.limits.spend?;
    Some(f64::from(limit.credits) / open.route.mean_cost() * 60.0 / limit.window.as_secs_f64())
}

/// Slots of which some are busy, in slot-seconds.
fn slots((most, busy): (i64, i64), mean_secs: f64) -> Supply {
    let (most, busy) = (most.max(0) as f64, busy.max(0) as f64);
    Supply { level: (most - busy).max(0.0) * mean_secs, per_second: most, most: most * mean_secs }
}
