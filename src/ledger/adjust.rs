//! Adjustments: how a person corrects a balance. What is wrong is never edited; a further entry says by how much, who and why.
//!
//! Refuses: an overdraft, and what is held for a batch: the batch gives that back itself.

use sqlx::PgConnection;

use super::{LedgerError, Stamp};
use crate::domain::{Credits, GrantSource, TenantId};

/// Which way an adjustment goes, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjustment {
    /// issued -> available.
    Add(Credits),
    /// available -> issued.
    TakeAway(Credits),
}

impl Adjustment {
    fn amount(self) -> Credits {
        match self {
            Adjustment::Add(amount) | Adjustment::TakeAway(amount) => amount,
        }
    }
}

/// Corrects one source of a wallet. Answers its balance after it.
///
/// # Errors
/// [`LedgerError::Overdraft`] when less is available than is to be taken, [`LedgerError::NoWallet`], or
/// [`LedgerError::OutOfRange`] for zero or a balance that would not fit.
pub async fn adjust(
    conn: &mut PgConnection,
    tenant: TenantId,
    source: GrantSource,
    adjustment: Adjustment,
    stamp: Stamp<'_>,
) -> Result<Credits, LedgerError> {
    let amount = adjustment.amount();
    if amount.is_zero() {
        return Err(LedgerError::OutOfRange { doing: "adjusting credits" });
    }
    let adds = matches!(adjustment, Adjustment::Add(_));
    let after = sqlx::query_scalar!(
        r#"with moved as (
               update wallets set available = case when $4 then available + $3 else available - $3 end
               where tenant_id = $1 and source = $2 and ($4 or available >= $3)
               returning available
           )
           insert into credit_ledger (act, tenant_id, source, from_account, to_account, amount,
               balance_of, balance_before, balance_after, video_count, actor, reason, request_id)
           select 'adjustment', $1, $2,
               (case when $4 then 'issued' else 'available' end)::ledger_account,
               (case when $4 then 'available' else 'issued' end)::ledger_account, $3,
               'available', case when $4 then available - $3 else available + $3 end, available, 0, $5, $6, $7
           from moved
           returning balance_after as "balance_after: Credits""#,
        tenant as TenantId,
        source as GrantSource,
        amount.get(),
        adds,
        stamp.actor,
        stamp.reason,
        stamp.request_id,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(|error| match error.as_database_error().and_then(|e| e.code()).as_deref() {
        Some("22003") => LedgerError::OutOfRange { doing: "adjusting credits" },
        _ => LedgerError::Database(error),
    })?;
    match after {
        Some(after) => Ok(after),
        None => Err(refusal(conn, tenant, source, amount).await?),
    }
}

/// Why no wallet was found that could be adjusted.
async fn refusal(
    conn: &mut PgConnection,
    tenant: TenantId,
    source: GrantSource,
    required: Credits,
) -> Result<LedgerError, LedgerError> {
    let available = sqlx::query_scalar!(
        r#"select available as "available: Credits" from wallets where tenant_id = $1 and source = $2"#,
        tenant as TenantId,
        source as GrantSource,
    )
    .fetch_optional(conn)
    .await?;
    Ok(match available {
        Some(available) => LedgerError::Overdraft { required, available },
        None => LedgerError::NoWallet { tenant },
    })
}
