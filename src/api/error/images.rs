//! Refusals of what is too large or of another type, and of uploaded images.

use poem::http::header;

use super::{ApiError, Kind};
use crate::domain::NotAnImage;
use crate::images::ReserveError;

impl ApiError {
    /// The body is longer than `max_bytes`.
    pub fn body_too_large(max_bytes: usize) -> ApiError {
        let detail = format!("the body is longer than {max_bytes} bytes; split the batch");
        ApiError::new(Kind::BodyTooLarge, detail).header(header::CONNECTION, "close")
    }

    /// The body is declared as something else than JSON, or as nothing.
    pub fn not_declared_json(sent: Option<&str>) -> ApiError {
        let sent = sent.map_or("missing".to_owned(), |sent| format!("`{sent}`"));
        let detail = format!("the header `Content-Type` is {sent}; send `application/json`");
        ApiError::new(Kind::UnsupportedMediaType, detail)
    }

    /// The body is not an image that could be used.
    pub fn no_image(error: NotAnImage) -> ApiError {
        let kind = match error {
            NotAnImage::OtherFormat => Kind::UnsupportedMediaType,
            NotAnImage::Damaged(_) => Kind::InvalidImage,
        };
        ApiError::new(kind, format!("the body is no image that can be used: {error}"))
    }

    /// The image is longer than `max_bytes`.
    pub fn image_too_large(max_bytes: usize) -> ApiError {
        let detail = format!("the image has more than {max_bytes} bytes; make it smaller");
        ApiError::new(Kind::BodyTooLarge, detail).header(header::CONNECTION, "close")
    }

    /// The tenant keeps as many images, or bytes of them, as it may.
    pub fn image_quota(error: &ReserveError) -> ApiError {
        ApiError::new(Kind::ImageQuota, format!("{error}; nothing was stored"))
    }
}
