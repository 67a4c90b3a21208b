//! Who uses an image, and when it goes.

use std::collections::{BTreeSet, HashMap};

use sqlx::PgConnection;

use crate::domain::{BatchId, ImageFacts, ImageFormat, ImageId, TenantId};

/// An upload that was never finished goes after this many hours.
const UNFINISHED_HOURS: i32 = 24;

/// Those of `ids` that the tenant can order with, kept from being deleted until the transaction ends. One statement,
/// whatever their number.
///
/// # Errors
/// The database's.
pub async fn usable(
    conn: &mut PgConnection,
    tenant: TenantId,
    ids: &BTreeSet<ImageId>,
) -> Result<HashMap<ImageId, ImageFacts>, sqlx::Error> {
    let rows = sqlx::query_as!(
        ImageRow,
        "select sha256, media_type, width, height from reference_images
         where tenant_id = $1 and sha256 = any($2) and stored_at is not null and purging_at is null
         order by sha256 for share",
        tenant as TenantId,
        &hashes(ids),
    );
    Ok(rows.fetch_all(conn).await?.into_iter().filter_map(ImageRow::read).collect())
}

/// Those of `ids` that the tenant could order with at this moment: nothing keeps them, so that it can be asked where nothing
/// may be written.
///
/// # Errors
/// The database's.
pub async fn there(
    conn: &mut PgConnection,
    tenant: TenantId,
    ids: &BTreeSet<ImageId>,
) -> Result<HashMap<ImageId, ImageFacts>, sqlx::Error> {
    let rows = sqlx::query_as!(
        ImageRow,
        "select sha256, media_type, width, height from reference_images
         where tenant_id = $1 and sha256 = any($2) and stored_at is not null and purging_at is null",
        tenant as TenantId,
        &hashes(ids),
    );
    Ok(rows.fetch_all(conn).await?.into_iter().filter_map(ImageRow::read).collect())
}

struct ImageRow {
    sha256: Vec<u8>,
    media_type: String,
    width: i32,
    height: i32,
}

impl ImageRow {
    fn read(self) -> Option<(ImageId, ImageFacts)> {
        let format = ImageFormat::of_media_type(&self.media_type)?;
        let facts = ImageFacts { format, width: self.width.unsigned_abs(), height: self.height.unsigned_abs() };
        Some((ImageId::new(self.sha256.try_into().ok()?), facts))
    }
}

fn hashes(ids: &BTreeSet<ImageId>) -> Vec<Vec<u8>> {
    ids.iter().map(|id| id.sha256().to_vec()).collect()
}

/// A batch that is being admitted uses these, which are [`usable`].
///
/// # Errors
/// The database's.
pub async fn note_uses(
    conn: &mut PgConnection,
    (tenant, batch): (TenantId, BatchId),
    ids: &BTreeSet<ImageId>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into reference_image_uses (tenant_id, batch_id, sha256) select $1, $2, s from unnest($3::bytea[]) as u (s)",
        tenant as TenantId,
        batch as BatchId,
        &hashes(ids),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// An image that is being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub tenant: TenantId,
    pub id: ImageId,
}

/// Marks images whose time is over, at most `most`: `days` of 24 hours after the last upload and after the end of the last
/// batch that used it. Answers at most `most` of all that are marked, those first that nobody has tried to delete for
/// longest, so that what cannot be deleted is in nobody's way. Inside of a transaction.
///
/// # Errors
/// The database's.
pub async fn mark_due(conn: &mut PgConnection, days: u32, most: i64) -> Result<Vec<Due>, sqlx::Error> {
    // Two statements: whoever admits a batch holds the rows it uses until it commits, so that the second one, which sees
    // what was committed before it began, knows of every batch that these rows may have got.
    let locked = sqlx::query!(
        "select tenant_id as \"tenant: TenantId\", sha256 from reference_images i
         where purging_at is null
             and (uploaded_at <= now() - $1 * interval '24 hours'
                 or stored_at is null and uploaded_at <= now() - $2 * interval '1 hour')
             and not exists (select from reference_image_uses u join batches b on b.id = u.batch_id
                 where u.tenant_id = i.tenant_id and u.sha256 = i.sha256
                     and (b.finished_at is null or b.finished_at > now() - $1 * interval '24 hours'))
         order by uploaded_at limit $3 for update skip locked",
        f64::from(days),
        f64::from(UNFINISHED_HOURS),
        most,
    )
    .fetch_all(&mut *conn)
    .await?;
    sqlx::query!(
        "update reference_images i set purging_at = now()
         from unnest($1::text[], $2::bytea[]) as d (tenant_id, sha256)
         where i.tenant_id = d.tenant_id and i.sha256 = d.sha256
             and not exists (select from reference_image_uses u join batches b on b.id = u.batch_id
                 where u.tenant_id = i.tenant_id and u.sha256 = i.sha256
                     and (b.finished_at is null or b.finished_at > now() - $3 * interval '24 hours'))",
        &locked.iter().map(|row| row.tenant.bare()).collect::<Vec<_>>(),
        &locked.iter().map(|row| row.sha256.clone()).collect::<Vec<_>>(),
        f64::from(days),
    )
    .execute(&mut *conn)
    .await?;
    // behind those that were marked just now: the clock goes on within a transaction, its `now()` does not
    let marked = sqlx::query!(
        "update reference_images i set purging_at = clock_timestamp()
         from (select tenant_id, sha256 from reference_images where purging_at is not null
               order by purging_at limit $1 for update) d
         where i.tenant_id = d.tenant_id and i.sha256 = d.sha256
         returning i.tenant_id as \"tenant: TenantId\", i.sha256",
        most,
    )
    .fetch_all(conn)
    .await?;
    let due = marked.into_iter().filter_map(|row| {
        let id = ImageId::new(row.sha256.try_into().ok()?);
        Some(Due { tenant: row.tenant, id })
    });
    Ok(due.collect())
}

/// The objects of marked images are gone: forgets them and who used them. One that is not marked stays as it is, with those
/// who use it: it was uploaded again.
///
/// # Errors
/// The database's.
pub async fn deleted(conn: &mut PgConnection, images: &[Due]) -> Result<(), sqlx::Error> {
    let tenants: Vec<String> = images.iter().map(|due| due.tenant.bare()).collect();
    let hashes: Vec<Vec<u8>> = images.iter().map(|due| due.id.sha256().to_vec()).collect();
    sqlx::query!(
        "with gone as (
             delete from reference_images i using unnest($1::text[], $2::bytea[]) as d (tenant_id, sha256)
             where i.tenant_id = d.tenant_id and i.sha256 = d.sha256 and i.purging_at is not null
             returning i.tenant_id, i.sha256)
         delete from reference_image_uses u using gone g where u.tenant_id = g.tenant_id and u.sha256 = g.sha256",
        &tenants,
        &hashes,
    )
    .execute(conn)
    .await?;
    Ok(())
}
