//! Where a process listens, and what the world calls that place.

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use url::Url;

use crate::api::Listeners;
use crate::config::Config;

/// Takes the ports of the settings.
///
/// # Errors
/// Says which port is taken and how to choose another.
pub(super) async fn bind(config: &Config) -> Result<Listeners> {
    let api = TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on {}: another process may, choose another with --listen", config.listen)
    })?;
    let metrics = match config.http.metrics_listen {
        Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address} for metrics: choose another with http.metrics_listen")
        })?),
        None => None,
    };
    Ok(Listeners { api, metrics })
}

/// The base of every link that is given out: what the settings say, or else the place where this process listens; `None`
/// when there is neither.
///
/// # Errors
/// The system does not say where it listens.
pub(super) fn public_url(config: &Config, listeners: Option<&Listeners>) -> Result<Option<Url>> {
    match (&config.public_url, listeners) {
        (Some(url), _) => Ok(Some(url.clone())),
        (None, Some(listeners)) => {
            let address = listeners.api.local_addr()?;
            Ok(Some(Url::parse(&format!("{}://{address}", config.http.scheme()))?))
        }
        (None, None) => Ok(None),
    }
}
