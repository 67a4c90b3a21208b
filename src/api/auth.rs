//! Whom a request speaks for: a handler that takes a [`Caller`] cannot run without a valid key, nor for another tenant, nor
//! more often than key and tenant may ([`super::rates`]).
//!
//! Always holds: text that is no key of ours is refused without reading the database. A key that was valid is believed for
//! [`REMEMBERED`] without asking again, so a revoked key works that much longer, and a client that polls costs one read less.
//! A key that was valid within [`LATELY`] is nobody's guess: whatever else comes from its address, it is looked up.
//!
//! Refuses: to remember a key (only its hash), to say whether an unknown key ever existed, to look up one key after the other
//! for an address that guesses.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use poem::Request;
use poem_openapi::SecurityScheme;
use poem_openapi::auth;

use super::ApiState;
use super::error::ApiError;
use super::rates::Account;
use super::server;
use crate::tenants::{self, ApiKey, Tenant};

/// How long an answer of the database about a key is believed: a limit that was changed, or a key that was revoked, is known
/// everywhere within two seconds.
const REMEMBERED: Duration = Duration::from_millis(1_500);
/// How long a key that was valid is told from a guess.
const LATELY: Duration = Duration::from_secs(3_600);
/// Keys remembered at once. With more, only those that are believed are kept, or none.
const MAX_REMEMBERED: usize = 10_000;

/// Your API key, as it was shown once when it was made: `ff_live_` and 38 letters and digits.
#[derive(SecurityScheme)]
#[oai(rename = "ApiKey", ty = "api_key", key_in = "header", key_name = "X-API-Key", checker = "identify")]
pub struct Caller(pub Tenant);

async fn identify(request: &Request, sent: auth::ApiKey) -> poem::Result<Tenant> {
    let Some(state) = request.data::<ApiState>() else {
        return Err(ApiError::internal("a route was mounted without its state").into());
    };
    let address = address_of(request);
    let key = match ApiKey::parse(&sent.key) {
        Ok(key) => key,
        Err(malformed) => {
            state.rates.stranger(address)?;
            return Err(ApiError::unauthorized(malformed.to_string()).into());
        }
    };
    let hash = key.hash();
    let tenant = match state.known_keys.get(&hash) {
        Known::Now(tenant) => Some(tenant),
        Known::Lately => look_up(state, hash).await?,
        Known::Not => {
            state.rates.stranger(address)?;
            let found = look_up(state, hash).await;
            // only a key that is surely nobody's counts
            if !matches!(found, Ok(None)) {
                state.rates.no_stranger(address);
            }
            found?
        }
    };
    let tenant = tenant.ok_or_else(|| ApiError::unauthorized("the API key is unknown or was revoked"))?;
    let spent = state.rates.request(hash, &tenant);
    let allowed = spent.allowed();
    if let Some(account) = request.data::<Account>() {
        account.enter(spent);
    }
    allowed?;
    Ok(tenant)
}

/// Asks the database whose key that is.
async fn look_up(state: &ApiState, hash: [u8; 32]) -> Result<Option<Tenant>, ApiError> {
    let found = state.db.look_up(move |conn| Box::pin(async move { tenants::authenticate(conn, hash).await })).await;
    let found = found.map_err(|error: sqlx::Error| ApiError::from(error))?;
    match &found {
        Some(tenant) => state.known_keys.put(hash, tenant.clone()),
        None => state.known_keys.forget(&hash),
    }
    Ok(found)
}

/// Whom failed keys are counted for.
fn address_of(request: &Request) -> IpAddr {
    let peer = request.remote_addr().as_socket_addr().map(SocketAddr::ip);
    peer.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), server::client)
}

/// What is known of a key without asking.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    /// It is this tenant's.
    Now(Tenant),
    /// It was somebody's a while ago.
    Lately,
    Not,
}

/// Keys that were valid lately, by their hashes.
#[derive(Default)]
pub struct KnownKeys(Mutex<HashMap<[u8; 32], (Tenant, Instant)>>);

impl KnownKeys {
    fn get(&self, hash: &[u8; 32]) -> Known {
        match self.known().get(hash) {
            Some((tenant, since)) if since.elapsed() < REMEMBERED => Known::Now(tenant.clone()),
            Some((_, since)) if since.elapsed() < LATELY => Known::Lately,
            _ => Known::Not,
        }
    }

    fn put(&self, hash: [u8; 32], tenant: Tenant) {
        let mut known = self.known();
        if known.len() >= MAX_REMEMBERED {
            known.retain(|_, (_, since)| since.elapsed() < REMEMBERED);
        }
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(hash, (tenant, Instant::now()));
    }

    fn forget(&self, hash: &[u8; 32]) {
        self.known().remove(hash);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<[u8; 32], (Tenant, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
