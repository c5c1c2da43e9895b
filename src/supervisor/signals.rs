//! Signals as values: the process's own, or those of a program that has a daemon within it.

use std::fmt;
use std::io;

use tokio::signal::unix::{Signal as Source, SignalKind, signal};
use tokio::sync::mpsc;

/// What the outside may say.
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

/// Where signals come from.
#[derive(Debug)]
pub struct Signals(SignalSource);

#[derive(Debug)]
enum SignalSource {
    System { terminate: Source, interrupt: Source, hangup: Source },
    Sender(mpsc::Receiver<Signal>),
}

impl Signals {
    /// Those of the process, which from now on do not end it by themselves.
    ///
    /// # Errors
    /// Where the operating system refuses.
    pub fn install() -> io::Result<Self> {
        Ok(Self(SignalSource::System {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        }))
    }

    /// Those that are sent here, for a daemon within another program.
    #[must_use]
    pub fn from_sender() -> (mpsc::Sender<Signal>, Self) {
        let (sender, receiver) = mpsc::channel(4);
        (sender, Self(SignalSource::Sender(receiver)))
    }

    /// Waits until the process is asked to end.
    pub async fn wait_for_termination(&mut self) {
        self.next_termination().await;
    }

    /// Waits for the next one.
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

    /// Waits for one that asks for the end.
    pub(super) async fn next_termination(&mut self) {
        while self.next().await == Signal::Hangup {}
    }
}
