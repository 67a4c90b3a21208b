//! Clients that speak HTTP by hand, so that they can do it badly.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::app::client::{BATCHES, Customer};
use crate::app::{API, PATIENCE, TestApp, TestSettings};

/// Only the API, with these lines in `[http]`.
pub async fn server(http: &'static str) -> TestApp {
    TestApp::start(TestSettings { roles: API, http, ..TestSettings::default() }).await
}

/// Nothing is made in these tests.
pub async fn close(mut app: TestApp) {
    for part in ["videos that never ended", "batches that never ended"] {
        app.excuse(part);
    }
    app.finish().await;
}

pub fn address(base: &str) -> SocketAddr {
    base.rsplit_once("//").unwrap().1.parse().unwrap()
}

/// A connection of its own.
pub struct Line(pub TcpStream);

impl Line {
    pub async fn open(base: &str) -> Line {
        Line(TcpStream::connect(address(base)).await.unwrap())
    }

    /// From another address of this machine.
    pub async fn open_from(base: &str, from: Ipv4Addr) -> Line {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        Line(socket.connect(address(base)).await.unwrap())
    }

    pub async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Sends `text` again and again until the server has had enough; answers what it said.
    pub async fn trickle(&mut self, text: &str, every: Duration) -> String {
        let (mut read, mut write) = self.0.split();
        let mut said = Vec::new();
        let listen = async {
            let _ = read.read_to_end(&mut said).await;
        };
        let speak = async {
            while write.write_all(text.as_bytes()).await.is_ok() {
                tokio::time::sleep(every).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = listen => {}
            () = speak => {}
            () = tokio::time::sleep(PATIENCE) => panic!("the server listens for ever"),
        }
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Everything that comes until the server closes; a reset is an end too.
    pub async fn rest(&mut self) -> String {
        let mut said = Vec::new();
        let read = async {
            let _ = self.0.read_to_end(&mut said).await;
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the server never closed this connection");
        String::from_utf8_lossy(&said).into_owned()
    }

    /// The next answer with a `content-length`.
    pub async fn answer(&mut self) -> String {
        let read = async {
            let mut said = Vec::new();
            loop {
                let text = String::from_utf8_lossy(&said).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                        return text;
                    }
                }
                assert_ne!(self.0.read_buf(&mut said).await.unwrap(), 0, "closed within an answer: {text}");
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("no answer")
    }

    /// Whether the server closes it within its patience; answers after how long.
    pub async fn ends(&mut self) -> Duration {
        let asked = Instant::now();
        let said = self.rest().await;
        assert!(said.is_empty(), "it said {said}");
        asked.elapsed()
    }
}

/// The head of a POST of a batch.
pub fn post(customer: &Customer, body_bytes: usize, key: &str) -> String {
    format!(
        "POST {BATCHES} HTTP/1.1\r\nHost: test\r\nX-API-Key: {}\r\nX-Request-Id: {key}\r\nContent-Type: application/json\r\n\
         Content-Length: {body_bytes}\r\n\r\n",
        customer.api_key
    )
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// A request that is under way until its body is complete: the head and a first byte, and the answer to expect.
pub async fn half_a_post(base: &str, customer: &Customer) -> Line {
    let mut line = Line::open(base).await;
    line.send(&post(customer, 1000, "half")).await;
    line.send("{").await;
    line
}
