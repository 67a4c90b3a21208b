//! Onboarding: a new tenant with its key, its webhook secret, its wallets and, if any, its first credits: one act.

use crate::db::{ActError, Database};
use crate::domain::{Credits, GrantSource, MasterKey};
use crate::ledger::{self, LedgerError, Stamp};
use crate::tenants::{self, InvalidTenant, NewTenant};

/// A tenant that was not created.
#[derive(Debug, thiserror::Error)]
pub enum OnboardingError {
    #[error(transparent)]
    Invalid(#[from] InvalidTenant),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl ActError for OnboardingError {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            OnboardingError::Database(error) | OnboardingError::Ledger(LedgerError::Database(error)) => Some(error),
            OnboardingError::Invalid(_) | OnboardingError::Ledger(_) => None,
        }
    }
}

/// Creates a tenant of that name and those limits (videos per minute, videos in flight) with `credits` of `source`. Its
/// secrets are in the answer and nowhere else.
///
/// # Errors
/// [`OnboardingError`]; nothing was created then.
pub async fn onboard(
    db: &Database,
    master: &MasterKey,
    (name, videos_per_minute, max_in_flight): (&str, u32, u32),
    (credits, source): (Credits, GrantSource),
) -> Result<NewTenant, OnboardingError> {
    let new = NewTenant::draft(name, videos_per_minute, max_in_flight)?;
    let stored = new.stored(master);
    db.act("onboard tenant", move |tx| {
        let stored = stored.clone();
        Box::pin(async move {
            tenants::insert(tx, &stored).await?;
            ledger::open_wallets(tx, stored.tenant.id).await?;
            if !credits.is_zero() {
                let request_id = format!("onboarding-{}", stored.tenant.id.bare());
                let stamp = Stamp { actor: "operator", reason: "opening_balance", request_id: &request_id };
                ledger::grant(tx, stored.tenant.id, source, credits, stamp).await?;
            }
            Ok::<_, OnboardingError>(())
        })
    })
    .await?;
    Ok(new)
}
