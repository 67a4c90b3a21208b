//! The emulator's time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The wall clock at its start plus what has passed since, so that it never runs backwards, plus what
/// tests have added.
pub(super) struct Clock {
    started: Instant,
    started_ms: u64,
    advanced_ms: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { started: Instant::now(), started_ms: since_epoch.as_millis() as u64, advanced_ms: AtomicU64::new(0) }
    }

    pub(super) fn now_ms(&self) -> u64 {
        let passed_ms = self.started.elapsed().as_millis() as u64;
        self.started_ms.saturating_add(passed_ms).saturating_add(self.advanced_ms.load(Ordering::Relaxed))
    }

    pub(super) fn advance(&self, ms: u64) {
        let add = |advanced: u64| Some(advanced.saturating_add(ms));
        // The closure never refuses, so there is no error to handle.
        let _ = self.advanced_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}
