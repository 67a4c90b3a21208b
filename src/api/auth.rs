//! Whom a request speaks for: a handler that takes a [`Caller`] cannot run without a valid key, nor for another tenant.
//!
//! Always holds: text that is no key of ours is refused without reading the database. A key that was valid is believed for
//! [`REMEMBERED`] without asking again, so a revoked key works that much longer, and a client that polls costs one read less.
//!
//! Refuses: to remember a key (only its hash), to say whether an unknown key ever existed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use poem::Request;
use poem_openapi::SecurityScheme;
use poem_openapi::auth;

use super::ApiState;
use super::error::ApiError;
use crate::tenants::{self, ApiKey, Tenant};

/// How long an answer of the database about a key is believed: a limit that was changed, or a key that was revoked, is known
/// everywhere within two seconds.
const REMEMBERED: Duration = Duration::from_millis(1_500);
/// Keys remembered at once; with more, all are asked for again.
const MAX_REMEMBERED: usize = 10_000;

/// Your API key, as it was shown once when it was made: `ff_live_` and 38 letters and digits.
#[derive(SecurityScheme)]
#[oai(rename = "ApiKey", ty = "api_key", key_in = "header", key_name = "X-API-Key", checker = "identify")]
pub struct Caller(pub Tenant);

async fn identify(request: &Request, sent: auth::ApiKey) -> poem::Result<Tenant> {
    let key = ApiKey::parse(&sent.key).map_err(|malformed| ApiError::unauthorized(malformed.to_string()))?;
    let Some(state) = request.data::<ApiState>() else {
        return Err(ApiError::internal("a route was mounted without its state").into());
    };
    let hash = key.hash();
    if let Some(tenant) = state.known_keys.get(&hash) {
        return Ok(tenant);
    }
    let known = state.db.look_up(move |conn| Box::pin(async move { tenants::authenticate(conn, hash).await })).await;
    match known.map_err(ApiError::from)? {
        Some(tenant) => {
            state.known_keys.put(hash, tenant.clone());
            Ok(tenant)
        }
        None => Err(ApiError::unauthorized("the API key is unknown or was revoked").into()),
    }
}

/// Keys that were valid a moment ago, by their hashes.
#[derive(Default)]
pub struct KnownKeys(Mutex<HashMap<[u8; 32], (Tenant, Instant)>>);

impl KnownKeys {
    fn get(&self, hash: &[u8; 32]) -> Option<Tenant> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(hash).filter(|(_, since)| since.elapsed() < REMEMBERED).map(|(tenant, _)| tenant.clone())
    }

    fn put(&self, hash: [u8; 32], tenant: Tenant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(hash, (tenant, Instant::now()));
    }
}
