//! The turns of the last minutes as they stand in the database: written with the release that uses them, read by whoever
//! begins to lead.
//!
//! Always holds: a release and its turns are one transaction, so no leader, however the last one ended, knows fewer turns
//! than were used. One row for a wave of any size. A turn that was given back is a row of its own; a leader that misses it
//! is too strict for a minute, never too lax.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::pace::Paces;
use super::subject::Subject;
use super::window::{COUNTED, Window};

/// Turns of a wave: whose, how long a worker may use them, how many.
pub(super) type Turns = BTreeMap<(Subject, Duration), u32>;

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

fn counted_ms() -> f64 {
    COUNTED.as_millis() as f64
}

/// When turns that are valid until a time (microseconds) count no more.
pub(super) fn counted_until(valid_until: i64) -> i64 {
    valid_until.saturating_add(i64::try_from(COUNTED.as_micros()).unwrap_or(i64::MAX))
}

/// Writes the turns of a wave; answers the time from which on they are valid, in microseconds.
pub(super) async fn log(conn: &mut PgConnection, turns: &Turns) -> Result<i64, sqlx::Error> {
    let longest = turns.keys().map(|(_, valid)| *valid).max().unwrap_or_default();
    let at = sqlx::query_scalar!(
        "insert into release_log (at, until, given_back, subjects, videos, valid_ms)
         values (now(), now() + ($1::float8 + $2::float8) * interval '1 ms', false, $3, $4, $5)
         returning at",
        f64::from(millis(longest)),
        counted_ms(),
        &turns.keys().map(|(subject, _)| subject.stored()).collect::<Vec<_>>(),
        &turns.values().map(|videos| videos.cast_signed()).collect::<Vec<_>>(),
        &turns.keys().map(|(_, valid)| millis(*valid)).collect::<Vec<_>>(),
    )
    .fetch_one(conn)
    .await?;
    Ok(at.timestamp_micros())
}

/// A turn that nobody used.
#[derive(Clone, Debug)]
pub struct UnusedTurn {
    pub subject: Subject,
    /// Until when it was valid.
    pub until: DateTime<Utc>,
    /// It was over before a worker began.
    pub late: bool,
}

/// Gives turns back: one for each subject of each video.
///
/// # Errors
/// The database's.
pub async fn give_back(conn: &mut PgConnection, turns: &[UnusedTurn]) -> Result<(), sqlx::Error> {
    if turns.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into release_log (at, until, given_back, late, subjects, videos, valid_ms)
         select g.at, g.at + $4::float8 * interval '1 ms', true, g.late, array_agg(g.subject), array_agg(g.videos),
             array_agg(0)
         from (select at, subject, late, count(*)::integer as videos
             from unnest($1::timestamptz[], $2::text[], $3::boolean[]) as i (at, subject, late)
             group by at, subject, late) g
         group by g.at, g.late",
        &turns.iter().map(|turn| turn.until).collect::<Vec<_>>(),
        &turns.iter().map(|turn| turn.subject.stored()).collect::<Vec<_>>(),
        &turns.iter().map(|turn| turn.late).collect::<Vec<_>>(),
        counted_ms(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Tells `paces` all turns that still count. Answers the last row of turns given back.
pub(super) async fn read_all(conn: &mut PgConnection, paces: &mut Paces) -> Result<i64, sqlx::Error> {
    let rows = still_counting(conn).await?;
    rows.iter().for_each(|row| row.tell(paces));
    Ok(rows.iter().filter(|row| row.given_back).map(|row| row.id).max().unwrap_or(0))
}

/// The turns that count now, by whose they are.
pub(super) async fn windows(conn: &mut PgConnection, now: i64) -> Result<BTreeMap<Subject, Window>, sqlx::Error> {
    let mut windows: BTreeMap<Subject, Window> = BTreeMap::new();
    for row in still_counting(conn).await? {
        row.each(|subject, until, videos| {
            let window = windows.entry(subject).or_default();
            if row.given_back { window.give_back(until, videos) } else { window.count(until, videos) }
        });
    }
    windows.values_mut().for_each(|window| window.advance(now));
    Ok(windows)
}

/// Those given out before those given back.
async fn still_counting(conn: &mut PgConnection) -> Result<Vec<Logged>, sqlx::Error> {
    sqlx::query_as!(
        Logged,
        "select id, at, given_back, late, subjects, videos, valid_ms from release_log
         where until > now() order by given_back, id",
    )
    .fetch_all(conn)
    .await
}

/// Tells `paces` the turns given back behind row `after`. Answers the last row, and how many videos came too late for theirs.
pub(super) async fn read_given_back(
    conn: &mut PgConnection,
    after: i64,
    paces: &mut Paces,
) -> Result<(i64, u32), sqlx::Error> {
    let rows = sqlx::query_as!(
        Logged,
        "select id, at, given_back, late, subjects, videos, valid_ms from release_log
         where given_back and id > $1 and until > now() order by id",
        after,
    )
    .fetch_all(conn)
    .await?;
    rows.iter().for_each(|row| row.tell(paces));
    let tenants = |row: &Logged| -> i32 {
        let turns = row.subjects.iter().zip(&row.videos);
        turns.filter(|(subject, _)| subject.starts_with("tenant:")).map(|(_, videos)| videos).sum()
    };
    let videos: i32 = rows.iter().filter(|row| row.late).map(tenants).sum();
    Ok((rows.last().map_or(after, |row| row.id), videos.unsigned_abs()))
}

/// Deletes what says nothing any more.
pub(super) async fn forget(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from release_log where until < now()").execute(conn).await?;
    Ok(())
}

/// A row of the log.
struct Logged {
    id: i64,
    at: DateTime<Utc>,
    given_back: bool,
    late: bool,
    subjects: Vec<String>,
    videos: Vec<i32>,
    valid_ms: Vec<i32>,
}

impl Logged {
    /// Whose turns, until when they count, how many.
    fn each(&self, mut told: impl FnMut(Subject, i64, u32)) {
        for ((subject, videos), valid_ms) in self.subjects.iter().zip(&self.videos).zip(&self.valid_ms) {
            let Some(subject) = Subject::from_stored(subject) else { continue };
            let until = counted_until(self.at.timestamp_micros() + i64::from(*valid_ms) * 1_000);
            told(subject, until, videos.unsigned_abs());
        }
    }

    fn tell(&self, paces: &mut Paces) {
        self.each(|subject, until, videos| match self.given_back {
            false => paces.count(&subject, until, videos),
            true => paces.give_back(&subject, until, videos),
        });
    }
}
