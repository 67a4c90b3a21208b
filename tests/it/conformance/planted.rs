//! Adapters that are broken on purpose, each in one way that has cost somebody money, and the proof that the suite is red
//! for each.
//!
//! A planted adapter stands in front of the good one for `/v1/videos` and spoils what its [`Bug`] says. What cannot be
//! spoiled from outside it does itself, as naively as such code is written.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use freezeframe::domain::{AttemptId, FailureClass};
use freezeframe::emulator::Emulator;
use freezeframe::providers::{
    ByteStream, CancelOutcome, Capabilities, FetchError, FindOutcome, GenerationRequest, Handle, Output, Place,
    PollOutcome, Provider, ReadError, SubmitOutcome,
};
use futures_util::{TryStreamExt, stream};
use serde_json::{Value, json};

use super::openai_videos::OpenaiVideosSurface;
use super::stage::KEY;
use super::{failures, scenarios};

/// What is wrong with an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Sends a create again whose answer was lost.
    ResendsCreate,
    /// Calls an answer that proves nothing a refusal.
    AmbiguousIsRejected,
    /// Keeps something else than the id of the job.
    LosesHandle,
    /// Leaves length and size to the vendor.
    LeavesDefaults,
    /// Sends a number where the vendor wants a text.
    SendsNumberForText,
    /// Demands of an answer the types of the documentation.
    DemandsTypes,
    /// Does not pass on for how long it should wait.
    IgnoresRetryAfter,
    /// Quotes the prompt in its messages.
    QuotesPrompt,
    /// Takes a job that ended without a video for a success.
    DoneIsSuccess,
    /// Takes 100 per cent for a success.
    FullProgressIsSuccess,
    /// Reads whatever a server sends.
    ReadsWithoutBound,
    /// Collects a file before it passes it on.
    CollectsFile,
    /// Sends the key along when it is redirected.
    KeyOnRedirect,
    /// Takes a job that is not known for a failed one.
    GoneIsFailed,
    /// Orders without the image.
    DropsImage,
}

/// Each bug, and the scenario that has to find it.
const BUGS: [(Bug, &str); 15] = [
    (Bug::ResendsCreate, "a_lost_answer_is_unknown_and_sent_once"),
    (Bug::AmbiguousIsRejected, "a_lost_answer_is_unknown_and_sent_once"),
    (Bug::LosesHandle, "a_video_is_ordered_watched_and_stored"),
    (Bug::LeavesDefaults, "length_and_size_are_always_said"),
    (Bug::SendsNumberForText, "a_video_is_ordered_watched_and_stored"),
    (Bug::DemandsTypes, "a_poll_in_other_types_is_understood"),
    (Bug::IgnoresRetryAfter, "the_wish_to_wait_is_understood"),
    (Bug::QuotesPrompt, "every_refusal_has_its_class"),
    (Bug::DoneIsSuccess, "a_failed_job_has_its_class_and_what_it_costs"),
    (Bug::FullProgressIsSuccess, "odd_words_and_jumping_progress_are_no_end"),
    (Bug::ReadsWithoutBound, "polls_that_nobody_should_trust_end_nothing"),
    (Bug::CollectsFile, "a_file_without_end_fills_nothing"),
    (Bug::KeyOnRedirect, "a_redirect_gets_no_key"),
    (Bug::GoneIsFailed, "an_unknown_job_is_gone"),
    (Bug::DropsImage, "an_image_arrives_bit_for_bit"),
];

/// What a careless reader takes before this test has seen enough.
const ENOUGH_BYTES: usize = 160 << 20;

struct Planted {
    bug: Bug,
    good: Arc<dyn Provider>,
    base: String,
    http: reqwest::Client,
}

/// The adapter with this bug.
pub fn plant(bug: Bug, good: Arc<dyn Provider>, emulator: &Emulator) -> Arc<dyn Provider> {
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    Arc::new(Planted { bug, good, base: emulator.base_url(), http })
}

impl Planted {
    async fn order(&self, body: Value) -> SubmitOutcome {
        let sent = self.http.post(format!("{}/videos", self.base)).bearer_auth(KEY).json(&body).send().await.unwrap();
        let status = sent.status();
        let answer: Value = sent.json().await.unwrap();
        match answer["id"].as_str() {
            Some(id) => SubmitOutcome::Accepted { handle: Handle(id.to_owned()) },
            None => {
                let message = format!("HTTP {status}");
                SubmitOutcome::Rejected { class: FailureClass::InvalidInput, message, retry_after: None }
            }
        }
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(format!("{}{path}", self.base)).bearer_auth(KEY).send().await.unwrap()
    }
}

/// Everything, up to what this test can bear.
async fn collected(mut stream: ByteStream) -> Result<Vec<Bytes>, FetchError> {
    let (mut pieces, mut bytes) = (Vec::new(), 0);
    while let Some(piece) = stream.try_next().await? {
        bytes += piece.len();
        pieces.push(piece);
        if bytes > ENOUGH_BYTES {
            break;
        }
    }
    Ok(pieces)
}

#[async_trait]
impl Provider for Planted {
    fn name(&self) -> &str {
        self.good.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.good.capabilities()
    }

    fn poll_interval(&self) -> Duration {
        self.good.poll_interval()
    }

    async fn submit(&self, request: &GenerationRequest<'_>, attempt: AttemptId) -> SubmitOutcome {
        let GenerationRequest { prompt, upstream_model, seconds, size, .. } = *request;
        match self.bug {
            Bug::LeavesDefaults => return self.order(json!({"prompt": prompt, "model": upstream_model})).await,
            Bug::SendsNumberForText => {
                let size = size.to_string();
                let body = json!({"prompt": prompt, "model": upstream_model, "seconds": seconds, "size": size});
                return self.order(body).await;
            }
            Bug::DropsImage => {
                return self.good.submit(&GenerationRequest { image: None, ..*request }, attempt).await;
            }
            _ => {}
        }
        match (self.bug, self.good.submit(request, attempt).await) {
            (Bug::ResendsCreate, SubmitOutcome::Unknown { .. }) => self.good.submit(request, attempt).await,
            (Bug::AmbiguousIsRejected, SubmitOutcome::Unknown { cause }) => {
                SubmitOutcome::Rejected { class: FailureClass::ProviderFault, message: cause, retry_after: None }
            }
            (Bug::LosesHandle, SubmitOutcome::Accepted { .. }) => {
                SubmitOutcome::Accepted { handle: Handle(attempt.bare()) }
            }
            (Bug::IgnoresRetryAfter, SubmitOutcome::Rejected { class, message, .. }) => {
                SubmitOutcome::Rejected { class, message, retry_after: None }
            }
            (Bug::QuotesPrompt, SubmitOutcome::Rejected { class, message, retry_after }) => {
                SubmitOutcome::Rejected { class, message: format!("{message} ({prompt})"), retry_after }
            }
            (_, outcome) => outcome,
        }
    }

    async fn poll(&self, handle: &Handle) -> Result<PollOutcome, ReadError> {
        let success = || {
            let output = Output { handle: handle.clone(), place: Place::Handle, expires_at: None };
            Ok(PollOutcome::Succeeded { output })
        };
        match self.bug {
            Bug::ReadsWithoutBound => {
                let stream = self.get(&format!("/videos/{}", handle.0)).await.bytes_stream();
                let cause = |error: reqwest::Error| ReadError::Unavailable { cause: error.to_string() };
                let read =
                    collected(ByteStream::new(stream.map_err(move |error| FetchError::Read(cause(error))), None)).await;
                let body = read.map_err(|_| ReadError::Unavailable { cause: "broken off".to_owned() })?.concat();
                if serde_json::from_slice::<Value>(&body).is_err() {
                    return Err(ReadError::Unavailable { cause: "no JSON".to_owned() });
                }
            }
            Bug::DemandsTypes => {
                let job: Value = self.get(&format!("/videos/{}", handle.0)).await.json().await.unwrap();
                if !job["progress"].is_u64() {
                    return Err(ReadError::Unavailable { cause: "progress is no number".to_owned() });
                }
            }
            _ => {}
        }
        match (self.bug, self.good.poll(handle).await?) {
            (Bug::DoneIsSuccess, PollOutcome::Failed { class: FailureClass::Moderation, .. }) => success(),
            (Bug::FullProgressIsSuccess, PollOutcome::Running { progress: Some(100) }) => success(),
            (Bug::GoneIsFailed, PollOutcome::Gone { message }) => {
                let billed = self.capabilities().billing.failed;
                Ok(PollOutcome::Failed { class: FailureClass::ProviderFault, message, billed })
            }
            (_, outcome) => Ok(outcome),
        }
    }

    async fn find(
        &self,
        request: &GenerationRequest<'_>,
        attempt: AttemptId,
        window: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<FindOutcome, ReadError> {
        self.good.find(request, attempt, window).await
    }

    async fn cancel(&self, handle: &Handle) -> CancelOutcome {
        self.good.cancel(handle).await
    }

    async fn fetch(&self, output: &Output) -> Result<ByteStream, FetchError> {
        match self.bug {
            Bug::CollectsFile => {
                let pieces = collected(self.good.fetch(output).await?).await?;
                Ok(ByteStream::new(stream::iter(pieces.into_iter().map(Ok)), None))
            }
            Bug::KeyOnRedirect => {
                let redirected = self.get(&format!("/videos/{}/content", output.handle.0)).await;
                let target = redirected.headers()["location"].to_str().unwrap().to_owned();
                let file = self.http.get(target).bearer_auth(KEY).send().await.unwrap();
                let cause = |error: reqwest::Error| ReadError::Unavailable { cause: error.to_string() };
                let film = file.bytes_stream().map_err(move |error| FetchError::Read(cause(error)));
                Ok(ByteStream::new(film, None))
            }
            _ => self.good.fetch(output).await,
        }
    }

    async fn fetch_thumbnail(&self, output: &Output) -> Result<Option<ByteStream>, FetchError> {
        self.good.fetch_thumbnail(output).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_is_red_for_every_planted_bug() {
    let scenarios = scenarios();
    let mut missed = Vec::new();
    for (bug, finder) in BUGS {
        let scenario: Vec<_> = scenarios.iter().copied().filter(|scenario| scenario.name == finder).collect();
        assert_eq!(scenario.len(), 1, "there is no scenario {finder}");
        let failures = failures(&OpenaiVideosSurface, Some(bug), &scenario).await;
        match failures.first() {
            Some(failure) => println!("{bug:?} is found: {failure}"),
            None => missed.push(format!("{bug:?} by {finder}")),
        }
    }
    assert!(missed.is_empty(), "not found: {}", missed.join(", "));
}

#[test]
fn every_bug_is_looked_for_once() {
    for (position, (bug, _)) in BUGS.iter().enumerate() {
        assert!(BUGS[..position].iter().all(|(other, _)| other != bug), "{bug:?} is there twice");
    }
}
