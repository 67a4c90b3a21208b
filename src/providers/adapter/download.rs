//! Fetches a finished file: from the provider, from wherever it redirects to, or out of the answer of a poll.
//!
//! Always holds: the credential goes to the origin of the base URL alone; every other host is reached by the guarded
//! client, whose address check is repeated at each redirect; a redirect never leads from https to http. The body is a
//! stream that nobody collects, and ends with an error when it is incomplete, too slow or takes too long. Its bytes are the
//! file's own: an answer in any content coding is refused, so that the length that it announces is the file's.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{TryStreamExt, stream};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, LOCATION};
use url::Url;

use super::super::egress::EgressError;
use super::super::{ByteStream, FetchError, ReadError};
use super::client::{ApiClient, Ask, READ_BOUND, unavailable};
use super::reads;
use super::reply::Reply;
use super::sieve::{InlineBytes, JsonBounds, Sieve};
use crate::domain::FailureClass;

const MAX_REDIRECTS: usize = 5;

/// What a vendor's statuses say of a file.
#[derive(Clone, Copy, Debug)]
pub(in crate::providers) struct FilePolicy {
    /// Statuses of the provider itself by which a file is gone for good. 410 always says so, 404 from the moment on at
    /// which the file expires.
    pub gone: &'static [u16],
    pub expires_at: Option<DateTime<Utc>>,
}

enum Opened {
    File(reqwest::Response),
    Gone,
}

impl ApiClient {
    /// # Errors
    /// [`FetchError::Gone`] when it was there and is no longer; a refused address is not tried again.
    pub(in crate::providers) async fn fetch(&self, url: &Url, policy: FilePolicy) -> Result<ByteStream, FetchError> {
        match reads::retry(READ_BOUND, || self.open_once(url, policy)).await? {
            Opened::File(response) => Ok(self.stream(response)),
            Opened::Gone => Err(gone()),
        }
    }

    /// A picture that the server may or may not have: asked for once. `None` when it has none, or does not know of such.
    ///
    /// # Errors
    /// When it does not say.
    pub(in crate::providers) async fn fetch_picture(&self, url: &Url) -> Result<Option<ByteStream>, FetchError> {
        let (response, _) = self.open(url).await?;
        match response.status().as_u16() {
            200 => Ok(Some(self.stream(plain(response)?))),
            400 | 404 | 405 | 410 | 422 | 501 => Ok(None),
            _ => Err(FetchError::Read(self.refused(&Reply::read(response, JsonBounds::JOB).await))),
        }
    }

    fn stream(&self, response: reqwest::Response) -> ByteStream {
        let length = response.content_length();
        let bytes = response.bytes_stream().map_err(|error| FetchError::Read(unavailable(&error)));
        ByteStream::new(self.line.paced(bytes), length)
    }

    async fn open_once(&self, url: &Url, policy: FilePolicy) -> Result<Opened, ReadError> {
        let (response, at_home) = self.open(url).await?;
        let status = response.status().as_u16();
        let expired = policy.expires_at.is_some_and(|at| at <= Utc::now());
        match status {
            200 => Ok(Opened::File(plain(response)?)),
            410 => Ok(Opened::Gone),
            404 if expired => Ok(Opened::Gone),
            _ if at_home && policy.gone.contains(&status) => Ok(Opened::Gone),
            // a store refuses a signed link that is no longer valid; it knows nothing of our account
            401 | 403 if !at_home => Ok(Opened::Gone),
            // A job that has just finished may not have its file everywhere yet; servers say 400 or 404 then.
            400 | 404 => Err(ReadError::Unavailable { cause: format!("HTTP {status} for the file of a finished job") }),
            201..300 => Err(ReadError::Unavailable { cause: format!("HTTP {status} in place of a file") }),
            _ => Err(self.refused(&Reply::read(response, JsonBounds::JOB).await)),
        }
    }

    /// The answer to a request for a file, with redirects followed, and whether the provider itself gave it.
    async fn open(&self, from: &Url) -> Result<(reqwest::Response, bool), ReadError> {
        let mut url = from.clone();
        for _ in 0..=MAX_REDIRECTS {
            let at_home = url.origin() == self.base_url.origin();
            let response = if at_home {
                let request = self.ask(&Ask::Get(url.clone())).await?.timeout(self.download_timeout);
                let request = request.header(ACCEPT_ENCODING, "identity");
                request.send().await.map_err(|error| unavailable(&error))?
            } else {
                self.elsewhere.get(&url).await.map_err(|error| not_fetched(&error))?
            };
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((response, at_home));
            }
            let target = response.headers().get(LOCATION).and_then(|target| target.to_str().ok());
            let next = target.and_then(|target| url.join(target).ok());
            url = next
                .filter(|next| next.scheme() == "https" || url.scheme() == "http")
                .ok_or_else(|| refused_for_good("a redirect that leads to no safe place"))?;
        }
        Err(refused_for_good("too many redirects"))
    }

    /// The long text number `nth` of an answer, decoded from base64 while it arrives.
    ///
    /// # Errors
    /// The answer is no longer there, or cannot be had.
    pub(in crate::providers) async fn fetch_inline(&self, ask: &Ask, nth: usize) -> Result<ByteStream, FetchError> {
        let opened = reads::retry(READ_BOUND, || async {
            let request = self.ask(ask).await?.timeout(self.download_timeout);
            let response = request.send().await.map_err(|error| unavailable(&error))?;
            if response.status().is_success() {
                return Ok(Opened::File(response));
            }
            let reply = Reply::read(response, JsonBounds::JOB).await;
            match self.vocabulary().is_not_there(reply.status, &reply.error()) {
                true => Ok(Opened::Gone),
                false => Err(self.refused(&reply)),
            }
        });
        let Opened::File(response) = opened.await? else { return Err(gone()) };
        let reading = InlineReading {
            response,
            sieve: Sieve::capturing(JsonBounds::WITH_FILE, nth),
            decoder: Some(InlineBytes::default()),
            begun: false,
        };
        // the announced length is that of the answer around it
        Ok(ByteStream::new(self.line.paced(stream::try_unfold(reading, InlineReading::next)), None))
    }
}

struct InlineReading {
    response: reqwest::Response,
    sieve: Sieve,
    /// Taken at the end.
    decoder: Option<InlineBytes>,
    /// Something of the file has come.
    begun: bool,
}

impl InlineReading {
    async fn next(mut self) -> Result<Option<(Bytes, InlineReading)>, FetchError> {
        let Some(mut decoder) = self.decoder.take() else { return Ok(None) };
        loop {
            match self.response.chunk().await {
                Err(error) => return Err(FetchError::Read(unavailable(&error))),
                Ok(None) => {
                    let last = decoder.finish().map_err(broken)?;
                    if last.is_empty() && !self.begun {
                        return Err(broken("an answer that no longer carries the file".to_owned()));
                    }
                    return Ok((!last.is_empty()).then(|| (last.into(), self)));
                }
                Ok(Some(piece)) => {
                    self.sieve.feed(&piece).map_err(|too_much| broken(too_much.to_string()))?;
                    let decoded = decoder.feed(&self.sieve.take_captured()).map_err(broken)?;
                    if !decoded.is_empty() {
                        self.decoder = Some(decoder);
                        self.begun = true;
                        return Ok(Some((decoded.into(), self)));
                    }
                }
            }
        }
    }
}

/// The answer, if its bytes are the file's own. Some servers pack what nobody asked them to pack.
fn plain(response: reqwest::Response) -> Result<reqwest::Response, ReadError> {
    let codings = response.headers().get_all(CONTENT_ENCODING);
    match codings.iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        true => Ok(response),
        false => Err(refused_for_good("a file in a content coding that was not asked for")),
    }
}

fn gone() -> FetchError {
    FetchError::Gone { message: "the provider has removed it".to_owned() }
}

fn broken(cause: String) -> FetchError {
    FetchError::Read(ReadError::Unavailable { cause })
}

/// Asking again would lead to the same place.
fn refused_for_good(what: &str) -> ReadError {
    ReadError::Refused { class: FailureClass::ProviderFault, message: what.to_owned() }
}

fn not_fetched(error: &EgressError) -> ReadError {
    match error {
        EgressError::RefusedUrl(_) | EgressError::RefusedAddress => {
            refused_for_good("the finished file is said to be at an address that may not be called")
        }
        _ => ReadError::Unavailable { cause: format!("the file is kept on another host: {error}") },
    }
}
