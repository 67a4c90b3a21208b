//! Getting the image that a video starts from: an uploaded one out of the store, or a URL through the guarded door.
//!
//! Always holds: the memory for an image is reserved before its first byte is read and given back when the order was
//! answered, so that two thousand videos with images take no more than the configured budget; encoding takes nothing beside it
//! (`providers::adapter`). Who waits for memory for too long gives its worker's slot to another video. One tenant holds half
//! of the budget at most: its slow servers make nobody else wait. Who wants an image that is being fetched waits for that
//! fetch; one that was fetched is kept for a minute, unless its memory is needed: ten thousand items with one URL are a
//! handful of requests.
//! What is wrong with the image itself is final ([`FailureClass::InvalidInput`]); a server that is away is not.
//! Refuses: to know what the image is for, to say more of a URL than its host and path (the rest may be a signature).

mod budget;
mod fetch;
mod shelf;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::config::ImagesConfig;
use crate::domain::{FailureClass, ImageFacts, ImageSource, TenantId};
use crate::providers::{Egress, EgressError, EgressPolicy, GuardedClient, ReferenceImage};
use crate::storage::Storage;
use budget::{Budget, Reservation};
use shelf::{LONGEST_WAIT, Shelf, Slot};

/// Why an image cannot be had, in words for the customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unusable {
    pub(super) class: FailureClass,
    pub(super) message: String,
    /// The wish of the customer's own server.
    pub(super) retry_after: Option<Duration>,
}

impl Unusable {
    fn new(class: FailureClass, what: impl std::fmt::Display) -> Unusable {
        let message = format!("The reference image could not be used: {what}.");
        Unusable { class, message, retry_after: None }
    }

    /// There was no memory for it. Nobody is to blame, so waiting for it is free.
    fn crowded() -> Unusable {
        let message = "We are getting too many reference images at this moment; it is tried again.".to_owned();
        Unusable { class: FailureClass::Capacity, message, retry_after: None }
    }

    fn stopping() -> Unusable {
        Unusable::new(FailureClass::Network, "this process is stopping")
    }

    /// The image that was named will never do.
    pub(super) fn invalid(what: impl std::fmt::Display) -> Unusable {
        Unusable::new(FailureClass::InvalidInput, what)
    }
}

/// A whole image, and the right to hold it.
#[derive(Debug)]
struct Image {
    bytes: Bytes,
    facts: ImageFacts,
    _reserved: Reservation,
}

/// An image that is being used.
pub(super) struct Lent {
    image: Option<Arc<Image>>,
    shelf: Arc<Shelf>,
}

impl Lent {
    pub(super) fn facts(&self) -> Option<ImageFacts> {
        self.image.as_ref().map(|image| image.facts)
    }

    pub(super) fn as_reference(&self) -> Option<ReferenceImage<'_>> {
        let Image { bytes, facts, .. } = self.image.as_deref()?;
        Some(ReferenceImage { bytes, format: facts.format, width: facts.width, height: facts.height })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.image = None;
        self.shelf.make_room_if_wanted();
    }
}

/// Gets images.
pub struct References {
    shelf: Arc<Shelf>,
    client: GuardedClient,
    storage: Storage,
    max_bytes: usize,
    timeout: Duration,
    retention_days: u32,
}

impl References {
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(config: &ImagesConfig, egress: &Egress, storage: Storage) -> Result<References, EgressError> {
        let policy = EgressPolicy {
            allow_private: config.allow_private_sources,
            timeout: config.fetch_timeout,
            max_response_bytes: config.max_image_bytes,
        };
        Ok(References {
            shelf: Arc::new(Shelf::new(Budget::new(config), LONGEST_WAIT)),
            client: egress.guarded(policy)?,
            storage,
            max_bytes: config.max_image_bytes,
            timeout: config.fetch_timeout,
            retention_days: config.retention_days,
        })
    }

    /// For how many days of 24 hours an uploaded image is kept after its last use.
    pub fn retention_days(&self) -> u32 {
        self.retention_days
    }

    /// The image of a source, whole and with its memory accounted for. May be dropped at any time.
    ///
    /// # Errors
    /// [`Unusable`].
    pub(super) async fn get(&self, tenant: TenantId, source: &ImageSource) -> Result<Lent, Unusable> {
        let slot = self.shelf.slot(tenant, source);
        let got = slot.image.get_or_init(|| self.fill(tenant, source, &slot)).await.clone();
        got.map(|image| Lent { image: Some(image), shelf: self.shelf.clone() })
    }

    async fn fill(&self, tenant: TenantId, source: &ImageSource, slot: &Arc<Slot>) -> Result<Arc<Image>, Unusable> {
        let got = match source {
            ImageSource::Upload(id) => self.read_upload(tenant, *id).await,
            ImageSource::Url(url) => self.fetch_url(tenant, url).await,
        };
        let failure = got.as_ref().err().map(|unusable| unusable.class);
        self.shelf.forget_later((tenant, source.clone()), slot, failure);
        got.map(Arc::new)
    }
}
