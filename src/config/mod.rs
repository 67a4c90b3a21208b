//! The settings: defaults, then `freezeframe.toml`, then `FREEZEFRAME_*` variables, then `DATABASE_URL`; later wins.
//!
//! Owns every look at the environment; nobody else reads it. `[engine] slots` is `FREEZEFRAME_ENGINE__SLOTS`, a setting
//! outside of every section is `FREEZEFRAME_LISTEN`; lists (`[[provider]]`, `[[model]]`) come from the file alone.
//! Always holds: a [`Config`] that was loaded is within its bounds and consistent. Everything wrong is told at once, by
//! the name of the setting and never with its value. Secrets are [`Secret`] from the first line on.
//! Refuses: unknown settings, values out of bounds, prices with a fraction of a credit, a password in a URL that is shown.

mod accounts;
mod callbacks;
mod fal;
mod http;
mod images;
mod kinds;
mod live;
mod models;
mod reader;
mod reconcile;
mod sections;
mod storage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::Table;
use url::Url;

use crate::domain::Secret;
pub use accounts::ProviderConfig;
pub use callbacks::CallbackConfig;
pub use fal::{FalConfig, InputPattern, Quantity};
pub use http::{ConnectionLimits, HttpConfig, RequestLimits, TlsConfig, WaitLimits};
pub use images::{IMAGE_MEMORY_UNIT, ImagesConfig};
pub use kinds::{GoogleIdentity, ProviderKind, VeoConfig, VertexConfig};
pub use live::Live;
pub use models::{ModelConfig, RouteConfig, built_in as built_in_models, problems_of_all as model_problems};
use reader::{Reader, Section};
pub use reconcile::ReconcileConfig;
pub use sections::{
    AttemptsConfig, EngineConfig, LimitsConfig, LogConfig, MAX_REQUESTS_PER_MINUTE, SchedulerConfig, WebhooksConfig,
};
pub use storage::{LONGEST_RETENTION_DAYS, StorageConfig, StoreAccess};

/// The file that is read when no other is named and it exists.
pub const DEFAULT_FILE: &str = "freezeframe.toml";

/// Names the settings file when the command line does not.
const FILE_VARIABLE: &str = "FREEZEFRAME_CONFIG";

/// Variables with the prefix that are no settings: the file's name, and what the command-line client reads.
const NO_SETTINGS: [&str; 3] = [FILE_VARIABLE, "FREEZEFRAME_URL", "FREEZEFRAME_API_KEY"];

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the settings file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the settings file is not valid TOML (line {line}): {message}")]
    Syntax { line: usize, message: String },
    #[error("the settings have {} problem(s):\n  - {}", .0.len(), .0.join("\n  - "))]
    Invalid(Vec<String>),
}

/// Every setting of the service.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that they were read from, to be read again on request.
    pub file: Option<PathBuf>,
    /// Where the embedded database and the local object store live.
    pub data_dir: PathBuf,
    /// The address of the HTTP server.
    pub listen: SocketAddr,
    /// The base of the links in answers, as customers reach this service.
    pub public_url: Option<Url>,
    /// An existing Postgres; without it the embedded one is used.
    pub database_url: Option<Secret>,
    /// The same Postgres with the login of requests, which can become nobody else there.
    pub database_api_url: Option<Secret>,
    /// The installation's key in 64 hexadecimal digits, from which all others are derived; every process needs the same.
    /// Without it, the file `master.key` in the data directory, made at first use.
    pub master_key: Option<Secret>,
    /// Where `initdb` and `postgres` are, for the embedded database.
    pub postgres_bin_dir: Option<PathBuf>,
    /// The user that the embedded database runs as when the service runs as root.
    pub postgres_run_as: Option<String>,
    pub log: LogConfig,
    pub engine: EngineConfig,
    pub scheduler: SchedulerConfig,
    pub limits: LimitsConfig,
    pub http: HttpConfig,
    pub webhooks: WebhooksConfig,
    pub storage: StorageConfig,
    pub images: ImagesConfig,
    pub attempts: AttemptsConfig,
    pub reconcile: ReconcileConfig,
    pub providers: Vec<ProviderConfig>,
    pub models: Vec<ModelConfig>,
}

impl Config {
    /// Loads the settings. Without `path`: the file that `FREEZEFRAME_CONFIG` names, else `freezeframe.toml` if it is
    /// there, else none.
    ///
    /// # Errors
    /// [`ConfigError`]: the named file cannot be read, or everything that is wrong with the settings.
    pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
        // A variable that is no Unicode has no name or no value that could be meant for us.
        let variables: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let named = path.map(Path::to_owned).or_else(|| variables.get(FILE_VARIABLE).map(PathBuf::from));
        let path = named.or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists()));
        let text = match path.clone() {
            Some(path) => std::fs::read_to_string(&path).map_err(|source| ConfigError::Unreadable { path, source })?,
            None => String::new(),
        };
        Ok(Config { file: path, ..Config::from_sources(&text, variables)? })
    }

    /// The settings of a file's text and a set of environment variables. Empty variables count as absent. With neither,
    /// these are the defaults.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`] or, with every problem, [`ConfigError::Invalid`].
    pub fn from_sources(
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let root: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
            line: error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count()),
            // Not the error's own text: it quotes the line, which may hold a password.
            message: error.message().to_owned(),
        })?;
        let variables: BTreeMap<String, String> =
            variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let mut reader = Reader::new(root, overlay(&variables));
        let providers = accounts::read(&mut reader, &variables);
        let models = models::read(&mut reader);
        accounts::check_models(&mut reader.problems, &providers, &models);
        let log = sections::read_log(&mut reader);
        let engine = sections::read_engine(&mut reader);
        let scheduler = sections::read_scheduler(&mut reader);
        let limits = sections::read_limits(&mut reader);
        let http = http::read_http(&mut reader, &limits);
        let webhooks = sections::read_webhooks(&mut reader);
        let attempts = sections::read_attempts(&mut reader);
        let images = images::read(&mut reader);
        let reconcile = reconcile::read(&mut reader);
        let mut storage = storage::read(&mut reader, &variables);

        let mut top = reader.top();
        let data_dir = top.text("data_dir").map_or_else(|| PathBuf::from(".freezeframe"), PathBuf::from);
        let listen = top.parsed("listen", "an address with a port, such as 127.0.0.1:8080");
        let public_url = top.web_url("public_url");
        if let Some(account) = accounts::without_address(&providers, public_url.as_ref()) {
            top.problem("public_url", format_args!("is missing: the provider {account:?} is to call back there"));
        }
        let database_url = read_database_url(&mut top, &variables);
        let database_api_url = read_database_api_url(&mut top, database_url.is_some());
        let master_key = top.text("master_key").map(Secret::new);
        let postgres_bin_dir = top.text("postgres_bin_dir").map(PathBuf::from);
        let postgres_run_as = top.text("postgres_run_as");
        if storage.url.is_none() {
            storage.url = storage::directory_url(&data_dir.join("videos"));
        }
        if storage.url.is_none() {
            top.problem("data_dir", "is relative and this process has no working directory; give an absolute path");
        }
        top.finish();
        let problems = reader.finish();
        let Some(storage) = storage.complete().filter(|_| problems.is_empty()) else {
            return Err(ConfigError::Invalid(problems));
        };
        Ok(Config {
            file: None,
            data_dir,
            listen: listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080))),
            public_url,
            database_url,
            database_api_url,
            master_key,
            postgres_bin_dir,
            postgres_run_as,
            log,
            engine,
            scheduler,
            limits,
            http,
            webhooks,
            storage,
            images,
            attempts,
            reconcile,
            providers,
            models,
        })
    }

    /// Adds an account, or replaces the one of that name: for the embedded demo and for tests.
    pub fn set_provider(&mut self, account: ProviderConfig) {
        self.providers.retain(|other| other.name != account.name);
        self.providers.push(account);
    }
}

/// The variables that are settings. Those that name the file or belong to the client are not.
fn overlay(variables: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let settings = variables.iter().filter(|(name, _)| !NO_SETTINGS.contains(&name.as_str()));
    settings.filter_map(|(name, value)| Some((reader::setting_of(name)?, value.clone()))).collect()
}

fn read_database_url(top: &mut Section<'_>, variables: &BTreeMap<String, String>) -> Option<Secret> {
    let from_setting = top.text("database_url");
    let url = variables.get("DATABASE_URL").cloned().or(from_setting).map(Secret::new)?;
    if !is_postgres(url.expose()) {
        top.problem("database_url", "(or DATABASE_URL) must start with postgres:// or postgresql://");
    }
    Some(url)
}

fn read_database_api_url(top: &mut Section<'_>, has_database: bool) -> Option<Secret> {
    let url = top.text("database_api_url").map(Secret::new)?;
    if !is_postgres(url.expose()) {
        top.problem("database_api_url", "must start with postgres:// or postgresql://");
    }
    if !has_database {
        top.problem(
            "database_api_url",
            "needs database_url (or DATABASE_URL): the embedded database has this login by itself",
        );
    }
    Some(url)
}

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}
