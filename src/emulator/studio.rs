//! The emulator's whole memory behind one lock: profile, script, jobs, counts.
//!
//! Every call is short and does no I/O; time is read once per call. What becomes of a create is decided here, in one place:
//! first the protocol's own checks, then the script, then the profile's policy, then chance. Ids are never used twice, not
//! even after a reset or by another emulator with the same seed, because no real provider does that either.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::book::{Book, CreateStamp, Totals};
use super::errors::ApiFault;
use super::jobs::{Job, Spoil, Terms, Unavailable};
use super::profile::{Draw, Lot, Profile, scramble};
use super::request::{Fields, VideoRequest};
use super::script::{Fault, Rule, Script};

pub(super) struct Studio {
    seed: u64,
    api_key: String,
    /// Makes the ids of this emulator its own.
    origin: u64,
    clock: Clock,
    memory: Mutex<Memory>,
}

struct Memory {
    profile: Profile,
    policy: Script,
    script: Script,
    jobs: Vec<Job>,
    /// Positions in `jobs`.
    by_id: HashMap<Arc<str>, usize>,
    /// Creates so far by SHA-256 of the prompt.
    tries: HashMap<[u8; 32], u32>,
    stamps: Vec<Stamp>,
    refused: BTreeMap<&'static str, u64>,
    /// Jobs ever accepted; survives a reset.
    issued: u64,
}

struct Stamp {
    at_ms: u64,
    model: Option<Arc<str>>,
    accepted: bool,
}

/// What became of a create.
pub(super) enum Created {
    /// It broke the protocol's rules.
    Invalid(ApiFault),
    /// A fault refused it; nothing was booked.
    Refused { fault: Fault, model: Arc<str> },
    /// It was booked; `fault` may still spoil the answer.
    Accepted { video: Value, fault: Option<Fault> },
}

/// A page of the list of videos.
pub(super) struct Page {
    pub(super) limit: usize,
    pub(super) ascending: bool,
    pub(super) after: Option<String>,
}

/// What is to be sent for a finished video.
pub(super) struct Download {
    pub(super) request: VideoRequest,
    pub(super) prompt_sha256: [u8; 32],
    pub(super) spoil: Spoil,
    pub(super) clip_seconds: u32,
    pub(super) one_clip_for_all: bool,
}

impl Studio {
    pub(super) fn new(seed: u64, api_key: String, profile: Profile) -> Self {
        let clock = Clock::new();
        let origin =
            scramble(clock.now_ms() ^ u64::from(std::process::id()).rotate_left(40) ^ next_number().rotate_left(56));
        let memory = Memory {
            policy: Script::new(profile.policy.clone()),
            profile,
            script: Script::default(),
            jobs: Vec::new(),
            by_id: HashMap::new(),
            tries: HashMap::new(),
            stamps: Vec::new(),
            refused: BTreeMap::new(),
            issued: 0,
        };
        Studio { seed, api_key, origin, clock, memory: Mutex::new(memory) }
    }

    pub(super) fn knows_key(&self, bearer: &str) -> bool {
        bearer == self.api_key
    }

    /// Counts a create whose key was wrong.
    pub(super) fn note_unauthorized(&self) {
        *self.memory().refused.entry("unauthorized").or_default() += 1;
    }

    /// Counts a create whose body could not be read.
    pub(super) fn note_unreadable(&self) {
        let now_ms = self.clock.now_ms();
        self.memory().stamp_refusal(now_ms, None, "invalid_request");
    }

    pub(super) fn create(&self, fields: &Fields) -> Created {
        let now_ms = self.clock.now_ms();
        let mut memory = self.memory();
        let (request, price_cents) = match fields.check(&memory.profile) {
            Ok(checked) => checked,
            Err(fault) => {
                let model_unknown = fault.code.as_deref() == Some("model_not_found");
                let kind = if model_unknown { "model_not_found" } else { "invalid_request" };
                memory.stamp_refusal(now_ms, fields.model().map(Arc::from), kind);
                return Created::Invalid(fault);
            }
        };
        let prompt_sha256 = sha256(request.prompt.as_bytes());
        let nth = memory.next_try(prompt_sha256);
        let lot = Lot::new(self.seed, prompt_key(&prompt_sha256), nth);
        let fate = memory.fate(&request, nth, lot);
        if let Some((fault, kind)) = fate.at_create.as_ref().and_then(|fault| Some((fault, fault.refusal()?))) {
            memory.stamp_refusal(now_ms, Some(Arc::clone(&request.model)), kind);
            return Created::Refused { fault: fault.clone(), model: request.model };
        }
        let terms = Terms {
            prompt_sha256,
            nth,
            latency_ms: fate.latency_ms,
            output_ttl_ms: memory.profile.output_ttl_secs.saturating_mul(1000),
            price_cents,
            charge_failed: memory.profile.charge_failed,
            sparse: lot.draw(Draw::Sparse).is_multiple_of(2),
            at_create: fate.at_create.clone(),
            on_job: fate.on_job,
        };
        let video = memory.accept(self.origin, request, terms, now_ms);
        Created::Accepted { video, fault: fate.at_create }
    }

    pub(super) fn retrieve(&self, id: &str) -> Result<Value, ApiFault> {
        let now_ms = self.clock.now_ms();
        let mut memory = self.memory();
        let job = memory.visible(id)?;
        match job.poll() {
            Some(status) => Err(ApiFault::outage(status)),
            None => Ok(job.video_object(now_ms)),
        }
    }

    pub(super) fn delete(&self, id: &str) -> Result<Value, ApiFault> {
        let now_ms = self.clock.now_ms();
        let mut memory = self.memory();
        let job = memory.visible(id)?;
        if !job.is_finished(now_ms) {
            let message = "Only videos that are completed or failed can be deleted.";
            return Err(ApiFault::new(400, message).param("video_id"));
        }
        job.deleted = true;
        Ok(json!({"id": id, "object": "video.deleted", "deleted": true}))
    }

    pub(super) fn list(&self, page: &Page) -> Result<Value, ApiFault> {
        let now_ms = self.clock.now_ms();
        let memory = self.memory();
        let after = match &page.after {
            None => None,
            Some(id) => Some(*memory.by_id.get(id.as_str()).ok_or_else(|| ApiFault::video_not_found(id))?),
        };
        let (mut data, has_more) = if page.ascending {
            let jobs = memory.jobs[after.map_or(0, |position| position + 1)..].iter();
            page_of(jobs, page.limit, now_ms)
        } else {
            let jobs = memory.jobs[..after.unwrap_or(memory.jobs.len())].iter().rev();
            page_of(jobs, page.limit, now_ms)
        };
        drop(memory);
        let id_of = |video: Option<&Value>| video.map_or(Value::Null, |video| video["id"].clone());
        let (first_id, last_id) = (id_of(data.first()), id_of(data.last()));
        let data = Value::Array(std::mem::take(&mut data));
        Ok(json!({"object": "list", "data": data, "first_id": first_id, "last_id": last_id, "has_more": has_more}))
    }

    /// A download of the video itself (`counts`), which the book counts, or of one of its pictures.
    pub(super) fn download(&self, id: &str, counts: bool) -> Result<Download, ApiFault> {
        let now_ms = self.clock.now_ms();
        let mut memory = self.memory();
        let not_ready_status = memory.profile.content_not_ready_status;
        let (clip_seconds, one_clip_for_all) = (memory.profile.clip_seconds, memory.profile.one_clip_for_all);
        let job = memory.visible(id)?;
        job.availability(now_ms).map_err(|reason| match reason {
            Unavailable::NotReady => ApiFault::new(not_ready_status, "Video is not ready yet.").param("video_id"),
            Unavailable::Expired => ApiFault::new(404, "The content of this video has expired.").param("video_id"),
        })?;
        let spoil = if counts { job.download() } else { Spoil::Nothing };
        let (request, prompt_sha256) = (job.request.clone(), job.terms.prompt_sha256);
        Ok(Download { request, prompt_sha256, spoil, clip_seconds, one_clip_for_all })
    }

    pub(super) fn book(&self) -> Book {
        let now_ms = self.clock.now_ms();
        let memory = self.memory();
        Book {
            totals: memory.totals(now_ms),
            jobs: memory.jobs.iter().map(|job| job.booked(now_ms)).collect(),
            creates: memory.stamps.iter().map(Stamp::copied).collect(),
        }
    }

    pub(super) fn totals(&self) -> Totals {
        let now_ms = self.clock.now_ms();
        self.memory().totals(now_ms)
    }

    pub(super) fn add_rules(&self, rules: impl IntoIterator<Item = Rule>) {
        let mut memory = self.memory();
        for rule in rules {
            memory.script.push(rule);
        }
    }

    pub(super) fn rules(&self) -> Vec<Rule> {
        self.memory().script.rules()
    }

    pub(super) fn clear_rules(&self) {
        self.memory().script.clear();
    }

    pub(super) fn profile(&self) -> Profile {
        self.memory().profile.clone()
    }

    pub(super) fn poll_after_ms(&self) -> Option<u64> {
        self.memory().profile.poll_after_ms
    }

    /// For creates from now on; accepted jobs keep what they were given.
    pub(super) fn set_profile(&self, profile: Profile) {
        let mut memory = self.memory();
        memory.policy = Script::new(profile.policy.clone());
        memory.profile = profile;
    }

    /// Forgets jobs, counts and script; keeps profile, clock and the numbering of ids.
    pub(super) fn reset(&self) {
        let mut memory = self.memory();
        memory.policy = Script::new(memory.profile.policy.clone());
        memory.script.clear();
        memory.jobs.clear();
        memory.by_id.clear();
        memory.tries.clear();
        memory.stamps.clear();
        memory.refused.clear();
    }

    pub(super) fn advance_clock(&self, ms: u64) {
        self.clock.advance(ms);
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was decided about one create.
struct Fate {
    at_create: Option<Fault>,
    on_job: Option<Fault>,
    latency_ms: u64,
}

impl Memory {
    fn next_try(&mut self, prompt_sha256: [u8; 32]) -> u32 {
        let tries = self.tries.entry(prompt_sha256).or_default();
        *tries = tries.saturating_add(1);
        *tries
    }

    /// Script, then policy, then chance.
    fn fate(&mut self, request: &VideoRequest, nth: u32, lot: Lot) -> Fate {
        let latency_ms = self.profile.latency(lot);
        if !(self.script.is_empty() && self.policy.is_empty()) {
            let prompt = request.prompt.to_lowercase();
            let rule = self.script.take(&prompt, &request.model, nth);
            if let Some(rule) = rule.or_else(|| self.policy.take(&prompt, &request.model, nth)) {
                let latency_ms = rule.latency_ms.unwrap_or(latency_ms);
                return match rule.fault.clone() {
                    Some(fault) if fault.strikes_at_create() => {
                        Fate { at_create: Some(fault), on_job: None, latency_ms }
                    }
                    on_job => Fate { at_create: None, on_job, latency_ms },
                };
            }
        }
        let chances = self.profile.chances(lot);
        Fate { at_create: chances.at_create, on_job: chances.on_job, latency_ms }
    }

    fn accept(&mut self, origin: u64, request: VideoRequest, terms: Terms, now_ms: u64) -> Value {
        self.issued += 1;
        let id: Arc<str> = format!("video_{:016x}{:08x}", scramble(origin ^ self.issued), self.issued).into();
        self.stamps.push(Stamp { at_ms: now_ms, model: Some(Arc::clone(&request.model)), accepted: true });
        self.by_id.insert(Arc::clone(&id), self.jobs.len());
        let job = Job { id, request, terms, created_ms: now_ms, deleted: false, polls: 0, downloads: 0 };
        let video = job.video_object(now_ms);
        self.jobs.push(job);
        video
    }

    fn stamp_refusal(&mut self, now_ms: u64, model: Option<Arc<str>>, kind: &'static str) {
        self.stamps.push(Stamp { at_ms: now_ms, model, accepted: false });
        *self.refused.entry(kind).or_default() += 1;
    }

    fn visible(&mut self, id: &str) -> Result<&mut Job, ApiFault> {
        let position = self.by_id.get(id).copied();
        let job = position.and_then(|position| self.jobs.get_mut(position));
        job.filter(|job| job.is_visible()).ok_or_else(|| ApiFault::video_not_found(id))
    }

    fn totals(&self, now_ms: u64) -> Totals {
        let mut totals = Totals {
            creates_seen: self.stamps.len() as u64,
            refused: self.refused.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
            ..Totals::default()
        };
        for job in &self.jobs {
            job.add_to(&mut totals, now_ms);
        }
        totals
    }
}

impl Stamp {
    fn copied(&self) -> CreateStamp {
        CreateStamp { at_ms: self.at_ms, model: self.model.as_deref().map(str::to_owned), accepted: self.accepted }
    }
}

/// The emulator's time: the wall clock at its start plus what has passed since, so that it never runs backwards, plus what
/// tests have added.
struct Clock {
    started: Instant,
    started_ms: u64,
    advanced_ms: AtomicU64,
}

impl Clock {
    fn new() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { started: Instant::now(), started_ms: since_epoch.as_millis() as u64, advanced_ms: AtomicU64::new(0) }
    }

    fn now_ms(&self) -> u64 {
        let passed_ms = self.started.elapsed().as_millis() as u64;
        self.started_ms.saturating_add(passed_ms).saturating_add(self.advanced_ms.load(Ordering::Relaxed))
    }

    fn advance(&self, ms: u64) {
        let add = |advanced: u64| Some(advanced.saturating_add(ms));
        // The closure never refuses, so there is no error to handle.
        let _ = self.advanced_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

fn page_of<'a>(jobs: impl Iterator<Item = &'a Job>, limit: usize, now_ms: u64) -> (Vec<Value>, bool) {
    let mut jobs = jobs.filter(|job| job.is_visible());
    let data = jobs.by_ref().take(limit).map(|job| job.video_object(now_ms)).collect();
    (data, jobs.next().is_some())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

fn prompt_key(prompt_sha256: &[u8; 32]) -> u64 {
    prompt_sha256[..8].iter().fold(0, |key, byte| key << 8 | u64::from(*byte))
}

/// Tells two emulators of one process apart that start in the same millisecond.
fn next_number() -> u64 {
    static STARTED: AtomicU64 = AtomicU64::new(0);
    STARTED.fetch_add(1, Ordering::Relaxed)
}
