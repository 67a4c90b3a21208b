//! What may be released in a round: free slots, room at the tenant, the model and the account, and a turn of every pace that
//! a video has to pass: its tenant's, its account's, its model's if that is limited, its batch's if that has one.

use std::collections::HashMap;
use std::time::Duration;

use super::Route;
use super::lane::OpenLane;
use super::pace::{Paces, Place, ShareTurns, UNLIMITED};
use super::routes::{Blocked, OpenRoute, OpenRoutes};
use super::rules::Rules;
use super::spend::Purses;
use super::subject::Subject;
use crate::domain::{TenantId, WaitingReason};

/// How long a worker may use the turn of a lane whose videos start from images: those have to be got first.
const WITH_IMAGES: Duration = Duration::from_secs(30);
/// How long a worker may use a turn where that matters little, because everything that waits would not use up half a rate.
const LOOSE: Duration = Duration::from_secs(30);

/// What may be released in a round.
pub(super) struct Budget<'a> {
    videos: u32,
    /// What those are told for whom nothing is left.
    spent: WaitingReason,
    tenants: HashMap<TenantId, i64>,
    weights: HashMap<TenantId, u32>,
    /// Videos that a limited model still takes.
    models: HashMap<&'a str, i64>,
    accounts: HashMap<&'a str, AtAccount>,
    /// As many as lanes.
    paced: Vec<Paced>,
    /// Videos that wait for turns of each pace.
    wanted: HashMap<Place, u32>,
    routes: &'a OpenRoutes<'a>,
    paces: &'a mut Paces,
    /// How long a worker may use a turn where that matters.
    valid: Duration,
}

struct AtAccount {
    /// Videos that it still takes.
    room: i64,
    /// Credits that are left to spend there; `None`: nobody limits them.
    left: Option<i64>,
    /// Whether it got a video in this round.
    used: bool,
    place: Place,
}

impl AtAccount {
    /// Whether what is left pays for one more video, whichever that is. What each costs is known where it is chosen, so
    /// towards the end a round gives out one alone: if that is too dear, it is the one whose turn it is that waits.
    fn affords(&self, route: &Route) -> bool {
        self.left.is_none_or(|left| left >= route.dearest() || (!self.used && left >= route.cheapest()))
    }

    fn spend(&mut self, route: &Route) {
        self.used = true;
        self.left = self.left.map(|left| left - route.dearest());
    }
}

/// The paces of a lane other than its account's.
#[derive(Default)]
struct Paced {
    /// Nothing of the lane is to begin.
    paused: bool,
    subjects: Vec<Subject>,
    places: Vec<Place>,
    with_images: bool,
}

/// What an account says to one more video.
enum Room {
    Yes,
    /// Not now: it is worth waiting for.
    Full(WaitingReason),
    /// Its one probe of this round is taken: as if it were shut.
    Probed(WaitingReason),
}

impl<'a> Budget<'a> {
    /// `videos`: free slots, bounded by the wave. `in_flight`: videos under way at each account; `purses`: what is left to spend
    /// where that is limited. `valid`: how long a worker may use a turn of a rate that may be used up.
    pub(super) fn new(
        (videos, valid): (u32, Duration),
        lanes: &'a [OpenLane],
        (in_flight, purses): (&HashMap<String, i64>, &Purses),
        (rules, routes): (&Rules<'_>, &'a OpenRoutes<'a>),
        paces: &'a mut Paces,
    ) -> Budget<'a> {
        let mut tenants: HashMap<TenantId, i64> = HashMap::new();
        let mut weights: HashMap<TenantId, u32> = HashMap::new();
        let mut models: HashMap<&'a str, i64> = HashMap::new();
        let mut accounts: HashMap<&'a str, AtAccount> = HashMap::new();
        let mut paced = Vec::with_capacity(lanes.len());
        let mut wanted: HashMap<Place, u32> = HashMap::new();
        for lane in lanes {
            let (per_minute, at_once) = rules.tenant(lane);
            *tenants.entry(lane.tenant).or_insert(i64::from(at_once)) -= i64::from(lane.in_flight);
            let (model_per_minute, model_at_once) = rules.model(&lane.model);
            if let Some(at_once) = model_at_once {
                *models.entry(&lane.model).or_insert(i64::from(at_once)) -= i64::from(lane.in_flight);
            }
            let paused = rules.paused(lane);
            if lane.eligible == 0 || paused {
                paced.push(Paced { paused, ..Paced::default() });
                continue;
            }
            weights.entry(lane.tenant).or_insert_with(|| rules.weight(lane.tenant));
            let limits = [
                Some((Subject::Tenant(lane.tenant), per_minute)),
                // counted whether it is limited or not: a limit that is set knows the minute before
                Some((Subject::Model(lane.model.clone()), model_per_minute.unwrap_or(UNLIMITED))),
                lane.batch_per_minute.map(|rate| (Subject::Batch(lane.batch), rate.unsigned_abs())),
            ];
            let (subjects, places) = limits
                .into_iter()
                .flatten()
                .map(|(subject, rate)| (subject.clone(), paces.place(&subject, rate)))
                .unzip();
            let paced_lane = Paced { paused: false, subjects, places, with_images: lane.with_images };
            let mut want = |place: Place| {
                let sum = wanted.entry(place).or_default();
                *sum = sum.saturating_add(lane.waiting.unsigned_abs());
            };
            paced_lane.places.iter().copied().for_each(&mut want);
            paced.push(paced_lane);
            for open in routes.of(&lane.model).unwrap_or_default() {
                let name = open.route.provider.as_str();
                let account = accounts.entry(name).or_insert_with(|| {
                    let under_way = in_flight.get(name).copied().unwrap_or(0).max(0);
                    let free = i64::from(open.limits.max_in_flight) - under_way;
                    let place = paces.place(&Subject::Account(name.to_owned()), open.limits.requests_per_minute);
                    let left = purses.get(name).copied();
                    AtAccount { room: if open.probe { free.min(1) } else { free }, left, used: false, place }
                });
                want(account.place);
            }
        }
        let spent = if videos == 0 { WaitingReason::NoWorker } else { WaitingReason::Queued };
        Budget { videos, spent, tenants, weights, models, accounts, paced, wanted, routes, paces, valid }
    }

    pub(super) fn is_spent(&self) -> bool {
        self.videos == 0
    }

    /// Why whoever wants more when nothing is left waits.
    pub(super) fn spent(&self) -> WaitingReason {
        self.spent
    }

    /// Whether the `at`th lane is paused.
    pub(super) fn is_paused(&self, at: usize) -> bool {
        self.paced.get(at).is_some_and(|paced| paced.paused)
    }

    pub(super) fn weight(&self, tenant: TenantId) -> u32 {
        self.weights.get(&tenant).copied().unwrap_or(1)
    }

    pub(super) fn routes(&self) -> &'a OpenRoutes<'a> {
        self.routes
    }

    /// Takes one turn for a video of the lane, the `at`th, if every limit allows it: the place of its route among the
    /// model's open ones.
    ///
    /// # Errors
    /// What the video has to wait for.
    pub(super) fn take(
        &mut self,
        (lane, at): (&OpenLane, usize),
        avoided: Option<&str>,
    ) -> Result<usize, WaitingReason> {
        if self.videos == 0 {
            return Err(self.spent);
        }
        let routes = self.routes;
        let open = routes.of(&lane.model).map_err(Blocked::reason)?;
        if self.tenants.get(&lane.tenant).is_none_or(|room| *room <= 0) {
            return Err(WaitingReason::TenantLimit);
        }
        if self.models.get(lane.model.as_str()).is_some_and(|room| *room <= 0) {
            return Err(WaitingReason::ModelLimit);
        }
        let mut why = None;
        let avoids = |at: &usize| Some(open[*at].route.provider.as_str()) == avoided;
        // what it avoids comes last: another account is preferred, and the same one is better than none
        let order = (0..open.len()).filter(|at| !avoids(at)).chain((0..open.len()).filter(avoids));
        for route in order {
            match self.ask((lane, at), &open[route]) {
                Room::Yes => {
                    self.videos -= 1;
                    return Ok(route);
                }
                Room::Full(reason) if !routes.overflows(&lane.model) => return Err(reason),
                Room::Full(reason) | Room::Probed(reason) => why = why.or(Some(reason)),
            }
        }
        Err(why.unwrap_or(WaitingReason::NoRoute))
    }

    fn ask(&mut self, (lane, at): (&OpenLane, usize), open: &OpenRoute<'_>) -> Room {
        let (Some(paced), Some(account)) = (self.paced.get(at), self.accounts.get_mut(open.route.provider.as_str()))
        else {
            return Room::Full(WaitingReason::NoRoute);
        };
        let refused = |reason| if open.probe { Room::Probed(reason) } else { Room::Full(reason) };
        if account.room <= 0 || !account.affords(open.route) {
            return refused(WaitingReason::ProviderLimit);
        }
        if let Err(full) = self.paces.take(&passing(&paced.places, account.place)) {
            return refused(paced.subjects.get(full).map_or(WaitingReason::ProviderLimit, reason_of));
        }
        account.room -= 1;
        account.spend(open.route);
        let rooms = [self.tenants.get_mut(&lane.tenant), self.models.get_mut(lane.model.as_str())];
        rooms.into_iter().flatten().for_each(|room| *room -= 1);
        Room::Yes
    }

    /// The turns of a share of the `at`th lane that goes to an account.
    pub(super) fn turns(&self, at: usize, account: &str) -> ShareTurns {
        let paced = self.paced.get(at);
        let mut subjects = paced.map(|paced| paced.subjects.clone()).unwrap_or_default();
        let mut places = paced.map(|paced| paced.places.clone()).unwrap_or_default();
        let spends = self.accounts.get(account).is_some_and(|at_account| at_account.left.is_some());
        if let Some(at_account) = self.accounts.get(account) {
            subjects.push(Subject::Account(account.to_owned()));
            places.push(at_account.place);
        }
        let plenty =
            |place: &Place| self.paces.has_plenty_for(*place, self.wanted.get(place).copied().unwrap_or(u32::MAX));
        let valid = match paced.is_some_and(|paced| paced.with_images) {
            // what is spent counts for as long as a turn may be used
            _ if !spends && places.iter().all(plenty) => LOOSE,
            true => self.valid.max(WITH_IMAGES),
            false => self.valid,
        };
        ShareTurns { subjects, places, valid }
    }
}

/// What is said of a pace that has no turn left.
fn reason_of(subject: &Subject) -> WaitingReason {
    match subject {
        Subject::Tenant(_) => WaitingReason::TenantLimit,
        Subject::Model(_) => WaitingReason::ModelLimit,
        Subject::Batch(_) => WaitingReason::BatchPace,
        Subject::Account(_) => WaitingReason::ProviderLimit,
    }
}

/// All paces that a video has to pass.
fn passing(places: &[Place], account: Place) -> Vec<Place> {
    places.iter().copied().chain([account]).collect()
}
