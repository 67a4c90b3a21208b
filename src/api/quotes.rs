//! Quotes over HTTP: what an order would cost.

use chrono::{DateTime, Utc};
use poem::http::HeaderMap;
use poem::web::Data;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::auth::Caller;
use super::batch_schema::VideoBatchRequest;
use super::batches::{header_keys, read_order};
use super::error::ApiError;
use super::limits::JsonBody;
use super::{ApiState, Topic};
use crate::batches::{self, Quote, QuoteGroup};

pub struct QuotesApi;

/// What a batch would cost at this moment.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct VideoBatchQuote {
    /// How many videos it has.
    total: u32,
    /// What would be frozen for it, in credits.
    price_credits: i64,
    /// What may be spent now, in credits.
    available_credits: i64,
    /// How many credits are missing; 0 when there are enough.
    missing_credits: i64,
    /// Whether it would be accepted now: `false` when credits are missing (402).
    would_be_accepted: bool,
    /// Where the price comes from: items of the same model, length and size.
    groups: Vec<VideoBatchQuoteGroup>,
    /// Whether the idempotency key was used before; absent without a key. It changes nothing of the quote. If it was, the order
    /// would be answered like the earlier one, or be refused if that one was another.
    idempotency_key_used: Option<bool>,
    /// About when the first video would begin. Absent when that cannot be told.
    starts_at: Option<DateTime<Utc>>,
    /// About when the last video would be finished. Absent when that cannot be told.
    finishes_at: Option<DateTime<Utc>>,
}

/// Items that cost the same.
#[derive(Object)]
struct VideoBatchQuoteGroup {
    model: String,
    seconds: u32,
    size: String,
    /// How many items.
    count: u32,
    /// The price of each, in credits.
    credits_each: i64,
    /// `count` times `credits_each`.
    credits: i64,
}

#[OpenApi(tag = "Topic::Batches")]
impl QuotesApi {
    /// Ask what a batch would cost
    ///
    /// Takes the body of a submission and checks it like one: what would be refused there with 422 is refused here. Nothing is
    /// frozen and nothing is kept, so it can be asked as often as you like. An idempotency key is accepted, so that the body
    /// need not be changed, and ignored: it stays unused.
    ///
    /// The price is what would be frozen at this moment. It is no promise: prices, your credits and the videos of others
    /// change.
    #[oai(path = "/video-batch/quote", method = "post", operation_id = "quoteVideoBatch")]
    async fn quote(
        &self,
        caller: Caller,
        Data(state): Data<&ApiState>,
        headers: &HeaderMap,
        body: JsonBody<VideoBatchRequest>,
    ) -> Result<Json<VideoBatchQuote>, ApiError> {
        let body = body.read(state.max_body_bytes).await?;
        if body.is_empty() {
            return Err(ApiError::empty_body());
        }
        let order = read_order(state, body, header_keys(headers)).await?;
        let tenant = caller.0;
        let quoted =
            state.db.read(tenant.id, move |conn| Box::pin(async move { batches::quote(conn, &tenant, &order).await }));
        Ok(Json(quoted.await?.into()))
    }
}

impl From<Quote> for VideoBatchQuote {
    fn from(quote: Quote) -> VideoBatchQuote {
        let missing = quote.missing();
        VideoBatchQuote {
            total: quote.total,
            price_credits: quote.price.get(),
            available_credits: quote.available.get(),
            missing_credits: missing.get(),
            would_be_accepted: missing.is_zero(),
            groups: quote.groups.into_iter().map(VideoBatchQuoteGroup::from).collect(),
            idempotency_key_used: quote.key_used,
            starts_at: quote.estimate.map(|estimate| estimate.starts_at),
            finishes_at: quote.estimate.map(|estimate| estimate.finishes_at),
        }
    }
}

impl From<QuoteGroup> for VideoBatchQuoteGroup {
    fn from(group: QuoteGroup) -> VideoBatchQuoteGroup {
        VideoBatchQuoteGroup {
            model: group.model,
            seconds: group.seconds,
            size: group.size.to_string(),
            count: group.count,
            credits_each: group.each.get(),
            credits: group.credits.get(),
        }
    }
}
