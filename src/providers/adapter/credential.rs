//! What proves to a provider who we are: a key in a header, or a token that somebody renews.
//!
//! Always holds: neither shows in `Debug`, in an error or in a log, and [`Credential::hidden`] names the texts to take out
//! of a provider's words.

use std::fmt;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::config::ProviderConfig;
use crate::domain::{FailureClass, Secret};

/// Why there is no token. Nothing was sent to the provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no access token: {message}")]
pub struct TokenError {
    /// [`FailureClass::Auth`] when the account is refused, [`FailureClass::Network`] when nobody could be asked.
    pub class: FailureClass,
    pub message: String,
}

/// Gives access tokens that are valid now, from a cache most of the time.
#[async_trait]
pub trait TokenSource: Send + Sync {
    /// # Errors
    /// [`TokenError`]; asking again later is safe.
    async fn token(&self) -> Result<Secret, TokenError>;
}

/// What a request carries so that the provider knows whose it is.
#[derive(Clone)]
pub(in crate::providers) enum Credential {
    Header { name: HeaderName, value: HeaderValue, secret: Secret },
    Token(Arc<dyn TokenSource>),
}

impl Credential {
    /// The account's key behind `scheme` in the header `name`: `("authorization", "Bearer ")`, `("x-goog-api-key", "")`.
    ///
    /// # Errors
    /// The key is missing or cannot stand in a header. The key is not part of the message.
    pub(in crate::providers) fn key(
        account: &ProviderConfig,
        name: &'static str,
        scheme: &str,
    ) -> anyhow::Result<Credential> {
        let secret = account.api_key.clone().ok_or_else(|| match &account.api_key_env {
            Some(variable) => anyhow!("the environment variable {variable}, which should hold its key, is not set"),
            None => anyhow!("it has no key"),
        })?;
        let mut value = HeaderValue::from_str(&format!("{scheme}{}", secret.expose()))
            .context("its key has characters that cannot be sent")?;
        value.set_sensitive(true);
        Ok(Credential::Header { name: HeaderName::from_static(name), value, secret })
    }

    /// The header to send.
    ///
    /// # Errors
    /// There is no valid token.
    pub(super) async fn header(&self) -> Result<(HeaderName, HeaderValue), TokenError> {
        match self {
            Credential::Header { name, value, .. } => Ok((name.clone(), value.clone())),
            Credential::Token(source) => {
                let token = source.token().await?;
                let mut value =
                    HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| TokenError {
                        class: FailureClass::Auth,
                        message: "it has characters that cannot be sent".to_owned(),
                    })?;
                value.set_sensitive(true);
                Ok((AUTHORIZATION, value))
            }
        }
    }

    /// What must not stand in any message. A token is not among it: it changes, and has a form that is always removed.
    pub(super) fn hidden(&self) -> &str {
        match self {
            Credential::Header { secret, .. } => secret.expose(),
            Credential::Token(_) => "",
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(***)")
    }
}
