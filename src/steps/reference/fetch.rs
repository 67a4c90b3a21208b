//! The bytes of one image: read from the store or fetched from a customer's server, checked for what they are.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use ring::digest::{SHA256, digest};
use url::Url;

use super::budget::Reservation;
use super::{Image, References, Unusable};
use crate::domain::{FailureClass, ImageFacts, ImageId, TenantId};
use crate::providers::EgressError;
use crate::providers::egress::{Opened, TooLong};
use crate::storage::{ObjectKey, ReadError};

/// Reserved for an image whose length is not known yet: most have less.
const FIRST_GUESS_BYTES: usize = 1 << 20;
const ACCEPT: &str = "image/png, image/jpeg, image/webp";
/// What is shown of a URL, in characters.
const SHOWN_CHARS: usize = 160;

enum Fetched {
    Image(Image),
    /// It needs so much memory, which was not free while its server waited.
    NeedsRoom(usize),
}

impl References {
    pub(super) async fn fetch_url(&self, tenant: TenantId, text: &str) -> Result<Image, Unusable> {
        // checked at admission; the settings may have changed since
        let url = self.client.check_url(text).map_err(|error| Unusable::invalid(format_args!("its URL {error}")))?;
        let mut wanted = FIRST_GUESS_BYTES.min(self.max_bytes);
        loop {
            let reserved = self.shelf.reserve(tenant, wanted).await?;
            // the time in which memory is waited for is not the server's
            let fetched = tokio::time::timeout(self.timeout, self.try_url(tenant, &url, reserved)).await;
            match fetched.unwrap_or_else(|_| Err(unreachable(&url, &EgressError::Timeout(self.timeout))))? {
                Fetched::Image(image) => return Ok(image),
                // never asked for in vain for ever, whatever the settings are
                Fetched::NeedsRoom(_) if wanted >= self.max_bytes => return Err(no_room_ever()),
                // a server that says another length each time gets the most that there is
                Fetched::NeedsRoom(_) if wanted > FIRST_GUESS_BYTES => wanted = self.max_bytes,
                Fetched::NeedsRoom(bytes) => wanted = bytes,
            }
        }
    }

    async fn try_url(&self, tenant: TenantId, url: &Url, mut reserved: Reservation) -> Result<Fetched, Unusable> {
        let opened = self.client.open(url, ACCEPT).await.map_err(|error| unreachable(url, &error))?;
        if opened.status() != 200 {
            return Err(refused(url, &opened));
        }
        let declared = opened.declared_bytes().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if declared.is_some_and(|bytes| bytes > self.max_bytes) {
            return Err(self.too_large(url));
        }
        let needed = declared.unwrap_or(self.max_bytes);
        if needed > reserved.bytes() {
            match self.shelf.budget.try_reserve(tenant, needed - reserved.bytes()) {
                Some(more) => reserved.add(more),
                None => return Ok(Fetched::NeedsRoom(needed)),
            }
        }
        let read = opened.read(needed).await.map_err(|error| unreachable(url, &error))?;
        let bytes = read.map_err(|TooLong| self.too_large(url))?;
        let facts = ImageFacts::read(&bytes)
            .map_err(|error| Unusable::invalid(format_args!("what {} answered is none, {error}", shown(url))))?;
        Ok(Fetched::Image(packed(bytes, facts, reserved)))
    }

    fn too_large(&self, url: &Url) -> Unusable {
        Unusable::invalid(format_args!("{} has more than the {} bytes that are allowed", shown(url), self.max_bytes))
    }

    pub(super) async fn read_upload(&self, tenant: TenantId, id: ImageId) -> Result<Image, Unusable> {
        let key = ObjectKey::reference_image(tenant, id);
        let lost = |what: &str| Unusable::new(FailureClass::StorageFault, format_args!("our store {what}"));
        let failed = |error: &ReadError| {
            tracing::warn!(%key, %error, "an uploaded image could not be read");
            match error {
                ReadError::NotFound { .. } => lost("no longer has it"),
                ReadError::RangeOutside { .. } | ReadError::Store { .. } => lost("is not available"),
            }
        };
        let bytes = self.storage.head(&key).await.map_err(|error| failed(&error))?;
        let bytes = bytes.ok_or_else(|| failed(&ReadError::NotFound { key: key.clone() }))?;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let reserved = self.shelf.reserve(tenant, bytes).await?;
        if bytes > reserved.bytes() {
            return Err(no_room_ever());
        }
        let (_, mut stream) = self.storage.get(&key, None).await.map_err(|error| failed(&error))?;
        let mut image = BytesMut::with_capacity(bytes);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| {
                tracing::warn!(%key, %error, "an uploaded image broke off");
                lost("is not available")
            })?;
            if image.len() + chunk.len() > bytes {
                return Err(lost("has another image in its place"));
            }
            image.extend_from_slice(&chunk);
        }
        let image = image.freeze();
        let is_it = digest(&SHA256, &image).as_ref() == id.sha256();
        match ImageFacts::read(&image) {
            Ok(facts) if is_it => Ok(packed(image, facts, reserved)),
            _ => {
                tracing::error!(%key, "what lies in the store is not the image that was uploaded");
                Err(lost("has another image in its place"))
            }
        }
    }
}

/// Gives back what it does not need.
fn packed(bytes: Bytes, facts: ImageFacts, mut reserved: Reservation) -> Image {
    reserved.shrink_to(bytes.len());
    Image { bytes, facts, _reserved: reserved }
}

fn no_room_ever() -> Unusable {
    Unusable::invalid("it is larger than what may be held in memory")
}

/// A URL without what may be secret in it.
fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let whole = format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path());
    match whole.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}...", &whole[..at]),
        None => whole,
    }
}

fn unreachable(url: &Url, error: &EgressError) -> Unusable {
    let class = match error {
        EgressError::RefusedUrl(_) | EgressError::RefusedAddress => FailureClass::InvalidInput,
        EgressError::Unresolved
        | EgressError::Connect(_)
        | EgressError::Timeout(_)
        | EgressError::Interrupted(_)
        | EgressError::Setup(_) => FailureClass::Network,
    };
    Unusable::new(class, format_args!("{}: {error}", shown(url)))
}

/// An answer that is no file.
fn refused(url: &Url, opened: &Opened) -> Unusable {
    let status = opened.status();
    let class = match status {
        408 | 425 | 429 | 500..600 => FailureClass::Network,
        _ => FailureClass::InvalidInput,
    };
    let retry_after = opened.retry_after().filter(|wait| *wait > Duration::ZERO);
    Unusable { retry_after, ..Unusable::new(class, format_args!("{} answered {status}", shown(url))) }
}
