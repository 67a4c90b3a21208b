//! What comes back: the kept part of an answer, bodies read up to a bound, the wish to be left alone for a while.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use reqwest::header::HeaderMap;

/// A `Retry-After` beyond this is read as this: a typing error at a provider must not park an account for days.
pub(in crate::providers) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Headers of an answer that are kept.
pub(super) const KEPT_HEADERS: [&str; 4] = ["content-type", "location", "retry-after", "x-request-id"];

/// An answer to a guarded request.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// The few headers that are kept, in lower case.
    pub headers: Vec<(String, String)>,
    /// The body's beginning, up to the policy's cap.
    pub body_prefix: Bytes,
    /// The body went on, or broke off, behind `body_prefix`.
    pub truncated: bool,
    /// How long the receiver asks us to wait.
    pub retry_after: Option<Duration>,
}

/// Reads a body up to `limit` bytes; the flag says that there was more.
///
/// # Errors
/// What was read before the body broke off, and why it did.
pub(super) async fn read_prefix(
    response: &mut reqwest::Response,
    limit: usize,
) -> Result<(Bytes, bool), (Bytes, reqwest::Error)> {
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok((body.freeze(), false)),
            Ok(Some(chunk)) if body.len() + chunk.len() > limit => {
                let room = limit - body.len();
                body.extend_from_slice(&chunk[..room]);
                return Ok((body.freeze(), true));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(error) => return Err((body.freeze(), error)),
        }
    }
}

/// `Retry-After` in seconds or as an HTTP date, at most an hour.
pub(in crate::providers) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now).to_std().unwrap_or_default(),
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

/// The innermost reason of an error. The outer layers of an HTTP error repeat the URL; the innermost does not.
pub(in crate::providers) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    sources(error).last().map_or_else(|| "for an unknown reason".to_owned(), ToString::to_string)
}

pub(super) fn sources<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |error| error.source())
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        let now = DateTime::parse_from_rfc2822("Mon, 23 Nov 2026 10:00:00 GMT").unwrap().to_utc();
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", HeaderValue::from_str(text).unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Mon, 23 Nov 2026 10:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(read("Mon, 23 Nov 2026 09:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("999999999"), Some(LONGEST_RETRY_AFTER));
        assert_eq!(read("soon"), None);
    }
}
