//! Finding tenants: who there is, and what they have open.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use crate::domain::TenantId;

/// A tenant as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TenantListed {
    pub id: TenantId,
    pub name: String,
    pub created_at: DateTime<Utc>,
    /// Videos that wait.
    pub waiting: i64,
    /// Videos released or running.
    pub in_flight: i64,
}

/// Up to `most` tenants, oldest first, behind `after`; only those whose names have `name` in them, however it is written.
///
/// # Errors
/// The database's.
pub async fn list(
    conn: &mut PgConnection,
    after: Option<TenantId>,
    name: Option<&str>,
    most: i64,
) -> Result<Vec<TenantListed>, sqlx::Error> {
    sqlx::query_as!(
        TenantListed,
        r#"select t.id as "id: TenantId", t.name, t.created_at, coalesce(l.waiting, 0) as "waiting!",
               coalesce(l.in_flight, 0) as "in_flight!"
           from tenants t left join (
               select tenant_id, sum(waiting) as waiting, sum(total - waiting - settled) as in_flight
               from batch_lanes where not closed group by tenant_id) l on l.tenant_id = t.id
           where ($1::text is null or t.id > $1) and ($2::text is null or strpos(lower(t.name), lower($2)) > 0)
           order by t.id limit $3"#,
        after as Option<TenantId>,
        name,
        most,
    )
    .fetch_all(conn)
    .await
}
