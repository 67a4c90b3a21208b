//! Veo, in the two flavours in which Google serves it. What differs is data ([`Flavour`]).
//!
//! | | Gemini API | Vertex AI |
//! |---|---|---|
//! | who calls | a key in `x-goog-api-key` | an OAuth token |
//! | poll | `GET` the operation | `POST …:fetchPredictOperation` |
//! | the file | a link that redirects and wants the key | an object in our bucket, or base64 inside of the answer |
//! | a lost answer | found by its callback alone: there is no list | found when it is finished, by the attempt's own place in the bucket |
//!
//! Submission is `:predictLongRunning` with one sample, and length, aspect ratio and resolution always said. An operation
//! that is done without a sample was filtered: a failure of the content policy, not a success. There is no progress and no
//! cancel.
//! The Gemini API calls back at an address that goes with the order; Vertex AI refuses one.
//! Always holds: each attempt has a place of its own in the bucket; the key goes to the base URL alone, the token to it and
//! to the bucket's.
//!
//! Billing: Google's price page charges for videos that were made, and says of the Gemini API that a filtered or failed
//! one is free. For Vertex AI the same is likely and nowhere published: what it bills of a job without a video is unknown.

mod bucket;
mod operation;
mod request;

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use url::Url;

use super::adapter::{ApiClient, Ask, Credential, FilePolicy, ImageSlot, JsonBounds};
use super::callbacks::CallbackAddresses;
use super::egress::Egress;
use super::google::{self, GoogleTokens, VOCABULARY};
use super::{
    Billed, BilledWhen, Billing, ByteStream, CancelOutcome, Capabilities, FetchError, FindOutcome, GenerationRequest,
    Handle, Output, Place, PollOutcome, Provider, ReadError, SubmitOutcome,
};
use crate::config::{AttemptsConfig, ProviderConfig, VeoConfig, VertexConfig};
use crate::domain::{AttemptId, FailureClass};
use bucket::Bucket;
use operation::Operation;
use request::Order;

/// Source: the price page of the Gemini API.
const GEMINI_BILLING: Billing =
    Billing { when: BilledWhen::OnSuccess, moderated: Billed::No, failed: Billed::No, cancelled: Billed::Unknown };
/// Source: the price page of Vertex AI, which speaks of generated videos alone.
const VERTEX_BILLING: Billing = Billing {
    when: BilledWhen::OnSuccess,
    moderated: Billed::Unknown,
    failed: Billed::Unknown,
    cancelled: Billed::Unknown,
};
/// By these the Gemini API says that a file is no longer kept; it also refuses one that it does not know.
const GEMINI_FILE_GONE: &[u16] = &[403, 404];

enum Flavour {
    Gemini,
    Vertex { project: String, location: String, generate_audio: bool, bucket: Option<Box<Bucket>> },
}

/// An account that makes videos with Veo.
pub struct Veo {
    name: String,
    api: ApiClient,
    flavour: Flavour,
    veo: VeoConfig,
    poll_interval: Duration,
    callbacks: Option<CallbackAddresses>,
}

impl Veo {
    /// On the Gemini API.
    ///
    /// # Errors
    /// The key is missing or cannot stand in a header, or TLS cannot be set up.
    pub fn on_gemini(
        account: &ProviderConfig,
        veo: &VeoConfig,
        attempts: &AttemptsConfig,
        egress: &Egress,
    ) -> anyhow::Result<Veo> {
        let credential = Credential::key(account, "x-goog-api-key", "")?;
        let api = ApiClient::new(account, attempts, egress, credential, &VOCABULARY)?;
        Ok(Veo::new(account, veo, api, Flavour::Gemini))
    }

    /// On Vertex AI.
    ///
    /// # Errors
    /// The service account's key is missing or none, or TLS cannot be set up.
    pub fn on_vertex(
        account: &ProviderConfig,
        veo: &VeoConfig,
        vertex: &VertexConfig,
        attempts: &AttemptsConfig,
        egress: &Egress,
    ) -> anyhow::Result<Veo> {
        let credential = Credential::Token(GoogleTokens::new(account, &vertex.identity, egress)?);
        let api = ApiClient::new(account, attempts, egress, credential, &VOCABULARY)?;
        let bucket = match &vertex.storage_uri {
            Some(uri) => Some(Box::new(Bucket::new(uri, api.at(vertex.storage_base_url.clone()))?)),
            None => None,
        };
        let VertexConfig { project, location, generate_audio, .. } = vertex.clone();
        Ok(Veo::new(account, veo, api, Flavour::Vertex { project, location, generate_audio, bucket }))
    }

    fn new(account: &ProviderConfig, veo: &VeoConfig, api: ApiClient, flavour: Flavour) -> Veo {
        Veo {
            name: account.name.clone(),
            api,
            flavour,
            veo: veo.clone(),
            poll_interval: account.poll_interval,
            callbacks: None,
        }
    }

    /// Orders name the address at which the end of the operation is told.
    pub(super) fn with_callbacks(self, callbacks: Option<CallbackAddresses>) -> Veo {
        Veo { callbacks, ..self }
    }

    /// `{base}/…/models/{model}:{verb}`.
    fn model_url(&self, model: &str, verb: &str) -> Url {
        let last = format!("{model}:{verb}");
        match &self.flavour {
            Flavour::Gemini => self.api.url(["models", &last]),
            Flavour::Vertex { project, location, .. } => {
                self.api.url(["projects", project, "locations", location, "publishers", "google", "models", &last])
            }
        }
    }

    /// How to ask for an operation; `None` when the handle is no operation of this flavour.
    fn ask_for(&self, handle: &Handle) -> Option<Ask> {
        let operation = Operation::parse(&handle.0)?;
        Some(match self.flavour {
            Flavour::Gemini => Ask::Get(self.api.url(operation.segments())),
            Flavour::Vertex { .. } => {
                let url = self.model_url(operation.model(), "fetchPredictOperation");
                Ask::Post(url, serde_json::json!({"operationName": handle.0}))
            }
        })
    }

    fn bucket(&self) -> Option<&Bucket> {
        match &self.flavour {
            Flavour::Gemini => None,
            Flavour::Vertex { bucket, .. } => bucket.as_deref(),
        }
    }

    fn billing(&self) -> Billing {
        match self.flavour {
            Flavour::Gemini => GEMINI_BILLING,
            Flavour::Vertex { .. } => VERTEX_BILLING,
        }
    }

    fn order<'r>(&'r self, request: &'r GenerationRequest<'r>, attempt: AttemptId) -> Option<Order<'r>> {
        let person_generation = match request.image {
            Some(_) => self.veo.person_generation_with_image.as_deref(),
            None => self.veo.person_generation.as_deref(),
        };
        let (generate_audio, storage_uri) = match &self.flavour {
            Flavour::Gemini => (None, None),
            Flavour::Vertex { generate_audio, bucket, .. } => {
                (Some(*generate_audio), bucket.as_ref().map(|bucket| bucket.place_of(attempt)))
            }
        };
        Order::new(request, person_generation, generate_audio, storage_uri)
    }
}

#[async_trait]
impl Provider for Veo {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        let (find, billing) = (self.bucket().is_some(), self.billing());
        Capabilities {
            find,
            marks_orders: find,
            idempotency_key: false,
            cancel: false,
            thumbnail: false,
            reference_image: true,
            billing,
        }
    }

    fn poll_interval(&self) -> Duration {
        self.poll_interval
    }

    fn has_callbacks(&self) -> bool {
        self.callbacks.is_some()
    }

    fn job_of(&self, handle: &Handle) -> Option<String> {
        Operation::parse(&handle.0)?.segments().last().map(|id| (*id).to_owned())
    }

    fn handle_of(&self, job: &str, upstream_model: &str) -> Option<Handle> {
        let name = format!("models/{upstream_model}/operations/{job}");
        Operation::parse(&name).is_some().then_some(Handle(name))
    }

    async fn submit(&self, request: &GenerationRequest<'_>, attempt: AttemptId) -> SubmitOutcome {
        let Some(order) = self.order(request, attempt) else {
            let message = format!("Veo makes no videos of {}: 720p, 1080p and 4k, lying or standing", request.size);
            return SubmitOutcome::Rejected { class: FailureClass::InvalidInput, message, retry_after: None };
        };
        let url = self.model_url(request.upstream_model, "predictLongRunning");
        let slot = ImageSlot::new();
        let mut body = order.to_json(&slot);
        if let Some(addresses) = &self.callbacks {
            let (uris, metadata) = google::hook(addresses, attempt);
            body["webhookConfig"] = serde_json::json!({"uris": uris, "userMetadata": metadata});
        }
        self.api.submit(url, request, |post| slot.fill(post, &body, request.image), Operation::handle_in).await
    }

    async fn poll(&self, handle: &Handle) -> Result<PollOutcome, ReadError> {
        if let Some(bucket) = self.bucket().filter(|bucket| bucket.has(&handle.0)) {
            return bucket.poll(handle).await;
        }
        let Some(ask) = self.ask_for(handle) else { return Ok(PollOutcome::gone()) };
        match self.api.read(&ask, JsonBounds::WITH_FILE).await? {
            Some(answer) => operation::outcome(handle, &answer, self.billing(), self.api.hidden()),
            None => Ok(PollOutcome::gone()),
        }
    }

    async fn find(
        &self,
        _request: &GenerationRequest<'_>,
        attempt: AttemptId,
        window: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<FindOutcome, ReadError> {
        match self.bucket() {
            Some(bucket) => bucket.find(attempt, window.0).await,
            None => Ok(FindOutcome::Unsupported),
        }
    }

    async fn cancel(&self, _handle: &Handle) -> CancelOutcome {
        CancelOutcome::Unsupported
    }

    async fn fetch(&self, output: &Output) -> Result<ByteStream, FetchError> {
        let policy = FilePolicy { gone: GEMINI_FILE_GONE, expires_at: output.expires_at };
        match (&output.place, self.bucket()) {
            (Place::Url(text), _) => match Url::parse(text) {
                Ok(url) => self.api.fetch(&url, policy).await,
                Err(_) => Err(no_file("a link that is no URL")),
            },
            (Place::Object(uri), Some(bucket)) => bucket.fetch(uri).await,
            (Place::Object(_), None) => Err(no_file("an object in a bucket that is not configured")),
            (Place::Bytes(bytes), _) => Ok(ByteStream::whole(bytes.clone())),
            (Place::Inline(nth), _) => match self.ask_for(&output.handle) {
                Some(ask) => self.api.fetch_inline(&ask, *nth).await,
                None => Err(no_file("an operation that is none")),
            },
            (Place::Handle, _) => Err(no_file("no place of the file")),
        }
    }
}

fn no_file(what: &str) -> FetchError {
    let message = format!("the provider named {what}");
    FetchError::Read(ReadError::Refused { class: FailureClass::ProviderFault, message })
}
