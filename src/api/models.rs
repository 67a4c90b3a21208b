//! The catalogue over HTTP: what may be ordered, and what it costs.

use chrono::{NaiveDate, Utc};
use poem::web::Data;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::auth::Caller;
use super::error::ApiError;
use super::{ApiState, Topic};
use crate::providers::catalogue::{Catalogue, Model};

pub struct ModelsApi;

#[OpenApi(tag = "Topic::Catalogue")]
impl ModelsApi {
    /// List the models
    ///
    /// With the price of a video for each length and size. Models that are no longer offered stay listed with
    /// `available: false` and, where there is one, a replacement.
    #[oai(path = "/models", method = "get", operation_id = "listModels")]
    async fn list(&self, _caller: Caller, Data(state): Data<&ApiState>) -> Result<Json<ModelList>, ApiError> {
        let today = Utc::now().date_naive();
        let catalogue = state.catalogue.get();
        Ok(Json(ModelList {
            data: catalogue.models().map(|model| ModelOffer::new(&catalogue, model, today)).collect(),
        }))
    }
}

/// Every model.
#[derive(Object)]
struct ModelList {
    data: Vec<ModelOffer>,
}

/// A model and what it costs.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct ModelOffer {
    /// To be named in `items[].model`.
    name: String,
    /// Whether it can be ordered today.
    available: bool,
    /// The last day on which it can be ordered.
    available_until: Option<NaiveDate>,
    /// The model to use after that day.
    replacement: Option<String>,
    /// The lengths offered.
    seconds: Vec<u32>,
    default_seconds: u32,
    /// The sizes offered, width and height in pixels.
    sizes: Vec<String>,
    default_size: String,
    max_prompt_chars: u64,
    /// Whether a video may start from a reference image.
    accepts_reference_image: bool,
    /// Whether that image must have the size of the video, pixel by pixel.
    reference_image_matches_size: bool,
    /// The price of one video for every length and size.
    prices: Vec<ModelPrice>,
}

/// The price of one video.
#[derive(Object)]
struct ModelPrice {
    seconds: u32,
    size: String,
    price_credits: i64,
}

impl ModelOffer {
    fn new(catalogue: &Catalogue, model: &Model, today: NaiveDate) -> ModelOffer {
        let offers = model.seconds.iter().flat_map(|seconds| model.sizes.iter().map(move |size| (*seconds, *size)));
        let prices = offers.filter_map(|(seconds, size)| {
            let price = model.price(seconds, size)?;
            Some(ModelPrice { seconds, size: size.to_string(), price_credits: price.get() })
        });
        ModelOffer {
            name: model.name.clone(),
            available: !model.retired(today),
            available_until: model.available_until,
            replacement: catalogue.replacement(model, today).map(|model| model.name.clone()),
            seconds: model.seconds.clone(),
            default_seconds: model.default_seconds,
            sizes: model.sizes.iter().map(ToString::to_string).collect(),
            default_size: model.default_size.to_string(),
            max_prompt_chars: model.max_prompt_chars as u64,
            accepts_reference_image: model.reference_image,
            reference_image_matches_size: model.reference_image_matches_size,
            prices: prices.collect(),
        }
    }
}
