//! Where a process listens, and what the world calls that place.

use std::io;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpSocket};
use url::Url;

use crate::api::Listeners;
use crate::config::Config;

/// Connections that may wait to be accepted, as far as the system lets them: as many as `http.max_connections` are usually
/// open. Whoever finds no room there waits a second and more for a server that has time for it.
const BACKLOG: u32 = 4096;

/// Takes the ports of the settings.
///
/// # Errors
/// Says which port is taken and how to choose another.
pub(super) fn bind(config: &Config) -> Result<Listeners> {
    let api = listen(config.listen).with_context(|| {
        format!("cannot listen on {}: another process may, choose another with --listen", config.listen)
    })?;
    let metrics = match config.http.metrics_listen {
        Some(address) => Some(listen(address).with_context(|| {
            format!("cannot listen on {address} for metrics: choose another with http.metrics_listen")
        })?),
        None => None,
    };
    Ok(Listeners { api, metrics })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // connections that have just ended keep no port from the next process
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn four_hundred_customers_who_come_at_once_are_connected_before_anybody_is_accepted() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut crowd = Vec::new();
        for at in 0..400 {
            let connected = tokio::time::timeout(Duration::from_secs(10), TcpStream::connect(address)).await;
            crowd.push(connected.unwrap_or_else(|_| panic!("customer {at} found no room")).unwrap());
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_not_taken_again() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let again = listen(listener.local_addr().unwrap()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
    }
}
