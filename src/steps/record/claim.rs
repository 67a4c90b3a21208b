//! The claim: a job becomes the right to write about its video.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Lease, Reply, give_back};
use crate::accounts;
use crate::domain::{AttemptId, AttemptState, BatchId, Credits, ImageSource, TenantId, VideoId};
use crate::engine::queue::{self, Ticket};

/// A wish to work on the video that a job names.
#[derive(Clone, Debug)]
pub struct Claim {
    pub ticket: Ticket,
    pub worker: Arc<str>,
    /// New for every claim; the id of the attempt that it starts.
    pub claim_id: AttemptId,
}

/// A video in a worker's hands, with everything that its steps need.
#[derive(Clone, Debug)]
pub struct ClaimedVideo {
    pub lease: Lease,
    pub batch: BatchId,
    pub tenant: TenantId,
    pub model: String,
    pub prompt: String,
    pub seconds: u32,
    pub size: String,
    pub price: Credits,
    /// What it starts from, if that is an image.
    pub reference_image: Option<ImageSource>,
    /// Attempts charged against the bound so far, without the present one.
    pub attempts_spent: u32,
    pub waits: u32,
    /// Workers that died with it.
    pub deaths: u32,
    /// Whether its account was marked as out of quota or refusing us, or its circuit open, when it was claimed: then this
    /// video is to find out, or another worker held it that was.
    pub probe: bool,
    /// Whether faults of its account were counted when it was claimed: if the account takes it, they are not in a row.
    pub after_faults: bool,
    pub attempt: LiveAttempt,
    /// How long after the claim was asked for it may begin; `None` where nobody counts.
    pub turn_left: Option<Duration>,
}

/// The attempt under way.
#[derive(Clone, Debug)]
pub struct LiveAttempt {
    pub id: AttemptId,
    /// Nothing of it has been sent yet: this claim started it, or whoever did has not come so far.
    pub fresh: bool,
    pub state: AttemptState,
    pub provider: String,
    pub upstream_model: String,
    pub handle: Option<String>,
    /// By the database's clock.
    pub sent_at: DateTime<Utc>,
    pub age: Duration,
}

/// Writes claims. A job whose video is not to be had (finished, waiting, unknown) is deleted; so is one whose video goes
/// back to wait because its account is shut.
pub(super) async fn write(
    conn: &mut PgConnection,
    claims: &[(usize, &Claim)],
    replies: &mut [Reply],
) -> Result<(), sqlx::Error> {
    let Some((_, first)) = claims.first() else { return Ok(()) };
    let worker = first.worker.clone();
    let tickets: Vec<Ticket> = claims.iter().map(|(_, claim)| claim.ticket).collect();
    let held: HashSet<Ticket> = queue::still_held(conn, &worker, &tickets).await?.into_iter().collect();
    let mine: Vec<(usize, &Claim)> = claims.iter().filter(|(_, claim)| held.contains(&claim.ticket)).copied().collect();
    let videos: Vec<String> = mine.iter().map(|(_, claim)| claim.ticket.id.to_string()).collect();
    let claim_ids: Vec<String> = mine.iter().map(|(_, claim)| claim.claim_id.bare()).collect();
    // what stands against accounts: a handful of rows, read once for all claims of this transaction
    let accounts = accounts::all(conn).await?;
    let given_back = give_back::write(conn, &videos, &accounts).await?;
    let rows =
        sqlx::query_file!("src/steps/record/claim.sql", &videos, &claim_ids, &*worker).fetch_all(&mut *conn).await?;
    let mut rows: HashMap<VideoId, _> = rows.into_iter().map(|row| (row.id, row)).collect();
    let mut stale = Vec::new();
    for (at, claim) in mine {
        let video = VideoId::from_bare(&claim.ticket.id.to_string()).ok();
        let Some(row) = video.and_then(|video| rows.remove(&video)) else {
            stale.push(claim.ticket);
            let gave_back = given_back.contains(&claim.ticket.id);
            replies[at] = if gave_back { Reply::GivenBack } else { Reply::NothingToClaim };
            continue;
        };
        // an attempt that bears the claim's own id was started by it
        let fresh = row.live_id.is_none_or(|id| id == claim.claim_id) || row.live_unsent == Some(true);
        let attempt = LiveAttempt {
            id: row.live_id.unwrap_or(claim.claim_id),
            fresh,
            state: row.live_state.unwrap_or(AttemptState::Sent),
            provider: row.live_provider.unwrap_or(row.provider),
            upstream_model: row.live_upstream_model.unwrap_or(row.upstream_model),
            handle: row.live_handle,
            sent_at: row.live_sent_at.unwrap_or(row.now),
            age: Duration::from_millis(row.age_ms.max(0).unsigned_abs()),
        };
        let account = accounts.iter().find(|account| account.name == attempt.provider);
        let is_probe = |account: &accounts::Account| {
            account.marked() && (attempt.fresh || account.probe_video == Some(row.id.bare()))
        };
        replies[at] = Reply::Claimed(Box::new(ClaimedVideo {
            lease: Lease {
                video: row.id,
                epoch: row.epoch,
                claim: claim.claim_id,
                attempt: row.attempt,
                ticket: claim.ticket,
                worker: worker.clone(),
            },
            batch: row.batch,
            tenant: row.tenant,
            model: row.model,
            prompt: row.prompt,
            seconds: row.seconds.unsigned_abs(),
            size: row.size,
            price: row.price,
            reference_image: row.reference_image.as_deref().map(ImageSource::from_stored),
            attempts_spent: row.attempts_spent.unsigned_abs(),
            waits: row.waits.unsigned_abs(),
            deaths: row.deaths.unsigned_abs(),
            probe: account.is_some_and(is_probe),
            after_faults: account.is_some_and(|account| account.circuit_faults > 0),
            attempt,
            turn_left: row.turn_left_ms.map(|ms| Duration::from_millis(ms.max(0.0) as u64)),
        }));
    }
    queue::ack(conn, &worker, &stale).await?;
    Ok(())
}
