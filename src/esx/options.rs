//! What the backend is told: where the host is, who we are there, and how its certificate is
//! judged.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use crate::domain::host_limits::HostLimits;
use crate::domain::host_url::{self, InvalidHostUrl};
use crate::domain::verify::Verify;

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
    pub fn new(
        url: impl Into<String>,
        username: impl Into<String>,
        password: SecretString,
    ) -> Self {
        let HostLimits { connect_timeout, read_timeout, answer_limit } = HostLimits::default();
        Self {
            url: url.into(),
            username: username.into(),
            password,
            verify: Verify::SystemRoots,
            headers: Vec::new(),
            connect_timeout,
            read_timeout,
            max_wait: Duration::from_mins(1),
            answer_limit,
            login_backoff: Duration::from_mins(15),
        }
    }

    /// Finds what can never work without asking the host: the URL, the headers, the CA file, the
    /// limits.
    ///
    /// # Errors
    /// The first thing that is wrong, told for people.
    pub fn check(&self) -> Result<(), OptionsError> {
        service_url(&self.url)?;
        if self.username.is_empty() {
            return Err(OptionsError::NoUsername);
        }
        for (name, value) in &self.headers {
            header(name, value)?;
        }
        if self.connect_timeout.is_zero() || self.read_timeout.is_zero() || self.max_wait.is_zero()
        {
            return Err(OptionsError::NoTime);
        }
        if self.answer_limit < 64 << 10 {
            return Err(OptionsError::AnswerLimit(self.answer_limit));
        }
        super::tls::client_config(&self.verify).map(|_| ()).map_err(OptionsError::Tls)
    }
}

/// What is wrong with the options.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    #[error(transparent)]
    Url(#[from] InvalidHostUrl),
    #[error("the user name is empty")]
    NoUsername,
    #[error("the header \u{201c}{0}\u{201d} cannot be sent: {1}")]
    Header(String, &'static str),
    #[error("a time-out of 0 s leaves no time for an answer")]
    NoTime,
    #[error("an answer limit of {0} bytes is too small: 64 KiB at least")]
    AnswerLimit(usize),
    #[error("no HTTP client can be set up")]
    Client(#[source] reqwest::Error),
    #[error(transparent)]
    Tls(#[from] super::tls::TlsError),
}

/// The address of the host's service (`…/sdk`).
pub(super) fn service_url(text: &str) -> Result<Url, InvalidHostUrl> {
    let url = host_url::normalize(text)?;
    url.parse().map_err(|_| InvalidHostUrl::new(text, "it is not a URL"))
}

/// A header as it can be sent, marked so that nothing prints its value.
pub(super) fn header(
    name: &str,
    value: &SecretString,
) -> Result<(HeaderName, HeaderValue), OptionsError> {
    /// What the protocol itself sets.
    const RESERVED: [&str; 7] = [
        "cookie",
        "soapaction",
        "content-type",
        "content-length",
        "host",
        "transfer-encoding",
        "connection",
    ];
    let wrong = |why| OptionsError::Header(name.to_owned(), why);
    let header_name: HeaderName = name.parse().map_err(|_| wrong("its name is not valid"))?;
    if RESERVED.contains(&header_name.as_str()) {
        return Err(wrong("otter sets that one itself"));
    }
    let mut header_value: HeaderValue =
        value.expose_secret().parse().map_err(|_| wrong("its value is not valid"))?;
    header_value.set_sensitive(true);
    Ok((header_name, header_value))
}

#[cfg(test)]
mod tests {
    use super::*;

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
