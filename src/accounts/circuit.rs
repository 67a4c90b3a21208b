//! The circuit of an account: closed while orders are taken there, open after so many in a row have failed by the account's
//! own fault, until a probe is taken.
//!
//! Always holds: an attempt counts once, however often it is told or written; the attempts of all workers count together, in
//! the order in which they are recorded; what was under way when the circuit opened changes nothing about it; while it is
//! open only its probe does. A worker tells that an order was taken only where a count was there when it claimed the video,
//! so that nothing is written for the orders of an account that is well; and with each fault, whether it had an order taken
//! since its last one, which ends the count as well.
//! Refuses: to know what is a fault; to close the circuit for an order that was sent before it opened.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::PgConnection;

use super::news::{CircuitLaw, Fault, News};
use crate::domain::VideoId;
use crate::metrics;

/// Faults of longer ago are forgotten with the next one: far apart they are no outage.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// A circuit as its row has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Circuit {
    /// While it is closed: the attempts that failed in a row.
    faults: Vec<String>,
    /// While it is open: the pause that holds.
    pause: Option<Duration>,
    /// The video that tries whether the account takes orders again.
    probe: Option<String>,
    /// What was heard begins a pause of this length.
    rest: Option<Duration>,
}

impl Circuit {
    /// Takes one piece of news in; what is not about circuits changes nothing.
    fn hear(&mut self, news: &News) {
        match news {
            News::Fault(fault) => self.fault(fault),
            // sent before the circuit opened, if it is open: that is what the probe is for
            News::Took => self.faults.clear(),
            News::ProbeOver { video } if self.is_probed_by(*video) => {
                self.probe = None;
                self.rest = self.pause;
            }
            // the row is closed by now: this ends what was told before it
            News::AnsweredAgain => *self = Circuit::default(),
            News::ProbeOver { .. } | News::Cool { .. } | News::OutOfQuota | News::Refused => {}
        }
    }

    fn is_probed_by(&self, video: VideoId) -> bool {
        self.pause.is_some() && self.probe.as_deref() == Some(&*video.bare())
    }

    fn fault(&mut self, fault: &Fault) {
        let CircuitLaw { faults, pause, max_pause } = fault.law;
        let next = match self.pause {
            Some(before) if self.is_probed_by(fault.video) => (before * 2).min(max_pause),
            Some(_) => return,
            None => {
                let attempt = fault.attempt.bare();
                if faults == 0 || self.faults.contains(&attempt) {
                    return;
                }
                if fault.after_success {
                    self.faults.clear();
                }
                self.faults.push(attempt);
                if self.faults.len() < faults as usize {
                    return;
                }
                pause.min(max_pause)
            }
        };
        self.faults.clear();
        self.pause = Some(next);
        self.probe = None;
        self.rest = Some(next + next * fault.jitter_permille / 1000);
    }
}

/// Whether news may change a circuit.
pub(super) fn concerns(news: &News) -> bool {
    matches!(news, News::Fault(_) | News::Took | News::AnsweredAgain | News::ProbeOver { .. })
}

/// Writes what news of each account, in its order, makes of its circuit: two statements however many there are, a third one
/// where something changes. That a probe was taken has closed the circuit before, with whatever else stood against the
/// account.
pub(super) async fn write(conn: &mut PgConnection, news: &BTreeMap<&str, Vec<&News>>) -> Result<(), sqlx::Error> {
    if news.is_empty() {
        return Ok(());
    }
    let has_fault = |news: &[&News]| news.iter().any(|news| matches!(news, News::Fault(_)));
    let failed: Vec<String> =
        news.iter().filter(|(_, news)| has_fault(news)).map(|(name, _)| (*name).to_owned()).collect();
    if !failed.is_empty() {
        sqlx::query!(
            "insert into provider_accounts (name) select name from unnest($1::text[]) as i (name) order by name
             on conflict (name) do nothing",
            &failed,
        )
        .execute(&mut *conn)
        .await?;
    }
    let before = locked(conn, news, &failed).await?;
    let mut changed: Vec<(String, Circuit)> = Vec::new();
    for (name, circuit) in before {
        let mut after = circuit.clone();
        news.get(name.as_str()).into_iter().flatten().for_each(|news| after.hear(news));
        if after != circuit {
            changed.push((name, after));
        }
    }
    store(conn, &changed).await
}

/// The circuits that news may change, locked until the transaction ends.
async fn locked(
    conn: &mut PgConnection,
    news: &BTreeMap<&str, Vec<&News>>,
    failed: &[String],
) -> Result<Vec<(String, Circuit)>, sqlx::Error> {
    let names: Vec<String> = news.keys().map(|name| (*name).to_owned()).collect();
    let rows = sqlx::query!(
        r#"select name, circuit_pause_ms, probe_video,
               case when circuit_fault_at > now() - $3 * interval '1 ms' then circuit_faults else '{}' end as "faults!"
           from provider_accounts
           where name = any($1) and (name = any($2) or circuit_faults <> '{}' or circuit_opened_at is not null)
           order by name for update"#,
        &names,
        failed,
        FORGOTTEN_AFTER.as_millis() as f64,
    )
    .fetch_all(conn)
    .await?;
    let circuit = |row: &(Option<i64>, Option<String>), faults| Circuit {
        faults,
        pause: row.0.map(|ms| Duration::from_millis(ms.unsigned_abs())),
        probe: row.1.clone(),
        rest: None,
    };
    Ok(rows.into_iter().map(|row| (row.name, circuit(&(row.circuit_pause_ms, row.probe_video), row.faults))).collect())
}

async fn store(conn: &mut PgConnection, changed: &[(String, Circuit)]) -> Result<(), sqlx::Error> {
    if changed.is_empty() {
        return Ok(());
    }
    let millis = |pause: Duration| i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
    // who is out of quota or refused as well is not tried sooner than that says
    let opened = sqlx::query!(
        r#"with before as materialized (
               select a.*, i.faults, i.pause_ms, i.rest_ms from provider_accounts a
               join unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) as i (name, faults, pause_ms, rest_ms)
                   on a.name = i.name
           ), changed as (
               update provider_accounts a set
                   circuit_faults = string_to_array(b.faults, ','),
                   circuit_fault_at = case when b.faults <> '' then now() end,
                   circuit_opened_at = case when b.pause_ms is not null then coalesce(a.circuit_opened_at, now()) end,
                   circuit_pause_ms = b.pause_ms,
                   probe_video = case when b.rest_ms is null then a.probe_video end,
                   probe_at = case
                       when b.rest_ms is null then a.probe_at
                       when a.quota_exhausted_at is null and a.refused_at is null then now() + b.rest_ms * interval '1 ms'
                       else greatest(a.probe_at, now() + b.rest_ms * interval '1 ms') end
               from before b where a.name = b.name
               returning a.*
           ), told as (
               insert into provider_account_changes (account, actor, act, state_before, state_after)
               select c.name, 'worker', 'circuit_opened', to_jsonb(b) - '{faults,pause_ms,rest_ms}'::text[], to_jsonb(c)
               from changed c join before b on b.name = c.name
               where c.circuit_opened_at is not null and b.circuit_opened_at is null
               returning account
           )
           select c.name as "name!", c.circuit_pause_ms as "pause_ms!", t.account is not null as "now!"
           from changed c left join told t on t.account = c.name
           where c.circuit_opened_at is not null"#,
        &changed.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(),
        &changed.iter().map(|(_, circuit)| circuit.faults.join(",")).collect::<Vec<_>>(),
        &changed.iter().map(|(_, circuit)| circuit.pause.map(millis)).collect::<Vec<_>>() as &[Option<i64>],
        &changed.iter().map(|(_, circuit)| circuit.rest.map(millis)).collect::<Vec<_>>() as &[Option<i64>],
    )
    .fetch_all(conn)
    .await?;
    for row in opened {
        if row.now {
            metrics::account_news(&row.name, "circuit_opened");
            tracing::warn!(
                account = row.name,
                pause_ms = row.pause_ms,
                "a provider account failed order after order; its circuit is open, and it is passed over until a probe is taken"
            );
        } else {
            tracing::info!(
                account = row.name,
                pause_ms = row.pause_ms,
                "a probe was not taken; the circuit stays open"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::AttemptId;

    const LAW: CircuitLaw =
        CircuitLaw { faults: 3, pause: Duration::from_secs(10), max_pause: Duration::from_secs(35) };

    fn fault(video: VideoId) -> News {
        fault_of(AttemptId::generate(), video, LAW)
    }

    fn fault_of(attempt: AttemptId, video: VideoId, law: CircuitLaw) -> News {
        News::Fault(Fault { attempt, video, after_success: false, law, jitter_permille: 100 })
    }

    fn after(circuit: &Circuit, news: &[&News]) -> Circuit {
        let mut circuit = Circuit { rest: None, ..circuit.clone() };
        news.iter().for_each(|news| circuit.hear(news));
        circuit
    }

    /// Open, and this video tries it.
    fn probed(video: VideoId, pause_secs: u64) -> Circuit {
        let pause = Some(Duration::from_secs(pause_secs));
        Circuit { pause, probe: Some(video.bare()), ..Circuit::default() }
    }

    #[test]
    fn only_faults_in_a_row_open_a_circuit_and_each_attempt_is_one_fault() {
        let (closed, video) = (Circuit::default(), VideoId::generate());
        let faults: Vec<News> = (0..3).map(|_| fault(video)).collect();
        let [first, second, third] = [&faults[0], &faults[1], &faults[2]];
        assert_eq!(after(&closed, &[first, second]).faults.len(), 2);
        assert_eq!(after(&closed, &[first, second, first, second, first]).faults.len(), 2, "written again");
        let open = after(&closed, &[first, second, third]);
        assert_eq!((open.pause, &*open.faults), (Some(LAW.pause), &[] as &[String]));
        assert_eq!(open.rest, Some(Duration::from_secs(11)), "a tenth longer by its jitter");
        let broken = after(&closed, &[first, second, &News::Took, third]);
        assert_eq!((broken.faults.len(), broken.pause), (1, None));
        let News::Fault(plain) = fault(video) else { unreachable!("it is a fault") };
        let among_successes = News::Fault(Fault { after_success: true, ..plain });
        let counted = after(&closed, &[first, second, &among_successes]);
        assert_eq!((counted.faults.len(), counted.pause), (1, None), "what went well before it was in between");
        let never = CircuitLaw { faults: 0, ..LAW };
        let off = fault_of(AttemptId::generate(), video, never);
        assert_eq!(after(&closed, &[&off, &off]), closed);
        let [before, probe_taken] = [[first, second, third], [&News::AnsweredAgain; 3]];
        assert_eq!(after(&closed, &[&before[..], &probe_taken[..1]].concat()), closed);
        // fewer are enough from now on
        let one = fault_of(AttemptId::generate(), video, CircuitLaw { faults: 1, ..LAW });
        assert_eq!(after(&after(&closed, &[first, second]), &[&one]).pause, Some(LAW.pause));
    }

    #[test]
    fn while_it_is_open_its_probe_alone_says_how_it_goes_on() {
        let (video, other) = (VideoId::generate(), VideoId::generate());
        let open = probed(video, 10);
        for nothing in [&fault(other), &News::Took, &News::ProbeOver { video: other }, &News::OutOfQuota] {
            assert_eq!(after(&open, &[nothing]), open, "{nothing:?}");
        }
        let longer = after(&open, &[&fault(video)]);
        assert_eq!((longer.pause, &longer.probe), (Some(Duration::from_secs(20)), &None));
        assert_eq!(longer.rest, Some(Duration::from_secs(22)));
        assert_eq!(after(&longer, &[&fault(video)]).pause, longer.pause, "the same fault, written again");
        let longest = after(&probed(video, 20), &[&fault(video)]);
        assert_eq!(longest.pause, Some(LAW.max_pause));
        // a probe that says nothing of the account makes nothing longer
        let over = after(&probed(video, 20), &[&News::ProbeOver { video }]);
        assert_eq!(
            (over.pause, over.rest, over.probe),
            (Some(Duration::from_secs(20)), Some(Duration::from_secs(20)), None)
        );
    }

    #[test]
    fn what_is_not_about_circuits_does_not_touch_a_count() {
        let counted = after(&Circuit::default(), &[&fault(VideoId::generate())]);
        let cool = News::Cool { pause: Duration::from_secs(1), cause: "rate_limited" };
        for other in [cool, News::OutOfQuota, News::Refused] {
            assert!(!concerns(&other));
            assert_eq!(after(&counted, &[&other]), counted, "{other:?}");
        }
    }
}
