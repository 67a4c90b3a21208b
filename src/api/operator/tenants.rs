//! Customers over HTTP: who there is.

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::param::Query;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::auth::Caller;
use super::{OperatorState, Topic, look};
use crate::api::error::ApiError;
use crate::api::page::{self, Limit};
use crate::domain::TenantId;
use crate::tenants::TenantListed;

/// What its cursors name.
const LIST: &str = "tenants";

pub struct TenantsApi;

#[OpenApi(tag = "Topic::Tenants")]
impl TenantsApi {
    /// List the tenants
    ///
    /// Oldest first. Follow `next_cursor` until it is absent.
    #[oai(path = "/tenants", method = "get", operation_id = "listTenants")]
    #[expect(clippy::too_many_arguments, reason = "each is a documented parameter of the operation")]
    async fn list(
        &self,
        _caller: Caller,
        Data(state): Data<&OperatorState>,
        /// Only those whose names have this in them, in capitals or not.
        name: Query<Option<String>>,
        /// How many tenants a page shows.
        #[oai(default)]
        limit: Query<Limit>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<TenantPage>, ApiError> {
        let after: Option<TenantId> = page::after(LIST, cursor.0.as_deref())?;
        let rows = look(state.controls.tenants(after, name.0.as_deref(), limit.rows())).await?;
        let (rows, next_cursor) = page::page(rows, limit.0, |tenant| page::cursor(LIST, tenant.id));
        Ok(Json(TenantPage { data: rows.into_iter().map(TenantShown::from).collect(), next_cursor }))
    }
}

/// A page of tenants.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct TenantPage {
    data: Vec<TenantShown>,
    /// For the next page; absent on the last one.
    next_cursor: Option<String>,
}

/// A tenant.
#[derive(Object)]
struct TenantShown {
    id: String,
    name: String,
    created_at: DateTime<Utc>,
    /// Videos that wait.
    waiting: i64,
    /// Videos released or running.
    in_flight: i64,
}

impl From<TenantListed> for TenantShown {
    fn from(tenant: TenantListed) -> TenantShown {
        let TenantListed { id, name, created_at, waiting, in_flight } = tenant;
        TenantShown { id: id.to_string(), name, created_at, waiting, in_flight }
    }
}
