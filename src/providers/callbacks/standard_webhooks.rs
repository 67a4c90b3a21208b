//! Standard Webhooks 1.0, received: HMAC-SHA-256 over `id.timestamp.body` under a secret that both sides know.
//!
//! Several signatures, separated by spaces, stand side by side while a secret is exchanged: one that is good is enough.
//! Refuses: to say more than that a call is not genuine; a secret is in no error.

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use super::{CallHead, CallbackRefusal};
use crate::domain::Secret;

const PREFIX: &str = "whsec_";
/// Shorter ones are no secrets.
const LEAST_SECRET_BYTES: usize = 16;
/// Signatures of one call that are looked at.
const MAX_SIGNATURES: usize = 8;

/// The secret of one project.
pub(in crate::providers) struct StandardWebhooks(hmac::Key);

impl StandardWebhooks {
    /// # Errors
    /// The secret is not `whsec_` and base64.
    pub(in crate::providers) fn new(secret: &Secret) -> anyhow::Result<StandardWebhooks> {
        let text = secret.expose().strip_prefix(PREFIX).context("its webhook secret does not begin with whsec_")?;
        let key = STANDARD.decode(text).ok().context("its webhook secret has no base64 behind whsec_")?;
        ensure!(key.len() >= LEAST_SECRET_BYTES, "its webhook secret is shorter than {LEAST_SECRET_BYTES} bytes");
        Ok(StandardWebhooks(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// Whether a call has the headers, and a time near enough.
    pub(in crate::providers) fn glance(head: &CallHead<'_>) -> Result<(), CallbackRefusal> {
        Headers::read(head).map(drop)
    }

    pub(in crate::providers) fn verify(&self, head: &CallHead<'_>, body: &[u8]) -> Result<(), CallbackRefusal> {
        let Headers { id, timestamp, signatures } = Headers::read(head)?;
        let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
        let is_good = |signature: &str| {
            let signature = signature.strip_prefix("v1,").and_then(|text| STANDARD.decode(text).ok());
            signature.is_some_and(|signature| hmac::verify(&self.0, &signed, &signature).is_ok())
        };
        let good = signatures.split(' ').take(MAX_SIGNATURES).any(is_good);
        good.then_some(()).ok_or(CallbackRefusal::Forged("none of its signatures is good"))
    }
}

struct Headers<'a> {
    id: &'a str,
    timestamp: &'a str,
    signatures: &'a str,
}

impl<'a> Headers<'a> {
    fn read(head: &CallHead<'a>) -> Result<Headers<'a>, CallbackRefusal> {
        let forged = CallbackRefusal::Forged;
        let header = |name| head.header(name).ok_or(forged("a header of Standard Webhooks is missing"));
        let (id, timestamp, signatures) =
            (header("webhook-id")?, header("webhook-timestamp")?, header("webhook-signature")?);
        let seconds = timestamp.parse().map_err(|_| forged("its timestamp is no number"))?;
        if !head.is_timely(seconds) {
            return Err(forged("its timestamp is too old or too new"));
        }
        Ok(Headers { id, timestamp, signatures })
    }
}
