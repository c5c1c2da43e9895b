//! The four ways to verify the certificate of the host, with real handshakes.

use std::io::Write;
use std::sync::Arc;

use base64::Engine;
use otter::clock::Clock;
use otter::domain::verify::{Fingerprint, Verify};
use otter::esx::{EsxOptions, fingerprint, presented_fingerprint};
use otter::hypervisor::SessionState;
use otter::simulator::{Pace, Scenario};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
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

/// A certificate for tests, and the server that presents it.
struct Presented {
    der: Vec<u8>,
    key: KeyPair,
}

impl Presented {
    /// A self-signed certificate of an authority for these names, as `openssl req -x509` makes it.
    fn self_signed(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "127.0.0.1");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Self { der: params.self_signed(&key).unwrap().der().to_vec(), key }
    }

    fn pem(&self) -> String {
        let text = base64::engine::general_purpose::STANDARD.encode(&self.der);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    /// The outcome of a connection that trusts the certificates of this PEM file.
    async fn outcome(&self, trusted: &str) -> String {
        let url = serve(&self.der, &self.key.serialize_der(), &rustls::version::TLS13).await;
        let mut options = options(&url);
        let mut file = CaFile::new(&url.replace(['/', ':', '.'], ""));
        file.write(trusted);
        options.verify = Verify::CaFile(file.path.clone());
        outcome(&options).await.expect("the server does not speak vim25")
    }

    fn fingerprint(&self) -> String {
        format!("sha256:{}", fingerprint(&self.der))
    }
}

/// The answer of the server, which proves that the handshake succeeded.
const CONNECTED: &str = "HTTP status 418";

/// With `--cacert`, curl connects in each of these cases.
#[tokio::test]
async fn a_certificate_that_is_itself_trusted_needs_no_authority() {
    let plain = |_: &mut CertificateParams| {};
    let with_name = Presented::self_signed(&["127.0.0.1"], plain);
    let with_common_name = Presented::self_signed(&[], plain);
    let mut first_version = Presented::self_signed(&[], plain);
    first_version.der = without_version_three(&first_version.der);
    let issuer_key = KeyPair::generate().unwrap();
    let issuer = CertificateParams::new([]).unwrap();
    let mut signed = Presented::self_signed(&["127.0.0.1"], plain);
    signed.der = CertificateParams::new(["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&signed.key, &Issuer::from_params(&issuer, &issuer_key))
        .unwrap()
        .der()
        .to_vec();
    for presented in [&with_name, &with_common_name, &first_version, &signed] {
        let reason = presented.outcome(&presented.pem()).await;
        assert!(reason.contains(CONNECTED), "{reason}");
        // The PEM file may contain other certificates too.
        let both = with_name.pem() + &presented.pem();
        let reason = presented.outcome(&both).await;
        assert!(reason.contains(CONNECTED), "{reason}");
    }
}

#[tokio::test]
async fn a_trusted_certificate_must_have_the_name_the_dates_and_the_purpose() {
    let table = [
        (
            Presented::self_signed(&["other.lab", "10.0.0.1"], |_| {}),
            "it is valid for other.lab, 10.0.0.1, and not for 127.0.0.1. Use one of its names",
        ),
        (
            Presented::self_signed(&[], |params| {
                params.distinguished_name = DistinguishedName::new();
                params.distinguished_name.push(DnType::CommonName, "other.lab");
            }),
            "it is valid for other.lab, and not for 127.0.0.1. Use one of its names in esx.url",
        ),
        (
            Presented::self_signed(&["127.0.0.1"], |params| {
                params.not_after = rcgen::date_time_ymd(2001, 2, 3);
            }),
            "it has expired on 2001-02-03. Renew the host's certificate, correct the clock",
        ),
        (
            Presented::self_signed(&["127.0.0.1"], |params| {
                params.not_before = rcgen::date_time_ymd(2090, 2, 3);
                params.not_after = rcgen::date_time_ymd(2091, 2, 3);
            }),
            "it is not valid yet, but from 2090-02-03 on. Renew",
        ),
        (
            Presented::self_signed(&["127.0.0.1"], |params| {
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            }),
            "it may not identify a server. Replace the host's certificate, or",
        ),
    ];
    for (presented, expected) in table {
        let reason = presented.outcome(&presented.pem()).await;
        assert!(reason.contains(expected), "{expected} in {reason}");
        assert!(reason.contains(&presented.fingerprint()), "{reason}");
        // The pin that the message advises works.
        let key = presented.key.serialize_der();
        let url = serve(&presented.der, &key, &rustls::version::TLS12).await;
        let mut options = options(&url);
        options.verify = presented.fingerprint().parse().unwrap();
        assert!(outcome(&options).await.unwrap().contains(CONNECTED));
    }
    // The server must own the private key of the certificate.
    let mut presented = Presented::self_signed(&["127.0.0.1"], |_| {});
    let trusted = presented.pem();
    presented.key = KeyPair::generate().unwrap();
    let reason = presented.outcome(&trusted).await;
    assert!(reason.contains("a signature is not valid"), "{reason}");
}

#[tokio::test]
async fn a_certificate_that_no_trusted_authority_has_signed_is_refused_with_advice() {
    let authority = Presented::self_signed(&["127.0.0.1"], |_| {});
    for presented in [
        Presented::self_signed(&["127.0.0.1"], |_| {}),
        Presented::self_signed(&["127.0.0.1"], |params| params.is_ca = IsCa::NoCa),
    ] {
        let reason = presented.outcome(&authority.pem()).await;
        for part in [
            "its certificate is not accepted: it is self-signed",
            "no trusted authority has signed it",
            "\"ca:<file>\"",
            &format!("esx.verify = \"{}\"", presented.fingerprint()),
        ] {
            assert!(reason.contains(part), "{part} in {reason}");
        }
        assert!(!reason.contains("UnknownIssuer") && !reason.contains("CaUsed"), "{reason}");
    }
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
    let error = options.check().unwrap_err().to_string();
    assert!(error.contains("not usable: it is damaged"), "{error}");
    file.write("-----BEGIN CERTIFICATE-----\nAAAA\n");
    assert!(options.check().unwrap_err().to_string().contains("not usable"));
    options.verify = Verify::CaFile(std::env::temp_dir());
    assert!(options.check().unwrap_err().to_string().contains("cannot be read"));
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
    // DER requires the shortest form of the length.
    let head: &[u8] = match length {
        [0, short @ 0..=0x7f] => &[0x30, short],
        [0, long] => &[0x30, 0x81, long],
        [high, low] => &[0x30, 0x82, high, low],
    };
    [head, contents].concat()
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
