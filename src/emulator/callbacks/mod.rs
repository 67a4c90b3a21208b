//! Callbacks: what the emulator tells its clients by itself, at the addresses that they gave with an order or for a project.
//!
//! A job is told once, when the clock has reached its end, unless its rule says otherwise ([`CallbackFault`]); a call that is
//! not answered with success is repeated some times, as vendors do. Calls go out in plain HTTP to where the address says: the
//! emulator is for this machine. Each is written down with what was answered ([`SentCallback`]).

mod sign;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::jobs::Sight;
use super::studio::Studio;
pub(super) use sign::Keys;
use sign::Signed;

/// How often the clock is looked at while somebody is to be called.
const GLANCE: Duration = Duration::from_millis(10);
const TRIES: u32 = 8;
const BETWEEN_TRIES: Duration = Duration::from_millis(250);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// More of an answer is not read.
const MAX_ANSWER_BYTES: u64 = 4096;

/// What goes wrong with a job's callback. JSON: `{"kind":"duplicated","times":3}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CallbackFault {
    /// None is sent.
    Lost,
    /// Sent so many times, at once.
    Duplicated { times: u32 },
    /// After the end it is told that the job is running.
    Reordered,
    /// Signed by a key that is nobody's.
    Forged,
    /// Well signed, at an address with a token that was never given out.
    WrongToken,
    /// Signed ten minutes ago.
    Stale,
    /// Signed twice, first by a key that is not known yet; as always where the form has no room for two.
    TwoSignatures,
    /// Sent, as if it had ended, before the create is answered.
    Early,
    /// Sent so many milliseconds after the end.
    Late { ms: u64 },
    /// Well signed, about a job that does not exist.
    OtherJob,
    /// Larger than anybody should read.
    Huge,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentCallback {
    pub job: String,
    pub url: String,
    /// `None` when there was no answer.
    pub status: Option<u16>,
}

/// Whose form a call has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Fal,
    /// A JWT, with the metadata that went with the order.
    GoogleVideo(Value),
    GoogleInteraction(Value),
    /// Standard Webhooks, with the project's secret.
    Openai(Arc<str>),
}

/// Where a job is to be told.
#[derive(Clone, Debug)]
pub(super) struct Hook {
    pub(super) url: String,
    pub(super) form: Form,
}

impl Hook {
    /// What an order of Google's says: `{uris, userMetadata}` or `{uris, user_metadata}`.
    pub(super) fn of_google(config: Option<&Value>, form: fn(Value) -> Form) -> Option<Hook> {
        let config = config?;
        let url = config["uris"].get(0)?.as_str()?.to_owned();
        let metadata = config.get("userMetadata").or(config.get("user_metadata")).cloned().unwrap_or_default();
        Some(Hook { url, form: form(metadata) })
    }
}

struct Pending {
    job: Arc<str>,
    hook: Hook,
    fault: Option<CallbackFault>,
}

/// The part of the emulator that calls.
pub(super) struct Callbacks {
    keys: Keys,
    pending: Mutex<Vec<Pending>>,
    sent: Mutex<Vec<SentCallback>>,
    /// Of the project that all OpenAI-shaped jobs belong to.
    project: Mutex<Option<Hook>>,
    numbers: AtomicU64,
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Callbacks {
    pub(super) fn new() -> Callbacks {
        Callbacks {
            keys: Keys::new(),
            pending: Mutex::default(),
            sent: Mutex::default(),
            project: Mutex::default(),
            numbers: AtomicU64::new(1),
        }
    }

    pub(super) fn key_set(&self) -> Value {
        self.keys.published()
    }

    /// Exchanges the keys that sign from now on; the old ones are not published any more.
    pub(super) fn rotate(&self) {
        self.keys.rotate();
    }

    pub(super) fn register(&self, url: &str, secret: &str) {
        let hook = Hook { url: url.to_owned(), form: Form::Openai(secret.into()) };
        *locked(&self.project) = Some(hook);
    }

    pub(super) fn project_hook(&self) -> Option<Hook> {
        locked(&self.project).clone()
    }

    pub(super) fn sent(&self) -> Vec<SentCallback> {
        locked(&self.sent).clone()
    }

    /// A job was accepted whose end is to be told.
    pub(super) async fn expect(&self, job: &Sight, hook: Option<Hook>) {
        let Some(hook) = hook else { return };
        let pending = Pending { job: Arc::clone(&job.id), hook, fault: job.callback.clone() };
        match pending.fault {
            Some(CallbackFault::Lost) => {}
            Some(CallbackFault::Early) => self.call(&pending, "done", true).await,
            _ => locked(&self.pending).push(pending),
        }
    }

    /// Calls whoever is to be called, until `stop`.
    pub(super) async fn run(self: Arc<Self>, studio: Arc<Studio>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(GLANCE)).await.is_some() {
            for pending in self.due(&studio) {
                let (callbacks, stop) = (Arc::clone(&self), stop.clone());
                tokio::spawn(async move { stop.run_until_cancelled(callbacks.tell(pending)).await });
            }
        }
    }

    fn due(&self, studio: &Studio) -> Vec<Pending> {
        let mut pending = locked(&self.pending);
        let is_due = |pending: &mut Pending| {
            let late = if let Some(CallbackFault::Late { ms }) = pending.fault { ms } else { 0 };
            studio.ended_for(&pending.job).is_some_and(|ms| ms >= late)
        };
        pending.extract_if(.., is_due).collect()
    }

    async fn tell(&self, pending: Pending) {
        let times = if let Some(CallbackFault::Duplicated { times }) = pending.fault { times } else { 1 };
        for _ in 0..times {
            self.call(&pending, "done", true).await;
        }
        if pending.fault == Some(CallbackFault::Reordered) {
            self.call(&pending, "running", false).await;
        }
    }

    async fn call(&self, pending: &Pending, number: &str, ended: bool) {
        for _ in 0..TRIES {
            let id = format!("msg_{number}_{}", self.numbers.fetch_add(1, Ordering::Relaxed));
            let signed = self.keys.signed(&id, pending, ended);
            let status = tokio::time::timeout(CALL_TIMEOUT, post(&signed)).await.ok().flatten();
            let sent = SentCallback { job: pending.job.to_string(), url: signed.url.clone(), status };
            locked(&self.sent).push(sent);
            // what the vendor is told to be wrong stays wrong
            if status.is_some_and(|status| status < 500 && status != 429) {
                return;
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
    }
}

/// Sends a call; the status of the answer, if there is one.
async fn post(signed: &Signed) -> Option<u16> {
    let rest = signed.url.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host).await.ok()?;
    let mut head = format!(
        "POST /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        signed.body.len()
    );
    for (name, value) in &signed.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    // a server that refuses the body may stop reading before its end
    let _ = stream.write_all(signed.body.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await;
    let line = String::from_utf8_lossy(&answer);
    line.split(' ').nth(1)?.parse().ok()
}

/// What a job's end is called, by form.
fn word_of(job: &str, form: &Form, ended: bool) -> Value {
    let id = job.trim_start_matches("video_");
    match form {
        Form::Fal => {
            let status = if ended { "OK" } else { "IN_PROGRESS" };
            json!({"request_id": job, "gateway_request_id": job, "status": status, "payload": {"seed": 7}})
        }
        Form::GoogleVideo(_) => {
            let kind = if ended { "video.generated" } else { "video.started" };
            json!({"type": kind, "version": "v1", "data": {"id": id, "file_name": format!("files/{id}")}})
        }
        Form::GoogleInteraction(_) => {
            let kind = if ended { "interaction.completed" } else { "interaction.started" };
            json!({"type": kind, "version": "v1", "data": {"id": job}})
        }
        Form::Openai(_) => {
            let kind = if ended { "video.completed" } else { "video.in_progress" };
            json!({"id": format!("evt_{id}"), "object": "event", "created_at": 1_758_941_485, "type": kind,
                "data": {"id": job}})
        }
    }
}
