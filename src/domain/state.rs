//! The states of things, each with who moves it in and out. Postgres has an enum of the same name and words for each.

use serde::{Deserialize, Serialize};

macro_rules! stored_enum {
    ($(#[$doc:meta])* $name:ident, $sql:literal, { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type)]
        #[sqlx(type_name = $sql)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] #[sqlx(rename = $word)] $variant),+
        }

        impl $name {
            /// The name of the Postgres enum that repeats this one.
            pub const SQL_TYPE: &'static str = $sql;
            /// Every state, in the order of the Postgres enum.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word used in the API, the database and metrics.
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }

            /// The state of that name.
            pub fn from_word(word: &str) -> Option<$name> {
                match word { $($word => Some($name::$variant),)+ _ => None }
            }
        }
    };
}

stored_enum!(
    /// How far a batch is.
    BatchStatus, "batch_status", {
        /// Accepted and paid for; no video has been released. Set by admission.
        Queued = "queued",
        /// At least one video has been released. Set by the scheduler.
        Processing = "processing",
        /// Every video succeeded. Set by `finalize_batch_credits`.
        Completed = "completed",
        /// Some videos succeeded. Set by `finalize_batch_credits`.
        Partial = "partial",
        /// No video succeeded. Set by `finalize_batch_credits`.
        Failed = "failed",
    }
);

impl BatchStatus {
    /// Whether the money of the batch is settled for good.
    pub const fn is_final(self) -> bool {
        matches!(self, BatchStatus::Completed | BatchStatus::Partial | BatchStatus::Failed)
    }
}

stored_enum!(
    /// How far a video is. The row is the truth; its queue job is only a wake-up.
    VideoState, "video_state", {
        /// Waits for the scheduler, perhaps in back-off; holds no slot, no job, no lock. Set by admission and by a retry.
        Waiting = "waiting",
        /// A queue job exists. Set by the scheduler.
        Released = "released",
        /// A worker holds it under the present lease epoch. Set by the claim.
        Running = "running",
        /// Stored, hashed and verified. Set by the recorder, never left.
        Succeeded = "succeeded",
        /// Refunded. Set by the recorder, never left.
        Failed = "failed",
    }
);

impl VideoState {
    pub const fn is_final(self) -> bool {
        matches!(self, VideoState::Succeeded | VideoState::Failed)
    }
}

stored_enum!(
    /// Why a video waits. Seen by the scheduler's leader; the first that holds, in the order of its own checks.
    WaitingReason, "waiting_reason", {
        /// Its turn comes with the next waves: nothing stands in its way.
        Queued = "queued",
        /// Its last attempt failed, and the next one is not due yet.
        BackOff = "back_off",
        /// The tenant's videos per minute, or at once.
        TenantLimit = "tenant_limit",
        /// The model's videos per minute, or at once.
        ModelLimit = "model_limit",
        /// The provider account's requests per minute, or videos at once.
        ProviderLimit = "provider_limit",
        /// The pace that the batch was ordered with.
        BatchPace = "batch_pace",
        /// The provider asked for a pause.
        Cooldown = "cooldown",
        /// Our credit or quota at the provider is used up.
        OutOfQuota = "out_of_quota",
        /// Orders failed one after the other at the provider account; it is tried by one video at a time.
        CircuitOpen = "circuit_open",
        /// The provider does not let us in.
        Refused = "refused",
        /// An operator stopped the provider account.
        Paused = "paused",
        /// No provider account is configured for the model.
        NoRoute = "no_route",
        /// No slot of a living worker is free.
        NoWorker = "no_worker",
    }
);

stored_enum!(
    /// How far one attempt at a provider is.
    AttemptState, "attempt_state", {
        /// Written before the first byte leaves; nobody knows yet whether it was accepted.
        Sent = "sent",
        /// The provider gave a handle.
        Accepted = "accepted",
        /// The answer was lost: to be looked up, never resubmitted blindly.
        Unknown = "unknown",
        /// Provably nothing was bought.
        Rejected = "rejected",
        /// Its output is stored.
        Succeeded = "succeeded",
        /// Accepted by the provider and then failed, expired or given up.
        Failed = "failed",
        /// Its outcome could not be found out before the deadline; the possible cost is ours.
        Unresolved = "unresolved",
    }
);

stored_enum!(
    /// Where credits came from. Drawn in this order; a refund returns to its own source.
    GrantSource, "grant_source", {
        /// Given free of charge (pilots, goodwill).
        Promotional = "promotional",
        /// Bought.
        Paid = "paid",
        /// Lent, to be invoiced.
        CreditLine = "credit_line",
    }
);

stored_enum!(
    /// What a ledger row records.
    LedgerAct, "ledger_act", {
        /// Credits come in: issued -> available.
        Grant = "grant",
        /// The price of a batch is set aside: available -> held.
        Freeze = "freeze",
        /// Delivered videos are paid: held -> revenue.
        Charge = "charge",
        /// Failed videos are given back: held -> available.
        Refund = "refund",
        /// A correction by a named person for a stated reason: issued <-> available.
        Adjustment = "adjustment",
        /// What an attempt cost us, or may have, without a video to show for it: provider_payable -> provider_loss. No
        /// customer's money.
        Loss = "loss",
    }
);

impl LedgerAct {
    /// Every act that moves customers' money.
    pub const OF_CUSTOMERS: &'static [LedgerAct] =
        &[LedgerAct::Grant, LedgerAct::Freeze, LedgerAct::Charge, LedgerAct::Refund, LedgerAct::Adjustment];
}

stored_enum!(
    /// What became of the job of an attempt that had ended before.
    LateFinding, "late_finding", {
        /// The provider finished the video after the attempt's end.
        Succeeded = "succeeded",
        /// It ended the job without a video.
        Failed = "failed",
    }
);

stored_enum!(
    /// How far the delivery of an event to an endpoint is.
    DeliveryState, "delivery_state", {
        /// To be sent, now or after a back-off.
        Pending = "pending",
        /// The receiver answered 2xx.
        Delivered = "delivered",
        /// Every retry of the schedule was used up, or the endpoint was disabled.
        GivenUp = "given_up",
    }
);
