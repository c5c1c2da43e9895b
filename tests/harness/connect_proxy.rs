//! An HTTP proxy that opens tunnels (CONNECT), records their targets, and can refuse them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The proxy. Dropping it stops the proxy.
pub struct ConnectProxy {
    address: SocketAddr,
    state: Arc<Mutex<ProxyState>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct ProxyState {
    /// The targets of all requests, including refused ones.
    targets: Vec<String>,
    /// The addresses of names that only the proxy knows.
    names: BTreeMap<String, SocketAddr>,
    /// The status line of a refusal, such as `403 Forbidden`.
    refusal: Option<&'static str>,
    /// The required value of `Proxy-Authorization`.
    authorization: Option<&'static str>,
}

impl ConnectProxy {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state: Arc<Mutex<ProxyState>> = Arc::default();
        let serving = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let state = Arc::clone(&state);
                    tokio::spawn(async move {
                        let _: std::io::Result<()> = serve(client, &state).await;
                    });
                }
            }
        });
        Self { address, state, serving }
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Gives a target such as `esx.invalid:443` an address that only the proxy knows.
    pub fn set_name(&self, target: &str, address: SocketAddr) {
        self.lock().names.insert(target.to_owned(), address);
    }

    /// Refuses every tunnel with this status and reason. `None` accepts tunnels again.
    pub fn refuse(&self, refusal: Option<&'static str>) {
        self.lock().refusal = refusal;
    }

    /// Requires this value of `Proxy-Authorization`.
    pub fn require_authorization(&self, value: &'static str) {
        self.lock().authorization = Some(value);
    }

    /// The targets of all requests, including refused ones.
    pub fn targets(&self) -> Vec<String> {
        self.lock().targets.clone()
    }

    /// Takes the targets of the requests since the last call.
    pub fn take_targets(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().targets)
    }

    fn lock(&self) -> MutexGuard<'_, ProxyState> {
        self.state.lock().unwrap()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(mut client: TcpStream, state: &Mutex<ProxyState>) -> std::io::Result<()> {
    let mut header = Vec::new();
    while !header.ends_with(b"\r\n\r\n") {
        header.push(client.read_u8().await?);
    }
    let header = String::from_utf8(header).unwrap();
    let mut first_line = header.lines().next().unwrap().split(' ');
    let (method, target) = (first_line.next().unwrap(), first_line.next().unwrap());
    let authorization = header.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("proxy-authorization").then_some(value)
    });
    let opening = {
        let mut state = state.lock().unwrap();
        state.targets.push(target.to_owned());
        if method != "CONNECT" {
            Err("405 Method Not Allowed")
        } else if let Some(refusal) = state.refusal {
            Err(refusal)
        } else if state.authorization.is_some_and(|required| authorization != Some(required)) {
            Err("407 Proxy Authentication Required")
        } else {
            Ok(state.names.get(target).map_or_else(|| target.to_owned(), ToString::to_string))
        }
    };
    let refuse = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    let address = match opening {
        Ok(address) => address,
        Err(status) => return client.write_all(refuse(status).as_bytes()).await,
    };
    let Ok(mut server) = TcpStream::connect(address).await else {
        return client.write_all(refuse("502 Bad Gateway").as_bytes()).await;
    };
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}
