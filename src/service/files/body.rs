//! The body of an upload on its way to the host: each piece is counted and hashed, and a client
//! that stalls or hangs up ends the upload.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::domain::artifact::Sha256Sum;
use crate::domain::failure::{Failure, FailureKind};
use crate::hypervisor::FileBody;

/// What passed through the body so far.
#[derive(Clone, Debug, Default)]
pub struct Passed(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    hash: Sha256,
    /// Why the client's side ended the upload.
    failure: Option<Failure>,
}

impl Passed {
    /// The body, which counts what passes through it.
    ///
    /// # Parameters
    /// - `stall_limit`: how long the client may send nothing.
    /// - `progress`: gets the number of bytes.
    #[must_use]
    pub fn count(
        &self,
        body: FileBody,
        clock: Clock,
        stall_limit: Duration,
        progress: watch::Sender<u64>,
    ) -> FileBody {
        let state = (body, clock, progress, self.clone());
        stream::unfold(state, move |(mut body, clock, progress, passed)| async move {
            let next = tokio::select! {
                biased;
                next = body.next() => next?.map_err(|_| hung_up()),
                () = clock.sleep(stall_limit) => Err(stalled(stall_limit)),
            };
            let piece = match next {
                Ok(bytes) => {
                    progress.send_replace(passed.add(&bytes));
                    Ok(bytes)
                }
                Err(failure) => {
                    passed.state().failure = Some(failure);
                    Err(io::ErrorKind::ConnectionAborted.into())
                }
            };
            Some((piece, (body, clock, progress, passed)))
        })
        .boxed()
    }

    /// The number of bytes and their SHA-256.
    #[must_use]
    pub fn sum(&self) -> (u64, Sha256Sum) {
        let state = self.state();
        (state.bytes, Sha256Sum(state.hash.clone().finalize().into()))
    }

    /// Why the client's side ended the upload. `None` if it did not.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.state().failure.clone()
    }

    /// Reads a whole body and keeps only its hash.
    ///
    /// # Errors
    /// The failure of the client's side.
    pub async fn drain(&self, mut body: FileBody, length: u64) -> Result<(), Failure> {
        while let Some(piece) = body.next().await {
            if piece.is_err() {
                return Err(self.failure().unwrap_or_else(hung_up));
            }
        }
        if self.state().bytes == length { Ok(()) } else { Err(hung_up()) }
    }

    fn add(&self, bytes: &Bytes) -> u64 {
        let mut state = self.state();
        state.hash.update(bytes);
        state.bytes = state.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        state.bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The failure of an upload whose client hung up.
#[must_use]
pub fn hung_up() -> Failure {
    let detail = "The connection broke before the whole body arrived. Nothing was stored.";
    Failure::new(FailureKind::InvalidRequest, detail)
}

fn stalled(limit: Duration) -> Failure {
    let detail = format!("No byte of the body arrived for {limit:?}. Nothing was stored.");
    Failure::new(FailureKind::RequestTimeout, detail)
}
