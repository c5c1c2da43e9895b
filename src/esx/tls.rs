//! How the host's certificate is judged. A pinned fingerprint replaces every check of the chain
//! (name, dates, issuer) but not the handshake's signature: whoever answers must own the key of
//! that certificate.
//!
//! The key is taken out of the certificate here and not by webpki, which reads X.509 v3 alone:
//! factory certificates may be v1.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest, Sha256};

use crate::domain::verify::{Fingerprint, Verify};
use crate::hypervisor::{HostError, HostErrorKind};

/// Why there is no TLS to be had with these settings.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the CA file {0} cannot be read")]
    CaFile(PathBuf, #[source] rustls::pki_types::pem::Error),
    #[error("the CA file {0} holds no certificate in PEM")]
    NoCertificate(PathBuf),
    #[error("a certificate in the CA file {0} is not usable as a root")]
    Root(PathBuf, #[source] rustls::Error),
    #[error(
        "the system has no trusted root certificates; install ca-certificates or pin the host's fingerprint"
    )]
    NoSystemRoots,
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// The TLS of every connection to the host, consoles and file transfers among them.
///
/// # Errors
/// A CA file that cannot be used, or a system without roots.
pub fn client_config(verify: &Verify) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let pinned = |pin| Arc::new(PinnedVerifier::new(pin, &provider));
    let builder = match verify {
        Verify::SystemRoots => builder.with_root_certificates(system_roots()?),
        Verify::CaFile(file) => builder.with_root_certificates(roots_from_file(file)?),
        Verify::Fingerprint(pin) => {
            builder.dangerous().with_custom_certificate_verifier(pinned(Some(*pin)))
        }
        Verify::Off => builder.dangerous().with_custom_certificate_verifier(pinned(None)),
    };
    Ok(builder.with_no_client_auth())
}

/// The SHA-256 of a certificate in DER.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate).into())
}

/// Where a host is.
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    /// Else it is plain HTTP on this machine.
    pub is_tls: bool,
    name: ServerName<'static>,
}

impl Endpoint {
    /// Takes a normalized URL apart.
    ///
    /// # Errors
    /// Where its host cannot be one.
    pub fn from_url(url: &Url) -> Result<Self, HostError> {
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let name = ServerName::try_from(host.clone()).map_err(|error| {
            let message = format!("{host} is no name of a host.");
            HostError::new(HostErrorKind::Unreachable, message).caused_by(error)
        })?;
        Ok(Self { host, port, is_tls: url.scheme() == "https", name })
    }
}

/// One handshake, judged so, within `timeout`; gives the fingerprint of the certificate.
///
/// # Errors
/// Where there is no connection or no TLS, or the certificate is refused: [`reason`] finds the
/// words.
pub async fn handshake(
    endpoint: &Endpoint,
    verify: &Verify,
    timeout: Duration,
) -> io::Result<Fingerprint> {
    let config = client_config(verify).map_err(io::Error::other)?;
    let shown = async {
        let stream =
            tokio::net::TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(endpoint.name.clone(), stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        certificates
            .and_then(|chain| chain.first())
            .map(|certificate| fingerprint(certificate))
            .ok_or_else(|| io::Error::other("no certificate was shown"))
    };
    tokio::time::timeout(timeout, shown).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, "not within the time allowed"))
    })
}

/// Why a handshake failed, in the words that say the most, without a full stop.
#[must_use]
pub fn handshake_error_text(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let text = match tls {
        Some(rustls::Error::InvalidCertificate(certificate)) => certificate_error_text(certificate),
        Some(rustls::Error::InvalidMessage(_)) => "what answers does not speak TLS".to_owned(),
        _ => error.to_string(),
    };
    text.trim_end_matches('.').to_owned()
}

/// Why a certificate is refused, in words, without a full stop.
#[must_use]
pub fn certificate_error_text(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => "nobody that is trusted has signed it".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its time has not begun yet".to_owned()
        }
        CertificateError::BadSignature => "a signature of it is wrong".to_owned(),
        CertificateError::Other(other) if is_ca_as_end_entity(other) => {
            "it is the certificate of an authority (CA), which is not taken for that of a server"
                .to_owned()
        }
        CertificateError::Other(other) => other.0.to_string(),
        other => other.to_string(),
    }
}

fn is_ca_as_end_entity(error: &OtherError) -> bool {
    error.0.downcast_ref::<webpki::Error>() == Some(&webpki::Error::CaUsedAsEndEntity)
}

/// The host showed another certificate than the pinned one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the host showed a certificate with the SHA-256 fingerprint {seen}, and {pinned} is configured. It changes \
     when the host's certificates are generated anew (generate-certificates) or when a vCenter adopts the host; if \
     neither happened, something between here and the host answers in its place"
)]
pub struct CertificateMismatch {
    pub seen: Fingerprint,
    pub pinned: Fingerprint,
}

/// The certificate's key could not be found.
#[derive(Debug, thiserror::Error)]
#[error("the host's certificate (SHA-256 {0}) is damaged: its public key cannot be found")]
struct UnreadableCertificate(Fingerprint);

/// The certificate's key is too weak for the handshake to prove anything.
#[derive(Debug, thiserror::Error)]
#[error(
    "the host's certificate has an RSA key of {0} bits, and {SHORTEST_RSA_KEY} are needed; generate the host's \
     certificates anew"
)]
struct ShortKey(usize);

/// In bits; what the cryptography in use accepts.
const SHORTEST_RSA_KEY: usize = 2048;

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoSystemRoots) } else { Ok(roots) }
}

fn roots_from_file(file: &PathBuf) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file)
        .map_err(|error| TlsError::CaFile(file.clone(), error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| TlsError::CaFile(file.clone(), error))?;
        roots.add(certificate).map_err(|error| TlsError::Root(file.clone(), error))?;
    }
    if roots.is_empty() { Err(TlsError::NoCertificate(file.clone())) } else { Ok(roots) }
}

/// Accepts the one pinned certificate, or any where none is pinned.
struct PinnedVerifier {
    pin: Option<Fingerprint>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedVerifier {
    fn new(pin: Option<Fingerprint>, provider: &CryptoProvider) -> Self {
        Self { pin, algorithms: provider.signature_verification_algorithms }
    }

    /// Checks that the handshake was signed with the certificate's key.
    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.pin.is_none() {
            // Whoever may show any certificate has its key; and keys too weak to be checked (RSA of
            // 1,024 bits) are met in the field.
            return Ok(HandshakeSignatureValid::assertion());
        }
        let key = public_key(certificate)
            .ok_or_else(|| certificate_error(UnreadableCertificate(fingerprint(certificate))))?;
        let (_, algorithms) =
            self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme).ok_or(
                rustls::Error::PeerMisbehaved(
                    rustls::PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme,
                ),
            )?;
        let valid = algorithms.iter().any(|algorithm| {
            algorithm.public_key_alg_id().as_ref() == key.algorithm
                && algorithm.verify_signature(key.bits, message, signed.signature()).is_ok()
        });
        if valid {
            Ok(HandshakeSignatureValid::assertion())
        } else if let Some(bits) = key.rsa_bits().filter(|bits| *bits < SHORTEST_RSA_KEY) {
            Err(certificate_error(ShortKey(bits)))
        } else {
            Err(rustls::Error::InvalidCertificate(CertificateError::BadSignature))
        }
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen = fingerprint(end_entity);
        match self.pin {
            Some(pinned) if pinned != seen => {
                Err(certificate_error(CertificateMismatch { seen, pinned }))
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // RFC 8446, section 4.2.3: PKCS #1 v1.5 signs certificates only, never the handshake.
        if matches!(
            signed.scheme,
            SignatureScheme::RSA_PKCS1_SHA256
                | SignatureScheme::RSA_PKCS1_SHA384
                | SignatureScheme::RSA_PKCS1_SHA512
        ) {
            return Err(rustls::Error::PeerMisbehaved(
                rustls::PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme,
            ));
        }
        self.verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for PinnedVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PinnedVerifier").field("pin", &self.pin).finish_non_exhaustive()
    }
}

fn certificate_error(error: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// `SubjectPublicKeyInfo` of RFC 5280.
struct PublicKey<'c> {
    /// The contents of the `AlgorithmIdentifier`.
    algorithm: &'c [u8],
    bits: &'c [u8],
}

impl PublicKey<'_> {
    /// The length of the modulus, where this reads as an RSA key (`RSAPublicKey` of RFC 8017).
    fn rsa_bits(&self) -> Option<usize> {
        let (key, _) = take_der(self.bits, 0x30)?;
        let (modulus, _) = take_der(key, 0x02)?;
        let octets = modulus.iter().skip_while(|octet| **octet == 0).count();
        Some(octets * 8)
    }
}

/// The key of a certificate of any version: `TBSCertificate` is [version] serial signature issuer
/// validity subject subjectPublicKeyInfo ….
fn public_key(certificate: &[u8]) -> Option<PublicKey<'_>> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    const BIT_STRING: u8 = 0x03;
    let (certificate, _) = take_der(certificate, SEQUENCE)?;
    let (mut fields, _) = take_der(certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = take_der(fields, VERSION)?.1;
    }
    for _ in ["serial", "signature", "issuer", "validity", "subject"] {
        let tag = *fields.first()?;
        fields = take_der(fields, tag)?.1;
    }
    let (key, _) = take_der(fields, SEQUENCE)?;
    let (algorithm, rest) = take_der(key, SEQUENCE)?;
    let (bits, _) = take_der(rest, BIT_STRING)?;
    // The first octet counts the unused bits of the last one; keys are whole octets.
    Some(PublicKey { algorithm, bits: bits.strip_prefix(&[0])? })
}

/// Takes one DER value of this tag: its contents, and what follows it.
fn take_der(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[seen, short], rest) = input.split_first_chunk()?;
    if seen != tag {
        return None;
    }
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x84 => {
            let (octets, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}
