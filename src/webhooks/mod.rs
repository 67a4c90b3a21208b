//! Webhooks: what happened to a batch, told to the address that its order named.
//!
//! Always holds: an event is written once, in the transaction that changed the state, together with its delivery; the
//! event's id (`webhook-id`) is the same in every delivery, so that a receiver can recognise repetitions; what is sent
//! is exactly what was signed; every attempt is logged before the next one can start. A delivery is made at least once.
//! Refuses: to decide what follows from an attempt ([`freezeframe_workflows::webhook`] does), to push or delete jobs
//! (the steps do, in the same transaction), to contact private addresses, to follow redirects.

mod courier;
mod deliveries;
mod events;
mod sign;
#[cfg(test)]
mod tests;

use std::time::Duration;

use url::Url;

pub use courier::Courier;
pub use deliveries::{Attempt, DeliveryView, Due, LoggedAttempt, due, list_for_batch, pending_due, record_attempt};
pub use events::{BatchSummary, EventKind, NewEvent, batch_payload, record};

use crate::domain::FieldError;
use crate::providers::egress::EgressPolicy;

/// Whether an order may name `text` as its webhook address, as far as the text tells: a name is resolved, and what it
/// leads to is checked, at each delivery.
///
/// # Errors
/// Says what is wrong, to stand behind the name of the field.
pub fn check_url(text: &str, allow_private: bool) -> Result<Url, FieldError> {
    // nothing is sent here, so the limits do not matter
    EgressPolicy { allow_private, timeout: Duration::ZERO, max_response_bytes: 0 }.check_url(text)
}
