//! Why a video failed. One closed list, shared by the rules, the database enum `failure_class` and the API.
//!
//! Always holds: every failed video carries exactly one class; a class says nothing about money, because every failure is
//! refunded in full whatever its class.

use serde::{Deserialize, Serialize};

/// The type of a failure, as the customer reads it in `failure.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The provider refused the request itself: it will never accept this prompt, size or length.
    InvalidInput,
    /// The provider's content policy refused the prompt or the result.
    Moderation,
    /// Our account at the provider was refused (key, region, organisation): an operator must act.
    Auth,
    /// Our account at the provider has run out of money or quota: an operator must act.
    NoCredit,
    /// The provider asked us to slow down; nothing was bought.
    RateLimited,
    /// The provider has no room at the moment; nothing was bought.
    Capacity,
    /// The provider took the job and broke, or delivered a file that is not a video.
    ProviderFault,
    /// The provider could not be reached; provably nothing was bought.
    Network,
    /// The provider did not finish within the time that the model is given.
    Timeout,
    /// The finished file was gone before it could be copied.
    OutputExpired,
    /// The provider no longer serves this model.
    ModelRetired,
    /// Our own object store did not take the file.
    StorageFault,
    /// The answer to a submission was lost and nobody could tell whether it was accepted.
    OutcomeUnknown,
    /// The video's attempts killed their worker too often.
    Poison,
    /// The customer cancelled the batch before the video began.
    Cancelled,
    /// The batch was to be complete by a time that came before the video began.
    Expired,
}

impl FailureClass {
    /// Every class, in the order of the database enum.
    pub const ALL: [FailureClass; 16] = [
        FailureClass::InvalidInput,
        FailureClass::Moderation,
        FailureClass::Auth,
        FailureClass::NoCredit,
        FailureClass::RateLimited,
        FailureClass::Capacity,
        FailureClass::ProviderFault,
        FailureClass::Network,
        FailureClass::Timeout,
        FailureClass::OutputExpired,
        FailureClass::ModelRetired,
        FailureClass::StorageFault,
        FailureClass::OutcomeUnknown,
        FailureClass::Poison,
        FailureClass::Cancelled,
        FailureClass::Expired,
    ];

    /// The stable name used in the API, the database and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            FailureClass::InvalidInput => "invalid_input",
            FailureClass::Moderation => "moderation",
            FailureClass::Auth => "auth",
            FailureClass::NoCredit => "no_credit",
            FailureClass::RateLimited => "rate_limited",
            FailureClass::Capacity => "capacity",
            FailureClass::ProviderFault => "provider_fault",
            FailureClass::Network => "network",
            FailureClass::Timeout => "timeout",
            FailureClass::OutputExpired => "output_expired",
            FailureClass::ModelRetired => "model_retired",
            FailureClass::StorageFault => "storage_fault",
            FailureClass::OutcomeUnknown => "outcome_unknown",
            FailureClass::Poison => "poison",
            FailureClass::Cancelled => "cancelled",
            FailureClass::Expired => "expired",
        }
    }
}
