//! The HTTP API: doors only. It turns requests into calls of the rooms below and their answers into documents.
//!
//! Always holds: a tenant's data is reached through a [`auth::Caller`] alone; every error leaves as `problem+json` with a
//! trace id ([`error`]); a body is read up to a limit before it is understood; nothing is frozen for an order that is not
//! wholly valid. The OpenAPI document is made from the handlers and compared with `openapi/openapi.json`.
//!
//! Refuses: SQL, decisions, status codes outside of [`error`], prompts and keys in logs.
//!
//! A new endpoint: a handler in the file of its resource (or a new file), its struct in [`Api`], then `freezeframe openapi`.

mod attempts;
mod auth;
mod batch_schema;
mod batches;
mod callbacks;
mod docs;
mod error;
mod files;
mod images;
mod ledger;
mod limits;
mod models;
mod observe;
mod operations;
mod ops;
mod page;
mod server;
mod videos;
mod wallet;
mod words;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use poem::{Endpoint, EndpointExt as _, Response, Route, get};
use poem_openapi::{ExtraHeader, OpenApiService, Tags};
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use tokio_util::sync::CancellationToken;

use crate::batches::{Admission, OrderLimits};
use crate::config::{Config, Live};
use crate::db::Database;
use crate::providers::catalogue::Catalogue;
use crate::providers::egress::EgressPolicy;
use crate::storage::{LinkSigner, Storage};

use auth::KnownKeys;
pub use callbacks::CallbackDoor;
use error::ApiError;
use operations::Operations;
pub use server::{HttpServer, Listeners, allow_files};

/// Where the documented operations are mounted.
const PREFIX: &str = "/api/enterprise";
/// How long a request waits for connections to the database, all its waits together, before it is told to come back.
const CONNECTION_WITHIN: Duration = Duration::from_secs(4);
/// The least of that for the second of two waits.
const LEAST_WAIT: Duration = Duration::from_millis(100);

/// What the handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    db: Database,
    admission: Admission,
    catalogue: Live<Catalogue>,
    storage: Storage,
    links: LinkSigner,
    order_limits: OrderLimits,
    images: images::ImageRules,
    image_turns: Arc<crate::images::Turns>,
    max_body_bytes: usize,
    known_keys: Arc<KnownKeys>,
    /// Without it, no callbacks are taken.
    callbacks: Option<CallbackDoor>,
    /// Set when the process stops: it is no longer ready.
    stopping: CancellationToken,
}

impl ApiState {
    /// Takes the limits of requests from `config`. The pool of `db` should give up an acquire within 4 seconds, so that a
    /// client is told so within 5.
    pub fn new(
        db: Database,
        admission: Admission,
        catalogue: Live<Catalogue>,
        (storage, links): (Storage, LinkSigner),
        config: &Config,
    ) -> ApiState {
        let order_limits = OrderLimits {
            max_items: config.limits.max_items,
            webhooks: EgressPolicy {
                allow_private: config.webhooks.allow_private_targets,
                timeout: config.webhooks.timeout,
                max_response_bytes: config.webhooks.max_response_bytes,
            },
            images: EgressPolicy {
                allow_private: config.images.allow_private_sources,
                timeout: config.images.fetch_timeout,
                max_response_bytes: config.images.max_image_bytes,
            },
        };
        ApiState {
            db,
            admission,
            catalogue,
            storage,
            links,
            order_limits,
            images: images::ImageRules::of(&config.images),
            image_turns: Arc::default(),
            max_body_bytes: config.limits.max_body_bytes,
            known_keys: Arc::default(),
            callbacks: None,
            stopping: CancellationToken::new(),
        }
    }

    /// Takes callbacks of providers too.
    pub fn with_callbacks(self, door: CallbackDoor) -> ApiState {
        ApiState { callbacks: Some(door), ..self }
    }

    /// A connection for reads, within [`CONNECTION_WITHIN`].
    async fn connection(&self) -> Result<PoolConnection<Postgres>, ApiError> {
        let asked = Instant::now();
        let within = server::left_of(CONNECTION_WITHIN).max(LEAST_WAIT);
        let acquired = tokio::time::timeout(within, self.db.pool().acquire()).await;
        server::waited(asked.elapsed());
        match acquired {
            Ok(acquired) => acquired.map_err(|error| ApiError::no_database(&error)),
            Err(_) => Err(ApiError::no_database(&sqlx::Error::PoolTimedOut)),
        }
    }
}

#[derive(Tags)]
enum Topic {
    /// Submit batches of videos and follow them.
    Batches,
    /// Where every credit is and went.
    Money,
    /// What may be ordered.
    Catalogue,
    /// What videos may start from.
    Images,
}

/// Every documented API.
type Api = (
    batches::BatchesApi,
    videos::VideosApi,
    ledger::LedgerApi,
    wallet::WalletApi,
    models::ModelsApi,
    images::ImagesApi,
);

/// The whole HTTP interface on one screen.
fn routes(state: ApiState, metrics_here: bool) -> impl Endpoint<Output = Response> + 'static {
    let service = service();
    let routes = Route::new()
        .at("/docs", docs::reference(&service.swagger_ui_html()))
        .at("/openapi.json", docs::document(openapi_json()))
        .at("/problems", docs::problems())
        .at("/files/:file", get(files::file).head(files::file))
        .at("/callbacks/:account", callbacks::of_project)
        .at("/callbacks/:account/:token", callbacks::of_attempt)
        .at("/healthz", get(ops::healthz))
        .at("/readyz", get(ops::readyz))
        .nest(PREFIX, service);
    let routes = if metrics_here { routes.at("/metrics", get(ops::metrics)) } else { routes };
    routes.data(state).map_to_response()
}

/// What the port for metrics answers.
fn operations(state: ApiState) -> impl Endpoint<Output = Response> + 'static {
    let routes = Route::new()
        .at("/healthz", get(ops::healthz))
        .at("/readyz", get(ops::readyz))
        .at("/metrics", get(ops::metrics));
    routes.data(state).map_to_response()
}

fn api() -> Api {
    (batches::BatchesApi, videos::VideosApi, ledger::LedgerApi, wallet::WalletApi, models::ModelsApi, images::ImagesApi)
}

fn service() -> OpenApiService<Operations<Api>, ()> {
    OpenApiService::new(Operations::new(api(), PREFIX), "Freezeframe", env!("CARGO_PKG_VERSION"))
        .description(include_str!("about.md"))
        .url_prefix(PREFIX)
        .extra_response_header::<String, _>(
            ExtraHeader::new("X-Trace-Id").description("Names this request in our logs."),
        )
}

/// The OpenAPI document: the same text whenever it is made by the same program.
pub fn openapi_json() -> String {
    service().spec() + "\n"
}
