//! What otter asks of the host, and what it hears of it: a call can be lost on its way there or back, and a read can fail.

use std::time::Duration;

use super::host::Look;
use super::translation::US;
use super::work::Step;
use super::{Simulation, Tag};
use crate::domain::call::HostCall;
use crate::domain::ids::MachineId;
use crate::hypervisor::{Accepted, HostError, HostErrorKind};
use crate::service::jobs::driver::{Called, Input, Others};
use crate::service::jobs::sight;
use crate::service::trouble::Trouble;

impl Simulation {
    /// The call leaves otter.
    pub fn send(&mut self, tag: Tag, machine: MachineId, call: HostCall) {
        let stops = self.otter.as_ref().map(|otter| sight::tools_stops(&otter.picture, &machine));
        if let Some(run) = self.otter.as_mut().and_then(|otter| otter.run_mut(tag.job)) {
            run.tools_stops = stops.unwrap_or_default();
        }
        self.promises.sent(tag.job, &call, &self.disk);
        self.tenancy.sent(tag.job, &self.disk);
        let soon = self.random.latency();
        if !self.can_talk() {
            let refused = Called::Refused(unreachable("no connection"));
            return self.after(soon, tag, Step::Answer(Box::new(refused)));
        }
        self.after(soon, tag, Step::Arrive(machine, Box::new(call)));
    }

    /// The call is at the host. What otter hears of it is another matter.
    pub fn arrive(&mut self, tag: Tag, machine: &MachineId, call: &HostCall, alive: bool) {
        let lost = || Step::Answer(Box::new(Called::Lost(unreachable("cut"))));
        let soon = self.random.latency();
        if !self.host.reachable {
            return self.after(soon, tag, lost());
        }
        if !alive && self.random.percent(50) {
            return;
        }
        if alive && self.random.percent(self.temper.lost_before) {
            self.promises.lost(tag.job);
            // It may be still on its way when otter is told that it is lost.
            if self.random.percent(30) {
                let late = Tag { serial: u64::MAX, ..tag };
                let at = self.random.between(Duration::ZERO, Duration::from_secs(3));
                self.after(at, late, Step::Arrive(machine.clone(), Box::new(call.clone())));
            }
            return self.after(soon, tag, lost());
        }
        let answer = self.host.call(machine, call, US);
        let revision = self.host.world.revision();
        self.trace.note(self.now, || {
            format!("the host takes {:?} of {} for {}: {answer:?}", call.kind(), machine, tag.job)
        });
        let called = match answer {
            Ok(accepted) => {
                let task = match &accepted {
                    Accepted::Task(task) => Some(task.to_string()),
                    Accepted::Done => None,
                };
                self.promises.took(tag.job, call, task.as_deref(), revision);
                Called::Accepted(accepted)
            }
            Err(error) => Called::Refused(Trouble::from(&error)),
        };
        let unheard = alive && self.random.percent(self.temper.lost_after);
        let step = if unheard { lost() } else { Step::Answer(Box::new(called)) };
        self.after(soon, tag, step);
    }

    /// As `esx::examine` does it: the tasks are read before what is said of the machine.
    pub fn look(&mut self, tag: Tag, before: Option<Box<Look>>, others: Others) {
        let soon = self.random.latency();
        if !self.can_talk() || self.random.percent(self.temper.unreadable) {
            let failed = Input::Examined(Err(unreachable("no answer")));
            return self.after(soon, tag, Step::Tell(Box::new(failed)));
        }
        let machine = self
            .otter
            .as_ref()
            .and_then(|otter| otter.run(tag.job))
            .map(|run| run.driver.job().machine_id().unwrap().clone());
        let Some(machine) = machine else { return };
        match self.host.look(&machine) {
            Ok(look) => match before.and_then(|before| before.confirmed_by(&look)) {
                Some(evidence) => {
                    self.tenancy.looked(&machine);
                    self.tell(tag.job, Input::Examined(Ok((evidence, others))));
                }
                None => self.after(soon, tag, Step::LookAtTasks(Box::new(look), others)),
            },
            Err(error) => {
                let failed = Input::Examined(Err(Trouble::from(&error)));
                self.after(soon, tag, Step::Tell(Box::new(failed)));
            }
        }
    }

    /// Whether a request of otter's would be answered.
    pub fn can_talk(&mut self) -> bool {
        let connected = self.otter.as_ref().is_some_and(|otter| otter.connected);
        // While the stream is being built anew, the login may be there already.
        self.host.reachable && (connected || self.random.percent(50))
    }
}

/// What is told where nothing answers.
pub fn unreachable(message: &str) -> Trouble {
    Trouble::from(&HostError::new(HostErrorKind::Unreachable, message))
}
