//! The section `[images]`: reference images, where they may come from, what they may take and how long they are kept.

use std::time::Duration;

use super::reader::Reader;
use super::sections::count;
use super::storage::LONGEST_RETENTION_DAYS;

/// The `/v1/videos` shape takes an image as a data URL of 20 MiB, which is 15 MiB before its encoding.
const LARGEST_IMAGE_BYTES: u64 = 15 << 20;

/// Reference images.
#[derive(Clone, Debug)]
pub struct ImagesConfig {
    /// A larger image is refused, uploaded or fetched.
    pub max_image_bytes: usize,
    /// What a tenant may keep.
    pub max_per_tenant: u64,
    pub max_bytes_per_tenant: u64,
    /// For how many days of 24 hours an uploaded image is kept after its last use.
    pub retention_days: u32,
    /// What the images that a process is fetching and sending may take together.
    pub memory_bytes: usize,
    /// How long a customer's server may take for an image, redirects included.
    pub fetch_timeout: Duration,
    /// Whether an image may come by plain HTTP, or from a loopback or private address: for development.
    pub allow_private_sources: bool,
}

pub(super) fn read(reader: &mut Reader) -> ImagesConfig {
    let mut section = reader.section("images");
    let images = ImagesConfig {
        max_image_bytes: count(&mut section, "max_image_bytes", 10 << 20, 1_024..=LARGEST_IMAGE_BYTES),
        max_per_tenant: section.number("max_per_tenant", 10_000, 1..=10_000_000),
        max_bytes_per_tenant: section.number("max_bytes_per_tenant", 10 << 30, 1_024..=1 << 50),
        retention_days: u32::try_from(section.number("retention_days", 30, 1..=LONGEST_RETENTION_DAYS))
            .unwrap_or(u32::MAX),
        memory_bytes: count(&mut section, "memory_bytes", 64 << 20, 2_048..=1 << 40),
        fetch_timeout: section.secs("fetch_timeout_secs", 20, 1..=300),
        allow_private_sources: section.flag("allow_private_sources", false),
    };
    // one tenant's slow servers may hold half of it
    if images.memory_bytes / 2 < images.max_image_bytes {
        section.problem("memory_bytes", "must be at least twice max_image_bytes");
    }
    section.finish();
    images
}
