//! The checks of `otter doctor` for the API of the host and for the login.

use std::error::Error;

use super::tls::speaks_tls;
use super::{Problem, problem};
use crate::esx::options::EsxOptions;
use crate::esx::service_content::ServiceContent;
use crate::esx::session::{ConnectError, Login, Session};
use crate::esx::soap::response::AnswerError;
use crate::esx::tls::Endpoint;
use crate::hypervisor::{HostError, HostErrorKind};

const NO_HOST: &str = "The server is neither an ESX nor a vCenter: correct esx.url.";

/// Checks whether the server speaks vim25.
///
/// # Parameters
/// - `is_of_vmware`: whether the server's certificate shows that the server is a VMware product.
pub async fn identify(
    options: &EsxOptions,
    session: &Session,
    endpoint: &Endpoint,
    is_of_vmware: bool,
) -> Result<((&'static str, ServiceContent), String), Problem> {
    let error = match session.identify().await {
        Ok((version, content)) => {
            let product = &content.product;
            let kind = match product.api_type.as_str() {
                "HostAgent" => "a standalone host",
                "VirtualCenter" => "a vCenter",
                other => other,
            };
            let text = format!(
                "{}, {kind}, API {}; otter uses the API version {version}.",
                product.full_name, product.api_version
            );
            return Ok(((version, content), text));
        }
        Err(error) => error,
    };
    let Endpoint { host, port, is_tls, .. } = endpoint;
    if !is_tls && speaks_tls(options, endpoint).await {
        return Err(problem(
            format!("The server at {host}:{port} speaks TLS, and esx.url is http."),
            "Write https:// instead of http:// in esx.url.",
        ));
    }
    let is_of_vmware = is_of_vmware || session.lists_api_versions().await;
    let advice = advice(&error, is_of_vmware);
    Err(problem(error.message, advice))
}

/// Logs in to the host once.
pub async fn log_in(
    options: &EsxOptions,
    session: &Session,
    version: &'static str,
    content: ServiceContent,
) -> Result<(Login, String), Problem> {
    match session.log_in(version, content, 1).await {
        Ok(login) => Ok((login, format!("The host accepts the account {}.", options.username))),
        Err(ConnectError::Refused { error, refusal }) => Err(problem(
            error.message,
            format!(
                "{} There was one login: five refused logins lock an ESX account for 15 minutes, \
                 also for the right password. The logins of a running otter count too.",
                refusal.advice()
            ),
        )),
        Err(ConnectError::Failed(error)) => {
            let advice = if error.fault.is_some() {
                "The host accepts no login now, and the account is not the reason: hostd may be \
                 starting. Try again in a minute."
            } else {
                "The host accepts no login now. A 503 here usually means that the host has reached \
                 its limit of sessions: end the sessions of scripts that never log out, or restart \
                 hostd."
            };
            Err(problem(error.message, advice))
        }
    }
}

/// The advice for a server that does not answer as a vim25 host does. A host that is not ready
/// answers with HTTP statuses that any web server may send, so the advice also depends on other
/// signs of a host.
fn advice(error: &HostError, is_of_vmware: bool) -> &'static str {
    let answer = Error::source(error).and_then(|source| source.downcast_ref::<AnswerError>());
    match answer.and_then(AnswerError::status) {
        Some(404 | 500 | 503) if is_of_vmware => {
            "The host is up but its API is not: hostd may be starting, or hang \
             (`/etc/init.d/hostd status`)."
        }
        Some(503) => {
            "If this is the host, its API is not up: hostd may be starting, or hang \
             (`/etc/init.d/hostd status`). If it is another web server, correct esx.url."
        }
        Some(502 | 504) => {
            "A proxy answers that it does not reach the server behind it: check the proxy and the \
             host behind it, or correct esx.url."
        }
        Some(401 | 403 | 407) => {
            "The server, or a proxy in front of it, wants a login of its own: set what the proxy \
             needs in [esx.headers], or correct esx.url."
        }
        Some(300..=399) => {
            "The server sends its callers to another address, and otter does not follow: correct \
             esx.url."
        }
        Some(_) => NO_HOST,
        None if error.kind == HostErrorKind::Protocol => NO_HOST,
        None => {
            "The server is up but its API is not: hostd may be starting, or hang \
             (`/etc/init.d/hostd status`)."
        }
    }
}
