//! The TLS configuration of the connections to the host, and single TLS handshakes for `otter
//! doctor`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use rustls::ClientConfig;
use rustls::client::VerifierBuilderError;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName};

use super::certificate_error::RefusedCertificate;
use super::certificate_verifiers::{AuthorityVerifier, PinnedVerifier, TrustedCertificates};
use super::tunnel;
use crate::domain::proxy_url::ProxyUrl;
use crate::domain::verify::Verify;
use crate::hypervisor::{HostError, HostErrorKind};

/// Why TLS cannot be set up. The text of each error also says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the CA file {0} cannot be read ({1}): check its name and its permissions")]
    UnreadableCaFile(PathBuf, io::Error),
    #[error(
        "the CA file {0} is damaged: copy it again; it holds certificates in PEM, each between \
         -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----"
    )]
    DamagedCaFile(PathBuf),
    #[error(
        "the CA file {0} holds no certificate in PEM: name another file, or convert a certificate \
         in DER with `openssl x509 -inform der -in FILE`"
    )]
    NoCertificate(PathBuf),
    #[error("a certificate in the CA file {0} is not usable: {1}; remove it from the file")]
    Unusable(PathBuf, RefusedCertificate),
    #[error(
        "the system has no trusted root certificates; install ca-certificates or pin the host's \
         fingerprint"
    )]
    NoSystemRoots,
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    #[error("TLS cannot be set up")]
    Verifier(#[source] VerifierBuilderError),
}

/// The TLS configuration of every connection to the host.
///
/// # Errors
/// Fails if the CA file cannot be used or the system has no root certificates.
pub fn client_config(verify: &Verify) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .dangerous();
    let by_authorities = |trusted| {
        AuthorityVerifier::new(trusted, &provider).map(Arc::new).map_err(TlsError::Verifier)
    };
    let pinned = |pin| Arc::new(PinnedVerifier::new(pin, &provider));
    let builder = match verify {
        Verify::SystemRoots => {
            builder.with_custom_certificate_verifier(by_authorities(system_certificates()?)?)
        }
        Verify::CaFile(file) => {
            builder.with_custom_certificate_verifier(by_authorities(certificates_in(file)?)?)
        }
        Verify::Fingerprint(pin) => builder.with_custom_certificate_verifier(pinned(Some(*pin))),
        Verify::Off => builder.with_custom_certificate_verifier(pinned(None)),
    };
    Ok(builder.with_no_client_auth())
}

/// The name, port and scheme of a host's address.
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    /// Whether the URL begins with `https`. If not, the connection is plain HTTP, which the
    /// configuration allows only for a host on this machine.
    pub is_tls: bool,
    name: ServerName<'static>,
}

impl Endpoint {
    /// Parses a normalized URL.
    ///
    /// # Errors
    /// Fails if the host in the URL is neither a DNS name nor an IP address.
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
/// certificate of the server.
///
/// # Errors
/// Fails if no connection or no TLS is possible, or if `verify` rejects the certificate.
/// [`HandshakeError::from_io`](super::handshake_error::HandshakeError::from_io) finds out which of
/// these happened.
pub async fn handshake(
    endpoint: &Endpoint,
    proxy: Option<&ProxyUrl>,
    verify: &Verify,
    timeout: Duration,
) -> io::Result<CertificateDer<'static>> {
    let config = client_config(verify).map_err(io::Error::other)?;
    let handshake = async {
        let stream = tunnel::connect(&endpoint.host, endpoint.port, proxy).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(endpoint.name.clone(), stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        certificates
            .and_then(|chain| chain.first())
            .map(|certificate| certificate.clone().into_owned())
            .ok_or_else(|| io::Error::other("the server presented no certificate"))
    };
    tokio::time::timeout(timeout, handshake)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake timed out")))
}

/// The certificates that the operating system trusts, without those that webpki cannot use.
fn system_certificates() -> Result<TrustedCertificates, TlsError> {
    let mut trusted = TrustedCertificates::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        if let Err(unusable) = trusted.add(&certificate) {
            tracing::debug!(%unusable, "a root certificate of the system is ignored");
        }
    }
    if trusted.is_empty() { Err(TlsError::NoSystemRoots) } else { Ok(trusted) }
}

fn certificates_in(file: &Path) -> Result<TrustedCertificates, TlsError> {
    let failed = |error| match error {
        pem::Error::Io(error) => TlsError::UnreadableCaFile(file.to_owned(), error),
        _ => TlsError::DamagedCaFile(file.to_owned()),
    };
    let mut trusted = TrustedCertificates::new();
    for certificate in CertificateDer::pem_file_iter(file).map_err(failed)? {
        let certificate = certificate.map_err(failed)?;
        trusted
            .add(&certificate)
            .map_err(|unusable| TlsError::Unusable(file.to_owned(), unusable))?;
    }
    if trusted.is_empty() { Err(TlsError::NoCertificate(file.to_owned())) } else { Ok(trusted) }
}
