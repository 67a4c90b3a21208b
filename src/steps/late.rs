//! Late: what became of a job after its attempt had ended, because its outcome was unknown, its time was over, the provider
//! did not know it any more or seemed not to have taken it.
//!
//! A success is written down with its time and its cost to us. Always holds: a look is regular, bounded and nobody waits for
//! it; a job without a handle is taken from a callback that names it for this very attempt, or from the provider's list when
//! no other order could have made it. Refuses: to touch the customer's money. What was refunded stays refunded.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};

use super::Studio;
use super::generate::CLOCK_SKEW;
use super::record::{LateAttempt, LateNews, handles_of_others, late_rivals, take_due, write_late};
use crate::callbacks;
use crate::domain::{Credits, LateFinding, Size, VideoId};
use crate::engine::recorder::JournalError;
use crate::metrics;
use crate::providers::{FindOutcome, GenerationRequest, Handle, PollOutcome, Provider};

/// Attempts of one round.
const MOST: i64 = 20;
/// Questions under way at a time.
const AT_ONCE: usize = 4;

/// Looks once at the attempts that are due.
///
/// # Errors
/// The database's; the next looks come all the same.
pub async fn look_late(studio: &Studio) -> Result<(), JournalError> {
    let due = take_due(&studio.db, MOST).await?;
    let looks = due.into_iter().map(|attempt| async move {
        let news = look(studio, &attempt).await;
        (attempt, news)
    });
    let seen: Vec<(LateAttempt, Option<LateNews>)> = stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
    let news = each_job_once(&seen);
    let (written, booked) = write(studio, &news).await?;
    metrics::credits_moved("loss", booked.get());
    for (attempt, news) in seen {
        let ended = news.filter(|_| written.contains(&(attempt.video, attempt.n))).and_then(|news| news.finding);
        tell(&attempt, ended);
    }
    Ok(())
}

/// All at once, and one by one where a job was taken meanwhile: that spoils only its own.
async fn write(studio: &Studio, news: &[LateNews]) -> Result<(HashSet<(VideoId, i32)>, Credits), JournalError> {
    match write_late(&studio.db, news).await {
        Err(JournalError::Refused(_)) if news.len() > 1 => {}
        written => return written,
    }
    let (mut written, mut booked) = (HashSet::new(), Credits::ZERO);
    for one in news {
        match write_late(&studio.db, std::slice::from_ref(one)).await {
            Ok((ended, credits)) => {
                written.extend(ended);
                booked = Credits::total([booked, credits]).unwrap_or(booked);
            }
            Err(JournalError::Refused(why)) => {
                tracing::warn!(video = %one.video, attempt = one.n, why, "what was learned of an ended attempt was refused");
            }
            Err(error) => return Err(error),
        }
    }
    Ok((written, booked))
}

/// What was seen, with each job that was found for the first time named once: equal orders may have found the same one, and
/// those that come too late find another at their next look.
fn each_job_once(seen: &[(LateAttempt, Option<LateNews>)]) -> Vec<LateNews> {
    let mut taken = HashSet::new();
    let mut first = |attempt: &LateAttempt, news: &LateNews| {
        news.handle.as_ref().is_none_or(|handle| taken.insert((attempt.provider.clone(), handle.clone())))
    };
    let news = seen.iter().filter_map(|(attempt, news)| news.clone().filter(|news| first(attempt, news)));
    news.collect()
}

fn tell(attempt: &LateAttempt, ended: Option<LateFinding>) {
    metrics::late_look(&attempt.provider, ended.map_or("open", LateFinding::word));
    match ended {
        Some(LateFinding::Succeeded) => {
            tracing::warn!(video = %attempt.video, attempt = %attempt.id, provider = %attempt.provider,
                "a job succeeded after its attempt had ended: nobody is charged for it, its cost is our loss")
        }
        Some(LateFinding::Failed) => {
            tracing::info!(video = %attempt.video, attempt = %attempt.id, provider = %attempt.provider,
                "a job failed after its attempt had ended")
        }
        None => {}
    }
}

/// `None` when nothing was learned.
async fn look(studio: &Studio, attempt: &LateAttempt) -> Option<LateNews> {
    let provider = studio.providers.get().get(&attempt.provider).cloned()?;
    let known = attempt.handle.clone().map(Handle);
    let handle = match &known {
        Some(handle) => handle.clone(),
        None => find(studio, attempt, &provider).await?,
    };
    let finding = match provider.poll(&handle).await {
        Ok(PollOutcome::Succeeded { .. }) => Some(LateFinding::Succeeded),
        Ok(PollOutcome::Failed { .. }) => Some(LateFinding::Failed),
        Ok(PollOutcome::Queued | PollOutcome::Running { .. }) => None,
        // it may be shown again; a name that the provider does not know is nobody's job
        Ok(PollOutcome::Gone { .. }) | Err(_) => return None,
    };
    let route = (attempt.provider.as_str(), attempt.upstream_model.as_str());
    let order = (attempt.seconds.unsigned_abs(), attempt.size.as_str());
    Some(LateNews {
        video: attempt.video,
        batch: attempt.batch,
        n: attempt.n,
        handle: known.is_none().then_some(handle.0),
        finding,
        cost: studio.cost(&attempt.model, route, order, attempt.price),
    })
}

/// The job of an attempt that never learned it; `None` when there is none that is certainly its own.
async fn find(studio: &Studio, attempt: &LateAttempt, provider: &Arc<dyn Provider>) -> Option<Handle> {
    let named = callbacks::named_job(&studio.db, &attempt.provider, attempt.id).await.ok()?;
    let mut handles: Vec<String> = named
        .and_then(|job| provider.handle_of(&job, &attempt.upstream_model))
        .map(|handle| vec![handle.0])
        .unwrap_or_default();
    if handles.is_empty() {
        handles = listed(studio, attempt, provider).await?;
    }
    let others = handles_of_others(&studio.db, (attempt.video, attempt.n), &attempt.provider, &handles).await.ok()?;
    let mut free: Vec<String> = handles.into_iter().filter(|handle| !others.contains(handle)).collect();
    // equal orders have equal candidates: not everybody begins with the same
    let start = attempt.id.ulid().random() as usize % free.len().max(1);
    free.rotate_left(start);
    free.into_iter().next().map(Handle)
}

/// The jobs of the provider's list that may be this attempt's; `None` when they may as well be another order's. Asked about
/// other orders only after the list: whoever has a job in it has been written down before.
async fn listed(studio: &Studio, attempt: &LateAttempt, provider: &Arc<dyn Provider>) -> Option<Vec<String>> {
    let capabilities = provider.capabilities();
    // that it was not in the list has been seen: what is alike there now may be its successor's
    let only_marked = attempt.with_image || attempt.not_bought;
    if !capabilities.find || (only_marked && !capabilities.marks_orders) {
        return None;
    }
    let request = GenerationRequest {
        prompt: &attempt.prompt,
        upstream_model: &attempt.upstream_model,
        seconds: attempt.seconds.unsigned_abs(),
        size: attempt.size.parse::<Size>().ok()?,
        image: None,
    };
    let window = (attempt.sent_at - CLOCK_SKEW, attempt.ended_at + CLOCK_SKEW);
    let Ok(FindOutcome::Candidates(found)) = provider.find(&request, attempt.id, window).await else { return None };
    let doubtful = !found.is_empty()
        && !capabilities.marks_orders
        && late_rivals(&studio.db, &attempt.provider, &attempt.prompt).await.unwrap_or(true);
    (!doubtful).then(|| found.into_iter().map(|candidate| candidate.handle.0).collect())
}
