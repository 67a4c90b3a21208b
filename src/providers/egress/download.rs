//! Guarded downloads: a file that a customer's URL leads to.
//!
//! Always holds: every redirect is checked like the first URL and its name resolved and checked again; none leads from
//! https to http; no cookie, credential or referrer goes along. A body is read up to the bound that its reader names.

use bytes::{Bytes, BytesMut};
use chrono::Utc;
use reqwest::header::{ACCEPT, LOCATION};
use std::time::Duration;
use url::Url;

use super::{EgressError, GuardedClient, retry_after, root_cause};
use crate::domain::FieldError;

const MAX_REDIRECTS: usize = 5;

/// An answer of which only the head has been read.
#[derive(Debug)]
pub struct Opened {
    response: reqwest::Response,
}

/// The body goes on behind the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl GuardedClient {
    /// Asks for a file, and follows redirects. The policy's time counts for each of the requests.
    ///
    /// # Errors
    /// [`EgressError`] when there was no answer, or a redirect leads nowhere that may be called.
    pub async fn open(&self, url: &Url, accept: &'static str) -> Result<Opened, EgressError> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            self.policy.check(&url).map_err(EgressError::RefusedUrl)?;
            let sent = self.http.get(url.clone()).header(ACCEPT, accept).send().await;
            let response = sent.map_err(|error| self.explain(&error))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Opened { response });
            }
            let target = response.headers().get(LOCATION).and_then(|target| target.to_str().ok());
            let next = target.and_then(|target| url.join(target).ok());
            url = next
                .filter(|next| next.scheme() == "https" || url.scheme() == "http")
                .ok_or_else(|| EgressError::RefusedUrl(FieldError::new("redirects to no place that may be called")))?;
        }
        Err(EgressError::RefusedUrl(FieldError::new("redirects too often")))
    }
}

impl Opened {
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// What the answer says of its length, if it does.
    pub fn declared_bytes(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// How long the server asks us to wait, at most an hour.
    pub fn retry_after(&self) -> Option<Duration> {
        retry_after(self.response.headers(), Utc::now())
    }

    /// The whole body, if it has at most `limit` bytes. Takes no more memory than that.
    ///
    /// # Errors
    /// [`EgressError::Interrupted`] when it breaks off.
    pub async fn read(mut self, limit: usize) -> Result<Result<Bytes, TooLong>, EgressError> {
        let declared = self.declared_bytes().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if declared.is_some_and(|bytes| bytes > limit) {
            return Ok(Err(TooLong));
        }
        // a buffer that grows would need its old self and its new one at a time
        let mut body = BytesMut::with_capacity(declared.unwrap_or(limit));
        loop {
            let chunk = self.response.chunk().await;
            let chunk = chunk.map_err(|error| EgressError::Interrupted(root_cause(&error)))?;
            match chunk {
                None if body.len() < limit / 2 && declared.is_none() => return Ok(Ok(Bytes::copy_from_slice(&body))),
                None => return Ok(Ok(body.freeze())),
                Some(chunk) if body.len() + chunk.len() > limit => return Ok(Err(TooLong)),
                Some(chunk) => body.extend_from_slice(&chunk),
            }
        }
    }
}
