//! The certificate, and its renewal while the service runs.
//!
//! Always holds: a session is made with the newest pair of files that was whole and fitted together; a pair that is not
//! leaves the last one in use and is reported each time it is looked at.
//!
//! Refuses: versions of TLS before 1.2, and any cryptography but ring's.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use ring::digest::{SHA256, digest};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::config::TlsConfig;
use crate::metrics;

pub struct Tls {
    files: TlsConfig,
    used: Mutex<Used>,
}

struct Used {
    config: Arc<ServerConfig>,
    /// Of both files as they were read.
    hash: Vec<u8>,
}

impl Tls {
    /// # Errors
    /// Says which file cannot be used and why.
    pub fn load(files: &TlsConfig) -> Result<Arc<Tls>> {
        let pair = Pair::read(files)?;
        let used = Used { config: pair.config(files)?, hash: pair.hash() };
        Ok(Arc::new(Tls { files: files.clone(), used: Mutex::new(used) }))
    }

    fn config(&self) -> Arc<ServerConfig> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// # Errors
    /// When there is no session; a client's fault.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        TlsAcceptor::from(self.config()).accept(stream).await
    }

    /// Takes up newer files; answers whether there were any.
    ///
    /// # Errors
    /// As [`Tls::load`]; the last pair stays in use.
    fn renew(&self) -> Result<bool> {
        let pair = Pair::read(&self.files)?;
        let hash = pair.hash();
        if hash == self.used.lock().unwrap_or_else(PoisonError::into_inner).hash {
            return Ok(false);
        }
        let config = pair.config(&self.files)?;
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Used { config, hash };
        Ok(true)
    }

    /// Looks for newer files until `stop`.
    pub async fn keep_renewed(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(self.files.reload)).await.is_some() {
            let tls = self.clone();
            let renewed = tokio::task::spawn_blocking(move || tls.renew()).await;
            match renewed.map_err(anyhow::Error::from).and_then(|renewed| renewed) {
                Ok(false) => {}
                Ok(true) => {
                    metrics::tls_renewed("taken");
                    tracing::info!(file = %self.files.cert.display(), "a newer certificate is in use");
                }
                Err(error) => {
                    metrics::tls_renewed("failed");
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the certificate cannot be renewed; the last one stays in use"
                    );
                }
            }
        }
    }
}

/// Both files, read at one moment.
struct Pair {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Pair {
    fn read(files: &TlsConfig) -> Result<Pair> {
        let read = |path: &Path, setting: &str| {
            std::fs::read(path).with_context(|| format!("cannot read http.{setting}, the file {}", path.display()))
        };
        Ok(Pair { cert: read(&files.cert, "tls_cert")?, key: read(&files.key, "tls_key")? })
    }

    fn hash(&self) -> Vec<u8> {
        [digest(&SHA256, &self.cert).as_ref(), digest(&SHA256, &self.key).as_ref()].concat()
    }

    fn config(&self, files: &TlsConfig) -> Result<Arc<ServerConfig>> {
        let (cert, key) = (files.cert.display(), files.key.display());
        let chain = CertificateDer::pem_slice_iter(&self.cert).collect::<Result<Vec<_>, _>>();
        let chain = chain.with_context(|| format!("http.tls_cert, the file {cert}, is not a certificate in PEM"))?;
        ensure!(!chain.is_empty(), "http.tls_cert, the file {cert}, has no certificate (-----BEGIN CERTIFICATE-----)");
        let private = PrivateKeyDer::from_pem_slice(&self.key)
            .with_context(|| format!("http.tls_key, the file {key}, has no private key in PEM"))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .with_context(|| format!("the certificate {cert} and the key {key} do not go together"))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::Tls;
    use crate::config::TlsConfig;

    fn write(dir: &Path, cert: &str, key: &str) {
        std::fs::write(dir.join("cert.pem"), cert).unwrap();
        std::fs::write(dir.join("key.pem"), key).unwrap();
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn files_that_do_not_go_together_are_refused_by_name_and_never_replace_a_good_pair() {
        let dir = tempfile::tempdir().unwrap();
        let files = TlsConfig {
            cert: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
            reload: Duration::from_secs(1),
        };
        let refused = |files: &TlsConfig| format!("{:#}", Tls::load(files).err().unwrap());
        assert!(refused(&files).contains("cannot read http.tls_cert"), "{}", refused(&files));
        let ((cert, key), (other_cert, other_key)) = (pair(), pair());
        write(dir.path(), "no certificate", &key);
        assert!(refused(&files).contains("has no certificate"), "{}", refused(&files));
        write(dir.path(), &cert, &cert);
        assert!(refused(&files).contains("has no private key"), "{}", refused(&files));
        write(dir.path(), &cert, &other_key);
        assert!(refused(&files).contains("do not go together"), "{}", refused(&files));
        assert!(!refused(&files).contains("PRIVATE"), "a key was shown");

        write(dir.path(), &cert, &key);
        let tls = Tls::load(&files).unwrap();
        let first = tls.config();
        assert!(!tls.renew().unwrap());
        write(dir.path(), &other_cert, &key);
        assert!(tls.renew().is_err() && std::sync::Arc::ptr_eq(&first, &tls.config()));
        write(dir.path(), &other_cert, &other_key);
        assert!(tls.renew().unwrap() && !std::sync::Arc::ptr_eq(&first, &tls.config()));
    }
}
