//! What a hash of the chain is made of: an entry and a link as bytes.
//!
//! Always holds: the bytes are made here, of values as the database keeps them, so that no function of the database is
//! trusted; every column of an entry takes part (a test compares the list with the table); two entries that differ anywhere
//! have different bytes. Words (act, source, accounts) are taken as text, so that a new word needs no change here.
//!
//! Version 1. An entry: the version (1 byte), then each column in the order of [`COLUMNS`]: its length in bytes (4 bytes, big
//! endian; `ffffffff` for null) and its value: numbers as 8 bytes big endian, times as microseconds since 2000-01-01 UTC,
//! texts as UTF-8; a list as its number of elements (4 bytes), each with its length before it. A link: the version, `seq`,
//! `settled_to` and `chained_at`, 8 bytes each. A hash: SHA-256 of the hash before, the entry, the link.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Postgres, Type};

const VERSION: u8 = 1;
const NULL: u32 = u32::MAX;
/// 2000-01-01, from which the database counts, in seconds since 1970-01-01.
const EPOCH_SECS: i64 = 946_684_800;

/// The columns of an entry, in the order in which they are hashed.
pub const COLUMNS: [&str; 17] = [
    "id",
    "at",
    "act",
    "tenant_id",
    "source",
    "batch_id",
    "from_account",
    "to_account",
    "amount",
    "balance_of",
    "balance_before",
    "balance_after",
    "video_count",
    "video_ids",
    "actor",
    "reason",
    "request_id",
];

/// A hash of the chain; 64 hexadecimal digits for people.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainHash([u8; 32]);

/// What stands in place of a hash before the first one.
pub const GENESIS: ChainHash = ChainHash(*b"freezeframe ledger chain genesis");

/// Text that is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a hash: expected 64 hexadecimal digits")]
pub struct InvalidHash;

impl ChainHash {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ChainHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<ChainHash, InvalidHash> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(InvalidHash);
        }
        let mut hash = [0u8; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| InvalidHash)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidHash)?;
        }
        Ok(ChainHash(hash))
    }
}

impl Serialize for ChainHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChainHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ChainHash, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl From<[u8; 32]> for ChainHash {
    fn from(bytes: [u8; 32]) -> ChainHash {
        ChainHash(bytes)
    }
}

impl TryFrom<&[u8]> for ChainHash {
    type Error = InvalidHash;

    fn try_from(bytes: &[u8]) -> Result<ChainHash, InvalidHash> {
        bytes.try_into().map(ChainHash).map_err(|_| InvalidHash)
    }
}

impl Type<Postgres> for ChainHash {
    fn type_info() -> PgTypeInfo {
        <[u8] as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for ChainHash {
    fn decode(value: PgValueRef<'r>) -> Result<ChainHash, BoxDynError> {
        Ok(ChainHash::try_from(<&[u8] as Decode<'r, Postgres>>::decode(value)?)?)
    }
}

/// A time as the database keeps it: microseconds since 2000-01-01 UTC. Takes whatever may stand there, `infinity` too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) i64);

impl Moment {
    /// For people; the end of the calendar where it has no such time.
    pub(super) fn shown(self) -> DateTime<Utc> {
        let edge = if self.0 < 0 { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC };
        let epoch = DateTime::from_timestamp(EPOCH_SECS, 0);
        epoch.and_then(|epoch| epoch.checked_add_signed(TimeDelta::microseconds(self.0))).unwrap_or(edge)
    }

    pub(super) fn plus(self, span: TimeDelta) -> Moment {
        Moment(self.0.saturating_add(span.num_microseconds().unwrap_or(i64::MAX)))
    }
}

impl Type<Postgres> for Moment {
    fn type_info() -> PgTypeInfo {
        <DateTime<Utc> as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for Moment {
    fn decode(value: PgValueRef<'r>) -> Result<Moment, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => Ok(Moment(i64::from_be_bytes(value.as_bytes()?.try_into()?))),
            PgValueFormat::Text => Err("a time came as text".into()),
        }
    }
}

/// A word of an enum, whichever words the database knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word(String);

impl Type<Postgres> for Word {
    fn type_info() -> PgTypeInfo {
        <String as Type<Postgres>>::type_info()
    }

    fn compatible(_: &PgTypeInfo) -> bool {
        true
    }
}

impl<'r> Decode<'r, Postgres> for Word {
    fn decode(value: PgValueRef<'r>) -> Result<Word, BoxDynError> {
        Ok(Word(value.as_str()?.to_owned()))
    }
}

/// An entry, all of it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) at: Moment,
    pub(super) act: Word,
    pub(super) tenant_id: String,
    /// None where the entry is of no wallet.
    pub(super) source: Option<Word>,
    pub(super) batch_id: Option<String>,
    pub(super) from_account: Word,
    pub(super) to_account: Word,
    pub(super) amount: i64,
    pub(super) balance_of: Word,
    pub(super) balance_before: i64,
    pub(super) balance_after: i64,
    pub(super) video_count: i32,
    pub(super) video_ids: Vec<Option<String>>,
    pub(super) actor: String,
    pub(super) reason: String,
    pub(super) request_id: String,
}

/// A row of the chain without its hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) seq: i64,
    pub(super) settled_to: i64,
    pub(super) chained_at: Moment,
}

impl Row {
    fn encode(&self, to: &mut Vec<u8>) {
        to.push(VERSION);
        number(to, self.id);
        number(to, self.at.0);
        text(to, Some(&self.act.0));
        text(to, Some(&self.tenant_id));
        text(to, self.source.as_ref().map(|source| source.0.as_str()));
        text(to, self.batch_id.as_deref());
        text(to, Some(&self.from_account.0));
        text(to, Some(&self.to_account.0));
        number(to, self.amount);
        text(to, Some(&self.balance_of.0));
        number(to, self.balance_before);
        number(to, self.balance_after);
        number(to, i64::from(self.video_count));
        list(to, &self.video_ids);
        text(to, Some(&self.actor));
        text(to, Some(&self.reason));
        text(to, Some(&self.request_id));
    }
}

impl Link {
    fn encode(&self, to: &mut Vec<u8>) {
        to.push(VERSION);
        [self.seq, self.settled_to, self.chained_at.0].iter().for_each(|n| to.extend(n.to_be_bytes()));
    }
}

/// The hash of a link behind the hash `before`.
pub(super) fn hash(before: &ChainHash, row: &Row, link: &Link) -> ChainHash {
    let mut bytes = Vec::with_capacity(512);
    row.encode(&mut bytes);
    link.encode(&mut bytes);
    let mut context = Context::new(&SHA256);
    context.update(before.bytes());
    context.update(&bytes);
    let mut hash = [0u8; 32];
    hash.copy_from_slice(context.finish().as_ref());
    ChainHash(hash)
}

fn length(to: &mut Vec<u8>, bytes: usize) {
    // a value of the database has less than 1 GiB
    to.extend(u32::try_from(bytes).unwrap_or(NULL - 1).to_be_bytes());
}

fn number(to: &mut Vec<u8>, value: i64) {
    length(to, size_of::<i64>());
    to.extend(value.to_be_bytes());
}

fn text(to: &mut Vec<u8>, value: Option<&str>) {
    match value {
        Some(value) => {
            length(to, value.len());
            to.extend(value.as_bytes());
        }
        None => to.extend(NULL.to_be_bytes()),
    }
}

fn list(to: &mut Vec<u8>, values: &[Option<String>]) {
    let mut elements = Vec::new();
    length(&mut elements, values.len());
    values.iter().for_each(|value| text(&mut elements, value.as_deref()));
    length(to, elements.len());
    to.extend(elements);
}

#[cfg(test)]
mod tests {
    use super::{GENESIS, Link, Moment, Row, Word, hash};

    fn row() -> Row {
        let word = |text: &str| Word(text.to_owned());
        Row {
            id: 7,
            at: Moment(1),
            act: word("refund"),
            tenant_id: "t".to_owned(),
            source: Some(word("paid")),
            batch_id: Some("b".to_owned()),
            from_account: word("held"),
            to_account: word("available"),
            amount: 61,
            balance_of: word("available"),
            balance_before: 0,
            balance_after: 61,
            video_count: 2,
            video_ids: vec![Some("v1".to_owned()), Some("v2".to_owned())],
            actor: "system".to_owned(),
            reason: "timeout".to_owned(),
            request_id: "r".to_owned(),
        }
    }

    const LINK: Link = Link { seq: 1, settled_to: 0, chained_at: Moment(2) };

    #[test]
    fn the_bytes_of_version_1_never_change() {
        // computed by another program from the description above
        let mut bytes = Vec::new();
        row().encode(&mut bytes);
        assert_eq!((bytes.len(), &bytes[..17]), (181, &[1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 8][..]));
        let known = "e625390faa4a4afaf29fd4ed42fe293edbfa8aeac0150916ae8f7f33c794230c";
        assert_eq!(hash(&GENESIS, &row(), &LINK).to_string(), known);
    }

    #[test]
    fn whatever_differs_gives_another_hash() {
        let changes: [fn(&mut Row); 21] = [
            |row| row.id = 8,
            |row| row.at = Moment(3),
            |row| row.act = Word("grant".to_owned()),
            |row| row.tenant_id = "u".to_owned(),
            |row| row.source = Some(Word("promotional".to_owned())),
            |row| row.source = None,
            |row| row.batch_id = None,
            |row| row.batch_id = Some(String::new()),
            |row| row.from_account = Word("issued".to_owned()),
            |row| row.to_account = Word("revenue".to_owned()),
            |row| row.amount = 62,
            |row| row.balance_of = Word("held".to_owned()),
            |row| row.balance_before = 1,
            |row| row.balance_after = 62,
            |row| row.video_count = 1,
            |row| row.video_ids = vec![Some("v1v2".to_owned())],
            |row| row.video_ids = vec![Some("v1".to_owned()), None],
            |row| row.video_ids.reverse(),
            |row| row.actor = "syste".to_owned(),
            |row| (row.actor, row.reason) = ("systemt".to_owned(), "imeout".to_owned()),
            |row| row.request_id = "R".to_owned(),
        ];
        let mut seen = std::collections::HashSet::from([hash(&GENESIS, &row(), &LINK)]);
        for (at, change) in changes.iter().enumerate() {
            let mut changed = row();
            change(&mut changed);
            assert!(seen.insert(hash(&GENESIS, &changed, &LINK)), "change {at}");
        }
        for link in [Link { seq: 2, ..LINK }, Link { settled_to: 1, ..LINK }, Link { chained_at: Moment(3), ..LINK }] {
            assert!(seen.insert(hash(&GENESIS, &row(), &link)), "{link:?}");
        }
        let before = hash(&GENESIS, &row(), &LINK);
        assert!(seen.insert(hash(&before, &row(), &LINK)));
    }

    #[test]
    fn a_time_beyond_the_calendar_is_shown_as_its_end() {
        assert_eq!(Moment(0).shown().to_rfc3339(), "2000-01-01T00:00:00+00:00");
        assert_eq!(Moment(i64::MAX).shown(), chrono::DateTime::<chrono::Utc>::MAX_UTC);
        assert_eq!(Moment(i64::MIN).shown(), chrono::DateTime::<chrono::Utc>::MIN_UTC);
    }
}
