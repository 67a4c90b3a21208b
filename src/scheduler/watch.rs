//! Why videos wait: counted by reason, written down by batch and model for those who look, and told in the log when a model
//! has nowhere to go.
//!
//! Always holds: a reason is written when it changes and not otherwise, a few times a second at the most, in one statement
//! however many there are. Refuses: to decide anything; what it wrote last week says nothing about today, and harms nobody.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::lane::OpenLane;
use super::routes::{Blocked, OpenRoutes};
use crate::db::{self, Database};
use crate::domain::{BatchId, WaitingReason};
use crate::metrics;

const WRITE_EVERY: Duration = Duration::from_millis(300);

/// What the last look of this leader saw.
#[derive(Default)]
pub(super) struct Watch {
    blocked: BTreeMap<String, Blocked>,
    /// What stands in the database, as far as this leader wrote it.
    written: HashMap<(BatchId, String), WaitingReason>,
    written_at: Option<Instant>,
}

impl Watch {
    /// Looks which models have nowhere to go.
    pub(super) fn look(&mut self, lanes: &[OpenLane], routes: &OpenRoutes<'_>) {
        let mut blocked: BTreeMap<String, Blocked> = BTreeMap::new();
        for lane in lanes.iter().filter(|lane| lane.waiting > 0) {
            if let Err(why) = routes.of(&lane.model) {
                blocked.insert(lane.model.clone(), why);
            }
        }
        for (model, why) in &blocked {
            if self.blocked.get(model) != Some(why) {
                tracing::warn!(%model, why = why.name(), "no route of this model takes videos; they wait and hold nothing");
            }
        }
        for model in self.blocked.keys().filter(|model| !blocked.contains_key(*model)) {
            tracing::info!(%model, "a route of this model takes videos again, or nothing waits for one");
        }
        self.blocked = blocked;
    }

    /// Says why videos wait: `waiting` by the place of their lane.
    pub(super) async fn tell(
        &mut self,
        db: &Database,
        lanes: &[OpenLane],
        waiting: &BTreeMap<usize, WaitingReason>,
    ) -> Result<(), sqlx::Error> {
        let mut videos: BTreeMap<WaitingReason, i64> = BTreeMap::new();
        let mut now: HashMap<(BatchId, String), WaitingReason> = HashMap::with_capacity(waiting.len());
        for (lane, reason) in waiting.iter().filter_map(|(at, reason)| Some((lanes.get(*at)?, *reason))) {
            *videos.entry(reason).or_default() += i64::from(lane.waiting);
            now.insert((lane.batch, lane.model.clone()), reason);
        }
        count(&videos);
        if self.written_at.is_some_and(|at| at.elapsed() < WRITE_EVERY) {
            return Ok(());
        }
        let changed: Vec<_> = now.iter().filter(|(lane, reason)| self.written.get(*lane) != Some(*reason)).collect();
        if !changed.is_empty() {
            write(db, &changed).await?;
        }
        self.written = now;
        self.written_at = Some(Instant::now());
        Ok(())
    }

    /// Nothing waits, or somebody else leads and says what waits.
    pub(super) fn forget(&mut self) {
        if !self.blocked.is_empty() {
            self.look(&[], &OpenRoutes::default());
        }
        self.written.clear();
        count(&BTreeMap::new());
    }
}

fn count(videos: &BTreeMap<WaitingReason, i64>) {
    for reason in WaitingReason::ALL {
        metrics::videos_waiting(*reason, videos.get(reason).copied().unwrap_or(0));
    }
}

/// In the order in which everybody locks lanes.
async fn write(db: &Database, changed: &[(&(BatchId, String), &WaitingReason)]) -> Result<(), sqlx::Error> {
    let mut tx = db.begin_relaxed().await?;
    sqlx::query!(
        "with told as (
             select * from unnest($1::text[], $2::text[], $3::text[]) as i (batch_id, model, reason)
         ), locked as materialized (
             select l.batch_id, l.model, t.reason::waiting_reason as reason
             from batch_lanes l join told t on t.batch_id = l.batch_id and t.model = l.model
             where l.waiting_for is distinct from t.reason::waiting_reason
             order by l.batch_id, l.model for update of l
         )
         update batch_lanes l set waiting_for = k.reason from locked k
         where l.batch_id = k.batch_id and l.model = k.model",
        &changed.iter().map(|((batch, _), _)| batch.bare()).collect::<Vec<_>>(),
        &changed.iter().map(|((_, model), _)| model.clone()).collect::<Vec<_>>(),
        &changed.iter().map(|(_, reason)| reason.word().to_owned()).collect::<Vec<_>>(),
    )
    .execute(&mut *tx)
    .await?;
    db::commit("waiting reasons", tx).await
}
