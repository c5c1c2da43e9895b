//! HTTP to the host: one client with its TLS configuration, timeouts and answer limit. The client
//! follows no redirect, retries nothing, and uses the configured proxy, none of the environment.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use reqwest::{Client, Url};
use secrecy::{ExposeSecret, SecretString};

use super::handshake_error::{HandshakeError, causes};
use super::options::{EsxOptions, OptionsError, header, service_url};
use super::tls;
use super::tunnel::{self, TunnelError};
use crate::domain::proxy_url::ProxyUrl;
use crate::hypervisor::{HostError, HostErrorKind};

/// The name of the session cookie.
const SESSION_COOKIE: &str = "vmware_soap_session";

/// Sends requests to one host.
#[derive(Debug)]
pub struct Transport {
    client: Client,
    proxy: Option<ProxyUrl>,
    connect_timeout: Duration,
    sdk: Url,
    versions: Url,
    answer_limit: usize,
    max_wait: Duration,
    read_timeout: Duration,
}

/// An HTTP answer, whatever its status.
pub struct HttpAnswer {
    pub status: u16,
    pub body: Bytes,
    /// `name=value` of the session cookie exactly as the host sent it. `None` if it set none.
    pub cookie: Option<SecretString>,
}

/// Which timeout a call has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutClass {
    /// `read_timeout`.
    Ordinary,
    /// `max_wait` longer, for a wait that the host holds open.
    LongPoll,
}

/// No complete answer came.
#[derive(Debug)]
pub struct TransportError {
    /// No connection was made. This proves that the call did not run.
    pub never_sent: bool,
    /// The connection broke before the timeout. The host may have dropped it as idle.
    pub disconnected: bool,
    pub kind: HostErrorKind,
    message: String,
    source: Option<reqwest::Error>,
}

impl Transport {
    /// Builds the client.
    ///
    /// # Errors
    /// As [`EsxOptions::check`].
    pub fn new(options: &EsxOptions) -> Result<Self, OptionsError> {
        let sdk = service_url(&options.url)?;
        let mut versions = sdk.clone();
        versions.set_path("/sdk/vimServiceVersions.xml");
        let mut headers = HeaderMap::new();
        for (name, value) in &options.headers {
            let (name, value) = header(name, value)?;
            headers.append(name, value);
        }
        let builder = match &options.proxy {
            Some(proxy) => {
                Client::builder().proxy(tunnel::client_proxy(proxy).map_err(OptionsError::Client)?)
            }
            None => Client::builder().no_proxy(),
        };
        let client = builder
            .tls_backend_preconfigured(tls::client_config(&options.verify)?)
            .user_agent(concat!("otter/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            .gzip(true)
            .connect_timeout(options.connect_timeout)
            // hostd drops idle connections, and a request sent at that moment is lost.
            .pool_idle_timeout(Duration::from_secs(20))
            .pool_max_idle_per_host(4)
            .build()
            .map_err(OptionsError::Client)?;
        Ok(Self {
            client,
            proxy: options.proxy.clone(),
            connect_timeout: options.connect_timeout,
            sdk,
            versions,
            answer_limit: options.answer_limit,
            max_wait: options.max_wait,
            read_timeout: options.read_timeout,
        })
    }

    /// The host's name and port, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        let host = self.sdk.host_str().unwrap_or_default();
        self.sdk.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Posts a SOAP envelope once. `version` is the API version of the `SOAPAction` header.
    ///
    /// # Errors
    /// Fails if no complete answer came in time, or if the answer is longer than the limit.
    pub async fn post(
        &self,
        envelope: String,
        version: &str,
        cookie: Option<&SecretString>,
        timeout_class: TimeoutClass,
    ) -> Result<HttpAnswer, TransportError> {
        let mut request = self
            .client
            .post(self.sdk.clone())
            .timeout(match timeout_class {
                TimeoutClass::Ordinary => self.read_timeout,
                TimeoutClass::LongPoll => self.max_wait + self.read_timeout,
            })
            .header(CONTENT_TYPE, "text/xml; charset=\"utf-8\"")
            .header("SOAPAction", format!("\"urn:vim25/{version}\""))
            .body(envelope);
        if let Some(cookie) = cookie
            && let Ok(mut value) = HeaderValue::from_str(cookie.expose_secret())
        {
            value.set_sensitive(true);
            request = request.header(COOKIE, value);
        }
        self.exchange(request).await
    }

    /// Gets `vimServiceVersions.xml`, the list of API versions.
    ///
    /// # Errors
    /// As [`Transport::post`].
    pub async fn versions(&self) -> Result<HttpAnswer, TransportError> {
        self.exchange(self.client.get(self.versions.clone()).timeout(self.read_timeout)).await
    }

    async fn exchange(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<HttpAnswer, TransportError> {
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Err(self.not_sent_or_broken(error).await),
        };
        let status = answer.status().as_u16();
        let cookie = session_cookie(answer.headers());
        let mut body = BytesMut::new();
        // Count after decompression: a small compressed answer can expand without bounds.
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.failed(error))? {
            if body.len() + chunk.len() > self.answer_limit {
                return Err(TransportError {
                    never_sent: false,
                    disconnected: false,
                    kind: HostErrorKind::Protocol,
                    message: format!(
                        "The host {} sent an answer longer than {} bytes.",
                        self.address(),
                        self.answer_limit
                    ),
                    source: None,
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(HttpAnswer { status, body: body.freeze(), cookie })
    }

    async fn not_sent_or_broken(&self, error: reqwest::Error) -> TransportError {
        let refusal = self.refusal_of_proxy(&error).await;
        let mut failed = self.failed(error);
        if let Some(refusal) = refusal {
            failed.message = format!("No connection to the host {}: {refusal}.", self.address());
        }
        failed
    }

    /// Why the proxy opens no tunnel to the host: the HTTP client does not report its answer, so
    /// this asks once more. `None` if another reason ended the request.
    async fn refusal_of_proxy(&self, error: &reqwest::Error) -> Option<TunnelError> {
        let proxy = self.proxy.as_ref()?;
        let is_of_tls = causes(error).any(<dyn std::error::Error>::is::<rustls::Error>);
        if !error.is_connect() || is_of_tls {
            return None;
        }
        let host = self.sdk.host_str()?.trim_start_matches('[').trim_end_matches(']');
        let port = self.sdk.port_or_known_default()?;
        let opening = tunnel::open(proxy, host, port);
        tokio::time::timeout(self.connect_timeout, opening).await.ok()?.err()
    }

    fn failed(&self, error: reqwest::Error) -> TransportError {
        let host = self.address();
        let message = if error.is_connect() && error.is_timeout() {
            format!("No connection to the host {host} before the timeout.")
        } else if error.is_connect() {
            let cause = HandshakeError::from_causes(&error)
                .map_or_else(|| root_cause(&error), |failed| failed.to_string());
            format!("No connection to the host {host}: {cause}.")
        } else if error.is_timeout() {
            format!("The host {host} did not answer in time.")
        } else if is_not_http(&error) {
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
            never_sent: error.is_connect(),
            disconnected: !error.is_connect() && !error.is_timeout(),
            kind: HostErrorKind::Unreachable,
            message,
            source: Some(error.without_url()),
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

/// The name and value of the session cookie as the host sent them, with quotes, without attributes.
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

/// Whether the server answered with something that is not HTTP.
fn is_not_http(error: &reqwest::Error) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<hyper::Error>())
        .any(|error| error.is_parse() && !error.is_incomplete_message())
}

/// The text of the innermost cause, such as a refused connection.
fn root_cause(error: &reqwest::Error) -> String {
    let text = causes(error).last().map(ToString::to_string).unwrap_or_default();
    text.trim_end_matches('.').to_owned()
}
