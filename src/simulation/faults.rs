//! What goes wrong: how badly a run is treated, and each thing that can happen to the host, to the way there, or to otter.

use std::time::Duration;

use super::random::Random;
use super::{Event, Simulation};
use crate::simulator::Fault;

/// How a run is treated; percentages, but for the times.
#[derive(Clone, Debug)]
pub struct Temper {
    /// The call never reaches the host, and otter cannot know.
    pub lost_before: u64,
    /// The call ran, and otter cannot know.
    pub lost_after: u64,
    /// The answer to a client is lost.
    pub lost_answer: u64,
    /// A direct read fails.
    pub unreadable: u64,
    /// A client gives a short deadline.
    pub hasty: u64,
    pub client_pause: Duration,
    pub fault_pause: Duration,
    /// Whether anybody asks for leases.
    pub leases: bool,
    /// Which of the faults happen at all.
    pub faults: Vec<Mishap>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    Crash,
    /// hostd restarts: its tasks are forgotten, and what runs goes on or not.
    HostdRestarts,
    HostReboots,
    /// The network is cut.
    Outage,
    /// The session, or only the stream, is gone; the host is there.
    SessionLost,
    TasksForgotten,
    TaskFails,
    Meddling,
    Question,
    Deleted,
    /// Unregistered and registered again: a new moid.
    Registered,
    /// Its moid is given to another machine.
    MoidReused,
    Renamed,
    /// The wall clock of otter's own machine.
    ClockJumps,
    /// No commit succeeds for a while.
    DiskFull,
}

impl Mishap {
    const ALL: [Self; 15] = [
        Self::Crash,
        Self::HostdRestarts,
        Self::HostReboots,
        Self::Outage,
        Self::SessionLost,
        Self::TasksForgotten,
        Self::TaskFails,
        Self::Meddling,
        Self::Question,
        Self::Deleted,
        Self::Registered,
        Self::MoidReused,
        Self::Renamed,
        Self::ClockJumps,
        Self::DiskFull,
    ];
}

impl Temper {
    /// Some runs are calm, some have one kind of trouble, some have all.
    pub fn new(random: &mut Random) -> Self {
        let some = |random: &mut Random, most: u64| if random.percent(50) { random.below(most) } else { 0 };
        let faults = match random.below(4) {
            0 => Vec::new(),
            1 => random.pick(&Mishap::ALL).copied().into_iter().collect(),
            2 => vec![Mishap::Crash],
            _ => Mishap::ALL.into_iter().filter(|_| random.percent(60)).collect(),
        };
        let leases = random.percent(60);
        // Where trouble comes every few seconds hardly a lease is ever granted.
        let rarely = if leases && random.percent(85) { 10 } else { 1 };
        Self {
            lost_before: some(random, 20),
            lost_after: some(random, 20),
            lost_answer: some(random, 30),
            unreadable: some(random, 10),
            hasty: some(random, 60),
            client_pause: Duration::from_millis(500 + random.below(20_000)),
            fault_pause: Duration::from_millis(500 + rarely * random.below(30_000)),
            leases,
            faults,
        }
    }
}

impl Simulation {
    /// Something goes wrong, and something will again.
    pub fn fault_strikes(&mut self) {
        if self.quiet {
            return;
        }
        let pause = self.random.between(Duration::from_millis(50), self.temper.fault_pause);
        self.agenda.plan(self.now + pause, Event::Fault);
        let faults = self.temper.faults.clone();
        let Some(mishap) = self.random.pick(&faults).copied() else { return };
        if mishap == Mishap::Crash && self.otter.is_none() {
            return;
        }
        self.happen(mishap);
    }

    fn happen(&mut self, mishap: Mishap) {
        self.trace.note(self.now, || format!("*** {mishap:?}"));
        let away = self.random.between(Duration::from_millis(100), Duration::from_secs(90));
        match mishap {
            Mishap::Crash => self.crash(),
            Mishap::SessionLost => self.lose_session(),
            Mishap::Outage => self.cut(away),
            Mishap::HostdRestarts => {
                self.forget_tasks();
                self.cut(away);
            }
            Mishap::HostReboots => {
                self.promises.tasks_forgotten();
                for id in self.machine_ids() {
                    self.promises.changed_by(&id, None);
                }
                self.host.world.reboot_host();
                self.cut(away);
            }
            Mishap::TasksForgotten => self.forget_tasks(),
            Mishap::TaskFails => {
                let methods =
                    ["PowerOnVM_Task", "PowerOffVM_Task", "RevertToSnapshot_Task", "CreateSnapshot_Task"];
                if let Some(method) = self.random.pick(&methods) {
                    self.host
                        .world
                        .fail_next_task(method, Fault::new("FileLocked", "Unable to access file."));
                }
            }
            Mishap::Meddling => {
                if let Some(id) = self.some_machine()
                    && self.host.meddle(&mut self.random, &id).is_some()
                {
                    self.promises.changed_by(&id, None);
                }
            }
            Mishap::Question => {
                if let Some(id) = self.some_machine() {
                    self.host.ask(&mut self.random, &id);
                    self.promises.changed_by(&id, None);
                }
            }
            Mishap::Renamed => {
                let name = format!("renamed-{}", self.random.below(100));
                if let Some(id) = self.some_machine()
                    && let Some(machine) = self.host.world.machine_mut(&id)
                {
                    machine.name = name;
                }
            }
            Mishap::ClockJumps => self.jump(),
            Mishap::DiskFull => {
                self.disk.full = true;
                self.tenancy.nothing_is_kept_for(away);
                self.agenda.plan(self.now + away, Event::Space);
            }
            Mishap::Deleted | Mishap::Registered | Mishap::MoidReused => {
                if let Some(id) = self.some_machine() {
                    self.replace(&id, mishap);
                }
            }
        }
    }

    fn replace(&mut self, id: &str, mishap: Mishap) {
        self.promises.changed_by(id, None);
        let Some(removed) = self.host.world.remove_machine(id) else { return };
        match mishap {
            Mishap::Registered => self.host.register_anew(removed),
            Mishap::MoidReused => self.host.add_machine(&mut self.random, id),
            _ => {}
        }
    }

    fn forget_tasks(&mut self) {
        self.promises.tasks_forgotten();
        let go_on = self.random.percent(50);
        self.host.world.forget_tasks(go_on);
    }

    /// Nothing answers for this long.
    fn cut(&mut self, away: Duration) {
        self.host.reachable = false;
        self.lose_session();
        self.agenda.plan(self.now + away, Event::Reachable);
    }

    fn some_machine(&mut self) -> Option<String> {
        let ids = self.machine_ids();
        self.random.pick(&ids).cloned()
    }

    fn machine_ids(&self) -> Vec<String> {
        self.host.world.machines().map(|machine| machine.id.clone()).collect()
    }
}
