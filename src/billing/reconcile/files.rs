//! Charged videos against their files: a video charged is a file stored, of the length and hash that the customer is told.
//!
//! Always holds: few files are looked at at a time, and only so many in a regular comparison, which goes on next time where
//! it stopped; a file that its retention removed is no difference, also when that happened meanwhile.
//! Refuses: to list the store; it asks for the files that were charged, one by one.

use std::collections::HashSet;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use ring::digest::{Context, SHA256};
use serde::Serialize;

use super::ReconcileError;
use crate::db::Database;
use crate::ledger::Difference;
use crate::storage::{ObjectKey, ReadError, Storage};

/// Videos of one statement.
const PAGE: i64 = 2_000;
/// Files looked at at a time.
const AT_ONCE: usize = 16;
/// A store that fails so often in one page is away; the page is looked at again next time.
const MOST_UNREADABLE: u64 = 20;

/// How closely files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileDepth {
    /// Whether they are there, and how long they are.
    Sizes,
    /// Every byte of them.
    Hashes,
}

/// What was looked at.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FilesCompared {
    pub checked: u64,
    /// The store did not answer for so many; after a few of them the rest is left.
    pub unreadable: u64,
    /// The last video looked at; empty when the end was reached.
    pub after: String,
}

/// A charged video whose file should be there.
struct Charged {
    id: String,
    output_key: Option<String>,
    output_bytes: Option<i64>,
    output_sha256: Option<Vec<u8>>,
}

enum Look {
    Fine,
    Wrong(Difference),
    Unreadable,
}

/// Compares every charged file there is.
pub(super) async fn all(
    db: &Database,
    storage: &Storage,
    depth: FileDepth,
) -> Result<(FilesCompared, Vec<Difference>), ReconcileError> {
    let (mut compared, mut differences) = (FilesCompared::default(), Vec::new());
    loop {
        let (page, found) = some(db, storage, depth, (&compared.after, &[])).await?;
        compared.checked += page.checked;
        compared.unreadable += page.unreadable;
        compared.after = page.after;
        differences.extend(found);
        if compared.after.is_empty() || compared.unreadable >= MOST_UNREADABLE {
            return Ok((compared, differences));
        }
    }
}

/// Compares a page of the files behind video `after`, and those of the videos `again`.
pub(super) async fn some(
    db: &Database,
    storage: &Storage,
    depth: FileDepth,
    (after, again): (&str, &[String]),
) -> Result<(FilesCompared, Vec<Difference>), ReconcileError> {
    let (mut charged, next) = page(db, after).await?;
    if !again.is_empty() {
        let known: HashSet<String> = charged.iter().map(|video| video.id.clone()).collect();
        charged.extend(of_ids(db, again).await?.into_iter().filter(|video| !known.contains(&video.id)));
    }
    let mut compared = FilesCompared { checked: charged.len() as u64, unreadable: 0, after: next };
    let mut looks = stream::iter(charged).map(|video| look(storage, video, depth)).buffer_unordered(AT_ONCE);
    let mut suspects = Vec::new();
    while let Some(look) = looks.next().await {
        match look {
            Look::Fine => {}
            Look::Wrong(difference) => suspects.push(difference),
            Look::Unreadable => compared.unreadable += 1,
        }
        if compared.unreadable >= MOST_UNREADABLE {
            compared.after = after.to_owned();
            break;
        }
    }
    drop(looks);
    if !suspects.is_empty() {
        // its row was marked before the file went: what is still charged and kept was not removed by us
        let ids: Vec<String> = suspects.iter().map(|suspect| suspect.id.clone()).collect();
        let kept = of_ids(db, &ids).await?;
        suspects.retain(|suspect| kept.iter().any(|video| video.id == suspect.id));
    }
    Ok((compared, suspects))
}

/// The charged ones of the next videos, and the last of these; empty at the end.
async fn page(db: &Database, after: &str) -> Result<(Vec<Charged>, String), ReconcileError> {
    let mut conn = db.pool().acquire().await?;
    let end = sqlx::query!(
        r#"select max(id) as last, count(*) as "videos!" from
               (select id from videos where id > $1 order by id limit $2) as v"#,
        after,
        PAGE,
    )
    .fetch_one(&mut *conn)
    .await?;
    let Some(last) = end.last else { return Ok((Vec::new(), String::new())) };
    let charged = sqlx::query_as!(
        Charged,
        r#"select v.id, v.output_key, v.output_bytes, v.output_sha256
           from videos v join settlements s on s.video_id = v.id and s.outcome = 'charged'
           where v.id > $1 and v.id <= $2 and v.state = 'succeeded' and v.purging_at is null order by v.id"#,
        after,
        last,
    )
    .fetch_all(&mut *conn)
    .await?;
    Ok((charged, if end.videos < PAGE { String::new() } else { last }))
}

/// Those of the videos that are charged and whose files are kept.
async fn of_ids(db: &Database, ids: &[String]) -> Result<Vec<Charged>, ReconcileError> {
    Ok(sqlx::query_as!(
        Charged,
        r#"select v.id, v.output_key, v.output_bytes, v.output_sha256
           from videos v join settlements s on s.video_id = v.id and s.outcome = 'charged'
           where v.id = any($1) and v.state = 'succeeded' and v.purging_at is null order by v.id"#,
        ids,
    )
    .fetch_all(db.pool())
    .await?)
}

async fn look(storage: &Storage, video: Charged, depth: FileDepth) -> Look {
    let expected = video.output_bytes.unwrap_or(0);
    let differs = |what: &str, stored: i64| {
        Look::Wrong(Difference { what: what.to_owned(), id: video.id.clone(), stored, expected })
    };
    let Some(key) = video.output_key.as_deref().and_then(ObjectKey::from_stored) else {
        return differs("file_missing", 0);
    };
    let bytes = match storage.head(&key).await {
        Ok(Some(bytes)) => i64::try_from(bytes).unwrap_or(i64::MAX),
        Ok(None) => return differs("file_missing", 0),
        Err(error) => return unreadable(&error),
    };
    if bytes != expected {
        return differs("file_size", bytes);
    }
    match depth {
        FileDepth::Sizes => Look::Fine,
        FileDepth::Hashes => match hash(storage, &key).await {
            Ok(sha256) if Some(&sha256) == video.output_sha256.as_ref() => Look::Fine,
            Ok(_) => differs("file_hash", bytes),
            Err(ReadError::NotFound { .. }) => differs("file_missing", 0),
            Err(error) => unreadable(&error),
        },
    }
}

fn unreadable(error: &ReadError) -> Look {
    tracing::warn!(%error, "a file could not be compared");
    Look::Unreadable
}

async fn hash(storage: &Storage, key: &ObjectKey) -> Result<Vec<u8>, ReadError> {
    let (_, mut bytes) = storage.get(key, None).await?;
    let mut context = Context::new(&SHA256);
    while let Some(chunk) = bytes.try_next().await.map_err(|error| ReadError::broken(key, error))? {
        context.update(&chunk);
    }
    Ok(context.finish().as_ref().to_vec())
}
