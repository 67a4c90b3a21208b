//! The images that are there or on their way, by tenant and source.
//!
//! Always holds: one fetch at a time for each source; an image that nobody uses gives way as soon as somebody waits for
//! its memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;

use super::budget::{Budget, Reservation};
use super::{Image, Unusable};
use crate::domain::{FailureClass, ImageSource, TenantId};

/// How long an image is used again without being fetched again.
const KEEP_IMAGE: Duration = Duration::from_secs(60);
/// The same for an image that will not do: short, because whoever repairs a URL orders again at once. A server that was away
/// is asked again at the next attempt, which has waited long enough.
const KEEP_REFUSAL: Duration = Duration::from_secs(5);

/// How long a video waits for memory in its worker's slot before another one gets that slot.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(super) type Key = (TenantId, ImageSource);

/// A source that somebody asked for.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) image: OnceCell<Result<Arc<Image>, Unusable>>,
}

impl Slot {
    /// Nobody uses it, and nobody waits for it.
    fn is_idle(self: &Arc<Slot>) -> bool {
        match self.image.get() {
            Some(Ok(image)) => Arc::strong_count(image) == 1,
            Some(Err(_)) => false,
            // whoever wanted it has gone
            None => Arc::strong_count(self) == 1,
        }
    }
}

pub(super) struct Shelf {
    pub(super) budget: Budget,
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    /// Who waits for memory.
    waiting: AtomicUsize,
    longest_wait: Duration,
}

/// Counts who waits, for as long as it lives.
struct Waiting<'s>(&'s AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shelf {
    pub(super) fn new(budget: Budget, longest_wait: Duration) -> Shelf {
        Shelf { budget, slots: Mutex::default(), waiting: AtomicUsize::new(0), longest_wait }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn slot(&self, tenant: TenantId, source: &ImageSource) -> Arc<Slot> {
        self.slots().entry((tenant, source.clone())).or_default().clone()
    }

    /// Memory for an image, as soon as there is some. The caller must hold none.
    ///
    /// # Errors
    /// [`Unusable`] when there was none for too long. It waits on outside of a worker then, which spends no attempt.
    pub(super) async fn reserve(&self, tenant: TenantId, bytes: usize) -> Result<Reservation, Unusable> {
        if let Some(reserved) = self.budget.try_reserve(tenant, bytes) {
            return Ok(reserved);
        }
        // counted before the look: whoever puts an image down after it sees that somebody waits
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let waiting = Waiting(&self.waiting);
        self.clear_idle();
        let reserved = tokio::time::timeout(self.longest_wait, self.budget.reserve(tenant, bytes)).await;
        drop(waiting);
        reserved.map_err(|_| Unusable::crowded())?.ok_or_else(Unusable::stopping)
    }

    /// Somebody has put an image down.
    pub(super) fn make_room_if_wanted(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.clear_idle();
        }
    }

    fn clear_idle(&self) {
        self.slots().retain(|_, slot| !slot.is_idle());
    }

    /// Forgets a slot that was filled just now, in a while; and those at once that were never filled.
    pub(super) fn forget_later(self: &Arc<Shelf>, key: Key, slot: &Arc<Slot>, failure: Option<FailureClass>) {
        let keep = match failure {
            None => KEEP_IMAGE,
            Some(FailureClass::InvalidInput) => KEEP_REFUSAL,
            // whoever waits for it already holds the slot
            Some(_) => return self.forget(&key, slot),
        };
        let (shelf, slot) = (Arc::downgrade(self), Arc::downgrade(slot));
        tokio::spawn(async move {
            tokio::time::sleep(keep).await;
            if let (Some(shelf), Some(slot)) = (shelf.upgrade(), slot.upgrade()) {
                shelf.forget(&key, &slot);
            }
        });
    }

    fn forget(&self, key: &Key, slot: &Arc<Slot>) {
        let mut slots = self.slots();
        if slots.get(key).is_some_and(|there| Arc::ptr_eq(there, slot)) {
            slots.remove(key);
        }
        slots.retain(|_, slot| slot.image.initialized() || !slot.is_idle());
    }
}
