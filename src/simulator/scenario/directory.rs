//! The files of datastores from a directory of this computer: `DIR/<datastore>/<path>`. They are
//! read in place, and no client changes them.

use std::io;
use std::path::{Path, PathBuf};

use super::{Scenario, ScenarioError};
use crate::simulator::world::FileContent;

/// What a directory holds.
#[derive(Default)]
struct Found {
    folders: Vec<String>,
    files: Vec<(String, FileContent)>,
}

impl Scenario {
    /// Adds the files of a directory. Its sub-directories have the names of datastores.
    ///
    /// # Errors
    /// Fails if the directory is unreadable, if it has something else than directories with the
    /// names of datastores, or if a name is not UTF-8.
    pub async fn with_files(mut self, directory: PathBuf) -> Result<Self, ScenarioError> {
        let datastores: Vec<String> =
            self.datastores.iter().map(|datastore| datastore.name.clone()).collect();
        let shown = directory.display().to_string();
        let read = tokio::task::spawn_blocking(move || read(&directory, &datastores));
        let unreadable = |source| ScenarioError::Unreadable { path: shown.clone(), source };
        let found = read.await.map_err(|error| unreadable(io::Error::other(error)))?;
        let found = found.map_err(unreadable)?;
        self.folders.extend(found.folders);
        self.files.extend(found.files);
        Ok(self)
    }
}

fn read(directory: &Path, datastores: &[String]) -> io::Result<Found> {
    let mut found = Found::default();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = text(entry.file_name())?;
        if !datastores.contains(&name) {
            let message = format!("the scenario has no datastore {name:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        read_datastore(&entry.path(), &name, &mut found)?;
    }
    Ok(found)
}

fn read_datastore(directory: &Path, datastore: &str, found: &mut Found) -> io::Result<()> {
    // The directories that are still to read, with their paths on the datastore.
    let mut open = vec![(directory.to_owned(), String::new())];
    while let Some((directory, prefix)) = open.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let path = format!("{prefix}{}", text(entry.file_name())?);
            // A link to a directory could lead in a circle, so that only links to files count.
            let is_directory = entry.file_type()?.is_dir();
            let data = std::fs::metadata(entry.path())?;
            if is_directory {
                found.folders.push(format!("[{datastore}] {path}"));
                open.push((entry.path(), format!("{path}/")));
            } else if data.is_file() {
                let content = FileContent::on_disk(std::path::absolute(entry.path())?, data.len());
                found.files.push((format!("[{datastore}] {path}"), content));
            }
        }
    }
    Ok(())
}

fn text(name: std::ffi::OsString) -> io::Result<String> {
    name.into_string().map_err(|name| {
        let message = format!("the name {} is not UTF-8", name.display());
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}
