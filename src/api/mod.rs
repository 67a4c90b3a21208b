//! The HTTP API: doors only. It turns requests into calls of the rooms below and their answers into documents.
//!
//! Always holds: a tenant's data is reached through a [`auth::Caller`] alone, and the database through a [`RequestDb`]; what
//! operators may do across tenants is behind a state that only their routes get ([`operator`]);
//! every error leaves as `problem+json` with a trace id ([`error`]); a body is read up to a limit before it is understood;
//! nothing is frozen for an order that is not wholly valid. The OpenAPI document is made from the handlers and compared with
//! `openapi/openapi.json`; the operators' one with `openapi/operator.json`.
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
mod operator;
mod ops;
mod page;
mod pauses;
mod quotes;
mod rates;
mod retries;
mod server;
mod videos;
mod wallet;
mod words;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use poem::{Endpoint, EndpointExt as _, Response, Route, get};
use poem_openapi::{ExtraHeader, OpenApiService, Tags};
use tokio_util::sync::CancellationToken;

use crate::batches::{Admission, OrderLimits};
use crate::config::{Config, Live};
use crate::db::RequestDb;
use crate::providers::catalogue::Catalogue;
use crate::storage::{LinkSigner, Storage};
use crate::tenants::Tenant;

use auth::KnownKeys;
pub use callbacks::CallbackDoor;
use operations::Operations;
pub use operator::{OperatorState, openapi_json as operator_openapi_json};
use rates::Rates;
pub use server::{HttpServer, Listeners, allow_files};

/// Where the documented operations are mounted.
const PREFIX: &str = "/api/enterprise";

/// What the handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    db: RequestDb,
    admission: Admission,
    catalogue: Live<Catalogue>,
    storage: Storage,
    links: LinkSigner,
    order_limits: OrderLimits,
    images: images::ImageRules,
    image_turns: Arc<crate::images::Turns>,
    max_body_bytes: usize,
    known_keys: Arc<KnownKeys<Tenant>>,
    rates: Arc<Rates>,
    /// Without it, no callbacks are taken.
    callbacks: Option<CallbackDoor>,
    /// Set when the process stops: it is no longer ready.
    stopping: CancellationToken,
}

impl ApiState {
    /// Takes the limits of requests from `config`.
    pub fn new(
        db: RequestDb,
        admission: Admission,
        catalogue: Live<Catalogue>,
        (storage, links): (Storage, LinkSigner),
        config: &Config,
    ) -> ApiState {
        let order_limits = OrderLimits::new(config);
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
            rates: Arc::new(Rates::new(&config.limits)),
            callbacks: None,
            stopping: CancellationToken::new(),
        }
    }

    /// Takes callbacks of providers too.
    pub fn with_callbacks(self, door: CallbackDoor) -> ApiState {
        ApiState { callbacks: Some(door), ..self }
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
    pauses::PausesApi,
    quotes::QuotesApi,
    retries::RetriesApi,
);

/// The whole HTTP interface on one screen.
fn routes(state: ApiState, operators: OperatorState, metrics_here: bool) -> impl Endpoint<Output = Response> + 'static {
    let service = service();
    let routes = Route::new()
        .at("/docs", docs::reference(&service.swagger_ui_html()))
        .at("/openapi.json", docs::document(openapi_json()))
        .at("/operator/openapi.json", docs::document(operator_openapi_json()))
        .at("/problems", docs::problems())
        .at("/files/:file", get(files::file).head(files::file))
        .at("/callbacks/:account", callbacks::of_project)
        .at("/callbacks/:account/:token", callbacks::of_attempt)
        .at("/healthz", get(ops::healthz))
        .at("/readyz", get(ops::readyz))
        .nest(PREFIX, service)
        .nest(operator::PREFIX, operator::service().data(operators));
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
    (
        batches::BatchesApi,
        videos::VideosApi,
        ledger::LedgerApi,
        wallet::WalletApi,
        models::ModelsApi,
        images::ImagesApi,
        pauses::PausesApi,
        quotes::QuotesApi,
        retries::RetriesApi,
    )
}

fn service() -> OpenApiService<Operations<Api>, ()> {
    OpenApiService::new(Operations::new(api(), PREFIX), "Freezeframe", env!("CARGO_PKG_VERSION"))
        .description(include_str!("about.md"))
        .url_prefix(PREFIX)
        .extra_response_header::<String, _>(
            ExtraHeader::new("X-Trace-Id").description("Names this request in our logs."),
        )
        .extra_response_header::<Option<String>, _>(ExtraHeader::new("RateLimit-Policy").description(
            "With a valid key: how many requests (`q`) in how many seconds (`w`), for the key and for its tenant.",
        ))
        .extra_response_header::<Option<String>, _>(ExtraHeader::new("RateLimit").description(
            "With a valid key: how many more requests (`r`) may follow at once; with none, in how many seconds (`t`) the next.",
        ))
}

/// The OpenAPI document: the same text whenever it is made by the same program.
pub fn openapi_json() -> String {
    service().spec() + "\n"
}
