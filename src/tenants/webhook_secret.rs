//! Webhook secrets in the form of Standard Webhooks: `whsec_` and base64 of 24 to 64 bytes; ours have 32.
//!
//! Always holds: the database sees a secret sealed only, bound to its tenant. Signing needs the plaintext back, so that
//! a hash (as for API keys) would not do.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::domain::master_key::{CannotOpen, random_bytes};
use crate::domain::{MasterKey, TenantId};

const PREFIX: &str = "whsec_";
const PURPOSE: &str = "webhook-secret";

/// The secret that signs the webhooks of one endpoint. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct WebhookSecret(String);

impl WebhookSecret {
    /// A new secret of 256 random bits.
    pub fn generate() -> WebhookSecret {
        WebhookSecret(format!("{PREFIX}{}", STANDARD.encode(random_bytes::<32>())))
    }

    /// The secret as the receiver enters it, `whsec_` included.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The form to store: opens for the same tenant only.
    pub fn seal(&self, master: &MasterKey, tenant: TenantId) -> Vec<u8> {
        master.seal(PURPOSE, tenant.bare().as_bytes(), self.0.as_bytes())
    }

    /// The secret that was stored for `tenant`.
    ///
    /// # Errors
    /// [`CannotOpen`] when it was changed or belongs to another tenant or master key.
    pub fn open(master: &MasterKey, tenant: TenantId, sealed: &[u8]) -> Result<WebhookSecret, CannotOpen> {
        let text = master.open(PURPOSE, tenant.bare().as_bytes(), sealed)?;
        String::from_utf8(text).map(WebhookSecret).map_err(|_| CannotOpen)
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::WebhookSecret;
    use crate::domain::{MasterKey, TenantId};

    #[test]
    fn a_sealed_secret_opens_for_its_tenant_only() {
        let master = MasterKey::from_hex(&"42".repeat(32)).unwrap();
        let (tenant, other) = (TenantId::generate(), TenantId::generate());
        let secret = WebhookSecret::generate();
        let sealed = secret.seal(&master, tenant);
        assert_eq!(WebhookSecret::open(&master, tenant, &sealed).unwrap().expose(), secret.expose());
        assert!(WebhookSecret::open(&master, other, &sealed).is_err());
    }

    #[test]
    fn a_secret_is_32_bytes_in_the_form_that_receivers_read() {
        let secret = WebhookSecret::generate();
        let bytes = STANDARD.decode(secret.expose().strip_prefix("whsec_").unwrap()).unwrap();
        assert_eq!(bytes.len(), 32);
        assert!(standardwebhooks::Webhook::new(secret.expose()).is_ok());
        assert_ne!(secret.expose(), WebhookSecret::generate().expose());
        assert_eq!(format!("{secret:?}"), "WebhookSecret");
    }
}
