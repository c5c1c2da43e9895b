//! A connection that speaks telnet, as a stream of the bytes of a serial port.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::telnet::{Identification, Telnet};

/// The bytes that are read from the connection at once.
const READ_SIZE: usize = 16 * 1024;

/// The data that is encoded at once.
const WRITE_SIZE: usize = 16 * 1024;

/// A telnet connection.
#[derive(Debug)]
pub struct TelnetStream {
    stream: TcpStream,
    telnet: Telnet,
    /// What the machine said about itself, if it dialled.
    identification: Option<Identification>,
    /// Data that was received and not read yet.
    received: Vec<u8>,
    /// How much of `received` was read.
    read: usize,
    /// What has to be sent, data and answers.
    sending: Vec<u8>,
    /// How much of `sending` was sent.
    sent: usize,
}

impl TelnetStream {
    /// A connection on which the other side did nothing yet.
    #[must_use]
    pub fn new(stream: TcpStream, telnet: Telnet) -> Self {
        Self::identified(stream, telnet, None, Vec::new())
    }

    /// A connection whose machine has named itself.
    ///
    /// # Parameters
    /// - `received`: the data that came meanwhile.
    #[must_use]
    pub const fn identified(
        stream: TcpStream,
        telnet: Telnet,
        identification: Option<Identification>,
        received: Vec<u8>,
    ) -> Self {
        Self { stream, telnet, identification, received, read: 0, sending: Vec::new(), sent: 0 }
    }

    /// Sends what waits, as far as the connection takes it.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let answers = self.telnet.to_send();
        self.sending.extend(answers);
        while let Some(rest) = self.sending.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let length = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += length;
        }
        self.sending.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for TelnetStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            // Answers must go out also if no one writes.
            if let Poll::Ready(Err(error)) = this.poll_send(context) {
                return Poll::Ready(Err(error));
            }
            if let Some(rest) = this.received.get(this.read..).filter(|rest| !rest.is_empty()) {
                let part = rest.get(..rest.len().min(buffer.remaining())).unwrap_or_default();
                buffer.put_slice(part);
                this.read += part.len();
                return Poll::Ready(Ok(()));
            }
            this.received.clear();
            this.read = 0;
            let mut bytes = [0; READ_SIZE];
            let mut bytes = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut bytes))?;
            if bytes.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let said = this.telnet.receive(bytes.filled(), &mut this.received);
            if let Some(identification) = &mut this.identification {
                for subnegotiation in &said {
                    identification.take(&mut this.telnet, subnegotiation);
                }
            }
        }
    }
}

impl AsyncWrite for TelnetStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_send(context))?;
        let part = bytes.get(..bytes.len().min(WRITE_SIZE)).unwrap_or_default();
        this.telnet.encode(part, &mut this.sending);
        // What is not sent now is sent by the flush.
        if let Poll::Ready(Err(error)) = this.poll_send(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
