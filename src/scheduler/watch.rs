//! What waits because no route of its model is open: counted by reason, and told in the log when it begins, changes and ends.

use std::collections::BTreeMap;

use super::release::OpenLane;
use super::routes::{Blocked, OpenRoutes};
use crate::metrics;

/// What the last look of this leader saw.
#[derive(Default)]
pub(super) struct Watch {
    blocked: BTreeMap<String, Blocked>,
}

impl Watch {
    /// Looks at every lane with waiting videos.
    pub(super) fn look(&mut self, lanes: &[OpenLane], routes: &OpenRoutes<'_>) {
        let mut blocked: BTreeMap<String, Blocked> = BTreeMap::new();
        let mut videos: BTreeMap<Blocked, i64> = BTreeMap::new();
        for lane in lanes.iter().filter(|lane| lane.waiting > 0) {
            if let Err(why) = routes.of(&lane.model) {
                blocked.insert(lane.model.clone(), why);
                *videos.entry(why).or_default() += i64::from(lane.waiting);
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
        for why in Blocked::ALL {
            metrics::videos_blocked(why.name(), videos.get(&why).copied().unwrap_or(0));
        }
    }

    /// Nothing waits, or somebody else leads and says what waits.
    pub(super) fn forget(&mut self) {
        if !self.blocked.is_empty() {
            self.look(&[], &OpenRoutes::default());
        }
    }
}
