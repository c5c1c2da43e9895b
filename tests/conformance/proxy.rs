//! A wire between a backend and a host that can be cut. It takes the TLS off on its way, so that it
//! is the call that is meant which is cut, and not whatever else the backend says at that moment.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use otter::domain::verify::Verify;
use otter::esx::client_config;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::suite::ConnectionCut;

/// The wire. Dropping it cuts it.
pub struct Proxy {
    pub address: SocketAddr,
    link: Arc<Link>,
    serving: JoinHandle<()>,
}

struct Link {
    host: SocketAddr,
    /// The host's end of it, as the backend sees it.
    acceptor: TlsAcceptor,
    /// The backend's end of it, as the host sees it.
    connector: TlsConnector,
    state: Mutex<ProxyState>,
}

#[derive(Default)]
struct ProxyState {
    away: bool,
    /// The method of the call that is cut next.
    cut: Option<(&'static str, ConnectionCut)>,
    /// Of the connections that there are.
    connected: CancellationToken,
}

impl Proxy {
    pub async fn start(host: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let link = Arc::new(Link {
            host,
            acceptor: acceptor()?,
            connector: TlsConnector::from(Arc::new(client_config(&Verify::Off)?)),
            state: Mutex::default(),
        });
        let serving = tokio::spawn({
            let link = Arc::clone(&link);
            async move {
                while let Ok((backend, _)) = listener.accept().await {
                    let link = Arc::clone(&link);
                    tokio::spawn(async move { link.serve_connection(backend).await });
                }
            }
        });
        Ok(Self { address, link, serving })
    }

    /// Cuts what is connected, and whatever connects until the return.
    pub fn set_away(&self, away: bool) {
        let mut state = self.link.lock();
        state.away = away;
        std::mem::take(&mut state.connected).cancel();
    }

    /// Cuts the connection by which the backend calls this method next.
    pub fn cut_next(&self, method: &'static str, cut: ConnectionCut) {
        self.link.lock().cut = Some((method, cut));
    }
}

impl Link {
    async fn serve_connection(&self, backend: TcpStream) {
        let connected = {
            let state = self.lock();
            if state.away {
                return;
            }
            state.connected.clone()
        };
        let _: Option<Result<()>> = connected.run_until_cancelled(self.connect(backend)).await;
    }

    async fn connect(&self, backend: TcpStream) -> Result<()> {
        let backend = self.acceptor.accept(backend).await?;
        let host = TcpStream::connect(self.host).await?;
        let host = self.connector.connect(ServerName::from(self.host.ip()), host).await?;
        self.copy_both_ways(backend, host).await;
        Ok(())
    }

    /// Both ways, until either ends or it is cut.
    async fn copy_both_ways<B, H>(&self, mut backend: B, mut host: H)
    where
        B: AsyncRead + AsyncWrite + Unpin,
        H: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut to_host, mut to_backend) = (vec![0; 16 << 10], vec![0; 16 << 10]);
        let mut drop_answers = false;
        loop {
            tokio::select! {
                read = backend.read(&mut to_host) => {
                    let Ok(length @ 1..) = read else { return };
                    match self.take_cut(&to_host[..length]) {
                        Some(ConnectionCut::BeforeItRuns) => return,
                        Some(ConnectionCut::AfterItRan) => drop_answers = true,
                        None => {}
                    }
                    if host.write_all(&to_host[..length]).await.is_err() || host.flush().await.is_err() {
                        return;
                    }
                }
                read = host.read(&mut to_backend) => {
                    let Ok(length @ 1..) = read else { return };
                    // The answer is there, so it ran.
                    if drop_answers || backend.write_all(&to_backend[..length]).await.is_err() || backend.flush().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Whether what is sent is the call to cut: a request is small, and is sent as one.
    fn take_cut(&self, sent: &[u8]) -> Option<ConnectionCut> {
        let mut state = self.lock();
        let named = |method: &str| sent.windows(method.len()).any(|part| part == method.as_bytes());
        state.cut.take_if(|(method, _)| named(method)).map(|(_, cut)| cut)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ProxyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
        self.link.lock().connected.cancel();
    }
}

/// Shows a certificate that nobody knows.
fn acceptor() -> Result<TlsAcceptor> {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .context("a certificate")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
