//! Verifies the certificate of the host. A pinned fingerprint replaces the checks of the chain
//! (name, dates, issuer) but not the signature of the handshake: the server must own the key of the
//! pinned certificate.
//!
//! This file extracts the key from a pinned certificate itself, because webpki parses X.509 v3 only
//! and factory certificates may be v1.

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

use super::tunnel;
use crate::domain::proxy_url::ProxyUrl;
use crate::domain::verify::{Fingerprint, Verify};
use crate::hypervisor::{HostError, HostErrorKind};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the CA file {0} cannot be read")]
    CaFile(PathBuf, #[source] rustls::pki_types::pem::Error),
    #[error("the CA file {0} holds no certificate in PEM")]
    NoCertificate(PathBuf),
    #[error("a certificate in the CA file {0} is not usable as a root")]
    Root(PathBuf, #[source] rustls::Error),
    #[error(
        "the system has no trusted root certificates; install ca-certificates or pin the host's \
         fingerprint"
    )]
    NoSystemRoots,
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// The TLS configuration of every connection to the host.
///
/// # Errors
/// Fails if the CA file cannot be used or the system has no root certificates.
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

/// The SHA-256 fingerprint of a certificate in DER.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate).into())
}

/// The address of a host.
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    /// Whether the URL is `https`. If not, it is plain HTTP on this machine.
    pub is_tls: bool,
    name: ServerName<'static>,
}

impl Endpoint {
    /// Parses a normalized URL.
    ///
    /// # Errors
    /// Fails if its host is neither a DNS name nor an IP address.
    pub fn from_url(url: &Url) -> Result<Self, HostError> {
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let name = ServerName::try_from(host.clone()).map_err(|error| {
            let message = format!("{host} is not a valid host name.");
            HostError::new(HostErrorKind::Unreachable, message).caused_by(error)
        })?;
        Ok(Self { host, port, is_tls: url.scheme() == "https", name })
    }
}

/// Makes one TLS handshake within `timeout`, through the proxy if there is one, and returns the
/// fingerprint of the certificate.
///
/// # Errors
/// Fails if no connection or no TLS is possible, or if `verify` rejects the certificate.
/// [`handshake_error_text`] describes the error.
pub async fn handshake(
    endpoint: &Endpoint,
    proxy: Option<&ProxyUrl>,
    verify: &Verify,
    timeout: Duration,
) -> io::Result<Fingerprint> {
    let config = client_config(verify).map_err(io::Error::other)?;
    let handshake = async {
        let stream = tunnel::connect(&endpoint.host, endpoint.port, proxy).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(endpoint.name.clone(), stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        certificates
            .and_then(|chain| chain.first())
            .map(|certificate| fingerprint(certificate))
            .ok_or_else(|| io::Error::other("the host presented no certificate"))
    };
    tokio::time::timeout(timeout, handshake)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake timed out")))
}

/// Why a handshake failed, for people, without a full stop.
#[must_use]
pub fn handshake_error_text(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let text = match tls {
        Some(rustls::Error::InvalidCertificate(certificate)) => certificate_error_text(certificate),
        Some(rustls::Error::InvalidMessage(_)) => "the server does not speak TLS".to_owned(),
        _ => error.to_string(),
    };
    text.trim_end_matches('.').to_owned()
}

/// Why a certificate is rejected, for people, without a full stop.
#[must_use]
pub fn certificate_error_text(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => "no trusted authority has signed it".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet".to_owned()
        }
        CertificateError::BadSignature => "a signature is not valid".to_owned(),
        CertificateError::Other(other) if is_ca_as_end_entity(other) => {
            "it is the certificate of an authority (CA), not of a server".to_owned()
        }
        CertificateError::Other(other) => other.0.to_string(),
        other => other.to_string(),
    }
}

fn is_ca_as_end_entity(error: &OtherError) -> bool {
    error.0.downcast_ref::<webpki::Error>() == Some(&webpki::Error::CaUsedAsEndEntity)
}

/// The host presented another certificate than the pinned one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the host presented a certificate with the SHA-256 fingerprint {seen}, but {pinned} is \
     configured. The fingerprint changes if the host's certificate is generated again \
     (generate-certificates) or if a vCenter adds the host; if neither happened, another server \
     answers in its place"
)]
pub struct CertificateMismatch {
    pub seen: Fingerprint,
    pub pinned: Fingerprint,
}

/// The public key of the certificate cannot be found.
#[derive(Debug, thiserror::Error)]
#[error("the host's certificate (SHA-256 {0}) is damaged: its public key cannot be found")]
struct UnreadableCertificate(Fingerprint);

/// The key of the certificate is too short to verify the handshake.
#[derive(Debug, thiserror::Error)]
#[error(
    "the host's certificate has an RSA key of {0} bits, but at least {SHORTEST_RSA_KEY} are \
     needed; generate the host's certificate again"
)]
struct ShortKey(usize);

/// The shortest RSA key, in bits, that the cryptography library accepts.
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

/// Accepts the pinned certificate, or any certificate if none is pinned.
struct PinnedVerifier {
    pin: Option<Fingerprint>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedVerifier {
    fn new(pin: Option<Fingerprint>, provider: &CryptoProvider) -> Self {
        Self { pin, algorithms: provider.signature_verification_algorithms }
    }

    /// Checks that the handshake was signed with the key of the certificate.
    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.pin.is_none() {
            // The signature proves nothing if any certificate is accepted, and some hosts have keys
            // too short to be verified (RSA of 1,024 bits).
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
        // RFC 8446, section 4.2.3: PKCS #1 v1.5 must not sign the handshake.
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
    /// The length of the modulus in bits. `None` if it is not an RSA key (`RSAPublicKey` of RFC
    /// 8017).
    fn rsa_bits(&self) -> Option<usize> {
        let (key, _) = take_der(self.bits, 0x30)?;
        let (modulus, _) = take_der(key, 0x02)?;
        let octets = modulus.iter().skip_while(|octet| **octet == 0).count();
        Some(octets * 8)
    }
}

/// The public key of a certificate of any X.509 version. The fields of `TBSCertificate` are
/// [version] serial signature issuer validity subject subjectPublicKeyInfo …. `None` if the
/// certificate is damaged.
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
    // The first octet counts the unused bits of the last octet; keys have none.
    Some(PublicKey { algorithm, bits: bits.strip_prefix(&[0])? })
}

/// Splits off one DER value of this tag. Returns its contents and the rest of the input.
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
