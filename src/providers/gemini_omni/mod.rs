//! Gemini Omni: Google's video model behind the Interactions API, `POST {base}/interactions`.
//!
//! An order is always `background: true` and `store: true` (without them the POST blocks for as long as the video takes, and
//! a lost connection loses it), names length, shape and resolution, and asks for the file as a `uri`. Its label is the
//! attempt. A poll is `GET /interactions/{id}`; the film is in `steps[]`, `model_output`, `content[]`, `video`.
//!
//! - There is no list: a submission whose answer was lost can be found by its callback alone, whose address goes with the
//!   order as `webhook_config`. The label is for Google's own support and bills.
//! - Completed with words in place of a film is what a refusal of the content policy looks like. Completed with nothing at
//!   all is not: Google has shown such records for films that were there, so it counts as still running, up to the deadline.
//! - An id that is not known is a 400, not a 404. A 400 that speaks of the key or of credit is none.
//! - `uri` was asked for, and still a film may come inside of the answer; whether it does is confirmed nowhere. Both work.
//! - A `uri` may come before its file is ready; the file's own record (`GET /files/{id}`) says so. Where that record cannot
//!   be read, the download has the last word.
//! - Errors come as an object with a code that is a word, or from the front end as a list with a number: both are read.
//! - What `budget_exceeded` means is not documented. We set no budget, so it is taken for the account's.
//!
//! Billing: by tokens that were produced (ai.google.dev, Pricing: $17.50 per million video tokens, 5,792 tokens a second at
//! 720p), so with the film; a refusal produces no video tokens. What a job costs that failed or was cancelled on the way is
//! not said. Files are kept for 48 hours, records of paid accounts for 55 days.
//!
//! A reference image is a part of the input, before the words, and the task is then `image_to_video`.
//!
//! Refuses: edit and extension orders; the Vertex flavour.

mod wire;

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::Value;
use url::Url;

use super::adapter::{
    ApiClient, Ask, Credential, ErrorBody, FilePolicy, ImageSlot, JsonBounds, OddWords, Vocabulary, json, refusal,
};
use super::callbacks::CallbackAddresses;
use super::egress::Egress;
use super::google;
use super::{
    Billed, BilledWhen, Billing, ByteStream, CancelOutcome, Capabilities, FetchError, FindOutcome, GenerationRequest,
    Handle, Output, Place, PollOutcome, Provider, ReadError, SubmitOutcome,
};
use crate::config::{AttemptsConfig, ProviderConfig};
use crate::domain::{AttemptId, FailureClass};
use wire::{Ending, Interaction, Status};

const VOCABULARY: Vocabulary = Vocabulary {
    moderation: &["SAFETY", "PROHIBITED_CONTENT", "safety", "prohibited_content", "content_policy_violation"],
    moderation_phrases: &[
        "safety",
        "prohibited",
        "responsible ai",
        "usage guidelines",
        "content policy",
        "support codes",
    ],
    no_credit: &["FAILED_PRECONDITION", "failed_precondition", "BILLING_DISABLED", "insufficient_quota"],
    overloaded: &["UNAVAILABLE", "overloaded"],
    no_model: &["model_not_found"],
    wrong_key_phrases: &["api key not valid", "api key expired", "api key not found"],
    not_there: &[400, 404, 410],
    ..google::VOCABULARY
};

const BILLING: Billing =
    Billing { when: BilledWhen::OnSuccess, moderated: Billed::No, failed: Billed::Unknown, cancelled: Billed::Unknown };

/// An interaction with its film inside: such films are said to be 4 MB at most, and the prompt comes back with it.
const WITH_FILM: JsonBounds = JsonBounds { raw_bytes: 32 << 20, ..JsonBounds::WITH_FILE };

/// The download of a file that is gone says that we may not see it. Our key is good: the poll just before has shown it.
const FILE_GONE: &[u16] = &[403];

/// An account at the Gemini API.
pub struct GeminiOmni {
    name: String,
    api: ApiClient,
    poll_interval: Duration,
    odd_words: OddWords,
    callbacks: Option<CallbackAddresses>,
}

/// How far a file at a `uri` is.
enum FileState {
    Ready { expires_at: Option<DateTime<Utc>> },
    Processing,
    Failed(ErrorBody),
}

impl GeminiOmni {
    /// # Errors
    /// The key is missing or cannot stand in a header, or TLS cannot be set up.
    pub fn new(account: &ProviderConfig, attempts: &AttemptsConfig, egress: &Egress) -> anyhow::Result<GeminiOmni> {
        let credential = Credential::key(account, "x-goog-api-key", "")?;
        Ok(GeminiOmni {
            name: account.name.clone(),
            api: ApiClient::new(account, attempts, egress, credential, &VOCABULARY)?,
            poll_interval: account.poll_interval,
            odd_words: OddWords::default(),
            callbacks: None,
        })
    }

    /// Orders name the address at which the end of the interaction is told.
    pub(super) fn with_callbacks(self, callbacks: Option<CallbackAddresses>) -> GeminiOmni {
        GeminiOmni { callbacks, ..self }
    }

    fn interaction(&self, handle: &Handle) -> Url {
        self.api.url(["interactions", &handle.0])
    }

    async fn outcome_of(&self, handle: &Handle, job: &Interaction<'_>) -> Result<PollOutcome, ReadError> {
        match job.status() {
            Status::Queued => Ok(PollOutcome::Queued),
            Status::Running => Ok(PollOutcome::Running { progress: None }),
            Status::Completed => self.completed(handle, job).await,
            Status::Ended(ending) => Ok(self.ended(job, ending)),
            Status::Other(word) => {
                self.odd_words.note(&self.name, word);
                Ok(PollOutcome::Running { progress: None })
            }
        }
    }

    async fn completed(&self, handle: &Handle, job: &Interaction<'_>) -> Result<PollOutcome, ReadError> {
        let Some(place) = job.film() else { return Ok(self.completed_without_film(job)) };
        let output = |place, expires_at| Output { handle: handle.clone(), place, expires_at };
        let Place::Url(uri) = &place else {
            return Ok(PollOutcome::Succeeded { output: output(place, None) });
        };
        Ok(match self.file_state(uri).await? {
            FileState::Ready { expires_at } => PollOutcome::Succeeded { output: output(place, expires_at) },
            FileState::Processing => PollOutcome::Running { progress: None },
            FileState::Failed(error) => self.failed(job, &error, Ending::Failed),
        })
    }

    fn completed_without_film(&self, job: &Interaction<'_>) -> PollOutcome {
        match (job.error(), job.words()) {
            (Some(error), _) => self.failed(job, &error, Ending::Failed),
            (None, Some(words)) => {
                let words = ErrorBody { message: Some(words.to_owned()), ..ErrorBody::default() };
                let told = refusal::failed_job_message(&words, &self.hidden(job));
                let message = format!("the provider answered with words in place of a video: {told}");
                PollOutcome::Failed { class: FailureClass::Moderation, message, billed: BILLING.moderated }
            }
            (None, None) => {
                self.odd_words.note(&self.name, "completed, without any output");
                PollOutcome::Running { progress: None }
            }
        }
    }

    fn ended(&self, job: &Interaction<'_>, ending: Ending) -> PollOutcome {
        match job.error() {
            Some(error) => self.failed(job, &error, ending),
            None => PollOutcome::Failed {
                class: ending.class(),
                message: ending.message().to_owned(),
                billed: ending.billed(&BILLING),
            },
        }
    }

    fn failed(&self, job: &Interaction<'_>, error: &ErrorBody, ending: Ending) -> PollOutcome {
        let message = refusal::failed_job_message(error, &self.hidden(job));
        let (class, billed) = match () {
            () if VOCABULARY.is_moderation(error) => (FailureClass::Moderation, BILLING.moderated),
            () if error.is(&["invalid_request", "invalid_argument", "INVALID_ARGUMENT"]) => {
                (FailureClass::InvalidInput, ending.billed(&BILLING))
            }
            () => (ending.class(), ending.billed(&BILLING)),
        };
        PollOutcome::Failed { class, message, billed }
    }

    fn hidden<'j>(&'j self, job: &Interaction<'j>) -> Vec<&'j str> {
        let mut hidden = vec![self.api.hidden()];
        hidden.extend(job.prompt());
        hidden
    }

    /// What the record of a file says that is kept at the provider itself.
    async fn file_state(&self, uri: &str) -> Result<FileState, ReadError> {
        let unknown = FileState::Ready { expires_at: None };
        let Some(id) = wire::file_id(uri, &self.api.url([])) else { return Ok(unknown) };
        let file = match self.api.read(&Ask::Get(self.api.url(["files", &id])), JsonBounds::JOB).await {
            Ok(Some(file)) => file,
            Ok(None) | Err(ReadError::Refused { .. }) => return Ok(unknown),
            Err(error) => return Err(error),
        };
        Ok(match json::word(&file, "state").as_deref() {
            Some("PROCESSING") => FileState::Processing,
            Some("FAILED") => FileState::Failed(ErrorBody::of(&file)),
            _ => FileState::Ready { expires_at: json::moment(&file, "expirationTime") },
        })
    }
}

#[async_trait]
impl Provider for GeminiOmni {
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

    async fn submit(&self, request: &GenerationRequest<'_>, attempt: AttemptId) -> SubmitOutcome {
        let slot = ImageSlot::new();
        let Some(mut order) = wire::order(request, attempt, &slot) else {
            return SubmitOutcome::Rejected {
                class: FailureClass::InvalidInput,
                message: format!("the provider has no name for the resolution of {}", request.size),
                retry_after: None,
            };
        };
        if let Some(addresses) = &self.callbacks {
            let (uris, metadata) = google::hook(addresses, attempt);
            order["webhook_config"] = serde_json::json!({"uris": uris, "user_metadata": metadata});
        }
        let handle_of = |job: &Value| json::id(job, "id").map(Handle);
        let fill = |post| slot.fill(post, &order, request.image);
        self.api.submit(self.api.url(["interactions"]), request, fill, handle_of).await
    }

    async fn poll(&self, handle: &Handle) -> Result<PollOutcome, ReadError> {
        match self.api.read(&Ask::Get(self.interaction(handle)), WITH_FILM).await? {
            Some(job) => self.outcome_of(handle, &Interaction(&job)).await,
            None => Ok(PollOutcome::gone()),
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

    async fn cancel(&self, handle: &Handle) -> CancelOutcome {
        let url = self.api.url(["interactions", &handle.0, "cancel"]);
        let Ok(reply) = self.api.tell(Method::POST, url).await else { return CancelOutcome::TooLate };
        let ended = reply.value.as_ref().is_ok_and(|job| matches!(Interaction(job).status(), Status::Completed));
        if reply.is_success() && !ended { CancelOutcome::Cancelled } else { CancelOutcome::TooLate }
    }

    async fn fetch(&self, output: &Output) -> Result<ByteStream, FetchError> {
        match &output.place {
            Place::Url(uri) => {
                let url = wire::download_url(uri, &self.api.url([])).ok_or_else(no_place)?;
                self.api.fetch(&url, FilePolicy { gone: FILE_GONE, expires_at: output.expires_at }).await
            }
            Place::Inline(nth) => self.api.fetch_inline(&Ask::Get(self.interaction(&output.handle)), *nth).await,
            Place::Bytes(bytes) => {
                let bytes = bytes.clone();
                Ok(ByteStream::whole(bytes))
            }
            Place::Handle | Place::Object(_) => Err(no_place().into()),
        }
    }
}

fn no_place() -> ReadError {
    let message = "the finished file is said to be at a place that cannot be reached".to_owned();
    ReadError::Refused { class: FailureClass::ProviderFault, message }
}

#[cfg(test)]
mod tests;
