//! Small texts that are kept outside of the database on purpose: checkpoints of the ledger.
//!
//! Always holds: all of them lie below `ledger/checkpoints/`, away from customers' files, whose keys begin with an id; a
//! name has the row and a part of the hash, so that a chain that was made anew does not overwrite what was seen of the old
//! one. Refuses: to know what they say, to read a text longer than one can be.

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutPayload};

use super::{ObjectKey, ReadError, Storage};

const PREFIX: [&str; 2] = ["ledger", "checkpoints"];
/// The longest that is read.
const MAX_BYTES: u64 = 4096;
/// Requests under way at a time.
const AT_ONCE: usize = 16;
/// Digits of the hash in a name.
const HASH_DIGITS: usize = 16;

impl ObjectKey {
    /// `ledger/checkpoints/ROW-HASH.json`; keys of later rows sort behind those of earlier ones.
    pub fn checkpoint(seq: i64, hash: &str) -> ObjectKey {
        let hash: String = hash.chars().filter(char::is_ascii_hexdigit).take(HASH_DIGITS).collect();
        let [room, kind] = PREFIX.map(str::to_owned);
        ObjectKey(Path::from_iter([room, kind, format!("{seq:020}-{hash}.json")]))
    }
}

impl Storage {
    /// Keeps a checkpoint; durable when it answers.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    pub async fn put_checkpoint(&self, key: &ObjectKey, text: String) -> Result<(), ReadError> {
        let put = self.hasty.put(&key.0, PutPayload::from(text.into_bytes())).await;
        put.map(|_| ()).map_err(|source| ReadError::new(key, source))
    }

    /// The keys of all checkpoints, the earliest rows first.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    pub async fn checkpoints(&self) -> Result<Vec<ObjectKey>, ReadError> {
        let prefix = Path::from_iter(PREFIX);
        let listed: Result<Vec<ObjectKey>, _> =
            self.hasty.list(Some(&prefix)).map_ok(|object| ObjectKey(object.location)).try_collect().await;
        let mut keys = listed.map_err(|source| ReadError::new(&ObjectKey(prefix), source))?;
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(keys)
    }

    /// The texts of all checkpoints with their keys; what is too long or no text is empty. One that goes away meanwhile is
    /// left out.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    pub async fn read_checkpoints(&self) -> Result<Vec<(ObjectKey, String)>, ReadError> {
        let reads = stream::iter(self.checkpoints().await?).map(async |key| match self.read_checkpoint(&key).await {
            Ok(text) => Ok(Some((key, text))),
            Err(ReadError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        });
        let read: Vec<Option<(ObjectKey, String)>> = reads.buffered(AT_ONCE).try_collect().await?;
        Ok(read.into_iter().flatten().collect())
    }

    async fn read_checkpoint(&self, key: &ObjectKey) -> Result<String, ReadError> {
        let failed = |source| ReadError::new(key, source);
        let found = self.hasty.get(&key.0).await.map_err(failed)?;
        if found.meta.size > MAX_BYTES {
            return Ok(String::new());
        }
        let bytes = found.bytes().await.map_err(failed)?;
        Ok(String::from_utf8(bytes.to_vec()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use crate::storage::{ObjectKey, Storage};

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
            assert_eq!(storage.checkpoints().await.unwrap(), vec![]);
            for (seq, hash, text) in
                [(1_000, "ab", "later"), (9, "cd", "first"), (1_000, "aa", "x".repeat(5000).as_str())]
            {
                storage.put_checkpoint(&ObjectKey::checkpoint(seq, &hash.repeat(32)), text.to_owned()).await.unwrap();
            }
            let read = storage.read_checkpoints().await.unwrap();
            let read: Vec<(String, &str)> = read.iter().map(|(key, text)| (key.to_string(), text.as_str())).collect();
            let name = |seq: i64, hash: &str| format!("ledger/checkpoints/{seq:020}-{}.json", hash.repeat(8));
            assert_eq!(read, [(name(9, "cd"), "first"), (name(1_000, "aa"), ""), (name(1_000, "ab"), "later")]);
            storage.delete(&ObjectKey::checkpoint(9, &"cd".repeat(32))).await.unwrap();
            assert_eq!(storage.checkpoints().await.unwrap().len(), 2);
        }
    }
}
