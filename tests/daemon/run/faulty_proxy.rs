//! A proxy between `otter run` and the daemon that replaces or drops the answers to one kind of
//! request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The fault for a request of this kind.
#[derive(Clone)]
pub enum Fault {
    /// The proxy forwards the first request, and closes the connection instead of forwarding the
    /// answer.
    Cut,
    /// The proxy does not forward the first `times` requests, and answers them itself.
    Refuse { times: usize, answer: String },
}

pub struct FaultyProxy {
    pub url: String,
    /// The number of faults so far.
    pub faults: Arc<AtomicUsize>,
}

impl FaultyProxy {
    /// Starts the proxy. Requests whose first line starts with `request` get the fault.
    pub async fn start(daemon: &str, request: &'static str, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let faults = Arc::default();
        let (daemon, counter) = (daemon.to_owned(), Arc::clone(&faults));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let daemon = TcpStream::connect(&daemon).await.unwrap();
                tokio::spawn(relay(client, daemon, request, fault.clone(), Arc::clone(&counter)));
            }
        });
        Self { url, faults }
    }
}

async fn relay(
    mut client: TcpStream,
    mut daemon: TcpStream,
    request: &str,
    fault: Fault,
    faults: Arc<AtomicUsize>,
) {
    let (mut request_bytes, mut answer_bytes) = ([0; 16_384], [0; 16_384]);
    let mut is_cut_next = false;
    loop {
        tokio::select! {
            read = client.read(&mut request_bytes) => {
                let Ok(length @ 1..) = read else { return };
                if request_bytes[..length].starts_with(request.as_bytes()) {
                    match &fault {
                        Fault::Cut => is_cut_next = true,
                        Fault::Refuse { times, answer } if faults.load(Ordering::SeqCst) < *times => {
                            faults.fetch_add(1, Ordering::SeqCst);
                            client.write_all(answer.as_bytes()).await.unwrap();
                            continue;
                        }
                        Fault::Refuse { .. } => {}
                    }
                }
                daemon.write_all(&request_bytes[..length]).await.unwrap();
            }
            read = daemon.read(&mut answer_bytes) => {
                let Ok(length @ 1..) = read else { return };
                if is_cut_next && faults.swap(1, Ordering::SeqCst) == 0 {
                    return;
                }
                is_cut_next = false;
                client.write_all(&answer_bytes[..length]).await.unwrap();
            }
        }
    }
}
