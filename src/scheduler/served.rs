//! How much each tenant was served, in videos by weight: whoever was served least is served next.
//!
//! Always holds: of tenants that wait for the same thing - free slots, or turns of one account or model - each gets as much as
//! its weight says, whatever else is scarce or plentiful meanwhile; what somebody could not use is not made up for later, but
//! for one video. Who comes anew, or wanted nothing for a while, stands beside the one that was served least.
//! Refuses: clocks, and to know what is short.

use std::collections::{HashMap, HashSet};

use crate::domain::TenantId;

/// What a tenant could have no more of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ShortOf {
    /// What its own limits leave it.
    Own(TenantId),
    Model(String),
    Account(String),
}

/// What every tenant had, above the least of those that wanted more all along.
#[derive(Debug, Default)]
pub(super) struct Served {
    tenants: HashMap<TenantId, f64>,
    /// Those that wanted more when the last round ended.
    hungry: HashSet<TenantId>,
}

impl Served {
    /// A round begins, in which these want something.
    pub(super) fn begin(&mut self, present: &[TenantId]) {
        let all_along = present.iter().filter(|tenant| self.hungry.contains(tenant));
        let least = all_along.filter_map(|tenant| self.tenants.get(tenant)).copied().reduce(f64::min);
        let Some(least) = least else {
            // there was enough for everybody
            self.tenants = present.iter().map(|tenant| (*tenant, 0.0)).collect();
            return;
        };
        for tenant in present {
            let served = self.tenants.entry(*tenant).or_insert(least);
            if !self.hungry.contains(tenant) {
                *served = served.max(least);
            }
        }
        let present: HashSet<&TenantId> = present.iter().collect();
        self.tenants.retain(|tenant, served| present.contains(tenant) || *served > least);
        self.tenants.values_mut().for_each(|served| *served -= least);
    }

    pub(super) fn of(&self, tenant: TenantId) -> f64 {
        self.tenants.get(&tenant).copied().unwrap_or_default()
    }

    /// One video more.
    pub(super) fn serve(&mut self, tenant: TenantId, weight: f64) {
        *self.tenants.entry(tenant).or_default() += 1.0 / weight;
    }

    /// Videos that it was served and did not get after all.
    pub(super) fn take_back(&mut self, tenant: TenantId, weight: f64, videos: u32) {
        if let Some(served) = self.tenants.get_mut(&tenant) {
            *served = (*served - f64::from(videos) / weight).max(0.0);
        }
    }

    /// The round is over: these wanted more; of those the `short` had to go without something else than slots. What a whole
    /// group was short of it saves up for `one_video` at the most, all of it alike, so that its members stand to each other as
    /// they did.
    pub(super) fn end(
        &mut self,
        hungry: HashSet<TenantId>,
        short: &HashMap<ShortOf, HashSet<TenantId>>,
        one_video: f64,
    ) {
        self.hungry = hungry;
        let refused: HashSet<&TenantId> = short.values().flatten().collect();
        let waiting = self.hungry.iter().filter(|tenant| !refused.contains(tenant)).map(|tenant| self.of(*tenant));
        // where slots are left, whoever had most
        let level =
            waiting.reduce(f64::min).or_else(|| self.tenants.values().copied().reduce(f64::max)).unwrap_or_default();
        let mut lifts: HashMap<TenantId, f64> = HashMap::new();
        for group in short.values() {
            let most = group.iter().map(|tenant| self.of(*tenant)).reduce(f64::max).unwrap_or(level);
            let lift = level - one_video - most;
            for tenant in group.iter().filter(|_| lift > 0.0) {
                let lifted = lifts.entry(*tenant).or_default();
                *lifted = lifted.max(lift);
            }
        }
        for (tenant, lift) in lifts {
            *self.tenants.entry(tenant).or_default() += lift;
        }
    }
}
