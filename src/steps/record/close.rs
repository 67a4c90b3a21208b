//! The end of an attempt: the video waits for another one, or ends; then its money is settled in the same transaction.

use std::collections::{BTreeMap, HashMap, HashSet};

use freezeframe_workflows::money::CreditMove;
use sqlx::PgConnection;

use super::locks::lock_lanes;
use super::{Lease, Reply, late};
use crate::domain::{AttemptState, BatchId, Credits, FailureClass, VideoId, VideoState};
use crate::engine::queue::{self, RunAt, Ticket};
use crate::engine::recorder::JournalError;
use crate::ledger::{self, LedgerError, Settlement};
use crate::storage::StoredImage;

/// What an attempt came to.
#[derive(Clone, Debug)]
pub struct Close {
    pub lease: Lease,
    pub batch: BatchId,
    pub attempt: AttemptEnd,
    pub verdict: Verdict,
    /// What the rules say that this end does to the video's credits.
    pub credits: CreditMove,
}

impl Close {
    /// The video ends because its batch was cancelled.
    fn stopped_by_customer(&self) -> bool {
        matches!(self.verdict, Verdict::Fail) && self.attempt.failure == Some(FailureClass::Cancelled)
    }
}

/// How the attempt itself ended.
#[derive(Clone, Debug)]
pub struct AttemptEnd {
    /// A final state.
    pub state: AttemptState,
    pub handle: Option<String>,
    pub failure: Option<FailureClass>,
    /// Safe to show to the customer.
    pub message: Option<String>,
    /// The next attempt prefers another account.
    pub blames_account: bool,
    /// What it may have cost us; booked where its outcome stays unknown.
    pub possible_cost: Credits,
    /// Its job may still succeed: it is looked at again when nobody waits for it any more.
    pub may_succeed: bool,
}

impl AttemptEnd {
    /// Whether that is certain: a list that does not show a job says less.
    fn nothing_was_bought(&self) -> bool {
        self.state == AttemptState::Rejected && !self.may_succeed
    }
}

/// A file in our store, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub key: String,
    pub bytes: u64,
    pub sha256: [u8; 32],
    /// The picture beside it, if there is one.
    pub thumbnail: Option<StoredImage>,
}

/// What becomes of the video.
#[derive(Clone, Debug)]
pub enum Verdict {
    Succeed(Output),
    /// Refunded, for the attempt's failure.
    Fail,
    RetryLater {
        delay_ms: u64,
        spends_attempt: bool,
    },
}

impl Verdict {
    fn video_state(&self) -> VideoState {
        match self {
            Verdict::Succeed(_) => VideoState::Succeeded,
            Verdict::Fail => VideoState::Failed,
            Verdict::RetryLater { .. } => VideoState::Waiting,
        }
    }
}

/// A row of `close.sql`.
struct Closed {
    video: VideoId,
    batch: BatchId,
    model: String,
    provider: Option<String>,
    price: Credits,
    price_offset: Credits,
    state: VideoState,
    again: bool,
}

impl From<LedgerError> for JournalError {
    fn from(error: LedgerError) -> JournalError {
        match error {
            LedgerError::Database(error) => error.into(),
            refused => JournalError::Refused(refused.to_string()),
        }
    }
}

pub(super) async fn write(
    conn: &mut PgConnection,
    closes: &[(usize, &Close)],
    replies: &mut [Reply],
) -> Result<(), JournalError> {
    if closes.is_empty() {
        return Ok(());
    }
    let closed = end_attempts(conn, closes).await?;
    let took_effect: HashSet<VideoId> = closed.iter().map(|row| row.video).collect();
    let mut by_video: HashMap<VideoId, &Close> = HashMap::with_capacity(closes.len());
    for (at, close) in closes {
        if took_effect.contains(&close.lease.video) {
            replies[*at] = Reply::Written;
            by_video.insert(close.lease.video, close);
        }
    }
    let new: Vec<&Closed> = closed.iter().filter(|row| !row.again).collect();
    settle(conn, &new, &by_video).await?;
    let ended: Vec<&Close> = new.iter().filter_map(|row| by_video.get(&row.video).copied()).collect();
    late::begin(conn, &ended).await?;
    let stopped: HashSet<VideoId> =
        ended.iter().filter(|close| close.stopped_by_customer()).map(|c| c.lease.video).collect();
    let complete = move_counters(conn, &new, &stopped).await?;
    delete_jobs(conn, &new, &by_video).await?;
    queue::push(conn, queue::names::FINALIZE, &complete, RunAt::Now).await?;
    Ok(())
}

async fn end_attempts(conn: &mut PgConnection, closes: &[(usize, &Close)]) -> Result<Vec<Closed>, sqlx::Error> {
    let each = || closes.iter().map(|(_, close)| *close);
    let output = |close: &Close| match &close.verdict {
        Verdict::Succeed(output) => Some(output.clone()),
        _ => None,
    };
    let outputs: Vec<Option<Output>> = each().map(output).collect();
    let pictures = || outputs.iter().map(|o| o.as_ref().and_then(|o| o.thumbnail));
    let later = |close: &Close| match close.verdict {
        Verdict::RetryLater { delay_ms, spends_attempt } => {
            (i64::try_from(delay_ms).unwrap_or(i64::MAX), spends_attempt)
        }
        Verdict::Succeed(_) | Verdict::Fail => (0, true),
    };
    sqlx::query_file_as!(
        Closed,
        "src/steps/record/close.sql",
        &each().map(|c| c.lease.video.bare()).collect::<Vec<_>>(),
        &each().map(|c| c.lease.epoch).collect::<Vec<_>>(),
        &each().map(|c| c.lease.attempt).collect::<Vec<_>>(),
        &each().map(|c| c.attempt.state.word().to_owned()).collect::<Vec<_>>(),
        &each().map(|c| c.attempt.handle.clone()).collect::<Vec<_>>() as &[Option<String>],
        &each().map(|c| c.attempt.failure.map(|f| f.name().to_owned())).collect::<Vec<_>>() as &[Option<String>],
        &each().map(|c| c.attempt.message.clone()).collect::<Vec<_>>() as &[Option<String>],
        &each().map(|c| c.verdict.video_state().word().to_owned()).collect::<Vec<_>>(),
        &outputs.iter().map(|o| o.as_ref().map(|o| o.key.clone())).collect::<Vec<_>>() as &[Option<String>],
        &outputs.iter().map(|o| o.as_ref().map(|o| o.bytes as i64)).collect::<Vec<_>>() as &[Option<i64>],
        &outputs.iter().map(|o| o.as_ref().map(|o| o.sha256.to_vec())).collect::<Vec<_>>() as &[Option<Vec<u8>>],
        &each().map(|c| later(c).0).collect::<Vec<_>>(),
        &each().map(|c| later(c).1).collect::<Vec<_>>(),
        &each().map(|c| c.attempt.blames_account).collect::<Vec<_>>(),
        &pictures().map(|p| p.map(|p| p.kind.extension().to_owned())).collect::<Vec<_>>() as &[Option<String>],
        &pictures().map(|p| p.and_then(|p| i32::try_from(p.bytes).ok())).collect::<Vec<_>>() as &[Option<i32>],
        &pictures().map(|p| p.map(|p| p.sha256.to_vec())).collect::<Vec<_>>() as &[Option<Vec<u8>>],
        &each().map(|c| c.lease.claim.bare()).collect::<Vec<_>>(),
        &each().map(|c| c.attempt.nothing_was_bought()).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await
}

async fn settle(
    conn: &mut PgConnection,
    closed: &[&Closed],
    closes: &HashMap<VideoId, &Close>,
) -> Result<(), JournalError> {
    let settlements: Vec<Settlement> = closed
        .iter()
        .filter_map(|row| {
            let close = closes.get(&row.video)?;
            let failure = match close.credits {
                CreditMove::Charge => None,
                // a failure without a class is refused by the database; refunding it is right in any case
                CreditMove::Refund => Some(close.attempt.failure.unwrap_or(FailureClass::ProviderFault)),
                CreditMove::Nothing | CreditMove::Freeze | CreditMove::Close => return None,
            };
            let Closed { video, batch, price, price_offset, .. } = **row;
            Some(Settlement { video, batch, price, price_offset, failure })
        })
        .collect();
    ledger::settle(conn, &settlements).await?;
    Ok(())
}

/// What a group of ends adds to a counter row.
#[derive(Default)]
struct Tally {
    succeeded: i32,
    failed: i32,
    /// Of the failed: those of a cancelled batch that the provider stopped.
    cancelled: i32,
    waiting: i32,
}

impl Tally {
    fn count(&mut self, state: VideoState) {
        match state {
            VideoState::Succeeded => self.succeeded += 1,
            VideoState::Failed => self.failed += 1,
            VideoState::Waiting | VideoState::Released | VideoState::Running => self.waiting += 1,
        }
    }
}

/// Counts videos out that are no longer under way at an account, by batch, model and account. The lanes are locked by the
/// caller.
pub(super) async fn land(
    conn: &mut PgConnection,
    landed: &BTreeMap<(BatchId, &str, &str), i32>,
) -> Result<(), sqlx::Error> {
    if landed.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update lane_routes r set in_flight = greatest(r.in_flight - i.videos, 0)
         from unnest($1::text[], $2::text[], $3::text[], $4::int[]) as i (batch_id, model, provider, videos)
         where r.batch_id = i.batch_id and r.model = i.model and r.provider = i.provider",
        &landed.keys().map(|(batch, ..)| batch.bare()).collect::<Vec<_>>(),
        &landed.keys().map(|(_, model, _)| (*model).to_owned()).collect::<Vec<_>>(),
        &landed.keys().map(|(.., provider)| (*provider).to_owned()).collect::<Vec<_>>(),
        &landed.values().copied().collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Counts in bulk, the `stopped` as cancelled; answers the batches of which every video is settled now.
async fn move_counters(
    conn: &mut PgConnection,
    closed: &[&Closed],
    stopped: &HashSet<VideoId>,
) -> Result<Vec<ulid::Ulid>, sqlx::Error> {
    if closed.is_empty() {
        return Ok(vec![]);
    }
    let mut lanes: BTreeMap<(BatchId, &str), Tally> = BTreeMap::new();
    let mut batches: BTreeMap<BatchId, Tally> = BTreeMap::new();
    let mut landed: BTreeMap<(BatchId, &str, &str), i32> = BTreeMap::new();
    for row in closed {
        if let Some(provider) = &row.provider {
            *landed.entry((row.batch, &row.model, provider)).or_default() += 1;
        }
        lanes.entry((row.batch, &row.model)).or_default().count(row.state);
        let batch = batches.entry(row.batch).or_default();
        batch.count(row.state);
        batch.cancelled += i32::from(stopped.contains(&row.video));
    }
    let lane_batches: Vec<String> = lanes.keys().map(|(batch, _)| batch.bare()).collect();
    let lane_models: Vec<String> = lanes.keys().map(|(_, model)| (*model).to_owned()).collect();
    lock_lanes(conn, &lane_batches, &lane_models).await?;
    sqlx::query!(
        "update batch_lanes l set waiting = l.waiting + i.waiting, settled = l.settled + i.settled,
             closed = l.settled + i.settled = l.total
         from unnest($1::text[], $2::text[], $3::int[], $4::int[]) as i (batch_id, model, waiting, settled)
         where l.batch_id = i.batch_id and l.model = i.model",
        &lane_batches,
        &lane_models,
        &lanes.values().map(|t| t.waiting).collect::<Vec<_>>(),
        &lanes.values().map(|t| t.succeeded + t.failed).collect::<Vec<_>>(),
    )
    .execute(&mut *conn)
    .await?;
    land(conn, &landed).await?;
    let complete = sqlx::query_scalar!(
        r#"with counted as (
               update batches b set succeeded = b.succeeded + i.succeeded, failed = b.failed + i.failed,
                   cancelled = b.cancelled + i.cancelled
               from unnest($1::text[], $2::int[], $3::int[], $4::int[]) as i (batch_id, succeeded, failed, cancelled)
               where b.id = i.batch_id
               returning b.id, b.total - b.succeeded - b.failed as remaining, i.succeeded + i.failed as settled)
           select id as "id: BatchId" from counted where remaining = 0 and settled > 0"#,
        &batches.keys().map(|batch| batch.bare()).collect::<Vec<_>>(),
        &batches.values().map(|t| t.succeeded).collect::<Vec<_>>(),
        &batches.values().map(|t| t.failed).collect::<Vec<_>>(),
        &batches.values().map(|t| t.cancelled).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    Ok(complete.into_iter().map(BatchId::ulid).collect())
}

async fn delete_jobs(
    conn: &mut PgConnection,
    closed: &[&Closed],
    closes: &HashMap<VideoId, &Close>,
) -> Result<(), sqlx::Error> {
    let leases: Vec<&Lease> = closed.iter().filter_map(|row| closes.get(&row.video)).map(|c| &c.lease).collect();
    let Some(first) = leases.first() else { return Ok(()) };
    let tickets: Vec<Ticket> = leases.iter().map(|lease| lease.ticket).collect();
    queue::ack(conn, &first.worker, &tickets).await?;
    Ok(())
}
