//! The HTTP client of `otter run` and of the other commands that call otter: TLS trust, token,
//! proxy, timeouts and size limits. It follows no redirect, and retries nothing by itself.

use std::error::Error;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    AUTHORIZATION, CONNECTION, DATE, RETRY_AFTER, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use reqwest::{RequestBuilder, Response, Upgraded};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use super::Failure;
use super::arguments::ServerArguments;
use super::exit::Exit;
use crate::config::BYTE_ORDER_MARK;
use crate::domain::verify::Verify;
use crate::esx::{HandshakeError, RefusedCertificate, Remedy, client_config};

/// The header that carries the id and the secret of a lease.
const OTTER_LEASE: HeaderName = HeaderName::from_static("otter-lease");

/// The maximum time for connecting to otter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum time for an answer. The time that the request asks the server to wait comes in
/// addition.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The maximum time without a line on a stream. otter sends a bookmark line every 15 s.
const STREAM_TIMEOUT: Duration = Duration::from_secs(45);
/// The maximum number of bytes in an answer, or in one line of a stream.
const ANSWER_LIMIT: usize = 1 << 20;

/// An HTTP client that talks to one otter.
pub struct OtterClient {
    http: reqwest::Client,
    /// The address of otter, as the user wrote it.
    url: String,
    base: String,
}

/// A complete HTTP answer.
pub struct Answer {
    pub status: StatusCode,
    /// The time that otter's clock showed, from the header `Date`.
    pub date: Option<Timestamp>,
    /// How long to wait before the request is sent again, from the header `Retry-After`.
    pub retry_after: Option<Duration>,
    body: BytesMut,
}

/// Why no complete answer came.
#[derive(Debug)]
pub struct NoAnswer {
    /// The reason as a text for people.
    pub reason: String,
    /// Whether a later try may succeed. False if the server is not trusted.
    pub is_temporary: bool,
    /// How long to wait before the request is sent again, from the header `Retry-After`.
    pub retry_after: Option<Duration>,
}

/// The body of an answer that reports a problem. A field that the body lacks is empty.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    detail: String,
    errors: Vec<ProblemError>,
    candidates: Vec<Candidate>,
}

/// One of the machines that match an ambiguous reference.
#[derive(Deserialize)]
struct Candidate {
    id: String,
    name: String,
}

/// What is wrong with one part of the request.
#[derive(Deserialize)]
struct ProblemError {
    code: String,
}

/// The advice for a user whose proxy requires an account.
const PROXY_ACCOUNT_ADVICE: &str = "the proxy requires an account, or refuses this one: pass \
    --proxy http://<user>:<password>@<host>:<port>";

/// The problem code for a part of the lease request that no machine of otter matches.
const MATCHES_NONE: &str = "matches-none";

impl OtterClient {
    /// Makes the client that the command line describes.
    ///
    /// # Parameters
    /// - `server`: the trusted certificates and the token file. The address in it is not used.
    /// - `url`: the address of otter.
    /// - `token`: the token to use if the command line names no token file.
    /// - `proxy`: the proxy between the client and otter.
    ///
    /// # Errors
    /// Fails with `Exit::Usage` if the address, a file or the token is wrong.
    pub async fn new(
        server: &ServerArguments,
        url: &str,
        token: Option<SecretString>,
        proxy: Option<reqwest::Proxy>,
    ) -> Result<Self, Failure> {
        let usage_error = |reason: String| Failure::new(Exit::Usage, reason);
        let builder = reqwest::Client::builder();
        let builder = match proxy {
            Some(proxy) => builder.proxy(proxy),
            None => builder.no_proxy(),
        };
        let mut builder = builder
            .user_agent(concat!("otter-run/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            // otter closes idle connections when it stops, and a request on such a connection would
            // be lost. So the client does not keep an idle connection for long.
            .pool_idle_timeout(Duration::from_secs(10));
        let mut base = url.trim_end_matches('/').to_owned();
        if let Some(path) = url.strip_prefix("unix:") {
            builder = builder.unix_socket(path);
            "http://localhost".clone_into(&mut base);
        } else {
            if url.contains('@') {
                // The part of the address before the `@` may be a password, so the message does not
                // contain it.
                let reason = "the address holds an account, but otter identifies callers by \
                    tokens: leave out what stands before the @ and set OTTER_TOKEN or --token-file";
                return Err(usage_error(reason.to_owned()));
            }
            if !url.contains("://") {
                let reason = format!(
                    "the address {url} has no scheme: write http://{url}, or https://{url} if \
                     otter serves TLS"
                );
                return Err(usage_error(reason));
            }
            let parsed = reqwest::Url::parse(url).map_err(|error| {
                usage_error(format!("the address {url} cannot be read: {error}"))
            })?;
            if !matches!(parsed.scheme(), "http" | "https") || parsed.query().is_some() {
                return Err(usage_error(format!(
                    "the address {url} is not one of otter's: write http://…, https://… or \
                     unix:/path"
                )));
            }
        }
        if base.starts_with("https:") {
            let verify = match (&server.cacert, server.fingerprint) {
                (Some(file), _) => Verify::CaFile(file.clone()),
                (None, Some(pin)) => Verify::Fingerprint(pin),
                (None, None) => Verify::SystemRoots,
            };
            let trust = client_config(&verify).map_err(|error| usage_error(chain(&error)))?;
            builder = builder.tls_backend_preconfigured(trust);
        } else {
            // A connection without TLS needs no trusted certificates, but the HTTP library requires
            // a TLS configuration all the same.
            let _ = rustls::crypto::ring::default_provider().install_default();
            builder = builder.tls_certs_only([]);
        }
        let token = match &server.token_file {
            Some(file) => {
                let text = tokio::fs::read_to_string(file).await;
                let text =
                    text.map_err(|error| usage_error(format!("{}: {error}", file.display())))?;
                let token = text.trim_start_matches(BYTE_ORDER_MARK).trim();
                if token.is_empty() {
                    let reason = "the token file is empty: it must hold the token and nothing else";
                    return Err(usage_error(format!("{}: {reason}", file.display())));
                }
                Some(SecretString::from(token))
            }
            None => token,
        };
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret().trim()));
            let mut value = value.map_err(|_| {
                usage_error("the token cannot be sent: it must be one word, otter_…".to_owned())
            })?;
            value.set_sensitive(true);
            builder = builder.default_headers(HeaderMap::from_iter([(AUTHORIZATION, value)]));
        }
        let http = builder.build().map_err(|error| usage_error(chain(&error)))?;
        Ok(Self { http, url: url.to_owned(), base })
    }

    /// The address of otter, for messages to the user.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Begins a request to a path below `/v1`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/v1{path}", self.base))
    }

    /// Begins a request like [`request`](Self::request), and adds the header `Otter-Lease` if the
    /// lease has a secret.
    pub fn with_lease(
        &self,
        method: Method,
        path: &str,
        lease: Option<&SecretString>,
    ) -> RequestBuilder {
        let request = self.request(method, path);
        match lease.map(|lease| HeaderValue::from_str(lease.expose_secret())) {
            Some(Ok(mut value)) => {
                value.set_sensitive(true);
                request.header(OTTER_LEASE, value)
            }
            // An id and a secret in hexadecimal digits always make a valid header. If `lease` is
            // something else, the request has no header, and otter refuses the request.
            Some(Err(_)) | None => request,
        }
    }

    /// Sends a request and reads the whole answer within `timeout`.
    ///
    /// # Errors
    /// Fails if no complete answer comes in time, or if the server does not speak HTTP.
    pub async fn answer(request: RequestBuilder, timeout: Duration) -> Result<Answer, NoAnswer> {
        Self::answer_up_to(request, timeout, ANSWER_LIMIT).await
    }

    /// As [`OtterClient::answer`], for answers of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`OtterClient::answer`].
    pub async fn answer_up_to(
        request: RequestBuilder,
        timeout: Duration,
        limit: usize,
    ) -> Result<Answer, NoAnswer> {
        let response = request.timeout(timeout).send().await.map_err(|error| no_answer(&error))?;
        Self::read_answer(response, limit).await
    }

    /// As [`OtterClient::answer`], for a request that may take any time.
    ///
    /// # Errors
    /// As [`OtterClient::answer`].
    pub async fn answer_in_any_time(request: RequestBuilder) -> Result<Answer, NoAnswer> {
        let response = request.send().await.map_err(|error| no_answer(&error))?;
        Self::read_answer(response, ANSWER_LIMIT).await
    }

    /// Opens a WebSocket with the subprotocol `binary`.
    ///
    /// # Returns
    /// The connection after the upgrade, or the answer of an otter that refuses it.
    ///
    /// # Errors
    /// As [`OtterClient::answer`].
    pub async fn open_websocket(
        request: RequestBuilder,
    ) -> Result<Result<Upgraded, Answer>, NoAnswer> {
        let request = request
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, generate_key())
            .header(SEC_WEBSOCKET_PROTOCOL, "binary");
        let opened = tokio::time::timeout(ANSWER_TIMEOUT, request.send()).await;
        let opened = opened.map_err(|_| NoAnswer::temporary("no answer came in time"))?;
        let response = opened.map_err(|error| no_answer(&error))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return response.upgrade().await.map(Ok).map_err(|error| no_answer(&error));
        }
        let read = tokio::time::timeout(ANSWER_TIMEOUT, Self::read_answer(response, ANSWER_LIMIT));
        read.await.map_err(|_| NoAnswer::temporary("no answer came in time"))?.map(Err)
    }

    /// Opens an answer whose body is read piece by piece.
    ///
    /// # Returns
    /// The pieces, or the answer if its status is not a success.
    ///
    /// # Errors
    /// As [`OtterClient::answer`].
    pub async fn open(request: RequestBuilder) -> Result<Result<Pieces, Answer>, NoAnswer> {
        Self::open_within(request, ANSWER_TIMEOUT).await
    }

    /// As [`OtterClient::open`], for an answer that begins within `timeout`.
    ///
    /// # Errors
    /// As [`OtterClient::answer`].
    pub async fn open_within(
        request: RequestBuilder,
        timeout: Duration,
    ) -> Result<Result<Pieces, Answer>, NoAnswer> {
        let late = |_| NoAnswer::temporary("no answer came in time");
        let opened = tokio::time::timeout(timeout, request.send()).await.map_err(late)?;
        let response = opened.map_err(|error| no_answer(&error))?;
        if response.status().is_success() {
            return Ok(Ok(Pieces(response)));
        }
        let read = tokio::time::timeout(ANSWER_TIMEOUT, Self::read_answer(response, ANSWER_LIMIT));
        read.await.map_err(late)?.map(Err)
    }

    async fn read_answer(mut response: Response, limit: usize) -> Result<Answer, NoAnswer> {
        let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
        let date =
            date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|date| date.timestamp());
        let retry_after = retry_after(response.headers());
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| no_answer(&error))? {
            if body.len() + chunk.len() > limit {
                return Err(NoAnswer::temporary("the answer is too long to be otter's"));
            }
            body.extend_from_slice(&chunk);
        }
        if is_from_tls_port(&response, &body) {
            let url = with_other_scheme(response.url());
            return Err(NoAnswer::permanent(format!("this port serves TLS: write {url}")));
        }
        Ok(Answer { status: response.status(), date, retry_after, body })
    }

    /// Opens a stream of JSON lines.
    ///
    /// # Errors
    /// Fails if no answer comes in time or if its status is not a success.
    pub async fn stream(request: RequestBuilder) -> Result<JsonLines, NoAnswer> {
        let opened = tokio::time::timeout(ANSWER_TIMEOUT, request.send()).await;
        let opened = opened.map_err(|_| NoAnswer::temporary("no answer came in time"))?;
        let response = opened.map_err(|error| no_answer(&error))?;
        if !response.status().is_success() {
            let retry_after = retry_after(response.headers());
            let reason = format!("otter answers {}", response.status());
            return Err(NoAnswer { retry_after, ..NoAnswer::temporary(reason) });
        }
        Ok(JsonLines { response, unread: BytesMut::new() })
    }
}

/// The body of an answer, which comes in pieces.
pub struct Pieces(Response);

impl Pieces {
    /// The next piece. `None` at the end of the body.
    ///
    /// # Errors
    /// Fails if the body breaks off, or is silent for too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NoAnswer> {
        let piece = tokio::time::timeout(STREAM_TIMEOUT, self.0.chunk()).await;
        let piece = piece.map_err(|_| NoAnswer::temporary("no byte came in time"))?;
        piece.map_err(|error| no_answer(&error))
    }

    /// As [`Pieces::next`], of a body that may be silent for any time.
    ///
    /// # Errors
    /// Fails if the body breaks off.
    pub async fn next_in_any_time(&mut self) -> Result<Option<Bytes>, NoAnswer> {
        self.0.chunk().await.map_err(|error| no_answer(&error))
    }

    /// The value of a header of the answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.headers().get(name)?.to_str().ok()
    }
}

/// An open stream of JSON lines.
pub struct JsonLines {
    response: Response,
    unread: BytesMut,
}

impl JsonLines {
    /// The next line of the stream. `None` if the stream has ended, has broken, or was silent for
    /// too long.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.unread.split_to(end + 1);
                return serde_json::from_slice(&line).ok();
            }
            let chunk =
                tokio::time::timeout(STREAM_TIMEOUT, self.response.chunk()).await.ok()?.ok()??;
            if self.unread.len() + chunk.len() > ANSWER_LIMIT {
                return None;
            }
            self.unread.extend_from_slice(&chunk);
        }
    }
}

impl Answer {
    /// Parses the body of the answer.
    ///
    /// # Errors
    /// Fails with `Exit::Unavailable` if the body does not have the expected form.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let reason = format!("the server is not otter, or is another version of it: {error}");
            Failure::new(Exit::Unavailable, reason)
        })
    }

    /// The bytes of the body.
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// The problem code in the answer. Empty if the body is not a problem of otter.
    pub fn code(&self) -> String {
        self.problem().code
    }

    /// Whether the same request may succeed later. If so, otter has not done anything for this one.
    pub fn is_temporary(&self) -> bool {
        matches!(self.status.as_u16(), 408 | 429 | 500 | 502..=504)
    }

    /// The failure that this answer means for `otter run`, with the exit code for it.
    pub fn failure(&self) -> Failure {
        let Problem { code, detail, errors, candidates } = self.problem();
        let exit = match (self.status.as_u16(), code.as_str()) {
            (_, "no-free-machine") if errors.iter().any(|error| error.code == MATCHES_NONE) => {
                Exit::NoSuchMachine
            }
            (_, "no-free-machine") | (429, _) => Exit::Temporary,
            (503, _) if self.retry_after.is_some() => Exit::Temporary,
            (401 | 403, _) => Exit::NotAllowed,
            (407, _) => Exit::Usage,
            (423, _) => Exit::LeaseLost,
            (400..=499, code) if !code.is_empty() => Exit::Usage,
            _ => Exit::Unavailable,
        };
        let reason = if self.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            PROXY_ACCOUNT_ADVICE.to_owned()
        } else if code.is_empty() {
            format!("{}, from a server that is not otter", self.status)
        } else {
            format!("{code}: {detail}{}", candidates_text(&candidates))
        };
        Failure::new(exit, reason)
    }

    fn problem(&self) -> Problem {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Lists the machines that an ambiguous reference may mean, as a sentence. Empty if `candidates` is
/// empty.
fn candidates_text(candidates: &[Candidate]) -> String {
    let each = candidates.iter().map(|Candidate { id, name }| format!("{id} ({name})"));
    match candidates {
        [] => String::new(),
        _ => format!(" They are {}.", each.collect::<Vec<_>>().join(", ")),
    }
}

impl NoAnswer {
    fn temporary(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_temporary: true, retry_after: None }
    }

    const fn permanent(reason: String) -> Self {
        Self { reason, is_temporary: false, retry_after: None }
    }
}

/// Says why no answer came. If the scheme of the address was wrong, the text contains the corrected
/// address.
fn no_answer(error: &reqwest::Error) -> NoAnswer {
    let cause = causes(error).find_map(ConnectionFailure::from_error);
    let corrected = error.url().map(with_other_scheme).unwrap_or_default();
    match cause {
        Some(ConnectionFailure::Certificate(refused)) => {
            NoAnswer::permanent(certificate_refusal(&refused))
        }
        Some(ConnectionFailure::OldTls(reason)) => NoAnswer::permanent(format!(
            "{reason}: update the server of otter, or the proxy in front of it"
        )),
        Some(ConnectionFailure::NoTls) => NoAnswer::permanent(format!(
            "this port does not speak TLS: write {corrected}, or the port at which otter serves TLS"
        )),
        Some(ConnectionFailure::NoHttp) => NoAnswer::permanent(format!(
            "this port does not speak HTTP: write {corrected} if it serves TLS"
        )),
        None if error.is_timeout() => NoAnswer::temporary("no answer came in time"),
        Some(ConnectionFailure::ProxyAccount) => {
            NoAnswer::permanent(PROXY_ACCOUNT_ADVICE.to_owned())
        }
        Some(ConnectionFailure::NoTunnel) => NoAnswer::temporary(
            "the proxy does not connect to otter: its rules forbid it, it cannot reach otter, or \
             it is no HTTP proxy",
        ),
        None => NoAnswer::temporary(
            causes(error).last().map_or_else(|| error.to_string(), ToString::to_string),
        ),
    }
}

/// The reasons for a failed connection that have messages of their own.
enum ConnectionFailure {
    /// The server's certificate is not accepted.
    Certificate(RefusedCertificate),
    /// The server supports only versions or ciphers of TLS that are too old.
    OldTls(HandshakeError),
    /// The client spoke TLS, but the server's answer was not TLS.
    NoTls,
    /// The client spoke plain HTTP, but the server's answer was not HTTP.
    NoHttp,
    /// The proxy requires a user name and a password.
    ProxyAccount,
    /// The proxy refuses to open a tunnel to otter.
    NoTunnel,
}

impl ConnectionFailure {
    fn from_error(error: &(dyn Error + 'static)) -> Option<Self> {
        if error.is::<rustls::Error>() {
            return match HandshakeError::from_causes(error)? {
                HandshakeError::Certificate(refused) => Some(Self::Certificate(refused)),
                HandshakeError::NotTls => Some(Self::NoTls),
                old @ (HandshakeError::OldVersion | HandshakeError::NoCommonCipher) => {
                    Some(Self::OldTls(old))
                }
                _ => None,
            };
        }
        // The HTTP library keeps the type of this error private, so its text decides.
        match error.to_string().strip_prefix("tunnel error: ") {
            Some("proxy authorization required") => return Some(Self::ProxyAccount),
            Some("unsuccessful" | "unexpected end of file" | "proxy response headers too long") => {
                return Some(Self::NoTunnel);
            }
            _ => {}
        }
        let is_parse = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse);
        is_parse.then_some(Self::NoHttp)
    }
}

/// Says why otter's certificate is not accepted, and what the user can do.
fn certificate_refusal(refused: &RefusedCertificate) -> String {
    let RefusedCertificate { why, remedy, fingerprint } = refused;
    let other = match remedy {
        Remedy::ChangePin => {
            let seen = fingerprint.map(|seen| seen.to_string()).unwrap_or_default();
            return format!(
                "the certificate of otter is not the one of --fingerprint: its SHA-256 is {seen}"
            );
        }
        Remedy::Trust => {
            "pass the file of its authority, or of the certificate itself, with --cacert FILE, or "
        }
        Remedy::Dates => "renew it, correct the clock of this machine if it is wrong, or ",
        Remedy::Name => "use one of its names in the address, or ",
        Remedy::Pin => "replace it, or ",
        Remedy::Replace => {
            return format!("the certificate of otter is not trusted: {why}; replace it");
        }
        Remedy::Investigate => {
            return format!(
                "the certificate of otter is not trusted: {why}; check that otter uses its \
                 certificate with the right key, and that no other server answers in its place"
            );
        }
    };
    format!(
        "the certificate of otter is not trusted: {why}; {other}trust this one certificate with \
         --fingerprint SHA256, which `openssl x509 -noout -fingerprint -sha256 -in FILE` prints \
         for its file on otter's machine"
    )
}

/// The same address, but with the scheme `https` instead of `http`, or `http` instead of `https`.
fn with_other_scheme(url: &reqwest::Url) -> String {
    let origin = url.origin().ascii_serialization();
    match origin.split_once("://") {
        Some(("http", rest)) => format!("https://{rest}"),
        Some((_, rest)) => format!("http://{rest}"),
        None => origin,
    }
}

/// Whether a TLS server answered a request in plain HTTP. Most servers, and otter too, answer it
/// with status 400 and name HTTPS or SSL in the text.
fn is_from_tls_port(response: &Response, body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body).to_lowercase();
    let says_so = text.contains("https") || text.contains("ssl");
    let is_json = serde_json::from_slice::<Value>(body).is_ok();
    response.url().scheme() == "http"
        && response.status() == StatusCode::BAD_REQUEST
        && says_so
        && !is_json
}

/// The value of the header `Retry-After`, in seconds. `None` if the header is missing, or if it
/// contains a date, which otter never sends.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse::<u32>().ok()?;
    Some(Duration::from_secs(seconds.into()))
}

/// An error and all its causes, the outermost first. The list includes an error inside an
/// `io::Error`, which `Error::source` would skip.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let deeper = |cause: &&'e (dyn Error + 'static)| {
        let cause: &'e (dyn Error + 'static) = *cause;
        match cause.downcast_ref::<std::io::Error>() {
            Some(error) => error.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => cause.source(),
        }
    };
    std::iter::successors(error.source(), deeper)
}

fn chain(error: &(dyn Error + 'static)) -> String {
    causes(error).fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
