//! One item of an order: its fields against the catalogue, every fault with the pointer to its field.

use std::collections::HashSet;

use chrono::NaiveDate;
use serde_json::{Map, Value};

use super::image::{self, IMAGE, IMAGE_URL};
use crate::domain::faults::{Faults, refuse_unknown, text};
use crate::domain::{Credits, CustomId, ImageSource, Prompt, Size, VideoId};
use crate::providers::EgressPolicy;
use crate::providers::catalogue::{Catalogue, Model};

const FIELDS: [&str; 8] = ["prompt", "model", "seconds", "size", "custom_id", "metadata", IMAGE_URL, IMAGE];
/// Entries of a metadata object, and characters of a key and of a value, at the most.
const MAX_METADATA: (usize, usize, usize) = (16, 64, 512);

/// One video to be made.
#[derive(Clone, Debug)]
pub struct OrderItem {
    pub prompt: Prompt,
    pub model: String,
    pub seconds: u32,
    pub size: Size,
    pub custom_id: Option<CustomId>,
    pub metadata: Option<Value>,
    /// What it starts from. An upload is looked for when the order is admitted.
    pub reference_image: Option<ImageSource>,
    /// That image must have the size of the video.
    pub image_matches_size: bool,
    pub price: Credits,
    pub retries: Option<Retried>,
}

/// The failed video that an item orders again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retried {
    pub video: VideoId,
    /// Which item of its batch it was, from 0.
    pub position: u32,
    /// The retry names another image for it.
    pub image_is_new: bool,
}

pub(super) fn parse(
    value: &Value,
    (catalogue, today): (&Catalogue, NaiveDate),
    images: EgressPolicy,
    custom_ids: &mut HashSet<CustomId>,
    faults: &mut Faults<'_>,
) -> Option<OrderItem> {
    let before = faults.found.len();
    let Some(object) = value.as_object() else {
        faults.add("", "must be an object with `prompt` and `model`");
        return None;
    };
    refuse_unknown(object, &FIELDS, faults);
    let model = model(object, (catalogue, today), faults);
    let prompt = prompt(object, model, faults);
    let custom_id = custom_id(object, custom_ids, faults);
    let metadata = metadata(object, faults);
    let reference_image = image::parse(object, model, images, faults);
    let model = model?;
    let seconds = seconds(object, model, faults);
    let size = size(object, model, faults);
    if faults.found.len() > before {
        return None;
    }
    let (prompt, seconds, size) = (prompt?, seconds?, size?);
    let Some(price) = model.price(seconds, size) else {
        faults.add("seconds", format!("{} has no price for {seconds} s at {size}", model.name));
        return None;
    };
    Some(OrderItem {
        prompt,
        model: model.name.clone(),
        seconds,
        size,
        custom_id,
        metadata,
        reference_image,
        image_matches_size: model.reference_image_matches_size,
        price,
        retries: None,
    })
}

fn required<'v>(object: &'v Map<String, Value>, field: &str, faults: &mut Faults<'_>) -> Option<&'v str> {
    if object.get(field).is_none_or(Value::is_null) {
        faults.add(field, "is required");
        return None;
    }
    text(object, field, faults)
}

fn model<'c>(
    object: &Map<String, Value>,
    (catalogue, today): (&'c Catalogue, NaiveDate),
    faults: &mut Faults<'_>,
) -> Option<&'c Model> {
    let name = required(object, "model", faults)?;
    let Some(model) = catalogue.model(name) else {
        let instead =
            catalogue.closest(name).map(|close| format!("; did you mean `{close}`?")).unwrap_or(".".to_owned());
        let known = catalogue.models().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
        faults.add("model", format!("is not offered{instead} Offered are {known}"));
        return None;
    };
    if model.retired(today) {
        let ended = model.available_until.map(|last_day| format!(", its last day was {last_day}")).unwrap_or_default();
        let instead = match catalogue.replacement(model, today) {
            Some(replacement) => format!("; order `{}` instead", replacement.name),
            None => "; /models lists what is offered".to_owned(),
        };
        faults.add("model", format!("`{}` is no longer offered{ended}{instead}", model.name));
        return None;
    }
    Some(model)
}

fn prompt(object: &Map<String, Value>, model: Option<&Model>, faults: &mut Faults<'_>) -> Option<Prompt> {
    let prompt = match Prompt::parse(required(object, "prompt", faults)?) {
        Ok(prompt) => prompt,
        Err(error) => {
            faults.add("prompt", error.to_string());
            return None;
        }
    };
    let chars = prompt.as_str().chars().count();
    match model {
        Some(model) if chars > model.max_prompt_chars => {
            faults.add(
                "prompt",
                format!("has {chars} characters; `{}` takes at most {}", model.name, model.max_prompt_chars),
            );
            None
        }
        _ => Some(prompt),
    }
}

fn custom_id(object: &Map<String, Value>, seen: &mut HashSet<CustomId>, faults: &mut Faults<'_>) -> Option<CustomId> {
    match CustomId::parse(text(object, "custom_id", faults)?) {
        Ok(id) => {
            if !seen.insert(id.clone()) {
                faults.add("custom_id", "is used by an earlier item of this batch; it must be unique");
            }
            Some(id)
        }
        Err(error) => {
            faults.add("custom_id", error.to_string());
            None
        }
    }
}

fn seconds(object: &Map<String, Value>, model: &Model, faults: &mut Faults<'_>) -> Option<u32> {
    let allowed = || model.seconds.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    match object.get("seconds") {
        None | Some(Value::Null) => Some(model.default_seconds),
        Some(value) => match value.as_u64().and_then(|s| u32::try_from(s).ok()) {
            Some(seconds) if model.seconds.contains(&seconds) => Some(seconds),
            _ => {
                faults.add("seconds", format!("must be one of {} for `{}` (a whole number)", allowed(), model.name));
                None
            }
        },
    }
}

fn size(object: &Map<String, Value>, model: &Model, faults: &mut Faults<'_>) -> Option<Size> {
    let Some(value) = object.get("size").filter(|value| !value.is_null()) else { return Some(model.default_size) };
    match value.as_str().and_then(|text| text.parse::<Size>().ok()) {
        Some(size) if model.sizes.contains(&size) => Some(size),
        _ => {
            let allowed = model.sizes.iter().map(Size::to_string).collect::<Vec<_>>().join(", ");
            faults.add("size", format!("must be one of {allowed} for `{}`", model.name));
            None
        }
    }
}

/// The customer's own words about an item or a batch: a small object of strings.
pub(super) fn metadata(object: &Map<String, Value>, faults: &mut Faults<'_>) -> Option<Value> {
    let value = object.get("metadata").filter(|value| !value.is_null())?;
    let (entries, key_chars, value_chars) = MAX_METADATA;
    let fits = value.as_object().is_some_and(|map| {
        map.len() <= entries
            && map.iter().all(|(key, value)| {
                key.chars().count() <= key_chars
                    && !key.contains('\0')
                    && value.as_str().is_some_and(|text| text.chars().count() <= value_chars && !text.contains('\0'))
            })
    });
    if !fits {
        faults.add(
            "metadata",
            format!("must be an object of at most {entries} strings, keys up to {key_chars} and values up to {value_chars} characters"),
        );
        return None;
    }
    Some(value.clone())
}
