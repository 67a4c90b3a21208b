//! Batches of any tenant over HTTP: cancel one, or change many by a filter.

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::Value;

use super::accounts::Reason;
use super::auth::Caller;
use super::{OperatorState, Topic, change, json_of, look, valid};
use crate::api::batches::parse_id;
use crate::api::error::ApiError;
use crate::api::limits::JsonBody;
use crate::batches::bulk::{Action, Affected};
use crate::control::ask::{self, BulkChange, Step};

/// Ids that an answer lists, at the most.
const MAX_IDS_SHOWN: usize = 1_000;

pub struct BatchesApi;

#[OpenApi(tag = "Topic::Batches")]
impl BatchesApi {
    /// Cancel a batch of any tenant
    ///
    /// As its customer would: nothing more of it begins, what has not begun is refunded within two seconds, and what is being
    /// made goes on to its end unless its provider can stop it. Repeating it changes nothing and is answered the same.
    #[oai(path = "/batches/:batch_id/cancel", method = "post", operation_id = "cancelBatch")]
    async fn cancel(
        &self,
        caller: Caller,
        Data(state): Data<&OperatorState>,
        /// The id of a batch, `bat_` and 26 characters.
        batch_id: Path<String>,
        body: JsonBody<Reason>,
    ) -> Result<Json<BatchCancelled>, ApiError> {
        let changer = caller.may_change()?;
        let id = parse_id(&batch_id.0)?;
        let said = changer.says(valid(ask::reason(&json_of(body).await?))?);
        let cancelled_at = change(state.controls.cancel(id, &said)).await?;
        Ok(Json(BatchCancelled { batch_id: id.to_string(), cancelled_at }))
    }

    /// Cancel, pause or resume many batches
    ///
    /// Chosen are batches of any tenant that have not ended, that everything in `filter` fits and that the action would
    /// change; an empty filter is refused. Ask with `preview: true` first: it changes nothing, tells how many there are, and a
    /// `viewer` may. Then send the same with that number as `expected`, and a `reason`: if it is another number by then, the
    /// answer is 409 with the `present` one and nothing is changed. With `created_before`, no newer batch comes among them.
    ///
    /// All of it is one step: every batch is changed, or none.
    #[oai(path = "/batches/bulk", method = "post", operation_id = "changeBatches")]
    async fn bulk(
        &self,
        caller: Caller,
        Data(state): Data<&OperatorState>,
        body: JsonBody<ChangeBatches>,
    ) -> Result<Json<BatchesChanged>, ApiError> {
        let body = json_of(body).await?;
        if body.get("preview") == Some(&Value::Bool(true)) {
            let BulkChange { action, filter, .. } = valid(ask::bulk(&body))?;
            let affected = look(state.controls.preview(action, &filter)).await?;
            return Ok(Json(BatchesChanged::new(action, true, &affected)));
        }
        let changer = caller.may_change()?;
        let BulkChange { action, filter, step } = valid(ask::bulk(&body))?;
        let Step::Apply { expected, reason } = step else {
            return Err(ApiError::internal("a preview was taken for a change"));
        };
        let said = changer.says(reason);
        let affected = change(state.controls.change_batches(action, (&filter, expected), &said)).await?;
        Ok(Json(BatchesChanged::new(action, false, &affected)))
    }
}

/// A batch that is cancelled.
#[derive(Object)]
struct BatchCancelled {
    batch_id: String,
    /// Since when.
    cancelled_at: DateTime<Utc>,
}

/// What is to be done to which batches. Unknown fields are refused.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct ChangeBatches {
    /// `cancel`, `pause` or `resume`. Resuming takes operators' pauses of the batches themselves away.
    action: String,
    filter: BatchFilter,
    /// Only tell what it would change.
    preview: Option<bool>,
    /// How many batches it is to change, as the preview told. Required without `preview`.
    expected: Option<u32>,
    /// Why, for those who find it: 1 to 1,000 characters. Required without `preview`.
    #[oai(validator(min_length = 1, max_length = 1_000))]
    reason: Option<String>,
    /// With `pause`: until when.
    until: Option<DateTime<Utc>>,
    /// With `pause`, in place of `until`: a whole number of `m`, `h` or `d`, such as `90m`.
    #[oai(rename = "for")]
    span: Option<String>,
}

/// Which batches: those that everything given fits. At least one thing must be given.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct BatchFilter {
    /// The id of a tenant.
    tenant: Option<String>,
    /// Batches with videos of this model, and perhaps of others.
    model: Option<String>,
    /// `queued` or `processing`.
    status: Option<String>,
    /// Ordered before.
    created_before: Option<DateTime<Utc>>,
    /// Ordered then or later.
    created_after: Option<DateTime<Utc>>,
    /// These batches.
    #[oai(validator(min_items = 1, max_items = 1_000))]
    ids: Option<Vec<String>>,
}

/// What was changed, or with `preview` what would be.
#[derive(Object)]
struct BatchesChanged {
    action: String,
    preview: bool,
    /// How many batches: what to expect, after a preview.
    batches: u32,
    /// Videos of theirs that wait, or did.
    waiting_videos: u64,
    /// The batches, the oldest first; the first 1,000.
    ids: Vec<String>,
}

impl BatchesChanged {
    fn new(action: Action, preview: bool, affected: &Affected) -> BatchesChanged {
        BatchesChanged {
            action: action.name().to_owned(),
            preview,
            batches: affected.batches(),
            waiting_videos: affected.waiting,
            ids: affected.ids.iter().take(MAX_IDS_SHOWN).map(ToString::to_string).collect(),
        }
    }
}
