//! The attempts of videos, as their owner sees them: when each was sent and ended, and what was learned late.
//!
//! Refuses: to tell which provider made it, under which account and at what cost.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::domain::{AttemptState, FailureClass, LateFinding, TenantId, VideoId};

/// One attempt to have a video made.
#[derive(Clone, Debug)]
pub struct AttemptView {
    pub video: VideoId,
    /// From 1.
    pub number: u32,
    pub state: AttemptState,
    pub sent_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    pub failure: Option<FailureClass>,
    /// Since when it was not known whether the order had been taken; stays when that was found out.
    pub unknown_at: Option<DateTime<Utc>>,
    /// When it was known that it had been.
    pub accepted_at: Option<DateTime<Utc>>,
    /// When it was seen that the video had been finished after all.
    pub late_success_at: Option<DateTime<Utc>>,
}

/// The attempts of some of the tenant's videos, in one statement however many there are: by video, then in order.
///
/// # Errors
/// The database's.
pub async fn attempts(
    conn: &mut PgConnection,
    tenant: TenantId,
    videos: &[VideoId],
) -> Result<Vec<AttemptView>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select a.video_id as "video: VideoId", a.n, a.state as "state: AttemptState", a.sent_at, a.finished_at,
               a.failure_class::text as failure, a.unknown_at, a.accepted_at,
               l.finding as "finding?: LateFinding", l.found_at as "found_at?"
           from videos v join attempts a on a.video_id = v.id
               left join late_looks l on l.video_id = a.video_id and l.n = a.n
           where v.tenant_id = $1 and v.id = any($2) and a.unsent is not true
           order by a.video_id, a.n"#,
        tenant as TenantId,
        videos as &[VideoId],
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| AttemptView {
            video: row.video,
            number: row.n.unsigned_abs(),
            state: row.state,
            sent_at: row.sent_at,
            finished_at: row.finished_at,
            failure: FailureClass::ALL.into_iter().find(|known| Some(known.name()) == row.failure.as_deref()),
            unknown_at: row.unknown_at,
            accepted_at: row.accepted_at,
            late_success_at: row.found_at.filter(|_| row.finding == Some(LateFinding::Succeeded)),
        })
        .collect())
}
