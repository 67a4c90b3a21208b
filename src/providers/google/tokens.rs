//! OAuth access tokens for Google's cloud: from the key of a service account, or from the machine that we run on.
//!
//! Always holds: one request for a token at a time, whoever waits for it; a token is renewed before it ends, and the old
//! one is used as long as it is valid where a renewal fails. A failure is remembered for a moment, so that thousands of
//! videos do not ask one after the other. Tokens are in no message.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use chrono::Utc;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use super::super::adapter::{JsonBounds, Reply, TokenError, TokenSource, json};
use super::super::egress::{ClientTimeouts, Egress, root_cause};
use super::service_account::ServiceAccount;
use crate::config::{GoogleIdentity, ProviderConfig};
use crate::domain::{FailureClass, Secret};

/// The address of the metadata service on every machine of Google's cloud.
const METADATA_URL: &str = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// A token is renewed so long before it ends, longer than a submission may take; a short one at the half of its life.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// For so long a failure is told again without asking.
const FAILURE_HOLDS: Duration = Duration::from_secs(3);
const LONGEST_LIFE: u64 = 86_400;

enum Origin {
    Key(Box<ServiceAccount>),
    Metadata(Url),
}

#[derive(Default)]
struct Held {
    token: Option<Token>,
    failed: Option<(Instant, TokenError)>,
}

#[derive(Clone)]
struct Token {
    text: Secret,
    renew_at: Instant,
    ends_at: Instant,
}

/// The tokens of one identity.
pub(in crate::providers) struct GoogleTokens {
    origin: Origin,
    http: reqwest::Client,
    held: Mutex<Held>,
}

impl GoogleTokens {
    /// # Errors
    /// The key is missing, cannot be read or is none; TLS cannot be set up.
    pub(in crate::providers) fn new(
        account: &ProviderConfig,
        identity: &GoogleIdentity,
        egress: &Egress,
    ) -> anyhow::Result<Arc<GoogleTokens>> {
        let origin = match identity {
            GoogleIdentity::Key => {
                let variable = account.api_key_env.as_deref().unwrap_or("for its key");
                let key = account.api_key.as_ref();
                let key = key.with_context(|| format!("the environment variable {variable} is not set"))?;
                let key = ServiceAccount::from_json(key.expose());
                Origin::Key(Box::new(key.with_context(|| format!("the key in {variable}"))?))
            }
            GoogleIdentity::KeyFile(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("the key file {} cannot be read", path.display()))?;
                let key = ServiceAccount::from_json(&text);
                Origin::Key(Box::new(key.with_context(|| format!("the key file {}", path.display()))?))
            }
            GoogleIdentity::Metadata => Origin::Metadata(Url::parse(METADATA_URL)?),
        };
        GoogleTokens::from_origin(origin, egress)
    }

    fn from_origin(origin: Origin, egress: &Egress) -> anyhow::Result<Arc<GoogleTokens>> {
        let timeouts = ClientTimeouts {
            connect: Duration::from_secs(5),
            total: Duration::from_secs(10),
            keep_idle: Duration::from_secs(2),
        };
        Ok(Arc::new(GoogleTokens { origin, http: egress.provider_client(timeouts)?, held: Mutex::default() }))
    }

    async fn renewed(&self) -> Result<Token, TokenError> {
        let request = match &self.origin {
            Origin::Key(account) => {
                let statement = account
                    .statement(Utc::now())
                    .map_err(|error| TokenError { class: FailureClass::Auth, message: error.to_string() })?;
                let form = [("grant_type", GRANT), ("assertion", statement.as_str())];
                self.http.post(account.token_url.clone()).form(&form)
            }
            Origin::Metadata(url) => self.http.get(url.clone()).header("metadata-flavor", "Google"),
        };
        let asked_at = Instant::now();
        let sent = request.send().await.map_err(|error| TokenError {
            class: FailureClass::Network,
            message: format!("the token endpoint did not answer: {}", root_cause(&error)),
        })?;
        let reply = Reply::read(sent, JsonBounds::JOB).await;
        if (400..500).contains(&reply.status) && !matches!(reply.status, 408 | 429) {
            // `error` is a word here (RFC 6749), `error_description` may name the account
            let word = reply.value.ok().and_then(|value| json::word(&value, "error"));
            let message = format!("HTTP {} from the token endpoint ({})", reply.status, word.unwrap_or_default());
            return Err(TokenError { class: FailureClass::Auth, message });
        }
        let read = reply.value.as_ref().ok().filter(|_| reply.status == 200).and_then(|value| read(value, asked_at));
        read.ok_or_else(|| TokenError {
            class: FailureClass::Network,
            message: format!("HTTP {} from the token endpoint, and no token", reply.status),
        })
    }
}

fn read(value: &Value, asked_at: Instant) -> Option<Token> {
    let text = value.get("access_token")?.as_str().filter(|text| !text.is_empty())?;
    let life = u64::try_from(json::whole(value, "expires_in")?).ok()?.min(LONGEST_LIFE);
    let life = Duration::from_secs(life);
    let renew_at = asked_at + life.saturating_sub(RENEW_BEFORE).max(life / 2);
    Some(Token { text: Secret::new(text), renew_at, ends_at: asked_at + life })
}

#[async_trait]
impl TokenSource for GoogleTokens {
    async fn token(&self) -> Result<Secret, TokenError> {
        let mut held = self.held.lock().await;
        let now = Instant::now();
        if let Some(token) = held.token.as_ref().filter(|token| now < token.renew_at) {
            return Ok(token.text.clone());
        }
        let still_good = held.token.clone().filter(|token| now < token.ends_at);
        let recent = held.failed.as_ref().filter(|(at, _)| at.elapsed() < FAILURE_HOLDS);
        let renewed = match recent {
            Some((_, error)) => Err(error.clone()),
            None => self.renewed().await,
        };
        match renewed {
            Ok(token) => {
                let text = token.text.clone();
                *held = Held { token: Some(token), failed: None };
                Ok(text)
            }
            Err(error) => {
                if held.failed.as_ref().is_none_or(|(at, _)| at.elapsed() >= FAILURE_HOLDS) {
                    tracing::warn!(%error, "an access token could not be renewed");
                    held.failed = Some((Instant::now(), error.clone()));
                }
                still_good.map(|token| token.text).ok_or(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use poem::listener::TcpAcceptor;
    use poem::{Request, Response};
    use serde_json::json;

    use super::*;

    /// A metadata server that gives these answers in order, the last one for ever.
    async fn tokens(answers: Vec<(u16, Value)>) -> (Arc<GoogleTokens>, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap()).parse().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let endpoint = poem::endpoint::make(move |request: Request| {
            let nth = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
            let (status, body) = answers[nth].clone();
            async move {
                assert_eq!(request.header("metadata-flavor"), Some("Google"));
                Response::builder().status(status.try_into().unwrap()).body(body.to_string())
            }
        });
        let server = poem::Server::new_with_acceptor(TcpAcceptor::from_tokio(listener).unwrap());
        tokio::spawn(async move { server.run(endpoint).await.unwrap() });
        (GoogleTokens::from_origin(Origin::Metadata(url), &Egress::new()).unwrap(), asked)
    }

    fn token(text: &str, expires_in: Value) -> (u16, Value) {
        (200, json!({"access_token": text, "expires_in": expires_in, "token_type": "Bearer"}))
    }

    #[tokio::test]
    async fn a_token_is_asked_for_once_and_renewed_before_it_ends() {
        let (tokens, asked) = tokens(vec![token("one", json!(1000)), token("two", json!("1000"))]).await;
        let many = futures_util::future::join_all((0..50).map(|_| tokens.token())).await;
        assert!(many.into_iter().all(|token| token.unwrap().expose() == "one"));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        tokens.held.lock().await.token.as_mut().unwrap().renew_at = Instant::now();
        assert_eq!(tokens.token().await.unwrap().expose(), "two");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_renewal_that_fails_leaves_the_old_token_as_long_as_it_is_valid() {
        let (tokens, asked) = tokens(vec![token("one", json!(1000)), (500, json!({}))]).await;
        tokens.token().await.unwrap();
        tokens.held.lock().await.token.as_mut().unwrap().renew_at = Instant::now();
        for _ in 0..10 {
            assert_eq!(tokens.token().await.unwrap().expose(), "one");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2, "a failure holds for a moment");
        tokens.held.lock().await.token.as_mut().unwrap().ends_at = Instant::now();
        assert_eq!(tokens.token().await.unwrap_err().class, FailureClass::Network);
    }

    #[tokio::test]
    async fn what_is_no_token_is_told_apart_by_who_has_to_act() {
        for (answer, class) in [
            ((403, json!({"error": "access_denied", "error_description": "maker@example"})), FailureClass::Auth),
            ((400, json!({"error": "invalid_grant"})), FailureClass::Auth),
            ((429, json!({})), FailureClass::Network),
            ((503, json!("down")), FailureClass::Network),
            ((200, json!({"access_token": "", "expires_in": 5})), FailureClass::Network),
            ((200, json!({"access_token": "x"})), FailureClass::Network),
            ((200, json!({"access_token": 7, "expires_in": "soon"})), FailureClass::Network),
        ] {
            let (tokens, _) = tokens(vec![answer.clone()]).await;
            let error = tokens.token().await.unwrap_err();
            assert_eq!(error.class, class, "{answer:?}: {error}");
            assert!(!error.to_string().contains("maker"), "{error}");
        }
    }
}
