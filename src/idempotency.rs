//! Idempotency keys: a repeated request never buys twice.
//!
//! Always holds: a key is claimed, and its answer remembered, in the transaction that does what was asked, so that a key
//! without its effect, or an effect without its key, cannot exist. A request that was refused leaves no key behind.
//!
//! Refuses: to wait for a request that is still under way (the caller answers 409), to replay for other content.

use serde_json::Value;
use sqlx::PgConnection;

use crate::domain::TenantId;

/// The content of a request, in 32 bytes.
pub type RequestHash = [u8; 32];

/// What is known about a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Claimed {
    /// Not used before; it is this transaction's until it ends.
    Fresh,
    /// The same request was answered before.
    Replay(Value),
    /// Used before for other content.
    OtherContent,
    /// A request with this key is under way at this moment.
    InFlight,
}

/// Claims a key for this transaction. Never waits.
///
/// # Errors
/// The database's.
pub async fn claim(
    conn: &mut PgConnection,
    tenant: TenantId,
    key: &str,
    hash: &RequestHash,
) -> Result<Claimed, sqlx::Error> {
    // held until the transaction ends; two keys that share a hash value merely take turns
    let mine = sqlx::query_scalar!(
        r#"select pg_try_advisory_xact_lock(hashtextextended($1 || '/' || $2, 7)) as "mine!""#,
        tenant as TenantId,
        key,
    )
    .fetch_one(&mut *conn)
    .await?;
    match find(conn, tenant, key, hash).await? {
        Some(known) => Ok(known),
        None if mine => Ok(Claimed::Fresh),
        None => Ok(Claimed::InFlight),
    }
}

/// What was answered to a key before, if it was: [`Claimed::Replay`] or [`Claimed::OtherContent`].
///
/// # Errors
/// The database's.
pub async fn find(
    conn: &mut PgConnection,
    tenant: TenantId,
    key: &str,
    hash: &RequestHash,
) -> Result<Option<Claimed>, sqlx::Error> {
    let known = sqlx::query!(
        "select request_hash, answer from idempotency_keys where tenant_id = $1 and key = $2",
        tenant as TenantId,
        key,
    )
    .fetch_optional(conn)
    .await?;
    Ok(known.map(|row| if row.request_hash == hash { Claimed::Replay(row.answer) } else { Claimed::OtherContent }))
}

/// Remembers the answer of a claimed key. A key that was remembered already is a unique violation (23505).
///
/// # Errors
/// The database's.
pub async fn remember(
    conn: &mut PgConnection,
    tenant: TenantId,
    key: &str,
    hash: &RequestHash,
    answer: &Value,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into idempotency_keys (tenant_id, key, request_hash, answer) values ($1, $2, $3, $4)",
        tenant as TenantId,
        key,
        &hash[..],
        answer,
    )
    .execute(conn)
    .await?;
    Ok(())
}
