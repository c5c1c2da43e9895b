//! The archive of a backup: a tar file of `manifest.json`, `otter.db` and `secret.key`, in this
//! order. The manifest contains the SHA-256 of the other files, so that a restore detects damage.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::files::{self, DATABASE, SECRET_KEY};

const MANIFEST: &str = "manifest.json";

/// The version of the archive's format.
const FORMAT: u32 = 1;

/// The maximum size of a manifest in bytes. A valid manifest has a few hundred bytes.
const MANIFEST_LIMIT: u64 = 64 * 1024;

/// The manifest of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The version of otter that wrote the archive.
    pub otter_version: String,
    /// The schema version of the database in the archive.
    pub schema: i64,
    pub created_at: Timestamp,
    members: Vec<ArchiveMember>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ArchiveMember {
    name: String,
    bytes: u64,
    sha256: String,
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("`otter store backup` did not write this file, or it is truncated")]
    Unreadable(#[source] io::Error),
    #[error("its manifest cannot be read")]
    Manifest(#[source] serde_json::Error),
    #[error("the archive has format {0}, and this otter reads format {FORMAT}: use a newer otter")]
    Format(u32),
    #[error("{0} does not match the manifest: the archive is damaged")]
    Damaged(String),
    #[error("the archive lacks {0}")]
    Missing(&'static str),
    #[error("the archive contains {0:?}, which is not part of a backup")]
    Foreign(String),
    #[error("{} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Writes a database, and the key if there is one, as an archive into a new file.
pub fn write(
    archive: &File,
    database: &Path,
    key: Option<&Path>,
    schema: i64,
    now: Timestamp,
) -> io::Result<Manifest> {
    let sources = [Some((DATABASE, database)), key.map(|key| (SECRET_KEY, key))];
    let mut members = Vec::new();
    for (name, path) in sources.into_iter().flatten() {
        let (bytes, sha256) = copy_hashed(&mut File::open(path)?, &mut io::sink())?;
        members.push(ArchiveMember { name: name.to_owned(), bytes, sha256 });
    }
    let manifest = Manifest {
        format: FORMAT,
        otter_version: env!("CARGO_PKG_VERSION").to_owned(),
        schema,
        created_at: now,
        members,
    };
    let mut text = serde_json::to_vec_pretty(&manifest)?;
    text.push(b'\n');
    let mut builder = tar::Builder::new(archive);
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let header = |bytes: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o600);
        header.set_mtime(seconds);
        header
    };
    builder.append_data(&mut header(text.len() as u64), MANIFEST, text.as_slice())?;
    for (member, (name, path)) in manifest.members.iter().zip(sources.into_iter().flatten()) {
        builder.append_data(
            &mut header(member.bytes),
            name,
            File::open(path)?.take(member.bytes),
        )?;
    }
    builder.into_inner()?.sync_all()?;
    Ok(manifest)
}

/// Reads only the manifest of an archive.
pub fn manifest(archive: &Path) -> Result<Manifest, ArchiveError> {
    let mut archive = tar::Archive::new(File::open(archive).map_err(ArchiveError::Unreadable)?);
    let mut entries = archive.entries().map_err(ArchiveError::Unreadable)?;
    read_manifest(&mut entries)
}

/// Extracts the members of an archive into a directory, and checks the size and SHA-256 of each
/// against the manifest.
///
/// # Parameters
/// - `name_of`: gives the file name for the name of a member, or `None` to refuse the member.
pub fn extract(
    archive: &Path,
    directory: &Path,
    name_of: impl Fn(&str) -> Option<&'static str>,
) -> Result<Manifest, ArchiveError> {
    let mut archive = tar::Archive::new(File::open(archive).map_err(ArchiveError::Unreadable)?);
    let mut entries = archive.entries().map_err(ArchiveError::Unreadable)?;
    let manifest = read_manifest(&mut entries)?;
    if !manifest.members.iter().any(|member| member.name == DATABASE) {
        return Err(ArchiveError::Missing(DATABASE));
    }
    let mut expected = manifest.members.iter();
    for entry in entries {
        let mut entry = entry.map_err(ArchiveError::Unreadable)?;
        let name = member_name(&entry)?;
        let Some(member) = expected.next().filter(|member| member.name == name) else {
            return Err(ArchiveError::Foreign(name));
        };
        let target = name_of(&name).ok_or_else(|| ArchiveError::Foreign(name.clone()))?;
        let path = directory.join(target);
        let not_written = |source| ArchiveError::Write { path: path.clone(), source };
        let mut file = files::create(&path).map_err(not_written)?;
        let (bytes, sha256) = copy_hashed(&mut entry, &mut file).map_err(not_written)?;
        if bytes != member.bytes || sha256 != member.sha256 {
            return Err(ArchiveError::Damaged(name));
        }
        file.sync_all().map_err(not_written)?;
    }
    match expected.next() {
        Some(member) => Err(ArchiveError::Damaged(member.name.clone())),
        None => Ok(manifest),
    }
}

fn read_manifest(entries: &mut tar::Entries<'_, File>) -> Result<Manifest, ArchiveError> {
    let entry = entries.next().ok_or(ArchiveError::Missing(MANIFEST))?;
    let entry = entry.map_err(ArchiveError::Unreadable)?;
    if member_name(&entry)? != MANIFEST {
        return Err(ArchiveError::Missing(MANIFEST));
    }
    let mut text = Vec::new();
    entry.take(MANIFEST_LIMIT).read_to_end(&mut text).map_err(ArchiveError::Unreadable)?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(ArchiveError::Manifest)?;
    if manifest.format == FORMAT {
        Ok(manifest)
    } else {
        Err(ArchiveError::Format(manifest.format))
    }
}

fn member_name(entry: &tar::Entry<'_, File>) -> Result<String, ArchiveError> {
    let path = entry.path().map_err(ArchiveError::Unreadable)?;
    Ok(path.to_string_lossy().into_owned())
}

/// Copies all bytes from `from` to `to`. Returns the number of bytes and their SHA-256 in
/// hexadecimal.
fn copy_hashed(from: &mut impl Read, to: &mut impl Write) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok((bytes, hex::encode(hash.finalize())));
        }
        hash.update(&buffer[..length]);
        to.write_all(&buffer[..length])?;
        bytes += length as u64;
    }
}
