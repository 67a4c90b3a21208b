//! Batches over HTTP: submit one, list them, look at one, cancel it.

use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;
use poem::http::HeaderMap;
use poem::web::Data;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, OpenApi};
use serde_json::Value;

use super::auth::Caller;
use super::batch_schema::{VideoBatch, VideoBatchAccepted, VideoBatchCancelled, VideoBatchPage, VideoBatchRequest};
use super::error::{ApiError, key_used};
use super::limits::JsonBody;
use super::page::{self, Limit};
use super::words::Word;
use super::{ApiState, Topic};
use crate::batches::{self, AdmissionError, Admitted, Order, RetryError, Wrong};
use crate::domain::{BatchId, BatchStatus, TenantId};
use crate::idempotency::RequestHash;
use crate::metrics;

/// Where the idempotency key may stand beside the body.
const KEY_HEADERS: [&str; 2] = ["X-Request-Id", "Idempotency-Key"];
const LIST: &str = "batches";

pub struct BatchesApi;

#[derive(ApiResponse)]
pub(super) enum Submitted {
    /// Accepted: the whole price is frozen and every video will be made, or refunded.
    #[oai(status = 202)]
    Accepted(
        Json<VideoBatchAccepted>,
        /// Where the batch can be looked at.
        #[oai(header = "Location")]
        String,
        /// `true` when the same request was accepted before and this is that answer.
        #[oai(header = "Idempotent-Replayed")]
        Option<bool>,
    ),
}

#[OpenApi(tag = "Topic::Batches")]
impl BatchesApi {
    /// Submit a batch of videos
    ///
    /// Checks every item, freezes the price of the whole batch and accepts it, in one step: a batch that is answered with
    /// 202 is paid for and durable. Each video is then made on its own. Successes are charged when the batch ends; every
    /// failure is refunded at once.
    ///
    /// **Idempotency.** Send a key of your own as `x-request-id` in the body, or as the header `X-Request-Id` or
    /// `Idempotency-Key`. The same key with the same body gets the same answer again and never buys twice; with another
    /// body it is refused (422). Keys have 1 to 255 printable ASCII characters.
    #[oai(
        path = "/video-batch",
        method = "post",
        operation_id = "submitVideoBatch",
        request_header(
            name = "Idempotency-Key",
            ty = "Option<String>",
            description = "Your idempotency key; the same as `x-request-id` in the body and the header `X-Request-Id`."
        )
    )]
    async fn submit(
        &self,
        caller: Caller,
        Data(state): Data<&ApiState>,
        headers: &HeaderMap,
        body: JsonBody<VideoBatchRequest>,
    ) -> Result<Submitted, ApiError> {
        let body = body.read(state.max_body_bytes).await?;
        if body.is_empty() {
            return Err(ApiError::empty_body());
        }
        let header_keys = header_keys(headers);
        Ok(accepted(submit(state, caller.0.id, body, header_keys).await?))
    }

    /// List batches
    ///
    /// Newest first. Follow `next_cursor` until it is absent.
    #[oai(path = "/video-batch", method = "get", operation_id = "listVideoBatches")]
    #[expect(clippy::too_many_arguments, reason = "each is a documented parameter of the operation")]
    async fn list(
        &self,
        caller: Caller,
        Data(state): Data<&ApiState>,
        /// Only batches of this status.
        status: Query<Option<Word<BatchStatus>>>,
        /// How many batches a page shows.
        #[oai(default)]
        limit: Query<Limit>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<VideoBatchPage>, ApiError> {
        let before: Option<BatchId> = page::after(LIST, cursor.0.as_deref())?;
        let (tenant, status) = (caller.0.id, status.0.map(|Word(status)| status));
        let most = limit.rows();
        let rows = state
            .db
            .read(tenant, move |conn| {
                Box::pin(async move { batches::batches(conn, tenant, before, status, most).await })
            })
            .await?;
        let (rows, next_cursor) = page::page(rows, limit.0, |batch| page::cursor(LIST, batch.id));
        Ok(Json(VideoBatchPage { data: rows.into_iter().map(VideoBatch::from).collect(), next_cursor }))
    }

    /// Look at a batch
    ///
    /// Counts and credits are of one moment: `total = waiting + in_progress + succeeded + failed` and
    /// `frozen = charged + refunded + held`, always.
    #[oai(path = "/video-batch/:batch_id", method = "get", operation_id = "getVideoBatch")]
    async fn get(
        &self,
        caller: Caller,
        Data(state): Data<&ApiState>,
        /// The id of a batch, `bat_` and 26 characters.
        batch_id: Path<String>,
    ) -> Result<Json<VideoBatch>, ApiError> {
        let id = parse_id(&batch_id.0)?;
        let tenant = caller.0.id;
        let found =
            state.db.read(tenant, move |conn| Box::pin(async move { batches::batch(conn, tenant, id).await })).await?;
        Ok(Json(found.ok_or_else(|| no_batch(id))?.into()))
    }

    /// Cancel a batch
    ///
    /// Nothing more of it begins: within two seconds every video that has not begun ends as `cancelled` and is refunded. What
    /// is being made goes on to its end and is charged if it succeeds; where the provider can stop a job, it is asked to, and a
    /// video that it stopped ends as `cancelled` and is refunded too. Repeating it changes nothing and is answered the same.
    #[oai(path = "/video-batch/:batch_id/cancel", method = "post", operation_id = "cancelVideoBatch")]
    async fn cancel(
        &self,
        caller: Caller,
        Data(state): Data<&ApiState>,
        /// The id of a batch, `bat_` and 26 characters.
        batch_id: Path<String>,
    ) -> Result<Json<VideoBatchCancelled>, ApiError> {
        let id = parse_id(&batch_id.0)?;
        let tenant = caller.0.id;
        let cancelled = state
            .db
            .act(tenant, "cancel batch", move |conn| Box::pin(async move { batches::cancel(conn, tenant, id).await }));
        Ok(Json(VideoBatchCancelled::new(id, cancelled.await?)))
    }
}

/// A batch id as it stands in a path.
///
/// # Errors
/// Not found, as for any other id that is not the tenant's.
pub(super) fn parse_id(text: &str) -> Result<BatchId, ApiError> {
    text.parse().map_err(|error| ApiError::not_found(format!("the batch id in the address is {error}")))
}

pub(super) fn no_batch(id: BatchId) -> ApiError {
    ApiError::not_found(format!("there is no batch {id} of this tenant"))
}

/// The answer to a batch that was admitted, which is counted the first time.
pub(super) fn accepted(admitted: Admitted) -> Submitted {
    let (receipt, replayed) = match admitted {
        Admitted::New(receipt) => {
            metrics::batch_admitted(u64::from(receipt.total), receipt.frozen_credits.get());
            (receipt, None)
        }
        Admitted::Replayed(receipt) => (receipt, Some(true)),
    };
    let body = VideoBatchAccepted::from(receipt);
    let location = body.links.batch.clone();
    Submitted::Accepted(Json(body), location, replayed)
}

/// Every idempotency key among the headers, by the header's name.
pub(super) fn header_keys(headers: &HeaderMap) -> Vec<(&'static str, String)> {
    let values = KEY_HEADERS.iter().flat_map(|name| headers.get_all(*name).iter().map(move |value| (*name, value)));
    values.map(|(name, value)| (name, String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

/// Why a body is no request.
pub(super) enum NotValid {
    NotJson(ApiError),
    /// Not valid today; with its key, if it has one, under which it may have been answered before.
    Wrong(Vec<Wrong>, Option<(String, RequestHash)>),
    Failed(ApiError),
}

impl From<NotValid> for ApiError {
    fn from(not_valid: NotValid) -> ApiError {
        match not_valid {
            NotValid::NotJson(error) | NotValid::Failed(error) => error,
            NotValid::Wrong(wrong, _) => ApiError::invalid_order(wrong),
        }
    }
}

async fn submit(
    state: &ApiState,
    tenant: TenantId,
    body: Bytes,
    header_keys: Vec<(&'static str, String)>,
) -> Result<Admitted, ApiError> {
    match read_order(state, body, header_keys).await {
        Ok(order) => state.admission.admit(tenant, order).await.map_err(refused),
        Err(not_valid) => answered_before(state, tenant, not_valid).await,
    }
}

/// The answer that the same request was given before, although it is not valid today.
///
/// # Errors
/// What is wrong with it, when it was not.
pub(super) async fn answered_before(
    state: &ApiState,
    tenant: TenantId,
    not_valid: NotValid,
) -> Result<Admitted, ApiError> {
    let (mut wrong, key) = match not_valid {
        NotValid::Wrong(wrong, key) => (wrong, key),
        NotValid::NotJson(error) => {
            metrics::batch_refused("invalid");
            return Err(error);
        }
        NotValid::Failed(error) => return Err(error),
    };
    let Some((key, hash)) = key else { return Err(invalid(wrong)) };
    match state.admission.answered_before(tenant, (&key, &hash)).await {
        Ok(Some(receipt)) => Ok(Admitted::Replayed(receipt)),
        Ok(None) => Err(invalid(wrong)),
        Err(AdmissionError::KeyUsedForOtherContent) => {
            wrong.push(key_used());
            Err(invalid(wrong))
        }
        Err(error) => Err(error.into()),
    }
}

/// The order that a body is.
pub(super) async fn read_order(
    state: &ApiState,
    body: Bytes,
    keys: Vec<(&'static str, String)>,
) -> Result<Arc<Order>, NotValid> {
    let (catalogue, limits) = (state.catalogue.get(), state.order_limits);
    let parse = move |body: &Value, keys: &[(&str, &str)]| {
        batches::parse(body, keys, limits, (&catalogue, Utc::now()))
            .map_err(|wrong| NotValid::Wrong(wrong, batches::repeated_request(body, keys)))
    };
    read(body, keys, parse).await
}

/// Parses on a thread of its own: ten thousand items take longer than other requests should wait.
pub(super) async fn read<T: Send + Sync + 'static>(
    body: Bytes,
    keys: Vec<(&'static str, String)>,
    parse: impl FnOnce(&Value, &[(&str, &str)]) -> Result<T, NotValid> + Send + 'static,
) -> Result<Arc<T>, NotValid> {
    let parsing = tokio::task::spawn_blocking(move || {
        let body: Value =
            serde_json::from_slice(&body).map_err(|error| NotValid::NotJson(ApiError::not_json(&error)))?;
        let keys: Vec<(&str, &str)> = keys.iter().map(|(name, key)| (*name, key.as_str())).collect();
        parse(&body, &keys).map(Arc::new)
    });
    let stopped = |stopped| ApiError::internal(format_args!("parsing a body ended early: {stopped}"));
    parsing.await.unwrap_or_else(|error| Err(NotValid::Failed(stopped(error))))
}

pub(super) fn invalid(wrong: Vec<Wrong>) -> ApiError {
    metrics::batch_refused("invalid");
    ApiError::invalid_order(wrong)
}

pub(super) fn refused(error: AdmissionError) -> ApiError {
    match &error {
        AdmissionError::ShortOfCredits { .. } => metrics::batch_refused("credits"),
        AdmissionError::KeyUsedForOtherContent => metrics::batch_refused("key"),
        AdmissionError::Retry(RetryError::NoBatch | RetryError::Database(_)) => {}
        AdmissionError::KeyInFlight | AdmissionError::Retry(_) => metrics::batch_refused("conflict"),
        AdmissionError::Images(_) => metrics::batch_refused("invalid"),
        AdmissionError::BrokenAnswer(_) | AdmissionError::Ledger(_) | AdmissionError::Database(_) => {}
    }
    error.into()
}
