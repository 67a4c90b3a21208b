//! What the workers learn about accounts, written in bulk.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::PgConnection;

use super::circuit;
use super::news::News;
use crate::metrics;

/// The news of one account, taken together.
#[derive(Default)]
struct Digest {
    pause: Option<(Duration, &'static str)>,
    /// In the order of the news: the last word counts.
    mark: Option<Mark>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    OutOfQuota,
    Refused,
    Answered,
}

/// Writes news, in a few statements however many there are. A pause that changes nothing writes nothing; neither does a
/// mark that stands already, nor an order that was taken where no fault is counted. `probe` is how long a marked account is
/// left alone before one video may try it.
///
/// Locks the rows of the accounts, by name, until the transaction ends: do it last.
///
/// # Errors
/// The database's.
pub async fn note(conn: &mut PgConnection, news: &[(&str, &News)], probe: Duration) -> Result<(), sqlx::Error> {
    if news.is_empty() {
        return Ok(());
    }
    let mut digests: BTreeMap<&str, Digest> = BTreeMap::new();
    let mut circuits: BTreeMap<&str, Vec<&News>> = BTreeMap::new();
    for (account, news) in news {
        let digest = digests.entry(account).or_default();
        match news {
            News::Cool { pause, cause } => {
                digest.pause = digest.pause.max(Some((*pause, *cause)));
            }
            News::OutOfQuota => digest.mark = Some(Mark::OutOfQuota),
            News::Refused => digest.mark = Some(Mark::Refused),
            News::AnsweredAgain => digest.mark = Some(Mark::Answered),
            News::Fault(_) | News::Took | News::ProbeOver { .. } => {}
        }
        if circuit::concerns(news) {
            circuits.entry(account).or_default().push(news);
        }
    }
    let pauses: Vec<(&str, Duration, &str)> =
        digests.iter().filter_map(|(name, digest)| digest.pause.map(|(pause, cause)| (*name, pause, cause))).collect();
    let marked = |wanted: Mark| -> Vec<String> {
        digests.iter().filter(|(_, digest)| digest.mark == Some(wanted)).map(|(name, _)| (*name).to_owned()).collect()
    };
    let (spent, refused, answered) = (marked(Mark::OutOfQuota), marked(Mark::Refused), marked(Mark::Answered));
    // all of them first, in one order: what follows takes them phase by phase
    let names: Vec<String> = digests.keys().map(|name| (*name).to_owned()).collect();
    sqlx::query!("select name from provider_accounts where name = any($1) order by name for update", &names)
        .fetch_all(&mut *conn)
        .await?;
    cool(conn, &pauses).await?;
    mark(conn, (&spent, &refused), probe).await?;
    clear(conn, &answered).await?;
    circuit::write(conn, &circuits).await
}

async fn cool(conn: &mut PgConnection, pauses: &[(&str, Duration, &str)]) -> Result<(), sqlx::Error> {
    if pauses.is_empty() {
        return Ok(());
    }
    let cooled = sqlx::query!(
        r#"insert into provider_accounts as a (name, cooled_until, cool_cause)
           select name, now() + pause_ms * interval '1 ms', cause
           from unnest($1::text[], $2::float8[], $3::text[]) as i (name, pause_ms, cause) order by name
           on conflict (name) do update set cooled_until = excluded.cooled_until, cool_cause = excluded.cool_cause
           where a.cooled_until is null or a.cooled_until < excluded.cooled_until
           returning name"#,
        &pauses.iter().map(|(name, ..)| (*name).to_owned()).collect::<Vec<_>>(),
        &pauses.iter().map(|(_, pause, _)| pause.as_millis() as f64).collect::<Vec<_>>(),
        &pauses.iter().map(|(.., cause)| (*cause).to_owned()).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    for row in cooled {
        tracing::info!(
            account = row.name,
            "a provider asked for a pause; the account cools down for the whole cluster"
        );
    }
    Ok(())
}

async fn mark(
    conn: &mut PgConnection,
    (spent, refused): (&[String], &[String]),
    probe: Duration,
) -> Result<(), sqlx::Error> {
    if spent.is_empty() && refused.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = spent.iter().chain(refused).cloned().collect();
    let acts: Vec<String> =
        spent.iter().map(|_| "quota_exhausted").chain(refused.iter().map(|_| "refused")).map(str::to_owned).collect();
    sqlx::query!(
        "insert into provider_accounts (name) select name from unnest($1::text[]) as i (name) order by name
         on conflict (name) do nothing",
        &names,
    )
    .execute(&mut *conn)
    .await?;
    // a probe that failed is over; the next one comes after the whole pause
    let marked = sqlx::query!(
        r#"with before as materialized (
               select a.*, i.act from provider_accounts a join unnest($1::text[], $2::text[]) as i (name, act)
                   on a.name = i.name
               order by a.name for update of a
           ), changed as (
               update provider_accounts a set
                   quota_exhausted_at = case when b.act = 'quota_exhausted' then coalesce(a.quota_exhausted_at, now())
                       else a.quota_exhausted_at end,
                   refused_at = case when b.act = 'refused' then coalesce(a.refused_at, now()) else a.refused_at end,
                   probe_at = greatest(a.probe_at, now() + $3 * interval '1 ms'), probe_video = null
               from before b where a.name = b.name
               returning a.*
           )
           insert into provider_account_changes (account, actor, act, state_before, state_after)
           select c.name, 'worker', b.act, to_jsonb(b) - 'act', to_jsonb(c)
           from changed c join before b on b.name = c.name
           where (c.quota_exhausted_at is distinct from b.quota_exhausted_at) or (c.refused_at is distinct from b.refused_at)
           returning account, act"#,
        &names,
        &acts,
        probe.as_millis() as f64,
    )
    .fetch_all(conn)
    .await?;
    for row in marked {
        tracing::error!(
            account = row.account,
            why = row.act,
            "a provider account takes no more videos; it is passed over until `freezeframe provider start` or a probe that it takes"
        );
    }
    Ok(())
}

async fn clear(conn: &mut PgConnection, answered: &[String]) -> Result<(), sqlx::Error> {
    if answered.is_empty() {
        return Ok(());
    }
    let cleared = sqlx::query!(
        r#"with before as materialized (
               select a.* from provider_accounts a
               where a.name = any($1)
                   and (a.quota_exhausted_at is not null or a.refused_at is not null or a.circuit_opened_at is not null)
               order by a.name for update
           ), changed as (
               update provider_accounts a set quota_exhausted_at = null, refused_at = null, probe_at = null, probe_video = null,
                   circuit_faults = '{}', circuit_fault_at = null, circuit_opened_at = null, circuit_pause_ms = null
               from before b where a.name = b.name
               returning a.*
           )
           insert into provider_account_changes (account, actor, act, state_before, state_after)
           select c.name, 'worker', k.act, to_jsonb(b), to_jsonb(c)
           from changed c join before b on b.name = c.name cross join lateral (values
               ('answered_again', b.quota_exhausted_at is not null or b.refused_at is not null),
               ('circuit_closed', b.circuit_opened_at is not null)) as k (act, holds)
           where k.holds
           returning account, act"#,
        answered,
    )
    .fetch_all(conn)
    .await?;
    for row in cleared {
        if row.act == "circuit_closed" {
            metrics::account_news(&row.account, "circuit_closed");
        }
        tracing::info!(account = row.account, why = row.act, "a provider account takes videos again");
    }
    Ok(())
}

/// A video is on its way to find out whether a marked account takes videos again; the next one may after `probe`, or after
/// the pause of an open circuit if that is longer. What the video finds out puts its own time in the place of that.
///
/// # Errors
/// The database's.
pub async fn probing(
    conn: &mut PgConnection,
    (account, video): (&str, &str),
    probe: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update provider_accounts set probe_video = $2,
             probe_at = now() + greatest($3::float8, circuit_pause_ms) * interval '1 ms'
         where name = $1 and probe_at is not null",
        account,
        video,
        probe.as_millis() as f64,
    )
    .execute(conn)
    .await?;
    Ok(())
}
