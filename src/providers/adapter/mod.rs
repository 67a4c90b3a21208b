//! What every adapter needs and none should write again.
//!
//! [`ApiClient`] is the account's way to the provider's API: a create goes out once, reads are repeated for a bounded
//! time, a file is fetched across redirects while the credential stays at home. [`Reply`] is an answer read up to a bound
//! in bytes, depth and values. [`refusal`] says what an answer that is no success means, by tables that the vendor fills.
//! [`json`] reads fields whatever type a server chose for them today. [`redact`] makes a provider's words fit to be seen.
//! Refuses: to know any vendor. Paths, fields and words stand in the vendor's own module.

pub(super) mod client;
pub(super) mod credential;
pub(super) mod download;
pub(super) mod image_body;
pub(super) mod json;
pub(super) mod odd_words;
pub(super) mod reads;
pub(super) mod redact;
pub(super) mod refusal;
pub(super) mod reply;
pub(super) mod shape;
pub(super) mod sieve;

pub(super) use client::{ApiClient, Ask};
pub(super) use credential::{Credential, TokenError, TokenSource};
pub(super) use download::FilePolicy;
pub(super) use image_body::ImageSlot;
pub(super) use odd_words::OddWords;
pub(super) use refusal::{ErrorBody, Vocabulary};
pub(super) use reply::Reply;
pub(super) use sieve::JsonBounds;
