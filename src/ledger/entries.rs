//! Reading the ledger: every movement of customers' money with who, why, before and after. What providers cost us is none of
//! it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::LedgerError;
use crate::domain::{BatchId, Credits, GrantSource, LedgerAct, TenantId, VideoId};

/// One movement of money.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: i64,
    pub at: DateTime<Utc>,
    pub act: LedgerAct,
    pub source: GrantSource,
    /// `issued`, `available`, `held` or `revenue`.
    pub from_account: String,
    pub to_account: String,
    pub amount: Credits,
    /// Whose balance `balance_before` and `balance_after` show.
    pub balance_of: String,
    pub balance_before: Credits,
    pub balance_after: Credits,
    pub video_count: i32,
    /// Empty where the row speaks for the whole batch (freeze) or for all its successes (charge).
    pub video_ids: Vec<VideoId>,
    pub actor: String,
    pub reason: String,
    pub request_id: String,
}

/// The entries of a tenant's batch in order, after entry `after`.
///
/// # Errors
/// The database's.
pub async fn entries_of_batch(
    conn: &mut PgConnection,
    tenant: TenantId,
    batch: BatchId,
    after: i64,
    limit: i64,
) -> Result<Vec<Entry>, LedgerError> {
    Ok(sqlx::query_as!(
        Entry,
        r#"select id, at, act as "act: LedgerAct", source as "source!: GrantSource",
               from_account::text as "from_account!", to_account::text as "to_account!", amount as "amount: Credits",
               balance_of::text as "balance_of!", balance_before as "balance_before: Credits",
               balance_after as "balance_after: Credits", video_count, video_ids as "video_ids: Vec<VideoId>",
               actor, reason, request_id
           from credit_ledger
           where tenant_id = $1 and batch_id = $2 and id > $3 and act <> 'loss' order by id limit $4"#,
        tenant as TenantId,
        batch as BatchId,
        after,
        limit,
    )
    .fetch_all(conn)
    .await?)
}
