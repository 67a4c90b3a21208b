//! What money means beyond a single movement.
//!
//! Owns onboarding: a tenant begins with its wallets and its first credits.
//! Refuses: to write ledger tables by itself (the ledger does).

mod onboarding;

pub use onboarding::{OnboardingError, onboard};
