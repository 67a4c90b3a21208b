//! TLS by two settings.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::clients::{Line, address, close, get};
use crate::app::{NOTHING, TestApp, TestSettings};

/// Writes a new certificate for this machine and its key.
fn certify(dir: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    made.cert.der().clone()
}

/// The answer to a request of a client that trusts `certificate` alone.
async fn asked(base: &str, certificate: &CertificateDer<'static>, alpn: &[u8]) -> std::io::Result<(String, Vec<u8>)> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(address(base)).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let agreed = stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec();
    if agreed == b"h2" {
        return Ok((String::new(), agreed));
    }
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut said = String::new();
    stream.read_to_string(&mut said).await?;
    Ok((said, agreed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_certificate_the_port_speaks_tls_and_takes_up_a_newer_one() {
    let mut app = TestApp::start(TestSettings { roles: NOTHING, ..TestSettings::default() }).await;
    let dir = app.dir.path().to_owned();
    let first = certify(&dir);
    let lines = format!(
        "[http]\ntls_cert = \"{0}/cert.pem\"\ntls_key = \"{0}/key.pem\"\ntls_reload_secs = 1\ntls_handshake_timeout_secs = 4\n",
        dir.display()
    );
    app.settings = app.settings.replace("[http]\n", &lines);
    let process = app.start_process("api").await;
    let base = app.process(process).base.clone();
    app.until("the port speaks TLS", async || asked(&base, &first, b"http/1.1").await.is_ok()).await;
    let (said, agreed) = asked(&base, &first, b"http/1.1").await.unwrap();
    assert!(said.starts_with("HTTP/1.1 200 ") && said.ends_with("{\"status\":\"ok\"}"), "{said}");
    assert_eq!(agreed, b"http/1.1");
    assert_eq!(asked(&base, &first, b"h2").await.unwrap().1, b"h2");
    let trusting = reqwest::Client::builder().no_proxy().danger_accept_invalid_certs(true).build().unwrap();
    let url = base.replace("http://", "https://");
    let answer = trusting.get(format!("{url}/openapi.json")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
    assert!(answer.text().await.unwrap().len() > 60_000);

    // a client that never shakes hands, and one that does not speak TLS
    let mut silent = Line::open(&base).await;
    let mut plain = Line::open(&base).await;
    plain.send(&get("/healthz")).await;
    let (silent, plain) = tokio::join!(silent.ends(), plain.rest());
    // without the setting it would be 10 s
    assert!(silent < Duration::from_secs(9), "{silent:?}");
    assert!(!plain.contains("HTTP/1.1 200"), "{plain}");

    // half of a new pair changes nothing, a whole one is taken up
    let apart = tempfile::tempdir().unwrap();
    let second = certify(apart.path());
    let take_up = |file: &str| std::fs::copy(apart.path().join(file), dir.join(file)).unwrap();
    take_up("cert.pem");
    app.until("the wrong pair was seen", async || {
        let page = trusting.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
        !page.contains("freezeframe_tls_renewals_total{result=\"failed\"} 0")
    })
    .await;
    asked(&base, &first, b"http/1.1").await.unwrap();
    take_up("key.pem");
    app.until("the new certificate is shown", async || asked(&base, &second, b"http/1.1").await.is_ok()).await;
    assert!(asked(&base, &first, b"http/1.1").await.is_err());
    assert!(app.process(process).log().contains(&format!("https://{}/api/enterprise", address(&base))));
    app.process(process).terminate();
    close(app).await;
}
