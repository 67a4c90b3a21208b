//! The emulator's whole memory behind one lock: profile, script, jobs, counts.
//!
//! Every call is short and does no I/O; time is read once per call. What becomes of a create is decided here, in one place:
//! first the protocol's own checks, then the script, then the profile's policy, then chance. Ids are never used twice, not
//! even after a reset or by another emulator with the same seed, because no real provider does that either.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::book::{Book, Totals};
use super::clock::Clock;
use super::fate::Fate;
use super::jobs::{Job, Order, Sight, Spoil, Terms, Unavailable};
use super::keys::{Key, Keys, Used};
use super::listing::{self, Listed, Page};
use super::outcomes::{Created, Download, Invalid, NoFile, NotDeleted, NotSeen};
use super::profile::{Draw, Lot, Profile, scramble};
use super::script::{Detour, OddPicture, Rule, Script};
use super::stamp::Stamp;

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
    keys: Keys,
    stamps: Vec<Stamp>,
    refused: BTreeMap<&'static str, u64>,
    /// Jobs ever accepted; survives a reset.
    issued: u64,
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
            keys: Keys::default(),
            stamps: Vec::new(),
            refused: BTreeMap::new(),
            issued: 0,
        };
        Studio { seed, api_key, origin, clock, memory: Mutex::new(memory) }
    }

    pub(super) fn knows_key(&self, bearer: &str) -> bool {
        bearer == self.api_key
    }

    pub(super) fn key(&self) -> &str {
        &self.api_key
    }

    /// Counts a create whose key was wrong.
    pub(super) fn note_unauthorized(&self) {
        *self.memory().refused.entry("unauthorized").or_default() += 1;
    }

    /// Counts a create whose body could not be read.
    pub(super) fn note_unreadable(&self) {
        let now_ms = self.clock.now_ms();
        self.memory().stamp_refusal(Stamp { at_ms: now_ms, ..Stamp::default() }, "invalid_request");
    }

    /// Decides about a create without a key.
    pub(super) fn create<A>(&self, read: impl FnOnce(&Profile) -> Result<(Order, u64), Invalid<A>>) -> Created<A> {
        self.create_under(None, read)
    }

    /// Decides about a create; `read` checks it against the vendor's rules and gives the order and its price in US cents.
    pub(super) fn create_under<A>(
        &self,
        key: Option<Key<A>>,
        read: impl FnOnce(&Profile) -> Result<(Order, u64), Invalid<A>>,
    ) -> Created<A> {
        let now_ms = self.clock.now_ms();
        let mut memory = self.memory();
        let mut stamp = Stamp { at_ms: now_ms, key: key.as_ref().map(|key| Arc::clone(&key.text)), ..Stamp::default() };
        let (request, price_cents) = match read(&memory.profile) {
            Ok(read) => read,
            Err(invalid) => {
                memory.stamp_refusal(Stamp { model: invalid.model.map(Arc::from), ..stamp }, invalid.kind);
                return Created::Invalid(*invalid.answer);
            }
        };
        (stamp.model, stamp.prompt) = (Some(Arc::clone(&request.model)), Some(Arc::clone(&request.prompt)));
        let prompt_sha256 = sha256(request.prompt.as_bytes());
        let nth = memory.next_try(prompt_sha256);
        let lot = Lot::new(self.seed, prompt_key(&prompt_sha256), nth);
        let fate = memory.fate(&request, nth, lot);
        if let Some((fault, kind)) = fate.at_create.as_ref().and_then(|fault| Some((fault, fault.refusal()?))) {
            memory.stamp_refusal(stamp, kind);
            return Created::Refused { fault: fault.clone(), model: request.model, prompt: request.prompt };
        }
        let key = key.filter(|_| memory.profile.honours_keys);
        if let Some(key) = &key
            && let Some(used) = memory.keys.find(&key.text, &request, &memory.jobs)
        {
            return match used {
                Used::BySame(position) => {
                    memory.stamps.push(Stamp { replayed: true, ..stamp });
                    Created::Accepted { job: memory.jobs[position].sight(now_ms), fault: fate.at_create }
                }
                Used::ByAnother => {
                    memory.stamp_refusal(stamp, "key_reused");
                    Created::Invalid((key.reused)())
                }
            };
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
            callback: fate.callback,
            key: stamp.key.clone(),
        };
        if let Some(key) = key {
            let position = memory.jobs.len();
            memory.keys.note(key.text, position);
        }
        memory.stamps.push(Stamp { accepted: true, ..stamp });
        let job = memory.accept(self.origin, request, terms, now_ms);
        Created::Accepted { job, fault: fate.at_create }
    }

    pub(super) fn look(&self, id: &str) -> Result<Sight, NotSeen> {
        let now_ms = self.clock.now_ms();
        let mut memory = self.memory();
        let job = memory.visible(id).ok_or(NotSeen::Unknown)?;
        match job.poll() {
            Some(status) => Err(NotSeen::Outage(status)),
            None => Ok(job.sight(now_ms)),
        }
    }

    /// What the last poll could see, without being one.
    pub(super) fn glance(&self, id: &str) -> Option<Sight> {
        let now_ms = self.clock.now_ms();
        self.memory().visible(id).map(|job| job.sight(now_ms))
    }

    /// For how long a job has ended, in milliseconds; `None` while it has not.
    pub(super) fn ended_for(&self, id: &str) -> Option<u64> {
        let now_ms = self.clock.now_ms();
        let memory = self.memory();
        memory.jobs.get(*memory.by_id.get(id)?)?.ended_for(now_ms)
    }

    /// The id of the first job of the same model, spelled like `id`.
    pub(super) fn first_id(&self, id: &str) -> String {
        let memory = self.memory();
        let bare = id.trim_start_matches("video_");
        let model = memory.jobs.iter().find(|job| job.id.ends_with(bare)).map(|job| &job.order.model);
        let first = memory.jobs.iter().find(|job| Some(&job.order.model) == model);
        id.replace(bare, first.map_or("", |job| job.id.trim_start_matches("video_")))
    }

    pub(super) fn delete(&self, id: &str) -> Result<(), NotDeleted> {
        let now_ms = self.clock.now_ms();
        let mut memory = self.memory();
        let job = memory.visible(id).ok_or(NotDeleted::Unknown)?;
        if !job.is_finished(now_ms) {
            return Err(NotDeleted::Unfinished);
        }
        job.deleted = true;
        Ok(())
    }

    /// Whether the job was stopped by this; `None` when there is none.
    pub(super) fn cancel(&self, id: &str) -> Option<bool> {
        let now_ms = self.clock.now_ms();
        Some(self.memory().visible(id)?.cancel(now_ms))
    }

    /// [`NotSeen::Unknown`] when it is the job behind which the page begins.
    pub(super) fn list(&self, page: &Page) -> Result<Listed, NotSeen> {
        let now_ms = self.clock.now_ms();
        let memory = self.memory();
        if let Some(status) = memory.profile.list_outage_status {
            return Err(NotSeen::Outage(status));
        }
        let position = |id: &String| memory.by_id.get(id.as_str()).copied().ok_or(NotSeen::Unknown);
        let after = page.after.as_ref().map(position).transpose()?;
        Ok(listing::turn(&memory.jobs, page, after, now_ms))
    }

    /// The finished videos whose destination begins with `place`.
    pub(super) fn finished_below(&self, place: &str) -> Vec<Sight> {
        let now_ms = self.clock.now_ms();
        let memory = self.memory();
        let there = memory.jobs.iter().filter(|job| {
            job.is_visible()
                && job.availability(now_ms).is_ok()
                && job.order.destination.as_deref().is_some_and(|destination| destination.starts_with(place))
        });
        there.map(|job| job.sight(now_ms)).collect()
    }

    /// A download of the video itself (`counts`), which the book counts, or of one of its pictures.
    pub(super) fn download(&self, id: &str, counts: bool) -> Result<Download, NoFile> {
        let now_ms = self.clock.now_ms();
        let mut memory = self.memory();
        let not_ready_status = memory.profile.content_not_ready_status;
        let (clip_seconds, one_clip_for_all) = (memory.profile.clip_seconds, memory.profile.one_clip_for_all);
        let job = memory.visible(id).ok_or(NoFile::Unknown)?;
        job.availability(now_ms).map_err(|reason| match reason {
            Unavailable::NotReady => NoFile::NotReady { status: not_ready_status },
            Unavailable::Expired => NoFile::Expired,
            Unavailable::Missing => NoFile::Missing,
        })?;
        let odd_picture = job.odd_picture();
        if !counts && odd_picture == Some(OddPicture::Missing) {
            return Err(NoFile::Missing);
        }
        let spoil = if counts { job.download() } else { Spoil::Nothing };
        let (order, prompt_sha256) = (job.order.clone(), job.terms.prompt_sha256);
        Ok(Download { order, prompt_sha256, spoil, odd_picture, clip_seconds, one_clip_for_all })
    }

    /// Where whoever asks for the file of this job is sent instead, if it has one to send away for.
    pub(super) fn detour(&self, id: &str) -> Option<Detour> {
        let now_ms = self.clock.now_ms();
        let mut memory = self.memory();
        let job = memory.visible(id)?;
        job.availability(now_ms).ok().and_then(|()| job.detour())
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
        memory.keys.clear();
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

impl Memory {
    fn next_try(&mut self, prompt_sha256: [u8; 32]) -> u32 {
        let tries = self.tries.entry(prompt_sha256).or_default();
        *tries = tries.saturating_add(1);
        *tries
    }

    fn fate(&mut self, request: &Order, nth: u32, lot: Lot) -> Fate {
        Fate::of((request, nth), lot, &self.profile, [&mut self.script, &mut self.policy])
    }

    fn accept(&mut self, origin: u64, request: Order, terms: Terms, now_ms: u64) -> Sight {
        self.issued += 1;
        let id: Arc<str> = format!("video_{:016x}{:08x}", scramble(origin ^ self.issued), self.issued).into();
        self.by_id.insert(Arc::clone(&id), self.jobs.len());
        let job = Job {
            id,
            order: request,
            terms,
            created_ms: now_ms,
            deleted: false,
            cancelled_ms: None,
            polls: 0,
            downloads: 0,
        };
        let sight = job.sight(now_ms);
        self.jobs.push(job);
        sight
    }

    fn stamp_refusal(&mut self, stamp: Stamp, kind: &'static str) {
        self.stamps.push(stamp);
        *self.refused.entry(kind).or_default() += 1;
    }

    fn visible(&mut self, id: &str) -> Option<&mut Job> {
        let position = self.by_id.get(id).copied();
        let job = position.and_then(|position| self.jobs.get_mut(position));
        job.filter(|job| job.is_visible())
    }

    fn totals(&self, now_ms: u64) -> Totals {
        let mut totals = Totals {
            creates_seen: self.stamps.len() as u64,
            replayed: self.stamps.iter().filter(|stamp| stamp.replayed).count() as u64,
            refused: self.refused.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
            ..Totals::default()
        };
        for job in &self.jobs {
            job.add_to(&mut totals, now_ms);
        }
        totals
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    std::array::from_fn(|at| digest.as_ref()[at])
}

fn prompt_key(prompt_sha256: &[u8; 32]) -> u64 {
    prompt_sha256[..8].iter().fold(0, |key, byte| key << 8 | u64::from(*byte))
}

/// Tells two emulators of one process apart that start in the same millisecond.
fn next_number() -> u64 {
    static STARTED: AtomicU64 = AtomicU64::new(0);
    STARTED.fetch_add(1, Ordering::Relaxed)
}
