//! Signatures as Standard Webhooks 1.0 defines them: HMAC-SHA-256 over `id.timestamp.body`, version `v1`.
//!
//! Refuses: to say why a secret or a body cannot be used, because the reason would show bytes of the secret.

use chrono::{DateTime, Utc};
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook};

/// The secret is not in the form `whsec_<base64>`, or the body is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the webhook secret or the body is not in a form that can be signed")]
pub(super) struct Unsignable;

/// The three headers of one delivery. `id` is the event's, the same in every attempt; `at` is this attempt's, because
/// receivers refuse a timestamp that is more than 5 minutes off.
pub(super) fn headers(
    secret: &str,
    id: &str,
    at: DateTime<Utc>,
    body: &[u8],
) -> Result<[(&'static str, String); 3], Unsignable> {
    let timestamp = at.timestamp();
    let webhook = Webhook::new(secret).map_err(|_| Unsignable)?;
    let signature = webhook.sign(id, timestamp, body).map_err(|_| Unsignable)?;
    Ok([
        (HEADER_WEBHOOK_ID, id.to_owned()),
        (HEADER_WEBHOOK_TIMESTAMP, timestamp.to_string()),
        (HEADER_WEBHOOK_SIGNATURE, signature),
    ])
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::{Unsignable, headers};

    const SECRET: &str = "whsec_RdvaYFYUXuIFuEbvZHwMfYFhUf7aMYjYcmM24+Aj40c=";

    /// A known answer from a published test suite of this signature scheme.
    #[test]
    fn the_signature_of_a_known_webhook_is_the_known_one() {
        let body = br#"{"id": "evt_685c059ae3a481909bdc86819b066fb6", "object": "event", "created_at": 1750861210, "type": "response.completed", "data": {"id": "resp_123"}}"#;
        let at = DateTime::from_timestamp(1_750_861_210, 999_000_000).unwrap();
        let [id, timestamp, signature] = headers(SECRET, "wh_685c059ae39c8190af8c71ed1022a24d", at, body).unwrap();
        assert_eq!(id, ("webhook-id", "wh_685c059ae39c8190af8c71ed1022a24d".to_owned()));
        assert_eq!(timestamp, ("webhook-timestamp", "1750861210".to_owned()));
        assert_eq!(signature, ("webhook-signature", "v1,gUAg4R2hWouRZqRQG4uJypNS8YK885G838+EHb4nKBY=".to_owned()));
    }

    #[test]
    fn a_secret_that_is_none_is_refused_without_showing_it() {
        let error = headers("whsec_!secret!", "evt_1", DateTime::UNIX_EPOCH, b"{}").unwrap_err();
        assert_eq!(error, Unsignable);
        assert!(!error.to_string().contains('!'));
    }
}
