//! Reads what is new in the mailbox and tells the ears of this process.
//!
//! Always holds: a row that somebody here waits for is told once for each time that it learned something. Rows are looked at
//! for [`OVERLAP`] longer than once, because a row that was noted earlier may be committed later: however many there are,
//! one look reads them all, page by page.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use super::Ears;
use crate::db::Database;

const EVERY: Duration = Duration::from_secs(1);
const OVERLAP: TimeDelta = TimeDelta::seconds(5);
/// Rows of one page.
const MOST: i64 = 5_000;
/// The finest time that the table knows.
const TICK: TimeDelta = TimeDelta::microseconds(1);

/// Account, subject, and when it was noted.
type Told = HashMap<(String, String), DateTime<Utc>>;

/// Listens until `stop`.
pub async fn listen(db: Database, ears: Ears, stop: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut since, mut told) = (None, Told::new());
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if ears.is_empty() {
            (since, told) = (None, Told::new());
            continue;
        }
        match look(&db, &ears, since, &mut told).await {
            Ok(next) => since = Some(next),
            // polls go on; what came meanwhile is read when the database is back
            Err(error) => tracing::debug!(%error, "callbacks could not be read"),
        }
    }
}

/// Tells what was noted after `since`; answers from when on to look the next time.
async fn look(
    db: &Database,
    ears: &Ears,
    since: Option<DateTime<Utc>>,
    told: &mut Told,
) -> Result<DateTime<Utc>, sqlx::Error> {
    let (mut from, mut next) = (since, None);
    loop {
        let rows = sqlx::query!(
            r#"select t.now as "now!", c.account as "account?", c.subject as "subject?", c.job, c.noted_at as "noted_at?"
           from (select now() as now) t
               left join lateral (
                   select account, subject, job, noted_at from provider_callbacks
                   where noted_at > coalesce($1::timestamptz, now() - interval '5 seconds')
                   order by noted_at limit $2) c on true"#,
            from,
            MOST,
        )
        .fetch_all(db.pool())
        .await?;
        let is_full = rows.len() >= MOST as usize;
        // what is committed while we turn pages counts as late
        let next = *next.get_or_insert_with(|| rows.first().map_or_else(Utc::now, |row| row.now) - OVERLAP);
        let mut last = None;
        for row in rows {
            let (Some(account), Some(subject), Some(noted_at)) = (row.account, row.subject, row.noted_at) else {
                continue;
            };
            last = Some(noted_at);
            let key = (account, subject);
            if told.get(&key) != Some(&noted_at) && ears.tell(&key.0, &key.1, row.job.as_deref()) {
                told.insert(key, noted_at);
            }
        }
        match last.filter(|_| is_full) {
            Some(last) => from = Some(page_after(last, from)),
            None => {
                told.retain(|_, noted_at| *noted_at > next);
                return Ok(next);
            }
        }
    }
}

/// Behind which time the next page begins: the last one's own is read again, because more rows may have it, unless they
/// fill a page.
fn page_after(last: DateTime<Utc>, from: Option<DateTime<Utc>>) -> DateTime<Utc> {
    let before = last - TICK;
    if from.is_none_or(|from| before > from) { before } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_begins_behind_the_one_before_and_passes_over_no_row_of_its_last_time() {
        let at = |micros| DateTime::from_timestamp_micros(micros).unwrap();
        assert_eq!(page_after(at(100), None), at(99));
        assert_eq!(page_after(at(100), Some(at(50))), at(99));
        assert_eq!(page_after(at(100), Some(at(99))), at(100), "a whole page of one time");
    }
}
