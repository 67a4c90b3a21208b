//! A vendor's public keys, fetched from where it publishes them (JWKS, RFC 7517) and kept for a while.
//!
//! Always holds: one fetch at a time and at most one a minute, whatever comes in; while there are keys, nobody waits for a
//! fetch that somebody else has begun; keys older than [`MAX_AGE`] are not used. No redirect is followed, the answer is read
//! up to a bound, and keys of other kinds are passed over.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

use super::CallbackRefusal;
use crate::providers::adapter::{JsonBounds, Reply, json};
use crate::providers::egress::{ClientTimeouts, Egress, root_cause};

/// fal says that its keys may be kept for a day.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// From this age on newer ones are asked for, and the old ones used while there are none.
const REFRESH_AGE: Duration = Duration::from_secs(12 * 3600);
/// Between two fetches while there are keys, and while there are none.
const PAUSE: Duration = Duration::from_secs(60);
const PAUSE_WITHOUT_KEYS: Duration = Duration::from_secs(5);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_KEYS: usize = 32;
const BOUNDS: JsonBounds =
    JsonBounds { bytes: 64 << 10, raw_bytes: 64 << 10, depth: 8, values: 1_000, longest_text: 4 << 10 };

/// A key that can verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::providers) struct PublicKey {
    /// `kid`, where the vendor tells its keys apart.
    pub(in crate::providers) id: Option<String>,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Ed25519(Vec<u8>),
    /// Modulus and exponent, the highest byte first.
    Rsa(Vec<u8>, Vec<u8>),
}

impl PublicKey {
    /// One entry of a key set; `None` for kinds that nobody here uses.
    fn of(entry: &Value) -> Option<PublicKey> {
        let text = |key| entry.get(key).and_then(Value::as_str);
        let bytes = |key| URL_SAFE_NO_PAD.decode(text(key)?.trim_end_matches('=')).ok();
        let number = |key| {
            let bytes = bytes(key)?;
            Some(bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>())
        };
        let kind = match (text("kty")?, text("crv")) {
            ("OKP", Some("Ed25519")) => Kind::Ed25519(bytes("x")?),
            ("RSA", _) => Kind::Rsa(number("n")?, number("e")?),
            _ => return None,
        };
        Some(PublicKey { id: text("kid").map(str::to_owned), kind })
    }

    pub(in crate::providers) fn is_ed25519(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.kind {
            Kind::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok(),
            Kind::Rsa(..) => false,
        }
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256, `RS256` in JWTs.
    pub(in crate::providers) fn is_rs256(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.kind {
            Kind::Rsa(n, e) => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            Kind::Ed25519(_) => false,
        }
    }
}

#[derive(Clone, Default)]
struct Kept {
    keys: Arc<Vec<PublicKey>>,
    fetched_at: Option<Instant>,
    tried_at: Option<Instant>,
}

impl Kept {
    fn is_younger_than(&self, age: Duration) -> bool {
        self.fetched_at.is_some_and(|at| at.elapsed() < age)
    }

    fn may_be_fetched(&self) -> bool {
        let pause = if self.is_younger_than(MAX_AGE) { PAUSE } else { PAUSE_WITHOUT_KEYS };
        self.tried_at.is_none_or(|at| at.elapsed() >= pause)
    }
}

/// The keys of one vendor.
pub(in crate::providers) struct KeySet {
    url: Url,
    http: reqwest::Client,
    kept: RwLock<Kept>,
    fetching: Mutex<()>,
}

impl KeySet {
    /// # Errors
    /// TLS cannot be set up.
    pub(in crate::providers) fn new(url: Url, egress: &Egress) -> anyhow::Result<KeySet> {
        let timeouts =
            ClientTimeouts { connect: FETCH_TIMEOUT, total: FETCH_TIMEOUT, keep_idle: Duration::from_secs(2) };
        let http = egress.provider_client(timeouts)?;
        Ok(KeySet { url, http, kept: RwLock::default(), fetching: Mutex::default() })
    }

    /// Whether one of the keys is the one that signed. When none is, newer ones are fetched once, as far as it is time.
    ///
    /// # Errors
    /// [`CallbackRefusal::NoKeys`] when there are none to be had.
    pub(in crate::providers) async fn any(
        &self,
        signed: impl Fn(&PublicKey) -> bool + Send + Sync,
    ) -> Result<bool, CallbackRefusal> {
        let kept = self.kept();
        if kept.is_younger_than(REFRESH_AGE) && kept.keys.iter().any(&signed) {
            return Ok(true);
        }
        let failed = self.refresh(&kept).await.err();
        let kept = self.kept();
        match kept.is_younger_than(MAX_AGE) {
            true => Ok(kept.keys.iter().any(signed)),
            false => {
                Err(CallbackRefusal::NoKeys(failed.unwrap_or_else(|| "they were asked for a moment ago".to_owned())))
            }
        }
    }

    fn kept(&self) -> Kept {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, change: impl FnOnce(&mut Kept)) {
        change(&mut self.kept.write().unwrap_or_else(PoisonError::into_inner));
    }

    async fn refresh(&self, seen: &Kept) -> Result<(), String> {
        let _turn = match self.fetching.try_lock() {
            Ok(turn) => turn,
            Err(_) if seen.is_younger_than(MAX_AGE) => return Ok(()),
            Err(_) => self.fetching.lock().await,
        };
        let kept = self.kept();
        if kept.fetched_at != seen.fetched_at || !kept.may_be_fetched() {
            return Ok(());
        }
        self.keep(|kept| kept.tried_at = Some(Instant::now()));
        let keys = self.fetch().await.inspect_err(|error| {
            tracing::warn!(url = %self.url, %error, "the keys of a provider's callbacks could not be fetched");
        })?;
        self.keep(|kept| (kept.keys, kept.fetched_at) = (Arc::new(keys), Some(Instant::now())));
        Ok(())
    }

    async fn fetch(&self) -> Result<Vec<PublicKey>, String> {
        let sent = self.http.get(self.url.clone()).send().await.map_err(|error| root_cause(&error))?;
        let reply = Reply::read(sent, BOUNDS).await;
        if reply.status != 200 {
            return Err(format!("HTTP {}", reply.status));
        }
        let answer = reply.value?;
        let entries = answer.get("keys").and_then(Value::as_array).ok_or("an answer without `keys`")?;
        let keys: Vec<PublicKey> = entries.iter().take(MAX_KEYS).filter_map(PublicKey::of).collect();
        if keys.is_empty() { Err("none of its keys can be used".to_owned()) } else { Ok(keys) }
    }
}

/// The job that a body names below `keys`.
pub(in crate::providers) fn job_at(body: &Value, keys: &[&str]) -> Option<String> {
    let (last, path) = keys.split_last()?;
    json::id(path.iter().try_fold(body, |value, key| value.get(key))?, last)
}

#[cfg(test)]
impl KeySet {
    /// As if so much time had passed.
    pub(super) fn age(&self, by: Duration) {
        self.keep(|kept| {
            for at in [&mut kept.fetched_at, &mut kept.tried_at].into_iter().flatten() {
                *at -= by;
            }
        });
    }
}
