//! A tenant's wallets: one balance for each source of credits.

use sqlx::PgConnection;

use super::{LedgerError, Stamp};
use crate::domain::{Credits, GrantSource, TenantId};

/// What a tenant has: `available` may be spent now, `held` is frozen for batches that still run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wallet {
    pub available: Credits,
    pub held: Credits,
    pub sources: Vec<WalletSource>,
}

/// The part of a wallet that came from one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletSource {
    pub source: GrantSource,
    pub available: Credits,
    pub held: Credits,
}

/// Gives a new tenant an empty wallet for each source.
///
/// # Errors
/// The database's.
pub async fn open_wallets(conn: &mut PgConnection, tenant: TenantId) -> Result<(), LedgerError> {
    sqlx::query!(
        r#"insert into wallets (tenant_id, source)
           select $1, source from unnest(enum_range(null::grant_source)) as source
           on conflict do nothing"#,
        tenant as TenantId,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Brings credits in: issued -> available. Answers the source's balance after it.
///
/// # Errors
/// [`LedgerError::NoWallet`], or [`LedgerError::OutOfRange`] for zero or a balance that would not fit.
pub async fn grant(
    conn: &mut PgConnection,
    tenant: TenantId,
    source: GrantSource,
    amount: Credits,
    stamp: Stamp<'_>,
) -> Result<Credits, LedgerError> {
    if amount.is_zero() {
        return Err(LedgerError::OutOfRange { doing: "granting credits" });
    }
    let after = sqlx::query_scalar!(
        r#"with credited as (
               update wallets set available = available + $3
               where tenant_id = $1 and source = $2
               returning available
           )
           insert into credit_ledger (act, tenant_id, source, from_account, to_account, amount,
               balance_of, balance_before, balance_after, video_count, actor, reason, request_id)
           select 'grant', $1, $2, 'issued', 'available', $3, 'available', available - $3, available, 0, $4, $5, $6
           from credited
           returning balance_after as "balance_after: Credits""#,
        tenant as TenantId,
        source as GrantSource,
        amount.get(),
        stamp.actor,
        stamp.reason,
        stamp.request_id,
    )
    .fetch_optional(conn)
    .await
    .map_err(|error| match error.as_database_error().and_then(|e| e.code()).as_deref() {
        Some("22003") => LedgerError::OutOfRange { doing: "granting credits" },
        _ => LedgerError::Database(error),
    })?;
    after.ok_or(LedgerError::NoWallet { tenant })
}

/// The tenant's balances, all of one moment.
///
/// # Errors
/// [`LedgerError::NoWallet`], or the database's.
pub async fn wallet(conn: &mut PgConnection, tenant: TenantId) -> Result<Wallet, LedgerError> {
    let sources = sqlx::query_as!(
        WalletSource,
        r#"select w.source as "source: GrantSource", w.available as "available: Credits",
               coalesce((select sum(h.held) from batches b
                   join batch_holds h on h.batch_id = b.id and h.source = w.source
                   where b.tenant_id = w.tenant_id and b.finished_at is null), 0)::bigint as "held!: Credits"
           from wallets w where w.tenant_id = $1 order by w.source"#,
        tenant as TenantId,
    )
    .fetch_all(conn)
    .await?;
    if sources.is_empty() {
        return Err(LedgerError::NoWallet { tenant });
    }
    let sum = |part: fn(&WalletSource) -> Credits| {
        Credits::total(sources.iter().map(part)).ok_or(LedgerError::OutOfRange { doing: "summing a wallet" })
    };
    Ok(Wallet { available: sum(|s| s.available)?, held: sum(|s| s.held)?, sources })
}

/// What the tenant may spend at this moment; the freeze has the last word.
///
/// # Errors
/// The database's.
pub async fn available(conn: &mut PgConnection, tenant: TenantId) -> Result<Credits, LedgerError> {
    let sum = sqlx::query_scalar!(
        r#"select coalesce(sum(available), 0)::bigint as "sum!" from wallets where tenant_id = $1"#,
        tenant as TenantId,
    )
    .fetch_one(conn)
    .await?;
    Credits::new(sum).map_err(|_| LedgerError::OutOfRange { doing: "summing a wallet" })
}
