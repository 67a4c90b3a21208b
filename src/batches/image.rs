//! The reference image of an item: what may be named.
//!
//! Always holds: a URL that is admitted is https (plain http only where private sources are allowed), names no user and no
//! private address in so many words; names are resolved and checked when it is fetched.
//! Refuses: to look whether an uploaded one is there (`uploads`).

use serde_json::{Map, Value};

use crate::domain::faults::{Faults, text};
use crate::domain::{ImageId, ImageSource};
use crate::providers::EgressPolicy;
use crate::providers::catalogue::Model;

/// The fields of an item.
pub(super) const IMAGE_URL: &str = "reference_image_url";
pub(super) const IMAGE: &str = "reference_image";
/// The field of a retry: other images for some of its videos.
pub(super) const IMAGES: &str = "reference_images";

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
