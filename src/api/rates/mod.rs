//! How many requests are answered a minute: of each API key, of each tenant, and of each address that shows keys which
//! are nobody's.
//!
//! Always holds: every request with a valid key is counted for its key and then for its tenant, and its answer says what is
//! left (`RateLimit-Policy` and `RateLimit`, draft-ietf-httpapi-ratelimit-headers); a request that its key refuses is not
//! counted for the tenant. A tenant's limit is what an operator set for it (`requests_per_minute`), or the setting;
//! a key may use the same share of it as of the setting. A change holds as soon as the key is looked up again ([`super::auth`]).
//!
//! The counts are this process's own and are not written down: `n` API processes allow `n` times as much, and a restart
//! begins with full buckets. The limits keep one customer from using up what all need; they are no accounting.
//!
//! Refuses: to let a request wait; to trust what a client says of its address. Behind a proxy all clients have the proxy's.

mod bucket;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use governor::clock::DefaultClock;
use poem::http::header::{HeaderMap, HeaderName, HeaderValue};

use super::error::ApiError;
use crate::config::LimitsConfig;
use crate::domain::TenantId;
use crate::metrics;
use crate::tenants::Tenant;

use bucket::Buckets;
pub use bucket::{Level, MINUTE};

pub static POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub static LEFT: HeaderName = HeaderName::from_static("ratelimit");
/// Addresses with a bucket of their own at once; the next ones share one.
const MAX_ADDRESSES: usize = 10_000;

/// The counts of this process.
pub struct Rates {
    per_tenant: NonZeroU32,
    per_key: NonZeroU32,
    failed_keys: NonZeroU32,
    /// By the hash of the key.
    keys: Buckets<[u8; 32], DefaultClock>,
    tenants: Buckets<TenantId, DefaultClock>,
    addresses: Buckets<IpAddr, DefaultClock>,
}

impl Rates {
    pub fn new(limits: &LimitsConfig) -> Rates {
        metrics::http_limits_start();
        let clock = DefaultClock::default();
        Rates {
            per_tenant: at_least_one(limits.default_requests_per_minute.into()),
            per_key: at_least_one(limits.default_requests_per_minute_per_key.into()),
            failed_keys: at_least_one(limits.failed_keys_per_minute.into()),
            // as many as are customers and asked lately
            keys: Buckets::new(usize::MAX, clock.clone()),
            tenants: Buckets::new(usize::MAX, clock.clone()),
            addresses: Buckets::new(MAX_ADDRESSES, clock),
        }
    }

    /// A request with the key of that hash, which is `tenant`'s.
    pub fn request(&self, key_hash: [u8; 32], tenant: &Tenant) -> Spent {
        let (of_tenant, of_key) = self.limits_of(tenant.requests_per_minute);
        let key = self.keys.ask(key_hash, of_key);
        let spent = Spent { key, tenant: key.allowed.then(|| self.tenants.ask(tenant.id, of_tenant)), of_tenant };
        if let Some((whose, _)) = spent.refusal() {
            metrics::http_request_limited(whose);
        }
        spent
    }

    /// What a tenant and each of its keys may do, in requests a minute.
    fn limits_of(&self, set: Option<u32>) -> (NonZeroU32, NonZeroU32) {
        let of_tenant = set.and_then(NonZeroU32::new).unwrap_or(self.per_tenant);
        let share = u64::from(of_tenant.get()) * u64::from(self.per_key.get()) / u64::from(self.per_tenant.get());
        (of_tenant, at_least_one(share))
    }

    /// A key that is not known to be anybody's comes from `address`: counted before it is looked up.
    ///
    /// # Errors
    /// A 429 when too many from there were nobody's.
    pub fn stranger(&self, address: IpAddr) -> Result<(), ApiError> {
        let level = self.addresses.ask(address, self.failed_keys);
        if level.allowed {
            return Ok(());
        }
        metrics::http_request_limited("address");
        Err(ApiError::too_many_failed_keys(secs(level.wait)))
    }

    /// The key from `address` was somebody's after all, or nobody could say.
    pub fn no_stranger(&self, address: IpAddr) {
        self.addresses.give_back(address);
    }
}

fn at_least_one(number: u64) -> NonZeroU32 {
    NonZeroU32::new(u32::try_from(number).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
}

/// Whole seconds after which it is surely so.
fn secs(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// What a request with a valid key used up, and what it left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    key: Level,
    /// Not asked when the key was refused.
    tenant: Option<Level>,
    of_tenant: NonZeroU32,
}

impl Spent {
    /// Whose limit refused the request, and which limit that is.
    fn refusal(&self) -> Option<(&'static str, u32)> {
        match (&self.key, &self.tenant) {
            (key, _) if !key.allowed => Some(("key", key.quota)),
            (_, Some(tenant)) if !tenant.allowed => Some(("tenant", tenant.quota)),
            _ => None,
        }
    }

    /// # Errors
    /// A 429 when the key or the tenant has made as many requests as it may.
    pub fn allowed(&self) -> Result<(), ApiError> {
        let Some((whose, quota)) = self.refusal() else { return Ok(()) };
        // both have to let the next one through
        let wait = self.key.wait.max(self.tenant.map_or(Duration::ZERO, |tenant| tenant.wait));
        Err(ApiError::too_many_requests(whose, quota, secs(wait)))
    }

    /// Tells the client.
    pub fn write(&self, headers: &mut HeaderMap) {
        let window = MINUTE.as_secs();
        let policy = format!("\"key\";q={};w={window}, \"tenant\";q={};w={window}", self.key.quota, self.of_tenant);
        let left = |name: &str, level: &Level| format!("\"{name}\";r={};t={}", level.remaining, secs(level.wait));
        let mut all = left("key", &self.key);
        if let Some(tenant) = &self.tenant {
            all = format!("{all}, {}", left("tenant", tenant));
        }
        for (name, value) in [(&POLICY, policy), (&LEFT, all)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name.clone(), value);
            }
        }
    }
}

/// Where a request's key leaves what it used up, for the answer. Data of a request.
#[derive(Clone, Default)]
pub struct Account(Arc<OnceLock<Spent>>);

impl Account {
    pub fn enter(&self, spent: Spent) {
        // a request has one key
        let _ = self.0.set(spent);
    }

    /// Nothing for a request without a valid key.
    pub fn spent(&self) -> Option<&Spent> {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn rates(limits: &str) -> Rates {
        Rates::new(&Config::from_sources(&format!("[limits]\n{limits}"), []).unwrap().limits)
    }

    fn tenant(requests_per_minute: Option<u32>) -> Tenant {
        let drafted = crate::tenants::NewTenant::draft("Test", 1, 1).unwrap().tenant;
        Tenant { requests_per_minute, ..drafted }
    }

    fn told(spent: &Spent) -> (String, String) {
        let mut headers = HeaderMap::new();
        spent.write(&mut headers);
        let text = |name: &HeaderName| headers[name].to_str().unwrap().to_owned();
        (text(&POLICY), text(&LEFT))
    }

    #[test]
    fn an_answer_names_both_limits_and_what_is_left_of_them() {
        let spent = rates("").request([1; 32], &tenant(None));
        assert!(spent.allowed().is_ok());
        let (policy, left) = told(&spent);
        assert_eq!(policy, r#""key";q=600;w=60, "tenant";q=1200;w=60"#);
        assert_eq!(left, r#""key";r=599;t=0, "tenant";r=1199;t=0"#);
    }

    #[test]
    fn a_key_has_its_share_of_whatever_the_tenant_may_do() {
        let rates = rates("default_requests_per_minute = 100\ndefault_requests_per_minute_per_key = 25");
        let limits = |set| {
            let (tenant, key) = rates.limits_of(set);
            (tenant.get(), key.get())
        };
        assert_eq!(limits(None), (100, 25));
        assert_eq!(limits(Some(4_000)), (4_000, 1_000));
        assert_eq!(limits(Some(2)), (2, 1), "never nothing");
        assert_eq!(limits(Some(i32::MAX.unsigned_abs())).0, i32::MAX.unsigned_abs());
    }

    #[test]
    fn keys_of_one_tenant_share_its_limit_and_a_refused_key_leaves_it_alone() {
        let rates = rates("default_requests_per_minute = 5\ndefault_requests_per_minute_per_key = 3");
        let (mine, other) = (tenant(None), tenant(None));
        let ask = |key: u8, tenant: &Tenant| rates.request([key; 32], tenant);
        assert!((0..3).all(|_| ask(1, &mine).allowed().is_ok()));
        assert!((0..9).all(|_| ask(1, &mine).refusal() == Some(("key", 3))));
        assert_eq!(told(&ask(1, &mine)).1, r#""key";r=0;t=20"#);
        assert!((0..2).all(|_| ask(2, &mine).allowed().is_ok()));
        let refused = ask(2, &mine);
        assert_eq!(refused.refusal(), Some(("tenant", 5)));
        assert_eq!(told(&refused).1, r#""key";r=0;t=20, "tenant";r=0;t=12"#);
        assert!(ask(3, &other).allowed().is_ok());
    }

    #[test]
    fn a_wait_is_told_in_seconds_that_are_enough() {
        assert_eq!([0, 1, 999, 1_000, 1_001].map(|millis| secs(Duration::from_millis(millis))), [0, 1, 1, 1, 2]);
    }
}
