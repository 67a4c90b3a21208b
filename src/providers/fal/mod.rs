//! fal: a queue in front of many vendors' models, `POST https://queue.fal.run/{model}`.
//!
//! The answer to an order names the request and three URLs; status, result and cancel have a path of their own (the model's
//! id without what stands behind owner and app), and fal asks not to build them. They are taken from the answer as far as
//! they stay on the account's host, and built by rule otherwise; the handle keeps their paths. A poll asks the status, and
//! when that says COMPLETED, the result: only the result tells success from failure.
//!
//! - `X-Fal-No-Retry: 1` goes with every order. Without it the platform runs a request up to ten times, and what it pays
//!   to the vendor behind it each time is ours.
//! - There is no list and no client key: a submission whose answer was lost can be found by its callback alone
//!   ([`callback`]), whose address goes with the order as `fal_webhook`.
//! - Every model wants length and size in fields of its own: [`crate::config::FalConfig`]. A model without a pattern is
//!   refused before anything is sent.
//! - A reference image goes into the field that the pattern gives it, as a data URI; many models have an id of their own
//!   for orders with one. Where there is no such field, an order with an image is refused before anything is sent.
//! - A result of 422 is about the order: the content policy, or its fields. A 5xx that carries fal's own error form ends
//!   the job; any other is an outage of the queue, which proves nothing and is asked again. A 400 may only say "still in
//!   progress".
//! - The file is on another host, in public, under a name that cannot be guessed. The key does not go there.
//!
//! Billing: by output or by computing time, model by model. fal's FAQ: errors of 500 and above are never charged; a 422 may
//! be, when the model had worked before it was found, and some models charge for what their policy then withholds. What a
//! cancelled request costs is not said. Files are kept for at least seven days.
//!
//! Unconfirmed, and taken either way: which status the result of a cancelled request has (499 or a COMPLETED with
//! `client_cancelled`); whether a malformed order is refused at once or by its result.

mod callback;
mod wire;

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::Value;
use url::Url;

use super::adapter::{
    ApiClient, Ask, Credential, ErrorBody, FilePolicy, ImageSlot, JsonBounds, OddWords, Reply, Vocabulary, refusal,
};
use super::callbacks::CallbackAddresses;
use super::egress::Egress;
use super::{
    Billed, BilledWhen, Billing, ByteStream, CancelOutcome, Capabilities, FetchError, FindOutcome, GenerationRequest,
    Handle, Output, Place, PollOutcome, Provider, ReadError, SubmitOutcome,
};
use crate::config::{AttemptsConfig, FalConfig, ProviderConfig};
use crate::domain::{AttemptId, FailureClass};
pub(super) use callback::FalCallbacks;
use wire::Ticket;

const VOCABULARY: Vocabulary = Vocabulary {
    moderation: &["content_policy_violation"],
    moderation_phrases: &["content policy", "content checker", "safety checker"],
    no_credit_phrases: &["exhausted balance", "user is locked"],
    overloaded: &["concurrent_requests_limit", "no_capacity"],
    ..Vocabulary::EMPTY
};

const BILLING: Billing =
    Billing { when: BilledWhen::OnSuccess, moderated: Billed::Unknown, failed: Billed::No, cancelled: Billed::Unknown };

/// The word for a request that its client has cancelled.
const CANCELLED: &str = "client_cancelled";

/// An account at fal.
pub struct Fal {
    name: String,
    api: ApiClient,
    poll_interval: Duration,
    config: FalConfig,
    odd_words: OddWords,
    callbacks: Option<CallbackAddresses>,
}

impl Fal {
    /// # Errors
    /// The key is missing or cannot stand in a header, or TLS cannot be set up.
    pub fn new(
        account: &ProviderConfig,
        config: &FalConfig,
        attempts: &AttemptsConfig,
        egress: &Egress,
    ) -> anyhow::Result<Fal> {
        let credential = Credential::key(account, "authorization", "Key ")?;
        Ok(Fal {
            name: account.name.clone(),
            api: ApiClient::new(account, attempts, egress, credential, &VOCABULARY)?,
            poll_interval: account.poll_interval,
            config: config.clone(),
            odd_words: OddWords::default(),
            callbacks: None,
        })
    }

    /// Orders name the address at which the end of the request is told.
    pub(super) fn with_callbacks(self, callbacks: Option<CallbackAddresses>) -> Fal {
        Fal { callbacks, ..self }
    }

    /// Where a model is ordered; `callback` is told of the end of the request.
    fn order_url(&self, model: &str, callback: Option<&Url>) -> Url {
        let mut url = self.api.url(model.split('/'));
        if let Some(callback) = callback {
            url.query_pairs_mut().append_pair("fal_webhook", callback.as_str());
        }
        url
    }

    /// What the result of a request says that the queue calls completed; `None` when it says nothing that can be used.
    /// `failed` is what the status itself has told of a failure.
    fn verdict(&self, handle: &Handle, reply: &Reply, failed: Option<&ErrorBody>) -> Option<PollOutcome> {
        let error = reply.error();
        match reply.status {
            404 | 410 => Some(PollOutcome::gone()),
            200..300 => match (reply.value.as_ref().ok().and_then(wire::film), failed) {
                (Some(place), _) => {
                    let output = Output { handle: handle.clone(), place, expires_at: None };
                    Some(PollOutcome::Succeeded { output })
                }
                (None, failed) => failed.map(|error| self.failure(500, error)),
            },
            _ if reply.value.is_err() => None,
            400 if wire::is_in_progress(&error) => Some(PollOutcome::Running { progress: None }),
            400 | 422 | 499 => Some(self.failure(reply.status, &error)),
            500..600 if error.code.is_some() || error.kind.is_some() => Some(self.failure(reply.status, &error)),
            500..600 => failed.map(|error| self.failure(reply.status, error)),
            _ => None,
        }
    }

    fn failure(&self, status: u16, error: &ErrorBody) -> PollOutcome {
        let cancelled = status == 499 || error.is(&[CANCELLED]);
        let (class, billed) = match status {
            _ if cancelled => (FailureClass::ProviderFault, BILLING.cancelled),
            _ if VOCABULARY.is_moderation(error) => (FailureClass::Moderation, BILLING.moderated),
            400..500 => (FailureClass::InvalidInput, Billed::Unknown),
            _ => (FailureClass::ProviderFault, BILLING.failed),
        };
        let message = match cancelled {
            true => "the request was cancelled at the provider".to_owned(),
            false => refusal::failed_job_message(error, &[self.api.hidden()]),
        };
        PollOutcome::Failed { class, message, billed }
    }
}

#[async_trait]
impl Provider for Fal {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            find: false,
            marks_orders: false,
            idempotency_key: false,
            cancel: true,
            thumbnail: false,
            reference_image: true,
            billing: BILLING,
        }
    }

    fn poll_interval(&self) -> Duration {
        self.poll_interval
    }

    fn has_callbacks(&self) -> bool {
        self.callbacks.is_some()
    }

    fn job_of(&self, handle: &Handle) -> Option<String> {
        Ticket::read(handle, &self.api.url([]))?.request_id()
    }

    fn handle_of(&self, job: &str, upstream_model: &str) -> Option<Handle> {
        Some(Ticket::of(&serde_json::json!({"request_id": job}), upstream_model, &self.api.url([]))?.handle())
    }

    async fn submit(&self, request: &GenerationRequest<'_>, attempt: AttemptId) -> SubmitOutcome {
        let slot = ImageSlot::new();
        let model = wire::model(&self.config, request);
        let input = match wire::input(&self.config, request, &slot) {
            Ok(input) => input,
            Err((class, message)) => return SubmitOutcome::Rejected { class, message, retry_after: None },
        };
        let fill = |post: reqwest::RequestBuilder| slot.fill(post.header("x-fal-no-retry", "1"), &input, request.image);
        let handle_of = |answer: &Value| Some(Ticket::of(answer, model, &self.api.url([]))?.handle());
        let callback = self.callbacks.as_ref().map(|addresses| addresses.of_attempt(attempt));
        self.api.submit(self.order_url(model, callback.as_ref()), request, fill, handle_of).await
    }

    async fn poll(&self, handle: &Handle) -> Result<PollOutcome, ReadError> {
        let ticket = Ticket::read(handle, &self.api.url([])).ok_or_else(unreadable)?;
        let Some(request) = self.api.read(&Ask::Get(ticket.status), JsonBounds::JOB).await? else {
            return Ok(PollOutcome::gone());
        };
        match request.get("status").and_then(Value::as_str) {
            Some("IN_QUEUE") => Ok(PollOutcome::Queued),
            Some("IN_PROGRESS") => Ok(PollOutcome::Running { progress: None }),
            Some("COMPLETED") => {
                let failed = wire::failure(&request);
                let ask = Ask::Get(ticket.result);
                let verdict = |reply: Reply| self.verdict(handle, &reply, failed.as_ref()).ok_or(reply);
                self.api.judge(&ask, JsonBounds::JOB, verdict).await
            }
            other => {
                self.odd_words.note(&self.name, other.unwrap_or("(none)"));
                Ok(PollOutcome::Running { progress: None })
            }
        }
    }

    async fn find(
        &self,
        _request: &GenerationRequest<'_>,
        _attempt: AttemptId,
        _window: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<FindOutcome, ReadError> {
        Ok(FindOutcome::Unsupported)
    }

    /// A request that runs is only asked to stop: polls say whether it did.
    async fn cancel(&self, handle: &Handle) -> CancelOutcome {
        let Some(ticket) = Ticket::read(handle, &self.api.url([])) else { return CancelOutcome::TooLate };
        match self.api.tell(Method::PUT, ticket.cancel).await {
            Ok(reply) if reply.is_success() => CancelOutcome::Cancelled,
            _ => CancelOutcome::TooLate,
        }
    }

    async fn fetch(&self, output: &Output) -> Result<ByteStream, FetchError> {
        let Place::Url(link) = &output.place else { return Err(no_place().into()) };
        let url = Url::parse(link).ok().filter(|url| matches!(url.scheme(), "https" | "http")).ok_or_else(no_place)?;
        self.api.fetch(&url, FilePolicy { gone: &[], expires_at: output.expires_at }).await
    }
}

fn unreadable() -> ReadError {
    let message = "the request's handle cannot be read".to_owned();
    ReadError::Refused { class: FailureClass::ProviderFault, message }
}

fn no_place() -> ReadError {
    let message = "the finished file is said to be at a place that cannot be reached".to_owned();
    ReadError::Refused { class: FailureClass::ProviderFault, message }
}

#[cfg(test)]
mod tests;
