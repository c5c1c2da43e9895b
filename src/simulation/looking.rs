//! The picture as the stream brings it, and the truth beside it: what the host did, what its machines are, and which address
//! a guest really has.

use std::time::Duration;

use super::{Event, GUEST_SETTLE, Simulation, translation};
use crate::domain::ids::TaskId;
use crate::hypervisor::{Fact, Facts, TaskStatus};

impl Simulation {
    /// The session is there, and the picture is read anew.
    pub fn connect(&mut self) {
        let Some(otter) = &mut self.otter else { return };
        otter.planned.connection = false;
        if otter.connected || !self.host.reachable {
            return;
        }
        let facts = otter.stream.resync(&self.host);
        self.observe(facts, Vec::new());
        self.trace.note(self.now, || "the picture was read anew".to_owned());
        self.check_picture();
        if let Some(otter) = &mut self.otter {
            otter.connected = true;
            otter.session += 1;
        }
    }

    pub fn lose_session(&mut self) {
        if let Some(otter) = self.otter.as_mut().filter(|otter| otter.connected) {
            otter.connected = false;
            otter.away_since = self.now;
        }
    }

    /// The next set of updates.
    pub fn deliver(&mut self, whole: bool) {
        let Some(otter) = &mut self.otter else { return };
        let (facts, statuses) = otter.stream.deliver(&self.host, &mut self.random, whole);
        self.observe(facts, statuses);
        if whole {
            self.check_picture();
        }
    }

    pub fn list(&mut self) {
        let Some(otter) = &mut self.otter else { return };
        otter.planned.listing = false;
        if otter.connected {
            let (facts, statuses) = otter.stream.list(&self.host);
            self.observe(facts, statuses);
        }
    }

    /// The picture takes one set of facts; then those who follow tasks are told.
    pub fn observe(&mut self, facts: Facts, statuses: Vec<(TaskId, TaskStatus)>) {
        let Some(otter) = &mut self.otter else { return };
        if facts.complete || !facts.changes.is_empty() {
            self.trace.note(self.now, || format!("the picture is told {}", brief(&facts)));
            otter.picture = otter.picture.apply_sabotaged(facts, self.now, GUEST_SETTLE, self.sabotage).0;
        }
        for (task, status) in statuses {
            self.trace.note(self.now, || format!("{task} is {status:?}").chars().take(160).collect());
            otter.stream.tell(&task, status);
        }
        self.check_addresses();
        self.changed();
    }

    /// Reads the guests whose address is doubted; they are told a moment later.
    pub fn confirm(&mut self) {
        let Some(otter) = &mut self.otter else { return };
        otter.planned.confirmation = false;
        if !otter.connected {
            return;
        }
        let due = otter.due_for_confirmation(self.now);
        if !due.is_empty() {
            // Whoever is due still is looked at again after a while.
            otter.planned.confirmation = true;
            self.agenda.plan(self.now + Duration::from_secs(5), Event::Confirm(otter.life));
        }
        for id in due {
            let Some(machine) = self.host.world.machine(id.backend_text()) else { continue };
            let guest = translation::guest(machine);
            let fact = Fact::GuestConfirmed {
                machine: id,
                tools_running: guest.tools_running,
                ip_address: guest.ip_address,
                ip_addresses: guest.ip_addresses,
            };
            let at = self.now + self.random.latency();
            self.agenda.plan(at, Event::Confirmed(otter.life, Box::new(fact)));
        }
    }

    /// Looks what happened on the host, for the truth and for the addresses that guests get.
    pub fn look_around(&mut self) {
        self.host.give_addresses(&mut self.random);
        let done = std::mem::take(&mut self.host.world.done);
        let mut by_task: Vec<String> = Vec::new();
        for (task, revision) in done {
            // `haTask-16-vim.…`
            let machine = task.split('-').nth(1).unwrap_or_default().to_owned();
            self.trace.note(self.now, || format!("{task} is done"));
            self.promises.task_done(&task, &machine, revision);
            by_task.push(machine);
        }
        for machine in self.host.world.machines() {
            let power = translation::power_state(&machine.power);
            let now = (power, machine.run, machine.guest.tools_running);
            let before = self.seen.insert(machine.id.clone(), now);
            let Some(before) = before.filter(|before| *before != now) else { continue };
            if before.0 != now.0 {
                self.promises.power(&machine.id, power);
                if !by_task.contains(&machine.id) {
                    self.promises.changed_by(&machine.id, None);
                }
            }
            if before.2 && (!now.2 || before.1 != now.1) {
                self.promises.guest_stopped(&machine.id);
            }
        }
    }

    /// No address is shown that the guest does not have in this run, where the picture knows all of the machine.
    fn check_addresses(&mut self) {
        let Some(otter) = self.otter.as_mut() else { return };
        otter.stream.notice(&self.host);
        for record in &otter.picture.machines {
            let id = record.machine.id.backend_text();
            let Some(address) = record.ip_address() else { continue };
            let Some(machine) = self.host.world.machine(id) else { continue };
            if otter.stream.is_up_to_date(id) && machine.guest.address.as_deref() != Some(address) {
                self.promises.break_promise(format!(
                    "{id} is shown with {address}, and its guest has {:?}",
                    machine.guest.address
                ));
            }
        }
    }

    /// Once everything was told, the picture is the world.
    fn check_picture(&mut self) {
        let Some(otter) = &self.otter else { return };
        let shown = otter.picture.machines.len();
        if shown != self.host.world.machines().count() {
            let missing =
                format!("the picture has {shown} machines, the host {}", self.host.world.machines().count());
            return self.promises.break_promise(missing);
        }
        for machine in self.host.world.machines() {
            let wanted = translation::machine(machine);
            let record = otter.picture.machine(&wanted.id);
            if record.is_none_or(|record| record.machine != wanted) {
                return self.promises.break_promise(format!(
                    "the picture shows {} as {:?}, the host has {wanted:?}",
                    machine.id,
                    record.map(|record| &record.machine)
                ));
            }
        }
    }
}

fn brief(facts: &Facts) -> String {
    let told = facts.changes.iter().map(|fact| match fact {
        Fact::Machine(machine) => format!(
            "{} {:?} tools={} ip={:?} current={:?}",
            machine.id,
            machine.power_state,
            machine.guest.tools_running,
            machine.guest.ip_address,
            machine.snapshots.current
        ),
        Fact::Datastore(_) => "a datastore".to_owned(),
        other => format!("{other:?}"),
    });
    told.collect::<Vec<_>>().join(", ")
}
