//! The life of tasks: a task starts, takes steps, ends, and is forgotten by hostd.

use std::time::Duration;

use super::task::{PROGRESS_STEPS, QuestionProgress};
use super::{MachineEvent, Operation, PowerState, ScheduledEvent, Task, TaskState, World};
use crate::simulator::value::{Moref, Value};
use crate::simulator::vim_fault::Fault;

/// How long hostd keeps a task that has ended.
const TASK_RETENTION: Duration = Duration::from_mins(10);
/// The maximum length of a chain of snapshots, from a root to a snapshot without children.
const MAX_SNAPSHOT_DEPTH: usize = 32;

impl World {
    /// Starts an operation on a machine for a user. Returns the reference to the new task.
    ///
    /// # Errors
    /// The fault with which a host refuses the call, for example `TaskInProgress`.
    pub fn start_task(
        &mut self,
        id: &str,
        operation: Operation,
        user: &str,
    ) -> Result<Moref, Fault> {
        self.check_may_change()?;
        let machine = self.require_machine(id)?;
        let (name, template) = (machine.name.clone(), machine.template);
        if !machine.is_readable() {
            return Err(Fault::new(
                "InvalidState",
                "The operation is not allowed in the current state.",
            ));
        }
        if template
            && matches!(operation, Operation::PowerOn | Operation::Reset | Operation::Suspend)
        {
            return Err(Fault::not_supported());
        }
        if self.host.in_maintenance_mode && Self::powers_on(self.require_machine(id)?, &operation) {
            return Err(Fault::new(
                "InvalidState",
                "The operation is not allowed in the current state of the host.",
            ));
        }
        if let Operation::CreateSnapshot { name, .. } = &operation
            && (name.is_empty() || name.chars().count() > 80)
        {
            return Err(Fault::new("InvalidName", format!("The name '{name}' is invalid."))
                .with("name", name));
        }
        if let Some(running) = self.running_task(id) {
            return Err(Fault::task_in_progress(&running.id));
        }
        if self.rules.refuse_in_call {
            Self::check_power(self.require_machine(id)?, &operation)?;
        }
        Ok(self.add_task(id, name, operation, user))
    }

    /// Starts an operation on files for a user. Returns the reference to the new task.
    ///
    /// # Errors
    /// The fault with which a host refuses the call: everybody may search, and only those who may
    /// change the host do the rest.
    pub fn start_file_task(&mut self, operation: Operation, user: &str) -> Result<Moref, Fault> {
        if !matches!(operation, Operation::SearchFiles(_)) {
            self.check_may_change()?;
        }
        Ok(self.add_task("", String::new(), operation, user))
    }

    fn add_task(
        &mut self,
        machine: &str,
        machine_name: String,
        operation: Operation,
        user: &str,
    ) -> Moref {
        self.next_task += 1;
        let task = Task {
            id: format!("haTask-{machine}-vim.{}-{}", operation.description_id(), self.next_task),
            machine: machine.to_owned(),
            machine_name,
            state: TaskState::Queued,
            cancelled: false,
            progress: None,
            error: None,
            result: None,
            user: user.to_owned(),
            queued_at: self.now.wall,
            started_at: None,
            completed_at: None,
            number: self.next_task,
            step: 0,
            question_progress: QuestionProgress::NotAsked,
            known_to_hostd: true,
            operation,
        };
        let moref = task.moref();
        self.record_change(moref.clone());
        self.record_task_of(machine);
        self.task_order.push_back(task.id.clone());
        if !machine.is_empty() {
            self.tasks_by_machine.entry(machine.to_owned()).or_default().push(task.id.clone());
        }
        self.record_task_event(&task);
        let task_id = task.id.clone();
        self.tasks.insert(task_id.clone(), task);
        self.task_structure = self.revision;
        self.schedule_step(&task_id);
        moref
    }

    /// The list of the recent tasks of a machine has changed. A task of files is in no such list.
    fn record_task_of(&mut self, machine: &str) {
        if !machine.is_empty() {
            self.record_change(Moref::new("VirtualMachine", machine));
        }
    }

    /// `CancelTask`: ends a task with the fault `RequestCanceled`.
    ///
    /// # Errors
    /// `ManagedObjectNotFound` if hostd does not know the task, `InvalidState` if the task has
    /// ended, `NotSupported` if its operation cannot be cancelled.
    pub fn cancel_task(&mut self, id: &str) -> Result<(), Fault> {
        let Some(task) = self.task(id) else {
            return Err(Fault::not_found(&Moref::new("Task", id)));
        };
        if task.state.is_end() {
            return Err(Fault::new(
                "InvalidState",
                "The operation is not allowed in the current state.",
            ));
        }
        if !task.operation.cancelable() {
            return Err(Fault::not_supported());
        }
        let machine = task.machine.clone();
        if let Some(task) = self.task_mut(id) {
            task.cancelled = true;
            task.question_progress = QuestionProgress::Closed;
        }
        if let Some(machine) = self.machine_mut(&machine) {
            machine.question = None;
        }
        self.end_task(id, Err(Fault::request_canceled()));
        Ok(())
    }

    /// The task with this id. `None` if hostd does not know such a task.
    #[must_use]
    pub fn task(&self, id: &str) -> Option<&Task> {
        self.tasks.get(id).filter(|task| task.known_to_hostd)
    }

    /// The tasks that hostd knows, oldest first.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.task_order.iter().filter_map(|id| self.task(id))
    }

    /// All tasks in the order of their ids, including running tasks that hostd has forgotten.
    pub fn all_tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values()
    }

    /// The ids of the tasks that hostd knows and that have not ended, oldest first.
    #[must_use]
    pub fn running_tasks(&self) -> Vec<String> {
        self.tasks().filter(|task| !task.state.is_end()).map(|task| task.id.clone()).collect()
    }

    /// Advances a task by one step now, whatever the pace is.
    pub fn step_task(&mut self, id: &str) {
        let Some(task) = self.tasks.get(id) else { return };
        if task.state.is_end() || task.is_held() {
            return;
        }
        let (step, machine, operation) = (task.step, task.machine.clone(), task.operation.clone());
        if step == 0 && !operation.is_of_files() {
            let checked = self.require_machine(&machine).and_then(|machine| {
                Self::check_power(machine, &operation)?;
                Self::check_snapshots(machine, &operation)
            });
            if let Err(fault) = checked {
                return self.end_task(id, Err(fault));
            }
            let power = self.machine(&machine).map(|machine| machine.power.clone());
            if let Some(event) =
                power.and_then(|power| MachineEvent::at_start_of(&operation, &power))
            {
                self.record_machine_event(&machine, "", event);
            }
        }
        if step == PROGRESS_STEPS.len() {
            let outcome = self.finish(&machine, &operation);
            return self.end_task(id, outcome);
        }
        let at = self.now.wall;
        if let Some(task) = self.task_mut(id) {
            task.state = TaskState::Running;
            task.started_at.get_or_insert(at);
            task.progress = PROGRESS_STEPS[step].or(task.progress);
            task.step = step + 1;
        }
        if !self.hold_for_question(id, &machine, step) {
            self.schedule_step(id);
        }
    }

    /// Runs a task to its end at once. A task that waits for an answer to a question goes on
    /// waiting.
    pub fn finish_task(&mut self, id: &str) {
        while self.tasks.get(id).is_some_and(|task| !task.state.is_end() && !task.is_held()) {
            self.step_task(id);
        }
    }

    /// Makes the next task of this method end with a fault, without doing the work of the task.
    pub fn fail_next_task(&mut self, method: &'static str, fault: Fault) {
        self.planned_failures.push((method, fault));
    }

    /// Restarts hostd, which forgets its tasks and events. If `keep_running` is set, running
    /// operations go on without a visible task. Otherwise they stop unfinished.
    pub fn restart_hostd(&mut self, keep_running: bool) {
        self.forget_tasks(keep_running);
        self.forget_history();
    }

    /// Makes hostd forget its tasks. If `keep_running` is set, running operations go on without a
    /// visible task. Otherwise they stop unfinished.
    pub fn forget_tasks(&mut self, keep_running: bool) {
        let all: Vec<String> = self.task_order.drain(..).collect();
        for id in all {
            let Some(task) = self.tasks.get_mut(&id) else { continue };
            let machine = task.machine.clone();
            if task.state.is_end() || !keep_running {
                self.remove_task(&id);
            } else {
                task.known_to_hostd = false;
            }
            self.record_change(Moref::new("Task", id));
            self.record_task_of(&machine);
        }
        self.task_structure = self.revision;
    }

    /// The tasks that the property `recentTask` of a machine lists.
    pub fn recent_tasks(&self, machine: &str) -> impl Iterator<Item = &Task> {
        let tasks = self.tasks_by_machine.get(machine).into_iter().flatten();
        tasks.filter_map(|id| self.task(id))
    }

    pub(super) fn forget_task(&mut self, id: &str) {
        if self.remove_task(id) {
            if self.task_order.front().is_some_and(|oldest| oldest == id) {
                self.task_order.pop_front();
            } else {
                self.task_order.retain(|known| known != id);
            }
            self.record_change(Moref::new("Task", id));
            self.task_structure = self.revision;
        }
    }

    fn remove_task(&mut self, id: &str) -> bool {
        let Some(task) = self.tasks.remove(id) else { return false };
        if let Some(tasks) = self.tasks_by_machine.get_mut(&task.machine) {
            tasks.retain(|known| known != id);
            if tasks.is_empty() {
                self.tasks_by_machine.remove(&task.machine);
            }
        }
        true
    }

    pub(super) fn task_mut(&mut self, id: &str) -> Option<&mut Task> {
        if self.tasks.contains_key(id) {
            self.record_change(Moref::new("Task", id));
        }
        self.tasks.get_mut(id)
    }

    pub(super) fn schedule_step(&mut self, id: &str) {
        let Some(task) = self.tasks.get(id) else { return };
        let steps = u32::try_from(PROGRESS_STEPS.len()).unwrap_or(u32::MAX);
        let after = match task.step {
            // A queued task starts without delay, at the next run of scheduled events.
            0 => Duration::ZERO,
            _ => task.operation.duration() / steps,
        };
        if let super::Pace::Auto { .. } = self.pace {
            self.schedule(after, ScheduledEvent::TaskStep(id.to_owned()));
        }
    }

    /// Ends a task with its result or its fault.
    pub(super) fn end_task(&mut self, id: &str, outcome: Result<Option<Value>, Fault>) {
        let at = self.now.wall;
        let Some(task) = self.task_mut(id) else { return };
        if task.state.is_end() {
            return;
        }
        task.started_at.get_or_insert(at);
        task.completed_at = Some(at);
        match outcome {
            Ok(result) => {
                task.state = TaskState::Success;
                task.progress = Some(100);
                task.result = result;
            }
            Err(fault) => {
                task.state = TaskState::Error;
                task.error = Some(fault);
            }
        }
        let machine = task.machine.clone();
        self.record_task_of(&machine);
        self.schedule_exactly(TASK_RETENTION, ScheduledEvent::ForgetTask(id.to_owned()));
    }

    /// The task that works on this machine, even if hostd has forgotten it.
    pub(super) fn running_task(&self, machine: &str) -> Option<&Task> {
        // A machine starts no task while another task works on it, so only its last task can be
        // running.
        let last = self.tasks_by_machine.get(machine)?.last()?;
        self.tasks.get(last).filter(|task| !task.state.is_end())
    }

    /// Makes a task wait if it has reached 50 percent and its machine has a question to ask: at a
    /// power-on, or because a change takes away what the guest uses. Returns whether the task
    /// waits.
    fn hold_for_question(&mut self, id: &str, machine: &str, step: usize) -> bool {
        let Some(task) = self.tasks.get(id) else { return false };
        if task.question_progress != QuestionProgress::NotAsked || PROGRESS_STEPS[step] != Some(50)
        {
            return false;
        }
        let number = task.number;
        let question = match &task.operation {
            Operation::PowerOn => self
                .machine(machine)
                .and_then(|machine| {
                    let next = machine.question_at_power_on.clone();
                    next.or_else(|| machine.question_at_each_power_on.clone())
                })
                .or_else(|| self.serial_file_question(machine, number)),
            Operation::Reconfigure(change) => self
                .machine(machine)
                .and_then(|machine| change.takes_locked_medium(machine))
                .and_then(|drive| self.lock_question(machine, drive, number)),
            _ => None,
        };
        let is_power_on = task.operation == Operation::PowerOn;
        let Some(question) = question else { return false };
        if let Some(task) = self.task_mut(id) {
            task.question_progress = QuestionProgress::Pending;
        }
        if let Some(machine) = self.machine_mut(machine).filter(|_| is_power_on) {
            machine.question_at_power_on = None;
        }
        self.ask(machine, question);
        true
    }

    fn check_snapshots(machine: &super::Machine, operation: &Operation) -> Result<(), Fault> {
        match operation {
            Operation::RevertToSnapshot { snapshot, .. }
            | Operation::RemoveSnapshot { snapshot, .. }
                if machine.snapshot(snapshot).is_none() =>
            {
                Err(Fault::not_found(&Moref::new("VirtualMachineSnapshot", snapshot.clone())))
            }
            Operation::CreateSnapshot { .. } => {
                let current = machine.current_snapshot.as_deref();
                match current.map_or(0, |current| Self::snapshot_depth(machine, current)) {
                    depth if depth >= MAX_SNAPSHOT_DEPTH => Err(Fault::new(
                        "TooManySnapshotLevels",
                        "The maximum number of snapshot levels has been reached.",
                    )),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Whether the operation ends with the machine powered on: a power-on, or a revert to a
    /// snapshot with memory.
    fn powers_on(machine: &super::Machine, operation: &Operation) -> bool {
        let (snapshot, suppressed) = match operation {
            Operation::PowerOn => return true,
            Operation::RevertToSnapshot { snapshot, suppress_power_on } => {
                (Some(snapshot), *suppress_power_on)
            }
            Operation::RevertToCurrentSnapshot { suppress_power_on } => {
                (machine.current_snapshot.as_ref(), *suppress_power_on)
            }
            _ => return false,
        };
        let snapshot = snapshot.and_then(|id| machine.snapshot(id));
        !suppressed && snapshot.is_some_and(|snapshot| snapshot.state == PowerState::On)
    }

    /// Performs the operation of a task. A task does so when it ends.
    fn finish(&mut self, machine: &str, operation: &Operation) -> Result<Option<Value>, Fault> {
        let planned =
            self.planned_failures.iter().position(|(method, _)| *method == operation.method());
        if let Some(at) = planned {
            return Err(self.planned_failures.remove(at).1);
        }
        if let Some(fault) = self.rules.failing_tasks.get(operation.method()) {
            return Err(fault.clone());
        }
        if !operation.is_of_files() {
            Self::check_power(self.require_machine(machine)?, operation)?;
            Self::check_snapshots(self.require_machine(machine)?, operation)?;
        }
        match operation {
            Operation::PowerOn => self.power_on_now(machine),
            Operation::PowerOff => self.power_off_now(machine),
            // A reset leaves the power state on, and only the guest starts again.
            Operation::Reset => {
                self.choose_medium(machine);
                self.guest_starts(machine);
                self.screen_restarts(machine);
            }
            Operation::Suspend => self.suspend_now(machine),
            Operation::CreateSnapshot { name, description, memory, quiesce } => {
                return self.create_snapshot_now(machine, name, description, *memory, *quiesce);
            }
            Operation::RevertToSnapshot { snapshot, suppress_power_on } => {
                self.revert_now(machine, snapshot, *suppress_power_on)?;
            }
            Operation::RevertToCurrentSnapshot { suppress_power_on } => {
                // If the machine has no snapshot, a host does nothing and reports success.
                if let Some(current) = self.require_machine(machine)?.current_snapshot.clone() {
                    self.revert_now(machine, &current, *suppress_power_on)?;
                }
            }
            Operation::RemoveSnapshot { snapshot, children } => {
                let leaves_disks = self.rules.removals_leave_disks;
                if let Some(machine) = self.machine_mut(machine) {
                    machine.remove_snapshot(snapshot, *children);
                    machine.consolidation_needed |= leaves_disks;
                }
            }
            Operation::RemoveAllSnapshots => {
                let leaves_disks = self.rules.removals_leave_disks;
                if let Some(machine) = self.machine_mut(machine) {
                    machine.snapshots.clear();
                    machine.current_snapshot = None;
                    machine.consolidation_needed |= leaves_disks;
                }
            }
            Operation::CreateScreenshot => {
                return Ok(Some(Value::Text(self.write_screenshot(machine))));
            }
            Operation::ConsolidateDisks => {
                if let Some(machine) = self.machine_mut(machine) {
                    machine.consolidation_needed = false;
                }
            }
            Operation::Reconfigure(change) => self.reconfigure_now(machine, change)?,
            Operation::SearchFiles(_)
            | Operation::DeleteFile(_)
            | Operation::MoveFile { .. }
            | Operation::CopyFile { .. } => return self.finish_file_task(operation),
        }
        Ok(None)
    }

    /// Performs the operation of a task that works on files.
    fn finish_file_task(&mut self, operation: &Operation) -> Result<Option<Value>, Fault> {
        match operation {
            Operation::SearchFiles(search) => self.search_files(search).map(Some),
            Operation::DeleteFile(path) => {
                self.delete_file(path).map_err(|problem| problem.fault(path))?;
                Ok(None)
            }
            Operation::MoveFile { from, to, force } => {
                let moved = self.move_file(from, to, *force);
                moved.map_err(|problem| problem.fault(problem.concerned(from, to)))?;
                Ok(None)
            }
            Operation::CopyFile { from, to, force } => {
                let copied = self.copy_file(from, to, *force);
                copied.map_err(|problem| problem.fault(problem.concerned(from, to)))?;
                Ok(None)
            }
            // Every other operation is one on a machine.
            _ => Ok(None),
        }
    }
}

impl PowerState {
    /// Parses the name of a power state of vim25. Any other text becomes [`PowerState::Other`].
    #[must_use]
    pub fn parse(word: &str) -> Self {
        match word {
            "poweredOn" => Self::On,
            "poweredOff" => Self::Off,
            "suspended" => Self::Suspended,
            other => Self::Other(other.to_owned()),
        }
    }
}
