//! How long a file is kept: the tenant's own time, or the installation's.
//!
//! Always holds: counted in days of 24 hours from the moment at which the video was stored, so that it does not depend
//! on anybody's time zone. A changed retention holds for the files that are there already.

use chrono::{DateTime, TimeDelta, Utc};

/// The installation's retention, for tenants without one of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    default_days: u32,
}

impl Retention {
    pub const fn new(default_days: u32) -> Retention {
        Retention { default_days }
    }

    pub const fn default_days(self) -> u32 {
        self.default_days
    }

    /// Until when a file is kept that was stored then, for a tenant with this retention of its own, if any.
    pub fn kept_until(self, stored_at: DateTime<Utc>, tenant_days: Option<u32>) -> DateTime<Utc> {
        let days = TimeDelta::hours(24 * i64::from(tenant_days.unwrap_or(self.default_days)));
        stored_at.checked_add_signed(days).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::Retention;

    #[test]
    fn a_tenants_own_time_wins_over_the_installations() {
        let stored: DateTime<Utc> = "2026-03-28T12:00:00Z".parse().unwrap();
        let until = |days| Retention::new(30).kept_until(stored, days).to_rfc3339();
        assert_eq!(until(None), "2026-04-27T12:00:00+00:00");
        assert_eq!(until(Some(1)), "2026-03-29T12:00:00+00:00");
    }
}
