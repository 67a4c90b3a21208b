//! What providers may have charged us for nothing: a book of its own beside the customers' money.
//!
//! Always holds: an attempt's loss is booked once (`provider_losses` is keyed by the attempt), whoever books it and however
//! often; no wallet and no hold is touched.

use sqlx::PgConnection;

use super::LedgerError;
use crate::domain::{BatchId, Credits, VideoId};

/// Why it is a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// Nobody knows whether the provider took the order.
    OutcomeUnknown,
    /// The provider finished a video that nobody waited for any more.
    LateSuccess,
}

impl LossReason {
    /// As it stands in the ledger.
    pub const fn word(self) -> &'static str {
        match self {
            LossReason::OutcomeUnknown => "outcome_unknown",
            LossReason::LateSuccess => "late_success",
        }
    }
}

/// What one attempt may have cost us.
#[derive(Clone, Debug)]
pub struct Loss {
    pub video: VideoId,
    /// The attempt's number.
    pub attempt: i32,
    pub batch: BatchId,
    pub credits: Credits,
    pub reason: LossReason,
}

/// Books losses in bulk; answers the sum of those that were not booked before. The batches must be locked by the caller,
/// in their order: the rows show each batch's sum before and after.
///
/// # Errors
/// The database's.
pub async fn book_losses(conn: &mut PgConnection, losses: &[Loss]) -> Result<Credits, LedgerError> {
    if losses.is_empty() {
        return Ok(Credits::ZERO);
    }
    let booked = sqlx::query_file_scalar!(
        "src/ledger/sql/book_losses.sql",
        &losses.iter().map(|loss| loss.video.bare()).collect::<Vec<_>>(),
        &losses.iter().map(|loss| loss.attempt).collect::<Vec<_>>(),
        &losses.iter().map(|loss| loss.batch.bare()).collect::<Vec<_>>(),
        &losses.iter().map(|loss| loss.credits.get()).collect::<Vec<_>>(),
        &losses.iter().map(|loss| loss.reason.word().to_owned()).collect::<Vec<_>>(),
    )
    .fetch_one(conn)
    .await?;
    Credits::new(booked).map_err(|_| LedgerError::OutOfRange { doing: "booking losses" })
}
