//! The hash chain over the ledger: who changes an entry afterwards cannot hide it.
//!
//! Owns `ledger_chain`: each row holds the hash of one entry and of everything before it ([`encode`] says of what), in the
//! order in which entries were found after their commit. [`extend`] adds rows, [`verify`] looks for what is wrong,
//! [`Checkpoint`] pins the end of the chain outside of the database, and a [`RestoreNote`] says that it was put back.
//! Always holds: an entry is chained once, some time after its commit (writing an entry costs nothing for it); the chain is
//! only extended; an entry that commits late with a low id is not missed (see [`Progress`]).
//! Refuses: to begin or commit, to judge whether an entry is right (`reconcile` does), to mend anything.

mod checkpoint;
mod encode;
mod finding;
mod verify;
mod walk;

use sqlx::PgConnection;

use super::LedgerError;
use encode::{Link, Moment, Row, Word, hash};

pub use checkpoint::{Checkpoint, CheckpointKey, InvalidCheckpoint, RestoreNote};
pub use encode::{COLUMNS, ChainHash, GENESIS, InvalidHash};
pub use finding::{Fault, Finding};
pub use verify::{Restored, Verification, Waiting, verify};
pub use walk::LIFETIME_MINUTES;

/// The last row of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub seq: i64,
    pub hash: ChainHash,
}

/// What a chainer knows between two passes. It may be lost at any time: the chain's last row says enough to begin again.
///
/// Ids are given out in order but commit out of order, so the highest chained id says nothing of lower ones. An id is given
/// to a transaction that holds the lock of an insert on the ledger, until its end. So a mark is set at the highest id
/// that is visible, whoever holds such a lock then is noted, and once all of them are gone nothing below the mark can
/// come any more: what is there is chained, and later passes look above the mark only. Nobody waits for it.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Every entry up to this id is finished and chained.
    settled_to: i64,
    watch: Option<Watch>,
    /// The end of the chain that all of this was learned from. A database that was put back has another one, and gives ids
    /// out again: then nothing of this holds.
    head: Option<Head>,
}

/// A mark that waits for those who were writing when it was set.
#[derive(Clone, Debug)]
struct Watch {
    mark: i64,
    /// Their virtual transaction ids.
    writers: Vec<String>,
}

/// What a pass did. `progress` holds once its transaction is committed.
#[derive(Clone, Debug)]
pub struct Extended {
    pub head: Option<Head>,
    pub appended: u64,
    /// There is more than one pass may take.
    pub more: bool,
    pub progress: Progress,
}

/// Entries that are committed and not chained.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Backlog {
    pub entries: i64,
    pub oldest_secs: f64,
}

impl Progress {
    /// Whether everything there is has been chained, and nothing can be missing: one look at an index. Fewer entries than
    /// were settled are no rest: the database was put back.
    ///
    /// # Errors
    /// The database's.
    pub async fn is_idle(&self, conn: &mut PgConnection) -> Result<bool, LedgerError> {
        Ok(newest(conn).await? == self.settled_to)
    }

    /// What still holds on this database: nothing, if its chain is another one.
    async fn still(&self, conn: &mut PgConnection) -> Result<Progress, LedgerError> {
        let Some(head) = self.head else { return Ok(self.clone()) };
        match row(conn, head.seq).await? {
            Some(found) if found == head => Ok(self.clone()),
            _ => {
                tracing::error!(
                    row = head.seq,
                    "the end of the ledger's chain is not where it was: the database was put back; the chain goes on from \
                     where it ends now"
                );
                Ok(Progress::default())
            }
        }
    }

    /// How far the chain is behind.
    ///
    /// # Errors
    /// The database's.
    pub async fn backlog(&self, conn: &mut PgConnection) -> Result<Backlog, LedgerError> {
        let settled_to = self.settled_to.max(last(conn).await?.map_or(0, |last| last.settled_to));
        let found = sqlx::query_as!(
            Backlog,
            r#"select count(*) as "entries!",
                   coalesce(extract(epoch from clock_timestamp() - min(e.at)), 0)::float8 as "oldest_secs!"
               from credit_ledger e
               where e.id > $1 and not exists (
                   select from ledger_chain c where c.entry_id = e.id and c.entry_id > $1)"#,
            settled_to,
        )
        .fetch_one(conn)
        .await?;
        Ok(found)
    }
}

/// Chains up to `most` entries that are committed and not chained yet, in the order of their ids. `None` when another
/// transaction is at it.
///
/// # Errors
/// The database's; 23505 when another chain was made meanwhile in spite of the lock: then nothing is changed.
pub async fn extend(conn: &mut PgConnection, progress: &Progress, most: i64) -> Result<Option<Extended>, LedgerError> {
    if !lock(conn).await? {
        return Ok(None);
    }
    let progress = progress.still(conn).await?;
    let last = last(conn).await?;
    let settled_to = progress.settled_to.max(last.as_ref().map_or(0, |last| last.settled_to));
    // the order matters: the mark, then the writers, then the entries
    let watch = watch(conn, &progress).await?;
    let rows = unchained(conn, settled_to, most).await?;
    let more = i64::try_from(rows.len()).is_ok_and(|rows| rows == most);
    let seen_to = match rows.last() {
        Some(last) if more => watch.mark.min(last.id),
        _ => watch.mark,
    };
    let (settled_now, watch) = match watch.writers.is_empty() {
        true => (settled_to.max(seen_to), None),
        false => (settled_to, Some(watch)),
    };
    let head = append(conn, last.as_ref(), &rows, (settled_to, settled_now)).await?;
    let progress = Progress { settled_to: settled_now, watch, head };
    Ok(Some(Extended { head, appended: rows.len() as u64, more, progress }))
}

/// Until the end of the transaction nobody else chains.
async fn lock(conn: &mut PgConnection) -> Result<bool, LedgerError> {
    let mine =
        sqlx::query_scalar!(r#"select pg_try_advisory_xact_lock(hashtextextended('freezeframe chain', 7)) as "mine!""#)
            .fetch_one(conn)
            .await?;
    Ok(mine)
}

/// A row of the chain as it is stored.
#[derive(Clone, Copy, Debug)]
struct Stored {
    seq: i64,
    entry_id: i64,
    settled_to: i64,
    hash: ChainHash,
    chained_at: Moment,
}

impl Stored {
    fn link(&self) -> Link {
        Link { seq: self.seq, settled_to: self.settled_to, chained_at: self.chained_at }
    }
}

async fn last(conn: &mut PgConnection) -> Result<Option<Stored>, LedgerError> {
    Ok(sqlx::query_as!(
        Stored,
        r#"select seq, entry_id, settled_to, hash as "hash: ChainHash", chained_at as "chained_at: Moment"
           from ledger_chain order by seq desc limit 1"#
    )
    .fetch_optional(conn)
    .await?)
}

/// The end of the chain; `None` before its first row.
///
/// # Errors
/// The database's.
pub async fn head(conn: &mut PgConnection) -> Result<Option<Head>, LedgerError> {
    Ok(last(conn).await?.map(|last| Head { seq: last.seq, hash: last.hash }))
}

/// A row of the chain; `None` where there is none.
///
/// # Errors
/// The database's.
pub async fn row(conn: &mut PgConnection, seq: i64) -> Result<Option<Head>, LedgerError> {
    let hash = sqlx::query_scalar!(r#"select hash as "hash: ChainHash" from ledger_chain where seq = $1"#, seq);
    Ok(hash.fetch_optional(conn).await?.map(|hash| Head { seq, hash }))
}

async fn newest(conn: &mut PgConnection) -> Result<i64, LedgerError> {
    Ok(sqlx::query_scalar!(r#"select coalesce(max(id), 0) as "id!" from credit_ledger"#).fetch_one(conn).await?)
}

/// The mark that is waited for, or a new one, with those of its writers who are still at work.
async fn watch(conn: &mut PgConnection, progress: &Progress) -> Result<Watch, LedgerError> {
    let old = progress.watch.as_ref();
    let mark = match old {
        Some(old) => old.mark,
        None => newest(conn).await?,
    };
    let writers = sqlx::query!(
        r#"select l.virtualtransaction as "transaction!", l.pid is null as "prepared!"
           from pg_locks l
           where l.locktype = 'relation' and l.mode = 'RowExclusiveLock' and l.granted
               and l.database = (select oid from pg_database where datname = current_database())
               and l.relation = 'credit_ledger'::regclass"#
    )
    .fetch_all(conn)
    .await?;
    // a transaction that is prepared for two phases goes on under another name
    let still = |writer: &String, prepared| prepared || old.is_none_or(|old| old.writers.contains(writer));
    let writers = writers.into_iter().filter(|w| still(&w.transaction, w.prepared)).map(|w| w.transaction).collect();
    Ok(Watch { mark, writers })
}

async fn unchained(conn: &mut PgConnection, above: i64, most: i64) -> Result<Vec<Row>, LedgerError> {
    Ok(sqlx::query_as!(
        Row,
        r#"select id, at as "at: Moment", act as "act: Word", tenant_id, source as "source?: Word", batch_id,
               from_account as "from_account: Word", to_account as "to_account: Word", amount,
               balance_of as "balance_of: Word", balance_before, balance_after, video_count,
               video_ids as "video_ids: Vec<Option<String>>", actor, reason, request_id
           from credit_ledger e
           where e.id > $1 and not exists (
               select from ledger_chain c where c.entry_id = e.id and c.entry_id > $1)
           order by e.id limit $2"#,
        above,
        most,
    )
    .fetch_all(conn)
    .await?)
}

/// Adds a row for each of `rows`. What is settled by now stands in the last one: rows of this very pass lie below it.
async fn append(
    conn: &mut PgConnection,
    last: Option<&Stored>,
    rows: &[Row],
    (settled_before, settled_now): (i64, i64),
) -> Result<Option<Head>, LedgerError> {
    let mut head = last.map_or(Head { seq: 0, hash: GENESIS }, |last| Head { seq: last.seq, hash: last.hash });
    if rows.is_empty() {
        return Ok(last.map(|_| head));
    }
    // after the entries were read, so that none of them is younger
    let chained_at = sqlx::query_scalar!(r#"select clock_timestamp() as "now!: Moment""#).fetch_one(&mut *conn).await?;
    let (mut seqs, mut ids, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    for (at, row) in rows.iter().enumerate() {
        let settled_to = if at + 1 == rows.len() { settled_now } else { settled_before };
        let seq = head.seq.checked_add(1).ok_or(LedgerError::OutOfRange { doing: "counting the chain's rows" })?;
        head = Head { seq, hash: hash(&head.hash, row, &Link { seq, settled_to, chained_at }) };
        seqs.push(seq);
        ids.push(row.id);
        hashes.push(head.hash.bytes().to_vec());
    }
    sqlx::query!(
        "insert into ledger_chain (seq, entry_id, settled_to, hash, chained_at)
         select seq, entry_id, case when seq = $4 then $5::bigint else $6::bigint end, hash, $7
         from unnest($1::bigint[], $2::bigint[], $3::bytea[]) as c (seq, entry_id, hash)",
        &seqs,
        &ids,
        &hashes,
        head.seq,
        settled_now,
        settled_before,
        chained_at.shown(),
    )
    .execute(conn)
    .await?;
    Ok(Some(head))
}
