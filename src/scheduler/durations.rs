//! How long videos of each model take from their release to their end, as the leader sees it: of the videos under way the
//! oldest is taken for the one that ended. On the average that is exact, whichever ended.
//!
//! Refuses: the database. A leader begins with what the last one had written down.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::lane::OpenLane;
use super::release::Released;
use crate::domain::BatchId;

/// So many ended videos make half of an average.
const REMEMBERED: f64 = 200.0;

/// The durations of every model.
#[derive(Default)]
pub(super) struct Durations {
    models: HashMap<String, Model>,
    /// Videos under way when they were counted last, with those that were released since.
    under_way: HashMap<(BatchId, String), i64>,
}

#[derive(Default)]
struct Model {
    /// When videos were released that are under way, the oldest first, and how many; of those that an earlier leader released
    /// nothing is known.
    released: VecDeque<(Option<Instant>, i64)>,
    secs: f64,
    ended: f64,
}

impl Model {
    fn end(&mut self, mut videos: i64, now: Instant) {
        while videos > 0
            && let Some((at, left)) = self.released.front_mut()
        {
            let ended = videos.min(*left);
            if let Some(at) = *at {
                self.secs += now.duration_since(at).as_secs_f64() * ended as f64;
                self.ended += ended as f64;
            }
            *left -= ended;
            videos -= ended;
            if *left == 0 {
                self.released.pop_front();
            }
        }
        if self.ended > REMEMBERED {
            (self.secs, self.ended) = (self.secs / 2.0, self.ended / 2.0);
        }
    }
}

impl Durations {
    /// What an earlier leader wrote down; it weighs as much as one video.
    pub(super) fn recall(&mut self, known: impl IntoIterator<Item = (String, f64)>) {
        for (model, secs) in known {
            let model = self.models.entry(model).or_default();
            if model.ended == 0.0 {
                (model.secs, model.ended) = (secs, 1.0);
            }
        }
    }

    /// Looks at what is under way.
    pub(super) fn look(&mut self, lanes: &[OpenLane], now: Instant) {
        let mut before = std::mem::take(&mut self.under_way);
        for lane in lanes {
            let (key, present) = ((lane.batch, lane.model.clone()), i64::from(lane.in_flight));
            let known = before.remove(&key).unwrap_or(0);
            let model = self.models.entry(lane.model.clone()).or_default();
            if known > present {
                model.end(known - present, now);
            } else if known < present {
                model.released.push_back((None, present - known));
            }
            self.under_way.insert(key, present);
        }
        // lanes that are closed
        for ((_, name), videos) in before {
            if let Some(model) = self.models.get_mut(&name) {
                model.end(videos, now);
            }
        }
    }

    /// These begin now.
    pub(super) fn begin(&mut self, released: &Released, now: Instant) {
        for ((batch, name, _), videos) in &released.videos {
            let videos = i64::from(*videos);
            self.models.entry(name.clone()).or_default().released.push_back((Some(now), videos));
            *self.under_way.entry((*batch, name.clone())).or_default() += videos;
        }
    }

    /// The average of a model in seconds; that of all models when none of its videos has ended yet.
    pub(super) fn secs(&self, model: &str) -> Option<f64> {
        let known = |model: &&Model| model.ended > 0.0;
        if let Some(model) = self.models.get(model).filter(known) {
            return Some(model.secs / model.ended);
        }
        let (secs, ended) = self.models.values().fold((0.0, 0.0), |sum, one| (sum.0 + one.secs, sum.1 + one.ended));
        (ended > 0.0).then(|| secs / ended)
    }

    /// Somebody else leads: what is under way is not known any more.
    pub(super) fn forget_under_way(&mut self) {
        self.under_way.clear();
        self.models.values_mut().for_each(|model| model.released.clear());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::TenantId;

    fn lane(batch: BatchId, in_flight: i32) -> OpenLane {
        OpenLane {
            batch,
            model: "m".to_owned(),
            tenant: TenantId::generate(),
            eligible: 0,
            waiting: 10,
            in_flight,
            videos_per_minute: 1,
            max_in_flight: 1,
            batch_per_minute: None,
            with_images: false,
            paused: false,
        }
    }

    #[test]
    fn the_average_is_that_of_what_was_released_and_ended() {
        let (mut durations, start, batch) = (Durations::default(), Instant::now(), BatchId::generate());
        let at = |secs| start + Duration::from_secs(secs);
        let release = |videos| Released {
            videos: [((batch, "m".to_owned(), "a".to_owned()), videos)].into(),
            ..Released::default()
        };
        // four that an earlier leader released say nothing
        durations.look(&[lane(batch, 4)], at(0));
        assert_eq!(durations.secs("m"), None);
        durations.begin(&release(2), at(0));
        durations.look(&[lane(batch, 6)], at(1));
        durations.look(&[lane(batch, 2)], at(2));
        assert_eq!(durations.secs("m"), None);
        durations.begin(&release(2), at(4));
        durations.look(&[lane(batch, 2)], at(10));
        assert_eq!(durations.secs("m"), Some(10.0));
        assert_eq!(durations.secs("another"), Some(10.0), "the next best guess");
        // the lane is closed
        durations.look(&[], at(24));
        assert_eq!(durations.secs("m"), Some(15.0));
        durations.recall([("m".to_owned(), 99.0), ("n".to_owned(), 7.0)]);
        assert_eq!((durations.secs("m"), durations.secs("n")), (Some(15.0), Some(7.0)));
    }
}
