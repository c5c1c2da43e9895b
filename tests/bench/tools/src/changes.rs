//! Changes machines on the host and measures when otter shows the change: in a GET, and in a stream
//! of events.
//!
//! otter's connections to the host lead through this program, which notes when the first bytes
//! after a change pass: then the host has sent it. The bytes pass unchanged and encrypted.
//!
//! ```text
//!  otter ──TLS──► proxy (this program) ──TLS──► host
//!    ▲ GET, stream      │ notes the time           ▲ PowerOnVM_Task
//!    └──────────────────┴──────────────────────────┘
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::host::{Host, HostArguments};
use super::http::{self, Connection};

/// The pause before each change, in which the traffic of the last one ends.
const PAUSE: Duration = Duration::from_millis(20);

/// How long otter has to become ready, and to show a change.
const TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Args, Debug)]
pub struct ChangesArguments {
    #[command(flatten)]
    host: HostArguments,
    /// The real address of the host, for the proxy.
    #[arg(long)]
    to: SocketAddr,
    /// Where the proxy listens, which otter takes for the host.
    #[arg(long)]
    proxy: SocketAddr,
    /// otter, which is started after this program.
    #[arg(long)]
    server: SocketAddr,
    /// The machines to change. They are off.
    #[arg(long, value_delimiter = ',', required = true)]
    machines: Vec<String>,
    /// The number of changes; half are observed by GET, half by a stream.
    #[arg(long, default_value_t = 100)]
    count: usize,
}

/// When the host sent the first bytes after a change, in nanoseconds since the start; 0: not yet.
#[derive(Clone)]
struct SentAt {
    start: Instant,
    nanoseconds: Arc<AtomicU64>,
}

/// The bytes of the stream of events, and when they arrived.
type Events = mpsc::Receiver<(Instant, Vec<u8>)>;

/// Makes the changes. The JSON has the delays of both ways in microseconds.
pub async fn run(arguments: ChangesArguments) -> anyhow::Result<Value> {
    let ChangesArguments { host, to, proxy, server, machines, count } = arguments;
    let sent = SentAt { start: Instant::now(), nanoseconds: Arc::default() };
    let listener =
        TcpListener::bind(proxy).await.with_context(|| format!("cannot listen on {proxy}"))?;
    tokio::spawn(forward(listener, to, sent.clone()));
    println!("ready");
    wait_until_ready(server).await?;
    let mut host = Host::log_in(&host).await?;
    let mut reader = Connection::open(server).await?;
    let mut events = follow_events(server).await?;
    let (mut by_get, mut by_stream) = (Vec::new(), Vec::new());
    for number in 0..count {
        tokio::time::sleep(PAUSE).await;
        while events.try_recv().is_ok() {}
        // Each machine is changed twice in a row: on, observed by GET, and off, by the stream.
        let machine = &machines[(number / 2) % machines.len()];
        sent.forget();
        if number.is_multiple_of(2) {
            let seen = seen_by_get(&mut reader, machine, "\"power_state\":\"on\"");
            let ((), seen) = tokio::try_join!(change(&mut host, machine, true), seen)?;
            by_get.push(sent.delay_until(seen)?);
        } else {
            let seen = seen_in_stream(&mut events, machine, "\"power_state\":\"off\"");
            let ((), seen) = tokio::try_join!(change(&mut host, machine, false), seen)?;
            by_stream.push(sent.delay_until(seen)?);
        }
    }
    Ok(json!({"get": by_get, "stream": by_stream}))
}

async fn change(host: &mut Host, machine: &str, on: bool) -> anyhow::Result<()> {
    host.start_power(machine, on).await.map(drop)
}

async fn wait_until_ready(server: SocketAddr) -> anyhow::Result<()> {
    let ready = http::get("/readyz?host=true", "");
    let waiting = async {
        loop {
            if let Ok(mut connection) = Connection::open(server).await
                && let Ok(answer) = connection.exchange(&ready).await
                && answer.status == 200
            {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(TIMEOUT, waiting).await.context("otter did not become ready")
}

/// Reads the machine again and again until it has this power state.
async fn seen_by_get(
    reader: &mut Connection<TcpStream>,
    machine: &str,
    power: &str,
) -> anyhow::Result<Instant> {
    let request = http::get(&format!("/v1/machines/{machine}"), "");
    let started = Instant::now();
    loop {
        let body = reader.exchange(&request).await?.expect(200)?;
        let at = Instant::now();
        if contains(&body, power) {
            return Ok(at);
        }
        if at - started > TIMEOUT {
            bail!("machine {machine} was not seen with {power}");
        }
    }
}

/// Waits for the event with this power state of the machine.
async fn seen_in_stream(
    events: &mut Events,
    machine: &str,
    power: &str,
) -> anyhow::Result<Instant> {
    let id = format!("\"id\":\"{machine}\"");
    let mut text = String::new();
    let seen = async {
        loop {
            let (at, bytes) = events.recv().await.context("the stream of events ended")?;
            text.push_str(&String::from_utf8_lossy(&bytes));
            if text.lines().any(|line| line.contains(&id) && line.contains(power)) {
                return anyhow::Ok(at);
            }
        }
    };
    tokio::time::timeout(TIMEOUT, seen)
        .await
        .with_context(|| format!("the stream did not show {power} of machine {machine}"))?
}

/// Follows the changes of machines on a separate connection.
async fn follow_events(server: SocketAddr) -> anyhow::Result<Events> {
    let mut connection = Connection::open(server).await?;
    let path = "/v1/events?types=machine.changed";
    connection.send(&http::get(path, "accept: application/x-ndjson\r\n")).await?;
    connection.start_of_stream().await?;
    let (sender, receiver) = mpsc::channel(1_024);
    tokio::spawn(async move {
        // The stream ends with otter.
        while let Ok(bytes) = connection.next_bytes().await {
            if sender.send((Instant::now(), bytes)).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Accepts otter's connections and passes their bytes on.
async fn forward(listener: TcpListener, to: SocketAddr, sent: SentAt) {
    while let Ok((inner, _)) = listener.accept().await {
        let sent = sent.clone();
        tokio::spawn(async move {
            let outer = TcpStream::connect(to).await?;
            inner.set_nodelay(true)?;
            outer.set_nodelay(true)?;
            let (from_otter, to_otter) = inner.into_split();
            let (from_host, to_host) = outer.into_split();
            tokio::spawn(pass(from_otter, to_host, None));
            pass(from_host, to_otter, Some(sent)).await
        });
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    sent: Option<SentAt>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        if let Some(sent) = &sent {
            sent.note();
        }
        to.write_all(&buffer[..count]).await?;
    }
}

impl SentAt {
    fn forget(&self) {
        self.nanoseconds.store(0, Ordering::Release);
    }

    /// Notes that the host sends now, unless it sent earlier since `forget`.
    fn note(&self) {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // An error means that an earlier time is noted already.
        let _ = self.nanoseconds.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The time from the first bytes of the host until `seen`, in microseconds.
    fn delay_until(&self, seen: Instant) -> anyhow::Result<f64> {
        let noted = self.nanoseconds.load(Ordering::Acquire);
        if noted == 0 {
            bail!("otter showed a change that the host had not sent");
        }
        let sent = self.start + Duration::from_nanos(noted);
        Ok(super::host::micros(seen.saturating_duration_since(sent)))
    }
}

fn contains(text: &[u8], part: &str) -> bool {
    text.windows(part.len()).any(|bytes| bytes == part.as_bytes())
}
