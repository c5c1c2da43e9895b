//! What the backend is told: where the host is, who we are there, and how its certificate is judged.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

/// How to reach one host. [`EsxOptions::new`] fills in what is usual.
#[derive(Clone, Debug)]
pub struct EsxOptions {
    /// `https://host[:port]`; `/sdk` is implied.
    pub url: String,
    pub username: String,
    pub password: SecretString,
    pub verify: Verify,
    /// Sent with every request.
    pub headers: Vec<(String, SecretString)>,
    pub connect_timeout: Duration,
    /// How long an ordinary call may take in all. A wait for updates may take `max_wait` longer.
    pub read_timeout: Duration,
    /// How long the host may hold a wait for updates when nothing happens.
    pub max_wait: Duration,
    /// The longest answer that is read, in bytes after decompression.
    pub answer_limit: usize,
    /// How long a refused account is left alone: every try counts towards its lock.
    pub login_backoff: Duration,
}

impl EsxOptions {
    /// A host with the usual time-outs, its certificate judged by the system's roots.
    pub fn new(url: impl Into<String>, username: impl Into<String>, password: SecretString) -> Self {
        Self {
            url: url.into(),
            username: username.into(),
            password,
            verify: Verify::SystemRoots,
            headers: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_mins(1),
            max_wait: Duration::from_mins(1),
            answer_limit: 64 << 20,
            login_backoff: Duration::from_mins(15),
        }
    }

    /// Finds what can never work without asking the host: the URL, the headers, the CA file, the limits.
    ///
    /// # Errors
    /// The first thing that is wrong, told for people.
    pub fn check(&self) -> Result<(), OptionsError> {
        normalize_url(&self.url)?;
        if self.username.is_empty() {
            return Err(OptionsError::NoUsername);
        }
        for (name, value) in &self.headers {
            header(name, value)?;
        }
        if self.connect_timeout.is_zero() || self.read_timeout.is_zero() || self.max_wait.is_zero() {
            return Err(OptionsError::NoTime);
        }
        if self.answer_limit < 64 << 10 {
            return Err(OptionsError::AnswerLimit(self.answer_limit));
        }
        super::tls::client_config(&self.verify).map(|_| ()).map_err(OptionsError::Tls)
    }
}

/// How the host's certificate is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verify {
    /// By the roots that the system trusts, and for the host's name.
    SystemRoots,
    /// By the roots in this PEM file, and for the host's name.
    CaFile(PathBuf),
    /// It must be exactly the one of this SHA-256; name, dates and issuer do not matter.
    Fingerprint(Fingerprint),
    /// Not at all: whoever answers is believed.
    Off,
}

/// The SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// What is wrong with the options.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    #[error("\u{201c}{0}\u{201d} is no address of a host: {1}; wanted is https://host or https://host:port")]
    Url(String, &'static str),
    #[error("the user name is empty")]
    NoUsername,
    #[error("the header \u{201c}{0}\u{201d} cannot be sent: {1}")]
    Header(String, &'static str),
    #[error("a time-out of 0 s leaves no time for an answer")]
    NoTime,
    #[error("an answer limit of {0} bytes is too small: 64 KiB at least")]
    AnswerLimit(usize),
    #[error(transparent)]
    Tls(#[from] super::tls::TlsError),
}

/// Why a text is no [`Verify`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("wanted is true, false, ca:<file> or sha256:<fingerprint>")]
    Form,
    #[error("ca: lacks the name of a PEM file")]
    NoFile,
    #[error(
        "this is a {0} fingerprint; wanted is the SHA-256 of the host's certificate, 64 hexadecimal digits. \
         `openssl s_client -connect <host>:443 </dev/null | openssl x509 -noout -fingerprint -sha256` shows it"
    )]
    OtherDigest(&'static str),
    #[error("a SHA-256 fingerprint has 64 hexadecimal digits, with or without colons; this has {0}")]
    Length(usize),
    #[error("a fingerprint holds only hexadecimal digits, colons and spaces")]
    NotHexadecimal,
}

impl FromStr for Verify {
    type Err = VerifyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Some(file) = text.strip_prefix("ca:") {
            return match file.trim() {
                "" => Err(VerifyError::NoFile),
                file => Ok(Self::CaFile(file.into())),
            };
        }
        if let Some(fingerprint) = text.strip_prefix("sha256:") {
            return fingerprint.parse().map(Self::Fingerprint);
        }
        match text {
            "true" => Ok(Self::SystemRoots),
            "false" => Ok(Self::Off),
            _ => Err(VerifyError::Form),
        }
    }
}

impl FromStr for Fingerprint {
    type Err = VerifyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: String =
            text.chars().filter(|character| *character != ':' && !character.is_whitespace()).collect();
        if !digits.chars().all(|character| character.is_ascii_hexdigit()) {
            return Err(VerifyError::NotHexadecimal);
        }
        match digits.len() {
            64 => {}
            32 => return Err(VerifyError::OtherDigest("MD5")),
            40 => return Err(VerifyError::OtherDigest("SHA-1")),
            128 => return Err(VerifyError::OtherDigest("SHA-512")),
            other => return Err(VerifyError::Length(other)),
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| VerifyError::NotHexadecimal)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            write!(formatter, "{}{byte:02X}", if index == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The address of the host's service (`…/sdk`). Plain `http` is for simulators on loopback alone.
///
/// # Errors
/// Whatever is no `https://host[:port]`, a trailing `/` or `/sdk` aside.
pub fn normalize_url(text: &str) -> Result<Url, OptionsError> {
    let text = text.trim();
    // A user's password could stand in it.
    let shown = || text.split_once('@').map_or(text, |(_, host)| host).to_owned();
    let wrong = |why| OptionsError::Url(shown(), why);
    let mut url = Url::parse(text).map_err(|_| wrong("it is not a URL"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("the account belongs into its own settings"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("it names no host"));
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        "http" => return Err(wrong("without TLS the password could be read on the way")),
        _ => return Err(wrong("it does not begin with https://")),
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has more than a host and a port"));
    }
    if !matches!(url.path(), "" | "/" | "/sdk" | "/sdk/") {
        return Err(wrong("its path is not /sdk"));
    }
    url.set_path("/sdk");
    Ok(url)
}

/// A header as it can be sent, marked so that nothing prints its value.
pub(super) fn header(name: &str, value: &SecretString) -> Result<(HeaderName, HeaderValue), OptionsError> {
    /// What the protocol itself sets.
    const OURS: [&str; 7] =
        ["cookie", "soapaction", "content-type", "content-length", "host", "transfer-encoding", "connection"];
    let wrong = |why| OptionsError::Header(name.to_owned(), why);
    let header_name: HeaderName = name.parse().map_err(|_| wrong("its name is not valid"))?;
    if OURS.contains(&header_name.as_str()) {
        return Err(wrong("otter sets that one itself"));
    }
    let mut header_value: HeaderValue =
        value.expose_secret().parse().map_err(|_| wrong("its value is not valid"))?;
    header_value.set_sensitive(true);
    Ok((header_name, header_value))
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_completed_or_refused() {
        for (given, want) in [
            ("https://esx", "https://esx/sdk"),
            ("https://esx:8443/", "https://esx:8443/sdk"),
            (" https://10.0.0.1/sdk ", "https://10.0.0.1/sdk"),
            ("http://127.0.0.1:8989/sdk", "http://127.0.0.1:8989/sdk"),
            ("http://[::1]:1", "http://[::1]:1/sdk"),
        ] {
            assert_eq!(normalize_url(given).unwrap().as_str(), want);
        }
        for given in ["esx", "ftp://esx", "http://esx", "https://esx/ui", "https://esx?x=1", "https://", ""] {
            assert!(normalize_url(given).is_err(), "{given}");
        }
        let error = normalize_url("https://root:secret@esx").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn the_four_forms_of_verify() {
        let digits = "ab".repeat(32);
        let pin = Ok(Verify::Fingerprint(Fingerprint([0xab; 32])));
        assert_eq!("true".parse(), Ok(Verify::SystemRoots));
        assert_eq!("false".parse(), Ok(Verify::Off));
        assert_eq!("ca:/etc/ca.pem".parse(), Ok(Verify::CaFile("/etc/ca.pem".into())));
        assert_eq!(format!("sha256:{digits}").parse(), pin);
        assert_eq!(format!("sha256: {} ", digits.to_uppercase()).parse(), pin);
        assert_eq!(format!("sha256:{}", Fingerprint([0xab; 32])).parse(), pin);
        for (text, error) in [
            ("yes".to_owned(), VerifyError::Form),
            ("ca:".to_owned(), VerifyError::NoFile),
            (format!("sha256:{}", "a".repeat(40)), VerifyError::OtherDigest("SHA-1")),
            (format!("sha256:{}", "a".repeat(128)), VerifyError::OtherDigest("SHA-512")),
            (format!("sha256:{}", "a".repeat(63)), VerifyError::Length(63)),
            (format!("sha256:{}", "g".repeat(64)), VerifyError::NotHexadecimal),
        ] {
            assert_eq!(text.parse::<Verify>(), Err(error));
        }
    }

    #[test]
    fn headers_that_cannot_be_sent_are_refused() {
        let secret = |text: &str| SecretString::from(text.to_owned());
        assert!(header("X-Proxy-Token", &secret("t")).is_ok());
        assert!(header("Cookie", &secret("t")).is_err());
        assert!(header("bad name", &secret("t")).is_err());
        assert!(header("X", &secret("a\r\nb")).is_err());
    }

    #[test]
    fn nothing_shows_a_secret() {
        let secret = |text: &str| SecretString::from(text.to_owned());
        let mut options = EsxOptions::new("https://127.0.0.1", "root", secret("hunter2"));
        options.verify = Verify::Off;
        options.headers.push(("X-Token".to_owned(), secret("hunter3")));
        let clock = crate::clock::Clock::system();
        let hypervisor = crate::esx::EsxHypervisor::new(&options, clock).unwrap();
        let manager = crate::esx::soap::Reference::new("SessionManager", "sm");
        let login = crate::esx::soap::request::login(&manager, "root", "hunter2");
        let shown = format!("{options:?} {hypervisor:?} {login:?}");
        assert!(!shown.contains("hunter"), "{shown}");
    }
}
