//! Checkpoints: what the chain was at one moment, signed, to be kept where nobody who rewrites the database can reach it.
//!
//! Always holds: a checkpoint pins every entry that was chained before it, since its hash follows from all of them; it was
//! made by a holder of the master key (HMAC-SHA-256 under a key for this purpose alone). `seq` is the number of entries too:
//! the chain counts from 1 without a gap.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{ChainHash, Head};
use crate::domain::{MasterKey, SigningKey};

const VERSION: u32 = 1;
const PURPOSE: &str = "ledger checkpoint";

/// Signs checkpoints and knows them again.
#[derive(Clone, Debug)]
pub struct CheckpointKey(SigningKey);

impl CheckpointKey {
    pub fn new(master: &MasterKey) -> CheckpointKey {
        CheckpointKey(master.signing_key(PURPOSE))
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
    #[error("it is no checkpoint: {0}")]
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
        let mac = key.0.sign(message(VERSION, head.seq, &head.hash, &at).as_bytes());
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
        match key.0.verify(signed.as_bytes(), found.mac.bytes()) {
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
}

fn message(version: u32, seq: i64, hash: &ChainHash, at: &str) -> String {
    format!("{version} {seq} {hash} {at}")
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::{Checkpoint, CheckpointKey, InvalidCheckpoint};
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
}
