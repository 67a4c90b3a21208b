//! What an answer of the provider says about the account, beyond the video that it was given to.
//!
//! Always holds: the news is handed to the recorder before the end of the attempt is, so it is committed first or with it;
//! a pause is as long as the provider asked for or longer, up to the installation's bound. A fault of the account is what its
//! answer to an order says, or that there was none that can be used: what becomes of a job afterwards depends on the order
//! as well, and its retries are bounded. For the same reason an order that is taken ends the count and closes the circuit:
//! it is what had failed, and to wait for the film would keep an account that is well shut for minutes.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use freezeframe_workflows::video::VideoEnd;
use rand::RngExt;

use super::{Attempt, LeaseLost};
use crate::accounts::{Fault, News};
use crate::domain::FailureClass;
use crate::metrics;
use crate::providers::ReadError;
use crate::steps::AccountTiming;
use crate::steps::record::Transition;

/// A pause is longer than was asked for by up to this share, so that not everybody comes back at the same moment.
const JITTER_PERMILLE: u32 = 100;

/// What a refusal of this class says about the account; `None` when it is about the request alone.
fn news_of(class: FailureClass, asked: Option<Duration>, timing: AccountTiming) -> Option<News> {
    match class {
        FailureClass::RateLimited | FailureClass::Capacity => {
            let jitter = rand::rng().random_range(0..=JITTER_PERMILLE);
            Some(News::Cool { pause: pause(asked, timing, jitter), cause: class.name() })
        }
        FailureClass::NoCredit => Some(News::OutOfQuota),
        FailureClass::Auth => Some(News::Refused),
        FailureClass::InvalidInput
        | FailureClass::Moderation
        | FailureClass::ProviderFault
        | FailureClass::Network
        | FailureClass::Timeout
        | FailureClass::OutputExpired
        | FailureClass::ModelRetired
        | FailureClass::StorageFault
        | FailureClass::OutcomeUnknown
        | FailureClass::Poison
        | FailureClass::Cancelled
        | FailureClass::Expired => None,
    }
}

/// Whether a refusal of this class is the account's fault, so that the next order there may fare the same.
fn is_fault(class: FailureClass) -> bool {
    match class {
        FailureClass::ProviderFault | FailureClass::Network | FailureClass::Timeout => true,
        // the order's, or told in words of their own
        FailureClass::InvalidInput
        | FailureClass::Moderation
        | FailureClass::Auth
        | FailureClass::NoCredit
        | FailureClass::RateLimited
        | FailureClass::Capacity
        | FailureClass::ModelRetired
        // of a job that was taken, or ours
        | FailureClass::OutputExpired
        | FailureClass::StorageFault
        | FailureClass::OutcomeUnknown
        | FailureClass::Poison
        | FailureClass::Cancelled
        | FailureClass::Expired => false,
    }
}

fn pause(asked: Option<Duration>, timing: AccountTiming, jitter_permille: u32) -> Duration {
    let asked = asked.unwrap_or(timing.cool_down).min(timing.max_cool_down);
    asked + asked * jitter_permille / 1000
}

/// Whether waiting is the account's affair: then the video itself need not wait as long as the provider asked, because it
/// may take another route meanwhile.
pub(super) fn cools(class: FailureClass) -> bool {
    matches!(class, FailureClass::RateLimited | FailureClass::Capacity)
}

/// The accounts at which this process had an order taken since it told their last fault. Cheap: one lock for a moment.
#[derive(Debug, Default)]
pub struct TakenSince(Mutex<HashSet<String>>);

impl TakenSince {
    fn note(&self, account: &str) {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !accounts.contains(account) {
            accounts.insert(account.to_owned());
        }
    }

    /// Whether there was one; the next ask begins anew.
    fn take(&self, account: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(account)
    }
}

impl Attempt<'_> {
    /// A submission was refused: tells the account's news, and whether the video has another account to go to.
    pub(super) async fn refused(
        &self,
        class: FailureClass,
        retry_after: Option<Duration>,
    ) -> Result<VideoEnd, LeaseLost> {
        if let Some(news) = news_of(class, retry_after, self.studio.accounts) {
            self.tell(news).await?;
        }
        if is_fault(class) {
            self.failed_by_account().await?;
        }
        let elsewhere = self.studio.catalogue.get().model(&self.video.model).is_some_and(|model| {
            model.leads_elsewhere(&self.video.attempt.provider, self.video.attempt.sent_at.date_naive())
        });
        Ok(if elsewhere { VideoEnd::RouteRefused(class) } else { VideoEnd::Rejected(class) })
    }

    /// A submission was accepted: a marked account takes videos again, and faults that are counted were not in a row.
    pub(super) async fn accepted(&self) -> Result<(), LeaseLost> {
        self.studio.taken.note(&self.video.attempt.provider);
        match (self.video.probe, self.video.after_faults) {
            (true, _) => self.tell(News::AnsweredAgain).await,
            (false, true) => self.tell(News::Took).await,
            (false, false) => Ok(()),
        }
    }

    /// An order failed by the account's fault. Told at once: what becomes of the order is known much later.
    pub(super) async fn failed_by_account(&self) -> Result<(), LeaseLost> {
        let law = self.studio.accounts.circuit;
        if law.faults == 0 {
            return Ok(());
        }
        let jitter_permille = rand::rng().random_range(0..=JITTER_PERMILLE);
        let (attempt, video) = (self.video.attempt.id, self.video.lease.video);
        let after_success = self.studio.taken.take(&self.video.attempt.provider);
        self.tell(News::Fault(Fault { attempt, video, after_success, law, jitter_permille })).await
    }

    /// The attempt has ended. One that was to find out about the account leaves that to the next one, if it found nothing.
    pub(super) async fn probe_is_over(&self) {
        if self.video.probe {
            // a recorder that has stopped leaves it to the time that was set at the release
            let _ = self.tell(News::ProbeOver { video: self.video.lease.video }).await;
        }
    }

    /// A read failed. Only a wish for a pause is taken for the account's: one job that it will not show us says nothing
    /// about the next order. Answers the pause before the next question about this job.
    pub(super) async fn could_not_ask(&self, error: &ReadError) -> Result<Duration, LeaseLost> {
        let ReadError::RateLimited { retry_after } = error else { return Ok(Duration::ZERO) };
        let Some(news) = news_of(FailureClass::RateLimited, *retry_after, self.studio.accounts) else {
            return Ok(Duration::ZERO);
        };
        let rest = if let News::Cool { pause, .. } = &news { *pause } else { Duration::ZERO };
        self.tell(news).await?;
        Ok(rest)
    }

    /// Handed over without waiting for the commit: the end of the attempt comes behind it.
    async fn tell(&self, news: News) -> Result<(), LeaseLost> {
        let account = self.video.attempt.provider.as_str();
        let word = match &news {
            News::Cool { .. } => "cool",
            News::OutOfQuota => "out_of_quota",
            News::Refused => "refused",
            News::Fault(_) => "fault",
            News::Took => "took",
            News::AnsweredAgain => "answered_again",
            News::ProbeOver { .. } => "probe_over",
        };
        metrics::account_news(account, word);
        let told = Transition::Account { account: account.into(), news, probe: self.studio.accounts.probe };
        self.studio.recorder.hand_in(told).await.map_err(|_| LeaseLost)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::CircuitLaw;

    const TIMING: AccountTiming = AccountTiming {
        cool_down: Duration::from_secs(10),
        max_cool_down: Duration::from_secs(100),
        probe: Duration::from_secs(300),
        circuit: CircuitLaw { faults: 5, pause: Duration::from_secs(10), max_pause: Duration::from_secs(600) },
    };

    #[test]
    fn a_pause_is_what_was_asked_for_or_a_little_longer_and_never_endless() {
        let secs = |asked: Option<u64>, jitter| pause(asked.map(Duration::from_secs), TIMING, jitter).as_secs_f64();
        assert_eq!((secs(Some(30), 0), secs(Some(30), 100)), (30.0, 33.0));
        assert_eq!((secs(None, 0), secs(Some(0), 100)), (10.0, 0.0));
        assert_eq!(secs(Some(1_000_000), 0), 100.0);
    }

    #[test]
    fn only_what_is_about_the_account_is_news_of_it() {
        let news = |class| news_of(class, Some(Duration::from_secs(5)), TIMING);
        for class in [FailureClass::RateLimited, FailureClass::Capacity] {
            assert!(
                matches!(news(class), Some(News::Cool { pause, .. }) if pause >= Duration::from_secs(5)),
                "{class:?}"
            );
            assert!(cools(class));
        }
        assert_eq!(news(FailureClass::NoCredit), Some(News::OutOfQuota));
        assert_eq!(news(FailureClass::Auth), Some(News::Refused));
        let others = FailureClass::ALL.into_iter().filter(|class| news(*class).is_none());
        assert_eq!(others.count(), FailureClass::ALL.len() - 4);
    }

    #[test]
    fn what_counts_as_a_fault_is_told_in_no_other_word_and_never_depends_on_the_order() {
        let faults: Vec<FailureClass> = FailureClass::ALL.into_iter().filter(|class| is_fault(*class)).collect();
        assert_eq!(faults.len(), 3, "{faults:?}");
        for class in faults {
            assert_eq!(news_of(class, None, TIMING), None, "{class:?}");
            assert!(freezeframe_workflows::retry::accounts_fault(class), "{class:?}");
        }
    }
}
