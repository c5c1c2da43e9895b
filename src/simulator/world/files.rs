//! The files and folders of datastores: what clients and serial ports have written, and the files
//! of machines, which follow from the state of the machines (`machine_files.rs`).
//!
//! ```text
//! PUT ──► begin_upload ──► write_upload… ──► end_upload     a cut leaves what was written
//!            └─ in use, no folder, no permission: refused
//! ```

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::file_content::FileContent;
use super::{Datastore, PowerState, SerialBacking, World};
use crate::simulator::value::Moref;
use crate::simulator::vim_fault::Fault;

/// A place on a datastore. An empty path is the datastore itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePath {
    /// The name of the datastore.
    pub datastore: String,
    /// Segments with a slash between them.
    pub path: String,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    pub content: FileContent,
    pub modified: Timestamp,
    /// Whether no client can read the file, such as the disk of a machine that is on.
    pub is_locked: bool,
    /// Whether no client can replace, move or delete the file.
    pub is_in_use: bool,
}

/// What is at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileEntry {
    Folder { modified: Timestamp },
    File(StoredFile),
}

/// Why an operation on a file fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileProblem {
    /// The path has `..`, or no datastore.
    Malformed,
    NoDatastore,
    /// The datastore is not accessible.
    Inaccessible,
    NotFound,
    /// The parent is missing, or it is a file.
    NoFolder,
    Exists,
    /// A folder stands where a file is expected, or the root of the datastore.
    IsFolder,
    InUse,
    NoSpace,
}

/// The files that were written, and what tests have set.
#[derive(Debug, Default)]
pub(super) struct FileStore {
    entries: BTreeMap<FilePath, Stored>,
    /// The files of machines that were deleted or moved away.
    removed: BTreeSet<FilePath>,
    /// The files that are in use and locked by order of a test.
    locked: BTreeSet<FilePath>,
    /// The files that clients write.
    uploads: BTreeSet<FilePath>,
}

#[derive(Clone, Debug)]
enum Stored {
    Folder { modified: Timestamp },
    File { content: FileContent, modified: Timestamp },
}

impl FilePath {
    /// Reads a datastore path, such as `[datastore1] iso/a.iso`.
    ///
    /// # Errors
    /// `Malformed` if it is none.
    pub fn parse(text: &str) -> Result<Self, FileProblem> {
        let rest = text.trim_start().strip_prefix('[').ok_or(FileProblem::Malformed)?;
        let (datastore, path) = rest.split_once(']').ok_or(FileProblem::Malformed)?;
        Self::new(datastore, path.strip_prefix(' ').unwrap_or(path))
    }

    /// A place by the name of its datastore and the path there.
    ///
    /// # Errors
    /// `Malformed` if the path leads upwards.
    pub fn new(datastore: &str, path: &str) -> Result<Self, FileProblem> {
        let segments: Vec<&str> =
            path.split('/').filter(|segment| !matches!(*segment, "" | ".")).collect();
        if segments.contains(&"..") || datastore.is_empty() {
            return Err(FileProblem::Malformed);
        }
        Ok(Self { datastore: datastore.to_owned(), path: segments.join("/") })
    }

    /// The last segment. Empty for the datastore itself.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The folder that holds this place. `None` for the datastore itself.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.path.is_empty() {
            return None;
        }
        let path = self.path.rsplit_once('/').map_or("", |(parent, _)| parent);
        Some(Self { datastore: self.datastore.clone(), path: path.to_owned() })
    }

    /// The place with this name in this folder.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        let separator = if self.path.is_empty() { "" } else { "/" };
        let path = format!("{}{separator}{name}", self.path);
        Self { datastore: self.datastore.clone(), path }
    }

    /// The path below `folder`. `None` if it is not below it.
    fn below(&self, folder: &Self) -> Option<&str> {
        if self.datastore != folder.datastore {
            return None;
        }
        if folder.path.is_empty() {
            return Some(&self.path).filter(|path| !path.is_empty()).map(String::as_str);
        }
        self.path.strip_prefix(&folder.path)?.strip_prefix('/')
    }
}

impl std::fmt::Display for FilePath {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if self.path.is_empty() { "" } else { " " };
        write!(formatter, "[{}]{separator}{}", self.datastore, self.path)
    }
}

impl FileProblem {
    /// The one of two places that the problem of a move or a copy concerns.
    #[must_use]
    pub const fn concerned<'a>(self, from: &'a FilePath, to: &'a FilePath) -> &'a FilePath {
        match self {
            Self::Exists | Self::NoFolder | Self::NoSpace => to,
            _ => from,
        }
    }

    /// The fault with which a method or a task fails for this problem.
    #[must_use]
    pub fn fault(self, path: &FilePath) -> Fault {
        let of_file = |type_name, message: &str| {
            Fault::new(type_name, format!("{message} {path}")).with("file", path.to_string())
        };
        let name = path.datastore.as_str();
        match self {
            Self::Malformed => Fault::new("InvalidDatastorePath", "Invalid datastore path.")
                .with("datastorePath", path.to_string()),
            Self::NoDatastore => {
                Fault::new("InvalidDatastore", format!("Unable to find the datastore '{name}'."))
                    .with("name", name)
            }
            Self::Inaccessible => {
                Fault::new("InaccessibleDatastore", format!("Unable to access '{name}'."))
                    .with("name", name)
            }
            Self::NotFound | Self::NoFolder => of_file("FileNotFound", "There is no file"),
            Self::Exists => of_file("FileAlreadyExists", "There is already a file"),
            Self::IsFolder => of_file("CannotAccessFile", "Unable to access the file"),
            Self::InUse => of_file("FileLocked", "Unable to access the file, which is locked:"),
            Self::NoSpace => of_file("NoDiskSpace", "There is no space left for the file")
                .with("datastore", name),
        }
    }
}

impl World {
    /// The datastore of a place.
    fn datastore_at(&self, path: &FilePath) -> Result<&Datastore, FileProblem> {
        let found = self.datastores().find(|datastore| datastore.name == path.datastore);
        let found = found.ok_or(FileProblem::NoDatastore)?;
        if found.accessible { Ok(found) } else { Err(FileProblem::Inaccessible) }
    }

    /// The reference to the datastore of a place.
    #[must_use]
    pub fn datastore_moref(&self, path: &FilePath) -> Option<Moref> {
        let found = self.datastores().find(|datastore| datastore.name == path.datastore)?;
        Some(Moref::new("Datastore", found.id.clone()))
    }

    /// What is at a place.
    ///
    /// # Errors
    /// `NoDatastore`, `Inaccessible` or `NotFound`.
    pub fn entry(&self, path: &FilePath) -> Result<FileEntry, FileProblem> {
        self.datastore_at(path)?;
        if path.path.is_empty() {
            return Ok(FileEntry::Folder { modified: self.host.booted_at });
        }
        match self.files.entries.get(path) {
            Some(Stored::Folder { modified }) => Ok(FileEntry::Folder { modified: *modified }),
            Some(Stored::File { content, modified }) => Ok(FileEntry::File(StoredFile {
                content: content.clone(),
                modified: *modified,
                is_locked: self.files.locked.contains(path),
                is_in_use: self.is_in_use(path),
            })),
            None => self.machine_entry(path).ok_or(FileProblem::NotFound),
        }
    }

    /// The names in a folder with what is there, in their order. Hidden files are there too.
    ///
    /// # Errors
    /// `NoDatastore`, `Inaccessible` or `NotFound`. A file is no folder: `NotFound`.
    pub fn list(&self, folder: &FilePath) -> Result<BTreeMap<String, FileEntry>, FileProblem> {
        let FileEntry::Folder { .. } = self.entry(folder)? else {
            return Err(FileProblem::NotFound);
        };
        let mut found = self.machine_entries(folder);
        let prefix = if folder.path.is_empty() { String::new() } else { folder.child("").path };
        let first = FilePath { datastore: folder.datastore.clone(), path: prefix };
        let below = self.files.entries.range(first..).map(|(path, _)| path);
        for path in below.take_while(|path| path.below(folder).is_some()) {
            let Some(name) = path.below(folder).filter(|name| !name.contains('/')) else {
                continue;
            };
            if let Ok(entry) = self.entry(path) {
                found.insert(name.to_owned(), entry);
            }
        }
        Ok(found)
    }

    /// A file for a client that reads it.
    ///
    /// # Errors
    /// `IsFolder` for a folder, `InUse` for a file that is locked, and those of
    /// [`entry`](Self::entry).
    pub fn read_file(&self, path: &FilePath) -> Result<StoredFile, FileProblem> {
        match self.entry(path)? {
            FileEntry::Folder { .. } => Err(FileProblem::IsFolder),
            FileEntry::File(file) if file.is_locked => Err(FileProblem::InUse),
            FileEntry::File(file) => Ok(file),
        }
    }

    /// The bytes of a file by its datastore path. `None` if there is no such file. Bytes that a
    /// file of this computer holds are left out.
    #[must_use]
    pub fn file_bytes(&self, path: &str) -> Option<Vec<u8>> {
        match self.entry(&FilePath::parse(path).ok()?).ok()? {
            FileEntry::File(file) => Some(file.content.bytes()),
            FileEntry::Folder { .. } => None,
        }
    }

    /// The length of a file by its datastore path. `None` if there is no such file.
    #[must_use]
    pub fn file_length(&self, path: &str) -> Option<u64> {
        match self.entry(&FilePath::parse(path).ok()?).ok()? {
            FileEntry::File(file) => Some(file.content.length()),
            FileEntry::Folder { .. } => None,
        }
    }

    /// The datastore paths and the lengths of the files that were written.
    pub fn written_files(&self) -> impl Iterator<Item = (String, u64)> {
        self.files.entries.iter().filter_map(|(path, stored)| match stored {
            Stored::File { content, .. } => Some((path.to_string(), content.length())),
            Stored::Folder { .. } => None,
        })
    }

    /// Puts a file at a datastore path, as another client of the host does, whatever is there.
    /// Missing folders are made. A malformed path changes nothing.
    pub fn put_file(&mut self, path: &str, content: FileContent) {
        let Ok(path) = FilePath::parse(path) else { return };
        self.make_parents(&path);
        self.store(path, content);
    }

    /// Makes a folder at a datastore path with its parents, as another client of the host does.
    pub fn put_folder(&mut self, path: &str) {
        let Ok(path) = FilePath::parse(path) else { return };
        self.make_parents(&path.child("x"));
    }

    /// Removes a file or a folder with its content, whether it is in use or not.
    pub fn remove_file(&mut self, path: &str) {
        let Ok(path) = FilePath::parse(path) else { return };
        self.forget(&path);
    }

    /// Sets whether a file is locked and in use, whatever uses it.
    pub fn lock_file(&mut self, path: &str, locked: bool) {
        let Ok(path) = FilePath::parse(path) else { return };
        if locked {
            self.files.locked.insert(path);
        } else {
            self.files.locked.remove(&path);
        }
    }

    /// Writes at the end of a file, which is made if it does not exist. What is beyond `most` bytes
    /// is lost, as on a full datastore.
    pub(super) fn append_at(&mut self, path: &str, bytes: &[u8], most: u64) {
        let Ok(path) = FilePath::parse(path) else { return };
        if !self.files.entries.contains_key(&path) {
            self.make_parents(&path);
            self.store(path.clone(), FileContent::default());
        }
        let now = self.now.wall;
        let Some(Stored::File { content, modified }) = self.files.entries.get_mut(&path) else {
            return;
        };
        let free = usize::try_from(most.saturating_sub(content.length())).unwrap_or(usize::MAX);
        let written = &bytes[..bytes.len().min(free)];
        content.append(written);
        *modified = now;
        self.take_space(&path, signed(written.len()));
    }

    /// A client begins to write a file. Returns whether the file is new. What it held is gone.
    ///
    /// # Errors
    /// `InUse`, `IsFolder`, `NoFolder` if its folder is missing, and those of the datastore.
    pub fn begin_upload(&mut self, path: &FilePath) -> Result<bool, FileProblem> {
        self.datastore_at(path)?;
        let parent = path.parent().ok_or(FileProblem::IsFolder)?;
        let is_new = match self.entry(path) {
            Ok(FileEntry::Folder { .. }) => return Err(FileProblem::IsFolder),
            Ok(FileEntry::File(file)) if file.is_in_use => return Err(FileProblem::InUse),
            Ok(FileEntry::File(_)) => false,
            Err(_) => true,
        };
        let Ok(FileEntry::Folder { .. }) = self.entry(&parent) else {
            return Err(FileProblem::NoFolder);
        };
        self.store(path.clone(), FileContent::default());
        self.files.uploads.insert(path.clone());
        Ok(is_new)
    }

    /// The client writes the next bytes of its file.
    ///
    /// # Errors
    /// `NoSpace` if the datastore is full: what fits is written. `NotFound` if the file is gone.
    pub fn write_upload(&mut self, path: &FilePath, bytes: &[u8]) -> Result<(), FileProblem> {
        let free = self.datastore_at(path).map(Datastore::really_free)?;
        let fitting = bytes.len().min(usize::try_from(free.max(0)).unwrap_or(usize::MAX));
        let now = self.now.wall;
        let Some(Stored::File { content, modified }) = self.files.entries.get_mut(path) else {
            return Err(FileProblem::NotFound);
        };
        content.append(&bytes[..fitting]);
        *modified = now;
        self.take_space(path, signed(fitting));
        if fitting < bytes.len() { Err(FileProblem::NoSpace) } else { Ok(()) }
    }

    /// The client does not write its file any more.
    pub fn end_upload(&mut self, path: &FilePath) {
        self.files.uploads.remove(path);
    }

    /// `MakeDirectory`.
    ///
    /// # Errors
    /// `Exists`, and `NoFolder` if the parent is missing and `with_parents` is not set.
    pub fn make_folder(&mut self, path: &FilePath, with_parents: bool) -> Result<(), FileProblem> {
        self.datastore_at(path)?;
        let Some(parent) = path.parent() else { return Err(FileProblem::Exists) };
        if self.entry(path).is_ok() {
            return Err(FileProblem::Exists);
        }
        match self.entry(&parent) {
            Ok(FileEntry::Folder { .. }) => {}
            Err(_) if with_parents => self.make_folder(&parent, true)?,
            Ok(FileEntry::File(_)) | Err(_) => return Err(FileProblem::NoFolder),
        }
        let modified = self.now.wall;
        self.files.entries.insert(path.clone(), Stored::Folder { modified });
        Ok(())
    }

    /// Deletes a file, or a folder with its content.
    ///
    /// # Errors
    /// `InUse` if one of the files is in use: then all of them stay.
    pub fn delete_file(&mut self, path: &FilePath) -> Result<(), FileProblem> {
        self.check_free_to_go(path)?;
        self.forget(path);
        Ok(())
    }

    /// Moves a file, or a folder with its content. With `force`, a file at the destination is
    /// replaced.
    ///
    /// # Errors
    /// `Exists`, `InUse`, `NoFolder` and `NotFound`.
    pub fn move_file(
        &mut self,
        from: &FilePath,
        to: &FilePath,
        force: bool,
    ) -> Result<(), FileProblem> {
        self.check_free_to_go(from)?;
        self.copy_file(from, to, force)?;
        if from != to {
            self.forget(from);
        }
        Ok(())
    }

    /// Copies a file, or a folder with its content. With `force`, a file at the destination is
    /// replaced.
    ///
    /// # Errors
    /// `Exists`, `InUse`, `NoFolder`, `NoSpace` and `NotFound`.
    pub fn copy_file(
        &mut self,
        from: &FilePath,
        to: &FilePath,
        force: bool,
    ) -> Result<(), FileProblem> {
        let copied = self.everything_at(from)?;
        let free = self.datastore_at(to).map(Datastore::really_free)?;
        let parent = to.parent().ok_or(FileProblem::Exists)?;
        let Ok(FileEntry::Folder { .. }) = self.entry(&parent) else {
            return Err(FileProblem::NoFolder);
        };
        match self.entry(to) {
            Ok(FileEntry::File(there)) if force && there.is_in_use => {
                return Err(FileProblem::InUse);
            }
            Ok(FileEntry::File(_)) if force => {}
            Ok(_) => return Err(FileProblem::Exists),
            Err(_) => {}
        }
        if to.below(from).is_some() {
            return Err(FileProblem::NoFolder);
        }
        if copied.iter().any(|(_, entry)| matches!(entry, FileEntry::File(file) if file.is_locked))
        {
            return Err(FileProblem::InUse);
        }
        let bytes: u64 = copied.iter().map(|(_, entry)| entry.length()).sum();
        if i64::try_from(bytes).unwrap_or(i64::MAX) > free && from.datastore != to.datastore {
            return Err(FileProblem::NoSpace);
        }
        for (path, entry) in copied {
            let target = match path.below(from) {
                Some(below) => to.child(below),
                None => to.clone(),
            };
            match entry {
                FileEntry::Folder { modified } => {
                    self.files.entries.insert(target, Stored::Folder { modified });
                }
                FileEntry::File(file) => self.store(target, file.content),
            }
        }
        Ok(())
    }

    /// `RefreshDatastore`: the host reads how much space is really free.
    pub fn refresh_datastore(&mut self, id: &str) {
        let now = self.now.wall;
        if let Some(datastore) = self.datastore_mut(id) {
            datastore.free_bytes = datastore.really_free();
            datastore.unreported_bytes = 0;
            datastore.refreshed_at = Some(now);
        }
    }

    /// The files that exist from the start of the simulation take none of the free space.
    pub(in crate::simulator) fn forget_unreported_space(&mut self, id: &str) {
        if let Some(datastore) = self.datastores.get_mut(id) {
            datastore.unreported_bytes = 0;
        }
    }

    /// The place itself and everything below it.
    fn everything_at(&self, path: &FilePath) -> Result<Vec<(FilePath, FileEntry)>, FileProblem> {
        let mut open = vec![(path.clone(), self.entry(path)?)];
        let mut found = Vec::new();
        while let Some((path, entry)) = open.pop() {
            if let FileEntry::Folder { .. } = entry {
                let below = self.list(&path)?;
                open.extend(below.into_iter().map(|(name, entry)| (path.child(&name), entry)));
            }
            found.push((path, entry));
        }
        Ok(found)
    }

    /// Fails unless everything at the place can be moved away or deleted.
    fn check_free_to_go(&self, path: &FilePath) -> Result<(), FileProblem> {
        if path.path.is_empty() {
            return Err(FileProblem::IsFolder);
        }
        let all = self.everything_at(path)?;
        let in_use = |entry: &FileEntry| matches!(entry, FileEntry::File(file) if file.is_in_use);
        if all.iter().any(|(_, entry)| in_use(entry)) { Err(FileProblem::InUse) } else { Ok(()) }
    }

    /// Whether a machine that is on, a client or a test uses the file.
    pub(super) fn is_in_use(&self, path: &FilePath) -> bool {
        if self.files.locked.contains(path) || self.files.uploads.contains(path) {
            return true;
        }
        let text = path.to_string();
        self.machines().filter(|machine| machine.power == PowerState::On).any(|machine| {
            let serial = machine
                .serial_ports
                .iter()
                .any(|port| matches!(&port.backing, SerialBacking::File { path } if *path == text));
            serial || machine.cd_drives.iter().any(|drive| drive.is_reading(&text))
        })
    }

    /// Whether a file of a machine was deleted or moved away.
    pub(super) fn is_removed(&self, path: &FilePath) -> bool {
        self.files.removed.contains(path)
    }

    /// Whether a test has locked the file.
    pub(super) fn is_locked_by_test(&self, path: &FilePath) -> bool {
        self.files.locked.contains(path)
    }

    fn make_parents(&mut self, path: &FilePath) {
        let mut missing = Vec::new();
        let mut at = path.parent();
        while let Some(folder) = at.filter(|folder| !folder.path.is_empty()) {
            at = folder.parent();
            missing.push(folder);
        }
        let modified = self.now.wall;
        for folder in missing {
            self.files.entries.entry(folder).or_insert(Stored::Folder { modified });
        }
    }

    /// Puts a content at a place.
    fn store(&mut self, path: FilePath, content: FileContent) {
        let before = self.entry(&path).map_or(0, |entry| entry.length());
        let grown = signed(content.length()).saturating_sub(signed(before));
        self.take_space(&path, grown);
        self.files.removed.remove(&path);
        let modified = self.now.wall;
        self.files.entries.insert(path, Stored::File { content, modified });
    }

    /// Removes what is at a place and below it.
    fn forget(&mut self, path: &FilePath) {
        let Ok(all) = self.everything_at(path) else { return };
        for (path, entry) in all {
            self.take_space(&path, -signed(entry.length()));
            self.files.entries.remove(&path);
            if self.machine_entry(&path).is_some() {
                self.files.removed.insert(path);
            }
        }
    }

    /// Files of a datastore have grown by so many bytes, which the host does not report yet.
    fn take_space(&mut self, path: &FilePath, grown: i64) {
        let found = self.datastores.values_mut().find(|known| known.name == path.datastore);
        if let Some(datastore) = found {
            datastore.unreported_bytes = datastore.unreported_bytes.saturating_add(grown);
        }
    }
}

impl FileEntry {
    /// The number of bytes. 0 for a folder.
    #[must_use]
    pub const fn length(&self) -> u64 {
        match self {
            Self::Folder { .. } => 0,
            Self::File(file) => file.content.length(),
        }
    }
}

fn signed<T: TryInto<i64>>(length: T) -> i64 {
    length.try_into().unwrap_or(i64::MAX)
}
