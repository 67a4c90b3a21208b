//! One walk along the chain: each row held against the row before it, its entry, the checkpoints, and the clock.
//!
//! Always holds: memory is bounded: of sound rows nothing is kept, of unsound ones at most [`MOST`](super::finding::MOST).
//! A row is judged by the hash that stands before it, so that one edit is one finding and the walk goes on behind it.
//!
//! An honest entry's `at` is the start of its transaction, and its id was given out before that transaction ended. So
//! with transactions of at most [`LIFETIME_MINUTES`], `at` lies at most so long before that of any entry with a lower id,
//! before the moment at which an entry with a higher id was chained ahead of it, and never after the moment at which it was
//! chained itself. An `at` outside of that was not written by the clock.

use std::collections::{BTreeMap, HashMap};

use chrono::TimeDelta;

use super::encode::{GENESIS, hash};
use super::finding::{Fault, Findings, MOST};
use super::{ChainHash, Checkpoint, Moment, Row, Stored};

/// The longest that a transaction may live, a difference of clocks after a failover included. Sessions of the service end
/// statements after one minute and idle transactions after five seconds.
pub const LIFETIME_MINUTES: i64 = 15;
pub(super) const LIFETIME: TimeDelta = TimeDelta::minutes(LIFETIME_MINUTES);

/// The walk's place.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    checkpoints: BTreeMap<i64, Vec<&'a Checkpoint>>,
    /// What the row before holds; unknown behind a gap.
    before: Option<ChainHash>,
    pub(super) last: Option<Stored>,
    pub(super) rows: u64,
    pub(super) bounds: Bounds,
    broken: Vec<Broken>,
    pub(super) gaps: Vec<Gap>,
    /// The last checkpoint that agreed before one did not, the first that did not, and how many did not.
    agreed: i64,
    differs: Option<(i64, Option<i64>, String)>,
    differing: usize,
    /// The first row of which a checkpoint saw another hash, or which it saw and the chain lacks.
    pub(super) disagrees_at: Option<i64>,
    pub(super) findings: Findings,
}

/// What sound rows say of those behind them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// No lower id follows.
    pub(super) settled_to: i64,
    /// The highest id so far, and when it was chained.
    pub(super) highest: (i64, Moment),
    /// The youngest `at` so far.
    pub(super) youngest: Moment,
    pub(super) chained_at: Moment,
}

/// Rows that the chain lacks: `from..=to`, between two entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) after_entry: i64,
    pub(super) before_entry: i64,
}

/// A row whose hash does not follow.
#[derive(Debug)]
struct Broken {
    stored: Stored,
    before: ChainHash,
    row: Row,
    /// What its hash should be.
    expected: ChainHash,
}

impl<'a> Walk<'a> {
    pub(super) fn new(checkpoints: Vec<&'a Checkpoint>) -> Walk<'a> {
        let mut by_seq: BTreeMap<i64, Vec<&Checkpoint>> = BTreeMap::new();
        checkpoints.into_iter().for_each(|checkpoint| by_seq.entry(checkpoint.seq()).or_default().push(checkpoint));
        let never = Moment(i64::MIN);
        Walk {
            checkpoints: by_seq,
            before: Some(GENESIS),
            last: None,
            rows: 0,
            bounds: Bounds { settled_to: 0, highest: (0, never), youngest: never, chained_at: never },
            broken: Vec::new(),
            gaps: Vec::new(),
            agreed: 0,
            differs: None,
            differing: 0,
            disagrees_at: None,
            findings: Findings::default(),
        }
    }

    /// The next rows of the chain and their entries, by id.
    pub(super) fn step(&mut self, links: &[Stored], mut entries: HashMap<i64, Row>) {
        for stored in links {
            self.place(stored);
            match entries.remove(&stored.entry_id) {
                Some(row) => self.judge(stored, row),
                None => {
                    let detail = "it was chained and is no longer in the ledger".to_owned();
                    self.findings.add(Fault::EntryMissing, at(stored), detail);
                }
            }
            self.compare(stored);
            self.before = Some(stored.hash);
            self.last = Some(*stored);
            self.rows += 1;
        }
    }

    /// Whether the row stands where it should.
    fn place(&mut self, stored: &Stored) {
        let expected = self.last.map_or(1, |last| last.seq.saturating_add(1));
        if stored.seq == expected {
            return;
        }
        self.before = None;
        if stored.seq < expected {
            let detail = "the chain has a row of this number too many".to_owned();
            return self.findings.add(Fault::ChainRowEdited, at(stored), detail);
        }
        match self.gaps.len() < MOST {
            true => self.gaps.push(Gap {
                from: expected,
                to: stored.seq - 1,
                after_entry: self.last.map_or(0, |last| last.entry_id),
                before_entry: stored.entry_id,
            }),
            false => self.findings.count_one(),
        }
    }

    fn judge(&mut self, stored: &Stored, row: Row) {
        // behind a gap nothing can be said of the first row
        let Some(before) = self.before else { return };
        let expected = hash(&before, &row, &stored.link());
        if expected == stored.hash {
            return self.judge_times(stored, &row);
        }
        if let Some(last) = self.broken.last().filter(|last| Some(last.stored.seq) == self.last.map(|last| last.seq))
            && hash(&last.expected, &row, &stored.link()) == stored.hash
        {
            // this row follows from what should stand before it: the hash there was changed, and nothing else
            let last = self.broken.pop().map_or(*stored, |last| last.stored);
            let detail = "its hash was changed, the entry is as it was chained".to_owned();
            self.findings.add(Fault::ChainRowEdited, at(&last), detail);
            return self.judge_times(stored, &row);
        }
        match self.broken.len() < MOST {
            true => self.broken.push(Broken { stored: *stored, before, row, expected }),
            false => self.findings.count_one(),
        }
    }

    /// Whether a sound row could be written when it claims to have been.
    fn judge_times(&mut self, stored: &Stored, row: &Row) {
        if let Some(why) = self.bounds.too_old(row.id, row.at) {
            self.findings.add(Fault::BackDated, at(stored), why);
        }
        if row.at > stored.chained_at.plus(LIFETIME) {
            let detail = format!("it is dated {} and was chained at {}", row.at.shown(), stored.chained_at.shown());
            self.findings.add(Fault::DatedAhead, at(stored), detail);
        }
        let bounds = &mut self.bounds;
        bounds.settled_to = bounds.settled_to.max(stored.settled_to);
        bounds.highest = bounds.highest.max((row.id, stored.chained_at));
        bounds.youngest = bounds.youngest.max(row.at.min(stored.chained_at));
        bounds.chained_at = bounds.chained_at.max(stored.chained_at);
    }

    fn compare(&mut self, stored: &Stored) {
        for checkpoint in self.checkpoints.remove(&stored.seq).unwrap_or_default() {
            if checkpoint.hash() != stored.hash {
                self.differing += 1;
                let first = || (stored.seq, Some(stored.entry_id), checkpoint.at().to_owned());
                self.differs.get_or_insert_with(first);
            } else if self.differs.is_none() {
                self.agreed = stored.seq;
            }
        }
    }

    /// Says what the walk as a whole has shown.
    pub(super) fn end(&mut self) {
        self.explain_broken();
        let end = self.last.map_or(0, |last| last.seq);
        let lacking = self.checkpoints.keys().copied().find(|seq| *seq > end).map(|_| end.saturating_add(1));
        self.disagrees_at = self.differs.as_ref().map(|differs| differs.0).or(lacking);
        if let Some((seq, entry, seen_at)) = self.differs.take() {
            let (from, more) = (self.agreed + 1, self.differing - 1);
            let detail = format!(
                "the checkpoint of {seen_at} saw another hash here, and so did {more} later ones: rows were written anew, the \
                 first of them between {from} and {seq}; after a restore from a backup, see `freezeframe ledger restored`"
            );
            self.findings.add(Fault::DiffersFromCheckpoint, (Some(seq), entry), detail);
        }
        let beyond = self.checkpoints.iter().filter(|(seq, _)| **seq > end).max_by_key(|(seq, _)| **seq);
        if let Some((seq, seen)) = beyond {
            let seen_at = seen.first().map_or("", |checkpoint| checkpoint.at());
            let detail = format!(
                "the chain ends at row {end}, and the checkpoint of {seen_at} saw {seq} rows: rows were removed, or this is \
                 another database than the checkpoint was made of; after a restore from a backup, see `freezeframe ledger \
                 restored`"
            );
            self.findings.add(Fault::ShorterThanCheckpoint, (Some(end + 1), None), detail);
        }
    }

    /// Tells exchanged entries from edited ones.
    fn explain_broken(&mut self) {
        let broken = std::mem::take(&mut self.broken);
        for one in &broken {
            let link = one.stored.link();
            let id = one.row.id;
            let others = || broken.iter().filter(move |other| other.row.id != id);
            let fits = |row: &Row| hash(&one.before, row, &link) == one.stored.hash;
            let exchanged = others().find(|other| fits(&Row { id, ..other.row.clone() }));
            let (fault, detail) = match (exchanged, others().find(|other| fits(&other.row))) {
                (Some(other), _) => {
                    let whose = other.row.id;
                    (Fault::EntriesSwapped, format!("it has the contents of entry {whose}, which has its contents"))
                }
                (None, Some(other)) => {
                    (Fault::OutOfOrder, format!("the row was made for entry {}, whose place was changed", other.row.id))
                }
                (None, None) => (
                    Fault::EntryEdited,
                    "it is not what was chained: the entry was changed, or its row of the chain was".to_owned(),
                ),
            };
            self.findings.add(fault, at(&one.stored), detail);
        }
    }
}

impl Bounds {
    /// Why an entry of this id and time cannot have come behind all that was walked by.
    pub(super) fn too_old(&self, id: i64, at: Moment) -> Option<String> {
        let latest = at.plus(LIFETIME);
        let (highest, chained_at) = self.highest;
        if id <= self.settled_to {
            return Some(format!("everything up to entry {} had been chained when it came", self.settled_to));
        }
        if id < highest && latest < chained_at {
            let chained_at = chained_at.shown();
            return Some(format!(
                "it is dated {}, and entry {highest} was chained at {chained_at} without it",
                at.shown()
            ));
        }
        if latest < self.youngest {
            return Some(format!("it is dated {}, and entries before it {}", at.shown(), self.youngest.shown()));
        }
        None
    }
}

fn at(stored: &Stored) -> (Option<i64>, Option<i64>) {
    (Some(stored.seq), Some(stored.entry_id))
}
