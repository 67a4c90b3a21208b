//! Who gets a video's money: one settlement for each video, refunds at once, the charge when the batch is complete.

use sqlx::PgConnection;

use super::LedgerError;
use crate::domain::{BatchId, BatchStatus, Credits, FailureClass, VideoId};

/// The end of one video, as far as money is concerned.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub video: VideoId,
    pub batch: BatchId,
    pub price: Credits,
    /// Credits of the batch's earlier videos: says which grant paid.
    pub price_offset: Credits,
    /// `None`: delivered, to be charged. Otherwise refunded now, for this reason.
    pub failure: Option<FailureClass>,
}

/// Settles videos in bulk: two statements, however many there are. A second settlement of a video is a unique violation
/// (23505) and fails the transaction.
///
/// # Errors
/// [`LedgerError::HoldsDoNotCover`] when the refunds are not covered to the credit, or the database's.
pub async fn settle(conn: &mut PgConnection, settlements: &[Settlement]) -> Result<(), LedgerError> {
    if settlements.is_empty() {
        return Ok(());
    }
    let videos: Vec<String> = settlements.iter().map(|s| s.video.bare()).collect();
    let batches: Vec<String> = settlements.iter().map(|s| s.batch.bare()).collect();
    let refunded: Vec<bool> = settlements.iter().map(|s| s.failure.is_some()).collect();
    let prices: Vec<i64> = settlements.iter().map(|s| s.price.get()).collect();
    sqlx::query!(
        r#"insert into settlements (video_id, batch_id, outcome, amount)
           select video_id, batch_id, (case when refunded then 'refunded' else 'charged' end)::settlement_outcome, amount
           from unnest($1::text[], $2::text[], $3::bool[], $4::bigint[]) as s (video_id, batch_id, refunded, amount)"#,
        &videos,
        &batches,
        &refunded,
        &prices,
    )
    .execute(&mut *conn)
    .await?;
    refund(conn, settlements).await
}

async fn refund(conn: &mut PgConnection, settlements: &[Settlement]) -> Result<(), LedgerError> {
    let failed: Vec<(&Settlement, FailureClass)> =
        settlements.iter().filter_map(|s| s.failure.map(|class| (s, class))).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let videos: Vec<String> = failed.iter().map(|(s, _)| s.video.bare()).collect();
    let batches: Vec<String> = failed.iter().map(|(s, _)| s.batch.bare()).collect();
    let offsets: Vec<i64> = failed.iter().map(|(s, _)| s.price_offset.get()).collect();
    let prices: Vec<i64> = failed.iter().map(|(s, _)| s.price.get()).collect();
    let reasons: Vec<String> = failed.iter().map(|(_, class)| class.name().to_owned()).collect();
    let found = sqlx::query_file_scalar!("src/ledger/sql/refund.sql", &videos, &batches, &offsets, &prices, &reasons)
        .fetch_one(conn)
        .await?;
    let expected = Credits::total(failed.iter().map(|(s, _)| s.price))
        .ok_or(LedgerError::OutOfRange { doing: "summing refunds" })?
        .get();
    if found != expected {
        return Err(LedgerError::HoldsDoNotCover { batches: batches.join(", "), expected, found });
    }
    Ok(())
}

/// What a finished batch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finalized {
    pub status: BatchStatus,
    pub charged: Credits,
    pub refunded: Credits,
    /// Whether this very call closed the batch.
    pub first_time: bool,
}

/// Calls the SQL function `finalize_batch_credits`: see there. Running it again changes nothing.
///
/// # Errors
/// The database's: `P0002` while a video is unsettled, `P0003` when the hold does not cover the successes.
pub async fn finalize(conn: &mut PgConnection, batch: BatchId) -> Result<Finalized, LedgerError> {
    let row = sqlx::query!(
        r#"select status as "status!: BatchStatus", charged as "charged!: Credits", refunded as "refunded!: Credits",
               first_time as "first_time!"
           from finalize_batch_credits($1)"#,
        batch as BatchId,
    )
    .fetch_one(conn)
    .await?;
    Ok(Finalized { status: row.status, charged: row.charged, refunded: row.refunded, first_time: row.first_time })
}

/// A batch's money at one moment: `frozen = charged + refunded + held`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMoney {
    pub batch: BatchId,
    pub frozen: Credits,
    pub charged: Credits,
    pub refunded: Credits,
    pub held: Credits,
}

/// The money of some batches; a batch that froze nothing has no row.
///
/// # Errors
/// The database's.
pub async fn money_of_batches(conn: &mut PgConnection, batches: &[BatchId]) -> Result<Vec<BatchMoney>, LedgerError> {
    Ok(sqlx::query_as!(
        BatchMoney,
        r#"select batch_id as "batch: BatchId", sum(frozen)::bigint as "frozen!: Credits",
               sum(charged)::bigint as "charged!: Credits", sum(refunded)::bigint as "refunded!: Credits",
               sum(held)::bigint as "held!: Credits"
           from batch_holds where batch_id = any($1) group by batch_id"#,
        batches as &[BatchId],
    )
    .fetch_all(conn)
    .await?)
}
