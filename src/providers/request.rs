//! What is ordered of a provider.
//!
//! Always holds: a request borrows what it names, prompt and image, and shows neither.

use std::fmt;

use bytes::Bytes;

use crate::domain::{ImageFormat, Size};

/// What a video starts from. Whoever orders holds the bytes until the order was answered.
#[derive(Clone, Copy)]
pub struct ReferenceImage<'a> {
    pub bytes: &'a Bytes,
    pub format: ImageFormat,
    pub width: u32,
    pub height: u32,
}

/// One video to be made. Everything that has a price is spelled out: a provider's defaults cost money too.
#[derive(Clone, Copy)]
pub struct GenerationRequest<'a> {
    pub prompt: &'a str,
    /// The provider's own name for the model.
    pub upstream_model: &'a str,
    pub seconds: u32,
    pub size: Size,
    /// Never left out where it was ordered: an account without [`Capabilities::reference_image`](super::Capabilities::reference_image) refuses.
    pub image: Option<ReferenceImage<'a>>,
}

impl fmt::Debug for GenerationRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GenerationRequest { prompt, upstream_model, seconds, size, image } = self;
        write!(f, "{upstream_model} {seconds} s {size}, prompt of {} bytes", prompt.len())?;
        match image {
            Some(image) => write!(f, ", image of {} bytes", image.bytes.len()),
            None => Ok(()),
        }
    }
}
