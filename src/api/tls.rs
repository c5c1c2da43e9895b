//! TLS for connections: reads the certificate and its key from two PEM files. A reload replaces
//! them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The paths of the certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by its chain of intermediate certificates.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// An error of the TLS files.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    #[error("the certificate {} cannot be read", .0.display())]
    Certificate(PathBuf, #[source] rustls::pki_types::pem::Error),
    #[error("the file {} has no certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    #[error("the key {} cannot be read or is not a private key in PEM", .0.display())]
    Key(PathBuf, #[source] rustls::pki_types::pem::Error),
    #[error(
        "the key {} has a passphrase, which otter does not support: write the key without a \
         passphrase to a file that only otter may read: openssl pkey -in {} -out \
         FILE", .0.display(), .0.display()
    )]
    Passphrase(PathBuf),
    #[error("the certificate {} and the key {} do not match", .0.display(), .1.display())]
    Pair(PathBuf, PathBuf, #[source] rustls::Error),
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// The TLS configuration of the server. Clones share the certificate.
#[derive(Clone)]
pub struct Tls(Arc<ArcSwap<Certificate>>);

/// A certificate and its key, which match.
pub struct Certificate {
    config: Arc<ServerConfig>,
    /// The digest of the certificate and the key, by which a reload recognises that they changed.
    digest: [u8; 32],
}

impl Tls {
    /// Reads the certificate and its key from the files.
    ///
    /// # Errors
    /// The errors of [`Certificate::read`].
    pub fn load(files: &TlsFiles) -> Result<Self, TlsFilesError> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(Certificate::read(files)?))))
    }

    /// Replaces the certificate, for new connections. Returns whether the new certificate differs
    /// from the old one.
    #[must_use]
    pub fn replace(&self, certificate: Certificate) -> bool {
        let digest = certificate.digest;
        self.0.swap(Arc::new(certificate)).digest != digest
    }

    /// Performs the TLS handshake on a connection. The caller limits the time that it may take.
    ///
    /// # Errors
    /// Fails if the client breaks the handshake.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        connection: S,
    ) -> io::Result<TlsStream<S>> {
        TlsAcceptor::from(Arc::clone(&self.0.load().config)).accept(connection).await
    }
}

impl Certificate {
    /// Reads the certificate and its key from the files.
    ///
    /// # Errors
    /// Fails if a file cannot be read, or if the key does not belong to the certificate.
    pub fn read(files: &TlsFiles) -> Result<Self, TlsFilesError> {
        let TlsFiles { certificate, key } = files;
        let chain = certificates(certificate)?;
        if std::fs::read_to_string(key).is_ok_and(|text| has_passphrase(&text)) {
            return Err(TlsFilesError::Passphrase(key.clone()));
        }
        let private = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| TlsFilesError::Key(key.clone(), error))?;
        let digest = chain.iter().fold(Sha256::new(), Sha256::chain_update);
        let digest = digest.chain_update(private.secret_der()).finalize().into();
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(TlsFilesError::Setup)?
                .with_no_client_auth()
                .with_single_cert(chain, private)
                .map_err(|error| TlsFilesError::Pair(certificate.clone(), key.clone(), error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), digest })
    }
}

/// Whether a PEM file has an encrypted key. Its label says so, or a header in the older form of
/// PEM.
fn has_passphrase(text: &str) -> bool {
    let encrypted = |line: &str| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED");
    text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.lines().any(encrypted)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    let unreadable = |error| TlsFilesError::Certificate(file.to_owned(), error);
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).map_err(unreadable)?.collect();
    let chain = chain.map_err(unreadable)?;
    if chain.is_empty() { Err(TlsFilesError::NoCertificate(file.to_owned())) } else { Ok(chain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
        let file = directory.join(name);
        std::fs::write(&file, text).unwrap();
        file
    }

    #[test]
    fn errors_name_the_invalid_file() {
        let directory = tempfile::tempdir().unwrap();
        let made = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (one, other) = (made(), made());
        let certificate = write(directory.path(), "good.pem", &one.cert.pem());
        let key = write(directory.path(), "good.key", &one.signing_key.serialize_pem());
        let others = write(directory.path(), "other.key", &other.signing_key.serialize_pem());
        let empty = write(directory.path(), "empty.pem", "");
        let missing = directory.path().join("missing.pem");
        let load = |certificate: &PathBuf, key: &PathBuf| {
            Certificate::read(&TlsFiles { certificate: certificate.clone(), key: key.clone() })
        };
        let tls =
            Tls::load(&TlsFiles { certificate: certificate.clone(), key: key.clone() }).unwrap();
        assert!(!tls.replace(load(&certificate, &key).unwrap()), "the same certificate");
        for (certificate, key, named) in [
            (&missing, &key, "missing.pem"),
            (&empty, &key, "empty.pem"),
            (&certificate, &missing, "missing.pem"),
            (&certificate, &empty, "empty.pem"),
            (&certificate, &certificate, "good.pem"),
            (&certificate, &others, "other.key"),
        ] {
            let error = load(certificate, key).err().unwrap().to_string();
            assert!(error.contains(named), "{named} in {error}");
        }
        let renewed = write(directory.path(), "other.pem", &other.cert.pem());
        assert!(tls.replace(load(&renewed, &others).unwrap()), "another certificate");
    }
}
