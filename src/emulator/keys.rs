//! Idempotency keys: the same key is answered by the same job, also when the first answer was lost; another order under a
//! used key is refused, as Stripe and the draft standard of the header do. Only where the profile honours keys.
//!
//! Always holds: a refused create leaves its key unused, so that it may be tried again.

use std::collections::HashMap;
use std::sync::Arc;

use super::jobs::{Job, Order};

/// The key that a client gave with its order, and the surface's words for one that another order has used.
pub(super) struct Key<A> {
    pub(super) text: Arc<str>,
    pub(super) reused: fn() -> A,
}

/// Whose a key is.
pub(super) enum Used {
    /// Of the same order, and of the job at this position.
    BySame(usize),
    ByAnother,
}

/// The keys used so far.
#[derive(Default)]
pub(super) struct Keys(HashMap<Arc<str>, usize>);

impl Keys {
    /// `None` for a key that nobody has used.
    pub(super) fn find(&self, key: &str, order: &Order, jobs: &[Job]) -> Option<Used> {
        let position = *self.0.get(key)?;
        let same = jobs.get(position).is_some_and(|job| job.order == *order);
        Some(if same { Used::BySame(position) } else { Used::ByAnother })
    }

    pub(super) fn note(&mut self, key: Arc<str>, position: usize) {
        self.0.insert(key, position);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
