//! What a run measured, and the bounds that it is held against.

use serde::Serialize;

use super::kinds::Fate;
use super::verdict::End;

/// The worker's memory may grow by so much, in megabytes.
pub const MAX_GROWTH_MEGABYTES: f64 = 100.0;
/// Honest videos may take so much of their own time.
pub const MAX_RATIO: f64 = 1.2;

/// Honest batches: the medians of their rounds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Timing {
    /// Of one video, from the first request that was sent for it to its end.
    pub made_p50_ms: f64,
    pub made_p95_ms: f64,
    /// From the order to the end of the batch.
    pub batch_ms: f64,
}

impl Timing {
    pub(super) fn median(rounds: &[Timing]) -> Timing {
        let of = |figure: fn(&Timing) -> f64| {
            let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures.get(figures.len() / 2).copied().unwrap_or_default()
        };
        Timing {
            made_p50_ms: of(|round| round.made_p50_ms),
            made_p95_ms: of(|round| round.made_p95_ms),
            batch_ms: of(|round| round.batch_ms),
        }
    }
}

/// One hostile video.
#[derive(Clone, Debug, Serialize)]
pub struct HostileVideo {
    pub kind: String,
    pub fate: Fate,
    /// What it costs whom.
    pub money: &'static str,
    pub end: End,
    pub complaints: Vec<String>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct HostileReport {
    pub hostile: usize,
    /// Of them, different ones.
    pub kinds: usize,
    /// Honest videos of a batch.
    pub honest: usize,
    pub alone: Timing,
    pub beside: Timing,
    /// From the order of the hostile videos to the end of the last.
    pub hostile_seconds: f64,
    /// The worker's memory while honest batches ran alone, the median, and the most beside hostile ones.
    pub rss_alone_kilobytes: u64,
    pub rss_peak_kilobytes: u64,
    pub videos: Vec<HostileVideo>,
    /// Whatever is not as it has to be.
    pub complaints: Vec<String>,
}

impl HostileReport {
    pub fn growth_megabytes(&self) -> f64 {
        self.rss_peak_kilobytes.saturating_sub(self.rss_alone_kilobytes) as f64 / 1024.0
    }

    /// Beside hostile videos to alone: p50 and p95 of a video, and the batch.
    pub fn ratios(&self) -> [f64; 3] {
        [
            self.beside.made_p50_ms / self.alone.made_p50_ms,
            self.beside.made_p95_ms / self.alone.made_p95_ms,
            self.beside.batch_ms / self.alone.batch_ms,
        ]
    }

    /// Each hostile video failed alone and is refunded, and the books are right.
    pub fn is_sound(&self) -> bool {
        self.complaints.is_empty()
    }

    /// Speed and memory are within their bounds.
    pub fn is_within_bounds(&self) -> bool {
        self.growth_megabytes() < MAX_GROWTH_MEGABYTES && self.ratios().iter().all(|ratio| *ratio <= MAX_RATIO)
    }
}
