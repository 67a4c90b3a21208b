//! The database of a process: which one, migrated, and how each part of the process logs in to it.
//!
//! Always holds: nobody but migrations and measurements acts as the owner. Requests have a login that can become nobody else:
//! on the embedded server always, on the user's own Postgres as the settings say.

use std::time::Duration;

use anyhow::{Context, Result};
use url::Url;

use crate::config::Config;
use crate::db::{self, Database, DatabaseSettings, Embedded, EmbeddedSettings, REQUEST_WITHIN, RequestDb};

/// The role that everything but migrating and answering requests acts as; it owns nothing.
const APP_ROLE: &str = "freezeframe_app";
/// The role of requests.
const API_ROLE: &str = "freezeframe_api";
/// The database of the embedded server.
const EMBEDDED_DATABASE: &str = "freezeframe";
/// Operators are few.
const OPERATOR_CONNECTIONS: u32 = 4;
/// A lock that an operator's change does not get is told while the operator still waits.
const OPERATOR_LOCK: Duration = Duration::from_millis(1_500);
/// Callbacks are written by one connection, many at a time.
const MAILBOX_CONNECTIONS: u32 = 1;

/// A database that is migrated and ready, embedded or the user's own.
pub struct Store {
    url: String,
    /// Where requests log in; without it, as the owner who then acts as their role.
    api_url: Option<String>,
    pub(super) embedded: Option<Embedded>,
}

impl Store {
    /// Starts or joins the embedded server unless the settings name a database, and migrates.
    ///
    /// # Errors
    /// Says what is missing and how to get it.
    pub async fn open(config: &Config) -> Result<Store> {
        let (url, embedded) = match &config.database_url {
            Some(url) => (url.expose().to_owned(), None),
            None => {
                let embedded = start_embedded(config).await?;
                db::ensure_database(&embedded.url("postgres"), EMBEDDED_DATABASE).await?;
                (embedded.url(EMBEDDED_DATABASE), Some(embedded))
            }
        };
        let api_url = config.database_api_url.as_ref().map(|url| url.expose().to_owned());
        Store::migrated(url, api_url, embedded).await
    }

    async fn migrated(url: String, api_url: Option<String>, embedded: Option<Embedded>) -> Result<Store> {
        db::migrate(&url).await.context("the database could not be migrated")?;
        let api_url = match embedded {
            Some(_) => Some(own_login(&url).await?),
            None => api_url,
        };
        Ok(Store { url, api_url, embedded })
    }

    /// A new database of that name on the same server, for a run that must not touch the real one; an old one of that
    /// name is removed.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_scratch(config: &Config, name: &str) -> Result<Store> {
        let (admin, embedded) = match &config.database_url {
            Some(url) => (url.expose().to_owned(), None),
            None => {
                let embedded = start_embedded(config).await?;
                (embedded.url("postgres"), Some(embedded))
            }
        };
        db::drop_database(&admin, name).await?;
        db::create_database(&admin, name, None).await?;
        let there = |address: &str| -> Result<String> {
            let mut url = Url::parse(address).context("the address of the database")?;
            url.set_path(name);
            Ok(url.to_string())
        };
        let api_url = config.database_api_url.as_ref().map(|url| there(url.expose())).transpose()?;
        Store::migrated(there(&admin)?, api_url, embedded).await
    }

    /// Removes the database that [`Store::open_scratch`] made.
    ///
    /// # Errors
    /// When it could not be removed.
    pub async fn drop_scratch(self) -> Result<()> {
        let mut admin = Url::parse(&self.url).context("the address of the database")?;
        let name = admin.path().trim_start_matches('/').to_owned();
        admin.set_path("postgres");
        db::drop_database(admin.as_str(), &name).await?;
        self.release().await
    }

    /// The address of the database. May hold a password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Connects as the owner of the tables: for migrations and measurements only.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn connect_as_owner(&self) -> Result<Database> {
        Database::connect(&DatabaseSettings { max_connections: 4, ..DatabaseSettings::new(&self.url) }).await
    }

    /// Connects as the application's role.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn connect(&self, name: &str, connections: u32, engine_plans: bool) -> Result<Database> {
        Database::connect(&DatabaseSettings {
            application_name: format!("freezeframe {name}"),
            max_connections: connections,
            acquire_timeout: Duration::from_secs(4),
            role: Some(APP_ROLE.to_owned()),
            engine_plans,
            ..DatabaseSettings::new(&self.url)
        })
        .await
    }

    /// Connects for requests, by a login of their own if there is one.
    ///
    /// # Errors
    /// When the database cannot be reached, or that login may act as more than requests need.
    pub async fn connect_requests(&self, name: &str, connections: u32) -> Result<RequestDb> {
        if self.api_url.is_none() {
            tracing::warn!(
                "requests log in to the database as its owner and only act as {API_ROLE}: give them a login of their own \
                 (\"alter role {API_ROLE} login password '...'\") and name it in the setting database_api_url"
            );
        }
        RequestDb::connect(&self.as_requests(name, connections)).await
    }

    /// Connects for noting callbacks, which are of no tenant: as requests do, and apart from them.
    ///
    /// # Errors
    /// As [`Store::connect_requests`].
    pub async fn connect_mailbox(&self) -> Result<Database> {
        Database::connect(&self.as_requests("callbacks", MAILBOX_CONNECTIONS)).await
    }

    /// Connects for operators' requests: across tenants, and with no statement that takes longer than a request may.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn connect_operators(&self) -> Result<Database> {
        Database::connect(&DatabaseSettings {
            application_name: "freezeframe operators".to_owned(),
            max_connections: OPERATOR_CONNECTIONS,
            acquire_timeout: REQUEST_WITHIN,
            statement_timeout: REQUEST_WITHIN,
            lock_timeout: OPERATOR_LOCK,
            role: Some(APP_ROLE.to_owned()),
            ..DatabaseSettings::new(&self.url)
        })
        .await
    }

    fn as_requests(&self, name: &str, connections: u32) -> DatabaseSettings {
        let (url, role) = match &self.api_url {
            Some(url) => (url, None),
            None => (&self.url, Some(API_ROLE.to_owned())),
        };
        DatabaseSettings {
            application_name: format!("freezeframe {name}"),
            max_connections: connections,
            acquire_timeout: Duration::from_secs(4),
            role,
            ..DatabaseSettings::new(url)
        }
    }

    /// Stops the embedded server when nobody else uses it.
    ///
    /// # Errors
    /// When it could not be stopped.
    pub async fn release(self) -> Result<()> {
        if let Some(embedded) = self.embedded {
            embedded.release().await?;
        }
        Ok(())
    }
}

async fn start_embedded(config: &Config) -> Result<Embedded> {
    Embedded::start(EmbeddedSettings {
        root: config.data_dir.join("postgres"),
        bin_dir: config.postgres_bin_dir.clone(),
        run_as: config.postgres_run_as.clone(),
    })
    .await
}

/// Lets requests log in as their own role on a server that is ours alone: over its socket, where nobody else comes, since
/// the role has no password. Answers the address.
async fn own_login(url: &str) -> Result<String> {
    db::allow_login(url, API_ROLE).await?;
    let mut url = Url::parse(url).context("the address of the database")?;
    if url.set_username(API_ROLE).is_err() {
        anyhow::bail!("the address of the embedded database has no place for a login");
    }
    Ok(url.to_string())
}
