//! The operators' API: doors to the controls of what runs, across tenants, with a document of its own
//! (`openapi/operator.json`).
//!
//! Always holds: only these routes are given an [`OperatorState`], so no request of a customer reaches what works across
//! tenants; a handler that takes an [`auth::Caller`] cannot run without an operator's key, and nothing is changed without the
//! role `ops` and a reason; names are told to the histories by [`Said`](crate::operators::Said).
//! Waiting for the database is bounded as for customers: what was not seen to end is told as unknown.
//! Refuses: customers' keys, SQL, decisions.

mod accounts;
mod auth;
mod batches;
mod limits;
mod pauses;
mod shown;
mod tenants;

use std::sync::Arc;
use std::time::Duration;

use poem_openapi::types::Type;
use poem_openapi::{ExtraHeader, OpenApiService, Tags};
use serde_json::Value;

use super::auth::KnownKeys;
use super::error::ApiError;
use super::limits::JsonBody;
use super::operations::Operations;
use crate::control::{ControlError, Controls};
use crate::db;
use crate::domain::Wrong;
use crate::operators::Operator;

/// Where the documented operations are mounted.
pub const PREFIX: &str = "/api/operator";
/// A thousand ids, and everything else beside them.
const MAX_BODY_BYTES: usize = 64 << 10;
/// How long a body may take: the key was looked at before, and one that is revoked is to change nothing for long.
const BODY_WITHIN: Duration = Duration::from_secs(5);

/// What the handlers of operators work with. Cheap to clone.
#[derive(Clone)]
pub struct OperatorState {
    controls: Controls,
    known_keys: Arc<KnownKeys<Operator>>,
}

impl OperatorState {
    pub fn new(controls: Controls) -> OperatorState {
        OperatorState { controls, known_keys: Arc::default() }
    }
}

#[derive(Tags)]
enum Topic {
    /// What tenants, provider accounts and models may use.
    Limits,
    /// Where videos are made.
    Accounts,
    /// What begins no more for a while.
    Pauses,
    /// Batches of any tenant.
    Batches,
    /// The customers.
    Tenants,
}

type Api = (limits::LimitsApi, accounts::AccountsApi, pauses::PausesApi, batches::BatchesApi, tenants::TenantsApi);

pub fn service() -> OpenApiService<Operations<Api>, ()> {
    let api = (limits::LimitsApi, accounts::AccountsApi, pauses::PausesApi, batches::BatchesApi, tenants::TenantsApi);
    OpenApiService::new(Operations::new(api, PREFIX), "Freezeframe for operators", env!("CARGO_PKG_VERSION"))
        .description(include_str!("about.md"))
        .url_prefix(PREFIX)
        .extra_response_header::<String, _>(
            ExtraHeader::new("X-Trace-Id").description("Names this request in our logs."),
        )
}

/// The operators' OpenAPI document: the same text whenever it is made by the same program.
pub fn openapi_json() -> String {
    service().spec() + "\n"
}

/// The JSON of a body.
async fn json_of<T: Type>(body: JsonBody<T>) -> Result<Value, ApiError> {
    let Ok(read) = tokio::time::timeout(BODY_WITHIN, body.read(MAX_BODY_BYTES)).await else {
        return Err(ApiError::body_too_slow());
    };
    let bytes = read?;
    serde_json::from_slice(&bytes).map_err(|error| ApiError::not_json(&error))
}

/// A body that was read.
fn valid<T>(read: Result<T, Vec<Wrong>>) -> Result<T, ApiError> {
    read.map_err(ApiError::invalid_change)
}

/// Waits for what only reads.
async fn look<T>(reads: impl Future<Output = Result<T, ControlError>>) -> Result<T, ApiError> {
    match db::in_time(reads).await {
        Ok(read) => Ok(read?),
        Err(late) => Err(sqlx::Error::from(late).into()),
    }
}

/// Waits for a change, which goes on when nobody waits for it any more.
async fn change<T>(changes: impl Future<Output = Result<T, ControlError>>) -> Result<T, ApiError> {
    match db::in_time(changes).await {
        Ok(changed) => Ok(changed?),
        Err(_) => Err(ApiError::change_unknown()),
    }
}
