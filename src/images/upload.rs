//! An upload: a row is reserved, the caller stores the object, the row says so. Repeating any of it changes nothing.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::db::ActError;
use crate::domain::{ImageFacts, ImageFormat, ImageId, TenantId};

/// What a tenant may keep.
#[derive(Clone, Copy, Debug)]
pub struct ImageQuota {
    pub images: u64,
    pub bytes: u64,
}

/// An image that is about to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewImage {
    pub id: ImageId,
    pub facts: ImageFacts,
    pub bytes: u64,
}

impl NewImage {
    fn uploaded(self, uploaded_at: DateTime<Utc>) -> Image {
        Image { id: self.id, facts: self.facts, bytes: self.bytes, uploaded_at }
    }
}

/// An image of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    pub id: ImageId,
    pub facts: ImageFacts,
    pub bytes: u64,
    /// For the last time.
    pub uploaded_at: DateTime<Utc>,
}

/// What is left to do for an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// It is there already; from now on it is kept as if it had come now.
    There(Image),
    /// Its object has to be stored, then [`stored`] called.
    ToBeStored(Image),
}

/// Why an image is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    #[error("the tenant keeps {kept} images, and may keep {most}")]
    TooMany { kept: u64, most: u64 },
    #[error("the tenant's images have {kept} bytes, and may have {most}")]
    TooMuch { kept: u64, most: u64 },
    #[error("this very image is just being deleted")]
    BeingDeleted,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl ActError for ReserveError {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            ReserveError::Database(error) => Some(error),
            _ => None,
        }
    }
}

struct Row {
    sha256: Vec<u8>,
    media_type: String,
    width: i32,
    height: i32,
    bytes: i64,
    uploaded_at: DateTime<Utc>,
}

impl Row {
    fn read(self) -> Option<Image> {
        let format = ImageFormat::of_media_type(&self.media_type)?;
        Some(Image {
            id: ImageId::new(self.sha256.try_into().ok()?),
            facts: ImageFacts { format, width: self.width.unsigned_abs(), height: self.height.unsigned_abs() },
            bytes: self.bytes.unsigned_abs(),
            uploaded_at: self.uploaded_at,
        })
    }
}

/// An image that is in the store already: it is kept as if it had come now, within an hour. Waits for no other upload.
///
/// # Errors
/// The database's.
pub async fn known(conn: &mut PgConnection, tenant: TenantId, new: NewImage) -> Result<Option<Image>, sqlx::Error> {
    // most of a customer's repeated uploads write nothing
    let uploaded_at = sqlx::query_scalar!(
        r#"with touched as (
               update reference_images set uploaded_at = now()
               where tenant_id = $1 and sha256 = $2 and stored_at is not null and purging_at is null
                   and uploaded_at < now() - interval '1 hour'
               returning uploaded_at)
           select uploaded_at as "at!" from touched
           union all
           select uploaded_at from reference_images
           where tenant_id = $1 and sha256 = $2 and stored_at is not null and purging_at is null
               and uploaded_at >= now() - interval '1 hour'"#,
        tenant as TenantId,
        new.id.sha256().as_slice(),
    )
    .fetch_optional(conn)
    .await?;
    Ok(uploaded_at.map(|at| new.uploaded(at)))
}

/// Makes room for an image, inside of a transaction of its own and in the tenant's turn ([`Turns`](super::Turns)).
///
/// # Errors
/// [`ReserveError`]; nothing was written then.
pub async fn reserve(
    conn: &mut PgConnection,
    tenant: TenantId,
    new: NewImage,
    quota: ImageQuota,
) -> Result<Reserved, ReserveError> {
    // uploads of one tenant take turns in all processes, so that two of them cannot both take the last place
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('images ' || $1, 7))", tenant as TenantId)
        .fetch_one(&mut *conn)
        .await?;
    let known = sqlx::query!(
        "update reference_images set uploaded_at = now() where tenant_id = $1 and sha256 = $2 and purging_at is null
         returning stored_at is not null as \"stored!\", uploaded_at",
        tenant as TenantId,
        new.id.sha256().as_slice(),
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(known) = known {
        let image = new.uploaded(known.uploaded_at);
        return Ok(if known.stored { Reserved::There(image) } else { Reserved::ToBeStored(image) });
    }
    let kept = sqlx::query!(
        r#"select count(*) as "images!", coalesce(sum(bytes), 0)::bigint as "bytes!" from reference_images where tenant_id = $1"#,
        tenant as TenantId,
    )
    .fetch_one(&mut *conn)
    .await?;
    let (images, bytes) = (kept.images.unsigned_abs(), kept.bytes.unsigned_abs());
    if images >= quota.images {
        return Err(ReserveError::TooMany { kept: images, most: quota.images });
    }
    if bytes.saturating_add(new.bytes) > quota.bytes {
        return Err(ReserveError::TooMuch { kept: bytes, most: quota.bytes });
    }
    let uploaded_at = sqlx::query_scalar!(
        "insert into reference_images (tenant_id, sha256, media_type, width, height, bytes) values ($1, $2, $3, $4, $5, $6)
         on conflict do nothing returning uploaded_at",
        tenant as TenantId,
        new.id.sha256().as_slice(),
        new.facts.format.media_type(),
        i32::try_from(new.facts.width).unwrap_or(i32::MAX),
        i32::try_from(new.facts.height).unwrap_or(i32::MAX),
        i64::try_from(new.bytes).unwrap_or(i64::MAX),
    )
    .fetch_optional(conn)
    .await?;
    // the only row that could stand in the way is one that is being deleted
    uploaded_at.map(|at| Reserved::ToBeStored(new.uploaded(at))).ok_or(ReserveError::BeingDeleted)
}

/// The object of a reserved image is in the store.
///
/// # Errors
/// The database's.
pub async fn stored(conn: &mut PgConnection, tenant: TenantId, id: ImageId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update reference_images set stored_at = now() where tenant_id = $1 and sha256 = $2 and stored_at is null",
        tenant as TenantId,
        id.sha256().as_slice(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// An image of the tenant that can be ordered with.
///
/// # Errors
/// The database's.
pub async fn find(conn: &mut PgConnection, tenant: TenantId, id: ImageId) -> Result<Option<Image>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        "select sha256, media_type, width, height, bytes, uploaded_at from reference_images
         where tenant_id = $1 and sha256 = $2 and stored_at is not null and purging_at is null",
        tenant as TenantId,
        id.sha256().as_slice(),
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.and_then(Row::read))
}
