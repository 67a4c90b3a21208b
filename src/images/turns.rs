//! The turns of uploads: one of a tenant at a time in this process.
//!
//! Always holds: who waits for a turn holds no connection. The lock of the database, which makes uploads of one tenant take
//! turns across processes, is waited for by one connection of a process at most for each tenant.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use crate::domain::TenantId;

/// Tenants that are remembered before those who wait for nothing are forgotten.
const MANY_TENANTS: usize = 1024;

/// Who may note an upload.
#[derive(Debug, Default)]
pub struct Turns {
    tenants: Mutex<HashMap<TenantId, Weak<tokio::sync::Mutex<()>>>>,
}

/// The turn of one tenant, until it is dropped.
pub struct Turn {
    _held: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits for the tenant's turn, first come first served. To be taken before a connection is.
    pub async fn take(&self, tenant: TenantId) -> Turn {
        let turns = self.of(tenant);
        Turn { _held: turns.lock_owned().await }
    }

    fn of(&self, tenant: TenantId) -> Arc<tokio::sync::Mutex<()>> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = tenants.get(&tenant).and_then(Weak::upgrade) {
            return turns;
        }
        if tenants.len() >= MANY_TENANTS {
            tenants.retain(|_, turns| turns.strong_count() > 0);
        }
        let turns = Arc::default();
        tenants.insert(tenant, Arc::downgrade(&turns));
        turns
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_tenant_waits_for_its_own_uploads_alone() {
        let turns = Turns::default();
        let (busy, other) = (TenantId::generate(), TenantId::generate());
        let first = turns.take(busy).await;
        let mut second = std::pin::pin!(turns.take(busy));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut second).await.is_err());
        drop(tokio::time::timeout(Duration::from_secs(10), turns.take(other)).await.expect("its turn is free"));
        drop(first);
        drop(tokio::time::timeout(Duration::from_secs(10), second).await.expect("the first one is done"));
    }
}
