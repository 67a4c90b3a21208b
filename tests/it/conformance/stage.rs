//! What a scenario plays on: an emulator of its own, the adapter in front of it, and the acts that all of them share.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chrono::{TimeDelta, Utc};
use freezeframe::config::{Config, ProviderConfig};
use freezeframe::domain::{AttemptId, BatchId, Secret, Size, TenantId, VideoId};
use freezeframe::emulator::{Emulator, EmulatorSettings, Fault, Profile, Rule, clip};
use freezeframe::providers::{
    ByteStream, Egress, FetchError, FindOutcome, GenerationRequest, Handle, Output, PollOutcome, Provider, Registry,
    SubmitOutcome,
};
use freezeframe::storage::{ObjectKey, Storage, StoreError, StoredVideo};
use ring::digest::{SHA256, digest};

use super::Surface;
use super::planted::{Bug, plant};

pub const KEY: &str = "conformance-4f9d1c77";
/// How long a job takes; nothing finishes unless a scenario moves the clock.
pub const LATENCY_MS: u64 = 120_000;
const ACCOUNT: &str = "account";
/// A longer video is refused by the store.
const MAX_VIDEO_BYTES: u64 = 8 << 20;
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(5);
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(4);

pub struct Stage<'s> {
    pub surface: &'s dyn Surface,
    pub emulator: Emulator,
    pub provider: Arc<dyn Provider>,
    /// The one attempt of this stage.
    pub attempt: AttemptId,
    storage: Storage,
}

impl<'s> Stage<'s> {
    pub async fn open(surface: &'s dyn Surface, bug: Option<Bug>) -> anyhow::Result<Stage<'s>> {
        let profile = profile();
        let listen = "127.0.0.1:0".parse()?;
        let settings = EmulatorSettings { listen, seed: 7, api_key: KEY.to_owned(), profile };
        let emulator = Emulator::start(settings).await?;
        emulator.keep_requests();
        let provider = adapter(surface, &emulator, KEY)?;
        let provider = match bug {
            Some(bug) => plant(bug, provider, &emulator),
            None => provider,
        };
        let settings = format!("[storage]\nurl = \"memory://\"\nmax_video_bytes = {MAX_VIDEO_BYTES}");
        let storage = Config::from_sources(&settings, [])?.storage;
        let storage = Storage::open(&storage, || anyhow::bail!("memory needs no connection"))?;
        let attempt = AttemptId::generate();
        Ok(Stage { surface, emulator, provider, attempt, storage })
    }

    /// The same adapter with another key.
    pub fn with_key(&self, key: &str) -> anyhow::Result<Arc<dyn Provider>> {
        adapter(self.surface, &self.emulator, key)
    }

    /// The adapter of an account that honours idempotency keys, where the protocol has any; the emulator honours them from
    /// now on.
    pub fn honouring_keys(&self) -> anyhow::Result<Option<Arc<dyn Provider>>> {
        let Some(account) = self.surface.account_with_keys(&self.emulator, Secret::new(KEY)) else { return Ok(None) };
        self.emulator.set_profile(Profile { honours_keys: true, ..profile() });
        adapter_of(account).map(Some)
    }

    pub fn request<'p>(&self, prompt: &'p str) -> GenerationRequest<'p>
    where
        's: 'p,
    {
        let (seconds, size) = self.surface.orders()[0];
        GenerationRequest { prompt, upstream_model: self.surface.model(), seconds, size, image: None }
    }

    /// Creates with this prompt meet the fault.
    pub fn script(&self, prompt: &str, fault: Fault) {
        self.emulator.script(Rule::on_prompt(prompt, fault));
    }

    pub async fn submit(&self, prompt: &str) -> SubmitOutcome {
        self.provider.submit(&self.request(prompt), self.attempt).await
    }

    pub async fn accepted(&self, prompt: &str) -> anyhow::Result<Handle> {
        match self.submit(prompt).await {
            SubmitOutcome::Accepted { handle } => Ok(handle),
            other => bail!("{prompt:?} was not accepted: {other:?}"),
        }
    }

    /// Orders with this fault, lets the time pass, and waits for the success.
    pub async fn finished(&self, prompt: &str, fault: Option<Fault>) -> anyhow::Result<Output> {
        if let Some(fault) = fault {
            self.script(prompt, fault);
        }
        let handle = self.accepted(prompt).await?;
        self.emulator.advance_clock(LATENCY_MS);
        self.succeeded(&handle).await.with_context(|| format!("{prompt:?}"))
    }

    pub async fn succeeded(&self, handle: &Handle) -> anyhow::Result<Output> {
        let mut last = None;
        for _ in 0..6 {
            match self.provider.poll(handle).await {
                Ok(PollOutcome::Succeeded { output }) => return Ok(output),
                other => last = Some(other),
            }
        }
        bail!("it is finished, and the adapter says {last:?}")
    }

    /// Into the real store, which has the last word about what a video is.
    pub async fn store(&self, output: &Output) -> Result<StoredVideo, StoreError<FetchError>> {
        let stream = self.provider.fetch(output).await.map_err(StoreError::Source)?;
        self.put(stream).await
    }

    pub async fn put(&self, stream: ByteStream) -> Result<StoredVideo, StoreError<FetchError>> {
        let ids = (TenantId::generate(), BatchId::generate(), VideoId::generate(), AttemptId::generate());
        let length = stream.length();
        self.storage.put_video(&ObjectKey::video(ids.0, ids.1, ids.2, ids.3), stream, length).await
    }

    /// The file has to arrive whole, byte by byte what the emulator has painted.
    pub async fn stores_the_film(&self, output: &Output) -> anyhow::Result<()> {
        let stored = self.store(output).await?;
        let size = self.surface.orders()[0].1;
        let (width, height) = if size.width < size.height { (360, 640) } else { (640, 360) };
        let film = clip::title_card("One clip for all", width, height, 1);
        ensure!(stored.bytes == film.len() as u64, "{} bytes in place of {}", stored.bytes, film.len());
        ensure!(stored.sha256[..] == *digest(&SHA256, &film).as_ref(), "the hash is not that of the film");
        Ok(())
    }

    pub async fn find(&self, prompt: &str) -> anyhow::Result<FindOutcome> {
        let now = Utc::now();
        let window = (now - TimeDelta::minutes(5), now + TimeDelta::minutes(5));
        Ok(self.provider.find(&self.request(prompt), self.attempt, window).await?)
    }

    /// How many creates the emulator has received, by what stood on the wire.
    pub fn creates(&self) -> usize {
        self.orders_on_the_wire().len()
    }

    pub fn orders_on_the_wire(&self) -> Vec<anyhow::Result<(u32, Size)>> {
        self.emulator.requests().iter().filter_map(|request| self.surface.ordered(request)).collect()
    }
}

fn profile() -> Profile {
    Profile { latency_ms: (LATENCY_MS, LATENCY_MS), one_clip_for_all: true, clip_seconds: 1, ..Profile::calm() }
}

fn adapter(surface: &dyn Surface, emulator: &Emulator, key: &str) -> anyhow::Result<Arc<dyn Provider>> {
    adapter_of(surface.account(emulator, Secret::new(key)))
}

fn adapter_of(mut account: ProviderConfig) -> anyhow::Result<Arc<dyn Provider>> {
    let mut config = Config::from_sources("", [])?;
    account.name = ACCOUNT.to_owned();
    config.set_provider(account);
    config.attempts.submit_timeout = SUBMIT_TIMEOUT;
    config.attempts.download_timeout = DOWNLOAD_TIMEOUT;
    let registry = Registry::from_config(&config, &Egress::new())?;
    registry.get(ACCOUNT).cloned().context("the registry has no such account")
}
