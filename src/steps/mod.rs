//! What each step of a batch does outside (act) and writes inside (record). The rules of the `workflows` crate say what
//! comes next; nothing is decided here.
//!
//! Always holds: no network call inside a transaction; an attempt is written before the first byte of it leaves; every
//! write is fenced or idempotent, so a step may be interrupted anywhere and run again anywhere else.

mod cancelled;
mod chain;
mod finalize;
mod generate;
mod late;
mod notify;
mod purge;
mod purge_images;
pub mod record;
mod reference;
mod sweep;

use std::time::Duration;

use crate::accounts::CircuitLaw;
use crate::callbacks::{Ears, Mailbox};
use crate::config::Live;
use crate::db::Database;
use crate::domain::{Credits, Size};
use crate::engine::recorder::Recorder;
use crate::ledger::chain::CheckpointKey;
use crate::providers::Registry;
use crate::providers::catalogue::Catalogue;
use crate::storage::Storage;
use crate::webhooks::Courier;
use record::VideoJournal;

pub use cancelled::CancelledBatches;
pub use chain::Chainer;
pub use finalize::finalize;
pub use generate::TakenSince;
pub use generate::generate;
pub use late::look_late;
pub use notify::notify;
pub use purge::{Purged, purge};
pub use purge_images::purge_images;
pub use reference::References;
pub use sweep::{Swept, sweep};

/// How long things may take around an attempt.
#[derive(Clone, Copy, Debug)]
pub struct AttemptTiming {
    /// For how long a lost answer is looked up at a provider that lists its jobs before it counts as not bought.
    pub lookup_settle: Duration,
    /// For how long a submission may stay open.
    pub submit_timeout: Duration,
    pub lookup_pause: Duration,
    /// Between two tries to store a finished output.
    pub store_pause: Duration,
}

/// How long accounts are left alone.
#[derive(Clone, Copy, Debug)]
pub struct AccountTiming {
    /// After a request to slow down that does not say for how long.
    pub cool_down: Duration,
    /// The longest pause that a provider may ask for.
    pub max_cool_down: Duration,
    /// After it said that money ran out or that it does not know us, until one video may try it.
    pub probe: Duration,
    /// After how many failed orders in a row, and for how long.
    pub circuit: CircuitLaw,
}

/// Everything that steps need.
pub struct Studio {
    /// With the engine's planner settings.
    pub db: Database,
    /// Writes claims only: they lock no batch, so they need not wait for the ends of other videos (a tenth more videos a
    /// second, measured).
    pub claims: Recorder<VideoJournal>,
    /// Writes everything after the claim.
    pub recorder: Recorder<VideoJournal>,
    pub catalogue: Live<Catalogue>,
    pub providers: Live<Registry>,
    pub storage: Storage,
    /// Gets the images that videos start from.
    pub references: References,
    pub courier: Courier,
    /// Signs what is kept of the ledger outside of the database.
    pub checkpoint_key: CheckpointKey,
    /// Who in this process may be called about.
    pub ears: Ears,
    /// Where what is known of a job is left for whoever holds its video.
    pub mailbox: Mailbox,
    pub timing: AttemptTiming,
    pub accounts: AccountTiming,
    /// Where this process had orders taken lately.
    pub taken: TakenSince,
    /// Whose jobs nobody wants any more.
    pub cancelled: CancelledBatches,
}

impl Studio {
    /// What one video may cost us: what its route is said to cost, or its price where nobody said.
    fn cost(&self, model: &str, route: (&str, &str), (seconds, size): (u32, &str), price: Credits) -> Credits {
        let size = size.parse::<Size>().ok();
        let catalogue = self.catalogue.get();
        let cost = catalogue.model(model).zip(size).and_then(|(model, size)| model.cost(route, seconds, size));
        cost.unwrap_or(price)
    }
}
