//! The TCP door: accepts connections, and can cut one so that its client never sees a byte of the answer.
//!
//! An HTTP server has no way to say "no answer". So the stream under it is wrapped: once a connection is cut, every further
//! write fails, the server gives the connection up, and the socket closes. The cut is set before the answer is handed to
//! the server; not one byte of it can slip out. A connection can also be taken over: then somebody else writes to it, and
//! may write what no HTTP server would.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use poem::http::uri::Scheme;
use poem::listener::Acceptor;
use poem::web::{LocalAddr, RemoteAddr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Before the next try when the operating system has no connection to give (usually: out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that may wait to be accepted, as far as the system allows (`net.core.somaxconn`); by default it would be 128. A
/// client that finds no room waits for its system to try again, or loses the order that it sent: a fault that nobody scripted.
const BACKLOG: u32 = 4096;

/// The open connections by the client's address.
#[derive(Clone, Default)]
pub(super) struct Connections {
    open: Arc<Mutex<HashMap<SocketAddr, Arc<Line>>>>,
}

impl Connections {
    /// From now on nothing is written to this client's connection any more.
    pub(super) fn cut(&self, client: SocketAddr) {
        if let Some(line) = self.open().get(&client) {
            line.cut.store(true, Ordering::Release);
        }
    }

    /// The same, and gives out the connection, which stays open for as long as it is held.
    pub(super) fn take_over(&self, client: SocketAddr) -> Option<Arc<TcpStream>> {
        let line = self.open().get(&client).cloned()?;
        line.taken.store(true, Ordering::Release);
        line.cut.store(true, Ordering::Release);
        Some(Arc::clone(&line.stream))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Line>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, for whoever is to end it.
struct Line {
    stream: Arc<TcpStream>,
    cut: AtomicBool,
    /// Somebody else writes to it now.
    taken: AtomicBool,
}

pub(super) struct Door {
    listener: TcpListener,
    address: SocketAddr,
    connections: Connections,
}

impl Door {
    pub(super) async fn open(listen: SocketAddr, connections: Connections) -> io::Result<Self> {
        let socket = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // as the usual way to open a listener does, so that the emulator can be started again at once
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        let listener = socket.listen(BACKLOG)?;
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
        let stream = Arc::new(stream);
        let line = Line { stream: Arc::clone(&stream), cut: AtomicBool::new(false), taken: AtomicBool::new(false) };
        let line = Arc::new(line);
        self.connections.open().insert(client, Arc::clone(&line));
        let connection = Connection { stream, line, client, connections: self.connections.clone() };
        Ok((connection, LocalAddr(self.address.into()), RemoteAddr(client.into()), Scheme::HTTP))
    }
}

/// A TCP stream that can be cut.
pub(super) struct Connection {
    stream: Arc<TcpStream>,
    line: Arc<Line>,
    client: SocketAddr,
    connections: Connections,
}

impl Connection {
    fn check(&self) -> io::Result<()> {
        if self.line.cut.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "cut by the emulator"));
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        // the client may have another connection under the same number by now
        if open.get(&self.client).is_some_and(|line| Arc::ptr_eq(line, &self.line)) {
            open.remove(&self.client);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            self.check()?;
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.line.taken.load(Ordering::Acquire) {
            true => Poll::Ready(Ok(())),
            false => Poll::Ready(socket2::SockRef::from(&*self.stream).shutdown(Shutdown::Write)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_crowd_that_nobody_has_accepted_yet_is_connected() {
        let door = Door::open("127.0.0.1:0".parse().unwrap(), Connections::default()).await.unwrap();
        let mut crowd = Vec::new();
        for at in 0..400 {
            let connected = tokio::time::timeout(Duration::from_secs(10), TcpStream::connect(door.address())).await;
            crowd.push(connected.unwrap_or_else(|_| panic!("client {at} found no room")).unwrap());
        }
    }
}
