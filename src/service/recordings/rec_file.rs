//! The file of a recording while it runs: entries, each with its length and its checksum, so that a
//! file that a crash cut can be read up to its last whole entry.
//!
//! ```text
//! file  = "OTTERREC" 1 0 0 0 entry*
//! entry = length:u32 crc32:u32 payload      (little-endian; both of the payload)
//! payload = kind:u8 at:u64 body             (at: milliseconds since the recording began)
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::Crc;

use crate::domain::screen::{Region, ScreenSize};

const MAGIC: [u8; 12] = *b"OTTERREC\x01\0\0\0";

/// The number of bytes before a payload.
const HEAD: usize = 8;

/// The longest payload. The writer writes shorter ones, so a longer one is damage.
const MAX_PAYLOAD: u32 = 64 << 20;

/// One entry of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Milliseconds since the recording began.
    pub at: u64,
    pub what: Recorded,
}

/// What an entry records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The recording begins, or goes on after a restart of otter, at this time: microseconds since
    /// 1970.
    Start(i64),
    /// The screen has this size, and is black.
    Size(ScreenSize),
    /// The pixels of a region: 3 bytes each (red, green, blue), compressed by zlib.
    Pixels {
        region: Region,
        zlib: Vec<u8>,
    },
    /// The machine shows nothing.
    NoSignal,
    /// What follows is left out, because a secret is being typed.
    Paused,
    Resumed,
    /// The recording ended, for this reason.
    End(String),
    /// Bytes of a serial port, and the offset of the first one.
    Serial {
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Bytes of the serial port are missing before this offset.
    Gap {
        offset: u64,
        reason: String,
    },
}

/// Why a recording cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RecError {
    #[error("it reached its size of {0} bytes (artifacts.recording_bytes)")]
    Size(u64),
    #[error("less than {} MiB are free on the disk", RESERVE >> 20)]
    LowDisk,
    #[error("the disk refused a write: {0}")]
    Disk(#[from] io::Error),
}

/// The number of bytes that recordings leave free on the disk, for the jobs and the leases.
pub const RESERVE: u64 = 64 << 20;

impl Recorded {
    const fn kind(&self) -> u8 {
        match self {
            Self::Start(_) => 1,
            Self::Size(_) => 2,
            Self::Pixels { .. } => 3,
            Self::NoSignal => 4,
            Self::Paused => 5,
            Self::Resumed => 6,
            Self::End(_) => 7,
            Self::Serial { .. } => 8,
            Self::Gap { .. } => 9,
        }
    }

    fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Start(wall) => out.extend_from_slice(&wall.to_le_bytes()),
            Self::Size(size) => {
                out.extend_from_slice(&size.width.to_le_bytes());
                out.extend_from_slice(&size.height.to_le_bytes());
            }
            Self::Pixels { region, zlib } => {
                for side in [region.x, region.y, region.width, region.height] {
                    out.extend_from_slice(&side.to_le_bytes());
                }
                out.extend_from_slice(zlib);
            }
            Self::NoSignal | Self::Paused | Self::Resumed => {}
            Self::End(reason) => out.extend_from_slice(reason.as_bytes()),
            Self::Serial { offset, bytes } => {
                out.extend_from_slice(&offset.to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Self::Gap { offset, reason } => {
                out.extend_from_slice(&offset.to_le_bytes());
                out.extend_from_slice(reason.as_bytes());
            }
        }
    }

    fn parse(kind: u8, body: &[u8]) -> Option<Self> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some(match kind {
            1 => Self::Start(i64::from_le_bytes(body.try_into().ok()?)),
            2 => {
                let (width, rest) = body.split_first_chunk()?;
                let height = rest.try_into().ok()?;
                Self::Size(ScreenSize::new(u16::from_le_bytes(*width), u16::from_le_bytes(height)))
            }
            3 => {
                let (sides, zlib) = body.split_first_chunk::<8>()?;
                let side = |at: usize| u16::from_le_bytes([sides[at], sides[at + 1]]);
                let region = Region { x: side(0), y: side(2), width: side(4), height: side(6) };
                Self::Pixels { region, zlib: zlib.to_vec() }
            }
            4 => Self::NoSignal,
            5 => Self::Paused,
            6 => Self::Resumed,
            7 => Self::End(text(body)),
            8 => {
                let (offset, bytes) = body.split_first_chunk()?;
                Self::Serial { offset: u64::from_le_bytes(*offset), bytes: bytes.to_vec() }
            }
            9 => {
                let (offset, reason) = body.split_first_chunk()?;
                Self::Gap { offset: u64::from_le_bytes(*offset), reason: text(reason) }
            }
            _ => return None,
        })
    }
}

/// Writes the file of a recording.
#[derive(Debug)]
pub struct RecWriter {
    file: File,
    /// The number of bytes of all whole entries.
    length: u64,
    limit: u64,
}

/// What a file has that is continued after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Continued {
    /// When the recording began: microseconds since 1970. `None` if the file is new.
    pub began_at: Option<i64>,
    /// The time of the last entry, in milliseconds since the recording began.
    pub last_at: u64,
    /// The offset after the last byte of the serial port. `None` if there is none.
    pub next_offset: Option<u64>,
    /// Why the recording has ended. `None` if it goes on.
    pub ended: Option<String>,
}

impl Continued {
    fn add(&mut self, Entry { at, what }: &Entry) {
        self.last_at = *at;
        match what {
            Recorded::Start(wall) => {
                self.began_at.get_or_insert(*wall);
            }
            Recorded::Serial { offset, bytes } => {
                self.next_offset = Some(offset.saturating_add(bytes.len() as u64));
            }
            Recorded::Gap { offset, .. } => self.next_offset = Some(*offset),
            Recorded::End(reason) => self.ended = Some(reason.clone()),
            _ => {}
        }
    }
}

impl RecWriter {
    /// Opens the file of a recording. Makes it if it does not exist. If it exists, whatever follows
    /// its last whole entry is cut off.
    ///
    /// # Parameters
    /// - `limit`: the largest number of bytes of the file.
    ///
    /// # Errors
    /// Fails if the disk fails.
    pub fn open(path: &Path, limit: u64) -> io::Result<(Self, Continued)> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let mut continued = Continued::default();
        let mut length = 0;
        match RecReader::new(&file) {
            Ok(mut reader) => {
                while let Some(entry) = reader.read_entry()? {
                    continued.add(&entry);
                }
                length = reader.position();
            }
            // The file is new, or a crash cut it before its first entry.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(error) => return Err(error),
        }
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        let mut writer = Self { file, length, limit };
        if length == 0 {
            writer.write(&MAGIC)?;
        }
        Ok((writer, continued))
    }

    /// The number of bytes of the file.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Appends an entry.
    ///
    /// # Errors
    /// [`RecError`]. The file then ends with its last whole entry.
    pub fn append(&mut self, entry: &Entry) -> Result<(), RecError> {
        let mut bytes = vec![0; HEAD];
        bytes.push(entry.what.kind());
        bytes.extend_from_slice(&entry.at.to_le_bytes());
        entry.what.write_to(&mut bytes);
        let payload = &bytes[HEAD..];
        let length = u32::try_from(payload.len()).ok().filter(|length| *length <= MAX_PAYLOAD);
        let length = length.ok_or_else(|| io::Error::other("an entry is too long"))?;
        let checksum = checksum(payload);
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[4..HEAD].copy_from_slice(&checksum.to_le_bytes());
        // An end fits always, so that each recording says why it ended.
        let is_end = matches!(entry.what, Recorded::End(_));
        if !is_end && self.length + bytes.len() as u64 > self.limit {
            return Err(RecError::Size(self.limit));
        }
        Ok(self.write(&bytes)?)
    }

    /// Writes everything to the disk.
    ///
    /// # Errors
    /// Fails if the disk fails, or if too little of it is free.
    pub fn sync(&mut self) -> Result<(), RecError> {
        self.file.sync_data()?;
        let disk = rustix::fs::fstatvfs(&self.file).map_err(io::Error::from)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < RESERVE {
            return Err(RecError::LowDisk);
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // A part of the entry may be in the file.
                self.file.set_len(self.length)?;
                self.file.seek(SeekFrom::Start(self.length))?;
                Err(error)
            }
        }
    }
}

/// Reads the file of a recording.
#[derive(Debug)]
pub struct RecReader<R> {
    input: BufReader<R>,
    /// The end of the last whole entry.
    position: u64,
}

impl<R: Read> RecReader<R> {
    /// Reads a recording from its beginning.
    ///
    /// # Errors
    /// The kind is `InvalidData` if the bytes are no recording.
    pub fn new(input: R) -> io::Result<Self> {
        let mut input = BufReader::with_capacity(256 << 10, input);
        let mut magic = [0; MAGIC.len()];
        if !fill(&mut input, &mut magic)? || magic != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a recording"));
        }
        Ok(Self { input, position: MAGIC.len() as u64 })
    }

    /// The next entry. `None` at the end, and where the file is cut or damaged.
    ///
    /// # Errors
    /// Fails if the disk fails.
    pub fn read_entry(&mut self) -> io::Result<Option<Entry>> {
        let (mut length, mut sum) = ([0; 4], [0; 4]);
        if !fill(&mut self.input, &mut length)? || !fill(&mut self.input, &mut sum)? {
            return Ok(None);
        }
        let length = u32::from_le_bytes(length);
        if length > MAX_PAYLOAD {
            return Ok(None);
        }
        let mut payload = vec![0; length as usize];
        let is_whole = fill(&mut self.input, &mut payload)?;
        if !is_whole || checksum(&payload) != u32::from_le_bytes(sum) {
            return Ok(None);
        }
        let parsed = payload.split_first().and_then(|(kind, rest)| {
            let (at, body) = rest.split_first_chunk()?;
            Some(Entry { at: u64::from_le_bytes(*at), what: Recorded::parse(*kind, body)? })
        });
        if parsed.is_some() {
            self.position += HEAD as u64 + u64::from(length);
        }
        Ok(parsed)
    }

    /// The end of the last whole entry in the file.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }
}

/// Fills a buffer. Returns false if the input ends before.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn checksum(payload: &[u8]) -> u32 {
    let mut checksum = Crc::new();
    checksum.update(payload);
    checksum.sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 1 << 20;

    fn region() -> impl Strategy<Value = Region> {
        any::<(u16, u16, u16, u16)>().prop_map(|(x, y, width, height)| Region {
            x,
            y,
            width,
            height,
        })
    }

    fn recorded() -> impl Strategy<Value = Recorded> {
        let bytes = prop::collection::vec(any::<u8>(), 0..40);
        prop_oneof![
            any::<i64>().prop_map(Recorded::Start),
            any::<(u16, u16)>()
                .prop_map(|(width, height)| Recorded::Size(ScreenSize::new(width, height))),
            (region(), bytes.clone()).prop_map(|(region, zlib)| Recorded::Pixels { region, zlib }),
            Just(Recorded::NoSignal),
            Just(Recorded::Paused),
            Just(Recorded::Resumed),
            ".{0,20}".prop_map(Recorded::End),
            (0..1_u64 << 60, bytes).prop_map(|(offset, bytes)| Recorded::Serial { offset, bytes }),
            (0..1_u64 << 60, ".{0,20}")
                .prop_map(|(offset, reason)| Recorded::Gap { offset, reason }),
        ]
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let entry = (any::<u64>(), recorded()).prop_map(|(at, what)| Entry { at, what });
        prop::collection::vec(entry, 0..20)
    }

    fn read(bytes: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let Ok(mut reader) = RecReader::new(bytes) else { return entries };
        while let Some(entry) = reader.read_entry().unwrap() {
            entries.push(entry);
        }
        entries
    }

    proptest! {
        #[test]
        fn a_cut_file_has_its_whole_entries_and_goes_on_after_them(
            entries in entries(),
            more in entries(),
            cut in any::<prop::sample::Index>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("screen.rec");
            let (mut writer, continued) = RecWriter::open(&path, LIMIT).unwrap();
            prop_assert_eq!(continued, Continued::default());
            let mut ends = vec![writer.length()];
            for entry in &entries {
                writer.append(entry).unwrap();
                ends.push(writer.length());
            }
            drop(writer);
            let whole = std::fs::read(&path).unwrap();
            prop_assert_eq!(&read(&whole), &entries);

            let cut = cut.index(whole.len() + 1);
            std::fs::write(&path, &whole[..cut]).unwrap();
            let kept = ends.iter().filter(|end| **end <= cut as u64).count().saturating_sub(1);
            prop_assert_eq!(&read(&whole[..cut]), &entries[..kept]);
            let (mut writer, continued) = RecWriter::open(&path, LIMIT).unwrap();
            let last_at = entries[..kept].last().map_or(0, |entry| entry.at);
            prop_assert_eq!(continued.last_at, last_at);
            for entry in &more {
                writer.append(entry).unwrap();
            }
            let expected = [&entries[..kept], &more].concat();
            prop_assert_eq!(read(&std::fs::read(&path).unwrap()), expected);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes: Vec<u8>, is_recording: bool) {
            if is_recording {
                bytes.splice(..0, MAGIC);
            }
            read(&bytes);
        }
    }

    #[test]
    fn a_changed_byte_ends_the_file_before_its_entry() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ttyS0.rec");
        let (mut writer, _) = RecWriter::open(&path, LIMIT).unwrap();
        let entry = |at, text: &str| Entry {
            at,
            what: Recorded::Serial { offset: at * 3, bytes: text.into() },
        };
        writer.append(&entry(0, "one")).unwrap();
        let end = usize::try_from(writer.length()).unwrap();
        writer.append(&entry(1, "two")).unwrap();
        writer.append(&entry(2, "end")).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[end + 20] ^= 1;
        assert_eq!(read(&bytes), [entry(0, "one")]);
        std::fs::write(&path, bytes).unwrap();
        let (_, continued) = RecWriter::open(&path, LIMIT).unwrap();
        assert_eq!(continued.next_offset, Some(3));
    }

    #[test]
    fn a_full_recording_takes_only_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("screen.rec");
        let (mut writer, _) = RecWriter::open(&path, 64).unwrap();
        let big = Entry { at: 1, what: Recorded::Serial { offset: 0, bytes: vec![0; 60] } };
        assert!(matches!(writer.append(&big), Err(RecError::Size(64))));
        let end = Entry { at: 2, what: Recorded::End("it reached its size ".repeat(9)) };
        writer.append(&end).unwrap();
        writer.sync().unwrap();
        assert_eq!(read(&std::fs::read(&path).unwrap()), [end]);
        assert!(RecWriter::open(&path, 64).unwrap().1.ended.is_some());
    }
}
