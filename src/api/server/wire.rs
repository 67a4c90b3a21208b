//! The socket of a connection, below encryption: tells its watch what comes in, and closes so that our last answer arrives.
//!
//! Always holds: a connection that was ended for its client's fault is reset, so that the kernel keeps nothing of it; any
//! other is closed in order, and what the client is still sending is read away for [`LINGER`], because closing over unread
//! bytes would destroy the answer that says why.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::watch::Watch;

const LINGER: Duration = Duration::from_secs(2);
/// A silent peer is asked for a sign of life after a minute, then every ten seconds, three times.
const KEEP_ALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(3);
/// How much of an answer the kernel takes from us before the client has taken some: bounds what a stuck client occupies,
/// and makes a slow one's progress visible.
const UNSENT_BYTES: u32 = 64 << 10;
/// Reads per wake-up while lingering, so that a client with a fast line does not hold a thread.
const READS_AT_ONCE: usize = 16;

pub struct Wire {
    stream: TcpStream,
    watch: Arc<Watch>,
    linger: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    pub fn new(stream: TcpStream, watch: Arc<Watch>) -> Wire {
        prepare(&stream);
        Wire { stream, watch, linger: None }
    }

    /// Reads away what comes, until the client closes too or the time is over.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger = self.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut discarded = [0; 4096];
        for _ in 0..READS_AT_ONCE {
            let mut chunk = ReadBuf::new(&mut discarded);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut chunk)) {
                Ok(()) if !chunk.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Tells the watch whether the client takes what we write.
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => self.watch.blocked(),
            Poll::Ready(_) => self.watch.unblocked(),
        }
        written
    }
}

/// What a platform does not offer is done without.
fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let mut done = vec![stream.set_nodelay(true), socket.set_tcp_keepalive(&KEEP_ALIVE)];
    #[cfg(target_os = "linux")]
    done.push(socket.set_tcp_notsent_lowat(UNSENT_BYTES));
    for error in done.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "an option of a socket was refused");
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.watch.is_ended() {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        if buf.filled().len() > before {
            self.watch.received();
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if self.linger.is_some() || self.watch.may_be_sending() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
