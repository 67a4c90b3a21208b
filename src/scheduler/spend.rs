//! What the videos that begin at a provider account may cost us, and the limit of it: in no window of time more than so many
//! credits.
//!
//! A video counts with its route's cost, from its release on and for a window after the slot of ten seconds in which its turn
//! ends, so that no window in which videos begin holds more than the limit, whenever each begins. Whether it succeeds is not
//! waited for: what may be billed counts. It counts no more when its turn was not used, or when it was refused, so that
//! provably nothing was bought.
//!
//! Always holds: a release and what it counts are one transaction, and every round reads what counts from the database, so a
//! change of leader grants nothing twice. What counts does so whether there is a limit or not: one that is set knows the window
//! before. A video that does not fit is waited for; cheaper ones behind it do not pass it at its account.
//! Refuses: to say what a video costs. That is the catalogue's.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::rules::Rules;

/// What may pass from the end of a turn to the arrival of the order.
const ON_ITS_WAY: Duration = Duration::from_millis(500);
/// Who could not afford its next video is asked again after this, although nothing has become free: another may be the next.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// A limit of spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpendLimit {
    pub credits: u32,
    pub window: Duration,
}

impl SpendLimit {
    fn counted_ms(&self) -> f64 {
        (self.window + ON_ITS_WAY).as_millis() as f64
    }
}

/// What one video of a route may cost us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoCost {
    pub seconds: u32,
    /// `WIDTHxHEIGHT`.
    pub size: String,
    pub credits: i64,
}

/// What is left to spend, by account; of accounts with a limit alone.
pub(super) type Purses = HashMap<String, i64>;

/// What this leader remembers of purses: those that were too small for the next video.
#[derive(Debug, Default)]
pub(super) struct Spend {
    /// What was left when the next video was too dear, and when that was.
    too_small: HashMap<String, (i64, Instant)>,
    limits: HashMap<String, SpendLimit>,
}

impl Spend {
    /// What is left to spend now.
    pub(super) async fn purses(&mut self, conn: &mut PgConnection, rules: &Rules<'_>) -> Result<Purses, sqlx::Error> {
        let limits = rules.spend_limits();
        self.too_small
            .retain(|account, (_, since)| limits.contains_key(account.as_str()) && since.elapsed() < ASKED_AGAIN_AFTER);
        let spent = spent(conn, &limits).await?;
        self.limits = limits.iter().map(|(account, limit)| ((*account).to_owned(), *limit)).collect();
        let left = |(account, limit): (&&str, &SpendLimit)| {
            let left = i64::from(limit.credits) - spent.get(*account).copied().unwrap_or(0);
            let too_small = self.too_small.get(*account).is_some_and(|(was_left, _)| left <= *was_left);
            ((*account).to_owned(), if too_small { 0 } else { left })
        };
        Ok(limits.iter().map(left).collect())
    }

    /// Remembers whose purse was too small in a release that counted so many credits.
    pub(super) fn learn(&mut self, purses: &Purses, too_small: &[String], counted: &HashMap<String, i64>) {
        for account in too_small {
            let Some(left) = purses.get(account) else { continue };
            let left = left - counted.get(account).copied().unwrap_or(0);
            if let Some(limit) = self.limits.get(account).filter(|limit| left >= i64::from(limit.credits)) {
                tracing::warn!(
                    account,
                    spend_credits = limit.credits,
                    "the next video costs more than all that may be spent at this account: nothing begins there until the limit is raised"
                );
            }
            self.too_small.insert(account.clone(), (left, Instant::now()));
        }
    }
}

/// What counts now at accounts with a limit.
async fn spent(
    conn: &mut PgConnection,
    limits: &BTreeMap<&str, SpendLimit>,
) -> Result<HashMap<String, i64>, sqlx::Error> {
    if limits.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"select i.account as "account!", coalesce(sum(s.credits), 0)::bigint as "credits!"
           from unnest($1::text[], $2::float8[]) as i (account, counted_ms)
           left join account_spend s on s.account = i.account and s.slot > now() - i.counted_ms * interval '1 ms'
           group by i.account"#,
        &limits.keys().map(|account| (*account).to_owned()).collect::<Vec<_>>(),
        &limits.values().map(SpendLimit::counted_ms).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.account, row.credits)).collect())
}

/// What counts at one account, and when there is room for a video of that `cost`, if nothing more begins; `None` when there is
/// now, or will never be.
pub(super) async fn state(
    conn: &mut PgConnection,
    account: &str,
    (limit, cost): (SpendLimit, i64),
) -> Result<(i64, Option<DateTime<Utc>>), sqlx::Error> {
    let rows = sqlx::query!(
        r#"select slot + $2::float8 * interval '1 ms' as "until!", sum(credits)::bigint as "credits!" from account_spend
           where account = $1 and slot > now() - $2::float8 * interval '1 ms' group by slot order by slot"#,
        account,
        limit.counted_ms(),
    )
    .fetch_all(conn)
    .await?;
    let spent: i64 = rows.iter().map(|row| row.credits).sum();
    let has_room = |spent: i64| spent + cost <= i64::from(limit.credits);
    if has_room(spent) {
        return Ok((spent, None));
    }
    let mut left = spent;
    let free = rows.iter().find_map(|row| {
        left -= row.credits;
        has_room(left).then_some(row.until)
    });
    Ok((spent, free))
}

/// What a video that did not begin was counted for.
#[derive(Clone, Debug)]
pub struct Unspent {
    pub account: String,
    /// Until when its turn was valid.
    pub turn_until: DateTime<Utc>,
    pub credits: i64,
}

/// Counts it no more.
///
/// # Errors
/// The database's.
pub async fn give_back(conn: &mut PgConnection, unspent: &[Unspent]) -> Result<(), sqlx::Error> {
    if unspent.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into account_spend (account, slot, credits)
         select account, spend_slot(turn_until), -sum(credits)
         from unnest($1::text[], $2::timestamptz[], $3::bigint[]) as i (account, turn_until, credits)
         group by account, turn_until",
        &unspent.iter().map(|one| one.account.clone()).collect::<Vec<_>>(),
        &unspent.iter().map(|one| one.turn_until).collect::<Vec<_>>(),
        &unspent.iter().map(|one| one.credits).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Folds the rows of slots that are over, and deletes those that count in no window.
pub(super) async fn tidy(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from account_spend where slot < now() - interval '25 hours'").execute(&mut *conn).await?;
    sqlx::query!(
        "with several as (
             select account, slot from account_spend where slot < now() group by account, slot having count(*) > 1),
         gone as (
             delete from account_spend s using several g where s.account = g.account and s.slot = g.slot
             returning s.account, s.slot, s.credits)
         insert into account_spend (account, slot, credits)
         select account, slot, sum(credits) from gone group by account, slot",
    )
    .execute(conn)
    .await?;
    Ok(())
}
