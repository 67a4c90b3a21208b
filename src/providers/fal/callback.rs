//! fal's callbacks: `fal_webhook` in the query of an order, told once at the end of the request.
//!
//! Signed with Ed25519 over request id, user id, timestamp and the SHA-256 of the body, one below the other, by a key that
//! does not name itself: all of the published ones are tried. The body names the request of the queue as `request_id` and
//! its end as `status`; `payload` is the result, which is not looked at. A callback that fails is repeated ten times within
//! two hours. Source: fal's page "Webhooks".

use async_trait::async_trait;
use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::super::callbacks::{CallHead, CallbackNews, CallbackRefusal, KeySet, Vendor, job_at};

const ED25519_BYTES: usize = 64;

pub(in crate::providers) struct FalCallbacks(pub(in crate::providers) KeySet);

#[async_trait]
impl Vendor for FalCallbacks {
    fn glance(&self, head: &CallHead<'_>) -> Result<(), CallbackRefusal> {
        Headers::read(head).map(drop)
    }

    async fn verify(&self, head: &CallHead<'_>, body: &[u8]) -> Result<Option<CallbackNews>, CallbackRefusal> {
        let Headers { request, user, timestamp, signature } = Headers::read(head)?;
        let hash: String = digest(&SHA256, body).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let message = format!("{request}\n{user}\n{timestamp}\n{hash}");
        if !self.0.any(|key| key.is_ed25519(message.as_bytes(), &signature)).await? {
            return Err(CallbackRefusal::Forged("none of the published keys has signed it"));
        }
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let ended = matches!(body.get("status").and_then(Value::as_str), Some("OK" | "ERROR"));
        Ok(Some(CallbackNews { job: job_at(&body, &["request_id"]), ended }))
    }
}

struct Headers<'a> {
    request: &'a str,
    user: &'a str,
    timestamp: &'a str,
    signature: Vec<u8>,
}

impl<'a> Headers<'a> {
    fn read(head: &CallHead<'a>) -> Result<Headers<'a>, CallbackRefusal> {
        let forged = CallbackRefusal::Forged;
        if head.token.is_none() {
            return Err(CallbackRefusal::NotOffered);
        }
        let header = |name| head.header(name).ok_or(forged("a header of fal's signature is missing"));
        let (request, user) = (header("x-fal-webhook-request-id")?, header("x-fal-webhook-user-id")?);
        let (timestamp, signature) = (header("x-fal-webhook-timestamp")?, header("x-fal-webhook-signature")?);
        let seconds = timestamp.parse().map_err(|_| forged("its timestamp is no number"))?;
        if !head.is_timely(seconds) {
            return Err(forged("its timestamp is too old or too new"));
        }
        let signature = from_hex(signature).ok_or(forged("its signature is not 64 bytes in hexadecimal digits"))?;
        Ok(Headers { request, user, timestamp, signature })
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if digits.len() != 2 * ED25519_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks_exact(2).map(byte).collect()
}
