//! The files in which otter keeps the output of one serial port. Each is a contiguous part, and its
//! name is the offset of its first byte. The oldest are deleted when all together are too large.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::ring::length;

/// The end of the names of the files.
const EXTENSION: &str = "log";

/// Into how many files the space of a port is divided.
const FILES: u64 = 8;

/// The smallest file after which the next one begins, in bytes.
const SMALLEST: u64 = 64 * 1024;

/// The folder of one port, and its limit.
#[derive(Clone, Debug)]
pub struct LogFolder {
    path: PathBuf,
    /// The size of all files together, in bytes.
    max_bytes: u64,
}

/// A file: the offset of its first byte, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub start: u64,
    pub length: u64,
}

impl Segment {
    /// The offset after its last byte.
    pub const fn end(self) -> u64 {
        self.start.saturating_add(self.length)
    }

    const fn contains(self, offset: u64) -> bool {
        self.start <= offset && offset < self.end()
    }
}

/// The files of a port, in the order of their offsets.
#[derive(Debug, Default)]
pub struct Segments(Vec<Segment>);

impl Segments {
    /// The offset of the first byte. `None` if there are no bytes.
    pub fn start(&self) -> Option<u64> {
        self.0.first().map(|segment| segment.start)
    }

    /// The offset after the last byte. `None` if there are no bytes.
    pub fn end(&self) -> Option<u64> {
        self.0.last().map(|segment| segment.end())
    }

    /// The file that has the byte at this offset.
    pub fn at(&self, offset: u64) -> Option<Segment> {
        self.0.iter().copied().find(|segment| segment.contains(offset))
    }

    /// The offset of the first byte after this offset that a file has, if no file has this one.
    pub fn next_start(&self, offset: u64) -> Option<u64> {
        self.0.iter().map(|segment| segment.start).find(|start| *start > offset)
    }

    /// Adds bytes that were written behind the last file, or into a new one.
    ///
    /// # Parameters
    /// - `written`: the file as it is then.
    pub fn record(&mut self, written: Segment) {
        match self.0.last_mut().filter(|last| last.start == written.start) {
            Some(last) => *last = written,
            None => self.0.push(written),
        }
    }

    /// Forgets a file that is no longer there.
    pub fn forget(&mut self, start: u64) {
        self.0.retain(|segment| segment.start != start);
    }

    /// Forgets the oldest files until the others have at most this many bytes. The last file stays.
    ///
    /// # Returns
    /// The offsets of the files to delete.
    pub fn trim(&mut self, max_bytes: u64) -> Vec<u64> {
        let mut total: u64 = self.0.iter().map(|segment| segment.length).sum();
        let mut removed = Vec::new();
        while total > max_bytes && self.0.len() > 1 {
            let oldest = self.0.remove(0);
            total -= oldest.length;
            removed.push(oldest.start);
        }
        removed
    }
}

/// Writes the newest file of a port.
#[derive(Debug, Default)]
pub struct SegmentWriter(Option<(File, Segment)>);

impl SegmentWriter {
    /// Appends bytes to the newest file, or to a new one if they do not follow it or if it is
    /// large. If the disk refuses a part of them, the file is as before.
    ///
    /// # Returns
    /// The file that has the bytes.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn append(&mut self, folder: &LogFolder, offset: u64, bytes: &[u8]) -> io::Result<Segment> {
        let fits = |segment: &Segment| {
            segment.end() == offset
                && segment.length < folder.max_bytes.div_ceil(FILES).max(SMALLEST)
        };
        if !self.0.as_ref().is_some_and(|(_, segment)| fits(segment)) {
            self.0 = None;
            self.0 = Some((folder.create(offset)?, Segment { start: offset, length: 0 }));
        }
        let Some((file, segment)) = &mut self.0 else { return Err(io::ErrorKind::Other.into()) };
        if let Err(error) = file.write_all(bytes) {
            let kept = file.set_len(segment.length);
            let (start, is_empty) = (segment.start, segment.length == 0);
            self.0 = None;
            if is_empty || kept.is_err() {
                folder.delete(start);
            }
            return Err(error);
        }
        segment.length += length(bytes.len());
        Ok(*segment)
    }

    /// Closes the newest file. The next bytes go into a new one.
    pub fn close(&mut self) {
        self.0 = None;
    }
}

impl LogFolder {
    /// The folder of a port. It is created with its first file.
    pub const fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self { path, max_bytes }
    }

    /// The size that all files together may have, in bytes.
    pub const fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// The path of a file.
    pub fn file(&self, start: u64) -> PathBuf {
        // With leading zeros, so that a list of the folder shows the files in their order.
        self.path.join(format!("{start:020}.{EXTENSION}"))
    }

    /// The files that are there. Other files are ignored, and so is a file that overlaps the one
    /// before it.
    ///
    /// # Errors
    /// The folder cannot be read. A folder that does not exist has no files.
    pub fn scan(&self) -> io::Result<Segments> {
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Segments::default()),
            Err(error) => return Err(error),
        };
        let mut found: Vec<Segment> =
            entries.flatten().filter_map(|entry| segment(&entry)).collect();
        found.sort_unstable_by_key(|segment| segment.start);
        let mut segments = Segments::default();
        for segment in found {
            if segment.length > 0 && segments.end().is_none_or(|end| end <= segment.start) {
                segments.0.push(segment);
            }
        }
        Ok(segments)
    }

    /// Deletes a file. A failure is ignored: the next start finds the file again.
    pub fn delete(&self, start: u64) {
        let _ = std::fs::remove_file(self.file(start));
    }

    fn create(&self, start: u64) -> io::Result<File> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        // A file with this name is left from a write that failed, and no byte of it counts.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.file(start))
    }
}

fn segment(entry: &std::fs::DirEntry) -> Option<Segment> {
    let path = entry.path();
    if path.extension()? != EXTENSION {
        return None;
    }
    let start = path.file_stem()?.to_str()?.parse().ok()?;
    let metadata = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(Segment { start, length: metadata.len() })
}

/// Deletes the folders of ports that were not written for long.
///
/// # Parameters
/// - `folders`: the folder with one folder for each port.
/// - `max_age`: folders whose newest file is as old or older are deleted.
/// - `is_in_use`: whether the folder with this name belongs to a port that is open.
///
/// # Returns
/// The number of folders that were deleted.
pub fn delete_old(
    folders: &Path,
    max_age: std::time::Duration,
    is_in_use: impl Fn(&str) -> bool,
) -> usize {
    let Ok(entries) = std::fs::read_dir(folders) else { return 0 };
    let is_old = |folder: &Path| {
        let files = std::fs::read_dir(folder).ok()?;
        let ages = files.flatten().filter_map(|file| file.metadata().ok()?.modified().ok());
        let youngest = ages.map(|modified| modified.elapsed().unwrap_or_default()).min();
        Some(youngest.is_none_or(|age| age >= max_age))
    };
    let mut deleted = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_port = name.to_str().is_some_and(|name| !is_in_use(name));
        let path = entry.path();
        if is_port && is_old(&path) == Some(true) && std::fs::remove_dir_all(&path).is_ok() {
            deleted += 1;
        }
    }
    deleted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(max_bytes: u64) -> (tempfile::TempDir, LogFolder) {
        let directory = tempfile::tempdir().unwrap();
        let folder = LogFolder::new(directory.path().join("port"), max_bytes);
        (directory, folder)
    }

    fn all(folder: &LogFolder) -> Vec<(u64, u64)> {
        let segments = folder.scan().unwrap();
        segments.0.iter().map(|segment| (segment.start, segment.length)).collect()
    }

    #[test]
    fn bytes_that_follow_each_other_are_in_one_file() {
        let (_directory, folder) = folder(1 << 20);
        assert_eq!(all(&folder), [], "the folder does not exist yet");
        let mut writer = SegmentWriter::default();
        writer.append(&folder, 7, b"abc").unwrap();
        let segment = writer.append(&folder, 10, b"de").unwrap();
        assert_eq!(segment, Segment { start: 7, length: 5 });
        writer.append(&folder, 100, b"x").unwrap();
        assert_eq!(all(&folder), [(7, 5), (100, 1)]);
        assert_eq!(std::fs::read(folder.file(7)).unwrap(), b"abcde");
    }

    #[test]
    fn a_new_process_never_writes_into_a_file_of_an_earlier_one() {
        let (_directory, folder) = folder(1 << 20);
        SegmentWriter::default().append(&folder, 0, b"abc").unwrap();
        SegmentWriter::default().append(&folder, 3, b"def").unwrap();
        assert_eq!(all(&folder), [(0, 3), (3, 3)]);
    }

    #[test]
    fn the_oldest_files_are_trimmed() {
        let mut segments = Segments::default();
        for start in [0, 100, 200] {
            segments.record(Segment { start, length: 100 });
        }
        segments.record(Segment { start: 200, length: 150 });
        assert_eq!((segments.start(), segments.end()), (Some(0), Some(350)));
        assert_eq!(segments.trim(349), [0]);
        assert_eq!(segments.trim(1), [100], "the last file stays");
        assert_eq!((segments.at(199), segments.next_start(199)), (None, Some(200)));
        assert_eq!(segments.at(349), Some(Segment { start: 200, length: 150 }));
        assert_eq!((segments.at(350), segments.next_start(350)), (None, None));
    }

    #[test]
    fn files_that_are_no_part_of_the_log_are_ignored() {
        let (_directory, folder) = folder(1 << 20);
        SegmentWriter::default().append(&folder, 5, b"abcde").unwrap();
        for name in ["notes.txt", "x.log", "00000000000000000099.log.tmp"] {
            std::fs::write(folder.path.join(name), "?").unwrap();
        }
        std::fs::write(folder.file(7), "overlaps").unwrap();
        std::fs::write(folder.file(20), "").unwrap();
        assert_eq!(all(&folder), [(5, 5)]);
    }

    #[test]
    fn only_old_folders_of_closed_ports_are_deleted() {
        let (directory, folder) = folder(1 << 20);
        SegmentWriter::default().append(&folder, 0, b"a").unwrap();
        let hour = std::time::Duration::from_hours(1);
        assert_eq!(delete_old(directory.path(), hour, |_| false), 0, "it is young");
        let none = std::time::Duration::ZERO;
        assert_eq!(delete_old(directory.path(), none, |name| name == "port"), 0, "it is open");
        assert_eq!(delete_old(directory.path(), none, |_| false), 1);
        assert_eq!(all(&folder), []);
    }
}
