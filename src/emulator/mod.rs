//! A video provider on loopback, with its own book.
//!
//! It speaks the OpenAI `/v1/videos` protocol, misbehaves on request and writes down every job that it accepted and every cent
//! that it charged, so that a test can hold the house's money against someone else's record. The demo, the tests and the
//! benches use it in place of a paid provider.
//!
//! - Faults never depend on time or order: by rule ([`Rule`]), or by a chance that seed, prompt and try decide ([`Profile`]).
//! - Jobs cost no task and no timer; tens of thousands are a vector. Restarting forgets everything.
//! - Downloads are real, playable clips ([`clip`]).
//! - It imports nothing of the house, so that it cannot share the house's misunderstandings of the protocol.
//! - It serves no remix, edit, extension or character endpoints and sends no webhooks.

pub mod clip;

mod book;
mod content;
mod control;
mod door;
mod errors;
mod http;
mod jobs;
mod office;
mod profile;
mod request;
mod script;
mod studio;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use poem::Server;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use book::{Book, BookedJob, CreateStamp, JobState, Totals};
pub use profile::{ModelCard, Profile};
pub use script::{Fault, Nth, Rule};

use door::{Connections, Door};
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
    /// The bearer key that `/v1` demands.
    pub api_key: String,
    pub profile: Profile,
}

/// A running emulator. Dropping it stops it without waiting.
pub struct Emulator {
    address: SocketAddr,
    studio: Arc<Studio>,
    serving: JoinHandle<std::io::Result<()>>,
    stopping: DropGuard,
}

impl Emulator {
    /// Binds and serves; on return the emulator answers. Errors when the address cannot be bound.
    pub async fn start(settings: EmulatorSettings) -> anyhow::Result<Emulator> {
        let connections = Connections::default();
        let door = Door::open(settings.listen, connections.clone()).await;
        let door = door.with_context(|| format!("the provider emulator cannot listen on {}", settings.listen))?;
        let address = door.address();
        let studio = Arc::new(Studio::new(settings.seed, settings.api_key, settings.profile));
        let routes = http::routes(Office::new(Arc::clone(&studio), connections));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let server = Server::new_with_acceptor(door).name("provider emulator");
        let serving = tokio::spawn(server.run_with_graceful_shutdown(routes, stopped, Some(STOP_PATIENCE)));
        Ok(Emulator { address, studio, serving, stopping: stop.drop_guard() })
    }

    /// What a client's base URL is set to: `http://127.0.0.1:PORT/v1`, no slash at the end.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
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

    /// Stops listening, gives requests under way a moment, and returns when all connections are closed.
    pub async fn stop(self) -> anyhow::Result<()> {
        drop(self.stopping);
        let served = self.serving.await.context("the provider emulator's server task failed")?;
        served.context("the provider emulator's server ended with an error")
    }
}
