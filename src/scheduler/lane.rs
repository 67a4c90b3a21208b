//! The lane: what the scheduler chooses between.

use crate::domain::{BatchId, TenantId};

/// A batch's videos of one model, with its tenant's limits, while any of them is unsettled.
#[derive(Clone, Debug)]
pub struct OpenLane {
    pub batch: BatchId,
    pub model: String,
    pub tenant: TenantId,
    /// Waiting and not in back-off; none of a batch of which nothing more is to begin.
    pub eligible: i32,
    pub waiting: i32,
    /// Released or running.
    pub in_flight: i32,
    pub videos_per_minute: i32,
    pub max_in_flight: i32,
    /// The batch's own pace.
    pub batch_per_minute: Option<i32>,
    /// Whether any of its videos starts from an image.
    pub with_images: bool,
    /// The customer paused its batch.
    pub paused: bool,
}
