//! The proxy between `otter run` and otter: from `--proxy`, or from the environment by the rules of
//! curl.
//!
//! ```text
//! --proxy ─► https_proxy, HTTPS_PROXY (https) or http_proxy (http) ─► all_proxy, ALL_PROXY
//! ```
//! `no_proxy` or `NO_PROXY` names hosts without a proxy, for `--proxy` too. `HTTP_PROXY` in upper
//! case does not count, because a web server sets it from the header `Proxy` of a request (CGI).

use secrecy::ExposeSecret;

use super::Failure;
use super::exit::Exit;
use crate::domain::proxy_url::{ProxyAccount, ProxyUrl};

/// The proxy for this address of otter. `None` if there is none.
///
/// # Parameters
/// - `flag`: the value of `--proxy`. An empty value means no proxy.
/// - `variable`: reads a variable of the environment.
///
/// # Errors
/// Fails with `Exit::Usage` if the flag or the variable names no HTTP proxy.
pub fn proxy_for(
    url: &str,
    flag: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<reqwest::Proxy>, Failure> {
    let Some((name, value)) = select(url, flag, &variable) else { return Ok(None) };
    let wrong = |reason: String| Failure::new(Exit::Usage, format!("{name}: {reason}"));
    let proxy = ProxyUrl::from_curl(&value).map_err(|error| wrong(error.to_string()))?;
    let client_proxy =
        reqwest::Proxy::all(proxy.address()).map_err(|error| wrong(error.to_string()))?;
    let client_proxy = match &proxy.account {
        Some(ProxyAccount { user, password }) => {
            client_proxy.basic_auth(user, password.expose_secret())
        }
        None => client_proxy,
    };
    let exceptions = first(&["no_proxy", "NO_PROXY"], &variable).map(|(_, hosts)| hosts);
    let exceptions = exceptions.as_deref().map(with_commas).unwrap_or_default();
    Ok(Some(client_proxy.no_proxy(reqwest::NoProxy::from_string(&exceptions))))
}

/// The name of the flag or of the variable that decides, and its value.
fn select(
    url: &str,
    flag: Option<&str>,
    variable: &impl Fn(&str) -> Option<String>,
) -> Option<(&'static str, String)> {
    let (scheme, _) = url.split_once("://")?;
    if let Some(flag) = flag {
        return Some(("--proxy", flag.to_owned())).filter(|(_, value)| !value.trim().is_empty());
    }
    let of_scheme: &[&'static str] = match scheme.to_ascii_lowercase().as_str() {
        "https" => &["https_proxy", "HTTPS_PROXY"],
        _ => &["http_proxy"],
    };
    first(of_scheme, variable).or_else(|| first(&["all_proxy", "ALL_PROXY"], variable))
}

/// The first variable that is set and not empty.
fn first(
    names: &[&'static str],
    variable: &impl Fn(&str) -> Option<String>,
) -> Option<(&'static str, String)> {
    names.iter().find_map(|name| {
        let value = variable(name).filter(|value| !value.trim().is_empty())?;
        Some((*name, value))
    })
}

/// The hosts of `no_proxy`, which curl separates by commas or spaces, with commas.
fn with_commas(hosts: &str) -> String {
    let separator = |character: char| character == ',' || character.is_whitespace();
    let hosts: Vec<&str> = hosts.split(separator).filter(|host| !host.is_empty()).collect();
    hosts.join(",")
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
        assert_eq!(selected("unix:/run/otter.sock", Some("p"), &all), None);
        assert_eq!(selected("https://otter", Some("p"), &all).as_deref(), Some("--proxy=p"));
        assert_eq!(selected("https://otter", Some(""), &all), None);
    }

    #[test]
    fn exceptions_are_separated_by_commas_or_spaces() {
        assert_eq!(with_commas(" a.lab, .b.lab  10.0.0.0/8,"), "a.lab,.b.lab,10.0.0.0/8");
    }
}
