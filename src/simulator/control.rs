//! A test's hand on the host: what was called, what is to go wrong, and the world itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::fault::Fault;
use super::faults::{Disruption, Event, Hand, Planned, Restart, SessionLoss};
use super::mishap::Mishap;
use super::world::World;
use super::{Shared, State};

impl State {
    /// Lets something happen; it is counted.
    fn happen(&mut self, event: Event) {
        *self.happened.entry(event.word()).or_default() += 1;
        match event {
            Event::ExpireSessions => self.sessions.clear(),
            Event::RestartHostd(how) => self.restart_hostd(how),
            Event::Resume => {
                self.away = None;
                self.cut_connections();
            }
            Event::RebootHost => {
                self.world.reboot_host();
                self.restart_hostd(Restart { drop_running: true, ..Restart::default() });
            }
            Event::VanishTasks => self.world.forget_tasks(true),
            Event::RefuseLogins(refuse) => self.sessions.refuse_logins = refuse,
            Event::ReadOnlyLicence(read_only) => self.world.rules.read_only_licence = read_only,
            Event::ReadOnlyAccount(read_only) => self.world.rules.read_only_account = read_only,
            Event::FailNextTask(method, fault) => self.world.fail_next_task(method, fault),
            Event::Question { machine, question, pending: true } => {
                self.world.ask(&machine, *question);
            }
            Event::Question { machine, question, pending: false } => {
                if let Some(machine) = self.world.machine_mut(&machine) {
                    machine.question_at_power_on = Some(*question);
                }
            }
        }
    }

    fn restart_hostd(&mut self, how: Restart) {
        self.sessions.clear();
        self.world.restart_hostd(!how.drop_running);
        self.away = how.away;
        self.cut_connections();
    }

    fn cut_connections(&mut self) {
        std::mem::replace(&mut self.generation, CancellationToken::new()).cancel();
    }
}

impl Hand {
    /// Runs `hand` when the call waits.
    pub fn new(hand: impl Fn(&Control) + Send + Sync + 'static) -> Self {
        Self(Arc::new(move |shared| hand(&Control::new(Arc::clone(shared)))))
    }

    /// Does it.
    pub fn act(&self, control: &Control) {
        (self.0)(&control.shared);
    }
}

/// A handle to a running simulator; clones control the same.
#[derive(Clone)]
pub struct Control {
    pub(super) shared: Arc<Shared>,
}

impl Control {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// How often a method was called, refused calls included.
    #[must_use]
    pub fn calls(&self, method: &str) -> u64 {
        self.shared.lock().calls.of(method)
    }

    /// How often each method was called.
    #[must_use]
    pub fn all_calls(&self) -> BTreeMap<String, u64> {
        self.shared.lock().calls.all()
    }

    /// The methods that were called with this `operationID`, in order.
    #[must_use]
    pub fn calls_of_operation(&self, operation_id: &str) -> Vec<String> {
        self.shared.lock().calls.of_operation(operation_id)
    }

    /// How often each method was called for each `operationID`.
    #[must_use]
    pub fn operations(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        self.shared.lock().calls.operations()
    }

    /// How many calls of each method were not refused, for each `operationID`.
    #[must_use]
    pub fn taken(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        self.shared.lock().calls.taken()
    }

    /// Lets something go wrong as it was written.
    pub(super) fn bring_about(&self, mishap: &Mishap) {
        match mishap.clone() {
            Mishap::Now(event) => self.happen(event),
            Mishap::Calls { method, skip, times, what } => {
                self.disrupt(&method, skip, times, what);
            }
        }
    }

    /// Lets something happen to the host.
    pub fn happen(&self, event: Event) {
        self.at_once(|_| (), Some(event));
    }

    /// Changes the world and lets something happen to the host, with no moment between for anybody
    /// to look.
    pub fn at_once<T>(&self, change: impl FnOnce(&mut World) -> T, event: Option<Event>) -> T {
        let result = {
            let mut state = self.shared.lock();
            let result = change(&mut state.world);
            if let Some(event) = event {
                state.happen(event);
            }
            result
        };
        self.shared.notify();
        result
    }

    /// How often something of this word ([`Event::word`]) has happened to the host.
    #[must_use]
    pub fn happened(&self, word: &str) -> u64 {
        self.shared.lock().happened.get(word).copied().unwrap_or(0)
    }

    /// How many sessions there are.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.lock().sessions.count()
    }

    /// How many views there are, in all sessions.
    #[must_use]
    pub fn views(&self) -> usize {
        self.shared.lock().sessions.view_count()
    }

    /// How many filters there are, in all sessions.
    #[must_use]
    pub fn filters(&self) -> usize {
        self.shared.lock().sessions.filter_count()
    }

    /// How many waits for updates are pending.
    #[must_use]
    pub fn pending_waits(&self) -> usize {
        self.shared.lock().sessions.waits()
    }

    /// Plans a disruption of the next call of a method; `*` is any.
    #[expect(clippy::must_use_candidate, reason = "few ask whether it came to pass")]
    pub fn disrupt_next(&self, method: &str, what: Disruption) -> Planned {
        self.disrupt(method, 0, Some(1), what)
    }

    /// Plans a disruption of `times` calls of a method (`None`: of all) after `skip` more went
    /// well.
    #[expect(clippy::must_use_candidate, reason = "few ask whether it came to pass")]
    pub fn disrupt(
        &self,
        method: &str,
        skip: u64,
        times: Option<u64>,
        what: Disruption,
    ) -> Planned {
        self.shared.lock().faults.plan(method, skip, times, what)
    }

    /// Forgets all planned disruptions, page limits and ways of losing sessions.
    pub fn clear_disruptions(&self) {
        self.shared.lock().faults.clear();
    }

    /// How calls look whose session is gone.
    pub fn set_session_loss(&self, loss: SessionLoss) {
        self.shared.lock().faults.session_loss = loss;
    }

    /// Cuts answers of reads and updates at this many objects, even where the caller takes more.
    pub fn set_page_limit(&self, limit: Option<usize>) {
        self.shared.lock().faults.page_limit = limit;
    }

    /// All sessions are gone, with their views and filters.
    pub fn expire_sessions(&self) {
        self.happen(Event::ExpireSessions);
    }

    /// Whether every login is refused as one with a wrong password.
    pub fn refuse_logins(&self, refuse: bool) {
        self.happen(Event::RefuseLogins(refuse));
    }

    /// Whether every change is refused, as by the free licence.
    pub fn set_read_only_licence(&self, read_only: bool) {
        self.happen(Event::ReadOnlyLicence(read_only));
    }

    /// Whether the account's role lets it look only.
    pub fn set_read_only_account(&self, read_only: bool) {
        self.happen(Event::ReadOnlyAccount(read_only));
    }

    /// hostd restarts: connections, sessions, views, filters and tasks are gone; machines are as
    /// they were.
    pub fn restart_hostd(&self, how: Restart) {
        self.happen(Event::RestartHostd(how));
    }

    /// hostd is back.
    pub fn resume(&self) {
        self.happen(Event::Resume);
    }

    /// The whole host restarts: every machine is off, the boot time is new, and hostd is back at
    /// once.
    pub fn reboot_host(&self) {
        self.happen(Event::RebootHost);
    }

    /// Looks at the world.
    pub fn look<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.shared.lock().world)
    }

    /// Changes the world by hand, as colleagues do.
    pub fn mutate<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        self.at_once(change, None)
    }

    /// The next task of this method ends with a fault instead of its work.
    pub fn fail_next_task(&self, method: &'static str, fault: Fault) {
        self.happen(Event::FailNextTask(method, fault));
    }

    /// hostd forgets every task, while what runs goes on.
    pub fn vanish_tasks(&self) {
        self.happen(Event::VanishTasks);
    }

    /// The tasks that are not ended, oldest first.
    #[must_use]
    pub fn running_tasks(&self) -> Vec<String> {
        self.shared.lock().world.running_tasks()
    }

    /// Lets every running task take one step. Gives how many there were.
    #[expect(clippy::must_use_candidate, reason = "the count is seldom wanted")]
    pub fn step_tasks(&self) -> usize {
        self.mutate(|world| {
            let running = world.running_tasks();
            for task in &running {
                world.step_task(task);
            }
            running.len()
        })
    }

    /// Lets a task run to its end.
    pub fn finish_task(&self, task: &str) {
        self.mutate(|world| world.finish_task(task));
    }

    /// In the stepped pace: lets every guest do what it would do next.
    pub fn step_guests(&self) -> usize {
        self.mutate(World::step_guests)
    }

    /// Returns once this is so; it is asked anew after each call and each change. The caller bounds
    /// it.
    pub async fn until(&self, mut so: impl FnMut(&Self) -> bool) {
        let mut changes = self.shared.changes();
        loop {
            changes.borrow_and_update();
            if so(self) {
                return;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns once a method was called this often in all.
    pub async fn until_called(&self, method: &str, times: u64) {
        self.until(|control| control.calls(method) >= times).await;
    }

    /// Returns once a task runs, and gives the oldest.
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
