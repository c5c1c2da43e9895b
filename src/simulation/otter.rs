//! One life of the daemon: the real picture, queues and drivers, and what the shells around them keep in memory. All of
//! it is gone when it dies.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::disk::Scope;
use super::leasing::Desk;
use super::stream::Stream;
use super::work::Work;
use crate::domain::ids::{JobId, MachineId};
use crate::domain::job::Job;
use crate::service::inventory::Picture;
use crate::service::jobs::driver::{Driver, Effect, Interrupt, Others};
use crate::service::jobs::queue::Queues;
use crate::service::jobs::view::Live;

pub struct Otter {
    /// Which life it is.
    pub life: u32,
    pub picture: Picture,
    pub stream: Stream,
    pub connected: bool,
    /// Counts the sessions, so that what rides on a lost one is told apart.
    pub session: u64,
    /// Since when the host has been away.
    pub away_since: Duration,
    pub queues: Queues,
    pub desk: Desk,
    pub entries: BTreeMap<JobId, Entry>,
    /// Keys whose call is being committed, and who waits for that.
    pub claims: BTreeMap<Scope, VecDeque<super::clients::Post>>,
    /// Events that are planned once, whoever asks.
    pub planned: Planned,
}

/// Whether a recurring event is on the agenda.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one for each event")]
pub struct Planned {
    pub delivery: bool,
    pub listing: bool,
    pub confirmation: bool,
    pub connection: bool,
    pub desk: bool,
}

/// A job that has not ended, as the board keeps it.
pub struct Entry {
    pub live: Live,
    /// Until the job's turn comes.
    pub waiting: Option<Driver>,
    pub run: Option<Run>,
    /// What came before anybody could take it.
    pub interrupts: Vec<Interrupt>,
}

/// A job that is driven.
pub struct Run {
    pub driver: Driver,
    pub effect: Effect,
    pub work: Work,
    /// Tells the answer to this effect from that to one that was dropped.
    pub serial: u64,
    pub tools_stops: u64,
    /// Whether it holds a place in its queue.
    pub in_queue: bool,
    /// Somebody asked to cancel it, which is not on disk yet and not shown.
    pub wish_unsaved: bool,
}

impl Otter {
    pub fn new(life: u32, now: Duration) -> Self {
        Self {
            life,
            picture: Picture::default(),
            stream: Stream::default(),
            connected: false,
            session: 0,
            away_since: now,
            queues: Queues::new(16, 40),
            desk: Desk::default(),
            entries: BTreeMap::new(),
            claims: BTreeMap::new(),
            planned: Planned::default(),
        }
    }

    /// Shows a job that was accepted or taken up.
    pub fn add(&mut self, driver: Driver) {
        let entry =
            Entry { live: Live::of(&driver, None), waiting: Some(driver), run: None, interrupts: Vec::new() };
        self.entries.insert(entry.live.job.id, entry);
    }

    pub fn run_mut(&mut self, job: JobId) -> Option<&mut Run> {
        self.entries.get_mut(&job)?.run.as_mut()
    }

    pub fn run(&self, job: JobId) -> Option<&Run> {
        self.entries.get(&job)?.run.as_ref()
    }

    /// What the other jobs on this machine are at.
    pub fn others(&self, machine: &MachineId, job: JobId) -> Others {
        let others = self.entries.iter().filter(|(id, _)| **id != job).map(|(_, entry)| &*entry.live.job);
        Others::of(others.filter(|job| job.machine_id() == Some(machine)))
    }

    /// The jobs that are driven, in the order of their ids.
    pub fn running(&self) -> Vec<JobId> {
        self.entries.iter().filter(|(_, entry)| entry.run.is_some()).map(|(id, _)| *id).collect()
    }

    /// When the first guest wants to be read directly.
    pub fn confirm_at(&self) -> Option<Duration> {
        self.picture.machines.iter().filter_map(|record| record.confirm_at()).min()
    }

    /// The guests that want to be read directly by now.
    pub fn due_for_confirmation(&self, now: Duration) -> Vec<MachineId> {
        let due =
            self.picture.machines.iter().filter(|record| record.confirm_at().is_some_and(|at| at <= now));
        due.map(|record| record.machine.id.clone()).collect()
    }

    /// A job as readers see it; none where memory has none.
    pub fn shown(&self, job: JobId) -> Option<&Job> {
        self.entries.get(&job).map(|entry| &*entry.live.job)
    }
}
