//! A customer's pauses over HTTP.

use poem::web::Data;
use poem_openapi::OpenApi;
use poem_openapi::param::Path;
use poem_openapi::payload::Json;

use super::auth::Caller;
use super::batch_schema::VideoBatchPaused;
use super::batches::parse_id;
use super::error::ApiError;
use super::{ApiState, Topic};
use crate::batches;

pub struct PausesApi;

#[OpenApi(tag = "Topic::Batches")]
impl PausesApi {
    /// Pause a batch
    ///
    /// Nothing more of it begins until you resume it; what is being made goes on. Its credits stay set aside, and `complete_by`
    /// goes on too. Repeating it changes nothing and is answered the same.
    #[oai(path = "/video-batch/:batch_id/pause", method = "post", operation_id = "pauseVideoBatch")]
    async fn pause(
        &self,
        caller: Caller,
        Data(state): Data<&ApiState>,
        /// The id of a batch, `bat_` and 26 characters.
        batch_id: Path<String>,
    ) -> Result<Json<VideoBatchPaused>, ApiError> {
        let id = parse_id(&batch_id.0)?;
        let tenant = caller.0.id;
        let paused = state
            .db
            .act(tenant, "pause batch", move |conn| Box::pin(async move { batches::pause(conn, tenant, id).await }));
        Ok(Json(VideoBatchPaused::new(id, Some(paused.await?))))
    }

    /// Resume a batch
    ///
    /// Ends your own pause. Repeating it changes nothing and is answered the same. A pause of ours ends by ours.
    #[oai(path = "/video-batch/:batch_id/resume", method = "post", operation_id = "resumeVideoBatch")]
    async fn resume(
        &self,
        caller: Caller,
        Data(state): Data<&ApiState>,
        /// The id of a batch, `bat_` and 26 characters.
        batch_id: Path<String>,
    ) -> Result<Json<VideoBatchPaused>, ApiError> {
        let id = parse_id(&batch_id.0)?;
        let tenant = caller.0.id;
        let resumed = state
            .db
            .act(tenant, "resume batch", move |conn| Box::pin(async move { batches::resume(conn, tenant, id).await }));
        resumed.await?;
        Ok(Json(VideoBatchPaused::new(id, None)))
    }
}
