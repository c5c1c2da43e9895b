//! Who may read and write which files. Files are written only below the configured folders, never
//! inside of the folder of a machine, and never under a name that is otter's own.

use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::file_job::FileTarget;
use crate::domain::file_path::{DatastorePath, FilePath};
use crate::domain::machine::Machine;
use crate::domain::names::unescape_vim;
use crate::service::callers::Caller;
use crate::service::machines::shorten;

/// How a caller wants to change a file or a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Upload { replace: bool },
    Delete,
    CreateFolder,
}

/// The folders below which files are written, and below which runners read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileRules {
    pub roots: Vec<DatastorePath>,
}

impl FileRules {
    /// Checks that a caller may read a place.
    ///
    /// # Parameters
    /// - `path`: `None` means the top folder.
    ///
    /// # Errors
    /// `forbidden`
    pub fn check_read(
        &self,
        caller: &Caller,
        datastore: &str,
        path: Option<&FilePath>,
    ) -> Result<(), Failure> {
        let is_shared = self.roots.iter().any(|root| root.contains(datastore, path));
        if is_shared || caller.role >= Role::Operator {
            return Ok(());
        }
        let place = DatastorePath { datastore: datastore.to_owned(), path: path.cloned() };
        let detail = format!(
            "{} is {}, and reads only {}. {} is outside.",
            caller.name,
            caller.role.with_article(),
            self.listed("no folder, because files.roots is empty"),
            shorten(&place.to_string())
        );
        Err(Failure::new(FailureKind::Forbidden, detail))
    }

    /// Checks that a file or a folder may be changed.
    ///
    /// # Parameters
    /// - `machines`: the machines of the host.
    ///
    /// # Errors
    /// `forbidden` outside of the configured folders, inside of the folder of a machine, and for
    /// the files of machines; `file-in-use` for a file in a drive; `invalid-request` for a name
    /// that is otter's own.
    pub fn check_write<'m>(
        &self,
        target: &FileTarget,
        change: Change,
        machines: impl Iterator<Item = &'m Machine>,
    ) -> Result<(), Failure> {
        let FileTarget { datastore_name: datastore, path, .. } = target;
        let is_below = |root: &DatastorePath| {
            root.datastore == *datastore && path.is_below(root.path.as_ref())
        };
        let place = shorten(&target.text());
        if !self.roots.iter().any(is_below) {
            let detail = format!(
                "otter changes only files below {}. {place} is not.",
                self.listed("the folders of files.roots, which is empty")
            );
            return Err(Failure::new(FailureKind::Forbidden, detail));
        }
        if path.is_part() && change != Change::Delete {
            let detail = "The name ends in .otter-part, which is the end of uploads that are not \
                          complete. Choose another name.";
            return Err(Failure::new(FailureKind::InvalidRequest, detail));
        }
        let changes_file =
            !matches!(change, Change::Upload { replace: false } | Change::CreateFolder);
        if changes_file && path.is_of_machine() {
            let detail = format!(
                "{place} has the name of a file of a machine, and otter neither deletes nor \
                 replaces such files."
            );
            return Err(Failure::new(FailureKind::Forbidden, detail));
        }
        for machine in machines {
            if has_in_folder(machine, datastore, path) {
                let detail = format!(
                    "{place} is inside of the folder of the machine {}, where otter changes \
                     nothing.",
                    machine.name
                );
                let failure = Failure::new(FailureKind::Forbidden, detail);
                return Err(failure.with_machine(&machine.id, &machine.name));
            }
            if changes_file && has_in_drive(machine, datastore, path) {
                let detail = format!(
                    "{place} is in a drive of the machine {}. Eject it first: DELETE \
                     /v1/machines/{}/cdrom",
                    machine.name, machine.id
                );
                let failure = Failure::new(FailureKind::FileInUse, detail);
                return Err(failure.with_machine(&machine.id, &machine.name));
            }
        }
        Ok(())
    }

    /// The configured folders in a sentence, or `none` if there are none.
    fn listed(&self, none: &str) -> String {
        if self.roots.is_empty() {
            return none.to_owned();
        }
        let roots: Vec<String> = self.roots.iter().map(ToString::to_string).collect();
        format!("{} (files.roots)", roots.join(", "))
    }
}

/// Whether a path is inside of the folder that has the configuration of a machine.
fn has_in_folder(machine: &Machine, datastore: &str, path: &FilePath) -> bool {
    let of_host = machine.path.as_deref().and_then(DatastorePath::folder_of_host_path);
    of_host.is_some_and(|(of_machine, folder)| {
        unescape_vim(of_machine) == datastore && is_inside(path, folder)
    })
}

/// Whether a drive of a machine has the file, connected or not.
fn has_in_drive(machine: &Machine, datastore: &str, path: &FilePath) -> bool {
    let images = machine.cdroms.iter().filter_map(|drive| drive.iso.as_deref());
    images.filter_map(|image| image.strip_prefix('[')?.split_once(']')).any(|(name, image)| {
        unescape_vim(name) == datastore && image.trim_start().trim_matches('/') == path.as_str()
    })
}

/// Whether a path is inside of a folder that a host names, or is the folder.
fn is_inside(path: &FilePath, folder: &str) -> bool {
    let folder = folder.trim_matches('/');
    let rest = path.as_str().strip_prefix(folder);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{DatastoreId, MachineId};
    use crate::domain::media::CdDrive;

    fn rules(roots: &[&str]) -> FileRules {
        FileRules { roots: roots.iter().map(|root| root.parse().unwrap()).collect() }
    }

    fn target(datastore: &str, path: &str) -> FileTarget {
        FileTarget {
            datastore: DatastoreId::from_backend("1"),
            datastore_name: datastore.to_owned(),
            path: FilePath::parse(path).unwrap(),
        }
    }

    fn machine() -> Machine {
        let mut machine = Machine::new(MachineId::from_backend("16"));
        machine.path = Some("[isos%2fnfs] iso/vm/vm.vmx".to_owned());
        machine.cdroms = vec![CdDrive {
            key: 3000,
            label: "CD/DVD drive 1".to_owned(),
            controller: None,
            unit: None,
            iso: Some("[isos/nfs] iso/qubes.iso".to_owned()),
            connected: false,
            connects_at_power_on: true,
        }];
        machine
    }

    #[test]
    fn files_are_written_only_below_the_roots() {
        let rules = rules(&["[isos] iso", "[scratch]"]);
        for (datastore, path, allowed) in [
            ("isos", "iso/a.iso", true),
            ("isos", "iso/linux/a.iso", true),
            ("isos", "iso", false),
            ("isos", "iso-private/a.iso", false),
            ("isos", "a.iso", false),
            ("Isos", "iso/a.iso", false),
            ("scratch", "a.iso", true),
        ] {
            let changed = Change::Upload { replace: false };
            let checked = rules.check_write(&target(datastore, path), changed, [].into_iter());
            assert_eq!(checked.is_ok(), allowed, "[{datastore}] {path}");
        }
        let none = FileRules::default();
        let refused = none.check_write(&target("isos", "a"), Change::Delete, [].into_iter());
        assert_eq!(refused.unwrap_err().kind, FailureKind::Forbidden);
    }

    #[test]
    fn nothing_is_changed_that_a_machine_uses() {
        let (rules, machine) = (rules(&["[isos/nfs] iso"]), machine());
        let check = |path: &str, change| {
            let target = target("isos/nfs", path);
            let checked = rules.check_write(&target, change, std::iter::once(&machine));
            checked.err().map(|failure| failure.kind)
        };
        let (upload, replace) =
            (Change::Upload { replace: false }, Change::Upload { replace: true });
        for (path, change, expected) in [
            ("iso/vm/a.iso", upload, Some(FailureKind::Forbidden)),
            ("iso/vm", Change::Delete, Some(FailureKind::Forbidden)),
            ("iso/vm-2/a.iso", upload, None),
            ("iso/qubes.iso", Change::Delete, Some(FailureKind::FileInUse)),
            ("iso/qubes.iso", replace, Some(FailureKind::FileInUse)),
            ("iso/qubes.iso", upload, None),
            ("iso/disk.VMDK", Change::Delete, Some(FailureKind::Forbidden)),
            ("iso/disk.vmdk", replace, Some(FailureKind::Forbidden)),
            ("iso/disk.vmdk", upload, None),
            ("iso/a.otter-part", upload, Some(FailureKind::InvalidRequest)),
            ("iso/a.otter-part", Change::CreateFolder, Some(FailureKind::InvalidRequest)),
            ("iso/a.otter-part", Change::Delete, None),
        ] {
            assert_eq!(check(path, change), expected, "{path} {change:?}");
        }
    }

    #[test]
    fn runners_read_below_the_roots_and_operators_everywhere() {
        let rules = rules(&["[isos] iso"]);
        let read = |role, path: &str| {
            let path = FilePath::parse_folder(path).unwrap();
            rules.check_read(&Caller::new("ci", role), "isos", path.as_ref()).is_ok()
        };
        assert!(read(Role::Runner, "iso") && read(Role::Runner, "iso/a.iso"));
        assert!(!read(Role::Runner, "") && !read(Role::Runner, "iso-private"));
        assert!(read(Role::Operator, "") && read(Role::Operator, "iso-private/a"));
    }
}
