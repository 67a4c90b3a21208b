//! Transitions in the middle of an attempt. The attempt row carries the epoch of its holder: that is their fence.

use std::collections::HashSet;

use sqlx::PgConnection;

use super::{Lease, Reply};
use crate::domain::VideoId;

/// Arrays that name the attempts of some leases: (videos, attempt numbers, epochs).
fn keys<'a>(leases: impl Iterator<Item = &'a Lease>) -> (Vec<String>, Vec<i32>, Vec<i32>) {
    let mut keys = (Vec::new(), Vec::new(), Vec::new());
    for lease in leases {
        keys.0.push(lease.video.bare());
        keys.1.push(lease.attempt);
        keys.2.push(lease.epoch);
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

/// The provider gave a handle. Writing it again is no change.
pub(super) async fn accepted(
    conn: &mut PgConnection,
    ops: &[(usize, &Lease, &str)],
    replies: &mut [Reply],
) -> Result<(), sqlx::Error> {
    if ops.is_empty() {
        return Ok(());
    }
    let (videos, attempts, epochs) = keys(ops.iter().map(|(_, lease, _)| *lease));
    let handles: Vec<String> = ops.iter().map(|(_, _, handle)| (*handle).to_owned()).collect();
    let written = sqlx::query_scalar!(
        r#"update attempts a set state = 'accepted', handle = i.handle, accepted_at = coalesce(a.accepted_at, now())
           from unnest($1::text[], $2::int[], $3::int[], $4::text[]) as i (video_id, n, epoch, handle)
           where a.video_id = i.video_id and a.n = i.n and a.lease_epoch = i.epoch and a.finished_at is null
           returning a.video_id as "video: VideoId""#,
        &videos,
        &attempts,
        &epochs,
        &handles,
    )
    .fetch_all(conn)
    .await?;
    answer(ops.iter().map(|(at, lease, _)| (*at, *lease)), written, replies);
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
    let (videos, attempts, epochs) = keys(ops.iter().map(|(_, lease, _)| *lease));
    let causes: Vec<String> = ops.iter().map(|(_, _, cause)| (*cause).to_owned()).collect();
    let written = sqlx::query_scalar!(
        r#"update attempts a set state = 'unknown', failure_message = i.cause
           from unnest($1::text[], $2::int[], $3::int[], $4::text[]) as i (video_id, n, epoch, cause)
           where a.video_id = i.video_id and a.n = i.n and a.lease_epoch = i.epoch and a.finished_at is null
           returning a.video_id as "video: VideoId""#,
        &videos,
        &attempts,
        &epochs,
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
    let (videos, _, epochs) = keys(ops.iter().map(|(_, lease)| *lease));
    let written = sqlx::query_scalar!(
        r#"update videos v set state = 'released'
           from unnest($1::text[], $2::int[]) as i (video_id, epoch)
           where v.id = i.video_id and v.lease_epoch = i.epoch and v.state in ('running', 'released')
           returning v.id as "video: VideoId""#,
        &videos,
        &epochs,
    )
    .fetch_all(conn)
    .await?;
    answer(ops.iter().copied(), written, replies);
    Ok(())
}
