//! What can be wrong with the chain, and the list of what is.
//!
//! Always holds: the list is bounded, whatever was done to the database; how much more there is is counted.

use std::fmt;

use serde::{Serialize, Serializer};

/// Findings that are listed. The rest is counted.
pub(super) const MOST: usize = 100;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The entry is not the one that was chained, or its row of the chain is not.
    EntryEdited,
    /// Two entries have each other's contents.
    EntriesSwapped,
    /// The row of the chain was made for another entry.
    OutOfOrder,
    /// What was chained is no longer in the ledger.
    EntryMissing,
    /// The chain lacks a row.
    ChainRowMissing,
    /// The hash in the chain was changed; its entry was not.
    ChainRowEdited,
    /// The entry claims to be older than it can be.
    BackDated,
    /// The entry claims to be younger than it can be.
    DatedAhead,
    /// The chainer has passed the entry's place, and yet it is not chained.
    NotChained,
    /// The chain ends before a row that a checkpoint has seen.
    ShorterThanCheckpoint,
    /// The chain is another than a checkpoint has seen: it was made anew.
    DiffersFromCheckpoint,
    /// A checkpoint that was not made by this installation.
    ForgedCheckpoint,
}

impl Fault {
    /// Whether it is said by a checkpoint of ours alone: the chain in itself may be sound.
    pub const fn is_of_checkpoint(self) -> bool {
        matches!(self, Fault::ShorterThanCheckpoint | Fault::DiffersFromCheckpoint)
    }

    pub const fn word(self) -> &'static str {
        match self {
            Fault::EntryEdited => "entry_edited",
            Fault::EntriesSwapped => "entries_swapped",
            Fault::OutOfOrder => "out_of_order",
            Fault::EntryMissing => "entry_missing",
            Fault::ChainRowMissing => "chain_row_missing",
            Fault::ChainRowEdited => "chain_row_edited",
            Fault::BackDated => "back_dated",
            Fault::DatedAhead => "dated_ahead",
            Fault::NotChained => "not_chained",
            Fault::ShorterThanCheckpoint => "shorter_than_checkpoint",
            Fault::DiffersFromCheckpoint => "differs_from_checkpoint",
            Fault::ForgedCheckpoint => "forged_checkpoint",
        }
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

/// Something that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub fault: Fault,
    /// The row of the chain, if it is about one.
    pub seq: Option<i64>,
    /// The entry, if it is about one that is known.
    pub entry_id: Option<i64>,
    /// In words.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.fault.word())?;
        if let Some(id) = self.entry_id {
            write!(f, ", entry {id}")?;
        }
        if let Some(seq) = self.seq {
            write!(f, ", row {seq} of the chain")?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// Findings up to [`MOST`], and how many more there are.
#[derive(Debug, Default)]
pub(super) struct Findings {
    listed: Vec<Finding>,
    more: u64,
}

impl Findings {
    pub(super) fn add(&mut self, fault: Fault, (seq, entry_id): (Option<i64>, Option<i64>), detail: String) {
        self.listed.push(Finding { fault, seq, entry_id, detail });
        if self.listed.len() > MOST {
            // they come in several orders, and the first in the chain must stay
            self.listed.sort_by_key(place);
            self.listed.pop();
            self.more += 1;
        }
    }

    /// That there is one more of which nothing is kept.
    pub(super) fn count_one(&mut self) {
        self.more += 1;
    }

    /// In the order of the chain, then of the ledger.
    pub(super) fn sorted(mut self) -> (Vec<Finding>, u64) {
        self.listed.sort_by_key(place);
        (self.listed, self.more)
    }
}

fn place(finding: &Finding) -> (i64, i64) {
    (finding.seq.unwrap_or(i64::MAX), finding.entry_id.unwrap_or(i64::MAX))
}
