//! The one API client of the command line: what a program of a customer would send and read, over real HTTP. The customer's
//! commands and the demo share it.
//!
//! Always holds: the key goes to the API alone, never to the address of a file, and never into an error; an answer is read
//! up to a cap; reads are repeated a few times when their fault passes by itself.
//! Refuses: to repeat a submission (that is for the caller, who holds the idempotency key), to follow redirects.

mod answers;
mod call_error;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response};
use ring::digest;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

pub(super) use answers::{
    Accepted, Batch, BatchStatus, Cancelled, Counts, Entry, Failure, Model, Money, Outlook, Output, Paused, Quote,
    UploadedImage, Video, Wallet,
};
pub(super) use call_error::{CallError, Problem, root_cause};

use super::output::plain;
use crate::domain::Secret;
use crate::providers::egress::{ClientTimeouts, Egress};

const API: &str = "/api/enterprise";
const TIMEOUTS: ClientTimeouts = ClientTimeouts {
    connect: Duration::from_secs(5),
    total: Duration::from_secs(60),
    keep_idle: Duration::from_secs(5),
};
/// Of a file, from the first byte to the last; a stalled one is noticed much sooner, by who reads it.
const LONGEST_DOWNLOAD: Duration = Duration::from_secs(3600);
/// More than any page of the API has.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// The most that a page shows.
const PAGE: usize = 1000;
const READ_ATTEMPTS: u32 = 4;
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);

/// The API as one customer sees it.
pub(super) struct Api {
    http: Client,
    base: String,
    key: HeaderValue,
}

/// An answer as it came, and what it says.
#[derive(Clone, Debug)]
pub(super) struct Answer<T> {
    pub(super) raw: Value,
    pub(super) value: T,
}

/// One page of a list, with what finds it again.
pub(super) struct Page<T> {
    /// `None` for the first page.
    pub(super) cursor: Option<String>,
    pub(super) next: Option<String>,
    pub(super) data: Vec<Answer<T>>,
}

/// A receipt, and whether it is that of an earlier request with the same key.
pub(super) struct Submitted {
    pub(super) receipt: Answer<Accepted>,
    pub(super) replayed: bool,
}

impl Api {
    /// # Errors
    /// When the address is none, or the key cannot be one.
    pub(super) fn new(base: &str, key: &Secret) -> Result<Api> {
        let url = Url::parse(base).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(url) = url else {
            bail!("not an address: {}; it must be one such as https://video.example.com", plain(base));
        };
        // a password in an address would be shown in errors
        ensure!(url.username().is_empty() && url.password().is_none(), "the address must not hold a name or password");
        ensure!(
            url.query().is_none() && url.fragment().is_none(),
            "the address must end with its path: no `?`, no `#`"
        );
        let text = url.as_str().trim_end_matches('/');
        let base = text.strip_suffix(API).unwrap_or(text).to_owned();
        let mut key = HeaderValue::from_str(key.expose().trim())
            .ok()
            .filter(|key| key.to_str().is_ok_and(|text| !text.is_empty()))
            .context("the API key has characters that no key has: was it cut or copied with something else?")?;
        key.set_sensitive(true);
        Ok(Api { http: Egress::new().provider_client(TIMEOUTS)?, base, key })
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Sends an order once.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::may_have_arrived`] says whether the batch may exist all the same.
    pub(super) async fn submit(&self, body: Bytes, idempotency_key: &str) -> Result<Submitted, CallError> {
        self.buy(&["video-batch"], body, idempotency_key).await
    }

    /// Orders once what failed of a batch.
    ///
    /// # Errors
    /// As [`Api::submit`].
    pub(super) async fn retry(&self, id: &str, body: Bytes, idempotency_key: &str) -> Result<Submitted, CallError> {
        self.buy(&["video-batch", id, "retry"], body, idempotency_key).await
    }

    async fn buy(&self, path: &[&str], body: Bytes, idempotency_key: &str) -> Result<Submitted, CallError> {
        let request = self.http.post(self.url(path, &[])?).header("Idempotency-Key", idempotency_key);
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        let (headers, receipt) = self.read(request).await?;
        let replayed = headers.get("idempotent-replayed").is_some_and(|value| value == "true");
        Ok(Submitted { receipt, replayed })
    }

    /// What an order would cost.
    pub(super) async fn quote(&self, body: &Bytes) -> Result<Answer<Quote>, CallError> {
        let url = self.url(&["video-batch", "quote"], &[])?;
        let ask = || self.http.post(url.clone()).header(CONTENT_TYPE, "application/json").body(body.clone());
        self.ask(ask).await
    }

    /// Cancels a batch; repeating it does no harm.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn cancel(&self, id: &str) -> Result<Answer<Cancelled>, CallError> {
        Ok(self.read(self.http.post(self.url(&["video-batch", id, "cancel"], &[])?)).await?.1)
    }

    /// Pauses a batch; repeating it does no harm.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn pause(&self, id: &str) -> Result<Answer<Paused>, CallError> {
        Ok(self.read(self.http.post(self.url(&["video-batch", id, "pause"], &[])?)).await?.1)
    }

    /// Lets a paused batch go on; repeating it does no harm.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn resume(&self, id: &str) -> Result<Answer<Paused>, CallError> {
        Ok(self.read(self.http.post(self.url(&["video-batch", id, "resume"], &[])?)).await?.1)
    }

    /// Looks once, without repeating.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn look(&self, id: &str) -> Result<Answer<Batch>, CallError> {
        Ok(self.read(self.http.get(self.url(&["video-batch", id], &[])?)).await?.1)
    }

    pub(super) async fn batch(&self, id: &str) -> Result<Answer<Batch>, CallError> {
        self.get(self.url(&["video-batch", id], &[])?).await
    }

    /// The newest batches, as many as `limit`.
    pub(super) async fn batches(
        &self,
        status: Option<BatchStatus>,
        limit: usize,
    ) -> Result<Vec<Answer<Batch>>, CallError> {
        let status = status.map(|status| status.to_string());
        let filter: Vec<(&str, &str)> = status.iter().map(|word| ("status", word.as_str())).collect();
        self.all(&["video-batch"], &filter, limit).await
    }

    /// A page of videos.
    pub(super) async fn videos_page(
        &self,
        id: &str,
        state: Option<&str>,
        cursor: Option<String>,
    ) -> Result<Page<Video>, CallError> {
        let filter: Vec<(&str, &str)> = state.iter().map(|state| ("state", *state)).collect();
        self.page(&["video-batch", id, "videos"], &filter, cursor, PAGE).await
    }

    pub(super) async fn videos(&self, id: &str, state: Option<&str>) -> Result<Vec<Answer<Video>>, CallError> {
        let filter: Vec<(&str, &str)> = state.iter().map(|state| ("state", *state)).collect();
        self.all(&["video-batch", id, "videos"], &filter, usize::MAX).await
    }

    pub(super) async fn ledger(&self, id: &str) -> Result<Vec<Answer<Entry>>, CallError> {
        self.all(&["video-batch", id, "ledger"], &[], usize::MAX).await
    }

    pub(super) async fn wallet(&self) -> Result<Answer<Wallet>, CallError> {
        self.get(self.url(&["wallet"], &[])?).await
    }

    pub(super) async fn models(&self) -> Result<Vec<Answer<Model>>, CallError> {
        self.all(&["models"], &[], usize::MAX).await
    }

    /// Uploads an image once.
    pub(super) async fn upload_image(
        &self,
        image: Bytes,
        media_type: &'static str,
    ) -> Result<Answer<UploadedImage>, CallError> {
        let request = self.http.post(self.url(&["images"], &[])?).header(CONTENT_TYPE, media_type).body(image);
        Ok(self.read(request).await?.1)
    }

    pub(super) async fn image(&self, id: &str) -> Result<Answer<UploadedImage>, CallError> {
        self.get(self.url(&["images", id], &[])?).await
    }

    /// Starts the download behind a signed link, without the key.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn open(&self, link: &str) -> Result<Response, CallError> {
        let url = self.at(link).ok_or_else(|| self.stranger("a link that is no address".to_owned()))?;
        let sent = self.http.get(url).timeout(LONGEST_DOWNLOAD).send().await;
        let answer = sent.map_err(|error| CallError::of_transport(&self.base, &error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (head, body) = self.receive(answer).await?;
        Err(CallError::of_answer(&self.base, &head, &body))
    }

    /// Follows a signed link and holds the file against what was promised of it.
    pub(super) async fn check_file(&self, output: &Output) -> Result<()> {
        let link = output.url.as_deref().context("the file has no link")?;
        let file = self.open(link).await?.bytes().await?;
        let right = file.len() as u64 == output.bytes && sha256_hex(&file) == output.sha256;
        ensure!(right, "the file is not the one that was stored");
        Ok(())
    }

    /// An absolute address; links in answers may be relative.
    pub(super) fn at(&self, link: &str) -> Option<Url> {
        let url = Url::parse(&self.base).ok()?.join(link).ok()?;
        matches!(url.scheme(), "http" | "https").then_some(url)
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Url, CallError> {
        let wrong = || self.stranger("an address that cannot be extended".to_owned());
        let mut url = Url::parse(&format!("{}{API}", self.base)).map_err(|_| wrong())?;
        url.path_segments_mut().map_err(|()| wrong())?.extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    fn stranger(&self, what: String) -> CallError {
        CallError::Stranger { base: self.base.clone(), what }
    }

    async fn all<T: DeserializeOwned>(
        &self,
        path: &[&str],
        filter: &[(&str, &str)],
        limit: usize,
    ) -> Result<Vec<Answer<T>>, CallError> {
        let mut all = Vec::new();
        let mut cursor = None;
        loop {
            let mut page = self.page(path, filter, cursor, limit - all.len()).await?;
            all.append(&mut page.data);
            cursor = page.next;
            if cursor.is_none() || all.len() >= limit {
                return Ok(all);
            }
        }
    }

    async fn page<T: DeserializeOwned>(
        &self,
        path: &[&str],
        filter: &[(&str, &str)],
        cursor: Option<String>,
        wanted: usize,
    ) -> Result<Page<T>, CallError> {
        #[derive(serde::Deserialize)]
        struct Raw {
            data: Vec<Value>,
            next_cursor: Option<String>,
        }
        let limit = wanted.min(PAGE).to_string();
        let mut query = filter.to_vec();
        if path != ["models"] {
            query.push(("limit", &limit));
        }
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let raw: Raw = self.get(self.url(path, &query)?).await?.value;
        let data = raw.data.into_iter().map(|raw| self.understand(raw)).collect::<Result<_, _>>()?;
        Ok(Page { cursor, next: raw.next_cursor, data })
    }

    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<Answer<T>, CallError> {
        self.ask(|| self.http.get(url.clone())).await
    }

    /// Asks what changes nothing, a few times if need be.
    async fn ask<T: DeserializeOwned>(&self, request: impl Fn() -> RequestBuilder) -> Result<Answer<T>, CallError> {
        let mut attempt = 1;
        loop {
            match self.read(request()).await {
                Ok((_, answer)) => return Ok(answer),
                Err(error) if error.passes() && error.may_have_arrived() && attempt < READ_ATTEMPTS => {
                    let pause = Duration::from_millis(250) * 2u32.pow(attempt);
                    tokio::time::sleep(error.retry_after().unwrap_or(pause).min(Duration::from_secs(15))).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn read<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<(HeaderMap, Answer<T>), CallError> {
        let sent = request.header("X-API-Key", self.key.clone()).send().await;
        let answer = sent.map_err(|error| CallError::of_transport(&self.base, &error))?;
        let (head, body) = self.receive(answer).await?;
        if !head.status.is_success() {
            return Err(CallError::of_answer(&self.base, &head, &body));
        }
        let raw = serde_json::from_slice(&body).map_err(|_| CallError::of_answer(&self.base, &head, &body))?;
        Ok((head.headers, self.understand(raw)?))
    }

    fn understand<T: DeserializeOwned>(&self, raw: Value) -> Result<Answer<T>, CallError> {
        match T::deserialize(&raw) {
            Ok(value) => Ok(Answer { raw, value }),
            Err(error) => Err(self.stranger(format!("JSON of another form ({})", plain(&error.to_string())))),
        }
    }

    async fn receive(&self, mut answer: Response) -> Result<(Head, Vec<u8>), CallError> {
        let head = Head {
            status: answer.status(),
            headers: answer.headers().clone(),
            retry_after: retry_after(answer.headers(), Utc::now()),
        };
        let mut body = Vec::new();
        while let Some(chunk) = answer
            .chunk()
            .await
            .map_err(|error| CallError::Interrupted { base: self.base.clone(), cause: root_cause(&error) })?
        {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(self.stranger(format!("more than {MAX_ANSWER_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((head, body))
    }
}

/// What came before the body.
struct Head {
    status: reqwest::StatusCode,
    headers: HeaderMap,
    retry_after: Option<Duration>,
}

/// `Retry-After` in seconds or as an HTTP date, at most ten minutes.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now).to_std().unwrap_or_default(),
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

/// SHA-256 in lower-case hexadecimal.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::Api;
    use crate::domain::Secret;

    fn api(base: &str) -> anyhow::Result<Api> {
        Api::new(base, &Secret::new("ff_live_x"))
    }

    #[test]
    fn an_address_may_have_a_path_and_the_end_that_the_documentation_shows() {
        for (given, base) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("https://video.example.com/", "https://video.example.com"),
            ("https://example.com/video/", "https://example.com/video"),
            ("https://example.com/video/api/enterprise", "https://example.com/video"),
        ] {
            assert_eq!(api(given).unwrap().base(), base, "{given}");
        }
        let api = api("https://example.com/video").unwrap();
        let url = api.url(&["video-batch", "../../bat_/x?y"], &[("state", "a&b")]).unwrap();
        assert_eq!(
            url.as_str(),
            "https://example.com/video/api/enterprise/video-batch/..%2F..%2Fbat_%2Fx%3Fy?state=a%26b"
        );
    }

    #[test]
    fn what_is_no_address_or_no_key_is_refused_without_repeating_a_secret() {
        for wrong in ["", "video.example.com", "ftp://x", "http://", "http://me:hunter2@x", "http://x/?a=b"] {
            let error = api(wrong).err().unwrap_or_else(|| panic!("{wrong}")).to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        for wrong in ["", "hunter2\nX-Admin: 1", "hunter2é"] {
            let error = Api::new("http://x", &Secret::new(wrong)).err().unwrap_or_else(|| panic!("{wrong:?}"));
            assert!(!format!("{error:#}").contains("hunter2"), "{error}");
        }
    }
}
