//! Pauses over HTTP: of a tenant, a model or a batch.

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::auth::Caller;
use super::shown::LimitChanges;
use super::{OperatorState, Topic, change, json_of, valid};
use crate::api::error::ApiError;
use crate::api::limits::JsonBody;
use crate::control::{ControlError, ask};

pub struct PausesApi;

#[OpenApi(tag = "Topic::Pauses")]
impl PausesApi {
    /// Pause a tenant, a model or a batch
    ///
    /// Nothing new of it begins; what is under way goes on, and what waits waits. With `until` or `for` the pause ends by
    /// itself. A pause without an end and one with an end stand beside each other: it is paused while either holds.
    #[oai(path = "/pause", method = "post", operation_id = "pause")]
    async fn pause(
        &self,
        caller: Caller,
        Data(state): Data<&OperatorState>,
        body: JsonBody<Pause>,
    ) -> Result<Json<LimitChanges>, ApiError> {
        let changer = caller.may_change()?;
        let wanted = valid(ask::pause(&json_of(body).await?))?;
        let said = changer.says(wanted.reason);
        let paused = named_in_body(state.controls.pause(&wanted.whose, wanted.until, &said));
        Ok(Json(LimitChanges::new(Box::pin(change(paused)).await?)))
    }

    /// Resume a tenant, a model or a batch
    ///
    /// Takes the pauses of this very subject away, with an end and without, and answers those that there were. A batch stays
    /// paused while its tenant or model is, or its customer paused it.
    #[oai(path = "/resume", method = "post", operation_id = "resume")]
    async fn resume(
        &self,
        caller: Caller,
        Data(state): Data<&OperatorState>,
        body: JsonBody<Resume>,
    ) -> Result<Json<LimitChanges>, ApiError> {
        let changer = caller.may_change()?;
        let wanted = valid(ask::resume(&json_of(body).await?))?;
        let said = changer.says(wanted.reason);
        let resumed = named_in_body(state.controls.resume(&wanted.whose, &said));
        Ok(Json(LimitChanges::new(Box::pin(change(resumed)).await?)))
    }
}

/// What the body names and is not there is a fault of the body.
async fn named_in_body<T>(asked: impl Future<Output = Result<T, ControlError>>) -> Result<T, ControlError> {
    asked.await.map_err(|error| error.in_field("/subject"))
}

/// A pause. Unknown fields are refused.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct Pause {
    /// `tenant`, `model` or `batch`.
    scope: String,
    /// The id of a tenant or a batch, or the name of a model.
    subject: String,
    /// Until when.
    until: Option<DateTime<Utc>>,
    /// For how long, in place of `until`: a whole number of `m`, `h` or `d`, such as `90m`.
    #[oai(rename = "for")]
    span: Option<String>,
    /// Why, for those who find it: 1 to 1,000 characters.
    #[oai(validator(min_length = 1, max_length = 1_000))]
    reason: String,
}

/// The end of a pause. Unknown fields are refused.
#[derive(Object)]
struct Resume {
    /// `tenant`, `model` or `batch`.
    scope: String,
    /// The id of a tenant or a batch, or the name of a model.
    subject: String,
    /// Why, for those who find it: 1 to 1,000 characters.
    #[oai(validator(min_length = 1, max_length = 1_000))]
    reason: String,
}
