//! Lists folders of datastores by `HostDatastoreBrowser`. A listing is a task of the host, whose
//! result is read when it has ended.

use std::time::Duration;

use super::{EsxFiles, TaskEnd, of_files, vim_path};
use crate::domain::file_entry::{FileEntry, FileKind};
use crate::domain::ids::{DatastoreId, TaskId};
use crate::esx::calls::send_authenticated;
use crate::esx::connections::Lane;
use crate::esx::property_reader::{first_value, read_object};
use crate::esx::soap::property::{number, timestamp};
use crate::esx::soap::xml::Element;
use crate::esx::soap::{Reference, request};
use crate::hypervisor::{CallError, FolderPlace, HostError, HostErrorKind};

/// How long a listing may take. Large folders on slow datastores take long.
const LISTING_TIME: Duration = Duration::from_mins(2);

impl EsxFiles {
    /// Lists a folder.
    ///
    /// # Parameters
    /// - `name`: a pattern of the names to list. `None` lists all.
    ///
    /// # Errors
    /// As [`DatastoreFiles::list`](crate::hypervisor::DatastoreFiles::list).
    pub(super) async fn search(
        &self,
        folder: &FolderPlace,
        name: Option<&str>,
    ) -> Result<Vec<FileEntry>, HostError> {
        let listing = async {
            match self.search_once(folder, name).await? {
                Some(entries) => Ok(entries),
                // The session was lost meanwhile. A listing changes nothing, so it is repeated.
                None => self.search_once(folder, name).await?.ok_or_else(|| no_listing(folder)),
            }
        };
        tokio::select! {
            biased;
            listed = listing => listed,
            () = self.clock.sleep(LISTING_TIME) => Err(no_listing(folder)),
        }
    }

    /// Lists a folder once. `None` if the host forgot the task.
    async fn search_once(
        &self,
        folder: &FolderPlace,
        name: Option<&str>,
    ) -> Result<Option<Vec<FileEntry>>, HostError> {
        let place = vim_path(&folder.datastore_name, folder.path.as_ref());
        let browser = self.browser(&folder.datastore).await?;
        let build = || request::search_datastore(&browser, &place, name);
        let prefix = format!("The host refused to list {place}");
        let reply = send_authenticated(&self.session, build, &prefix, Lane::Ordinary.into()).await;
        let reply = match reply {
            Ok(reply) => reply,
            Err(CallError::Refused(error) | CallError::Lost(error)) => return Err(of_files(error)),
        };
        let Some(task) = reply.reference() else { return Err(no_listing(folder)) };
        match self.task_end(&TaskId::from_backend(&task.value)).await {
            TaskEnd::Succeeded => {}
            TaskEnd::Failed(error, _) => return Err(error),
            TaskEnd::Vanished => return Ok(None),
        }
        match read_object(&self.session, &task, &["info"], &format!("listing of {place}")).await {
            Ok(contents) => {
                let result = first_value(&contents, "info").and_then(|info| info.child("result"));
                let result = result.ok_or_else(|| no_listing(folder))?;
                Ok(Some(result.children_named("file").filter_map(entry).collect()))
            }
            Err(error) if error.kind == HostErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn browser(&self, datastore: &DatastoreId) -> Result<Reference, HostError> {
        let object = Reference::new("Datastore", datastore.backend_text());
        let name = format!("datastore {datastore}");
        let contents = read_object(&self.session, &object, &["browser"], &name).await?;
        first_value(&contents, "browser").and_then(Reference::from_element).ok_or_else(|| {
            let message = format!("The host names no browser of the {name}.");
            HostError::new(HostErrorKind::Protocol, message)
        })
    }
}

fn no_listing(folder: &FolderPlace) -> HostError {
    let place = vim_path(&folder.datastore_name, folder.path.as_ref());
    let message = format!("The host did not list {place} in time, or its answer is no listing.");
    HostError::new(HostErrorKind::Unreachable, message)
}

/// One file of a listing. `None` if it has no name.
fn entry(file: Element<'_>) -> Option<FileEntry> {
    let name = file.child_text("path")?.trim_end_matches('/').to_owned();
    let kind = match file.type_name() {
        Some("FolderFileInfo") => FileKind::Folder,
        Some("IsoImageFileInfo") => FileKind::Iso,
        Some("VmDiskFileInfo") => FileKind::Disk,
        _ => FileKind::File,
    };
    let bytes = file.child("fileSize").and_then(number).filter(|_| kind != FileKind::Folder);
    let modified_at = file.child("modification").and_then(timestamp);
    (!name.is_empty()).then_some(FileEntry { name, kind, bytes, modified_at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esx::soap::xml::Document;

    #[test]
    fn a_file_has_the_kind_of_its_type() {
        let listed = |kind: &str, inside: &str| {
            let text = format!(
                r#"<file xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="{kind}"
                   >{inside}</file>"#
            );
            entry(Document::parse(text.as_bytes()).unwrap().root())
        };
        let modification = "<modification>2026-03-01T12:00:00Z</modification>";
        let file = "<path>a.iso</path><fileSize>7</fileSize>";
        let entry = listed("IsoImageFileInfo", &format!("{file}{modification}")).unwrap();
        assert_eq!(
            (entry.name.as_str(), entry.kind, entry.bytes),
            ("a.iso", FileKind::Iso, Some(7))
        );
        assert_eq!(entry.modified_at, Some("2026-03-01T12:00:00Z".parse().unwrap()));
        let folder = listed("FolderFileInfo", "<path>iso</path><fileSize>280</fileSize>").unwrap();
        assert_eq!((folder.kind, folder.bytes), (FileKind::Folder, None));
        assert_eq!(listed("VmDiskFileInfo", file).unwrap().kind, FileKind::Disk);
        assert_eq!(listed("VmLogFileInfo", file).unwrap().kind, FileKind::File);
        assert_eq!(listed("FileInfo", ""), None);
    }
}
