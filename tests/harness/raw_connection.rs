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

    /// Reads the only answer on the connection, which the server closes after the answer. Checks
    /// the answer against the OpenAPI document.
    pub async fn answer(&mut self) -> Answer {
        let all = self.until_closed().await;
        let end = all.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        self.checked_answer(&all[..end], all[end + 4..].to_vec())
    }

    /// The next answer, whose body has a `Content-Length`, on a connection that stays open. All
    /// requests of the connection must be the same.
    pub async fn next_answer(&mut self) -> Answer {
        let reading = timeout(TIMEOUT, async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.stream.read_u8().await.expect("a whole head"));
            }
            head.truncate(head.len() - 4);
            let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let length = text.split("content-length: ").nth(1).expect("a length");
            let length = length.split("\r\n").next().unwrap().parse().unwrap();
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await.unwrap();
            (head, body)
        });
        let (head, body) = reading.await.expect("an answer");
        self.checked_answer(&head, body)
    }

    fn checked_answer(&self, head: &[u8], body: Vec<u8>) -> Answer {
        let head = std::str::from_utf8(head).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in lines.map(|line| line.split_once(": ").unwrap()) {
            headers
                .append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
        }
        let answer = Answer::from_parts(status, headers, body);
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
