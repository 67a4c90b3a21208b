//! Small texts that are kept outside of the database on purpose: checkpoints of the ledger, and notes of restores.
//!
//! Always holds: all of them lie below `ledger/`, away from customers' files, whose keys begin with an id; a name has the row
//! and a part of the hash, so that a chain that was made anew does not overwrite what was seen of the old one.
//! Refuses: to know what they say, to read a text longer than one can be.

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutPayload};

use super::{ObjectKey, ReadError, Storage};

const ROOM: &str = "ledger";
/// Requests under way at a time.
const AT_ONCE: usize = 16;
/// Digits of the hash in a name.
const HASH_DIGITS: usize = 16;

/// What such a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    Checkpoint,
    Restore,
}

impl Evidence {
    const fn folder(self) -> &'static str {
        match self {
            Evidence::Checkpoint => "checkpoints",
            Evidence::Restore => "restores",
        }
    }

    /// The longest that is read. A note names the checkpoints that it retires.
    pub const fn most_bytes(self) -> u64 {
        match self {
            Evidence::Checkpoint => 8 << 10,
            Evidence::Restore => 2 << 20,
        }
    }

    fn of(key: &ObjectKey) -> Evidence {
        if key.0.prefix_matches(&Evidence::Restore.prefix()) { Evidence::Restore } else { Evidence::Checkpoint }
    }

    fn prefix(self) -> Path {
        Path::from_iter([ROOM, self.folder()])
    }
}

impl ObjectKey {
    /// `ledger/KIND/ROW-HASH.json`; keys of later rows sort behind those of earlier ones.
    pub fn evidence(kind: Evidence, seq: i64, hash: &str) -> ObjectKey {
        let hash: String = hash.chars().filter(char::is_ascii_hexdigit).take(HASH_DIGITS).collect();
        ObjectKey(Path::from_iter([ROOM, kind.folder(), &format!("{seq:020}-{hash}.json")]))
    }

    /// The row in such a key.
    pub fn evidence_row(&self) -> Option<i64> {
        self.0.filename()?.split_once('-')?.0.parse().ok()
    }
}

impl Storage {
    /// Keeps a text; durable when it answers.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    pub async fn put_evidence(&self, key: &ObjectKey, text: String) -> Result<(), ReadError> {
        let put = self.hasty.put(&key.0, PutPayload::from(text.into_bytes())).await;
        put.map(|_| ()).map_err(|source| ReadError::new(key, source))
    }

    /// The keys of all texts of a kind, the earliest rows first.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    pub async fn evidence(&self, kind: Evidence) -> Result<Vec<ObjectKey>, ReadError> {
        let prefix = kind.prefix();
        let listed: Result<Vec<ObjectKey>, _> =
            self.hasty.list(Some(&prefix)).map_ok(|object| ObjectKey(object.location)).try_collect().await;
        let mut keys = listed.map_err(|source| ReadError::new(&ObjectKey(prefix), source))?;
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(keys)
    }

    /// Some of those texts with their keys; what is too long or no text is empty. One that goes away meanwhile is left out.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    pub async fn read_evidence(&self, keys: Vec<ObjectKey>) -> Result<Vec<(ObjectKey, String)>, ReadError> {
        let reads = stream::iter(keys).map(async |key| match self.read_text(&key).await {
            Ok(text) => Ok(Some((key, text))),
            Err(ReadError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        });
        let read: Vec<Option<(ObjectKey, String)>> = reads.buffered(AT_ONCE).try_collect().await?;
        Ok(read.into_iter().flatten().collect())
    }

    async fn read_text(&self, key: &ObjectKey) -> Result<String, ReadError> {
        let failed = |source| ReadError::new(key, source);
        let found = self.hasty.get(&key.0).await.map_err(failed)?;
        if found.meta.size > Evidence::of(key).most_bytes() {
            return Ok(String::new());
        }
        let bytes = found.bytes().await.map_err(failed)?;
        Ok(String::from_utf8(bytes.to_vec()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use crate::storage::{Evidence, ObjectKey, Storage};

    #[tokio::test]
    async fn checkpoints_are_kept_apart_and_listed_by_row() {
        let directory = tempfile::tempdir().unwrap();
        let config = crate::config::Config::from_sources(
            &format!("[storage]\nurl = \"{}\"", directory.path().display()),
            std::iter::empty::<(String, String)>(),
        )
        .unwrap();
        let local = Storage::open(&config.storage, || unreachable!()).unwrap();
        for storage in [Storage::in_memory(), local] {
            assert_eq!(storage.evidence(Evidence::Checkpoint).await.unwrap(), vec![]);
            for (seq, hash, text) in
                [(1_000, "ab", "later"), (9, "cd", "first"), (1_000, "aa", "x".repeat(9000).as_str())]
            {
                let key = ObjectKey::evidence(Evidence::Checkpoint, seq, &hash.repeat(32));
                storage.put_evidence(&key, text.to_owned()).await.unwrap();
            }
            let restore = ObjectKey::evidence(Evidence::Restore, 9, &"cd".repeat(32));
            storage.put_evidence(&restore, "a note".to_owned()).await.unwrap();
            let keys = storage.evidence(Evidence::Checkpoint).await.unwrap();
            let read = storage.read_evidence(keys).await.unwrap();
            let read: Vec<(String, &str)> = read.iter().map(|(key, text)| (key.to_string(), text.as_str())).collect();
            let name = |seq: i64, hash: &str| format!("ledger/checkpoints/{seq:020}-{}.json", hash.repeat(8));
            assert_eq!(read, [(name(9, "cd"), "first"), (name(1_000, "aa"), ""), (name(1_000, "ab"), "later")]);
            storage.delete(&ObjectKey::evidence(Evidence::Checkpoint, 9, &"cd".repeat(32))).await.unwrap();
            assert_eq!(storage.evidence(Evidence::Checkpoint).await.unwrap().len(), 2);
            assert_eq!(storage.evidence(Evidence::Restore).await.unwrap(), [restore]);
        }
    }
}
