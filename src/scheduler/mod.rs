//! Who may start next. One leader in the cluster releases waiting videos in waves, as far as the limits of the tenant, the
//! model, the provider account and the batch and the free worker slots allow.
//!
//! Always holds: what may not run holds nothing - no slot, no job, no lock, no connection; a release is one transaction
//! (video released, job pushed, counters moved), fenced on the leader's epoch; within a tenant the oldest batch goes first;
//! a tenant at its limit delays nobody else; in no 60 seconds more videos start than a limit says, whoever led and whatever
//! the limit was before. A limit that is changed holds from the next round on.
//!
//! A video is routed here, before it is submitted: to the first route of its model whose account takes new videos, see
//! [`routes`]. An attempt never changes its route; the next attempt of the video is routed anew.
//!
//! Refuses: to know providers or prompts. It is told which routes a model has, what an account takes, and what stands
//! against an account.

mod budget;
mod durations;
mod ended;
mod estimate;
mod explain;
mod fair_share;
mod forecast;
mod lane;
mod leader;
mod outlook;
mod pace;
mod plan;
mod release;
mod routes;
mod rules;
mod served;
mod spend;
mod subject;
mod supplies;
mod turns;
mod watch;
mod window;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::DateTime;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::accounts;
use crate::config::Live;
use crate::db::Database;
use crate::engine::queue;
use crate::limits::{self, Limits};
use crate::metrics;
use budget::Budget;
use fair_share::{FairShare, Shared};
use leader::Leadership;
use outlook::Outlook;
use pace::Paces;
use release::{Released, Share};
use routes::OpenRoutes;
use rules::Rules;
use spend::Spend;
use supplies::Present;
use watch::Watch;

pub use estimate::{Estimate, Wanted, estimate};
pub use explain::{Asked, Explanation, RouteState, RuleState, Source, explain};
pub use lane::OpenLane;
pub use plan::{AccountLimits, ModelRoutes, Route, RoutePlan};
pub use release::{WAKE_CHANNEL, wake};
pub use spend::{SpendLimit, Unspent, VideoCost, give_back as give_spend_back};
pub use subject::Subject;
pub use turns::{UnusedTurn, give_back as give_turns_back};

/// Videos released or running at each account, by its name.
///
/// # Errors
/// The database's.
pub async fn under_way(db: &Database) -> Result<HashMap<String, i64>, sqlx::Error> {
    let mut conn = db.pool().acquire().await?;
    Ok(release::under_way(&mut conn).await?.at_accounts)
}

/// How the scheduler runs.
#[derive(Clone, Debug)]
pub struct SchedulerSettings {
    /// Without renewal for this long the leader is replaced.
    pub lease_ttl: Duration,
    /// Pause between rounds while videos wait.
    pub tick: Duration,
    /// Videos released in one transaction at the most.
    pub wave: u32,
    /// A worker without heartbeat for this long offers no slots.
    pub worker_dead_after: Duration,
    /// How often one video may find out whether an account without credit or access takes videos again.
    pub probe: Duration,
}

/// Pause between looks while nothing waits; a new batch ends it at once.
const IDLE_TICK: Duration = Duration::from_millis(500);
/// After a wave that released something the next one may follow at once, but for others' sake not quite.
const BUSY_TICK: Duration = Duration::from_millis(5);

/// How long a worker may use a turn, at the least and at the most. Every second of it costs a sixtieth of a minute's turns, so
/// it is short, and longer only while workers come too late.
const TURN_VALID: Duration = Duration::from_secs(1);
const TURN_VALID_MOST: Duration = Duration::from_secs(240);
/// After so long without a turn given back it is shortened again.
const VALID_HALVED_AFTER: Duration = Duration::from_secs(60);
/// How often turns that say nothing any more are deleted.
const TURNS_FORGOTTEN_EVERY: Duration = Duration::from_secs(10);
/// How often what was kept for batches is deleted that have ended.
const ENDED_FORGOTTEN_EVERY: Duration = Duration::from_secs(10);

/// One process' candidate for leader.
pub struct Scheduler {
    db: Database,
    settings: SchedulerSettings,
    plan: Live<RoutePlan>,
    leadership: Leadership,
    limits: Limits,
    paces: Paces,
    turns: TurnsKnown,
    fair: FairShare,
    spend: Spend,
    watch: Watch,
    outlook: Outlook,
    /// When [`ended::forget`] was called last.
    forgotten_at: Option<Instant>,
}

/// What this leader knows of the turns in the database.
struct TurnsKnown {
    /// Whether `paces` has all of them; not after a round that failed.
    read: bool,
    /// The last row of turns given back.
    given_back: i64,
    valid: Duration,
    valid_since: Instant,
    forgotten_at: Instant,
}

impl TurnsKnown {
    fn nothing() -> TurnsKnown {
        let now = Instant::now();
        TurnsKnown { read: false, given_back: 0, valid: TURN_VALID, valid_since: now, forgotten_at: now }
    }

    /// Turns that came back because they were over say that workers need longer; a quiet minute says that they do not.
    fn adapt(&mut self, came_back: u32) {
        // those of one slow moment come back in several rounds
        if came_back > 0 && self.valid_since.elapsed() < self.valid {
            return;
        }
        if came_back > 0 {
            self.valid = (self.valid * 2).min(TURN_VALID_MOST);
            self.valid_since = Instant::now();
            tracing::warn!(
                came_back,
                valid_secs = self.valid.as_secs(),
                "workers came too late for turns that limits left them; turns are valid for longer now, which slows limited tenants down"
            );
        } else if self.valid > TURN_VALID && self.valid_since.elapsed() >= VALID_HALVED_AFTER {
            self.valid = (self.valid / 2).max(TURN_VALID);
            self.valid_since = Instant::now();
        }
    }
}

/// What a round came to, and how long it took with the renewal of the lease.
#[derive(Clone, Copy, Debug)]
pub struct MeasuredRound {
    pub took: Duration,
    pub released: usize,
}

/// What a round came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Round {
    waiting: i64,
    released: usize,
}

impl Scheduler {
    /// `db` needs the engine's planner settings.
    pub fn new(db: Database, settings: SchedulerSettings, plan: Live<RoutePlan>) -> Scheduler {
        let leadership = Leadership::new("scheduler", settings.lease_ttl);
        let (limits, paces, turns) = (Limits::default(), Paces::default(), TurnsKnown::nothing());
        let (fair, watch, outlook) = (FairShare::default(), Watch::default(), Outlook::default());
        let (spend, forgotten_at) = (Spend::default(), None);
        Scheduler { db, settings, plan, leadership, limits, paces, turns, fair, spend, watch, outlook, forgotten_at }
    }

    /// Leads whenever the lease is to be had, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (woken, wake) = tokio::sync::mpsc::channel(1);
        tokio::spawn(release::listen(self.db.clone(), woken, stop.clone()));
        let mut wake = wake;
        while !stop.is_cancelled() {
            let pause = match self.lead_once().await {
                Ok(Some(round)) if round.released > 0 => BUSY_TICK,
                Ok(Some(round)) if round.waiting > 0 => self.settings.tick,
                Ok(_) => IDLE_TICK,
                Err(error) => {
                    tracing::warn!(%error, "a scheduling round failed; trying again");
                    // what it released is in the database, if anything
                    self.turns.read = false;
                    IDLE_TICK
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                Some(()) = wake.recv() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.stop().await;
    }

    /// Plays one round, for whoever measures rounds; `None`: somebody else leads.
    ///
    /// # Errors
    /// The database's.
    pub async fn measured_round(&mut self) -> Result<Option<MeasuredRound>, sqlx::Error> {
        let started = Instant::now();
        let round = self.lead_once().await?;
        Ok(round.map(|round| MeasuredRound { took: started.elapsed(), released: round.released }))
    }

    /// Leads no more.
    pub async fn stop(&mut self) {
        self.leadership.resign(&self.db).await;
        metrics::scheduler_leads(false);
        self.watch.forget();
    }

    /// Renews or takes the lease and, as the leader, plays one round. `None`: somebody else leads.
    async fn lead_once(&mut self) -> Result<Option<Round>, sqlx::Error> {
        let before = self.leadership.epoch();
        let leads = self.leadership.renew(&self.db).await?;
        metrics::scheduler_leads(leads);
        if !leads {
            self.watch.forget();
            return Ok(None);
        }
        // another epoch than before says that somebody else led meanwhile, even if this process never noticed
        if self.leadership.epoch() != before {
            tracing::info!(epoch = self.leadership.epoch(), "leading the scheduler");
            self.turns = TurnsKnown::nothing();
            self.watch.forget();
            self.outlook.forget();
        }
        let started = Instant::now();
        let round = self.round().await?;
        metrics::scheduler_round(started.elapsed());
        Ok(Some(round))
    }

    async fn round(&mut self) -> Result<Round, sqlx::Error> {
        let mut conn = self.db.pool().acquire().await?;
        let lanes = release::open_lanes(&mut conn).await?;
        let waiting: i64 = lanes.iter().map(|lane| i64::from(lane.waiting)).sum();
        let in_flight: i64 = lanes.iter().map(|lane| i64::from(lane.in_flight)).sum();
        metrics::videos_open(waiting, in_flight);
        self.outlook.learn(&mut conn, &lanes).await?;
        if self.forgotten_at.is_none_or(|at| at.elapsed() >= ENDED_FORGOTTEN_EVERY) {
            drop(conn);
            ended::forget(&self.db).await?;
            self.forgotten_at = Some(Instant::now());
            conn = self.db.pool().acquire().await?;
        }
        if waiting == 0 {
            self.watch.forget();
        }
        if waiting == 0 && !self.outlook.is_due_while_nothing_waits() {
            return Ok(Round { waiting, released: 0 });
        }
        let plan = self.plan.get();
        let accounts = accounts::all(&mut conn).await?;
        if limits::version(&mut conn).await? != self.limits.version() {
            self.limits = limits::in_force(&mut conn).await?;
        }
        let under_way = release::under_way(&mut conn).await?;
        self.read_turns(&mut conn, under_way.now).await?;
        let rules = Rules { plan: &plan, limits: &self.limits };
        let routes = OpenRoutes::new(&rules, &accounts, under_way.today);
        self.watch.look(&lanes, &routes);
        let choices = routes.with_a_choice();
        let avoiding = match choices.is_empty() {
            true => vec![],
            false => release::avoiding(&mut conn, &choices, i64::from(self.settings.wave)).await?,
        };
        let purses = self.spend.purses(&mut conn, &rules).await?;
        let dead_after_ms = i64::try_from(self.settings.worker_dead_after.as_millis()).unwrap_or(i64::MAX);
        let slots = queue::living_slots(&mut conn, queue::names::GENERATE, dead_after_ms).await?;
        drop(conn);
        let now = DateTime::from_timestamp_micros(under_way.now).unwrap_or_default();
        let (at_accounts, paces) = (&under_way.at_accounts, &self.paces);
        let present =
            Present { lanes: &lanes, rules: &rules, routes: &routes, paces, at_accounts, purses: &purses, slots, now };
        self.outlook.tell(&self.db, &present).await;
        let videos = u32::try_from((slots - in_flight).max(0)).unwrap_or(u32::MAX).min(self.settings.wave);
        let videos = (videos, self.turns.valid);
        let at_accounts = (&under_way.at_accounts, &purses);
        let mut budget = Budget::new(videos, &lanes, at_accounts, (&rules, &routes), &mut self.paces);
        let Shared { shares, waiting: reasons } = self.fair.share(&lanes, &avoiding, &mut budget);
        self.watch.tell(&self.db, &lanes, &reasons).await?;
        if shares.is_empty() {
            return Ok(Round { waiting, released: 0 });
        }
        let Some(epoch) = self.leadership.epoch() else { return Ok(Round { waiting, released: 0 }) };
        let leader = (self.leadership.holder(), epoch);
        let released = release::release(&self.db, leader, (&shares, &purses), self.settings.probe).await?;
        self.count_turns(&shares, &released);
        self.spend.learn(&purses, &released.too_dear, &released.credits);
        self.outlook.begin(&released);
        metrics::videos_released(released.total().into());
        Ok(Round { waiting, released: released.total() as usize })
    }

    /// Brings the paces up to date with what the whole cluster did.
    async fn read_turns(&mut self, conn: &mut PgConnection, now: i64) -> Result<(), sqlx::Error> {
        if !self.turns.read {
            self.paces = Paces::default();
            self.turns.given_back = turns::read_all(conn, &mut self.paces).await?;
            self.turns.read = true;
        }
        let (last, came_back) = turns::read_given_back(conn, self.turns.given_back, &mut self.paces).await?;
        self.turns.given_back = last;
        self.turns.adapt(came_back);
        if self.turns.forgotten_at.elapsed() >= TURNS_FORGOTTEN_EVERY {
            turns::forget(conn).await?;
            spend::tidy(conn).await?;
            self.turns.forgotten_at = Instant::now();
        }
        self.paces.begin(now);
        Ok(())
    }

    /// Counts what was used. A lane may have had fewer eligible videos than its share, because some are in back-off: those
    /// turns are not used.
    fn count_turns(&mut self, shares: &[Share], released: &Released) {
        let mut left = released.videos.clone();
        for share in shares {
            let lane = (share.batch, share.model.clone(), share.route.provider.clone());
            let taken = left.get_mut(&lane).map_or(0, |left| {
                let taken = share.videos.min(*left);
                *left -= taken;
                taken
            });
            self.paces.untake(&share.turns.places, share.videos - taken);
            self.fair.take_back(share, share.videos - taken);
        }
        for ((subject, valid), videos) in &released.turns {
            let valid_until = released.at + i64::try_from(valid.as_micros()).unwrap_or(i64::MAX / 2);
            self.paces.count(subject, turns::counted_until(valid_until), *videos);
        }
    }
}
