//! Chooses the proxy between `otter run` and otter, from `--proxy` or from the environment by the
//! rules of curl. The first of these that is set decides:
//!
//! ```text
//! --proxy ─► https_proxy, HTTPS_PROXY (https) or http_proxy (http) ─► all_proxy, ALL_PROXY
//! ```
//! `no_proxy` or `NO_PROXY` names hosts that are reached without a proxy, even if `--proxy` is
//! given. `HTTP_PROXY` in upper case is ignored, because a web server sets it from the header
//! `Proxy` of a request (CGI).

use std::net::IpAddr;

use super::Failure;
use super::exit::Exit;
use crate::domain::network::Network;
use crate::domain::proxy_url::ProxyUrl;
use crate::esx::client_proxy;

/// The proxy through which `otter run` reaches this address of otter. `None` if it connects
/// directly.
///
/// # Parameters
/// - `flag`: the value of `--proxy`. An empty value means no proxy.
/// - `variable`: reads a variable of the environment.
///
/// # Errors
/// Fails with `Exit::Usage` if the flag or the variable does not contain the address of an HTTP
/// proxy.
pub fn proxy_for(
    url: &str,
    flag: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<reqwest::Proxy>, Failure> {
    let Some((name, value)) = select(url, flag, &variable) else { return Ok(None) };
    let wrong = |reason: String| Failure::new(Exit::Usage, format!("{name}: {reason}"));
    if url.starts_with("unix:") {
        return Err(wrong(format!("otter is reached without a proxy at {url}")));
    }
    let exceptions = first(&["no_proxy", "NO_PROXY"], &variable).map(|(_, hosts)| hosts);
    if exceptions.is_some_and(|hosts| is_exception(&hosts, url)) {
        return Ok(None);
    }
    let proxy = ProxyUrl::from_curl(&value).map_err(|error| wrong(error.to_string()))?;
    client_proxy(&proxy).map(Some).map_err(|error| wrong(error.to_string()))
}

/// The flag or the variable that decides which proxy is used: its name and its value.
fn select(
    url: &str,
    flag: Option<&str>,
    variable: &impl Fn(&str) -> Option<String>,
) -> Option<(&'static str, String)> {
    if let Some(flag) = flag {
        return Some(("--proxy", flag.to_owned())).filter(|(_, value)| !value.trim().is_empty());
    }
    let (scheme, _) = url.split_once("://")?;
    let of_scheme: &[&'static str] = match scheme.to_ascii_lowercase().as_str() {
        "https" => &["https_proxy", "HTTPS_PROXY"],
        "http" => &["http_proxy"],
        _ => return None,
    };
    first(of_scheme, variable).or_else(|| first(&["all_proxy", "ALL_PROXY"], variable))
}

/// The first of the variables `names` that is set and not empty, with its value.
fn first(
    names: &[&'static str],
    variable: &impl Fn(&str) -> Option<String>,
) -> Option<(&'static str, String)> {
    names.iter().find_map(|name| {
        let value = variable(name).filter(|value| !value.trim().is_empty())?;
        Some((*name, value))
    })
}

/// Whether `no_proxy` names the host of the address `url`.
///
/// The single character `*` names every host. Otherwise `no_proxy` is a list of hosts that are
/// separated by commas or spaces. A name in the list also stands for all names below it, with or
/// without a dot before it. An address in the list may be a network.
fn is_exception(no_proxy: &str, url: &str) -> bool {
    let Some(host) =
        reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned))
    else {
        return false;
    };
    if no_proxy.trim() == "*" {
        return true;
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<IpAddr>().ok();
    let separator = |character: char| character == ',' || character.is_whitespace();
    no_proxy.split(separator).filter(|entry| !entry.is_empty()).any(|entry| match address {
        Some(address) => {
            let entry = entry.trim_start_matches('[').trim_end_matches(']');
            entry.parse::<Network>().is_ok_and(|network| network.contains(address))
        }
        None => is_below(host, entry),
    })
}

/// Whether the name `host` equals `name` or is a DNS name below it.
fn is_below(host: &str, name: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let name = name.strip_prefix('.').unwrap_or(&name);
    let parent = host.strip_suffix(name);
    !name.is_empty() && parent.is_some_and(|parent| parent.is_empty() || parent.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(url: &str, flag: Option<&str>, variables: &[(&str, &str)]) -> Option<String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        select(url, flag, &variable).map(|(name, value)| format!("{name}={value}"))
    }

    #[test]
    fn the_variables_apply_as_in_curl() {
        let all = [
            ("https_proxy", "a"),
            ("HTTPS_PROXY", "b"),
            ("http_proxy", "c"),
            ("HTTP_PROXY", "d"),
            ("all_proxy", "e"),
            ("ALL_PROXY", "f"),
        ];
        let https = |variables: &[(&str, &str)]| selected("https://otter", None, variables);
        let http = |variables: &[(&str, &str)]| selected("http://otter", None, variables);
        assert_eq!(https(&all).as_deref(), Some("https_proxy=a"));
        assert_eq!(https(&all[1..]).as_deref(), Some("HTTPS_PROXY=b"));
        assert_eq!(https(&all[2..]).as_deref(), Some("all_proxy=e"));
        assert_eq!(https(&all[5..]).as_deref(), Some("ALL_PROXY=f"));
        assert_eq!(https(&[("https_proxy", ""), all[1]]).as_deref(), Some("HTTPS_PROXY=b"));
        assert_eq!(http(&all).as_deref(), Some("http_proxy=c"));
        assert_eq!(http(&[all[0], all[3]]), None);
        assert_eq!(http(&all[3..]).as_deref(), Some("all_proxy=e"));
        assert_eq!(selected("unix:/run/otter.sock", None, &all), None);
        assert_eq!(selected("https://otter", Some("p"), &all).as_deref(), Some("--proxy=p"));
        assert_eq!(selected("https://otter", Some(""), &all), None);
    }

    #[test]
    fn the_exceptions_are_those_of_curl() {
        for (no_proxy, url, expected) in [
            ("*", "https://otter.lab", true),
            (" * ", "https://10.0.0.5", true),
            ("a,*", "https://otter.lab", false),
            ("otter.lab", "https://otter.lab:8443/x", true),
            ("OTTER.lab.", "https://otter.LAB", true),
            ("lab", "https://otter.lab", true),
            (".lab", "https://otter.lab.", true),
            ("a.lab, .b.lab  lab", "https://otter.lab", true),
            ("ter.lab", "https://otter.lab", false),
            ("otter.lab:8443", "https://otter.lab:8443", false),
            (",", "https://otter.lab", false),
            ("", "https://otter.lab", false),
            ("10.0.0.0/8", "https://10.0.0.5", true),
            ("10.0.0.5", "http://10.0.0.5:80", true),
            ("10.0.0.5", "https://10.0.0.50", false),
            ("0.5", "https://10.0.0.5", false),
            ("fd00::/8", "https://[fd12::1]", true),
            ("[fd12::1]", "https://[fd12::1]:8443", true),
            ("10.0.0.0/8", "https://otter.lab", false),
        ] {
            assert_eq!(is_exception(no_proxy, url), expected, "{no_proxy} {url}");
        }
    }

    #[test]
    fn an_exception_comes_before_a_mistake_in_the_address_of_the_proxy() {
        let variable = |no_proxy: &'static str| {
            move |name: &str| match name {
                "ALL_PROXY" => Some("socks5://localhost:1080".to_owned()),
                "NO_PROXY" => Some(no_proxy.to_owned()),
                _ => None,
            }
        };
        assert!(proxy_for("https://otter.lab", None, variable("otter.lab")).unwrap().is_none());
        assert!(proxy_for("https://otter.lab", None, variable("other")).is_err());
    }

    #[test]
    fn a_unix_socket_takes_no_proxy() {
        let proxy = |flag| proxy_for("unix:/run/otter.sock", flag, |_| None);
        assert!(proxy(Some("http://proxy:3128")).is_err());
        assert!(proxy(None).unwrap().is_none());
        assert!(proxy(Some("")).unwrap().is_none());
    }
}
