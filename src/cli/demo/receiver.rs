//! The customer's side of the webhook: a receiver on loopback that believes nothing without a valid signature.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use poem::http::{HeaderMap, StatusCode};
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::web::Data;
use poem::{EndpointExt, Route, Server, handler, post};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A running receiver. Dropping it stops it.
pub(super) struct Receiver {
    address: SocketAddr,
    verified: watch::Receiver<Option<Value>>,
    serving: JoinHandle<std::io::Result<()>>,
}

struct Inbox {
    webhook: Webhook,
    verified: watch::Sender<Option<Value>>,
}

impl Receiver {
    /// Listens on a free port of loopback and checks every delivery with the tenant's secret.
    pub(super) async fn start(secret: &str) -> Result<Receiver> {
        let webhook = Webhook::new(secret).context("the webhook secret")?;
        let (sender, verified) = watch::channel(None);
        let inbox = Arc::new(Inbox { webhook, verified: sender });
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.context("the webhook receiver")?;
        let address = acceptor.local_addr().iter().find_map(|at| at.as_socket_addr().copied());
        let address = address.context("the webhook receiver has no address")?;
        let routes = Route::new().at("/hooks", post(receive)).data(inbox);
        let serving = tokio::spawn(Server::new_with_acceptor(acceptor).run(routes));
        Ok(Receiver { address, verified, serving })
    }

    /// What the order names as `webhook_url`.
    pub(super) fn url(&self) -> String {
        format!("http://{}/hooks", self.address)
    }

    /// The latest event whose signature was valid, as soon as there is one.
    pub(super) async fn verified(&mut self) -> Result<Value> {
        let event = self.verified.wait_for(Option::is_some).await.context("the webhook receiver stopped")?;
        event.clone().context("the webhook receiver lost its event")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[handler]
async fn receive(Data(inbox): Data<&Arc<Inbox>>, headers: &HeaderMap, body: Vec<u8>) -> StatusCode {
    if inbox.webhook.verify(&body, headers).is_err() {
        return StatusCode::UNAUTHORIZED;
    }
    match serde_json::from_slice(&body) {
        Ok(event) => {
            inbox.verified.send_replace(Some(event));
            StatusCode::NO_CONTENT
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde_json::json;
    use standardwebhooks::Webhook;

    use super::Receiver;
    use crate::providers::egress::{ClientTimeouts, Egress};
    use crate::tenants::WebhookSecret;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn deliver(receiver: &Receiver, secret: &WebhookSecret, body: &str) -> u16 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let signature = Webhook::new(secret.expose()).unwrap().sign("evt_1", now as i64, body.as_bytes()).unwrap();
        let timeouts = ClientTimeouts { connect: PATIENCE, total: PATIENCE, keep_idle: PATIENCE };
        let client = Egress::new().provider_client(timeouts).unwrap();
        let request = client
            .post(receiver.url())
            .header("webhook-id", "evt_1")
            .header("webhook-timestamp", now.to_string())
            .header("webhook-signature", signature)
            .body(body.to_owned());
        request.send().await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn a_delivery_counts_only_with_the_tenants_own_signature() {
        let secret = WebhookSecret::generate();
        let mut receiver = Receiver::start(secret.expose()).await.unwrap();
        assert_eq!(deliver(&receiver, &WebhookSecret::generate(), r#"{"type":"forged"}"#).await, 401);
        assert!(receiver.verified.borrow().is_none());
        assert_eq!(deliver(&receiver, &secret, r#"{"type":"batch.partial"}"#).await, 204);
        assert_eq!(receiver.verified().await.unwrap(), json!({ "type": "batch.partial" }));
    }
}
