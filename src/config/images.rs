//! The section `[images]`: reference images, where they may come from, what they may take and how long they are kept.

use std::time::Duration;

use super::reader::Reader;
use super::sections::count;
use super::storage::LONGEST_RETENTION_DAYS;

/// The `/v1/videos` shape takes an image as a data URL of 20 MiB, which is 15 MiB before its encoding.
const LARGEST_IMAGE_BYTES: u64 = 15 << 20;

/// Memory for images is counted in units of so many bytes.
pub const IMAGE_MEMORY_UNIT: usize = 1024;

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

impl ImagesConfig {
    /// How many units of [`IMAGE_MEMORY_UNIT`] one tenant may hold of the memory: half of it, so that its slow servers make
    /// nobody else wait.
    pub fn tenants_share(&self) -> usize {
        self.memory_bytes / IMAGE_MEMORY_UNIT / 2
    }
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
    // in whole units: a share that is smaller by a fraction of one never holds the largest image
    if images.tenants_share() * IMAGE_MEMORY_UNIT < images.max_image_bytes {
        let least = images.max_image_bytes.div_ceil(IMAGE_MEMORY_UNIT) * 2 * IMAGE_MEMORY_UNIT;
        section.problem("memory_bytes", format_args!("must be at least {least}, twice max_image_bytes in whole KiB"));
    }
    section.finish();
    images
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn one_tenants_share_of_the_memory_holds_the_largest_image() {
        let images = |max: usize, memory: usize| {
            let text = format!("[images]\nmax_image_bytes = {max}\nmemory_bytes = {memory}");
            Config::from_sources(&text, []).map(|config| config.images).map_err(|error| error.to_string())
        };
        // half of it would do in bytes, and does not in KiB
        let refused = images(10_000_000, 20_000_000).unwrap_err();
        assert!(refused.contains("`images.memory_bytes` must be at least 20000768"), "{refused}");
        assert!(images(10_000_000, 20_000_767).is_err());
        let taken = images(10_000_000, 20_000_768).unwrap();
        assert_eq!(taken.tenants_share(), 9_766);
        assert!(images(1_024, 2_048).is_ok() && images(1_025, 2_050).is_err());
    }
}
