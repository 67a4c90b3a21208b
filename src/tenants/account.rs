//! Creating a tenant, and knowing it by its key.

use sqlx::PgConnection;

use super::{ApiKey, WebhookSecret};
use crate::db::{ActError, Database};
use crate::domain::master_key::MasterKey;
use crate::domain::{Credits, GrantSource, TenantId};
use crate::ledger::{self, LedgerError, Stamp};

/// Whom a request speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    pub videos_per_minute: u32,
    pub max_in_flight: u32,
}

/// A tenant with the secrets that are shown this once.
pub struct NewTenant {
    pub tenant: Tenant,
    pub api_key: ApiKey,
    pub webhook_secret: WebhookSecret,
    pub granted: Credits,
}

/// A tenant that was not created or not read.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl ActError for TenantError {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            TenantError::Database(error) | TenantError::Ledger(LedgerError::Database(error)) => Some(error),
            TenantError::Invalid(_) | TenantError::Ledger(_) => None,
        }
    }
}

/// Creates a tenant with its key, its webhook secret, its wallets and, if any, its first credits: one act.
///
/// # Errors
/// [`TenantError::Invalid`] for an empty name or a limit of zero; otherwise the database's.
pub async fn create(
    db: &Database,
    master: &MasterKey,
    (name, videos_per_minute, max_in_flight): (&str, u32, u32),
    (credits, source): (Credits, GrantSource),
) -> Result<NewTenant, TenantError> {
    let name = name.trim();
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(TenantError::Invalid("a tenant needs a name without control characters".to_owned()));
    }
    let limit = |value: u32, what: &str| match i32::try_from(value) {
        Ok(limit) if limit > 0 => Ok(limit),
        _ => Err(TenantError::Invalid(format!("{what} must be between 1 and {}", i32::MAX))),
    };
    let (rate, in_flight) = (limit(videos_per_minute, "videos per minute")?, limit(max_in_flight, "videos in flight")?);
    let tenant = Tenant { id: TenantId::generate(), name: name.to_owned(), videos_per_minute, max_in_flight };
    let (api_key, webhook_secret) = (ApiKey::generate(), WebhookSecret::generate());
    let (id, name) = (tenant.id, tenant.name.clone());
    let (hash, hint, sealed) = (api_key.hash().to_vec(), api_key.hint(), webhook_secret.seal(master, id));
    let request_id = format!("tenant-create-{}", id.bare());
    db.act("create tenant", move |tx| {
        let (name, hash, hint, sealed, request_id) =
            (name.clone(), hash.clone(), hint.clone(), sealed.clone(), request_id.clone());
        Box::pin(async move {
            sqlx::query!(
                "insert into tenants (id, name, videos_per_minute, max_in_flight, webhook_secret_sealed) values ($1, $2, $3, $4, $5)",
                id as TenantId,
                name,
                rate,
                in_flight,
                sealed,
            )
            .execute(&mut **tx)
            .await?;
            sqlx::query!("insert into api_keys (hash, tenant_id, hint) values ($1, $2, $3)", hash, id as TenantId, hint)
                .execute(&mut **tx)
                .await?;
            ledger::open_wallets(tx, id).await?;
            if !credits.is_zero() {
                let stamp = Stamp { actor: "operator", reason: "opening_balance", request_id: &request_id };
                ledger::grant(tx, id, source, credits, stamp).await?;
            }
            Ok::<_, TenantError>(())
        })
    })
    .await?;
    Ok(NewTenant { tenant, api_key, webhook_secret, granted: credits })
}

/// The tenant of a key that is in force. The key was parsed before, so a mistyped one never gets here.
///
/// # Errors
/// The database's.
pub async fn authenticate(conn: &mut PgConnection, key: &ApiKey) -> Result<Option<Tenant>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select t.id as "id: TenantId", t.name, t.videos_per_minute, t.max_in_flight
           from api_keys k join tenants t on t.id = k.tenant_id
           where k.hash = $1 and k.revoked_at is null"#,
        &key.hash()[..],
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Tenant {
        id: row.id,
        name: row.name,
        videos_per_minute: row.videos_per_minute.unsigned_abs(),
        max_in_flight: row.max_in_flight.unsigned_abs(),
    }))
}

/// The tenant's webhook secret as it is stored; open it with [`WebhookSecret::open`].
///
/// # Errors
/// The database's; `RowNotFound` when there is no such tenant.
pub async fn sealed_webhook_secret(conn: &mut PgConnection, tenant: TenantId) -> Result<Vec<u8>, sqlx::Error> {
    sqlx::query_scalar!("select webhook_secret_sealed from tenants where id = $1", tenant as TenantId)
        .fetch_one(conn)
        .await
}
