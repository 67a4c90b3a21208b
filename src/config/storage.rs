//! The section `[storage]`: where finished videos are kept, how that place is reached, for how long they stay.
//!
//! Always holds: the place is of a kind that the storage room can open, and its URL holds no password; an access key
//! comes with its secret or not at all. Of the environment, the variables that the vendors' own tools read are taken over
//! for the vendor that the URL names; a setting of ours wins over them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::reader::{Reader, Section};
use super::sections::{count, rate};
use crate::domain::Secret;

/// The longest time for which files can be kept, in days: a century.
pub const LONGEST_RETENTION_DAYS: u64 = 36_500;
/// S3 takes 10,000 parts of an object; parts have 5 MiB.
const LARGEST_VIDEO_BYTES: u64 = 48 << 30;
/// One part must fit.
const LEAST_UPLOAD_MEMORY_BYTES: u64 = 8 << 20;

/// Where finished videos are kept, and for how long.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// `file:///directory`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or, for tests, `memory://`.
    pub url: Url,
    pub access: StoreAccess,
    /// How long a download link works.
    pub link_ttl: Duration,
    /// How long files are kept for tenants that have no retention of their own, in days of 24 hours.
    pub retention_days: u32,
    /// A provider's file above this is refused.
    pub max_video_bytes: u64,
    /// What the parts of all uploads of a process may take together.
    pub upload_memory_bytes: usize,
    /// Whether the small pictures that some providers make of their videos are fetched and kept too.
    pub thumbnails: bool,
}

/// How a remote object store is reached.
#[derive(Clone, Debug, Default)]
pub struct StoreAccess {
    /// Of a compatible service; absent for the vendor's own.
    pub endpoint: Option<Url>,
    pub region: Option<String>,
    /// For `az://`, the storage account.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<Secret>,
    /// The bucket is part of the host name instead of the path.
    pub virtual_hosted: bool,
    /// A service account's key file, for `gs://`.
    pub credentials_file: Option<PathBuf>,
    /// The vendor's own variables (`AWS_...`, `GOOGLE_...`, `AZURE_...`), names in lower case.
    pub environment: Vec<(String, Secret)>,
}

/// The storage section before its default target, which depends on `data_dir`, is known.
pub(super) struct StorageDraft {
    pub(super) url: Option<Url>,
    access: StoreAccess,
    link_ttl: Duration,
    retention_days: u32,
    max_video_bytes: u64,
    upload_memory_bytes: usize,
    thumbnails: bool,
}

impl StorageDraft {
    pub(super) fn complete(self) -> Option<StorageConfig> {
        let StorageDraft { url, access, link_ttl, retention_days, max_video_bytes, upload_memory_bytes, thumbnails } =
            self;
        let url = url?;
        Some(StorageConfig { url, access, link_ttl, retention_days, max_video_bytes, upload_memory_bytes, thumbnails })
    }
}

pub(super) fn read(reader: &mut Reader, variables: &BTreeMap<String, String>) -> StorageDraft {
    let mut section = reader.section("storage");
    let target = section.text("url");
    let url = target.as_deref().and_then(storage_target);
    if target.is_some() && url.is_none() {
        let form = "must be a path, file:///DIRECTORY, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or \
                    memory://, without a password";
        section.problem("url", form);
    }
    let scheme = url.as_ref().map_or("file", Url::scheme);
    let draft = StorageDraft {
        access: read_access(&mut section, scheme, variables),
        url,
        link_ttl: section.secs("link_ttl_secs", 86_400, 60..=604_800),
        retention_days: rate(section.number("retention_days", 30, 1..=LONGEST_RETENTION_DAYS)),
        max_video_bytes: section.number("max_video_bytes", 1 << 30, 1_024..=LARGEST_VIDEO_BYTES),
        upload_memory_bytes: count(
            &mut section,
            "upload_memory_bytes",
            64 << 20,
            LEAST_UPLOAD_MEMORY_BYTES..=LARGEST_VIDEO_BYTES,
        ),
        thumbnails: section.flag("thumbnails", true),
    };
    section.finish();
    draft
}

fn read_access(section: &mut Section<'_>, scheme: &str, variables: &BTreeMap<String, String>) -> StoreAccess {
    let access = StoreAccess {
        endpoint: section.web_url("endpoint"),
        region: section.text("region"),
        access_key_id: section.text("access_key_id"),
        secret_access_key: section.text("secret_access_key").map(Secret::new),
        virtual_hosted: section.flag("virtual_hosted", false),
        credentials_file: section.text("credentials_file").map(PathBuf::from),
        environment: vendor_variables(scheme, variables),
    };
    if access.access_key_id.is_some() != access.secret_access_key.is_some() && scheme != "az" {
        section.problem("secret_access_key", "and access_key_id must be given together");
    }
    if scheme == "gs" && access.access_key_id.is_some() {
        section
            .problem("access_key_id", "is not for gs://; give credentials_file, or run with the machine's own account");
    }
    access
}

fn vendor_variables(scheme: &str, variables: &BTreeMap<String, String>) -> Vec<(String, Secret)> {
    let prefix = match scheme {
        "s3" => "AWS_",
        "gs" => "GOOGLE_",
        "az" => "AZURE_",
        _ => return Vec::new(),
    };
    let theirs = variables.iter().filter(|(name, _)| name.starts_with(prefix));
    theirs.map(|(name, value)| (name.to_ascii_lowercase(), Secret::new(value))).collect()
}

/// `None` when the text names no place where videos could be kept.
fn storage_target(text: &str) -> Option<Url> {
    if !text.contains("://") {
        return directory_url(Path::new(text));
    }
    let url = Url::parse(text).ok()?;
    let known = match url.scheme() {
        "file" => !url.has_host(),
        "s3" | "gs" | "az" => url.has_host() && url.port().is_none(),
        "memory" => true,
        _ => false,
    };
    let plain = url.query().is_none() && url.fragment().is_none();
    Some(url).filter(|url| known && plain && url.username().is_empty() && url.password().is_none())
}

/// `file:///...` of a directory; `None` when the working directory is gone.
pub(super) fn directory_url(path: &Path) -> Option<Url> {
    Url::from_directory_path(std::path::absolute(path).ok()?).ok()
}
