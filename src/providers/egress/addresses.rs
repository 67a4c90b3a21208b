//! Where a guarded client may go: URLs by their text, names by every address that they resolve to.
//!
//! Always holds: an address that is checked is the address that is connected to; a name with one bad address among good
//! ones is refused as a whole. Refused even where private targets are allowed: link-local and metadata addresses,
//! multicast, reserved nets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::domain::FieldError;

/// The longest URL that is accepted from a customer, in bytes.
pub const MAX_URL_BYTES: usize = 2048;

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

    pub(super) fn check(&self, url: &Url) -> Result<(), FieldError> {
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

#[derive(Debug, thiserror::Error)]
#[error("an address that may not be called")]
pub(super) struct RefusedAddress;

pub(super) struct CheckedResolver {
    pub(super) allow_private: bool,
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
pub(in crate::providers) fn is_private_host(url: &Url) -> bool {
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
}
