//! Says in plain words why a TLS connection to the host could not be made.

use std::error::Error;
use std::fmt;
use std::io;

use rustls::{AlertDescription, PeerIncompatible};

use super::certificate_error::RefusedCertificate;

/// Why a TLS handshake failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// The certificate of the server is not accepted.
    Certificate(RefusedCertificate),
    /// The connection was refused: nothing listens at the address.
    Refused,
    /// The server closed the connection instead of sending an answer.
    Closed,
    /// The server, or a firewall in between, reset the connection.
    Reset,
    /// The server accepted the connection but sent nothing.
    Silent,
    /// The server sent something that is not TLS.
    NotTls,
    /// The server speaks only TLS 1.1, 1.0 or older.
    OldVersion,
    /// The server has no cipher in common with otter, because it is old or restricted.
    NoCommonCipher,
    /// The server ended the handshake with the TLS alert of this name.
    Alert(String),
    /// Any other failure, with its text.
    Other(String),
}

impl HandshakeError {
    /// Finds the failure of a TLS handshake among `error` and its causes. `None` if there is none.
    #[must_use]
    pub fn from_causes(error: &(dyn Error + 'static)) -> Option<Self> {
        causes(error).find_map(|cause| {
            if let Some(error) = cause.downcast_ref::<rustls::Error>() {
                return Some(Self::from_tls(error));
            }
            Self::from_kind(cause.downcast_ref::<io::Error>()?.kind())
        })
    }

    /// Classifies the error of a connection and its TLS handshake.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Self {
        Self::from_causes(error).unwrap_or_else(|| Self::Other(error.to_string()))
    }

    /// Whether this failure proves that the server speaks TLS.
    #[must_use]
    pub const fn proves_tls(&self) -> bool {
        match self {
            Self::Certificate(_) | Self::OldVersion | Self::NoCommonCipher | Self::Alert(_) => true,
            Self::Refused
            | Self::Closed
            | Self::Reset
            | Self::Silent
            | Self::NotTls
            | Self::Other(_) => false,
        }
    }

    const fn from_kind(kind: io::ErrorKind) -> Option<Self> {
        match kind {
            io::ErrorKind::UnexpectedEof => Some(Self::Closed),
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Some(Self::Reset),
            io::ErrorKind::ConnectionRefused => Some(Self::Refused),
            io::ErrorKind::TimedOut => Some(Self::Silent),
            _ => None,
        }
    }

    fn from_tls(error: &rustls::Error) -> Self {
        use rustls::Error as E;
        match error {
            E::InvalidCertificate(certificate) => {
                Self::Certificate(RefusedCertificate::from_certificate_error(certificate))
            }
            E::InvalidMessage(_) | E::InappropriateMessage { .. } => Self::NotTls,
            E::AlertReceived(AlertDescription::ProtocolVersion)
            | E::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::OldVersion,
            E::AlertReceived(
                AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity,
            )
            | E::PeerIncompatible(_) => Self::NoCommonCipher,
            E::AlertReceived(alert) => Self::Alert(words(&format!("{alert:?}"))),
            E::PeerMisbehaved(_) | E::InappropriateHandshakeMessage { .. } => {
                Self::Other("the server breaks the rules of TLS".to_owned())
            }
            E::NoCertificatesPresented => {
                Self::Other("the server presented no certificate".to_owned())
            }
            _ => Self::Other("the TLS handshake failed".to_owned()),
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Certificate(refused) => {
                write!(formatter, "its certificate is not accepted: {}. ", refused.why)?;
                return formatter.write_str(&refused.host_advice());
            }
            Self::Refused => "nothing listens there (the connection was refused)",
            Self::Closed => "the server closed the connection during the TLS handshake",
            Self::Reset => "the connection was reset during the TLS handshake",
            Self::Silent => "the server did not answer in time",
            Self::NotTls => "the server does not speak TLS",
            Self::OldVersion => "the server does not speak TLS 1.2 or later",
            Self::NoCommonCipher => {
                "the server does not speak TLS 1.2 or later with a cipher that otter accepts"
            }
            Self::Alert(alert) => {
                return write!(
                    formatter,
                    "the server ended the TLS handshake with the alert \u{201c}{alert}\u{201d}"
                );
            }
            Self::Other(text) => text.trim_end_matches('.'),
        })
    }
}

/// An error and its causes, the outermost first. The list includes an error inside an `io::Error`,
/// which `Error::source` would skip.
pub fn causes<'e>(
    error: &'e (dyn Error + 'static),
) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |cause: &&'e (dyn Error + 'static)| {
        let cause: &'e (dyn Error + 'static) = *cause;
        match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => cause.source(),
        }
    })
}

/// Turns a name in camel case into words, for example `AccessDenied` into "access denied".
fn words(name: &str) -> String {
    let mut words = String::new();
    for character in name.chars() {
        if character.is_uppercase() && words.ends_with(|last: char| last.is_lowercase()) {
            words.push(' ');
        }
        words.push(character.to_ascii_lowercase());
    }
    words
}
