//! Input at most once, wherever the connection to the host is cut: a matrix of cuts after each byte
//! that otter sends from the first key on.
//!
//! Each cut has a machine of its own: machine 1 is cut after no byte, machine 2 after one byte, and
//! so on. The last machine has no cut. A decorator of the host cuts, and records what passed.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use otter::app::Settings;
use otter::domain::call::{Evidence, HostCall};
use otter::domain::ids::{JobId, MachineId, TaskId};
use otter::hypervisor::{
    Accepted, ByteStream, CallError, Capability, HostError, Hypervisor, Observer, ScreenConnection,
    ScreenObject, TaskStatus,
};
use otter::simulator::Scenario;
use otter::simulator::world::PowerState;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::harness::{Lab, LabOptions, eventually};

/// What is typed: 16 and 32 bytes, as Shift is held for the second character.
const TEXT: &str = "aB";

/// The machines with a cut. otter also sends requests for the screen between the keys.
const CUTS: usize = 70;

/// The types of the messages that otter sends from the first key on.
const UPDATE_REQUEST: u8 = 3;
const KEY_EVENT: u8 = 4;

/// A key by its keysym, and whether it went down.
type KeyEvent = (u32, bool);

/// The bytes that passed on one connection from the first key on.
type Passed = Arc<Mutex<Vec<u8>>>;

/// The connections to each machine, in the order in which they were opened.
static CONNECTIONS: Mutex<BTreeMap<MachineId, Vec<Passed>>> = Mutex::new(BTreeMap::new());

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_under_a_cut_after_each_byte() {
    let mut scenario = Scenario::generated(CUTS + 1);
    for machine in &mut scenario.machines {
        machine.power = PowerState::On;
    }
    // The screens of machines that are done use no memory.
    let settings: fn(&mut Settings) = |all| all.screens.idle = Duration::from_millis(100);
    let options =
        LabOptions { scenario, settings, wrap_backend: with_cuts, ..LabOptions::default() };
    let lab = Lab::with_options(options).await;
    assert_eq!(type_on(&lab, CUTS + 1, &[]).await, TEXT.len(), "without a cut");
    let whole = received(CUTS + 1);
    assert_eq!(characters_of(&whole), TEXT.len(), "{whole:?}");
    let typed: Vec<usize> = stream::iter(1..=CUTS)
        .map(|number| type_on(&lab, number, &whole))
        .buffered(8)
        .collect()
        .await;
    assert!(typed[..16].iter().all(|count| *count == 0), "cuts in the first key: {typed:?}");
    assert!(typed[16..].iter().all(|count| *count >= 1) && typed[16] == 1, "{typed:?}");
}

/// Types on a machine and types again with the same key. Returns the number of characters that the
/// machine got, as the answer says.
///
/// # Parameters
/// - `whole`: all that the machine can get. Empty: this is not known.
async fn type_on(lab: &Lab, number: usize, whole: &[KeyEvent]) -> usize {
    let path = format!("/v1/machines/{number}/screen/input");
    let body = json!({"events": [{"text": TEXT}], "interval": "5ms"});
    let key = format!("cut {number}");
    let send = async || lab.post_with(&path, body.clone(), &[("idempotency-key", &key)]).await;
    let answer = send().await;
    let answer = if answer.status == 200 {
        answer
    } else {
        let answer = answer.problem(409, "input-interrupted");
        assert_eq!(answer.json["retry"], "no");
        answer
    };
    let events = received(number);
    let characters = answer.json["sent"]["characters"].as_u64().expect("sent");
    assert_eq!(characters, u64::try_from(characters_of(&events)).unwrap(), "{number}: {events:?}");
    if !whole.is_empty() {
        assert!(whole.starts_with(&events), "{number}: {events:?}");
        assert_eq!(answer.status == 200, events == whole, "{number}: {}", answer.text);
    }
    // otter connects again, and types nothing of it there. A key that a cut left down comes up.
    let machine = number.to_string();
    eventually("the release of all keys", async || {
        lab.control().screen(&machine).unwrap().held_keys.is_empty()
    })
    .await;
    lab.get(&format!("/v1/machines/{number}/screen.png")).await.expect(200);
    let again = send().await;
    assert_eq!((again.status, &again.json["sent"]), (answer.status, &answer.json["sent"]));
    assert_eq!(received(number), events, "{number}: typed again");
    usize::try_from(characters).unwrap()
}

/// The number of characters whose keys went down and up again.
fn characters_of(events: &[KeyEvent]) -> usize {
    let mut held = 0;
    let mut characters = 0;
    for (_, down) in events {
        held += if *down { 1 } else { -1 };
        characters += usize::from(held == 0);
    }
    characters
}

/// The key events that a machine got on its first connection. Later ones only release keys.
fn received(number: usize) -> Vec<KeyEvent> {
    let machine = MachineId::from_backend(number.to_string());
    let connections = CONNECTIONS.lock().unwrap();
    let connections = connections.get(&machine).map(Vec::as_slice).unwrap_or_default();
    let mut events = connections.iter().map(|passed| key_events(&passed.lock().unwrap()));
    let first = events.next().unwrap_or_default();
    let later: Vec<KeyEvent> = events.flatten().collect();
    assert!(later.iter().all(|(_, down)| !down), "{number}: typed again: {later:?}");
    first
}

/// The key events in the bytes from the first key on. A message that was cut is none.
fn key_events(mut bytes: &[u8]) -> Vec<KeyEvent> {
    let mut events = Vec::new();
    while let Some(kind) = bytes.first() {
        let length = match *kind {
            UPDATE_REQUEST => 10,
            KEY_EVENT => 8,
            other => panic!("a message of type {other}"),
        };
        let Some((message, rest)) = bytes.split_at_checked(length) else { break };
        if *kind == KEY_EVENT {
            let keysym = u32::from_be_bytes(message[4..].try_into().unwrap());
            events.push((keysym, message[1] != 0));
        }
        bytes = rest;
    }
    events
}

fn with_cuts(host: Arc<dyn Hypervisor>) -> Arc<dyn Hypervisor> {
    Arc::new(HostWithCuts(host))
}

/// A host that cuts the first connection to the screen of each machine.
struct HostWithCuts(Arc<dyn Hypervisor>);

#[async_trait]
impl Hypervisor for HostWithCuts {
    async fn run(
        &self,
        observer: Arc<dyn Observer>,
        stop: CancellationToken,
    ) -> Result<(), HostError> {
        self.0.run(observer, stop).await
    }

    async fn call(
        &self,
        machine: &MachineId,
        call: &HostCall,
        job: JobId,
    ) -> Result<Accepted, CallError> {
        self.0.call(machine, call, job).await
    }

    async fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus> {
        self.0.follow(task).await
    }

    async fn cancel(&self, task: &TaskId) -> Result<(), HostError> {
        self.0.cancel(task).await
    }

    async fn barrier(&self) -> Result<(), HostError> {
        self.0.barrier().await
    }

    async fn read_evidence(&self, machine: &MachineId) -> Result<Evidence, HostError> {
        self.0.read_evidence(machine).await
    }

    async fn confirm_guest(&self, machine: &MachineId) -> Result<(), HostError> {
        self.0.confirm_guest(machine).await
    }

    fn capabilities(&self) -> &'static [Capability] {
        self.0.capabilities()
    }

    async fn open_screen(&self, machine: &MachineId) -> Result<ScreenConnection, HostError> {
        let ScreenConnection { stream: inner } = self.0.open_screen(machine).await?;
        let passed = Passed::default();
        let mut all = CONNECTIONS.lock().unwrap();
        let connections = all.entry(machine.clone()).or_default();
        let number: usize = machine.backend_text().parse().unwrap();
        let is_cut = connections.is_empty() && number <= CUTS;
        connections.push(Arc::clone(&passed));
        let limit = is_cut.then(|| number - 1);
        let stream = CutStream { inner, limit, has_keys: false, passed };
        Ok(ScreenConnection { stream: Box::new(stream) })
    }

    async fn screen_picture(&self, object: &ScreenObject) -> Result<Bytes, HostError> {
        self.0.screen_picture(object).await
    }
}

/// A connection that breaks after some bytes.
struct CutStream {
    inner: Box<dyn ByteStream>,
    /// The bytes that pass from the first key on. `None`: all.
    limit: Option<usize>,
    /// Whether a key was sent.
    has_keys: bool,
    passed: Passed,
}

impl CutStream {
    /// The bytes that can still pass. `None`: any number.
    fn room(&self) -> Option<usize> {
        let limit = self.limit.filter(|_| self.has_keys)?;
        Some(limit - self.passed.lock().unwrap().len())
    }
}

impl AsyncRead for CutStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.room() == Some(0) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for CutStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        // otter hands over whole messages, and what comes before the keys begins with other bytes.
        self.has_keys |= buffer.first() == Some(&KEY_EVENT);
        let part = &buffer[..self.room().unwrap_or(usize::MAX).min(buffer.len())];
        if part.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, part))?;
        if self.has_keys {
            self.passed.lock().unwrap().extend_from_slice(&part[..written]);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.room() == Some(0) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
