//! The address of a host's API: `https://host[:port]`. otter adds the path `/sdk`.

use std::net::IpAddr;

use http::Uri;

/// The error for a text that is not the address of a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "otter cannot use \u{201c}{url}\u{201d} as the address of the host: {reason}; write \
     https://<host> or https://<host>:<port>"
)]
pub struct InvalidHostUrl {
    /// The text without the user name and password that may stand before an `@`.
    url: String,
    reason: &'static str,
}

impl InvalidHostUrl {
    /// Makes the error for this text. The user name and password that the text may contain are left
    /// out.
    #[must_use]
    pub fn new(text: &str, reason: &'static str) -> Self {
        // The text before an `@` may be a password, so the error does not contain it.
        let url = text.rsplit_once('@').map_or(text, |(_, host)| host).to_owned();
        Self { url, reason }
    }
}

/// Completes an address to `https://host[:port]/sdk`. The scheme `http` is accepted only for
/// loopback addresses, because otherwise the password would cross the network unencrypted.
pub fn normalize(text: &str) -> Result<String, InvalidHostUrl> {
    let text = text.trim();
    let wrong = |reason| InvalidHostUrl::new(text, reason);
    // The type `Uri` would drop a fragment without an error, so the text is checked first.
    if text.contains(['?', '#']) {
        return Err(wrong("it has more than a host and a port"));
    }
    let uri: Uri = text.parse().map_err(|_| wrong("it is not a URL"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong("it does not begin with https://"));
    };
    if authority.as_str().contains('@') {
        return Err(wrong("the account belongs in esx.username and esx.password_file"));
    }
    let host = authority.host();
    if host.is_empty() {
        return Err(wrong("it names no host"));
    }
    if authority.as_str() != host && authority.port_u16().is_none_or(|port| port == 0) {
        return Err(wrong("its port is not a number from 1 to 65535"));
    }
    match scheme {
        "https" => {}
        "http" if is_loopback(host) => {}
        "http" => {
            return Err(wrong("without TLS the password would cross the network unencrypted"));
        }
        _ => return Err(wrong("it does not begin with https://")),
    }
    if !matches!(uri.path(), "" | "/" | "/sdk" | "/sdk/") {
        return Err(wrong("its path is not /sdk"));
    }
    Ok(format!("{scheme}://{authority}/sdk"))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_completed() {
        for (given, expected) in [
            ("https://esx.lab", "https://esx.lab/sdk"),
            ("https://esx.lab:8443/", "https://esx.lab:8443/sdk"),
            ("https://esx.lab/sdk/", "https://esx.lab/sdk"),
            (" https://10.0.0.1/sdk ", "https://10.0.0.1/sdk"),
            ("https://[2001:db8::1]/sdk", "https://[2001:db8::1]/sdk"),
            ("HTTPS://esx", "https://esx/sdk"),
            ("http://127.0.0.1:8989/sdk", "http://127.0.0.1:8989/sdk"),
            ("http://[::1]:8989", "http://[::1]:8989/sdk"),
            ("http://localhost", "http://localhost/sdk"),
        ] {
            assert_eq!(normalize(given).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn invalid_addresses_are_refused_with_a_reason() {
        for (given, reason) in [
            ("", "not a URL"),
            ("esx.lab", "does not begin with https://"),
            ("/sdk", "does not begin with https://"),
            ("ftp://esx.lab", "does not begin with https://"),
            ("https://", "not a URL"),
            ("https://a b", "not a URL"),
            ("https://:443", "names no host"),
            ("http://esx.lab", "without TLS"),
            ("http://127.0.0.1.example", "without TLS"),
            ("https://esx?x=1", "more than a host"),
            ("https://esx/#x", "more than a host"),
            ("https://esx/ui", "path is not /sdk"),
            ("https://esx:99999", "its port"),
            ("https://esx:0", "its port"),
            ("https://esx:", "its port"),
        ] {
            let error = normalize(given).unwrap_err().to_string();
            assert!(error.contains(reason), "{given}: {error}");
        }
    }

    #[test]
    fn an_error_hides_the_password() {
        for given in
            ["https://root:secret@esx", "https://root:sec@ret@esx", "https://root:secret/@esx"]
        {
            let error = normalize(given).unwrap_err().to_string();
            assert!(
                !error.contains("secret") && !error.contains("ret@") && error.contains("esx"),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn normalizing_an_address_again_does_not_change_it(
            text in "(https?://)?(\\PC|[a-z0-9.:/@\\[\\]]){0,24}",
        ) {
            if let Ok(url) = normalize(&text) {
                prop_assert_eq!(normalize(&url), Ok(url));
            }
        }
    }
}
