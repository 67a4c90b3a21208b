//! Whom a customer's request speaks for: a handler that takes a [`Caller`] cannot run without a valid key, nor for another tenant, nor
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
use super::rates::{Account, Rates};
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
    let tenant = Box::pin(recognise((&state.rates, &state.known_keys), address, hash, look_up(state, hash))).await?;
    let spent = state.rates.request(hash, &tenant);
    let allowed = spent.allowed();
    if let Some(account) = request.data::<Account>() {
        account.enter(spent);
    }
    allowed?;
    Ok(tenant)
}

/// Whose well-formed key that is. `asked` asks the database, and only where it must be asked.
///
/// # Errors
/// The key is nobody's, too many keys from its address were, or the database's.
pub(super) async fn recognise<W: Clone>(
    (rates, known): (&Rates, &KnownKeys<W>),
    address: IpAddr,
    hash: [u8; 32],
    asked: impl Future<Output = Result<Option<W>, ApiError>>,
) -> Result<W, ApiError> {
    let found = match known.get(&hash) {
        Known::Now(whose) => return Ok(whose),
        Known::Lately => asked.await?,
        Known::Not => {
            rates.stranger(address)?;
            let found = asked.await;
            // only a key that is surely nobody's counts
            if !matches!(found, Ok(None)) {
                rates.no_stranger(address);
            }
            found?
        }
    };
    match &found {
        Some(whose) => known.put(hash, whose.clone()),
        None => known.forget(&hash),
    }
    found.ok_or_else(|| ApiError::unauthorized("the API key is unknown or was revoked"))
}

/// Asks the database whose key that is.
async fn look_up(state: &ApiState, hash: [u8; 32]) -> Result<Option<Tenant>, ApiError> {
    let found = state.db.look_up(move |conn| Box::pin(async move { tenants::authenticate(conn, hash).await })).await;
    found.map_err(|error: sqlx::Error| ApiError::from(error))
}

/// Whom failed keys are counted for.
pub(super) fn address_of(request: &Request) -> IpAddr {
    let peer = request.remote_addr().as_socket_addr().map(SocketAddr::ip);
    peer.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), server::client)
}

/// What is known of a key without asking.
#[derive(Debug, PartialEq, Eq)]
enum Known<W> {
    /// It is this one's.
    Now(W),
    /// It was somebody's a while ago.
    Lately,
    Not,
}

/// Keys that were valid lately, by their hashes, and whose they are.
pub struct KnownKeys<W>(Mutex<Kept<W>>);

type Kept<W> = HashMap<[u8; 32], (W, Instant)>;

impl<W> Default for KnownKeys<W> {
    fn default() -> KnownKeys<W> {
        KnownKeys(Mutex::default())
    }
}

impl<W: Clone> KnownKeys<W> {
    fn get(&self, hash: &[u8; 32]) -> Known<W> {
        match self.known().get(hash) {
            Some((whose, since)) if since.elapsed() < REMEMBERED => Known::Now(whose.clone()),
            Some((_, since)) if since.elapsed() < LATELY => Known::Lately,
            _ => Known::Not,
        }
    }

    fn put(&self, hash: [u8; 32], whose: W) {
        let mut known = self.known();
        if known.len() >= MAX_REMEMBERED {
            known.retain(|_, (_, since)| since.elapsed() < REMEMBERED);
        }
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(hash, (whose, Instant::now()));
    }

    fn forget(&self, hash: &[u8; 32]) {
        self.known().remove(hash);
    }

    fn known(&self) -> MutexGuard<'_, Kept<W>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
