//! Losses that are due and that nobody booked: an older program ends attempts without a known outcome and knows no such
//! book, and while a cluster is upgraded it works beside a newer one.
//!
//! Always holds: booking one twice is no change, so anybody may do it at any time.

use sqlx::PgConnection;

use crate::db::{self, Database};
use crate::domain::{BatchId, Credits, VideoId};
use crate::ledger::{self, LedgerError, Loss, LossReason};

/// Losses of one transaction.
const MOST: i64 = 1_000;

/// Books what is missing, at the price of the videos; answers how many attempts that were.
///
/// # Errors
/// The database's.
pub async fn book_missing_losses(db: &Database) -> Result<usize, LedgerError> {
    let mut tx = db.begin().await?;
    let losses = missing(&mut tx).await?;
    if losses.is_empty() {
        tx.rollback().await?;
        return Ok(0);
    }
    ledger::lock_batches(&mut tx, losses.iter().map(|loss| loss.batch).collect()).await?;
    let credits = ledger::book_losses(&mut tx, &losses).await?;
    db::commit("book missing losses", tx).await?;
    tracing::warn!(
        attempts = losses.len(),
        credits = credits.get(),
        "booked what attempts of unknown outcome may have cost: whoever ended them did not"
    );
    Ok(losses.len())
}

async fn missing(conn: &mut PgConnection) -> Result<Vec<Loss>, LedgerError> {
    let rows = sqlx::query!(
        r#"select a.video_id as "video: VideoId", a.n, v.batch_id as "batch: BatchId", v.price_credits as "price: Credits"
           from attempts a join videos v on v.id = a.video_id
               -- of a batch that is gone nothing can be booked; the comparison of the books names it
               join batches b on b.id = v.batch_id
           where a.state = 'unresolved'
               and not exists (select from provider_losses l where l.video_id = a.video_id and l.n = a.n)
           order by a.video_id, a.n limit $1"#,
        MOST,
    )
    .fetch_all(conn)
    .await?;
    let losses = rows.into_iter().map(|row| Loss {
        video: row.video,
        attempt: row.n,
        batch: row.batch,
        credits: row.price,
        reason: LossReason::OutcomeUnknown,
    });
    Ok(losses.collect())
}
