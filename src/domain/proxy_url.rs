//! The address of an HTTP proxy: `http://[user:password@]host:port`. No message and no output shows
//! the user name and the password.

use std::fmt;
use std::str::FromStr;

use base64::prelude::{BASE64_STANDARD, Engine};
use http::Uri;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};

/// An HTTP proxy. The formatted text leaves out its user name and password.
#[derive(Clone)]
pub struct ProxyUrl {
    /// The name or the IP address of the proxy. An IPv6 address has no brackets.
    pub host: String,
    pub port: u16,
    pub account: Option<ProxyAccount>,
}

/// The user name and the password that the proxy requires.
#[derive(Clone)]
pub struct ProxyAccount {
    pub user: String,
    pub password: SecretString,
}

/// The error for a text that is not the address of an HTTP proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is not the address of an HTTP proxy: {reason}")]
pub struct InvalidProxyUrl {
    /// The text as far as a message may show it, without everything that could be a part of a user
    /// name or password.
    address: String,
    reason: String,
}

/// The advice what to write instead of an invalid address.
const FORM: &str = "write http://<host>:<port> or http://<user>:<password>@<host>:<port>";

/// The port that curl uses if the address of a proxy has no port.
const CURL_PORT: u16 = 1080;

impl ProxyUrl {
    /// Parses an address as curl does: without a scheme it uses `http`, and without a port it uses
    /// 1080.
    ///
    /// # Errors
    /// Fails if the text is not the address of an HTTP proxy.
    pub fn from_curl(text: &str) -> Result<Self, InvalidProxyUrl> {
        let text = text.trim();
        let complete =
            if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        Self::parse(&complete, Some(CURL_PORT))
    }

    /// The address without the user name and password, as `http://host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("http://{}", self.authority())
    }

    /// The value of the header `Proxy-Authorization` (RFC 7617). `None` if the proxy requires no
    /// account.
    #[must_use]
    pub fn authorization(&self) -> Option<SecretString> {
        self.account.as_ref().map(|ProxyAccount { user, password }| {
            let pair = format!("{user}:{}", password.expose_secret());
            SecretString::from(format!("Basic {}", BASE64_STANDARD.encode(pair)))
        })
    }

    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    fn parse(text: &str, default_port: Option<u16>) -> Result<Self, InvalidProxyUrl> {
        let text = text.trim();
        let wrong = |reason: &str| InvalidProxyUrl {
            address: without_account(text),
            reason: format!("{reason}; {FORM}"),
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(wrong("it does not begin with http://"));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" => {}
            "https" => return Err(wrong("otter speaks to a proxy without TLS")),
            socks if socks.starts_with("socks") => {
                return Err(wrong("it is a SOCKS proxy, and otter uses HTTP proxies (CONNECT)"));
            }
            _ => return Err(wrong("it does not begin with http://")),
        }
        if rest.contains(['?', '#']) {
            return Err(wrong("it has more than a host and a port (%3F and %23 are ? and #)"));
        }
        let (account, place) = match rest.rsplit_once('@') {
            Some((account, place)) => (Some(account), place),
            None => (None, rest),
        };
        let uri: Uri = format!("http://{place}").parse().map_err(|_| wrong("it is not a URL"))?;
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong("it names no host"));
        }
        if !matches!(uri.path(), "" | "/") {
            return Err(wrong("it has more than a host and a port"));
        }
        let port = match authority.port_u16() {
            Some(port) if port > 0 => port,
            None if authority.as_str() == authority.host() => {
                default_port.ok_or_else(|| wrong("its port is missing"))?
            }
            _ => return Err(wrong("its port is not a number from 1 to 65535")),
        };
        let account = account.map(|account| read_account(account).map_err(wrong)).transpose()?;
        Ok(Self { host: host.to_owned(), port, account })
    }
}

impl FromStr for ProxyUrl {
    type Err = InvalidProxyUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, None)
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.address())
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ProxyUrl").field(&self.address()).finish()
    }
}

/// The part of an invalid address that a message may show. It leaves out everything that could be a
/// password.
fn without_account(text: &str) -> String {
    if text.is_empty() {
        return "an empty text".to_owned();
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    if let Some((_, host)) = rest.rsplit_once('@') {
        return host.to_owned();
    }
    // If the host is missing, as in `user:password`, the password stands where the port belongs. So
    // the text is shown only if that part consists of digits.
    let (host, port) = rest.split_once(':').unwrap_or((rest, ""));
    if port.chars().all(|character| character.is_ascii_digit()) && !rest.contains('%') {
        return text.to_owned();
    }
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{host}:\u{2026}")
}

/// Reads `user:password`, where both parts are percent-encoded. The password may be empty.
fn read_account(text: &str) -> Result<ProxyAccount, &'static str> {
    let decoded = |part: &str| {
        let decoded =
            percent_decode_str(part).decode_utf8().map_err(|_| "its account is not UTF-8")?;
        if decoded.chars().any(char::is_control) {
            return Err("its account has control characters");
        }
        Ok(decoded.into_owned())
    };
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let user = decoded(user)?;
    if user.is_empty() || user.contains(':') {
        return Err("its account has no user name before the first colon");
    }
    Ok(ProxyAccount { user, password: SecretString::from(decoded(password)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(proxy: &ProxyUrl) -> (&str, u16, Option<(&str, &str)>) {
        let account = proxy.account.as_ref();
        let account = account.map(|account| (&*account.user, account.password.expose_secret()));
        (&proxy.host, proxy.port, account)
    }

    #[test]
    fn an_address_is_read_with_its_account() {
        for (text, expected) in [
            ("http://proxy.lab:3128", ("proxy.lab", 3128, None)),
            (" HTTP://10.0.0.1:80/ ", ("10.0.0.1", 80, None)),
            ("http://[2001:db8::1]:3128", ("2001:db8::1", 3128, None)),
            ("http://me:p%40ss:w%3Ard@proxy:1", ("proxy", 1, Some(("me", "p@ss:w:rd")))),
            ("http://me:sec@ret@proxy:1", ("proxy", 1, Some(("me", "sec@ret")))),
            ("http://me@proxy:1", ("proxy", 1, Some(("me", "")))),
        ] {
            assert_eq!(parts(&text.parse().unwrap()), expected, "{text}");
        }
        let proxy: ProxyUrl = "http://Aladdin:open%20sesame@[::1]:8080".parse().unwrap();
        assert_eq!(proxy.to_string(), "http://[::1]:8080");
        assert_eq!(
            proxy.authorization().unwrap().expose_secret(),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        assert!(!format!("{proxy:?} {proxy}").contains("sesame"));
    }

    #[test]
    fn an_invalid_address_is_refused_with_the_form_and_without_the_password() {
        for (text, reason) in [
            ("", "does not begin with http://"),
            ("proxy:3128", "does not begin with http://"),
            ("ftp://proxy:1", "does not begin with http://"),
            ("https://hunter2:hunter2@proxy:1", "without TLS"),
            ("socks5h://me:hunter2@proxy:1", "SOCKS"),
            ("http://me:hunter2@proxy", "its port is missing"),
            ("http://proxy:", "its port is not"),
            ("http://proxy:0", "its port is not"),
            ("http://me:hunter2@proxy:99999", "its port is not"),
            ("http://:3128", "names no host"),
            ("http://me:hunter2@proxy:1/path", "more than a host"),
            ("http://me:hunter2@proxy:1?x", "more than a host"),
            ("http://:hunter2@proxy:1", "no user name"),
            ("http://me:hunter2%0a@proxy:1", "control characters"),
            ("http://me:hunter2", "its port is not"),
            ("me:hunter2", "does not begin with http://"),
            ("http://me:hunter2%40proxy:3128", "it is not a URL"),
            ("http://me:hunter2#x@proxy:1", "%23"),
        ] {
            let error = text.parse::<ProxyUrl>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(FORM), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn curl_needs_neither_scheme_nor_port() {
        let read = |text: &str| ProxyUrl::from_curl(text).map(|proxy| proxy.to_string());
        assert_eq!(read("proxy").as_deref(), Ok("http://proxy:1080"));
        assert_eq!(read("me:secret@proxy:3128/").as_deref(), Ok("http://proxy:3128"));
        assert_eq!(read("http://proxy").as_deref(), Ok("http://proxy:1080"));
        assert!(read("socks5://proxy").is_err());
    }
}
