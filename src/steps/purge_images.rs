//! The purge of uploaded images: deletes those that nobody has used for long enough, and what unfinished uploads left.
//!
//! Always holds: marked, deleted from the store, forgotten, in this order, so that a crash between two of them is made good
//! by the next purge. One purge at a time in the cluster, under the lock of the other purge: a second one could delete what
//! was deleted, uploaded again and ordered with since it looked.
//! Refuses: to decide which are due (`images`).

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt as _};
use sqlx::Connection as _;

use super::purge;
use crate::db::{self, Database};
use crate::domain::{ImageId, TenantId};
use crate::images::{self, Due};
use crate::metrics;
use crate::storage::{ObjectKey, Storage};

/// Images of one purge. A full one is followed by the next at once.
const MOST: i64 = 500;
const AT_ONCE: usize = 16;
/// Ids in one line of the log.
const IDS_PER_LINE: usize = 20;

/// Purges once, unless another process is at it; `days` of 24 hours is how long an image is kept after its last use. Answers
/// whether there is more to do.
///
/// # Errors
/// The database's. What was deleted by then is deleted; the next purge goes on.
pub async fn purge_images(db: &Database, storage: &Storage, days: u32) -> Result<bool, sqlx::Error> {
    let Some(lock) = purge::lock(db).await? else { return Ok(false) };
    let more = purge_alone(db, storage, days).await;
    lock.close().await?;
    more
}

async fn purge_alone(db: &Database, storage: &Storage, days: u32) -> Result<bool, sqlx::Error> {
    let mut tx = db.begin().await?;
    let due = images::mark_due(&mut tx, days, MOST).await?;
    db::commit("mark images to purge", tx).await?;
    if due.is_empty() {
        return Ok(false);
    }
    let more = i64::try_from(due.len()).is_ok_and(|count| count == MOST);
    let deletions = stream::iter(due).map(async |due: Due| {
        let deleted = storage.delete(&ObjectKey::reference_image(due.tenant, due.id)).await;
        (due, deleted)
    });
    let (mut gone, mut failed) = (Vec::new(), 0u64);
    let mut deletions = std::pin::pin!(deletions.buffer_unordered(AT_ONCE));
    while let Some((due, deleted)) = deletions.next().await {
        match deleted {
            Ok(()) => gone.push(due),
            Err(error) => {
                if failed == 0 {
                    tracing::warn!(%error, "images could not be deleted; it is tried again");
                }
                failed += 1;
            }
        }
    }
    metrics::files_not_deleted(failed);
    let mut tx = db.begin().await?;
    images::deleted(&mut tx, &gone).await?;
    db::commit("images purged", tx).await?;
    tell(&gone);
    metrics::files_deleted("image", gone.len() as u64);
    // what was refused would be refused again at once
    Ok(more && failed == 0)
}

/// Says in the log which images are gone, so that it can be proved later.
fn tell(gone: &[Due]) {
    let mut by_tenant: BTreeMap<TenantId, Vec<ImageId>> = BTreeMap::new();
    for due in gone {
        by_tenant.entry(due.tenant).or_default().push(due.id);
    }
    for (tenant, ids) in by_tenant {
        for ids in ids.chunks(IDS_PER_LINE) {
            tracing::info!(%tenant, count = ids.len(), images = ?ids, "deleted images that nobody used any more");
        }
    }
}
