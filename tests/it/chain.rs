//! The hash chain over the ledger: every way to rewrite the books is named, and honest books never are.
//!
//! Tampering is done as the owner of the tables, with their triggers off, in a transaction that is rolled back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::Utc;
use freezeframe::billing::{self, Given, RestoreRefused};
use freezeframe::db::{Database, DatabaseSettings, commit};
use freezeframe::domain::{BatchId, Credits, FailureClass, GrantSource, MasterKey, TenantId, VideoId};
use freezeframe::ledger::chain::{self, Checkpoint, CheckpointKey, Fault, Progress, Verification};
use freezeframe::ledger::{self, Settlement, Stamp};
use freezeframe::storage::{Evidence, Storage};
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use crate::app::client::item;
use crate::app::postgres::TestDatabase;
use crate::app::{TestApp, TestSettings, until};

const STAMP: Stamp<'static> = Stamp { actor: "test", reason: "test", request_id: "request" };
const MASTER_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const TRIGGERS_OFF: &str =
    "alter table credit_ledger disable trigger user; alter table ledger_chain disable trigger user";
/// Every column but the id.
const CONTENTS: &str = "at, act, tenant_id, source, batch_id, from_account, to_account, amount, balance_of, \
                        balance_before, balance_after, video_count, video_ids, actor, reason, request_id";

fn credits(amount: i64) -> Credits {
    Credits::new(amount).unwrap()
}

fn key() -> CheckpointKey {
    CheckpointKey::new(&MasterKey::from_hex(MASTER_KEY).unwrap())
}

/// A ledger of its own, written as the application's role.
#[derive(Clone)]
struct Books {
    test: Arc<TestDatabase>,
    db: Database,
}

impl Books {
    async fn open() -> Books {
        let test = Arc::new(TestDatabase::fresh().await);
        let settings = DatabaseSettings {
            role: Some("freezeframe_app".to_owned()),
            engine_plans: true,
            ..DatabaseSettings::new(&test.url)
        };
        Books { db: Database::connect(&settings).await.unwrap(), test }
    }

    async fn tenant(&self) -> TenantId {
        let tenant = TenantId::generate();
        let mut tx = self.db.begin().await.unwrap();
        sqlx::query("insert into tenants (id, name, videos_per_minute, max_in_flight, webhook_secret_sealed) values ($1, 'T', 1, 1, '')")
            .bind(tenant)
            .execute(&mut *tx)
            .await
            .unwrap();
        ledger::open_wallets(&mut tx, tenant).await.unwrap();
        commit("tenant", tx).await.unwrap();
        tenant
    }

    async fn grant(&self, tenant: TenantId, amount: i64) {
        let mut tx = self.db.begin().await.unwrap();
        ledger::grant(&mut tx, tenant, GrantSource::Paid, credits(amount), STAMP).await.unwrap();
        commit("grant", tx).await.unwrap();
    }

    /// One pass; whether it was this one's turn, and whether there is more.
    async fn pass(&self, progress: &mut Progress, most: i64) -> Option<bool> {
        let mut tx = self.db.begin().await.unwrap();
        let pass = chain::extend(&mut tx, progress, most).await.unwrap();
        commit("chain", tx).await.unwrap();
        pass.map(|pass| {
            *progress = pass.progress;
            pass.more
        })
    }

    /// Chains until there is nothing left to chain or to wait for.
    async fn chain(&self, progress: &mut Progress) {
        loop {
            self.pass(progress, 2_000).await;
            let mut conn = self.db.pool().acquire().await.unwrap();
            if progress.is_idle(&mut conn).await.unwrap() {
                return;
            }
        }
    }

    async fn checkpoint(&self) -> Checkpoint {
        billing::checkpoint(&self.db, &key()).await.unwrap().unwrap()
    }

    async fn verify(&self) -> Verification {
        billing::verify(&self.db, &Storage::in_memory(), &key(), &[]).await.unwrap()
    }

    /// Order of the chain, as entry ids.
    async fn order(&self) -> Vec<i64> {
        let query = "select entry_id from ledger_chain order by seq";
        sqlx::query_scalar(query).fetch_all(&self.test.pool).await.unwrap()
    }
}

/// Twelve entries with the ids 1 to 6 and 8 to 13 (7 was rolled back), chained three at a time; and the checkpoints of
/// the rows 3 and 12.
async fn twelve() -> (Books, Vec<Checkpoint>) {
    let books = Books::open().await;
    let tenant = books.tenant().await;
    let (mut progress, mut checkpoints) = (Progress::default(), Vec::new());
    for n in 1..=12 {
        books.grant(tenant, 10 * n).await;
        if n == 6 {
            let mut tx = books.db.begin().await.unwrap();
            ledger::grant(&mut tx, tenant, GrantSource::Paid, credits(1), STAMP).await.unwrap();
            tx.rollback().await.unwrap();
        }
        if n % 3 == 0 {
            books.chain(&mut progress).await;
        }
        if n == 3 || n == 12 {
            checkpoints.push(books.checkpoint().await);
        }
    }
    assert_eq!(books.order().await, [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13]);
    (books, checkpoints)
}

async fn run(conn: &mut PgConnection, statements: &str) {
    let done = conn.execute(AssertSqlSafe(statements.to_owned())).await;
    done.unwrap_or_else(|error| panic!("{statements}: {error}"));
}

/// What is wrong, in which row of the chain, with which entry.
type Named = Vec<(Fault, Option<i64>, Option<i64>)>;

/// Everything that a verification names, without the words.
fn named(found: &Verification) -> Named {
    found.findings.iter().map(|finding| (finding.fault, finding.seq, finding.entry_id)).collect()
}

/// What somebody did to the books, whether the chain was made anew behind it, and what is to be said of it.
struct Tampering {
    name: &'static str,
    statements: String,
    chained_after: bool,
    named: Named,
    /// The same with the two checkpoints, where that is another thing.
    with_checkpoints: Option<Named>,
}

fn done(name: &'static str, statements: impl Into<String>, named: &[(Fault, i64, i64)]) -> Tampering {
    let known = |n: i64| (n != UNKNOWN).then_some(n);
    let named = named.iter().map(|(fault, seq, entry)| (*fault, known(*seq), known(*entry))).collect();
    Tampering { name, statements: statements.into(), chained_after: false, named, with_checkpoints: None }
}

const UNKNOWN: i64 = i64::MIN;

impl Tampering {
    /// And then the chainer comes.
    fn chained(self) -> Tampering {
        Tampering { chained_after: true, ..self }
    }

    fn checkpoints_say(self, fault: Fault, seq: i64, entry: Option<i64>) -> Tampering {
        let mut with = self.named.clone();
        with.push((fault, Some(seq), entry));
        with.sort_by_key(|(_, seq, entry)| (seq.unwrap_or(i64::MAX), entry.unwrap_or(i64::MAX)));
        Tampering { with_checkpoints: Some(with), ..self }
    }
}

fn edits() -> Vec<Tampering> {
    use Fault::{ChainRowEdited, DiffersFromCheckpoint, EntriesSwapped, EntryEdited, OutOfOrder};
    let edit = |what: &str, id: i64| format!("update credit_ledger set {what} where id = {id}");
    let swap = format!(
        "update credit_ledger l set ({CONTENTS}) = (select {CONTENTS} from credit_ledger o where o.id = 14 - l.id)
         where id in (4, 10)"
    );
    vec![
        done("an amount", edit("amount = amount + 1, balance_after = balance_after + 1", 5), &[(EntryEdited, 5, 5)]),
        done("the first reason", edit("reason = 'another'", 1), &[(EntryEdited, 1, 1)]),
        done("the last time", edit("at = at - interval '1 second'", 13), &[(EntryEdited, 12, 13)]),
        done("a time without end", edit("at = 'infinity'", 6), &[(EntryEdited, 6, 6)]),
        done(
            "two neighbours",
            edit("actor = 'me'", 8) + ";" + &edit("actor = 'me'", 9),
            &[(EntryEdited, 7, 8), (EntryEdited, 8, 9)],
        ),
        done("contents exchanged", swap, &[(EntriesSwapped, 4, 4), (EntriesSwapped, 9, 10)]),
        done(
            "rows of the chain exchanged",
            "update ledger_chain set entry_id = -1 where seq = 4; update ledger_chain set entry_id = 4 where seq = 9;
             update ledger_chain set entry_id = 10 where seq = 4",
            &[(OutOfOrder, 4, 10), (OutOfOrder, 9, 4)],
        ),
        done("a hash", "update ledger_chain set hash = sha256('x') where seq = 5", &[(ChainRowEdited, 5, 5)]),
        done("the last hash", "update ledger_chain set hash = sha256('x') where seq = 12", &[(EntryEdited, 12, 13)])
            .checkpoints_say(DiffersFromCheckpoint, 12, Some(13)),
        done(
            "the time of a row of the chain",
            "update ledger_chain set chained_at = chained_at - interval '1 hour' where seq = 5",
            &[(EntryEdited, 5, 5)],
        ),
    ]
}

fn removals() -> Vec<Tampering> {
    use Fault::{ChainRowMissing, EntryMissing, ShorterThanCheckpoint};
    let entry = |id: i64| format!("delete from credit_ledger where id = {id};");
    let row = |seq: i64| format!("delete from ledger_chain where seq = {seq};");
    vec![
        done("the first entry", entry(1), &[(EntryMissing, 1, 1)]),
        done("a middle entry", entry(8), &[(EntryMissing, 7, 8)]),
        done("the last entry", entry(13), &[(EntryMissing, 12, 13)]),
        done("the first row of the chain", row(1), &[(ChainRowMissing, 1, 1)]),
        done("a middle row of the chain", row(7), &[(ChainRowMissing, 7, 8)]),
        // nothing is lost: the entry is there, and would be chained again
        done("the last row of the chain", row(12), &[]).checkpoints_say(ShorterThanCheckpoint, 12, None),
        done("the first of both", entry(1) + &row(1), &[(ChainRowMissing, 1, UNKNOWN)]),
        done("a middle one of both", entry(8) + &row(7), &[(ChainRowMissing, 7, UNKNOWN)]),
        done(
            "three middle rows of the chain",
            "delete from ledger_chain where seq between 5 and 7",
            &[(ChainRowMissing, 5, 5)],
        ),
        done("the last of both", entry(13) + &row(12), &[]).checkpoints_say(ShorterThanCheckpoint, 12, None),
        done("the whole chain", "truncate ledger_chain", &[]).checkpoints_say(ShorterThanCheckpoint, 1, None),
    ]
}

fn insertions() -> Vec<Tampering> {
    use Fault::{BackDated, DatedAhead, DiffersFromCheckpoint, NotChained};
    let insert = |id: i64, at: &str| {
        let columns = CONTENTS.trim_start_matches("at, ");
        format!(
            "insert into credit_ledger (id, at, {columns}) overriding system value
             select {id}, {at}, {columns} from credit_ledger where id = 3;"
        )
    };
    let yesterday = "now() - interval '1 day'";
    vec![
        done("an old one behind the last", insert(14, yesterday), &[(NotChained, UNKNOWN, 14)]),
        done("an old one, which is chained", insert(14, yesterday), &[(BackDated, 13, 14)]).chained(),
        done("an old one, far ahead", insert(9_000, yesterday), &[(BackDated, 13, 9_000)]).chained(),
        done("one of tomorrow", insert(14, "now() + interval '1 day'"), &[(DatedAhead, 13, 14)]).chained(),
        // the number was free, and the time is not implausible
        done("one among the others", insert(7, "now()"), &[(NotChained, UNKNOWN, 7)]),
        done("one among the others, which the chainer passes by", insert(7, "now()"), &[(NotChained, UNKNOWN, 7)])
            .chained(),
        done("one before all others", insert(-3, yesterday), &[(NotChained, UNKNOWN, -3)]).chained(),
        done(
            "one among the others, with the rest of the chain made anew",
            format!("delete from ledger_chain where seq >= 7; {}", insert(7, "now()")),
            &[],
        )
        .chained()
        .checkpoints_say(DiffersFromCheckpoint, 12, Some(12)),
    ]
}

fn remakes() -> Vec<Tampering> {
    use Fault::DiffersFromCheckpoint;
    let edit = "update credit_ledger set amount = amount + 1, balance_after = balance_after + 1 where id = 5;";
    vec![
        done(
            "an amount, with the rest of the chain made anew",
            format!("{edit} delete from ledger_chain where seq >= 5"),
            &[],
        )
        .chained()
        .checkpoints_say(DiffersFromCheckpoint, 12, Some(13)),
        done("an amount, with the whole chain made anew", format!("{edit} delete from ledger_chain"), &[])
            .chained()
            .checkpoints_say(DiffersFromCheckpoint, 3, Some(3)),
    ]
}

#[tokio::test]
async fn every_way_to_rewrite_the_books_is_named() {
    let (books, checkpoints) = twelve().await;
    let mut conn = books.test.pool.acquire().await.unwrap();
    for tampering in [edits(), removals(), insertions(), remakes()].into_iter().flatten() {
        let Tampering { name, statements, chained_after, named: expected, with_checkpoints } = tampering;
        run(&mut conn, "begin").await;
        run(&mut conn, TRIGGERS_OFF).await;
        run(&mut conn, &statements).await;
        if chained_after {
            chain::extend(&mut conn, &Progress::default(), 2_000).await.unwrap().unwrap();
        }
        let found = chain::verify(&mut conn, &[], &[]).await.unwrap();
        assert_eq!(named(&found), expected, "{name}: {found:#?}");
        let found = chain::verify(&mut conn, &checkpoints, &[]).await.unwrap();
        assert_eq!(named(&found), with_checkpoints.unwrap_or(expected), "{name}, with checkpoints: {found:#?}");
        assert!(!found.is_clean(), "{name}");
        run(&mut conn, "rollback").await;
    }
    drop(conn);
    assert!(books.verify().await.is_clean());
}

#[tokio::test]
async fn a_chain_made_anew_is_told_from_the_last_checkpoint_that_agrees() {
    let (books, checkpoints) = twelve().await;
    let mut conn = books.test.pool.acquire().await.unwrap();
    run(&mut conn, "begin").await;
    run(&mut conn, TRIGGERS_OFF).await;
    run(&mut conn, "update credit_ledger set actor = 'me' where id = 5; delete from ledger_chain where seq >= 5").await;
    chain::extend(&mut conn, &Progress::default(), 2_000).await.unwrap().unwrap();
    let found = chain::verify(&mut conn, &checkpoints, &[]).await.unwrap();
    let detail = &found.findings[0].detail;
    assert!(detail.contains("the first of them between 4 and 12"), "{detail}");
    run(&mut conn, "rollback").await;
}

#[tokio::test]
async fn findings_are_bounded_and_the_first_bad_row_is_the_first_of_them() {
    let books = Books::open().await;
    let tenant = books.tenant().await;
    let many = "insert into credit_ledger (act, tenant_id, source, from_account, to_account, amount, balance_of,
                    balance_before, balance_after, video_count, actor, reason, request_id)
                select 'grant', 't', 'paid', 'issued', 'available', 1, 'available', 0, 1, 0, 'a', 'r', n::text
                from generate_series(1, 5000) n";
    books.grant(tenant, 1).await;
    let mut conn = books.test.pool.acquire().await.unwrap();
    run(&mut conn, many).await;
    books.chain(&mut Progress::default()).await;
    run(&mut conn, "begin").await;
    run(&mut conn, TRIGGERS_OFF).await;
    run(&mut conn, "update credit_ledger set reason = 'another' where id > 2").await;
    let found = chain::verify(&mut conn, &[], &[]).await.unwrap();
    assert_eq!((found.chained, found.findings.len(), found.unlisted), (5_001, 100, 4_899));
    assert_eq!(named(&found)[0], (Fault::EntryEdited, Some(3), Some(3)));
    run(&mut conn, "rollback").await;
}

#[tokio::test]
async fn a_checkpoint_of_nobody_is_named_and_compared_with_nothing() {
    let (books, checkpoints) = twelve().await;
    let storage = Storage::in_memory();
    let head = chain::head(&mut books.db.pool().acquire().await.unwrap()).await.unwrap().unwrap();
    billing::keep(&storage, &key(), head).await.unwrap();
    let mut forged: Value = serde_json::from_str(&checkpoints[1].line()).unwrap();
    forged["hash"] = json!("ab".repeat(32));
    let other = CheckpointKey::new(&MasterKey::from_hex(&"1".repeat(64)).unwrap());
    let foreign = Checkpoint::sign(&other, head, Utc::now());
    let given = [("honest", checkpoints[0].line()), ("forged", forged.to_string()), ("foreign", foreign.line())]
        .map(|(name, text)| Given { name: name.to_owned(), text });
    let found = billing::verify(&books.db, &storage, &key(), &given).await.unwrap();
    assert_eq!((found.checkpoints, named(&found)), (2, vec![(Fault::ForgedCheckpoint, None, None); 2]));
    assert!(found.findings[0].detail.starts_with("forged: ") && found.findings[1].detail.starts_with("foreign: "));
    let found = billing::verify(&books.db, &storage, &key(), &given[..1]).await.unwrap();
    assert!(found.is_clean(), "{found:?}");
}

#[tokio::test]
async fn what_is_not_chained_yet_is_told_and_is_no_fault() {
    let (books, _) = twelve().await;
    let tenant = books.tenant().await;
    books.grant(tenant, 1).await;
    books.grant(tenant, 1).await;
    let found = books.verify().await;
    assert!(found.is_clean(), "{found:?}");
    assert_eq!((found.chained, found.waiting.entries, found.waiting.oldest_at.is_some()), (12, 2, true));
}

#[tokio::test]
async fn an_entry_that_commits_late_with_a_lower_id_is_chained_and_not_missed() {
    let books = Books::open().await;
    let (late, early) = (books.tenant().await, books.tenant().await);
    let mut progress = Progress::default();
    books.grant(early, 1).await;
    books.chain(&mut progress).await;

    let mut open = books.db.begin().await.unwrap();
    ledger::grant(&mut open, late, GrantSource::Paid, credits(5), STAMP).await.unwrap();
    for _ in 0..3 {
        books.grant(early, 1).await;
        assert_eq!(books.pass(&mut progress, 2_000).await, Some(false));
    }
    // a chainer that knows nothing but the chain is not misled either
    let mut other = Progress::default();
    assert_eq!(books.pass(&mut other, 2_000).await, Some(false));
    assert_eq!(books.order().await, [1, 3, 4, 5]);
    commit("late", open).await.unwrap();

    assert_eq!(books.pass(&mut other, 2_000).await, Some(false));
    assert_eq!(books.order().await, [1, 3, 4, 5, 2]);
    let found = books.verify().await;
    assert!(found.is_clean() && found.waiting.entries == 0, "{found:?}");
    books.chain(&mut progress).await;
    let mut conn = books.db.pool().acquire().await.unwrap();
    assert_eq!(progress.backlog(&mut conn).await.unwrap().entries, 0);
}

#[tokio::test]
async fn chainers_at_once_make_one_chain() {
    const ENTRIES: i64 = 120;
    let books = Books::open().await;
    let tenant = books.tenant().await;
    for _ in 0..ENTRIES {
        books.grant(tenant, 1).await;
    }
    let (books, progress) = (&books, &Progress::default());
    let chainers = (0..4).map(|_| {
        until("everything is chained", async || {
            books.pass(&mut progress.clone(), 3).await;
            books.order().await.len() as i64 == ENTRIES
        })
    });
    join_all(chainers).await;
    assert_eq!(books.order().await, (1..=ENTRIES).collect::<Vec<_>>());
    let found = books.verify().await;
    assert!(found.is_clean() && found.chained == ENTRIES as u64, "{found:?}");
}

#[tokio::test]
async fn while_one_chains_another_leaves_it_alone() {
    let books = Books::open().await;
    let tenant = books.tenant().await;
    books.grant(tenant, 1).await;
    let mut first = books.db.begin().await.unwrap();
    assert!(chain::extend(&mut first, &Progress::default(), 9).await.unwrap().is_some());
    assert_eq!(books.pass(&mut Progress::default(), 9).await, None);
    commit("chain", first).await.unwrap();
    assert_eq!(books.pass(&mut Progress::default(), 9).await, Some(false));
    assert_eq!(books.order().await, [1]);
}

#[tokio::test]
async fn nobody_changes_or_shortens_the_chain() {
    let (books, _) = twelve().await;
    for statement in [
        "update ledger_chain set entry_id = 99 where seq = 1",
        "delete from ledger_chain where seq = 12",
        "truncate ledger_chain",
        "insert into ledger_chain select * from ledger_chain on conflict (seq) do update set entry_id = 99",
    ] {
        for pool in [books.db.pool(), &books.test.pool] {
            let refused = sqlx::query(statement).execute(pool).await.unwrap_err();
            let code = refused.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
            assert_eq!(code, "42501", "{statement}: {refused}");
        }
    }
    assert!(books.verify().await.is_clean());
}

#[tokio::test]
async fn every_column_of_an_entry_is_hashed() {
    let books = Books::open().await;
    let columns: Vec<String> = sqlx::query_scalar(
        "select column_name::text from information_schema.columns
         where table_schema = 'public' and table_name = 'credit_ledger' order by ordinal_position",
    )
    .fetch_all(&books.test.pool)
    .await
    .unwrap();
    assert_eq!(columns, chain::COLUMNS, "a new column of the ledger needs a new version of what is hashed");
}

/// Grants, freezes, refunds, again and again.
async fn keep_booking(books: Books, rounds: u32) {
    let tenant = books.tenant().await;
    for _ in 0..rounds {
        books.grant(tenant, 100).await;
        let batch = BatchId::generate();
        let mut tx = books.db.begin().await.unwrap();
        ledger::freeze(&mut tx, (tenant, batch), credits(60), 1, STAMP).await.unwrap();
        sqlx::query(
            "insert into batches (id, tenant_id, total, frozen_credits, request_id) values ($1, $2, 1, 60, 'request')",
        )
        .bind(batch)
        .bind(tenant)
        .execute(&mut *tx)
        .await
        .unwrap();
        commit("freeze", tx).await.unwrap();
        let (price, price_offset, failure) = (credits(60), credits(0), Some(FailureClass::Timeout));
        let settlement = Settlement { video: VideoId::generate(), batch, price, price_offset, failure };
        let mut tx = books.db.begin().await.unwrap();
        ledger::settle(&mut tx, &[settlement]).await.unwrap();
        commit("refund", tx).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_ledger_raises_no_false_alarm() {
    const WRITERS: u32 = 4;
    const ROUNDS: u32 = 25;
    let books = Books::open().await;
    let storage = Storage::in_memory();
    let quiet = Arc::new(AtomicBool::new(false));
    let chainers = (0..2).map(|_| {
        let (books, storage, quiet) = (books.clone(), storage.clone(), quiet.clone());
        tokio::spawn(async move {
            let (mut progress, mut kept) = (Progress::default(), None);
            while !quiet.load(Ordering::Relaxed) {
                books.pass(&mut progress, 7).await;
                let head = chain::head(&mut books.db.pool().acquire().await.unwrap()).await.unwrap();
                if let Some(head) = head.filter(|_| head != kept) {
                    billing::keep(&storage, &key(), head).await.unwrap();
                    kept = Some(head);
                }
            }
        })
    });
    let chainers: Vec<_> = chainers.collect();
    let verifier = tokio::spawn({
        let (books, storage, quiet) = (books.clone(), storage.clone(), quiet.clone());
        async move {
            let mut verified = 0;
            while verified == 0 || !quiet.load(Ordering::Relaxed) {
                let found = billing::verify(&books.db, &storage, &key(), &[]).await.unwrap();
                assert!(found.is_clean(), "{found:#?}");
                verified += 1;
            }
        }
    });
    join_all((0..WRITERS).map(|_| tokio::spawn(keep_booking(books.clone(), ROUNDS))))
        .await
        .into_iter()
        .for_each(|done| done.unwrap());
    quiet.store(true, Ordering::Relaxed);
    join_all(chainers).await.into_iter().for_each(|done| done.unwrap());
    verifier.await.unwrap();
    books.chain(&mut Progress::default()).await;
    let found = billing::verify(&books.db, &storage, &key(), &[]).await.unwrap();
    assert!(found.is_clean() && found.checkpoints > 0, "{found:#?}");
    assert_eq!((found.chained, found.waiting.entries), (u64::from(3 * WRITERS * ROUNDS), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_chains_keeps_checkpoints_and_names_the_first_bad_row() {
    let mut app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let id = customer.order(&json!({"items": [item("a calm sea"), item("a red fox")]})).await;
    app.finished_batch(&customer, &id).await;
    app.until("everything is chained", async || {
        app.count(
            "select count(*) from credit_ledger e where not exists (
                       select from ledger_chain c where c.entry_id = e.id)",
        )
        .await
            == 0
    })
    .await;
    let entries = app.count("select count(*) from credit_ledger").await;
    let clean = app.output(&["ledger", "verify"]).await;
    assert!(clean.contains("clean: nothing was changed"), "{clean}");

    // one is printed for whoever asks, and one is kept at the end of a worker
    let line = app.output(&["ledger", "checkpoint"]).await;
    let printed = app.dir.path().join("printed.jsonl");
    std::fs::write(&printed, &line).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["seq"], json!(entries));
    app.stop_service().await;
    let kept = std::fs::read_dir(app.videos_dir().join("ledger/checkpoints")).unwrap().count();
    assert_eq!(kept, 1, "a worker that stops keeps a checkpoint");
    let printed = printed.display().to_string();
    let arguments = ["ledger", "verify", "--json", "--checkpoint", &printed];
    let verified: Value = serde_json::from_str(&app.output(&arguments).await).unwrap();
    assert_eq!((&verified["clean"], &verified["checkpoints"]), (&json!(true), &json!(2)));

    let tamper =
        "alter table credit_ledger disable trigger user; update credit_ledger set reason = 'another' where id = 2;
                  alter table credit_ledger enable trigger user";
    app.pool().execute(tamper).await.unwrap();
    let refused = app.command(&arguments).await;
    assert_eq!(refused.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&refused.stdout).unwrap();
    let first = &found["findings"][0];
    assert_eq!((&first["fault"], &first["entry_id"]), (&json!("entry_edited"), &json!(2)), "{found}");
    let refused = app.command(&["ledger", "verify"]).await;
    let told = String::from_utf8(refused.stdout).unwrap();
    assert!(refused.status.code() == Some(1) && told.contains("the first bad row:\n  entry_edited, entry 2"), "{told}");

    // the whole chain is made anew by the service itself: only what was kept outside tells
    let forget = "alter table ledger_chain disable trigger user; delete from ledger_chain;
                  alter table ledger_chain enable trigger user";
    app.pool().execute(forget).await.unwrap();
    app.start_service().await;
    app.until("it is chained anew", async || app.count("select count(*) from ledger_chain").await == entries).await;
    let refused = app.command(&["ledger", "verify", "--json"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(found["findings"][0]["fault"], json!("differs_from_checkpoint"), "{found}");
    app.finish().await;
}

#[tokio::test]
async fn a_restore_is_noted_only_for_a_sound_chain_and_hides_nothing_before_it() {
    let (books, checkpoints) = twelve().await;
    let storage = Storage::in_memory();
    for row in [6, 9, 12] {
        let head = chain::row(&mut books.db.pool().acquire().await.unwrap(), row).await.unwrap().unwrap();
        billing::keep(&storage, &key(), head).await.unwrap();
    }
    let key = key();
    let place = (&books.db, &storage, &key);
    assert!(billing::note_restore(place, &[], (None, "nothing happened")).await.unwrap().is_none());
    let mut conn = books.test.pool.acquire().await.unwrap();

    // somebody edits an early entry and chains everything behind it anew: no row of a restore explains that
    run(&mut conn, TRIGGERS_OFF).await;
    run(&mut conn, "update credit_ledger set actor = 'me' where id = 2; delete from ledger_chain where seq >= 2").await;
    books.chain(&mut Progress::default()).await;
    let refused = |row| billing::note_restore(place, &[], (row, "the disk"));
    assert!(matches!(refused(None).await, Err(RestoreRefused::RowNeeded(6))));
    assert!(matches!(refused(Some(9)).await, Err(RestoreRefused::DisagreesBefore { disagrees: 6, row: 9 })));
    // and a chain that is not sound in itself is noted by no row at all
    run(&mut conn, "update credit_ledger set actor = 'you' where id = 3").await;
    assert!(matches!(refused(Some(1)).await, Err(RestoreRefused::OtherFaults(1))));
    run(&mut conn, "update credit_ledger set actor = 'test' where id = 3").await;
    assert_eq!(storage.evidence(Evidence::Restore).await.unwrap(), []);
    drop(checkpoints);
}

#[tokio::test]
async fn a_chainer_that_lives_through_a_set_back_misses_no_entry_that_comes_under_an_old_id() {
    let (books, _) = twelve().await;
    let tenant = books.tenant().await;
    let mut living = Progress::default();
    books.chain(&mut living).await;
    let mut conn = books.test.pool.acquire().await.unwrap();
    // the last four entries and their rows are gone, and their ids are given out again
    run(&mut conn, TRIGGERS_OFF).await;
    let gone = "delete from ledger_chain where entry_id > 9; delete from credit_ledger where id > 9;
        alter table credit_ledger alter column id restart with 10";
    run(&mut conn, gone).await;
    assert!(!living.is_idle(&mut conn).await.unwrap(), "fewer entries than were settled are no rest");
    for _ in 0..3 {
        books.grant(tenant, 1).await;
        books.chain(&mut living).await;
    }
    let found = books.verify().await;
    assert!(found.is_clean() && found.waiting.entries == 0, "{found:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_put_back_is_seen_at_the_start_and_clean_again_once_somebody_says_why() {
    let mut app = TestApp::start(TestSettings::default()).await;
    let customer = app.customer(1_000).await;
    let all_chained = "select (select count(*) from credit_ledger) - (select count(*) from ledger_chain)";
    let id = customer.order(&json!({"items": [item("a calm sea")]})).await;
    app.finished_batch(&customer, &id).await;
    app.until("everything is chained", async || app.count(all_chained).await == 0).await;
    // as if the first comparison had taken an hour: its result is good for long, but not for what comes after a set-back
    let long = "insert into reconciliations (duration_ms, who, occasion, incarnation, clean, admits, books, kinds, differences,
            files_after, compared)
        select 3600000, who, occasion, incarnation, clean, admits, books, kinds, differences, files_after, compared
        from reconciliations where occasion = 'start'";
    assert_eq!(app.execute(long).await, 1);
    app.stop_service().await;
    let kept = app.count("select count(*) from ledger_chain").await;

    // as a snapshot of the disk would: what the last checkpoint saw is gone, and nobody says that anything happened
    let cut = |from: i64| {
        format!(
            "alter table ledger_chain disable trigger user; delete from ledger_chain where seq >= {from};
             alter table ledger_chain enable trigger user"
        )
    };
    app.pool().execute(AssertSqlSafe(cut(kept))).await.unwrap();
    let starts = "select count(*) from reconciliations where occasion = 'start'";
    assert_eq!(app.count(starts).await, 2);
    app.start_service().await;
    app.until("the books were compared before work goes on", async || app.count(starts).await == 3).await;
    app.until("the rest is chained anew", async || app.count(all_chained).await == 0).await;
    app.stop_service().await;
    let found: Value = serde_json::from_slice(&app.command(&["ledger", "verify", "--json"]).await.stdout).unwrap();
    assert_eq!(found["findings"][0]["fault"], json!("differs_from_checkpoint"), "{found}");

    let refused = app.command(&["ledger", "restored", "--reason", " "]).await;
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--reason is empty"));
    // rows were chained since, so nobody but a person knows how far it was put back
    let row = (kept - 1).to_string();
    for (row, why) in [(None, "with --row, before row"), (Some(kept), "a checkpoint disagrees with row")] {
        let row = row.map(|row| row.to_string());
        let mut command = vec!["ledger", "restored", "--reason", "the disk of the 3rd was lost"];
        command.extend(row.as_deref().map(|row| ["--row", row]).into_iter().flatten());
        let refused = app.command(&command).await;
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(why), "{command:?}: {told}");
    }
    let told = app.output(&["ledger", "restored", "--row", &row, "--reason", "the disk of the 3rd was lost"]).await;
    for part in ["noted: the chain goes on anew behind row", "the disk of the 3rd was lost", "clean: nothing"] {
        assert!(told.contains(part), "{part:?} is missing in {told}");
    }
    let again = app.output(&["ledger", "restored", "--reason", "once more"]).await;
    assert!(again.contains("nothing to note"), "{again}");

    // the note hides nothing that is done later
    app.start_service().await;
    let customer = app.here(&customer);
    let id = customer.order(&json!({"items": [item("a red fox")]})).await;
    app.finished_batch(&customer, &id).await;
    app.until("that is chained", async || app.count(all_chained).await == 0).await;
    app.stop_service().await;
    assert_eq!(app.count(starts).await, 3, "nothing to compare at this start");
    let verified: Value = serde_json::from_str(&app.output(&["ledger", "verify", "--json"]).await).unwrap();
    assert_eq!((&verified["clean"], verified["restores"].as_array().map(Vec::len)), (&json!(true), Some(1)));
    let end = app.count("select max(seq) from ledger_chain").await;
    app.pool().execute(AssertSqlSafe(cut(end))).await.unwrap();
    let found: Value = serde_json::from_slice(&app.command(&["ledger", "verify", "--json"]).await.stdout).unwrap();
    assert_eq!(found["findings"][0]["fault"], json!("shorter_than_checkpoint"), "{found}");
    app.start_service().await;
    app.finish().await;
}
