//! What customers can expect: how many of a tenant's videos go before a batch, when its first begins and its last ends.
//!
//! The leader works it out every other second from what waits, what runs, what limits it and how long videos take, beside its
//! rounds, and writes down what changed in one statement. Others read that ([`estimate`](super::estimate) for a batch that is not ordered yet).
//! Always holds: an outlook decides nothing; where something is shut or paused and nobody knows until when, there is no time.
//! Refuses: to foresee failures and what others will order.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use tokio::task::JoinHandle;

use super::durations::Durations;
use super::forecast::{Begins, Flow, Supply, forecast};
use super::lane::OpenLane;
use super::release::Released;
use super::supplies::{ModelTold, Present, Supplies};
use crate::db::{self, Database};
use crate::domain::{BatchId, TenantId};

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The same while nothing waits: what a newcomer could expect changes with the workers alone.
const LOOK_IDLY_EVERY: Duration = Duration::from_secs(30);
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

/// What this leader expects and has told.
#[derive(Default)]
pub(super) struct Outlook {
    durations: Durations,
    read: bool,
    looked_at: Option<Instant>,
    /// Something waited then.
    saw_something: bool,
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
            let known =
                sqlx::query!(r#"select model, video_secs as "secs!" from model_outlooks where video_secs is not null"#);
            let known = known.fetch_all(conn).await?;
            self.durations.recall(known.into_iter().map(|row| (row.model, row.secs)));
            self.read = true;
        }
        self.durations.look(lanes, Instant::now());
        Ok(())
    }

    /// What was told last is wrong since nothing waits any more, or old.
    pub(super) fn is_due_while_nothing_waits(&self) -> bool {
        self.saw_something || self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_IDLY_EVERY)
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
        self.saw_something = present.lanes.iter().any(|lane| lane.waiting > 0);
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
        let flows = self.of.iter().zip(&self.flows);
        for (((batch, tenant, waiting, secs), flow), Begins { first, last: ends }) in flows.zip(begins) {
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
            // what stands still lets others pass
            ahead += if flow.shut { 0 } else { i64::from(*waiting) };
        }
        let mut told = self.told;
        told.retain(|batch, _| expected.contains_key(batch));
        let is_news = |batch: &BatchId, now: &Told| told.get(batch).is_none_or(|before| now.is_news(before, self.now));
        let news = expected.into_iter().filter(|(batch, now)| is_news(batch, now)).take(MOST_WRITTEN).collect();
        (news, self.models, told)
    }
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
