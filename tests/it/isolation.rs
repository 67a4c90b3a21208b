//! The database as the last wall: what a session of requests sees, writes and can become, whatever the code above it does.
//!
//! The tables are taken from the catalogue, so that a new one without a policy is found here. The last tests take a wall away
//! and look whether that is found.

use freezeframe::db::{DatabaseSettings, RequestDb};
use freezeframe::domain::TenantId;
use freezeframe::emulator::{Fault, Rule};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::app::client::{BATCHES, Customer, item, order_of};
use crate::app::image_host::png;
use crate::app::{API, TestApp, TestSettings};

/// Tables without tenants' data that requests read.
const OF_NOBODY: [&str; 3] = ["freezeframe_migrations", "model_outlooks", "provider_callbacks"];
const REFUSED: &str = "42501";

/// Two customers with rows in about every table there is, and the ids of their batches.
struct Two {
    app: TestApp,
    customers: [Customer; 2],
    batches: [String; 2],
    tenants: [TenantId; 2],
}

async fn two() -> Two {
    let rules = vec![Rule::on_prompt("gore", Fault::ModerationAtSubmit)];
    let app = TestApp::start(TestSettings { rules, ..TestSettings::default() }).await;
    let customers = [app.customer(10_000).await, app.customer(10_000).await];
    let mut batches = Vec::new();
    for (at, customer) in customers.iter().enumerate() {
        let hook = app.receiver.endpoint(&format!("hooks{at}"), &customer.webhook_secret);
        let image = upload(customer, &png(1280, 720, 1)).await;
        let mut items = vec![item("a fox"), item("gore")];
        items.push(json!({"prompt": "a hen", "model": "sora-2", "reference_image": image}));
        let body = json!({"items": items, "webhook_url": hook, "x-request-id": format!("key-{at}")});
        batches.push(customer.order(&body).await);
    }
    app.all_batches_end().await;
    app.until("both are told", async || app.count("select count(*) from delivery_attempts").await >= 2).await;
    // as after an attempt whose end nobody saw, at which nobody looks any more
    app.execute(
        "insert into late_looks (video_id, n, tenant_id, next_look_at)
         select distinct on (tenant_id) id, 1, tenant_id, null::timestamptz from videos order by tenant_id, position",
    )
    .await;
    // as of a batch that waits; the leader forgets those of batches that have ended
    app.execute(
        "insert into batch_outlooks (batch_id, tenant_id, ahead) select 'waits' || tenant_id, tenant_id, 0 from batches",
    )
    .await;
    let mut tenants = Vec::new();
    for id in &batches {
        let tenant: String = sqlx::query_scalar("select tenant_id from batches where id = $1")
            .bind(id.trim_start_matches("bat_"))
            .fetch_one(app.pool())
            .await
            .unwrap();
        tenants.push(TenantId::from_bare(&tenant).unwrap());
    }
    let pair = |all: Vec<String>| -> [String; 2] { all.try_into().unwrap() };
    Two { customers, batches: pair(batches), tenants: tenants.try_into().unwrap(), app }
}

async fn upload(customer: &Customer, image: &[u8]) -> String {
    let request = customer.http.post(format!("{}/api/enterprise/images", customer.base));
    let request = request.header("X-API-Key", &customer.api_key).header("content-type", "image/png");
    let answer = request.body(image.to_vec()).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    let image: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    image["id"].as_str().unwrap().to_owned()
}

/// A session as request code has it; on another's server the owner's, that only acts as the role.
async fn request_session(app: &TestApp) -> PgConnection {
    match &app.db.api_url {
        Some(url) => PgConnection::connect(url).await.unwrap(),
        None => session_as(app, "freezeframe_api").await,
    }
}

async fn session_as(app: &TestApp, role: &str) -> PgConnection {
    let mut session = PgConnection::connect(&app.db.url).await.unwrap();
    run(&mut session, &format!("set role {role}")).await.unwrap();
    session
}

async fn run(session: &mut PgConnection, statement: &str) -> Result<u64, sqlx::Error> {
    let done = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(session).await;
    done.map(|done| done.rows_affected())
}

/// Must fail, and for want of a right.
async fn refused(session: &mut PgConnection, statement: &str) {
    let error = run(session, statement).await.err().unwrap_or_else(|| panic!("not refused: {statement}"));
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
    assert_eq!(code, REFUSED, "{statement}: {error}");
    run(session, "rollback").await.unwrap();
}

async fn name_tenant(session: &mut PgConnection, tenant: &str) {
    run(session, &format!("set freezeframe.tenant = '{tenant}'")).await.unwrap();
}

async fn number(session: &mut PgConnection, query: &str) -> i64 {
    let number = sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(session).await;
    number.unwrap_or_else(|error| panic!("{query}: {error}"))
}

struct Table {
    name: String,
    /// Says whose a row is.
    tenant_column: Option<String>,
    secured: bool,
    policies_of_requests: i64,
    /// Some of its columns.
    readable: bool,
    columns: String,
}

/// A table of the catalogue: see [`Table`].
type Row = (String, Option<String>, bool, i64, bool, Option<String>);

async fn tables(app: &TestApp) -> Vec<Table> {
    let rows: Vec<Row> = sqlx::query_as(
        "select c.relname::text,
             (select attname::text from pg_attribute a where a.attrelid = c.oid and not a.attisdropped
                 and (a.attname = 'tenant_id' or c.relname = 'tenants' and a.attname = 'id')),
             c.relrowsecurity,
             (select count(*) from pg_policy p where p.polrelid = c.oid and 'freezeframe_api'::regrole = any(p.polroles)),
             has_any_column_privilege('freezeframe_api', c.oid, 'select'),
             (select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute a
              where a.attrelid = c.oid and attnum > 0 and not attisdropped
                  and has_column_privilege('freezeframe_api', c.oid, attnum, 'select'))
         from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm') order by 1",
    )
    .fetch_all(app.pool())
    .await
    .unwrap();
    assert!(rows.len() > 15, "the tables were not found");
    let table =
        |(name, tenant_column, secured, policies_of_requests, readable, columns): (_, _, _, _, _, Option<String>)| {
            Table { name, tenant_column, secured, policies_of_requests, readable, columns: columns.unwrap_or_default() }
        };
    rows.into_iter().map(table).collect()
}

/// Everything that a request session of `tenant` sees and should not; and tables that nothing protects.
async fn holes(two: &Two) -> Vec<String> {
    let mut session = request_session(&two.app).await;
    let own = two.tenants[0].bare();
    let mut holes = Vec::new();
    for table in tables(&two.app).await {
        let Table { name, columns, .. } = &table;
        // what requests cannot read at all needs no policy of theirs
        let walled = table.secured && (table.policies_of_requests > 0 || !table.readable);
        if table.tenant_column.is_some() && !walled {
            holes.push(format!("{name} has a tenant and no policy"));
        }
        if !table.readable {
            name_tenant(&mut session, &own).await;
            refused(&mut session, &format!("select count(*) from {name}")).await;
            continue;
        }
        if OF_NOBODY.contains(&name.as_str()) {
            continue;
        }
        if !table.secured {
            holes.push(format!("{name} can be read by requests and is secured by nothing"));
        }
        let whose = match &table.tenant_column {
            Some(column) => column.clone(),
            None => "(select v.tenant_id from videos v where v.id = video_id)".to_owned(),
        };
        let mine = format!("select count(*) from {name} where {whose} = '{own}'");
        let all_of_mine = number(&mut two.app.pool().acquire().await.unwrap(), &mine).await;
        name_tenant(&mut session, &own).await;
        let seen = number(&mut session, &format!("select count(*) from (select {columns} from {name}) seen")).await;
        if seen != all_of_mine {
            holes.push(format!("{name} shows {seen} rows to a tenant that has {all_of_mine}"));
        }
        assert!(all_of_mine > 0, "nothing in {name} is this tenant's, so nothing is proven");
        for nobody in ["", &TenantId::generate().bare()] {
            name_tenant(&mut session, nobody).await;
            let seen = number(&mut session, &format!("select count(*) from (select {columns} from {name}) seen")).await;
            if seen != 0 {
                holes.push(format!("{name} shows {seen} rows to {nobody:?}"));
            }
        }
    }
    let mut unnamed = request_session(&two.app).await;
    for table in ["videos", "credit_ledger", "attempts"] {
        let seen = number(&mut unnamed, &format!("select count(*) from {table}")).await;
        if seen != 0 {
            holes.push(format!("{table} shows {seen} rows to a session that never named a tenant"));
        }
    }
    holes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_sees_rows_of_its_own_tenant_alone_in_every_table_of_the_catalogue() {
    let two = two().await;
    assert_eq!(holes(&two).await, Vec::<String>::new());
    let mut session = request_session(&two.app).await;
    name_tenant(&mut session, &two.tenants[0].bare()).await;
    refused(&mut session, "select webhook_secret_sealed from tenants").await;
    refused(&mut session, "select count(*) from apalis.jobs").await;
    // with its policy or without it: each wall that is taken away is found
    two.app.execute("alter table videos disable row level security").await;
    let found = holes(&two).await;
    assert!(found.iter().any(|hole| hole.starts_with("videos shows")), "{found:?}");
    two.app.execute("alter table videos enable row level security").await;
    two.app.execute("drop policy own_tenant on batch_holds").await;
    two.app.execute("create policy own_tenant on batch_holds to freezeframe_api using (true)").await;
    two.app.execute("create table of_tomorrow (tenant_id text not null)").await;
    let found = holes(&two).await;
    assert!(found.iter().any(|hole| hole.starts_with("batch_holds shows")), "{found:?}");
    assert!(found.iter().any(|hole| hole == "of_tomorrow has a tenant and no policy"), "{found:?}");
    two.app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_writes_for_its_own_tenant_alone_and_only_what_orders_and_uploads_write() {
    let two = two().await;
    let mut session = request_session(&two.app).await;
    let [own, other] = two.tenants.map(TenantId::bare);
    name_tenant(&mut session, &own).await;
    let entry = |act: &str, tenant: &str, from: &str, to: &str| {
        format!(
            "insert into credit_ledger (act, tenant_id, source, batch_id, from_account, to_account, amount, balance_of,
                 balance_before, balance_after, video_count, actor, reason, request_id)
             values ('{act}', '{tenant}', 'paid', case '{act}' when 'grant' then null else 'X' end, '{from}', '{to}', 5,
                 'available', 10, case '{act}' when 'freeze' then 5 else 15 end, 0, 'a', 'b', 'c')"
        )
    };
    run(&mut session, &format!("begin; {}; rollback", entry("freeze", &own, "available", "held"))).await.unwrap();
    for (whose, statement) in [
        ("another's key", format!("insert into idempotency_keys values ('{other}', 'k', sha256('x'), '{{}}')")),
        ("a time of my own", format!("insert into idempotency_keys values ('{own}', 'k', sha256('x'), '{{}}', now())")),
        (
            "another's batch",
            format!(
                "insert into batches (id, tenant_id, total, frozen_credits, request_id) values ('X', '{other}', 1, 0, 'r')"
            ),
        ),
        (
            "nobody's batch",
            "insert into batches (id, tenant_id, total, frozen_credits, request_id) values ('X', '', 1, 0, 'r')"
                .to_owned(),
        ),
        (
            "a batch that has ended",
            format!(
                "insert into batches (id, tenant_id, total, frozen_credits, request_id, status) values ('X', '{own}', 1, 0, 'r', 'queued')"
            ),
        ),
        (
            "another's hold",
            format!(
                "insert into batch_holds (batch_id, source, tenant_id, starts_at, frozen) values ('X', 'paid', '{other}', 0, 1)"
            ),
        ),
        ("another's freeze", entry("freeze", &other, "available", "held")),
        ("a grant", entry("grant", &own, "issued", "available")),
        ("a refund", entry("refund", &own, "held", "available")),
        ("credits", "update wallets set available = available + 1".to_owned()),
        ("a hold given back", "update batch_holds set refunded = frozen".to_owned()),
        (
            "a settlement",
            "insert into settlements (video_id, batch_id, outcome, amount) values ('X', 'X', 'charged', 1)".to_owned(),
        ),
        ("a state", "update videos set state = 'succeeded'".to_owned()),
        ("a finalize", "select finalize_batch_credits('X')".to_owned()),
        ("an event", "delete from events".to_owned()),
        ("limits", "update tenants set max_in_flight = 1000000".to_owned()),
        ("a key", "insert into api_keys (hash, tenant_id, hint) values (sha256('x'), 'X', 'h')".to_owned()),
        ("a lease", "update leader_leases set epoch = epoch + 1".to_owned()),
    ] {
        println!("{whose}");
        refused(&mut session, &statement).await;
    }
    let sum = "select coalesce(sum(available), 0)::bigint from wallets";
    let before = two.app.count(sum).await;
    assert_eq!(
        run(&mut session, &format!("update wallets set available = 0 where tenant_id = '{other}'")).await.unwrap(),
        0,
        "another's wallet"
    );
    let touched = format!("update reference_images set uploaded_at = now() where tenant_id = '{other}'");
    assert_eq!(run(&mut session, &touched).await.unwrap(), 0, "another's image");
    assert_eq!(two.app.count(sum).await, before);
    two.app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_requests_becomes_nobody_else() {
    let app = TestApp::start(TestSettings { roles: API, ..TestSettings::default() }).await;
    if app.db.api_url.is_none() {
        println!("this server is another's and has no login for requests");
        return app.finish().await;
    }
    let mut session = request_session(&app).await;
    let owner: String = sqlx::query_scalar("select current_user::text").fetch_one(app.pool()).await.unwrap();
    for role in ["freezeframe_app", "none", &owner, "pg_write_all_data", "pg_read_all_data"] {
        let became = run(&mut session, &format!("set role {role}")).await;
        let now: String = sqlx::query_scalar("select current_user::text").fetch_one(&mut session).await.unwrap();
        assert_eq!(now, "freezeframe_api", "after set role {role}: {became:?}");
        if role != "none" {
            refused(&mut session, &format!("set session authorization '{role}'")).await;
        }
    }
    for escape in
        ["reset role", "reset session authorization", "set session authorization default", "discard all", "reset all"]
    {
        run(&mut session, escape).await.unwrap();
        let users: (String, String) =
            // a session that discards all knows no prepared statement any more
            sqlx::query_as("select current_user::text, session_user::text")
                .persistent(false)
                .fetch_one(&mut session)
                .await
                .unwrap();
        assert_eq!(users, ("freezeframe_api".to_owned(), "freezeframe_api".to_owned()), "after {escape}");
    }
    for statement in [
        "create role more in role freezeframe_app",
        "grant freezeframe_app to freezeframe_api",
        "alter role freezeframe_api superuser",
        "alter role freezeframe_api bypassrls",
        "create function f() returns int language sql security definer as 'select 1'",
        "create temp table batches (id text)",
        "create table mine (id text)",
        "alter table videos disable row level security",
        "drop policy own_tenant on videos",
        "alter function tenant_of_key(bytea) set search_path = pg_temp",
        "copy (select 1) to program 'true'",
    ] {
        refused(&mut session, statement).await;
    }
    // row security off means that a query it would filter fails, not that it is not filtered
    run(&mut session, "set row_security = off").await.unwrap();
    refused(&mut session, "select count(*) from videos").await;
    // and a login that could become more is not taken for requests
    let owner =
        RequestDb::connect(&DatabaseSettings { max_connections: 1, ..DatabaseSettings::new(&app.db.url) }).await;
    let why = format!("{:#}", owner.unwrap_err());
    assert!(why.contains("may act as more than freezeframe_api"), "{why}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_named_for_one_transaction_alone_and_a_read_writes_nothing() {
    let two = two().await;
    let (url, role) = match &two.app.db.api_url {
        Some(url) => (url, None),
        None => (&two.app.db.url, Some("freezeframe_api".to_owned())),
    };
    // one session for all of them
    let settings = DatabaseSettings { max_connections: 1, role, ..DatabaseSettings::new(url) };
    let db = RequestDb::connect(&settings).await.unwrap();
    const COUNT: &str = "select count(*) from videos";
    let counted = |tenant: TenantId| {
        let db = db.clone();
        async move { db.read(tenant, |conn| Box::pin(sqlx::query_scalar::<_, i64>(COUNT).fetch_one(conn))).await.unwrap() }
    };
    for tenant in two.tenants {
        assert_eq!(counted(tenant).await, 3);
        let unnamed = db.look_up(|conn| Box::pin(sqlx::query_scalar::<_, i64>(COUNT).fetch_one(conn))).await.unwrap();
        assert_eq!(unnamed, 0);
    }
    let drained = "update wallets set available = 0";
    let read = db.read(two.tenants[0], |conn| Box::pin(async move { sqlx::query(drained).execute(conn).await }));
    let why = read.await.unwrap_err();
    assert_eq!(why.as_database_error().unwrap().code().unwrap(), "25006", "{why}");
    // an act that fails leaves nothing of it, and nothing of its tenant either
    let act = db.act(two.tenants[0], "drain", move |conn| {
        Box::pin(async move {
            sqlx::query(drained).execute(conn).await?;
            Err::<(), _>(sqlx::Error::RowNotFound)
        })
    });
    assert!(matches!(act.await, Err(sqlx::Error::RowNotFound)));
    assert_eq!(two.app.count("select count(*) from wallets where available > 0").await, 2);
    let unnamed = db.look_up(|conn| Box::pin(sqlx::query_scalar::<_, i64>(COUNT).fetch_one(conn))).await.unwrap();
    assert_eq!((unnamed, counted(two.tenants[1]).await), (0, 3));
    db.close().await;
    two.app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_only_ever_added_to_by_whatever_trick_as_the_engine_and_as_a_request() {
    let two = two().await;
    let look = "select md5(string_agg(l::text, '|' order by id)) || (select md5(string_agg(s::text, '|' order by video_id)) from settlements s)
                from credit_ledger l";
    let looked = || async { sqlx::query_scalar::<_, String>(look).fetch_one(two.app.pool()).await.unwrap() };
    let before = looked().await;
    let knows_merge = two.app.count("select current_setting('server_version_num')::bigint").await >= 150_000;
    for role in ["freezeframe_app", "freezeframe_api"] {
        let mut session = session_as(&two.app, role).await;
        name_tenant(&mut session, &two.tenants[0].bare()).await;
        for (table, key, column) in [("credit_ledger", "id", "amount"), ("settlements", "video_id", "amount")] {
            for statement in [
                format!("update {table} set {column} = {column} + 1"),
                format!("update {table} set {column} = {column} where false"),
                format!("delete from {table}"),
                format!("truncate {table}"),
                format!("truncate {table} cascade"),
                format!("merge into {table} t using (select 1) s on true when matched then delete"),
                format!("merge into {table} t using (select 1) s on true when matched then update set {column} = 1"),
                format!("insert into {table} overriding system value select * from {table} on conflict ({key}) do update set {column} = 1"),
                format!("with gone as (delete from {table} returning *) select count(*) from gone"),
                format!("select * from {table} for update"),
                format!("copy {table} from program 'true'"),
                format!("copy {table} from '/dev/null'"),
                format!("copy {table} to '/tmp/freezeframe-history'"),
                format!("create rule r as on insert to {table} do instead nothing"),
                format!("create trigger t before insert on {table} for each row execute function suppress_redundant_updates_trigger()"),
                format!("alter table {table} disable trigger all"),
                format!("alter table {table} disable trigger {table}_append_only"),
                format!("drop trigger {table}_append_only on {table}"),
                format!("alter table {table} add column x int"),
                format!("alter table {table} rename to {table}_old"),
                format!("alter table {table} owner to {role}"),
                format!("drop table {table}"),
                format!("create temp table {table} as select * from public.{table}"),
                format!("create table {table}_child () inherits ({table})"),
                format!("comment on table {table} is 'mine'"),
                "create or replace function refuse_to_rewrite_history() returns trigger language plpgsql as 'begin return null; end'".to_owned(),
                "drop function refuse_to_rewrite_history() cascade".to_owned(),
                "set session_replication_role = replica".to_owned(),
                "alter role freezeframe_app set session_replication_role = replica".to_owned(),
            ] {
                if statement.starts_with("merge") && !knows_merge {
                    continue;
                }
                // COPY FROM is not for tables with row security at all, which is another refusal
                let error = run(&mut session, &statement).await.err();
                let error = error.unwrap_or_else(|| panic!("as {role}, not refused: {statement}"));
                let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
                assert!([REFUSED, "0A000"].contains(&code.as_str()), "as {role}: {statement}: {error}");
            }
        }
    }
    assert_eq!(looked().await, before);
    // the trigger stands where the privilege would not
    for table in ["credit_ledger", "settlements"] {
        let mut owner = PgConnection::connect(&two.app.db.url).await.unwrap();
        for act in
            [format!("update {table} set amount = 1"), format!("delete from {table}"), format!("truncate {table}")]
        {
            refused(&mut owner, &act).await;
        }
    }
    assert_eq!(looked().await, before);
    two.app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_of_ours_finds_our_tables_whatever_its_caller_put_before_them() {
    let two = two().await;
    let loose: Vec<String> = sqlx::query_scalar(
        "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'public'::regnamespace
             and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
             and not coalesce('search_path=pg_catalog, public, pg_temp' = any(p.proconfig), false)",
    )
    .fetch_all(two.app.pool())
    .await
    .unwrap();
    assert_eq!(loose, Vec::<String>::new(), "functions without a search path of their own");
    let open: Vec<String> = sqlx::query_scalar(
        "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'public'::regnamespace and p.prosecdef
             and (has_function_privilege('public', p.oid, 'execute') or has_function_privilege('freezeframe_app', p.oid, 'execute'))
             -- tells the engine which cluster it is on, and takes nothing
             and p.proname <> 'database_incarnation'",
    )
    .fetch_all(two.app.pool())
    .await
    .unwrap();
    assert_eq!(open, Vec::<String>::new(), "functions with the owner's rights that others than requests may call");
    // a session that may make temporary tables, as on a server whose owner lets everybody
    let mut session = PgConnection::connect(&two.app.db.url).await.unwrap();
    let shadow = format!(
        "set search_path = pg_temp, public;
         create temp table batches (like public.batches);
         create temp table api_keys as select sha256('mine') as hash, '{}'::text as tenant_id, null::timestamptz as revoked_at;
         grant all on batches, api_keys to public; set role freezeframe_api",
        two.tenants[1].bare()
    );
    run(&mut session, &shadow).await.unwrap();
    assert_eq!(number(&mut session, "select count(*) from tenant_of_key(sha256('mine'))").await, 0);
    run(&mut session, "reset role; set role freezeframe_app").await.unwrap();
    let batch = two.batches[0].trim_start_matches("bat_");
    let status: String = sqlx::query_scalar("select status::text from finalize_batch_credits($1)")
        .bind(batch)
        .fetch_one(&mut session)
        .await
        .unwrap();
    assert_eq!(status, "partial");
    two.app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_as_if_what_another_tenant_has_were_not_there() {
    let two = two().await;
    let [own, other] = &two.customers;
    let document: Value = serde_json::from_str(&std::fs::read_to_string("openapi/openapi.json").unwrap()).unwrap();
    let theirs = upload(other, &png(320, 200, 2)).await;
    let video = other.videos(&two.batches[1]).await[0]["video_id"].as_str().unwrap().to_owned();
    let bare = two.batches[1].trim_start_matches("bat_").to_owned();
    let ids = [
        two.batches[1].clone(),
        theirs.clone(),
        video.clone(),
        bare.clone(),
        two.batches[1].to_lowercase(),
        format!("bat_{}", two.tenants[1].bare()),
        format!("{}%27%20or%20true--", two.batches[1]),
        format!("{}%00", two.batches[1]),
        format!("bat_{}", video.trim_start_matches("vid_")),
    ];
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let Some(end) = path.find('{') else { continue };
        for method in methods.as_object().unwrap().keys() {
            for id in &ids {
                let there = format!("{}{id}{}", &path[..end], &path[path.find('}').unwrap() + 1..]);
                let method: Method = method.to_uppercase().parse().unwrap();
                let answer = own.call(method.clone(), &there, &[], None).await;
                assert_eq!(answer.status, 404, "{method} {there}: {}", answer.text);
                assert!(!answer.text.contains("a fox"), "{}", answer.text);
                asked += 1;
            }
        }
    }
    assert!(asked >= 4 * ids.len(), "the routes were not found");
    // its own are there, so that the wall is not simply shut
    own.get(&format!("{BATCHES}/{}/videos", two.batches[0])).await.expect(200);
    // lists show nothing of others, from whatever cursor
    let list = other.get(&format!("{BATCHES}?limit=1")).await.expect(200);
    assert!(!own.get(BATCHES).await.expect(200).text.contains(&two.batches[1]), "{}", list.text);
    let image = json!({"items": [{"prompt": "x", "model": "sora-2", "reference_image": theirs}]});
    let problem = own.submit(&image).await.problem(422);
    assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("is no image of yours"), "{problem}");
    // the same key and the same order are another order of another tenant
    let order = json!({"items": order_of(1, "a fox")["items"], "x-request-id": "key-1"});
    let bought = own.submit(&order).await.expect(202);
    assert!(bought.headers.get("idempotent-replayed").is_none(), "{:?}", bought.headers);
    two.app.all_batches_end().await;
    two.app.finish().await;
}
