//! The datastore browser: `SearchDatastore_Task` and `SearchDatastoreSubFolders_Task`.
//!
//! The browser shows a disk as one file, with the length of its extent, and hides files whose names
//! begin with a dot. `/folder` shows all of them.

use std::collections::BTreeMap;

use super::World;
use super::files::{FileEntry, FilePath, StoredFile};
use super::machine_files::extent_path;
use crate::simulator::value::{Object, Value, list};
use crate::simulator::vim_fault::Fault;

/// What a client searches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSearch {
    pub folder: FilePath,
    /// Whether the folders below are searched too.
    pub with_sub_folders: bool,
    /// The names that count, with `*` and `?`. Empty: all.
    pub patterns: Vec<String>,
    pub ignores_case: bool,
    /// The types that count. Empty: all.
    pub types: Vec<FileType>,
    pub details: SearchDetails,
    pub sorts_folders_first: bool,
}

/// What the browser tells of each file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of `FileQueryFlags`")]
pub struct SearchDetails {
    pub has_type: bool,
    pub has_size: bool,
    pub has_modification: bool,
    pub has_owner: bool,
    /// The details of disks: type, capacity, hardware version and whether they are thin.
    pub has_disk: bool,
}

/// The type of a file as the browser sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    Folder,
    Iso,
    Floppy,
    Disk,
    Config,
    Template,
    Log,
    Nvram,
    Snapshot,
    Other,
}

impl FileType {
    /// The type whose query (`FileQuery`) has this vim25 type.
    #[must_use]
    pub fn of_query(type_name: &str) -> Self {
        match type_name {
            "FolderFileQuery" => Self::Folder,
            "IsoImageFileQuery" => Self::Iso,
            "FloppyImageFileQuery" => Self::Floppy,
            "VmDiskFileQuery" => Self::Disk,
            "VmConfigFileQuery" => Self::Config,
            "TemplateConfigFileQuery" => Self::Template,
            "VmLogFileQuery" => Self::Log,
            "VmNvramFileQuery" => Self::Nvram,
            "VmSnapshotFileQuery" => Self::Snapshot,
            _ => Self::Other,
        }
    }

    /// The type of a file by its name.
    fn of(name: &str, entry: &FileEntry) -> Self {
        if let FileEntry::Folder { .. } = entry {
            return Self::Folder;
        }
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        match extension.to_lowercase().as_str() {
            "iso" => Self::Iso,
            "flp" | "img" => Self::Floppy,
            "vmdk" => Self::Disk,
            "vmx" => Self::Config,
            "vmtx" => Self::Template,
            "log" => Self::Log,
            "nvram" => Self::Nvram,
            "vmsn" | "vmss" => Self::Snapshot,
            _ => Self::Other,
        }
    }

    const fn info(self) -> &'static str {
        match self {
            Self::Folder => "FolderFileInfo",
            Self::Iso => "IsoImageFileInfo",
            Self::Floppy => "FloppyImageFileInfo",
            Self::Disk => "VmDiskFileInfo",
            Self::Config => "VmConfigFileInfo",
            Self::Template => "TemplateConfigFileInfo",
            Self::Log => "VmLogFileInfo",
            Self::Nvram => "VmNvramFileInfo",
            Self::Snapshot => "VmSnapshotFileInfo",
            Self::Other => "FileInfo",
        }
    }
}

impl World {
    /// What a search finds, as the result of its task.
    ///
    /// # Errors
    /// `FileNotFound` if there is no such folder, and the faults of datastores.
    pub(super) fn search_files(&self, search: &FileSearch) -> Result<Value, Fault> {
        let mut open = vec![search.folder.clone()];
        let mut found = Vec::new();
        while let Some(folder) = open.pop() {
            let entries = self.list(&folder).map_err(|problem| problem.fault(&folder))?;
            if search.with_sub_folders {
                let folders = entries.iter().filter(|(name, entry)| {
                    matches!(entry, FileEntry::Folder { .. }) && !name.starts_with('.')
                });
                open.extend(folders.rev().map(|(name, _)| folder.child(name)));
            }
            found.push(self.search_result(search, &folder, &entries));
        }
        Ok(match found.pop() {
            Some(only) if !search.with_sub_folders => Value::Object(only),
            last => {
                list("HostDatastoreBrowserSearchResults", found.into_iter().chain(last).collect())
            }
        })
    }

    fn search_result(
        &self,
        search: &FileSearch,
        folder: &FilePath,
        entries: &BTreeMap<String, FileEntry>,
    ) -> Object {
        let mut shown: Vec<(FileType, Object)> = entries
            .iter()
            .filter(|(name, _)| !name.starts_with('.') && !is_extent(name, entries))
            .filter(|(name, _)| search.admits(name))
            .map(|(name, entry)| (FileType::of(name, entry), name, entry))
            .filter(|(kind, ..)| search.types.is_empty() || search.types.contains(kind))
            .map(|(kind, name, entry)| (kind, search.info(kind, name, entry, entries)))
            .collect();
        if search.sorts_folders_first {
            shown.sort_by_key(|(kind, _)| *kind != FileType::Folder);
        }
        let files = shown.into_iter().map(|(_, info)| info).collect();
        let separator = if folder.path.is_empty() { "" } else { "/" };
        Object::new("HostDatastoreBrowserSearchResults")
            .with("datastore", self.datastore_moref(folder))
            .with("folderPath", format!("{folder}{separator}"))
            .with("file", list("FileInfo", files))
    }
}

impl FileSearch {
    fn admits(&self, name: &str) -> bool {
        let lower =
            |text: &str| if self.ignores_case { text.to_lowercase() } else { text.to_owned() };
        let name = lower(name);
        self.patterns.is_empty()
            || self.patterns.iter().any(|pattern| matches_glob(&lower(pattern), &name))
    }

    fn info(
        &self,
        kind: FileType,
        name: &str,
        entry: &FileEntry,
        entries: &BTreeMap<String, FileEntry>,
    ) -> Object {
        let details = self.details;
        let (length, modified) = match entry {
            FileEntry::Folder { modified } => (0, *modified),
            FileEntry::File(StoredFile { content, modified, .. }) => {
                let extent = entries.get(&extent_path(name)).filter(|_| kind == FileType::Disk);
                (extent.map_or(content.length(), FileEntry::length), *modified)
            }
        };
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        // Without a query and without the flag, every file has the same type.
        let is_typed = details.has_type || !self.types.is_empty();
        let object = Object::new(if is_typed { kind.info() } else { "FileInfo" })
            .with("path", name)
            .with("fileSize", details.has_size.then_some(length))
            .with("modification", details.has_modification.then_some(modified))
            .with("owner", details.has_owner.then_some("root"));
        if kind != FileType::Disk || !details.has_disk {
            return object;
        }
        object
            .with("diskType", "VirtualDiskFlatVer2BackingInfo")
            .with("capacityKb", length / 1024)
            .with("hardwareVersion", 19)
            .with("thin", true)
    }
}

/// Whether the name is that of an extent whose descriptor is there too.
fn is_extent(name: &str, entries: &BTreeMap<String, FileEntry>) -> bool {
    let descriptor = name.strip_suffix("-flat.vmdk").map(|base| format!("{base}.vmdk"));
    descriptor.is_some_and(|descriptor| entries.contains_key(&descriptor))
}

/// Whether a name matches a pattern in which `*` is any text and `?` is any character.
fn matches_glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut seen) = (0, 0);
    // Where to go on if the rest does not match: behind the last `*`, with one character more.
    let mut retry = None;
    while seen < name.len() {
        match pattern.get(at) {
            Some('*') => {
                retry = Some((at + 1, seen + 1));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || *wanted == name[seen] => {
                at += 1;
                seen += 1;
            }
            _ => match retry {
                Some((after, next)) => {
                    retry = Some((after, next + 1));
                    (at, seen) = (after, next);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|left| *left == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_the_whole_name() {
        for (pattern, name) in
            [("*", ""), ("*.iso", "a.iso"), ("a?c*", "abcdef"), ("*b*d*", "abcde"), ("a*a", "aaba")]
        {
            assert!(matches_glob(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("", "a"), ("*.iso", "a.iso2"), ("a?", "a"), ("*b*b", "ab")] {
            assert!(!matches_glob(pattern, name), "{pattern} {name}");
        }
    }
}
