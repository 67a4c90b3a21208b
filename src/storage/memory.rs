//! What the uploads of a process may hold in memory.
//!
//! Always holds: an upload holds what it has gathered of one part, block by block, and no more, so that a source that drips
//! takes little and gives it back with its part; all uploads together hold at most the configured amount, and
//! [`UNRESERVED_BYTES`] each. Uploads never wait for each other alone: a quarter of the amount is kept back for whole parts,
//! and whoever has that for its part waits for nobody's memory until the part is sent, and gives up its blocks. Only
//! sources that stand still, as many as fill the amount, can hold others up: until one that has a whole part ends.
//! Refuses: to judge how fast a source is. Whoever fetches it ends one that is too slow.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What an upload may hold of its part without asking: most clips of some seconds in small formats need no more.
const UNRESERVED_BYTES: usize = 256 << 10;
/// What is asked for at a time: the block in which a part is gathered.
pub(super) const BLOCK_BYTES: usize = 64 << 10;
const KIB: usize = 1024;

/// The memory of all uploads. Clones are the same.
#[derive(Clone)]
pub(super) struct UploadMemory {
    /// In KiB.
    shared: Arc<Semaphore>,
    shared_kib: usize,
    /// In whole parts.
    kept_back: Arc<Semaphore>,
    part_bytes: usize,
}

/// What one upload holds beyond what it need not ask for.
#[derive(Default)]
pub(super) struct Held {
    blocks: Option<OwnedSemaphorePermit>,
    whole_part: Option<OwnedSemaphorePermit>,
}

impl Held {
    fn covers(&self, bytes: usize) -> bool {
        let blocks_kib = self.blocks.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        self.whole_part.is_some() || bytes <= UNRESERVED_BYTES + blocks_kib * KIB
    }

    fn add(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.blocks {
            Some(blocks) => blocks.merge(more),
            none => *none = Some(more),
        }
    }
}

impl UploadMemory {
    /// `total_bytes` for uploads in parts of `part_bytes`; never less than one part, or nothing could be stored.
    pub(super) fn new(total_bytes: usize, part_bytes: usize) -> UploadMemory {
        let parts = (total_bytes / 4 / part_bytes).max(1);
        let shared_kib = (total_bytes.saturating_sub(parts * part_bytes) / KIB).min(Semaphore::MAX_PERMITS);
        UploadMemory {
            shared: Arc::new(Semaphore::new(shared_kib)),
            shared_kib,
            kept_back: Arc::new(Semaphore::new(parts)),
            part_bytes,
        }
    }

    /// Waits until `held` allows to have gathered `bytes` of a part.
    pub(super) async fn cover(&self, held: &mut Held, bytes: usize) {
        debug_assert!(bytes <= self.part_bytes, "more than a part");
        let block_kib = u32::try_from(BLOCK_BYTES / KIB).unwrap_or(u32::MAX);
        while !held.covers(bytes) {
            // neither is ever closed
            tokio::select! {
                biased;
                Ok(blocks) = self.shared.clone().acquire_many_owned(block_kib) => held.add(blocks),
                // its blocks are in there: others may go on with them
                Ok(part) = self.kept_back.clone().acquire_owned() => *held = Held { blocks: None, whole_part: Some(part) },
                else => return,
            }
        }
    }

    /// Waits until `held` allows to have gathered `bytes` of a picture that has `most_bytes` at most. What may be needed is
    /// asked for at once, so that pictures do not stand in each other's way.
    pub(super) async fn cover_picture(&self, held: &mut Held, bytes: usize, most_bytes: usize) {
        if !held.covers(bytes) && held.blocks.is_none() {
            let kib = most_bytes.saturating_sub(UNRESERVED_BYTES).div_ceil(KIB).min(self.shared_kib);
            // never closed
            held.blocks = self.shared.clone().acquire_many_owned(u32::try_from(kib).unwrap_or(u32::MAX)).await.ok();
        }
    }

    /// (bytes of blocks that are free, whole parts that are)
    #[cfg(test)]
    pub(super) fn free(&self) -> (usize, usize) {
        (self.shared.available_permits() * KIB, self.kept_back.available_permits())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    const PART: usize = 1 << 20;

    fn is_covered_at_once(memory: &UploadMemory, held: &mut Held, bytes: usize) -> bool {
        memory.cover(held, bytes).now_or_never().is_some()
    }

    #[tokio::test]
    async fn what_is_gathered_is_what_is_held() {
        let memory = UploadMemory::new(8 * PART, PART);
        assert_eq!(memory.free(), (6 * PART, 2));
        let mut held = Held::default();
        memory.cover(&mut held, UNRESERVED_BYTES).await;
        assert_eq!(memory.free(), (6 * PART, 2));
        memory.cover(&mut held, UNRESERVED_BYTES + 1).await;
        memory.cover(&mut held, UNRESERVED_BYTES + BLOCK_BYTES).await;
        assert_eq!(memory.free(), (6 * PART - BLOCK_BYTES, 2));
        memory.cover(&mut held, PART).await;
        assert_eq!(memory.free(), (6 * PART - (PART - UNRESERVED_BYTES), 2));
        drop(held);
        assert_eq!(memory.free(), (6 * PART, 2));
    }

    #[tokio::test]
    async fn uploads_that_stand_in_each_others_way_get_through_one_after_another() {
        // two parts in all, one of them kept back; all uploads are half way through a part when the rest is gone
        let memory = UploadMemory::new(2 * PART, PART);
        let mut uploads = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let memory = memory.clone();
            uploads.spawn(async move {
                for _ in 0..3 {
                    let mut held = Held::default();
                    for bytes in (0..=PART).step_by(10_000).chain([PART]) {
                        memory.cover(&mut held, bytes).await;
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
        let through = tokio::time::timeout(Duration::from_secs(60), uploads.join_all()).await;
        assert_eq!(through.expect("they wait for each other").len(), 20);
        assert_eq!(memory.free(), (PART, 1));
    }

    #[tokio::test]
    async fn the_whole_never_exceeds_what_was_configured() {
        let memory = UploadMemory::new(4 * PART, PART);
        let mut uploads: Vec<Held> = (0..40).map(|_| Held::default()).collect();
        let mut through = 0;
        for held in &mut uploads {
            through += usize::from(is_covered_at_once(&memory, held, PART));
        }
        // three parts of blocks, less what needs none, and the one kept back
        assert_eq!((through, memory.free()), (3 * PART / (PART - UNRESERVED_BYTES) + 1, (0, 0)));
    }

    #[tokio::test]
    async fn a_long_picture_waits_for_its_share_and_a_short_one_needs_none() {
        let memory = UploadMemory::new(4 * PART, PART);
        let picture = |held: &mut Held, bytes| memory.cover_picture(held, bytes, 2 * PART).now_or_never().is_some();
        let mut held = [Held::default(), Held::default(), Held::default()];
        assert!(held.iter_mut().all(|held| picture(held, UNRESERVED_BYTES)));
        assert_eq!(memory.free(), (3 * PART, 1));
        let long: Vec<bool> = held.iter_mut().map(|held| picture(held, UNRESERVED_BYTES + 1)).collect();
        assert_eq!(long, [true, false, false]);
        assert_eq!(memory.free(), (PART + UNRESERVED_BYTES, 1));
        drop(held);
        // more than there is at all is as much as there is
        assert!(UploadMemory::new(0, PART).cover_picture(&mut Held::default(), PART, PART).now_or_never().is_some());
    }

    #[tokio::test]
    async fn the_least_amount_still_lets_one_part_through() {
        let memory = UploadMemory::new(0, PART);
        let mut held = Held::default();
        memory.cover(&mut held, PART).await;
        assert!(!is_covered_at_once(&memory, &mut Held::default(), PART));
        drop(held);
        memory.cover(&mut Held::default(), PART).await;
    }
}
