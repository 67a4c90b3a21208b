//! One connection, from its first byte to its last.
//!
//! Always holds: whatever a client does, its connection ends: by itself, by its watch, or when the service stops; with it end
//! the requests that were under way, and never a money act ([`crate::db::RequestDb::act`] runs in a task of its own).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use poem::endpoint::BoxEndpoint;
use poem::http::Version;
use poem::http::uri::Scheme;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint as _, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::Outgoing;
use super::places::{self, Place};
use super::tls::Tls;
use super::watch::{Ended, Watch};
use super::wire::Wire;
use crate::config::HttpConfig;

/// HTTP/2: what is buffered of an answer that its client does not take.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// HTTP/2: streams that a client opened and took back before we saw them; with more it is sent away.
const MAX_RESETS: usize = 20;
/// The number of header lines for which the parser needs no memory of its own.
const USUAL_HEADERS: usize = 100;

/// What all connections of a port share.
pub struct Port {
    pub endpoint: BoxEndpoint<'static, Response>,
    pub tls: Option<Arc<Tls>>,
    pub http: HttpConfig,
    pub protocol: auto::Builder<Tracked>,
    /// No further requests: idle connections close, others with their last answer.
    pub stop: CancellationToken,
    /// Every connection ends now.
    pub force: CancellationToken,
}

/// Where the tasks of HTTP/2 run, so that a stop waits for them too.
#[derive(Clone)]
pub struct Tracked(pub TaskTracker);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tracked {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// The bounds of both versions of HTTP.
pub fn protocol(http: &HttpConfig, tasks: &TaskTracker) -> auto::Builder<Tracked> {
    let mut builder = auto::Builder::new(Tracked(tasks.clone()));
    let mut http1 = builder.http1();
    // the watch knows when a head is late, and tells it from a connection that is only idle
    http1.timer(TokioTimer::new()).header_read_timeout(None);
    // a head has to fit into the buffer
    http1.max_buf_size(http.requests.header_bytes);
    if http.requests.headers != USUAL_HEADERS {
        http1.max_headers(http.requests.headers);
    }
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(http.connections.streams)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_header_list_size(u32::try_from(http.requests.header_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(http.waits.idle / 2)
        .keep_alive_timeout(http.waits.header);
    builder
}

/// Serves a connection to its end; its place is given back then.
pub async fn serve(port: Arc<Port>, stream: TcpStream, peer: SocketAddr, place: Place) {
    let watch = place.watch.clone();
    let local = stream.local_addr().map_or_else(|_| Addr::default(), Addr::from);
    let addresses = (LocalAddr(local), RemoteAddr(peer.into()));
    let wire = Wire::new(stream, watch.clone());
    let Some(tls) = &port.tls else {
        return converse(&port, wire, (addresses, Scheme::HTTP), &watch).await;
    };
    let handshake = tokio::time::timeout(port.http.waits.tls_handshake, tls.accept(wire));
    tokio::select! {
        session = handshake => match session {
            Ok(Ok(stream)) => {
                watch.encrypted();
                converse(&port, stream, (addresses, Scheme::HTTPS), &watch).await;
            }
            Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS session"),
            Err(_) => places::end(&watch, Ended::Handshake),
        },
        () = watch.ended() => {}
        () = port.stop.cancelled() => {}
    }
}

/// Answers the requests of a connection.
async fn converse(
    port: &Arc<Port>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: ((LocalAddr, RemoteAddr), Scheme),
    watch: &Arc<Watch>,
) {
    let service = service_fn(|request| {
        let (port, client, watch) = (port.clone(), client.clone(), watch.clone());
        async move { Ok::<_, Infallible>(answer(&port, request, client, &watch).await) }
    });
    let mut connection = pin!(port.protocol.serve_connection(TokioIo::new(stream), service));
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            () = watch.ended() => return,
            () = port.force.cancelled() => return places::end(watch, Ended::Stopped),
            () = port.stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(peer = %client.0.1, %error, "a connection broke off");
                }
                return;
            }
        }
    }
}

async fn answer(
    port: &Port,
    request: hyper::Request<hyper::body::Incoming>,
    ((local, remote), scheme): ((LocalAddr, RemoteAddr), Scheme),
    watch: &Arc<Watch>,
) -> hyper::Response<Outgoing<impl Body<Data = Bytes, Error = std::io::Error> + Unpin + use<>>> {
    let underway = watch.begin(request.version() >= Version::HTTP_2);
    let mut request = poem::Request::from((request, local, remote, scheme));
    request.set_data(watch.clone());
    let response = port.endpoint.get_response(request).await;
    hyper::Response::from(response).map(|body| Outgoing::new(body, underway))
}
