//! What may become of a video that meets a hostile provider, kind by kind, and what that means for the money.
//!
//! Always holds: a customer pays for a film that was stored and for nothing else. Whatever fails is refunded in full; what
//! the provider may bill us for it all the same is the house's loss, and each [`Fate`] says how much that can be.

use std::fmt;

use serde::Serialize;

use crate::domain::FailureClass;
use crate::emulator::{Answer, Asset, Attack, Link};

/// A vendor's protocol, as the emulator speaks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Vendor {
    /// The `/v1/videos` shape: the file is at the provider, and there is a list of jobs.
    Openai,
    /// Veo on the Gemini API: the file is at a link that redirects; no list.
    Veo,
    /// Gemini Omni: the file is at a link; no list.
    Omni,
    /// fal: the file is at a link on another host; no list.
    Fal,
}

impl Vendor {
    pub const ALL: [Vendor; 4] = [Vendor::Openai, Vendor::Veo, Vendor::Omni, Vendor::Fal];

    /// The account and the model that honest videos use, and hostile ones too.
    pub fn shared(self) -> String {
        format!("shared-{}", self.word())
    }

    /// The account and the model of those attacks that speak of a whole account.
    pub fn aside(self) -> String {
        format!("aside-{}", self.word())
    }

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Vendor::Openai => "openai",
            Vendor::Veo => "veo",
            Vendor::Omni => "omni",
            Vendor::Fal => "fal",
        }
    }
}

/// A kind of hostility at one vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    pub attack: Attack,
    pub vendor: Vendor,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.vendor.word(), self.attack.name())
    }
}

/// How a video of a kind may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The hostility does no harm, or passes: it may be made, and the film is charged once.
    Harmless,
    /// The provider refused the order in so many words: nothing was bought.
    Refused,
    /// The order was taken and its answer is of no use. A list or a callback may find the job; where neither does, nobody can
    /// tell whether a video was made, and one may be billed to us.
    Unknown,
    /// The order was taken and no film came of it: each of up to three attempts may be billed to us.
    Broken,
}

impl Fate {
    /// What it costs whom.
    pub fn money(self) -> &'static str {
        match self {
            Fate::Harmless => "charged once if it was stored, refunded if not",
            Fate::Refused => "refunded; nothing was bought",
            Fate::Unknown => "charged once if it was found and stored; else refunded, and one may be billed to us",
            Fate::Broken => "refunded; the provider may bill each attempt to us",
        }
    }

    /// A film must not come of it.
    pub fn must_fail(self) -> bool {
        matches!(self, Fate::Refused | Fate::Broken)
    }
}

/// What is expected of one kind.
#[derive(Clone, Debug)]
pub struct Expected {
    pub fate: Fate,
    /// The classes that a failure may have.
    pub classes: &'static [FailureClass],
}

use FailureClass::{Auth, InvalidInput, Network, OutcomeUnknown, OutputExpired, ProviderFault, RateLimited, Timeout};

/// It passes, unless the attempt's time is over before.
const PASSING: Expected = Expected { fate: Fate::Harmless, classes: &[RateLimited, Timeout, ProviderFault] };
const fn broken(classes: &'static [FailureClass]) -> Expected {
    Expected { fate: Fate::Broken, classes }
}
const fn refused(classes: &'static [FailureClass]) -> Expected {
    Expected { fate: Fate::Refused, classes }
}
/// Found by list or callback, it may still run out of time.
const LOST: Expected = Expected { fate: Fate::Unknown, classes: &[OutcomeUnknown, Network, Timeout] };
/// Nobody ever learns how far the job is.
const UNREADABLE: Expected = broken(&[Timeout]);
/// A file came that is no film.
const NO_FILM: Expected = broken(&[ProviderFault]);
/// The file cannot be had.
const NO_FILE: Expected = broken(&[ProviderFault]);

impl Kind {
    /// Each kind once (`round` 0), with the vendors taking turns; every further round has the next vendor for each.
    pub fn round(round: usize) -> Vec<Kind> {
        let vendors = Vendor::ALL.iter().copied().cycle().skip(round);
        Attack::all().into_iter().zip(vendors).map(|(attack, vendor)| Kind { attack, vendor }).collect()
    }

    /// Whether it speaks of the whole account (slow down, no access): then other videos of that account rightly wait, so
    /// it has an account of its own.
    pub fn is_about_the_account(self) -> bool {
        use Answer::{RetryAfterHuge, RetryAfterNegative, RetryAfterPast, Unauthorized};
        let (Attack::Create(answer) | Attack::Poll(answer)) = self.attack else { return false };
        matches!(answer, RetryAfterHuge | RetryAfterNegative | RetryAfterPast | Unauthorized)
    }

    /// The model that such a video is ordered as.
    pub fn model(self) -> String {
        if self.is_about_the_account() { self.vendor.aside() } else { self.vendor.shared() }
    }

    /// What the prompt has in it, and the script listens for.
    pub fn mark(self) -> String {
        format!("[{}]", self.attack.name())
    }

    pub fn expected(self) -> Expected {
        match self.attack {
            Attack::Create(answer) => self.of_create(answer),
            Attack::CreateWire(_) => LOST,
            Attack::Poll(answer) => self.of_poll(answer),
            Attack::PollWire(_) => UNREADABLE,
            Attack::Link(link) => self.of_link(link),
            Attack::File(asset) => of_file(asset),
        }
    }

    fn of_create(self, answer: Answer) -> Expected {
        match answer {
            Answer::DuplicateKeys => PASSING,
            // one retry spends nothing and the account is asked again: all three pass
            Answer::RetryAfterHuge | Answer::RetryAfterNegative | Answer::RetryAfterPast => PASSING,
            Answer::Unauthorized => refused(&[Auth]),
            Answer::Words | Answer::LongWords | Answer::NestedError => refused(&[InvalidInput]),
            // an operation's name has a form, so that Veo's is refused; elsewhere it is a job that nobody knows, and the next
            // time it is the first attempt's
            Answer::IdWithDots if self.vendor != Vendor::Veo => {
                Expected { fate: Fate::Unknown, classes: &[ProviderFault, OutcomeUnknown] }
            }
            // the database knows whose job it is; where it was nobody's, the provider's word stands
            Answer::ForeignId => Expected { fate: Fate::Harmless, classes: &[OutcomeUnknown, ProviderFault] },
            _ => LOST,
        }
    }

    fn of_poll(self, answer: Answer) -> Expected {
        match answer {
            Answer::RetryAfterHuge | Answer::Unauthorized | Answer::Progress | Answer::Flicker | Answer::TwoEnds => {
                PASSING
            }
            Answer::Words | Answer::NestedError => broken(&[ProviderFault, Timeout]),
            // too long to be read, unless long texts are passed over
            Answer::LongWords => broken(&[ProviderFault, Timeout]),
            _ => UNREADABLE,
        }
    }

    fn of_link(self, link: Link) -> Expected {
        match link {
            Link::Changing => PASSING,
            // a job without a film that can be read may still be under way
            Link::Missing => broken(&[ProviderFault, Timeout]),
            Link::Data | Link::File if self.vendor == Vendor::Fal => UNREADABLE,
            Link::Data | Link::File | Link::Metadata | Link::UserInfo | Link::Circle | Link::Chain => NO_FILM,
            Link::Control => NO_FILM,
            Link::LocalPort => NO_FILE,
            Link::Long | Link::NoUrl => broken(&[ProviderFault, Timeout]),
            // a 403 of the provider itself is taken for a refused account
            Link::Forbidden if self.vendor == Vendor::Openai => broken(&[Auth]),
            Link::Forbidden | Link::Gone => broken(&[OutputExpired]),
        }
    }
}

fn of_file(asset: Asset) -> Expected {
    match asset {
        Asset::WrongType | Asset::Another => PASSING,
        // boxes are not looked into
        Asset::DeepBoxes => PASSING,
        Asset::Short | Asset::Dripped | Asset::Stalled | Asset::Partial => NO_FILE,
        Asset::Streamed => NO_FILE,
        _ => NO_FILM,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn two_rounds_have_every_kind_at_two_vendors() {
        let kinds: HashSet<Kind> = Kind::round(0).into_iter().chain(Kind::round(1)).collect();
        assert_eq!(kinds.len(), 2 * Attack::all().len());
        for kind in kinds {
            let expected = kind.expected();
            assert!(!expected.classes.is_empty(), "{kind}");
        }
    }
}
