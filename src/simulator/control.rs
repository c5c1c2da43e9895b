//! The test hooks of the simulator: recorded calls, fault injection, and access to the simulated
//! world.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::console::ConsoleEnd;
use super::fault_config::ConfiguredFault;
use super::fault_injection::{
    Disruption, FilesChange, HostChange, HostChangeKind, HostdRestart, PlannedDisruption,
    SessionLoss, TestHook,
};
use super::guest_screen::ScreenStage;
use super::serial::{PortChange, SerialChange, SerialStatus};
use super::vim_fault::Fault;
use super::world::{Question, World};
use super::{Shared, SimulatorState};

impl SimulatorState {
    /// Applies a change to the host, and counts how often a change of its kind was applied.
    fn apply(&mut self, change: HostChange) {
        *self.occurrences.entry(change.kind()).or_default() += 1;
        match change {
            HostChange::ExpireSessions => self.sessions.clear(),
            HostChange::RestartHostd(restart) => self.restart_hostd(restart),
            HostChange::Resume => {
                self.down = None;
                self.cut_connections();
            }
            HostChange::RebootHost => {
                self.world.reboot_host();
                self.restart_hostd(HostdRestart { drop_running: true, ..HostdRestart::default() });
            }
            HostChange::VanishTasks => self.world.forget_tasks(true),
            HostChange::RefuseLogins(refuse) => self.sessions.refuse_logins = refuse,
            HostChange::ReadOnlyLicence(read_only) => {
                self.world.rules.read_only_licence = read_only;
            }
            HostChange::ReadOnlyAccount(read_only) => {
                self.world.rules.read_only_account = read_only;
            }
            HostChange::RemovalsLeaveDisks(leave) => self.world.rules.removals_leave_disks = leave,
            HostChange::FailNextTask(method, fault) => self.world.fail_next_task(method, fault),
            HostChange::FailTasks(method, Some(fault)) => {
                self.world.rules.failing_tasks.insert(method, fault);
            }
            HostChange::FailTasks(method, None) => {
                self.world.rules.failing_tasks.remove(method);
            }
            HostChange::MaintenanceMode(enabled) => self.world.set_maintenance_mode(enabled),
            HostChange::Question { machine, question, pending, repeats } => {
                if let Some(machine) = self.world.machine_mut(&machine) {
                    if repeats {
                        machine.question_at_each_power_on = Some(Question::clone(&question));
                    } else if !pending {
                        machine.question_at_power_on = Some(Question::clone(&question));
                    }
                }
                if pending {
                    self.world.ask(&machine, *question);
                }
            }
            HostChange::ConsoleQuirks(quirks) => {
                self.world.rules.consoles_outlive_reverts = quirks.outlive_reverts;
                self.consoles.quirks = quirks;
            }
            HostChange::EndConsoles { machine, how } => self.consoles.end(machine.as_deref(), how),
            HostChange::AbandonConsoles { machine, count } => {
                self.world.add_consoles(&machine, count);
            }
            HostChange::ForgetAbandonedConsoles => self.forget_abandoned_consoles(),
            HostChange::ShowScreen { machine, stage } => {
                let now = self.world.now().elapsed;
                if let Some(screen) = self.world.screen_mut(&machine) {
                    screen.show(stage, now);
                }
            }
            HostChange::Serial(change) => self.serial.apply(&self.world, change),
            HostChange::Files(change) => self.change_files(change),
        }
    }

    fn change_files(&mut self, change: FilesChange) {
        let world = &mut self.world;
        match change {
            FilesChange::Put { path, content } => world.put_file(&path, content),
            FilesChange::MakeFolder { path } => world.put_folder(&path),
            FilesChange::Remove { path } => world.remove_file(&path),
            FilesChange::Lock { path, locked } => world.lock_file(&path, locked),
            FilesChange::LockDrives { machine, locked } => world.lock_drives(&machine, locked),
            FilesChange::Datastore { name, free_bytes, accessible } => {
                let found = world.datastores().find(|datastore| datastore.name == name);
                let Some(id) = found.map(|datastore| datastore.id.clone()) else { return };
                if let Some(datastore) = world.datastore_mut(&id) {
                    datastore.accessible = accessible.unwrap_or(datastore.accessible);
                    if let Some(free) = free_bytes {
                        datastore.free_bytes = free;
                        datastore.unreported_bytes = 0;
                    }
                }
            }
        }
    }

    fn forget_abandoned_consoles(&mut self) {
        let counts: Vec<(String, i32)> = self
            .world
            .machines()
            .map(|machine| {
                let open = i32::try_from(self.consoles.open_consoles(&machine.id));
                (machine.id.clone(), open.unwrap_or(i32::MAX) - machine.mks_connections)
            })
            .filter(|(_, difference)| *difference != 0)
            .collect();
        for (machine, difference) in counts {
            self.world.add_consoles(&machine, difference);
        }
    }

    fn restart_hostd(&mut self, restart: HostdRestart) {
        self.sessions.clear();
        self.world.restart_hostd(!restart.drop_running);
        self.down = restart.down;
        self.cut_connections();
    }

    fn cut_connections(&mut self) {
        std::mem::replace(&mut self.hostd_lifetime, CancellationToken::new()).cancel();
    }
}

impl TestHook {
    /// Makes a test hook: the simulator runs the function `hook` while a call waits for its answer.
    pub fn new(hook: impl Fn(&Control) + Send + Sync + 'static) -> Self {
        Self(Arc::new(move |shared| hook(&Control::new(Arc::clone(shared)))))
    }

    /// Runs the function of this hook.
    pub fn run(&self, control: &Control) {
        (self.0)(&control.shared);
    }
}

/// What the screen of a guest really shows, without a console connection and without OCR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScreenContents {
    pub stage: ScreenStage,
    pub width: u16,
    pub height: u16,
    /// The texts from top to bottom.
    pub lines: Vec<String>,
    /// The pixels row by row, four bytes each: blue, green, red, 0.
    pub pixels: Vec<u8>,
    /// The keys that the guest takes as held, by their USB usages.
    pub held_keys: Vec<u8>,
    /// The buttons of the pointer that are down: bit 0 is the first button.
    pub held_buttons: u8,
    /// When the guest got the last input. Before the first one: when it started.
    pub last_input_at: Timestamp,
}

/// A handle to a running simulator. Clones control the same simulator.
#[derive(Clone)]
pub struct Control {
    pub(super) shared: Arc<Shared>,
}

impl Control {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// How often clients called a method. Calls that the host refused count too.
    #[must_use]
    pub fn calls(&self, method: &str) -> u64 {
        self.shared.lock().calls.count(method)
    }

    /// How often clients called each method. Calls that the host refused count too.
    #[must_use]
    pub fn all_calls(&self) -> BTreeMap<String, u64> {
        self.shared.lock().calls.counts()
    }

    /// The methods that clients called with this `operationID`, in order.
    #[must_use]
    pub fn calls_of_operation(&self, operation_id: &str) -> Vec<String> {
        self.shared.lock().calls.methods_of_operation(operation_id)
    }

    /// For each `operationID`: how often clients called each method.
    #[must_use]
    pub fn calls_by_operation(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        self.shared.lock().calls.by_operation()
    }

    /// For each `operationID`: how many calls of each method the host accepted.
    #[must_use]
    pub fn accepted_calls_by_operation(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        self.shared.lock().calls.accepted_by_operation()
    }

    /// The highest number of connections of all clients that were open at the same time.
    #[must_use]
    pub fn peak_connections(&self) -> usize {
        self.shared.connections.peak()
    }

    /// The number of connections that the simulator accepted since its start.
    #[must_use]
    pub fn accepted_connections(&self) -> u64 {
        self.shared.connections.accepted()
    }

    /// Plans a fault that disrupts calls, or applies a fault that changes the host at once.
    pub(super) fn inject(&self, fault: &ConfiguredFault) {
        match fault.clone() {
            ConfiguredFault::Now(change) => self.apply(change),
            ConfiguredFault::Calls { method, skip, times, disruption } => {
                self.disrupt(&method, skip, times, disruption);
            }
        }
    }

    /// Applies a change to the host as a whole, and counts it by its kind.
    pub fn apply(&self, change: HostChange) {
        self.mutate_and_apply(|_| (), Some(change));
    }

    /// Changes the world and applies a change to the host in one step, so that no call runs between
    /// these two changes.
    pub fn mutate_and_apply<T>(
        &self,
        change: impl FnOnce(&mut World) -> T,
        host_change: Option<HostChange>,
    ) -> T {
        let result = {
            let mut state = self.shared.lock();
            let result = change(&mut state.world);
            if let Some(host_change) = host_change {
                state.apply(host_change);
            }
            result
        };
        self.shared.notify();
        result
    }

    /// How often a change of this kind was applied.
    #[must_use]
    pub fn occurrences(&self, kind: HostChangeKind) -> u64 {
        self.shared.lock().occurrences.get(&kind).copied().unwrap_or(0)
    }

    /// The number of sessions that the host has now.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.lock().sessions.count()
    }

    /// The number of views in all sessions.
    #[must_use]
    pub fn views(&self) -> usize {
        self.shared.lock().sessions.view_count()
    }

    /// The number of property filters in all sessions.
    #[must_use]
    pub fn filters(&self) -> usize {
        self.shared.lock().sessions.filter_count()
    }

    /// The number of pending waits for updates.
    #[must_use]
    pub fn pending_waits(&self) -> usize {
        self.shared.lock().sessions.waits()
    }

    /// Plans a disruption of the next call of a method. The method `*` stands for every method.
    #[expect(clippy::must_use_candidate, reason = "few callers need the count of disrupted calls")]
    pub fn disrupt_next(&self, method: &str, disruption: Disruption) -> PlannedDisruption {
        self.disrupt(method, 0, Some(1), disruption)
    }

    /// Plans a disruption of calls of a method: the next `skip` calls run undisturbed, and the
    /// `times` calls after them are disrupted. If `times` is `None`, all later calls are disrupted.
    #[expect(clippy::must_use_candidate, reason = "few callers need the count of disrupted calls")]
    pub fn disrupt(
        &self,
        method: &str,
        skip: u64,
        times: Option<u64>,
        disruption: Disruption,
    ) -> PlannedDisruption {
        self.shared.lock().fault_plan.add(method, skip, times, disruption)
    }

    /// Removes all planned disruptions. Also resets the page limit, how the host answers calls with
    /// a lost session, and whether waits report objects that are added to views.
    pub fn clear_disruptions(&self) {
        self.shared.lock().fault_plan.clear();
    }

    /// Sets how the host answers a call whose session has ended.
    pub fn set_session_loss(&self, loss: SessionLoss) {
        self.shared.lock().fault_plan.session_loss = loss;
    }

    /// Sets whether a pending `WaitForUpdatesEx` reports an object that a client adds to a
    /// `ListView` during the wait. govmomi's simulator reports such an object only together with
    /// the next change of another object.
    pub fn set_additions_reported(&self, reported: bool) {
        self.shared.lock().fault_plan.hides_additions = !reported;
    }

    /// Limits the number of objects in one answer to a read or a wait for updates, even if the
    /// caller accepts more objects.
    pub fn set_page_limit(&self, limit: Option<usize>) {
        self.shared.lock().fault_plan.page_limit = limit;
    }

    /// Ends all sessions, with their views and filters.
    pub fn expire_sessions(&self) {
        self.apply(HostChange::ExpireSessions);
    }

    /// Sets whether the host refuses every login, as if the password were wrong.
    pub fn refuse_logins(&self, refuse: bool) {
        self.apply(HostChange::RefuseLogins(refuse));
    }

    /// Sets whether the host refuses every change, as with the free licence.
    pub fn set_read_only_licence(&self, read_only: bool) {
        self.apply(HostChange::ReadOnlyLicence(read_only));
    }

    /// Sets whether the account may only read.
    pub fn set_read_only_account(&self, read_only: bool) {
        self.apply(HostChange::ReadOnlyAccount(read_only));
    }

    /// Restarts hostd, the management service of the host: connections, sessions, views, filters
    /// and tasks are gone. Machines stay as they are.
    pub fn restart_hostd(&self, restart: HostdRestart) {
        self.apply(HostChange::RestartHostd(restart));
    }

    /// Lets hostd answer again, after a restart that left it down.
    pub fn resume(&self) {
        self.apply(HostChange::Resume);
    }

    /// Reboots the whole host: every machine is off, the boot time is new, and hostd is up at once.
    pub fn reboot_host(&self) {
        self.apply(HostChange::RebootHost);
    }

    /// What the guest of a machine shows now. `None` if the machine is off.
    #[must_use]
    pub fn screen(&self, machine: &str) -> Option<ScreenContents> {
        let (picture, screen, now) = {
            let state = self.shared.lock();
            let now = state.world.now();
            let machine = state.world.machine(machine)?;
            let picture = machine.screen.picture(now, &machine.name)?;
            (picture, machine.screen.clone(), now)
        };
        let idle = screen.idle(now.elapsed);
        Some(ScreenContents {
            stage: screen.stage(now.elapsed),
            width: picture.width,
            height: picture.height,
            lines: picture.lines(),
            pixels: picture.draw().into_pixels(),
            held_keys: screen.held_keys().iter().map(|key| key.0).collect(),
            held_buttons: screen.held_buttons(),
            last_input_at: now.wall.checked_sub(idle).unwrap_or(now.wall),
        })
    }

    /// Whether the guest of a machine shows this text now.
    #[must_use]
    pub fn shows(&self, machine: &str, text: &str) -> bool {
        let state = self.shared.lock();
        let now = state.world.now();
        let picture = state
            .world
            .machine(machine)
            .and_then(|machine| machine.screen.picture(now, &machine.name));
        picture.is_some_and(|picture| picture.lines().iter().any(|line| line.contains(text)))
    }

    /// Makes the guest of a machine show this stage.
    pub fn show_screen(&self, machine: &str, stage: ScreenStage) {
        self.apply(HostChange::ShowScreen { machine: machine.to_owned(), stage });
    }

    /// The number of console connections of a machine that are open now.
    #[must_use]
    pub fn open_consoles(&self, machine: &str) -> usize {
        self.shared.lock().consoles.open_consoles(machine)
    }

    /// Ends the open consoles of a machine.
    pub fn end_consoles(&self, machine: &str, how: ConsoleEnd) {
        self.apply(HostChange::EndConsoles { machine: Some(machine.to_owned()), how });
    }

    /// What the serial ports of a machine are doing, in the order of the ports.
    #[must_use]
    pub fn serial_ports(&self, machine: &str) -> Vec<SerialStatus> {
        let state = self.shared.lock();
        state.serial.statuses(&state.world, machine)
    }

    /// What a serial port of a machine is doing. `port` is its name in the guest, such as `ttyS0`.
    #[must_use]
    pub fn serial_port(&self, machine: &str, port: &str) -> Option<SerialStatus> {
        self.serial_ports(machine).into_iter().find(|status| status.name == port)
    }

    /// Changes a serial port of a machine. `port` is its name in the guest, such as `ttyS0`.
    pub fn change_serial_port(&self, machine: &str, port: &str, change: PortChange) {
        let (machine, port) = (machine.to_owned(), port.to_owned());
        self.apply(HostChange::Serial(SerialChange::Port { machine, port, change }));
    }

    /// Sets where the URIs of concentrators lead that name another host than loopback.
    pub fn set_concentrator(&self, address: Option<SocketAddr>) {
        self.apply(HostChange::Serial(SerialChange::Concentrator(address)));
    }

    /// Changes the files and datastores of the host.
    pub fn change_files(&self, change: FilesChange) {
        self.apply(HostChange::Files(change));
    }

    /// The bytes of a file by its datastore path. `None` if there is no such file. Bytes that a
    /// file of this computer holds are left out.
    #[must_use]
    pub fn file_bytes(&self, path: &str) -> Option<Vec<u8>> {
        self.shared.lock().world.file_bytes(path)
    }

    /// The length of a file by its datastore path. `None` if there is no such file.
    #[must_use]
    pub fn file_length(&self, path: &str) -> Option<u64> {
        self.shared.lock().world.file_length(path)
    }

    /// Reads the world.
    pub fn look<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.shared.lock().world)
    }

    /// Changes the world, as another client of the host would.
    pub fn mutate<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        self.mutate_and_apply(change, None)
    }

    /// Makes the next task of this method end with a fault, without doing the work of the task.
    pub fn fail_next_task(&self, method: &'static str, fault: Fault) {
        self.apply(HostChange::FailNextTask(method, fault));
    }

    /// Makes every task of this method end with a fault, without doing the work of the task. The
    /// fault `None` lets later tasks succeed again.
    pub fn fail_tasks(&self, method: &'static str, fault: Option<Fault>) {
        self.apply(HostChange::FailTasks(method, fault));
    }

    /// Sets whether the host is in maintenance mode.
    pub fn set_maintenance_mode(&self, enabled: bool) {
        self.apply(HostChange::MaintenanceMode(enabled));
    }

    /// Makes hostd forget every task. The operations of the running tasks go on.
    pub fn vanish_tasks(&self) {
        self.apply(HostChange::VanishTasks);
    }

    /// The ids of the tasks that have not ended, oldest first.
    #[must_use]
    pub fn running_tasks(&self) -> Vec<String> {
        self.shared.lock().world.running_tasks()
    }

    /// Advances every running task by one step. Returns how many tasks were advanced.
    #[expect(clippy::must_use_candidate, reason = "few callers need the count")]
    pub fn step_tasks(&self) -> usize {
        self.mutate(|world| {
            let running = world.running_tasks();
            for task in &running {
                world.step_task(task);
            }
            running.len()
        })
    }

    /// Runs a task to its end at once.
    pub fn finish_task(&self, task: &str) {
        self.mutate(|world| world.finish_task(task));
    }

    /// Runs the next scheduled events of every guest. Only the pace `Stepped` keeps events for this
    /// function. Returns the number of events.
    pub fn step_guests(&self) -> usize {
        self.mutate(World::step_guests)
    }

    /// Waits until the condition holds. It is evaluated after each call, each change and each input
    /// to a guest. The caller sets the timeout.
    pub async fn until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let mut changes = self.shared.changes();
        let mut inputs = self.shared.screen_changes();
        loop {
            changes.borrow_and_update();
            inputs.borrow_and_update();
            if condition(self) {
                return;
            }
            let is_gone = tokio::select! {
                next = changes.changed() => next.is_err(),
                next = inputs.changed() => next.is_err(),
            };
            if is_gone {
                return;
            }
        }
    }

    /// Waits until clients have called a method at least `times` times since the start of the
    /// simulator.
    pub async fn until_called(&self, method: &str, times: u64) {
        self.until(|control| control.calls(method) >= times).await;
    }

    /// Waits until a task of the host runs. Returns the id of the oldest running task.
    pub async fn until_task(&self) -> String {
        let mut found = None;
        self.until(|control| {
            found = control.running_tasks().into_iter().next();
            found.is_some()
        })
        .await;
        found.unwrap_or_default()
    }
}
