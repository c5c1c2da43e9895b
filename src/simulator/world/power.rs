//! Power operations: which power state each operation needs and results in, and the questions that
//! make a power-on wait.

use super::{Choice, Machine, MachineEvent, Operation, PowerState, Question, World};
use crate::simulator::value::Moref;
use crate::simulator::vim_fault::Fault;

impl World {
    /// `AnswerVM`: the task that waits for the answer goes on, or ends with the fault of the chosen
    /// answer.
    ///
    /// # Errors
    /// `InvalidArgument` if the machine does not ask this question, or if the question has no such
    /// answer.
    pub fn answer(&mut self, id: &str, question: &str, key: &str) -> Result<(), Fault> {
        self.check_may_change()?;
        let machine = self.require_machine(id)?;
        let Some(asked) = machine.question.clone().filter(|asked| asked.id == question) else {
            return Err(Fault::invalid_argument("questionId"));
        };
        let Some(choice) = asked.choices.iter().find(|choice| choice.key == key).cloned() else {
            return Err(Fault::invalid_argument("answerChoice"));
        };
        self.keep_serial_file_answer(id, &asked, &choice);
        self.close_question(id, Some(&choice));
        Ok(())
    }

    /// Makes a machine ask a question, which then waits for its answer.
    pub fn ask(&mut self, id: &str, question: Question) {
        if self.machine(id).is_some() {
            self.record_question_event(id, &question);
        }
        if let Some(machine) = self.machine_mut(id) {
            machine.question = Some(question);
        }
    }

    /// Fails with `InvalidPowerState` if the operation is not allowed in the machine's power state.
    pub(super) fn check_power(machine: &Machine, operation: &Operation) -> Result<(), Fault> {
        let existing = machine.power.as_str();
        match operation {
            Operation::PowerOn if machine.power == PowerState::On => {
                Err(Fault::invalid_power_state(Some("poweredOff"), existing))
            }
            Operation::PowerOff
            | Operation::Reset
            | Operation::Suspend
            | Operation::CreateScreenshot
                if machine.power != PowerState::On =>
            {
                Err(Fault::invalid_power_state(Some("poweredOn"), existing))
            }
            _ => Ok(()),
        }
    }

    /// Removes the question of a machine. The task that waits for the answer goes on, or ends with
    /// the fault of `choice`, if the choice has one.
    pub(super) fn close_question(&mut self, id: &str, choice: Option<&Choice>) {
        if let Some(machine) = self.machine_mut(id) {
            machine.question = None;
        }
        let waiting: Vec<String> = self
            .tasks
            .values()
            .filter(|task| task.machine == id && task.is_held())
            .map(|task| task.id.clone())
            .collect();
        for task in waiting {
            if let Some(held) = self.task_mut(&task) {
                held.question_progress = super::task::QuestionProgress::Closed;
            }
            match choice.and_then(|choice| choice.fails_with.clone()) {
                Some(fault) => self.end_task(&task, Err(fault)),
                None => self.schedule_step(&task),
            }
        }
    }

    pub(super) fn power_on_now(&mut self, id: &str) {
        let at = self.now.wall;
        let Some(machine) = self.machine_mut(id) else { return };
        let resumes = machine.power == PowerState::Suspended;
        // A suspended machine that is powered on resumes, and keeps its boot time.
        if !resumes || machine.booted_at.is_none() {
            machine.booted_at = Some(at);
        }
        machine.power = PowerState::On;
        machine.suspended_at = None;
        if !resumes {
            machine.log.clear();
        }
        machine.log(at, if resumes { "Resuming" } else { "PowerOn" });
        self.record_machine_event(id, "", MachineEvent::PoweredOn);
        if !resumes {
            self.open_serial_files(id);
            self.connect_drives(id);
            self.choose_medium(id);
        }
        self.guest_starts(id);
        self.screen_starts(id, resumes);
    }

    pub(super) fn power_off_now(&mut self, id: &str) {
        let at = self.now.wall;
        let Some(machine) = self.machine_mut(id) else { return };
        machine.power = PowerState::Off;
        machine.booted_at = None;
        machine.suspended_at = None;
        machine.screen.power_off();
        machine.log(at, "PowerOff");
        self.disconnect_drives(id);
        // A change that waits for an answer takes effect, because no guest uses the devices.
        self.close_question(id, None);
        self.record_machine_event(id, "", MachineEvent::PoweredOff);
        self.guest_stops(id);
        self.end_consoles(id);
    }

    pub(super) fn suspend_now(&mut self, id: &str) {
        let (at, now) = (self.now.wall, self.now.elapsed);
        let Some(machine) = self.machine_mut(id) else { return };
        machine.power = PowerState::Suspended;
        machine.suspended_at = Some(at);
        machine.screen.freeze(now);
        machine.log(at, "Suspending");
        self.record_machine_event(id, "", MachineEvent::Suspended);
        self.guest_stops(id);
        self.end_consoles(id);
    }

    /// The machine with this id. Fails with `ManagedObjectNotFound` if it does not exist.
    pub(super) fn require_machine(&self, id: &str) -> Result<&Machine, Fault> {
        self.machine(id).ok_or_else(|| Fault::not_found(&Moref::new("VirtualMachine", id)))
    }

    /// Fails if the host refuses every change, because of its licence or because of the role of the
    /// account.
    pub(in crate::simulator) fn check_may_change(&self) -> Result<(), Fault> {
        if self.rules.read_only_account {
            return Err(Fault::new(
                "NoPermission",
                "Permission to perform this operation was denied.",
            )
            .with("object", Moref::new("Folder", "ha-folder-vm"))
            .with("privilegeId", "VirtualMachine.Interact.PowerOn"));
        }
        if self.rules.read_only_licence { Err(Fault::restricted_version()) } else { Ok(()) }
    }
}
