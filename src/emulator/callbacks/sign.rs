//! How calls are signed, by vendor, and how wrongly.

use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents};
use serde_json::{Value, json};

use super::{CallbackFault, Form, Pending, word_of};

/// A key of nothing: it signs the emulator's calls in Google's form, and whoever believes them is a test.
const RSA_KEY: &str = include_str!("key.pem");
const RSA_KEY_ID: &str = "emulated-rsa";
const STALE_SECS: i64 = 600;
const HUGE_BYTES: usize = 1 << 20;

/// A call that is ready to be sent.
pub(super) struct Signed {
    pub(super) url: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: String,
}

/// The keys that sign.
pub(in crate::emulator) struct Keys {
    ed25519: Mutex<Option<Ed25519KeyPair>>,
    rsa: Option<RsaKeyPair>,
}

fn new_ed25519() -> Option<Ed25519KeyPair> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).ok()?;
    Ed25519KeyPair::from_pkcs8(document.as_ref()).ok()
}

impl Keys {
    pub(super) fn new() -> Keys {
        let text: String = RSA_KEY.lines().filter(|line| !line.starts_with('-')).collect();
        let rsa = STANDARD.decode(text).ok().and_then(|key| RsaKeyPair::from_pkcs8(&key).ok());
        Keys { ed25519: Mutex::new(new_ed25519()), rsa }
    }

    pub(super) fn rotate(&self) {
        *self.ed25519.lock().unwrap_or_else(PoisonError::into_inner) = new_ed25519();
    }

    /// The public halves, as a key set (JWKS).
    pub(super) fn published(&self) -> Value {
        let ed25519 = self.ed25519.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = vec![json!({"kty": "EC", "crv": "P-256", "kid": "of-no-use", "x": "AA", "y": "AA"})];
        if let Some(key) = &*ed25519 {
            let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
            keys.push(json!({"kty": "OKP", "crv": "Ed25519", "kid": "emulated-ed25519", "x": x}));
        }
        if let Some(key) = &self.rsa {
            let parts = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
            let (n, e) = (URL_SAFE_NO_PAD.encode(parts.n), URL_SAFE_NO_PAD.encode(parts.e));
            keys.push(json!({"kty": "RSA", "alg": "RS256", "use": "sig", "kid": RSA_KEY_ID, "n": n, "e": e}));
        }
        json!({ "keys": keys })
    }

    /// The call `id` about a job that has ended, or has not.
    pub(super) fn signed(&self, id: &str, about: &Pending, ended: bool) -> Signed {
        let Pending { job, hook, fault } = about;
        let fault = fault.as_ref();
        let url = match fault {
            Some(CallbackFault::WrongToken) => wrong_token(&hook.url),
            _ => hook.url.clone(),
        };
        let named = if fault == Some(&CallbackFault::OtherJob) { "video_of_nobody" } else { job };
        let mut word = word_of(named, &hook.form, ended);
        if fault == Some(&CallbackFault::Huge) {
            word["padding"] = json!("x".repeat(HUGE_BYTES));
        }
        let body = word.to_string();
        let age = if fault == Some(&CallbackFault::Stale) { STALE_SECS } else { 0 };
        let at = chrono::Utc::now().timestamp() - age;
        let headers = match &hook.form {
            Form::Fal => self.as_fal(job, at, &body, fault),
            Form::GoogleVideo(metadata) | Form::GoogleInteraction(metadata) => {
                let claims = json!({"iss": "https://generativelanguage.googleapis.com", "aud": hook.url, "iat": at,
                    "exp": at + 300, "user_metadata": metadata});
                self.as_google(id, at, &claims, fault)
            }
            Form::Openai(secret) => as_standard(id, at, (secret, &body), fault),
        };
        Signed { url, headers, body }
    }

    fn as_fal(&self, job: &str, at: i64, body: &str, fault: Option<&CallbackFault>) -> Vec<(&'static str, String)> {
        let message = format!("{job}\nuser_emulated\n{at}\n{}", hex(digest(&SHA256, body.as_bytes()).as_ref()));
        let signature = match fault {
            Some(CallbackFault::Forged) => new_ed25519().map(|key| hex(key.sign(message.as_bytes()).as_ref())),
            _ => {
                let key = self.ed25519.lock().unwrap_or_else(PoisonError::into_inner);
                key.as_ref().map(|key| hex(key.sign(message.as_bytes()).as_ref()))
            }
        };
        vec![
            ("x-fal-webhook-request-id", job.to_owned()),
            ("x-fal-webhook-user-id", "user_emulated".to_owned()),
            ("x-fal-webhook-timestamp", at.to_string()),
            ("x-fal-webhook-signature", signature.unwrap_or_default()),
        ]
    }

    fn as_google(
        &self,
        id: &str,
        at: i64,
        claims: &Value,
        fault: Option<&CallbackFault>,
    ) -> Vec<(&'static str, String)> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": RSA_KEY_ID});
        let signed = format!("{}.{}", part(&header), part(claims));
        let mut signature = vec![0; self.rsa.as_ref().map_or(0, |key| key.public().modulus_len())];
        if let Some(key) = &self.rsa {
            // a signature that could not be made is one that is not good
            let _ = key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature);
        }
        if fault == Some(&CallbackFault::Forged) {
            signature.reverse();
        }
        vec![
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", at.to_string()),
            ("webhook-signature", format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))),
        ]
    }
}

fn as_standard(
    id: &str,
    at: i64,
    (secret, body): (&str, &str),
    fault: Option<&CallbackFault>,
) -> Vec<(&'static str, String)> {
    let good = STANDARD.decode(secret.trim_start_matches("whsec_")).unwrap_or_default();
    let sign = |key: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        format!("v1,{}", STANDARD.encode(hmac::sign(&key, format!("{id}.{at}.{body}").as_bytes())))
    };
    let signature = match fault {
        Some(CallbackFault::Forged) => sign(b"a key that nobody has agreed on"),
        Some(CallbackFault::TwoSignatures) => format!("{} {}", sign(b"the key of tomorrow"), sign(&good)),
        _ => sign(&good),
    };
    vec![("webhook-id", id.to_owned()), ("webhook-timestamp", at.to_string()), ("webhook-signature", signature)]
}

/// The address with another last segment of the same length.
fn wrong_token(url: &str) -> String {
    match url.rsplit_once('/') {
        Some((rest, token)) => format!("{rest}/{}", token.chars().rev().collect::<String>()),
        None => url.to_owned(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
