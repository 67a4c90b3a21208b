//! The one door for outbound HTTP connections.
//!
//! Two ways out. *Provider clients* go where the operator configured them to go, loopback included. *Guarded clients* go
//! where a customer or a provider's answer points: only http(s) without userinfo, every address a name resolves to is
//! checked and the connection goes to that very address (a second look-up cannot be smuggled in), no redirect is
//! followed unless its target passes the same checks, an answer is read up to a cap. A file that comes too slowly is ended
//! (`pace`).
//! Always holds for both: no proxy and no other setting comes from the environment, nothing is retried.
//! Refuses, even where private targets are allowed: link-local and cloud metadata addresses, multicast, reserved nets.

mod addresses;
mod answers;
mod download;
mod pace;

use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::domain::FieldError;
pub(super) use addresses::is_private_host;
use addresses::{CheckedResolver, RefusedAddress};
pub use addresses::{EgressPolicy, MAX_URL_BYTES};
pub use answers::Answer;
use answers::{KEPT_HEADERS, read_prefix, sources};
pub(super) use answers::{LONGEST_RETRY_AFTER, retry_after, root_cause};
pub use download::{Opened, TooLong};
pub(super) use pace::Line;

const USER_AGENT: &str = concat!("freezeframe/", env!("CARGO_PKG_VERSION"));

/// Makes ring the cryptography of every TLS connection of this process. Calling it again changes nothing.
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("a TLS provider was installed already");
        }
    });
}

/// Why a request did not come back with an answer. The texts are fit for the customer whose URL it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    #[error("the URL is refused: it {0}")]
    RefusedUrl(FieldError),
    #[error("the host name leads to an address that may not be called")]
    RefusedAddress,
    #[error("the host name cannot be resolved")]
    Unresolved,
    #[error("no connection: {0}")]
    Connect(String),
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    #[error("the connection broke before the answer: {0}")]
    Interrupted(String),
    #[error("the HTTP client or request cannot be built: {0}")]
    Setup(String),
}

/// How long a provider client waits, and how long it keeps a connection that is not in use.
#[derive(Clone, Copy, Debug)]
pub struct ClientTimeouts {
    /// Name look-up, TCP and TLS together.
    pub connect: Duration,
    /// From the start of a request to the last byte of its answer.
    pub total: Duration,
    /// An idle connection is dropped after this. A server that closes first may swallow the next request.
    pub keep_idle: Duration,
}

/// The right to open outbound connections, and the line on which everything comes that they bring.
#[derive(Clone, Debug)]
pub struct Egress(Line);

impl Default for Egress {
    fn default() -> Egress {
        Egress::new()
    }
}

impl Egress {
    pub fn new() -> Egress {
        install_crypto();
        Egress(Line::default())
    }

    /// One whose files have to come at once.
    #[cfg(test)]
    pub(super) fn hasty() -> Egress {
        install_crypto();
        Egress(Line::hasty())
    }

    pub(super) fn line(&self) -> Line {
        self.0.clone()
    }

    /// A client for a base URL that the operator configured.
    ///
    /// # Errors
    /// [`EgressError::Setup`] when TLS cannot be set up, such as without any root certificate.
    pub fn provider_client(&self, timeouts: ClientTimeouts) -> Result<reqwest::Client, EgressError> {
        base_client(timeouts.connect, timeouts.total)
            .pool_idle_timeout(timeouts.keep_idle)
            .build()
            .map_err(|error| EgressError::Setup(root_cause(&error)))
    }

    /// A client for URLs that somebody else gave.
    ///
    /// # Errors
    /// As [`Egress::provider_client`].
    pub fn guarded(&self, policy: EgressPolicy) -> Result<GuardedClient, EgressError> {
        let http = base_client(policy.timeout.min(Duration::from_secs(10)), policy.timeout)
            .pool_idle_timeout(Duration::from_secs(2))
            .pool_max_idle_per_host(2)
            .dns_resolver(CheckedResolver { allow_private: policy.allow_private })
            .build()
            .map_err(|error| EgressError::Setup(root_cause(&error)))?;
        Ok(GuardedClient { http, policy })
    }
}

fn base_client(connect: Duration, total: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .connect_timeout(connect)
        .timeout(total)
}

/// A client for URLs that customers or providers' answers give.
#[derive(Clone, Debug)]
pub struct GuardedClient {
    http: reqwest::Client,
    policy: EgressPolicy,
}

impl GuardedClient {
    /// See [`EgressPolicy::check_url`], errors included.
    pub fn check_url(&self, text: &str) -> Result<Url, FieldError> {
        self.policy.check_url(text)
    }

    /// Posts `body` once. Every answer is `Ok`, redirects and errors of the receiver included.
    ///
    /// # Errors
    /// [`EgressError`] when there was no answer.
    pub async fn post(&self, url: &Url, headers: &[(&str, &str)], body: Bytes) -> Result<Answer, EgressError> {
        self.policy.check(url).map_err(EgressError::RefusedUrl)?;
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName =
                name.parse().map_err(|_| EgressError::Setup(format!("{name:?} is no header name")))?;
            let value = HeaderValue::from_str(value)
                .map_err(|_| EgressError::Setup(format!("the header {name} has a value that cannot be sent")))?;
            map.insert(name, value);
        }
        let sent = self.http.post(url.clone()).headers(map).body(body).send().await;
        let mut response = sent.map_err(|error| self.explain(&error))?;
        let kept = KEPT_HEADERS.iter().filter_map(|name| {
            let value = response.headers().get(*name)?.to_str().ok()?;
            Some(((*name).to_owned(), value.to_owned()))
        });
        let headers = kept.collect();
        let retry_after = retry_after(response.headers(), Utc::now());
        // The status has arrived: a body that breaks off does not take it back.
        let (body_prefix, truncated) = match read_prefix(&mut response, self.policy.max_response_bytes).await {
            Ok(read) => read,
            Err((prefix, _)) => (prefix, true),
        };
        Ok(Answer { status: response.status().as_u16(), headers, body_prefix, truncated, retry_after })
    }

    /// Starts a download of the bytes as they are; the body is the caller's to read.
    ///
    /// # Errors
    /// [`EgressError`] when there was no answer.
    pub(super) async fn get(&self, url: &Url) -> Result<reqwest::Response, EgressError> {
        self.policy.check(url).map_err(EgressError::RefusedUrl)?;
        let request = self.http.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        request.send().await.map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &reqwest::Error) -> EgressError {
        if sources(error).any(|source| source.is::<RefusedAddress>()) {
            EgressError::RefusedAddress
        } else if error.is_dns() {
            EgressError::Unresolved
        } else if error.is_timeout() {
            EgressError::Timeout(self.policy.timeout)
        } else if error.is_connect() {
            EgressError::Connect(root_cause(error))
        } else {
            EgressError::Interrupted(root_cause(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: EgressPolicy =
        EgressPolicy { allow_private: false, timeout: Duration::from_secs(5), max_response_bytes: 16 };

    /// The resolver's refusal has to come through all the layers of the client as what it is.
    #[tokio::test]
    async fn a_refused_address_is_told_apart_from_a_broken_connection() {
        let client = Egress::new().guarded(STRICT).unwrap();
        let url: Url = "http://localhost:9/".parse().unwrap();
        let error = client.http.get(url.clone()).send().await.unwrap_err();
        assert_eq!(client.explain(&error), EgressError::RefusedAddress);
        let refused = client.post(&url, &[], Bytes::new()).await.unwrap_err();
        assert!(matches!(refused, EgressError::RefusedUrl(_)), "{refused:?}");
    }
}
