//! The upload of one artifact: takes the bytes piece by piece, and stores the artifact once all
//! announced bytes are there.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use super::part_file::PartFile;
use super::space::Reservation;
use super::{Artifacts, NewArtifact, Stored, exists, unwritable};
use crate::domain::artifact::{Artifact, Sha256Sum};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::ArtifactId;

/// The number of bytes that are collected in memory before they are written.
const PIECE: usize = 256 * 1024;

/// The upload of one artifact. If it is dropped, nothing is stored.
pub struct Upload {
    new: NewArtifact,
    announced: u64,
    received: u64,
    collected: Vec<u8>,
    /// `None` only while a blocking thread writes.
    sink: Option<Sink>,
}

/// Where the bytes of an upload go.
pub enum Sink {
    New {
        id: ArtifactId,
        part: PartFile,
        reservation: Reservation,
    },
    /// The lease has an artifact with this name and length. The bytes are compared with it.
    Repeat {
        existing: Box<Artifact>,
        hash: Sha256,
    },
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::New { part, .. } => part.write_all(bytes),
            Self::Repeat { hash, .. } => {
                hash.update(bytes);
                Ok(())
            }
        }
    }
}

impl Upload {
    /// Begins an upload that has announced this number of bytes.
    #[must_use]
    pub fn new(new: NewArtifact, announced: u64, sink: Sink) -> Self {
        Self { new, announced, received: 0, collected: Vec::new(), sink: Some(sink) }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// `invalid-request` if there are more bytes than announced; `storage-unavailable`.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.received = self.received.saturating_add(bytes.len() as u64);
        if self.received > self.announced {
            return Err(wrong_length(self.announced, "more came"));
        }
        self.collected.extend_from_slice(bytes);
        if self.collected.len() >= PIECE { self.flush().await } else { Ok(()) }
    }

    /// Stores the artifact.
    ///
    /// # Errors
    /// `invalid-request` if there are fewer bytes than announced; `artifact-exists`;
    /// `storage-unavailable`.
    pub async fn finish(mut self, artifacts: &Artifacts) -> Result<Stored, Failure> {
        if self.received < self.announced {
            let came = format!("only {} came", self.received);
            return Err(wrong_length(self.announced, &came));
        }
        self.flush().await?;
        match self.sink {
            Some(Sink::New { id, part, reservation }) => {
                artifacts.store_part(self.new, id, part, reservation).await
            }
            Some(Sink::Repeat { existing, hash }) => {
                let is_same = existing.sha256 == Sha256Sum(hash.finalize().into());
                if is_same { Ok(Stored::Existing(*existing)) } else { Err(exists(&existing)) }
            }
            None => Err(lost()),
        }
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        let (mut sink, bytes) =
            (self.sink.take().ok_or_else(lost)?, std::mem::take(&mut self.collected));
        let writing = tokio::task::spawn_blocking(move || {
            let written = sink.write(&bytes);
            (sink, written)
        });
        let (sink, written) = writing.await.map_err(|_| lost())?;
        self.sink = Some(sink);
        written.map_err(|error| unwritable(&error))
    }
}

/// The failure of an upload whose earlier piece was not written.
fn lost() -> Failure {
    Failure::new(FailureKind::Internal, "a piece of an artifact was not written")
}

/// The failure of an upload that has another length than announced.
fn wrong_length(announced: u64, came: &str) -> Failure {
    let detail = format!(
        "Content-Length announced {announced} bytes, and {came}. Nothing was stored; send the \
         whole file again."
    );
    Failure::new(FailureKind::InvalidRequest, detail)
}
