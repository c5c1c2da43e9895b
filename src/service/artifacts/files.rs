//! The folder with the bytes of the artifacts: one file for each artifact, whose name is its id.
//! Every function blocks, and is called on a blocking thread.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::part_file::{PartFile, WrittenFile};
use crate::domain::ids::ArtifactId;

/// What the name of a file ends with while it is written.
const PART: &str = ".part";

/// The folder with the bytes of the artifacts.
#[derive(Debug)]
pub struct ArtifactFiles {
    directory: PathBuf,
}

/// A file of the folder, as it is found when otter starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    pub name: OsString,
    pub bytes: u64,
}

impl ArtifactFiles {
    /// Keeps the files in this folder, which is made before the first file.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The folder.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Begins the file of an artifact.
    ///
    /// # Parameters
    /// - `limit`: the largest number of bytes that it may get.
    ///
    /// # Errors
    /// Fails if the disk refuses it.
    pub fn begin(&self, id: ArtifactId, limit: u64) -> io::Result<PartFile> {
        private_folder(&self.directory)?;
        let path = self.directory.join(format!("{id}{PART}"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(PartFile::new(file, path, limit))
    }

    /// Ends the file of an artifact: it is on the disk, and readers find it.
    ///
    /// # Errors
    /// Fails if the disk fails. The file is then removed.
    pub fn keep(&self, id: ArtifactId, part: PartFile) -> io::Result<WrittenFile> {
        part.keep(&self.path(id))
    }

    /// Opens the file of an artifact to read it.
    ///
    /// # Errors
    /// Fails if there is no such file.
    pub fn open(&self, id: ArtifactId) -> io::Result<File> {
        File::open(self.path(id))
    }

    /// Removes the file of an artifact, if there is one.
    ///
    /// # Errors
    /// Fails if the disk refuses it.
    pub fn remove(&self, id: ArtifactId) -> io::Result<()> {
        remove_if_exists(&self.path(id))
    }

    /// Removes a file that [`ArtifactFiles::list`] found.
    ///
    /// # Errors
    /// Fails if the disk refuses it.
    pub fn remove_found(&self, found: &FoundFile) -> io::Result<()> {
        remove_if_exists(&self.directory.join(&found.name))
    }

    /// Every file of the folder. Folders in it are left out. Empty if the folder does not exist.
    ///
    /// # Errors
    /// Fails if the folder cannot be read.
    pub fn list(&self) -> io::Result<Vec<FoundFile>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_file() {
                found.push(FoundFile { name: entry.file_name(), bytes: metadata.len() });
            }
        }
        Ok(found)
    }

    fn path(&self, id: ArtifactId) -> PathBuf {
        self.directory.join(id.to_string())
    }
}

/// Makes a folder that only its owner can enter, if it does not exist.
///
/// # Errors
/// Fails if the disk refuses it.
pub fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn remove_if_exists(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use sha2::{Digest, Sha256};
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> ArtifactId {
        ArtifactId::new(Uuid::from_u128(number))
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_has_its_name_only_once_it_is_complete() {
        let state = tempfile::tempdir().unwrap();
        let files = ArtifactFiles::new(state.path().join("artifacts"));
        assert_eq!(files.list().unwrap(), []);
        let mut part = files.begin(id(1), 100).unwrap();
        part.write_all(b"one ").unwrap();
        assert!(files.open(id(1)).is_err());
        assert_eq!(files.list().unwrap().len(), 1, "the part");
        part.write_all(b"two").unwrap();
        let written = files.keep(id(1), part).unwrap();
        assert_eq!(written.bytes, 7);
        assert_eq!(written.sha256.0, <[u8; 32]>::from(Sha256::digest("one two")));
        let mut text = String::new();
        files.open(id(1)).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
        let expected = FoundFile { name: id(1).to_string().into(), bytes: 7 };
        assert_eq!(files.list().unwrap(), [expected]);
        assert_eq!(mode(files.directory()), 0o700);
        assert_eq!(mode(&files.path(id(1))), 0o600);
        files.remove(id(1)).unwrap();
        files.remove(id(1)).unwrap();
        assert_eq!(files.list().unwrap(), []);
    }

    #[test]
    fn an_abandoned_or_too_large_file_leaves_nothing() {
        let state = tempfile::tempdir().unwrap();
        let files = ArtifactFiles::new(state.path().to_owned());
        drop(files.begin(id(1), 3).unwrap());
        let mut part = files.begin(id(1), 3).unwrap();
        part.write_all(b"abc").unwrap();
        let error = part.write_all(b"d").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        drop(part);
        assert_eq!(files.list().unwrap(), []);
    }
}
