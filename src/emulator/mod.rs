//! A video provider on loopback, with its own book.
//!
//! It speaks the protocols of several vendors ([`surfaces`]), misbehaves on request and writes down every job that it accepted
//! and every cent that it charged, so that a test can hold the house's money against someone else's record. The demo, the
//! tests and the benches use it in place of a paid provider.
//!
//! - Faults never depend on time or order: by rule ([`Rule`]), or by a chance that seed, prompt and try decide ([`Profile`]).
//! - Jobs cost no task and no timer; tens of thousands are a vector. Restarting forgets everything.
//! - Downloads are real, playable clips ([`clip`]).
//! - It imports nothing of the house, so that it cannot share the house's misunderstandings of the protocol.
//! - One studio, one book and one script of faults stand behind all surfaces.
//! - It calls back where its clients ask for it ([`CallbackFault`] says how that may go wrong).
//! - It serves no remix, edit, extension or character endpoints.

pub mod clip;

mod book;
mod callbacks;
mod clock;
mod content;
mod control;
mod door;
mod fate;
mod hostile;
mod http;
mod jobs;
mod journal;
mod keys;
mod listing;
mod office;
mod outcomes;
mod profile;
mod script;
mod stamp;
mod studio;
mod surfaces;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use poem::Server;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use book::{Book, BookedJob, CreateStamp, JobState, Totals};
pub use callbacks::{CallbackFault, SentCallback};
pub use hostile::{Answer, Asset, Attack, Link, Wire};
pub use journal::SeenRequest;
pub use profile::{ModelCard, Profile};
pub use script::{Detour, Fault, Hostile, Nth, OddPicture, Rule};

use callbacks::Callbacks;
use content::Clips;
use door::{Connections, Door};
use journal::Journal;
use office::Office;
use studio::Studio;

/// How long a stop waits for requests under way, slow answers among them.
const STOP_PATIENCE: Duration = Duration::from_millis(200);

/// How to start an emulator.
#[derive(Clone)]
pub struct EmulatorSettings {
    /// Port 0 takes any free one.
    pub listen: SocketAddr,
    pub seed: u64,
    /// The key that every surface demands.
    pub api_key: String,
    pub profile: Profile,
}

/// A running emulator. Dropping it stops it without waiting.
pub struct Emulator {
    address: SocketAddr,
    studio: Arc<Studio>,
    journal: Arc<Journal>,
    callbacks: Arc<Callbacks>,
    serving: JoinHandle<std::io::Result<()>>,
    serving_files: JoinHandle<std::io::Result<()>>,
    stopping: DropGuard,
}

impl Emulator {
    /// Binds and serves; on return the emulator answers. Errors when the address cannot be bound.
    pub async fn start(settings: EmulatorSettings) -> anyhow::Result<Emulator> {
        let connections = Connections::default();
        let door = Door::open(settings.listen, connections.clone()).await;
        let door = door.with_context(|| format!("the provider emulator cannot listen on {}", settings.listen))?;
        let address = door.address();
        let files = SocketAddr::new(address.ip(), 0);
        let files_door = Door::open(files, connections.clone()).await;
        let files_door = files_door.with_context(|| format!("the provider emulator cannot listen on {files}"))?;
        let studio = Arc::new(Studio::new(settings.seed, settings.api_key, settings.profile));
        let journal = Arc::new(Journal::default());
        let callbacks = Arc::new(Callbacks::new());
        let stop = CancellationToken::new();
        let office = Arc::new(Office {
            studio: Arc::clone(&studio),
            connections,
            clips: Clips::default(),
            journal: Arc::clone(&journal),
            callbacks: Arc::clone(&callbacks),
            home: format!("http://{address}"),
            other_host: other_host(files_door.address()),
            stop: stop.clone(),
        });
        tokio::spawn(Arc::clone(&callbacks).run(Arc::clone(&studio), stop.clone()));
        let (stopped, files_stopped) = (stop.clone().cancelled_owned(), stop.clone().cancelled_owned());
        let server = Server::new_with_acceptor(door).name("provider emulator");
        let routes = http::routes(Arc::clone(&office));
        let serving = tokio::spawn(server.run_with_graceful_shutdown(routes, stopped, Some(STOP_PATIENCE)));
        let server = Server::new_with_acceptor(files_door).name("provider emulator, files");
        let routes = http::other_host_routes(office);
        let serving_files = tokio::spawn(server.run_with_graceful_shutdown(routes, files_stopped, Some(STOP_PATIENCE)));
        Ok(Emulator { address, studio, journal, callbacks, serving, serving_files, stopping: stop.drop_guard() })
    }

    /// What a client's base URL is set to: `http://127.0.0.1:PORT/v1`, no slash at the end.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// A path on the provider's address, such as the prefix of another surface: `http://127.0.0.1:PORT{path}`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Where the control endpoint is: `http://127.0.0.1:PORT/control`, no slash at the end.
    pub fn control_url(&self) -> String {
        format!("http://{}/control", self.address)
    }

    /// A copy of the book as of now.
    pub fn book(&self) -> Book {
        self.studio.book()
    }

    /// Only the book's sums as of now; cheap enough for a loop that waits for something.
    pub fn totals(&self) -> Totals {
        self.studio.totals()
    }

    /// Adds a rule behind the ones that are there; it holds for creates from now on.
    pub fn script(&self, rule: Rule) {
        self.studio.add_rules([rule]);
    }

    /// Empties the script; jobs that were already accepted keep their faults.
    pub fn clear_script(&self) {
        self.studio.clear_rules();
    }

    /// Replaces the profile for creates from now on.
    pub fn set_profile(&self, profile: Profile) {
        self.studio.set_profile(profile);
    }

    /// Lets jobs and links age by so many milliseconds at once.
    pub fn advance_clock(&self, ms: u64) {
        self.studio.advance_clock(ms);
    }

    /// Keeps every request from now on, for [`Emulator::requests`].
    pub fn keep_requests(&self) {
        self.journal.kept.store(true, Ordering::Relaxed);
    }

    /// The requests that were kept, in order of arrival, those to the other host included.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.journal.seen()
    }

    /// Registers where the end of every job of the `/v1/videos` surface is told, and the secret (`whsec_...`) that signs it.
    pub fn register_project_callback(&self, url: &str, secret: &str) {
        self.callbacks.register(url, secret);
    }

    /// The calls that were made, in order.
    pub fn sent_callbacks(&self) -> Vec<SentCallback> {
        self.callbacks.sent()
    }

    /// Exchanges the key that signs calls in fal's form; the old one is not published any more.
    pub fn rotate_callback_key(&self) {
        self.callbacks.rotate();
    }

    /// Bytes of endless bodies that clients took, or that lie in buffers on the way to them.
    pub fn poured_bytes(&self) -> u64 {
        self.journal.poured.load(Ordering::Relaxed)
    }

    /// Stops listening, gives requests under way a moment, and returns when all connections are closed.
    pub async fn stop(self) -> anyhow::Result<()> {
        drop(self.stopping);
        for serving in [self.serving, self.serving_files] {
            let served = serving.await.context("the provider emulator's server task failed")?;
            served.context("the provider emulator's server ended with an error")?;
        }
        Ok(())
    }
}

/// Another name than the provider's where there is one: a client must not take the two for the same host.
fn other_host(address: SocketAddr) -> String {
    match address.ip().to_string().as_str() {
        "127.0.0.1" => format!("http://localhost:{}", address.port()),
        _ => format!("http://{address}"),
    }
}
