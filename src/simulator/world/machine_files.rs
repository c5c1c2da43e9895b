//! The files of machines: configuration, memory of the firmware, disks, snapshots, pictures and the
//! log. They follow from the state of the machines, so that they cost nothing until they are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::Timestamp;

use super::file_content::FileContent;
use super::files::{FileEntry, FilePath, StoredFile};
use super::{CdBacking, Machine, PowerState, World};
use crate::simulator::value::date_time;

/// The length of the file with the memory of the firmware, whose first bytes are a magic number.
const NVRAM_LENGTH: u64 = 270_840;
const NVRAM_MAGIC: &[u8] = b"MRVN";
/// The length of a file with the state of a snapshot or of a suspended machine.
const STATE_LENGTH: u64 = 30_000;
/// The maximum length of a log.
const MAX_LOG: usize = 1 << 20;

/// A file of a machine.
struct MachineFile {
    path: String,
    kind: FileKind,
}

enum FileKind {
    Config,
    SnapshotList,
    Nvram,
    /// The text that describes a disk of this many bytes.
    Descriptor(i64),
    Extent(i64),
    State,
    Swap,
    Log,
    /// The screenshot with this number.
    Screenshot(usize),
}

impl Machine {
    /// The folder of the machine. `None` if its path is malformed.
    #[must_use]
    pub fn folder(&self) -> Option<FilePath> {
        FilePath::parse(&self.path).ok()?.parent()
    }

    /// The path of the configuration file without its extension.
    #[must_use]
    pub fn base_path(&self) -> &str {
        self.path.strip_suffix(".vmx").unwrap_or(&self.path)
    }

    /// The datastore path of the log.
    #[must_use]
    pub fn log_path(&self) -> String {
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{folder}/vmware.log")
    }

    /// Writes a line of the log. A full log loses its lines.
    pub(super) fn log(&mut self, at: Timestamp, text: &str) {
        if self.log.len() + text.len() < MAX_LOG {
            // A write to a text does not fail.
            let _ = writeln!(self.log, "{}| vmx| I005: {text}", date_time(at));
        }
    }

    fn files(&self) -> Vec<MachineFile> {
        let base = self.base_path();
        let mut files = Vec::new();
        let mut add = |path: String, kind| files.push(MachineFile { path, kind });
        add(self.path.clone(), FileKind::Config);
        add(format!("{base}.vmsd"), FileKind::SnapshotList);
        add(format!("{base}.nvram"), FileKind::Nvram);
        add(self.log_path(), FileKind::Log);
        for (path, bytes) in self.disk_files() {
            let extent = extent_path(&path);
            add(path, FileKind::Descriptor(bytes));
            add(extent, FileKind::Extent(bytes));
        }
        for snapshot in &self.snapshots {
            add(format!("{base}-Snapshot{}.vmsn", snapshot.number), FileKind::State);
        }
        for (at, path) in self.screenshots.iter().enumerate() {
            add(path.clone(), FileKind::Screenshot(at));
        }
        match self.power {
            PowerState::On => add(format!("{base}.vswp"), FileKind::Swap),
            PowerState::Suspended => add(format!("{base}.vmss"), FileKind::State),
            PowerState::Off | PowerState::Other(_) => {}
        }
        files
    }

    /// The paths of the disks with their sizes.
    pub(super) fn disk_files(&self) -> Vec<(String, i64)> {
        let first = (format!("{}.vmdk", self.base_path()), self.disk_bytes);
        let added = self.added_disks.iter().map(|disk| (disk.path.clone(), disk.bytes));
        [first].into_iter().filter(|(_, bytes)| *bytes > 0).chain(added).collect()
    }

    fn content(&self, kind: &FileKind, world: &World) -> FileContent {
        let zeros = |bytes: i64| FileContent::zeros(u64::try_from(bytes).unwrap_or(0));
        match kind {
            FileKind::Config => FileContent::of(self.config_text().as_bytes()),
            FileKind::SnapshotList => FileContent::of(self.snapshot_text().as_bytes()),
            FileKind::Nvram => {
                let mut content = FileContent::of(NVRAM_MAGIC);
                content.extend_to(NVRAM_LENGTH);
                content
            }
            FileKind::Descriptor(bytes) => FileContent::of(descriptor_text(*bytes).as_bytes()),
            FileKind::Extent(bytes) => zeros(*bytes),
            FileKind::State => FileContent::zeros(STATE_LENGTH),
            FileKind::Swap => zeros(i64::from(self.memory_mb) << 20),
            FileKind::Log => FileContent::of(self.log_text(world).as_bytes()),
            FileKind::Screenshot(at) => self.pictures.get(*at).cloned().unwrap_or_default(),
        }
    }

    fn config_text(&self) -> String {
        let mut lines = vec![
            (".encoding".to_owned(), "UTF-8".to_owned()),
            ("config.version".to_owned(), "8".to_owned()),
            ("virtualHW.version".to_owned(), "19".to_owned()),
            ("displayName".to_owned(), self.name.clone()),
            ("guestOS".to_owned(), self.guest_id.trim_end_matches("Guest").to_lowercase()),
            ("numvcpus".to_owned(), self.cpu_count.to_string()),
            ("memSize".to_owned(), self.memory_mb.to_string()),
            ("uuid.bios".to_owned(), self.bios_uuid.clone()),
            ("vc.uuid".to_owned(), self.instance_uuid.clone()),
            ("annotation".to_owned(), self.annotation.clone()),
        ];
        for (at, (path, _)) in self.disk_files().into_iter().enumerate() {
            lines.push((format!("scsi0:{at}.fileName"), path));
        }
        for drive in &self.cd_drives {
            let name = drive.place();
            if let CdBacking::Iso(path) = &drive.backing {
                lines.push((format!("{name}.fileName"), path.clone()));
            }
            lines.push((format!("{name}.startConnected"), drive.start_connected.to_string()));
        }
        lines.extend(self.options());
        let lines = lines.into_iter().map(|(key, value)| {
            format!("{key} = \"{}\"\n", value.replace('"', "|22").replace('\n', "|0A"))
        });
        lines.collect()
    }

    fn snapshot_text(&self) -> String {
        let mut text = format!("snapshot.numSnapshots = \"{}\"\n", self.snapshots.len());
        for (at, snapshot) in self.snapshots.iter().enumerate() {
            // A write to a text does not fail.
            let _ = writeln!(text, "snapshot{at}.uid = \"{}\"", snapshot.number);
            let _ = writeln!(text, "snapshot{at}.displayName = \"{}\"", snapshot.name);
        }
        text
    }

    fn log_text(&self, world: &World) -> String {
        let begun = self.booted_at.unwrap_or(self.created_at);
        let start = date_time(begun);
        let host = &world.host;
        format!(
            "{start}| vmx| I005: Log for VMware ESX version={} build=build-{} option=Release\n\
             {start}| vmx| I005: Hostname={}\n\
             {start}| vmx| I005: Config file: {}\n\
             {}",
            host.version, host.build, host.name, self.path, self.log
        )
    }
}

/// The path of the file with the bytes of a disk, by the path of its descriptor.
pub(super) fn extent_path(descriptor: &str) -> String {
    format!("{}-flat.vmdk", descriptor.strip_suffix(".vmdk").unwrap_or(descriptor))
}

/// The descriptor of a disk of this size.
pub(super) fn descriptor_text(bytes: i64) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
         createType=\"vmfs\"\n\n# Extent description\nRW {} VMFS\n",
        bytes / 512
    )
}

impl MachineFile {
    /// Whether the file can be read while its machine is on.
    const fn is_readable_while_on(&self) -> bool {
        !matches!(self.kind, FileKind::Extent(_) | FileKind::Swap)
    }

    const fn is_used_while_on(&self) -> bool {
        !matches!(self.kind, FileKind::Screenshot(_))
    }
}

impl World {
    /// The machines with files in this folder or below it.
    fn machines_below(&self, folder: &FilePath) -> impl Iterator<Item = &Machine> {
        let start = format!("[{}] ", folder.datastore);
        let below =
            if folder.path.is_empty() { String::new() } else { format!("{}/", folder.path) };
        self.machines().filter(move |machine| {
            let path = machine.path.strip_prefix(&start);
            path.is_some_and(|path| path.starts_with(&below))
        })
    }

    fn machine_file(&self, machine: &Machine, path: &FilePath, file: &MachineFile) -> FileEntry {
        let is_on = machine.power == PowerState::On;
        let is_locked = self.is_locked_by_test(path);
        FileEntry::File(StoredFile {
            content: machine.content(&file.kind, self),
            modified: machine.reconfigured_at.unwrap_or(machine.created_at),
            is_locked: is_locked || (is_on && !file.is_readable_while_on()),
            is_in_use: is_locked || (is_on && file.is_used_while_on()),
        })
    }

    /// What is at a place because of a machine: one of its files, or its folder.
    pub(super) fn machine_entry(&self, path: &FilePath) -> Option<FileEntry> {
        if self.is_removed(path) {
            return None;
        }
        let text = path.to_string();
        let file = path.parent().and_then(|folder| {
            self.machines_below(&folder).find_map(|machine| {
                let file = machine.files().into_iter().find(|file| file.path == text)?;
                Some(self.machine_file(machine, path, &file))
            })
        });
        file.or_else(|| {
            let machine = self.machines_below(path).next()?;
            Some(FileEntry::Folder { modified: machine.created_at })
        })
    }

    /// What is in a folder because of machines: their files, and the folders that hold them.
    pub(super) fn machine_entries(&self, folder: &FilePath) -> BTreeMap<String, FileEntry> {
        let mut found = BTreeMap::new();
        let mut folders = BTreeSet::new();
        for machine in self.machines_below(folder) {
            let Ok(config) = FilePath::parse(&machine.path) else { continue };
            if config.parent().as_ref() != Some(folder) {
                let below = match folder.path.as_str() {
                    "" => config.path.as_str(),
                    path => &config.path[path.len() + 1..],
                };
                if let Some((name, _)) = below.split_once('/') {
                    folders.insert((name.to_owned(), machine.created_at));
                }
                continue;
            }
            for file in machine.files() {
                let Ok(path) = FilePath::parse(&file.path) else { continue };
                if path.parent().as_ref() == Some(folder) && !self.is_removed(&path) {
                    let entry = self.machine_file(machine, &path, &file);
                    found.insert(path.name().to_owned(), entry);
                }
            }
        }
        for (name, modified) in folders {
            if !self.is_removed(&folder.child(&name)) {
                found.entry(name).or_insert(FileEntry::Folder { modified });
            }
        }
        found
    }
}
