//! What customers can expect: how many of a tenant's videos go before a batch, when its first begins and its last ends.
//!
//! The leader works it out every other second from what waits, what runs, what limits it and how long videos take, beside its
//! rounds, and writes down what changed in one statement. Others read that ([`estimate`] for a batch that is not ordered yet).
//! Always holds: an outlook decides nothing; where something is shut or paused and nobody knows until when, there is no time.
//! Refuses: to foresee failures and what others will order.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use tokio::task::JoinHandle;

use super::durations::Durations;
use super::forecast::{Begins, Flow, Supply, forecast};
use super::lane::OpenLane;
use super::pace::{Paces, UNLIMITED};
use super::release::Released;
use super::routes::OpenRoutes;
use super::rules::Rules;
use super::subject::Subject;
use crate::db::{self, Database};
use crate::domain::{BatchId, TenantId};

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Of so many lanes at the most, in their order; of the rest nothing is told.
const MOST_LANES: usize = 5_000;
/// So many outlooks are written at a time.
const MOST_WRITTEN: usize = 1_000;
/// An expected moment that moves by less, or by less than this part of the time until then, is not written again.
const MOVED_SECS: f64 = 1.0;
const MOVED_SHARE: f64 = 0.03;

/// What is expected of a batch.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    tenant: TenantId,
    ahead: i64,
    /// None: nobody can tell.
    starts_at: Option<DateTime<Utc>>,
    finishes_at: Option<DateTime<Utc>>,
}

impl Told {
    fn is_news(&self, before: &Told, now: DateTime<Utc>) -> bool {
        let moved = |before: Option<DateTime<Utc>>, after: Option<DateTime<Utc>>| match (before, after) {
            (Some(before), Some(after)) => {
                let secs = |span: TimeDelta| span.as_seconds_f64();
                secs(after - before).abs() > (secs(after - now) * MOVED_SHARE).max(MOVED_SECS)
            }
            (before, after) => before != after,
        };
        let ahead = (self.ahead - before.ahead).abs() * 20 > before.ahead || (self.ahead == 0) != (before.ahead == 0);
        ahead || moved(before.starts_at, self.starts_at) || moved(before.finishes_at, self.finishes_at)
    }
}

/// What everything that waits has to go by in this round.
pub(super) struct Present<'a> {
    pub(super) lanes: &'a [OpenLane],
    pub(super) rules: &'a Rules<'a>,
    pub(super) routes: &'a OpenRoutes<'a>,
    pub(super) paces: &'a Paces,
    /// Videos under way at each account.
    pub(super) at_accounts: &'a HashMap<String, i64>,
    /// Slots of living workers.
    pub(super) slots: i64,
    /// By the database's clock.
    pub(super) now: DateTime<Utc>,
}

/// What this leader expects and has told.
#[derive(Default)]
pub(super) struct Outlook {
    durations: Durations,
    read: bool,
    looked_at: Option<Instant>,
    told: HashMap<BatchId, Told>,
    telling: Option<JoinHandle<HashMap<BatchId, Told>>>,
}

impl Outlook {
    /// Somebody else leads.
    pub(super) fn forget(&mut self) {
        self.read = false;
        self.told.clear();
        self.telling = None;
        self.durations.forget_under_way();
    }

    /// Learns from what is under way how long videos take.
    pub(super) async fn learn(&mut self, conn: &mut PgConnection, lanes: &[OpenLane]) -> Result<(), sqlx::Error> {
        if !self.read {
            let known = sqlx::query!(
                r#"select model, video_secs as "secs!" from model_outlooks where video_secs is not null"#
            );
            let known = known.fetch_all(conn).await?;
            self.durations.begin_with(known.into_iter().map(|row| (row.model, row.secs)));
            self.read = true;
        }
        self.durations.look(lanes, Instant::now());
        Ok(())
    }

    pub(super) fn begin(&mut self, released: &Released) {
        self.durations.begin(released, Instant::now());
    }

    /// Works out what to expect and has it written, now and then, beside the rounds.
    pub(super) async fn tell(&mut self, db: &Database, present: &Present<'_>) {
        if self.looked_at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        match self.telling.take() {
            Some(telling) if !telling.is_finished() => {
                self.telling = Some(telling);
                return;
            }
            Some(telling) => self.told = telling.await.unwrap_or_default(),
            None => {}
        }
        self.looked_at = Some(Instant::now());
        let work = Work::new(present, &self.durations, std::mem::take(&mut self.told));
        let db = db.clone();
        self.telling = Some(tokio::spawn(async move {
            let done = tokio::task::spawn_blocking(move || work.done()).await;
            let Ok((news, models, mut told)) = done else { return HashMap::new() };
            match write(&db, &news, &models).await {
                Ok(()) => told.extend(news),
                Err(error) => tracing::warn!(%error, "what batches can expect was not written; trying again"),
            }
            told
        }));
    }
}

/// What is expected of a model for whoever asks now.
struct ModelTold {
    model: String,
    video_secs: Option<f64>,
    videos_per_minute: Option<f64>,
}

/// Everything that a forecast needs, free of the round.
struct Work {
    /// Batch, tenant and waiting videos of each flow, and how long its videos take.
    of: Vec<(BatchId, TenantId, i32, Option<f64>)>,
    flows: Vec<Flow>,
    weights: Vec<f64>,
    supplies: Vec<Supply>,
    models: Vec<ModelTold>,
    told: HashMap<BatchId, Told>,
    now: DateTime<Utc>,
}

impl Work {
    fn new(present: &Present<'_>, durations: &Durations, told: HashMap<BatchId, Told>) -> Work {
        let mut plan = Supplies::new(present, durations);
        let (mut of, mut flows, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let mut last: Option<TenantId> = None;
        for lane in present.lanes.iter().filter(|lane| lane.waiting > 0).take(MOST_LANES) {
            if last != Some(lane.tenant) {
                weights.push(f64::from(present.rules.weight(lane.tenant)));
                last = Some(lane.tenant);
            }
            let secs = durations.secs(&lane.model);
            let flow = secs.map_or_else(Flow::shut, |secs| plan.flow(lane, secs));
            flows.push(Flow { tenant: weights.len() - 1, ..flow });
            of.push((lane.batch, lane.tenant, lane.waiting, secs));
        }
        let models = plan.models(durations, weights.len());
        Work { of, flows, weights, supplies: plan.all, models, told, now: present.now }
    }

    /// The news; what is told of models; what was told before and still waits.
    fn done(mut self) -> (HashMap<BatchId, Told>, Vec<ModelTold>, HashMap<BatchId, Told>) {
        let begins = forecast(&self.flows, &self.weights, &mut self.supplies);
        let at = |secs: f64| self.now + TimeDelta::milliseconds((secs * 1_000.0) as i64);
        let mut expected: HashMap<BatchId, Told> = HashMap::new();
        let (mut last, mut ahead) = (None, 0);
        for ((batch, tenant, waiting, secs), Begins { first, last: ends }) in self.of.iter().zip(begins) {
            if last != Some(*tenant) {
                (last, ahead) = (Some(*tenant), 0);
            }
            let (starts_at, finishes_at) = (first.map(at), ends.zip(*secs).map(|(ends, secs)| at(ends + secs)));
            expected
                .entry(*batch)
                .and_modify(|told| {
                    told.starts_at = told.starts_at.into_iter().chain(starts_at).min();
                    told.finishes_at = told.finishes_at.zip(finishes_at).map(|(one, other)| one.max(other));
                })
                .or_insert(Told { tenant: *tenant, ahead, starts_at, finishes_at });
            ahead += i64::from(*waiting);
        }
        let mut told = self.told;
        told.retain(|batch, _| expected.contains_key(batch));
        let is_news = |batch: &BatchId, now: &Told| told.get(batch).is_none_or(|before| now.is_news(before, self.now));
        let news = expected.into_iter().filter(|(batch, now)| is_news(batch, now)).take(MOST_WRITTEN).collect();
        (news, self.models, told)
    }
}

/// What limits whom, as supplies of a forecast.
struct Supplies<'a> {
    present: &'a Present<'a>,
    all: Vec<Supply>,
    /// The mean duration of what waits, in seconds.
    mean_secs: f64,
    known: HashMap<(Subject, bool), Vec<usize>>,
}

impl<'a> Supplies<'a> {
    fn new(present: &'a Present<'a>, durations: &Durations) -> Supplies<'a> {
        let waiting = present.lanes.iter().filter(|lane| lane.waiting > 0);
        let (secs, videos) = waiting
            .filter_map(|lane| Some((durations.secs(&lane.model)?, f64::from(lane.waiting))))
            .fold((0.0, 0.0), |sum, (secs, videos)| (sum.0 + secs * videos, sum.1 + videos));
        let mean_secs = if videos > 0.0 { secs / videos } else { 1.0 };
        let busy: i64 = present.lanes.iter().map(|lane| i64::from(lane.in_flight)).sum();
        let all = vec![slots((present.slots, busy), mean_secs)];
        Supplies { present, all, mean_secs, known: HashMap::new() }
    }

    fn flow(&mut self, lane: &OpenLane, secs: f64) -> Flow {
        let Present { rules, routes, .. } = *self.present;
        let Ok(open) = routes.of(&lane.model) else { return Flow::shut() };
        if rules.paused(lane) {
            return Flow::shut();
        }
        let busy = |is_it: &dyn Fn(&OpenLane) -> bool| -> i64 {
            self.present.lanes.iter().filter(|lane| is_it(lane)).map(|lane| i64::from(lane.in_flight)).sum()
        };
        let mut needs = Vec::new();
        let (per_minute, at_once) = rules.tenant(lane);
        let tenant = Subject::Tenant(lane.tenant);
        needs.extend(self.rate(&tenant, per_minute));
        let key = (tenant, true);
        let known = self.known.get(&key).cloned();
        let room = known.unwrap_or_else(|| {
            let of_tenant = busy(&|other| other.tenant == lane.tenant);
            self.slots(key, (at_once.into(), of_tenant))
        });
        needs.extend(room.into_iter().map(|at| (at, secs)));
        let (per_minute, at_once) = rules.model(&lane.model);
        let model = Subject::Model(lane.model.clone());
        needs.extend(per_minute.map(|rate| self.rate(&model, rate)).unwrap_or_default());
        if let Some(at_once) = at_once {
            let of_model = busy(&|other| other.model == lane.model);
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
    fn models(&self, durations: &Durations, others: usize) -> Vec<ModelTold> {
        let Present { rules, routes, slots, .. } = *self.present;
        let told = |model: &String| {
            let video_secs = durations.secs(model);
            let (per_minute, at_once) = rules.model(model);
            let open = routes.of(model).ok().filter(|_| slots > 0);
            let in_a_minute = |room: f64, secs: f64| room * 60.0 / secs.max(0.001);
            let videos_per_minute = open.zip(video_secs).map(|(open, secs)| {
                let rooms = at_once.into_iter().chain(open.iter().map(|open| open.limits.max_in_flight));
                let rates = per_minute.into_iter().chain(open.iter().map(|open| open.limits.requests_per_minute));
                let mine = in_a_minute(slots as f64 / (others as f64 + 1.0), secs);
                let rooms = rooms.map(|room| in_a_minute(room.into(), secs));
                rooms.chain(rates.map(f64::from)).fold(mine, f64::min)
            });
            ModelTold { model: model.clone(), video_secs, videos_per_minute }
        };
        rules.plan.models.keys().map(told).collect()
    }
}

/// Slots of which some are busy, in slot-seconds.
fn slots((most, busy): (i64, i64), mean_secs: f64) -> Supply {
    let (most, busy) = (most.max(0) as f64, busy.max(0) as f64);
    Supply { level: (most - busy).max(0.0) * mean_secs, per_second: most, most: most * mean_secs }
}

async fn write(db: &Database, news: &HashMap<BatchId, Told>, models: &[ModelTold]) -> Result<(), sqlx::Error> {
    let mut news: Vec<(&BatchId, &Told)> = news.iter().collect();
    news.sort_by_key(|(batch, _)| **batch);
    let mut tx = db.begin_relaxed().await?;
    sqlx::query!(
        "insert into batch_outlooks (batch_id, tenant_id, ahead, starts_at, finishes_at)
         select * from unnest($1::text[], $2::text[], $3::integer[], $4::timestamptz[], $5::timestamptz[])
         on conflict (batch_id) do update set ahead = excluded.ahead, starts_at = excluded.starts_at,
             finishes_at = excluded.finishes_at, told_at = now()",
        &news.iter().map(|(batch, _)| batch.bare()).collect::<Vec<_>>(),
        &news.iter().map(|(_, told)| told.tenant.bare()).collect::<Vec<_>>(),
        &news.iter().map(|(_, told)| i32::try_from(told.ahead).unwrap_or(i32::MAX)).collect::<Vec<_>>(),
        &news.iter().map(|(_, told)| told.starts_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &news.iter().map(|(_, told)| told.finishes_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "insert into model_outlooks as m (model, video_secs, videos_per_minute)
         select * from unnest($1::text[], $2::float8[], $3::float8[]) as i (model, secs, per_minute) order by model
         on conflict (model) do update set video_secs = excluded.video_secs,
             videos_per_minute = excluded.videos_per_minute, told_at = now()
         where (m.video_secs, m.videos_per_minute) is distinct from (excluded.video_secs, excluded.videos_per_minute)",
        &models.iter().map(|told| told.model.clone()).collect::<Vec<_>>(),
        &models.iter().map(|told| told.video_secs).collect::<Vec<_>>() as &[Option<f64>],
        &models.iter().map(|told| told.videos_per_minute).collect::<Vec<_>>() as &[Option<f64>],
    )
    .execute(&mut *tx)
    .await?;
    db::commit("outlooks", tx).await
}

/// Deletes outlooks of batches that have ended.
///
/// # Errors
/// The database's.
pub(super) async fn forget_ended(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from batch_outlooks o using batches b where b.id = o.batch_id and b.finished_at is not null"
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// When the videos of a batch would begin and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub starts_at: DateTime<Utc>,
    pub finishes_at: DateTime<Utc>,
}

/// What a tenant could expect of a batch that it orders now: so many videos of each model, at this pace at the most. `None`
/// where nobody can tell. Reads as the tenant, behind whose own waiting videos these would come.
///
/// # Errors
/// The database's.
pub async fn estimate(
    conn: &mut PgConnection,
    tenant: TenantId,
    videos: &BTreeMap<String, u32>,
    per_minute: Option<u32>,
) -> Result<Option<Estimate>, sqlx::Error> {
    let models = sqlx::query!(
        r#"select model, video_secs as "secs!", videos_per_minute as "per_minute!" from model_outlooks
           where model = any($1) and video_secs is not null and videos_per_minute > 0"#,
        &videos.keys().cloned().collect::<Vec<_>>(),
    )
    .fetch_all(&mut *conn)
    .await?;
    if models.len() < videos.len() {
        return Ok(None);
    }
    let own = sqlx::query!(
        r#"select now() as "now!", t.videos_per_minute,
               (select max(finishes_at) from batch_outlooks o join batches b on b.id = o.batch_id
                   where o.tenant_id = $1 and b.finished_at is null) as before
           from tenants t where t.id = $1"#,
        tenant as TenantId,
    )
    .fetch_one(conn)
    .await?;
    let secs = models.iter().map(|row| row.secs).fold(0.0, f64::max);
    let starts_at = own.before.map_or(own.now, |before| before - after(secs)).max(own.now);
    let total = f64::from(videos.values().sum::<u32>());
    let limits = [Some(own.videos_per_minute.unsigned_abs()), per_minute].into_iter().flatten();
    let paced = limits.map(|limit| minutes(total, f64::from(limit))).fold(0.0, f64::max);
    let made = models.iter().map(|row| {
        let videos = videos.get(&row.model).copied().unwrap_or(0);
        // as many as fit begin at once
        let at_once = row.per_minute * row.secs / 60.0;
        (f64::from(videos) - at_once).max(0.0) / row.per_minute
    });
    let last = made.fold(paced, f64::max) * 60.0;
    Ok(Some(Estimate { starts_at, finishes_at: starts_at + after(last + secs) }))
}

/// How long a rate takes for so many, from a quiet minute on: the first half of a minute's turns comes at twice the speed.
fn minutes(videos: f64, per_minute: f64) -> f64 {
    if videos <= per_minute { videos / per_minute / 2.0 } else { videos / per_minute - 0.5 }
}

fn after(secs: f64) -> TimeDelta {
    TimeDelta::milliseconds((secs * 1_000.0) as i64)
}
