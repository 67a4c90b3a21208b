//! The uploaded images that an order names: whether the tenant has them, and whether they fit.
//!
//! Always holds: all of an order are looked for in one statement, before anything is frozen.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::image::IMAGE;
use super::order::Order;
use crate::domain::faults::Wrong;
use crate::domain::{ImageId, ImageSource, TenantId};
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

/// The uploaded images that an order uses, all of them there and fitting.
///
/// # Errors
/// [`UploadsError::Wrong`] names every item whose image cannot be used.
pub(super) async fn check_uploads(
    conn: &mut PgConnection,
    tenant: TenantId,
    order: &Order,
) -> Result<BTreeSet<ImageId>, UploadsError> {
    let upload = |source: &Option<ImageSource>| match source {
        Some(ImageSource::Upload(id)) => Some(*id),
        Some(ImageSource::Url(_)) | None => None,
    };
    let uploads: BTreeSet<ImageId> = order.items.iter().filter_map(|item| upload(&item.reference_image)).collect();
    if uploads.is_empty() {
        return Ok(uploads);
    }
    let usable = images::usable(conn, tenant, &uploads).await?;
    let wrong = order.items.iter().enumerate().filter_map(|(at, item)| {
        let detail = match usable.get(&upload(&item.reference_image)?) {
            None => "is no image of yours: upload it first, or again if it is no longer kept".to_owned(),
            Some(facts) if item.image_matches_size && !facts.matches(item.size) => format!(
                "has {}x{} pixels; `{}` wants an image of the size of the video, {}",
                facts.width, facts.height, item.model, item.size
            ),
            Some(_) => return None,
        };
        Some(Wrong { pointer: format!("/items/{at}/{IMAGE}"), detail })
    });
    let wrong: Vec<Wrong> = wrong.take(MAX_FAULTS).collect();
    if wrong.is_empty() { Ok(uploads) } else { Err(UploadsError::Wrong(wrong)) }
}
