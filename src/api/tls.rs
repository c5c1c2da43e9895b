//! Serving TLS: the certificate and its key from two files in PEM, read anew when told.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Where the certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those that lead from it to an authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Why the files do not make a server.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    #[error("the certificate {} cannot be read", .0.display())]
    Certificate(PathBuf, #[source] rustls::pki_types::pem::Error),
    #[error("the file {} holds no certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    #[error("the key {} cannot be read, or is no private key in PEM", .0.display())]
    Key(PathBuf, #[source] rustls::pki_types::pem::Error),
    #[error(
        "the key {} is protected by a passphrase, which otter cannot ask for: write it without one, to a file that only \
         otter may read: openssl pkey -in {} -out FILE", .0.display(), .0.display()
    )]
    Passphrase(PathBuf),
    #[error("the certificate {} and the key {} do not go together", .0.display(), .1.display())]
    Pair(PathBuf, PathBuf, #[source] rustls::Error),
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// Turns connections into TLS. Clones share the certificate.
#[derive(Clone)]
pub struct Tls {
    files: Arc<TlsFiles>,
    config: Arc<ArcSwap<ServerConfig>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Files that cannot be read, or do not go together.
    pub fn load(files: TlsFiles) -> Result<Self, TlsFilesError> {
        let config = Arc::new(ArcSwap::new(Arc::new(read(&files)?)));
        Ok(Self { files: Arc::new(files), config })
    }

    /// Reads the files again: connections from now on are served with what is in them.
    ///
    /// # Errors
    /// As [`Tls::load`]; what was read before stays.
    pub fn reload(&self) -> Result<(), TlsFilesError> {
        self.config.store(Arc::new(read(&self.files)?));
        Ok(())
    }

    /// The handshake. The caller bounds how long it may take.
    ///
    /// # Errors
    /// The client's.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        connection: S,
    ) -> io::Result<TlsStream<S>> {
        TlsAcceptor::from(self.config.load_full()).accept(connection).await
    }
}

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsFilesError> {
    let TlsFiles { certificate, key } = files;
    let chain = certificates(certificate)?;
    if std::fs::read_to_string(key).is_ok_and(|text| has_passphrase(&text)) {
        return Err(TlsFilesError::Passphrase(key.clone()));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| TlsFilesError::Key(key.clone(), error))?;
    let mut config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsFilesError::Setup)?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|error| TlsFilesError::Pair(certificate.clone(), key.clone(), error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Whether the text of a key in PEM says that it is encrypted, in its label or in the header of the
/// older form.
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
    fn files_that_do_not_make_a_server_are_told_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let made = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (one, other) = (made(), made());
        let certificate = write(directory.path(), "good.pem", &one.cert.pem());
        let key = write(directory.path(), "good.key", &one.signing_key.serialize_pem());
        let others = write(directory.path(), "other.key", &other.signing_key.serialize_pem());
        let empty = write(directory.path(), "empty.pem", "");
        let missing = directory.path().join("missing.pem");
        let load = |certificate: &PathBuf, key: &PathBuf| {
            Tls::load(TlsFiles { certificate: certificate.clone(), key: key.clone() })
        };
        let tls = load(&certificate, &key).unwrap();
        tls.reload().unwrap();
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
        std::fs::write(&certificate, "").unwrap();
        assert!(tls.reload().is_err(), "and what was read before stays");
    }
}
