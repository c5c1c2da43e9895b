//! A proxy between a backend and a host that can break their connections. It decrypts the TLS, so
//! that it can break the connection of one given call.

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

/// The proxy. Dropping it breaks all connections.
pub struct Proxy {
    pub address: SocketAddr,
    link: Arc<Link>,
    serving: JoinHandle<()>,
}

struct Link {
    host: SocketAddr,
    /// The TLS server for the backend.
    acceptor: TlsAcceptor,
    /// The TLS client to the host.
    connector: TlsConnector,
    state: Mutex<ProxyState>,
}

#[derive(Default)]
struct ProxyState {
    away: bool,
    /// The method whose next call is cut.
    cut: Option<(&'static str, ConnectionCut)>,
    /// Cancelled to break all present connections.
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

    /// Breaks all connections. While `away` is set, it breaks new connections too.
    pub fn set_away(&self, away: bool) {
        let mut state = self.link.lock();
        state.away = away;
        std::mem::take(&mut state.connected).cancel();
    }

    /// Breaks the connection of the next call of this method.
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

    /// Copies both ways until one side closes or a call is cut.
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
                    if send(&mut host, &to_host[..length]).await.is_err() {
                        return;
                    }
                }
                read = host.read(&mut to_backend) => {
                    let Ok(length @ 1..) = read else { return };
                    // The host answers, so the call has run.
                    if drop_answers || send(&mut backend, &to_backend[..length]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Takes the planned cut if `sent` is the request of that call. A request is small and arrives
    /// in one read.
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

async fn send<W: AsyncWrite + Unpin>(to: &mut W, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// Presents a self-signed certificate.
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
