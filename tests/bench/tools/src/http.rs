//! A client of HTTP/1.1 that costs as little as possible: one connection, one request at a time.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// The room for one read.
const READ: usize = 64 * 1024;

/// An open connection.
pub struct Connection<S> {
    stream: S,
    /// What arrived and is not yet part of an answer.
    received: Vec<u8>,
}

/// A complete HTTP answer.
pub struct Answer {
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    pub body: Vec<u8>,
}

impl Connection<TcpStream> {
    /// Connects.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub const fn new(stream: S) -> Self {
        Self { stream, received: Vec::new() }
    }

    /// Sends a request and reads its answer.
    pub async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        self.send(request).await?;
        self.answer().await
    }

    /// Sends a request. The caller then reads its answer.
    pub async fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(request).await?;
        Ok(self.stream.flush().await?)
    }

    /// Reads an answer.
    pub async fn answer(&mut self) -> anyhow::Result<Answer> {
        let head = self.head().await?;
        let status = status(&head)?;
        let length = match header(&head, "content-length") {
            Some(length) => length.parse().context("Content-Length is not a number")?,
            None if matches!(status, 204 | 304) => 0,
            None => bail!("an answer without Content-Length: {head}"),
        };
        while self.received.len() < length {
            self.receive().await?;
        }
        let rest = self.received.split_off(length);
        let body = std::mem::replace(&mut self.received, rest);
        Ok(Answer { status, head, body })
    }

    /// Reads the head of an answer whose body is a stream.
    pub async fn start_of_stream(&mut self) -> anyhow::Result<()> {
        let head = self.head().await?;
        if status(&head)? != 200 {
            bail!("the stream was refused: {head}");
        }
        Ok(())
    }

    /// The bytes of a stream that have arrived; waits for at least one. They still contain the
    /// sizes of chunks.
    pub async fn next_bytes(&mut self) -> anyhow::Result<Vec<u8>> {
        if self.received.is_empty() {
            self.receive().await?;
        }
        Ok(std::mem::take(&mut self.received))
    }

    async fn head(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(end) = self.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let rest = self.received.split_off(end + 4);
                let head = std::mem::replace(&mut self.received, rest);
                return Ok(String::from_utf8_lossy(&head).into_owned());
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> anyhow::Result<()> {
        self.received.reserve(READ);
        if self.stream.read_buf(&mut self.received).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }
}

impl Answer {
    /// The body, if the status is this one.
    pub fn expect(self, status: u16) -> anyhow::Result<Vec<u8>> {
        if self.status == status {
            return Ok(self.body);
        }
        bail!("{} instead of {status}: {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// A GET request. `headers` are complete lines.
pub fn get(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").into_bytes()
}

/// A POST request with a JSON body.
pub fn post(path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The value of the first header of this name, in lower case.
pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn status(head: &str) -> anyhow::Result<u16> {
    let code = head.split(' ').nth(1).context("an answer without a status")?;
    code.parse().with_context(|| format!("the status {code} is not a number"))
}
