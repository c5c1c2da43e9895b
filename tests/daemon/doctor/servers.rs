//! Servers that `otter doctor` may find in the place of a host. They end with the test.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A connection of a client.
pub struct Client(TcpStream);

impl Client {
    /// What the client sends next; empty at the end of the connection.
    pub async fn receive(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 16];
        let length = self.0.read(&mut bytes).await.unwrap_or(0);
        bytes.truncate(length);
        bytes
    }

    /// Waits until the client has sent something, and leaves it unread.
    pub async fn has_bytes(&self) {
        let _ = self.0.peek(&mut [0]).await;
    }

    /// Sends bytes. The client may be gone.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }
}

/// A server that handles each connection with this function and then closes it.
pub async fn raw_server<H>(handle: impl Fn(Client) -> H + Send + 'static) -> SocketAddr
where
    H: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(Client(stream)));
        }
    });
    address
}

/// A web server that does not speak vim25: it answers every request with this status and body.
pub async fn web_server(status: u16, body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let status = StatusCode::from_u16(status).unwrap();
    let router = axum::Router::new().fallback(async move || (status, body));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A server with TLS that identifies itself as a product of VMware, and does nothing else.
pub struct TlsServer {
    pub url: String,
    pub fingerprint: String,
}

impl TlsServer {
    /// `api_type` is `HostAgent` or `VirtualCenter`.
    pub async fn of_product(api_type: &'static str) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let router =
            axum::Router::new().fallback(async move |request| answer(api_type, request).await);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = TowerToHyperService::new(router);
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { url, fingerprint: otter::esx::fingerprint(made.cert.der()).to_string() }
    }
}

async fn answer(api_type: &str, request: Request<Body>) -> Response<Body> {
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let body = String::from_utf8_lossy(&body);
    if !body.contains("<RetrieveServiceContent") {
        return Response::builder().status(404).body(Body::empty()).unwrap();
    }
    let content = format!(
        "<returnval><rootFolder type=\"Folder\">root</rootFolder>\
         <propertyCollector type=\"PropertyCollector\">pc</propertyCollector>\
         <viewManager type=\"ViewManager\">vm</viewManager>\
         <about><fullName>Product</fullName><version>8.0.3</version><build>1</build>\
         <apiType>{api_type}</apiType><apiVersion>8.0.3.0</apiVersion></about>\
         <sessionManager type=\"SessionManager\">sm</sessionManager></returnval>"
    );
    let envelope = format!(
        "<E:Envelope xmlns:E=\"http://schemas.xmlsoap.org/soap/envelope/\"><E:Body>\
         <RetrieveServiceContentResponse xmlns=\"urn:vim25\">{content}\
         </RetrieveServiceContentResponse></E:Body></E:Envelope>"
    );
    Response::builder().body(Body::from(envelope)).unwrap()
}
