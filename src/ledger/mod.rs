//! Money: wallets, holds, settlements and the ledger. The only room that writes their tables.
//!
//! Always holds:
//! - a ledger row moves one positive amount from one account to another, so all accounts together sum to zero;
//! - a check and its write are one statement, and database constraints repeat the law;
//! - a video is settled once (`settlements.video_id` is the key), a batch is frozen once and charged once per grant;
//!   an attempt's loss is booked once, apart from customers' money (`provider_losses`);
//! - locks are taken in one order: batch, wallets by (tenant, source), holds by (batch, source);
//! - what was written is tamper-evident: one chainer hashes every entry after its commit (`chain`).
//!
//! Refuses: to begin or commit (the transaction is the caller's), to know what a video is, to touch a float.

mod adjust;
mod books;
pub mod chain;
mod entries;
mod freeze;
mod lock;
mod loss;
mod settle;
mod wallet;

pub use adjust::{Adjustment, adjust};
pub use books::{Books, Difference, books, differences};
pub use entries::{Entry, entries_of_batch};
pub use freeze::{FreezeError, Frozen, freeze};
pub use lock::lock_batches;
pub use loss::{Loss, LossReason, book_losses};
pub use settle::{BatchMoney, Finalized, Settlement, finalize, money_of_batches, settle};
pub use wallet::{Wallet, WalletSource, available, grant, open_wallets, wallet};

/// Who moved money, why, and by which request: on every ledger row.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    pub actor: &'a str,
    pub reason: &'a str,
    pub request_id: &'a str,
}

/// A movement that the ledger did not make.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("an amount left the range of credits while {doing}; nothing was changed")]
    OutOfRange { doing: &'static str },
    #[error("the wallet of {tenant} does not exist; nothing was changed: create the tenant first")]
    NoWallet { tenant: crate::domain::TenantId },
    #[error(
        "the holds of the batches {batches} do not cover {expected} credits of refunds (they cover {found}); nothing was \
         changed: run `freezeframe reconcile`"
    )]
    HoldsDoNotCover { batches: String, expected: i64, found: i64 },
    #[error("{required} credits were to be taken and {available} are available; nothing was changed")]
    Overdraft { required: crate::domain::Credits, available: crate::domain::Credits },
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
