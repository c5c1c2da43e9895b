//! Opens connections to the host, directly or through an HTTP proxy (CONNECT, RFC 9110, section
//! 9.3.6).
//!
//! All connections to the host are opened here, also those of the checks of `otter doctor`.

use std::io;

use http::HeaderValue;
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::domain::proxy_url::ProxyUrl;

/// The maximum length in bytes of the header with which a proxy answers CONNECT.
const MAX_HEADER: usize = 16 * 1024;

/// The maximum number of characters of a reason phrase that a message repeats.
const MAX_REASON: usize = 100;

/// Why otter has no connection through the configured proxy.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// otter could not connect to the proxy itself.
    #[error("no connection to the proxy {proxy}: {source}")]
    Unreachable { proxy: String, source: io::Error },
    /// The proxy refused the tunnel with this HTTP status and this reason phrase.
    #[error("the proxy {proxy} refused the connection to the host: {status} {reason}")]
    Refused { proxy: String, status: u16, reason: String },
    /// The server at the proxy's address closed the connection, or did not answer as an HTTP proxy
    /// does.
    #[error("{proxy} did not answer like an HTTP proxy")]
    NotAProxy { proxy: String },
}

impl TunnelError {
    /// What an operator can do about the problem, in sentences.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => {
                "Check esx.proxy (OTTER_ESX_PROXY), and that the proxy runs and no firewall blocks \
                 the connection to it."
            }
            Self::Refused { status: 407, .. } => {
                "The proxy requires an account, or refuses this one: set esx.proxy \
                 (OTTER_ESX_PROXY) to http://<user>:<password>@<host>:<port>."
            }
            Self::Refused { status: 403 | 405, .. } => {
                "The proxy does not allow CONNECT to this host or port: allow it in the rules of \
                 the proxy. Many proxies allow port 443 only."
            }
            Self::Refused { status: 502..=504, .. } => {
                "The proxy cannot reach the host: check that the name in esx.url is known to the \
                 proxy, that the host is up, and that the proxy may connect to it."
            }
            Self::Refused { .. } => "The log of the proxy says why.",
            Self::NotAProxy { .. } => {
                "Check the host and the port of esx.proxy (OTTER_ESX_PROXY): another service \
                 answers there, or the proxy expects TLS, which otter does not speak to a proxy."
            }
        }
    }
}

/// The proxy in the form that the HTTP client of `otter run` takes.
///
/// # Errors
/// Fails if the client cannot use the address of the proxy.
pub fn client_proxy(proxy: &ProxyUrl) -> reqwest::Result<reqwest::Proxy> {
    let client_proxy = reqwest::Proxy::all(proxy.address())?;
    // otter itself makes the header `Proxy-Authorization`, because the HTTP client would decode a
    // percent sign in the password once more.
    let authorization =
        proxy.authorization().and_then(|value| HeaderValue::from_str(value.expose_secret()).ok());
    Ok(match authorization {
        Some(mut value) => {
            value.set_sensitive(true);
            client_proxy.custom_http_auth(value)
        }
        None => client_proxy,
    })
}

/// Connects to a port of the host. If there is a proxy, the proxy resolves the name of the host.
///
/// # Errors
/// The error of the direct connection. If otter uses a proxy, the error contains a [`TunnelError`].
pub async fn connect(host: &str, port: u16, proxy: Option<&ProxyUrl>) -> io::Result<TcpStream> {
    match proxy {
        None => TcpStream::connect((host, port)).await,
        Some(proxy) => open(proxy, host, port).await.map_err(io::Error::other),
    }
}

/// Opens a tunnel to a port of the host through a proxy.
///
/// # Errors
/// [`TunnelError`] says what went wrong.
pub async fn open(proxy: &ProxyUrl, host: &str, port: u16) -> Result<TcpStream, TunnelError> {
    let address = proxy.address();
    let not_a_proxy = || TunnelError::NotAProxy { proxy: address.clone() };
    let mut stream = TcpStream::connect((proxy.host.as_str(), proxy.port))
        .await
        .map_err(|source| TunnelError::Unreachable { proxy: address.clone(), source })?;
    let target =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let authorization = proxy
        .authorization()
        .map(|value| format!("Proxy-Authorization: {}\r\n", value.expose_secret()))
        .unwrap_or_default();
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|_| not_a_proxy())?;
    let mut header = Vec::new();
    while !header.ends_with(b"\r\n\r\n") {
        // The answer's header is read byte by byte, so that no byte of the tunnel after it is
        // consumed.
        match stream.read_u8().await {
            Ok(byte) if header.len() < MAX_HEADER => header.push(byte),
            _ => return Err(not_a_proxy()),
        }
    }
    let (status, reason) = read_status(&header).ok_or_else(not_a_proxy)?;
    match status {
        200..=299 => Ok(stream),
        _ => Err(TunnelError::Refused { proxy: address, status, reason }),
    }
}

/// The status and the reason phrase in an answer of a proxy. `None` if the answer is not HTTP/1.
fn read_status(header: &[u8]) -> Option<(u16, String)> {
    let line = String::from_utf8_lossy(header.split(|byte| *byte == b'\r').next()?).into_owned();
    let mut words = line.splitn(3, ' ');
    if !words.next()?.starts_with("HTTP/1.") {
        return None;
    }
    let status = words.next()?.parse().ok()?;
    let reason = words.next().unwrap_or_default().trim();
    let reason = reason.chars().filter(|character| !character.is_control()).take(MAX_REASON);
    Some((status, reason.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_of_http_have_a_status() {
        let status = |text: &str| read_status(text.as_bytes());
        let established = Some((200, "Connection established".to_owned()));
        assert_eq!(status("HTTP/1.1 200 Connection established\r\n\r\n"), established);
        assert_eq!(status("HTTP/1.0 407\r\nA: b\r\n\r\n"), Some((407, String::new())));
        let hostile = format!("HTTP/1.1 403 \u{1b}[2J{}\r\n\r\n", "x".repeat(200));
        let shown = format!("[2J{}", "x".repeat(97));
        assert_eq!(status(&hostile), Some((403, shown)));
        for other in ["", "SSH-2.0-x\r\n\r\n", "HTTP/1.1\r\n\r\n", "HTTP/1.1 ok\r\n\r\n"] {
            assert_eq!(status(other), None, "{other}");
        }
    }
}
