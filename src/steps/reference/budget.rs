//! The memory that all images of a process may take together.
//!
//! Always holds: whoever holds a reservation waits for no other one, so nobody waits for ever; one tenant holds half of the
//! whole at most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{IMAGE_MEMORY_UNIT, ImagesConfig};
use crate::domain::TenantId;

/// Tenants that are remembered before those that hold nothing are forgotten.
const MANY_TENANTS: usize = 1024;

pub(super) struct Budget {
    /// In KiB.
    all: Arc<Semaphore>,
    share_kib: usize,
    tenants: Mutex<HashMap<TenantId, Weak<Semaphore>>>,
}

/// The right to hold so many bytes.
#[derive(Debug)]
pub(super) struct Reservation {
    tenant: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
}

impl Budget {
    pub(super) fn new(config: &ImagesConfig) -> Budget {
        let kib = (config.memory_bytes / IMAGE_MEMORY_UNIT).min(Semaphore::MAX_PERMITS);
        let share_kib = config.tenants_share().min(kib);
        Budget { all: Arc::new(Semaphore::new(kib)), share_kib, tenants: Mutex::default() }
    }

    /// Bytes that nobody holds.
    #[cfg(test)]
    pub(super) fn free_bytes(&self) -> usize {
        self.all.available_permits() * IMAGE_MEMORY_UNIT
    }

    /// The reservation, if nobody has to be waited for.
    pub(super) fn try_reserve(&self, tenant: TenantId, bytes: usize) -> Option<Reservation> {
        let kib = self.kib(bytes);
        let tenant = self.of(tenant).try_acquire_many_owned(kib).ok()?;
        let all = self.all.clone().try_acquire_many_owned(kib).ok()?;
        Some(Reservation { tenant, all })
    }

    /// `None` when the process ends. The caller must hold no other reservation.
    pub(super) async fn reserve(&self, tenant: TenantId, bytes: usize) -> Option<Reservation> {
        let kib = self.kib(bytes);
        // the own share first: who waits for it keeps nobody else from the whole
        let tenant = self.of(tenant).acquire_many_owned(kib).await.ok()?;
        let all = self.all.clone().acquire_many_owned(kib).await.ok()?;
        Some(Reservation { tenant, all })
    }

    /// Never more than there will ever be.
    fn kib(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(IMAGE_MEMORY_UNIT).min(self.share_kib)).unwrap_or(u32::MAX)
    }

    fn of(&self, tenant: TenantId) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = tenants.get(&tenant).and_then(Weak::upgrade) {
            return share;
        }
        if tenants.len() >= MANY_TENANTS {
            tenants.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Semaphore::new(self.share_kib));
        tenants.insert(tenant, Arc::downgrade(&share));
        share
    }
}

impl Reservation {
    pub(super) fn bytes(&self) -> usize {
        self.all.num_permits() * IMAGE_MEMORY_UNIT
    }

    /// Adds another one of the same tenant.
    pub(super) fn add(&mut self, more: Reservation) {
        self.tenant.merge(more.tenant);
        self.all.merge(more.all);
    }

    /// Gives back what is not needed.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.all.num_permits().saturating_sub(bytes.div_ceil(IMAGE_MEMORY_UNIT));
        drop((self.tenant.split(surplus), self.all.split(surplus)));
    }
}
