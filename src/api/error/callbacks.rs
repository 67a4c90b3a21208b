//! What providers are told whose callbacks are not taken.

use super::{ApiError, Kind};

impl ApiError {
    /// Not signed by the provider, whatever is wrong with it.
    pub fn forged_callback() -> ApiError {
        ApiError::new(Kind::ForgedCallback, "the callback is not genuine")
    }

    /// Whether the same call may be taken a little later.
    pub fn is_passing(&self) -> bool {
        self.kind == Kind::Unavailable
    }

    /// The account does not exist, or calls nowhere, or not here: all the same.
    pub fn no_callbacks() -> ApiError {
        ApiError::not_found("no callbacks are taken at this address")
    }
}
