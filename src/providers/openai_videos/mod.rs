//! The `/v1/videos` shape: first OpenAI's, now spoken by gateways and self-hosted servers.
//!
//! A reference image is the file `input_reference` of the form, and becomes the first frame.
//! Submission is a form (what every server of this shape has to take, because the common client libraries send nothing
//! else), polls and lists are JSON, the file comes from `/videos/{id}/content`, and a still of it from the same place with
//! `variant=thumbnail`, which not every server of this shape knows. There is no cancel and no client token in the shape
//! itself: a lost answer is looked up in the list. Some gateways honour `Idempotency-Key`; where the settings say so, every
//! create carries the attempt's id as its key.
//! Always holds: one submission is one request; the credential goes to the configured host alone.
//! Refuses: to wait. Polling again is the caller's, with [`Provider::poll_interval`].
//!
//! Billing: OpenAI's price page charges by the second of generated video; when, and whether a failed or moderated job
//! is charged, is published nowhere, and gateways differ. All of it is therefore [`Billed::Unknown`].

mod callback;
mod find;
mod wire;

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use reqwest::multipart::{Form, Part};
use serde_json::Value;

use super::adapter::{ApiClient, Ask, Credential, ErrorBody, FilePolicy, JsonBounds, OddWords, Vocabulary, refusal};
use super::callbacks::CallbackAddresses;
use super::egress::Egress;
use super::{
    Billed, BilledWhen, Billing, ByteStream, CancelOutcome, Capabilities, FetchError, FindOutcome, GenerationRequest,
    Handle, JobList, Output, Place, PollOutcome, Provider, ReadError, ReferenceImage, SubmitOutcome,
};
use crate::config::{AttemptsConfig, ProviderConfig};
use crate::domain::{AttemptId, FailureClass};
pub(super) use callback::OpenaiCallbacks;
use wire::Job;

const VOCABULARY: Vocabulary = Vocabulary {
    moderation: &[
        "moderation_blocked",
        "sentinel_block",
        "content_policy_violation",
        "content_filter",
        "safety_violation",
    ],
    no_credit: &[
        "insufficient_quota",
        "billing_hard_limit_reached",
        "billing_not_active",
        "credits_exhausted",
        "insufficient_credits",
    ],
    overloaded: &["slow_down", "server_is_overloaded", "engine_overloaded"],
    no_model: &["model_not_found", "model_not_available", "model_deprecated"],
    ..Vocabulary::EMPTY
};

const BILLING: Billing = Billing {
    when: BilledWhen::Unknown,
    moderated: Billed::Unknown,
    failed: Billed::Unknown,
    cancelled: Billed::Unknown,
};

/// An account at a server of the `/v1/videos` shape.
pub struct OpenaiVideos {
    name: String,
    api: ApiClient,
    poll_interval: Duration,
    can_list: bool,
    honours_keys: bool,
    odd_words: OddWords,
    look_ups: find::LookUps,
    has_callbacks: bool,
}

impl OpenaiVideos {
    /// # Errors
    /// The key is missing or cannot stand in a header, or TLS cannot be set up.
    pub fn new(account: &ProviderConfig, attempts: &AttemptsConfig, egress: &Egress) -> anyhow::Result<OpenaiVideos> {
        let credential = Credential::key(account, "authorization", "Bearer ")?;
        Ok(OpenaiVideos {
            name: account.name.clone(),
            api: ApiClient::new(account, attempts, egress, credential, &VOCABULARY)?,
            poll_interval: account.poll_interval,
            can_list: account.can_list,
            honours_keys: account.idempotency_key,
            odd_words: OddWords::default(),
            look_ups: find::LookUps::default(),
            has_callbacks: false,
        })
    }

    /// Callbacks of the project are taken.
    pub(super) fn with_callbacks(self, addresses: Option<CallbackAddresses>) -> OpenaiVideos {
        OpenaiVideos { has_callbacks: addresses.is_some(), ..self }
    }

    /// A page of the account's jobs, newest first; `None` when the server has no list.
    async fn list_page(&self, limit: usize, after: Option<&str>) -> Result<Option<Value>, ReadError> {
        let mut url = self.api.url(["videos"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string()).append_pair("order", "desc");
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", after);
        }
        self.api.read(&Ask::Get(url), JsonBounds::LIST).await
    }

    fn outcome_of(&self, handle: &Handle, job: &Job<'_>) -> PollOutcome {
        match job.status() {
            Some("queued") => PollOutcome::Queued,
            Some("in_progress") => PollOutcome::Running { progress: job.progress() },
            Some("completed") => PollOutcome::Succeeded {
                output: Output { handle: handle.clone(), place: Place::Handle, expires_at: job.moment("expires_at") },
            },
            Some("failed") => self.failure_of(job),
            Some("expired") => PollOutcome::Failed {
                class: FailureClass::OutputExpired,
                message: "the job expired at the provider before it was finished".to_owned(),
                billed: BILLING.failed,
            },
            other => {
                self.odd_words.note(&self.name, other.unwrap_or("(none)"));
                PollOutcome::Running { progress: job.progress() }
            }
        }
    }

    fn failure_of(&self, job: &Job<'_>) -> PollOutcome {
        let error = ErrorBody::of(job.0);
        let mut hidden = vec![self.api.hidden()];
        hidden.extend(job.prompt());
        let message = refusal::failed_job_message(&error, &hidden);
        match VOCABULARY.is_moderation(&error) {
            true => PollOutcome::Failed { class: FailureClass::Moderation, message, billed: BILLING.moderated },
            false => PollOutcome::Failed { class: FailureClass::ProviderFault, message, billed: BILLING.failed },
        }
    }
}

/// The image as a file of the form, without a copy of its bytes.
///
/// # Errors
/// The refusal, when its media type could not be said.
fn file_part(image: ReferenceImage<'_>) -> Result<Part, SubmitOutcome> {
    let file = Part::stream_with_length(image.bytes.clone(), image.bytes.len() as u64)
        .file_name(format!("reference.{}", image.format.extension()));
    file.mime_str(image.format.media_type()).map_err(|_| SubmitOutcome::Rejected {
        class: FailureClass::InvalidInput,
        message: "the reference image is of a type that cannot be sent".to_owned(),
        retry_after: None,
    })
}

#[async_trait]
impl Provider for OpenaiVideos {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            find: self.can_list,
            marks_orders: false,
            idempotency_key: self.honours_keys,
            cancel: false,
            thumbnail: true,
            reference_image: true,
            billing: BILLING,
        }
    }

    fn poll_interval(&self) -> Duration {
        self.poll_interval
    }

    fn has_callbacks(&self) -> bool {
        self.has_callbacks
    }

    async fn submit(&self, request: &GenerationRequest<'_>, attempt: AttemptId) -> SubmitOutcome {
        let form = Form::new()
            .text("model", request.upstream_model.to_owned())
            .text("prompt", request.prompt.to_owned())
            .text("seconds", request.seconds.to_string())
            .text("size", request.size.to_string());
        let form = match request.image {
            Some(image) => match file_part(image) {
                Ok(file) => form.part("input_reference", file),
                Err(refused) => return refused,
            },
            None => form,
        };
        // Not a client token: the header only names the request in a conversation with the provider's support.
        let fill = |post: reqwest::RequestBuilder| {
            let post = post.header("x-client-request-id", attempt.to_string());
            let post = if self.honours_keys { post.header("idempotency-key", attempt.to_string()) } else { post };
            post.multipart(form)
        };
        self.api.submit(self.api.url(["videos"]), request, fill, |job| Job(job).handle()).await
    }

    async fn poll(&self, handle: &Handle) -> Result<PollOutcome, ReadError> {
        let ask = Ask::Get(self.api.url(["videos", &handle.0]));
        Ok(match self.api.read(&ask, JsonBounds::JOB).await? {
            Some(job) => self.outcome_of(handle, &Job(&job)),
            None => PollOutcome::gone(),
        })
    }

    async fn find(
        &self,
        request: &GenerationRequest<'_>,
        _attempt: AttemptId,
        window: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<FindOutcome, ReadError> {
        if self.can_list { find::find(self, request, window).await } else { Ok(FindOutcome::Unsupported) }
    }

    async fn jobs(&self, window: (DateTime<Utc>, DateTime<Utc>)) -> Result<JobList, ReadError> {
        match self.can_list {
            true => find::jobs(self, window).await,
            false => Ok(JobList::NotComparable("the settings say that the account has no list")),
        }
    }

    async fn cancel(&self, _handle: &Handle) -> CancelOutcome {
        CancelOutcome::Unsupported
    }

    async fn fetch(&self, output: &Output) -> Result<ByteStream, FetchError> {
        let url = self.api.url(["videos", &output.handle.0, "content"]);
        self.api.fetch(&url, FilePolicy { gone: &[], expires_at: output.expires_at }).await
    }

    async fn fetch_thumbnail(&self, output: &Output) -> Result<Option<ByteStream>, FetchError> {
        let mut url = self.api.url(["videos", &output.handle.0, "content"]);
        url.query_pairs_mut().append_pair("variant", "thumbnail");
        self.api.fetch_picture(&url).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_this_shape_have_their_class() {
        let error = |code: &str| ErrorBody { code: Some(code.to_owned()), ..ErrorBody::default() };
        assert!(VOCABULARY.is_moderation(&error("sentinel_block")));
        assert!(error("billing_hard_limit_reached").is(VOCABULARY.no_credit));
        assert!(error("slow_down").is(VOCABULARY.overloaded));
        assert!(!VOCABULARY.is_moderation(&error("rate_limit_exceeded")));
    }
}
