//! The ledger's acts on a real database: draw order, refunds to their source, one charge however often it is asked for,
//! and never a balance below zero.

use std::collections::BTreeMap;
use std::sync::Arc;

use freezeframe::db::{Database, DatabaseSettings, Tx, commit};
use freezeframe::domain::{BatchId, BatchStatus, Credits, FailureClass, GrantSource, TenantId, VideoId};
use freezeframe::ledger::{self, FreezeError, LedgerError, Loss, LossReason, Settlement, Stamp};
use futures_util::future::join_all;

use crate::app::postgres::TestDatabase;
use crate::app::until;

const STAMP: Stamp<'static> = Stamp { actor: "test", reason: "test", request_id: "request" };

fn credits(amount: i64) -> Credits {
    Credits::new(amount).unwrap()
}

/// One tenant on a database of its own; every write is made as the application's role.
struct Desk {
    test: TestDatabase,
    db: Database,
    tenant: TenantId,
}

/// A batch whose price is frozen.
#[derive(Clone)]
struct Batch {
    id: BatchId,
    videos: Vec<(VideoId, i64, i64)>,
}

impl Desk {
    async fn open(grants: &[(GrantSource, i64)]) -> Desk {
        let test = TestDatabase::fresh().await;
        let settings =
            DatabaseSettings { role: Some("freezeframe_app".to_owned()), ..DatabaseSettings::new(&test.url) };
        let desk = Desk { db: Database::connect(&settings).await.unwrap(), test, tenant: TenantId::generate() };
        let mut tx = desk.db.begin().await.unwrap();
        sqlx::query("insert into tenants (id, name, videos_per_minute, max_in_flight, webhook_secret_sealed) values ($1, 'T', 1, 1, '')")
            .bind(desk.tenant)
            .execute(&mut *tx)
            .await
            .unwrap();
        ledger::open_wallets(&mut tx, desk.tenant).await.unwrap();
        for (source, amount) in grants {
            ledger::grant(&mut tx, desk.tenant, *source, credits(*amount), STAMP).await.unwrap();
        }
        commit("open", tx).await.unwrap();
        desk
    }

    async fn freeze(&self, tx: &mut Tx, prices: &[i64]) -> Result<Batch, FreezeError> {
        let (id, total) = (BatchId::generate(), prices.iter().sum::<i64>());
        ledger::freeze(tx, (self.tenant, id), credits(total), prices.len() as u32, STAMP).await?;
        sqlx::query(
            "insert into batches (id, tenant_id, total, frozen_credits, request_id) values ($1, $2, $3, $4, 'request')",
        )
        .bind(id)
        .bind(self.tenant)
        .bind(prices.len() as i32)
        .bind(total)
        .execute(&mut **tx)
        .await?;
        let mut batch = Batch { id, videos: Vec::new() };
        let mut offset = 0;
        for (position, price) in prices.iter().enumerate() {
            let video = VideoId::generate();
            sqlx::query(
                "insert into videos (id, batch_id, tenant_id, position, model, prompt, seconds, size, price_credits, price_offset)
                 values ($1, $2, $3, $4, 'm', 'p', 4, '1280x720', $5, $6)",
            )
            .bind(video)
            .bind(id)
            .bind(self.tenant)
            .bind(position as i32)
            .bind(price)
            .bind(offset)
            .execute(&mut **tx)
            .await?;
            batch.videos.push((video, *price, offset));
            offset += price;
        }
        Ok(batch)
    }

    async fn batch(&self, prices: &[i64]) -> Result<Batch, FreezeError> {
        let mut tx = self.db.begin().await?;
        let batch = self.freeze(&mut tx, prices).await?;
        commit("freeze", tx).await?;
        Ok(batch)
    }

    /// Ends videos by their position and settles them, as the recorder does.
    async fn settle(&self, batch: &Batch, ends: &[(usize, Option<FailureClass>)]) -> Result<(), LedgerError> {
        let mut tx = self.db.begin().await?;
        let settlements: Vec<Settlement> = ends.iter().map(|(at, failure)| settlement(batch, *at, *failure)).collect();
        ledger::settle(&mut tx, &settlements).await?;
        for (at, failure) in ends {
            let set = match failure {
                Some(_) => "state = 'failed', failure_class = 'timeout'",
                None => {
                    "state = 'succeeded', output_key = 'k', output_bytes = 1, output_sha256 = decode(repeat('00', 32), 'hex')"
                }
            };
            let statement = format!("update videos set finished_at = now(), {set} where id = $1");
            sqlx::query(sqlx::AssertSqlSafe(statement)).bind(batch.videos[*at].0).execute(&mut *tx).await?;
            let counter = if failure.is_some() { "failed" } else { "succeeded" };
            let statement = format!("update batches set {counter} = {counter} + 1 where id = $1");
            sqlx::query(sqlx::AssertSqlSafe(statement)).bind(batch.id).execute(&mut *tx).await?;
        }
        commit("settle", tx).await?;
        Ok(())
    }

    async fn finalize(&self, batch: BatchId) -> Result<ledger::Finalized, LedgerError> {
        let mut tx = self.db.begin().await?;
        let finalized = ledger::finalize(&mut tx, batch).await?;
        commit("finalize", tx).await?;
        Ok(finalized)
    }

    async fn until_somebody_waits(&self) {
        let waits = "select exists (select from pg_stat_activity where datname = current_database()
            and wait_event_type = 'Lock')";
        until("somebody waits", async || sqlx::query_scalar(waits).fetch_one(&self.test.pool).await.unwrap()).await;
    }

    /// (available, held) of each source.
    async fn wallet(&self) -> BTreeMap<GrantSource, (i64, i64)> {
        let mut conn = self.db.pool().acquire().await.unwrap();
        let wallet = ledger::wallet(&mut conn, self.tenant).await.unwrap();
        wallet.sources.iter().map(|s| (s.source, (s.available.get(), s.held.get()))).collect()
    }

    async fn entries(&self, act: &str) -> i64 {
        let query = "select count(*) from credit_ledger where act::text = $1";
        sqlx::query_scalar(query).bind(act).fetch_one(&self.test.pool).await.unwrap()
    }

    /// The books must be right at the end of every test.
    async fn close(self) {
        let mut conn = self.test.pool.acquire().await.unwrap();
        assert_eq!(ledger::books(&mut conn).await.unwrap().sum, 0);
        assert_eq!(ledger::differences(&mut conn).await.unwrap(), vec![]);
        drop(conn);
        self.db.close().await;
    }
}

fn settlement(batch: &Batch, at: usize, failure: Option<FailureClass>) -> Settlement {
    let (video, price, offset) = batch.videos[at];
    Settlement { video, batch: batch.id, price: credits(price), price_offset: credits(offset), failure }
}

fn sqlstate(error: &LedgerError) -> String {
    match error {
        LedgerError::Database(error) => {
            error.as_database_error().and_then(|e| e.code()).map(|c| c.into_owned()).unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// The constraint of the database that refused it.
fn constraint(error: &LedgerError) -> &str {
    match error {
        LedgerError::Database(error) => error.as_database_error().and_then(|e| e.constraint()).unwrap_or_default(),
        _ => "",
    }
}

use GrantSource::{CreditLine, Paid, Promotional};

#[tokio::test]
async fn credits_are_drawn_from_gifts_then_purchases_then_the_credit_line() {
    let desk = Desk::open(&[(CreditLine, 100), (Paid, 100), (Promotional, 100)]).await;
    desk.batch(&[60]).await.unwrap();
    assert_eq!(desk.wallet().await, [(Promotional, (40, 60)), (Paid, (100, 0)), (CreditLine, (100, 0))].into());
    desk.batch(&[90]).await.unwrap();
    assert_eq!(desk.wallet().await, [(Promotional, (0, 100)), (Paid, (50, 50)), (CreditLine, (100, 0))].into());
    desk.batch(&[150]).await.unwrap();
    assert_eq!(desk.wallet().await, [(Promotional, (0, 100)), (Paid, (0, 100)), (CreditLine, (0, 100))].into());
    desk.close().await;
}

#[tokio::test]
async fn a_freeze_that_is_short_says_by_how_much_and_changes_nothing() {
    let desk = Desk::open(&[(Promotional, 50), (Paid, 50)]).await;
    let before = desk.wallet().await;
    match desk.batch(&[60, 41]).await {
        Err(FreezeError::Short { required, available }) => {
            assert_eq!((required.get(), available.get()), (101, 100));
        }
        other => panic!("{:?}", other.map(|batch| batch.id)),
    }
    assert_eq!(desk.wallet().await, before);
    assert_eq!(desk.entries("freeze").await, 0);
    desk.batch(&[60, 40]).await.unwrap();
    desk.close().await;
}

#[tokio::test]
async fn a_refund_goes_back_to_the_grants_that_paid_when_a_video_straddles_them() {
    let desk = Desk::open(&[(Promotional, 100), (Paid, 50), (CreditLine, 500)]).await;
    // the second video is paid by all three: 40 of the gift, 50 bought, 10 lent
    let batch = desk.batch(&[60, 100, 100]).await.unwrap();
    assert_eq!(desk.wallet().await, [(Promotional, (0, 100)), (Paid, (0, 50)), (CreditLine, (390, 110))].into());
    desk.settle(&batch, &[(1, Some(FailureClass::Timeout))]).await.unwrap();
    assert_eq!(desk.wallet().await, [(Promotional, (40, 60)), (Paid, (50, 0)), (CreditLine, (400, 100))].into());
    desk.settle(&batch, &[(0, None), (2, Some(FailureClass::Moderation))]).await.unwrap();
    let done = desk.finalize(batch.id).await.unwrap();
    assert_eq!((done.status, done.charged.get(), done.refunded.get()), (BatchStatus::Partial, 60, 200));
    assert_eq!(desk.wallet().await, [(Promotional, (40, 0)), (Paid, (50, 0)), (CreditLine, (500, 0))].into());
    desk.close().await;
}

#[tokio::test]
async fn refunds_of_many_videos_are_one_entry_for_each_reason() {
    let desk = Desk::open(&[(Paid, 1000)]).await;
    let batch = desk.batch(&[10; 10]).await.unwrap();
    let moderated = (0..4).map(|at| (at, Some(FailureClass::Moderation)));
    let timed_out = (4..6).map(|at| (at, Some(FailureClass::Timeout)));
    let made = (6..10).map(|at| (at, None));
    let ends: Vec<_> = moderated.chain(timed_out).chain(made).collect();
    desk.settle(&batch, &ends).await.unwrap();
    let rows: Vec<(String, i64, i32, i32)> = sqlx::query_as(
        "select reason, amount, video_count, cardinality(video_ids) from credit_ledger where act = 'refund' order by reason",
    )
    .fetch_all(&desk.test.pool)
    .await
    .unwrap();
    assert_eq!(rows, [("moderation".to_owned(), 40, 4, 4), ("timeout".to_owned(), 20, 2, 2)]);
    assert_eq!(desk.finalize(batch.id).await.unwrap().charged.get(), 40);
    desk.close().await;
}

#[tokio::test]
async fn finalizing_twice_and_ten_times_at_once_charges_once_and_answers_the_same() {
    let desk = Desk::open(&[(Paid, 1000)]).await;
    let batch = desk.batch(&[100, 200]).await.unwrap();
    desk.settle(&batch, &[(0, None), (1, Some(FailureClass::Timeout))]).await.unwrap();
    let answers = join_all((0..10).map(|_| desk.finalize(batch.id))).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| answer.first_time).count(), 1);
    let again = desk.finalize(batch.id).await.unwrap();
    assert!(!again.first_time);
    for answer in answers {
        let seen = (answer.status, answer.charged.get(), answer.refunded.get());
        assert_eq!(seen, (BatchStatus::Partial, 100, 200));
    }
    assert_eq!((again.status, again.charged.get(), again.refunded.get()), (BatchStatus::Partial, 100, 200));
    assert_eq!(desk.entries("charge").await, 1);
    assert_eq!(desk.wallet().await[&Paid], (900, 0));
    desk.close().await;
}

#[tokio::test]
async fn a_batch_with_an_unsettled_video_is_not_finalized() {
    let desk = Desk::open(&[(Paid, 1000)]).await;
    let batch = desk.batch(&[100, 200]).await.unwrap();
    desk.settle(&batch, &[(0, None)]).await.unwrap();
    assert_eq!(sqlstate(&desk.finalize(batch.id).await.unwrap_err()), "P0002");
    // counted, but not settled
    sqlx::query("update batches set failed = 1 where id = $1").bind(batch.id).execute(&desk.test.pool).await.unwrap();
    assert_eq!(sqlstate(&desk.finalize(batch.id).await.unwrap_err()), "P0002");
    sqlx::query("update batches set failed = 0 where id = $1").bind(batch.id).execute(&desk.test.pool).await.unwrap();
    assert_eq!(desk.wallet().await[&Paid], (700, 300));
    assert_eq!(sqlstate(&desk.finalize(BatchId::generate()).await.unwrap_err()), "P0002");
    desk.close().await;
}

#[tokio::test]
async fn a_batch_that_holds_less_than_its_successes_cost_is_left_alone() {
    let desk = Desk::open(&[(Paid, 1000)]).await;
    let batch = desk.batch(&[100]).await.unwrap();
    desk.settle(&batch, &[(0, None)]).await.unwrap();
    sqlx::query("update batch_holds set refunded = 1 where batch_id = $1")
        .bind(batch.id)
        .execute(&desk.test.pool)
        .await
        .unwrap();
    assert_eq!(sqlstate(&desk.finalize(batch.id).await.unwrap_err()), "P0003");
    let status: String =
        sqlx::query_scalar("select status::text from batches").fetch_one(&desk.test.pool).await.unwrap();
    assert_eq!(status, "queued");
    let mut conn = desk.test.pool.acquire().await.unwrap();
    let differences = ledger::differences(&mut conn).await.unwrap();
    assert!(differences.iter().any(|d| d.what == "batch_hold"), "{differences:?}");
    drop(conn);
    // mended, it is finalized as if nothing had happened
    sqlx::query("update batch_holds set refunded = 0 where batch_id = $1")
        .bind(batch.id)
        .execute(&desk.test.pool)
        .await
        .unwrap();
    assert_eq!(desk.finalize(batch.id).await.unwrap().charged.get(), 100);
    desk.close().await;
}

#[tokio::test]
async fn what_no_settlement_accounts_for_is_returned_when_the_batch_ends() {
    let desk = Desk::open(&[(Promotional, 80), (Paid, 100)]).await;
    let batch = desk.batch(&[60, 60]).await.unwrap();
    // one video turned out cheaper than it was frozen for
    sqlx::query("update videos set price_credits = 45 where id = $1")
        .bind(batch.videos[1].0)
        .execute(&desk.test.pool)
        .await
        .unwrap();
    let mut cheaper = batch.clone();
    cheaper.videos[1].1 = 45;
    desk.settle(&cheaper, &[(0, None), (1, None)]).await.unwrap();
    let done = desk.finalize(batch.id).await.unwrap();
    assert_eq!((done.status, done.charged.get(), done.refunded.get()), (BatchStatus::Completed, 105, 15));
    // to the grant that was drawn last
    assert_eq!(desk.wallet().await, [(Promotional, (0, 0)), (Paid, (75, 0)), (CreditLine, (0, 0))].into());
    assert_eq!(desk.entries("refund").await, 1);
    desk.close().await;
}

#[tokio::test]
async fn a_video_is_settled_once_whatever_the_second_outcome_would_be() {
    let desk = Desk::open(&[(Paid, 1000)]).await;
    let batch = desk.batch(&[100, 100]).await.unwrap();
    desk.settle(&batch, &[(0, None)]).await.unwrap();
    for second in [None, Some(FailureClass::Timeout)] {
        assert_eq!(sqlstate(&desk.settle(&batch, &[(0, second)]).await.unwrap_err()), "23505");
        // nor does it take effect beside another one
        assert_eq!(sqlstate(&desk.settle(&batch, &[(1, None), (0, second)]).await.unwrap_err()), "23505");
    }
    let twice = [(1, Some(FailureClass::Timeout)), (1, Some(FailureClass::Timeout))];
    assert_eq!(sqlstate(&desk.settle(&batch, &twice).await.unwrap_err()), "23505");
    assert_eq!(desk.wallet().await[&Paid], (800, 200));
    desk.close().await;
}

#[tokio::test]
async fn a_refund_beyond_what_is_held_is_refused() {
    let desk = Desk::open(&[(Paid, 1000)]).await;
    let batch = desk.batch(&[100, 100]).await.unwrap();
    for (price, offset) in [(300, 0), (100, 150), (100, 200)] {
        let mut greedy = batch.clone();
        (greedy.videos[0].1, greedy.videos[0].2) = (price, offset);
        let refused = desk.settle(&greedy, &[(0, Some(FailureClass::Timeout))]).await.unwrap_err();
        assert!(matches!(refused, LedgerError::HoldsDoNotCover { .. }), "{price} at {offset}: {refused}");
    }
    // a second video that claims the stretch of one that was refunded meets the hold's own check
    desk.settle(&batch, &[(0, Some(FailureClass::Timeout)), (1, Some(FailureClass::Timeout))]).await.unwrap();
    let mut stranger = batch.clone();
    stranger.videos.push((VideoId::generate(), 100, 0));
    let refused = desk.settle(&stranger, &[(2, Some(FailureClass::Timeout))]).await.unwrap_err();
    assert_eq!(constraint(&refused), "batch_holds_held_check", "{refused}");
    assert_eq!(desk.wallet().await[&Paid], (1000, 0));
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freezes_at_once_never_take_more_than_there_is() {
    let desk = Desk::open(&[(Promotional, 130), (Paid, 370)]).await;
    let outcomes = join_all((0..60).map(|_| desk.batch(&[30, 20]))).await;
    let frozen = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(frozen, 10);
    for outcome in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert!(
            matches!(outcome, FreezeError::Short { required, available } if required.get() == 50 && available.get() < 50)
        );
    }
    assert_eq!(desk.wallet().await, [(Promotional, (0, 130)), (Paid, (0, 370)), (CreditLine, (0, 0))].into());
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freezes_and_refunds_at_once_keep_every_credit() {
    let desk = Desk::open(&[(Promotional, 100), (Paid, 900)]).await;
    let work = (0..40).map(|n| {
        let desk = &desk;
        async move {
            let Ok(batch) = desk.batch(&[7, 11, 13]).await else { return };
            let ends: Vec<_> = (0..3).map(|at| (at, (at == n % 3).then_some(FailureClass::Timeout))).collect();
            desk.settle(&batch, &ends).await.unwrap();
            desk.finalize(batch.id).await.unwrap();
        }
    });
    join_all(work).await;
    let open: i64 = sqlx::query_scalar("select coalesce(sum(held), 0)::bigint from batch_holds")
        .fetch_one(&desk.test.pool)
        .await
        .unwrap();
    assert_eq!(open, 0);
    desk.close().await;
}

#[tokio::test]
async fn a_grant_of_nothing_or_beyond_counting_is_refused() {
    let desk = Desk::open(&[(Paid, 10)]).await;
    let mut conn = desk.db.pool().acquire().await.unwrap();
    for amount in [0, i64::MAX] {
        let refused = ledger::grant(&mut conn, desk.tenant, Paid, credits(amount), STAMP).await.unwrap_err();
        assert!(matches!(refused, LedgerError::OutOfRange { .. }), "{amount}: {refused}");
    }
    let nobody = ledger::grant(&mut conn, TenantId::generate(), Paid, credits(1), STAMP).await.unwrap_err();
    assert!(matches!(nobody, LedgerError::NoWallet { .. }));
    drop(conn);
    assert_eq!(desk.wallet().await[&Paid], (10, 0));
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_that_waited_for_a_refund_is_never_short_of_what_is_there() {
    use GrantSource::{Paid, Promotional};
    for (promotional, price) in [(50, 120), (50, 10), (50, 50), (50, 149), (0, 99)] {
        let desk = Arc::new(Desk::open(&[(Promotional, promotional.max(1)), (Paid, 100)]).await);
        let batch = desk.batch(&[1, 60]).await.unwrap();
        // a refund to both grants that is not committed yet
        let mut refund = desk.db.begin().await.unwrap();
        let back =
            [settlement(&batch, 0, Some(FailureClass::Timeout)), settlement(&batch, 1, Some(FailureClass::Timeout))];
        ledger::settle(&mut refund, &back).await.unwrap();
        let waiting = tokio::spawn({
            let desk = desk.clone();
            async move { desk.batch(&[price]).await }
        });
        desk.until_somebody_waits().await;
        commit("refund", refund).await.unwrap();
        let frozen = waiting.await.unwrap();
        assert!(frozen.is_ok(), "{promotional} promotional and 100 paid credits, {price} wanted: {:?}", frozen.err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_that_waited_for_a_freeze_or_another_refund_is_whole() {
    use GrantSource::{Paid, Promotional};
    for first_is_refund in [true, false] {
        let desk = Arc::new(Desk::open(&[(Promotional, 100), (Paid, 100)]).await);
        let (one, other) = (desk.batch(&[30, 90]).await.unwrap(), desk.batch(&[20]).await.unwrap());
        let mut first = desk.db.begin().await.unwrap();
        match first_is_refund {
            true => {
                let back = settlement(&other, 0, Some(FailureClass::Timeout));
                ledger::settle(&mut first, &[back]).await.unwrap();
            }
            false => {
                desk.freeze(&mut first, &[60]).await.unwrap();
            }
        }
        let waiting = tokio::spawn({
            let (desk, one) = (desk.clone(), one.clone());
            async move {
                let mut tx = desk.db.begin().await.unwrap();
                let both = [0, 1].map(|at| settlement(&one, at, Some(FailureClass::Timeout)));
                ledger::settle(&mut tx, &both).await.unwrap();
                commit("settle", tx).await.unwrap();
            }
        });
        desk.until_somebody_waits().await;
        commit("first", first).await.unwrap();
        waiting.await.unwrap();
        let left = if first_is_refund { 200 } else { 200 - 20 - 60 };
        let available: i64 = desk.wallet().await.values().map(|(available, _)| available).sum();
        assert_eq!(available, left, "first a refund: {first_is_refund}");
        let mut conn = desk.test.pool.acquire().await.unwrap();
        let wrong = ledger::differences(&mut conn).await.unwrap();
        assert!(wrong.iter().all(|difference| difference.what.starts_with("settle")), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_loss_is_booked_once_for_each_attempt_and_no_customer_pays_for_it() {
    let desk = Desk::open(&[(GrantSource::Paid, 1_000)]).await;
    let mut tx = desk.db.begin().await.unwrap();
    let batch = desk.freeze(&mut tx, &[61, 61, 61]).await.unwrap();
    commit("freeze", tx).await.unwrap();
    let loss = |at: usize, attempt, amount, reason| Loss {
        video: batch.videos[at].0,
        attempt,
        batch: batch.id,
        credits: credits(amount),
        reason,
    };
    let (unknown, late) = (LossReason::OutcomeUnknown, LossReason::LateSuccess);
    let groups = [
        (vec![loss(0, 1, 40, unknown), loss(1, 1, 7, unknown), loss(2, 1, 5, late), loss(2, 2, 0, late)], 52),
        // the same again, whatever it is said to have cost, and one more
        (vec![loss(0, 1, 99, late), loss(1, 2, 3, late)], 3),
    ];
    for (losses, booked) in groups {
        let mut tx = desk.db.begin().await.unwrap();
        assert_eq!(ledger::book_losses(&mut tx, &losses).await.unwrap(), credits(booked));
        commit("losses", tx).await.unwrap();
    }
    let rows: Vec<(String, i64, i64, i64, i32)> = sqlx::query_as(
        "select reason, amount, balance_before, balance_after, video_count from credit_ledger where act = 'loss' order by id",
    )
    .fetch_all(&desk.test.pool)
    .await
    .unwrap();
    let row = |reason: LossReason, amount, before, videos| {
        (reason.word().to_owned(), amount, before, before + amount, videos)
    };
    // reasons in their own order, one row for each
    assert_eq!(rows, [row(late, 5, 0, 1), row(unknown, 47, 5, 2), row(late, 3, 52, 1)]);
    let mut conn = desk.test.pool.acquire().await.unwrap();
    let books = ledger::books(&mut conn).await.unwrap();
    assert_eq!((books.provider_payable, books.provider_loss, books.sum), (-55, 55, 0));
    assert_eq!((books.available, books.held), (1_000 - 183, 183));
    assert!(ledger::differences(&mut conn).await.unwrap().is_empty());
    assert!(
        ledger::entries_of_batch(&mut conn, desk.tenant, batch.id, 0, 10).await.unwrap().len() == 1,
        "the freeze alone"
    );
    // a loss that the ledger does not tell is a difference
    sqlx::query("insert into provider_losses (video_id, n, tenant_id, batch_id, reason, credits) values ('v', 1, 't', $1, 'late_success', 9)")
        .bind(batch.id)
        .execute(&mut *conn)
        .await
        .unwrap();
    let found = ledger::differences(&mut conn).await.unwrap();
    assert!(
        matches!(&found[..], [one] if one.what == "provider_loss_of_batch" && (one.stored, one.expected) == (64, 55)),
        "{found:?}"
    );
}
