//! Follows the host on one stream of updates (`WaitForUpdatesEx`). All facts come from this stream.
//!
//! ```text
//! subscribe ──► first set (version "") ──► wait ──► apply a complete set ──► report ──► wait …
//!     ▲                    ▲                 │
//!     │                    │                 ├─ connection lost: wait again from the last
//!     │                    │                 │  complete version, if the session is valid
//!     │                    └─────────────────┤  InvalidCollectorVersion
//!     └──────────────────────────────────────┘  other failure: `session_loop` checks the session,
//!                                               logs in if it has ended, and calls `serve` again
//! ```
//! - subscribe: create the views and filters on the host.
//! - first set: the host returns every object of the filters.
//! - wait: the host answers when a property changes, or after `max_wait`.
//! - apply: put the update set into the property cache. If the set is truncated, get its other
//!   parts first.
//! - report: send the changes to the observer and to the followers of tasks.
//!
//! The wait after the end of a followed task acts as a barrier. Its `maxWaitSeconds` is 0, so the
//! host answers at once, and the answer proves that the observer has every change before the end of
//! the task. Another caller of a barrier makes the collector cancel its pending wait.
//!
//! An update set that removes all machines, or many at once, is reported only after the collector
//! has found the session valid and a second read has agreed. The reason is that an answer on a lost
//! session can look like an empty host.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::barrier::{Barriers, Covered, Waiter};
use super::connections::Lane;
use super::ended_tasks::EndedTasks;
use super::property_cache::PropertyCache;
use super::property_reader::read_once;
use super::session::{ExchangeError, Login, Session, session_lost};
use super::soap::Reference;
use super::soap::property::{UpdateSet, boolean};
use super::soap::request::{self, PropertySpec, Selection};
use super::soap::response::Reply;
use super::subscription::{FollowedPaths, Subscription};
use super::task_followers::TaskFollowers;
use super::task_info::TaskInfo;
use super::task_list_view::{ListUpdate, update_and_read};
use crate::clock::Clock;
use crate::domain::ids::{MachineId, TaskId};
use crate::hypervisor::{Fact, Facts, HostError, HostErrorKind, Observer};

/// The maximum number of objects in one answer. The first read of a host with 1,000 machines takes
/// four answers.
const OBJECTS_PER_SET: u32 = 250;

/// The maximum number of objects that one call reads again.
const OBJECTS_PER_READ: usize = 50;

/// The number of consecutive failed waits that the collector tolerates. After one more failure the
/// collector gives up the stream, and a new stream gets a new subscription.
const MAX_FAILED_WAITS: u32 = 3;

/// The number of consecutive waits without an update after which the collector checks how long a
/// wait lasts. If a wait then ends early, the host does not hold waits open, and the collector
/// pauses before the next wait.
const MAX_IDLE: u32 = 5;

/// A request to the task that runs the collector (the task of `Hypervisor::run`).
#[derive(Debug)]
pub enum Command {
    /// Notify the waiter after the observer has received all changes that `Covered` names.
    Barrier(Waiter, Covered),
    /// Report a fact that a caller has read directly, in order with the facts of the stream, and
    /// then confirm the report on the channel.
    Report(Fact, oneshot::Sender<()>),
}

/// Follows the host on one login after the other. Each login gets a stream of updates.
pub struct Collector {
    session: Arc<Session>,
    observer: Arc<dyn Observer>,
    followers: Arc<TaskFollowers>,
    ended_tasks: Arc<EndedTasks>,
    clock: Clock,
    max_wait: Duration,
    commands: mpsc::Receiver<Command>,
    barriers: Barriers,
    /// The machines that the collector last reported to the observer.
    reported: BTreeSet<MachineId>,
    paths: FollowedPaths,
    /// The views and filters that the collector created last. They may still exist on the host.
    subscription: Option<Subscription>,
    /// When the collector last cancelled its own pending wait, by the clock's `elapsed`.
    last_cancel: Option<Duration>,
    /// Whether the stream reports the state of a task that is added to the `ListView` while a wait
    /// is pending. otter assumes that it does, until the host shows that it does not.
    reports_additions: bool,
}

/// The state of one stream of updates.
#[derive(Default)]
struct StreamState {
    cache: PropertyCache,
    list: ListChanges,
    /// A part of a truncated update set that is not in the cache yet. The collector applies it
    /// while the host prepares the next part.
    unapplied: Option<Reply>,
}

/// The changes that otter makes to the `ListView` of tasks during one stream of updates.
#[derive(Default)]
struct ListChanges {
    in_flight: Option<InFlight<Result<ListUpdate, ExchangeError>>>,
    /// The tasks that were added to the `ListView` but that the stream has not reported yet, each
    /// with the time at which it was added.
    unreported: Vec<(Duration, TaskId)>,
    /// A timer that ends when otter must itself read the oldest of the unreported tasks.
    patience: Option<InFlight<()>>,
}

type InFlight<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Collector {
    pub fn new(
        session: Arc<Session>,
        observer: Arc<dyn Observer>,
        followers: Arc<TaskFollowers>,
        ended_tasks: Arc<EndedTasks>,
        clock: Clock,
        max_wait: Duration,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self {
            session,
            observer,
            followers,
            ended_tasks,
            clock,
            max_wait,
            commands,
            barriers: Barriers::default(),
            reported: BTreeSet::new(),
            paths: FollowedPaths::default(),
            subscription: None,
            last_cancel: None,
            reports_additions: true,
        }
    }

    /// Follows the host on `login` until something fails, and returns the failure. Calls
    /// `on_synced` once, after the observer has received the first complete facts.
    pub async fn serve(
        &mut self,
        login: &Arc<Login>,
        on_synced: &mut (dyn FnMut() + Send),
    ) -> HostError {
        let Err(error) = self.follow_updates(login, on_synced).await;
        self.barriers.fail_all(&error.message);
        error
    }

    /// Awaits `future` while otter has no stream of updates. A caller of a barrier meanwhile fails
    /// at once with `reason`.
    pub async fn while_disconnected<T>(
        &mut self,
        reason: &str,
        future: impl Future<Output = T> + Send,
    ) -> T {
        tokio::pin!(future);
        loop {
            tokio::select! {
                output = &mut future => return output,
                Some(command) = self.commands.recv() => {
                    self.handle(command);
                    self.barriers.fail_all(reason);
                }
            }
        }
    }

    async fn follow_updates(
        &mut self,
        login: &Arc<Login>,
        on_synced: &mut (dyn FnMut() + Send),
    ) -> Result<Infallible, HostError> {
        let subscription = self.subscribe(login).await?;
        self.followers.list_view_recreated();
        let mut stream = StreamState::default();
        // `version` is the version of the last complete update set, and `next` is the version from
        // which to wait. The two differ only between the parts of a truncated set. A failed wait
        // begins again at `version`, because the version of a part is valid only once.
        let (mut version, mut next) = (String::new(), String::new());
        let (mut from_scratch, mut first, mut failed_waits, mut idle) = (true, true, 0, 0);
        loop {
            let within_set = next != version;
            let at_once = within_set || from_scratch || self.barriers.need_round();
            if !within_set {
                self.barriers.wait_sent();
            }
            let wait_start = self.clock.elapsed();
            let result = self.wait(login, &subscription, &next, at_once, &mut stream).await?;
            let reply = match result {
                Ok(reply) => reply,
                Err(error) => {
                    failed_waits += 1;
                    if !self.can_resume(login, error, failed_waits, &mut version).await?
                        || version.is_empty()
                    {
                        stream.cache = PropertyCache::default();
                        version.clear();
                        from_scratch = true;
                    }
                    next.clone_from(&version);
                    continue;
                }
            };
            failed_waits = 0;
            idle = if at_once || reply.return_value().is_some() { 0 } else { idle + 1 };
            if idle > MAX_IDLE
                && self.clock.elapsed().saturating_sub(wait_start) < self.max_wait / 2
            {
                // The host answers each wait at once instead of holding it open. The pause keeps
                // otter from flooding the host with requests.
                self.clock.sleep(Duration::from_secs(1)).await;
            }
            if let Some(set) = reply.return_value() {
                set.child_text("version").unwrap_or_default().clone_into(&mut next);
                let is_truncated = set.child("truncated").and_then(boolean) == Some(true);
                stream.unapplied = Some(reply);
                if is_truncated {
                    continue;
                }
                stream.apply();
            }
            version.clone_from(&next);
            self.commit(login, &subscription, &mut stream.cache, from_scratch).await?;
            from_scratch = false;
            if std::mem::take(&mut first) {
                on_synced();
            }
            self.barriers.wait_completed();
        }
    }

    /// Creates the views and filters on the host. If the collector has created views and filters on
    /// this login before, it destroys those first.
    async fn subscribe(&mut self, login: &Login) -> Result<Subscription, HostError> {
        if let Some(old) = self.subscription.take().filter(|old| old.belongs_to(login)) {
            old.destroy(&self.session, login).await;
        }
        let created = Subscription::create(&self.session, login, &mut self.paths).await;
        let subscription = created.map_err(refused_to_follow)?;
        self.subscription = Some(subscription.clone());
        self.reports_additions = true;
        Ok(subscription)
    }

    /// Waits for the next update set and returns the answer. Meanwhile it handles commands, checks
    /// the session if a caller asks for it, and adds tasks to follow. A command for a barrier
    /// cancels the pending wait, so that the next wait, which the host answers at once, can be
    /// sent.
    ///
    /// # Errors
    /// The outer error ends the stream: the session is lost, or a task could not be followed. The
    /// inner error is that of the wait.
    async fn wait(
        &mut self,
        login: &Arc<Login>,
        subscription: &Subscription,
        version: &str,
        at_once: bool,
        stream: &mut StreamState,
    ) -> Result<Result<Reply, ExchangeError>, HostError> {
        const SECOND_REPEAT: Duration = Duration::from_millis(10);
        const LAST_REPEAT: Duration = Duration::from_secs(5);
        let collector = &login.content.property_collector;
        let seconds =
            if at_once { 0 } else { u32::try_from(self.max_wait.as_secs()).unwrap_or(60).max(1) };
        let request = request::wait_for_updates(collector, version, seconds, OBJECTS_PER_SET);
        let session = Arc::clone(&self.session);
        let clock = self.clock.clone();
        let cancel = || {
            let (session, login) = (Arc::clone(&session), Arc::clone(login));
            let request = request::cancel_wait_for_updates(&login.content.property_collector);
            Box::pin(async move {
                // The result of the cancel does not matter: if the cancel worked, the pending wait
                // ends.
                let _ = session.send(&login, request, Lane::Reserved).await;
            }) as InFlight<()>
        };
        let (mut cancelling, mut repeat, mut pause): (
            Option<InFlight<()>>,
            Option<InFlight<()>>,
            _,
        ) = (None, None, Duration::ZERO);
        let mut answer = Box::pin(session.send(login, request, Lane::LongPoll));
        if stream.unapplied.is_some() {
            // This poll sends the request for the next part before the received part is applied, so
            // that the host prepares its answer meanwhile.
            let sent = futures_util::poll!(answer.as_mut());
            stream.apply();
            if let Poll::Ready(answer) = sent {
                return Ok(answer);
            }
        }
        let StreamState { cache, list, .. } = stream;
        if list.in_flight.is_none() {
            list.in_flight = self.next_list_update(login, subscription);
        }
        loop {
            tokio::select! {
                // The answer is polled first, because it may make another cancel unnecessary.
                biased;
                answer = &mut answer => {
                    if let Some(cancelling) = cancelling {
                        // The collector awaits the cancel that is under way. Otherwise the cancel
                        // could reach the host later and end the next wait.
                        cancelling.await;
                    }
                    return Ok(answer);
                }
                () = poll_in_flight(&mut cancelling) => {
                    // A cancel can reach the host before the wait that it should end. The wait then
                    // goes on, so the collector sends the cancel again: once without a pause, then
                    // with growing pauses.
                    let (clock, pause_now) = (clock.clone(), pause);
                    repeat = Some(Box::pin(async move {
                        if !pause_now.is_zero() {
                            clock.sleep(pause_now).await;
                        }
                    }));
                    pause = (pause * 2).clamp(SECOND_REPEAT, LAST_REPEAT);
                }
                () = poll_in_flight(&mut repeat) => {
                    self.last_cancel = Some(clock.elapsed());
                    cancelling = Some(cancel());
                }
                () = session.recheck_requested(login) => {
                    if !session.is_valid(login).await? {
                        return Err(session_lost());
                    }
                    session.confirm_valid();
                }
                update = poll_in_flight(&mut list.in_flight) => {
                    let ListUpdate { read, listed } = update.map_err(refused_to_follow)?;
                    for (task, info) in read {
                        self.report_task(login, cache, &task, info.as_ref());
                    }
                    let since = clock.elapsed();
                    let unreported = self.followers.unreported(listed);
                    list.unreported.extend(unreported.into_iter().map(|task| (since, task)));
                    list.start_patience(&clock);
                    list.in_flight = self.next_list_update(login, subscription);
                }
                () = self.followers.list_changed(), if list.in_flight.is_none() => {
                    list.in_flight = self.next_list_update(login, subscription);
                }
                () = poll_in_flight(&mut list.patience) => {
                    let overdue = self.followers.unreported(list.take_overdue(clock.elapsed()));
                    for task in &overdue {
                        self.reports_additions = false;
                        self.followers.relist(task);
                    }
                    list.start_patience(&clock);
                }
                Some(command) = self.commands.recv() => {
                    self.handle(command);
                    let is_too_early = !at_once && self.barriers.outlast_pending_wait();
                    if is_too_early && cancelling.is_none() && repeat.is_none() {
                        self.last_cancel = Some(clock.elapsed());
                        cancelling = Some(cancel());
                    }
                }
            }
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Barrier(waiter, covered) => self.barriers.join(waiter, covered),
            Command::Report(fact, sender) => {
                self.observer.observe(Facts { complete: false, changes: vec![fact] });
                // `send` fails if the sender of the command has stopped waiting, which is no error.
                let _ = sender.send(());
            }
        }
    }

    /// Whether the stream can continue from the last complete version after a failed wait. If the
    /// stream must begin again with the same filters, this function sets `version` to "" and
    /// returns `false`.
    ///
    /// # Errors
    /// The failure that ends the stream.
    async fn can_resume(
        &mut self,
        login: &Login,
        error: ExchangeError,
        failed_waits: u32,
        version: &mut String,
    ) -> Result<bool, HostError> {
        const OWN_CANCEL_WINDOW: Duration = Duration::from_secs(10);
        if failed_waits > MAX_FAILED_WAITS {
            return Err(refused_to_follow(error));
        }
        let cancelled_by_us = self
            .last_cancel
            .is_some_and(|cancel| self.clock.elapsed().saturating_sub(cancel) < OWN_CANCEL_WINDOW);
        match error {
            error if error.is_fault("InvalidCollectorVersion") => {
                version.clear();
                Ok(false)
            }
            error if error.is_fault("RequestCanceled") && cancelled_by_us => Ok(true),
            ExchangeError::NotSent(error)
            | ExchangeError::Disconnected(error)
            | ExchangeError::NoAnswer(error)
                if error.kind == HostErrorKind::Unreachable =>
            {
                if self.session.is_valid(login).await? { Ok(true) } else { Err(session_lost()) }
            }
            error => {
                // A host can refuse an unknown property path even in the answer to a wait, so the
                // path is no longer followed after this failure.
                self.paths.drop_unknown(&error);
                Err(refused_to_follow(error))
            }
        }
    }

    /// Ends the work on a complete update set: reads incomplete objects again, verifies removals,
    /// and reports the changes to the observer and to the followers of tasks.
    async fn commit(
        &mut self,
        login: &Login,
        subscription: &Subscription,
        cache: &mut PropertyCache,
        complete: bool,
    ) -> Result<(), HostError> {
        let incomplete = cache.take_incomplete();
        let kinds: Vec<&str> = self.paths.specs().iter().map(|spec| spec.object_type).collect();
        for kind in kinds {
            let objects: Vec<Reference> =
                incomplete.iter().filter(|object| object.kind == kind).cloned().collect();
            for objects in objects.chunks(OBJECTS_PER_READ) {
                self.read_again(login, objects, cache).await.map_err(refused_to_follow)?;
            }
        }
        if cache.take_unauthenticated() && !self.session.is_valid(login).await? {
            return Err(session_lost());
        }
        // Almost no set adds or removes machines, so that a host with many machines costs no more.
        if complete || cache.has_membership_changed() {
            self.verify_removals(login, subscription, cache).await?;
        }
        let tasks = cache.take_tasks();
        let restarted =
            tasks.iter().filter_map(|(task, info)| self.guest_restart(cache, task, info.as_ref()));
        // Restarts of guests are reported first, because the properties in this update set are
        // newer than the restarts.
        let mut changes: Vec<Fact> = restarted.collect();
        let mut facts = cache.take_facts(complete);
        changes.append(&mut facts.changes);
        if complete || !changes.is_empty() {
            if cache.take_membership_changed() || complete {
                self.reported = cache.machines().cloned().collect();
            }
            self.observer.observe(Facts { complete: facts.complete, changes });
        }
        for (task, info) in &tasks {
            match info {
                Some(info) => self.report_info(login, task, info),
                // The task has left the `ListView`, or its `info` is incomplete. otter adds and
                // reads the task again to find out.
                None => self.followers.relist(task),
            }
        }
        Ok(())
    }

    async fn read_again(
        &self,
        login: &Login,
        objects: &[Reference],
        cache: &mut PropertyCache,
    ) -> Result<(), ExchangeError> {
        let properties = self.paths.specs();
        match read_once(
            &self.session,
            login,
            properties,
            Selection::Objects(objects),
            Lane::Reserved,
        )
        .await
        {
            Ok(contents) => contents.objects().for_each(|content| cache.replace(&content)),
            Err(error) if error.is_fault("ManagedObjectNotFound") => {
                for object in objects {
                    let one = Selection::Objects(std::slice::from_ref(object));
                    match read_once(&self.session, login, properties, one, Lane::Reserved).await {
                        Ok(contents) => {
                            contents.objects().for_each(|content| cache.replace(&content));
                        }
                        // The host no longer has the object, so nothing is read. The stream will
                        // report the removal.
                        Err(error) if error.is_fault("ManagedObjectNotFound") => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Verifies an update set that removes all machines, or that removes more than three machines
    /// and more than a tenth of the reported ones. To verify it, otter checks the session and reads
    /// the names of all machines.
    ///
    /// # Errors
    /// `Protocol` if the second read still shows one of the removed machines.
    async fn verify_removals(
        &self,
        login: &Login,
        subscription: &Subscription,
        cache: &PropertyCache,
    ) -> Result<(), HostError> {
        const FEW: usize = 3;
        let missing: Vec<&MachineId> =
            self.reported.iter().filter(|id| !cache.has_machine(id)).collect();
        let empty = cache.machines().next().is_none();
        let many_missing = missing.len() > FEW && missing.len() * 10 > self.reported.len();
        if !(many_missing || empty && (self.reported.is_empty() || !missing.is_empty())) {
            return Ok(());
        }
        if !self.session.is_valid(login).await? {
            return Err(session_lost());
        }
        let name = [PropertySpec { object_type: "VirtualMachine", paths: vec!["name"] }];
        let second_read = read_once(
            &self.session,
            login,
            &name,
            Selection::View(&subscription.machines),
            Lane::Reserved,
        )
        .await
        .map_err(refused_to_follow)?;
        let present: BTreeSet<MachineId> = second_read
            .objects()
            .map(|content| MachineId::from_backend(content.object.value))
            .collect();
        if missing.iter().any(|id| present.contains(*id)) || empty && !present.is_empty() {
            let message = format!(
                "The host {} reported that machines are gone, but a second read still \
                 shows them; otter reads all machines again.",
                self.session.address()
            );
            return Err(HostError::new(HostErrorKind::Protocol, message));
        }
        tracing::info!(
            gone = missing.len(),
            remaining = present.len(),
            "the host confirmed that machines are gone"
        );
        Ok(())
    }

    fn next_list_update(
        &self,
        login: &Arc<Login>,
        subscription: &Subscription,
    ) -> Option<InFlight<Result<ListUpdate, ExchangeError>>> {
        let mut changes = self.followers.take_list_changes()?;
        if !self.reports_additions {
            changes.read.clone_from(&changes.add);
        }
        let (session, login, list) =
            (Arc::clone(&self.session), Arc::clone(login), subscription.tasks.clone());
        Some(Box::pin(async move { update_and_read(&session, &login, &list, changes).await }))
    }

    fn report_task(
        &mut self,
        login: &Login,
        cache: &PropertyCache,
        task: &TaskId,
        info: Option<&TaskInfo>,
    ) {
        if let Some(fact) = self.guest_restart(cache, task, info) {
            self.observer.observe(Facts { complete: false, changes: vec![fact] });
        }
        match info {
            Some(info) => self.report_info(login, task, info),
            None => self.followers.report_vanished(task),
        }
    }

    fn report_info(&mut self, login: &Login, task: &TaskId, info: &TaskInfo) {
        self.ended_tasks.note(login, task, info);
        if self.followers.report(task, info) {
            self.barriers.task_ended();
        }
    }

    fn guest_restart(
        &self,
        cache: &PropertyCache,
        task: &TaskId,
        info: Option<&TaskInfo>,
    ) -> Option<Fact> {
        let info = info?;
        let by = info.guest_restart().filter(|_| self.followers.is_followed(task))?;
        let machine = cache.machine_for_entity(info.entity.as_ref()?)?;
        Some(Fact::GuestRestarted { machine, by })
    }
}

impl StreamState {
    /// Applies the update set in `unapplied` to the cache.
    fn apply(&mut self) {
        let Some(reply) = self.unapplied.take() else { return };
        if let Some(set) = reply.return_value().map(UpdateSet::from_element) {
            set.objects.iter().for_each(|update| self.cache.apply(update));
        }
    }
}

impl ListChanges {
    /// How long the stream may take to report a task that was added to the `ListView`. A host that
    /// reports added tasks at all does so at once.
    const PATIENCE: Duration = Duration::from_millis(250);

    /// Starts the timer for the oldest task that the stream has not reported, if there is such a
    /// task and no timer runs.
    fn start_patience(&mut self, clock: &Clock) {
        if self.patience.is_none()
            && let Some((since, _)) = self.unreported.first()
        {
            let left = (*since + Self::PATIENCE).saturating_sub(clock.elapsed());
            let clock = clock.clone();
            self.patience = Some(Box::pin(async move { clock.sleep(left).await }));
        }
    }

    /// Takes the tasks that the stream has not reported within `PATIENCE` after they were added.
    fn take_overdue(&mut self, now: Duration) -> Vec<TaskId> {
        let is_overdue = |(since, _): &mut (Duration, TaskId)| *since + Self::PATIENCE <= now;
        self.unreported.extract_if(.., is_overdue).map(|(_, task)| task).collect()
    }
}

fn refused_to_follow(error: ExchangeError) -> HostError {
    error.into_error("otter cannot follow the changes of the host")
}

/// Awaits the future and then removes it from the option. If there is no future, waits for ever.
async fn poll_in_flight<T>(in_flight: &mut Option<InFlight<T>>) -> T {
    match in_flight {
        Some(future) => {
            let output = future.await;
            *in_flight = None;
            output
        }
        None => std::future::pending().await,
    }
}
