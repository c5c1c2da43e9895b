//! The four ways to verify the certificate of the host, with real handshakes.

use std::io::Write;
use std::sync::Arc;

use otter::clock::Clock;
use otter::domain::verify::{Fingerprint, Verify};
use otter::esx::{EsxOptions, fingerprint, presented_fingerprint};
use otter::hypervisor::SessionState;
use otter::simulator::{Pace, Scenario};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::support::{RunningBackend, options, start_simulator};

/// Runs a backend until it is connected or fails to connect. Returns the reason of the failure.
async fn outcome(options: &EsxOptions) -> Option<String> {
    let running = RunningBackend::start_at(options, Clock::system());
    let outcome = running
        .observer
        .wait_until("connected or away", |recording| match &recording.statuses.last()?.state {
            SessionState::Connected => Some(None),
            SessionState::Away { reason } | SessionState::LoginRefused { reason } => {
                Some(Some(reason.clone()))
            }
            SessionState::Connecting => None,
        })
        .await;
    running.stop().await;
    outcome
}

#[tokio::test]
async fn each_way_accepts_or_rejects_the_certificate_with_a_reason() {
    let simulator = start_simulator(Scenario::generated(1), Pace::Auto { scale: 0.0 }).await;
    let mut options = options(&simulator.url());
    let pinned: Verify = format!("sha256:{}", simulator.fingerprint()).parse().unwrap();
    let mut file = CaFile::new("good");
    file.write(&simulator.certificate_pem());
    for verify in [Verify::Off, pinned, Verify::CaFile(file.path.clone())] {
        options.verify = verify.clone();
        options.check().unwrap();
        assert_eq!(outcome(&options).await, None, "{verify:?}");
    }
    options.verify = Verify::Fingerprint(Fingerprint([7; 32]));
    let reason = outcome(&options).await.unwrap();
    let seen: Fingerprint = simulator.fingerprint().parse().unwrap();
    for part in [seen.to_string().as_str(), "generate-certificates", "vCenter", "07:07"] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    assert_eq!(presented_fingerprint(&options).await.unwrap(), seen);
    options.verify = Verify::SystemRoots;
    if options.check().is_ok() {
        let reason = outcome(&options).await.unwrap();
        assert!(reason.contains("certificate is not accepted"), "{reason}");
    }
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let mut file = CaFile::new("other");
    file.write(&other.cert.pem());
    options.verify = Verify::CaFile(file.path.clone());
    assert!(outcome(&options).await.unwrap().contains("certificate is not accepted"));
}

#[test]
fn an_unusable_ca_file_is_an_error_of_the_options() {
    let mut file = CaFile::new("bad");
    let mut options = options("https://127.0.0.1:1");
    options.verify = Verify::CaFile(file.path.with_extension("missing"));
    assert!(options.check().unwrap_err().to_string().contains("cannot be read"));
    options.verify = Verify::CaFile(file.path.clone());
    assert!(options.check().unwrap_err().to_string().contains("no certificate"));
    file.write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert!(options.check().unwrap_err().to_string().contains("not usable"));
}

#[tokio::test]
async fn a_pin_accepts_version_one_but_not_a_certificate_without_its_key() {
    let mine = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let first_version = without_version_three(mine.cert.der());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for certificate in [mine.cert.der().to_vec(), first_version.clone()] {
            let url = serve(&certificate, &mine.signing_key.serialize_der(), version).await;
            let mut options = options(&url);
            options.verify = Verify::Fingerprint(fingerprint(&certificate));
            // The server does not speak vim25. Its answer proves that the handshake succeeded.
            let reason = outcome(&options).await.unwrap();
            assert!(reason.contains("HTTP status 418"), "{version:?}: {reason}");
            let url = serve(&certificate, &other.signing_key.serialize_der(), version).await;
            options.url = url;
            let reason = outcome(&options).await.unwrap();
            assert!(reason.contains("a signature is not valid"), "{version:?}: {reason}");
        }
    }
    let damaged = &first_version[..first_version.len() - 200];
    let url = serve(damaged, &mine.signing_key.serialize_der(), &rustls::version::TLS13).await;
    let mut options = options(&url);
    options.verify = Verify::Fingerprint(fingerprint(damaged));
    let reason = outcome(&options).await.unwrap();
    assert!(reason.contains("damaged"), "{reason}");
}

/// A server that presents `certificate`, signs with `key`, and answers every request with 418.
async fn serve(
    certificate: &[u8],
    key: &[u8],
    version: &'static SupportedProtocolVersion,
) -> String {
    #[derive(Debug)]
    struct Show(Arc<CertifiedKey>);
    impl ResolvesServerCert for Show {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }
    let key = PrivateKeyDer::try_from(key.to_vec()).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let show =
        Show(Arc::new(CertifiedKey::new(vec![CertificateDer::from(certificate.to_vec())], key)));
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(show));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream
                    .write_all(
                        b"HTTP/1.1 418 Teapot\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                    )
                    .await;
                let _ = stream.shutdown().await;
            });
        }
    });
    format!("https://{address}")
}

/// The certificate without version and extensions, as in X.509 v1. The certificate's signature is
/// no longer valid, but a pin does not check it.
fn without_version_three(certificate: &[u8]) -> Vec<u8> {
    let (whole, _) = value(certificate);
    let (body, after_body) = value(whole);
    let mut rest = body;
    let mut kept = Vec::new();
    while !rest.is_empty() {
        let (_, after) = value(rest);
        let field = &rest[..rest.len() - after.len()];
        if !matches!(field[0], 0xa0 | 0xa3) {
            kept.extend_from_slice(field);
        }
        rest = after;
    }
    let mut contents = sequence(&kept);
    contents.extend_from_slice(after_body);
    sequence(&contents)
}

fn value(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, start) = match der[1] {
        short @ 0..=0x7f => (usize::from(short), 2),
        0x81 => (usize::from(der[2]), 3),
        _ => (usize::from(der[2]) << 8 | usize::from(der[3]), 4),
    };
    (&der[start..start + length], &der[start + length..])
}

fn sequence(contents: &[u8]) -> Vec<u8> {
    let length = u16::try_from(contents.len()).unwrap().to_be_bytes();
    [&[0x30, 0x82, length[0], length[1]], contents].concat()
}

/// A CA file that is removed after the test.
struct CaFile {
    path: std::path::PathBuf,
    file: std::fs::File,
}

impl CaFile {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("otter-ca-{}-{name}.pem", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        Self { path, file }
    }

    fn write(&mut self, text: &str) {
        self.file.write_all(text.as_bytes()).unwrap();
    }
}

impl Drop for CaFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
