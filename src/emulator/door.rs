//! The TCP door: accepts connections, and can cut one so that its client never sees a byte of the answer.
//!
//! An HTTP server has no way to say "no answer". So the stream under it is wrapped: once a connection is cut, every further
//! write fails, the server gives the connection up, and the socket closes. The cut is set before the answer is handed to
//! the server; not one byte of it can slip out.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use poem::http::uri::Scheme;
use poem::listener::Acceptor;
use poem::web::{LocalAddr, RemoteAddr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Before the next try when the operating system has no connection to give (usually: out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The open connections by the client's address.
#[derive(Clone, Default)]
pub(super) struct Connections {
    open: Arc<Mutex<HashMap<SocketAddr, Arc<AtomicBool>>>>,
}

impl Connections {
    /// From now on nothing is written to this client's connection any more.
    pub(super) fn cut(&self, client: SocketAddr) {
        if let Some(cut) = self.open().get(&client) {
            cut.store(true, Ordering::Release);
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<AtomicBool>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Door {
    listener: TcpListener,
    address: SocketAddr,
    connections: Connections,
}

impl Door {
    pub(super) async fn open(listen: SocketAddr, connections: Connections) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        Ok(Door { listener, address, connections })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Acceptor for Door {
    type Io = Connection;

    fn local_addr(&self) -> Vec<LocalAddr> {
        vec![LocalAddr(self.address.into())]
    }

    async fn accept(&mut self) -> io::Result<(Connection, LocalAddr, RemoteAddr, Scheme)> {
        let (stream, client) = match self.listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                return Err(error);
            }
        };
        stream.set_nodelay(true)?;
        let cut = Arc::new(AtomicBool::new(false));
        self.connections.open().insert(client, Arc::clone(&cut));
        let connection = Connection { stream, cut, client, connections: self.connections.clone() };
        Ok((connection, LocalAddr(self.address.into()), RemoteAddr(client.into()), Scheme::HTTP))
    }
}

/// A TCP stream that can be cut.
pub(super) struct Connection {
    stream: TcpStream,
    cut: Arc<AtomicBool>,
    client: SocketAddr,
    connections: Connections,
}

impl Connection {
    fn check(&self) -> io::Result<()> {
        if self.cut.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "cut by the emulator"));
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.open().remove(&self.client);
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
