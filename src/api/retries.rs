//! Retries over HTTP: what failed of a batch, ordered again.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use poem::http::HeaderMap;
use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::{Object, OpenApi};
use serde_json::Value;

use super::auth::Caller;
use super::batches::{NotValid, Submitted, accepted, answered_before, header_keys, invalid, parse_id, read, refused};
use super::error::ApiError;
use super::limits::OptionalJsonBody;
use super::words::Word;
use super::{ApiState, Topic};
use crate::batches::{self, Admitted, FailedVideos, Order, RetryRequest, Retryable, Wrong};
use crate::domain::{BatchId, FailureClass, TenantId};

pub struct RetriesApi;

/// What is retried, and how. Everything may be left out. Unknown fields are refused.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
pub struct VideoBatchRetryRequest {
    /// Only videos that failed for one of these; every failed video when absent, the cancelled and expired ones too.
    #[oai(validator(min_items = 1))]
    pub failure_types: Option<Vec<Word<FailureClass>>>,
    /// Other images for videos that started from one, by their `index` in the retried batch: a URL, the `id` of an uploaded
    /// image, or null to leave the video out. A must for those that started from a URL, which is not kept after the end of a
    /// video because it may hold a signature.
    pub reference_images: Option<BTreeMap<String, Option<String>>>,
    /// Where the final status is told; that of the retried batch when absent.
    pub webhook_url: Option<String>,
    /// Your idempotency key; also accepted as the header `X-Request-Id` or `Idempotency-Key`.
    #[oai(rename = "x-request-id", validator(min_length = 1, max_length = 255))]
    pub x_request_id: Option<String>,
    /// Your own words about the batch; those of the retried batch when absent.
    pub metadata: Option<BTreeMap<String, String>>,
    /// A pace of its own; that of the retried batch when absent.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000000")))]
    pub videos_per_minute: Option<u32>,
    /// Of your batches the one with the higher goes first; that of the retried batch when absent.
    #[oai(validator(minimum(value = "0"), maximum(value = "9")))]
    pub priority: Option<u8>,
    /// Videos that have not begun by then end as `expired`. Not taken over from the retried batch, whose time is mostly over.
    pub complete_by: Option<DateTime<Utc>>,
}

#[OpenApi(tag = "Topic::Batches")]
impl RetriesApi {
    /// Retry what failed of a batch
    ///
    /// Orders the failed videos of a batch that has ended again, as a batch of their own: with their prompts, lengths, sizes,
    /// images, `custom_id` and `metadata`, at today's prices. That batch names this one as `retry_of`, each of its videos the
    /// failed one; this one names it in `retried_by`. It is frozen, made, charged and refunded like any other batch.
    ///
    /// A failed video is retried once: repeating the request buys nothing again, whether it has an idempotency key (then it is
    /// answered like the first) or none (409). What fails again is retried from the batch that retried it.
    ///
    /// What cannot be ordered any more is refused (422) before anything is frozen: pointers such as `/items/17/model` lead into
    /// the order of the retried batch; `failure_types` and `reference_images` can leave it out.
    #[oai(
        path = "/video-batch/:batch_id/retry",
        method = "post",
        operation_id = "retryVideoBatch",
        request_header(
            name = "Idempotency-Key",
            ty = "Option<String>",
            description = "Your idempotency key; the same as `x-request-id` in the body and the header `X-Request-Id`."
        )
    )]
    #[expect(clippy::too_many_arguments, reason = "each is a part of the request")]
    async fn retry(
        &self,
        caller: Caller,
        Data(state): Data<&ApiState>,
        headers: &HeaderMap,
        /// The id of a batch, `bat_` and 26 characters.
        batch_id: Path<String>,
        body: OptionalJsonBody<VideoBatchRetryRequest>,
    ) -> Result<Submitted, ApiError> {
        let id = parse_id(&batch_id.0)?;
        let body = body.read(state.max_body_bytes).await?;
        Ok(accepted(retry(state, (caller.0.id, id), body, header_keys(headers)).await?))
    }
}

async fn retry(
    state: &ApiState,
    (tenant, batch): (TenantId, BatchId),
    body: Bytes,
    header_keys: Vec<(&'static str, String)>,
) -> Result<Admitted, ApiError> {
    let limits = state.order_limits;
    let parse = move |body: &Value, keys: &[(&str, &str)]| {
        batches::parse_retry(batch, body, keys, (limits, Utc::now()))
            .map_err(|wrong| NotValid::Wrong(wrong, batches::repeated_retry(batch, body, keys)))
    };
    let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    let request = match read(body, header_keys, parse).await {
        Ok(request) => request,
        Err(not_valid) => return answered_before(state, tenant, not_valid).await,
    };
    let failed = match state.admission.retryable(tenant, request.clone()).await.map_err(refused)? {
        Retryable::Answered(receipt) => return Ok(Admitted::Replayed(receipt)),
        Retryable::Videos(failed) => failed,
    };
    let order = price(state, failed, request).await?.map_err(invalid)?;
    state.admission.admit(tenant, order).await.map_err(refused)
}

/// On a thread of its own, like the parsing of an order.
async fn price(
    state: &ApiState,
    failed: FailedVideos,
    request: Arc<RetryRequest>,
) -> Result<Result<Arc<Order>, Vec<Wrong>>, ApiError> {
    let (catalogue, limits) = (state.catalogue.get(), state.order_limits);
    let pricing = tokio::task::spawn_blocking(move || {
        batches::retry_order(&failed, &request, limits, (&catalogue, Utc::now())).map(Arc::new)
    });
    pricing.await.map_err(|stopped| ApiError::internal(format_args!("pricing a retry ended early: {stopped}")))
}
