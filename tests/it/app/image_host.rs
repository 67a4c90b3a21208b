//! A customer's web server with images: good ones, and everything else that may lie behind a URL.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use poem::http::StatusCode;
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::web::{Data, Path};
use poem::{Body, EndpointExt, Response, Route, Server, get, handler};
use tokio::sync::watch;

/// A PNG of this size, as far as its head and its end go; `nth` makes it one of its own.
pub fn png(width: u32, height: u32, nth: u8) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    png.extend(width.to_be_bytes());
    png.extend(height.to_be_bytes());
    png.extend(b"\x08\x02\0\0\0");
    png.extend((0..50_000u32).map(|n| (n % 251) as u8 ^ nth));
    png.extend(b"IEND\xae\x42\x60\x82");
    png
}

struct State {
    /// Requests by file.
    asked: Mutex<HashMap<String, u32>>,
    open: watch::Sender<bool>,
}

pub struct ImageHost {
    address: SocketAddr,
    state: Arc<State>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for ImageHost {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl ImageHost {
    pub async fn start() -> ImageHost {
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let address = *acceptor.local_addr()[0].as_socket_addr().unwrap();
        let state = Arc::new(State { asked: Mutex::default(), open: watch::Sender::new(false) });
        let routes = Route::new().at("/:file", get(serve)).data(state.clone());
        let server = tokio::spawn(async move { Server::new_with_acceptor(acceptor).run(routes).await.unwrap() });
        ImageHost { address, state, server }
    }

    pub fn url(&self, file: &str) -> String {
        format!("http://{}/{file}", self.address)
    }

    /// How often a file was asked for.
    pub fn asked(&self, file: &str) -> u32 {
        self.state.asked.lock().unwrap().get(file).copied().unwrap_or(0)
    }

    /// Lets the files named `held-...` go.
    pub fn open(&self) {
        self.state.open.send_replace(true);
    }
}

fn sent(bytes: Vec<u8>) -> Response {
    Response::builder().content_type("image/png").body(bytes)
}

fn status(status: StatusCode) -> Response {
    Response::builder().status(status).finish()
}

#[handler]
async fn serve(Path(file): Path<String>, state: Data<&Arc<State>>) -> Response {
    let asked = {
        let mut asked = state.asked.lock().unwrap();
        let count = asked.entry(file.clone()).or_default();
        *count += 1;
        *count
    };
    let image = |nth| sent(png(1280, 720, nth));
    match file.as_str() {
        "small.png" => sent(png(640, 360, 0)),
        "page.png" => sent(b"<!doctype html><title>Sign in</title>".to_vec()),
        "cut.png" => sent(png(1280, 720, 0)[..1000].to_vec()),
        "gone.png" => status(StatusCode::NOT_FOUND),
        "away.png" => status(StatusCode::SERVICE_UNAVAILABLE),
        "flaky.png" if asked < 3 => status(StatusCode::BAD_GATEWAY),
        "changing.png" => image(u8::try_from(asked).unwrap_or(u8::MAX)),
        "metadata.png" => redirect("http://169.254.169.254/latest/meta-data"),
        "downgrade.png" => redirect("ftp://127.0.0.1/a.png"),
        "loop.png" => redirect("/loop.png"),
        "moved.png" => redirect("/good.png"),
        "huge.png" => {
            let chunks = (0..64).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![0u8; 1 << 18])));
            Response::builder().content_type("image/png").body(Body::from_bytes_stream(stream::iter(chunks)))
        }
        "silent.png" => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            image(0)
        }
        held if held.starts_with("held") => {
            let _ = state.open.subscribe().wait_for(|open| *open).await;
            image(0)
        }
        _ => image(0),
    }
}

fn redirect(to: &str) -> Response {
    Response::builder().status(StatusCode::FOUND).header("location", to).finish()
}
