//! Verifies the certificate of a server: by authorities, by a pinned fingerprint, or not at all.
//!
//! - Authorities: webpki builds a chain from the certificate to a trusted certificate, and checks
//!   the name, the dates and the purpose. A server certificate that is itself trusted needs no
//!   chain, as in curl and OpenSSL. It may then even be an authority's certificate (`openssl req
//!   -x509` makes such certificates for servers), have an old X.509 version, or have only a common
//!   name.
//! - A pinned fingerprint replaces the checks of the name, the dates and the issuer. It does not
//!   replace the signature of the handshake: the server must own the key of the pinned certificate.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, PeerMisbehaved, RootCertStore, SignatureScheme,
};

use super::certificate::{Certificate, PublicKey, fingerprint};
use super::certificate_error::RefusedCertificate;
use crate::domain::verify::Fingerprint;

/// The trusted certificates. Each of them is trusted both as an authority and as the certificate of
/// a server.
pub struct TrustedCertificates {
    roots: RootCertStore,
    fingerprints: Vec<Fingerprint>,
}

impl TrustedCertificates {
    pub fn new() -> Self {
        Self { roots: RootCertStore::empty(), fingerprints: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Adds a certificate to the trusted certificates.
    ///
    /// # Errors
    /// Fails if the certificate is damaged.
    pub fn add(&mut self, certificate: &CertificateDer<'_>) -> Result<(), RefusedCertificate> {
        self.roots.add(certificate.clone().into_owned()).map_err(|error| match error {
            rustls::Error::InvalidCertificate(error) => {
                RefusedCertificate::new(&error, certificate, &[])
            }
            _ => RefusedCertificate::new(&CertificateError::BadEncoding, certificate, &[]),
        })?;
        self.fingerprints.push(fingerprint(certificate));
        Ok(())
    }
}

/// A verifier that accepts a certificate if it is trusted, or if a trusted authority has signed it.
pub struct AuthorityVerifier {
    webpki: Arc<WebPkiServerVerifier>,
    trusted: Vec<Fingerprint>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl AuthorityVerifier {
    /// Makes a verifier with these trusted certificates.
    ///
    /// # Errors
    /// Fails if there is no trusted certificate.
    pub fn new(
        trusted: TrustedCertificates,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, rustls::client::VerifierBuilderError> {
        let TrustedCertificates { roots, fingerprints } = trusted;
        let webpki =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        Ok(Self {
            webpki: webpki.build()?,
            trusted: fingerprints,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    fn is_trusted(&self, certificate: &CertificateDer<'_>) -> bool {
        self.trusted.contains(&fingerprint(certificate))
    }
}

impl ServerCertVerifier for AuthorityVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = if self.is_trusted(end_entity) {
            check_trusted(end_entity, server_name, now)
        } else {
            self.webpki.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            )
        };
        verified.map_err(|error| {
            // The signature of a self-issued certificate is wrong if a trusted certificate has the
            // same name but another key. This happens when the host has generated its certificate
            // again.
            let is_generated_again = is_bad_signature(&error)
                && Certificate::from_der(end_entity).is_some_and(|made| made.is_self_issued());
            let error =
                if is_generated_again { CertificateError::UnknownIssuer.into() } else { error };
            explained(error, end_entity, intermediates)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verified = if self.is_trusted(certificate) {
            verify_signature(&self.algorithms, message, certificate, signed)
        } else {
            self.webpki.verify_tls12_signature(message, certificate, signed)
        };
        verified.map_err(|error| explained(error, certificate, &[]))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verified = if self.is_trusted(certificate) {
            verify_tls13_signature(&self.algorithms, message, certificate, signed)
        } else {
            self.webpki.verify_tls13_signature(message, certificate, signed)
        };
        verified.map_err(|error| explained(error, certificate, &[]))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for AuthorityVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AuthorityVerifier")
            .field("trusted", &self.trusted.len())
            .finish_non_exhaustive()
    }
}

/// A verifier that accepts only the pinned certificate, or any certificate if none is pinned.
pub struct PinnedVerifier {
    pin: Option<Fingerprint>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedVerifier {
    pub fn new(pin: Option<Fingerprint>, provider: &CryptoProvider) -> Self {
        Self { pin, algorithms: provider.signature_verification_algorithms }
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
        match self.pin {
            Some(pinned) if pinned != fingerprint(end_entity) => {
                Err(RefusedCertificate::other_than(pinned, end_entity).into())
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
        if self.pin.is_none() {
            // No certificate is pinned, so every certificate is accepted and the signature of the
            // handshake proves nothing. It is not verified, because the keys of some hosts are too
            // short for that (RSA with 1,024 bits).
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_signature(&self.algorithms, message, certificate, signed)
            .map_err(|error| explained(error, certificate, &[]))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.pin.is_none() {
            // No certificate is pinned, so every certificate is accepted and the signature of the
            // handshake proves nothing. It is not verified, as in TLS 1.2.
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(&self.algorithms, message, certificate, signed)
            .map_err(|error| explained(error, certificate, &[]))
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

/// Checks the name, the dates and the purpose of a server certificate that is itself trusted. If
/// the certificate has no alternative name, its common name counts.
///
/// # Errors
/// The error of rustls for the check that failed.
fn check_trusted(
    certificate: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, rustls::Error> {
    let parsed = Certificate::from_der(certificate).ok_or(CertificateError::BadEncoding)?;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if seconds > parsed.not_after.as_second() {
        return Err(CertificateError::Expired.into());
    }
    if seconds < parsed.not_before.as_second() {
        return Err(CertificateError::NotValidYet.into());
    }
    if !parsed.is_for_servers() {
        return Err(CertificateError::InvalidPurpose.into());
    }
    let has_name = parsed.has_common_name(server_name)
        || rustls::server::ParsedCertificate::try_from(certificate).is_ok_and(|certificate| {
            rustls::client::verify_server_name(&certificate, server_name).is_ok()
        });
    if has_name {
        Ok(ServerCertVerified::assertion())
    } else {
        Err(CertificateError::NotValidForNameContext {
            expected: server_name.to_owned(),
            presented: parsed.names(),
        }
        .into())
    }
}

/// Checks that the key of the certificate has signed the TLS handshake. The certificate may have
/// any X.509 version.
fn verify_signature(
    algorithms: &WebPkiSupportedAlgorithms,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let key = PublicKey::from_certificate(certificate).ok_or(CertificateError::BadEncoding)?;
    let (_, algorithms) = algorithms
        .mapping
        .iter()
        .find(|(scheme, _)| *scheme == signed.scheme)
        .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    let is_valid = algorithms.iter().any(|algorithm| {
        algorithm.public_key_alg_id().as_ref() == key.algorithm
            && algorithm.verify_signature(key.bits, message, signed.signature()).is_ok()
    });
    if is_valid {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(CertificateError::BadSignature.into())
    }
}

/// Checks that the key of the certificate has signed the TLS 1.3 handshake. Unlike in
/// [`verify_signature`], PKCS #1 v1.5 is refused (RFC 8446, section 4.2.3).
fn verify_tls13_signature(
    algorithms: &WebPkiSupportedAlgorithms,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    if matches!(
        signed.scheme,
        SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    ) {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    }
    verify_signature(algorithms, message, certificate, signed)
}

const fn is_bad_signature(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(CertificateError::BadSignature))
}

/// If an error of rustls is about the certificate, replaces it by an error that gives the reason in
/// plain words.
fn explained(
    error: rustls::Error,
    certificate: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> rustls::Error {
    match error {
        rustls::Error::InvalidCertificate(error) => {
            RefusedCertificate::new(&error, certificate, intermediates).into()
        }
        error => error,
    }
}
