//! Raw bytes on a TCP connection, for requests that no HTTP client would send.

use std::net::SocketAddr;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Answer, TIMEOUT, document};

/// A TCP connection, and the bytes sent on it.
pub struct RawConnection {
    stream: TcpStream,
    sent: Vec<u8>,
}

impl RawConnection {
    pub async fn open(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), sent: Vec::new() }
    }

    /// Sends bytes. The server may have closed the connection already.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(TIMEOUT, self.stream.write_all(bytes)).await.expect(
            "the server to read the \
                bytes",
        );
        self.sent.extend_from_slice(bytes);
    }

    /// All bytes until the server closes the connection.
    pub async fn until_closed(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        // A reset after the answer also ends the connection.
        let _ = timeout(TIMEOUT, self.stream.read_to_end(&mut all))
            .await
            .expect("the connection to be closed");
        all
    }

    /// The only answer on a connection that the server closes after it, checked against the
    /// document.
    pub async fn answer(&mut self) -> Answer {
        let all = self.until_closed().await;
        let end = all.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in lines.map(|line| line.split_once(": ").unwrap()) {
            headers
                .append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
        }
        let answer = Answer::from_parts(status, headers, all[end + 4..].to_vec());
        let (method, path) = self.request_line().unwrap_or_default();
        document::check(&method, &path, &answer);
        answer
    }

    /// The method and path of the request. `None` if the bytes were not a valid request.
    fn request_line(&self) -> Option<(String, String)> {
        let sent = std::str::from_utf8(&self.sent).ok()?;
        let mut head = sent.split("\r\n\r\n").next()?.split("\r\n");
        let (method, target) = head.next()?.strip_suffix(" HTTP/1.1")?.split_once(' ')?;
        let path = target.split('?').next()?;
        head.all(|line| line.contains(':')).then(|| (method.to_owned(), path.to_owned()))
    }
}

/// Sends bytes on a new connection and returns its only answer.
pub async fn send_raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Answer {
    let mut connection = RawConnection::open(address).await;
    connection.send(bytes.as_ref()).await;
    connection.answer().await
}
