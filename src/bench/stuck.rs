//! Clients that hold connections badly, in seven ways; each opens another connection as soon as its last is gone. They have a
//! thread of their own: what honest clients wait for is the server, and not the turns of thousands beside them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// Between two bytes of a client that sends slowly.
const DRIP: Duration = Duration::from_secs(1);
/// How often a client that vanishes does so.
const VANISH: Duration = Duration::from_secs(5);
/// After the server did not take a connection.
const PAUSE: Duration = Duration::from_millis(200);
const KINDS: usize = 7;

/// Many of them.
pub(super) struct Stuck {
    runtime: Runtime,
    clients: JoinSet<()>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    open: AtomicUsize,
    opened: AtomicU64,
}

impl Stuck {
    /// Starts `count` clients of the server at `address`; some of them have a customer's `key`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(address: SocketAddr, key: &str, count: usize) -> io::Result<Stuck> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("stuck clients").enable_all().build()?;
        let (mut clients, counts, key) = (JoinSet::new(), Arc::<Counts>::default(), Arc::<str>::from(key));
        for kind in 0..count {
            let (counts, key) = (counts.clone(), key.clone());
            let client = async move {
                loop {
                    if let Ok(stream) = TcpStream::connect(address).await {
                        counts.opened.fetch_add(1, Ordering::Relaxed);
                        counts.open.fetch_add(1, Ordering::Relaxed);
                        // however it ends, the next one begins
                        let _ = misbehave(stream, kind % KINDS, &key).await;
                        counts.open.fetch_sub(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            };
            clients.spawn_on(client, runtime.handle());
        }
        Ok(Stuck { runtime, clients, counts })
    }

    pub(super) fn open(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }

    /// Lets all of them vanish; answers how many connections they had in all.
    pub(super) async fn stop(mut self) -> u64 {
        self.clients.shutdown().await;
        // nothing runs there any more
        self.runtime.shutdown_background();
        self.counts.opened.load(Ordering::Relaxed)
    }
}

fn post(key: &str) -> String {
    format!(
        "POST /api/enterprise/video-batch HTTP/1.1\r\nHost: bench\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n\
         Content-Length: 100000\r\n\r\n"
    )
}

async fn misbehave(mut stream: TcpStream, kind: usize, key: &str) -> io::Result<()> {
    match kind {
        // says nothing
        0 => {}
        // sends the head of a request one line at a time
        1 => {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: bench\r\n").await?;
            return drip(stream, b"A: b\r\n").await;
        }
        // asked once, and stays
        2 => stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n").await?,
        // sends a body one byte at a time
        3 => {
            stream.write_all(post(key).as_bytes()).await?;
            return drip(stream, b" ").await;
        }
        // sends most of a body, and stops
        4 => {
            stream.write_all(post(key).as_bytes()).await?;
            stream.write_all(&[b' '; 90_000]).await?;
        }
        // asks for much, and reads nothing
        5 => {
            let _ = stream.try_write("GET /openapi.json HTTP/1.1\r\nHost: bench\r\n\r\n".repeat(200).as_bytes());
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        // vanishes in the middle of a request
        _ => {
            stream.write_all(post(key).as_bytes()).await?;
            tokio::time::sleep(VANISH).await;
            return stream.set_zero_linger();
        }
    }
    until_closed(stream).await
}

async fn drip(mut stream: TcpStream, piece: &[u8]) -> io::Result<()> {
    loop {
        stream.write_all(piece).await?;
        tokio::time::sleep(DRIP).await;
    }
}

async fn until_closed(mut stream: TcpStream) -> io::Result<()> {
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}
