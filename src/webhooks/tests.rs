//! Deliveries to a receiver on loopback, checked as a receiver would check them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use freezeframe_workflows::webhook::DeliveryEnd;
use poem::http::{HeaderMap, HeaderName};
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Attempt, BatchSummary, Courier, Due, EventKind, batch_payload, check_url};
use crate::domain::{BatchId, BatchStatus, Credits, DeliveryId, EventId, MasterKey, TenantId};
use crate::providers::egress::{Egress, EgressPolicy};
use crate::tenants::WebhookSecret;

const MASTER: &str = "4242424242424242424242424242424242424242424242424242424242424242";

fn master() -> MasterKey {
    MasterKey::from_hex(MASTER).unwrap()
}

fn courier(allow_private: bool, timeout: Duration) -> Courier {
    let policy = EgressPolicy { allow_private, timeout, max_response_bytes: 4096 };
    Courier::new(Egress::new().guarded(policy).unwrap(), master())
}

fn due(url: String) -> (Due, WebhookSecret) {
    let (tenant, secret) = (TenantId::generate(), WebhookSecret::generate());
    let due = Due {
        delivery: DeliveryId::generate(),
        event: EventId::generate(),
        tenant,
        url,
        payload: json!({ "type": "batch.partial", "data": { "metadata": { "note": "grün \"quoted\"" } } }),
        deliveries_made: 2,
        sealed_secret: secret.seal(&master(), tenant),
    };
    (due, secret)
}

/// What one request looked like to the receiver.
struct Received {
    request_line: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

async fn receive(listener: &TcpListener, answer: &str) -> Received {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut bytes = Vec::new();
    let head_end = loop {
        assert_ne!(socket.read_buf(&mut bytes).await.unwrap(), 0, "the request ends within its head");
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let request_line = lines.next().unwrap().to_owned();
    let headers: HeaderMap = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
        .collect();
    let length: usize = headers["content-length"].to_str().unwrap().parse().unwrap();
    let mut body = bytes[head_end + 4..].to_vec();
    while body.len() < length {
        assert_ne!(socket.read_buf(&mut body).await.unwrap(), 0, "the request ends within its body");
    }
    socket.write_all(answer.as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    Received { request_line, headers, body }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hooks?token=t0ps3cret", listener.local_addr().unwrap());
    (listener, url)
}

async fn deliver(answer: &str) -> (Due, WebhookSecret, Attempt, Received) {
    let (listener, url) = listen().await;
    let (due, secret) = due(url);
    let courier = courier(true, Duration::from_secs(10));
    let (attempt, received) = tokio::join!(courier.deliver(&due), receive(&listener, answer));
    (due, secret, attempt, received)
}

#[tokio::test]
async fn a_receiver_verifies_the_signature_over_the_very_bytes_it_got() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nthanks\r\n";
    let (due, secret, attempt, received) = deliver(answer).await;
    assert_eq!(received.request_line, "POST /hooks?token=t0ps3cret HTTP/1.1");
    assert_eq!(received.headers["content-type"], "application/json");
    assert_eq!(received.headers["user-agent"], "Freezeframe-Webhooks/1");
    assert_eq!(received.headers["webhook-id"], due.event.to_string());
    assert_eq!(received.headers["webhook-timestamp"], attempt.started_at.timestamp().to_string());
    Webhook::new(secret.expose()).unwrap().verify(&received.body, &received.headers).unwrap();
    let other = Webhook::new(WebhookSecret::generate().expose()).unwrap();
    assert!(other.verify(&received.body, &received.headers).is_err());
    assert_eq!(serde_json::from_slice::<Value>(&received.body).unwrap(), due.payload);

    assert_eq!((attempt.delivery, attempt.n), (due.delivery, 3));
    assert_eq!((attempt.end, attempt.status()), (DeliveryEnd::Status(200), Some(200)));
    assert_eq!((attempt.error, attempt.response_excerpt.as_deref()), (None, Some("thanks")));
}

#[tokio::test]
async fn a_repetition_carries_the_same_id_and_body() {
    let answer = "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n";
    let (listener, url) = listen().await;
    let (due, _) = due(url);
    let courier = courier(true, Duration::from_secs(10));
    let (_, first) = tokio::join!(courier.deliver(&due), receive(&listener, answer));
    let (_, second) = tokio::join!(courier.deliver(&due), receive(&listener, answer));
    assert_eq!(first.headers["webhook-id"], second.headers["webhook-id"]);
    assert_eq!(first.body, second.body);
}

#[tokio::test]
async fn a_redirect_is_reported_and_not_followed() {
    // followed, it would reach the same receiver again, which accepts no second connection: the attempt would time out
    let answer = "HTTP/1.1 307 Moved\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
    let (_, _, attempt, _) = deliver(answer).await;
    assert_eq!(attempt.end, DeliveryEnd::Status(307));
    assert!(attempt.error.unwrap().contains("redirects are not followed"));
}

#[tokio::test]
async fn a_receiver_is_heard_that_asks_for_time() {
    let answer = "HTTP/1.1 429 Slow down\r\nretry-after: 120\r\ncontent-length: 0\r\n\r\n";
    let (_, _, attempt, _) = deliver(answer).await;
    assert_eq!((attempt.end, attempt.retry_after_secs), (DeliveryEnd::Status(429), Some(120)));
    assert_eq!(attempt.response_excerpt, None);
}

#[tokio::test]
async fn a_silent_receiver_runs_into_the_time_limit() {
    let (listener, url) = listen().await;
    let (due, _) = due(url);
    let attempt = courier(true, Duration::from_millis(200)).deliver(&due).await;
    drop(listener);
    assert_eq!(attempt.end, DeliveryEnd::TimedOut);
    assert!(attempt.duration >= Duration::from_millis(200));
    assert_only_the_host_is_shown(&attempt);
}

#[tokio::test]
async fn a_closed_port_is_unreachable() {
    let (listener, url) = listen().await;
    drop(listener);
    let (due, _) = due(url);
    let attempt = courier(true, Duration::from_secs(10)).deliver(&due).await;
    assert_eq!(attempt.end, DeliveryEnd::Unreachable);
    assert_only_the_host_is_shown(&attempt);
}

#[tokio::test]
async fn private_addresses_are_refused_by_number_and_by_name() {
    for (url, host) in [
        ("http://10.0.0.1/hook?token=t0ps3cret", "10.0.0.1"),
        ("http://169.254.169.254/latest/t0ps3cret", "169.254.169.254"),
        ("http://localhost/t0ps3cret", "localhost"),
    ] {
        let (due, _) = due(url.to_owned());
        let attempt = courier(false, Duration::from_secs(10)).deliver(&due).await;
        assert_eq!(attempt.end, DeliveryEnd::Refused, "{url}");
        let error = attempt.error.clone().unwrap();
        assert!(error.starts_with(&format!("{host} was not contacted")), "{error}");
        assert_only_the_host_is_shown(&attempt);
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_signed_is_not_sent_and_tells_no_secret() {
    let (listener, url) = listen().await;
    let (mut due, secret) = due(url);
    due.tenant = TenantId::generate();
    let courier = courier(true, Duration::from_secs(10));
    let attempt = tokio::select! {
        attempt = courier.deliver(&due) => attempt,
        _ = listener.accept() => panic!("the receiver was contacted"),
    };
    assert_eq!(attempt.end, DeliveryEnd::Unreachable);
    assert!(!format!("{attempt:?}").contains(secret.expose()));
    assert_only_the_host_is_shown(&attempt);
}

fn assert_only_the_host_is_shown(attempt: &Attempt) {
    assert!(!attempt.error.as_ref().unwrap().contains("t0ps3cret"), "{attempt:?}");
}

fn summary(status: BatchStatus) -> BatchSummary {
    let credits = |amount| Credits::new(amount).unwrap();
    let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    BatchSummary {
        batch: BatchId::from_bare("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap(),
        status,
        total: 20,
        succeeded: 18,
        failed: 2,
        frozen: credits(1220),
        charged: credits(1098),
        refunded: credits(122),
        metadata: Some(json!({ "campaign": "spring" })),
        created_at: at("2026-11-23T10:00:00.123456Z"),
        finished_at: Some(at("2026-11-23T10:07:30Z")),
    }
}

#[test]
fn the_payload_of_a_batch_is_thin_and_adds_up() {
    assert_eq!(
        batch_payload(&summary(BatchStatus::Partial)),
        json!({
            "type": "batch.partial",
            "timestamp": "2026-11-23T10:07:30.000Z",
            "data": {
                "batch_id": "bat_01ARZ3NDEKTSV4RRFFQ69G5FAV",
                "status": "partial",
                "counts": { "total": 20, "succeeded": 18, "failed": 2 },
                "credits": { "frozen": 1220, "charged": 1098, "refunded": 122 },
                "metadata": { "campaign": "spring" },
                "created_at": "2026-11-23T10:00:00.123Z",
                "finished_at": "2026-11-23T10:07:30.000Z",
            },
        })
    );
}

#[test]
fn every_final_status_has_its_event_and_no_other() {
    for status in BatchStatus::ALL {
        let word = EventKind::of(*status).map(EventKind::word);
        assert_eq!(word, status.is_final().then(|| format!("batch.{}", status.word())).as_deref(), "{status:?}");
    }
}

#[test]
fn an_address_is_checked_when_it_is_ordered() {
    assert_eq!(check_url("https://example.com/hooks", false).unwrap().host_str(), Some("example.com"));
    for refused in ["http://127.0.0.1/", "https://user:pw@example.com/", "ftp://example.com/", "hooks"] {
        assert!(check_url(refused, false).is_err(), "{refused}");
    }
    assert!(check_url("http://127.0.0.1:8080/", true).is_ok());
}
