//! What a provider says it made: the jobs of an account as its own list tells them, for comparison with our attempts.
//!
//! Prompts are not kept, only what recognises them.

use chrono::{DateTime, Utc};
use ring::digest::{SHA256, digest};

use super::Handle;

/// The hash of a prompt's words: servers trim prompts and change line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub fn of(prompt: &str) -> Fingerprint {
        let words: Vec<&str> = prompt.split_whitespace().collect();
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, words.join(" ").as_bytes()).as_ref());
        Fingerprint(hash)
    }
}

/// How far a job is, as far as money is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// There is a film.
    Yes,
    /// There will be none.
    No,
    /// Under way, or in a word that does not tell.
    NotYet,
}

/// A job of the account's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedJob {
    pub handle: Handle,
    pub created_at: DateTime<Utc>,
    pub made: Made,
    /// `None` when the list keeps prompts to itself.
    pub prompt: Option<Fingerprint>,
}

/// The jobs of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobList {
    /// Every one, in no order.
    Jobs(Vec<ListedJob>),
    /// This account cannot tell, and why.
    NotComparable(&'static str),
}

#[cfg(test)]
mod tests {
    use super::Fingerprint;

    #[test]
    fn white_space_does_not_make_another_prompt_and_words_do() {
        assert_eq!(Fingerprint::of(" a red fox\r\nruns "), Fingerprint::of("a red fox\nruns"));
        assert_ne!(Fingerprint::of("a red fox"), Fingerprint::of("a redfox"));
    }
}
