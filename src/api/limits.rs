//! Bodies: read as raw bytes up to a hard limit, before anything is understood. The document shows what they should hold.

use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use poem::http::header;
use poem::{Body, Request, RequestBody};
use poem_openapi::payload::{Json, ParsePayload, Payload};
use poem_openapi::registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use super::error::{ApiError, BodyFault};
use super::server::{BodyRoom, Buffer};
use crate::domain::ImageFormat;

/// A body that has not been read yet.
struct RawBody {
    body: Body,
    /// What `Content-Length` says.
    declared_bytes: Option<u64>,
    /// The memory that it shares with others.
    room: Option<BodyRoom>,
}

impl RawBody {
    fn of(request: &Request, body: &mut RequestBody) -> poem::Result<RawBody> {
        let room = request.data::<BodyRoom>().cloned();
        Ok(RawBody { body: body.take()?, declared_bytes: declared_bytes(request), room })
    }

    /// The whole body; a longer one is refused as soon as that is known.
    async fn read(self, max_bytes: usize, too_large: fn(usize) -> ApiError) -> Result<Bytes, ApiError> {
        if self.declared_bytes.is_some_and(|bytes| bytes > max_bytes as u64) {
            return Err(too_large(max_bytes));
        }
        let mut chunks = Box::pin(self.body.into_bytes_stream());
        let mut read = Buffer::new(self.room);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| ApiError::body_failed(&error))?;
            if read.len() + chunk.len() > max_bytes {
                return Err(too_large(max_bytes));
            }
            read.push(&chunk)?;
        }
        Ok(read.freeze())
    }
}

/// How much of a body is taken, and how long it may take to come, beside what holds for every body.
pub struct Bounds {
    /// The memory for bodies of this kind, which is not that of the others.
    pub room: BodyRoom,
    pub max_bytes: usize,
    /// From now to its end.
    pub within: Duration,
}

/// The whole body of a request that anybody may send.
///
/// # Errors
/// As [`JsonBody::read`]; a body that is not there in time is one that came too slowly.
pub async fn read_within(bounds: Bounds, request: &Request, body: Body) -> Result<Bytes, ApiError> {
    let raw = RawBody { body, declared_bytes: declared_bytes(request), room: Some(bounds.room) };
    let read = raw.read(bounds.max_bytes, ApiError::body_too_large);
    let slow = |_| ApiError::body_failed(&io::Error::other(BodyFault::Slow));
    tokio::time::timeout(bounds.within, read).await.map_err(slow)?
}

/// What `Content-Length` says.
fn declared_bytes(request: &Request) -> Option<u64> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A JSON body that has not been read yet; documented as a `T`.
pub struct JsonBody<T> {
    raw: RawBody,
    documented: PhantomData<fn() -> T>,
}

impl<T> JsonBody<T> {
    /// The whole body.
    ///
    /// # Errors
    /// [`ApiError::body_too_large`], [`ApiError::body_failed`], and busy when other bodies take all the memory.
    pub async fn read(self, max_bytes: usize) -> Result<Bytes, ApiError> {
        self.raw.read(max_bytes, ApiError::body_too_large).await
    }
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
        Ok(JsonBody { raw: RawBody::of(request, body)?, documented: PhantomData })
    }
}

poem_openapi::impl_apirequest_for_payload!(JsonBody<T>, T: Type);

/// A JSON body that may be left out, and has not been read yet; documented as a `T`.
pub struct OptionalJsonBody<T> {
    body: JsonBody<T>,
    content_type: Option<String>,
}

impl<T: Type> OptionalJsonBody<T> {
    /// The whole body; empty when there is none.
    ///
    /// # Errors
    /// As [`JsonBody::read`], and when there is one that is not declared as JSON.
    pub async fn read(self, max_bytes: usize) -> Result<Bytes, ApiError> {
        let bytes = self.body.read(max_bytes).await?;
        let content_type = self.content_type.as_deref();
        match bytes.is_empty() || content_type.is_some_and(JsonBody::<T>::check_content_type) {
            true => Ok(bytes),
            false => Err(ApiError::not_declared_json(content_type)),
        }
    }
}

impl<'a, T: Type> ApiExtractor<'a> for OptionalJsonBody<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = vec![MetaMediaType { content_type: JsonBody::<T>::CONTENT_TYPE, schema: T::schema_ref() }];
        Some(MetaRequest { description: None, content, required: false })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<OptionalJsonBody<T>> {
        let body = JsonBody { raw: RawBody::of(request, body)?, documented: PhantomData };
        Ok(OptionalJsonBody { body, content_type: request.content_type().map(str::to_owned) })
    }
}

/// The bytes of an image that have not been read yet. What it is, the bytes say: its declared type is not believed.
pub struct ImageBody(RawBody);

impl ImageBody {
    /// The whole image.
    ///
    /// # Errors
    /// [`ApiError::image_too_large`], [`ApiError::body_failed`], and busy when other bodies take all the memory.
    pub async fn read(self, max_bytes: usize) -> Result<Bytes, ApiError> {
        self.0.read(max_bytes, ApiError::image_too_large).await
    }
}

impl<'a> ApiExtractor<'a> for ImageBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn request_meta() -> Option<MetaRequest> {
        let file = || MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", "binary")));
        let of = |format: ImageFormat| MetaMediaType { content_type: format.media_type(), schema: file() };
        Some(MetaRequest {
            description: Some("The file."),
            content: ImageFormat::ALL.into_iter().map(of).collect(),
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<ImageBody> {
        Ok(ImageBody(RawBody::of(request, body)?))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::marker::PhantomData;
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use futures_util::StreamExt as _;
    use futures_util::stream;
    use poem::{Body, Request};

    use super::{BodyRoom, Bounds, JsonBody, RawBody, read_within};

    fn body(text: &'static str, declared_bytes: Option<u64>) -> JsonBody<String> {
        let raw = RawBody { body: Body::from(text), declared_bytes, room: None };
        JsonBody { raw, documented: PhantomData }
    }

    #[tokio::test]
    async fn a_body_of_the_limit_is_read_and_a_longer_one_refused() {
        assert_eq!(body("12345", Some(5)).read(5).await.unwrap(), "12345");
        assert!(body("123456", None).read(5).await.is_err());
        assert!(body("", Some(6)).read(5).await.is_err());
    }

    /// A chunk, and then nothing for ever.
    fn stuck(bytes: usize) -> Body {
        let chunk = stream::once(async move { Ok::<_, io::Error>(Bytes::from(vec![b' '; bytes])) });
        Body::from_bytes_stream(chunk.chain(stream::pending()))
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_to_its_end_holds_its_own_room_and_only_for_so_long() {
        let (room, within) = (BodyRoom::new(4 << 10), Duration::from_millis(300));
        let read = async |body: Body| {
            let bounds = Bounds { room: room.clone(), max_bytes: 3 << 10, within };
            read_within(bounds, &Request::default(), body).await.map_err(|error| error.to_string())
        };
        let whole = || Body::from(vec![b' '; 3 << 10]);
        let started = Instant::now();
        let (slow, meanwhile) =
            tokio::join!(read(stuck(2 << 10)), async { (read(whole()).await, read("{}".into()).await) });
        assert!(started.elapsed() >= within);
        assert!(slow.unwrap_err().contains("came too slowly"));
        assert!(meanwhile.0.unwrap_err().contains("too many large requests"));
        assert_eq!(meanwhile.1.unwrap(), "{}");
        assert_eq!(read(whole()).await.unwrap().len(), 3 << 10, "its memory is free again");
    }
}
