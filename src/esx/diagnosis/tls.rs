//! The check of `otter doctor` for TLS and for the certificate of the host.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{CheckResult, Problem, problem, warning};
use crate::clock::Clock;
use crate::domain::verify::{Fingerprint, Verify};
use crate::esx::certificate::{Certificate, fingerprint};
use crate::esx::certificate_error::{RefusedCertificate, Remedy};
use crate::esx::handshake_error::HandshakeError;
use crate::esx::options::EsxOptions;
use crate::esx::session::Session;
use crate::esx::tls::{self, Endpoint};
use crate::esx::tunnel;
use crate::telemetry::metrics::Metrics;

/// The result of the check of TLS and of the certificate.
pub struct TlsCheck {
    pub result: CheckResult,
    /// Whether the diagnosis may continue. It may if the certificate is accepted, or if the
    /// configuration does not verify it.
    pub may_continue: bool,
    /// Whether VMware made the certificate. This is so on a host whose certificate was never
    /// replaced.
    pub is_of_vmware: bool,
}

/// The product that answers at the address, if the server reports it without a login.
#[derive(Clone, Copy)]
enum Product {
    Host,
    VCenter,
    Unknown,
}

/// Checks whether the server speaks TLS and whether its certificate is accepted.
pub async fn check(options: &EsxOptions, clock: &Clock, endpoint: &Endpoint) -> TlsCheck {
    let stop = |result| TlsCheck { result, may_continue: false, is_of_vmware: false };
    if !endpoint.is_tls {
        let found = "Not used: esx.url is http, which is allowed for this machine only.";
        return TlsCheck { may_continue: true, ..stop(Ok(found.to_owned())) };
    }
    let (proxy, timeout) = (options.proxy.as_ref(), options.connect_timeout);
    let certificate = match tls::handshake(endpoint, proxy, &Verify::Off, timeout).await {
        Ok(certificate) => certificate,
        Err(error) => {
            let error = HandshakeError::from_io(&error);
            return stop(Err(no_tls(&error, options, endpoint).await));
        }
    };
    let seen = fingerprint(&certificate);
    let is_of_vmware = Certificate::from_der(&certificate)
        .is_some_and(|certificate| certificate.names_organization("VMware"));
    let verified = tls::handshake(endpoint, proxy, &options.verify, timeout).await;
    let (may_continue, result) = match (&options.verify, verified) {
        (Verify::Off, _) => {
            let found = format!(
                "The host's certificate is not checked, so another server could read the \
                 password. It is sha256:{seen}."
            );
            let product = product(options, clock).await;
            (true, Err(warning(found, compare_and_pin(product, seen))))
        }
        (Verify::Fingerprint(_), Ok(_)) => {
            (true, Ok(format!("The certificate is the pinned one, sha256:{seen}.")))
        }
        (Verify::SystemRoots | Verify::CaFile(_), Ok(_)) => {
            (true, Ok(format!("The certificate is trusted; it is sha256:{seen}.")))
        }
        (verify, Err(error)) => match HandshakeError::from_io(&error) {
            HandshakeError::Certificate(refused) => {
                let product = match verify {
                    // A fingerprint is pinned and does not match, so another server may answer at
                    // the host's address. The advice then does not depend on the product of that
                    // server.
                    Verify::Fingerprint(_) => Product::Unknown,
                    _ => product(options, clock).await,
                };
                let found = format!(
                    "The certificate is not accepted: {}. The host presented sha256:{seen}.",
                    refused.why
                );
                (false, Err(problem(found, advice(&refused, product, seen, endpoint))))
            }
            error => (false, Err(no_tls(&error, options, endpoint).await)),
        },
    };
    TlsCheck { result, may_continue, is_of_vmware }
}

/// Whether a server speaks TLS, whatever its certificate is.
pub async fn speaks_tls(options: &EsxOptions, endpoint: &Endpoint) -> bool {
    let (proxy, timeout) = (options.proxy.as_ref(), options.connect_timeout);
    match tls::handshake(endpoint, proxy, &Verify::Off, timeout).await {
        Ok(_) => true,
        Err(error) => HandshakeError::from_io(&error).proves_tls(),
    }
}

/// Says what is wrong with a server with which no TLS handshake succeeds.
async fn no_tls(error: &HandshakeError, options: &EsxOptions, endpoint: &Endpoint) -> Problem {
    let Endpoint { host, port, .. } = endpoint;
    // Some HTTP servers answer a TLS handshake with text, and others close the connection. Either
    // may mean that the server speaks plain HTTP.
    let may_be_http =
        matches!(error, HandshakeError::NotTls | HandshakeError::Closed | HandshakeError::Reset);
    if may_be_http && speaks_plain_http(options, endpoint).await {
        return problem(
            format!("No TLS with {host}:{port}: the server does not speak TLS, but plain HTTP."),
            "Correct the port in esx.url: a host serves its API with TLS, usually on 443. Only for \
             a proxy on this machine that speaks plain HTTP, write http:// in esx.url.",
        );
    }
    let advice = match error {
        HandshakeError::Closed => {
            "The server ends connections at once: hostd or the proxy in front of it may be \
             restarting, or a jump host or a firewall in between ends them. Wait a minute, then \
             check `/etc/init.d/hostd status` on the host, and the port in esx.url (usually 443)."
        }
        HandshakeError::Reset => {
            "A firewall between otter and the host may forbid the connection, or the service at \
             this port does not expect TLS: check the firewalls, and the port in esx.url (usually \
             443)."
        }
        HandshakeError::Silent => {
            "The server accepts connections and says nothing: its management services may hang \
             (restart them at the console: Troubleshooting Options > Restart Management Agents), \
             or another service listens there. Check the port in esx.url (usually 443)."
        }
        HandshakeError::Refused => {
            "No service listens there any more: check whether the host is up and hostd runs."
        }
        HandshakeError::OldVersion => {
            "Update the host, or enable TLS 1.2 on it: ESX 6.5 and later have it, unless the \
             advanced setting UserVars.ESXiVPsDisabledProtocols disables it. If a proxy stands in \
             between, enable it there."
        }
        HandshakeError::NoCommonCipher => {
            "Update the host, or the proxy in front of it: otter accepts TLS 1.3, and TLS 1.2 with \
             ECDHE and AES-GCM or ChaCha20."
        }
        HandshakeError::NotTls => "Check the port in esx.url (usually 443).",
        HandshakeError::Alert(_) => {
            "The server refuses this client: check that esx.url names the host itself, and not a \
             proxy that expects another name or a certificate of the client."
        }
        HandshakeError::Certificate(_) | HandshakeError::Other(_) => {
            "Check the port in esx.url (usually 443), and update the host or the proxy in front of \
             it."
        }
    };
    problem(format!("No TLS with {host}:{port}: {error}."), advice)
}

async fn speaks_plain_http(options: &EsxOptions, endpoint: &Endpoint) -> bool {
    let Endpoint { host, port, .. } = endpoint;
    let request = format!("HEAD / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
    let asked = async {
        let mut stream = tunnel::connect(host, *port, options.proxy.as_ref()).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        io::Result::Ok(answer == *b"HTTP/")
    };
    matches!(tokio::time::timeout(options.connect_timeout, asked).await, Ok(Ok(true)))
}

/// Reads which product the server reports. otter sends the server neither the password nor the
/// configured headers, because it may not be the host.
async fn product(options: &EsxOptions, clock: &Clock) -> Product {
    let anonymous = EsxOptions {
        verify: Verify::Off,
        headers: Vec::new(),
        read_timeout: options.read_timeout.min(options.connect_timeout),
        ..options.clone()
    };
    let Ok(session) = Session::new(&anonymous, clock.clone(), Metrics::default()) else {
        return Product::Unknown;
    };
    match session.identify().await {
        Ok((_, content)) if content.product.is_standalone_host() => Product::Host,
        Ok(_) => Product::VCenter,
        Err(_) => Product::Unknown,
    }
}

/// The advice for a certificate that is not accepted.
fn advice(
    refused: &RefusedCertificate,
    product: Product,
    seen: Fingerprint,
    endpoint: &Endpoint,
) -> String {
    let first = match refused.remedy {
        Remedy::Trust => match product {
            Product::VCenter => format!(
                "Name the PEM file of its authority in esx.verify (\"ca:<file>\"; a vCenter offers \
                 it at https://{}/certs/download.zip), or pin it.",
                endpoint.host
            ),
            Product::Host | Product::Unknown => {
                "Name the PEM file of its authority, or of the certificate itself, in esx.verify \
                 (\"ca:<file>\"), or pin it."
                    .to_owned()
            }
        },
        Remedy::Dates => {
            "Renew the host's certificate, correct the clock of this machine if it is \
                          wrong, or pin the certificate: then its dates do not count."
                .to_owned()
        }
        Remedy::Name => "Use one of its names in esx.url, or pin the certificate: then its names \
                         do not count."
            .to_owned(),
        Remedy::Pin => "Replace the host's certificate, or pin it.".to_owned(),
        Remedy::ChangePin => "Find out which server this is.".to_owned(),
        Remedy::Replace | Remedy::Investigate => return format!("{}.", refused.host_advice()),
    };
    format!("{first} {}", compare_and_pin(product, seen))
}

fn compare_and_pin(product: Product, seen: Fingerprint) -> String {
    let on_host = "`openssl x509 -noout -fingerprint -sha256 -in /etc/vmware/ssl/rui.crt`";
    let on_vcenter = "`openssl s_client -connect localhost:443 </dev/null | openssl x509 -noout \
                      -fingerprint -sha256`";
    let output = match product {
        Product::Host => {
            format!("the one on the host's console, or with the output of {on_host} on the host")
        }
        Product::VCenter => format!("the output of {on_vcenter} in a shell of the vCenter"),
        Product::Unknown => format!(
            "the one on the host's console, or with the output of {on_host} on an ESX, or of \
             {on_vcenter} in a shell of a vCenter"
        ),
    };
    format!(
        "Compare the fingerprint with {output}. If they are the same, set esx.verify = \
         \"sha256:{seen}\" (OTTER_ESX_VERIFY)."
    )
}
