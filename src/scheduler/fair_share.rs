//! Who gets the free slots and the turns of what is scarce: weighted fair shares over tenants, video by video, within a tenant
//! by priority and age; and which of the open routes each video takes. Pure but for the turns that it takes from the limiters.
//!
//! Always holds: of tenants that want more than there is of the same thing, be it slots or one account's turns, each gets
//! videos in proportion to its weight, over rounds of any size; see [`Served`] for what nobody can save up.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

use super::budget::Budget;
use super::lane::OpenLane;
use super::release::{Avoiding, Part, Share};
use super::served::{Served, ShortOf};
use crate::domain::{TenantId, WaitingReason};

/// What a part of a lane wants, and what it got by route.
struct Demand<'l> {
    lane: &'l OpenLane,
    /// The lane's place among all.
    at: usize,
    part: Part,
    videos: u32,
    taken: BTreeMap<usize, u32>,
    /// Why it did not get more.
    refused: Option<WaitingReason>,
}

impl Demand<'_> {
    fn wants_more(&self) -> bool {
        self.taken.values().sum::<u32>() < self.videos
    }
}

/// The parts of the lanes that have eligible videos, tenant by tenant; what is tried again comes first.
fn demands<'l>(lanes: &'l [OpenLane], avoiding: &[Avoiding], budget: &Budget<'_>) -> Vec<Vec<Demand<'l>>> {
    let mut parts: HashMap<(crate::domain::BatchId, &str), Vec<&Avoiding>> = HashMap::new();
    for part in avoiding {
        parts.entry((part.batch, &part.model)).or_default().push(part);
    }
    let mut tenants: Vec<Vec<Demand<'l>>> = Vec::new();
    let wants = |(at, lane): &(usize, &OpenLane)| lane.eligible > 0 && !budget.is_paused(*at);
    for (at, lane) in lanes.iter().enumerate().filter(wants) {
        let demand = |part, videos: i32| {
            let videos = videos.max(0).unsigned_abs();
            Demand { lane, at, part, videos, taken: BTreeMap::new(), refused: None }
        };
        let mut of_lane = Vec::new();
        match parts.get(&(lane.batch, lane.model.as_str())) {
            None => of_lane.push(demand(Part::Whole, lane.eligible)),
            Some(parts) => {
                let divided: i32 = parts.iter().map(|part| part.videos).sum();
                of_lane.extend(parts.iter().map(|part| demand(Part::Avoiding(part.account.clone()), part.videos)));
                of_lane.push(demand(Part::Rest, lane.eligible.saturating_sub(divided)));
            }
        }
        match tenants.last_mut() {
            Some(queue) if queue[0].lane.tenant == lane.tenant => queue.extend(of_lane),
            _ => tenants.push(of_lane),
        }
    }
    tenants
}

/// What a round gives out.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) shares: Vec<Share>,
    /// Why videos of a lane wait on, by the lane's place among all; of every lane with waiting videos.
    pub(super) waiting: BTreeMap<usize, WaitingReason>,
}

/// Who was served how much in the rounds so far.
#[derive(Default)]
pub(super) struct FairShare {
    served: Served,
}

/// A tenant's place in the queue of a round: the least served goes first, and of the same the one that came first.
struct Turn {
    served: f64,
    at: usize,
}

impl Ord for Turn {
    fn cmp(&self, other: &Turn) -> Ordering {
        // the greatest leaves the heap first
        other.served.total_cmp(&self.served).then(other.at.cmp(&self.at))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Turn) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Turn) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Turn {}

/// What a tenant wants in this round.
struct Queue<'l> {
    tenant: TenantId,
    weight: f64,
    demands: Vec<Demand<'l>>,
    /// The first demand that may still get something: turns that are gone do not come back within a round.
    next: usize,
}

impl<'l> Queue<'l> {
    /// Of one tenant, which wants something.
    fn new(demands: Vec<Demand<'l>>, budget: &Budget<'_>) -> Queue<'l> {
        let tenant = demands[0].lane.tenant;
        Queue { tenant, weight: budget.weight(tenant).into(), demands, next: 0 }
    }
}

impl FairShare {
    /// Shares the budget among the lanes (ordered by tenant, then by what goes first): video by video to the tenant that was
    /// served least, until everybody has what it wants or can have.
    pub(super) fn share(&mut self, lanes: &[OpenLane], avoiding: &[Avoiding], budget: &mut Budget<'_>) -> Shared {
        let demands = demands(lanes, avoiding, budget);
        let mut queues: Vec<Queue<'_>> = demands.into_iter().map(|demands| Queue::new(demands, budget)).collect();
        let present: Vec<TenantId> = queues.iter().map(|queue| queue.tenant).collect();
        self.served.begin(&present);
        let turn = |(at, tenant): (usize, &TenantId)| Turn { served: self.served.of(*tenant), at };
        let mut turns: BinaryHeap<Turn> = present.iter().enumerate().map(turn).collect();
        while !budget.is_spent()
            && let Some(Turn { at, .. }) = turns.pop()
        {
            let queue = &mut queues[at];
            if serve(queue, budget) {
                self.served.serve(queue.tenant, queue.weight);
                turns.push(Turn { served: self.served.of(queue.tenant), at });
            }
        }
        let in_line: HashSet<usize> = turns.into_iter().map(|turn| turn.at).collect();
        let hungry = queues.iter().filter(|queue| queue.demands.iter().any(Demand::wants_more));
        let hungry: HashSet<TenantId> = hungry.map(|queue| queue.tenant).collect();
        let mut short: HashMap<ShortOf, HashSet<TenantId>> = HashMap::new();
        for (_, queue) in queues.iter().enumerate().filter(|(at, _)| !in_line.contains(at)) {
            for short_of in shortages(queue, budget) {
                short.entry(short_of).or_default().insert(queue.tenant);
            }
        }
        let heaviest = queues.iter().map(|queue| queue.weight).fold(1.0, f64::max);
        self.served.end(hungry, &short, 1.0 / heaviest);
        let tenants: Vec<Vec<Demand<'_>>> = queues.into_iter().map(|queue| queue.demands).collect();
        let shares = tenants.iter().flatten().flat_map(|demand| shares(demand, budget)).collect();
        Shared { shares, waiting: waiting(lanes, &tenants, budget) }
    }
}

impl FairShare {
    /// Videos of a share that were not released after all.
    pub(super) fn take_back(&mut self, share: &Share, videos: u32) {
        self.served.take_back(share.tenant, share.weight.into(), videos);
    }
}

/// What a tenant that wants more could have no more of; what it shares with others rather than what is its own.
fn shortages(queue: &Queue<'_>, budget: &Budget<'_>) -> Vec<ShortOf> {
    let refused = queue.demands.iter().filter(|demand| demand.wants_more());
    let shared = refused.clone().filter_map(|demand| match demand.refused? {
        WaitingReason::TenantLimit | WaitingReason::BatchPace => None,
        WaitingReason::ModelLimit => Some(ShortOf::Model(demand.lane.model.clone())),
        _ => {
            let open = budget.routes().of(&demand.lane.model).unwrap_or_default();
            let first = open.first().map(|open| ShortOf::Account(open.route.provider.clone()));
            Some(first.unwrap_or_else(|| ShortOf::Model(demand.lane.model.clone())))
        }
    });
    let shared: Vec<ShortOf> = shared.collect();
    if shared.is_empty() && refused.count() > 0 { vec![ShortOf::Own(queue.tenant)] } else { shared }
}

/// Why videos wait on. Those that got what they wanted are on their way; what else waits in their lanes is in back-off.
fn waiting(lanes: &[OpenLane], tenants: &[Vec<Demand<'_>>], budget: &Budget<'_>) -> BTreeMap<usize, WaitingReason> {
    let waits = lanes.iter().enumerate().filter(|(_, lane)| lane.waiting > 0);
    let at_first = |at| if budget.is_paused(at) { WaitingReason::Paused } else { WaitingReason::BackOff };
    let mut reasons: BTreeMap<usize, WaitingReason> = waits.map(|(at, _)| (at, at_first(at))).collect();
    // backwards, so that the first part of a lane has the last word
    for demand in tenants.iter().flatten().rev() {
        if demand.wants_more() {
            reasons.insert(demand.at, demand.refused.unwrap_or(budget.spent()));
        } else if demand.videos > 0 && demand.lane.eligible == demand.lane.waiting {
            reasons.entry(demand.at).and_modify(|reason| {
                if *reason == WaitingReason::BackOff {
                    *reason = WaitingReason::Queued;
                }
            });
        }
    }
    reasons
}

/// Gives one tenant one turn, if it wants any that is to be had.
fn serve(queue: &mut Queue<'_>, budget: &mut Budget<'_>) -> bool {
    while let Some(demand) = queue.demands.get_mut(queue.next) {
        if demand.wants_more() {
            match budget.take((demand.lane, demand.at), demand.part.avoided()) {
                Ok(route) => {
                    *demand.taken.entry(route).or_default() += 1;
                    return true;
                }
                Err(reason) => demand.refused = Some(reason),
            }
        }
        queue.next += 1;
    }
    false
}

/// One share for each route that videos of a part take; the first videos of the part take the first route.
fn shares(demand: &Demand<'_>, budget: &Budget<'_>) -> Vec<Share> {
    let lane = demand.lane;
    let open = budget.routes().of(&lane.model).unwrap_or_default();
    let mut skip = 0;
    let mut shares = Vec::with_capacity(demand.taken.len());
    for (at, videos) in &demand.taken {
        let Some(open) = open.get(*at) else { continue };
        shares.push(Share {
            batch: lane.batch,
            tenant: lane.tenant,
            weight: budget.weight(lane.tenant),
            model: lane.model.clone(),
            part: demand.part.clone(),
            videos: *videos,
            skip,
            route: open.route.clone(),
            probe: open.probe,
            turns: budget.turns(demand.at, &open.route.provider),
        });
        skip += videos;
    }
    shares
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use chrono::{NaiveDate, Utc};

    use super::{Budget, FairShare, Part, Share, Shared};
    use crate::accounts::Account;
    use crate::domain::{BatchId, TenantId, WaitingReason};
    use crate::limits::{Limits, Rule, Scope};
    use crate::scheduler::lane::OpenLane;
    use crate::scheduler::pace::Paces;
    use crate::scheduler::release::Avoiding;
    use crate::scheduler::routes::OpenRoutes;
    use crate::scheduler::rules::Rules;
    use crate::scheduler::{AccountLimits, ModelRoutes, Route, RoutePlan};

    const TODAY: NaiveDate = NaiveDate::MIN;

    fn route(provider: &str) -> Route {
        let costs = std::sync::Arc::new([]);
        Route { provider: provider.to_owned(), upstream_model: "x".to_owned(), available_until: None, costs }
    }

    fn limits(max_in_flight: u32) -> AccountLimits {
        AccountLimits { requests_per_minute: 60_000_000, max_in_flight, spend: None }
    }

    fn plan(max_in_flight: u32) -> RoutePlan {
        let model = ModelRoutes { routes: vec![route("lab")], overflow: false };
        RoutePlan {
            models: [("sora-2".to_owned(), model)].into(),
            accounts: [("lab".to_owned(), limits(max_in_flight))].into(),
        }
    }

    /// Two routes: `lab` with room for so many, then `spare` with plenty.
    fn two_routes(max_in_flight: u32, overflow: bool) -> RoutePlan {
        let mut plan = plan(max_in_flight);
        plan.accounts.insert("spare".to_owned(), limits(1_000));
        let model = ModelRoutes { routes: vec![route("lab"), route("spare")], overflow };
        plan.models.insert("sora-2".to_owned(), model);
        plan
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
            batch_per_minute: None,
            with_images: false,
            paused: false,
        }
    }

    struct Case<'a> {
        plan: &'a RoutePlan,
        accounts: &'a [Account],
        in_flight: HashMap<String, i64>,
        purses: HashMap<String, i64>,
        avoiding: Vec<Avoiding>,
        limits: Limits,
    }

    impl Case<'_> {
        fn of(plan: &RoutePlan) -> Case<'_> {
            Case {
                plan,
                accounts: &[],
                in_flight: HashMap::new(),
                purses: HashMap::new(),
                avoiding: vec![],
                limits: Limits::default(),
            }
        }

        fn play(&self, lanes: &[OpenLane], videos: u32) -> Vec<Share> {
            self.share(lanes, videos).shares
        }

        fn share(&self, lanes: &[OpenLane], videos: u32) -> Shared {
            let rules = Rules { plan: self.plan, limits: &self.limits };
            let routes = OpenRoutes::new(&rules, self.accounts, TODAY);
            let mut paces = Paces::default();
            let videos = (videos, Duration::from_secs(2));
            let mut budget = Budget::new(videos, lanes, (&self.in_flight, &self.purses), (&rules, &routes), &mut paces);
            FairShare::default().share(lanes, &self.avoiding, &mut budget)
        }

        /// (account, part that avoids, videos, skipped)
        fn routed(&self, lane: &OpenLane, videos: u32) -> Vec<(String, Part, u32, u32)> {
            let shares = self.play(std::slice::from_ref(lane), videos);
            shares.into_iter().map(|share| (share.route.provider, share.part, share.videos, share.skip)).collect()
        }
    }

    fn of_tenants(lanes: &[OpenLane], shares: Vec<Share>) -> Vec<(TenantId, u32)> {
        let tenant = |share: &Share| lanes.iter().find(|lane| lane.batch == share.batch).unwrap().tenant;
        shares.into_iter().map(|share| (tenant(&share), share.videos)).collect()
    }

    fn shares(lanes: &[OpenLane], videos: u32, plan: &RoutePlan) -> Vec<(TenantId, u32)> {
        of_tenants(lanes, Case::of(plan).play(lanes, videos))
    }

    fn to(provider: &str, videos: u32, skip: u32) -> (String, Part, u32, u32) {
        (provider.to_owned(), Part::Whole, videos, skip)
    }

    #[test]
    fn a_full_account_is_waited_for_unless_the_model_overflows() {
        let lane = lane(TenantId::generate(), 50, 0);
        let (waits, flows) = (two_routes(10, false), two_routes(10, true));
        assert_eq!(Case::of(&waits).routed(&lane, 100), [to("lab", 10, 0)]);
        assert_eq!(Case::of(&flows).routed(&lane, 100), [to("lab", 10, 0), to("spare", 40, 10)]);
        let busy = Case { in_flight: [("lab".to_owned(), 10)].into(), ..Case::of(&flows) };
        assert_eq!(busy.routed(&lane, 100), [to("spare", 50, 0)]);
    }

    #[test]
    fn a_shut_account_is_passed_over_whether_the_model_overflows_or_not() {
        let lane = lane(TenantId::generate(), 50, 0);
        let shut = [Account { stopped_at: Some(Utc::now()), ..Account::open("lab") }];
        for overflow in [false, true] {
            let plan = two_routes(10, overflow);
            assert_eq!(Case { accounts: &shut, ..Case::of(&plan) }.routed(&lane, 100), [to("spare", 50, 0)]);
        }
    }

    #[test]
    fn one_video_probes_a_marked_account_and_the_others_pass_it_over() {
        let lane = lane(TenantId::generate(), 50, 0);
        let spent = [Account { quota_exhausted_at: Some(Utc::now()), probe_due: true, ..Account::open("lab") }];
        let plan = two_routes(10, false);
        let case = Case { accounts: &spent, ..Case::of(&plan) };
        assert_eq!(case.routed(&lane, 100), [to("lab", 1, 0), to("spare", 49, 1)]);
        assert!(case.play(&[lane], 100)[0].probe);
    }

    #[test]
    fn a_video_prefers_another_account_than_the_one_that_failed_it() {
        let lane = lane(TenantId::generate(), 50, 0);
        let plan = two_routes(100, false);
        let part = |account: &str, videos| Avoiding {
            batch: lane.batch,
            model: lane.model.clone(),
            account: account.to_owned(),
            videos,
        };
        let case = Case { avoiding: vec![part("lab", 5), part("spare", 2)], ..Case::of(&plan) };
        let avoiding = |account: &str| Part::Avoiding(account.to_owned());
        assert_eq!(
            case.routed(&lane, 100),
            [
                ("spare".to_owned(), avoiding("lab"), 5, 0),
                ("lab".to_owned(), avoiding("spare"), 2, 0),
                ("lab".to_owned(), Part::Rest, 43, 0)
            ]
        );
        // with nowhere else to go it takes the same one again
        let shut = [Account { cooling: true, ..Account::open("spare") }];
        let case = Case { accounts: &shut, avoiding: vec![part("lab", 5)], ..Case::of(&plan) };
        assert_eq!(case.routed(&lane, 100)[0], ("lab".to_owned(), avoiding("lab"), 5, 0));
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
        let plan = plan(10);
        let case = Case { in_flight: [("lab".to_owned(), 7)].into(), ..Case::of(&plan) };
        assert_eq!(case.routed(&lane(tenant, 50, 7), 100), [to("lab", 3, 0)]);
    }

    #[test]
    fn a_model_without_a_route_waits() {
        let tenant = TenantId::generate();
        assert!(shares(&[lane(tenant, 50, 0)], 100, &RoutePlan::default()).is_empty());
    }

    /// Who is served in rounds of so many videos each.
    fn rounds(lanes: &[OpenLane], limits: &Limits, sizes: impl Iterator<Item = u32>) -> Vec<(TenantId, u32)> {
        let (plan, mut rotation, mut served) = (plan(1_000_000), FairShare::default(), Vec::new());
        for size in sizes {
            let mut paces = Paces::default();
            let rules = Rules { plan: &plan, limits };
            let routes = OpenRoutes::new(&rules, &[], TODAY);
            let mut budget = Budget::new(
                (size, Duration::from_secs(2)),
                lanes,
                (&HashMap::new(), &HashMap::new()),
                (&rules, &routes),
                &mut paces,
            );
            let shares = rotation.share(lanes, &[], &mut budget).shares;
            served.extend(of_tenants(lanes, shares));
        }
        served
    }

    fn sorted_tenants<const N: usize>() -> [TenantId; N] {
        let mut tenants = [(); N].map(|()| TenantId::generate());
        tenants.sort();
        tenants
    }

    #[test]
    fn the_next_round_begins_with_whoever_was_served_least() {
        let tenants = sorted_tenants::<3>();
        let lanes: Vec<OpenLane> = tenants.iter().map(|tenant| lane(*tenant, 100, 0)).collect();
        let served = rounds(&lanes, &Limits::default(), [1; 6].into_iter());
        let names: Vec<TenantId> = served.into_iter().map(|(tenant, _)| tenant).collect();
        assert_eq!(names, [tenants, tenants].concat());
    }

    #[test]
    fn tenants_are_served_by_weight_in_rounds_of_any_size_and_nobody_waits_for_a_whole_quantum() {
        let [heavy, light, middle] = sorted_tenants::<3>();
        let lanes = [lane(heavy, 100_000, 0), lane(light, 100_000, 0), lane(middle, 100_000, 0)];
        let (heavy_id, middle_id) = (heavy.bare(), middle.bare());
        let limits =
            Limits::of(&[(Scope::Tenant, &heavy_id, Rule::Weight, 7), (Scope::Tenant, &middle_id, Rule::Weight, 2)]);
        let total = |served: &[(TenantId, u32)], of| -> u32 {
            served.iter().filter(|(tenant, _)| *tenant == of).map(|(_, videos)| videos).sum()
        };
        for sizes in [vec![1; 1_000], vec![3; 400], vec![1_000], [5, 1, 17, 2].repeat(40)] {
            let all: u32 = sizes.iter().sum();
            let served = rounds(&lanes, &limits, sizes.into_iter());
            for (tenant, weight) in [(heavy, 7), (light, 1), (middle, 2)] {
                let (got, wanted) = (total(&served, tenant), all * weight / 10);
                assert!(got.abs_diff(wanted) <= 2, "{got} of {all} for weight {weight}");
            }
        }
        let served = rounds(&lanes, &limits, [1; 20].into_iter());
        let first_light = served.iter().position(|(tenant, _)| *tenant == light).unwrap();
        assert!(first_light <= 10, "{first_light}");
    }

    /// Rounds with plenty of slots, so many of them, in which the account `lab` has room for `room` and `spare` for as many as
    /// there are: how many videos of each lane begin.
    fn with_a_scarce_account(lanes: &[OpenLane], weights: &[(TenantId, u32)], (rounds, room): (u32, u32)) -> Vec<u32> {
        let mut plan = plan(room);
        plan.accounts.insert("spare".to_owned(), limits(1_000));
        plan.models.insert("busy".to_owned(), ModelRoutes { routes: vec![route("spare")], overflow: false });
        let ids: Vec<(String, u32)> = weights.iter().map(|(tenant, weight)| (tenant.bare(), *weight)).collect();
        let limits: Vec<_> = ids.iter().map(|(id, weight)| (Scope::Tenant, &**id, Rule::Weight, *weight)).collect();
        let (limits, mut fair, mut begun) = (Limits::of(&limits), FairShare::default(), vec![0; lanes.len()]);
        for _ in 0..rounds {
            let mut paces = Paces::default();
            let rules = Rules { plan: &plan, limits: &limits };
            let routes = OpenRoutes::new(&rules, &[], TODAY);
            let videos = (500, Duration::from_secs(2));
            let mut budget =
                Budget::new(videos, lanes, (&HashMap::new(), &HashMap::new()), (&rules, &routes), &mut paces);
            for share in fair.share(lanes, &[], &mut budget).shares {
                begun[lanes.iter().position(|lane| lane.batch == share.batch).unwrap()] += share.videos;
            }
        }
        begun
    }

    #[test]
    fn where_one_account_is_scarce_and_slots_are_not_tenants_share_it_by_weight() {
        let [heavy, light] = sorted_tenants::<2>();
        let lanes = [lane(heavy, 100_000, 0), lane(light, 100_000, 0)];
        for (weight, room) in [(1, 1), (2, 1), (3, 1), (3, 2), (3, 7), (1_000, 1)] {
            let begun = with_a_scarce_account(&lanes, &[(heavy, weight)], (2_000, room));
            let fair = f64::from(2_000 * room) / f64::from(weight + 1);
            assert!((f64::from(begun[1]) - fair).abs() <= 2.0, "weight {weight}, {room} a round: {begun:?}");
        }
    }

    #[test]
    fn who_is_busy_elsewhere_disturbs_no_share_of_what_is_scarce_and_those_who_lack_it_save_nothing_up() {
        let [first, second, third] = sorted_tenants::<3>();
        let busy = |tenant| OpenLane { model: "busy".to_owned(), ..lane(tenant, 100_000, 0) };
        for order in [[first, second, third], [third, first, second], [second, third, first]] {
            let [one, other, elsewhere] = order;
            let mut lanes = vec![lane(one, 100_000, 0), lane(other, 100_000, 0), busy(elsewhere)];
            lanes.sort_by_key(|lane| lane.tenant);
            let begun = with_a_scarce_account(&lanes, &[], (1_000, 1));
            let at = |tenant| begun[lanes.iter().position(|lane| lane.tenant == tenant).unwrap()];
            assert_eq!((at(one), at(other)), (500, 500), "{begun:?}");
            assert!(at(elsewhere) > 400_000, "{begun:?}");
        }
        // when the scarce account is roomy again and slots are scarce, nobody catches up
        let lanes = [lane(first, 100_000, 0), busy(second)];
        let (mut fair, mut begun) = (FairShare::default(), [0, 0]);
        for (room, slots) in [(1, 100); 50].into_iter().chain([(1_000, 1); 20]) {
            let mut plan = plan(room);
            plan.accounts.insert("spare".to_owned(), limits(1_000));
            plan.models.insert("busy".to_owned(), ModelRoutes { routes: vec![route("spare")], overflow: false });
            let (limits, mut paces) = (Limits::default(), Paces::default());
            let rules = Rules { plan: &plan, limits: &limits };
            let routes = OpenRoutes::new(&rules, &[], TODAY);
            let videos = (slots, Duration::from_secs(2));
            let mut budget =
                Budget::new(videos, &lanes, (&HashMap::new(), &HashMap::new()), (&rules, &routes), &mut paces);
            let shares = fair.share(&lanes, &[], &mut budget).shares;
            for share in shares.iter().filter(|_| slots == 1) {
                begun[usize::from(share.batch == lanes[1].batch)] += share.videos;
            }
        }
        assert!((9..=12).contains(&begun[0]) && begun[0] + begun[1] == 20, "{begun:?}");
    }

    #[test]
    fn a_heavy_tenant_that_wants_nothing_saves_nothing_up_and_slows_nobody() {
        let [heavy, light] = sorted_tenants::<2>();
        let heavy_id = heavy.bare();
        let limits = Limits::of(&[
            (Scope::Tenant, &heavy_id, Rule::Weight, 1_000),
            (Scope::Tenant, &heavy_id, Rule::MaxInFlight, 1),
        ]);
        let lanes = [lane(heavy, 100, 1), lane(light, 100, 0)];
        assert_eq!(rounds(&lanes, &limits, [50].into_iter()), [(light, 50)]);
    }

    #[test]
    fn what_is_paused_gets_nothing_and_says_so() {
        let [one, other] = sorted_tenants::<2>();
        let lanes = [lane(one, 50, 0), lane(other, 50, 0), OpenLane { paused: true, ..lane(other, 50, 0) }];
        let (tenant, batch) = (one.bare(), lanes[1].batch.bare());
        let roomy = plan(10_000);
        let case = |limits: &[(Scope, &str, Rule, u32)]| Case { limits: Limits::of(limits), ..Case::of(&roomy) };
        let Shared { shares, waiting } = case(&[(Scope::Tenant, &tenant, Rule::Paused, 1)]).share(&lanes, 100);
        assert_eq!(of_tenants(&lanes, shares), [(other, 50)]);
        let paused = |at| (at, WaitingReason::Paused);
        assert_eq!(waiting, [paused(0), (1, WaitingReason::Queued), paused(2)].into());
        let Shared { shares, waiting } = case(&[(Scope::Batch, &batch, Rule::Paused, 1)]).share(&lanes, 100);
        assert_eq!((of_tenants(&lanes, shares), waiting[&1]), (vec![(one, 50)], WaitingReason::Paused));
        let Shared { shares, waiting } = case(&[(Scope::Model, "sora-2", Rule::Paused, 1)]).share(&lanes, 0);
        assert!(shares.is_empty());
        assert_eq!(waiting, [paused(0), paused(1), paused(2)].into(), "whether there are slots or not");
    }

    /// Three levels and a batch's own pace, each as strict or lax as can be: the strictest of those that are set rules.
    #[test]
    fn of_all_limits_the_strictest_rules() {
        let id = TenantId::generate();
        let (tenant, lax) = (id.bare(), 1_000_000);
        let all: [(Scope, &str, Rule); 6] = [
            (Scope::Tenant, &tenant, Rule::VideosPerMinute),
            (Scope::Tenant, &tenant, Rule::MaxInFlight),
            (Scope::Account, "lab", Rule::RequestsPerMinute),
            (Scope::Account, "lab", Rule::MaxInFlight),
            (Scope::Model, "sora-2", Rule::VideosPerMinute),
            (Scope::Model, "sora-2", Rule::MaxInFlight),
        ];
        let plan = plan(1_000_000);
        for strict in 0..=all.len() {
            let limit = |(at, (scope, subject, rule))| (scope, subject, rule, if at == strict { 3 } else { lax });
            let limits: Vec<_> = all.into_iter().enumerate().map(limit).collect();
            let case = Case { limits: Limits::of(&limits), ..Case::of(&plan) };
            let lane = OpenLane { batch_per_minute: (strict == all.len()).then_some(3), ..lane(id, 50, 0) };
            let wanted = if all.get(strict).is_some_and(|(.., rule)| *rule == Rule::MaxInFlight) { 3 } else { 1 };
            let Shared { shares, waiting } = case.share(&[lane], 100);
            assert_eq!(shares[0].videos, wanted, "{:?}", all.get(strict));
            let why = match all.get(strict).map(|(scope, ..)| *scope) {
                Some(Scope::Tenant) => WaitingReason::TenantLimit,
                Some(Scope::Account) => WaitingReason::ProviderLimit,
                Some(Scope::Model) => WaitingReason::ModelLimit,
                Some(Scope::Batch) | None => WaitingReason::BatchPace,
            };
            assert_eq!(waiting, [(0, why)].into(), "{:?}", all.get(strict));
            let turns = &shares[0].turns;
            assert_eq!(turns.subjects.len(), if strict == all.len() { 4 } else { 3 });
        }
    }

    #[test]
    fn whatever_waits_is_told_why() {
        let why = |case: &Case<'_>, lane: OpenLane, videos| case.share(&[lane], videos).waiting.remove(&0);
        let (tenant, roomy) = (TenantId::generate(), plan(10_000));
        let case = Case::of(&roomy);
        assert_eq!(why(&case, lane(tenant, 50, 0), 0), Some(WaitingReason::NoWorker));
        assert_eq!(why(&case, lane(tenant, 50, 0), 20), Some(WaitingReason::Queued));
        assert_eq!(why(&case, lane(tenant, 50, 0), 100), Some(WaitingReason::Queued), "on its way");
        assert_eq!(why(&case, lane(tenant, 0, 5), 100), None);
        let resting = OpenLane { eligible: 0, ..lane(tenant, 50, 0) };
        assert_eq!(why(&case, resting, 100), Some(WaitingReason::BackOff));
        let partly = OpenLane { eligible: 20, ..lane(tenant, 50, 0) };
        assert_eq!(why(&case, partly, 100), Some(WaitingReason::BackOff), "what can go goes");
        let nowhere = RoutePlan::default();
        assert_eq!(why(&Case::of(&nowhere), lane(tenant, 50, 0), 100), Some(WaitingReason::NoRoute));
        let now = Some(Utc::now());
        for (account, reason) in [
            (Account { stopped_at: now, ..Account::open("lab") }, WaitingReason::Paused),
            (Account { cooling: true, ..Account::open("lab") }, WaitingReason::Cooldown),
            (Account { refused_at: now, ..Account::open("lab") }, WaitingReason::Refused),
            (Account { quota_exhausted_at: now, ..Account::open("lab") }, WaitingReason::OutOfQuota),
        ] {
            let case = Case { accounts: &[account], ..Case::of(&roomy) };
            assert_eq!(why(&case, lane(tenant, 50, 0), 100), Some(reason));
        }
    }
}
