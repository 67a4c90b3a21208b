//! Uploaded reference images in the store: one object for each tenant and content.
//!
//! Always holds: an object is written in one step under a key that follows from its content, so that writing it again
//! changes nothing. Refuses: to judge it; what it is was found out before.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Attribute, ObjectStore as _, PutOptions, PutPayload};

use super::{ObjectKey, ReadError, Storage};
use crate::domain::{ImageFormat, ImageId, TenantId};

impl ObjectKey {
    /// `tenant/images/SHA-256`.
    pub fn reference_image(tenant: TenantId, id: ImageId) -> ObjectKey {
        let name = id.to_string();
        let digits = name.split_once(':').map_or(name.as_str(), |(_, digits)| digits).to_owned();
        ObjectKey(Path::from_iter([tenant.bare(), "images".to_owned(), digits]))
    }
}

impl Storage {
    /// Stores an image; durable when it answers.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    pub async fn put_reference(&self, key: &ObjectKey, format: ImageFormat, image: Bytes) -> Result<(), ReadError> {
        let mut attributes = self.attributes.clone();
        if !attributes.is_empty() {
            attributes.insert(Attribute::ContentType, format.media_type().into());
        }
        let options = PutOptions { attributes, ..PutOptions::default() };
        let put = self.hasty.put_opts(&key.0, PutPayload::from(image), options).await;
        put.map(|_| ()).map_err(|source| ReadError::new(key, source))
    }
}
