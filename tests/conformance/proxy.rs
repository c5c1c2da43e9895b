//! A wire between a backend and a host that can be cut: it knows nothing of what it carries.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use otter::hypervisor::conformance::Cut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The wire. Dropping it cuts it.
pub struct Proxy {
    pub address: SocketAddr,
    wire: Arc<Wire>,
    serving: JoinHandle<()>,
}

struct Wire {
    host: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    away: bool,
    /// What happens to whatever the backend sends next.
    cut: Option<Cut>,
    /// Of the connections that there are.
    connected: CancellationToken,
}

impl Proxy {
    pub async fn to(host: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let wire = Arc::new(Wire { host, state: Mutex::default() });
        let serving = tokio::spawn({
            let wire = Arc::clone(&wire);
            async move {
                while let Ok((backend, _)) = listener.accept().await {
                    let wire = Arc::clone(&wire);
                    tokio::spawn(async move { wire.carry(backend).await });
                }
            }
        });
        Ok(Self { address, wire, serving })
    }

    /// Cuts what is connected, and whatever connects until the return.
    pub fn set_away(&self, away: bool) {
        let mut state = self.wire.lock();
        state.away = away;
        std::mem::take(&mut state.connected).cancel();
    }

    /// Cuts the connection by which the backend sends something next.
    pub fn cut_next(&self, cut: Cut) {
        self.wire.lock().cut = Some(cut);
    }
}

impl Wire {
    async fn carry(&self, backend: TcpStream) {
        let connected = {
            let state = self.lock();
            if state.away {
                return;
            }
            state.connected.clone()
        };
        let Ok(host) = TcpStream::connect(self.host).await else { return };
        let _: Option<()> = connected.run_until_cancelled(self.pump(backend, host)).await;
    }

    /// Both ways, until either ends or it is cut.
    async fn pump(&self, mut backend: TcpStream, mut host: TcpStream) {
        let (mut there, mut back) = (vec![0; 16 << 10], vec![0; 16 << 10]);
        let mut mute = false;
        loop {
            tokio::select! {
                read = backend.read(&mut there) => {
                    let Ok(length @ 1..) = read else { return };
                    match self.lock().cut.take() {
                        Some(Cut::BeforeItRuns) => return,
                        Some(Cut::AfterItRan) => mute = true,
                        None => {}
                    }
                    if host.write_all(&there[..length]).await.is_err() {
                        return;
                    }
                }
                read = host.read(&mut back) => {
                    let Ok(length @ 1..) = read else { return };
                    // The answer is there, so it ran.
                    if mute || backend.write_all(&back[..length]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
        self.wire.lock().connected.cancel();
    }
}
