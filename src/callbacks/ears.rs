//! The attempts of this process that may be called about.
//!
//! Always holds: an ear that was called before it listened hears it when it does; a call whose job is not the one that the
//! attempt knows is told in the log and counted, and wakes nobody. Dropping an ear takes it out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::About;
use crate::domain::AttemptId;
use crate::metrics;

/// Account and subject.
type Key = (String, String);

/// All of them. Clones share them.
#[derive(Clone, Default)]
pub struct Ears(Arc<Mutex<HashMap<Key, Arc<Listening>>>>);

/// What an attempt listens with.
pub struct Ear {
    ears: Ears,
    keys: Vec<Key>,
    listening: Arc<Listening>,
}

struct Listening {
    account: String,
    attempt: AttemptId,
    called: Notify,
    jobs: Mutex<Jobs>,
}

#[derive(Default)]
struct Jobs {
    /// The attempt's own.
    known: Option<String>,
    /// By a call.
    named: Option<String>,
}

impl Listening {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the jobs agree, as far as both are there.
    fn agrees(&self, jobs: &Jobs) -> bool {
        let (Some(known), Some(named)) = (&jobs.known, &jobs.named) else { return true };
        if known == named {
            return true;
        }
        metrics::provider_callback(&self.account, "mismatch");
        tracing::warn!(account = self.account, attempt = %self.attempt,
            "a callback names another job than the attempt's own and is passed over");
        false
    }
}

impl Ears {
    fn all(&self) -> MutexGuard<'_, HashMap<Key, Arc<Listening>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to listen for an attempt.
    pub fn listen(&self, account: &str, attempt: AttemptId) -> Ear {
        let (called, jobs) = (Notify::new(), Mutex::default());
        let listening = Arc::new(Listening { account: account.to_owned(), attempt, called, jobs });
        let mut ear = Ear { ears: self.clone(), keys: Vec::new(), listening };
        ear.answer_to(&About::Attempt(attempt));
        ear
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    /// Tells whoever it is about; whether there was somebody.
    pub(super) fn tell(&self, account: &str, subject: &str, job: Option<&str>) -> bool {
        let key = (account.to_owned(), subject.to_owned());
        let Some(listening) = self.all().get(&key).cloned() else { return false };
        let agreed = {
            let mut jobs = listening.jobs();
            jobs.named = job.map(str::to_owned).or(jobs.named.take());
            listening.agrees(&jobs)
        };
        if agreed {
            listening.called.notify_one();
        }
        true
    }
}

impl Ear {
    /// The attempt knows its job from now on: calls about the job are about it.
    pub fn know(&mut self, job: String) {
        self.forget_job();
        self.answer_to(&About::Job(job.clone()));
        let mut jobs = self.listening.jobs();
        jobs.known = Some(job);
        self.listening.agrees(&jobs);
    }

    /// The job that the attempt knew is another one's.
    pub fn forget_job(&mut self) {
        self.listening.jobs().known = None;
        let mut all = self.ears.all();
        for key in self.keys.drain(1..) {
            all.remove(&key);
        }
    }

    /// Resolves when there was a call since the last time.
    pub async fn called(&self) {
        self.listening.called.notified().await;
    }

    fn answer_to(&mut self, about: &About) {
        let key = (self.listening.account.clone(), about.subject());
        self.ears.all().insert(key.clone(), self.listening.clone());
        self.keys.push(key);
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut all = self.ears.all();
        for key in &self.keys {
            // another claim of the same attempt may listen by now
            if all.get(key).is_some_and(|there| Arc::ptr_eq(there, &self.listening)) {
                all.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_called(ear: &Ear) -> bool {
        tokio::time::timeout(Duration::ZERO, ear.called()).await.is_ok()
    }

    #[tokio::test]
    async fn an_ear_hears_of_its_attempt_and_of_its_job_once_each() {
        let (ears, attempt) = (Ears::default(), AttemptId::generate());
        let mut ear = ears.listen("fal", attempt);
        assert!(!ears.tell("fal", &AttemptId::generate().to_string(), None));
        assert!(!ears.tell("veo", &attempt.to_string(), None), "another account's");
        assert!(ears.tell("fal", &attempt.to_string(), Some("j1")));
        assert!(is_called(&ear).await && !is_called(&ear).await);
        assert!(!ears.tell("fal", "job:j1", Some("j1")));
        ear.know("j1".to_owned());
        assert!(ears.tell("fal", "job:j1", Some("j1")) && is_called(&ear).await);
        drop(ear);
        assert!(ears.is_empty());
    }

    #[tokio::test]
    async fn a_call_about_another_job_wakes_nobody() {
        let (ears, attempt) = (Ears::default(), AttemptId::generate());
        let mut ear = ears.listen("fal", attempt);
        ear.know("j1".to_owned());
        assert!(ears.tell("fal", &attempt.to_string(), Some("j2")) && !is_called(&ear).await);
        ear.know("j2".to_owned());
        assert!(!ears.tell("fal", "job:j1", None), "the job of before is nobody's");
        ear.forget_job();
        assert!(ears.tell("fal", &attempt.to_string(), Some("j3")) && is_called(&ear).await);
    }

    #[test]
    fn a_later_ear_of_the_same_attempt_outlives_the_earlier_one() {
        let (ears, attempt) = (Ears::default(), AttemptId::generate());
        let earlier = ears.listen("fal", attempt);
        let _later = ears.listen("fal", attempt);
        drop(earlier);
        assert!(ears.tell("fal", &attempt.to_string(), None));
    }
}
