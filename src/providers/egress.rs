//! The one door for outbound HTTP connections.
//!
//! Two ways out. *Provider clients* go where the operator configured them to go, loopback included. *Guarded clients* go
//! where a customer or a provider's answer points: only http(s) without userinfo, every address a name resolves to is
//! checked and the connection goes to that very address (a second look-up cannot be smuggled in), no redirect is
//! followed, an answer is read up to a cap.
//! Always holds for both: no proxy and no other setting comes from the environment, nothing is retried.
//! Refuses, even where private targets are allowed: link-local and cloud metadata addresses, multicast, reserved nets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Once;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::{Host, Url};

use crate::domain::FieldError;

/// The longest URL that is accepted from a customer, in bytes.
pub const MAX_URL_BYTES: usize = 2048;

const USER_AGENT: &str = concat!("freezeframe/", env!("CARGO_PKG_VERSION"));

/// A `Retry-After` beyond this is read as this: a typing error at a provider must not park an account for days.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Headers of an answer that are kept.
const KEPT_HEADERS: [&str; 4] = ["content-type", "location", "retry-after", "x-request-id"];

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

/// What a guarded client may do.
#[derive(Clone, Copy, Debug)]
pub struct EgressPolicy {
    /// Loopback, private and shared (100.64/10) addresses are allowed too: for development.
    pub allow_private: bool,
    /// From the start of a request to the last byte of its answer.
    pub timeout: Duration,
    /// How much of an answer's body is read.
    pub max_response_bytes: usize,
}

/// The right to open outbound connections.
#[derive(Clone, Debug)]
pub struct Egress(());

impl Default for Egress {
    fn default() -> Egress {
        Egress::new()
    }
}

impl Egress {
    pub fn new() -> Egress {
        install_crypto();
        Egress(())
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

impl EgressPolicy {
    /// Whether a URL may be called, as far as its text says: scheme, userinfo, literal addresses. Names are resolved
    /// and checked at the time of the call.
    ///
    /// # Errors
    /// Says what is wrong with the URL, to stand behind the name of the field.
    pub fn check_url(&self, text: &str) -> Result<Url, FieldError> {
        if text.len() > MAX_URL_BYTES {
            return Err(FieldError::new(format!("must have at most {MAX_URL_BYTES} bytes")));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(FieldError::new("must not contain spaces or control characters"));
        }
        let url = Url::parse(text).map_err(|_| FieldError::new("must be a URL such as https://example.com/hooks"))?;
        self.check(&url)?;
        Ok(url)
    }

    fn check(&self, url: &Url) -> Result<(), FieldError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(FieldError::new("must start with https:// or http://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(FieldError::new("must not contain a user name or password"));
        }
        if url.port() == Some(0) {
            return Err(FieldError::new("must not name port 0"));
        }
        let allowed = match url.host() {
            None => return Err(FieldError::new("must name a host")),
            Some(Host::Ipv4(address)) => self.allows(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => self.allows(IpAddr::V6(address)),
            Some(Host::Domain(name)) => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                self.allow_private || !(name == "localhost" || name.ends_with(".localhost"))
            }
        };
        if allowed {
            Ok(())
        } else {
            Err(FieldError::new("must name a public host, not a private or reserved address"))
        }
    }

    fn allows(&self, address: IpAddr) -> bool {
        allowed(address, self.allow_private)
    }
}

/// An answer to a guarded request.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// The few headers that are kept, in lower case.
    pub headers: Vec<(String, String)>,
    /// The body's beginning, up to the policy's cap.
    pub body_prefix: Bytes,
    /// The body went on, or broke off, behind `body_prefix`.
    pub truncated: bool,
    /// How long the receiver asks us to wait.
    pub retry_after: Option<Duration>,
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

    /// Starts a download; the body is the caller's to read.
    ///
    /// # Errors
    /// [`EgressError`] when there was no answer.
    pub(super) async fn get(&self, url: &Url) -> Result<reqwest::Response, EgressError> {
        self.policy.check(url).map_err(EgressError::RefusedUrl)?;
        self.http.get(url.clone()).send().await.map_err(|error| self.explain(&error))
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

/// Reads a body up to `limit` bytes; the flag says that there was more.
///
/// # Errors
/// What was read before the body broke off, and why it did.
pub(super) async fn read_prefix(
    response: &mut reqwest::Response,
    limit: usize,
) -> Result<(Bytes, bool), (Bytes, reqwest::Error)> {
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok((body.freeze(), false)),
            Ok(Some(chunk)) if body.len() + chunk.len() > limit => {
                let room = limit - body.len();
                body.extend_from_slice(&chunk[..room]);
                return Ok((body.freeze(), true));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(error) => return Err((body.freeze(), error)),
        }
    }
}

/// `Retry-After` in seconds or as an HTTP date, at most an hour.
pub(super) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now).to_std().unwrap_or_default(),
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

/// The innermost reason of an error. The outer layers of an HTTP error repeat the URL; the innermost does not.
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    sources(error).last().map_or_else(|| "for an unknown reason".to_owned(), ToString::to_string)
}

fn sources<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |error| error.source())
}

#[derive(Debug, thiserror::Error)]
#[error("an address that may not be called")]
struct RefusedAddress;

struct CheckedResolver {
    allow_private: bool,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // One bad address among good ones is an attempt, not an accident: the whole name is refused.
            if found.iter().any(|address| !allowed(address.ip(), allow_private)) {
                return Err(Box::from(RefusedAddress));
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether the host of `url` is written as loopback or as an address that is not public.
pub(super) fn is_private_host(url: &Url) -> bool {
    let public_only = EgressPolicy { allow_private: false, timeout: Duration::ZERO, max_response_bytes: 0 };
    public_only.check(url).is_err()
}

fn allowed(address: IpAddr, allow_private: bool) -> bool {
    match reach(address) {
        Reach::Public => true,
        Reach::Private => allow_private,
        Reach::Never => false,
    }
}

enum Reach {
    Public,
    /// Loopback and networks of one's own.
    Private,
    /// Metadata services, other people's tunnels, and what is no host at all.
    Never,
}

/// Where an address leads (IANA special-purpose registries for IPv4 and IPv6, and the metadata services of the clouds).
fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => reach_v4(mapped),
            None => reach_v6(address),
        },
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    // Alibaba's metadata service lives in 100.64/10, Azure's in public space.
    const METADATA: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];
    if METADATA.contains(&address) {
        return Reach::Never;
    }
    match address.octets() {
        [10 | 127, ..] | [192, 168, ..] => Reach::Private,
        [172, second, ..] if second & 0xf0 == 16 => Reach::Private,
        [100, second, ..] if second & 0xc0 == 64 => Reach::Private,
        [0, ..] | [169, 254, ..] | [192, 0, 0 | 2, _] | [192, 88, 99, _] => Reach::Never,
        [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => Reach::Never,
        [224..=255, ..] => Reach::Never,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    // Amazon's metadata service lives in unique-local space.
    const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    if address == METADATA {
        return Reach::Never;
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Private,
        [first, ..] if first & 0xfe00 == 0xfc00 => Reach::Private,
        // 2001::/23 holds Teredo and other protocol assignments, 2002::/16 is 6to4; both can carry an IPv4 address.
        [0x2001, 0..=0x1ff, ..] | [0x2002, ..] | [0x2001, 0xdb8, ..] => Reach::Never,
        [0x3fff, 0..=0xfff, ..] => Reach::Never,
        // Only 2000::/3 is global unicast. Outside are NAT64, IPv4-compatible, link-local, site-local and multicast.
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: EgressPolicy =
        EgressPolicy { allow_private: false, timeout: Duration::from_secs(5), max_response_bytes: 16 };
    const LOOSE: EgressPolicy = EgressPolicy { allow_private: true, ..STRICT };

    /// URL, and whether it is allowed where private targets are.
    const HOSTILE: [(&str, bool); 53] = [
        ("http://127.0.0.1/", true),
        ("http://127.1/", true),
        ("http://2130706433/", true),
        ("http://0x7f.0.0.1/", true),
        ("http://0177.0.0.1/", true),
        ("http://127.0.0.1./", true),
        ("http://%31%32%37.0.0.1/", true),
        ("http://１２７.0.0.1/", true),
        ("http://localhost/", true),
        ("http://LOCALHOST.:8080/", true),
        ("http://a.localhost/", true),
        ("http://10.0.0.1/", true),
        ("http://172.16.0.1/", true),
        ("http://172.31.255.255/", true),
        ("http://192.168.1.1/", true),
        ("http://100.64.0.1/", true),
        ("http://[::1]/", true),
        ("http://[fc00::1]/", true),
        ("http://[fd12:3456::1]/", true),
        ("http://[::ffff:127.0.0.1]/", true),
        ("http://[::ffff:a00:1]/", true),
        ("http://169.254.169.254/latest/meta-data", false),
        ("http://[::ffff:169.254.169.254]/", false),
        ("http://[::a9fe:a9fe]/", false),
        ("http://[64:ff9b::a9fe:a9fe]/", false),
        ("http://[64:ff9b:1::a00:1]/", false),
        ("http://[2002:7f00:1::]/", false),
        ("http://[2001:0:7f00:1::]/", false),
        ("http://[fd00:ec2::254]/", false),
        ("http://100.100.100.200/", false),
        ("http://168.63.129.16/", false),
        ("http://0.0.0.0/", false),
        ("http://0/", false),
        ("http://[::]/", false),
        ("http://[fe80::1]/", false),
        ("http://[fec0::1]/", false),
        ("http://[ff02::1]/", false),
        ("http://[2001:db8::1]/", false),
        ("http://[100::1]/", false),
        ("http://192.0.0.192/", false),
        ("http://192.0.2.1/", false),
        ("http://198.18.0.1/", false),
        ("http://198.51.100.1/", false),
        ("http://203.0.113.1/", false),
        ("http://224.0.0.1/", false),
        ("http://240.0.0.1/", false),
        ("http://255.255.255.255/", false),
        ("https://user@example.com/", false),
        ("https://:secret@example.com/", false),
        ("ftp://example.com/", false),
        ("file:///etc/passwd", false),
        ("https://example.com:0/", false),
        ("https://exa\tmple.com/", false),
    ];

    #[test]
    fn hostile_urls_are_refused_and_only_private_ones_can_be_allowed() {
        for (url, private) in HOSTILE {
            assert!(STRICT.check_url(url).is_err(), "{url} must be refused");
            assert_eq!(LOOSE.check_url(url).is_ok(), private, "{url} where private targets are allowed");
        }
        for text in ["", "example.com/hook", "https://", "//example.com", "javascript:alert(1)"] {
            assert!(LOOSE.check_url(text).is_err(), "{text}");
        }
        assert!(STRICT.check_url(&format!("https://example.com/{}", "x".repeat(MAX_URL_BYTES))).is_err());
    }

    #[test]
    fn public_urls_are_allowed() {
        for url in [
            "https://example.com/hooks?x=1",
            "http://8.8.8.8:8443/",
            "https://[2606:4700::1111]/",
            "https://172.32.0.1/",
            "https://100.128.0.1/",
            "https://localhost.example.com/",
        ] {
            assert!(STRICT.check_url(url).is_ok(), "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_refused_when_it_is_resolved() {
        let resolve = |allow_private| CheckedResolver { allow_private }.resolve("localhost".parse().unwrap());
        assert!(resolve(false).await.err().is_some_and(|error| error.is::<RefusedAddress>()));
        assert!(resolve(true).await.is_ok_and(|mut found| found.next().is_some()));
    }

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

    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        let now = DateTime::parse_from_rfc2822("Mon, 23 Nov 2026 10:00:00 GMT").unwrap().to_utc();
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", HeaderValue::from_str(text).unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Mon, 23 Nov 2026 10:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(read("Mon, 23 Nov 2026 09:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("999999999"), Some(LONGEST_RETRY_AFTER));
        assert_eq!(read("soon"), None);
    }
}
