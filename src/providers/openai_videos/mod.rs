//! The `/v1/videos` shape: first OpenAI's, now spoken by gateways and self-hosted servers.
//!
//! Submission is a form (what every server of this shape has to take, because the common client libraries send nothing
//! else), polls and lists are JSON, the file comes from `/videos/{id}/content`. There is no cancel and no client token: a
//! lost answer is looked up in the list.
//! Always holds: one submission is one request; the key goes to the configured host alone; JSON is read up to 1 MiB.
//! Refuses: to wait. Polling again is the caller's, with [`Provider::poll_interval`].

mod answers;
mod find;
mod wire;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt};
use reqwest::header::{AUTHORIZATION, HeaderValue, LOCATION};
use reqwest::multipart::Form;
use serde_json::Value;
use url::Url;

use super::egress::{self, ClientTimeouts, Egress, EgressError, EgressPolicy, GuardedClient, read_prefix, root_cause};
use super::{
    ByteStream, CancelOutcome, Capabilities, FetchError, FindOutcome, GenerationRequest, Handle, Output, PollOutcome,
    Provider, ReadError, SubmitOutcome, reads,
};
use crate::config::{AttemptsConfig, ProviderConfig};
use crate::domain::{AttemptId, FailureClass, Secret};
use wire::{ErrorBody, Job};

const MAX_JSON_BYTES: usize = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// One try of one read.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// All tries of one read together.
const READ_BOUND: Duration = Duration::from_secs(20);
/// Common servers close an idle connection after 5 s. A submission on a connection that is just being closed is lost
/// without an answer, so ours are given up well before.
const KEEP_IDLE: Duration = Duration::from_secs(2);
const MAX_REDIRECTS: usize = 5;
/// Status words beyond the known ones that are remembered, so that each is logged once.
const MAX_ODD_WORDS: usize = 32;

/// An account at a server of the `/v1/videos` shape.
pub struct OpenaiVideos {
    name: String,
    base_url: Url,
    authorization: HeaderValue,
    key: Secret,
    creates: reqwest::Client,
    reads: reqwest::Client,
    /// For files that the provider keeps on another host.
    elsewhere: GuardedClient,
    poll_interval: Duration,
    download_timeout: Duration,
    can_list: bool,
    odd_words: Mutex<BTreeSet<String>>,
    look_ups: find::LookUps,
}

impl OpenaiVideos {
    /// # Errors
    /// The key is missing or cannot stand in a header, or TLS cannot be set up.
    pub fn new(account: &ProviderConfig, attempts: &AttemptsConfig, egress: &Egress) -> anyhow::Result<OpenaiVideos> {
        let key = account.api_key.clone().ok_or_else(|| match &account.api_key_env {
            Some(variable) => anyhow!("the environment variable {variable}, which should hold its key, is not set"),
            None => anyhow!("it has no key"),
        })?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
            .context("its key has characters that cannot be sent")?;
        authorization.set_sensitive(true);
        let timeouts = |total| ClientTimeouts { connect: CONNECT_TIMEOUT, total, keep_idle: KEEP_IDLE };
        let elsewhere = egress.guarded(EgressPolicy {
            allow_private: egress::is_private_host(&account.base_url),
            timeout: attempts.download_timeout,
            max_response_bytes: MAX_JSON_BYTES,
        })?;
        Ok(OpenaiVideos {
            name: account.name.clone(),
            base_url: account.base_url.clone(),
            authorization,
            key,
            creates: egress.provider_client(timeouts(attempts.submit_timeout))?,
            reads: egress.provider_client(timeouts(READ_TIMEOUT))?,
            elsewhere,
            poll_interval: account.poll_interval,
            download_timeout: attempts.download_timeout,
            can_list: account.can_list,
            look_ups: find::LookUps::default(),
            odd_words: Mutex::new(BTreeSet::new()),
        })
    }

    /// The base URL and these segments, each escaped.
    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn get(&self, url: Url) -> reqwest::RequestBuilder {
        self.reads.get(url).header(AUTHORIZATION, self.authorization.clone())
    }

    /// Reads JSON, with repeats; `None` when the server says that it is not there (404, 410).
    async fn read_json(&self, url: &Url) -> Result<Option<Value>, ReadError> {
        reads::retry(READ_BOUND, || self.read_json_once(url.clone())).await
    }

    async fn read_json_once(&self, url: Url) -> Result<Option<Value>, ReadError> {
        let mut response = self.get(url).send().await.map_err(|error| unavailable(&error))?;
        let status = response.status().as_u16();
        let (body, cut) = match read_prefix(&mut response, MAX_JSON_BYTES).await {
            Ok(read) => read,
            Err((_, error)) => return Err(unavailable(&error)),
        };
        match status {
            200..300 if cut => Err(ReadError::Unavailable { cause: "an answer of more than 1 MiB".to_owned() }),
            200..300 => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|_| ReadError::Unavailable { cause: format!("HTTP {status} with a body that is no JSON") }),
            404 | 410 => Ok(None),
            _ => Err(self.refused(&response, &body)),
        }
    }

    fn refused(&self, response: &reqwest::Response, body: &Bytes) -> ReadError {
        let wait = egress::retry_after(response.headers(), Utc::now());
        answers::of_read(response.status().as_u16(), &ErrorBody::of_bytes(body), wait, &[self.key.expose()])
    }

    /// A page of the account's jobs, newest first; `None` when the server has no list.
    async fn list_page(&self, limit: usize, after: Option<&str>) -> Result<Option<Value>, ReadError> {
        let mut url = self.url(&["videos"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string()).append_pair("order", "desc");
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", after);
        }
        self.read_json(&url).await
    }

    fn outcome_of(&self, handle: &Handle, job: &Job<'_>) -> PollOutcome {
        match job.status() {
            Some("queued") => PollOutcome::Queued,
            Some("in_progress") => PollOutcome::Running { progress: job.progress() },
            Some("completed") => PollOutcome::Succeeded {
                output: Output { handle: handle.clone(), expires_at: job.moment("expires_at") },
            },
            Some("failed") => answers::of_failed_job(job, &[self.key.expose()]),
            Some("expired") => PollOutcome::Failed {
                class: FailureClass::Expired,
                message: "the job expired at the provider before it was finished".to_owned(),
                billed: super::Billed::Unknown,
            },
            other => {
                self.note_odd_word(other.unwrap_or("(none)"));
                PollOutcome::Running { progress: job.progress() }
            }
        }
    }

    fn note_odd_word(&self, word: &str) {
        let word: String = word.chars().filter(|c| c.is_ascii_graphic()).take(40).collect();
        let mut known = self.odd_words.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_ODD_WORDS && known.insert(word.clone()) {
            tracing::warn!(provider = self.name, status = word, "unknown job status at the provider; taken as running");
        }
    }

    /// The answer to a request for a file, with redirects followed: the key goes to the configured origin alone.
    async fn open(&self, output: &Output) -> Result<reqwest::Response, ReadError> {
        let mut url = self.url(&["videos", &output.handle.0, "content"]);
        for _ in 0..=MAX_REDIRECTS {
            let at_home = url.origin() == self.base_url.origin();
            let response = if at_home {
                let request = self.get(url.clone()).timeout(self.download_timeout);
                request.send().await.map_err(|error| unavailable(&error))?
            } else {
                self.elsewhere.get(&url).await.map_err(|error| not_fetched(&error))?
            };
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let target = response.headers().get(LOCATION).and_then(|target| target.to_str().ok());
            let next = target.and_then(|target| url.join(target).ok());
            url = next
                .filter(|next| next.scheme() == "https" || url.scheme() == "http")
                .ok_or_else(|| ReadError::Unavailable { cause: "a redirect that leads to no safe place".to_owned() })?;
        }
        Err(ReadError::Unavailable { cause: format!("more than {MAX_REDIRECTS} redirects") })
    }

    async fn open_once(&self, output: &Output) -> Result<Opened, ReadError> {
        let mut response = self.open(output).await?;
        let status = response.status().as_u16();
        if status == 200 {
            return Ok(Opened::File(response));
        }
        let expired = output.expires_at.is_some_and(|at| at <= Utc::now());
        match status {
            410 => Ok(Opened::Gone),
            404 if expired => Ok(Opened::Gone),
            // A job that has just finished may not have its file everywhere yet; servers say 400 or 404 then.
            400 | 404 => Err(ReadError::Unavailable { cause: format!("HTTP {status} for the file of a finished job") }),
            201..300 => Err(ReadError::Unavailable { cause: format!("HTTP {status} in place of a file") }),
            _ => {
                let (Ok((body, _)) | Err((body, _))) = read_prefix(&mut response, MAX_JSON_BYTES).await;
                Err(self.refused(&response, &body))
            }
        }
    }
}

enum Opened {
    File(reqwest::Response),
    Gone,
}

#[async_trait]
impl Provider for OpenaiVideos {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { find: self.can_list, cancel: false }
    }

    fn poll_interval(&self) -> Duration {
        self.poll_interval
    }

    async fn submit(&self, request: &GenerationRequest<'_>, attempt: AttemptId) -> SubmitOutcome {
        let form = Form::new()
            .text("model", request.upstream_model.to_owned())
            .text("prompt", request.prompt.to_owned())
            .text("seconds", request.seconds.to_string())
            .text("size", request.size.to_string());
        let post = self.creates.post(self.url(&["videos"])).header(AUTHORIZATION, self.authorization.clone());
        // Not a client token: the header only names the request in a conversation with the provider's support.
        let sent = post.header("x-client-request-id", attempt.to_string()).multipart(form).send().await;
        let mut response = match sent {
            Ok(response) => response,
            Err(error) => return unsent_or_lost(&error),
        };
        let status = response.status().as_u16();
        let body = read_prefix(&mut response, MAX_JSON_BYTES).await;
        if !(200..300).contains(&status) {
            let (Ok((body, _)) | Err((body, _))) = body;
            let wait = egress::retry_after(response.headers(), Utc::now());
            return answers::of_submission(
                status,
                &ErrorBody::of_bytes(&body),
                wait,
                &[self.key.expose(), request.prompt],
            );
        }
        let handle = match &body {
            Ok((body, false)) => serde_json::from_slice(body).ok().and_then(|job: Value| Job(&job).handle()),
            Ok((_, true)) => None,
            Err((_, error)) => {
                return SubmitOutcome::Unknown { cause: format!("the answer broke off: {}", reason(error)) };
            }
        };
        match handle {
            Some(handle) => SubmitOutcome::Accepted { handle },
            None => SubmitOutcome::Unknown { cause: format!("HTTP {status} with an answer that names no job") },
        }
    }

    async fn poll(&self, handle: &Handle) -> Result<PollOutcome, ReadError> {
        Ok(match self.read_json(&self.url(&["videos", &handle.0])).await? {
            Some(job) => self.outcome_of(handle, &Job(&job)),
            None => PollOutcome::Gone { message: "the provider does not know the job, or no longer".to_owned() },
        })
    }

    async fn find(
        &self,
        request: &GenerationRequest<'_>,
        window: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<FindOutcome, ReadError> {
        if self.can_list { find::find(self, request, window).await } else { Ok(FindOutcome::Unsupported) }
    }

    async fn cancel(&self, _handle: &Handle) -> CancelOutcome {
        CancelOutcome::Unsupported
    }

    async fn fetch(&self, output: &Output) -> Result<ByteStream, FetchError> {
        let gone = || FetchError::Gone { message: "the provider has removed it".to_owned() };
        match reads::retry(READ_BOUND, || self.open_once(output)).await {
            Ok(Opened::File(response)) => {
                Ok(response.bytes_stream().map_err(|error| FetchError::Read(unavailable(&error))).boxed())
            }
            Ok(Opened::Gone) => Err(gone()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A submission without an answer: refused if no connection came about, so that no byte of it was sent; else unknown.
fn unsent_or_lost(error: &reqwest::Error) -> SubmitOutcome {
    if error.is_connect() {
        let message = format!("the provider could not be reached: {}", reason(error));
        return SubmitOutcome::Rejected { class: FailureClass::Network, message, retry_after: None };
    }
    SubmitOutcome::Unknown { cause: format!("no answer: {}", reason(error)) }
}

fn unavailable(error: &reqwest::Error) -> ReadError {
    ReadError::Unavailable { cause: reason(error) }
}

fn not_fetched(error: &EgressError) -> ReadError {
    ReadError::Unavailable { cause: format!("the file is kept on another host: {error}") }
}

/// A reason without URL, host or address.
fn reason(error: &reqwest::Error) -> String {
    if error.is_dns() {
        "its host name cannot be resolved".to_owned()
    } else if error.is_timeout() {
        "it took too long".to_owned()
    } else {
        super::redact::fit_for_customers(&root_cause(error), &[])
    }
}
