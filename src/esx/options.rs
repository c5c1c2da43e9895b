//! The options of the backend: the host's address, the account, timeouts and limits, and how the
//! certificate is verified.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::tls::{self, TlsError};
use crate::domain::host_limits::HostLimits;
use crate::domain::host_url::{self, InvalidHostUrl};
use crate::domain::proxy_url::ProxyUrl;
use crate::domain::verify::Verify;

/// How otter reaches and logs in to one host. [`EsxOptions::new`] sets the defaults.
#[derive(Clone, Debug)]
pub struct EsxOptions {
    /// The URL of the host, `https://host[:port]`. otter adds the path `/sdk`.
    pub url: String,
    pub username: String,
    pub password: SecretString,
    pub verify: Verify,
    /// The HTTP proxy through which every connection to the host goes. No other proxy is used.
    pub proxy: Option<ProxyUrl>,
    /// HTTP headers that otter adds to every request to the host.
    pub headers: Vec<(String, SecretString)>,
    pub connect_timeout: Duration,
    /// The timeout of a call. A wait for updates may take `max_wait` longer than this.
    pub read_timeout: Duration,
    /// How long the host may hold a wait for updates if nothing changes.
    pub max_wait: Duration,
    /// The maximum length of an answer in bytes, after decompression.
    pub answer_limit: usize,
    /// The pause after a refused login. The pause is long, because every refused login counts
    /// towards the lock of the account.
    pub login_backoff: Duration,
    /// The beginning of the names of the serial devices of the machine that otter runs in. The
    /// number of the device follows.
    pub tty: String,
}

impl EsxOptions {
    /// Makes options with the default timeouts and limits. The certificate of the host is verified
    /// with the system's root certificates.
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
            proxy: None,
            headers: Vec::new(),
            connect_timeout,
            read_timeout,
            max_wait: Duration::from_mins(1),
            answer_limit,
            login_backoff: Duration::from_mins(15),
            tty: "/dev/ttyS".to_owned(),
        }
    }

    /// Checks everything that can be checked without the host: the URL, the user name, the headers,
    /// the timeouts and limits, and the CA file.
    ///
    /// # Errors
    /// The first option with a value that cannot work.
    pub fn check(&self) -> Result<(), OptionsError> {
        let url = service_url(&self.url)?;
        if self.proxy.is_some() && url.scheme() != "https" {
            return Err(OptionsError::ProxyWithoutTls);
        }
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
        tls::client_config(&self.verify).map(|_| ()).map_err(OptionsError::Tls)
    }
}

/// An option whose value cannot work.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    #[error(transparent)]
    Url(#[from] InvalidHostUrl),
    #[error(
        "a proxy is set, but the address of the host is http://…, which is accepted only for this \
         machine: write https://<host>, or remove esx.proxy (OTTER_ESX_PROXY)"
    )]
    ProxyWithoutTls,
    #[error("the user name is empty")]
    NoUsername,
    #[error("the header \u{201c}{0}\u{201d} cannot be sent: {1}")]
    Header(String, &'static str),
    #[error("a timeout of 0 s leaves no time for an answer")]
    NoTime,
    #[error("an answer limit of {0} bytes is too small: the minimum is 64 KiB")]
    AnswerLimit(usize),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl OptionsError {
    /// The configuration key that sets the option.
    #[must_use]
    pub const fn setting(&self) -> &'static str {
        match self {
            Self::Url(_) => "esx.url",
            Self::ProxyWithoutTls => "esx.proxy",
            Self::NoUsername => "esx.username",
            Self::Header(..) => "esx.headers",
            Self::AnswerLimit(_) => "esx.answer_limit",
            Self::Tls(TlsError::Setup(_) | TlsError::Verifier(_)) | Self::NoTime => "esx",
            Self::Tls(_) => "esx.verify",
        }
    }
}

/// The URL of the host's SOAP service, which ends in `/sdk`.
pub(super) fn service_url(text: &str) -> Result<Url, InvalidHostUrl> {
    let url = host_url::normalize(text)?;
    url.parse().map_err(|_| InvalidHostUrl::new(text, "it is not a URL"))
}

/// Parses an HTTP header and marks its value as sensitive, so that nothing prints the value.
pub(super) fn header(
    name: &str,
    value: &SecretString,
) -> Result<(HeaderName, HeaderValue), OptionsError> {
    /// The headers that the transport sets itself, so that a configured header must not have these
    /// names.
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
        return Err(wrong("otter sets this header itself"));
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
    fn debug_output_shows_no_secret() {
        let secret = |text: &str| SecretString::from(text.to_owned());
        let mut options = EsxOptions::new("https://127.0.0.1", "root", secret("hunter2"));
        options.verify = Verify::Off;
        options.headers.push(("X-Token".to_owned(), secret("hunter3")));
        options.proxy = Some("http://me:hunter4@proxy:3128".parse().unwrap());
        let clock = crate::clock::Clock::system();
        let hypervisor = crate::esx::EsxHypervisor::new(&options, clock).unwrap();
        let manager = crate::esx::soap::Reference::new("SessionManager", "sm");
        let login = crate::esx::soap::request::login(&manager, "root", "hunter2");
        let output = format!("{options:?} {hypervisor:?} {login:?}");
        assert!(!output.contains("hunter"), "{output}");
    }
}
