//! Callbacks of the Gemini API, in its two forms.
//!
//! *Dynamic*: an address that goes with the order (`webhookConfig`, `webhook_config`), signed by a JWT (RS256) in
//! `webhook-signature`, whose keys Google publishes. *Static*: one address for the project, registered by hand, signed as
//! Standard Webhooks. Both name the job as `data.id`. Source: ai.google.dev, "Webhooks".
//!
//! Unconfirmed of the dynamic form, and taken so: whether the JWT repeats the event (then its word counts) or the body alone
//! has it; what its audience is. A JWT that Google made for somebody else must not name a job here. So a job is taken only
//! from a JWT that speaks of this very address, by its audience or by the metadata that went with the order; one that does
//! not can still wake an attempt, which costs a poll. Also unconfirmed: whether `data.id` of a Veo video is the whole name of
//! its operation or the end of it; both are read as the end.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::super::adapter;
use super::super::callbacks::{
    CallHead, CallbackAddresses, CallbackNews, CallbackRefusal, KeySet, StandardWebhooks, Vendor, job_at,
};
use crate::domain::AttemptId;

/// The metadata that goes with an order and comes back.
const METADATA_KEY: &str = "attempt";
/// How far clocks may differ where a JWT says until when it is good, in seconds.
const LEEWAY_SECS: i64 = 60;

pub(in crate::providers) struct GoogleCallbacks {
    pub(in crate::providers) addresses: CallbackAddresses,
    pub(in crate::providers) keys: KeySet,
    /// Of the static form, where one is registered.
    pub(in crate::providers) secret: Option<StandardWebhooks>,
}

/// What an order says of its callback: the address and the metadata.
pub(in crate::providers) fn hook(addresses: &CallbackAddresses, attempt: AttemptId) -> (Vec<String>, Value) {
    let uris = vec![addresses.of_attempt(attempt).to_string()];
    (uris, json!({METADATA_KEY: addresses.token(attempt)}))
}

#[async_trait]
impl Vendor for GoogleCallbacks {
    fn glance(&self, head: &CallHead<'_>) -> Result<(), CallbackRefusal> {
        match (head.token, &self.secret) {
            (Some(_), _) => Jwt::of(head).map(drop),
            (None, Some(_)) => StandardWebhooks::glance(head),
            (None, None) => Err(CallbackRefusal::NotOffered),
        }
    }

    async fn verify(&self, head: &CallHead<'_>, body: &[u8]) -> Result<Option<CallbackNews>, CallbackRefusal> {
        match (head.token, &self.secret) {
            (Some((token, _)), _) => self.dynamic(head, body, token).await,
            (None, Some(secret)) => {
                secret.verify(head, body)?;
                let news = news_of(&event_of(body));
                Ok(news.filter(|news| news.job.is_some()))
            }
            (None, None) => Err(CallbackRefusal::NotOffered),
        }
    }
}

impl GoogleCallbacks {
    async fn dynamic(
        &self,
        head: &CallHead<'_>,
        body: &[u8],
        token: &str,
    ) -> Result<Option<CallbackNews>, CallbackRefusal> {
        let jwt = Jwt::of(head)?;
        let is_its = |id: &Option<String>| jwt.key.is_none() || id.is_none() || *id == jwt.key;
        let signed = |key: &super::super::callbacks::PublicKey| {
            is_its(&key.id) && key.is_rs256(jwt.signed.as_bytes(), &jwt.signature)
        };
        if !self.keys.any(signed).await? {
            return Err(CallbackRefusal::Forged("none of the published keys has signed it"));
        }
        let event = if jwt.claims.get("data").is_some() { jwt.claims.clone() } else { event_of(body) };
        let bound = jwt.speaks_of(self.addresses.of_token(token).as_str(), token);
        Ok(news_of(&event).map(|news| CallbackNews { job: news.job.filter(|_| bound), ..news }))
    }
}

fn event_of(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

/// What an event says; `None` for those that are not about videos.
fn news_of(event: &Value) -> Option<CallbackNews> {
    let kind = event.get("type").and_then(Value::as_str)?;
    let ended = match kind {
        "video.generated"
        | "interaction.completed"
        | "interaction.failed"
        | "interaction.cancelled"
        | "interaction.requires_action" => true,
        _ if kind.starts_with("video.") || kind.starts_with("interaction.") => false,
        _ => return None,
    };
    let job = job_at(event, &["data", "id"]).and_then(|id| id.rsplit('/').next().map(str::to_owned));
    Some(CallbackNews { job: job.filter(|job| !job.is_empty()), ended })
}

/// A JWT in its parts (RFC 7519), not verified yet.
struct Jwt<'t> {
    signed: &'t str,
    signature: Vec<u8>,
    key: Option<String>,
    claims: Value,
}

impl<'t> Jwt<'t> {
    /// A call's own, if its time is near enough.
    fn of(head: &CallHead<'t>) -> Result<Jwt<'t>, CallbackRefusal> {
        let forged = CallbackRefusal::Forged;
        let header = head.header("webhook-signature").ok_or(forged("the header webhook-signature is missing"))?;
        let jwt = Jwt::read(header).ok_or(forged("its signature is no JWT by RS256"))?;
        if !jwt.is_timely(head) {
            return Err(forged("its JWT is too old, too new, or says nothing of its time"));
        }
        Ok(jwt)
    }

    fn read(text: &'t str) -> Option<Jwt<'t>> {
        let (signed, signature) = text.trim().rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let json = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let (header, claims) = (json(header)?, json(claims)?);
        // the algorithm is ours to choose, whatever the token says
        let is_rs256 = header.get("alg").and_then(Value::as_str) == Some("RS256");
        let key = header.get("kid").and_then(Value::as_str).map(str::to_owned);
        is_rs256.then_some(Jwt { signed, signature: URL_SAFE_NO_PAD.decode(signature).ok()?, key, claims })
    }

    fn is_timely(&self, head: &CallHead<'_>) -> bool {
        let (issued, ends) = (adapter::json::whole(&self.claims, "iat"), adapter::json::whole(&self.claims, "exp"));
        let now = head.now.timestamp();
        (issued.is_some() || ends.is_some())
            && issued.is_none_or(|at| head.is_timely(at))
            && ends.is_none_or(|at| at.saturating_add(LEEWAY_SECS) > now)
    }

    /// Whether it was made for this address.
    fn speaks_of(&self, address: &str, token: &str) -> bool {
        let is = |value: &Value| value.as_str() == Some(address);
        let audience = match self.claims.get("aud") {
            Some(Value::Array(several)) => several.iter().any(is),
            Some(one) => is(one),
            None => false,
        };
        let metadata = ["user_metadata", "userMetadata"].iter().find_map(|key| self.claims.get(key)?.get(METADATA_KEY));
        audience || metadata.and_then(Value::as_str) == Some(token)
    }
}
