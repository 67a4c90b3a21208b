//! Everything that the demo needs around it: a provider that only pretends, the whole service, a customer with credits,
//! and the customer's webhook receiver.
//!
//! Always holds: the demo lives in a directory of its own below the data directory, with its own database, store and key.
//! It never touches a configured database, provider account or bucket, so it can neither spend money nor show up in
//! anybody's books; two demos at once have two directories. Where the settings name a database, the demo's own is made
//! beside it on that server and stays there, like the directory, so that the next demo finds what the last one left.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use url::Url;

use super::receiver::Receiver;
use crate::billing;
use crate::cli::client::Api;
use crate::cli::signals::{self, Signals};
use crate::config::{Config, ProviderConfig, built_in_models};
use crate::db::{self, Database};
use crate::domain::{Credits, GrantSource, Secret};
use crate::emulator::{Emulator, EmulatorSettings, Profile};
use crate::service::{Parts, Roles, Service, Store};
use crate::tenants::NewTenant;

/// What the demo's customer begins with: more than the batch costs, so that it can order again.
pub(super) const OPENING_CREDITS: i64 = 10_000;
/// Few enough at once that some videos are seen waiting.
const MAX_IN_FLIGHT: u32 = 6;
const VIDEOS_PER_MINUTE: u32 = 600;
const EMULATOR_KEY: &str = "demo-provider-key";
const MOST_DEMOS_AT_ONCE: u32 = 50;

/// A demo that is ready to be played.
pub(super) struct Stage {
    pub(super) directory: PathBuf,
    pub(super) emulator: Emulator,
    pub(super) db: Database,
    pub(super) tenant: NewTenant,
    pub(super) receiver: Receiver,
    pub(super) api: Api,
    pub(super) address: SocketAddr,
    pub(super) service: Service,
    store: Store,
    /// Held as long as the directory is in use.
    _lock: File,
}

impl Stage {
    pub(super) async fn set(mut config: Config) -> Result<Stage> {
        let (directory, lock) = own_directory(&config.data_dir)?;
        let settings = EmulatorSettings {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            seed: 1,
            api_key: EMULATOR_KEY.to_owned(),
            profile: Profile::demo(),
        };
        let emulator = Emulator::start(settings).await?;
        let server = config.database_url.take();
        make_safe(&mut config, &directory, &emulator.base_url())?;
        if let Some(server) = server {
            config.database_url = Some(own_database(&server, &directory).await?);
        }
        let store = Store::open(&config).await?;
        let service = match start(&mut config, &store).await {
            Ok(service) => service,
            Err(error) => {
                store.release().await?;
                return Err(error);
            }
        };
        let address = service.address.context("the API does not listen")?;
        let db = store.connect("demo", 2, false).await?;
        let credits = (Credits::new(OPENING_CREDITS)?, GrantSource::Promotional);
        let limits = ("Demo Studio", VIDEOS_PER_MINUTE, MAX_IN_FLIGHT);
        let tenant = billing::onboard(&db, &service.master, limits, credits).await?;
        let receiver = Receiver::start(tenant.webhook_secret.expose()).await?;
        let api = Api::new(&format!("http://{address}"), &Secret::new(tenant.api_key.expose()))?;
        Ok(Stage { directory, emulator, db, tenant, receiver, api, address, service, store, _lock: lock })
    }

    /// Resolves when somebody wants the demo to end, or when a part of it ended by itself.
    pub(super) async fn wait(&mut self, signals: &mut Signals) -> Result<()> {
        tokio::select! {
            () = signals.next() => Ok(()),
            ended = self.service.failed() => {
                ended?;
                bail!("a role of the demo ended although nobody asked it to");
            }
        }
    }

    pub(super) async fn clear(self, signals: Signals) -> Result<()> {
        // a customer who stays connected would be waited for
        drop(self.api);
        self.db.close().await;
        signals::stop(self.service, self.store, signals).await?;
        self.emulator.stop().await
    }
}

/// The first of `demo`, `demo-2`, ... below the data directory that no other demo is using.
fn own_directory(data_dir: &Path) -> Result<(PathBuf, File)> {
    for number in 1..=MOST_DEMOS_AT_ONCE {
        let name = if number == 1 { "demo".to_owned() } else { format!("demo-{number}") };
        let directory = data_dir.join(name);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make the directory {}", directory.display()))?;
        let path = directory.join("demo.lock");
        let lock = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => return Ok((directory, lock)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
    bail!("{MOST_DEMOS_AT_ONCE} demos are running in {}; stop some", data_dir.display())
}

/// The demo's database on a server that is not its own.
async fn own_database(server: &Secret, directory: &Path) -> Result<Secret> {
    let name = database_name(directory)?;
    db::ensure_database(server.expose(), &name).await.context(
        "the demo makes a database of its own on the server that DATABASE_URL names: let its user create databases, \
         or unset DATABASE_URL",
    )?;
    let mut url = Url::parse(server.expose()).context("DATABASE_URL")?;
    url.set_path(&name);
    Ok(Secret::new(url.as_str()))
}

/// Kept in the directory. Whoever removes that gets a new database: the old one's secrets cannot be read without the key
/// that was in there.
fn database_name(directory: &Path) -> Result<String> {
    let path = directory.join("database");
    match fs::read_to_string(&path) {
        Ok(name) => Ok(name.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let name = format!("freezeframe_demo_{:08x}", rand::random::<u32>());
            fs::write(&path, &name).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(name)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Turns the settings into those of a demo: everything local, everything pretended.
fn make_safe(config: &mut Config, directory: &Path, provider: &str) -> Result<()> {
    let absolute = std::path::absolute(directory)?;
    directory.clone_into(&mut config.data_dir);
    config.storage.url = Url::from_directory_path(absolute.join("videos"))
        .map_err(|()| anyhow::anyhow!("{} cannot be written as a URL", absolute.display()))?;
    (config.database_url, config.database_api_url) = (None, None);
    config.master_key = None;
    config.public_url = None;
    config.listen.set_ip(Ipv4Addr::LOCALHOST.into());
    (config.http.tls, config.http.metrics_listen) = (None, None);
    config.models = built_in_models();
    config.providers.clear();
    let accounts = config.models.iter().flat_map(|model| model.accounts().map(str::to_owned));
    for account in accounts.collect::<std::collections::BTreeSet<String>>() {
        let base_url = Url::parse(provider)?;
        config.set_provider(ProviderConfig::embedded(&account, base_url, Secret::new(EMULATOR_KEY)));
    }
    config.limits.answer_every_request();
    // the receiver is on loopback
    config.webhooks.allow_private_targets = true;
    Ok(())
}

/// Starts the service on the wanted port, or on any if that one is taken.
async fn start(config: &mut Config, store: &Store) -> Result<Service> {
    match Service::start(config, store, Roles::ALL, Parts::default()).await {
        Err(error) if is_taken(&error) => {
            config.listen.set_port(0);
            Service::start(config, store, Roles::ALL, Parts::default()).await
        }
        started => started,
    }
}

fn is_taken(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| error.kind() == ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::{database_name, is_taken, make_safe, own_directory};
    use crate::config::Config;

    #[test]
    fn two_demos_at_once_have_two_directories() {
        let data = tempfile::tempdir().unwrap();
        let (first, lock) = own_directory(data.path()).unwrap();
        let (second, _second_lock) = own_directory(data.path()).unwrap();
        assert_eq!((first, second), (data.path().join("demo"), data.path().join("demo-2")));
        drop(lock);
        assert_eq!(own_directory(data.path()).unwrap().0, data.path().join("demo"));
    }

    #[test]
    fn a_demo_finds_its_database_again_and_two_have_two() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let name = database_name(first.path()).unwrap();
        assert_eq!(database_name(first.path()).unwrap(), name);
        assert_ne!(database_name(second.path()).unwrap(), name);
    }

    #[test]
    fn a_taken_port_is_told_from_other_troubles() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = TcpListener::bind(taken.local_addr().unwrap()).unwrap_err();
        assert!(is_taken(&anyhow::Error::new(error).context("cannot listen")));
        assert!(!is_taken(&anyhow::Error::new(std::io::Error::other("no space"))));
    }

    #[test]
    fn a_demo_never_sees_the_configured_database_bucket_key_or_provider() {
        let text = r#"
            public_url = "https://video.example.com"
            listen = "0.0.0.0:8080"
            [storage]
            url = "s3://bucket/videos"
            [[provider]]
            name = "sora"
            kind = "openai_videos"
            base_url = "https://gateway.example.com/v1"
            api_key_env = "SORA_API_KEY"
            requests_per_minute = 50
            max_in_flight = 20
            [[model]]
            name = "sora-2"
            provider = "sora"
            price_credits = 61
            standard_seconds = 4
            seconds = [4]
            sizes = ["1280x720"]
        "#;
        let variables = [("DATABASE_URL", "postgres://db.internal/x"), ("FREEZEFRAME_MASTER_KEY", &"42".repeat(32))];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut config = Config::from_sources(text, variables).unwrap();
        let data = tempfile::tempdir().unwrap();
        make_safe(&mut config, data.path(), "http://127.0.0.1:4/v1").unwrap();
        assert!(config.database_url.is_none() && config.master_key.is_none() && config.public_url.is_none());
        assert!(config.listen.ip().is_loopback());
        assert_eq!(config.storage.url.scheme(), "file");
        assert!(config.providers.iter().all(|account| account.base_url.host_str() == Some("127.0.0.1")));
        let led = |account: &str| config.providers.iter().any(|provider| provider.name == account);
        assert!(config.models.iter().all(|model| model.accounts().all(led)));
    }
}
