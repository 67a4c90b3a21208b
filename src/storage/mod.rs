//! Storage: finished videos in an object store (a local directory by default) and signed links to them.
//!
//! Always holds: an object is visible under its key only when it is a whole MP4 whose length and SHA-256 were computed
//! on the way in; success is reported only when it would survive a power cut (a local file, its directory and every new
//! directory above are fsynced; remote stores promise the same of themselves). What all uploads of a process hold in
//! memory is bounded (`memory`), and so is what a read holds. Every attempt has a key of its own, so that attempts never
//! overwrite each other's files; two puts under one key leave one whole file, that of the later.
//! Refuses: to fetch videos (the source is a stream), to know the database, to give out a remote store's own links.
//!
//! A process that is killed leaves its unfinished upload: locally a file `*.mp4#N`, remotely the parts of a multipart
//! upload, for which the bucket needs a lifecycle rule. Neither can be fetched.

use std::fmt;
use std::io::{self, SeekFrom};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt as _,
};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use crate::config::StorageConfig;
use crate::domain::{AttemptId, BatchId, TenantId, VideoId};

mod checkpoints;
mod image;
pub mod links;
mod memory;
pub mod mp4_check;
mod place;
mod probe;
mod put;
mod reference;
mod retention;
#[cfg(test)]
mod tests;

pub use checkpoints::Evidence;
pub use image::{ImageError, ImageKind, MAX_IMAGE_BYTES, StoredImage};
pub use links::{LinkError, LinkSigner, Linked, SignedLink};
pub use mp4_check::NotAVideo;
pub use place::StoreClients;
pub use probe::ProbeError;
pub use put::{PART_BYTES, StoreError, StoredVideo};
pub use retention::Retention;

use memory::UploadMemory;
use place::Place;

/// Every stored video is one of these.
pub const CONTENT_TYPE: &str = "video/mp4";
const READ_CHUNK_BYTES: usize = 256 * 1024;
/// A read of which the store sends nothing for this long is given up.
const READ_IDLE: Duration = Duration::from_secs(30);
const IN_MEMORY_MAX_VIDEO_BYTES: u64 = 1 << 30;
const IN_MEMORY_UPLOAD_BYTES: usize = 1 << 30;
const IN_MEMORY_RETENTION: Retention = Retention::new(30);

/// The key of an object: made of ids only, so that no text of a customer ever becomes part of a path.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ObjectKey(Path);

impl ObjectKey {
    /// `tenant/batch/video/attempt.mp4`, each as its bare id.
    pub fn video(tenant: TenantId, batch: BatchId, video: VideoId, attempt: AttemptId) -> ObjectKey {
        let file = format!("{}.mp4", attempt.bare());
        ObjectKey(Path::from_iter([tenant.bare(), batch.bare(), video.bare(), file]))
    }

    /// The picture that belongs to the video of that attempt.
    pub fn thumbnail(tenant: TenantId, batch: BatchId, video: VideoId, attempt: AttemptId) -> ObjectKey {
        ObjectKey::video(tenant, batch, video, attempt).its_thumbnail()
    }

    /// The key of the picture that belongs to this video.
    pub fn its_thumbnail(&self) -> ObjectKey {
        let text = self.0.as_ref();
        ObjectKey(Path::from(format!("{}.thumbnail", text.strip_suffix(".mp4").unwrap_or(text))))
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

    /// A read that broke off.
    pub(crate) fn broken(key: &ObjectKey, error: io::Error) -> ReadError {
        ReadError::new(key, object_store::Error::Generic { store: "read", source: error.into() })
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
    /// The same with fewer retries, for what somebody waits for.
    hasty: Arc<dyn ObjectStore>,
    /// What is told to the store of every object; a local directory can keep nothing.
    attributes: Attributes,
    part_bytes: usize,
    upload_memory: UploadMemory,
    max_video_bytes: u64,
    retention: Retention,
    /// Whether pictures are kept beside videos.
    thumbnails: bool,
    place: Arc<str>,
}

impl Storage {
    /// Opens the store that the settings name; `clients` is asked for the connections of a remote one. Makes a local
    /// directory; asks a remote store nothing yet: [`Storage::probe`] does.
    ///
    /// # Errors
    /// When the place is no directory that can be made and entered, or what is said of it cannot be understood.
    pub fn open(
        config: &StorageConfig,
        clients: impl FnOnce() -> anyhow::Result<StoreClients>,
    ) -> anyhow::Result<Storage> {
        let place = Place::open(config, clients)?;
        let retention = Retention::new(config.retention_days);
        let storage = Storage::at(place, config.max_video_bytes, config.upload_memory_bytes, retention);
        Ok(Storage { thumbnails: config.thumbnails, ..storage })
    }

    /// A store that lives and dies with the process, for tests and benches. Takes videos up to 1 GiB.
    pub fn in_memory() -> Storage {
        Storage::at(Place::in_memory(), IN_MEMORY_MAX_VIDEO_BYTES, IN_MEMORY_UPLOAD_BYTES, IN_MEMORY_RETENTION)
    }

    fn at(place: Place, max_video_bytes: u64, upload_memory_bytes: usize, retention: Retention) -> Storage {
        let attributes = match place.keeps_attributes {
            true => Attributes::from_iter([(Attribute::ContentType, CONTENT_TYPE)]),
            false => Attributes::new(),
        };
        Storage {
            store: place.store,
            hasty: place.hasty,
            attributes,
            part_bytes: place.part_bytes,
            upload_memory: UploadMemory::new(upload_memory_bytes, place.part_bytes),
            max_video_bytes,
            retention,
            thumbnails: true,
            place: place.name,
        }
    }

    /// Whether the small pictures that providers make of their videos are kept.
    pub fn keeps_thumbnails(&self) -> bool {
        self.thumbnails
    }

    /// How long files are kept.
    pub fn retention(&self) -> Retention {
        self.retention
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
        let found = tokio::time::timeout(READ_IDLE, self.hasty.get_opts(&key.0, options)).await;
        match found.unwrap_or_else(|_| Err(silent())) {
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
        match self.hasty.head(&key.0).await {
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
        write!(f, "Storage({})", self.place)
    }
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
        GetResultPayload::Stream(stream) => Ok(with_idle_limit(stream.map_err(io::Error::from).boxed())),
    }
}

fn silent() -> object_store::Error {
    let source = io::Error::new(io::ErrorKind::TimedOut, "the object store fell silent");
    object_store::Error::Generic { store: "read", source: source.into() }
}

/// A store that falls silent ends the stream. The time in which nobody asks for more does not count.
fn with_idle_limit(stream: ByteStream) -> ByteStream {
    let next = async |mut stream: ByteStream| match tokio::time::timeout(READ_IDLE, stream.next()).await {
        Ok(chunk) => Ok(chunk.transpose()?.map(|chunk| (chunk, stream))),
        Err(_) => Err(silent().into()),
    };
    futures_util::stream::try_unfold(stream, next).boxed()
}
