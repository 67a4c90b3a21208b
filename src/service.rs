//! The service of one process: the database, the keys, the store and whichever roles it plays. Shared by every command,
//! the demo, the benches and the tests.
//!
//! Always holds: the roles share one database and nothing else, so any number of processes may play any of them; stopping
//! is asked for once and hands everything over.

mod books;
mod listen;
mod reload;
mod store;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::accounts::CircuitLaw;
use crate::api::{self, ApiState, CallbackDoor, HttpServer, Listeners, OperatorState};
use crate::batches::Admission;
use crate::callbacks::{Ears, Mailbox};
use crate::config::{Config, Live};
use crate::control::Controls;
use crate::db::{Database, RequestDb};
use crate::domain::MasterKey;
use crate::engine::recorder::Recorder;
use crate::ledger::chain::CheckpointKey;
use crate::metrics;
use crate::providers::callbacks::CallbackBase;
use crate::providers::egress::ClientTimeouts;
use crate::providers::{Egress, EgressPolicy, Registry};
use crate::scheduler::{RoutePlan, Scheduler, SchedulerSettings};
use crate::steps::record::VideoJournal;
use crate::steps::{AccountTiming, AttemptTiming, CancelledBatches, References, Studio, TakenSince};
use crate::storage::{LinkSigner, Storage, StoreClients};
use crate::webhooks::Courier;
use crate::worker::{self, WorkerSettings};
pub use reload::{CalledBack, Offer, ReloadError, SettingsWatch, route_plan};
pub use store::Store;

/// Connections of the pool that answers requests, and of the engine's pool.
const API_CONNECTIONS: u32 = 16;
const ENGINE_CONNECTIONS: u32 = 8;
/// What a video may have open at once: a connection under way, idle ones left behind by the step before, a file.
const FILES_PER_VIDEO: usize = 4;
/// Everything else that a worker has open.
const OTHER_FILES: usize = 256;
const STORE_PAUSE: Duration = Duration::from_secs(5);
/// How long the object store may take for one request that is no read, and for one that is.
const STORE_WRITE: Duration = Duration::from_secs(60);
const STORE_READ: Duration = Duration::from_secs(6 * 3600);
/// How long a stopping process may take to hand over, beside what its HTTP server may take (10 s by default) and what acts
/// of requests may take after that (5 s), before it is ended all the same. Those who stop processes commonly wait for 30 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    pub api: bool,
    pub worker: bool,
    pub scheduler: bool,
}

impl Roles {
    pub const ALL: Roles = Roles { api: true, worker: true, scheduler: true };
}

/// Parts that a caller may bring along instead of those that the settings describe.
#[derive(Default)]
pub struct Parts {
    pub providers: Option<Registry>,
    pub storage: Option<Storage>,
}

/// A running process.
pub struct Service {
    /// Where the API listens, when this process plays that role.
    pub address: Option<SocketAddr>,
    /// Where the metrics are, when they have a port of their own.
    pub metrics_address: Option<SocketAddr>,
    requests: Option<RequestDb>,
    controls: Option<Controls>,
    pub master: Arc<MasterKey>,
    /// What this process offers and where it leads; replaced when the settings are read again.
    pub offer: Offer,
    stop: CancellationToken,
    stop_within: Duration,
    roles: JoinSet<Result<()>>,
}

impl Service {
    /// Starts the roles.
    ///
    /// # Errors
    /// Says which part did not start and why.
    pub async fn start(config: &Config, store: &Store, roles: Roles, parts: Parts) -> Result<Service> {
        metrics::install();
        let egress = Egress::new();
        let master = Arc::new(master_key(config)?);
        let given = roles.worker.then_some(parts.providers);
        let listeners = if roles.api { Some(listen::bind(config)?) } else { None };
        let public_url = listen::public_url(config, listeners.as_ref())?;
        let called_back =
            CalledBack { base: public_url.clone().map(|url| CallbackBase::new(&master, url)), takes: roles.api };
        let offer = Offer::new(config, egress.clone(), given, called_back)?;
        let storage = match parts.storage {
            Some(storage) => storage,
            None => Storage::open(&config.storage, || store_clients(&egress))?,
        };
        let mut service = Service {
            address: None,
            metrics_address: None,
            stop_within: STOP_TIMEOUT + config.http.drain + config.http.finish,
            requests: None,
            controls: None,
            master: master.clone(),
            offer: offer.clone(),
            stop: CancellationToken::new(),
            roles: JoinSet::new(),
        };
        if let Some(embedded) = &store.embedded {
            let guard = embedded.guard(service.stop.clone());
            service.roles.spawn(async move {
                guard.await;
                Ok(())
            });
        }
        if let (Some(listeners), Some(public_url)) = (listeners, public_url) {
            let links = LinkSigner::new(&master, public_url, config.storage.link_ttl)?;
            service.start_api(config, (store, listeners), &offer, (storage.clone(), links)).await?;
        }
        if roles.worker || roles.scheduler {
            let engine = store.connect("engine", ENGINE_CONNECTIONS, true).await?;
            service.roles.spawn(books::show(engine.clone(), service.stop.clone()));
            if roles.scheduler {
                service.start_scheduler(config, engine.clone(), offer.plan.clone());
            }
            if roles.worker {
                storage.probe().await?;
                service.start_worker(config, (engine, storage), &offer, roles.api).await?;
            }
        }
        Ok(service)
    }

    async fn start_api(
        &mut self,
        config: &Config,
        (store, listeners): (&Store, Listeners),
        offer: &Offer,
        files: (Storage, LinkSigner),
    ) -> Result<()> {
        let db = store.connect_requests("api", API_CONNECTIONS).await?;
        self.requests = Some(db.clone());
        let door = CallbackDoor::new(offer.desk.clone(), Mailbox::open(store.connect_mailbox().await?));
        let admission = Admission::new(db.clone());
        let state = ApiState::new(db, admission, offer.catalogue.clone(), files, config).with_callbacks(door);
        let controls = Controls::new(store.connect_operators().await?, offer.plan.clone(), config.engine.dead_after);
        self.controls = Some(controls.clone());
        let server = HttpServer::new(state, OperatorState::new(controls), &config.http)?;
        self.address = Some(listeners.api.local_addr()?);
        self.metrics_address = listeners.metrics.as_ref().map(TcpListener::local_addr).transpose()?;
        self.roles.spawn(server.serve(listeners, self.stop.clone()));
        Ok(())
    }

    fn start_scheduler(&mut self, config: &Config, engine: Database, plan: Live<RoutePlan>) {
        let settings = SchedulerSettings {
            lease_ttl: config.scheduler.lease_ttl,
            tick: config.scheduler.tick,
            wave: u32::try_from(config.scheduler.wave).unwrap_or(u32::MAX),
            worker_dead_after: config.engine.dead_after,
            probe: config.scheduler.probe,
        };
        let scheduler = Scheduler::new(engine, settings, plan);
        let stop = self.stop.clone();
        self.roles.spawn(async move {
            scheduler.run(stop).await;
            Ok(())
        });
    }

    /// A worker starts when the books allow it. A process that `serves_requests` waits for that beside them; another one is
    /// ended if they do not.
    async fn start_worker(
        &mut self,
        config: &Config,
        (engine, storage): (Database, Storage),
        offer: &Offer,
        serves_requests: bool,
    ) -> Result<()> {
        let (key, despite) = (CheckpointKey::new(&self.master), config.reconcile.start_despite_differences);
        if !serves_requests {
            books::admit_workers(&engine, (&storage, &key), despite).await?;
        }
        let files = (config.engine.slots * FILES_PER_VIDEO + OTHER_FILES) as u64;
        if api::allow_files(files) < files {
            tracing::warn!(wanted = files, "the system allows fewer open files than all slots may need at once");
        }
        let client = offer.egress.guarded(webhook_policy(config))?;
        let studio = Studio {
            taken: TakenSince::default(),
            cancelled: CancelledBatches::default(),
            claims: Recorder::start(engine.clone(), VideoJournal),
            recorder: Recorder::start(engine.clone(), VideoJournal),
            catalogue: offer.catalogue.clone(),
            providers: offer.providers.clone(),
            references: References::new(&config.images, &offer.egress, storage.clone())?,
            storage,
            courier: Courier::new(client, (*self.master).clone()),
            checkpoint_key: key,
            ears: Ears::default(),
            mailbox: Mailbox::open(engine.clone()),
            db: engine,
            timing: AttemptTiming {
                lookup_settle: config.attempts.lookup_settle,
                submit_timeout: config.attempts.submit_timeout,
                lookup_pause: config.attempts.lookup_pause,
                store_pause: STORE_PAUSE,
            },
            accounts: AccountTiming {
                cool_down: config.scheduler.cool_down,
                max_cool_down: config.scheduler.max_cool_down,
                probe: config.scheduler.probe,
                circuit: CircuitLaw {
                    faults: config.scheduler.circuit_faults,
                    pause: config.scheduler.circuit,
                    max_pause: config.scheduler.max_circuit,
                },
            },
        };
        let settings = WorkerSettings::new(config, books::process_name());
        let stop = self.stop.clone();
        self.roles.spawn(async move {
            let evidence = (&studio.storage, &studio.checkpoint_key);
            if serves_requests && !books::await_admission(&studio.db, evidence, despite, &stop).await {
                return Ok(());
            }
            Ok(worker::work(Arc::new(studio), settings, stop).await?)
        });
        Ok(())
    }

    /// Resolves when a role ends by itself, which is an error.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn failed(&mut self) -> Result<()> {
        match self.roles.join_next().await {
            Some(ended) => ended.context("a role of this process panicked")?.context("a role of this process ended"),
            None => std::future::pending().await,
        }
    }

    /// Stops every role: no new work, what is held is handed over.
    ///
    /// # Errors
    /// When a role ended badly or did not end in time.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        let all = async {
            while let Some(ended) = self.roles.join_next().await {
                ended.context("a role of this process panicked")??;
            }
            Ok::<_, anyhow::Error>(())
        };
        let within = self.stop_within;
        let stopped = tokio::time::timeout(within, all).await.unwrap_or_else(|_| {
            Err(anyhow::anyhow!("not everything was handed over within {within:?}; the rest is rescued by others"))
        });
        let requests = async {
            if let Some(requests) = self.requests {
                requests.close().await;
            }
        };
        let controls = async {
            if let Some(controls) = self.controls {
                controls.close().await;
            }
        };
        tokio::join!(requests, controls);
        stopped
    }
}

/// The controls that an operator's command works with.
///
/// # Errors
/// Says what is wrong with the models.
pub fn controls(config: &Config, db: Database) -> Result<Controls> {
    Ok(Controls::new(db, Live::new(route_plan(config)?), config.engine.dead_after))
}

/// The installation's key: from the settings, or from a file of its own in the data directory.
///
/// # Errors
/// When the key is malformed or its file cannot be read or made.
pub fn master_key(config: &Config) -> Result<MasterKey> {
    match &config.master_key {
        Some(key) => MasterKey::from_hex(key.expose()).context("the setting master_key"),
        None => {
            std::fs::create_dir_all(&config.data_dir)
                .with_context(|| format!("cannot make the data directory {}", config.data_dir.display()))?;
            let path = config.data_dir.join("master.key");
            MasterKey::load_or_create(&path).with_context(|| format!("the master key {}", path.display()))
        }
    }
}

/// The connections of a remote object store: one request sends a part of a video, or lets a player read at its own pace.
///
/// # Errors
/// When TLS cannot be set up.
pub fn store_clients(egress: &Egress) -> Result<StoreClients> {
    let client = |total| {
        let timeouts = ClientTimeouts { connect: Duration::from_secs(5), total, keep_idle: Duration::from_secs(15) };
        egress.provider_client(timeouts).context("the connections to the object store")
    };
    Ok(StoreClients { write: client(STORE_WRITE)?, read: client(STORE_READ)? })
}

/// What a webhook address may be, and how long a delivery may take.
pub fn webhook_policy(config: &Config) -> EgressPolicy {
    EgressPolicy {
        allow_private: config.webhooks.allow_private_targets,
        timeout: config.webhooks.timeout,
        max_response_bytes: config.webhooks.max_response_bytes,
    }
}
