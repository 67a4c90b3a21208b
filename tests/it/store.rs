//! What the database itself promises: the same words as the code, an application role that owns nothing, a history that
//! nobody rewrites, and checks that repeat the law.

use freezeframe::db::{Database, DatabaseSettings};
use freezeframe::domain::{
    AttemptState, BatchStatus, DeliveryState, FailureClass, GrantSource, LateFinding, LedgerAct, VideoState,
};
use sqlx::{AssertSqlSafe, PgPool};

use crate::app::postgres::TestDatabase;

async fn enum_labels(pool: &PgPool, name: &str) -> Vec<String> {
    sqlx::query_scalar(
        "select enumlabel::text from pg_enum e join pg_type t on t.oid = e.enumtypid where t.typname = $1 order by enumsortorder",
    )
    .bind(name)
    .fetch_all(pool)
    .await
    .unwrap()
}

/// The SQLSTATE that a statement fails with; `None` when it succeeds.
async fn refusal(pool: &PgPool, statement: &str) -> Option<String> {
    let error = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(pool).await.err()?;
    let code = error.as_database_error().and_then(|e| e.code()).map(|code| code.into_owned());
    Some(code.unwrap_or_else(|| error.to_string()))
}

async fn as_application(db: &TestDatabase) -> Database {
    let settings = DatabaseSettings {
        application_name: "freezeframe test".to_owned(),
        max_connections: 2,
        role: Some("freezeframe_app".to_owned()),
        ..DatabaseSettings::new(&db.url)
    };
    Database::connect(&settings).await.unwrap()
}

const TENANT: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
const BATCH: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAW";
const VIDEO: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAX";

/// A tenant with a wallet, a batch with one video, a grant and a settlement.
async fn furnish(pool: &PgPool) {
    let rows = [
        format!(
            "insert into tenants (id, name, videos_per_minute, max_in_flight, webhook_secret_sealed) values ('{TENANT}', 'T', 60, 10, 'x')"
        ),
        format!("insert into wallets (tenant_id, source, available) values ('{TENANT}', 'paid', 100)"),
        format!(
            "insert into batches (id, tenant_id, total, frozen_credits, request_id) values ('{BATCH}', '{TENANT}', 1, 61, 'r')"
        ),
        format!(
            "insert into batch_lanes (batch_id, model, tenant_id, total, waiting) values ('{BATCH}', 'sora-2', '{TENANT}', 1, 1)"
        ),
        format!(
            "insert into videos (id, batch_id, tenant_id, position, model, prompt, seconds, size, price_credits, price_offset) values ('{VIDEO}', '{BATCH}', '{TENANT}', 0, 'sora-2', 'p', 4, '1280x720', 61, 0)"
        ),
        format!(
            "insert into batch_holds (batch_id, source, tenant_id, starts_at, frozen) values ('{BATCH}', 'paid', '{TENANT}', 0, 61)"
        ),
        format!(
            "insert into settlements (video_id, batch_id, outcome, amount) values ('{VIDEO}', '{BATCH}', 'charged', 61)"
        ),
        format!(
            "insert into attempts (video_id, n, id, lease_epoch, provider, upstream_model, worker) values ('{VIDEO}', 1, 'a', 1, 'sora', 'sora-2', 'w')"
        ),
        entry("'grant'", "null", "'issued', 'available', 100, 'available', 0, 100"),
    ];
    for row in rows {
        assert_eq!(refusal(pool, &row).await, None, "{row}");
    }
}

/// A ledger row; `movement` is from, to, amount, whose balance, before, after.
fn entry(act: &str, batch: &str, movement: &str) -> String {
    format!(
        "insert into credit_ledger (act, tenant_id, source, batch_id, from_account, to_account, amount, balance_of,
             balance_before, balance_after, video_count, actor, reason, request_id)
         values ({act}, '{TENANT}', 'paid', {batch}, {movement}, 0, 'test', 'test', 'r')"
    )
}

/// The row of a loss; without a source, as the law wants it.
fn loss(batch: &str, movement: &str, videos: &str) -> String {
    format!(
        "insert into credit_ledger (act, tenant_id, batch_id, from_account, to_account, amount, balance_of,
             balance_before, balance_after, video_count, video_ids, actor, reason, request_id)
         values ('loss', '{TENANT}', {batch}, {movement}, 1, {videos}, 'test', 'outcome_unknown', 'r')"
    )
}

#[tokio::test]
async fn the_words_of_every_state_are_the_same_in_rust_and_in_postgres() {
    let db = TestDatabase::fresh().await;
    macro_rules! same {
        ($($kind:ident),+) => {$({
            let words: Vec<&str> = $kind::ALL.iter().map(|state| state.word()).collect();
            assert_eq!(enum_labels(&db.pool, $kind::SQL_TYPE).await, words);
        })+};
    }
    same!(BatchStatus, VideoState, AttemptState, DeliveryState, GrantSource, LedgerAct, LateFinding);
    let classes: Vec<&str> = FailureClass::ALL.iter().map(|class| class.name()).collect();
    assert_eq!(enum_labels(&db.pool, "failure_class").await, classes);
}

#[tokio::test]
async fn the_application_role_owns_nothing_and_cannot_log_in_or_become_more() {
    let db = TestDatabase::fresh().await;
    let owned: i64 = sqlx::query_scalar(
        "select count(*) from pg_shdepend d join pg_roles r on r.oid = d.refobjid
         where r.rolname = 'freezeframe_app' and d.deptype = 'o'",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!(owned, 0);
    let powers: i64 = sqlx::query_scalar(
        "select count(*) from pg_roles where rolname = 'freezeframe_app'
         and (rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolbypassrls or rolreplication)",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!(powers, 0);
    let app = as_application(&db).await;
    for statement in [
        "create table mine (id int)",
        "drop trigger credit_ledger_append_only on credit_ledger",
        "alter table credit_ledger disable trigger all",
        "alter table wallets drop constraint wallets_available_check",
        "create or replace function refuse_to_rewrite_history() returns trigger language plpgsql as 'begin return null; end'",
        "set session_replication_role = replica",
    ] {
        assert_eq!(refusal(app.pool(), statement).await.as_deref(), Some("42501"), "{statement}");
    }
    app.close().await;
}

#[tokio::test]
async fn nobody_rewrites_the_ledger_or_a_settlement() {
    let db = TestDatabase::fresh().await;
    furnish(&db.pool).await;
    let app = as_application(&db).await;
    for (table, amount) in [("credit_ledger", "amount"), ("settlements", "amount"), ("provider_losses", "credits")] {
        let none = format!("update {table} set {amount} = 1 where false");
        let amount = format!("update {table} set {amount} = 1");
        for statement in [amount, none, format!("delete from {table}"), format!("truncate {table}")] {
            // the role lacks the privilege, the owner meets the trigger; both are 42501
            assert_eq!(refusal(app.pool(), &statement).await.as_deref(), Some("42501"), "application: {statement}");
            assert_eq!(refusal(&db.pool, &statement).await.as_deref(), Some("42501"), "owner: {statement}");
        }
    }
    for statement in
        ["update batch_holds set frozen = 1", "delete from wallets", "delete from batches", "delete from videos"]
    {
        assert_eq!(refusal(app.pool(), statement).await.as_deref(), Some("42501"), "application: {statement}");
    }
    app.close().await;
}

/// A loss has no source, has a batch, names its videos, and moves nobody else's money.
fn law_of_losses(batch: &str) -> Vec<String> {
    vec![
        entry("'loss'", batch, "'provider_payable', 'provider_loss', 5, 'provider_loss', 0, 5"),
        loss("null", "'provider_payable', 'provider_loss', 5, 'provider_loss', 0, 5", "array['v']"),
        loss(batch, "'provider_payable', 'provider_loss', 5, 'provider_loss', 0, 5", "'{}'"),
        loss(batch, "'held', 'provider_loss', 5, 'provider_loss', 0, 5", "array['v']"),
        loss(batch, "'provider_loss', 'provider_payable', 5, 'provider_loss', 5, 0", "array['v']"),
        entry("'charge'", batch, "'provider_payable', 'revenue', 5, 'revenue', 0, 5"),
        "insert into provider_losses (video_id, n, tenant_id, batch_id, reason, credits) values ('v', 1, 't', 'b', 'late_success', -1)".into(),
        "insert into provider_losses (video_id, n, tenant_id, batch_id, reason, credits) values ('v', 1, 't', 'b', 'because', 1)".into(),
        "insert into late_looks (video_id, n, tenant_id, finding) values ('v', 1, 't', 'failed')".into(),
    ]
}

#[tokio::test]
async fn rows_that_break_the_law_are_refused() {
    const CHECK: &str = "23514";
    const UNIQUE: &str = "23505";
    let db = TestDatabase::fresh().await;
    furnish(&db.pool).await;
    let batch = format!("'{BATCH}'");
    let mut table: Vec<(String, &str)> = vec![
        ("update wallets set available = -1".into(), CHECK),
        ("update batch_holds set refunded = 62".into(), CHECK),
        ("update batch_holds set refunded = 31, charged = 31".into(), CHECK),
        ("update batch_holds set charged = -1".into(), CHECK),
        (entry("'grant'", "null", "'issued', 'available', 0, 'available', 0, 0"), CHECK),
        (entry("'grant'", "null", "'issued', 'available', -5, 'available', 5, 0"), CHECK),
        (entry("'grant'", "null", "'issued', 'available', 5, 'available', 0, 6"), CHECK),
        (entry("'grant'", "null", "'available', 'issued', 5, 'available', 5, 0"), CHECK),
        (entry("'grant'", &batch, "'issued', 'available', 5, 'available', 0, 5"), CHECK),
        (entry("'grant'", "null", "'issued', 'issued', 5, 'issued', 0, 5"), CHECK),
        (entry("'freeze'", "null", "'available', 'held', 5, 'available', 5, 0"), CHECK),
        (entry("'freeze'", &batch, "'held', 'available', 5, 'available', 5, 10"), CHECK),
        (entry("'charge'", &batch, "'available', 'revenue', 5, 'available', 5, 0"), CHECK),
        (entry("'refund'", &batch, "'revenue', 'available', 5, 'available', 5, 10"), CHECK),
        (entry("'adjustment'", "null", "'held', 'revenue', 5, 'held', 5, 0"), CHECK),
        (entry("'freeze'", &batch, "'available', 'held', 200, 'available', 100, -100"), CHECK),
        (
            format!(
                "insert into settlements (video_id, batch_id, outcome, amount) values ('{VIDEO}', '{BATCH}', 'refunded', 61)"
            ),
            UNIQUE,
        ),
        (
            format!(
                "insert into settlements (video_id, batch_id, outcome, amount) values ('x', '{BATCH}', 'refunded', -1)"
            ),
            CHECK,
        ),
        (
            format!(
                "insert into attempts (video_id, n, id, lease_epoch, provider, upstream_model, worker) values ('{VIDEO}', 2, 'b', 1, 'sora', 'sora-2', 'w')"
            ),
            UNIQUE,
        ),
        ("update attempts set state = 'accepted'".into(), CHECK),
        ("update attempts set state = 'succeeded'".into(), CHECK),
        ("update attempts set finished_at = now()".into(), CHECK),
        ("update videos set state = 'succeeded'".into(), CHECK),
        ("update videos set state = 'failed', finished_at = now()".into(), CHECK),
        ("update videos set state = 'succeeded', finished_at = now()".into(), CHECK),
        ("update videos set lease_epoch = 1".into(), CHECK),
        ("update videos set state = 'released', eligible_at = now()".into(), CHECK),
        ("update videos set attempts_spent = 1".into(), CHECK),
        ("update videos set output_key = 'k'".into(), CHECK),
        ("update videos set thumbnail_kind = 'webp', thumbnail_bytes = 1, thumbnail_sha256 = sha256('')".into(), CHECK),
        ("update videos set purging_at = now()".into(), CHECK),
        ("update videos set purged_at = now()".into(), CHECK),
        ("update batches set purged_at = now()".into(), CHECK),
        ("update attempts set cleared_at = now()".into(), CHECK),
        ("update tenants set retention_days = 0".into(), CHECK),
        ("update batches set status = 'completed'".into(), CHECK),
        ("update batches set status = 'completed', finished_at = now()".into(), CHECK),
        ("update batches set status = 'partial', succeeded = 1, finished_at = now()".into(), CHECK),
        ("update batches set status = 'failed', succeeded = 1, finished_at = now()".into(), CHECK),
        ("update batches set succeeded = 1, failed = 1".into(), CHECK),
        ("update batch_lanes set waiting = 2".into(), CHECK),
        ("update batch_lanes set closed = true".into(), CHECK),
        ("update tenants set name = ''".into(), CHECK),
        ("update tenants set videos_per_minute = 0".into(), CHECK),
    ];
    table.extend(law_of_losses(&batch).into_iter().map(|statement| (statement, CHECK)));
    for (statement, code) in table {
        assert_eq!(refusal(&db.pool, &statement).await.as_deref(), Some(code), "{statement}");
    }
}

#[tokio::test]
async fn a_grant_freezes_a_batch_once_and_is_charged_once() {
    let db = TestDatabase::fresh().await;
    furnish(&db.pool).await;
    let batch = format!("'{BATCH}'");
    for movement in [
        ("'freeze'", "'available', 'held', 61, 'available', 100, 39"),
        ("'charge'", "'held', 'revenue', 61, 'held', 61, 0"),
    ] {
        let row = entry(movement.0, &batch, movement.1);
        assert_eq!(refusal(&db.pool, &row).await, None);
        assert_eq!(refusal(&db.pool, &row).await.as_deref(), Some("23505"));
    }
}
