//! A file on its way to us.
//!
//! Always holds: an item that is an error is the last one, and says that the file is incomplete; the length is what the
//! server announced of these very bytes, so it is absent for a file that is unwrapped on the way.
//! Refuses: to hold the stream to its length. Whoever stores it does.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, Stream, StreamExt as _};

use super::FetchError;

/// The bytes of a file, and how many they will be.
pub struct ByteStream {
    length: Option<u64>,
    bytes: BoxStream<'static, Result<Bytes, FetchError>>,
}

impl ByteStream {
    /// A stream of which `length` bytes were announced, if any number was.
    pub fn new(
        bytes: impl Stream<Item = Result<Bytes, FetchError>> + Send + 'static,
        length: Option<u64>,
    ) -> ByteStream {
        ByteStream { length, bytes: bytes.boxed() }
    }

    /// A file that is here already.
    pub fn whole(file: Bytes) -> ByteStream {
        let length = file.len() as u64;
        ByteStream::new(stream::iter([Ok(file)]), Some(length))
    }

    /// How many bytes were announced.
    pub fn length(&self) -> Option<u64> {
        self.length
    }
}

impl Stream for ByteStream {
    type Item = Result<Bytes, FetchError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.bytes.as_mut().poll_next(context)
    }
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream").field("length", &self.length).finish_non_exhaustive()
    }
}
