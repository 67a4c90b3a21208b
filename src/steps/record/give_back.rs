//! Giving back: a released video whose account was shut after its release, whose turn is over because it was picked up too
//! late, whose batch is to begin nothing more, or that was paused meanwhile, waits again, before anything was sent.
//!
//! It spends no attempt and no wait, and takes its old place in the queue; its turn goes back to those whose it was. A video
//! with a live attempt is never given back: its account is asked about it, whatever stands against new videos.

use std::collections::{BTreeMap, HashSet};

use sqlx::PgConnection;
use ulid::Ulid;

use crate::accounts::Account;
use crate::domain::{BatchId, TenantId, VideoId};
use crate::metrics;
use crate::scheduler::{self, Subject, Unspent, UnusedTurn};

/// What is given back of a lane.
#[derive(Default)]
struct Tally {
    videos: i32,
    /// The first place of those that were never tried.
    first_position: Option<i32>,
}

/// Gives back those of `videos` that `accounts` turn away, that come too late for their turn, or that are not to begin any
/// more; answers which.
pub(super) async fn write(
    conn: &mut PgConnection,
    videos: &[String],
    accounts: &[Account],
) -> Result<HashSet<Ulid>, sqlx::Error> {
    if videos.is_empty() {
        return Ok(HashSet::new());
    }
    let shut: Vec<&Account> = accounts.iter().filter(|account| account.shut().is_some()).collect();
    // the video that each lets through all the same
    let spared = |account: &&Account| account.probe_video.clone().filter(|video| !account.turns_away(video));
    let rows = sqlx::query!(
        r#"with before as (select id, turn_until, turn_credits from videos where id = any($1))
           update videos v set state = 'waiting', turn_until = null, turn_credits = null,
               eligible_at = case when v.attempts_made > 0 then now() end
           from before b
           where v.id = b.id and v.state = 'released'
               and (v.turn_until < clock_timestamp()
                   or exists (select from batches s where s.id = v.batch_id
                       and (s.cancelled_at is not null or s.complete_by <= now() or s.paused_at is not null))
                   or exists (select from limits p
                       where p.rule = 'paused' and (p.expires_at is null or p.expires_at > now())
                           and (p.scope, p.subject) in
                               (('tenant', v.tenant_id), ('model', v.model), ('batch', v.batch_id)))
                   or exists (select from unnest($2::text[], $3::text[]) as s (name, spared)
                   where s.name = v.provider and s.spared is distinct from v.id))
               and not exists (select from attempts a where a.video_id = v.id and a.finished_at is null)
           returning v.id as "id: VideoId", v.batch_id as "batch: BatchId", v.tenant_id as "tenant: TenantId", v.model,
               v.provider as "provider!", v.position, v.attempts_made, b.turn_until, b.turn_credits, b.turn_until < clock_timestamp() as late"#,
        videos,
        &shut.iter().map(|account| account.name.clone()).collect::<Vec<_>>(),
        &shut.iter().map(spared).collect::<Vec<_>>() as &[Option<String>],
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut lanes: BTreeMap<(BatchId, &str), Tally> = BTreeMap::new();
    let mut landed: BTreeMap<(BatchId, &str, &str), i32> = BTreeMap::new();
    for row in &rows {
        let lane = lanes.entry((row.batch, &row.model)).or_default();
        lane.videos += 1;
        if row.attempts_made == 0 {
            lane.first_position = Some(lane.first_position.map_or(row.position, |first| first.min(row.position)));
        }
        *landed.entry((row.batch, &row.model, &row.provider)).or_default() += 1;
    }
    move_lanes(conn, &lanes).await?;
    super::close::land(conn, &landed).await?;
    let turns = rows.iter().filter_map(|row| Some((row.turn_until?, row))).flat_map(|(until, row)| {
        let late = row.late == Some(true);
        let subjects = [
            Subject::Tenant(row.tenant),
            Subject::Batch(row.batch),
            Subject::Model(row.model.clone()),
            Subject::Account(row.provider.clone()),
        ];
        subjects.map(|subject| UnusedTurn { subject, until, late })
    });
    scheduler::give_turns_back(conn, &turns.collect::<Vec<_>>()).await?;
    let unspent = rows.iter().filter_map(|row| {
        Some(Unspent { account: row.provider.clone(), turn_until: row.turn_until?, credits: row.turn_credits? })
    });
    scheduler::give_spend_back(conn, &unspent.collect::<Vec<_>>()).await?;
    let late = rows.iter().filter(|row| row.late == Some(true)).count();
    metrics::videos_given_back("turn_over", late as u64);
    metrics::videos_given_back("not_to_begin", (rows.len() - late) as u64);
    Ok(rows.iter().map(|row| row.id.ulid()).collect())
}

async fn move_lanes(conn: &mut PgConnection, lanes: &BTreeMap<(BatchId, &str), Tally>) -> Result<(), sqlx::Error> {
    if lanes.is_empty() {
        return Ok(());
    }
    let batches: Vec<String> = lanes.keys().map(|(batch, _)| batch.bare()).collect();
    let models: Vec<String> = lanes.keys().map(|(_, model)| (*model).to_owned()).collect();
    super::locks::lock_lanes(conn, &batches, &models).await?;
    sqlx::query!(
        "update batch_lanes l set waiting = l.waiting + i.videos, next_position = least(l.next_position, i.first_position)
         from unnest($1::text[], $2::text[], $3::int[], $4::int[]) as i (batch_id, model, videos, first_position)
         where l.batch_id = i.batch_id and l.model = i.model",
        &batches,
        &models,
        &lanes.values().map(|lane| lane.videos).collect::<Vec<_>>(),
        // `least` leaves a null out
        &lanes.values().map(|lane| lane.first_position).collect::<Vec<_>>() as &[Option<i32>],
    )
    .execute(conn)
    .await?;
    Ok(())
}
