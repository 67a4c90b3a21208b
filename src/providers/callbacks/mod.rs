//! Callbacks of providers: the addresses that are given out, and whether what comes in there is genuine.
//!
//! Two kinds of addresses: `{public_url}/callbacks/{account}/{token}` goes with one order, and the token is its attempt;
//! `{public_url}/callbacks/{account}` is registered once for a whole project. A token is the attempt's id and its HMAC
//! under a key of this installation for this account: nothing is written to give one out, nobody can make one, and one of
//! another account is none.
//! Always holds: a token alone proves nothing where the vendor signs; a signature is checked over the bytes that came, by
//! secrets in constant time, and a call that is older or newer than [`TOLERANCE`] is refused. The [`CallbackDesk`] needs no
//! API key, so a process that only answers requests has one; that is why verification is not the adapter's.
//! Refuses: to believe what a callback says. What is verified is a hint that something happened; a poll says what.

mod desk;
mod keys;
mod standard_webhooks;

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::HeaderMap;
use ulid::Ulid;
use url::Url;

use crate::config::ProviderConfig;
use crate::domain::master_key::SigningKey;
use crate::domain::{AttemptId, MasterKey};
pub use desk::{CallbackAccount, CallbackDesk};
pub(super) use keys::{KeySet, PublicKey, job_at};
pub(super) use standard_webhooks::StandardWebhooks;

/// How far the time of a call may be from ours, as Standard Webhooks and fal say.
pub(super) const TOLERANCE: TimeDelta = TimeDelta::seconds(300);
/// What the signing key is for.
const PURPOSE: &str = "provider callback address";
const ID_BYTES: usize = 16;

/// Where this installation is called back.
#[derive(Clone, Debug)]
pub struct CallbackBase {
    public_url: Url,
    key: SigningKey,
}

impl CallbackBase {
    /// `public_url` is where the world reaches the API.
    pub fn new(master: &MasterKey, public_url: Url) -> CallbackBase {
        CallbackBase { public_url, key: master.signing_key(PURPOSE) }
    }

    /// The addresses of an account; `None` when its callbacks are not taken.
    pub fn of_account(&self, account: &ProviderConfig) -> Option<CallbackAddresses> {
        if !account.takes_callbacks(&self.public_url) {
            return None;
        }
        let mut project = self.public_url.clone();
        project.path_segments_mut().ok()?.pop_if_empty().extend(["callbacks", &account.name]);
        Some(CallbackAddresses { account: account.name.as_str().into(), project, key: self.key.clone() })
    }
}

/// The addresses at which one account calls back.
#[derive(Clone, Debug)]
pub struct CallbackAddresses {
    account: Arc<str>,
    /// The one for all.
    project: Url,
    key: SigningKey,
}

impl CallbackAddresses {
    /// The opaque name of an attempt.
    pub(super) fn token(&self, attempt: AttemptId) -> String {
        let id = u128::from(attempt.ulid()).to_be_bytes();
        URL_SAFE_NO_PAD.encode([&id[..], &self.key.sign(&self.signed(&id))].concat())
    }

    /// The address for one attempt.
    pub(super) fn of_attempt(&self, attempt: AttemptId) -> Url {
        self.of_token(&self.token(attempt))
    }

    pub(super) fn of_token(&self, token: &str) -> Url {
        let mut url = self.project.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(token);
        }
        url
    }

    /// The attempt that a genuine token names.
    fn attempt_of(&self, token: &str) -> Option<AttemptId> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (id, signature) = bytes.split_first_chunk::<ID_BYTES>()?;
        if !self.key.verify(&self.signed(id), signature) {
            return None;
        }
        AttemptId::from_bare(&Ulid::from(u128::from_be_bytes(*id)).to_string()).ok()
    }

    fn signed(&self, id: &[u8]) -> Vec<u8> {
        [id, self.account.as_bytes()].concat()
    }
}

/// A call as far as it has come before its body.
#[derive(Clone, Copy)]
pub struct CallHead<'a> {
    /// The token of its address, with the attempt that it names; `None` at the address for all.
    pub token: Option<(&'a str, AttemptId)>,
    pub headers: &'a HeaderMap,
    /// When it came.
    pub now: DateTime<Utc>,
}

impl<'a> CallHead<'a> {
    pub(super) fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether a time in seconds since 1970 is near enough.
    pub(super) fn is_timely(&self, seconds: i64) -> bool {
        DateTime::from_timestamp(seconds, 0).is_some_and(|at| (self.now - at).abs() <= TOLERANCE)
    }
}

/// What a genuine call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackNews {
    /// The job as the vendor calls it, if the call names one that its signature vouches for.
    pub job: Option<String>,
    /// Whether it says that the job has ended.
    pub ended: bool,
}

/// Why a call is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallbackRefusal {
    /// Not signed by the vendor, or not now, or not for this address. The words are for the log.
    #[error("{0}")]
    Forged(&'static str),
    /// The account has no callbacks at such an address.
    #[error("the account has no callbacks at this address")]
    NotOffered,
    /// The vendor's keys could not be had, so that nothing can be said about the call.
    #[error("the provider's keys are not available: {0}")]
    NoKeys(String),
}

/// How one vendor signs.
#[async_trait]
pub(super) trait Vendor: Send + Sync {
    /// Refuses what needs no body to be refused: no such address, no signature, not now.
    fn glance(&self, head: &CallHead<'_>) -> Result<(), CallbackRefusal>;

    /// What the call says; `None` when it is genuine and about something else than a video. Whatever [`Vendor::glance`]
    /// refuses is refused here too.
    async fn verify(&self, head: &CallHead<'_>, body: &[u8]) -> Result<Option<CallbackNews>, CallbackRefusal>;
}

#[cfg(test)]
mod tests;
