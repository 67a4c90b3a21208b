//! The test app: emulator, receiver, database and service of one test, and the audit that ends it.
//!
//! A test calls [`TestApp::finish`] at its end: everything is brought to rest, stopped and audited. Dropping an app without
//! it fails the test. Waiting is always for something that can be seen, with a deadline that only a failure reaches.

pub mod audit;
pub mod client;
pub mod image_host;
pub mod instant;
pub mod own_server;
pub mod postgres;
pub mod process;
pub mod receiver;
pub mod s3;
pub mod wire_proxy;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use freezeframe::billing;
use freezeframe::config::Config;
use freezeframe::db::Database;
use freezeframe::domain::{Credits, GrantSource, MasterKey};
use freezeframe::emulator::{Emulator, EmulatorSettings, Profile, Rule};
use freezeframe::providers::{Egress, Provider, Registry};
use freezeframe::service::{self, Parts, Roles, Service, Store};
use freezeframe::storage::Storage;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinHandle;

use audit::Audit;
use client::{BATCHES, Customer, http_client};
use own_server::OwnServer;
use postgres::TestDatabase;
use process::ChildService;
use receiver::Receiver;
use wire_proxy::WireProxy;

/// The longest wait for anything. Reached by failing tests alone.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that announces nothing.
const GLANCE: Duration = Duration::from_millis(10);
const MASTER_KEY: &str = "5f1d0c4b7a29e8863344556677889900aabbccddeeff00112233445566778899";
/// Tests ask as often as they like.
const UNLIMITED: &str = "default_requests_per_minute = 1000000\ndefault_requests_per_minute_per_key = 1000000\n\
                         failed_keys_per_minute = 1000000";
const PROVIDER_KEY: &str = "emulator-key";
const PROVIDER_KEY_VARIABLE: &str = "EMULATOR_KEY";
/// The secret of the callbacks of a project, and the variable that holds it.
pub const HOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAECAwQFBgc=";
const HOOK_SECRET_VARIABLE: &str = "EMULATOR_HOOK_SECRET";

/// The process under test is one of its own.
pub const NOTHING: Roles = Roles { api: false, worker: false, scheduler: false };
pub const API: Roles = Roles { api: true, worker: false, scheduler: false };
pub const API_AND_SCHEDULER: Roles = Roles { api: true, worker: false, scheduler: true };

/// Makes a provider account of that name in this process.
pub type MakeProvider = fn(&str) -> Arc<dyn Provider>;

/// What a test wants otherwise than usual.
#[derive(Clone)]
pub struct TestSettings {
    /// What runs inside the test; the rest may be started as processes of their own.
    pub roles: Roles,
    pub seed: u64,
    pub profile: Profile,
    pub rules: Vec<Rule>,
    /// Videos that one worker carries.
    pub slots: usize,
    /// Moves every back-off up to now as soon as it is written.
    pub skip_back_off: bool,
    pub allow_private_webhooks: bool,
    pub max_body_bytes: usize,
    pub webhook_timeout_secs: u64,
    pub submit_timeout_secs: u64,
    /// After so long without a heartbeat a worker is taken for dead.
    pub dead_after_ms: u64,
    /// Further lines of every provider account.
    pub more_account: &'static str,
    /// Further lines of the section `[scheduler]`. Tests make accounts fail on purpose: no circuit opens but where one wants it.
    pub more_scheduler: &'static str,
    /// Further lines of the section `[attempts]`.
    pub more_attempts: &'static str,
    pub sweep_secs: u64,
    /// Lines of the section `[limits]`: how many requests are answered.
    pub limits: &'static str,
    /// The lines of the section `[http]`.
    pub http: &'static str,
    /// Where videos are stored; a directory of the test's own when absent.
    pub storage: Option<&'static str>,
    /// Further lines of the settings, behind those of `[storage]`; new sections may follow.
    pub more_storage: String,
    /// Makes the videos in place of the emulator, for the roles inside the test.
    pub provider: Option<MakeProvider>,
    /// The account `veo` is at an emulator of its own.
    pub two_emulators: bool,
    /// `[[model]]` sections in place of the built-in ones, and further accounts; `{emulator}` is where the emulator is.
    pub models: String,
    /// Where the API inside the test listens, which is then its public address too.
    pub listen: Option<u16>,
    /// The service reaches its database by way of [`TestApp::wire`]; what prepares and looks does not.
    pub through_proxy: bool,
    /// The database is on a server of the test's own: [`TestApp::server`].
    pub own_server: bool,
}

impl Default for TestSettings {
    fn default() -> TestSettings {
        TestSettings {
            roles: Roles::ALL,
            seed: 1,
            profile: Profile { one_clip_for_all: true, clip_seconds: 1, ..Profile::calm() },
            rules: Vec::new(),
            slots: 200,
            skip_back_off: true,
            allow_private_webhooks: true,
            max_body_bytes: 4 << 20,
            webhook_timeout_secs: 5,
            submit_timeout_secs: 5,
            dead_after_ms: 2_000,
            more_account: "",
            more_scheduler: "circuit_faults = 0",
            more_attempts: "",
            sweep_secs: 1,
            limits: UNLIMITED,
            http: "",
            storage: None,
            more_storage: String::new(),
            provider: None,
            two_emulators: false,
            models: String::new(),
            listen: None,
            through_proxy: false,
            own_server: false,
        }
    }
}

pub struct TestApp {
    pub db: TestDatabase,
    /// Between the service and the database, where a test wants one.
    pub wire: Option<WireProxy>,
    own_server: Option<OwnServer>,
    pub emulator: Emulator,
    /// The one behind the account `veo`, where a test has two.
    pub second: Option<Emulator>,
    pub receiver: Receiver,
    pub http: reqwest::Client,
    pub master: Arc<MasterKey>,
    /// The text of the settings file, the same for processes of their own.
    pub settings: String,
    pub dir: tempfile::TempDir,
    service: Option<Box<Service>>,
    store: Store,
    /// Boxed with the service, because every test carries its app through all of its awaits.
    config: Box<Config>,
    roles: Roles,
    provider: Option<MakeProvider>,
    children: Vec<ChildService>,
    back_off: Option<JoinHandle<()>>,
    excused: Vec<&'static str>,
    finished: bool,
}

impl Drop for TestApp {
    fn drop(&mut self) {
        if let Some(back_off) = &self.back_off {
            back_off.abort();
        }
        if !self.finished && !std::thread::panicking() {
            panic!("this test ended without the audit: call finish()");
        }
    }
}

fn settings_text(accounts: [(&str, &Emulator); 2], dir: &Path, settings: &TestSettings) -> String {
    let TestSettings { slots, max_body_bytes, webhook_timeout_secs, submit_timeout_secs, sweep_secs, .. } = settings;
    let TestSettings { limits, http, .. } = settings;
    let mut text = format!(
        r#"
data_dir = "{data}"
listen = "127.0.0.1:{port}"
{public_url}
master_key = "{MASTER_KEY}"

[log]
filter = "info"

[engine]
slots = {slots}
heartbeat_ms = 200
dead_after_ms = {dead_after_ms}
poll_ms = 20
sweep_secs = {sweep_secs}
webhook_slots = 8
finalize_slots = 4

[scheduler]
lease_ttl_ms = 1500
tick_ms = 10
{more_scheduler}

[limits]
{limits}
max_body_bytes = {max_body_bytes}

[http]
{http}

[webhooks]
allow_private_targets = {private}
timeout_secs = {webhook_timeout_secs}

[storage]
url = "{videos}"
{more_storage}

[attempts]
lookup_settle_secs = 2
lookup_pause_ms = 100
submit_timeout_secs = {submit_timeout_secs}
{more_attempts}
"#,
        data = dir.join("data").display(),
        port = settings.listen.unwrap_or(0),
        public_url = settings.listen.map_or(String::new(), |port| format!("public_url = \"http://127.0.0.1:{port}\"")),
        videos = settings.storage.map_or_else(|| dir.join("videos").display().to_string(), str::to_owned),
        more_storage = settings.more_storage,
        more_scheduler = settings.more_scheduler,
        more_attempts = settings.more_attempts,
        private = settings.allow_private_webhooks,
        dead_after_ms = settings.dead_after_ms,
    );
    for (name, emulator) in accounts {
        text.push_str(&format!(
            r#"
[[provider]]
name = "{name}"
kind = "openai_videos"
base_url = "{}"
api_key_env = "{PROVIDER_KEY_VARIABLE}"
requests_per_minute = 1000000
max_in_flight = 100000
poll_interval_ms = 50
{}
"#,
            emulator.base_url(),
            settings.more_account,
        ));
    }
    text.push_str(&settings.models.replace("{emulator}", &accounts[0].1.url("")));
    text
}

async fn start_emulator(settings: &TestSettings, seed: u64) -> Emulator {
    let settings = EmulatorSettings {
        listen: ([127, 0, 0, 1], 0).into(),
        seed,
        api_key: PROVIDER_KEY.to_owned(),
        profile: settings.profile.clone(),
    };
    Emulator::start(settings).await.unwrap()
}

impl TestApp {
    pub async fn start(settings: TestSettings) -> TestApp {
        show_logs();
        let http = http_client();
        let test = std::thread::current().name().unwrap_or("?").to_owned();
        eprintln!("{test}: seed {}", settings.seed);
        let own_server = if settings.own_server { Some(OwnServer::start().await) } else { None };
        let db = match &own_server {
            Some(server) => TestDatabase::on(server).await,
            None => TestDatabase::fresh().await,
        };
        let dir = tempfile::tempdir().unwrap();
        let emulator = start_emulator(&settings, settings.seed).await;
        let second = match settings.two_emulators {
            true => Some(start_emulator(&settings, settings.seed + 1_000).await),
            false => None,
        };
        settings.rules.iter().cloned().for_each(|rule| emulator.script(rule));
        let accounts = [("sora", &emulator), ("veo", second.as_ref().unwrap_or(&emulator))];
        let text = settings_text(accounts, dir.path(), &settings);
        let wire = match settings.through_proxy {
            true => Some(WireProxy::before(&db.url).await),
            false => None,
        };
        let config = Config::from_sources(&text, variables(&db, wire.as_ref())).unwrap();
        let store = Store::open(&config).await.unwrap();
        let back_off = settings.skip_back_off.then(|| tokio::spawn(skip_back_off(db.pool.clone())));
        let mut app = TestApp {
            receiver: Receiver::start().await,
            master: Arc::new(MasterKey::from_hex(MASTER_KEY).unwrap()),
            settings: text,
            service: None,
            children: Vec::new(),
            excused: Vec::new(),
            finished: false,
            roles: settings.roles,
            provider: settings.provider,
            own_server,
            db,
            wire,
            emulator,
            second,
            http,
            dir,
            store,
            config: Box::new(config),
            back_off,
        };
        app.start_service().await;
        app
    }

    /// Starts the roles inside the test (again).
    pub async fn start_service(&mut self) {
        assert!(self.service.is_none(), "the service runs already");
        if self.roles.api || self.roles.worker || self.roles.scheduler {
            let providers = self.provider.map(|make| {
                let mut registry = Registry::default();
                ["sora", "veo"].iter().for_each(|account| registry.insert(make(account)));
                registry
            });
            let parts = Parts { providers, ..Parts::default() };
            self.service = Some(Box::new(Service::start(&self.config, &self.store, self.roles, parts).await.unwrap()));
        }
    }

    /// Has the roles inside the test take over other settings, as after a change of their file.
    pub fn reload(&mut self, settings: &str) {
        self.settings = settings.to_owned();
        *self.config = Config::from_sources(settings, variables(&self.db, self.wire.as_ref())).unwrap();
        self.service.as_ref().expect("nothing runs").offer.take_over(&self.config).unwrap();
    }

    /// Writes the file that processes of their own read their settings from.
    pub fn write_settings(&self, settings: &str) {
        std::fs::write(self.dir.path().join(process::SETTINGS_FILE), settings).unwrap();
    }

    /// Runs a command of the real program to its end; answers what it printed.
    pub async fn command(&self, args: &[&str]) -> std::process::Output {
        self.write_settings(&self.settings);
        let (args, dir) = (args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>(), self.dir.path().to_owned());
        let variables = variables(&self.db, self.wire.as_ref());
        tokio::task::spawn_blocking(move || process::run(&args, &dir, &variables)).await.unwrap()
    }

    /// Runs a command that must succeed; answers its standard output.
    pub async fn output(&self, args: &[&str]) -> String {
        let output = self.command(args).await;
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Stops the roles inside the test in the ordinary way.
    pub async fn stop_service(&mut self) {
        if let Some(service) = self.service.take() {
            service.stop().await.unwrap();
        }
    }

    /// What the next [`TestApp::start_service`] starts.
    pub fn set_roles(&mut self, roles: Roles) {
        self.roles = roles;
    }

    /// The same customer at the API that runs now.
    pub fn here(&self, customer: &Customer) -> Customer {
        Customer { base: self.base(), ..customer.clone() }
    }

    /// Waits until an API answers that it is ready.
    pub async fn until_serving(&self, base: &str) {
        let url = format!("{base}/readyz");
        self.until(&format!("{url} is ready"), async || {
            self.http.get(&url).send().await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
    }

    pub fn pool(&self) -> &PgPool {
        &self.db.pool
    }

    /// The Postgres server, where it is the test's own.
    pub fn server(&self) -> &OwnServer {
        self.own_server.as_ref().expect("the settings ask for no server of the test's own")
    }

    pub fn videos_dir(&self) -> PathBuf {
        self.dir.path().join("videos")
    }

    /// Connects as the application's role, for asking the house itself.
    pub async fn connect(&self) -> Database {
        self.store.connect("test", 2, false).await.unwrap()
    }

    /// The accounts of the settings.
    pub fn registry(&self) -> Registry {
        Registry::from_config(&self.config, &Egress::new()).unwrap()
    }

    /// The store of the settings.
    pub fn storage(&self) -> Storage {
        Storage::open(&self.config.storage, || service::store_clients(&Egress::new())).unwrap()
    }

    /// The base of the API inside the test.
    pub fn base(&self) -> String {
        let address = self.service.as_ref().and_then(|service| service.address).expect("this test has no API");
        format!("http://{address}")
    }

    /// The base of the port for metrics inside the test.
    pub fn metrics_base(&self) -> String {
        let address = self.service.as_ref().and_then(|service| service.metrics_address);
        format!("http://{}", address.expect("this test has no port for metrics"))
    }

    /// A further process of the real program against the same database and provider.
    pub async fn start_process(&mut self, roles: &str) -> usize {
        let child = ChildService::start(
            roles,
            &self.settings,
            self.dir.path(),
            &variables(&self.db, self.wire.as_ref()).each_ref().map(|(name, value)| (name.as_str(), value.as_str())),
        );
        self.children.push(child);
        let at = self.children.len() - 1;
        if roles.contains("api") {
            self.children[at].listens().await;
        }
        if roles.contains("worker") {
            let pid = self.children[at].id().to_string();
            self.until(&format!("worker process {pid} is ready"), async || {
                self.count(&format!("select count(*) from workers where name like '%-{pid}-%'")).await >= 3
            })
            .await;
        }
        at
    }

    pub fn process(&mut self, at: usize) -> &mut ChildService {
        &mut self.children[at]
    }

    /// A customer of the API inside the test.
    pub async fn customer(&self, credits: i64) -> Customer {
        self.customer_at(&self.base(), &[(GrantSource::Paid, credits)]).await
    }

    pub async fn customer_at(&self, base: &str, grants: &[(GrantSource, i64)]) -> Customer {
        let db = self.store.connect("test", 2, false).await.unwrap();
        let limits = ("Test & Sons", 1_000_000, 100_000);
        let (source, credits) = grants[0];
        let first = (Credits::new(credits).unwrap(), source);
        let tenant = billing::onboard(&db, &self.master, limits, first).await.unwrap();
        let mut conn = self.db.pool.acquire().await.unwrap();
        for (source, credits) in &grants[1..] {
            let stamp = freezeframe::ledger::Stamp { actor: "test", reason: "more", request_id: "test" };
            freezeframe::ledger::grant(&mut conn, tenant.tenant.id, *source, Credits::new(*credits).unwrap(), stamp)
                .await
                .unwrap();
        }
        db.close().await;
        Customer {
            api_key: tenant.api_key.expose().to_owned(),
            webhook_secret: tenant.webhook_secret.expose().to_owned(),
            base: base.to_owned(),
            http: self.http.clone(),
        }
    }

    /// Waits until something holds that announces nothing.
    pub async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        until(what, holds).await;
    }

    pub async fn count(&self, query: &str) -> i64 {
        count(&self.db.pool, query).await
    }

    /// The same where the database may be away.
    pub async fn try_count(&self, query: &str) -> Option<i64> {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&self.db.pool).await.ok()
    }

    /// Asks until the database answers.
    pub async fn count_when_back(&self, query: &str) -> i64 {
        self.until("the database answers", async || self.try_count("select 1::bigint").await.is_some()).await;
        self.count(query).await
    }

    /// Places an order at the emulator past the house; answers the job's id.
    pub async fn order_past_the_house(&self, prompt: &str) -> String {
        let request = self.http.post(format!("{}/videos", self.emulator.base_url())).bearer_auth("emulator-key");
        let order = serde_json::json!({"prompt": prompt, "model": "sora-2", "seconds": "4", "size": "1280x720"});
        let answer = request.header("content-type", "application/json").body(order.to_string()).send().await.unwrap();
        let job: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        job["id"].as_str().unwrap_or_else(|| panic!("{job}")).to_owned()
    }

    pub async fn execute(&self, statement: &str) -> u64 {
        let done = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&self.db.pool).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error}")).rows_affected()
    }

    /// Waits for the end of a batch, by the API, as long as its videos go on ending; answers what the API says of it.
    pub async fn finished_batch(&self, customer: &Customer, id: &str) -> client::Answer {
        let path = format!("{BATCHES}/{id}");
        while_it_goes_on(&format!("batch {id} ends"), async || {
            let answer = customer.get(&path).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let ended = answer.number("/counts/succeeded") + answer.number("/counts/failed");
            (!matches!(answer.body["status"].as_str(), Some("completed" | "partial" | "failed"))).then_some(ended)
        })
        .await;
        customer.batch(id).await
    }

    /// Waits until every batch of this database has ended, as long as videos go on ending; asks while the database is away.
    pub async fn all_batches_end(&self) {
        let open = "select count(*) from batches where finished_at is null";
        while_it_goes_on("all batches end", async || match self.try_count(open).await {
            Some(0) => None,
            _ => Some(self.try_count("select sum(succeeded + failed)::bigint from batches").await.unwrap_or_default()),
        })
        .await;
    }

    /// Something that the audit would find and that this test is about; `part` is a part of the finding's text.
    pub fn excuse(&mut self, part: &'static str) {
        self.excused.push(part);
    }

    /// Brings everything to rest, stops it, audits it.
    pub async fn finish(mut self) {
        let excuse_jobs = self.excused.iter().any(|part| "jobs left in the queue".contains(part));
        if !excuse_jobs {
            self.until("the queue is empty", async || self.count("select count(*) from apalis.jobs").await == 0).await;
        }
        self.until("no session of ours idles in a transaction", async || {
            self.count(
                "select count(*) from pg_stat_activity where datname = current_database()
                 and application_name like 'freezeframe%' and state like 'idle in transaction%'",
            )
            .await
                == 0
        })
        .await;
        self.finished = true;
        for child in &mut self.children {
            child.stop();
        }
        self.stop_service().await;
        if let Some(back_off) = self.back_off.take() {
            back_off.abort();
        }
        let mut book = self.emulator.book();
        if let Some(second) = &self.second {
            let other = second.book();
            book.totals.accepted += other.totals.accepted;
            book.jobs.extend(other.jobs);
        }
        let videos_dir = self.videos_dir();
        let audit = Audit { pool: &self.db.pool, book: &book, videos_dir: &videos_dir, excused: &self.excused };
        let findings = Box::pin(audit.findings()).await;
        assert!(findings.is_empty(), "the audit found:\n- {}", findings.join("\n- "));
    }
}

/// What the program reads from its environment.
fn variables(db: &TestDatabase, wire: Option<&WireProxy>) -> [(String, String); 4] {
    let way = |url: &str| wire.map_or_else(|| url.to_owned(), |wire| wire.through(url));
    let variables = [
        ("DATABASE_URL", way(&db.url)),
        ("FREEZEFRAME_DATABASE_API_URL", db.api_url.as_deref().map(way).unwrap_or_default()),
        (PROVIDER_KEY_VARIABLE, PROVIDER_KEY.to_owned()),
        (HOOK_SECRET_VARIABLE, HOOK_SECRET.to_owned()),
    ];
    variables.map(|(name, value)| (name.to_owned(), value))
}

/// Waits until something holds that announces nothing.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}

/// Waits until `rest` answers nothing any more, as long as what it answers changes now and then.
async fn while_it_goes_on(what: &str, rest: impl AsyncFn() -> Option<i64>) {
    let (mut last, mut since) = (None, Instant::now());
    while let Some(now) = rest().await {
        if last != Some(now) {
            (last, since) = (Some(now), Instant::now());
        }
        assert!(since.elapsed() < PATIENCE, "never happened: {what}; it stands at {now}");
        tokio::time::sleep(GLANCE).await;
    }
}

pub async fn count(pool: &PgPool, query: &str) -> i64 {
    let answer = sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(pool).await;
    answer.unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// Back-offs of minutes and days are decided and written as always, and then moved up to now.
async fn skip_back_off(pool: PgPool) {
    const MOVES: [&str; 4] = [
        "update videos set eligible_at = now() where eligible_at > now()",
        "update provider_accounts set cooled_until = now() where cooled_until > now()",
        "update provider_accounts set probe_at = now() where probe_at > now()",
        // together, as they were written: a job that comes before its delivery is due finds nothing to do
        "with due as (update deliveries set next_attempt_at = now() where next_attempt_at > now() returning id)
         update apalis.jobs set run_at = now() where run_at > now() and id in (select id from due)",
    ];
    loop {
        for statement in MOVES {
            // a lost race is repeated at the next look
            let _ = sqlx::query(statement).execute(&pool).await;
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// `RUST_LOG=freezeframe=debug cargo test ... -- --nocapture` shows what the service says.
fn show_logs() {
    if let Ok(filter) = std::env::var("RUST_LOG") {
        freezeframe::telemetry::install(&filter, false).unwrap();
    }
}
