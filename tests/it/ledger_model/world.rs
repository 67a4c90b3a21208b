//! A database of its own on which acts are played, side by side with the model.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use freezeframe::db::{Database, DatabaseSettings, Tx, commit};
use freezeframe::domain::{BatchId, Credits, FailureClass, GrantSource, TenantId, VideoId};
use freezeframe::ledger::{self, Adjustment, FreezeError, LedgerError, Settlement, Stamp};
use sqlx::{Acquire, PgConnection};

use super::act::{Act, Pick, TENANTS};
use super::model::{Batch, Model, Outcome, Row, Settling, Video};
use crate::app::postgres::TestDatabase;

const STAMP: Stamp<'static> = Stamp { actor: "test", reason: "test", request_id: "request" };
const SOURCES: [GrantSource; 3] = [GrantSource::Promotional, GrantSource::Paid, GrantSource::CreditLine];
const CLASSES: [FailureClass; 5] = [
    FailureClass::Timeout,
    FailureClass::Moderation,
    FailureClass::Network,
    FailureClass::OutputExpired,
    FailureClass::Capacity,
];
/// Acts in one transaction.
const ACTS_OF_A_TRANSACTION: usize = 25;
/// Wallets and open holds are compared after so many acts; everything is at the end.
const ACTS_OF_A_LOOK: usize = 100;

/// What was played.
#[derive(Default)]
pub struct Tally {
    pub done: u64,
    pub videos: u64,
    pub refused: BTreeMap<String, u64>,
}

impl Tally {
    fn count(&mut self, outcome: &Outcome) {
        match outcome.refusal() {
            Some(why) => *self.refused.entry(why).or_default() += 1,
            None if *outcome == Outcome::Nothing => {}
            None => self.done += 1,
        }
    }

    /// Done or refused.
    pub fn acts(&self) -> u64 {
        self.done + self.refused.values().sum::<u64>()
    }

    pub fn add(&mut self, other: &Tally) {
        self.done += other.done;
        self.videos += other.videos;
        other.refused.iter().for_each(|(why, count)| *self.refused.entry(why.clone()).or_default() += count);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, why) = (self.acts(), &self.refused);
        let refused = all - self.done;
        write!(f, "{all} acts on {} videos: {} done, {refused} refused {why:?}", self.videos, self.done)
    }
}

struct World {
    /// Dropped last: the database goes with it.
    db: Database,
    model: Model,
    tenants: Vec<TenantId>,
    ids: Vec<(BatchId, Vec<VideoId>)>,
    /// Batches with unsettled videos, and settled ones that were not finalized.
    open: Vec<usize>,
    ready: Vec<usize>,
    test: TestDatabase,
}

/// Plays acts on a new database. Answers at which act it went wrong, and how.
pub async fn play(acts: &[Act]) -> Result<Tally, (usize, String)> {
    let mut world = World::new().await;
    let mut tally = Tally::default();
    let mut played = 0;
    let mut failed = None;
    for group in acts.chunks(ACTS_OF_A_TRANSACTION) {
        let mut tx = world.db.begin().await.unwrap();
        for act in group {
            match world.act(&mut tx, act).await {
                Ok(outcome) => tally.count(&outcome),
                Err(why) => {
                    failed = Some((played, format!("{act:?}: {why}")));
                    break;
                }
            }
            played += 1;
        }
        if failed.is_some() {
            break;
        }
        commit("acts", tx).await.unwrap();
        let looks = played % ACTS_OF_A_LOOK < ACTS_OF_A_TRANSACTION;
        if looks && let Err(why) = world.look().await {
            failed = Some((played - 1, why));
            break;
        }
    }
    if failed.is_none()
        && let Err(why) = world.look_at_everything().await
    {
        failed = Some((acts.len().saturating_sub(1), why));
    }
    tally.videos = world.ids.iter().map(|(_, videos)| videos.len() as u64).sum();
    world.db.close().await;
    drop(world.test);
    match failed {
        Some(failed) => Err(failed),
        None => Ok(tally),
    }
}

impl World {
    async fn new() -> World {
        let test = TestDatabase::fresh().await;
        let settings =
            DatabaseSettings { role: Some("freezeframe_app".to_owned()), ..DatabaseSettings::new(&test.url) };
        let db = Database::connect(&settings).await.unwrap();
        let tenants: Vec<TenantId> = (0..=TENANTS).map(|_| TenantId::generate()).collect();
        let mut tx = db.begin().await.unwrap();
        for tenant in &tenants[..TENANTS] {
            sqlx::query("insert into tenants (id, name, videos_per_minute, max_in_flight, webhook_secret_sealed) values ($1, 'T', 1, 1, '')")
                .bind(tenant)
                .execute(&mut *tx)
                .await
                .unwrap();
            ledger::open_wallets(&mut tx, *tenant).await.unwrap();
        }
        commit("open", tx).await.unwrap();
        let model = Model::new(tenants.iter().map(|tenant| tenant.bare()).collect());
        World { db, model, tenants, ids: Vec::new(), open: Vec::new(), ready: Vec::new(), test }
    }

    /// Does it here and in the model; the difference, if there is one.
    async fn act(&mut self, tx: &mut Tx, act: &Act) -> Result<Outcome, String> {
        let step = self.resolve(act);
        let expected = self.expect(&step);
        if expected == Outcome::Nothing || expected == Outcome::NotCredits {
            // nothing of the kind can be asked for: amounts are made by `Credits` alone
            return Ok(expected);
        }
        let found = if expected.breaks_the_transaction() {
            let mut inner = tx.begin().await.map_err(|error| error.to_string())?;
            let found = self.perform(&mut inner, &step).await;
            inner.rollback().await.map_err(|error| error.to_string())?;
            found
        } else {
            self.perform(tx, &step).await
        };
        match expected.allows(&found) {
            true => Ok(found),
            false => Err(format!("ended as {found:?}, expected was {expected:?}")),
        }
    }

    fn resolve(&self, act: &Act) -> Step {
        match act {
            Act::Grant { tenant, source, amount } => Step::Grant((*tenant, *source), *amount),
            Act::Adjust { tenant, source, add, amount } => Step::Adjust((*tenant, *source), *add, *amount),
            Act::Freeze { tenant, prices, again } => {
                let existing = again.filter(|_| !self.ids.is_empty()).map(|at| self.ids[at % self.ids.len()].0);
                let new = (BatchId::generate(), prices.iter().map(|_| VideoId::generate()).collect());
                Step::Freeze(*tenant, prices.clone(), existing, new)
            }
            Act::Settle { picks } => Step::Settle(self.settlings(picks)),
            Act::Greedy { batch, video, more } => {
                Step::Settle(self.greedy(*batch, *video, *more).into_iter().collect())
            }
            Act::Finalize { batch, ready } => Step::Finalize(match (*ready, self.ids.len()) {
                (true, _) if !self.ready.is_empty() => Some(self.ready[batch % self.ready.len()]),
                (_, all) => Some(batch % (all + 1)).filter(|at| *at < all),
            }),
        }
    }

    fn settlings(&self, picks: &[Pick]) -> Vec<Settling> {
        let mut chosen: Vec<Settling> = Vec::new();
        for pick in picks {
            let from = if pick.fresh { self.open.len() } else { self.ids.len() };
            if from == 0 {
                continue;
            }
            let batch = if pick.fresh { self.open[pick.batch % from] } else { pick.batch % from };
            let taken = |video: &usize| chosen.iter().any(|other| (other.batch, other.video) == (batch, *video));
            let videos = &self.model.batches[batch].videos;
            let fits = |video: &usize| !pick.fresh || (videos[*video].settled.is_none() && !taken(video));
            let candidates: Vec<usize> = (0..videos.len()).filter(fits).collect();
            let Some(video) = candidates.get(pick.video % candidates.len().max(1)).copied() else { continue };
            let Video { price, offset, .. } = videos[video];
            let failure = pick.failure.map(|class| CLASSES[class].name());
            chosen.push(Settling { batch, video, price, offset, failure });
        }
        chosen
    }

    fn greedy(&self, batch: usize, video: usize, more: i64) -> Option<Settling> {
        let batch = self.open.get(batch % self.open.len().max(1)).copied()?;
        self.model.greedy(batch, video % self.model.batches[batch].videos.len(), more)
    }

    /// Plays the step in the model.
    fn expect(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Grant(wallet, amount) => self.model.move_in("grant", *wallet, *amount),
            Step::Adjust(wallet, true, amount) => self.model.move_in("adjustment", *wallet, *amount),
            Step::Adjust(wallet, false, amount) => self.model.take_out(*wallet, *amount),
            Step::Freeze(tenant, prices, existing, (id, videos)) => {
                let batch = existing.is_none().then(|| new_batch(*tenant, *id, videos, prices));
                let outcome = self.model.freeze(*tenant, prices, batch);
                if matches!(outcome, Outcome::Frozen(_)) {
                    self.open.push(self.ids.len());
                    self.ids.push((*id, videos.clone()));
                }
                outcome
            }
            Step::Settle(ends) if ends.is_empty() => Outcome::Nothing,
            Step::Settle(ends) => {
                let outcome = self.model.settle(ends);
                let Model { batches, .. } = &self.model;
                let done: Vec<usize> = self.open.iter().copied().filter(|at| batches[*at].is_settled()).collect();
                self.open.retain(|at| !batches[*at].is_settled());
                self.ready.extend(done);
                outcome
            }
            Step::Finalize(batch) => {
                let outcome = self.model.finalize(*batch);
                self.ready.retain(|at| self.model.batches[*at].finished.is_none());
                outcome
            }
        }
    }

    async fn perform(&self, conn: &mut PgConnection, step: &Step) -> Outcome {
        let tenant = |(tenant, source): &(usize, usize)| (self.tenants[*tenant], SOURCES[*source]);
        match step {
            Step::Grant(wallet, amount) => {
                let (tenant, source) = tenant(wallet);
                balance(ledger::grant(conn, tenant, source, credits(*amount), STAMP).await)
            }
            Step::Adjust(wallet, add, amount) => {
                let amount = credits(*amount);
                let adjustment = if *add { Adjustment::Add(amount) } else { Adjustment::TakeAway(amount) };
                let (tenant, source) = tenant(wallet);
                balance(ledger::adjust(conn, tenant, source, adjustment, STAMP).await)
            }
            Step::Freeze(tenant, prices, existing, (id, videos)) => {
                let batch = (self.tenants[*tenant], existing.unwrap_or(*id));
                freeze(conn, batch, prices, videos).await
            }
            Step::Settle(ends) => self.settle(conn, ends).await,
            Step::Finalize(batch) => {
                let id = batch.map_or_else(BatchId::generate, |at| self.ids[at].0);
                match ledger::finalize(conn, id).await {
                    Ok(end) => Outcome::Finalized {
                        status: end.status.word(),
                        charged: end.charged.get(),
                        refunded: end.refunded.get(),
                        first_time: end.first_time,
                    },
                    Err(error) => refusal(error),
                }
            }
        }
    }

    /// Settles and counts, as the recorder does.
    async fn settle(&self, conn: &mut PgConnection, ends: &[Settling]) -> Outcome {
        let class = |name: &str| CLASSES.into_iter().find(|class| class.name() == name);
        let settlements: Vec<Settlement> = ends
            .iter()
            .map(|end| Settlement {
                video: self.ids[end.batch].1[end.video],
                batch: self.ids[end.batch].0,
                price: credits(end.price),
                price_offset: credits(end.offset),
                failure: end.failure.and_then(class),
            })
            .collect();
        if let Err(error) = ledger::settle(conn, &settlements).await {
            return refusal(error);
        }
        let mut counts: HashMap<String, (i32, i32)> = HashMap::new();
        for settlement in &settlements {
            let count = counts.entry(settlement.batch.bare()).or_default();
            let failed = i32::from(settlement.failure.is_some());
            *count = (count.0 + 1 - failed, count.1 + failed);
        }
        let (ids, counts): (Vec<String>, Vec<(i32, i32)>) = counts.into_iter().unzip();
        let (succeeded, failed): (Vec<i32>, Vec<i32>) = counts.into_iter().unzip();
        let counted = sqlx::query(
            "update batches b set succeeded = b.succeeded + i.succeeded, failed = b.failed + i.failed
             from unnest($1::text[], $2::int[], $3::int[]) as i (id, succeeded, failed) where b.id = i.id",
        )
        .bind(ids)
        .bind(succeeded)
        .bind(failed)
        .execute(conn)
        .await;
        counted.map_or_else(|error| refusal(error.into()), |_| Outcome::Settled)
    }

    /// Wallets and the holds of open batches.
    async fn look(&self) -> Result<(), String> {
        let wallets: Vec<(String, i64)> =
            sqlx::query_as("select tenant_id || '/' || source, available from wallets order by tenant_id, source")
                .fetch_all(&self.test.pool)
                .await
                .unwrap();
        let mut expected: Vec<(String, i64)> = Vec::new();
        for (tenant, wallet) in self.model.tenants.iter().zip(&self.model.wallets) {
            let each = SOURCES.iter().zip(wallet);
            expected.extend(each.map(|(source, balance)| (format!("{tenant}/{}", source.word()), *balance)));
        }
        let source = |name: &str| SOURCES.iter().position(|source| source.word() == name);
        expected.sort_by_key(|(name, _)| {
            let (tenant, name) = name.split_once('/').unwrap();
            (tenant.to_owned(), source(name))
        });
        same("the wallets", &wallets, &expected)?;
        let unfinished = |batch: &&Batch| batch.finished.is_none();
        self.holds("where finished_at is null", self.model.batches.iter().filter(unfinished)).await
    }

    async fn holds(&self, which: &str, batches: impl Iterator<Item = &Batch>) -> Result<(), String> {
        type HoldRow = (String, i64, i64, i64, i64, i64);
        let question = format!(
            "select h.batch_id || '/' || h.source, h.starts_at, h.frozen, h.refunded, h.charged, h.held
             from batch_holds h where h.batch_id in (select id from batches {which})"
        );
        let mut holds: Vec<HoldRow> =
            sqlx::query_as(sqlx::AssertSqlSafe(question)).fetch_all(&self.test.pool).await.unwrap();
        let mut expected: Vec<HoldRow> = Vec::new();
        for batch in batches {
            let rows = batch.holds.iter().map(|hold| {
                let id = format!("{}/{}", batch.id, SOURCES[hold.source].word());
                (id, hold.starts_at, hold.frozen, hold.refunded, hold.charged, hold.held())
            });
            expected.extend(rows);
        }
        holds.sort();
        expected.sort();
        same("the holds", &holds, &expected)
    }

    async fn look_at_everything(&self) -> Result<(), String> {
        self.look().await?;
        self.holds("", self.model.batches.iter()).await?;
        self.entries().await?;
        let mut settled: Vec<(String, bool)> = sqlx::query_as("select video_id, outcome = 'refunded' from settlements")
            .fetch_all(&self.test.pool)
            .await
            .unwrap();
        let videos = self.model.batches.iter().flat_map(|batch| &batch.videos);
        let mut expected: Vec<(String, bool)> =
            videos.filter_map(|video| Some((video.id.clone(), video.settled?))).collect();
        settled.sort();
        expected.sort();
        same("the settlements", &settled, &expected)?;
        let mut conn = self.test.pool.acquire().await.unwrap();
        let books = ledger::books(&mut conn).await.map(|b| [b.issued, b.available, b.held, b.revenue]);
        match (books, self.model.books()) {
            (Ok(books), Some(expected)) => same("the books", &books, &expected)?,
            (Err(_), None) => {}
            (found, expected) => return Err(format!("the books are {found:?}, expected were {expected:?}")),
        }
        let differences = ledger::differences(&mut conn).await.unwrap();
        same("the differences", &differences, &vec![])
    }

    /// Every row of the ledger: those that move wallets in their order, charges in any.
    async fn entries(&self) -> Result<(), String> {
        type Entry = (String, String, String, Option<String>, i64, i64, i64, i32);
        let rows: Vec<Entry> = sqlx::query_as(
            "select act::text, tenant_id, source::text, batch_id, amount, balance_before, balance_after, video_count
             from credit_ledger order by id",
        )
        .fetch_all(&self.test.pool)
        .await
        .unwrap();
        let told = |(act, tenant, source, batch, amount, before, after, videos): &Row| -> Entry {
            let source = SOURCES[*source].word().to_owned();
            ((*act).to_owned(), tenant.clone(), source, batch.clone(), *amount, *before, *after, *videos)
        };
        let expected: Vec<Entry> = self.model.rows.iter().map(told).collect();
        let split = |rows: Vec<Entry>| {
            let (mut charges, others): (Vec<Entry>, Vec<Entry>) = rows.into_iter().partition(|row| row.0 == "charge");
            charges.sort();
            (charges, others)
        };
        let (found, expected) = (split(rows), split(expected));
        same("the charges", &found.0, &expected.0)?;
        same("the entries", &found.1, &expected.1)
    }
}

/// An act with what it is done to.
enum Step {
    Grant((usize, usize), i64),
    Adjust((usize, usize), bool, i64),
    Freeze(usize, Vec<i64>, Option<BatchId>, (BatchId, Vec<VideoId>)),
    Settle(Vec<Settling>),
    Finalize(Option<usize>),
}

fn new_batch(tenant: usize, id: BatchId, videos: &[VideoId], prices: &[i64]) -> Batch {
    let mut offset = 0i64;
    let videos = videos.iter().zip(prices).map(|(id, price)| {
        let video = Video { id: id.bare(), price: *price, offset, settled: None };
        offset = offset.saturating_add(*price);
        video
    });
    let videos = videos.collect();
    Batch { id: id.bare(), tenant, holds: Vec::new(), videos, finished: None }
}

/// Freezes and writes the batch, as admission does.
async fn freeze(conn: &mut PgConnection, batch: (TenantId, BatchId), prices: &[i64], videos: &[VideoId]) -> Outcome {
    let total = Credits::total(prices.iter().map(|price| credits(*price))).unwrap();
    let frozen = match ledger::freeze(conn, batch, total, prices.len() as u32, STAMP).await {
        Ok(frozen) => Outcome::Frozen(frozen.available_after.get()),
        Err(FreezeError::Short { required, available }) => {
            return Outcome::Short { required: required.get(), available: available.get() };
        }
        Err(FreezeError::Ledger(error)) => return refusal(error),
    };
    let offsets: Vec<i64> = prices
        .iter()
        .scan(0, |offset, price| {
            *offset += price;
            Some(*offset - price)
        })
        .collect();
    let written = sqlx::query(
        "with batch as (
             insert into batches (id, tenant_id, total, frozen_credits, request_id) values ($1, $2, $3, $4, 'request'))
         insert into videos (id, batch_id, tenant_id, position, model, prompt, seconds, size, price_credits, price_offset)
         select id, $1, $2, (n - 1)::integer, 'm', 'p', 4, '1280x720', price, starts
         from unnest($5::text[], $6::bigint[], $7::bigint[]) with ordinality as v (id, price, starts, n)",
    )
    .bind(batch.1)
    .bind(batch.0)
    .bind(prices.len() as i32)
    .bind(total.get())
    .bind(videos.iter().map(|video| video.bare()).collect::<Vec<_>>())
    .bind(prices)
    .bind(offsets)
    .execute(conn)
    .await;
    written.map_or_else(|error| refusal(error.into()), |_| frozen)
}

fn credits(amount: i64) -> Credits {
    Credits::new(amount).unwrap()
}

fn balance(after: Result<Credits, LedgerError>) -> Outcome {
    after.map_or_else(refusal, |after| Outcome::Balance(after.get()))
}

fn refusal(error: LedgerError) -> Outcome {
    match error {
        LedgerError::OutOfRange { .. } => Outcome::OutOfRange,
        LedgerError::NoWallet { .. } => Outcome::NoWallet,
        LedgerError::HoldsDoNotCover { .. } => Outcome::HoldsDoNotCover,
        LedgerError::Overdraft { required, available } => {
            Outcome::Overdraft { required: required.get(), available: available.get() }
        }
        LedgerError::Database(error) => {
            let state = error.as_database_error().and_then(|answer| answer.code()).map(|code| code.into_owned());
            Outcome::Database(state.unwrap_or_else(|| error.to_string()))
        }
    }
}

fn same<T: PartialEq + fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let short = |value: &T| format!("{value:?}").chars().take(2_000).collect::<String>();
    Err(format!("{what} are\n{}\nexpected were\n{}", short(found), short(expected)))
}
