//! The HTTP server: takes connections, bounds what they may occupy, ends them.
//!
//! Always holds: no client can hold more than its place, and none can hold it by doing nothing; what a client does not send
//! or does not read in time is given up, and costs nobody else a turn; a stop takes readiness away first, then refuses new
//! connections, lets what is under way finish, and ends what is left.
//!
//! The parts: [`places`] who may come in and who has to go, [`watch`] what each connection is waiting for, [`wire`] its
//! socket, [`tls`] its encryption, [`connection`] its life, [`body`] the pace of what goes through it, [`gate`] how many
//! requests are processed at a time.

mod body;
mod connection;
mod gate;
mod places;
mod tls;
mod watch;
mod wire;

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use poem::endpoint::BoxEndpoint;
use poem::{EndpointExt as _, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use connection::Port;
pub use gate::{BodyRoom, Buffer, Gate};
pub use places::client;
use places::{Full, Places};
use tls::Tls;

use super::error::Problem;
use super::{ApiState, OperatorState, observe};
use crate::config::{ConnectionLimits, HttpConfig};
use crate::metrics;

/// After a connection could not be accepted for want of something: trying again at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long connections that were ended by force may take to notice.
const FORCED_WITHIN: Duration = Duration::from_secs(5);
/// File descriptors that are needed for other things: the database, files, providers.
const OTHER_FILES: u64 = 512;
/// Places on the port for metrics.
const METRICS_CONNECTIONS: ConnectionLimits = ConnectionLimits { total: 64, per_peer: 64, streams: 10 };

/// Where the server listens.
pub struct Listeners {
    pub api: TcpListener,
    /// The port for metrics, if there is one.
    pub metrics: Option<TcpListener>,
}

/// A server that is ready to listen.
pub struct HttpServer {
    state: ApiState,
    operators: OperatorState,
    http: HttpConfig,
    tls: Option<Arc<Tls>>,
}

impl HttpServer {
    /// # Errors
    /// When the certificate cannot be used.
    pub fn new(state: ApiState, operators: OperatorState, http: &HttpConfig) -> Result<HttpServer> {
        let tls = http.tls.as_ref().map(Tls::load).transpose()?;
        let mut http = http.clone();
        http.connections.total = affordable(http.connections.total);
        Ok(HttpServer { state, operators, http, tls })
    }

    /// Serves until `stop`, then ends in order.
    ///
    /// # Errors
    /// None at present: what goes wrong is a connection's own affair.
    pub async fn serve(self, listeners: Listeners, stop: CancellationToken) -> Result<()> {
        let HttpServer { state, operators, http, tls } = self;
        metrics::http_starts(Full::ALL.map(Full::word), watch::Ended::ALL.map(watch::Ended::word));
        let (tasks, accepting, force) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let port = |endpoint: BoxEndpoint<'static, Response>, tls: Option<Arc<Tls>>| {
            let protocol = connection::protocol(&http, &tasks);
            let (http, stop, force) = (http.clone(), accepting.clone(), force.clone());
            Arc::new(Port { endpoint, tls, http, protocol, stop, force })
        };
        if let Some(tls) = tls.clone() {
            tasks.spawn(tls.keep_renewed(accepting.clone()));
        }
        let own_metrics = listeners.metrics.is_some();
        let gate = Gate::new(super::routes(state.clone(), operators, !own_metrics), &http);
        let api = port(observe::Observed(gate).boxed(), tls);
        open(listeners.api, api, Places::new("api", http.connections), &tasks);
        if let Some(listener) = listeners.metrics {
            let operations = port(observe::Observed(super::operations(state.clone())).boxed(), None);
            open(listener, operations, Places::new("metrics", METRICS_CONNECTIONS), &tasks);
        }
        stop.cancelled().await;
        state.stopping.cancel();
        tokio::time::sleep(http.drain).await;
        accepting.cancel();
        tasks.close();
        tracing::info!(connections = tasks.len(), within = ?http.finish, "the API finishes what is under way");
        if tokio::time::timeout(http.finish, tasks.wait()).await.is_err() {
            tracing::warn!(connections = tasks.len(), "not every request ended in time; the rest is broken off");
        }
        force.cancel();
        let _ = tokio::time::timeout(FORCED_WITHIN, tasks.wait()).await;
        Ok(())
    }
}

/// Takes connections until the port stops.
fn open(listener: TcpListener, port: Arc<Port>, places: Arc<Places>, tasks: &TaskTracker) {
    // until the last connection is gone, so it is none of those that a stop waits for
    tokio::spawn(places.clone().keep_swept(port.http.waits, port.force.clone()));
    let connections = tasks.clone();
    tasks.spawn(async move {
        while let Some(accepted) = port.stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, peer)) => match places.take(peer.ip(), Instant::now()) {
                    Ok(place) => drop(connections.spawn(connection::serve(port.clone(), stream, peer, place))),
                    Err(full) => refuse(stream, full, port.tls.is_some()),
                },
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
}

/// Whether only this one connection failed, before it was accepted.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Sends a connection away for which there is no place, with a word if it understands one.
fn refuse(stream: TcpStream, full: Full, encrypted: bool) {
    metrics::http_connection_refused(full.word());
    if encrypted {
        return;
    }
    // a new socket takes these few bytes at once or not at all
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write_all(&Problem::no_place());
    }
}

/// As many connections as there may be files.
fn affordable(connections: usize) -> usize {
    let files = allow_files(connections as u64 + OTHER_FILES);
    let possible = files.saturating_sub(OTHER_FILES).max(files / 2);
    if possible < connections as u64 {
        tracing::warn!(
            wanted = connections,
            possible,
            "the system allows fewer open files than http.max_connections needs: raise its limit (ulimit -n)"
        );
    }
    connections.min(usize::try_from(possible).unwrap_or(usize::MAX))
}

/// Raises the number of files that this process may have open to `wanted`, or as far as the system lets it; answers how
/// many there may be.
pub fn allow_files(wanted: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    if soft >= wanted {
        return soft;
    }
    let raised = wanted.min(hard);
    match setrlimit(Resource::RLIMIT_NOFILE, raised, hard) {
        Ok(()) => raised,
        Err(_) => soft,
    }
}
