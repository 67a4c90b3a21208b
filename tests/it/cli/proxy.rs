//! What stands between a customer and the service: connections are carried on, lost answers are lost on purpose, and the
//! service behind may be exchanged.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(super) struct Proxy {
    pub(super) base: String,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// `None`: every connection is closed at once.
    target: Mutex<Option<SocketAddr>>,
    /// So many answers to a POST are swallowed.
    swallow: AtomicUsize,
    posts: AtomicUsize,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Proxy {
    pub(super) async fn start(base: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy_base = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        let shared = state.clone();
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::spawn(async move {
                    // a connection that breaks is what this is for
                    let _ = carry(client, &state).await;
                });
            }
        });
        let proxy = Proxy { base: proxy_base, state, serving };
        proxy.lead_to(Some(base));
        proxy
    }

    pub(super) fn lead_to(&self, base: Option<&str>) {
        let address = base.map(|base| base.strip_prefix("http://").unwrap().parse().unwrap());
        *self.state.target.lock().unwrap() = address;
    }

    pub(super) fn swallow_answers(&self, count: usize) {
        self.state.swallow.store(count, Ordering::SeqCst);
    }

    /// How often something was posted.
    pub(super) fn posts(&self) -> usize {
        self.state.posts.load(Ordering::SeqCst)
    }
}

async fn carry(mut client: TcpStream, state: &State) -> std::io::Result<()> {
    let Some(target) = *state.target.lock().unwrap() else { return Ok(()) };
    let mut service = TcpStream::connect(target).await?;
    let (mut there, mut back) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut there) => {
                let read = read?;
                if there[..read].starts_with(b"POST ") {
                    state.posts.fetch_add(1, Ordering::SeqCst);
                }
                match read {
                    0 => return Ok(()),
                    _ => service.write_all(&there[..read]).await?,
                }
            }
            read = service.read(&mut back) => {
                let read = read?;
                let one_less = |left: usize| left.checked_sub(1);
                if read > 0 && state.swallow.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
                    return Ok(());
                }
                match read {
                    0 => return Ok(()),
                    _ => client.write_all(&back[..read]).await?,
                }
            }
        }
    }
}
