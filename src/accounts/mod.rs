//! What is known of each provider account: whether new videos may go there, and if not, why and until when.
//!
//! One row per account, by its name in the settings, for the whole cluster; no row means that nothing is known against it.
//! Written by whoever learns something: an operator who stops and starts ([`stop`], [`start`]), and the workers, whom
//! providers tell to slow down, that money has run out or that we are not known, or fail order after order ([`note`]).
//! Always holds: time is the database's; a pause is extended and never shortened, except by an operator; a change of mind
//! (stopped, out of quota, refused, circuit open, and back) leaves a row with who, when, from what and to what.
//! Refuses: to know models, routes, prices or keys; to choose. It says what is shut, the scheduler chooses.

mod circuit;
mod news;
mod note;
mod operate;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

pub use news::{CircuitLaw, Fault, News};
pub use note::{note, probing};
pub use operate::{Changed, list, start, stop};

/// Why nothing new may go to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shut {
    /// An operator stopped it.
    Stopped,
    /// It does not know us: a key, region or organisation was refused.
    Refused,
    /// Our money or quota there is used up.
    OutOfQuota,
    /// It failed order after order.
    CircuitOpen,
    /// It asked for a pause.
    Cooling,
}

impl Shut {
    /// Every reason, the heaviest first.
    pub const ALL: [Shut; 5] = [Shut::Stopped, Shut::Refused, Shut::OutOfQuota, Shut::CircuitOpen, Shut::Cooling];

    /// The stable name, for metrics, logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Shut::Stopped => "stopped",
            Shut::Refused => "refused",
            Shut::OutOfQuota => "out_of_quota",
            Shut::CircuitOpen => "circuit_open",
            Shut::Cooling => "cooling",
        }
    }
}

/// An account's row, and what it means now by the database's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    pub name: String,
    pub stopped_at: Option<DateTime<Utc>>,
    pub stopped_by: Option<String>,
    pub stop_reason: Option<String>,
    pub cooled_until: Option<DateTime<Utc>>,
    pub cool_cause: Option<String>,
    pub quota_exhausted_at: Option<DateTime<Utc>>,
    pub refused_at: Option<DateTime<Utc>>,
    /// Orders that failed in a row by its fault, as far as they are not long ago; 0 while the circuit is open.
    pub circuit_faults: i32,
    pub circuit_opened_at: Option<DateTime<Utc>>,
    /// The pause between two probes of the open circuit, in milliseconds, without its jitter.
    pub circuit_pause_ms: Option<i64>,
    /// From when on one video may try whether it is back.
    pub probe_at: Option<DateTime<Utc>>,
    /// The video that tries, by its id without prefix.
    #[serde(skip)]
    pub probe_video: Option<String>,
    #[serde(skip)]
    pub cooling: bool,
    #[serde(skip)]
    pub probe_due: bool,
}

impl Account {
    /// An account that nothing is known against.
    pub fn open(name: &str) -> Account {
        Account {
            name: name.to_owned(),
            stopped_at: None,
            stopped_by: None,
            stop_reason: None,
            cooled_until: None,
            cool_cause: None,
            quota_exhausted_at: None,
            refused_at: None,
            circuit_faults: 0,
            circuit_opened_at: None,
            circuit_pause_ms: None,
            probe_at: None,
            probe_video: None,
            cooling: false,
            probe_due: false,
        }
    }

    /// Why nothing new may go there; the heaviest reason where there are several.
    pub fn shut(&self) -> Option<Shut> {
        let reasons = [
            (Shut::Stopped, self.stopped_at.is_some()),
            (Shut::Refused, self.refused_at.is_some()),
            (Shut::OutOfQuota, self.quota_exhausted_at.is_some()),
            (Shut::CircuitOpen, self.circuit_opened_at.is_some()),
            (Shut::Cooling, self.cooling),
        ];
        reasons.into_iter().find_map(|(why, holds)| holds.then_some(why))
    }

    /// Whether its provider said that it takes nothing more from us, or failed so many orders that a probe has to find out.
    pub fn marked(&self) -> bool {
        self.quota_exhausted_at.is_some() || self.refused_at.is_some() || self.circuit_opened_at.is_some()
    }

    /// Whether it is out of quota, refused or its circuit open, and nothing else stands against asking it with one video.
    pub fn may_be_probed(&self) -> bool {
        self.probe_due && self.stopped_at.is_none() && !self.cooling
    }

    /// Whether this video may not be sent there. A video that was released as a probe may.
    pub fn turns_away(&self, video: &str) -> bool {
        let probe = self.probe_video.as_deref() == Some(video) && self.stopped_at.is_none() && !self.cooling;
        self.shut().is_some() && !probe
    }
}

/// Every account with a row.
///
/// # Errors
/// The database's.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<Account>, sqlx::Error> {
    sqlx::query_as!(
        Account,
        r#"select name, stopped_at, stopped_by, stop_reason, cooled_until, cool_cause, quota_exhausted_at, refused_at,
               case when circuit_fault_at > now() - $1 * interval '1 ms' then cardinality(circuit_faults)
                   else 0 end as "circuit_faults!",
               circuit_opened_at, circuit_pause_ms, probe_at, probe_video, coalesce(cooled_until > now(), false) as "cooling!",
               coalesce(probe_at <= now(), false) as "probe_due!"
           from provider_accounts order by name"#,
        circuit::FORGOTTEN_AFTER.as_millis() as f64,
    )
    .fetch_all(conn)
    .await
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::{Account, Shut};

    #[test]
    fn the_heaviest_reason_is_told_and_a_probe_gets_past_the_marks_alone() {
        let open = Account::open("lab");
        assert_eq!((open.shut(), open.may_be_probed(), open.turns_away("v")), (None, false, false));
        let spent = Account {
            quota_exhausted_at: Some(Utc::now()),
            probe_due: true,
            probe_video: Some("v".to_owned()),
            ..open.clone()
        };
        assert_eq!((spent.shut(), spent.may_be_probed()), (Some(Shut::OutOfQuota), true));
        assert!(spent.turns_away("w") && !spent.turns_away("v"));
        let cooling = Account { cooling: true, ..spent.clone() };
        assert!(!cooling.may_be_probed() && cooling.turns_away("v"));
        let stopped = Account { stopped_at: Some(Utc::now()), ..spent };
        assert_eq!(stopped.shut(), Some(Shut::Stopped));
        assert!(!stopped.may_be_probed() && stopped.turns_away("v"));
        let broken = Account {
            circuit_opened_at: Some(Utc::now()),
            probe_due: true,
            probe_video: Some("v".to_owned()),
            ..open.clone()
        };
        assert_eq!((broken.shut(), broken.marked(), broken.may_be_probed()), (Some(Shut::CircuitOpen), true, true));
        assert!(broken.turns_away("w") && !broken.turns_away("v"));
        assert_eq!(Account { cooling: true, ..open }.shut(), Some(Shut::Cooling));
        assert!(Shut::ALL.is_sorted());
    }
}
