//! Admission: an order becomes a frozen, durable batch, or nothing at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use ulid::Ulid;

use super::order::Order;
use super::retry::{self, FailedVideos, RetryError, RetryRequest};
use super::uploads::{self, UploadsError};
use crate::db::{ActError, RequestDb};
use crate::domain::faults::Wrong;
use crate::domain::{BatchId, BatchStatus, Credits, ImageSource, TenantId, VideoId};
use crate::idempotency::{self, Claimed, RequestHash};
use crate::images;
use crate::ledger::{self, FreezeError, LedgerError, Stamp};
use crate::scheduler;

/// The answer to an accepted order; repeated word for word when the request is repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub batch_id: BatchId,
    pub status: BatchStatus,
    pub total: u32,
    pub frozen_credits: Credits,
    pub created_at: DateTime<Utc>,
}

/// An order that was accepted, now or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    New(Receipt),
    Replayed(Receipt),
}

/// What a request for a retry comes to.
#[derive(Debug)]
pub enum Retryable {
    /// These would be ordered.
    Videos(FailedVideos),
    /// The same request was answered before.
    Answered(Receipt),
}

/// Why an order was not accepted; nothing was frozen and nothing written.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    #[error("the batch costs {required} credits and {available} are available")]
    ShortOfCredits { required: Credits, available: Credits },
    #[error("the idempotency key was used before for another request")]
    KeyUsedForOtherContent,
    #[error("a request with this idempotency key is being processed")]
    KeyInFlight,
    #[error("the remembered answer cannot be read: {0}")]
    BrokenAnswer(String),
    /// Of a retry: its batch, or what failed of it, cannot be retried.
    #[error(transparent)]
    Retry(RetryError),
    /// Items name images that the tenant does not have, or that do not fit.
    #[error("{} items name images that cannot be used", .0.len())]
    Images(Vec<Wrong>),
    #[error(transparent)]
    Ledger(LedgerError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl From<FreezeError> for AdmissionError {
    fn from(error: FreezeError) -> AdmissionError {
        match error {
            FreezeError::Short { required, available } => AdmissionError::ShortOfCredits { required, available },
            FreezeError::Ledger(LedgerError::Database(error)) => AdmissionError::Database(error),
            FreezeError::Ledger(error) => AdmissionError::Ledger(error),
        }
    }
}

impl From<UploadsError> for AdmissionError {
    fn from(error: UploadsError) -> AdmissionError {
        match error {
            UploadsError::Wrong(wrong) => AdmissionError::Images(wrong),
            UploadsError::Database(error) => AdmissionError::Database(error),
        }
    }
}

impl From<RetryError> for AdmissionError {
    fn from(error: RetryError) -> AdmissionError {
        match error {
            RetryError::Database(error) => AdmissionError::Database(error),
            error => AdmissionError::Retry(error),
        }
    }
}

impl ActError for AdmissionError {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            AdmissionError::Database(error) => Some(error),
            _ => None,
        }
    }
}

/// Admits orders.
#[derive(Clone)]
pub struct Admission {
    db: RequestDb,
}

impl Admission {
    pub fn new(db: RequestDb) -> Admission {
        Admission { db }
    }

    /// Freezes the price and writes the batch: one act, which a client that goes away does not cancel.
    ///
    /// # Errors
    /// [`AdmissionError`]; nothing was changed then.
    pub async fn admit(&self, tenant: TenantId, order: Arc<Order>) -> Result<Admitted, AdmissionError> {
        self.db
            .act(tenant, "admit batch", move |conn| {
                let order = order.clone();
                Box::pin(async move { admit(conn, tenant, &order).await })
            })
            .await
    }

    /// The failed videos that a request for a retry means, or the answer that the same request was given before.
    ///
    /// # Errors
    /// [`AdmissionError::Retry`], [`AdmissionError::KeyUsedForOtherContent`], or the database's.
    pub async fn retryable(&self, tenant: TenantId, request: Arc<RetryRequest>) -> Result<Retryable, AdmissionError> {
        let found = self.db.read(tenant, move |conn| {
            Box::pin(async move {
                let failed = retry::failed_videos(conn, tenant, &request).await;
                // asked after it, so that an answer that was given meanwhile is not taken for somebody else's retry
                let known = match &request.key {
                    Some(key) => idempotency::find(conn, tenant, key, &request.hash).await?,
                    None => None,
                };
                match known {
                    Some(Claimed::Replay(answer)) => Ok(Retryable::Answered(receipt(answer)?)),
                    Some(_) => Err(AdmissionError::KeyUsedForOtherContent),
                    None => Ok(Retryable::Videos(failed?)),
                }
            })
        });
        found.await
    }

    /// The answer that the same request was given before, if it was.
    ///
    /// # Errors
    /// [`AdmissionError::KeyUsedForOtherContent`], or the database's.
    pub async fn answered_before(
        &self,
        tenant: TenantId,
        (key, hash): (&str, &RequestHash),
    ) -> Result<Option<Receipt>, AdmissionError> {
        let (key, hash) = (key.to_owned(), *hash);
        let found = self
            .db
            .read(tenant, move |conn| Box::pin(async move { idempotency::find(conn, tenant, &key, &hash).await }));
        match found.await? {
            Some(Claimed::Replay(answer)) => Ok(Some(receipt(answer)?)),
            Some(_) => Err(AdmissionError::KeyUsedForOtherContent),
            None => Ok(None),
        }
    }
}

fn receipt(answer: Value) -> Result<Receipt, AdmissionError> {
    serde_json::from_value(answer).map_err(|error| AdmissionError::BrokenAnswer(error.to_string()))
}

async fn admit(conn: &mut PgConnection, tenant: TenantId, order: &Order) -> Result<Admitted, AdmissionError> {
    if let Some(key) = &order.key {
        match idempotency::claim(conn, tenant, key, &order.hash).await? {
            Claimed::Fresh => {}
            Claimed::Replay(answer) => return Ok(Admitted::Replayed(receipt(answer)?)),
            Claimed::OtherContent => return Err(AdmissionError::KeyUsedForOtherContent),
            Claimed::InFlight => return Err(AdmissionError::KeyInFlight),
        }
    }
    retry::keep_others_out(conn, tenant, order).await?;
    let batch = BatchId::generate();
    let request_id = order.key.clone().unwrap_or_else(|| format!("req_{}", Ulid::generate()));
    let total = order.items.len() as u32;
    let uploads = uploads::check_uploads(conn, tenant, order).await?;
    refuse_if_short(conn, tenant, order.total).await?;
    let created_at = insert_batch(conn, (tenant, batch), order, &request_id).await?;
    insert_lanes(conn, (tenant, batch), order).await?;
    insert_videos(conn, (tenant, batch), order).await?;
    if !uploads.is_empty() {
        images::note_uses(conn, (tenant, batch), &uploads).await?;
    }
    // last, because it locks the wallet until the commit: orders of one tenant wait for each other's freeze and not for
    // each other's thousands of videos
    let stamp = Stamp { actor: "tenant", reason: "batch_admitted", request_id: &request_id };
    ledger::freeze(conn, (tenant, batch), order.total, total, stamp).await?;
    let receipt =
        Receipt { batch_id: batch, status: BatchStatus::Queued, total, frozen_credits: order.total, created_at };
    if let Some(key) = &order.key {
        let answer = serde_json::to_value(&receipt).map_err(|error| AdmissionError::BrokenAnswer(error.to_string()))?;
        idempotency::remember(conn, tenant, key, &order.hash, &answer).await?;
    }
    scheduler::wake(conn).await?;
    Ok(Admitted::New(receipt))
}

/// Spares a hopeless order the work. The freeze asks again, under its lock.
async fn refuse_if_short(conn: &mut PgConnection, tenant: TenantId, required: Credits) -> Result<(), AdmissionError> {
    let available = ledger::available(conn, tenant).await.map_err(FreezeError::from)?;
    if available < required {
        return Err(AdmissionError::ShortOfCredits { required, available });
    }
    Ok(())
}

async fn insert_batch(
    conn: &mut PgConnection,
    (tenant, batch): (TenantId, BatchId),
    order: &Order,
    request_id: &str,
) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar!(
        "insert into batches (id, tenant_id, total, frozen_credits, request_id, webhook_url, metadata, videos_per_minute,
             complete_by, retry_of, priority)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) returning created_at",
        batch as BatchId,
        tenant as TenantId,
        order.items.len() as i32,
        order.total.get(),
        request_id,
        order.webhook_url,
        order.metadata,
        order.videos_per_minute.map(u32::cast_signed),
        order.complete_by,
        order.retry_of as Option<BatchId>,
        i16::from(order.priority),
    )
    .fetch_one(conn)
    .await
}

async fn insert_lanes(
    conn: &mut PgConnection,
    (tenant, batch): (TenantId, BatchId),
    order: &Order,
) -> Result<(), sqlx::Error> {
    let mut lanes: BTreeMap<&str, (i32, bool)> = BTreeMap::new();
    for item in &order.items {
        let lane = lanes.entry(&item.model).or_default();
        *lane = (lane.0 + 1, lane.1 || item.reference_image.is_some());
    }
    sqlx::query!(
        "insert into batch_lanes (batch_id, tenant_id, model, total, waiting, videos_per_minute, with_images, priority)
         select $1, $2, model, videos, videos, $5, with_images, $7
         from unnest($3::text[], $4::int[], $6::boolean[]) as l (model, videos, with_images)",
        batch as BatchId,
        tenant as TenantId,
        &lanes.keys().map(|model| (*model).to_owned()).collect::<Vec<_>>(),
        &lanes.values().map(|(videos, _)| *videos).collect::<Vec<_>>(),
        order.videos_per_minute.map(u32::cast_signed),
        &lanes.values().map(|(_, with_images)| *with_images).collect::<Vec<_>>(),
        i16::from(order.priority),
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_videos(
    conn: &mut PgConnection,
    (tenant, batch): (TenantId, BatchId),
    order: &Order,
) -> Result<(), sqlx::Error> {
    let items = &order.items;
    // the order's total was summed with checks, so the running sum fits
    let offsets: Vec<i64> = items
        .iter()
        .scan(0i64, |sum, item| {
            let offset = *sum;
            *sum = sum.saturating_add(item.price.get());
            Some(offset)
        })
        .collect();
    sqlx::query!(
        "insert into videos (batch_id, tenant_id, id, position, model, prompt, seconds, size, custom_id, metadata,
             price_credits, price_offset, reference_image, retry_of)
         select $1, $2, v.* from unnest($3::text[], $4::int[], $5::text[], $6::text[], $7::int[], $8::text[], $9::text[],
             $10::jsonb[], $11::bigint[], $12::bigint[], $13::text[], $14::text[]) as v",
        batch as BatchId,
        tenant as TenantId,
        &items.iter().map(|_| VideoId::generate().bare()).collect::<Vec<_>>(),
        &(0..items.len() as i32).collect::<Vec<_>>(),
        &items.iter().map(|i| i.model.clone()).collect::<Vec<_>>(),
        &items.iter().map(|i| i.prompt.as_str().to_owned()).collect::<Vec<_>>(),
        &items.iter().map(|i| i.seconds as i32).collect::<Vec<_>>(),
        &items.iter().map(|i| i.size.to_string()).collect::<Vec<_>>(),
        &items.iter().map(|i| i.custom_id.as_ref().map(|c| c.as_str().to_owned())).collect::<Vec<_>>() as &[Option<String>],
        &items.iter().map(|i| i.metadata.clone()).collect::<Vec<_>>() as &[Option<Value>],
        &items.iter().map(|i| i.price.get()).collect::<Vec<_>>(),
        &offsets,
        &items.iter().map(|i| i.reference_image.as_ref().map(ImageSource::stored)).collect::<Vec<_>>() as &[Option<String>],
        &items.iter().map(|i| i.retries.map(|retried| retried.video.bare())).collect::<Vec<_>>() as &[Option<String>],
    )
    .execute(conn)
    .await?;
    Ok(())
}
