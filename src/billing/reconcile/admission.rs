//! Whether workers may start: on a database that was restored, or moved, or never compared, only after its books were.
//!
//! Always holds: an incarnation of the database is compared once before the first worker, and again before a worker while it
//! is known to be older than what was seen of it; whoever starts meanwhile waits for that. A refusal holds until a later
//! comparison admits. A comparison reads everything, so the next one waits ten times as long as the last one took, unless that
//! one was made before the database was set back.
//! Differences of money keep workers away; others are told while they work. Where the settings let workers start despite
//! differences, a comparison that fails keeps nobody away either.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::{Duration, Instant};

use sqlx::Connection as _;

use super::record::{self, Entry, Occasion};
use super::{ReconcileError, audit, reconcile};
use crate::db::Database;

/// Why no worker starts.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    #[error(
        "the database was restored, moved or never compared before, and its money is in doubt ({told}): no worker starts. \
         Look at the ids that `freezeframe reconcile` names; a stored balance is set to the sum of its entries by the \
         database's owner (`freezeframe tenant adjust` moves both alike and cures no difference; it is for customers' \
         claims). `[reconcile] start_despite_differences = true` starts workers meanwhile"
    )]
    MoneyInDoubt { told: String },
    #[error(transparent)]
    Unknown(#[from] ReconcileError),
}

impl From<sqlx::Error> for NotAdmitted {
    fn from(error: sqlx::Error) -> NotAdmitted {
        NotAdmitted::Unknown(error.into())
    }
}

/// Compares the books unless this incarnation of the database was compared before, and also then if it was set back in place:
/// `set_back` says how long ago it was seen further than it is.
///
/// # Errors
/// [`NotAdmitted`]: differences of money, or a comparison that failed, unless `despite` them; or the database's.
pub async fn admit_workers(
    db: &Database,
    who: &str,
    (set_back, despite): (Option<Duration>, bool),
) -> Result<(), NotAdmitted> {
    if set_back.is_none() && record::is_admitted(db).await? {
        return Ok(());
    }
    // the lock goes with this connection
    let mut lock = db.engine_connection().await?;
    audit::wait_for_lock(&mut lock).await?;
    let admitted = compare(db, who, (set_back, despite)).await;
    lock.close().await?;
    admitted
}

async fn compare(db: &Database, who: &str, (set_back, despite): (Option<Duration>, bool)) -> Result<(), NotAdmitted> {
    let admitted = record::is_admitted(db).await?;
    if set_back.is_none() && admitted {
        return Ok(());
    }
    let still_good = |last: &record::LastStart| {
        let rest = last.took().saturating_mul(audit::REST_PER_WORK);
        last.age_secs < rest.min(set_back.unwrap_or(Duration::MAX)).as_secs_f64()
    };
    if let Some(last) = record::last_start(db).await?.filter(still_good) {
        match admitted || last.admits {
            true => return Ok(()),
            false if despite => {}
            false => return Err(NotAdmitted::MoneyInDoubt { told: told(last.sum, &last.kinds()) }),
        }
    }
    let began = Instant::now();
    let found = match reconcile(db).await {
        Ok(found) => found,
        // a database too large to be compared in time would never get a worker
        Err(error) if despite => {
            tracing::warn!(%error, "workers start on books that could not be compared, as the settings say");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let in_doubt = found.doubts_money();
    let entry = Entry {
        occasion: Occasion::Start,
        who,
        took: began.elapsed(),
        admits: despite || !in_doubt,
        files_after: "",
        providers_age_secs: None,
    };
    record::insert(db, &found, entry).await?;
    let kinds = found.kinds();
    let told = told(found.books.sum, &kinds);
    match in_doubt {
        false if kinds.is_empty() => {}
        false => tracing::error!(told, "the books disagree, though not about money: run `freezeframe reconcile`"),
        true if despite => tracing::error!(told, "workers start although money is in doubt, as the settings say"),
        true => return Err(NotAdmitted::MoneyInDoubt { told }),
    }
    Ok(())
}

fn told<Kind: Display>(sum: i64, kinds: &BTreeMap<Kind, u64>) -> String {
    let counted: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
    format!("sum of the books {sum}, differences: {}", counted.join(", "))
}
