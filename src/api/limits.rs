//! Bodies: read as raw bytes up to a hard limit, before anything is understood. The document shows what they should hold.

use std::marker::PhantomData;

use bytes::Bytes;
use futures_util::StreamExt as _;
use poem::http::header;
use poem::{Body, Request, RequestBody};
use poem_openapi::payload::{Json, ParsePayload, Payload};
use poem_openapi::registry::{MetaSchemaRef, Registry};
use poem_openapi::types::Type;

use super::error::ApiError;
use super::server::{BodyRoom, Buffer};

/// A JSON body that has not been read yet; documented as a `T`.
pub struct JsonBody<T> {
    body: Body,
    /// What `Content-Length` says.
    declared_bytes: Option<u64>,
    /// The memory that all bodies share.
    room: Option<BodyRoom>,
    documented: PhantomData<fn() -> T>,
}

impl<T> JsonBody<T> {
    /// The whole body; a longer one is refused as soon as that is known.
    ///
    /// # Errors
    /// [`ApiError::body_too_large`], [`ApiError::body_failed`], and busy when other bodies take all the memory.
    pub async fn read(self, max_bytes: usize) -> Result<Bytes, ApiError> {
        read_bounded(self.body, self.declared_bytes, self.room, max_bytes).await
    }
}

/// The whole body of a request that is no documented operation.
///
/// # Errors
/// As [`JsonBody::read`].
pub async fn read_whole(request: &Request, body: Body, max_bytes: usize) -> Result<Bytes, ApiError> {
    read_bounded(body, declared_bytes(request), request.data::<BodyRoom>().cloned(), max_bytes).await
}

async fn read_bounded(
    body: Body,
    declared_bytes: Option<u64>,
    room: Option<BodyRoom>,
    max_bytes: usize,
) -> Result<Bytes, ApiError> {
    if declared_bytes.is_some_and(|bytes| bytes > max_bytes as u64) {
        return Err(ApiError::body_too_large(max_bytes));
    }
    let mut chunks = Box::pin(body.into_bytes_stream());
    let mut read = Buffer::new(room);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::body_failed(&error))?;
        if read.len() + chunk.len() > max_bytes {
            return Err(ApiError::body_too_large(max_bytes));
        }
        read.push(&chunk)?;
    }
    Ok(read.freeze())
}

/// What `Content-Length` says.
fn declared_bytes(request: &Request) -> Option<u64> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl<T: Type> Payload for JsonBody<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn check_content_type(content_type: &str) -> bool {
        Json::<T>::check_content_type(content_type)
    }

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: Type> ParsePayload for JsonBody<T> {
    const IS_REQUIRED: bool = true;

    async fn from_request(request: &Request, body: &mut RequestBody) -> poem::Result<Self> {
        let declared_bytes = declared_bytes(request);
        let room = request.data::<BodyRoom>().cloned();
        Ok(JsonBody { body: body.take()?, declared_bytes, room, documented: PhantomData })
    }
}

poem_openapi::impl_apirequest_for_payload!(JsonBody<T>, T: Type);

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use poem::Body;

    use super::JsonBody;

    fn body(text: &'static str, declared_bytes: Option<u64>) -> JsonBody<String> {
        JsonBody { body: Body::from(text), declared_bytes, room: None, documented: PhantomData }
    }

    #[tokio::test]
    async fn a_body_of_the_limit_is_read_and_a_longer_one_refused() {
        assert_eq!(body("12345", Some(5)).read(5).await.unwrap(), "12345");
        assert!(body("123456", None).read(5).await.is_err());
        assert!(body("", Some(6)).read(5).await.is_err());
    }
}
