//! Tenants: the customers, their keys, their limits and their secrets.
//!
//! Always holds: an API key is kept as its hash alone; a webhook secret is kept sealed, bound to its tenant. Neither is
//! shown by `Debug`; the plaintext leaves through a method named `expose` and nowhere else.
//! Refuses: text that is no API key of ours, before the database is asked.

mod account;
mod listed;
pub mod webhook_secret;

pub use crate::domain::{ApiKey, MalformedKey};
pub use account::{InvalidTenant, NewTenant, StoredTenant, Tenant, authenticate, exists, insert, set_retention};
pub use listed::{TenantListed, list};
pub use webhook_secret::WebhookSecret;
