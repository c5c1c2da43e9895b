//! From a start of the daemon to its death: what it takes up, what it starts when, and what is committed meanwhile.

use std::time::Duration;

use super::disk::{Write, Written};
use super::faults::Mishap;
use super::leasing::{Desk, brief};
use super::otter::Otter;
use super::work::Step;
use super::{Event, Simulation, Waits};
use crate::domain::failure::FailureKind;
use crate::domain::ids::{JobId, MachineId};
use crate::domain::job::TargetId;
use crate::domain::origin::Actor;
use crate::sabotage::Mistake;
use crate::service::jobs::Started;
use crate::service::jobs::driver::{Driver, Input, Interrupt};
use crate::service::jobs::queue::Turn;
use crate::service::jobs::recovery::{Recovered, recover};

/// After how long the commit of a job is tried again.
const SAVED_AGAIN: Duration = Duration::from_secs(1);

impl Simulation {
    /// The daemon starts, and takes up what it left.
    pub fn start(&mut self) {
        self.lives += 1;
        self.trace.note(self.now, || "otter starts".to_owned());
        if self.sabotage.makes(Mistake::KeysForgotten) {
            self.disk.keys.clear();
            self.disk.lease_keys.clear();
        }
        let now = self.lease_now();
        let mut otter = Otter::new(self.lives, self.now);
        otter.desk = Desk::restored(&self.disk, self.sabotage, self.skew, now);
        self.tenancy.started(self.now);
        let recovered = recover(self.disk.unfinished(), self.rules, &mut otter.queues);
        let Recovered { waiting, running, cancelled, targets } = recovered;
        let machines = targets.iter().filter_map(TargetId::machine);
        for driver in waiting {
            let job = driver.job();
            let left = job.deadline_at.duration_since(self.wall());
            let at = self.now + Duration::try_from(left).unwrap_or_default();
            let (job, machine) = (job.id, job.machine_id().unwrap().clone());
            self.agenda.plan(at, Event::Expire { life: self.lives, job, machine });
            otter.add(driver);
        }
        let mut firsts = Vec::new();
        for (driver, first) in running {
            firsts.push((driver.job().id, first));
            otter.add(driver);
        }
        self.otter = Some(otter);
        for killed in cancelled {
            self.promises.cancel_asked(killed.job);
            self.interrupt(killed.job, Interrupt::Cancel(Actor::otter()));
        }
        for (id, first) in firsts {
            self.take_up(id, first, true);
        }
        for machine in machines {
            self.dispatch(machine);
        }
        let unfinished = self.otter.as_ref().map(|otter| otter.desk.book.unfinished());
        self.set_to_work(unfinished.unwrap_or_default());
    }

    /// The daemon dies. What it had not committed is lost, but for what was on its way to the disk.
    pub fn crash(&mut self) {
        let Some(otter) = self.otter.take() else { return };
        self.tenancy.crashed(self.now);
        let (kept, waits) = self.disk.crash(&mut self.random);
        for _ in 0..kept {
            if let Some(written) = self.disk.commit() {
                self.record(&written);
            }
        }
        // Callers find their connection cut, and may ask again.
        let committing = waits.into_iter().filter_map(|waits| match waits {
            Waits::Accept(post) => Some(*post),
            _ => None,
        });
        for post in otter.claims.into_values().flatten().chain(committing) {
            self.unanswered(post);
        }
        self.promises.crashed(&self.disk);
        let most = Duration::from_secs(if self.random.percent(60) { 5 } else { 100 });
        let down = self.random.between(Duration::from_millis(50), most);
        self.agenda.plan(self.now + down, Event::Restart);
    }

    /// Starts whatever may start on a machine.
    pub fn dispatch(&mut self, machine: &MachineId) {
        while let Some(Turn { job, cancel }) =
            self.otter.as_mut().and_then(|otter| otter.queues.next_turn(&TargetId::Machine(machine.clone())))
        {
            if let Some(killed) = cancel {
                self.promises.cancel_asked(killed.job);
                self.interrupt(killed.job, Interrupt::Cancel(Actor::otter()));
            }
            let now = self.wall();
            self.promises.turn(job, &self.disk);
            let waiting = self.otter.as_mut().and_then(|otter| otter.entries.get_mut(&job)?.waiting.as_mut());
            let turn = |driver: &mut Driver| driver.take_turn(driver.job().deadline_at <= now, now);
            if let Some(first) = waiting.map(turn) {
                self.take_up(job, first, true);
            }
        }
    }

    pub fn write(&mut self, write: Write<Waits>) {
        if !self.quiet
            && self.temper.faults.contains(&Mishap::Crash)
            && self.random.percent(if matches!(write, Write::Leases { .. }) { 8 } else { 1 })
        {
            self.agenda.plan(self.now, Event::Crash(self.lives));
        }
        self.disk.write(write);
        // One writer: commits keep their order.
        self.last_commit = self.last_commit.max(self.now + self.random.latency());
        self.agenda.plan(self.last_commit, Event::Commit(self.lives));
    }

    /// A write is on disk, and whoever waited for it goes on.
    pub fn written(&mut self, written: Written<Waits>) {
        self.record(&written);
        match written {
            Written::Inserted { job, waits: Waits::Accept(post) } => self.accepted(&job, *post),
            Written::Existing { job, waits: Waits::Accept(post) } => {
                self.refused(job, *post, Ok(Started::Replayed(job)));
            }
            Written::Updated { waits: Waits::Save(tag), .. }
            | Written::AlreadyEnded { waits: Waits::Save(tag) } => {
                self.wish_saved(tag.life, tag.job);
                self.saved(tag);
            }
            Written::Updated { waits: Waits::WishAfterSave(tag), .. }
            | Written::AlreadyEnded { waits: Waits::WishAfterSave(tag) } => {
                self.wish_saved(tag.life, tag.job);
                self.work(tag, Step::Tell(Box::new(Input::Saved)));
            }
            Written::Updated { waits: Waits::Wish(life, job), .. } => self.wish_saved(life, job),
            Written::Leases { waits: Waits::Desk, .. } => self.step_committed(),
            Written::Refused(write) => self.not_written(write),
            _ => {}
        }
    }

    /// The store refused a write: what it would have made known has not happened.
    fn not_written(&mut self, write: Write<Waits>) {
        self.trace.note(self.now, || "the disk is full, and a write is refused".to_owned());
        match write {
            Write::Insert { job, waits: Waits::Accept(post), .. } => {
                self.refused(job.id, *post, Err(FailureKind::StorageUnavailable));
            }
            Write::Update { job, waits: Waits::Save(tag) } => {
                self.after(SAVED_AGAIN, tag, Step::SaveAgain(job));
            }
            Write::Update { waits: Waits::WishAfterSave(tag), .. } => {
                self.work(tag, Step::Tell(Box::new(Input::Saved)));
            }
            Write::Leases { waits: Waits::Desk, .. } => self.step_refused(),
            _ => {}
        }
    }

    fn record(&mut self, written: &Written<Waits>) {
        match written {
            Written::Inserted { job, .. } => self.promises.inserted(job),
            Written::Updated { before, job, .. } => {
                self.trace.note(self.now, || {
                    format!("{} is on disk as {} ({})", job.id, job.state.as_str(), job.phase)
                });
                let power =
                    self.seen.get(job.machine_id().unwrap().backend_text()).and_then(|(power, ..)| *power);
                self.promises.updated(before, job, power, &self.disk);
                self.tenancy.job_written(before, job, &self.host.world, &self.disk);
            }
            Written::Leases { step, before, .. } => {
                self.trace.note(self.now, || brief(&step.changes));
                self.tenancy.committed(step, before, &self.disk);
            }
            Written::Existing { .. } | Written::AlreadyEnded { .. } | Written::Refused(_) => {}
        }
    }

    /// The deadline of a job that may still wait.
    pub fn expire(&mut self, job: JobId, machine: &MachineId) {
        if self
            .otter
            .as_mut()
            .is_some_and(|otter| otter.queues.withdraw(&TargetId::Machine(machine.clone()), job))
        {
            self.end_queued(job, Driver::expire_queued);
        }
    }
}
