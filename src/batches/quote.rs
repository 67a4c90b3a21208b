//! A quote: what an order would cost at this moment, whether it would be taken, and when it would be done.
//!
//! Always holds: the price is that of the very order that would be frozen, and nothing is written or kept.
//!
//! Refuses: to promise. Prices, the wallet and what waits before it are those of this moment.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::admission::AdmissionError;
use super::order::Order;
use super::uploads;
use crate::domain::{Credits, Size};
use crate::idempotency;
use crate::ledger::{self, FreezeError};
use crate::scheduler::{self, Estimate, Wanted};
use crate::tenants::Tenant;

/// What an order would cost.
#[derive(Clone, Debug)]
pub struct Quote {
    /// Videos of the order.
    pub total: u32,
    /// What would be frozen.
    pub price: Credits,
    /// What the tenant may spend.
    pub available: Credits,
    /// By model, length and size, in that order.
    pub groups: Vec<QuoteGroup>,
    /// `None` when nobody can tell.
    pub estimate: Option<Estimate>,
    /// Whether the order's idempotency key was used before; `None` for an order without a key.
    pub key_used: Option<bool>,
}

/// Items that cost the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuoteGroup {
    pub model: String,
    pub seconds: u32,
    pub size: Size,
    pub count: u32,
    /// The price of one.
    pub each: Credits,
    /// `count` times `each`.
    pub credits: Credits,
}

impl Quote {
    /// What the wallet is short of; zero when the order can be paid.
    pub fn missing(&self) -> Credits {
        self.price.minus(self.available).unwrap_or(Credits::ZERO)
    }
}

/// What `order` would cost the tenant at this moment. Only reads.
///
/// # Errors
/// [`AdmissionError::Images`] as when it is admitted, or the database's.
pub async fn quote(conn: &mut PgConnection, tenant: &Tenant, order: &Order) -> Result<Quote, AdmissionError> {
    uploads::look_at_uploads(conn, tenant.id, order).await?;
    let available = ledger::available(conn, tenant.id).await.map_err(FreezeError::from)?;
    let key_used = match &order.key {
        Some(key) => Some(idempotency::find(conn, tenant.id, key, &order.hash).await?.is_some()),
        None => None,
    };
    let mut videos: BTreeMap<String, u32> = BTreeMap::new();
    for item in &order.items {
        *videos.entry(item.model.clone()).or_default() += 1;
    }
    let wanted = Wanted {
        videos,
        paces: [tenant.videos_per_minute].into_iter().chain(order.videos_per_minute).collect(),
        max_in_flight: tenant.max_in_flight,
        priority: order.priority,
    };
    let estimate = scheduler::estimate(conn, tenant.id, &wanted).await?;
    let total = order.items.len() as u32;
    Ok(Quote { total, price: order.total, available, groups: groups(order), estimate, key_used })
}

fn groups(order: &Order) -> Vec<QuoteGroup> {
    let mut groups: BTreeMap<(&str, u32, Size), (u32, Credits)> = BTreeMap::new();
    for item in &order.items {
        let group = groups.entry((&item.model, item.seconds, item.size)).or_insert((0, item.price));
        group.0 += 1;
    }
    let group = |((model, seconds, size), (count, each)): ((&str, u32, Size), (u32, Credits))| {
        // the order's total was summed with checks, so a part of it fits
        let credits = each.times(count).unwrap_or(order.total);
        QuoteGroup { model: model.to_owned(), seconds, size, count, each, credits }
    };
    groups.into_iter().map(group).collect()
}
