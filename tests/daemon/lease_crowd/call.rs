//! HTTP as a client of the crowd speaks it: a connection for each call, made again until the daemon
//! of the moment answers. The file `address` names that daemon, and is not there while there is
//! none.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// How often a call is tried at most, some 100 ms apart at least.
const ATTEMPTS: u32 = 600;

/// How long an answer may take; no call asks to be blocked for longer than a third of it.
const STALLED: Duration = Duration::from_secs(15);

/// A way to whatever daemon there is.
pub struct Line {
    pub address: PathBuf,
}

/// An answer, as far as the crowd minds.
pub struct Answered {
    pub status: u16,
    pub head: String,
    pub json: Value,
}

/// What is asked for.
pub struct Ask<'a> {
    pub method: &'a str,
    pub path: String,
    pub headers: Vec<(&'a str, String)>,
    pub body: Option<Value>,
}

impl Line {
    /// The answer to a call that may be made any number of times.
    pub fn call(&self, ask: &Ask<'_>) -> Answered {
        for _ in 0..ATTEMPTS {
            match self.attempt(ask) {
                // Not loaded yet, or a wait that was too short.
                Ok(answered) if answered.status != 503 && answered.status != 504 => {
                    return answered;
                }
                Ok(answered) if answered.status == 504 => {}
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
        panic!("no answer to {} {}", ask.method, ask.path);
    }

    fn attempt(&self, ask: &Ask<'_>) -> std::io::Result<Answered> {
        let Ask { method, path, headers, body } = ask;
        let mut stream = TcpStream::connect(std::fs::read_to_string(&self.address)?)?;
        stream.set_read_timeout(Some(STALLED))?;
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
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        whole(&answer).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::UnexpectedEof))
    }
}

/// An answer that came whole.
fn whole(answer: &str) -> Option<Answered> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answered {
        status,
        head: head.to_ascii_lowercase(),
        json: serde_json::from_str(body).ok()?,
    })
}
