//! The HTTP client of a crowd client. It opens a connection for each call and repeats the call
//! until the running daemon responds. The file `address` has the address of the daemon; it does not
//! exist while no daemon runs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// The largest number of attempts of a call, at least 100 ms apart.
const ATTEMPTS: u32 = 600;

/// The read timeout. No call waits longer than a third of it.
const READ_TIMEOUT: Duration = Duration::from_secs(15);

/// A client for the running daemon.
pub struct HttpClient {
    pub address: PathBuf,
}

/// A response.
pub struct Response {
    pub status: u16,
    pub head: String,
    pub json: Value,
}

/// A request.
pub struct Request<'a> {
    pub method: &'a str,
    pub path: String,
    pub headers: Vec<(&'a str, String)>,
    pub body: Option<Value>,
}

impl HttpClient {
    /// Makes a call, which must be safe to repeat, and returns its response.
    pub fn call(&self, request: &Request<'_>) -> Response {
        for _ in 0..ATTEMPTS {
            match self.attempt(request) {
                // 503: the inventory is not loaded. 504: the wait timed out.
                Ok(response) if response.status != 503 && response.status != 504 => {
                    return response;
                }
                Ok(response) if response.status == 504 => {}
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
        panic!("no response to {} {}", request.method, request.path);
    }

    fn attempt(&self, request: &Request<'_>) -> std::io::Result<Response> {
        let Request { method, path, headers, body } = request;
        let mut stream = TcpStream::connect(std::fs::read_to_string(&self.address)?)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        let body = body.as_ref().map(Value::to_string).unwrap_or_default();
        let mut lines = vec![
            format!("{method} {path} HTTP/1.1"),
            "host: localhost".to_owned(),
            "connection: close".to_owned(),
        ];
        lines.extend(headers.iter().map(|(name, value)| format!("{name}: {value}")));
        if !body.is_empty() {
            lines.push("content-type: application/json".to_owned());
            lines.push(format!("content-length: {}", body.len()));
        }
        stream.write_all(format!("{}\r\n\r\n{body}", lines.join("\r\n")).as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        parse(&text).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::UnexpectedEof))
    }
}

/// Parses a complete response. `None` if it is incomplete.
fn parse(text: &str) -> Option<Response> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Response {
        status,
        head: head.to_ascii_lowercase(),
        json: serde_json::from_str(body).ok()?,
    })
}
