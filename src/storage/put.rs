//! Taking a video in: stream, check, hash, upload, and only then show it.
//!
//! Always holds: until [`Upload::publish`] nothing is visible under the key, so that every failure before it needs no
//! more than to drop the upload's parts; an upload that is given up, even by dropping the future, is aborted, and the
//! abort is repeated for half an hour while the store is away.
//! Memory: an upload holds one chunk of its source and what it has gathered of one part, which is sent before the next is
//! gathered. How much that may be for all uploads of a process together is bounded (`memory`): an upload for which there is
//! none rests, and with it its source.

use std::mem;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use object_store::{MultipartUpload, ObjectStore as _, PutMultipartOptions, PutOptions, PutPayload, PutPayloadMut};
use ring::digest::{Context, SHA256};

use super::memory::{BLOCK_BYTES, Held};
use super::mp4_check::{Mp4Check, NotAVideo};
use super::{CONTENT_TYPE, ObjectKey, Storage};

/// Length of the parts of a multipart upload. 5 MiB is the least that S3 takes; all but the last are of the same length,
/// as R2 wants it. A video up to this long goes up in one request.
pub const PART_BYTES: usize = 5 << 20;
/// The same for a local directory, where a part is only a write.
pub(super) const LOCAL_PART_BYTES: usize = 1 << 20;
/// How long the end of a failed upload waits for its parts to be dropped; then that goes on in the background.
const ABORT_WITHIN: Duration = Duration::from_secs(2);
/// The pauses before an abort is tried, and tried again.
const ABORT_PAUSES_SECS: [u64; 7] = [0, 2, 10, 30, 120, 600, 1200];

/// A video that is stored, whole and durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredVideo {
    pub bytes: u64,
    pub sha256: [u8; 32],
    pub content_type: &'static str,
}

/// Why a video was not stored. Whose fault it was decides what is done about it, so each has its own variant.
#[derive(Debug, thiserror::Error)]
pub enum StoreError<E> {
    /// The source broke off; what it said.
    #[error("the download broke off")]
    Source(#[source] E),
    /// The source ended without an error, but not with the length that it had announced.
    #[error("the download has {received_bytes} bytes or more where {expected_bytes} were announced")]
    Length { expected_bytes: u64, received_bytes: u64 },
    /// The source gave all it had, and that is no whole MP4.
    #[error("the download is not a whole MP4")]
    NotAVideo(#[source] NotAVideo),
    /// The source has a video longer than the configured limit.
    #[error("the video has more than the {limit_bytes} bytes that are allowed")]
    TooLarge { limit_bytes: u64 },
    /// Our own store failed; the video may be fetched and stored again.
    #[error("the object store did not take {key}")]
    Store { key: ObjectKey, source: object_store::Error },
}

/// What was learnt of a body on its way through.
struct Received {
    bytes: u64,
    sha256: [u8; 32],
}

impl Storage {
    /// Stores what `stream` carries under `key`, if it is a whole MP4. Repeating it with the same key replaces the object
    /// in one step.
    ///
    /// `expected_len` is the length in bytes that the source announced, if it did. The stream must bring its own time
    /// limits. Stops reading at the first sign that the body cannot be stored.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is visible under `key` that was not before.
    pub async fn put_video<E>(
        &self,
        key: &ObjectKey,
        stream: impl Stream<Item = Result<Bytes, E>> + Send,
        expected_len: Option<u64>,
    ) -> Result<StoredVideo, StoreError<E>> {
        let mut upload = Upload { storage: self, key, buffer: new_buffer(), held: Held::default(), multipart: None };
        let outcome = match self.receive(&mut upload, stream, expected_len).await {
            Ok(received) => {
                let published = upload.publish().await;
                published.map(|()| received).map_err(|source| StoreError::Store { key: key.clone(), source })
            }
            Err(error) => Err(error),
        };
        upload.discard().await;
        outcome.map(|Received { bytes, sha256 }| StoredVideo { bytes, sha256, content_type: CONTENT_TYPE })
    }

    /// Leads the stream through the checks into the upload, to its end.
    async fn receive<E>(
        &self,
        upload: &mut Upload<'_>,
        stream: impl Stream<Item = Result<Bytes, E>> + Send,
        expected_len: Option<u64>,
    ) -> Result<Received, StoreError<E>> {
        let too_large = StoreError::TooLarge { limit_bytes: self.max_video_bytes };
        if expected_len.is_some_and(|bytes| bytes > self.max_video_bytes) {
            return Err(too_large);
        }
        let mut stream = pin!(stream);
        let (mut bytes, mut check, mut hash) = (0u64, Mp4Check::default(), Context::new(&SHA256));
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(StoreError::Source)?;
            bytes += chunk.len() as u64;
            check.push(&chunk).map_err(StoreError::NotAVideo)?;
            if bytes.max(check.announced_bytes()) > self.max_video_bytes {
                return Err(too_large);
            }
            if let Some(expected_bytes) = expected_len.filter(|expected| bytes > *expected) {
                return Err(StoreError::Length { expected_bytes, received_bytes: bytes });
            }
            hash.update(&chunk);
            let written = upload.write(&chunk).await;
            written.map_err(|source| StoreError::Store { key: upload.key.clone(), source })?;
        }
        // A short body is told first: that the file in it is cut follows from it.
        if let Some(expected_bytes) = expected_len.filter(|expected| bytes != *expected) {
            return Err(StoreError::Length { expected_bytes, received_bytes: bytes });
        }
        check.finish().map_err(StoreError::NotAVideo)?;
        let mut sha256 = [0u8; 32];
        sha256.copy_from_slice(hash.finish().as_ref());
        Ok(Received { bytes, sha256 })
    }
}

/// An object on its way into the store.
struct Upload<'a> {
    storage: &'a Storage,
    key: &'a ObjectKey,
    buffer: PutPayloadMut,
    /// The memory of the part that is being gathered or sent.
    held: Held,
    /// Begun when there is more than one part.
    multipart: Option<Box<dyn MultipartUpload>>,
}

impl Upload<'_> {
    async fn write(&mut self, mut bytes: &[u8]) -> object_store::Result<()> {
        let part_bytes = self.storage.part_bytes;
        while !bytes.is_empty() {
            if self.buffer.content_length() == part_bytes {
                let part = self.take_buffer();
                self.send_part(part).await?;
                self.held = Held::default();
            }
            let (fitting, rest) = bytes.split_at(bytes.len().min(part_bytes - self.buffer.content_length()));
            self.storage.upload_memory.cover(&mut self.held, self.buffer.content_length() + fitting.len()).await;
            // Copied, as a small chunk may keep a large buffer of the source alive.
            self.buffer.extend_from_slice(fitting);
            bytes = rest;
        }
        Ok(())
    }

    async fn send_part(&mut self, part: PutPayload) -> object_store::Result<()> {
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            none => {
                let attributes = self.storage.attributes.clone();
                let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
                none.insert(self.storage.store.put_multipart_opts(&self.key.0, options).await?)
            }
        };
        multipart.put_part(part).await
    }

    /// Makes the object visible and durable.
    async fn publish(&mut self) -> object_store::Result<()> {
        let last = self.take_buffer();
        if self.multipart.is_none() {
            let options = PutOptions { attributes: self.storage.attributes.clone(), ..PutOptions::default() };
            return self.storage.store.put_opts(&self.key.0, last, options).await.map(|_| ());
        }
        self.send_part(last).await?;
        if let Some(multipart) = &mut self.multipart {
            multipart.complete().await?;
        }
        self.multipart = None;
        Ok(())
    }

    /// Gives up what has not been published.
    async fn discard(mut self) {
        // others need not wait for the end of this
        self.buffer = new_buffer();
        self.held = Held::default();
        if let Some(multipart) = self.multipart.take() {
            let dropped = tokio::spawn(drop_parts(self.key.clone(), multipart));
            // The video's own outcome stands; what is left behind is unreachable and costs only space.
            let _ = tokio::time::timeout(ABORT_WITHIN, dropped).await;
        }
    }

    fn take_buffer(&mut self) -> PutPayload {
        mem::replace(&mut self.buffer, new_buffer()).freeze()
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        // Reached with an upload under way only when the future of `put_video` is dropped: remote stores keep the parts
        // (and bill them) until they are told.
        if let Some(multipart) = self.multipart.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(drop_parts(self.key.clone(), multipart));
        }
    }
}

async fn drop_parts(key: ObjectKey, mut multipart: Box<dyn MultipartUpload>) {
    for (tried, pause_secs) in ABORT_PAUSES_SECS.into_iter().enumerate() {
        tokio::time::sleep(Duration::from_secs(pause_secs)).await;
        match multipart.abort().await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => return,
            Err(error) if tried == 0 => {
                tracing::warn!(%key, %error, "the parts of a failed upload are not removed yet; it is tried again");
            }
            Err(_) => {}
        }
    }
    tracing::error!(%key, "the parts of a failed upload remain in the store; a lifecycle rule of the bucket removes them");
}

fn new_buffer() -> PutPayloadMut {
    PutPayloadMut::new().with_block_size(BLOCK_BYTES)
}
