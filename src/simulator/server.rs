//! The endpoint of the host: HTTP over TLS on loopback, with SOAP, consoles, pictures and files,
//! and the planned disruptions of calls.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, stream};
use http::header::{
    CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, SET_COOKIE, UPGRADE,
    USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::{Service, ServiceBuilder, service_fn};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, NotForContentType, Predicate};

use super::connection_count::OpenConnection;
use super::console::{self, TicketAnswer};
use super::control::Control;
use super::datastore_files;
use super::fault_injection::{Disruption, DownMode, TransferMishap};
use super::http_answer::{
    Body, COOKIE_NAME, ConnectionCut, FILE_TYPE, refuse, respond, session_cookie,
};
use super::methods::{self, CallContext};
use super::soap;
use super::{Shared, SimulatorError};
use crate::connection_stream::ConnectionStream;

/// The maximum size of a request in bytes. A request that lists 100,000 tasks fits.
const MAX_REQUEST: usize = 16 << 20;
/// The maximum time that a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the simulator keeps an idle connection. Real hosts close an idle connection earlier.
const KEEP_ALIVE: Duration = Duration::from_hours(1);

/// The earlier versions of the API that the document `vimServiceVersions.xml` lists, newest first.
const PRIOR_VERSIONS: &[&str] = &[
    "7.0.2.1", "7.0.2.0", "7.0.1.1", "7.0.1.0", "7.0.0.2", "7.0.0.0", "6.9.1", "6.8.7", "6.7.3",
    "6.7.2", "6.7.1", "6.7", "6.5", "6.0", "5.5", "5.1", "5.0", "4.1", "4.0", "2.5u2", "2.5",
    "2.0",
];

/// The TLS key and certificate of the host.
pub struct TlsIdentity {
    pub acceptor: TlsAcceptor,
    /// SHA-256, in hex with colons.
    pub fingerprint: String,
    /// SHA-1, in hex with colons.
    pub thumbprint: String,
    pub pem: String,
}

impl TlsIdentity {
    /// Makes a key and a self-signed certificate for `names`, as a newly installed host has. The
    /// server speaks TLS 1.2, like ESX 7. If `is_authority` is set, the certificate says that it
    /// belongs to a certificate authority (`CA:TRUE`).
    pub fn generate(names: &[String], is_authority: bool) -> Result<Self, SimulatorError> {
        let key = rcgen::KeyPair::generate().map_err(SimulatorError::Certificate)?;
        let mut params =
            rcgen::CertificateParams::new(names.to_vec()).map_err(SimulatorError::Certificate)?;
        let common_name = names.first().map_or("localhost.localdomain", String::as_str);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "VMware, Inc");
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        if is_authority {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let certificate = params.self_signed(&key).map_err(SimulatorError::Certificate)?;
        let fingerprint = hex_with_colons(&Sha256::digest(certificate.der()));
        let thumbprint = hex_with_colons(&Sha1::digest(certificate.der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .map_err(SimulatorError::Tls)?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .map_err(SimulatorError::Tls)?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            fingerprint,
            thumbprint,
            pem: certificate.pem(),
        })
    }
}

/// Accepts connections until `stop` is cancelled. Then every connection ends at once, also a
/// connection that was upgraded to another protocol.
pub async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    serve_with(listener, acceptor, shared, stop, answer).await;
}

/// Accepts connections in the way of [`serve`], but with a function `answer` that the caller
/// chooses and that answers each request.
async fn serve_with<A>(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    stop: CancellationToken,
    answer: fn(Arc<Shared>, String, Request<Incoming>) -> A,
) where
    A: Future<Output = Result<Response<Body>, ConnectionCut>> + Send + 'static,
{
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let Ok((stream, address)) = accepted else {
            // If accepting a connection fails, the process usually has no free file descriptor
            // until another connection ends. So the server pauses before it tries again.
            shared.clock.sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (down, hostd_lifetime) = {
            let state = shared.lock();
            (state.down, state.hostd_lifetime.clone())
        };
        if down == Some(DownMode::Refuse) {
            // A test has set the host to refuse connections. The server closes the accepted
            // connection before the handshake instead, because it keeps the port bound.
            continue;
        }
        // Without `TCP_NODELAY`, the kernel would hold back a small answer until the client has
        // acknowledged the previous one.
        let _ = stream.set_nodelay(true);
        let end = {
            let stop = stop.clone();
            async move {
                tokio::select! {
                    () = hostd_lifetime.cancelled() => {}
                    () = stop.cancelled() => {}
                }
            }
        }
        .shared();
        let stream = ConnectionStream::new(
            stream,
            (connections.token(), shared.connections.open()),
            end.clone(),
        );
        let service = {
            let (shared, address) = (Arc::clone(&shared), address.ip().to_string());
            service_fn(move |request| answer(Arc::clone(&shared), address.clone(), request))
        };
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            tokio::select! {
                // `biased` checks first whether hostd has ended, so that a stopped hostd sends
                // nothing more.
                biased;
                () = end => {}
                () = serve_connection(stream, acceptor, service) => {}
            }
        });
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection<S>(
    stream: ConnectionStream<TcpStream, (TaskTrackerToken, OpenConnection)>,
    acceptor: TlsAcceptor,
    service: S,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = ConnectionCut, Future: Send>
        + Clone
        + Send
        + 'static,
{
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else {
        return;
    };
    // Clients read files in parts by their offsets, so that files are never compressed.
    let compressed = DefaultPredicate::new().and(NotForContentType::const_new(FILE_TYPE));
    let compression = CompressionLayer::new().no_zstd().compress_when(compressed);
    let service = ServiceBuilder::new().layer(compression).service(service);
    // The error is ignored: a connection ends because the client closes it or because a test
    // planned a disruption, and neither is an error of the simulator.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades()
        .await;
}

async fn answer(
    shared: Arc<Shared>,
    address: String,
    request: Request<Incoming>,
) -> Result<Response<Body>, ConnectionCut> {
    if shared.lock().down == Some(DownMode::Unavailable) {
        let text = "503 Service Unavailable (Failed to connect to endpoint: /sdk)";
        return Ok(respond(StatusCode::SERVICE_UNAVAILABLE, "text/plain", text.to_owned()));
    }
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/sdk" | "/sdk/") => handle_call(&shared, address, request).await,
        (&Method::GET | &Method::HEAD, "/sdk/vimServiceVersions.xml") => {
            let api = shared.lock().world.host.api_version.clone();
            Ok(respond(StatusCode::OK, "text/xml", versions(&api)))
        }
        (&Method::GET | &Method::HEAD, "/screen") => handle_screen(&shared, request).await,
        (_, path) if path == "/folder" || path.starts_with("/folder/") => {
            handle_folder(&shared, request).await
        }
        (&Method::GET, path) if path.starts_with("/ticket/") => {
            handle_ticket(&shared, request).await
        }
        (&Method::GET | &Method::HEAD, "/") => {
            let text = "<html><head><title>ESX, simulated</title></head>\
                        <body>The API is at /sdk.</body></html>";
            Ok(respond(StatusCode::OK, "text/html", text.to_owned()))
        }
        _ => Ok(respond(
            StatusCode::NOT_FOUND,
            "text/html",
            "<html><body>404 Not Found</body></html>".to_owned(),
        )),
    }
}

async fn handle_call(
    shared: &Arc<Shared>,
    address: String,
    request: Request<Incoming>,
) -> Result<Response<Body>, ConnectionCut> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_REQUEST).collect().await else {
        return Ok(respond(StatusCode::PAYLOAD_TOO_LARGE, "text/html", String::new()));
    };
    let request = match soap::Request::read(&body.to_bytes()) {
        Ok(request) => request,
        Err(fault) => return Ok(respond_soap(shared, "", Err(fault), None)),
    };
    let context = CallContext {
        cookie: session_cookie(&head.headers),
        address,
        agent: header(&head.headers, USER_AGENT.as_str()),
    };
    let (disruption, sessions_full) = {
        let mut state = shared.lock();
        state.calls.record(&request.method, request.operation_id.as_deref());
        let sessions_full = request.method == "Login" && state.sessions.is_full();
        (state.fault_plan.take_disruption(&[request.method.as_str()]), sessions_full)
    };
    shared.notify();
    if sessions_full {
        let text = "503 Service Unavailable (The maximum number of sessions has been exceeded.)";
        return Ok(respond(StatusCode::SERVICE_UNAVAILABLE, "text/plain", text.to_owned()));
    }
    let method = request.method.clone();
    let run = async {
        let outcome = methods::run(shared, &request, &context).await;
        if let (Ok(_), Some(operation_id)) = (&outcome.result, &request.operation_id) {
            shared.lock().calls.record_accepted(&request.method, operation_id);
        }
        Ok(respond_soap(shared, &request.method, outcome.result, outcome.cookie))
    };
    disturb(shared, &method, disruption, run).await
}

/// `GET /screen`
async fn handle_screen(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, ConnectionCut> {
    let (head, _) = request.into_parts();
    let run = async {
        let cookie = session_cookie(&head.headers);
        let query = head.uri.query().unwrap_or_default();
        match console::screen_picture(shared, cookie.as_deref(), &head.headers, query) {
            Ok(png) => Ok(respond(StatusCode::OK, "image/png", png)),
            Err((status, text)) => Ok(refuse(status, text)),
        }
    };
    disturb(shared, "/screen", record_http_call(shared, &["/screen"]), run).await
}

/// `/folder/…`. A fault can disturb every use of it, or one method, such as `PUT /folder`.
async fn handle_folder(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, ConnectionCut> {
    let (head, body) = request.into_parts();
    let own_name = format!("{} /folder", head.method);
    let disruption = record_http_call(shared, &["/folder", &own_name]);
    let (mishap, disruption) = match disruption {
        Some(Disruption::Transfer(mishap)) => (mishap, None),
        other => (TransferMishap::default(), other),
    };
    let run = datastore_files::answer(shared, &head, body, mishap);
    disturb(shared, "/folder", disruption, run).await
}

/// `GET /ticket/<ticket>`
async fn handle_ticket(
    shared: &Arc<Shared>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, ConnectionCut> {
    let upgraded = hyper::upgrade::on(&mut request);
    let (head, _) = request.into_parts();
    let run = async {
        let ticket = head.uri.path().strip_prefix("/ticket/").unwrap_or_default();
        match console::open_ticket(shared, ticket, &head.headers) {
            TicketAnswer::Dropped => Err(ConnectionCut),
            TicketAnswer::Refused(status) => Ok(respond(status, "text/plain", "")),
            TicketAnswer::Accepted { protocol, accept_key, connection } => {
                let mut response = respond(StatusCode::SWITCHING_PROTOCOLS, "text/plain", "");
                let headers = response.headers_mut();
                headers.remove(CONTENT_TYPE);
                headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
                if let Ok(accept_key) = HeaderValue::try_from(accept_key) {
                    headers.insert(SEC_WEBSOCKET_ACCEPT, accept_key);
                }
                // The stream of the connection ends with the simulator, and this task with it.
                tokio::spawn(async move {
                    if let Ok(upgraded) = upgraded.await {
                        connection.serve(TokioIo::new(upgraded)).await;
                    }
                });
                Ok(response)
            }
        }
    };
    let disruption = record_http_call(shared, &["/ticket"]);
    disturb(shared, "/ticket", disruption, run).await
}

/// Records a call that is no method of vim25, and that can have several names. Returns its
/// disruption.
fn record_http_call(shared: &Shared, names: &[&str]) -> Option<Disruption> {
    let disruption = {
        let mut state = shared.lock();
        for name in names {
            state.calls.record(name, None);
        }
        state.fault_plan.take_disruption(names)
    };
    shared.notify();
    disruption
}

/// Runs a call, or the disruption that takes its place.
async fn disturb(
    shared: &Arc<Shared>,
    method: &str,
    mut disruption: Option<Disruption>,
    run: impl Future<Output = Result<Response<Body>, ConnectionCut>>,
) -> Result<Response<Body>, ConnectionCut> {
    while let Some(Disruption::Hook(hook, then)) = disruption {
        hook.run(&Control::new(Arc::clone(shared)));
        disruption = then.map(|then| *then);
    }
    match disruption {
        // The loop before this match has run all hooks, so a hook cannot remain. Only the transfer
        // of a file has a body that can be disturbed.
        None | Some(Disruption::Hook(..) | Disruption::Transfer(_)) => run.await,
        Some(Disruption::Fault(fault)) => Ok(respond_soap(shared, method, Err(fault), None)),
        Some(Disruption::CloseBeforeRunning) => Err(ConnectionCut),
        Some(Disruption::CloseAfterRunning) => {
            run.await?;
            Err(ConnectionCut)
        }
        Some(Disruption::CloseMidAnswer) => Ok(cut_in_half(run.await?).await),
        Some(Disruption::NeverAnswer { run: runs }) => {
            if runs {
                run.await?;
            }
            std::future::pending().await
        }
        Some(Disruption::Answer { status, content_type, body }) => {
            Ok(respond(StatusCode::from_u16(status).unwrap_or(StatusCode::OK), content_type, body))
        }
        Some(Disruption::EmptyAnswer) => {
            Ok(respond_soap(shared, method, soap::empty_answer(method), None))
        }
        Some(Disruption::CloseWhen { run: runs, cancelled }) => {
            if runs {
                run.await?;
            }
            cancelled.cancelled().await;
            Err(ConnectionCut)
        }
        Some(Disruption::HostChange(change)) => {
            Control::new(Arc::clone(shared)).apply(change);
            run.await
        }
        Some(Disruption::Delay(delay)) => {
            shared.clock.sleep(delay).await;
            run.await
        }
    }
}

fn respond_soap(
    shared: &Shared,
    method: &str,
    result: Result<String, super::Fault>,
    cookie: Option<String>,
) -> Response<Body> {
    let (status, body) = match result {
        Ok(body) => (StatusCode::OK, body),
        Err(fault) => (StatusCode::INTERNAL_SERVER_ERROR, soap::fault(&fault)),
    };
    if let Some(on_answer) = shared.on_answer {
        on_answer(method, &body);
    }
    let mut response = respond(status, "text/xml; charset=utf-8", body);
    let cookie =
        cookie.map(|cookie| format!("{COOKIE_NAME}=\"{cookie}\"; Path=/; HttpOnly; Secure;"));
    if let Some(Ok(cookie)) = cookie.map(HeaderValue::try_from) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// Changes the answer so that the connection is closed after half of its body.
async fn cut_in_half(response: Response<Body>) -> Response<Body> {
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let half = bytes.slice(..bytes.len() / 2);
    let parts = stream::iter([Ok(Frame::data(half)), Err(ConnectionCut)]);
    let body: Pin<Box<_>> = Box::pin(parts);
    Response::from_parts(head, BodyExt::boxed(StreamBody::new(body)))
}

fn hex_with_colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

fn header(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// The document `vimServiceVersions.xml`, which lists the API versions that the host supports.
fn versions(api: &str) -> String {
    let prior = PRIOR_VERSIONS.join("</version><version>");
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><namespaces version=\"1.0\"><namespace>\
         <name>urn:vim25</name><version>{api}</version>\
         <priorVersions><version>{prior}</version></priorVersions>\
         </namespace></namespaces>"
    )
}

#[cfg(test)]
mod tests {
    use http::header::{CONNECTION, UPGRADE};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::clock::Clock;
    use crate::simulator::{Scenario, Simulator, SimulatorOptions};

    /// Answers each request with status 101 and then sends back all bytes that it receives.
    async fn echo(
        _: Arc<Shared>,
        _: String,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, ConnectionCut> {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
            tokio::io::copy(&mut reader, &mut writer).await
        });
        let mut response = respond(StatusCode::SWITCHING_PROTOCOLS, "text/plain", String::new());
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("echo"));
        Ok(response)
    }

    #[tokio::test]
    async fn an_upgraded_connection_ends_with_hostd_and_with_the_simulator() {
        let simulator =
            Simulator::start(SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system()))
                .await
                .unwrap();
        let identity = TlsIdentity::generate(&["localhost".to_owned()], false).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shared, stop) = (Arc::clone(&simulator.control().shared), CancellationToken::new());
        let serving = tokio::spawn(serve_with(
            listener,
            identity.acceptor,
            Arc::clone(&shared),
            stop.clone(),
            echo,
        ));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(identity.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = tokio_rustls::TlsConnector::from(Arc::new(client));
        let upgraded = async || {
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = client.connect(name, stream).await.unwrap();
            let request =
                b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"ping").await.unwrap();
            let mut back = [0; 4];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"ping");
            stream
        };
        let mut before_a_restart = upgraded().await;
        std::mem::replace(&mut shared.lock().hostd_lifetime, CancellationToken::new()).cancel();
        assert!(before_a_restart.read_u8().await.is_err());
        let mut before_the_stop = upgraded().await;
        stop.cancel();
        assert!(before_the_stop.read_u8().await.is_err());
        serving.await.unwrap();
        simulator.stop().await;
    }
}
