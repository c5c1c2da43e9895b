//! A file that is being written. It has a name of its own until all of it is on the disk. If it is
//! dropped before, it is removed.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::domain::artifact::Sha256Sum;

/// A file that is being written, with the number and the SHA-256 of its bytes.
pub struct PartFile {
    file: File,
    path: PathBuf,
    hash: Sha256,
    bytes: u64,
    limit: u64,
    is_kept: bool,
}

/// A file that is complete and on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrittenFile {
    pub bytes: u64,
    pub sha256: Sha256Sum,
}

impl PartFile {
    /// Begins a file.
    ///
    /// # Parameters
    /// - `file`: the empty file at this path.
    /// - `limit`: the largest number of bytes that it may get.
    pub fn new(file: File, path: PathBuf, limit: u64) -> Self {
        Self { file, path, hash: Sha256::new(), bytes: 0, limit, is_kept: false }
    }

    /// Writes everything to the disk, and gives the file its final name.
    ///
    /// # Errors
    /// Fails if the disk fails. The file is then removed.
    pub fn keep(mut self, target: &Path) -> io::Result<WrittenFile> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, target)?;
        self.is_kept = true;
        if let Some(directory) = target.parent() {
            // The new name survives a crash only if the directory is on the disk.
            File::open(directory)?.sync_all()?;
        }
        Ok(WrittenFile { bytes: self.bytes, sha256: Sha256Sum(self.hash.finalize_reset().into()) })
    }
}

impl Write for PartFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.saturating_add(bytes.len() as u64) > self.limit {
            let message = format!("the file is larger than {} bytes", self.limit);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "a file cannot be removed");
        }
    }
}
