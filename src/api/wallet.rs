//! The tenant's wallet over HTTP.

use poem::web::Data;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::auth::Caller;
use super::error::ApiError;
use super::words::Word;
use super::{ApiState, Topic};
use crate::domain::GrantSource;
use crate::ledger;

pub struct WalletApi;

#[OpenApi(tag = "Topic::Money")]
impl WalletApi {
    /// Look at the wallet
    ///
    /// `available` may be spent now; `held` is set aside for batches that still run, and becomes a charge or comes back.
    /// `settled = available + held` moves only when credits are bought or charged, so a running batch never looks like
    /// money lost.
    #[oai(path = "/wallet", method = "get", operation_id = "getWallet")]
    async fn get(&self, caller: Caller, Data(state): Data<&ApiState>) -> Result<Json<WalletBalance>, ApiError> {
        let tenant = caller.0;
        let id = tenant.id;
        let wallet = state.db.read(id, move |conn| Box::pin(async move { ledger::wallet(conn, id).await })).await?;
        let settled = |available: i64, held: i64| {
            available
                .checked_add(held)
                .ok_or_else(|| ApiError::internal("a wallet holds more credits than can be counted"))
        };
        let sources = wallet.sources.iter().map(|part| SourceBalance {
            source: Word(part.source),
            available: part.available.get(),
            held: part.held.get(),
        });
        Ok(Json(WalletBalance {
            tenant_id: tenant.id.to_string(),
            tenant_name: tenant.name,
            available: wallet.available.get(),
            held: wallet.held.get(),
            settled: settled(wallet.available.get(), wallet.held.get())?,
            sources: sources.collect(),
            limits: TenantLimits { videos_per_minute: tenant.videos_per_minute, max_in_flight: tenant.max_in_flight },
        }))
    }
}

/// The balances of a tenant, all of one moment, in credits. One credit is one US cent at list price.
#[derive(Object)]
struct WalletBalance {
    tenant_id: String,
    tenant_name: String,
    /// May be spent now.
    available: i64,
    /// Set aside for batches that still run.
    held: i64,
    /// `available + held`.
    settled: i64,
    /// The same by where the credits came from, in the order in which they are spent.
    sources: Vec<SourceBalance>,
    limits: TenantLimits,
}

/// The part of a wallet that came from one source.
#[derive(Object)]
struct SourceBalance {
    source: Word<GrantSource>,
    available: i64,
    held: i64,
}

/// How fast the tenant's videos are made.
#[derive(Object)]
struct TenantLimits {
    /// Videos started per minute, at most.
    videos_per_minute: u32,
    /// Videos being made at once, at most.
    max_in_flight: u32,
}
