//! Words of a provider that its protocol does not know: each is logged once, and only so many are remembered.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

const MAX_REMEMBERED: usize = 32;

#[derive(Default)]
pub(in crate::providers) struct OddWords {
    known: Mutex<BTreeSet<String>>,
}

impl OddWords {
    /// Notes a status that is taken as "still running".
    pub(in crate::providers) fn note(&self, provider: &str, word: &str) {
        let word: String = word.chars().filter(char::is_ascii_graphic).take(40).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_REMEMBERED && known.insert(word.clone()) {
            tracing::warn!(provider, status = word, "unknown job status at the provider; taken as running");
        }
    }
}
