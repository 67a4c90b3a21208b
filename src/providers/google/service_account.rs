//! The key of a service account, and the signed statement (JWT, RFC 7523) that Google's token endpoint takes in
//! exchange for a token.
//!
//! Always holds: neither the key nor a statement shows in `Debug` or in an error.

use std::fmt;

use anyhow::{Context, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::SCOPE;
use crate::providers::egress::is_private_host;

/// The longest that Google allows.
const VALID_FOR: TimeDelta = TimeDelta::hours(1);

/// The part of the key file that is used.
#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    private_key: String,
    #[serde(default)]
    private_key_id: String,
    token_uri: String,
}

pub(super) struct ServiceAccount {
    email: String,
    key_id: String,
    key: RsaKeyPair,
    pub(super) token_url: Url,
}

impl ServiceAccount {
    /// # Errors
    /// The text is no key file, or names a token endpoint to which the statement would travel in the clear.
    pub(super) fn from_json(text: &str) -> anyhow::Result<ServiceAccount> {
        // the parser's own words could quote the key
        let file: KeyFile = serde_json::from_str(text).map_err(|_| {
            anyhow!("it is not the JSON key file of a service account (client_email, private_key, token_uri)")
        })?;
        let token_url = Url::parse(&file.token_uri).context("its token_uri is no URL")?;
        ensure!(
            token_url.scheme() == "https" || is_private_host(&token_url),
            "its token_uri does not start with https://"
        );
        let key = RsaKeyPair::from_pkcs8(&pkcs8(&file.private_key)?)
            .map_err(|_| anyhow!("its private_key is no RSA key of 2048 bits or more"))?;
        Ok(ServiceAccount { email: file.client_email, key_id: file.private_key_id, key, token_url })
    }

    /// A statement of who we are, to be exchanged for a token within the hour.
    ///
    /// # Errors
    /// The machine has no randomness.
    pub(super) fn statement(&self, now: DateTime<Utc>) -> anyhow::Result<String> {
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": self.key_id});
        let claims = json!({"iss": self.email, "scope": SCOPE, "aud": self.token_url.as_str(),
            "iat": now.timestamp(), "exp": (now + VALID_FOR).timestamp()});
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(|_| anyhow!("the statement for the token endpoint could not be signed"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceAccount({})", self.email)
    }
}

/// The bytes within a PEM block.
fn pkcs8(pem: &str) -> anyhow::Result<Vec<u8>> {
    let body = pem
        .split_once("-----BEGIN PRIVATE KEY-----")
        .and_then(|(_, rest)| rest.split_once("-----END PRIVATE KEY-----"))
        .map(|(body, _)| body)
        .context("its private_key is no PKCS#8 block")?;
    let text: String = body.split_whitespace().collect();
    STANDARD.decode(text).map_err(|_| anyhow!("its private_key is no PKCS#8 block"))
}

#[cfg(test)]
mod tests {
    use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    /// A key of nothing.
    const PEM: &str = include_str!("test_key.pem");

    fn file(token_uri: &str, pem: &str) -> String {
        json!({"type": "service_account", "client_email": "maker@example.iam", "private_key": pem,
            "private_key_id": "kid-1", "token_uri": token_uri})
        .to_string()
    }

    #[test]
    fn a_statement_is_signed_by_the_key_and_says_who_for_what_and_until_when() {
        let account = ServiceAccount::from_json(&file("https://oauth2.googleapis.com/token", PEM)).unwrap();
        let now = DateTime::from_timestamp(1_900_000_000, 0).unwrap();
        let statement = account.statement(now).unwrap();
        let (signed, signature) = statement.rsplit_once('.').unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, account.key.public().as_ref());
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        public.verify(signed.as_bytes(), &signature).unwrap();
        let read = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let (header, claims): (serde_json::Value, serde_json::Value) = (read(header), read(claims));
        assert_eq!(header, json!({"alg": "RS256", "typ": "JWT", "kid": "kid-1"}));
        assert_eq!(claims["iss"], json!("maker@example.iam"));
        assert_eq!(claims["aud"], json!("https://oauth2.googleapis.com/token"));
        assert_eq!(claims["scope"], json!(SCOPE));
        assert_eq!((&claims["iat"], &claims["exp"]), (&json!(1_900_000_000), &json!(1_900_003_600)));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_refused_without_showing_it() {
        let secret = "MIIsecretsecretsecret";
        let broken = format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n");
        for text in [
            format!("{{\"private_key\": \"{secret}\""),
            json!({"private_key": secret}).to_string(),
            file("https://x.example/token", secret),
            file("https://x.example/token", &broken),
            file("http://x.example/token", PEM),
            file("no url", PEM),
        ] {
            let Err(error) = ServiceAccount::from_json(&text) else { panic!("it should be refused") };
            let error = format!("{error:?}");
            assert!(!error.contains(secret), "{error}");
        }
        let good = ServiceAccount::from_json(&file("http://127.0.0.1:9/token", PEM)).unwrap();
        assert_eq!(format!("{good:?}"), "ServiceAccount(maker@example.iam)");
    }
}
