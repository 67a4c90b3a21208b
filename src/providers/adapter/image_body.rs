//! A JSON body with a reference image in it, encoded as base64 while it is sent.
//!
//! Always holds: what a request needs in memory is the image itself and one piece of its encoding, so that a budget that
//! counts images counts everything; the length is known before the first byte, so that the body is not sent in chunks.
//! The image stands where the body says [`ImageSlot`]; that word is drawn anew for each body, so no prompt can hold it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use serde_json::Value;
use uuid::Uuid;

use super::super::ReferenceImage;

/// Encoded at a time: a multiple of three, so that the pieces join without padding.
const PIECE_BYTES: usize = 48 << 10;

/// What stands for the image in a body.
pub(in crate::providers) struct ImageSlot(String);

impl ImageSlot {
    pub(in crate::providers) fn new() -> ImageSlot {
        ImageSlot(format!("image-{}", Uuid::new_v4().simple()))
    }

    /// Where the vendor wants base64 alone.
    pub(in crate::providers) fn base64(&self) -> &str {
        &self.0
    }

    /// Where the vendor wants a URL.
    pub(in crate::providers) fn data_uri(&self, image: &ReferenceImage<'_>) -> String {
        format!("data:{};base64,{}", image.format.media_type(), self.0)
    }

    /// Adds the body with the image in its slot; without an image, the body as it is.
    pub(in crate::providers) fn fill(
        &self,
        post: RequestBuilder,
        body: &Value,
        image: Option<ReferenceImage<'_>>,
    ) -> RequestBuilder {
        match image {
            None => post.json(body),
            Some(image) => {
                let body = self.spliced(&body.to_string(), image.bytes.clone());
                post.header(CONTENT_TYPE, "application/json").body(reqwest::Body::wrap(body))
            }
        }
    }

    fn spliced(&self, text: &str, image: Bytes) -> Spliced {
        match text.split_once(&self.0) {
            Some((head, tail)) => {
                Spliced { head: head.as_bytes().to_vec().into(), image, tail: tail.as_bytes().to_vec().into() }
            }
            None => Spliced { head: text.as_bytes().to_vec().into(), image: Bytes::new(), tail: Bytes::new() },
        }
    }
}

/// What is left to send.
struct Spliced {
    head: Bytes,
    image: Bytes,
    tail: Bytes,
}

impl Spliced {
    fn left(&self) -> u64 {
        let encoded = self.image.len().div_ceil(3) * 4;
        (self.head.len() + encoded + self.tail.len()) as u64
    }

    fn next_piece(&mut self) -> Option<Bytes> {
        if !self.head.is_empty() {
            return Some(std::mem::take(&mut self.head));
        }
        if !self.image.is_empty() {
            let piece = self.image.split_to(self.image.len().min(PIECE_BYTES));
            return Some(STANDARD.encode(piece).into());
        }
        (!self.tail.is_empty()).then(|| std::mem::take(&mut self.tail))
    }
}

impl Body for Spliced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.get_mut().next_piece().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_image_stands_where_the_body_says_and_the_length_is_right() {
        for bytes in [1, 2, 3, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES + 7] {
            let image: Bytes = (0..bytes).map(|n| (n % 251) as u8).collect::<Vec<u8>>().into();
            let slot = ImageSlot::new();
            let body = json!({"prompt": "image-", "image": format!("data:x;base64,{}", slot.base64()), "z": 1});
            let mut spliced = slot.spliced(&body.to_string(), image.clone());
            let announced = spliced.left();
            let sent: Vec<Bytes> = std::iter::from_fn(|| spliced.next_piece()).collect();
            assert!(sent.iter().all(|piece| piece.len() <= PIECE_BYTES / 3 * 4));
            let sent = sent.concat();
            assert_eq!(sent.len() as u64, announced);
            let sent: Value = serde_json::from_slice(&sent).unwrap();
            assert_eq!(sent["image"], format!("data:x;base64,{}", STANDARD.encode(&image)));
        }
        assert_ne!(ImageSlot::new().base64(), ImageSlot::new().base64());
    }
}
