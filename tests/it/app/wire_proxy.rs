//! A small proxy between the service and its database, which a test can stall, cut and refuse, and which loses commits.
//!
//! It listens on loopback and forwards bytes to the server's unix socket, or to its port. Stalled, it takes connections and
//! bytes and passes none of them on in either direction: what a frozen host or a network that swallows packets looks like.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

/// The message by which a client commits.
const COMMIT: &[u8] = b"COMMIT\0";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Flowing,
    Stalled,
    /// Nobody listens.
    Refusing,
}

/// How a session ends at its COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostCommit {
    /// It reached the server, and no answer comes back.
    Answer,
    /// It never reached the server.
    Order,
}

/// Decides about each COMMIT that passes.
pub type CommitFate = Box<dyn FnMut() -> Option<LostCommit> + Send>;

/// What a client must send for the proxy to stall right behind it.
type Trap = Arc<Mutex<Option<Vec<u8>>>>;

#[derive(Clone)]
enum Upstream {
    Socket(PathBuf),
    Port(String),
}

#[derive(Clone)]
struct Shared {
    upstream: Upstream,
    mode: watch::Sender<Mode>,
    /// Cancelled by a cut, and then replaced.
    cut: Arc<Mutex<CancellationToken>>,
    trap: Trap,
    fate: Arc<Mutex<Option<CommitFate>>>,
}

pub struct WireProxy {
    address: SocketAddr,
    shared: Shared,
    listening: tokio::task::JoinHandle<()>,
}

impl WireProxy {
    /// In front of the server that `url` leads to.
    pub async fn before(url: &str) -> WireProxy {
        let url = Url::parse(url).unwrap();
        let port = url.port().unwrap_or(5432);
        let directory = url.query_pairs().find(|(key, _)| key == "host").map(|(_, value)| value.into_owned());
        let upstream = match directory.filter(|directory| directory.starts_with('/')) {
            Some(directory) => Upstream::Socket(PathBuf::from(directory).join(format!(".s.PGSQL.{port}"))),
            None => Upstream::Port(format!("{}:{port}", url.host_str().unwrap())),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = watch::Sender::new(Mode::Flowing);
        let shared = Shared { upstream, mode, cut: Arc::default(), trap: Arc::default(), fate: Arc::default() };
        let listening = tokio::spawn(listen(listener, address, shared.clone()));
        WireProxy { address, shared, listening }
    }

    /// The same address, by way of this proxy.
    pub fn through(&self, url: &str) -> String {
        let mut url = Url::parse(url).unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.set_query(Some("sslmode=disable"));
        url.to_string()
    }

    /// From now on bytes are taken and not passed on.
    pub fn stall(&self) {
        self.shared.mode.send_replace(Mode::Stalled);
    }

    /// Passes on whatever a client sends up to and with `text`, and stalls then.
    pub fn stall_behind(&self, text: &str) {
        *self.shared.trap.lock().unwrap() = Some(text.as_bytes().to_vec());
    }

    /// From now on `fate` says of each COMMIT whether it is lost, and its session with it.
    pub fn lose_commits(&self, fate: Option<CommitFate>) {
        *self.shared.fate.lock().unwrap() = fate;
    }

    /// Resolves when a trap has closed.
    pub async fn stalled(&self) {
        self.shared.mode.subscribe().wait_for(|mode| *mode == Mode::Stalled).await.unwrap();
    }

    /// Bytes flow, and connections are taken.
    pub fn resume(&self) {
        *self.shared.trap.lock().unwrap() = None;
        self.shared.mode.send_replace(Mode::Flowing);
    }

    /// Breaks every connection off; new ones are taken.
    pub fn cut_all(&self) {
        std::mem::take(&mut *self.shared.cut.lock().unwrap()).cancel();
    }

    /// Breaks every connection off, and nobody listens until [`WireProxy::resume`].
    pub fn refuse(&self) {
        self.shared.mode.send_replace(Mode::Refusing);
        self.cut_all();
    }
}

impl Drop for WireProxy {
    fn drop(&mut self) {
        self.listening.abort();
        self.cut_all();
    }
}

async fn listen(mut listener: TcpListener, address: SocketAddr, shared: Shared) {
    let mut mode = shared.mode.subscribe();
    loop {
        let refusing = async { mode.wait_for(|mode| *mode == Mode::Refusing).await.is_ok() };
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    tokio::spawn(carry(client, shared.clone()));
                }
                continue;
            }
            _ = refusing => drop(listener),
        }
        if mode.wait_for(|mode| *mode != Mode::Refusing).await.is_err() {
            return;
        }
        listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                // the last connection's end is still on its way
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        };
    }
}

async fn carry(client: TcpStream, shared: Shared) {
    let cut = shared.cut.lock().unwrap().clone();
    let (from_client, to_client) = client.into_split();
    let carried = async {
        match &shared.upstream {
            Upstream::Socket(path) => {
                let (from_server, to_server) = UnixStream::connect(path).await?.into_split();
                both(pump(from_client, to_server, &shared, true), pump(from_server, to_client, &shared, false)).await;
            }
            Upstream::Port(address) => {
                let (from_server, to_server) = TcpStream::connect(address).await?.into_split();
                both(pump(from_client, to_server, &shared, true), pump(from_server, to_client, &shared, false)).await;
            }
        }
        std::io::Result::Ok(())
    };
    let _ = cut.run_until_cancelled(carried).await;
}

/// Either end ends the connection.
async fn both(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::select! { () = one => {}, () = other => {} }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, shared: &Shared, of_client: bool) {
    let mut mode = shared.mode.subscribe();
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or(0);
        if read == 0 || mode.wait_for(|mode| *mode != Mode::Stalled).await.is_err() {
            return;
        }
        let trapped = of_client && closes(&shared.trap, &bytes[..read]);
        if trapped {
            // before the bytes are passed on: their answer must not slip through
            shared.mode.send_replace(Mode::Stalled);
        }
        let lost = if of_client { fate_of(shared, &bytes[..read]) } else { None };
        if lost == Some(LostCommit::Order) || to.write_all(&bytes[..read]).await.is_err() || lost.is_some() {
            return;
        }
    }
}

fn fate_of(shared: &Shared, sent: &[u8]) -> Option<LostCommit> {
    if !sent.windows(COMMIT.len()).any(|part| part == COMMIT) {
        return None;
    }
    shared.fate.lock().unwrap().as_mut().and_then(|fate| fate())
}

fn closes(trap: &Trap, sent: &[u8]) -> bool {
    let mut trap = trap.lock().unwrap();
    let found = trap.as_ref().is_some_and(|text| sent.windows(text.len()).any(|part| part == text));
    if found {
        *trap = None;
    }
    found
}
