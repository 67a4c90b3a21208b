//! The uploaded images that an order names: whether the tenant has them, and whether they fit.
//!
//! Always holds: all of an order are looked for in one statement, before anything is frozen; a fault names the item as its
//! customer counts it.

use std::collections::{BTreeSet, HashMap};

use sqlx::PgConnection;

use super::image::{IMAGE, IMAGES};
use super::order::Order;
use crate::domain::faults::Wrong;
use crate::domain::{ImageFacts, ImageId, ImageSource, TenantId};
use crate::images;

/// More faults than this are not listed.
const MAX_FAULTS: usize = 1_000;

/// Why the images of an order cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadsError {
    #[error("{} items name images that cannot be used", .0.len())]
    Wrong(Vec<Wrong>),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The uploaded images that an order uses, all of them there and fitting, and kept until the transaction ends.
///
/// # Errors
/// [`UploadsError::Wrong`] names every item whose image cannot be used.
pub(super) async fn check_uploads(
    conn: &mut PgConnection,
    tenant: TenantId,
    order: &Order,
) -> Result<BTreeSet<ImageId>, UploadsError> {
    let uploads = named(order);
    if !uploads.is_empty() {
        refuse_unusable(order, &images::usable(conn, tenant, &uploads).await?)?;
    }
    Ok(uploads)
}

/// The same of an order that is not placed: nothing keeps its images, and the transaction may be one that only reads.
///
/// # Errors
/// As [`check_uploads`].
pub(super) async fn look_at_uploads(
    conn: &mut PgConnection,
    tenant: TenantId,
    order: &Order,
) -> Result<(), UploadsError> {
    let uploads = named(order);
    if !uploads.is_empty() {
        refuse_unusable(order, &images::there(conn, tenant, &uploads).await?)?;
    }
    Ok(())
}

fn upload(source: Option<&ImageSource>) -> Option<ImageId> {
    match source {
        Some(ImageSource::Upload(id)) => Some(*id),
        Some(ImageSource::Url(_)) | None => None,
    }
}

fn named(order: &Order) -> BTreeSet<ImageId> {
    order.items.iter().filter_map(|item| upload(item.reference_image.as_ref())).collect()
}

fn refuse_unusable(order: &Order, usable: &HashMap<ImageId, ImageFacts>) -> Result<(), UploadsError> {
    let wrong = order.items.iter().enumerate().filter_map(|(at, item)| {
        let detail = match usable.get(&upload(item.reference_image.as_ref())?) {
            None => "is no image of yours: upload it first, or again if it is no longer kept".to_owned(),
            Some(facts) if item.image_matches_size && !facts.matches(item.size) => format!(
                "has {}x{} pixels; `{}` wants an image of the size of the video, {}",
                facts.width, facts.height, item.model, item.size
            ),
            Some(_) => return None,
        };
        // a retry has no items of its own: its customer knows those of the batch that is retried
        let pointer = match item.retries {
            None => format!("/items/{at}/{IMAGE}"),
            Some(retried) if retried.image_is_new => format!("/{IMAGES}/{}", retried.position),
            Some(retried) => format!("/items/{}/{IMAGE}", retried.position),
        };
        Some(Wrong { pointer, detail })
    });
    let wrong: Vec<Wrong> = wrong.take(MAX_FAULTS).collect();
    if wrong.is_empty() { Ok(()) } else { Err(UploadsError::Wrong(wrong)) }
}
