//! A real S3 server on loopback: it keeps objects as files, checks every signature, and can be away for a while.
//!
//! What a request finds is decided at the door, before the server sees it, so that the server itself stays honest.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub const ACCESS_KEY: &str = "AKIATESTTESTTEST";
pub const SECRET_KEY: &str = "a-secret/of+the-test";
pub const BUCKET: &str = "films";
pub const PREFIX: &str = "house/videos";

/// What the door does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Lets it in.
    Open,
    /// Answers 503, as a store in trouble does.
    Away,
    /// Answers 403, as a store does whose policy was changed.
    Forbidden,
    /// Never answers.
    Silent,
}

/// Whether a request meets the mood; others are let in.
pub type Concerns = fn(&Method, &str) -> bool;

struct Door {
    mood: Mutex<(Mood, Concerns)>,
    /// Method, path and query of every request.
    seen: Mutex<Vec<(Method, String)>>,
}

pub struct S3 {
    /// Holds the bucket as a directory.
    root: TempDir,
    address: SocketAddr,
    door: Arc<Door>,
    serving: JoinHandle<()>,
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl S3 {
    pub async fn start() -> S3 {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = Arc::new(Door { mood: Mutex::new((Mood::Open, |_, _| true)), seen: Mutex::default() });
        let serving = tokio::spawn(serve(listener, service, door.clone()));
        S3 { root, address, door, serving }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The `[storage]` settings that lead here.
    pub fn settings(&self) -> String {
        format!(
            "endpoint = \"{}\"\naccess_key_id = \"{ACCESS_KEY}\"\nsecret_access_key = \"{SECRET_KEY}\"",
            self.endpoint()
        )
    }

    pub fn url() -> String {
        format!("s3://{BUCKET}/{PREFIX}")
    }

    /// Where the objects below our prefix lie as files.
    pub fn videos_dir(&self) -> PathBuf {
        self.root.path().join(BUCKET).join(PREFIX)
    }

    pub fn set_mood(&self, mood: Mood, concerns: Concerns) {
        *self.door.mood.lock().unwrap() = (mood, concerns);
    }

    pub fn open_up(&self) {
        self.set_mood(Mood::Open, |_, _| true);
    }

    /// How many requests came so far that look so.
    pub fn seen(&self, wanted: impl Fn(&Method, &str) -> bool) -> usize {
        self.door.seen.lock().unwrap().iter().filter(|(method, path)| wanted(method, path)).count()
    }

    /// The objects of the bucket, by their path below it.
    pub fn objects(&self) -> Vec<String> {
        let bucket = self.root.path().join(BUCKET);
        let (mut found, mut waiting) = (vec![], vec![bucket.clone()]);
        while let Some(next) = waiting.pop() {
            for entry in std::fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => waiting.push(path),
                    false => found.push(path.strip_prefix(&bucket).unwrap().to_string_lossy().into_owned()),
                }
            }
        }
        found.sort();
        found
    }

    /// Files of uploads that were neither completed nor aborted.
    pub fn unfinished(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.root.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.contains("upload")).collect()
    }
}

async fn serve(listener: TcpListener, service: S3Service, door: Arc<Door>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let (service, door) = (service.clone(), door.clone());
        let answer = service_fn(move |request: Request<Incoming>| answer(request, service.clone(), door.clone()));
        tokio::spawn(async move {
            // a client that goes away is none of our business
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

async fn answer(request: Request<Incoming>, service: S3Service, door: Arc<Door>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    door.seen.lock().unwrap().push((request.method().clone(), path.clone()));
    let (mood, concerns) = *door.mood.lock().unwrap();
    let refusal = |status: u16, code: &str| {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
        Response::builder().status(status).body(Body::from(body)).unwrap()
    };
    let mood = if concerns(request.method(), &path) { mood } else { Mood::Open };
    // S3 makes no bucket by itself, as this server does
    if path.trim_start_matches('/').split(['/', '?']).next() != Some(BUCKET) {
        return Ok(refusal(404, "NoSuchBucket"));
    }
    Ok(match mood {
        Mood::Open => service.call(request.map(Body::from)).await.unwrap_or_else(|_| refusal(500, "InternalError")),
        Mood::Away => refusal(503, "ServiceUnavailable"),
        Mood::Forbidden => refusal(403, "AccessDenied"),
        Mood::Silent => std::future::pending().await,
    })
}
