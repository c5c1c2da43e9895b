//! Bytes on a bare connection, for what no HTTP client would send.

use std::net::SocketAddr;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Answer, PATIENCE};

/// A bare connection.
pub struct Wire(TcpStream);

impl Wire {
    pub async fn to(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Sends bytes; the other side may have closed already.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.0.write_all(bytes)).await.expect("the bytes to be taken");
    }

    /// Everything that comes until the other side closes.
    pub async fn until_closed(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        // A reset after the answer is an end as well.
        let _ = timeout(PATIENCE, self.0.read_to_end(&mut all)).await.expect("the connection to be closed");
        all
    }

    /// The one answer of a connection that is closed after it.
    pub async fn answer(&mut self) -> Answer {
        let all = self.until_closed().await;
        let end = all.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in lines.map(|line| line.split_once(": ").unwrap()) {
            headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
        }
        Answer::from_parts(status, headers, all[end + 4..].to_vec())
    }
}

/// Sends bytes on a connection of their own and takes its one answer.
pub async fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Answer {
    let mut wire = Wire::to(address).await;
    wire.send(bytes.as_ref()).await;
    wire.answer().await
}
