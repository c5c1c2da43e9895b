//! Signals to the daemon as values. They come from the operating system, or from another program in
//! which the daemon runs.

use std::fmt;
use std::io;

use tokio::signal::unix::{Signal as Source, SignalKind, signal};
use tokio::sync::mpsc;

/// A signal that the daemon handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Terminate,
    Interrupt,
    Hangup,
}

impl fmt::Display for Signal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Hangup => "SIGHUP",
        })
    }
}

/// A source from which the daemon gets its signals.
#[derive(Debug)]
pub struct Signals(SignalSource);

#[derive(Debug)]
enum SignalSource {
    System { terminate: Source, interrupt: Source, hangup: Source },
    Sender(mpsc::Receiver<Signal>),
}

impl Signals {
    /// Begins to receive the signals of this process. From now on these signals do not end the
    /// process by themselves.
    ///
    /// # Errors
    /// Fails if the operating system refuses to register a handler.
    pub fn install() -> io::Result<Self> {
        Ok(Self(SignalSource::System {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        }))
    }

    /// Makes a source of signals that receives them from a channel, for a daemon that runs within
    /// another program.
    #[must_use]
    pub fn from_sender() -> (mpsc::Sender<Signal>, Self) {
        let (sender, receiver) = mpsc::channel(4);
        (sender, Self(SignalSource::Sender(receiver)))
    }

    /// Waits for SIGTERM or SIGINT.
    pub async fn wait_for_termination(&mut self) {
        self.next_termination().await;
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> Signal {
        match &mut self.0 {
            SignalSource::System { terminate, interrupt, hangup } => tokio::select! {
                _ = terminate.recv() => Signal::Terminate,
                _ = interrupt.recv() => Signal::Interrupt,
                _ = hangup.recv() => Signal::Hangup,
            },
            SignalSource::Sender(receiver) => match receiver.recv().await {
                Some(signal) => signal,
                None => std::future::pending().await,
            },
        }
    }

    /// Waits for SIGTERM or SIGINT.
    pub(super) async fn next_termination(&mut self) {
        while self.next().await == Signal::Hangup {}
    }
}
