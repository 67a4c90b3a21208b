//! What a video's steps write: the transitions that recorders commit in groups, each fenced on its lease.
//!
//! Always holds: a transition takes effect only while its lease is the row's: the epoch, which grows with every claim, and
//! the claim itself, because a database that was set back under living workers gives an epoch out again. Whoever was replaced
//! is answered [`Reply::LeaseLost`] and stops. The end of a video settles its money, moves the batch's counters and deletes the job in
//! the same transaction; the end that completes a batch pushes its `finalize` job in it as well. A transition that is
//! written again (because the answer to a commit was lost) changes nothing and is answered as before.

mod claim;
mod close;
mod give_back;
mod late;
mod locks;
mod progress;
mod withdraw;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgConnection;

pub use claim::{Claim, ClaimedVideo, LiveAttempt};
pub use close::{AttemptEnd, Close, Output, Verdict};
pub use late::{LateAttempt, LateNews, forget_fruitless, late_rivals, take_due, write_late};
pub use withdraw::withdraw;

use crate::accounts::{self, News};
use crate::db::Database;
use crate::domain::{AttemptId, VideoId};
use crate::engine::queue::Ticket;
use crate::engine::recorder::{Journal, JournalError};

/// The right to write about a video, until somebody else claims it.
#[derive(Clone, Debug)]
pub struct Lease {
    pub video: VideoId,
    pub epoch: i32,
    /// The claim that it came by.
    pub claim: AttemptId,
    /// The attempt under way.
    pub attempt: i32,
    pub ticket: Ticket,
    pub worker: Arc<str>,
}

/// One thing to be written.
#[derive(Clone, Debug)]
pub enum Transition {
    /// Take a released video, or one whose worker died; starts an attempt as `sent` unless one is live.
    Claim(Claim),
    /// The image is there: the first byte may leave as soon as this is committed.
    Sending { lease: Lease },
    /// The provider has taken the job.
    Accepted { lease: Lease, handle: String },
    /// The answer to the submission was lost.
    AnswerLost { lease: Lease, cause: String },
    /// This worker stops; another one goes on.
    HandOver { lease: Lease },
    /// The attempt is over, and perhaps the video.
    Close(Box<Close>),
    /// What a provider told us of an account: true whoever holds the video that it was told about.
    Account {
        account: Arc<str>,
        news: News,
        /// How long an account that takes nothing more is left alone before one video may try it.
        probe: Duration,
    },
}

/// The answer to a transition.
#[derive(Clone, Debug)]
pub enum Reply {
    Claimed(Box<ClaimedVideo>),
    /// There was nothing to claim; the job is deleted.
    NothingToClaim,
    /// The video's account was shut after its release: it waits again, and the job is deleted.
    GivenBack,
    Written,
    /// The provider's job belongs to another attempt; nothing was written.
    HandleTaken,
    /// Somebody else holds the video now: stop, and write nothing more about it.
    LeaseLost,
}

/// The journal of videos.
pub struct VideoJournal;

#[async_trait]
impl Journal for VideoJournal {
    type Op = Transition;
    type Reply = Reply;

    async fn write(&self, conn: &mut PgConnection, ops: &[Transition]) -> Result<Vec<Reply>, JournalError> {
        let mut replies: Vec<Reply> = ops.iter().map(|_| Reply::LeaseLost).collect();
        let closing: HashSet<(VideoId, AttemptId)> = ops
            .iter()
            .filter_map(|op| match op {
                Transition::Close(close) => Some((close.lease.video, close.lease.claim)),
                _ => None,
            })
            .collect();
        let (mut claims, mut sending, mut accepted, mut lost, mut handed_over, mut closes, mut news) =
            (vec![], vec![], vec![], vec![], vec![], vec![], vec![]);
        let mut leave_alone = Duration::ZERO;
        for (at, op) in ops.iter().enumerate() {
            match op {
                Transition::Claim(claim) => claims.push((at, claim)),
                // the end of the attempt, in this very group, carries the handle as well
                Transition::Accepted { lease, .. } if closing.contains(&(lease.video, lease.claim)) => {
                    replies[at] = Reply::Written;
                }
                Transition::Accepted { lease, handle } => accepted.push((at, lease, handle.as_str())),
                Transition::Sending { lease } => sending.push((at, lease)),
                Transition::AnswerLost { lease, cause } => lost.push((at, lease, cause.as_str())),
                Transition::HandOver { lease } => handed_over.push((at, lease)),
                Transition::Close(close) => closes.push((at, close.as_ref())),
                Transition::Account { account, news: told, probe } => {
                    news.push((&**account, told));
                    leave_alone = leave_alone.max(*probe);
                    replies[at] = Reply::Written;
                }
            }
        }
        // batches first, as everywhere, whatever a group mixes: claims lock videos that a stale close may want as well
        crate::ledger::lock_batches(conn, closes.iter().map(|(_, close)| close.batch).collect()).await?;
        claim::write(conn, &claims, &mut replies).await?;
        progress::sending(conn, &sending, &mut replies).await?;
        progress::accepted(conn, &accepted, &mut replies).await?;
        progress::answer_lost(conn, &lost, &mut replies).await?;
        progress::handed_over(conn, &handed_over, &mut replies).await?;
        close::write(conn, &closes, &mut replies).await?;
        // last, because everybody's news of an account meets at its row
        accounts::note(conn, &news, leave_alone).await?;
        Ok(replies)
    }
}

/// Which of a provider account's handles belong to another attempt than this one, the video's `n`th.
///
/// # Errors
/// The database's.
pub async fn handles_of_others(
    db: &Database,
    (video, n): (VideoId, i32),
    provider: &str,
    handles: &[String],
) -> Result<HashSet<String>, sqlx::Error> {
    let owned = sqlx::query_scalar!(
        r#"select handle as "handle!" from attempts
           where provider = $1 and handle = any($2) and not (video_id = $3 and n = $4)"#,
        provider,
        handles,
        video as VideoId,
        n,
    )
    .fetch_all(db.pool())
    .await?;
    Ok(owned.into_iter().collect())
}

/// Whether another order of the same prompt may have a job at this account that nobody owns yet; `with_images` asks only for
/// orders that start from an image, which `unsent` tells: it is not null then until there is a handle; an image's URL is
/// forgotten at the end.
///
/// # Errors
/// The database's.
pub async fn rivals(
    db: &Database,
    lease: &Lease,
    (provider, prompt): (&str, &str),
    with_images: bool,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        // two questions, because each has an index of its own
        r#"select exists (
               select from attempts a join videos v on v.id = a.video_id
               where a.finished_at is null and a.unsent is not true
                   and a.provider = $1 and a.handle is null and (a.unsent is not null or not $4) and v.prompt = $2
                   and not (a.video_id = $3 and a.n = $5)
           ) or exists (
               select from attempts a join videos v on v.id = a.video_id
               where a.state = 'unresolved' and a.finished_at > now() - interval '1 hour'
                   and a.provider = $1 and a.handle is null and (a.unsent is not null or not $4) and v.prompt = $2
                   and not (a.video_id = $3 and a.n = $5)
           ) as "rivals!""#,
        provider,
        prompt,
        lease.video as VideoId,
        with_images,
        lease.attempt,
    )
    .fetch_one(db.pool())
    .await
}
