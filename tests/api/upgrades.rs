//! Connections that are upgraded after a 101: their bytes, their count, and the shutdown of the
//! server.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::get;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use otter::api::HttpSettings;
use otter::api::listener::Listener;
use otter::api::serve::serve;
use otter::clock::Clock;
use otter::supervisor::Supervisor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::settings;

/// A server whose upgraded connections echo the received bytes.
struct Server {
    address: SocketAddr,
    clock: Clock,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(max_connections: usize) -> Self {
        let listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.address().unwrap();
        let (clock, stop) = (Clock::stepped(Timestamp::UNIX_EPOCH), CancellationToken::new());
        let router = Router::new().route("/echo", get(echo)).route("/plain", get(async || "plain"));
        let settings = HttpSettings { max_connections, ..settings("https://127.0.0.1:1").http };
        let supervisor = Supervisor::new(clock.clone(), Duration::from_secs(10));
        let task = tokio::spawn(serve(
            vec![listener],
            router,
            settings,
            clock.clone(),
            supervisor,
            stop.clone(),
        ));
        Self { address, clock, stop, task }
    }

    /// Opens a connection and upgrades it.
    async fn upgraded(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request =
            "GET /echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        stream
    }
}

async fn echo(mut request: Request) -> Response {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
        tokio::io::copy(&mut reader, &mut writer).await
    });
    Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .body(Body::empty())
        .unwrap()
}

async fn exchange(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&back), text);
}

#[tokio::test]
async fn bytes_that_look_like_an_error_of_hyper_are_unchanged() {
    let server = Server::start(10).await;
    let mut stream = server.upgraded().await;
    for text in ["hello", "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", "bye"] {
        exchange(&mut stream, text).await;
    }
}

#[tokio::test]
async fn an_upgraded_connection_counts_as_busy_until_it_ends() {
    let server = Server::start(1).await;
    let mut stream = server.upgraded().await;
    let mut second = TcpStream::connect(server.address).await.unwrap();
    let request = b"GET /plain HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    second.write_all(request).await.unwrap();
    let mut answer = String::new();
    // otter does not close the first connection, so the second waits.
    for _ in 0..20 {
        exchange(&mut stream, "ping").await;
        let mut byte = [0];
        assert!(second.try_read(&mut byte).is_err(), "the second was answered");
    }
    drop(stream);
    second.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("plain"), "{answer}");
}

#[tokio::test]
async fn an_upgraded_connection_ends_with_the_server() {
    let server = Server::start(10).await;
    let mut stream = server.upgraded().await;
    exchange(&mut stream, "ping").await;
    server.stop.cancel();
    let Server { clock, mut task, .. } = server;
    tokio::task::yield_now().await;
    assert!(!task.is_finished(), "the server waits for the connection");
    // The user of the connection does not stop by itself.
    loop {
        tokio::select! {
            ended = &mut task => break ended.unwrap(),
            () = tokio::task::yield_now() => clock.advance(Duration::from_millis(100)),
        }
        assert!(clock.elapsed() < Duration::from_mins(1), "the server does not end");
    }
    assert_eq!(stream.read(&mut [0]).await.ok().unwrap_or_default(), 0);
}

#[tokio::test]
async fn an_upgraded_connection_that_ends_in_time_ends_the_server_at_once() {
    let server = Server::start(10).await;
    let stream = server.upgraded().await;
    server.stop.cancel();
    drop(stream);
    // The clock of the server does not advance.
    server.task.await.unwrap();
}
