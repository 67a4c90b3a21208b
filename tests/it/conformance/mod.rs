//! What every provider adapter has to live through, written once and run for each against its emulator surface.
//!
//! A [`Surface`] says how an adapter is set up and what its creates look like on the wire; everything else is the same for
//! all. A [`Scenario`] is a story with an end that is judged: it returns an error instead of panicking, so that the suite
//! can be held against adapters that are broken on purpose ([`planted`]) and has to be red for each.

mod fal;
mod files;
mod gemini_omni;
mod jobs;
mod openai_videos;
mod orders;
mod planted;
mod stage;
mod veo;

use std::time::Duration;

use anyhow::Context;
use freezeframe::config::ProviderConfig;
use freezeframe::domain::{Secret, Size};
use freezeframe::emulator::{Emulator, SeenRequest};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;

use planted::Bug;
use stage::Stage;

/// Reached by scenarios that fail alone.
const PATIENCE: Duration = Duration::from_secs(90);

/// One adapter, and the part of the emulator that speaks its protocol.
pub trait Surface: Send + Sync {
    fn kind(&self) -> &'static str;

    /// The account that calls the emulator with this key.
    fn account(&self, emulator: &Emulator, key: Secret) -> ProviderConfig;

    /// A model that the emulator serves here, by the provider's name.
    fn model(&self) -> &'static str;

    /// Two orders that the model takes: both differ from what the vendor makes when nothing is said.
    fn orders(&self) -> [(u32, Size); 2];

    /// Length and size as this request spells them; `None` when it is no create. A create that leaves one of them out
    /// is an error.
    fn ordered(&self, request: &SeenRequest) -> Option<anyhow::Result<(u32, Size)>>;

    /// The same account with a provider that honours idempotency keys; `None` where the protocol has none.
    fn account_with_keys(&self, _emulator: &Emulator, _key: Secret) -> Option<ProviderConfig> {
        None
    }

    /// The file comes by a URL that can redirect (and not inside of an answer).
    fn has_links(&self) -> bool {
        true
    }

    /// How much of an endless answer to a poll may be taken, over all repeats, in bytes.
    fn endless_poll_bytes(&self) -> u64 {
        128 << 20
    }
}

/// A story; its name says what holds.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub play: for<'s> fn(&'s Stage) -> BoxFuture<'s, anyhow::Result<()>>,
}

/// `scenario!(function)`: the function's name is the scenario's.
macro_rules! scenario {
    ($function:path) => {
        $crate::conformance::Scenario {
            name: stringify!($function),
            play: |stage| Box::pin(async move { $function(stage).await }),
        }
    };
}
use scenario;

/// Every scenario there is.
pub fn scenarios() -> Vec<Scenario> {
    [orders::SCENARIOS, jobs::SCENARIOS, files::SCENARIOS].concat()
}

/// Scenarios that are played at a time: most of them wait most of the time.
const SIDE_BY_SIDE: usize = 8;

/// Plays the scenarios side by side, each with an emulator of its own, and tells what went wrong.
pub async fn failures(surface: &dyn Surface, bug: Option<Bug>, scenarios: &[Scenario]) -> Vec<String> {
    let played = scenarios.iter().map(|scenario| async move {
        let played = async {
            let stage = Stage::open(surface, bug).await?;
            let played = tokio::time::timeout(PATIENCE, (scenario.play)(&stage)).await;
            played.context("it did not come to an end").flatten()
        };
        let error: anyhow::Error = played.await.err()?;
        Some(format!("{}, {}: {error:#}", surface.kind(), scenario.name))
    });
    stream::iter(played).buffer_unordered(SIDE_BY_SIDE).filter_map(|failure| async { failure }).collect().await
}

/// Fails unless the adapter passes everything.
pub async fn conforms(surface: &dyn Surface) {
    let failures = failures(surface, None, &scenarios()).await;
    assert!(failures.is_empty(), "{} scenarios failed:\n- {}", failures.len(), failures.join("\n- "));
}
