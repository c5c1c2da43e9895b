//! The checks of `otter doctor` from the host's address to the connection, and the order of all
//! checks up to the login.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::tls::{self, TlsCheck};
use super::{CheckReport, Problem, api, problem};
use crate::clock::Clock;
use crate::domain::proxy_url::ProxyUrl;
use crate::domain::verify::{Fingerprint, Verify};
use crate::esx::certificate::fingerprint;
use crate::esx::handshake_error::HandshakeError;
use crate::esx::options::{EsxOptions, service_url};
use crate::esx::service_content::ServiceContent;
use crate::esx::session::{Login, Session};
use crate::esx::tls::{Endpoint, handshake};
use crate::esx::tunnel;
use crate::hypervisor::{HostError, HostErrorKind};

/// Runs the checks from the host's address to the login, and returns the login. `None` if one of
/// the checks failed.
pub async fn connect_and_log_in(
    options: &EsxOptions,
    clock: &Clock,
    session: &Session,
    report: &mut CheckReport<'_>,
) -> Option<(Login, ServiceContent)> {
    let endpoint = report.step("address", endpoint(options))?;
    if let Some(proxy) = &options.proxy {
        report.step("proxy", open_tunnel(options, &endpoint, proxy).await)?;
    } else {
        let addresses = report.step("name", resolve(options, &endpoint).await)?;
        report.step("connection", connect(options, &endpoint, &addresses).await)?;
    }
    let TlsCheck { result, may_continue, is_of_vmware } =
        tls::check(options, clock, &endpoint).await;
    report.add("tls", result);
    if !may_continue {
        return None;
    }
    let identified = api::identify(options, session, &endpoint, is_of_vmware).await;
    let (version, content) = report.step("api", identified)?;
    let accepted = api::log_in(options, session, version, content.clone()).await;
    let login = report.step("login", accepted)?;
    Some((login, content))
}

fn endpoint(options: &EsxOptions) -> Result<(Endpoint, String), Problem> {
    let advice = "Set esx.url (OTTER_ESX_URL) to https://<host> or https://<host>:<port>.";
    let url = service_url(&options.url).map_err(|error| problem(error.to_string(), advice))?;
    let endpoint = Endpoint::from_url(&url).map_err(|error| problem(error.to_string(), advice))?;
    Ok((endpoint, format!("The host's API is at {url}.")))
}

/// Opens a tunnel to the host through the configured proxy. The proxy resolves the name of the
/// host.
async fn open_tunnel(
    options: &EsxOptions,
    endpoint: &Endpoint,
    proxy: &ProxyUrl,
) -> Result<((), String), Problem> {
    let Endpoint { host, port, .. } = endpoint;
    let opening = tunnel::open(proxy, host, *port);
    match tokio::time::timeout(options.connect_timeout, opening).await {
        Ok(Ok(_)) => Ok(((), format!("The proxy {proxy} connects to {host}:{port}."))),
        Ok(Err(error)) => {
            let advice = error.advice();
            Err(problem(sentence(&error.to_string()), advice))
        }
        Err(_) => Err(problem(
            format!("The proxy {proxy} did not connect to {host}:{port} in time."),
            "Check esx.proxy (OTTER_ESX_PROXY), and that the proxy can reach the host.",
        )),
    }
}

/// Makes a sentence of a text: it begins with a capital letter and ends with a full stop.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), characters.as_str().trim_end_matches('.'))
}

async fn resolve(
    options: &EsxOptions,
    endpoint: &Endpoint,
) -> Result<(Vec<SocketAddr>, String), Problem> {
    let Endpoint { host, port, .. } = endpoint;
    let advice = "Correct the name in esx.url, add it to the DNS or to /etc/hosts, or use the \
                  host's IP address.";
    let found = tokio::time::timeout(
        options.connect_timeout,
        tokio::net::lookup_host((host.as_str(), *port)),
    );
    let addresses: Vec<SocketAddr> = match found.await {
        Err(_) => {
            return Err(problem(format!("The name {host} was not resolved in time."), advice));
        }
        Ok(Err(error)) => {
            return Err(problem(format!("The name {host} cannot be resolved: {error}."), advice));
        }
        Ok(Ok(addresses)) => addresses.collect(),
    };
    if addresses.is_empty() {
        return Err(problem(format!("The name {host} has no address."), advice));
    }
    let mut ip_addresses: Vec<String> =
        addresses.iter().map(|address| address.ip().to_string()).collect();
    ip_addresses.dedup();
    let text = if ip_addresses == [host.clone()] {
        format!("{host} is an address; no name needs to be resolved.")
    } else {
        format!("{host} has the address {}.", ip_addresses.join(", "))
    };
    Ok((addresses, text))
}

async fn connect(
    options: &EsxOptions,
    endpoint: &Endpoint,
    addresses: &[SocketAddr],
) -> Result<((), String), Problem> {
    let mut last = None;
    for address in addresses {
        match tokio::time::timeout(options.connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(((), format!("{address} accepts connections."))),
            Ok(Err(error)) => last = Some((address, error)),
            Err(_) => last = Some((address, io::ErrorKind::TimedOut.into())),
        }
    }
    let Some((address, error)) = last else {
        return Err(problem(format!("{} has no address.", endpoint.host), "Correct esx.url."));
    };
    let advice = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "No service listens there: check the port in esx.url (usually 443), and whether the \
             host is up and hostd runs."
        }
        io::ErrorKind::TimedOut => {
            "There is no answer: check that the host is up and that no firewall blocks the \
             connection."
        }
        _ => "Check the network between otter and the host.",
    };
    Err(problem(format!("No connection to {address}: {error}."), advice))
}

/// Reads the fingerprint of the certificate that the host presents now, for an operator who wants
/// to pin it. The operator should compare the fingerprint with the one on the console of the host,
/// because another server may have answered.
///
/// # Errors
/// `Unreachable` if no TLS handshake succeeds in time.
pub async fn presented_fingerprint(options: &EsxOptions) -> Result<Fingerprint, HostError> {
    let unreachable = |message: String| HostError::new(HostErrorKind::Unreachable, message);
    let url = service_url(&options.url).map_err(|error| unreachable(error.to_string()))?;
    let endpoint = Endpoint::from_url(&url)?;
    let Endpoint { host, port, .. } = &endpoint;
    let proxy = options.proxy.as_ref();
    let presented = handshake(&endpoint, proxy, &Verify::Off, options.connect_timeout).await;
    presented.map(|certificate| fingerprint(&certificate)).map_err(|error| {
        let reason = HandshakeError::from_io(&error);
        unreachable(format!("No TLS with the host {host}:{port}: {reason}.")).caused_by(error)
    })
}
