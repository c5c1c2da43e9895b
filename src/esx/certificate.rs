//! Reads the parts of an X.509 certificate that otter needs (the public key, the names, the dates
//! and the purposes; RFC 5280), and makes the certificate's fingerprint.
//!
//! The crate webpki cannot do this: it parses X.509 v3 only, but the factory certificates of hosts
//! may be v1. It also does not read the common name, which is the only name in a certificate that
//! `openssl req -x509` made.

use std::net::IpAddr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::pki_types::ServerName;
use sha2::{Digest, Sha256};

use crate::domain::verify::Fingerprint;

/// Tag numbers of DER values.
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// The DER tag `[0]` in `TBSCertificate`: the version of the certificate.
const VERSION: u8 = 0xa0;
/// The DER tag `[3]` in `TBSCertificate`: the extensions.
const EXTENSIONS: u8 = 0xa3;
/// The DER tags `[2]` and `[7]` in `GeneralName`: a DNS name and an IP address.
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// Object identifiers of attributes and extensions, in DER.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// The object identifier `id-kp-serverAuth`, in DER.
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];

/// The parsed parts of a certificate of any X.509 version.
#[derive(Debug)]
pub struct Certificate<'c> {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    issuer: &'c [u8],
    subject: &'c [u8],
    /// The contents of the field `Extensions`. Empty if the certificate has no extensions.
    extensions: &'c [u8],
}

/// A public key: the `SubjectPublicKeyInfo` of RFC 5280.
#[derive(Debug)]
pub struct PublicKey<'c> {
    /// The contents of the key's `AlgorithmIdentifier`.
    pub algorithm: &'c [u8],
    pub bits: &'c [u8],
}

/// The SHA-256 fingerprint of a certificate in DER.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate).into())
}

impl<'c> Certificate<'c> {
    /// Parses a certificate in DER. `None` if the certificate is damaged.
    #[must_use]
    pub fn from_der(certificate: &'c [u8]) -> Option<Self> {
        let fields = signed_fields(certificate)?;
        let (issuer, rest) = take_der(fields, SEQUENCE)?;
        let (validity, rest) = take_der(rest, SEQUENCE)?;
        let (subject, rest) = take_der(rest, SEQUENCE)?;
        let (_key, mut rest) = take_der(rest, SEQUENCE)?;
        let (not_before, after) = take_time(validity)?;
        let (not_after, _) = take_time(after)?;
        let mut extensions = &[][..];
        while let Some((&tag, _)) = rest.split_first() {
            let (contents, after) = take_der(rest, tag)?;
            if tag == EXTENSIONS {
                extensions = take_der(contents, SEQUENCE)?.0;
            }
            rest = after;
        }
        Some(Self { not_before, not_after, issuer, subject, extensions })
    }

    /// Whether issuer and subject of the certificate are the same.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// Whether the text occurs in an attribute of the subject or the issuer, such as the
    /// organization.
    #[must_use]
    pub fn names_organization(&self, text: &str) -> bool {
        [self.subject, self.issuer]
            .into_iter()
            .flat_map(attributes)
            .any(|(_, value)| value.contains(text))
    }

    /// Whether the certificate may identify a server: it lists no purposes at all, or the purpose
    /// `serverAuth`.
    #[must_use]
    pub fn is_for_servers(&self) -> bool {
        match self.extension(EXTENDED_KEY_USAGE) {
            None => true,
            Some(value) => take_der(value, SEQUENCE).is_some_and(|(purposes, _)| {
                values(purposes).any(|value| value == (OBJECT_IDENTIFIER, SERVER_AUTH))
            }),
        }
    }

    /// The names and addresses for which the certificate is valid: its alternative names, or its
    /// common names if the certificate has no alternative name.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let alternative: Vec<String> = self
            .alternative_names()
            .filter_map(|(tag, value)| match tag {
                DNS_NAME => Some(String::from_utf8_lossy(value).into_owned()),
                IP_ADDRESS => ip_address(value).map(|address| address.to_string()),
                _ => None,
            })
            .collect();
        if alternative.is_empty() { self.common_names().collect() } else { alternative }
    }

    /// Whether the certificate has this common name and no alternative name or address. An
    /// alternative name would count instead of the common name. Clients with OpenSSL, such as curl,
    /// accept a certificate by its common name.
    #[must_use]
    pub fn has_common_name(&self, name: &ServerName<'_>) -> bool {
        let has_alternative =
            self.alternative_names().any(|(tag, _)| matches!(tag, DNS_NAME | IP_ADDRESS));
        !has_alternative && self.common_names().any(|common| is_same_name(&common, name))
    }

    fn common_names(&self) -> impl Iterator<Item = String> + use<'c> {
        attributes(self.subject).filter(|(kind, _)| *kind == COMMON_NAME).map(|(_, value)| value)
    }

    /// The tags and contents of all `GeneralName`s in the extension `subjectAltName`.
    fn alternative_names(&self) -> impl Iterator<Item = (u8, &'c [u8])> + use<'c> {
        let names = self.extension(SUBJECT_ALT_NAME).and_then(|value| take_der(value, SEQUENCE));
        values(names.map_or(&[][..], |(names, _)| names))
    }

    /// The value of the extension with this object identifier. `None` if the certificate lacks it.
    fn extension(&self, id: &[u8]) -> Option<&'c [u8]> {
        values(self.extensions).find_map(|(_, extension)| {
            let (found, mut rest) = take_der(extension, OBJECT_IDENTIFIER)?;
            if found != id {
                return None;
            }
            if rest.first() == Some(&BOOLEAN) {
                rest = take_der(rest, BOOLEAN)?.1;
            }
            Some(take_der(rest, OCTET_STRING)?.0)
        })
    }
}

impl<'c> PublicKey<'c> {
    /// Reads the public key of a certificate in DER, even if the rest of the certificate cannot be
    /// parsed. `None` if the certificate is damaged.
    #[must_use]
    pub fn from_certificate(certificate: &'c [u8]) -> Option<Self> {
        let mut fields = signed_fields(certificate)?;
        for _ in ["issuer", "validity", "subject"] {
            fields = take_der(fields, *fields.first()?)?.1;
        }
        Self::from_contents(take_der(fields, SEQUENCE)?.0)
    }

    /// The length of the modulus in bits, if the key is an RSA key (`RSAPublicKey` of RFC 8017).
    /// `None` for other keys.
    #[must_use]
    pub fn rsa_bits(&self) -> Option<usize> {
        let (key, _) = take_der(self.bits, SEQUENCE)?;
        let (modulus, _) = take_der(key, INTEGER)?;
        let octets = modulus.iter().skip_while(|octet| **octet == 0).count();
        Some(octets * 8)
    }

    fn from_contents(key: &'c [u8]) -> Option<Self> {
        let (algorithm, rest) = take_der(key, SEQUENCE)?;
        let (bits, _) = take_der(rest, BIT_STRING)?;
        // The first octet of a DER bit string counts the unused bits of the last octet. A key has
        // no unused bits, so the octet must be 0.
        Some(Self { algorithm, bits: bits.strip_prefix(&[0])? })
    }
}

/// The fields of `TBSCertificate` from the issuer on. All its fields are, in this order: version
/// (optional), serial number, signature algorithm, issuer, validity, subject,
/// `subjectPublicKeyInfo`, and the extensions among others.
fn signed_fields(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = take_der(certificate, SEQUENCE)?;
    let (mut fields, _) = take_der(certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = take_der(fields, VERSION)?.1;
    }
    for _ in ["serial", "signature"] {
        fields = take_der(fields, *fields.first()?)?.1;
    }
    Some(fields)
}

/// The object identifier and the text of each attribute in an X.509 `Name`.
fn attributes(name: &[u8]) -> impl Iterator<Item = (&[u8], String)> {
    values(name).filter(|(tag, _)| *tag == SET).flat_map(|(_, set)| values(set)).filter_map(
        |(_, attribute)| {
            let (kind, value) = take_der(attribute, OBJECT_IDENTIFIER)?;
            let (text, _) = take_der(value, *value.first()?)?;
            Some((kind, String::from_utf8_lossy(text).into_owned()))
        },
    )
}

/// Whether a name in a certificate is that of the server `name`. A `*` in the certificate stands
/// for any first label of the server's DNS name.
fn is_same_name(presented: &str, name: &ServerName<'_>) -> bool {
    let presented = presented.trim_end_matches('.');
    match name {
        ServerName::DnsName(name) => {
            let name = name.as_ref().trim_end_matches('.');
            match (presented.strip_prefix("*."), name.split_once('.')) {
                (Some(domain), Some((_, rest))) => domain.eq_ignore_ascii_case(rest),
                _ => presented.eq_ignore_ascii_case(name),
            }
        }
        ServerName::IpAddress(address) => presented.parse() == Ok(IpAddr::from(*address)),
        _ => false,
    }
}

fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// Takes an X.509 `Time` from the beginning of the input. Returns the time and the rest of the
/// input.
fn take_time(input: &[u8]) -> Option<(Timestamp, &[u8])> {
    let tag = *input.first()?;
    let (text, rest) = take_der(input, tag)?;
    let digits = std::str::from_utf8(text.strip_suffix(b"Z")?).ok()?;
    let digits = match tag {
        // RFC 5280, section 4.1.2.5.1: in a `UTCTime`, the years 50 to 99 are in the 20th century
        // and the years 00 to 49 in the 21st.
        UTC_TIME if digits < "50" => format!("20{digits}"),
        UTC_TIME => format!("19{digits}"),
        GENERALIZED_TIME => digits.to_owned(),
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%S", &digits).ok()?;
    Some((time.to_zoned(TimeZone::UTC).ok()?.timestamp(), rest))
}

/// The tag and the contents of each value in a DER sequence, up to the first damaged value.
fn values(mut input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let tag = *input.first()?;
        let (contents, rest) = take_der(input, tag)?;
        input = rest;
        Some((tag, contents))
    })
}

/// Takes one DER value with this tag from the beginning of the input. Returns the contents of the
/// value and the rest of the input.
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};

    use super::*;

    fn made(
        names: &[&str],
        common_name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "VMware, Inc");
        params.distinguished_name.push(DnType::CommonName, common_name);
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn server(name: &str) -> ServerName<'_> {
        ServerName::try_from(name).unwrap()
    }

    #[test]
    fn names_dates_and_purposes_are_read() {
        let der = made(&["esx.lab", "10.0.0.1", "::1"], "ignored", |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 2);
            params.not_after = rcgen::date_time_ymd(2060, 3, 4);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        let certificate = Certificate::from_der(&der).unwrap();
        assert_eq!(certificate.names(), ["esx.lab", "10.0.0.1", "::1"]);
        assert_eq!(certificate.not_before, "2020-01-02T00:00:00Z".parse().unwrap());
        assert_eq!(certificate.not_after, "2060-03-04T00:00:00Z".parse().unwrap());
        assert!(certificate.is_self_issued() && certificate.names_organization("VMware"));
        assert!(!certificate.names_organization("Acme"));
        assert!(!certificate.is_for_servers());
        assert!(!certificate.has_common_name(&server("ignored")), "it has alternative names");
        let der = made(&["esx.lab"], "x", |params| {
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        });
        assert!(Certificate::from_der(&der).unwrap().is_for_servers());
    }

    #[test]
    fn the_common_name_counts_without_alternative_names() {
        for (common_name, name, same) in [
            ("esx.lab", "esx.lab", true),
            ("ESX.lab.", "esx.LAB", true),
            ("*.lab", "esx.lab", true),
            ("*.lab", "a.esx.lab", false),
            ("*.lab", "lab", false),
            ("esx", "esx.lab", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("*", "esx", false),
        ] {
            let der = made(&[], common_name, |_| {});
            let certificate = Certificate::from_der(&der).unwrap();
            assert_eq!(certificate.has_common_name(&server(name)), same, "{common_name} {name}");
            assert_eq!(certificate.names(), [common_name]);
            assert!(certificate.is_for_servers());
        }
    }

    #[test]
    fn a_damaged_certificate_is_none_and_never_a_panic() {
        let der = made(&["esx.lab"], "esx", |_| {});
        for length in 0..der.len() {
            let part = &der[..length];
            assert!(Certificate::from_der(part).is_none(), "{length}");
            assert!(PublicKey::from_certificate(part).is_none(), "{length}");
        }
        for index in 0..der.len() {
            for value in [0, 0x30, 0x80, 0x84, 0xff] {
                let mut changed = der.clone();
                changed[index] = value;
                let _ = PublicKey::from_certificate(&changed).and_then(|key| key.rsa_bits());
                if let Some(certificate) = Certificate::from_der(&changed) {
                    let _ = (certificate.names(), certificate.is_for_servers());
                    let _ = certificate.has_common_name(&server("x"));
                }
            }
        }
    }
}
