//! Transitions in the middle of an attempt. The attempt row carries the epoch of its holder and the video's row the claim:
//! that is their fence. The epoch is what holds against a claim at the same moment, because it stands in the row that both
//! write; the claim holds against a database that was set back and gave the epoch out twice.

use std::collections::HashSet;

use sqlx::PgConnection;

use super::{Lease, Reply};
use crate::domain::VideoId;

/// Arrays that name the attempts of some leases: (videos, attempt numbers, epochs, claims).
fn keys<'a>(leases: impl Iterator<Item = &'a Lease>) -> (Vec<String>, Vec<i32>, Vec<i32>, Vec<String>) {
    let mut keys = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for lease in leases {
        keys.0.push(lease.video.bare());
        keys.1.push(lease.attempt);
        keys.2.push(lease.epoch);
        keys.3.push(lease.claim.bare());
    }
    keys
}

fn answer<'a>(leases: impl Iterator<Item = (usize, &'a Lease)>, written: Vec<VideoId>, replies: &mut [Reply]) {
    let written: HashSet<VideoId> = written.into_iter().collect();
    for (at, lease) in leases {
        if written.contains(&lease.video) {
            replies[at] = Reply::Written;
        }
    }
}

/// What was prepared is about to be sent: from here on nobody may take it for unsent, but that there was an image is still
/// known until the attempt has a handle. The attempt's times count from now.
pub(super) async fn sending(
    conn: &mut PgConnection,
    ops: &[(usize, &Lease)],
    replies: &mut [Reply],
) -> Result<(), sqlx::Error> {
    if ops.is_empty() {
        return Ok(());
    }
    let (videos, attempts, epochs, claims) = keys(ops.iter().map(|(_, lease)| *lease));
    let written = sqlx::query_scalar!(
        r#"update attempts a set unsent = case when a.unsent is not null then false end,
               sent_at = case when a.unsent then now() else a.sent_at end
           from unnest($1::text[], $2::int[], $3::int[], $4::text[]) as i (video_id, n, epoch, claim)
           where a.video_id = i.video_id and a.n = i.n and a.lease_epoch = i.epoch and a.finished_at is null
               and i.claim = (select v.claim_id from videos v where v.id = a.video_id)
           returning a.video_id as "video: VideoId""#,
        &videos,
        &attempts,
        &epochs,
        &claims,
    )
    .fetch_all(conn)
    .await?;
    answer(ops.iter().copied(), written, replies);
    Ok(())
}

/// The provider gave a handle. Writing it again is no change. A handle that another attempt owns is not written: it is
/// answered [`Reply::HandleTaken`].
pub(super) async fn accepted(
    conn: &mut PgConnection,
    ops: &[(usize, &Lease, &str)],
    replies: &mut [Reply],
) -> Result<(), sqlx::Error> {
    if ops.is_empty() {
        return Ok(());
    }
    // of two that want one handle at once the first gets it
    let mut wanted = HashSet::new();
    let first: Vec<&(usize, &Lease, &str)> = ops.iter().filter(|(_, _, handle)| wanted.insert(*handle)).collect();
    let (videos, attempts, epochs, claims) = keys(first.iter().map(|(_, lease, _)| *lease));
    let handles: Vec<String> = first.iter().map(|(_, _, handle)| (*handle).to_owned()).collect();
    let written = sqlx::query_scalar!(
        r#"update attempts a set state = 'accepted', handle = i.handle, unsent = null,
               accepted_at = coalesce(a.accepted_at, now())
           from unnest($1::text[], $2::int[], $3::int[], $4::text[], $5::text[]) as i (video_id, n, epoch, claim, handle)
           where a.video_id = i.video_id and a.n = i.n and a.lease_epoch = i.epoch and a.finished_at is null
               and i.claim = (select v.claim_id from videos v where v.id = a.video_id)
               and not exists (select from attempts o where o.provider = a.provider and o.handle = i.handle
                   and not (o.video_id = a.video_id and o.n = a.n))
           returning a.video_id as "video: VideoId""#,
        &videos,
        &attempts,
        &epochs,
        &claims,
        &handles,
    )
    .fetch_all(&mut *conn)
    .await?;
    answer(first.iter().map(|(at, lease, _)| (*at, *lease)), written, replies);
    let refused: Vec<(usize, &Lease)> = ops
        .iter()
        .filter(|(at, ..)| !matches!(replies[*at], Reply::Written))
        .map(|(at, lease, _)| (*at, *lease))
        .collect();
    tell_taken_from_lost(conn, &refused, replies).await
}

/// A refused handle is taken when the lease still holds, and otherwise the lease is lost.
async fn tell_taken_from_lost(
    conn: &mut PgConnection,
    refused: &[(usize, &Lease)],
    replies: &mut [Reply],
) -> Result<(), sqlx::Error> {
    if refused.is_empty() {
        return Ok(());
    }
    let (videos, attempts, epochs, claims) = keys(refused.iter().map(|(_, lease)| *lease));
    let holding = sqlx::query_scalar!(
        r#"select a.video_id as "video: VideoId" from attempts a
               join unnest($1::text[], $2::int[], $3::int[], $4::text[]) as i (video_id, n, epoch, claim)
               on a.video_id = i.video_id and a.n = i.n and a.lease_epoch = i.epoch and a.finished_at is null
               and i.claim = (select v.claim_id from videos v where v.id = a.video_id)"#,
        &videos,
        &attempts,
        &epochs,
        &claims,
    )
    .fetch_all(conn)
    .await?;
    let holding: HashSet<VideoId> = holding.into_iter().collect();
    for (at, lease) in refused {
        if holding.contains(&lease.video) {
            replies[*at] = Reply::HandleTaken;
        }
    }
    Ok(())
}

/// Nobody knows whether the submission was accepted.
pub(super) async fn answer_lost(
    conn: &mut PgConnection,
    ops: &[(usize, &Lease, &str)],
    replies: &mut [Reply],
) -> Result<(), sqlx::Error> {
    if ops.is_empty() {
        return Ok(());
    }
    let (videos, attempts, epochs, claims) = keys(ops.iter().map(|(_, lease, _)| *lease));
    let causes: Vec<String> = ops.iter().map(|(_, _, cause)| (*cause).to_owned()).collect();
    let written = sqlx::query_scalar!(
        r#"update attempts a set state = 'unknown', failure_message = i.cause,
               unknown_at = coalesce(a.unknown_at, now())
           from unnest($1::text[], $2::int[], $3::int[], $4::text[], $5::text[]) as i (video_id, n, epoch, claim, cause)
           where a.video_id = i.video_id and a.n = i.n and a.lease_epoch = i.epoch and a.finished_at is null
               and i.claim = (select v.claim_id from videos v where v.id = a.video_id)
           returning a.video_id as "video: VideoId""#,
        &videos,
        &attempts,
        &epochs,
        &claims,
        &causes,
    )
    .fetch_all(conn)
    .await?;
    answer(ops.iter().map(|(at, lease, _)| (*at, *lease)), written, replies);
    Ok(())
}

/// A stopping worker lets go: the next claim counts no death.
pub(super) async fn handed_over(
    conn: &mut PgConnection,
    ops: &[(usize, &Lease)],
    replies: &mut [Reply],
) -> Result<(), sqlx::Error> {
    if ops.is_empty() {
        return Ok(());
    }
    let (videos, _, epochs, claims) = keys(ops.iter().map(|(_, lease)| *lease));
    let written = sqlx::query_scalar!(
        r#"update videos v set state = 'released'
           from unnest($1::text[], $2::int[], $3::text[]) as i (video_id, epoch, claim)
           where v.id = i.video_id and v.lease_epoch = i.epoch and v.claim_id = i.claim and v.state in ('running', 'released')
           returning v.id as "video: VideoId""#,
        &videos,
        &epochs,
        &claims,
    )
    .fetch_all(conn)
    .await?;
    answer(ops.iter().copied(), written, replies);
    Ok(())
}
