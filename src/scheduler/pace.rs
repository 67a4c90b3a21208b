//! Turns per minute: a governor limiter for each tenant and each provider account.
//!
//! A turn that was taken and then not used is kept and used first. A limiter whose quota changed starts empty: a change
//! must not grant a fresh burst.

use std::collections::HashMap;
use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::domain::TenantId;

/// Seconds' worth of turns that may come at once after a quiet time.
const BURST_SECS: u32 = 3;

struct Pace {
    per_minute: u32,
    limiter: DefaultDirectRateLimiter,
    /// At most as many as may come at once.
    unused: u32,
    burst: u32,
}

impl Pace {
    fn new(per_minute: u32) -> Pace {
        let rate = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(per_minute / 60 * BURST_SECS).unwrap_or(NonZeroU32::MIN);
        let limiter = RateLimiter::direct(Quota::per_minute(rate).allow_burst(burst));
        Pace { per_minute, limiter, unused: 0, burst: burst.get() }
    }

    fn changed(per_minute: u32) -> Pace {
        let pace = Pace::new(per_minute);
        while pace.limiter.check().is_ok() {}
        pace
    }

    fn keep(&mut self, turns: u32) {
        self.unused = self.unused.saturating_add(turns).min(self.burst);
    }

    fn take(&mut self) -> bool {
        if self.unused > 0 {
            self.unused -= 1;
            return true;
        }
        self.limiter.check().is_ok()
    }
}

/// The limiters of the present leader.
#[derive(Default)]
pub(super) struct Paces {
    tenants: HashMap<TenantId, Pace>,
    accounts: HashMap<String, Pace>,
}

fn current<K: std::hash::Hash + Eq>(paces: &mut HashMap<K, Pace>, key: K, per_minute: u32) -> &mut Pace {
    let pace = paces.entry(key).or_insert_with(|| Pace::new(per_minute));
    if pace.per_minute != per_minute {
        *pace = Pace::changed(per_minute);
    }
    pace
}

impl Paces {
    /// Takes a turn of both, or of neither.
    pub(super) fn take(&mut self, tenant: (TenantId, u32), account: (&str, u32)) -> bool {
        let tenant_pace = current(&mut self.tenants, tenant.0, tenant.1);
        if !tenant_pace.take() {
            return false;
        }
        if current(&mut self.accounts, account.0.to_owned(), account.1).take() {
            return true;
        }
        tenant_pace.keep(1);
        false
    }

    /// Keeps turns that were taken and not used.
    pub(super) fn give_back(&mut self, tenant: TenantId, account: &str, turns: u32) {
        if let Some(pace) = self.tenants.get_mut(&tenant) {
            pace.keep(turns);
        }
        if let Some(pace) = self.accounts.get_mut(account) {
            pace.keep(turns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Paces;
    use crate::domain::TenantId;

    fn turns(paces: &mut Paces, tenant: TenantId, tenant_rate: u32, account_rate: u32) -> u32 {
        (0..10_000).take_while(|_| paces.take((tenant, tenant_rate), ("lab", account_rate))).count() as u32
    }

    #[test]
    fn the_stricter_of_tenant_and_account_rules() {
        let (mut paces, tenant) = (Paces::default(), TenantId::generate());
        let taken = turns(&mut paces, tenant, 6_000, 60);
        assert!((1..=5).contains(&taken), "{taken} turns against an account of 60 a minute");
    }

    #[test]
    fn a_changed_quota_grants_no_fresh_burst() {
        let (mut paces, tenant) = (Paces::default(), TenantId::generate());
        assert!(turns(&mut paces, tenant, 600, 1_000_000) > 0);
        let taken = turns(&mut paces, tenant, 1_200, 1_000_000);
        assert!(taken < 10, "{taken} turns at once after a change of quota");
    }

    #[test]
    fn an_unused_turn_is_used_first() {
        let (mut paces, tenant) = (Paces::default(), TenantId::generate());
        while paces.take((tenant, 60), ("lab", 60)) {}
        paces.give_back(tenant, "lab", 2);
        assert_eq!(turns(&mut paces, tenant, 60, 60), 2);
    }
}
