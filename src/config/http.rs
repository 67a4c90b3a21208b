//! The section `[http]`: what the HTTP server allows its clients, how it encrypts, how it stops.
//!
//! Always holds: every wait for a client has an end, and what all clients together may occupy has a bound.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Reader, Section};
use super::sections::LimitsConfig;

/// The HTTP server.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    pub connections: ConnectionLimits,
    pub requests: RequestLimits,
    pub waits: WaitLimits,
    /// Encrypts the customers' port; without it that port speaks plain HTTP, for a proxy in front.
    pub tls: Option<TlsConfig>,
    /// A port of its own for `/metrics`, which the customers' port then does not answer.
    pub metrics_listen: Option<SocketAddr>,
    /// How long requests are still accepted after readiness is off, so that a load balancer notices first.
    pub drain: Duration,
    /// How long requests under way may take when the service stops.
    pub finish: Duration,
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    pub total: usize,
    /// From one IPv4 address or one IPv6 network of 64 bits.
    pub per_peer: usize,
    /// HTTP/2: requests of one connection at a time.
    pub streams: u32,
}

/// What requests may occupy.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Requests being processed at a time; waiting for a client to send or to read does not count.
    pub concurrent: usize,
    /// Bytes of bodies held in memory at a time, by all requests together.
    pub buffered_body_bytes: usize,
    pub header_bytes: usize,
    /// HTTP/1: lines of a request's head.
    pub headers: usize,
}

/// How long a client is waited for.
#[derive(Clone, Copy, Debug)]
pub struct WaitLimits {
    /// From the first byte of a request's head to its last, and from the connection to its first request.
    pub header: Duration,
    /// A connection without a request.
    pub idle: Duration,
    /// The whole body.
    pub body: Duration,
    /// A body that brings fewer than `body_min_bytes_per_sec` for this long.
    pub body_stall: Duration,
    pub body_min_bytes_per_sec: u64,
    /// A client that does not read its answer.
    pub response_stall: Duration,
    pub tls_handshake: Duration,
}

/// The certificate.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// The certificate and what leads to its root, as PEM.
    pub cert: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
    /// How often the files are looked at for a newer certificate.
    pub reload: Duration,
}

impl HttpConfig {
    /// How the customers' port is reached.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

pub(super) fn read_http(reader: &mut Reader, limits: &LimitsConfig) -> HttpConfig {
    let mut section = reader.section("http");
    let http = HttpConfig {
        connections: ConnectionLimits {
            total: count(&mut section, "max_connections", 4096, 1..=1_000_000),
            per_peer: count(&mut section, "max_connections_per_peer", 1024, 1..=1_000_000),
            streams: u32::try_from(section.number("max_streams_per_connection", 100, 1..=10_000)).unwrap_or(u32::MAX),
        },
        requests: RequestLimits {
            concurrent: count(&mut section, "max_requests", 512, 1..=100_000),
            buffered_body_bytes: count(&mut section, "max_buffered_body_bytes", 512 << 20, 1_024..=1 << 40),
            header_bytes: count(&mut section, "max_header_bytes", 32_768, 8_192..=1 << 20),
            headers: count(&mut section, "max_headers", 100, 10..=10_000),
        },
        waits: WaitLimits {
            header: section.secs("header_timeout_secs", 10, 1..=600),
            idle: section.secs("idle_timeout_secs", 75, 1..=3600),
            body: section.secs("body_timeout_secs", 300, 1..=86_400),
            body_stall: section.secs("body_stall_secs", 10, 1..=600),
            body_min_bytes_per_sec: section.number("body_min_bytes_per_sec", 256, 1..=1 << 30),
            response_stall: section.secs("response_stall_secs", 60, 1..=3600),
            tls_handshake: section.secs("tls_handshake_timeout_secs", 10, 1..=600),
        },
        tls: read_tls(&mut section),
        metrics_listen: section.parsed("metrics_listen", "an address with a port, such as 127.0.0.1:9090"),
        drain: section.secs("drain_secs", 0, 0..=300),
        finish: section.secs("finish_secs", 10, 1..=300),
    };
    if http.requests.buffered_body_bytes < limits.max_body_bytes {
        section.problem("max_buffered_body_bytes", "must be at least limits.max_body_bytes, or no such body is taken");
    }
    section.finish();
    http
}

fn read_tls(section: &mut Section<'_>) -> Option<TlsConfig> {
    let cert = section.text("tls_cert").map(PathBuf::from);
    let key = section.text("tls_key").map(PathBuf::from);
    let reload = section.secs("tls_reload_secs", 60, 1..=86_400);
    match (cert, key) {
        (Some(cert), Some(key)) => Some(TlsConfig { cert, key, reload }),
        (None, None) => None,
        (cert, _) => {
            let (here, missing) = if cert.is_some() { ("tls_cert", "tls_key") } else { ("tls_key", "tls_cert") };
            section.problem(missing, format_args!("is missing, but {here} is there; encryption needs both"));
            None
        }
    }
}

fn count(section: &mut Section<'_>, key: &'static str, default: u64, range: RangeInclusive<u64>) -> usize {
    usize::try_from(section.number(key, default, range)).unwrap_or(usize::MAX)
}
