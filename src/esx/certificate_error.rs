//! Says in plain sentences why a certificate is not accepted, and what a person can do. The names
//! that rustls and webpki give to these errors never appear in a message.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, ExtendedKeyPurpose, OtherError};

use super::certificate::{Certificate, PublicKey, fingerprint};
use crate::domain::verify::Fingerprint;

/// The shortest RSA key, in bits, that the cryptography library accepts.
const SHORTEST_RSA_KEY: usize = 2048;

/// The maximum number of a certificate's names that a message lists. `NAME_LENGTH` is the maximum
/// number of characters of each name.
const NAMES: usize = 5;
const NAME_LENGTH: usize = 100;

/// Why a certificate is not accepted, and what a person can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct RefusedCertificate {
    /// What is wrong with the certificate, as a sentence without a full stop. The word "it" in the
    /// sentence is the certificate.
    pub why: String,
    pub remedy: Remedy,
    /// The fingerprint of the certificate that the server presented. `None` if the certificate is
    /// not known.
    pub fingerprint: Option<Fingerprint>,
}

/// What a person can do about a certificate that is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Trust the authority that signed the certificate, or trust the certificate itself.
    Trust,
    /// Renew the certificate, correct a wrong clock, or pin the certificate: otter does not check
    /// the dates of a pinned certificate.
    Dates,
    /// Connect to a name that is in the certificate, or pin the certificate: otter does not check
    /// the name of a pinned certificate.
    Name,
    /// Pin the certificate, because otter does not check the authorities of a pinned certificate.
    Pin,
    /// Change the configured fingerprint to that of the new certificate, if the server is the right
    /// one.
    ChangePin,
    /// Use another certificate, because this one cannot be used at all.
    Replace,
    /// Find out whether the server is the right one.
    Investigate,
}

impl RefusedCertificate {
    /// Finds out why a certificate was refused from the error with which the TLS handshake failed.
    #[must_use]
    pub fn from_certificate_error(error: &CertificateError) -> Self {
        refused_before(error).cloned().unwrap_or_else(|| {
            let (why, remedy) = describe(error, None, None);
            Self { why, remedy, fingerprint: None }
        })
    }

    /// What a person can do about the certificate of a host, as sentences without the last full
    /// stop.
    #[must_use]
    pub fn host_advice(&self) -> String {
        let pin = match &self.fingerprint {
            Some(seen) => format!(
                "compare the fingerprint with the host's and pin it: esx.verify = \"sha256:{seen}\""
            ),
            None => "pin its fingerprint in esx.verify".to_owned(),
        };
        match self.remedy {
            Remedy::Trust => format!(
                "Name the PEM file of its authority, or of the certificate itself, in esx.verify \
                 (\"ca:<file>\"), or {pin}"
            ),
            Remedy::Dates => format!(
                "Renew the host's certificate, correct the clock of this machine if it is wrong, \
                 or {pin}"
            ),
            Remedy::Name => format!("Use one of its names in esx.url, or {pin}"),
            Remedy::Pin => format!("Replace the host's certificate, or {pin}"),
            Remedy::ChangePin => format!("If this is the right server, {pin}"),
            Remedy::Replace => "Generate the host's certificate again (generate-certificates) and \
                                restart its services"
                .to_owned(),
            Remedy::Investigate => "Restart the host's services if its certificate was changed; \
                                    otherwise another server may answer in its place"
                .to_owned(),
        }
    }

    /// Says why rustls refused `certificate` with `error`.
    pub(super) fn new(
        error: &CertificateError,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Self {
        if let Some(refused) = refused_before(error) {
            return refused.clone();
        }
        let parsed = Certificate::from_der(certificate);
        let short_key = std::iter::once(("it has", certificate))
            .chain(intermediates.iter().map(|authority| ("its authority has", authority)))
            .find_map(|(owner, certificate)| {
                let bits = PublicKey::from_certificate(certificate)?.rsa_bits()?;
                (bits < SHORTEST_RSA_KEY).then_some(ShortKey { owner, bits })
            });
        let (why, remedy) = describe(error, parsed.as_ref(), short_key);
        Self { why, remedy, fingerprint: Some(fingerprint(certificate)) }
    }

    /// The refusal of a certificate that has another fingerprint than the configured one
    /// (`pinned`).
    pub(super) fn other_than(pinned: Fingerprint, certificate: &CertificateDer<'_>) -> Self {
        let seen = fingerprint(certificate);
        Self {
            why: format!(
                "it has the SHA-256 fingerprint {seen}, but {pinned} is configured. The \
                 fingerprint changes if the host's certificate is generated again \
                 (generate-certificates) or if a vCenter adds the host; if neither happened, \
                 another server answers in its place"
            ),
            remedy: Remedy::ChangePin,
            fingerprint: Some(seen),
        }
    }
}

impl From<RefusedCertificate> for rustls::Error {
    fn from(refused: RefusedCertificate) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
    }
}

/// An RSA key in the chain that is too short: the library does not verify its signatures.
#[derive(Clone, Copy)]
struct ShortKey {
    /// The beginning of the sentence about the key: "it has" for the certificate's own key, or "its
    /// authority has".
    owner: &'static str,
    bits: usize,
}

/// The reason for a refusal, if one of otter's own verifiers put it into this error of rustls.
fn refused_before(error: &CertificateError) -> Option<&RefusedCertificate> {
    match error {
        CertificateError::Other(OtherError(inner)) => inner.downcast_ref(),
        _ => None,
    }
}

/// Says what is wrong with a certificate, and what a person can do.
///
/// # Parameters
/// - `certificate`: the certificate that the server presented. `None` if it is damaged or not
///   known.
/// - `short_key`: an RSA key in the chain that is too short.
fn describe(
    error: &CertificateError,
    certificate: Option<&Certificate<'_>>,
    short_key: Option<ShortKey>,
) -> (String, Remedy) {
    use CertificateError as E;
    let is_self_signed = certificate.is_some_and(Certificate::is_self_issued);
    let (why, remedy) = match error {
        E::BadEncoding => ("it is damaged: it cannot be read", Remedy::Pin),
        E::Expired | E::ExpiredContext { .. } => {
            let since = match (error, certificate) {
                (E::ExpiredContext { not_after, .. }, _) => day(*not_after),
                (_, Some(certificate)) => Some(day_of(certificate.not_after)),
                _ => None,
            };
            let since = since.map(|day| format!(" on {day}")).unwrap_or_default();
            return (format!("it has expired{since}"), Remedy::Dates);
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            let from = match (error, certificate) {
                (E::NotValidYetContext { not_before, .. }, _) => day(*not_before),
                (_, Some(certificate)) => Some(day_of(certificate.not_before)),
                _ => None,
            };
            let from = from.map(|day| format!(", but from {day} on")).unwrap_or_default();
            return (format!("it is not valid yet{from}"), Remedy::Dates);
        }
        E::Revoked => ("its authority has revoked it", Remedy::Replace),
        E::UnhandledCriticalExtension => (UNKNOWN_EXTENSION, Remedy::Pin),
        E::UnknownIssuer if is_self_signed => (SELF_SIGNED, Remedy::Trust),
        E::UnknownIssuer => ("no trusted authority has signed it", Remedy::Trust),
        E::UnknownRevocationStatus
        | E::ExpiredRevocationList
        | E::ExpiredRevocationListContext { .. }
        | E::InvalidOcspResponse => {
            ("it cannot be found out whether its authority has revoked it", Remedy::Pin)
        }
        E::BadSignature => match short_key {
            Some(ShortKey { owner, bits }) => {
                let why = format!(
                    "{owner} an RSA key of {bits} bits, but at least {SHORTEST_RSA_KEY} are needed"
                );
                return (why, Remedy::Replace);
            }
            None => (
                "a signature is not valid: the server does not own its key, or its authority did \
                 not sign it",
                Remedy::Investigate,
            ),
        },
        E::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
            let old = outdated_digest(signature_algorithm_id);
            let why = match old {
                Some(digest) => format!("it is signed with {digest}, which is no longer safe"),
                None => UNKNOWN_ALGORITHM.to_owned(),
            };
            return (why, Remedy::Pin);
        }
        E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            ("it has a kind of key that otter does not know", Remedy::Replace)
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            return (wrong_name(error, certificate), Remedy::Name);
        }
        E::InvalidPurpose => ("it may not identify a server", Remedy::Pin),
        E::InvalidPurposeContext { presented, .. } => {
            let why = if presented.contains(&ExtendedKeyPurpose::ClientAuth) {
                "it may identify a client and not a server"
            } else {
                "it may not identify a server"
            };
            (why, Remedy::Pin)
        }
        E::ApplicationVerificationFailure => ("it is not allowed", Remedy::Pin),
        E::Other(OtherError(inner)) => match inner.downcast_ref::<webpki::Error>() {
            Some(error) => describe_webpki(error, is_self_signed),
            None => (BROKEN_RULE, Remedy::Pin),
        },
        // Only a deprecated variant of the enum is left. rustls sends the newer variant, which
        // another arm handles.
        _ => (UNKNOWN_ALGORITHM, Remedy::Pin),
    };
    (why.to_owned(), remedy)
}

/// Describes the errors of webpki that rustls passes on unchanged.
fn describe_webpki(error: &webpki::Error, is_self_signed: bool) -> (&'static str, Remedy) {
    use webpki::Error as E;
    match error {
        E::CaUsedAsEndEntity if is_self_signed => (SELF_SIGNED, Remedy::Trust),
        E::CaUsedAsEndEntity => {
            ("it is the certificate of an authority (CA), not of a server", Remedy::Trust)
        }
        E::EndEntityUsedAsCa => {
            ("it is signed with a certificate that is not of an authority (CA)", Remedy::Pin)
        }
        E::UnsupportedCertVersion => ("it is of an old version of X.509", Remedy::Trust),
        E::CertDistrusted => ("its key is known to others", Remedy::Replace),
        E::UnsupportedCriticalExtension => (UNKNOWN_EXTENSION, Remedy::Pin),
        E::NameConstraintViolation
        | E::PathLenConstraintViolated
        | E::MaximumNameConstraintComparisonsExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumSignatureChecksExceeded => {
            ("its authorities may not sign it, or there are too many of them", Remedy::Pin)
        }
        _ => (BROKEN_RULE, Remedy::Pin),
    }
}

const SELF_SIGNED: &str = "it is self-signed: no trusted authority has signed it";
const UNKNOWN_EXTENSION: &str = "it has a critical extension that otter does not know";
const UNKNOWN_ALGORITHM: &str = "it is signed with an algorithm that otter does not know";
const BROKEN_RULE: &str = "it breaks a rule for certificates (RFC 5280)";

/// Says which names the certificate has and which name was expected.
fn wrong_name(error: &CertificateError, certificate: Option<&Certificate<'_>>) -> String {
    let (expected, presented) = match error {
        CertificateError::NotValidForNameContext { expected, presented } => {
            (Some(expected.to_str().into_owned()), presented.as_slice())
        }
        _ => (None, &[][..]),
    };
    let names = match certificate {
        Some(certificate) => certificate.names(),
        // The error of webpki writes a name as `DnsName("esx.lab")`, so the name is the text in
        // quotes.
        None => presented.iter().filter_map(|name| Some(name.split('"').nth(1)?.into())).collect(),
    };
    let short = |name: &String| name.chars().take(NAME_LENGTH).collect::<String>();
    let listed: Vec<String> = names.iter().take(NAMES).map(short).collect();
    let more = match names.len().saturating_sub(NAMES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let expected = expected.unwrap_or_else(|| "this server".to_owned());
    if listed.is_empty() {
        format!("it has no name, so it is not valid for {expected}")
    } else {
        format!("it is valid for {}{more}, and not for {expected}", listed.join(", "))
    }
}

/// The date of a time that rustls reports. `None` if the time is beyond the calendar.
fn day(time: UnixTime) -> Option<String> {
    let time = Timestamp::from_second(i64::try_from(time.as_secs()).ok()?).ok()?;
    Some(day_of(time))
}

fn day_of(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}

/// The name of the digest in the identifier of a signature algorithm (in DER), if the digest is
/// outdated. `None` for other algorithms.
fn outdated_digest(algorithm: &[u8]) -> Option<&'static str> {
    /// The beginnings of object identifiers: `pkcs-1` of RFC 8017, and `ecdsa-with-SHA1` of RFC
    /// 3279.
    const RSA: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA_SHA1: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
    let has = |id: &[u8]| algorithm.windows(id.len()).any(|part| part == id);
    if has(&[&RSA[..], &[5]].concat()) || has(&ECDSA_SHA1) {
        Some("SHA-1")
    } else if has(&[&RSA[..], &[4]].concat()) {
        Some("MD5")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
    use rustls::pki_types::ServerName;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    /// A self-signed certificate with an RSA key of 1,024 bits. It is stored here because ring
    /// cannot generate such a key. It was made with `openssl req -x509 -newkey rsa:1024 -nodes
    /// -subj /CN=esx -days 3650`.
    const SHORT: &str = "-----BEGIN CERTIFICATE-----
MIIB+DCCAWGgAwIBAgIUbOn7ZEQQ16iGd4sOWzkjb1MI8uUwDQYJKoZIhvcNAQEL
BQAwDjEMMAoGA1UEAwwDZXN4MB4XDTI2MTEzMDE4NDEyMFoXDTM2MTEyNzE4NDEy
MFowDjEMMAoGA1UEAwwDZXN4MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCo
lT7n0+zeSlHd36xQ84qNrb4xiuwZ5yunLLPwylsXGo8VrSb10LmjCbVccC+D+AM8
G5aDXMIAiD7sVxioxEQ/27LzG1UMjNprnJdxt50U17tIUHtoZYfEOpTHuszMYTdX
r6TQbI+XD307TjTO8OLMx7dTjpqJHhjs/scLrzPVbwIDAQABo1MwUTAdBgNVHQ4E
FgQUQtG1NFAbP86nINJwuwrxIIcWYnowHwYDVR0jBBgwFoAUQtG1NFAbP86nINJw
uwrxIIcWYnowDwYDVR0TAQH/BAUwAwEB/zANBgkqhkiG9w0BAQsFAAOBgQAJwGZo
jWAkCKiWIJcPVilEHCKR+kkjNp6PVGBvCHVYF2UJMaNdz4mnFY4D//KTSipQABE7
VSAdhF6kbHfewdP2k0qKN1Hb1J21kZxSo8O5oK+jD0tJk9hiOY3TfwXFsJaHCDhK
feW4QTqV5z1nYqGJWDGL+qTr/UtgL2VJPsF3Bw==
-----END CERTIFICATE-----
";

    fn time(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    fn certificate(is_ca: IsCa) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["esx.lab".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "esx");
        params.is_ca = is_ca;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn webpki(error: webpki::Error) -> CertificateError {
        CertificateError::Other(OtherError(Arc::new(error)))
    }

    /// Asserts that a text for people contains no name of a Rust type or variant.
    fn assert_is_plain(text: &str) {
        let inner: Vec<char> = text.chars().collect();
        let camel = inner
            .windows(2)
            .any(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase());
        assert!(!camel && !text.contains('{'), "{text}");
    }

    #[test]
    #[expect(deprecated, reason = "rustls still has the outdated variants")]
    fn each_error_is_a_plain_sentence_that_ends_in_what_to_do() {
        use CertificateError as E;
        use webpki::Error as W;
        let name = ServerName::try_from("10.0.0.1").unwrap();
        let presented = vec!["DnsName(\"esx.lab\")".to_owned()];
        let sha1 = vec![0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05];
        let unsigned = |id: Vec<u8>| E::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: id,
            supported_algorithms: Vec::new(),
        };
        let purpose = |presented| E::InvalidPurposeContext {
            required: ExtendedKeyPurpose::ServerAuth,
            presented,
        };
        let table: Vec<(CertificateError, &str, Remedy)> = vec![
            (E::BadEncoding, "damaged", Remedy::Pin),
            (E::Expired, "it has expired", Remedy::Dates),
            (
                E::ExpiredContext { time: time(2), not_after: time(86_400) },
                "expired on 1970-01-02",
                Remedy::Dates,
            ),
            (E::NotValidYet, "not valid yet", Remedy::Dates),
            (
                E::NotValidYetContext { time: time(2), not_before: time(4_102_444_800) },
                "but from 2100-01-01 on",
                Remedy::Dates,
            ),
            (E::Revoked, "revoked", Remedy::Replace),
            (E::UnhandledCriticalExtension, "extension", Remedy::Pin),
            (E::UnknownIssuer, "no trusted authority has signed it", Remedy::Trust),
            (E::UnknownRevocationStatus, "revoked", Remedy::Pin),
            (E::ExpiredRevocationList, "revoked", Remedy::Pin),
            (
                E::ExpiredRevocationListContext { time: time(2), next_update: time(1) },
                "revoked",
                Remedy::Pin,
            ),
            (E::InvalidOcspResponse, "revoked", Remedy::Pin),
            (E::BadSignature, "a signature is not valid", Remedy::Investigate),
            (E::UnsupportedSignatureAlgorithm, "an algorithm", Remedy::Pin),
            (unsigned(sha1), "signed with SHA-1", Remedy::Pin),
            (unsigned(vec![1, 2]), "an algorithm", Remedy::Pin),
            (
                E::UnsupportedSignatureAlgorithmForPublicKeyContext {
                    signature_algorithm_id: Vec::new(),
                    public_key_algorithm_id: Vec::new(),
                },
                "kind of key",
                Remedy::Replace,
            ),
            (E::NotValidForName, "it is valid for esx.lab, and not for this server", Remedy::Name),
            (
                E::NotValidForNameContext { expected: name, presented },
                "it is valid for esx.lab, and not for 10.0.0.1",
                Remedy::Name,
            ),
            (E::InvalidPurpose, "may not identify a server", Remedy::Pin),
            (
                purpose(vec![ExtendedKeyPurpose::ClientAuth]),
                "may identify a client and not a server",
                Remedy::Pin,
            ),
            (purpose(Vec::new()), "may not identify a server", Remedy::Pin),
            (E::ApplicationVerificationFailure, "not allowed", Remedy::Pin),
            (webpki(W::CaUsedAsEndEntity), "no trusted authority has signed it", Remedy::Trust),
            (webpki(W::EndEntityUsedAsCa), "not of an authority (CA)", Remedy::Pin),
            (webpki(W::UnsupportedCertVersion), "an old version of X.509", Remedy::Trust),
            (webpki(W::CertDistrusted), "known to others", Remedy::Replace),
            (webpki(W::UnsupportedCriticalExtension), "extension", Remedy::Pin),
            (webpki(W::NameConstraintViolation), "authorities", Remedy::Pin),
            (webpki(W::PathLenConstraintViolated), "authorities", Remedy::Pin),
            (webpki(W::MaximumPathDepthExceeded), "too many", Remedy::Pin),
            (webpki(W::MaximumPathBuildCallsExceeded), "too many", Remedy::Pin),
            (webpki(W::MaximumSignatureChecksExceeded), "too many", Remedy::Pin),
            (webpki(W::MaximumNameConstraintComparisonsExceeded), "too many", Remedy::Pin),
            (webpki(W::EmptyEkuExtension), "breaks a rule", Remedy::Pin),
            (webpki(W::ExtensionValueInvalid), "breaks a rule", Remedy::Pin),
            (webpki(W::MalformedExtensions), "breaks a rule", Remedy::Pin),
            (webpki(W::MalformedDnsIdentifier), "breaks a rule", Remedy::Pin),
            (webpki(W::InvalidSerialNumber), "breaks a rule", Remedy::Pin),
            (webpki(W::SignatureAlgorithmMismatch), "breaks a rule", Remedy::Pin),
            (E::Other(OtherError(Arc::new(std::fmt::Error))), "breaks a rule", Remedy::Pin),
        ];
        let presented = certificate(IsCa::NoCa);
        let seen = fingerprint(&presented).to_string();
        for (error, why, remedy) in table {
            let refused = RefusedCertificate::new(&error, &presented, &[]);
            assert!(refused.why.contains(why), "{error:?}: {}", refused.why);
            assert!(refused.why.starts_with("it") || refused.why.starts_with("a "), "{refused}");
            assert_eq!(refused.remedy, remedy, "{error:?}");
            let advice = refused.host_advice();
            let can_pin = !matches!(remedy, Remedy::Replace | Remedy::Investigate);
            assert_eq!(advice.contains(&format!("esx.verify = \"sha256:{seen}\"")), can_pin);
            assert_is_plain(&refused.why);
            assert_is_plain(&advice);
            let unknown = RefusedCertificate::from_certificate_error(&error);
            assert_is_plain(&format!("{unknown} {}", unknown.host_advice()));
        }
    }

    #[test]
    fn a_refusal_keeps_its_reason_on_its_way_through_rustls() {
        let presented = certificate(IsCa::Ca(BasicConstraints::Unconstrained));
        let error = webpki(webpki::Error::CaUsedAsEndEntity);
        let refused = RefusedCertificate::new(&error, &presented, &[]);
        assert!(refused.why.starts_with("it is self-signed"), "{refused}");
        let rustls::Error::InvalidCertificate(wrapped) = rustls::Error::from(refused.clone())
        else {
            panic!()
        };
        assert_eq!(RefusedCertificate::from_certificate_error(&wrapped), refused);
        assert_eq!(RefusedCertificate::new(&wrapped, &presented, &[]), refused);
    }

    #[test]
    fn a_short_key_is_named() {
        let short = CertificateDer::from_pem_slice(SHORT.as_bytes()).unwrap();
        let long = certificate(IsCa::NoCa);
        let refused = RefusedCertificate::new(&CertificateError::BadSignature, &short, &[]);
        assert!(refused.why.starts_with("it has an RSA key of 1024 bits"), "{refused}");
        assert_eq!(refused.remedy, Remedy::Replace);
        let refused = RefusedCertificate::new(&CertificateError::BadSignature, &long, &[short]);
        assert!(refused.why.starts_with("its authority has an RSA key of 1024"), "{refused}");
    }

    #[test]
    fn the_list_of_names_is_bounded() {
        let names: Vec<String> = (0..9).map(|number| format!("{number}.lab")).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        let refused = RefusedCertificate::new(&CertificateError::NotValidForName, &der, &[]);
        assert!(refused.why.contains("0.lab, 1.lab, 2.lab, 3.lab, 4.lab and 4 more"), "{refused}");
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        let refused = RefusedCertificate::new(&CertificateError::NotValidForName, &der, &[]);
        assert!(refused.why.starts_with("it has no name"), "{refused}");
    }
}
