//! Video providers: what is asked of them, and what their answers mean for money.
//!
//! Owns the [`Provider`] trait, the [`Registry`] of accounts, the [`catalogue`] of models and, in [`egress`], every
//! outbound connection.
//! Always holds: [`SubmitOutcome::Rejected`] means that provably nothing was bought; whatever proves less is
//! [`SubmitOutcome::Unknown`]. A submission is sent once; only where an account honours idempotency keys may the same attempt
//! send it again, under the same key. Messages are fit for customers; keys, handles and prompts are in
//! none of them.
//! Refuses: to decide. Whether to try again, to look up or to refund is for the steps.
//!
//! A new vendor, in order: its kind and its settings in `config/accounts.rs`; a module here with the paths, the fields and
//! the words of its errors, on what [`adapter`] gives to all; one line in `build`; its wire shape in
//! `emulator/surfaces/`, so that it can be tried without buying; its `Surface` in `tests/it/conformance/`, whose scenarios
//! it then has to pass. Its module doc says what it bills and who says so. Where it calls back, how that is signed: [`callbacks`].

mod adapter;
mod byte_stream;
pub mod callbacks;
pub mod catalogue;
pub mod egress;
mod fal;
mod gemini_omni;
mod google;
mod listed;
mod openai_videos;
mod request;
#[cfg(test)]
mod tests;
mod veo;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::config::{AttemptsConfig, Config, ProviderConfig, ProviderKind};
use crate::domain::{AttemptId, FailureClass};
pub use byte_stream::ByteStream;
use callbacks::CallbackBase;
pub use catalogue::{Catalogue, CatalogueError, Model};
pub use egress::{Answer, Egress, EgressError, EgressPolicy, GuardedClient};
pub use fal::Fal;
pub use gemini_omni::GeminiOmni;
pub use listed::{Fingerprint, JobList, ListedJob, Made};
pub use openai_videos::OpenaiVideos;
pub use request::{GenerationRequest, ReferenceImage};
pub use veo::Veo;

/// A job at the provider, in the provider's own terms. Only the adapter that gave it understands it; it is stored in the
/// attempt and is not shown to customers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub String);

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmitOutcome {
    /// The provider took the job; it may cost money from now on.
    Accepted { handle: Handle },
    /// Provably nothing was bought: no connection came about, or the provider refused in so many words.
    Rejected { class: FailureClass, message: String, retry_after: Option<Duration> },
    /// The request may have been taken. It has to be looked up ([`Provider::find`]), and is sent again only under the same key,
    /// where that is honoured ([`Capabilities::idempotency_key`]).
    Unknown { cause: String },
}

/// Whether the provider bills a job that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Billed {
    Yes,
    No,
    /// The provider does not say.
    Unknown,
}

/// When a provider charges for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BilledWhen {
    /// With the order: every job costs, whatever becomes of it.
    OnSubmit,
    /// With the finished video.
    OnSuccess,
    /// The provider does not say.
    Unknown,
}

/// What a provider charges for. Each adapter's module doc names its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Billing {
    pub when: BilledWhen,
    /// A job that ended at the content policy.
    pub moderated: Billed,
    /// A job that ended by a fault.
    pub failed: Billed,
    /// A job that was cancelled while it ran.
    pub cancelled: Billed,
}

/// Where a finished file is. Only the adapter that said so can fetch it.
#[derive(Clone, PartialEq, Eq)]
pub enum Place {
    /// Where the handle leads.
    Handle,
    /// A link that the provider gave, and that may be a secret in itself.
    Url(String),
    /// An object in a bucket of ours, such as `gs://bucket/path`.
    Object(String),
    /// Inside of the poll's answer: its long text of this number.
    Inline(usize),
    /// The file itself, when it is very small.
    Bytes(Bytes),
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Handle => "Handle",
            Place::Url(_) => "Url(***)",
            Place::Object(_) => "Object(***)",
            Place::Inline(_) => "Inline",
            Place::Bytes(_) => "Bytes",
        })
    }
}

/// A finished file at the provider, for [`Provider::fetch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub handle: Handle,
    pub place: Place,
    /// The provider may remove it after this. Fetch it at once.
    pub expires_at: Option<DateTime<Utc>>,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PollOutcome {
    Queued,
    /// Per cent as the provider tells it; it may go back.
    Running {
        progress: Option<u8>,
    },
    Succeeded {
        output: Output,
    },
    Failed {
        class: FailureClass,
        message: String,
        billed: Billed,
    },
    /// The provider does not know the job, or no longer.
    Gone {
        message: String,
    },
}

impl PollOutcome {
    /// What every adapter says of a job that is not there.
    pub(crate) fn gone() -> PollOutcome {
        PollOutcome::Gone { message: "the provider does not know the job, or no longer".to_owned() }
    }
}

/// A job that may be the one whose answer was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub handle: Handle,
    pub created_at: DateTime<Utc>,
}

/// What a look-up found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindOutcome {
    /// Every job of the window with the same fingerprint, those of other attempts included; oldest first. An empty list
    /// says that there is none *yet*: a provider may list a job late.
    Candidates(Vec<Candidate>),
    /// Only a finished job can be found, and this one may still be under way.
    NotYet,
    /// This account cannot tell whether the job exists.
    Unsupported,
}

/// What became of a wish to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    Cancelled,
    TooLate,
    Unsupported,
}

/// What an account can do beyond submit, poll and fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// [`Provider::find`] can find a submission whose answer was lost.
    pub find: bool,
    /// What [`Provider::find`] finds bears the attempt's own mark. Otherwise it is found by what is alike, which the
    /// image is no part of.
    pub marks_orders: bool,
    /// The same order of the same attempt is answered by the same job: [`Provider::submit`] may be repeated for an attempt
    /// whose answer was lost.
    pub idempotency_key: bool,
    /// [`Provider::cancel`] can stop a job.
    pub cancel: bool,
    /// [`Provider::fetch_thumbnail`] may have a picture.
    pub thumbnail: bool,
    /// An order may have a reference image.
    pub reference_image: bool,
    pub billing: Billing,
}

/// Why a read told nothing about the job. Repeating it is always safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The account has to cool down.
    #[error("the provider limits the rate of requests")]
    RateLimited { retry_after: Option<Duration> },
    /// The provider refuses the account or the request; waiting alone does not help.
    #[error("the provider refuses the request ({}): {message}", .class.name())]
    Refused { class: FailureClass, message: String },
    /// No usable answer, after repeated tries.
    #[error("the provider gives no usable answer: {cause}")]
    Unavailable { cause: String },
}

/// Why a finished file could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// It was there and is no longer.
    #[error("the finished file is gone: {message}")]
    Gone { message: String },
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// One account at a video provider.
///
/// Dropping a future of [`Provider::submit`] leaves its outcome unknown. Every other call may be dropped and repeated.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The name of the account, as in the settings.
    fn name(&self) -> &str;

    fn capabilities(&self) -> Capabilities;

    /// The pause between two polls of one job.
    fn poll_interval(&self) -> Duration;

    /// Whether callbacks of this account are taken: they shorten waiting, and may name the job of a submission whose answer
    /// was lost. What they say is for a poll to confirm.
    fn has_callbacks(&self) -> bool {
        false
    }

    /// The job of a handle as callbacks call it; `None` for a handle that cannot be read.
    fn job_of(&self, handle: &Handle) -> Option<String> {
        Some(handle.0.clone())
    }

    /// The handle of a job that a callback named and that was ordered as `upstream_model`; `None` when it can be none.
    fn handle_of(&self, job: &str, _upstream_model: &str) -> Option<Handle> {
        Some(Handle(job.to_owned()))
    }

    /// Orders one video, once: one request, under the attempt's own key where keys are honoured. The attempt must have been
    /// committed before.
    async fn submit(&self, request: &GenerationRequest<'_>, attempt: AttemptId) -> SubmitOutcome;

    async fn poll(&self, handle: &Handle) -> Result<PollOutcome, ReadError>;

    /// Every job that looks like `request` and was created within `window` (both ends included, on our clock); where the
    /// provider takes a mark with the order, only the job of `attempt`.
    async fn find(
        &self,
        request: &GenerationRequest<'_>,
        attempt: AttemptId,
        window: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<FindOutcome, ReadError>;

    /// Every job of the account that was created within `window` (both ends included, on the provider's clock), whoever
    /// ordered it.
    async fn jobs(&self, _window: (DateTime<Utc>, DateTime<Utc>)) -> Result<JobList, ReadError> {
        Ok(JobList::NotComparable("the provider has no list of jobs"))
    }

    async fn cancel(&self, handle: &Handle) -> CancelOutcome;

    async fn fetch(&self, output: &Output) -> Result<ByteStream, FetchError>;

    /// The small picture that the provider made of the finished file, whatever it turns out to be; `None` when there is
    /// none. Nobody pays for it, so it is asked for once and missed by nobody.
    async fn fetch_thumbnail(&self, _output: &Output) -> Result<Option<ByteStream>, FetchError> {
        Ok(None)
    }
}

/// Why the accounts cannot be used. Names every problem.
#[derive(Debug, thiserror::Error)]
#[error("the provider accounts have {} problem(s): {}", .0.len(), .0.join("; "))]
pub struct RegistryError(pub Vec<String>);

/// The provider accounts of this process, by name.
#[derive(Clone, Default)]
pub struct Registry {
    accounts: BTreeMap<String, Arc<dyn Provider>>,
}

impl Registry {
    /// The accounts of the settings.
    ///
    /// # Errors
    /// [`RegistryError`] when a key is missing here or cannot be sent, or when TLS cannot be set up.
    pub fn from_config(config: &Config, egress: &Egress) -> Result<Registry, RegistryError> {
        Registry::called_back_at(config, egress, None)
    }

    /// The accounts of the settings, which call back at `base` where they can.
    ///
    /// # Errors
    /// As [`Registry::from_config`].
    pub fn called_back_at(
        config: &Config,
        egress: &Egress,
        base: Option<&CallbackBase>,
    ) -> Result<Registry, RegistryError> {
        let mut registry = Registry::default();
        let mut problems = Vec::new();
        for account in &config.providers {
            match build(account, &config.attempts, egress, base) {
                Ok(provider) => registry.insert(provider),
                Err(problem) => problems.push(format!("provider {:?}: {problem:#}", account.name)),
            }
        }
        if problems.is_empty() { Ok(registry) } else { Err(RegistryError(problems)) }
    }

    /// Adds a ready-made account, or replaces the one of its name.
    pub fn insert(&mut self, provider: Arc<dyn Provider>) {
        self.accounts.insert(provider.name().to_owned(), provider);
    }

    pub fn get(&self, account: &str) -> Option<&Arc<dyn Provider>> {
        self.accounts.get(account)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.accounts.keys().map(String::as_str)
    }

    /// Checks that every model leads to an account: at the start of a worker.
    ///
    /// # Errors
    /// [`RegistryError`] names every model that does not.
    pub fn check(&self, catalogue: &Catalogue) -> Result<(), RegistryError> {
        let routes =
            catalogue.models().flat_map(|model| model.routes.iter().map(move |route| (model, &route.provider)));
        let orphans = routes.filter(|(_, account)| !self.accounts.contains_key(*account));
        let problems: Vec<String> = orphans
            .map(|(model, account)| {
                format!("model {:?} needs the account {account:?}, which is not configured", model.name)
            })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(RegistryError(problems)) }
    }
}

/// A message of [`PollOutcome::Failed`] without the prompt, which a poll does not know.
pub fn without_prompt(message: &str, prompt: &str) -> String {
    adapter::redact::without_prompt(message, prompt)
}

/// One account, by its kind.
fn build(
    account: &ProviderConfig,
    attempts: &AttemptsConfig,
    egress: &Egress,
    base: Option<&CallbackBase>,
) -> anyhow::Result<Arc<dyn Provider>> {
    let called_back = base.and_then(|base| base.of_account(account));
    Ok(match &account.kind {
        ProviderKind::OpenaiVideos => {
            Arc::new(OpenaiVideos::new(account, attempts, egress)?.with_callbacks(called_back))
        }
        ProviderKind::VeoGemini(veo) => {
            Arc::new(Veo::on_gemini(account, veo, attempts, egress)?.with_callbacks(called_back))
        }
        ProviderKind::VeoVertex(veo, vertex) => Arc::new(Veo::on_vertex(account, veo, vertex, attempts, egress)?),
        ProviderKind::GeminiOmni => Arc::new(GeminiOmni::new(account, attempts, egress)?.with_callbacks(called_back)),
        ProviderKind::Fal(fal) => Arc::new(Fal::new(account, fal, attempts, egress)?.with_callbacks(called_back)),
    })
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
