//! Small pictures of videos: JPEG, PNG or WebP, checked by their bytes, stored beside the video they belong to.
//!
//! Always holds: a stored picture is whole (its format's own end is there), no longer than [`MAX_IMAGE_BYTES`], and of the
//! kind that its bytes say, whatever the source called it; that is looked at again when it is served.
//! Refuses: to decode, to convert, and formats in which a browser runs code (SVG).

use std::pin::pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use object_store::{Attribute, ObjectStore as _, PutOptions, PutPayload};
use ring::digest::{SHA256, digest};

use super::memory::Held;
use super::{ObjectKey, ReadError, Storage};

/// The longest picture that is taken: a still of 1920x1080 has a tenth of it.
pub const MAX_IMAGE_BYTES: usize = 2 << 20;
const JPEG_START: &[u8] = &[0xff, 0xd8, 0xff];
const PNG_START: &[u8] = b"\x89PNG\r\n\x1a\n";
const RIFF_START: &[u8] = b"RIFF";
const PNG_END: &[u8] = b"IEND\xae\x42\x60\x82";

/// The format of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    Jpeg,
    Png,
    Webp,
}

impl ImageKind {
    /// The kind of a whole picture; `None` when these bytes are none.
    pub fn of(bytes: &[u8]) -> Option<ImageKind> {
        match bytes {
            [0xff, 0xd8, 0xff, .., 0xff, 0xd9] => Some(ImageKind::Jpeg),
            _ if bytes.starts_with(PNG_START) && bytes.ends_with(PNG_END) => Some(ImageKind::Png),
            [b'R', b'I', b'F', b'F', a, b, c, d, b'W', b'E', b'B', b'P', ..] => {
                let announced = 8 + u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
                (announced == bytes.len() as u64).then_some(ImageKind::Webp)
            }
            _ => None,
        }
    }

    /// Whether a picture may begin so.
    fn may_begin(start: &[u8]) -> bool {
        let agrees = |magic: &[u8]| start.iter().zip(magic).all(|(byte, wanted)| byte == wanted);
        [JPEG_START, PNG_START, RIFF_START].into_iter().any(agrees)
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            ImageKind::Jpeg => "image/jpeg",
            ImageKind::Png => "image/png",
            ImageKind::Webp => "image/webp",
        }
    }

    /// The ending of a file name, without the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            ImageKind::Jpeg => "jpg",
            ImageKind::Png => "png",
            ImageKind::Webp => "webp",
        }
    }

    /// The kind whose file names end so.
    pub fn from_extension(extension: &str) -> Option<ImageKind> {
        [ImageKind::Jpeg, ImageKind::Png, ImageKind::Webp].into_iter().find(|kind| kind.extension() == extension)
    }
}

/// A picture that is stored. Its length is at most [`MAX_IMAGE_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredImage {
    pub bytes: u64,
    pub sha256: [u8; 32],
    pub kind: ImageKind,
}

/// Why a picture was not stored.
#[derive(Debug, thiserror::Error)]
pub enum ImageError<E> {
    #[error("the download of the picture broke off")]
    Source(#[source] E),
    #[error("the picture has more than the {MAX_IMAGE_BYTES} bytes that are allowed")]
    TooLarge,
    #[error("the download is not a whole JPEG, PNG or WebP")]
    NotAnImage,
    #[error("the object store did not take {key}")]
    Store { key: ObjectKey, source: object_store::Error },
}

impl Storage {
    /// Stores what `stream` carries under `key`, if it is a whole picture. Holds it in memory, a long one as part of what all
    /// uploads may hold, and stops reading at the first byte that no picture has there.
    /// Repeating it with the same key replaces the object in one step.
    ///
    /// # Errors
    /// [`ImageError`]; nothing is visible under `key` then that was not before.
    pub async fn put_image<E>(
        &self,
        key: &ObjectKey,
        stream: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<StoredImage, ImageError<E>> {
        let mut stream = pin!(stream);
        let (mut image, mut held) = (Vec::new(), Held::default());
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(ImageError::Source)?;
            let length = image.len() + chunk.len();
            if length > MAX_IMAGE_BYTES {
                return Err(ImageError::TooLarge);
            }
            self.upload_memory.cover_picture(&mut held, length, MAX_IMAGE_BYTES).await;
            image.extend_from_slice(&chunk);
            if !ImageKind::may_begin(&image) {
                return Err(ImageError::NotAnImage);
            }
        }
        let kind = ImageKind::of(&image).ok_or(ImageError::NotAnImage)?;
        let mut sha256 = [0u8; 32];
        sha256.copy_from_slice(digest(&SHA256, &image).as_ref());
        let stored = StoredImage { bytes: image.len() as u64, sha256, kind };
        let mut attributes = self.attributes.clone();
        if !attributes.is_empty() {
            attributes.insert(Attribute::ContentType, kind.content_type().into());
        }
        let options = PutOptions { attributes, ..PutOptions::default() };
        let put = self.store.put_opts(&key.0, PutPayload::from(image), options).await;
        put.map(|_| stored).map_err(|source| ImageError::Store { key: key.clone(), source })
    }

    /// Reads a picture; `None` when there is none, or when what lies there is none.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    pub async fn get_image(&self, key: &ObjectKey) -> Result<Option<(ImageKind, Bytes)>, ReadError> {
        let (object, stream) = match self.get(key, None).await {
            Ok(found) => found,
            Err(ReadError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if object.bytes > MAX_IMAGE_BYTES as u64 {
            return Ok(None);
        }
        let failed = |source: std::io::Error| {
            let source = object_store::Error::Generic { store: "image", source: source.into() };
            ReadError::Store { key: key.clone(), source }
        };
        let image = stream.try_collect::<Vec<Bytes>>().await.map_err(failed)?.concat();
        Ok(ImageKind::of(&image).map(|kind| (kind, image.into())))
    }
}
