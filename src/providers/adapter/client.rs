//! The account's way to the provider's API.
//!
//! Always holds: a create is one request and is never repeated; the credential goes to the origin of the configured base
//! URL alone; no redirect is followed but for files. Refuses: to wait between polls, and to know what an answer means.

use std::time::Duration;

use reqwest::RequestBuilder;
use serde_json::Value;
use url::Url;

use super::super::egress::{self, ClientTimeouts, Egress, EgressPolicy, GuardedClient, Line};
use super::super::{GenerationRequest, Handle, ReadError, SubmitOutcome};
use super::credential::{Credential, TokenError};
use super::reads;
use super::refusal::{self, Vocabulary};
use super::reply::{Reply, reason};
use super::sieve::JsonBounds;
use crate::config::{AttemptsConfig, ProviderConfig};
use crate::domain::FailureClass;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// One try of one read.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// All tries of one read together.
pub(super) const READ_BOUND: Duration = Duration::from_secs(20);
/// Common servers close an idle connection after 5 s. A submission on a connection that is just being closed is lost
/// without an answer, so ours are given up well before.
const KEEP_IDLE: Duration = Duration::from_secs(2);
/// What is read of the error of another host, in bytes.
const MAX_ELSEWHERE_BYTES: usize = 1 << 20;

/// A request that reads: repeating it is safe.
#[derive(Clone, Debug)]
pub(in crate::providers) enum Ask {
    Get(Url),
    /// Some vendors ask for a job by POST.
    Post(Url, Value),
}

/// One account's HTTP.
pub(in crate::providers) struct ApiClient {
    pub(super) base_url: Url,
    credential: Credential,
    creates: reqwest::Client,
    pub(super) reads: reqwest::Client,
    /// For files that the provider keeps on another host.
    pub(super) elsewhere: GuardedClient,
    pub(super) download_timeout: Duration,
    pub(super) line: Line,
    vocabulary: &'static Vocabulary,
}

impl ApiClient {
    /// # Errors
    /// TLS cannot be set up.
    pub(in crate::providers) fn new(
        account: &ProviderConfig,
        attempts: &AttemptsConfig,
        egress: &Egress,
        credential: Credential,
        vocabulary: &'static Vocabulary,
    ) -> anyhow::Result<ApiClient> {
        let timeouts = |total| ClientTimeouts { connect: CONNECT_TIMEOUT, total, keep_idle: KEEP_IDLE };
        let elsewhere = egress.guarded(EgressPolicy {
            allow_private: egress::is_private_host(&account.base_url),
            timeout: attempts.download_timeout,
            max_response_bytes: MAX_ELSEWHERE_BYTES,
        })?;
        Ok(ApiClient {
            base_url: account.base_url.clone(),
            credential,
            creates: egress.provider_client(timeouts(attempts.submit_timeout))?,
            reads: egress.provider_client(timeouts(READ_TIMEOUT))?,
            elsewhere,
            download_timeout: attempts.download_timeout,
            line: egress.line(),
            vocabulary,
        })
    }

    /// The same account at another base URL of the same vendor, such as its object store.
    pub(in crate::providers) fn at(&self, base_url: Url) -> ApiClient {
        ApiClient {
            base_url,
            credential: self.credential.clone(),
            creates: self.creates.clone(),
            reads: self.reads.clone(),
            elsewhere: self.elsewhere.clone(),
            download_timeout: self.download_timeout,
            line: self.line.clone(),
            vocabulary: self.vocabulary,
        }
    }

    /// The base URL and these segments, each escaped.
    pub(in crate::providers) fn url<'s>(&self, segments: impl IntoIterator<Item = &'s str>) -> Url {
        let mut url = self.base_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// What must not stand in any message.
    pub(in crate::providers) fn hidden(&self) -> &str {
        self.credential.hidden()
    }

    pub(in crate::providers) fn vocabulary(&self) -> &'static Vocabulary {
        self.vocabulary
    }

    /// Orders, once: `fill` adds the body, `handle_of` finds the job in the answer.
    pub(in crate::providers) async fn submit(
        &self,
        url: Url,
        request: &GenerationRequest<'_>,
        fill: impl FnOnce(RequestBuilder) -> RequestBuilder,
        handle_of: impl FnOnce(&Value) -> Option<Handle>,
    ) -> SubmitOutcome {
        let (name, value) = match self.credential.header().await {
            Ok(header) => header,
            Err(error) => return no_token(error),
        };
        let response = match fill(self.creates.post(url).header(name, value)).send().await {
            Ok(response) => response,
            Err(error) => return unsent_or_lost(&error),
        };
        let reply = Reply::read(response, JsonBounds::JOB).await;
        if !reply.is_success() {
            let error = reply.error();
            let wait = reply.wait(&error);
            return refusal::of_submission(
                self.vocabulary,
                reply.status,
                &error,
                wait,
                &[self.hidden(), request.prompt],
            );
        }
        match reply.value.as_ref().map(handle_of) {
            Ok(Some(handle)) => SubmitOutcome::Accepted { handle },
            Ok(None) => {
                SubmitOutcome::Unknown { cause: format!("HTTP {} with an answer that names no job", reply.status) }
            }
            Err(cause) => SubmitOutcome::Unknown { cause: cause.clone() },
        }
    }

    /// Reads JSON, with repeats; `None` when the server says that it is not there ([`Vocabulary::not_there`]).
    pub(in crate::providers) async fn read(&self, ask: &Ask, bounds: JsonBounds) -> Result<Option<Value>, ReadError> {
        let verdict = |reply| match reply {
            Reply { status: 200..300, value: Ok(value), .. } => Ok(Some(value)),
            reply if self.vocabulary.is_not_there(reply.status, &reply.error()) => Ok(None),
            reply => Err(reply),
        };
        self.judge(ask, bounds, verdict).await
    }

    /// Reads, with repeats, an answer of which even a status that is no success may be what was asked for: `verdict` says
    /// what it is, or gives it back when it is of no use.
    pub(in crate::providers) async fn judge<T>(
        &self,
        ask: &Ask,
        bounds: JsonBounds,
        verdict: impl Fn(Reply) -> Result<T, Reply>,
    ) -> Result<T, ReadError> {
        // a film inside of the answer takes its time
        let (once, bound) = match bounds.carries_file() {
            true => (self.download_timeout, READ_BOUND.max(self.download_timeout)),
            false => (READ_TIMEOUT, READ_BOUND),
        };
        let judged = reads::retry(bound, || async {
            let sent = self.ask(ask).await?.timeout(once).send().await;
            let reply = Reply::read(sent.map_err(|error| unavailable(&error))?, bounds).await;
            match verdict(reply) {
                Ok(judged) => Ok(Ok(judged)),
                // repeating would only repeat it
                Err(reply) if reply.too_much => Ok(Err(self.of_no_use(&reply))),
                Err(reply) => Err(self.of_no_use(&reply)),
            }
        });
        judged.await?
    }

    fn of_no_use(&self, reply: &Reply) -> ReadError {
        match &reply.value {
            _ if !reply.is_success() => self.refused(reply),
            Err(cause) => ReadError::Unavailable { cause: cause.clone() },
            Ok(_) => ReadError::Unavailable { cause: format!("HTTP {} with an answer of no use", reply.status) },
        }
    }

    /// A request to the provider itself, with the credential.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<RequestBuilder, ReadError> {
        let (name, value) = self.credential.header().await.map_err(|error| match error.class {
            FailureClass::Network => ReadError::Unavailable { cause: error.to_string() },
            class => ReadError::Refused { class, message: error.to_string() },
        })?;
        let request = match ask {
            Ask::Get(url) => self.reads.get(url.clone()),
            Ask::Post(url, body) => self.reads.post(url.clone()).json(body),
        };
        Ok(request.header(name, value))
    }

    pub(super) fn refused(&self, reply: &Reply) -> ReadError {
        let error = reply.error();
        refusal::of_read(self.vocabulary, reply.status, &error, reply.wait(&error), &[self.hidden()])
    }

    /// Asks for an end of a job, once; `status` and error are the caller's to judge.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] when there was no answer.
    pub(in crate::providers) async fn tell(&self, method: reqwest::Method, url: Url) -> Result<Reply, ReadError> {
        let (name, value) =
            self.credential.header().await.map_err(|error| ReadError::Unavailable { cause: error.to_string() })?;
        let sent = self.reads.request(method, url).header(name, value).send().await;
        Ok(Reply::read(sent.map_err(|error| unavailable(&error))?, JsonBounds::JOB).await)
    }
}

fn no_token(error: TokenError) -> SubmitOutcome {
    SubmitOutcome::Rejected { class: error.class, message: error.to_string(), retry_after: None }
}

/// A submission without an answer: refused if no connection came about, so that no byte of it was sent; else unknown.
fn unsent_or_lost(error: &reqwest::Error) -> SubmitOutcome {
    if error.is_connect() {
        let message = format!("the provider could not be reached: {}", reason(error));
        return SubmitOutcome::Rejected { class: FailureClass::Network, message, retry_after: None };
    }
    SubmitOutcome::Unknown { cause: format!("no answer: {}", reason(error)) }
}

pub(super) fn unavailable(error: &reqwest::Error) -> ReadError {
    ReadError::Unavailable { cause: reason(error) }
}
