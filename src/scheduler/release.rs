//! The release: waiting -> released, with the job that wakes a worker, in one fenced transaction.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::NaiveDate;
use sqlx::PgConnection;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::lane::OpenLane;
use super::pace::ShareTurns;
use super::spend::Purses;
use super::turns::{self, Turns};
use super::{Route, leader};
use crate::accounts;
use crate::db::{self, Database};
use crate::domain::{BatchId, TenantId, VideoId};
use crate::engine::queue;

/// Videos of a lane that avoid an account, because it is to blame for the end of their last attempt.
#[derive(Clone, Debug)]
pub(super) struct Avoiding {
    pub(super) batch: BatchId,
    pub(super) model: String,
    pub(super) account: String,
    pub(super) videos: i32,
}

/// The part of a lane that a share is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The lane is not divided.
    Whole,
    /// The videos that avoid this account.
    Avoiding(String),
    /// Those that avoid none.
    Rest,
}

impl Part {
    fn split(&self) -> bool {
        *self != Part::Whole
    }

    pub(super) fn avoided(&self) -> Option<&str> {
        match self {
            Part::Avoiding(account) => Some(account),
            Part::Whole | Part::Rest => None,
        }
    }
}

/// What a part of a lane may release in this round, and where to.
#[derive(Clone, Debug)]
pub(super) struct Share {
    pub(super) batch: BatchId,
    pub(super) tenant: TenantId,
    /// The tenant's beside others.
    pub(super) weight: u32,
    pub(super) model: String,
    pub(super) part: Part,
    pub(super) videos: u32,
    /// Videos of the same part that go elsewhere, before these.
    pub(super) skip: u32,
    pub(super) route: Route,
    /// Whether its one video is to find out about the account.
    pub(super) probe: bool,
    pub(super) turns: ShareTurns,
}

/// What was released.
#[derive(Debug, Default)]
pub(super) struct Released {
    /// Videos by batch, model and account.
    pub(super) videos: HashMap<(BatchId, String, String), u32>,
    pub(super) turns: Turns,
    /// From when on the turns are valid, in microseconds of the database.
    pub(super) at: i64,
    /// What the videos count for, by account.
    pub(super) credits: HashMap<String, i64>,
    /// Accounts with too little left for their next video.
    pub(super) too_dear: Vec<String>,
}

impl Released {
    pub(super) fn total(&self) -> u32 {
        self.videos.values().sum()
    }
}

/// What is under way, and what time it is by the database's clock.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    /// Videos released or running at each account.
    pub(super) at_accounts: HashMap<String, i64>,
    /// Today's date (UTC).
    pub(super) today: NaiveDate,
    /// Now, in microseconds.
    pub(super) now: i64,
}

/// Told when videos begin to wait.
pub const WAKE_CHANNEL: &str = "freezeframe_waiting";
const LISTEN_PAUSE: Duration = Duration::from_millis(500);

/// Wakes the leader when the transaction commits. Losing it costs one tick.
///
/// # Errors
/// The database's.
pub async fn wake(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("select pg_notify($1, '')", WAKE_CHANNEL).execute(conn).await?;
    Ok(())
}

pub(super) async fn listen(db: Database, woken: mpsc::Sender<()>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let run = async {
            let mut listener = db.listener().await?;
            listener.listen(WAKE_CHANNEL).await?;
            loop {
                listener.recv().await?;
                // a full channel means that a wake-up is under way already
                let _ = woken.try_send(());
            }
        };
        let ended: Result<(), sqlx::Error> = tokio::select! {
            () = stop.cancelled() => return,
            ended = run => ended,
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "listening for new batches failed; looking regularly meanwhile");
        }
        tokio::time::sleep(LISTEN_PAUSE).await;
    }
}

/// Every lane with unsettled videos, by tenant, and within a tenant what goes first first: by priority and age.
pub(super) async fn open_lanes(conn: &mut PgConnection) -> Result<Vec<OpenLane>, sqlx::Error> {
    sqlx::query_as!(
        OpenLane,
        r#"select l.batch_id as "batch: BatchId", l.model, l.tenant_id as "tenant: TenantId", l.waiting,
               case when l.waiting = 0 or b.cancelled_at is not null or b.complete_by <= now() then 0 else l.waiting - (select count(*) from videos v
                   where v.batch_id = l.batch_id and v.model = l.model and v.eligible_at > now())::integer end as "eligible!",
               l.total - l.waiting - l.settled as "in_flight!", t.videos_per_minute, t.max_in_flight,
               l.videos_per_minute as batch_per_minute, l.with_images, b.paused_at is not null as "paused!"
           from batch_lanes l join tenants t on t.id = l.tenant_id join batches b on b.id = l.batch_id
           where not l.closed
           order by l.tenant_id, l.priority desc, l.batch_id, l.model"#,
    )
    .fetch_all(conn)
    .await
}

/// Of the lanes of these models: the eligible videos that avoid an account. Only worth asking where there is a choice.
pub(super) async fn avoiding(
    conn: &mut PgConnection,
    models: &[String],
    most: i64,
) -> Result<Vec<Avoiding>, sqlx::Error> {
    sqlx::query_as!(
        Avoiding,
        r#"select l.batch_id as "batch: BatchId", l.model, v.avoid as "account!", count(*)::integer as "videos!"
           from batch_lanes l cross join lateral (
               select w.avoid from videos w
               where w.batch_id = l.batch_id and w.model = l.model and w.eligible_at is not null and w.eligible_at <= now()
               order by w.eligible_at, w.position limit $2) v
           where not l.closed and l.waiting > 0 and l.model = any($1) and v.avoid is not null
           group by l.batch_id, l.model, v.avoid
           order by l.batch_id, l.model, v.avoid"#,
        models,
        most,
    )
    .fetch_all(conn)
    .await
}

pub(super) async fn under_way(conn: &mut PgConnection) -> Result<UnderWay, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select r.provider as "provider?", coalesce(r.videos, 0)::bigint as "videos!", now() as "now!"
           from (select 1) one left join (
               select r.provider, sum(r.in_flight) as videos
               from batch_lanes l join lane_routes r on r.batch_id = l.batch_id and r.model = l.model
               where not l.closed group by r.provider) r on true"#,
    )
    .fetch_all(conn)
    .await?;
    let now = rows.first().map(|row| row.now).unwrap_or_default();
    let accounts = rows.into_iter().filter_map(|row| Some((row.provider?, row.videos)));
    Ok(UnderWay { at_accounts: accounts.collect(), today: now.date_naive(), now: now.timestamp_micros() })
}

/// Releases up to each share's videos, as far as purses last. A leader that was replaced releases nothing. `probe` is how long
/// an account is left alone after a video was sent to find out about it.
pub(super) async fn release(
    db: &Database,
    (holder, epoch): (&str, i64),
    (shares, purses): (&[Share], &Purses),
    probe: Duration,
) -> Result<Released, sqlx::Error> {
    // nothing follows from a release before a worker has fetched its jobs, which is committed durably
    let mut tx = db.begin_relaxed().await?;
    if !leader::still_leads(&mut tx, holder, epoch).await? {
        tracing::warn!(epoch, "another leader has taken over; nothing was released");
        return Ok(Released::default());
    }
    let batches: Vec<String> = shares.iter().map(|s| s.batch.bare()).collect();
    let models: Vec<String> = shares.iter().map(|s| s.model.clone()).collect();
    // in the order that the ends of videos keep as well
    sqlx::query!(
        "select l.batch_id from batch_lanes l
             join unnest($1::text[], $2::text[]) as i (batch_id, model) on l.batch_id = i.batch_id and l.model = i.model
         order by l.batch_id, l.model for update of l",
        &batches,
        &models,
    )
    .fetch_all(&mut *tx)
    .await?;
    let costing = Costing::of(shares);
    let rows = sqlx::query_file!(
        "src/scheduler/release.sql",
        &batches,
        &models,
        &shares.iter().map(|s| i64::from(s.videos)).collect::<Vec<_>>(),
        &shares.iter().map(|s| s.route.provider.clone()).collect::<Vec<_>>(),
        &shares.iter().map(|s| s.route.upstream_model.clone()).collect::<Vec<_>>(),
        &shares.iter().map(|s| s.part.split()).collect::<Vec<_>>(),
        &shares.iter().map(|s| s.part.avoided().map(str::to_owned)).collect::<Vec<_>>() as &[Option<String>],
        &shares.iter().map(|s| i64::from(s.skip)).collect::<Vec<_>>(),
        &shares.iter().map(|s| s.turns.valid.as_millis() as f64).collect::<Vec<_>>(),
        &costing.models,
        &costing.accounts,
        &costing.upstream_models,
        &costing.seconds,
        &costing.sizes,
        &costing.credits,
        &purses.keys().cloned().collect::<Vec<_>>(),
        &purses.values().copied().collect::<Vec<_>>(),
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut released = Released::default();
    let mut videos = Vec::with_capacity(rows.len());
    for row in rows {
        let (Some(video), Some(batch), Some(model)) = (row.id, row.batch, row.model) else {
            released.too_dear.push(row.provider);
            continue;
        };
        *released.credits.entry(row.provider.clone()).or_default() += row.credits.unwrap_or(0);
        *released.videos.entry((batch, model.clone(), row.provider.clone())).or_default() += 1;
        videos.push((video, (batch, model, row.provider)));
    }
    let ids: Vec<_> = videos.iter().map(|(video, _)| video.ulid()).collect();
    // a job that outlived its video's last release may still be there; its worker finds the video released again
    queue::push_missing(&mut tx, queue::names::GENERATE, &ids).await?;
    // the account's row late, as everywhere
    for share in shares.iter().filter(|share| share.probe) {
        let lane = |(at, model, to): &(BatchId, String, String)| {
            (*at, &**model, &**to) == (share.batch, &*share.model, &*share.route.provider)
        };
        if let Some((video, _)) = videos.iter().find(|(_, of)| lane(of)) {
            accounts::probing(&mut tx, (&share.route.provider, &video.bare()), probe).await?;
        }
    }
    if !released.videos.is_empty() {
        released.turns = turns_of(shares, &released.videos);
        released.at = turns::log(&mut tx, &released.turns).await?;
    }
    db::commit("release videos", tx).await?;
    Ok(released)
}

/// What videos of the routes of shares cost, as columns for `release.sql`.
#[derive(Debug, Default)]
struct Costing {
    models: Vec<String>,
    accounts: Vec<String>,
    upstream_models: Vec<String>,
    seconds: Vec<i32>,
    sizes: Vec<String>,
    credits: Vec<i64>,
}

impl Costing {
    fn of(shares: &[Share]) -> Costing {
        let mut costing = Costing::default();
        let mut told = HashSet::new();
        for share in shares {
            let route = &share.route;
            if !told.insert((&share.model, &route.provider, &route.upstream_model)) {
                continue;
            }
            for cost in route.costs.iter() {
                costing.models.push(share.model.clone());
                costing.accounts.push(route.provider.clone());
                costing.upstream_models.push(route.upstream_model.clone());
                costing.seconds.push(cost.seconds.cast_signed());
                costing.sizes.push(cost.size.clone());
                costing.credits.push(cost.credits);
            }
        }
        costing
    }
}

/// The turns that were used, by whose they are.
fn turns_of(shares: &[Share], videos: &HashMap<(BatchId, String, String), u32>) -> Turns {
    let mut turns = Turns::new();
    let mut told = HashSet::new();
    for share in shares {
        let lane = (share.batch, share.model.clone(), share.route.provider.clone());
        let Some(videos) = videos.get(&lane).filter(|_| told.insert(lane.clone())) else { continue };
        for subject in &share.turns.subjects {
            *turns.entry((subject.clone(), share.turns.valid)).or_default() += videos;
        }
    }
    turns
}
