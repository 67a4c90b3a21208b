//! Creating a tenant, and knowing it by its key.

use sqlx::PgConnection;

use super::{ApiKey, WebhookSecret};
use crate::domain::TenantId;
use crate::domain::master_key::MasterKey;

/// Whom a request speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    pub videos_per_minute: u32,
    pub max_in_flight: u32,
    /// Set by an operator; `None` means what the settings say.
    pub requests_per_minute: Option<u32>,
}

/// A tenant with the secrets that are shown this once.
pub struct NewTenant {
    pub tenant: Tenant,
    pub api_key: ApiKey,
    pub webhook_secret: WebhookSecret,
}

/// Why a tenant cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidTenant(pub String);

impl NewTenant {
    /// A tenant with new secrets, not stored yet.
    ///
    /// # Errors
    /// [`InvalidTenant`] for an empty name or a limit of zero.
    pub fn draft(name: &str, videos_per_minute: u32, max_in_flight: u32) -> Result<NewTenant, InvalidTenant> {
        let name = name.trim();
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(InvalidTenant("a tenant needs a name without control characters".to_owned()));
        }
        for (what, limit) in [("videos per minute", videos_per_minute), ("videos in flight", max_in_flight)] {
            if limit == 0 || i32::try_from(limit).is_err() {
                return Err(InvalidTenant(format!("{what} must be between 1 and {}", i32::MAX)));
            }
        }
        let tenant = Tenant {
            id: TenantId::generate(),
            name: name.to_owned(),
            videos_per_minute,
            max_in_flight,
            requests_per_minute: None,
        };
        Ok(NewTenant { tenant, api_key: ApiKey::generate(), webhook_secret: WebhookSecret::generate() })
    }

    /// What the database keeps of it: no secret in plaintext.
    pub fn stored(&self, master: &MasterKey) -> StoredTenant {
        StoredTenant {
            tenant: self.tenant.clone(),
            key_hash: self.api_key.hash(),
            key_hint: self.api_key.hint(),
            webhook_secret_sealed: self.webhook_secret.seal(master, self.tenant.id),
        }
    }
}

/// A tenant as the database keeps it.
#[derive(Clone, Debug)]
pub struct StoredTenant {
    pub tenant: Tenant,
    key_hash: [u8; 32],
    key_hint: String,
    webhook_secret_sealed: Vec<u8>,
}

/// Writes a new tenant and its key.
///
/// # Errors
/// The database's.
pub async fn insert(conn: &mut PgConnection, stored: &StoredTenant) -> Result<(), sqlx::Error> {
    let Tenant { id, name, videos_per_minute, max_in_flight, .. } = &stored.tenant;
    sqlx::query!(
        "insert into tenants (id, name, videos_per_minute, max_in_flight, webhook_secret_sealed) values ($1, $2, $3, $4, $5)",
        *id as TenantId,
        name,
        videos_per_minute.cast_signed(),
        max_in_flight.cast_signed(),
        stored.webhook_secret_sealed,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "insert into api_keys (hash, tenant_id, hint) values ($1, $2, $3)",
        &stored.key_hash[..],
        *id as TenantId,
        stored.key_hint,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether there is such a tenant.
///
/// # Errors
/// The database's.
pub async fn exists(conn: &mut PgConnection, id: TenantId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"select exists (select from tenants where id = $1) as "exists!""#, id as TenantId)
        .fetch_one(conn)
        .await
}

/// Sets how long a tenant's files are kept, in days of 24 hours; `None` for as long as the installation keeps files. Holds
/// for the files that are there already. `false` when there is no such tenant.
///
/// # Errors
/// The database's; it refuses zero days.
pub async fn set_retention(conn: &mut PgConnection, id: TenantId, days: Option<u32>) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update tenants set retention_days = $2 where id = $1",
        id as TenantId,
        days.map(u32::cast_signed),
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The tenant of a key that is in force, by the key's hash. The key was parsed before, so a mistyped one never gets here.
///
/// # Errors
/// The database's.
pub async fn authenticate(conn: &mut PgConnection, key_hash: [u8; 32]) -> Result<Option<Tenant>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select id as "id!: TenantId", name as "name!", videos_per_minute as "videos_per_minute!",
               max_in_flight as "max_in_flight!", requests_per_minute
           from tenant_of_key($1)"#,
        &key_hash[..],
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Tenant {
        id: row.id,
        name: row.name,
        videos_per_minute: row.videos_per_minute.unsigned_abs(),
        max_in_flight: row.max_in_flight.unsigned_abs(),
        requests_per_minute: row.requests_per_minute.map(i32::unsigned_abs),
    }))
}
