//! The reference image of an item: what may be named, and whether an uploaded one is there and fits.
//!
//! Always holds: a URL that is admitted is https (plain http only where private sources are allowed), names no user and no
//! private address in so many words; names are resolved and checked when it is fetched. All uploads of an order are looked
//! for in one statement, before anything is frozen.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::admission::AdmissionError;
use super::item::{Faults, Wrong, text};
use super::order::Order;
use crate::domain::{ImageId, ImageSource, TenantId};
use crate::images;
use crate::providers::EgressPolicy;
use crate::providers::catalogue::Model;

/// The fields of an item.
pub(super) const IMAGE_URL: &str = "reference_image_url";
pub(super) const IMAGE: &str = "reference_image";
/// More faults than this are not listed.
const MAX_FAULTS: usize = 1_000;

/// The image that an item names, if it names one that may be.
pub(super) fn parse(
    object: &Map<String, Value>,
    model: Option<&Model>,
    policy: EgressPolicy,
    faults: &mut Faults<'_>,
) -> Option<ImageSource> {
    let before = faults.found.len();
    let url = text(object, IMAGE_URL, faults);
    let id = text(object, IMAGE, faults);
    let field = if url.is_some() { IMAGE_URL } else { IMAGE };
    if url.is_none() && id.is_none() {
        return None;
    }
    if let Some(model) = model.filter(|model| !model.reference_image) {
        let detail =
            format!("cannot be used: `{}` takes no reference image; /models tells which models do", model.name);
        faults.add(field, detail);
        return None;
    }
    if url.is_some() && id.is_some() {
        faults.add(IMAGE, format!("stands beside `{IMAGE_URL}`; name one of the two"));
        return None;
    }
    let parsed = match (url, id) {
        (Some(url), _) => checked_url(url, policy).map(ImageSource::Url),
        (None, Some(id)) => id.parse::<ImageId>().map(ImageSource::Upload).map_err(|error| error.to_string()),
        (None, None) => return None,
    };
    match parsed {
        Ok(source) => (faults.found.len() == before).then_some(source),
        Err(detail) => {
            faults.add(field, detail);
            None
        }
    }
}

fn checked_url(text: &str, policy: EgressPolicy) -> Result<String, String> {
    let mut url = policy.check_url(text).map_err(|error| error.to_string())?;
    if url.scheme() != "https" && !policy.allow_private {
        return Err("must start with https://".to_owned());
    }
    // never sent, and so no part of what is fetched
    url.set_fragment(None);
    Ok(url.to_string())
}

/// The uploaded images that an order uses, all of them there and fitting.
///
/// # Errors
/// [`AdmissionError::Images`] names every item whose image cannot be used.
pub(super) async fn check_uploads(
    conn: &mut PgConnection,
    tenant: TenantId,
    order: &Order,
) -> Result<BTreeSet<ImageId>, AdmissionError> {
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
    if wrong.is_empty() { Ok(uploads) } else { Err(AdmissionError::Images(wrong)) }
}
