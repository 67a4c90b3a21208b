//! Storage: finished videos in an object store (a local directory by default) and signed links to them.
//!
//! Always holds: an object is visible under its key only when it is a whole MP4 whose length and SHA-256 were computed
//! on the way in; success is reported only when it would survive a power cut (a local file, its directory and every new
//! directory above are fsynced; remote stores promise the same of themselves). A put holds at most one part
//! ([`PART_BYTES`]) and one chunk of its source in memory. Every attempt has a key of its own, so that a worker that lost
//! its lease never overwrites another's file; two puts under one key leave one whole file, that of the later.
//! Refuses: to fetch anything (the source is a stream), to know the database, to give out a remote store's own links.
//!
//! A process that is killed leaves its unfinished upload: locally a file `*.mp4#N`, remotely the parts of a multipart
//! upload, for which the bucket needs a lifecycle rule. Neither can be fetched.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt as _,
};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use url::Url;

use crate::domain::{AttemptId, BatchId, TenantId, VideoId};

pub mod links;
pub mod mp4_check;
mod put;
#[cfg(test)]
mod tests;

pub use links::{LinkError, LinkSigner, SignedLink};
pub use mp4_check::NotAVideo;
pub use put::{PART_BYTES, StoreError, StoredVideo};

/// Every stored object is one of these.
pub const CONTENT_TYPE: &str = "video/mp4";
const READ_CHUNK_BYTES: usize = 256 * 1024;
const IN_MEMORY_MAX_VIDEO_BYTES: u64 = 1 << 30;

/// Where videos are kept and how large one may be.
#[derive(Clone, Debug)]
pub struct StorageSettings {
    /// A directory (made when missing, for its owner alone), `file:///dir`, `memory://`, or `s3://bucket/prefix` with
    /// the credentials of the machine's role.
    pub url_or_path: String,
    /// A longer video is refused with [`StoreError::TooLarge`].
    pub max_video_bytes: u64,
}

/// The key of an object: made of ids only, so that no text of a customer ever becomes part of a path.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ObjectKey(Path);

impl ObjectKey {
    /// `tenant/batch/video/attempt.mp4`, each as its bare id.
    pub fn video(tenant: TenantId, batch: BatchId, video: VideoId, attempt: AttemptId) -> ObjectKey {
        let file = format!("{}.mp4", attempt.bare());
        ObjectKey(Path::from_iter([tenant.bare(), batch.bare(), video.bare(), file]))
    }

    /// The key as it was stored with the video; `None` when the text is no path below the store.
    pub fn from_stored(text: &str) -> Option<ObjectKey> {
        Path::parse(text).ok().filter(|path| path.parts().next().is_some()).map(ObjectKey)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Why an object could not be read, looked up or deleted.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the object {key} does not exist")]
    NotFound { key: ObjectKey },
    /// The range is empty or begins at or after the end of the object, which has `bytes`.
    #[error("the range asked for lies outside of {key}, which has {bytes} bytes")]
    RangeOutside { key: ObjectKey, bytes: u64 },
    #[error("the object store failed on {key}")]
    Store { key: ObjectKey, source: object_store::Error },
}

impl ReadError {
    fn new(key: &ObjectKey, source: object_store::Error) -> ReadError {
        let key = key.clone();
        match source {
            object_store::Error::NotFound { .. } => ReadError::NotFound { key },
            source => ReadError::Store { key, source },
        }
    }
}

/// What is being read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    /// Length of the whole object.
    pub bytes: u64,
    /// The part that the stream carries: the range asked for, cut at the end of the object.
    pub range: Range<u64>,
}

/// The bytes of an object. An error is its last item.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// The object store of an installation. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    /// What is told to the store of every object; a local directory can keep nothing.
    attributes: Attributes,
    max_video_bytes: u64,
}

impl Storage {
    /// Opens the store that the settings name. Makes a local directory; asks a remote store nothing yet.
    ///
    /// # Errors
    /// When the place is no directory that can be made and entered, or of a kind that this build does not know.
    pub fn open(settings: &StorageSettings) -> anyhow::Result<Storage> {
        let StorageSettings { url_or_path, max_video_bytes } = settings;
        let (store, attributes): (Arc<dyn ObjectStore>, _) = if url_or_path.contains("://") {
            // The URL is not repeated in errors: some put credentials into it.
            let url = Url::parse(url_or_path).context("the storage URL cannot be read")?;
            match url.scheme() {
                "memory" => (Arc::new(InMemory::new()), content_type()),
                "file" => {
                    let path = url.to_file_path().ok();
                    let path = path.context("the storage URL names no local directory; expected file:///directory")?;
                    (Arc::new(open_directory(path)?), Attributes::new())
                }
                "s3" => {
                    let (store, prefix) = object_store::parse_url(&url).context("the S3 storage cannot be set up")?;
                    (Arc::new(PrefixStore::new(store, prefix)), content_type())
                }
                other => {
                    anyhow::bail!("storage of kind `{other}://` is not known; use a directory, file, memory or s3")
                }
            }
        } else {
            (Arc::new(open_directory(PathBuf::from(url_or_path))?), Attributes::new())
        };
        Ok(Storage { store, attributes, max_video_bytes: *max_video_bytes })
    }

    /// A store that lives and dies with the process, for tests and benches. Takes videos up to 1 GiB.
    pub fn in_memory() -> Storage {
        Storage {
            store: Arc::new(InMemory::new()),
            attributes: content_type(),
            max_video_bytes: IN_MEMORY_MAX_VIDEO_BYTES,
        }
    }

    /// Reads an object, or the part of it that `range` names (end exclusive; cut at the end of the object).
    ///
    /// # Errors
    /// [`ReadError`]; a failure after the first byte is the stream's last item.
    pub async fn get(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<(StoredObject, ByteStream), ReadError> {
        let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..GetOptions::default() };
        match self.store.get_opts(&key.0, options).await {
            Ok(found) => {
                let object = StoredObject { bytes: found.meta.size, range: found.range.clone() };
                let stream = stream_of(found).await.map_err(|source| ReadError::new(key, source))?;
                Ok((object, stream))
            }
            // Stores word a bad range in their own ways; the length tells.
            Err(error) => match (range, self.head(key).await) {
                (Some(range), Ok(Some(bytes))) if range.is_empty() || range.start >= bytes => {
                    Err(ReadError::RangeOutside { key: key.clone(), bytes })
                }
                _ => Err(ReadError::new(key, error)),
            },
        }
    }

    /// The length of an object in bytes; `None` when there is none.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    pub async fn head(&self, key: &ObjectKey) -> Result<Option<u64>, ReadError> {
        match self.store.head(&key.0).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(ReadError::new(key, source)),
        }
    }

    /// Removes an object; no error when there is none, so that it can be repeated.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    pub async fn delete(&self, key: &ObjectKey) -> Result<(), ReadError> {
        match self.store.delete(&key.0).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(ReadError::new(key, source)),
        }
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By its name: a remote store's own `Debug` goes down to its credentials.
        write!(f, "Storage({})", self.store)
    }
}

fn content_type() -> Attributes {
    Attributes::from_iter([(Attribute::ContentType, CONTENT_TYPE)])
}

/// A store in `path`. The directory itself is for its owner alone (the store makes files that all may read); those above
/// it, which may be shared with other services, are made as usual.
fn open_directory(path: PathBuf) -> anyhow::Result<LocalFileSystem> {
    let make = || -> io::Result<()> {
        let path = std::path::absolute(&path)?;
        let Some(parent) = path.parent().filter(|_| !path.is_dir()) else { return Ok(()) };
        let new_above: Vec<_> = parent.ancestors().take_while(|above| !above.is_dir()).collect();
        fs::create_dir_all(parent)?;
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if !path.is_dir() => return Err(error),
            _ => {}
        }
        // Each new name is durable once the directory that holds it is.
        File::open(parent)?.sync_all()?;
        new_above.iter().filter_map(|above| above.parent()).try_for_each(|holder| File::open(holder)?.sync_all())
    };
    make().with_context(|| format!("cannot make the storage directory {}", path.display()))?;
    let store = LocalFileSystem::new_with_prefix(&path)
        .with_context(|| format!("cannot open the storage directory {}", path.display()))?;
    // Costs about 1 ms for a video of 140 kB and 4 ms for one of 4 MB on a virtual disk; 32 at a time share it to 0.5 ms.
    Ok(store.with_fsync(true).with_automatic_cleanup(true))
}

/// The bytes of what was found; local files in larger chunks than the store's own 8 KiB, each of which would be a trip to
/// the pool of blocking threads.
async fn stream_of(found: GetResult) -> object_store::Result<ByteStream> {
    let range = found.range.clone();
    match found.payload {
        GetResultPayload::File(file, _) => {
            let failed = |source: io::Error| object_store::Error::Generic { store: "file", source: source.into() };
            let mut file = tokio::fs::File::from_std(file);
            file.seek(SeekFrom::Start(range.start)).await.map_err(failed)?;
            let bytes = range.end - range.start;
            Ok(ReaderStream::with_capacity(file.take(bytes), READ_CHUNK_BYTES).boxed())
        }
        GetResultPayload::Stream(stream) => Ok(stream.map_err(io::Error::from).boxed()),
    }
}
