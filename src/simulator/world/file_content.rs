//! The content of a file on a datastore: blocks in memory without those that hold only zeros, and
//! before them an optional part that is a file of this computer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;

/// The size of a block. A part of a file never goes beyond the end of its block.
const BLOCK: usize = 256 << 10;
const BLOCK_LENGTH: u64 = 256 << 10;
/// How many bytes are compared with zero at once.
const COMPARED: usize = 4 << 10;

static ZEROS: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; BLOCK]));

/// The content of a file. A clone costs nothing and does not change with the original.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileContent {
    length: u64,
    /// The beginning of the file, if a file of this computer holds it.
    on_disk: Option<DiskPart>,
    /// The blocks behind `on_disk` that hold other bytes than zeros, by their numbers.
    blocks: Arc<BTreeMap<u64, Arc<Vec<u8>>>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct DiskPart {
    path: Arc<Path>,
    length: u64,
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilePart {
    Bytes(Bytes),
    /// The part has to be read from a file of this computer.
    OnDisk {
        path: Arc<Path>,
        offset: u64,
        length: usize,
    },
}

/// A block as the owner of its bytes.
struct Block(Arc<Vec<u8>>);

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl FileContent {
    /// A file of this many zeros.
    #[must_use]
    pub fn zeros(length: u64) -> Self {
        Self { length, ..Self::default() }
    }

    /// A file of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut content = Self::default();
        content.append(bytes);
        content
    }

    /// A file that begins with `length` bytes of a file of this computer.
    #[must_use]
    pub fn on_disk(path: PathBuf, length: u64) -> Self {
        let on_disk = Some(DiskPart { path: path.into(), length });
        Self { length, on_disk, ..Self::default() }
    }

    /// The number of bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The number of bytes that are kept in memory.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.blocks.values().map(|block| block.len()).sum()
    }

    /// Writes at the end.
    pub fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let end = self.length - self.disk_length();
            let (number, filled) = (end / BLOCK_LENGTH, small(end % BLOCK_LENGTH));
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - filled));
            // A block begins to exist with its first byte that is no zero.
            if self.blocks.contains_key(&number) || !is_zero(now) {
                let block = Arc::make_mut(&mut self.blocks).entry(number).or_default();
                let block = Arc::make_mut(block);
                block.resize(filled, 0);
                block.extend_from_slice(now);
            }
            self.length += large(now.len());
            bytes = later;
        }
    }

    /// Writes zeros at the end until the file has this length. A longer file stays as it is.
    pub fn extend_to(&mut self, length: u64) {
        self.length = self.length.max(length);
    }

    /// A part of the file from `offset` on, of at most `most` bytes. It can be shorter than the
    /// rest of the file, and it is empty at the end of the file and behind it.
    #[must_use]
    pub fn part(&self, offset: u64, most: usize) -> FilePart {
        let most = large(most).min(self.length.saturating_sub(offset));
        if most == 0 {
            return FilePart::Bytes(Bytes::new());
        }
        let behind = match &self.on_disk {
            Some(DiskPart { path, length }) if offset < *length => {
                let length = small(most.min(length - offset).min(BLOCK_LENGTH));
                return FilePart::OnDisk { path: Arc::clone(path), offset, length };
            }
            _ => offset.saturating_sub(self.disk_length()),
        };
        let (number, within) = (behind / BLOCK_LENGTH, small(behind % BLOCK_LENGTH));
        let end = small(most).min(BLOCK - within) + within;
        FilePart::Bytes(match self.blocks.get(&number) {
            Some(block) if within < block.len() => {
                let end = end.min(block.len());
                Bytes::from_owner(Block(Arc::clone(block))).slice(within..end)
            }
            // Behind the end of a block follow zeros, as if the block did not exist.
            _ => ZEROS.slice(within..end),
        })
    }

    /// The bytes that are in memory or are zeros. The part on the disk of this computer is left
    /// out.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut offset = self.disk_length();
        while let FilePart::Bytes(part) = self.part(offset, BLOCK) {
            if part.is_empty() {
                break;
            }
            offset += large(part.len());
            bytes.extend_from_slice(&part);
        }
        bytes
    }

    fn disk_length(&self) -> u64 {
        self.on_disk.as_ref().map_or(0, |part| part.length)
    }
}

/// Whether all bytes are zero. The folded comparison of many bytes is faster than a search.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(COMPARED).all(|part| part.iter().fold(0, |seen, byte| seen | byte) == 0)
}

/// A number below the size of a block.
fn small(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn large(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a file from `offset` on, in parts of at most `most` bytes.
    fn read(content: &FileContent, mut offset: u64, most: usize) -> Vec<u8> {
        let mut read = Vec::new();
        loop {
            match content.part(offset, most) {
                FilePart::Bytes(part) if part.is_empty() => return read,
                FilePart::Bytes(part) => {
                    assert!(part.len() <= most);
                    offset += large(part.len());
                    read.extend_from_slice(&part);
                }
                FilePart::OnDisk { .. } => panic!("nothing is on the disk"),
            }
        }
    }

    #[test]
    fn zeros_take_no_memory_and_other_bytes_are_where_they_were_written() {
        let mut content = FileContent::zeros(10 << 30);
        assert_eq!((content.length(), content.kept()), (10 << 30, 0));
        content.append(b"end");
        assert!(content.kept() < BLOCK);
        assert_eq!(read(&content, (10 << 30) - 2, 100), b"\0\0end");
        assert_eq!(content.part(content.length() + 1, 10), FilePart::Bytes(Bytes::new()));

        let mut expected = Vec::new();
        let mut written = FileContent::default();
        for (at, length) in [1, BLOCK - 1, BLOCK + 5, 3, 2 * BLOCK, 70_000].into_iter().enumerate()
        {
            let byte = if at % 2 == 0 { 0 } else { 7 };
            let part = vec![byte; length];
            written.append(&part);
            expected.extend_from_slice(&part);
            assert_eq!(written.length(), large(expected.len()));
        }
        for (offset, most) in [(0, BLOCK), (0, 1_000), (BLOCK - 3, 7_777), (5 * BLOCK, BLOCK)] {
            assert!(
                read(&written, large(offset), most) == expected[offset.min(expected.len())..],
                "{offset}"
            );
        }
        assert!(written.bytes() == expected);
    }

    #[test]
    fn a_file_can_grow_by_zeros() {
        let mut content = FileContent::of(b"CD001");
        content.extend_to(3);
        assert_eq!(content.length(), 5);
        content.extend_to(8);
        content.append(b"x");
        content.extend_to(10);
        assert_eq!(content.bytes(), b"CD001\0\0\0x\0");
        content.extend_to(10 << 30);
        assert_eq!((content.length(), content.kept()), (10 << 30, 9));
    }

    #[test]
    fn a_clone_is_what_the_file_was() {
        let mut content = FileContent::of(b"before");
        let before = content.clone();
        content.append(b", after");
        assert_eq!(before.bytes(), b"before");
        assert_eq!(content.bytes(), b"before, after");
    }

    #[test]
    fn a_file_of_this_computer_is_read_in_place_and_can_grow() {
        let mut content = FileContent::on_disk("/srv/a.iso".into(), 1_000_000);
        content.append(b"more");
        let path: Arc<Path> = Path::new("/srv/a.iso").into();
        let part = content.part(999_990, 100);
        assert_eq!(part, FilePart::OnDisk { path, offset: 999_990, length: 10 });
        assert_eq!(content.part(1_000_001, 9), FilePart::Bytes(Bytes::from_static(b"ore")));
        assert_eq!((content.length(), content.bytes()), (1_000_004, b"more".to_vec()));
    }
}
