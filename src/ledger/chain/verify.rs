//! The verification: the whole ledger against the whole chain, and both against checkpoints.
//!
//! Always holds: with a repeatable-read transaction everything is of one moment, so that a busy installation gives no false
//! alarm; memory does not grow with the ledger: it is read in pages. An entry that is not chained yet is told and is no
//! fault as long as it could have come behind the last chained one.
//! Refuses: to trust the database's functions (hashes are made here), to change anything.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use super::finding::{Fault, Finding, MOST};
use super::walk::{LIFETIME, Walk};
use super::{ChainHash, Checkpoint, Head, LedgerError, Moment, RestoreNote, Row, Stored, Word};

/// Rows of one page. A row may name hundreds of videos.
const PAGE: i64 = 2_000;

/// What a verification found.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    /// Rows of the chain.
    pub chained: u64,
    /// The hash at its end.
    pub head: Option<ChainHash>,
    /// The number of its last row, zero without one.
    pub end: i64,
    /// The first row of which a counting checkpoint saw another hash, or which it saw and the chain lacks.
    pub disagrees_at: Option<i64>,
    /// Checkpoints that it was held against; a noted restore is one.
    pub checkpoints: usize,
    /// Restores that were noted; nobody puts a database back unseen.
    pub restores: Vec<Restored>,
    pub waiting: Waiting,
    /// The first bad row first.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub unlisted: u64,
}

impl Verification {
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.unlisted == 0
    }
}

/// A noted restore, and what it took out of the comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The last row from before.
    pub after_row: i64,
    pub noted_at: String,
    pub reason: String,
    pub retired_checkpoints: usize,
}

/// Entries that the chainer has not come to yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Waiting {
    pub entries: u64,
    pub oldest_at: Option<DateTime<Utc>>,
}

/// An entry that should be chained and is not.
#[derive(Debug)]
struct Stray {
    id: i64,
    why: String,
}

/// Holds the ledger against the chain and the chain against `checkpoints` but those that a restore retired. All of them must
/// have been read before the transaction began: a later one may know rows that this snapshot does not.
///
/// # Errors
/// The database's.
pub async fn verify(
    conn: &mut PgConnection,
    checkpoints: &[Checkpoint],
    restores: &[RestoreNote],
) -> Result<Verification, LedgerError> {
    let (counting, restored) = retire(checkpoints, restores);
    let held_against = counting.len();
    let mut walk = Walk::new(counting);
    let mut after = i64::MIN;
    loop {
        let links = links(conn, after).await?;
        let Some(last) = links.last() else { break };
        after = last.seq;
        let ids: Vec<i64> = links.iter().map(|link| link.entry_id).collect();
        let entries = entries(conn, &ids).await?;
        walk.step(&links, entries);
    }
    walk.end();
    let (waiting, strays) = loose(conn, &mut walk).await?;
    attribute(&mut walk, strays);
    let head = walk.last.map(|last| Head { seq: last.seq, hash: last.hash });
    let (findings, unlisted) = walk.findings.sorted();
    Ok(Verification {
        chained: walk.rows,
        head: head.map(|head| head.hash),
        end: head.map_or(0, |head| head.seq),
        disagrees_at: walk.disagrees_at,
        checkpoints: held_against,
        restores: restored,
        waiting,
        findings,
        unlisted,
    })
}

/// The checkpoints that still count, and what each restore took away.
fn retire<'a>(checkpoints: &'a [Checkpoint], restores: &'a [RestoreNote]) -> (Vec<&'a Checkpoint>, Vec<Restored>) {
    // a note pins the rows before it, until one of an earlier row takes its place
    let mut counting: Vec<&Checkpoint> = checkpoints.iter().chain(restores.iter().map(RestoreNote::restored)).collect();
    let told = restores.iter().map(|note| {
        let before = counting.len();
        counting.retain(|checkpoint| !note.retires(checkpoint));
        Restored {
            after_row: note.restored().seq(),
            noted_at: note.restored().at().to_owned(),
            reason: note.reason().to_owned(),
            retired_checkpoints: before - counting.len(),
        }
    });
    let told = told.collect();
    (counting, told)
}

async fn links(conn: &mut PgConnection, after: i64) -> Result<Vec<Stored>, LedgerError> {
    Ok(sqlx::query_as!(
        Stored,
        r#"select seq, entry_id, settled_to, hash as "hash: ChainHash", chained_at as "chained_at: Moment"
           from ledger_chain where seq > $1 order by seq limit $2"#,
        after,
        PAGE,
    )
    .fetch_all(conn)
    .await?)
}

async fn entries(conn: &mut PgConnection, ids: &[i64]) -> Result<HashMap<i64, Row>, LedgerError> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id, at as "at: Moment", act as "act: Word", tenant_id, source as "source?: Word", batch_id,
               from_account as "from_account: Word", to_account as "to_account: Word", amount,
               balance_of as "balance_of: Word", balance_before, balance_after, video_count,
               video_ids as "video_ids: Vec<Option<String>>", actor, reason, request_id
           from credit_ledger where id = any($1)"#,
        ids,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row)).collect())
}

/// Entries without a row of the chain: those that may still be chained, and those that should be.
async fn loose(conn: &mut PgConnection, walk: &mut Walk<'_>) -> Result<(Waiting, Vec<Stray>), LedgerError> {
    let (mut waiting, mut strays, mut after) = (Waiting::default(), Vec::new(), i64::MIN);
    loop {
        let page = sqlx::query!(
            r#"select e.id, e.at as "at: Moment" from credit_ledger e
               where e.id > $1 and not exists (
                   select from ledger_chain c where c.entry_id = e.id and c.entry_id > $1)
               order by e.id limit $2"#,
            after,
            PAGE,
        )
        .fetch_all(&mut *conn)
        .await?;
        let Some(last) = page.last() else { return Ok((waiting, strays)) };
        after = last.id;
        for entry in page {
            match why_stray(walk, entry.id, entry.at) {
                Some(why) if strays.len() < MOST => strays.push(Stray { id: entry.id, why }),
                Some(_) => walk.findings.count_one(),
                None => {
                    waiting.entries += 1;
                    let at = entry.at.shown();
                    waiting.oldest_at = Some(waiting.oldest_at.map_or(at, |oldest| oldest.min(at)));
                }
            }
        }
    }
}

fn why_stray(walk: &Walk<'_>, id: i64, at: Moment) -> Option<String> {
    let bounds = &walk.bounds;
    bounds.too_old(id, at).or_else(|| {
        // whoever chained the last row has passed the place of an entry that was finished by then
        let passed = id < bounds.highest.0 && at.plus(LIFETIME) < bounds.chained_at;
        passed.then(|| format!("it is dated {}, and younger entries were chained since", at.shown()))
    })
}

/// Names the entries that lost their row of the chain, where the numbers around a gap say which; the others came from
/// nowhere.
fn attribute(walk: &mut Walk<'_>, mut strays: Vec<Stray>) {
    for gap in std::mem::take(&mut walk.gaps) {
        let rows = usize::try_from(gap.to.saturating_sub(gap.from).saturating_add(1)).unwrap_or(usize::MAX);
        let missing = match rows {
            1 => "the chain lacks this row".to_owned(),
            _ => format!("the chain lacks the rows {} to {}", gap.from, gap.to),
        };
        let between = |stray: &Stray| gap.after_entry < stray.id && stray.id < gap.before_entry;
        let left: Vec<Stray> = strays.extract_if(.., |stray| between(stray)).take(rows).collect();
        let ids: Vec<String> = left.iter().map(|stray| stray.id.to_string()).collect();
        let (first, whose) = match left.first() {
            Some(first) => (Some(first.id), format!("; left without their row: {}", ids.join(", "))),
            None => (None, "; their entries are missing too".to_owned()),
        };
        let detail =
            format!("{missing}, between those of the entries {} and {}{whose}", gap.after_entry, gap.before_entry);
        walk.findings.add(Fault::ChainRowMissing, (Some(gap.from), first), detail);
    }
    for Stray { id, why } in strays {
        let detail = format!("it was slipped in, or its row of the chain was removed: {why}");
        walk.findings.add(Fault::NotChained, (None, Some(id)), detail);
    }
}
