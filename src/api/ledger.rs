//! The ledger of a batch over HTTP: every movement of its money.

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::auth::Caller;
use super::batches::{no_batch, parse_id};
use super::error::ApiError;
use super::page::{self, Limit};
use super::words::Word;
use super::{ApiState, Topic};
use crate::batches;
use crate::domain::{GrantSource, LedgerAct, VideoId};
use crate::ledger::{self, Entry, LedgerError};

const LIST: &str = "ledger";

pub struct LedgerApi;

#[OpenApi(tag = "Topic::Money")]
impl LedgerApi {
    /// List the ledger entries of a batch
    ///
    /// Every movement of the batch's credits in the order in which it happened, with who, why, and the balance before and
    /// after. Entries are never changed or removed. Follow `next_cursor` until it is absent.
    #[oai(path = "/video-batch/:batch_id/ledger", method = "get", operation_id = "listBatchLedger")]
    #[expect(clippy::too_many_arguments, reason = "each is a documented parameter of the operation")]
    async fn list(
        &self,
        caller: Caller,
        Data(state): Data<&ApiState>,
        /// The id of a batch, `bat_` and 26 characters.
        batch_id: Path<String>,
        /// How many entries a page shows.
        #[oai(default)]
        limit: Query<Limit>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<LedgerPage>, ApiError> {
        let id = parse_id(&batch_id.0)?;
        let after: i64 = page::after(LIST, cursor.0.as_deref())?.unwrap_or(0);
        let tenant = caller.0.id;
        let most = limit.rows();
        let rows = state.db.read(tenant, move |conn| {
            Box::pin(async move {
                let rows = ledger::entries_of_batch(conn, tenant, id, after, most).await?;
                let exists = !rows.is_empty() || batches::batch(conn, tenant, id).await?.is_some();
                Ok::<_, LedgerError>(exists.then_some(rows))
            })
        });
        let rows = rows.await?.ok_or_else(|| no_batch(id))?;
        let (rows, next_cursor) = page::page(rows, limit.0, |entry| page::cursor(LIST, entry.id));
        Ok(Json(LedgerPage { data: rows.into_iter().map(LedgerEntry::from).collect(), next_cursor }))
    }
}

/// A page of ledger entries.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct LedgerPage {
    data: Vec<LedgerEntry>,
    /// For the next page; absent on the last one.
    next_cursor: Option<String>,
}

/// One movement of credits from one account to another.
#[derive(Object)]
struct LedgerEntry {
    /// Ascending within a batch.
    id: String,
    at: DateTime<Utc>,
    act: Word<LedgerAct>,
    source: Word<GrantSource>,
    /// In credits, always positive.
    amount: i64,
    /// The account that it left: `issued`, `available`, `held` or `revenue`.
    from: String,
    /// The account that it reached.
    to: String,
    /// Whose balance `balance_before` and `balance_after` show.
    balance_of: String,
    balance_before: i64,
    balance_after: i64,
    /// How many videos it speaks for.
    video_count: u32,
    /// Which videos, where it does not speak for the whole batch or all its successes.
    video_ids: Vec<String>,
    /// Who moved it.
    actor: String,
    /// Why it was moved.
    reason: String,
    request_id: String,
}

impl From<Entry> for LedgerEntry {
    fn from(entry: Entry) -> LedgerEntry {
        LedgerEntry {
            id: entry.id.to_string(),
            at: entry.at,
            act: Word(entry.act),
            source: Word(entry.source),
            amount: entry.amount.get(),
            from: entry.from_account,
            to: entry.to_account,
            balance_of: entry.balance_of,
            balance_before: entry.balance_before.get(),
            balance_after: entry.balance_after.get(),
            video_count: entry.video_count.unsigned_abs(),
            video_ids: entry.video_ids.iter().map(VideoId::to_string).collect(),
            actor: entry.actor,
            reason: entry.reason,
            request_id: entry.request_id,
        }
    }
}
