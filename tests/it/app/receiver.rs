//! A customer's webhook endpoint: verifies every signature with the tenant's secret, answers as it is told, remembers all.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use poem::http::{HeaderMap, StatusCode};
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::web::{Data, Path};
use poem::{Body, EndpointExt, Response, Route, Server, handler, post};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::sync::Notify;

/// How the next deliveries are answered, one after the other; 200 when nothing is left.
#[derive(Clone, Debug)]
pub enum Reply {
    Status(u16),
    /// A redirect to this address.
    Redirect(String),
    /// 200, but so late.
    Late(Duration),
}

/// One delivery that arrived.
#[derive(Clone, Debug)]
pub struct Received {
    pub endpoint: String,
    pub id: String,
    /// By the `standardwebhooks` crate, with the secret that the endpoint's owner was given.
    pub verified: bool,
    pub body: Value,
    pub answered: u16,
}

#[derive(Default)]
struct Endpoint {
    secret: String,
    replies: VecDeque<Reply>,
}

#[derive(Default)]
struct State {
    endpoints: Mutex<HashMap<String, Endpoint>>,
    received: Mutex<Vec<Received>>,
    arrived: Notify,
}

pub struct Receiver {
    address: SocketAddr,
    state: Arc<State>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Receiver {
    pub async fn start() -> Receiver {
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let address = *acceptor.local_addr()[0].as_socket_addr().unwrap();
        let state = Arc::new(State::default());
        let routes = Route::new().at("/:endpoint", post(receive).get(receive)).data(state.clone());
        let server = tokio::spawn(async move {
            let _ = Server::new_with_acceptor(acceptor).run(routes).await;
        });
        Receiver { address, state, server }
    }

    /// The URL of an endpoint whose deliveries are signed with `secret`.
    pub fn endpoint(&self, name: &str, secret: &str) -> String {
        let mut endpoints = self.state.endpoints.lock().unwrap();
        endpoints.entry(name.to_owned()).or_default().secret = secret.to_owned();
        format!("http://{}/{name}", self.address)
    }

    pub fn script(&self, endpoint: &str, replies: impl IntoIterator<Item = Reply>) {
        self.state.endpoints.lock().unwrap().entry(endpoint.to_owned()).or_default().replies.extend(replies);
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// Everything that arrived at an endpoint, once at least `count` deliveries did.
    pub async fn wait_for(&self, endpoint: &str, count: usize) -> Vec<Received> {
        let wait = async {
            loop {
                let arrived = self.state.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                let here: Vec<Received> = self.received().into_iter().filter(|r| r.endpoint == endpoint).collect();
                if here.len() >= count {
                    return here;
                }
                arrived.await;
            }
        };
        tokio::time::timeout(super::PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("{count} deliveries to {endpoint} never came; so far: {:?}", self.received()))
    }
}

#[handler]
async fn receive(Path(endpoint): Path<String>, headers: &HeaderMap, body: Body, state: Data<&Arc<State>>) -> Response {
    let bytes = body.into_bytes().await.unwrap_or_default();
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let (secret, reply) = {
        let mut endpoints = state.endpoints.lock().unwrap();
        let owner = endpoints.entry(endpoint.clone()).or_default();
        (owner.secret.clone(), owner.replies.pop_front().unwrap_or(Reply::Status(200)))
    };
    let verified = Webhook::new(&secret).is_ok_and(|webhook| webhook.verify(&bytes, headers).is_ok());
    if let Reply::Late(delay) = &reply {
        tokio::time::sleep(*delay).await;
    }
    let response = match &reply {
        Reply::Status(status) => Response::builder().status(StatusCode::from_u16(*status).unwrap()).finish(),
        Reply::Redirect(to) => Response::builder().status(StatusCode::FOUND).header("location", to).finish(),
        Reply::Late(_) => Response::builder().status(StatusCode::OK).finish(),
    };
    let received = Received {
        endpoint,
        id: header("webhook-id"),
        verified,
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        answered: response.status().as_u16(),
    };
    state.received.lock().unwrap().push(received);
    state.arrived.notify_waiters();
    response
}
