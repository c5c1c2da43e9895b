//! Sends HTTP requests to the host, with timeouts and a limit for the length of answers. It follows
//! no redirect, repeats no request, and uses only the configured proxy, not a proxy from the
//! environment.

use std::error::Error;
use std::io::{self, Read};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, COOKIE, HOST, RANGE,
    SET_COOKIE, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::Full;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;

use super::connections::{Connection, Connections, Endpoint, Lane, Turn};
use super::handshake_error::{HandshakeError, causes};
use super::options::{EsxOptions, OptionsError, header, service_url};
use super::tls;
use super::tunnel::TunnelError;
use crate::domain::host_url::InvalidHostUrl;
use crate::hypervisor::{ByteStream, HostError, HostErrorKind};

/// The name of the cookie in which a host sends the session.
const SESSION_COOKIE: &str = "vmware_soap_session";

/// Compressed answers that are longer than this, in bytes, are unpacked on a blocking thread.
const LARGE_COMPRESSED: usize = 16 << 10;

/// Sends requests to one host.
#[derive(Debug)]
pub struct Transport {
    connections: Connections,
    connect_timeout: Duration,
    sdk: Url,
    /// The HTTP headers that every request has.
    headers: HeaderMap,
    /// Whether the host runs on the same machine as otter.
    is_local: bool,
    answer_limit: usize,
    max_wait: Duration,
    read_timeout: Duration,
}

/// An HTTP answer, whatever its status.
pub struct HttpAnswer {
    pub status: u16,
    pub body: Bytes,
    /// The session cookie as `name=value`, exactly as the host sent it. `None` if the answer sets
    /// no cookie.
    pub cookie: Option<SecretString>,
    /// The size of the whole file, if the answer has a part of one and says it.
    pub whole_size: Option<u64>,
}

/// Why a request got no complete answer.
#[derive(Debug)]
pub struct TransportError {
    /// Whether the request was never sent, which proves that the call did not run.
    pub never_sent: bool,
    /// Whether the connection broke before the timeout. The host may have closed it because it was
    /// idle.
    pub disconnected: bool,
    pub kind: HostErrorKind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Transport {
    /// Prepares the connections to the host, but opens none.
    ///
    /// # Errors
    /// Fails for the reasons that [`EsxOptions::check`] gives.
    pub fn new(options: &EsxOptions) -> Result<Self, OptionsError> {
        let sdk = service_url(&options.url)?;
        let host = sdk.host_str().unwrap_or_default();
        let bare_host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let authority = sdk.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let mut headers = HeaderMap::new();
        let unusable =
            || InvalidHostUrl::new(&options.url, "its host is neither a name nor an address");
        headers.insert(HOST, HeaderValue::from_str(&authority).map_err(|_| unusable())?);
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("otter/", env!("CARGO_PKG_VERSION"))),
        );
        for (name, value) in &options.headers {
            let (name, value) = header(name, value)?;
            headers.append(name, value);
        }
        let tls = match sdk.scheme() {
            "https" => {
                let name = rustls::pki_types::ServerName::try_from(bare_host.clone())
                    .map_err(|_| unusable())?;
                Some((Arc::new(tls::client_config(&options.verify)?), name))
            }
            _ => None,
        };
        let is_local = bare_host == "localhost"
            || bare_host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        let endpoint = Endpoint {
            host: bare_host,
            port: sdk.port_or_known_default().unwrap_or(443),
            tls,
            proxy: options.proxy.clone(),
        };
        Ok(Self {
            connections: Connections::new(endpoint),
            connect_timeout: options.connect_timeout,
            sdk,
            headers,
            is_local,
            answer_limit: options.answer_limit,
            max_wait: options.max_wait,
            read_timeout: options.read_timeout,
        })
    }

    /// The name and port of the host, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        let host = self.sdk.host_str().unwrap_or_default();
        self.sdk.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Waits for the right to use a connection. The caller limits the time of the wait.
    pub async fn turn(&self, lane: Lane) -> Turn<'_> {
        self.connections.turn(lane).await
    }

    /// The error of a request that could not use a connection in time and was therefore not sent.
    #[must_use]
    pub fn no_turn(&self) -> TransportError {
        let message = format!(
            "All connections to the host {} were in use, so the request was not sent in time.",
            self.address()
        );
        TransportError {
            never_sent: true,
            disconnected: false,
            kind: HostErrorKind::Unreachable,
            message,
            source: None,
        }
    }

    /// How long a request may wait for the right to use a connection, if its caller sets no other
    /// limit.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        self.read_timeout
    }

    /// Sends a SOAP envelope once, with POST. `version` is the API version in the header
    /// `SOAPAction`.
    ///
    /// # Errors
    /// Fails if no complete answer came in time, or if the answer is longer than the limit.
    pub async fn post(
        &self,
        turn: Turn<'_>,
        envelope: String,
        version: &str,
        cookie: Option<&SecretString>,
    ) -> Result<HttpAnswer, TransportError> {
        let mut request = self.request(Method::POST, self.sdk.path(), Full::from(envelope));
        let headers = request.headers_mut();
        let content_type = HeaderValue::from_static("text/xml; charset=\"utf-8\"");
        headers.insert(CONTENT_TYPE, content_type);
        if let Ok(action) = HeaderValue::from_str(&format!("\"urn:vim25/{version}\"")) {
            headers.insert("SOAPAction", action);
        }
        if let Some(cookie) = cookie
            && let Ok(mut value) = HeaderValue::from_str(cookie.expose_secret())
        {
            value.set_sensitive(true);
            headers.insert(COOKIE, value);
        }
        // Only the answers to waits for updates are large. If the host runs on this machine,
        // compression would only cost time.
        if turn.lane() == Lane::LongPoll && !self.is_local {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        self.exchange(turn, request).await
    }

    /// Gets the document `vimServiceVersions.xml`, which lists the API versions of the host.
    ///
    /// # Errors
    /// The errors of [`Transport::post`].
    pub async fn versions(&self, turn: Turn<'_>) -> Result<HttpAnswer, TransportError> {
        let request = self.request(Method::GET, "/sdk/vimServiceVersions.xml", Full::default());
        self.exchange(turn, request).await
    }

    /// Gets a path with the session's cookie.
    ///
    /// # Errors
    /// As [`Transport::post`].
    pub async fn get(
        &self,
        turn: Turn<'_>,
        path: &str,
        cookie: &SecretString,
    ) -> Result<HttpAnswer, TransportError> {
        self.exchange(turn, self.get_request(path, cookie)).await
    }

    /// Gets a part of a file with the session's cookie (RFC 9110, section 14).
    ///
    /// # Parameters
    /// - `range`: the positions of the first and the last byte.
    ///
    /// # Errors
    /// As [`Transport::post`].
    pub async fn get_part(
        &self,
        turn: Turn<'_>,
        path: &str,
        cookie: &SecretString,
        range: RangeInclusive<u64>,
    ) -> Result<HttpAnswer, TransportError> {
        let mut request = self.get_request(path, cookie);
        let range = format!("bytes={}-{}", range.start(), range.end());
        if let Ok(range) = HeaderValue::from_str(&range) {
            request.headers_mut().insert(RANGE, range);
        }
        self.exchange(turn, request).await
    }

    /// Opens a connection to another port of the host's address, through the proxy if there is
    /// one.
    ///
    /// # Errors
    /// The error of the connection, `TimedOut` after the timeout.
    pub async fn dial_port(&self, port: u16) -> io::Result<TcpStream> {
        let dialling = self.connections.dial_port(port);
        match tokio::time::timeout(self.connect_timeout, dialling).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The name or the address of the host, without a port.
    #[must_use]
    pub fn host(&self) -> &str {
        self.connections.host()
    }

    /// Opens a stream of bytes to the API's address, through the proxy if there is one, and with
    /// the same check of the certificate. It needs no turn.
    ///
    /// # Errors
    /// No connection before the timeout.
    pub async fn dial(&self) -> Result<Box<dyn ByteStream>, TransportError> {
        match tokio::time::timeout(self.connect_timeout, self.connections.dial()).await {
            Ok(connected) => connected.map_err(|error| self.not_connected(error)),
            Err(_) => Err(self.timed_out(true)),
        }
    }

    /// The headers of every request: the host's name, and those of `esx.headers`.
    pub const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Whether the host speaks TLS. Otherwise it is this machine.
    pub fn is_tls(&self) -> bool {
        self.sdk.scheme() == "https"
    }

    fn get_request(&self, path: &str, cookie: &SecretString) -> Request<Full<Bytes>> {
        self.authorized(Method::GET, path, cookie, Full::default())
    }

    /// A request with the session's cookie, and with the headers that every request has.
    pub fn authorized<B>(
        &self,
        method: Method,
        path: &str,
        cookie: &SecretString,
        body: B,
    ) -> Request<B> {
        let mut request = self.request(method, path, body);
        if let Ok(mut value) = HeaderValue::from_str(cookie.expose_secret()) {
            value.set_sensitive(true);
            request.headers_mut().insert(COOKIE, value);
        }
        request
    }

    fn request<B>(&self, method: Method, path: &str, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        // The path of a parsed URL is always a valid URI, so the default is never used.
        *request.uri_mut() = path.parse().unwrap_or_default();
        request.headers_mut().clone_from(&self.headers);
        request
    }

    async fn exchange(
        &self,
        turn: Turn<'_>,
        request: Request<Full<Bytes>>,
    ) -> Result<HttpAnswer, TransportError> {
        let limit = match turn.lane() {
            Lane::Ordinary | Lane::Reserved => self.read_timeout,
            Lane::LongPoll => self.max_wait + self.read_timeout,
        };
        let mut is_sent = false;
        let answer = Box::pin(self.exchange_once(turn, request, &mut is_sent));
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(self.timed_out(!is_sent)),
        }
    }

    async fn exchange_once(
        &self,
        turn: Turn<'_>,
        request: Request<Full<Bytes>>,
        is_sent: &mut bool,
    ) -> Result<HttpAnswer, TransportError> {
        let mut connection = match self.connections.take_idle(&turn) {
            Some(connection) => connection,
            None => self.connect(&turn).await?,
        };
        *is_sent = true;
        let answer = connection.send(request).await.map_err(|error| self.broken(error))?;
        let (head, mut incoming) = answer.into_parts();
        let mut body = BytesMut::new();
        while let Some(part) =
            connection.next_part(&mut incoming).await.map_err(|error| self.broken(error))?
        {
            if body.len() + part.len() > self.answer_limit {
                return Err(self.too_long());
            }
            body.extend_from_slice(&part);
        }
        self.connections.give_back(turn, connection).await;
        let body = match head.headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
            Some(b"gzip" | b"x-gzip") => self.unpack(body.freeze()).await?,
            _ => body.freeze(),
        };
        let cookie = session_cookie(&head.headers);
        let whole_size = whole_size(&head.headers);
        Ok(HttpAnswer { status: head.status.as_u16(), body, cookie, whole_size })
    }

    async fn connect(&self, turn: &Turn<'_>) -> Result<Connection, TransportError> {
        let connecting = self.connections.connect(turn);
        match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(connected) => connected.map_err(|error| self.not_connected(error)),
            Err(_) => Err(self.timed_out(true)),
        }
    }

    /// Unpacks a compressed answer. The length limit counts the unpacked bytes, because a small
    /// compressed answer can expand without bounds.
    async fn unpack(&self, body: Bytes) -> Result<Bytes, TransportError> {
        let limit = self.answer_limit;
        let is_large = body.len() > LARGE_COMPRESSED;
        let unpack = move || {
            let mut unpacked = Vec::new();
            let decoder = flate2::bufread::MultiGzDecoder::new(&body[..]);
            // The reader takes one byte more than the limit, to see whether the answer is too long.
            decoder.take(limit as u64 + 1).read_to_end(&mut unpacked).map(|_| unpacked)
        };
        let unpacked = if is_large {
            tokio::task::spawn_blocking(unpack)
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error)))
        } else {
            unpack()
        };
        match unpacked {
            Ok(unpacked) if unpacked.len() > limit => Err(self.too_long()),
            Ok(unpacked) => Ok(Bytes::from(unpacked)),
            Err(error) => Err(self.broken(error)),
        }
    }

    fn too_long(&self) -> TransportError {
        TransportError {
            never_sent: false,
            disconnected: false,
            kind: HostErrorKind::Protocol,
            message: format!(
                "The host {} sent an answer longer than {} bytes.",
                self.address(),
                self.answer_limit
            ),
            source: None,
        }
    }

    /// The error of a request that got no answer in time.
    ///
    /// # Parameters
    /// - `never_sent`: whether there was no connection for it.
    pub fn timed_out(&self, never_sent: bool) -> TransportError {
        let host = self.address();
        let message = if never_sent {
            format!("No connection to the host {host} before the timeout.")
        } else {
            format!("The host {host} did not answer in time.")
        };
        TransportError {
            never_sent,
            disconnected: false,
            kind: HostErrorKind::Unreachable,
            message,
            source: None,
        }
    }

    fn not_connected(&self, error: io::Error) -> TransportError {
        let refusal = error.get_ref().and_then(|cause| cause.downcast_ref::<TunnelError>());
        let cause = match (refusal, HandshakeError::from_causes(&error)) {
            (Some(refusal), _) => refusal.to_string(),
            (None, Some(failed)) => failed.to_string(),
            (None, None) => root_cause(&error),
        };
        TransportError {
            never_sent: true,
            disconnected: false,
            kind: HostErrorKind::Unreachable,
            message: format!("No connection to the host {}: {cause}.", self.address()),
            source: Some(Box::new(error)),
        }
    }

    /// The error for a connection that broke after the request was sent, or for an answer that is
    /// not HTTP.
    pub fn broken(&self, error: impl Error + Send + Sync + 'static) -> TransportError {
        let host = self.address();
        let message = if is_not_http(&error) {
            let advice = match self.sdk.scheme() {
                "http" => "If it serves TLS, write https:// in esx.url.",
                _ => "Check the port in esx.url.",
            };
            format!("The server at {host} does not speak HTTP. {advice}")
        } else {
            let cause = root_cause(&error);
            format!("The connection to the host {host} broke before the answer ended: {cause}.")
        };
        TransportError {
            never_sent: false,
            disconnected: true,
            kind: HostErrorKind::Unreachable,
            message,
            source: Some(Box::new(error)),
        }
    }
}

impl From<TransportError> for HostError {
    fn from(error: TransportError) -> Self {
        let TransportError { never_sent: _, disconnected: _, kind, message, source } = error;
        match source {
            Some(source) => Self::new(kind, message).caused_by(source),
            None => Self::new(kind, message),
        }
    }
}

/// The name and value of the session cookie, with quotes as the host sent them, but without
/// attributes.
fn session_cookie(headers: &HeaderMap) -> Option<SecretString> {
    headers
        .get_all(SET_COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .filter_map(|text| text.split(';').next())
        .map(str::trim)
        .find(|pair| pair.split_once('=').is_some_and(|(name, _)| name.trim() == SESSION_COOKIE))
        .map(|pair| SecretString::from(pair.to_owned()))
}

/// The size of the whole file in a `Content-Range`: `bytes 0-99/1234`, or `bytes */1234`.
#[must_use]
pub fn whole_size(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    range.rsplit_once('/')?.1.trim().parse().ok()
}

/// Whether the error means that the server answered with something that is not HTTP.
fn is_not_http(error: &(dyn Error + 'static)) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<hyper::Error>())
        .any(|error| error.is_parse() && !error.is_incomplete_message())
}

/// The text of the innermost cause of an error, for example that a connection was refused.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let text = causes(error).last().map(ToString::to_string).unwrap_or_default();
    // rustls ends some of its texts with a link for programmers.
    let text = text.split(": https://").next().unwrap_or_default();
    text.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_has_no_link_for_programmers() {
        let cause = "peer closed connection without sending TLS close_notify";
        let error = io::Error::other(format!("{cause}: https://docs.rs/rustls/latest/"));
        assert_eq!(root_cause(&error), cause);
        assert_eq!(root_cause(&io::Error::other("it broke.")), "it broke");
    }
}
