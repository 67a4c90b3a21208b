//! When an order that was placed now would begin and be done.
//!
//! Refuses: to guess. For now nothing is told.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::domain::TenantId;

/// When videos would be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub starts_at: DateTime<Utc>,
    pub finishes_at: DateTime<Utc>,
}

/// When so many `videos` of each model, ordered now and no more than `per_minute` of them in a minute, would be made; `None`
/// when nobody can tell.
///
/// # Errors
/// The database's.
pub async fn estimate(
    _conn: &mut PgConnection,
    _tenant: TenantId,
    _videos: &BTreeMap<String, u32>,
    _per_minute: Option<u32>,
) -> Result<Option<Estimate>, sqlx::Error> {
    Ok(None)
}
