//! Reference images over HTTP: upload one, look at one.
//!
//! Always holds: what an image is was read from its bytes, whatever the client calls it; the same bytes are one image,
//! however often a tenant uploads them; an image that is answered is in the store.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi};
use ring::digest::{SHA256, digest};

use super::auth::Caller;
use super::error::ApiError;
use super::limits::ImageBody;
use super::{ApiState, Topic};
use crate::config::ImagesConfig;
use crate::db;
use crate::domain::{ImageFacts, ImageId, TenantId};
use crate::images::{self, Image, ImageQuota, NewImage, ReserveError, Reserved};
use crate::storage::ObjectKey;

pub struct ImagesApi;

/// What uploads may be.
#[derive(Clone, Copy)]
pub struct ImageRules {
    max_bytes: usize,
    quota: ImageQuota,
    retention_days: u32,
}

impl ImageRules {
    pub fn of(config: &ImagesConfig) -> ImageRules {
        ImageRules {
            max_bytes: config.max_image_bytes,
            quota: ImageQuota { images: config.max_per_tenant, bytes: config.max_bytes_per_tenant },
            retention_days: config.retention_days,
        }
    }
}

#[derive(ApiResponse)]
enum Uploaded {
    /// It was there already: the same bytes are the same image.
    #[oai(status = 200)]
    Known(Json<ReferenceImage>),
    /// Stored; it can be ordered with.
    #[oai(status = 201)]
    Stored(Json<ReferenceImage>),
}

/// An image that videos can start from.
#[derive(Object)]
struct ReferenceImage {
    /// To be named in `items[].reference_image`: `sha256:` and the SHA-256 of the bytes in hexadecimal.
    id: String,
    /// `image/jpeg`, `image/png` or `image/webp`, as the bytes say.
    media_type: String,
    /// In pixels.
    width: u32,
    /// In pixels.
    height: u32,
    bytes: u64,
    /// Until when it is kept at least; longer while a batch uses it, and for the same time after the batch has ended.
    expires_at: DateTime<Utc>,
}

impl ReferenceImage {
    fn new(image: &Image, rules: ImageRules) -> ReferenceImage {
        let kept = TimeDelta::hours(24 * i64::from(rules.retention_days));
        ReferenceImage {
            id: image.id.to_string(),
            media_type: image.facts.format.media_type().to_owned(),
            width: image.facts.width,
            height: image.facts.height,
            bytes: image.bytes,
            expires_at: image.uploaded_at.checked_add_signed(kept).unwrap_or(DateTime::<Utc>::MAX_UTC),
        }
    }
}

#[OpenApi(tag = "Topic::Images")]
impl ImagesApi {
    /// Upload a reference image
    ///
    /// The body is the file itself: a JPEG, PNG or WebP, 10 MiB at most unless this installation says otherwise. Name the
    /// answer's `id` as `reference_image` in as many items and batches as you like. Uploading the same bytes again changes
    /// nothing but the time for which they are kept.
    #[oai(path = "/images", method = "post", operation_id = "uploadReferenceImage")]
    async fn upload(
        &self,
        caller: Caller,
        Data(state): Data<&ApiState>,
        body: ImageBody,
    ) -> Result<Uploaded, ApiError> {
        let body = body.read(state.images.max_bytes).await?;
        let (body, new) = examine(body).await?;
        let (tenant, quota) = (caller.0.id, state.images.quota);
        let known = state
            .db
            .act(tenant, "find image", move |conn| Box::pin(async move { images::known(conn, tenant, new).await }));
        let known = known.await.map_err(not_noted)?;
        if let Some(image) = known {
            return Ok(Uploaded::Known(Json(ReferenceImage::new(&image, state.images))));
        }
        // before a connection is taken; the act keeps it even when the client goes
        let turn = db::in_time(state.image_turns.take(tenant)).await.map_err(|late| not_noted(late.into()))?;
        let reserve = state.db.act(tenant, "reserve image", move |conn| {
            let _in_turn = &turn;
            Box::pin(async move { images::reserve(conn, tenant, new, quota).await })
        });
        match reserve.await.map_err(not_reserved)? {
            Reserved::There(image) => Ok(Uploaded::Known(Json(ReferenceImage::new(&image, state.images)))),
            Reserved::ToBeStored(image) => {
                store(state, tenant, &image, body).await?;
                Ok(Uploaded::Stored(Json(ReferenceImage::new(&image, state.images))))
            }
        }
    }

    /// Look at a reference image
    ///
    /// Whether an image is still there, and until when it is kept at least. Only its own tenant sees it.
    #[oai(path = "/images/:image_id", method = "get", operation_id = "getReferenceImage")]
    async fn get(
        &self,
        caller: Caller,
        Data(state): Data<&ApiState>,
        /// The id of an image, `sha256:` and 64 hexadecimal digits.
        image_id: Path<String>,
    ) -> Result<Json<ReferenceImage>, ApiError> {
        let id: ImageId =
            image_id.0.parse().map_err(|error| ApiError::not_found(format!("the image id in the address {error}")))?;
        let tenant = caller.0.id;
        let image =
            state.db.read(tenant, move |conn| Box::pin(async move { images::find(conn, tenant, id).await })).await?;
        let image = image.ok_or_else(|| ApiError::not_found(format!("there is no image {id} of this tenant")))?;
        Ok(Json(ReferenceImage::new(&image, state.images)))
    }
}

/// What the bytes are. On a thread of its own: other requests should not wait for a hash of megabytes.
async fn examine(body: Bytes) -> Result<(Bytes, NewImage), ApiError> {
    let facts = ImageFacts::read(&body).map_err(ApiError::no_image)?;
    let examined = tokio::task::spawn_blocking(move || {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, &body).as_ref());
        let new = NewImage { id: ImageId::new(sha256), facts, bytes: body.len() as u64 };
        (body, new)
    });
    examined.await.map_err(|stopped| ApiError::internal(format_args!("hashing an image ended early: {stopped}")))
}

async fn store(state: &ApiState, tenant: TenantId, image: &Image, body: Bytes) -> Result<(), ApiError> {
    let key = ObjectKey::reference_image(tenant, image.id);
    state.storage.put_reference(&key, image.facts.format, body).await.map_err(|error| {
        tracing::warn!(%key, %error, "an image was not stored");
        ApiError::unavailable("the object store is not available: repeat the request")
    })?;
    let id = image.id;
    let noted = state
        .db
        .act(tenant, "store image", move |conn| Box::pin(async move { images::stored(conn, tenant, id).await }));
    noted.await.map_err(not_noted)
}

/// Whatever became of it, the same upload again leads to the same image.
fn not_noted(error: sqlx::Error) -> ApiError {
    match db::commit_unknown(&error) {
        Some(_) => ApiError::unavailable("the database did not answer in time: repeat the upload"),
        None => error.into(),
    }
}

fn not_reserved(error: ReserveError) -> ApiError {
    match error {
        ReserveError::TooMany { .. } | ReserveError::TooMuch { .. } => ApiError::image_quota(&error),
        ReserveError::BeingDeleted => {
            ApiError::unavailable("this image is just being deleted because its time was over: repeat the upload")
        }
        ReserveError::Database(error) => not_noted(error),
    }
}
