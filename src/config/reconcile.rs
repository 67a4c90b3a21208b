//! The section `[reconcile]`: how often the books are compared, and what their differences keep from starting.

use std::time::Duration;

use super::reader::Reader;

/// The comparison of the books.
#[derive(Clone, Debug)]
pub struct ReconcileConfig {
    /// In the whole cluster. Each time reads every entry, so not too often.
    pub every: Duration,
    /// How often the providers' lists of jobs are read for it.
    pub ask_providers_every: Duration,
    /// Workers start on a restored database even if its money is in doubt.
    pub start_despite_differences: bool,
}

pub(super) fn read(reader: &mut Reader) -> ReconcileConfig {
    let mut section = reader.section("reconcile");
    let reconcile = ReconcileConfig {
        every: section.secs("every_secs", 300, 1..=86_400),
        ask_providers_every: section.secs("ask_providers_every_secs", 3600, 1..=86_400 * 7),
        start_despite_differences: section.flag("start_despite_differences", false),
    };
    section.finish();
    reconcile
}
