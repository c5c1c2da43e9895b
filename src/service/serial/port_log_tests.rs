//! Tests of the output of a port: a property test against a model, over lost connections, closed
//! ports, restarts and crashes, and the cases that a model does not have.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::port_log::{Bounds, PortId, PortLog};
use super::reader::{MAX_PIECE, SerialPiece, SerialReader};
use super::ring::length;
use super::segments::LogFolder;
use super::shared_port::{PortUse, SharedPort};
use crate::clock::Clock;
use crate::domain::ids::{JobId, MachineId};
use crate::domain::machine::Machine;
use crate::domain::serial::GapReason;
use crate::storage::{SerialStorage, StorageError, StoredSerialPort};

const KEY: i32 = 9000;

/// A storage in memory, which outlives a process.
#[derive(Default)]
struct Rows {
    rows: Mutex<HashMap<(String, i32), StoredSerialPort>>,
    refuses: Mutex<bool>,
}

#[async_trait]
impl SerialStorage for Rows {
    async fn save_serial_port(&self, port: StoredSerialPort) -> Result<(), StorageError> {
        if *self.refuses.lock().unwrap() {
            return Err(StorageError::Closed);
        }
        let mut rows = self.rows.lock().unwrap();
        let name = (port.machine.clone(), port.port);
        let reserved = rows.get(&name).map_or(0, |known| known.reserved);
        rows.insert(name, StoredSerialPort { reserved: port.reserved.max(reserved), ..port });
        Ok(())
    }

    async fn serial_port(
        &self,
        machine: &str,
        port: i32,
    ) -> Result<Option<StoredSerialPort>, StorageError> {
        Ok(self.rows.lock().unwrap().get(&(machine.to_owned(), port)).cloned())
    }

    async fn forget_serial_ports(&self, _: Timestamp) -> Result<u64, StorageError> {
        Ok(0)
    }
}

/// The disk of a port, on which one process after the other works.
struct Disk {
    storage: Arc<Rows>,
    folder: Option<PathBuf>,
    max_bytes: u64,
    _directory: tempfile::TempDir,
}

impl Disk {
    fn new(max_bytes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let folder = Some(directory.path().join("port"));
        Self { storage: Arc::default(), folder, max_bytes, _directory: directory }
    }

    /// The log of the port in a new process.
    async fn start(&self) -> Arc<PortLog> {
        let id = PortId { machine: "uuid:1".to_owned(), port: KEY };
        let folder = self.folder.clone().map(|path| LogFolder::new(path, self.max_bytes));
        let clock = Clock::stepped(Timestamp::UNIX_EPOCH);
        let log = Arc::new(PortLog::new(id, Arc::clone(&self.storage) as _, clock, folder));
        log.load().await.unwrap();
        log
    }
}

fn reader(log: &Arc<PortLog>, position: u64) -> SerialReader {
    let machine = Arc::new(Machine::new(MachineId::from_backend("16")));
    let (port, _) = SharedPort::new(machine, KEY, Arc::clone(log), CancellationToken::new());
    SerialReader::new(PortUse::of(&Arc::new(port)), position)
}

/// Reads all that there is. Checks that the pieces follow each other, except where a gap says that
/// they do not.
async fn drain(reader: &mut SerialReader, into: &mut Vec<(u64, u8)>) {
    let mut expected = reader.position();
    while let Some(piece) = reader.available(MAX_PIECE).await {
        match piece {
            SerialPiece::Bytes { offset, bytes } => {
                assert_eq!(offset, expected);
                assert!(!bytes.is_empty() && bytes.len() <= MAX_PIECE);
                into.extend((offset..).zip(bytes));
            }
            SerialPiece::Gap { offset, .. } => assert!(offset >= expected),
        }
        expected = reader.position();
    }
}

async fn append(log: &Arc<PortLog>, bytes: &[u8]) {
    log.append(Bytes::copy_from_slice(bytes)).await.unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    /// otter connects, unless it is connected, and the port outputs bytes.
    Output(Vec<u8>),
    /// The connection breaks.
    Lose,
    /// No one uses the port any more.
    Close,
    /// otter stops properly, and starts.
    Restart,
    /// otter dies, and starts.
    Crash,
    /// A client reads what there is.
    Read,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..2_000).prop_map(Step::Output),
        2 => Just(Step::Lose),
        1 => Just(Step::Close),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
        3 => Just(Step::Read),
    ];
    prop::collection::vec(step, 0..25)
}

/// What must be true of the port.
#[derive(Default)]
struct Model {
    /// All bytes that the port output while otter was connected, by their offsets.
    output: BTreeMap<u64, u8>,
    /// The offsets of the first bytes after a connection that was not the first one.
    breaks: Vec<u64>,
    is_connected: bool,
    was_connected: bool,
}

impl Model {
    async fn output(&mut self, log: &Arc<PortLog>, bytes: &[u8]) {
        if !self.is_connected {
            log.connected().await;
            let next = log.bounds().next;
            if self.was_connected && next > 0 {
                self.breaks.push(next);
            }
            (self.is_connected, self.was_connected) = (true, true);
        }
        let next = log.bounds().next;
        append(log, bytes).await;
        assert_eq!(log.bounds().next, next + length(bytes.len()));
        for (offset, byte) in (next..).zip(bytes) {
            assert_eq!(self.output.insert(offset, *byte), None, "{offset} was given out twice");
        }
    }

    async fn close(&mut self, log: &PortLog) {
        self.lose(log);
        log.close().await;
    }

    fn lose(&mut self, log: &PortLog) {
        if self.is_connected {
            log.disconnected(GapReason::Reconnect);
        }
        self.is_connected = false;
    }
}

async fn check(steps: &[Step]) {
    let disk = Disk::new(64 << 20);
    let mut log = disk.start().await;
    let (mut model, mut read) = (Model::default(), Vec::new());
    // A client that reads on where it stopped, also from the next process.
    let mut client = reader(&log, 0);
    for step in steps {
        let next = log.bounds().next;
        match step {
            Step::Output(bytes) => model.output(&log, bytes).await,
            Step::Lose => model.lose(&log),
            Step::Close => model.close(&log).await,
            Step::Restart => {
                model.close(&log).await;
                log = disk.start().await;
                client = reader(&log, client.position());
            }
            Step::Crash => {
                model.is_connected = false;
                log = disk.start().await;
                client = reader(&log, client.position());
            }
            Step::Read => drain(&mut client, &mut read).await,
        }
        assert!(log.bounds().next >= next, "an offset was given back");
    }
    drain(&mut client, &mut read).await;
    let output: Vec<(u64, u8)> = model.output.into_iter().collect();
    assert_eq!(read, output, "what the client read, piece by piece");
    let mut again = Vec::new();
    drain(&mut reader(&log, log.bounds().first), &mut again).await;
    let first = log.bounds().first;
    let kept: Vec<(u64, u8)> = output.into_iter().filter(|(offset, _)| *offset >= first).collect();
    assert_eq!(again, kept, "what another client reads later");
    let gaps = log.gaps();
    for offset in model.breaks.into_iter().filter(|offset| *offset >= first) {
        assert!(gaps.iter().any(|gap| gap.offset == offset), "no gap at {offset}: {gaps:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_byte_is_lost_doubled_or_renumbered_and_every_break_is_a_gap(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(&steps));
    }
}

#[tokio::test]
async fn after_a_crash_the_offsets_go_on_at_the_end_of_the_reservation() {
    let disk = Disk::new(1 << 20);
    let log = disk.start().await;
    log.connected().await;
    append(&log, b"dom0 login: ").await;
    let log = disk.start().await;
    let Bounds { first, next } = log.bounds();
    assert_eq!(first, 0);
    assert!(next > 1 << 20, "{next}");
    let [gap] = log.gaps()[..] else { panic!("{:?}", log.gaps()) };
    assert_eq!((gap.offset, gap.start(), gap.reason), (next, 12, GapReason::Crash));
    let mut client = reader(&log, 5);
    assert_eq!(
        client.available(3).await,
        Some(SerialPiece::Bytes { offset: 5, bytes: Bytes::from_static(b"log") })
    );
    let rest = client.available(100).await;
    assert_eq!(rest, Some(SerialPiece::Bytes { offset: 8, bytes: Bytes::from_static(b"in: ") }));
    let gap = SerialPiece::Gap { offset: next, reason: GapReason::Crash };
    assert_eq!(client.available(100).await, Some(gap));
    assert_eq!(client.available(100).await, None);
}

#[tokio::test]
async fn a_proper_restart_goes_on_at_the_next_offset() {
    let disk = Disk::new(1 << 20);
    let log = disk.start().await;
    log.connected().await;
    append(&log, b"abc").await;
    log.disconnected(GapReason::Reconnect);
    log.close().await;
    let log = disk.start().await;
    assert_eq!(log.bounds(), Bounds { first: 0, next: 3 });
    assert_eq!(log.connected().await, Some(GapReason::Restart));
    append(&log, b"d").await;
    let mut read = Vec::new();
    drain(&mut reader(&log, 0), &mut read).await;
    assert_eq!(read, [(0, b'a'), (1, b'b'), (2, b'c'), (3, b'd')]);
}

#[tokio::test]
async fn the_oldest_output_makes_room_and_a_late_reader_jumps() {
    let disk = Disk::new(256 << 10);
    let log = disk.start().await;
    log.connected().await;
    let mut client = reader(&log, 0);
    for number in 0..48_u8 {
        append(&log, &vec![number; 64 << 10]).await;
    }
    let Bounds { first, next } = log.bounds();
    assert_eq!(next, 48 * (64 << 10));
    // The memory has the newest 1 MiB, which is more than the files may have.
    assert_eq!(first, next - (1 << 20));
    let jumped = client.available(MAX_PIECE).await;
    assert_eq!(jumped, Some(SerialPiece::Gap { offset: first, reason: GapReason::Overflow }));
    let mut read = Vec::new();
    drain(&mut client, &mut read).await;
    assert_eq!((read.len(), read[0]), (1 << 20, (first, 32)));
    // After a restart, the files have what they may have.
    log.close().await;
    let log = disk.start().await;
    assert!(log.bounds().next - log.bounds().first <= 256 << 10);
    let mut read = Vec::new();
    drain(&mut reader(&log, log.bounds().first), &mut read).await;
    assert_eq!(length(read.len()), log.bounds().next - log.bounds().first);
    assert_eq!(read.last().unwrap().1, 47);
}

#[tokio::test]
async fn a_storage_that_reserves_nothing_gets_no_bytes() {
    let disk = Disk::new(1 << 20);
    let log = disk.start().await;
    *disk.storage.refuses.lock().unwrap() = true;
    assert!(log.append(Bytes::from_static(b"abc")).await.is_err());
    assert_eq!(log.bounds(), Bounds { first: 0, next: 0 });
    *disk.storage.refuses.lock().unwrap() = false;
    append(&log, b"abc").await;
    assert_eq!(log.bounds().next, 3);
}

#[tokio::test]
async fn a_disk_that_refuses_bytes_is_a_gap_and_readers_go_on_from_memory() {
    let mut disk = Disk::new(1 << 20);
    let blocked = disk.folder.take().unwrap();
    // A file stands where the folder has to be.
    std::fs::write(&blocked, "").unwrap();
    disk.folder = Some(blocked.join("port"));
    let log = disk.start().await;
    log.connected().await;
    append(&log, b"abc").await;
    append(&log, b"def").await;
    assert_eq!(log.gaps().iter().map(|gap| gap.reason).collect::<Vec<_>>(), [GapReason::Overflow]);
    let mut read = Vec::new();
    drain(&mut reader(&log, 0), &mut read).await;
    assert_eq!(read.iter().map(|(_, byte)| *byte).collect::<Vec<_>>(), b"abcdef");
    assert!(log.is_in_memory_alone());
}

#[tokio::test]
async fn a_mark_counts_for_its_preparation_alone_and_outlives_a_restart() {
    let disk = Disk::new(1 << 20);
    let log = disk.start().await;
    let [own, other] = [1, 2].map(|number| JobId::new(uuid::Uuid::from_u128(number)));
    log.connected().await;
    append(&log, b"old boot").await;
    log.set_mark(own).await.unwrap();
    assert_eq!((log.mark_of(own), log.mark_of(other)), (Some(8), None));
    log.close().await;
    let log = disk.start().await;
    assert_eq!((log.mark_of(own), log.mark_of(other)), (Some(8), None));
}
