//! The courier: makes one delivery and says how it ended.
//!
//! Always holds: one request is sent at most; an attempt is answered whatever happens; the bytes that are sent are the
//! bytes that were signed. What is reported is fit for the customer: neither secrets nor more of the address than its
//! host.
//! Refuses: private addresses, redirects, and more of an answer than its client reads.

use std::time::Instant;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use freezeframe_workflows::webhook::DeliveryEnd;

use super::deliveries::{Attempt, Due};
use super::sign;
use crate::domain::MasterKey;
use crate::providers::egress::{Answer, EgressError, GuardedClient};
use crate::tenants::WebhookSecret;

const USER_AGENT: &str = "Freezeframe-Webhooks/1";
const MAX_EXCERPT_BYTES: usize = 1024;
const MAX_ERROR_BYTES: usize = 512;

/// Makes deliveries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Courier {
    client: GuardedClient,
    master: MasterKey,
}

/// No answer came, and why.
struct Unanswered {
    end: DeliveryEnd,
    error: String,
}

impl Courier {
    /// `client` bounds the time and the size of an answer, and says whether private addresses may be contacted;
    /// `master` opens the tenants' secrets.
    pub fn new(client: GuardedClient, master: MasterKey) -> Courier {
        Courier { client, master }
    }

    /// Posts the event to its address, once.
    pub async fn deliver(&self, due: &Due) -> Attempt {
        let (started_at, clock) = (Utc::now(), Instant::now());
        let outcome = self.post(due, started_at).await;
        let mut attempt = Attempt {
            delivery: due.delivery,
            n: due.deliveries_made.saturating_add(1),
            started_at,
            duration: clock.elapsed(),
            end: DeliveryEnd::Unreachable,
            error: None,
            response_excerpt: None,
            retry_after_secs: None,
        };
        match outcome {
            Ok(answer) => {
                attempt.end = DeliveryEnd::Status(answer.status);
                attempt.error = complaint(answer.status);
                attempt.response_excerpt = excerpt(&answer.body_prefix);
                attempt.retry_after_secs = answer.retry_after.map(|wait| wait.as_secs());
            }
            Err(unanswered) => {
                attempt.end = unanswered.end;
                attempt.error = Some(one_line(&unanswered.error, MAX_ERROR_BYTES));
            }
        }
        attempt
    }

    async fn post(&self, due: &Due, at: DateTime<Utc>) -> Result<Answer, Unanswered> {
        let url = self.client.check_url(&due.url).map_err(|reason| Unanswered {
            end: DeliveryEnd::Refused,
            error: format!("{} was not contacted: the webhook address {reason}", host_of(&due.url)),
        })?;
        let body = Bytes::from(due.payload.to_string());
        let signature = self.sign(due, at, &body)?;
        let mut headers = vec![("content-type", "application/json"), ("user-agent", USER_AGENT)];
        headers.extend(signature.iter().map(|(name, value)| (*name, value.as_str())));
        self.client.post(&url, &headers, body).await.map_err(|error| unanswered(host_of(&due.url), &error))
    }

    fn sign(&self, due: &Due, at: DateTime<Utc>, body: &[u8]) -> Result<[(&'static str, String); 3], Unanswered> {
        // The cause is ours, and to be retried like any other: the right master key may be back by then.
        let unsigned = |cause: &dyn std::error::Error| {
            tracing::error!(delivery = %due.delivery, tenant = %due.tenant, %cause,
                "a webhook could not be signed: check that this process has the master key of this database");
            Unanswered {
                end: DeliveryEnd::Unreachable,
                error: "it was not sent: it could not be signed, for a reason on our side".to_owned(),
            }
        };
        let secret =
            WebhookSecret::open(&self.master, due.tenant, &due.sealed_secret).map_err(|error| unsigned(&error))?;
        sign::headers(secret.expose(), &due.event.to_string(), at, body).map_err(|error| unsigned(&error))
    }
}

fn unanswered(host: String, error: &EgressError) -> Unanswered {
    let (end, error) = match error {
        EgressError::RefusedUrl(_) | EgressError::RefusedAddress => {
            (DeliveryEnd::Refused, format!("{host} was not contacted: {error}"))
        }
        EgressError::Timeout(_) => (DeliveryEnd::TimedOut, format!("{host}: {error}")),
        EgressError::Unresolved | EgressError::Connect(_) | EgressError::Interrupted(_) | EgressError::Setup(_) => {
            (DeliveryEnd::Unreachable, format!("{host}: {error}"))
        }
    };
    Unanswered { end, error }
}

/// The host alone: path and query may carry a receiver's token.
fn host_of(url: &str) -> String {
    let host = url::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    host.unwrap_or_else(|| "the receiver".to_owned())
}

/// What is wrong with a status, if anything.
fn complaint(status: u16) -> Option<String> {
    match status {
        200..=299 => None,
        300..=399 => Some(format!("answered {status}; redirects are not followed: order with the final address")),
        410 => Some("answered 410: the receiver is gone for good, so nothing more is sent".to_owned()),
        _ => Some(format!("answered {status}; any status from 200 to 299 counts as delivered")),
    }
}

fn excerpt(body: &[u8]) -> Option<String> {
    let text = one_line(&String::from_utf8_lossy(body), MAX_EXCERPT_BYTES);
    (!text.is_empty()).then_some(text)
}

/// At most `max_bytes` of `text` without control characters; line breaks and tabs become spaces.
fn one_line(text: &str, max_bytes: usize) -> String {
    let shown = text.trim().chars().filter_map(|c| match c {
        '\n' | '\t' => Some(' '),
        c if c.is_control() => None,
        c => Some(c),
    });
    let mut line = String::new();
    for c in shown {
        if line.len() + c.len_utf8() > max_bytes {
            break;
        }
        line.push(c);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::{excerpt, host_of, one_line};

    #[test]
    fn an_excerpt_is_short_plain_text() {
        assert_eq!(excerpt(b" \r\n"), None);
        assert_eq!(excerpt(b"a\0b\r\nc\x1b[31md\x7f\xff").as_deref(), Some("ab c[31md\u{fffd}"));
        let long = excerpt("é".repeat(4000).as_bytes()).unwrap();
        assert_eq!(long.len(), 1024);
        assert_eq!(excerpt(&[0xff; 4000]).unwrap().len(), 1023, "whole characters only");
        assert_eq!(one_line("abc", 2), "ab");
    }

    #[test]
    fn only_the_host_of_an_address_is_shown() {
        assert_eq!(host_of("https://user:pw@hooks.example.com/t/secret?token=x"), "hooks.example.com");
        assert_eq!(host_of("secret"), "the receiver");
    }
}
