//! When an order that is placed now would begin and be done, by what the leader wrote down of the models.
//!
//! Refuses: to know of the order's price, and to promise anything.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use crate::domain::TenantId;

/// When the videos of a batch would begin and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub starts_at: DateTime<Utc>,
    pub finishes_at: DateTime<Utc>,
}

/// What an order that is not placed asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// So many videos of each model.
    pub videos: BTreeMap<String, u32>,
    /// At none of these paces more, in videos a minute.
    pub paces: Vec<u32>,
    /// The tenant's, of all its batches.
    pub max_in_flight: u32,
    pub priority: u8,
}

/// What a tenant could expect of a batch that it orders now. `None`
/// where nobody can tell. Reads as the tenant, behind whose own waiting videos these would come.
///
/// # Errors
/// The database's.
pub async fn estimate(
    conn: &mut PgConnection,
    tenant: TenantId,
    Wanted { videos, paces, max_in_flight, priority }: &Wanted,
) -> Result<Option<Estimate>, sqlx::Error> {
    let models = sqlx::query!(
        r#"select model, video_secs as "secs!", videos_per_minute as "per_minute!" from model_outlooks
           where model = any($1) and video_secs is not null and videos_per_minute > 0"#,
        &videos.keys().cloned().collect::<Vec<_>>(),
    )
    .fetch_all(&mut *conn)
    .await?;
    if models.len() < videos.len() {
        return Ok(None);
    }
    let own = sqlx::query!(
        r#"select now() as "now!",
               (select max(finishes_at) from batch_outlooks o join batches b on b.id = o.batch_id
                   where o.tenant_id = $1 and b.finished_at is null and b.priority >= $2) as before,
               exists (select from batch_outlooks o join batches b on b.id = o.batch_id
                   where o.tenant_id = $1 and b.finished_at is null and b.cancelled_at is null and b.paused_at is null
                       and b.priority >= $2 and o.finishes_at is null) as "nobody_knows!""#,
        tenant as TenantId,
        i16::from(*priority),
    )
    .fetch_one(conn)
    .await?;
    if own.nobody_knows {
        return Ok(None);
    }
    let secs = models.iter().map(|row| row.secs).fold(0.0, f64::max);
    let starts_at = own.before.map_or(own.now, |before| before - after(secs)).max(own.now);
    let total = f64::from(videos.values().sum::<u32>());
    let paced = paces.iter().map(|pace| minutes(total, f64::from(*pace))).fold(0.0, f64::max);
    let mean = models.iter().map(|row| row.secs * f64::from(videos.get(&row.model).copied().unwrap_or(0))).sum::<f64>()
        / total;
    let room = f64::from(*max_in_flight);
    let paced = paced.max((total - room).max(0.0) * mean / room / 60.0);
    let made = models.iter().map(|row| {
        let videos = videos.get(&row.model).copied().unwrap_or(0);
        // as many as fit begin at once
        let at_once = row.per_minute * row.secs / 60.0;
        (f64::from(videos) - at_once).max(0.0) / row.per_minute
    });
    let last = made.fold(paced, f64::max) * 60.0;
    Ok(Some(Estimate { starts_at, finishes_at: starts_at + after(last + secs) }))
}

/// How long a rate takes for so many, from a quiet minute on: the first half of a minute's turns comes at twice the speed.
fn minutes(videos: f64, per_minute: f64) -> f64 {
    if videos <= per_minute { videos / per_minute / 2.0 } else { videos / per_minute - 0.5 }
}

fn after(secs: f64) -> TimeDelta {
    TimeDelta::milliseconds((secs * 1_000.0) as i64)
}
