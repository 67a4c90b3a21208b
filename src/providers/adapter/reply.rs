//! An answer of a provider's API, read up to its bounds.

use std::time::Duration;

use chrono::Utc;
use serde_json::Value;

use super::super::egress::{retry_after, root_cause};
use super::redact::fit_for_customers;
use super::refusal::ErrorBody;
use super::sieve::{JsonBounds, Sieve};

/// An answer, whatever its status.
#[derive(Debug)]
pub(in crate::providers) struct Reply {
    pub status: u16,
    /// The JSON, or why there is none.
    pub value: Result<Value, String>,
    /// It broke a bound.
    pub too_much: bool,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl Reply {
    pub(in crate::providers) async fn read(mut response: reqwest::Response, bounds: JsonBounds) -> Reply {
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers(), Utc::now());
        let mut sieve = Sieve::new(bounds);
        let mut too_much = false;
        let value = loop {
            match response.chunk().await {
                Ok(Some(piece)) => {
                    if let Err(bound) = sieve.feed(&piece) {
                        too_much = true;
                        break Err(bound.to_string());
                    }
                }
                Ok(None) => {
                    let parsed = serde_json::from_slice(sieve.kept());
                    break parsed.map_err(|_| format!("HTTP {status} with a body that is no JSON"));
                }
                Err(error) => break Err(format!("the answer broke off: {}", reason(&error))),
            }
        };
        Reply { status, value, too_much, retry_after }
    }

    pub(in crate::providers) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The error that the answer tells of, as far as it can be read.
    pub(in crate::providers) fn error(&self) -> ErrorBody {
        self.value.as_ref().map(ErrorBody::of).unwrap_or_default()
    }

    /// How long to wait: the header, or else the vendor's own form.
    pub(in crate::providers) fn wait(&self, error: &ErrorBody) -> Option<Duration> {
        self.retry_after.or(error.wait)
    }
}

/// A reason without URL, host or address.
pub(super) fn reason(error: &reqwest::Error) -> String {
    if error.is_dns() {
        "its host name cannot be resolved".to_owned()
    } else if error.is_timeout() {
        "it took too long".to_owned()
    } else {
        fit_for_customers(&root_cause(error), &[])
    }
}
