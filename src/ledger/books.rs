//! The books as a whole: what all accounts sum to, and every place where two records of one amount disagree.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::LedgerError;

/// The balance of each account kind, over all tenants. `sum` is zero when nothing appeared or disappeared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Books {
    /// What has been brought in, as a debt: never positive.
    pub issued: i64,
    /// Stored in wallets.
    pub available: i64,
    /// Stored in the holds of batches.
    pub held: i64,
    /// What delivered videos earned.
    pub revenue: i64,
    /// What we may owe to providers for videos that nobody got, as a debt: never positive.
    pub provider_payable: i64,
    /// The same as a cost.
    pub provider_loss: i64,
    pub sum: i64,
}

/// Two records of one amount that disagree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What kind of record it is.
    pub what: String,
    /// Which one: an id, or id/source.
    pub id: String,
    pub stored: i64,
    pub expected: i64,
}

/// Sums every account: stored balances where there are any, ledger rows for the rest.
///
/// # Errors
/// The database's.
pub async fn books(conn: &mut PgConnection) -> Result<Books, LedgerError> {
    let row = sqlx::query!(
        r#"select
            (select coalesce(sum(case when to_account = 'issued' then amount else -amount end), 0)::bigint
                from credit_ledger where 'issued' in (from_account, to_account)) as "issued!",
            (select coalesce(sum(available), 0)::bigint from wallets) as "available!",
            (select coalesce(sum(held), 0)::bigint from batch_holds) as "held!",
            (select coalesce(sum(amount), 0)::bigint from credit_ledger where to_account = 'revenue') as "revenue!",
            (select coalesce(-sum(amount), 0)::bigint from credit_ledger where from_account = 'provider_payable')
                as "provider_payable!",
            (select coalesce(sum(amount), 0)::bigint from credit_ledger where to_account = 'provider_loss')
                as "provider_loss!""#,
    )
    .fetch_one(conn)
    .await?;
    let sum = [row.issued, row.available, row.held, row.revenue, row.provider_payable, row.provider_loss]
        .into_iter()
        .try_fold(0i64, i64::checked_add)
        .ok_or(LedgerError::OutOfRange { doing: "summing the books" })?;
    Ok(Books {
        issued: row.issued,
        available: row.available,
        held: row.held,
        revenue: row.revenue,
        provider_payable: row.provider_payable,
        provider_loss: row.provider_loss,
        sum,
    })
}

/// Every difference between a stored balance and what its entries say, and every break in the entries' own story; empty
/// when the books are right.
///
/// # Errors
/// The database's.
pub async fn differences(conn: &mut PgConnection) -> Result<Vec<Difference>, LedgerError> {
    let mut found = sqlx::query_file_as!(Difference, "src/ledger/sql/differences.sql").fetch_all(&mut *conn).await?;
    found.extend(sqlx::query_file_as!(Difference, "src/ledger/sql/continuity.sql").fetch_all(conn).await?);
    Ok(found)
}
