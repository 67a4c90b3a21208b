//! Who gets the free slots: deficit round robin over tenants, the oldest batch first within a tenant. Pure but for the
//! turns that it takes from the limiters.

use std::collections::HashMap;

use super::pace::Paces;
use super::release::{OpenLane, Share};
use super::{Route, RoutePlan};
use crate::domain::TenantId;

/// What may be released in a round.
pub(super) struct Budget<'a> {
    videos: u32,
    tenants: HashMap<TenantId, i64>,
    accounts: HashMap<&'a str, i64>,
    plan: &'a RoutePlan,
    paces: &'a mut Paces,
}

impl<'a> Budget<'a> {
    /// `videos`: free slots, bounded by the wave.
    pub(super) fn new(videos: u32, lanes: &[OpenLane], plan: &'a RoutePlan, paces: &'a mut Paces) -> Budget<'a> {
        let mut tenants: HashMap<TenantId, i64> = HashMap::new();
        let mut accounts: HashMap<&'a str, i64> =
            plan.accounts.iter().map(|(name, limits)| (name.as_str(), i64::from(limits.max_in_flight))).collect();
        for lane in lanes {
            *tenants.entry(lane.tenant).or_insert(i64::from(lane.max_in_flight)) -= i64::from(lane.in_flight);
            if let Some(room) = plan.routes.get(&lane.model).and_then(|route| accounts.get_mut(route.provider.as_str()))
            {
                *room -= i64::from(lane.in_flight);
            }
        }
        Budget { videos, tenants, accounts, plan, paces }
    }

    fn route(&self, lane: &OpenLane) -> Option<&'a Route> {
        self.plan.routes.get(&lane.model)
    }

    /// Takes one turn for the lane, if every limit allows it.
    fn take(&mut self, lane: &OpenLane) -> bool {
        let Some(route) = self.route(lane) else { return false };
        let (Some(tenant_room), Some(account_room), Some(limits)) = (
            self.tenants.get_mut(&lane.tenant),
            self.accounts.get_mut(route.provider.as_str()),
            self.plan.accounts.get(&route.provider),
        ) else {
            return false;
        };
        if self.videos == 0 || *tenant_room <= 0 || *account_room <= 0 {
            return false;
        }
        let tenant = (lane.tenant, lane.videos_per_minute.unsigned_abs());
        if !self.paces.take(tenant, (&route.provider, limits.requests_per_minute)) {
            return false;
        }
        self.videos -= 1;
        *tenant_room -= 1;
        *account_room -= 1;
        true
    }
}

/// Where the next round begins.
#[derive(Default)]
pub(super) struct Rotation {
    /// The tenant that was served last.
    last: Option<TenantId>,
}

/// Turns a tenant gets before the next one's are counted. Small enough to be fair in a small wave, large enough that a
/// wave of thousands needs few passes.
const QUANTUM: u32 = 8;

impl Rotation {
    /// Shares the budget among the lanes (ordered by tenant, then batch). Every tenant with waiting videos gets a quantum
    /// in turn; what it cannot use goes to the others.
    pub(super) fn share(&mut self, lanes: &[OpenLane], budget: &mut Budget<'_>) -> Vec<Share> {
        let mut tenants: Vec<Vec<(&OpenLane, u32)>> = Vec::new();
        for lane in lanes.iter().filter(|lane| lane.eligible > 0) {
            match tenants.last_mut() {
                Some(queue) if queue[0].0.tenant == lane.tenant => queue.push((lane, 0)),
                _ => tenants.push(vec![(lane, 0)]),
            }
        }
        let first = tenants.iter().position(|queue| Some(queue[0].0.tenant) > self.last).unwrap_or(0);
        tenants.rotate_left(first);
        let mut hungry: Vec<usize> = (0..tenants.len()).collect();
        while budget.videos > 0 && !hungry.is_empty() {
            hungry.retain(|at| {
                let used = serve(&mut tenants[*at], QUANTUM, budget);
                if used > 0 {
                    self.last = Some(tenants[*at][0].0.tenant);
                }
                used == QUANTUM
            });
        }
        tenants
            .into_iter()
            .flatten()
            .filter(|(_, videos)| *videos > 0)
            .filter_map(|(lane, videos)| {
                let route = budget.route(lane)?.clone();
                Some(Share { batch: lane.batch, model: lane.model.clone(), tenant: lane.tenant, videos, route })
            })
            .collect()
    }
}

/// Gives one tenant up to `quantum` turns; answers how many it used.
fn serve(queue: &mut [(&OpenLane, u32)], quantum: u32, budget: &mut Budget<'_>) -> u32 {
    let mut used = 0;
    for (lane, share) in queue.iter_mut() {
        while used < quantum && i64::from(*share) < i64::from(lane.eligible) && budget.take(lane) {
            *share += 1;
            used += 1;
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::{Budget, Rotation};
    use crate::domain::{BatchId, TenantId};
    use crate::scheduler::pace::Paces;
    use crate::scheduler::release::OpenLane;
    use crate::scheduler::{AccountLimits, Route, RoutePlan};

    fn plan(max_in_flight: u32) -> RoutePlan {
        let route = Route { provider: "lab".to_owned(), upstream_model: "sora-2".to_owned() };
        RoutePlan {
            routes: [("sora-2".to_owned(), route)].into(),
            accounts: [("lab".to_owned(), AccountLimits { requests_per_minute: 60_000_000, max_in_flight })].into(),
        }
    }

    fn lane(tenant: TenantId, waiting: i32, in_flight: i32) -> OpenLane {
        OpenLane {
            batch: BatchId::generate(),
            model: "sora-2".to_owned(),
            tenant,
            eligible: waiting,
            waiting,
            in_flight,
            videos_per_minute: 60_000_000,
            max_in_flight: 1_000,
        }
    }

    fn shares(lanes: &[OpenLane], videos: u32, plan: &RoutePlan) -> Vec<(TenantId, u32)> {
        let mut paces = Paces::default();
        let mut budget = Budget::new(videos, lanes, plan, &mut paces);
        Rotation::default().share(lanes, &mut budget).into_iter().map(|share| (share.tenant, share.videos)).collect()
    }

    #[test]
    fn a_small_tenant_is_served_beside_a_huge_one() {
        let mut tenants = [TenantId::generate(), TenantId::generate()];
        tenants.sort();
        let lanes = [lane(tenants[0], 100_000, 0), lane(tenants[1], 10, 0)];
        let got = shares(&lanes, 100, &plan(10_000));
        assert_eq!(got, vec![(tenants[0], 90), (tenants[1], 10)]);
    }

    #[test]
    fn one_tenant_alone_gets_every_slot() {
        let tenant = TenantId::generate();
        assert_eq!(shares(&[lane(tenant, 5_000, 0)], 700, &plan(10_000)), vec![(tenant, 700)]);
    }

    #[test]
    fn a_tenant_at_its_limit_delays_nobody() {
        let mut tenants = [TenantId::generate(), TenantId::generate()];
        tenants.sort();
        let lanes = [lane(tenants[0], 50, 1_000), lane(tenants[1], 50, 0)];
        assert_eq!(shares(&lanes, 100, &plan(10_000)), vec![(tenants[1], 50)]);
    }

    #[test]
    fn an_account_takes_no_more_than_its_room_counting_what_runs() {
        let tenant = TenantId::generate();
        assert_eq!(shares(&[lane(tenant, 50, 7)], 100, &plan(10)), vec![(tenant, 3)]);
    }

    #[test]
    fn a_model_without_a_route_waits() {
        let tenant = TenantId::generate();
        assert!(shares(&[lane(tenant, 50, 0)], 100, &RoutePlan::default()).is_empty());
    }

    #[test]
    fn the_next_round_begins_behind_the_tenant_served_last() {
        let mut tenants = [TenantId::generate(), TenantId::generate(), TenantId::generate()];
        tenants.sort();
        let lanes: Vec<OpenLane> = tenants.iter().map(|tenant| lane(*tenant, 100, 0)).collect();
        let (plan, mut rotation, mut served) = (plan(10_000), Rotation::default(), Vec::new());
        for _ in 0..3 {
            let mut paces = Paces::default();
            let mut budget = Budget::new(8, &lanes, &plan, &mut paces);
            served.extend(rotation.share(&lanes, &mut budget).into_iter().map(|share| share.tenant));
        }
        assert_eq!(served, tenants);
    }
}
