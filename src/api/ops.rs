//! What a load balancer, an orchestrator and Prometheus ask. No API key: keep these from the public at the proxy, and the
//! metrics on a port of their own (`[http] metrics_listen`).

use poem::http::header;
use poem::web::{Data, Json};
use poem::{IntoResponse, handler};
use serde_json::{Value, json};

use super::ApiState;
use super::error::ApiError;
use crate::metrics as recorded;

/// Whether this process answers at all.
#[handler]
pub fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// Whether requests can be served: the process is not stopping, the database answers and its schema is not older than this program.
#[handler]
pub async fn readyz(Data(state): Data<&ApiState>) -> Result<Json<Value>, ApiError> {
    if state.stopping.is_cancelled() {
        return Err(ApiError::unavailable("this process is stopping"));
    }
    match state.db.is_migrated().await {
        Ok(true) => Ok(Json(json!({ "status": "ready" }))),
        Ok(false) => Err(ApiError::unavailable("the database is not migrated: run `freezeframe migrate`")),
        Err(error) => {
            tracing::warn!(%error, "not ready: the database does not answer");
            Err(ApiError::unavailable("the database does not answer"))
        }
    }
}

/// The metrics of this process in the text format of Prometheus.
#[handler]
pub fn metrics() -> impl IntoResponse {
    recorded::render().with_header(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")
}
