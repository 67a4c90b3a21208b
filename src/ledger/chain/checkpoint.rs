//! Checkpoints: what the chain was at one moment, signed, to be kept where nobody who rewrites the database can reach it.
//!
//! A database that was put back on purpose is shorter than its checkpoints, and goes on differently: a [`RestoreNote`] says
//! from which row on, why, and when, and which checkpoints count no more: those of later rows that were known when it was made,
//! each by its hash, so that no host's clock decides.
//!
//! Always holds: a checkpoint pins every entry that was chained before it, since its hash follows from all of them; it was
//! made by a holder of the master key (HMAC-SHA-256 under a key for this purpose alone). `seq` is the number of entries too:
//! the chain counts from 1 without a gap.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{ChainHash, Head};
use crate::domain::{MasterKey, SigningKey};

const VERSION: u32 = 1;
const PURPOSE: &str = "ledger checkpoint";
const RESTORE_PURPOSE: &str = "ledger restore";
/// The longest reason of a restore, so that a note stays small enough to be read.
const MOST_REASON: usize = 1_000;

/// Signs checkpoints and restores, and knows them again.
#[derive(Clone, Debug)]
pub struct CheckpointKey {
    checkpoints: SigningKey,
    restores: SigningKey,
}

impl CheckpointKey {
    pub fn new(master: &MasterKey) -> CheckpointKey {
        CheckpointKey { checkpoints: master.signing_key(PURPOSE), restores: master.signing_key(RESTORE_PURPOSE) }
    }
}

/// A signed checkpoint. Written as one JSON object in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    version: u32,
    seq: i64,
    hash: ChainHash,
    at: String,
    mac: ChainHash,
}

/// A text that is no checkpoint of this installation.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCheckpoint {
    #[error("it is no checkpoint and no note of a restore: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("it is of version {0}, which this program does not know")]
    Version(u32),
    #[error("its signature is not by the master key of this installation")]
    Forged,
}

impl Checkpoint {
    /// A checkpoint of the chain's end `head`, seen at `at`.
    pub fn sign(key: &CheckpointKey, head: Head, at: DateTime<Utc>) -> Checkpoint {
        let at = at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let mac = key.checkpoints.sign(message(VERSION, head.seq, &head.hash, &at).as_bytes());
        Checkpoint { version: VERSION, seq: head.seq, hash: head.hash, at, mac: mac.into() }
    }

    /// Reads a checkpoint and checks its signature.
    ///
    /// # Errors
    /// [`InvalidCheckpoint`].
    pub fn read(key: &CheckpointKey, text: &str) -> Result<Checkpoint, InvalidCheckpoint> {
        let found: Checkpoint = serde_json::from_str(text)?;
        if found.version != VERSION {
            return Err(InvalidCheckpoint::Version(found.version));
        }
        let signed = message(found.version, found.seq, &found.hash, &found.at);
        match key.checkpoints.verify(signed.as_bytes(), found.mac.bytes()) {
            true => Ok(found),
            false => Err(InvalidCheckpoint::Forged),
        }
    }

    /// The line that [`Checkpoint::read`] reads.
    pub fn line(&self) -> String {
        let Checkpoint { version, seq, hash, at, mac } = self;
        json!({ "version": version, "seq": seq, "hash": hash, "at": at, "mac": mac }).to_string()
    }

    pub fn seq(&self) -> i64 {
        self.seq
    }

    pub fn hash(&self) -> ChainHash {
        self.hash
    }

    pub fn at(&self) -> &str {
        &self.at
    }

    /// How long ago it was made, by the clock of this process.
    pub fn age(&self) -> Duration {
        let at = DateTime::parse_from_rfc3339(&self.at).ok();
        at.and_then(|at| (Utc::now() - at.to_utc()).to_std().ok()).unwrap_or_default()
    }
}

/// A signed statement that the database was put back on purpose. Written as one JSON object in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreNote {
    /// The last row that the database had when it was put back, as it was when the note was made.
    restored: Checkpoint,
    /// What checkpoints of later rows saw there.
    retired: BTreeSet<ChainHash>,
    reason: String,
    mac: ChainHash,
}

impl RestoreNote {
    /// Notes at `at` that the chain goes on anew behind `head`, whatever those of `known` say that are of later rows.
    pub fn sign(key: &CheckpointKey, head: Head, known: &[Checkpoint], reason: &str, at: DateTime<Utc>) -> RestoreNote {
        let restored = Checkpoint::sign(key, head, at);
        let later = known.iter().filter(|checkpoint| checkpoint.seq > head.seq);
        let retired: BTreeSet<ChainHash> = later.map(|checkpoint| checkpoint.hash).collect();
        let reason: String = reason.chars().take(MOST_REASON).collect();
        let mac = key.restores.sign(restore_message(&restored, &retired, &reason).as_bytes()).into();
        RestoreNote { restored, retired, reason, mac }
    }

    /// Reads a note and checks its signatures.
    ///
    /// # Errors
    /// [`InvalidCheckpoint`].
    pub fn read(key: &CheckpointKey, text: &str) -> Result<RestoreNote, InvalidCheckpoint> {
        let found: RestoreNote = serde_json::from_str(text)?;
        Checkpoint::read(key, &found.restored.line())?;
        match key
            .restores
            .verify(restore_message(&found.restored, &found.retired, &found.reason).as_bytes(), found.mac.bytes())
        {
            true => Ok(found),
            false => Err(InvalidCheckpoint::Forged),
        }
    }

    /// The line that [`RestoreNote::read`] reads.
    pub fn line(&self) -> String {
        json!(self).to_string()
    }

    /// What it pins itself: the chain up to the restore.
    pub fn restored(&self) -> &Checkpoint {
        &self.restored
    }

    /// Another with every note.
    pub fn mac(&self) -> ChainHash {
        self.mac
    }

    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether a checkpoint counts no more: it is of a later row, and was known when the note was made.
    pub fn retires(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.seq > self.restored.seq && self.retired.contains(&checkpoint.hash)
    }
}

fn restore_message(restored: &Checkpoint, retired: &BTreeSet<ChainHash>, reason: &str) -> String {
    let retired: Vec<String> = retired.iter().map(ChainHash::to_string).collect();
    format!("{} [{}] {reason}", restored.line(), retired.join(" "))
}

fn message(version: u32, seq: i64, hash: &ChainHash, at: &str) -> String {
    format!("{version} {seq} {hash} {at}")
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::{Checkpoint, CheckpointKey, InvalidCheckpoint, RestoreNote};
    use crate::domain::MasterKey;
    use crate::ledger::chain::Head;

    #[test]
    fn a_checkpoint_is_known_again_and_a_changed_one_is_forged() {
        let key = |digit: &str| CheckpointKey::new(&MasterKey::from_hex(&digit.repeat(64)).unwrap());
        let head = Head { seq: 12, hash: "ab".repeat(32).parse().unwrap() };
        let line = Checkpoint::sign(&key("1"), head, DateTime::UNIX_EPOCH).line();
        let read = Checkpoint::read(&key("1"), &line).unwrap();
        assert_eq!((read.seq(), read.hash(), read.at()), (12, head.hash, "1970-01-01T00:00:00.000000Z"));
        let changes = [("\"seq\":12", "\"seq\":11"), ("abab", "abac"), ("1970", "1971")];
        for (text, other) in changes {
            let changed = line.replacen(text, other, 1);
            assert_ne!(changed, line);
            assert!(matches!(Checkpoint::read(&key("1"), &changed), Err(InvalidCheckpoint::Forged)), "{changed}");
        }
        assert!(matches!(Checkpoint::read(&key("2"), &line), Err(InvalidCheckpoint::Forged)));
        assert!(matches!(Checkpoint::read(&key("1"), "{}"), Err(InvalidCheckpoint::Unreadable(_))));
        let newer = line.replacen("\"version\":1", "\"version\":2", 1);
        assert!(matches!(Checkpoint::read(&key("1"), &newer), Err(InvalidCheckpoint::Version(2))));
    }

    #[test]
    fn a_restore_retires_known_checkpoints_of_later_rows_and_a_changed_note_is_forged() {
        let key = CheckpointKey::new(&MasterKey::from_hex(&"1".repeat(64)).unwrap());
        let seen = |seq: i64, secs: i64| {
            let head = Head { seq, hash: "ab".repeat(32).parse().unwrap() };
            Checkpoint::sign(&key, head, DateTime::from_timestamp(secs, 0).unwrap())
        };
        let head = Head { seq: 10, hash: "ab".repeat(32).parse().unwrap() };
        let other = |seq: i64| {
            let head = Head { seq, hash: "cd".repeat(32).parse().unwrap() };
            Checkpoint::sign(&key, head, DateTime::UNIX_EPOCH)
        };
        // the time of a checkpoint says nothing
        let known = [seen(11, 101), other(9)];
        let at = DateTime::from_timestamp(100, 0).unwrap();
        let line = RestoreNote::sign(&key, head, &known, "disk lost", at).line();
        let note = RestoreNote::read(&key, &line).unwrap();
        assert_eq!((note.reason(), note.restored().seq()), ("disk lost", 10));
        let retired =
            [seen(11, 99), seen(11, 101), other(11), seen(10, 50)].map(|checkpoint| note.retires(&checkpoint));
        assert_eq!(retired, [true, true, false, false]);
        let known = "ab".repeat(32);
        for (text, other) in [
            ("disk", "Disk"),
            ("\"seq\":10", "\"seq\":9"),
            ("1970", "1980"),
            (&format!("[\"{known}"), &format!("[\"{}", "ac".repeat(32))),
        ] {
            let changed = line.replacen(text, other, 1);
            assert_ne!(changed, line);
            assert!(matches!(RestoreNote::read(&key, &changed), Err(InvalidCheckpoint::Forged)), "{changed}");
        }
        // a checkpoint's signature is none of a note
        let checkpoint = seen(10, 100);
        let made =
            serde_json::json!({"restored": checkpoint, "retired": [], "reason": "", "mac": checkpoint.mac}).to_string();
        assert!(matches!(RestoreNote::read(&key, &made), Err(InvalidCheckpoint::Forged)));
    }
}
