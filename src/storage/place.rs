//! Where objects are: a local directory, memory, or a bucket of S3 (and what speaks like it), Google Cloud or Azure.
//!
//! Always holds: a remote store is reached through the two HTTP clients that the caller brings, which come from the one
//! door for outbound connections; the library opens none of its own. Credentials are static keys, the vendor's own
//! variables, or those of the machine (instance role, task role, web identity, workload identity, managed identity),
//! which the library fetches and renews itself. A request is repeated a few times within a minute: every one that we make
//! may be repeated.
//! Refuses: the environment (the settings carry what matters of it), credentials in a URL, to show a key.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::put::{LOCAL_PART_BYTES, PART_BYTES};
use crate::config::{StorageConfig, StoreAccess};

/// Retries of one request. A store that is away for longer is told to the caller, whose own pause is longer.
const RETRIES: usize = 5;
const RETRY_WITHIN: Duration = Duration::from_secs(60);
/// The same where somebody waits for the answer: a reader, who can ask again, and the probe at start, which is to tell what
/// is wrong and not to wait until it is right.
const HASTY_RETRIES: usize = 2;
const HASTY_RETRY_WITHIN: Duration = Duration::from_secs(10);

/// The HTTP clients of a remote store, from the one door for outbound connections.
#[derive(Clone, Debug)]
pub struct StoreClients {
    /// For everything but reads. Its time limit is that of sending one part.
    pub write: reqwest::Client,
    /// For reads. Its time limit is that of the slowest player that is served.
    pub read: reqwest::Client,
}

impl HttpConnector for StoreClients {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for StoreClients {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let client = if reads_an_object(&request) { &self.read } else { &self.write };
        client.call(request).await
    }
}

/// What fetches credentials of the machine is a GET too, but carries none.
fn reads_an_object(request: &HttpRequest) -> bool {
    let signed = request.headers().contains_key(reqwest::header::AUTHORIZATION)
        || request.uri().query().is_some_and(|query| query.contains("sig="));
    request.method() == reqwest::Method::GET && signed
}

/// An opened place.
pub(super) struct Place {
    pub(super) store: Arc<dyn ObjectStore>,
    /// The same place with fewer retries.
    pub(super) hasty: Arc<dyn ObjectStore>,
    pub(super) part_bytes: usize,
    /// Whether objects keep a content type.
    pub(super) keeps_attributes: bool,
    /// The place in words, for people. Holds no secret.
    pub(super) name: Arc<str>,
}

impl Place {
    pub(super) fn in_memory() -> Place {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        Place { hasty: store.clone(), store, part_bytes: PART_BYTES, keeps_attributes: true, name: "memory".into() }
    }

    pub(super) fn open(
        config: &StorageConfig,
        clients: impl FnOnce() -> anyhow::Result<StoreClients>,
    ) -> anyhow::Result<Place> {
        let StorageConfig { url, access, .. } = config;
        match url.scheme() {
            "memory" => Ok(Place::in_memory()),
            "file" => {
                let path = url.to_file_path().ok();
                let path = path.context("the storage URL names no local directory; expected file:///directory")?;
                let name = path.display().to_string().into();
                let store: Arc<dyn ObjectStore> = Arc::new(open_directory(path)?);
                let hasty = store.clone();
                Ok(Place { store, hasty, part_bytes: LOCAL_PART_BYTES, keeps_attributes: false, name })
            }
            "s3" | "gs" | "az" => {
                let clients = clients()?;
                let open = |max_retries, retry_timeout| {
                    let backoff = BackoffConfig { max_backoff: Duration::from_secs(10), ..BackoffConfig::default() };
                    let retry = RetryConfig { backoff, max_retries, retry_timeout };
                    remote(url, access, &clients, retry).with_context(|| format!("the storage {url} cannot be set up"))
                };
                let store = open(RETRIES, RETRY_WITHIN)?;
                let hasty = open(HASTY_RETRIES, HASTY_RETRY_WITHIN)?;
                let name = match &access.endpoint {
                    Some(endpoint) => format!("{url} at {endpoint}").into(),
                    None => url.as_str().into(),
                };
                Ok(Place { store, hasty, part_bytes: PART_BYTES, keeps_attributes: true, name })
            }
            other => anyhow::bail!("storage of kind `{other}://` is not known; use a directory, file, s3, gs or az"),
        }
    }
}

fn remote(
    url: &Url,
    access: &StoreAccess,
    clients: &StoreClients,
    retry: RetryConfig,
) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let bucket = url.host_str().context("it names no bucket")?;
    let prefix = Path::from_url_path(url.path()).context("its path cannot be part of a key")?;
    Ok(match url.scheme() {
        "s3" => {
            let builder = s3(bucket, access)?.with_retry(retry).with_http_connector(clients.clone());
            Arc::new(PrefixStore::new(builder.build()?, prefix))
        }
        "gs" => {
            let builder = gs(bucket, access).with_retry(retry).with_http_connector(clients.clone());
            Arc::new(PrefixStore::new(builder.build()?, prefix))
        }
        _ => {
            let builder = az(bucket, access).with_retry(retry).with_http_connector(clients.clone());
            Arc::new(PrefixStore::new(builder.build()?, prefix))
        }
    })
}

fn s3(bucket: &str, access: &StoreAccess) -> anyhow::Result<AmazonS3Builder> {
    use AmazonS3ConfigKey as Key;
    let mut builder = AmazonS3Builder::new();
    for (name, value) in &access.environment {
        // a session token belongs to the key that it came with
        let replaced = |key: &Key| {
            matches!(key, Key::AccessKeyId | Key::SecretAccessKey | Key::Token) && access.access_key_id.is_some()
        };
        if let Some(key) = name.parse::<Key>().ok().filter(|key| !replaced(key)) {
            builder = builder.with_config(key, value.expose());
        }
    }
    if let (Some(id), Some(secret)) = (&access.access_key_id, &access.secret_access_key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret.expose());
    }
    if let Some(region) = &access.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &access.endpoint {
        let mut endpoint = endpoint.clone();
        if access.virtual_hosted {
            let host = format!("{bucket}.{}", endpoint.host_str().unwrap_or_default());
            endpoint.set_host(Some(&host)).context("the bucket's name cannot be part of a host name")?;
        }
        // the more specific of the two, so that no variable wins over the setting
        builder = builder.with_config(Key::S3Endpoint, endpoint.as_str().trim_end_matches('/'));
    }
    if access.virtual_hosted {
        builder = builder.with_virtual_hosted_style_request(true);
    }
    // objects are deleted one by one, by the request that every service understands
    Ok(builder.with_disable_bulk_delete(true).with_bucket_name(bucket))
}

fn gs(bucket: &str, access: &StoreAccess) -> GoogleCloudStorageBuilder {
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in &access.environment {
        if let Ok(key) = name.parse::<GoogleConfigKey>() {
            builder = builder.with_config(key, value.expose());
        }
    }
    if let Some(file) = &access.credentials_file {
        builder = builder.with_service_account_path(file.to_string_lossy());
    }
    if let Some(endpoint) = &access.endpoint {
        builder = builder.with_base_url(endpoint.as_str().trim_end_matches('/'));
    }
    builder.with_bucket_name(bucket)
}

fn az(container: &str, access: &StoreAccess) -> MicrosoftAzureBuilder {
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in &access.environment {
        if let Ok(key) = name.parse::<AzureConfigKey>() {
            builder = builder.with_config(key, value.expose());
        }
    }
    if let Some(account) = &access.access_key_id {
        builder = builder.with_account(account);
    }
    if let Some(key) = &access.secret_access_key {
        builder = builder.with_access_key(key.expose());
    }
    if let Some(endpoint) = &access.endpoint {
        builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/').to_owned());
    }
    builder.with_container_name(container)
}

/// A store in `path`. The directory itself is for its owner alone (the store makes files that all may read); those above
/// it, which may be shared with other services, are made as usual.
fn open_directory(path: PathBuf) -> anyhow::Result<LocalFileSystem> {
    let make = || -> io::Result<()> {
        let path = std::path::absolute(&path)?;
        let Some(parent) = path.parent().filter(|_| !path.is_dir()) else { return Ok(()) };
        let new_above: Vec<_> = parent.ancestors().take_while(|above| !above.is_dir()).collect();
        fs::create_dir_all(parent)?;
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if !path.is_dir() => return Err(error),
            _ => {}
        }
        // Each new name is durable once the directory that holds it is.
        File::open(parent)?.sync_all()?;
        new_above.iter().filter_map(|above| above.parent()).try_for_each(|holder| File::open(holder)?.sync_all())
    };
    make().with_context(|| format!("cannot make the storage directory {}", path.display()))?;
    let store = LocalFileSystem::new_with_prefix(&path)
        .with_context(|| format!("cannot open the storage directory {}", path.display()))?;
    // Costs about 1 ms for a video of 140 kB and 4 ms for one of 4 MB on a virtual disk; 32 at a time share it to 0.5 ms.
    Ok(store.with_fsync(true).with_automatic_cleanup(true))
}
