//! The one stream of updates, and the only source of facts.
//!
//! ```text
//! build views and filters ──► everything (version "") ──► wait ──► apply whole sets ──► tell ──► wait …
//!        ▲                          ▲                      │ cut: again from the last complete version
//!        │                          └── version refused ───┤
//!        └──── ended: the session is asked for, then built anew, with a login where it is gone
//! ```
//! No answer empties the picture unseen: what would remove all machines, or many at once, is
//! believed only after the session was confirmed and a second read agreed.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::barrier::{Barriers, Waiter};
use super::machine::{DATASTORE_PATHS, MACHINE_PATHS};
use super::property_cache::PropertyCache;
use super::property_reader::read_once;
use super::session::{ExchangeError, Login, Session, session_lost};
use super::soap::Reference;
use super::soap::property::UpdateSet;
use super::soap::request::{self, PropertySpec, Selection};
use super::soap::response::Reply;
use super::task_followers::TaskFollowers;
use super::task_info::TaskInfo;
use super::task_list_view::{TaskUpdates, update_and_read};
use super::transport::TimeoutClass;
use crate::clock::Clock;
use crate::domain::ids::{MachineId, TaskId};
use crate::hypervisor::{Fact, Facts, HostError, HostErrorKind, Observer};

/// Objects in one set: a host of 1,000 machines comes in ten answers, none of them large.
const OBJECTS_PER_SET: u32 = 100;

/// Objects read again in one call.
const OBJECTS_PER_READ: usize = 50;

/// How often in a row the stream may break before it is built anew.
const MAX_FAILED_WAITS: u32 = 3;

/// How often in a row a wait may end without news before the host is looked at askance.
const MAX_IDLE: u32 = 5;

/// What the task of `run` is asked to do between updates.
#[derive(Debug)]
pub enum Command {
    Barrier(Waiter),
    /// Something that was read directly, to be told in order with all else.
    Report(Fact, oneshot::Sender<()>),
}

/// Follows the host on one login after the other, and remembers what was told.
pub struct Collector {
    session: Arc<Session>,
    observer: Arc<dyn Observer>,
    followers: Arc<TaskFollowers>,
    clock: Clock,
    max_wait: Duration,
    commands: mpsc::Receiver<Command>,
    barriers: Barriers,
    reported: BTreeSet<MachineId>,
    machine_paths: Vec<&'static str>,
    datastore_paths: Vec<&'static str>,
    subscription: Option<Subscription>,
    last_cancel: Option<Duration>,
}

/// What was made on the host for us.
#[derive(Clone, Debug)]
struct Subscription {
    generation: u64,
    machines: Reference,
    tasks: Reference,
    filters: Vec<Reference>,
}

type InFlight<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Collector {
    pub fn new(
        session: Arc<Session>,
        observer: Arc<dyn Observer>,
        followers: Arc<TaskFollowers>,
        clock: Clock,
        max_wait: Duration,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self {
            session,
            observer,
            followers,
            clock,
            max_wait,
            commands,
            barriers: Barriers::default(),
            reported: BTreeSet::new(),
            machine_paths: MACHINE_PATHS.to_vec(),
            datastore_paths: DATASTORE_PATHS.to_vec(),
            subscription: None,
            last_cancel: None,
        }
    }

    /// Follows the host on this login until that does not go on, and says why. `on_synced` is called
    /// once, when the first whole picture was told.
    pub async fn serve(
        &mut self,
        login: &Arc<Login>,
        on_synced: &mut (dyn FnMut() + Send),
    ) -> HostError {
        let Err(error) = self.follow_updates(login, on_synced).await;
        self.barriers.fail_all(&error.message);
        error
    }

    /// Waits for something else than updates while there is no stream: barriers fail at once.
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
        let mut cache = PropertyCache::default();
        // The version that the last complete set brought, and the one to ask from next: they differ
        // within a truncated set, whose versions can be used once only.
        let (mut version, mut next) = (String::new(), String::new());
        let (mut from_scratch, mut first, mut failed_waits, mut idle) = (true, true, 0, 0);
        let mut task_read: Option<InFlight<Result<TaskUpdates, ExchangeError>>> = None;
        loop {
            let within_set = next != version;
            let at_once = within_set || from_scratch || self.barriers.begin_round();
            if from_scratch && !within_set {
                self.barriers.begin_round();
            }
            let asked = self.clock.elapsed();
            let waited =
                self.wait(login, &subscription, &next, at_once, &cache, &mut task_read).await?;
            let reply = match waited {
                Ok(reply) => reply,
                Err(error) => {
                    failed_waits += 1;
                    if !self.can_resume(login, error, failed_waits, &mut version).await?
                        || version.is_empty()
                    {
                        cache = PropertyCache::default();
                        version.clear();
                        from_scratch = true;
                    }
                    next.clone_from(&version);
                    continue;
                }
            };
            failed_waits = 0;
            idle = if at_once || reply.return_value().is_some() { 0 } else { idle + 1 };
            if idle > MAX_IDLE && self.clock.elapsed().saturating_sub(asked) < self.max_wait / 2 {
                // The host does not wait as it was asked to; it is not to be flooded for that.
                self.clock.sleep(Duration::from_secs(1)).await;
            }
            if let Some(set) = reply.return_value().map(UpdateSet::from_element) {
                set.objects.iter().for_each(|update| cache.apply(update));
                set.version.clone_into(&mut next);
                if set.truncated {
                    continue;
                }
            }
            version.clone_from(&next);
            self.commit(login, &subscription, &mut cache, from_scratch).await?;
            from_scratch = false;
            if std::mem::take(&mut first) {
                on_synced();
            }
            if at_once {
                self.barriers.complete_round();
            }
        }
    }

    /// Makes the views and filters, and removes what was made before on the same login.
    async fn subscribe(&mut self, login: &Login) -> Result<Subscription, HostError> {
        if let Some(old) =
            self.subscription.take().filter(|old| old.generation == login.generation())
        {
            for filter in &old.filters {
                // Perhaps the host has dropped it already.
                let _ = self.send(login, request::destroy_property_filter(filter)).await;
            }
            for view in [&old.machines, &old.tasks] {
                let _ = self.send(login, request::destroy_view(view)).await;
            }
        }
        let content = &login.content;
        let types = ["VirtualMachine", "Datastore"];
        let container =
            request::create_container_view(&content.view_manager, &content.root_folder, &types);
        let machines = self.create_object(login, container).await.map_err(refused_to_follow)?;
        let tasks = request::create_list_view(&content.view_manager);
        let tasks = self.create_object(login, tasks).await.map_err(refused_to_follow)?;
        let mut subscription =
            Subscription { generation: login.generation(), machines, tasks, filters: Vec::new() };
        let info = [PropertySpec { object_type: "Task", paths: vec!["info"] }];
        let filter = request::create_filter(
            &content.property_collector,
            &info,
            Selection::View(&subscription.tasks),
        );
        subscription
            .filters
            .push(self.create_object(login, filter).await.map_err(refused_to_follow)?);
        loop {
            let properties = self.properties();
            let selection = Selection::View(&subscription.machines);
            let filter =
                request::create_filter(&content.property_collector, &properties, selection);
            match self.create_object(login, filter).await {
                Ok(filter) => subscription.filters.push(filter),
                Err(error) if self.drop_unknown_path(&error) => continue,
                Err(error) => return Err(refused_to_follow(error)),
            }
            self.subscription = Some(subscription.clone());
            return Ok(subscription);
        }
    }

    async fn send(&self, login: &Login, request: request::Request) -> Result<Reply, ExchangeError> {
        self.session.send(login, request, TimeoutClass::Ordinary).await
    }

    async fn create_object(
        &self,
        login: &Login,
        request: request::Request,
    ) -> Result<Reference, ExchangeError> {
        let method = request.method;
        self.send(login, request).await?.reference().ok_or_else(|| {
            let message =
                format!("The host {} answered {method} without an object.", self.session.address());
            ExchangeError::NoAnswer(HostError::new(HostErrorKind::Protocol, message))
        })
    }

    fn properties(&self) -> [PropertySpec<'static>; 2] {
        [
            PropertySpec { object_type: "VirtualMachine", paths: self.machine_paths.clone() },
            PropertySpec { object_type: "Datastore", paths: self.datastore_paths.clone() },
        ]
    }

    /// An old host may lack a property. It does without from then on, rather than without
    /// everything.
    fn drop_unknown_path(&mut self, error: &ExchangeError) -> bool {
        let ExchangeError::Fault(fault) = error else { return false };
        let Some(path) = fault.details.get("name").filter(|_| fault.name == "InvalidProperty")
        else {
            return false;
        };
        let before = self.machine_paths.len() + self.datastore_paths.len();
        self.machine_paths.retain(|known| known != path);
        self.datastore_paths.retain(|known| known != path);
        tracing::warn!(path, "the host does not know a property, which stays empty");
        before > self.machine_paths.len() + self.datastore_paths.len()
    }

    /// Waits for the next set, and does meanwhile what is asked.
    async fn wait(
        &mut self,
        login: &Arc<Login>,
        subscription: &Subscription,
        version: &str,
        at_once: bool,
        cache: &PropertyCache,
        task_read: &mut Option<InFlight<Result<TaskUpdates, ExchangeError>>>,
    ) -> Result<Result<Reply, ExchangeError>, HostError> {
        const FIRST_REPEAT: Duration = Duration::from_millis(100);
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
                // What became of it shows in the wait.
                let _ = session.send(&login, request, TimeoutClass::Ordinary).await;
            }) as InFlight<()>
        };
        let (mut cancelling, mut repeat, mut pause): (
            Option<InFlight<()>>,
            Option<InFlight<()>>,
            _,
        ) = (None, None, FIRST_REPEAT);
        let answer = session.send(login, request, TimeoutClass::LongPoll);
        tokio::pin!(answer);
        if task_read.is_none() {
            *task_read = self.next_task_read(login, subscription);
        }
        loop {
            tokio::select! {
                answer = &mut answer => {
                    if let Some(cancelling) = cancelling {
                        // Else it could reach the host later, and end the next wait.
                        cancelling.await;
                    }
                    return Ok(answer);
                }
                () = poll_in_flight(&mut cancelling) => {
                    // It can overtake the wait that it means, which then goes on.
                    let clock = clock.clone();
                    repeat = Some(Box::pin(async move { clock.sleep(pause).await }));
                    pause = (pause * 2).min(LAST_REPEAT);
                }
                () = poll_in_flight(&mut repeat) => {
                    self.last_cancel = Some(clock.elapsed());
                    cancelling = Some(cancel());
                }
                Some(command) = self.commands.recv() => {
                    let barrier = matches!(command, Command::Barrier(_));
                    self.handle(command);
                    if barrier && !at_once && cancelling.is_none() && repeat.is_none() {
                        self.last_cancel = Some(clock.elapsed());
                        cancelling = Some(cancel());
                    }
                }
                () = session.recheck_requested(login) => {
                    if !session.is_valid(login).await? {
                        return Err(session_lost());
                    }
                    session.confirm_valid();
                }
                () = self.followers.list_changed(), if task_read.is_none() => *task_read = self.next_task_read(login, subscription),
                told = poll_in_flight(task_read) => {
                    for (task, info) in told.map_err(refused_to_follow)? {
                        self.report_task(cache, &task, info.as_ref());
                    }
                    *task_read = self.next_task_read(login, subscription);
                }
            }
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Barrier(waiter) => self.barriers.join(waiter),
            Command::Report(fact, told) => {
                self.observer.observe(Facts { complete: false, changes: vec![fact] });
                // Perhaps nobody waits for it any more.
                let _ = told.send(());
            }
        }
    }

    /// Whether the stream goes on from the last complete version; if not, it starts over on the
    /// same filters.
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
                // A path can be refused here too.
                self.drop_unknown_path(&error);
                Err(refused_to_follow(error))
            }
        }
    }

    /// Reads again what was unclear, makes sure that nothing is believed too easily, and tells.
    async fn commit(
        &mut self,
        login: &Login,
        subscription: &Subscription,
        cache: &mut PropertyCache,
        complete: bool,
    ) -> Result<(), HostError> {
        let incomplete = cache.take_incomplete();
        for kind in ["VirtualMachine", "Datastore"] {
            let objects: Vec<Reference> =
                incomplete.iter().filter(|object| object.kind == kind).cloned().collect();
            for objects in objects.chunks(OBJECTS_PER_READ) {
                self.read_again(login, objects, cache).await.map_err(refused_to_follow)?;
            }
        }
        if cache.take_unauthenticated() && !self.session.is_valid(login).await? {
            return Err(session_lost());
        }
        self.verify_removals(login, subscription, cache).await?;
        let tasks = cache.take_tasks();
        let restarted =
            tasks.iter().filter_map(|(task, info)| self.guest_restart(cache, task, info.as_ref()));
        // Before the machines: what they show was true after it.
        let mut changes: Vec<Fact> = restarted.collect();
        let mut facts = cache.take_facts(complete);
        changes.append(&mut facts.changes);
        if complete || !changes.is_empty() {
            self.reported = cache.machines().cloned().collect();
            self.observer.observe(Facts { complete: facts.complete, changes });
        }
        for (task, info) in &tasks {
            match info {
                Some(info) => self.followers.report(task, info),
                // It left the list or was told in part: reading it says which.
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
        let properties = self.properties();
        match read_once(&self.session, login, &properties, Selection::Objects(objects)).await {
            Ok(contents) => contents.objects().for_each(|content| cache.replace(&content)),
            Err(error) if error.is_fault("ManagedObjectNotFound") => {
                for object in objects {
                    let one = Selection::Objects(std::slice::from_ref(object));
                    match read_once(&self.session, login, &properties, one).await {
                        Ok(contents) => {
                            contents.objects().for_each(|content| cache.replace(&content));
                        }
                        // Its leaving is told by the stream.
                        Err(error) if error.is_fault("ManagedObjectNotFound") => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Makes sure of a picture that lacks all machines, or many of those that were told.
    async fn verify_removals(
        &self,
        login: &Login,
        subscription: &Subscription,
        cache: &PropertyCache,
    ) -> Result<(), HostError> {
        const FEW: usize = 3;
        let gone: Vec<&MachineId> =
            self.reported.iter().filter(|id| !cache.has_machine(id)).collect();
        let empty = cache.machines().next().is_none();
        let many = gone.len() > FEW && gone.len() * 10 > self.reported.len();
        if !(many || empty && (self.reported.is_empty() || !gone.is_empty())) {
            return Ok(());
        }
        if !self.session.is_valid(login).await? {
            return Err(session_lost());
        }
        let name = [PropertySpec { object_type: "VirtualMachine", paths: vec!["name"] }];
        let second =
            read_once(&self.session, login, &name, Selection::View(&subscription.machines))
                .await
                .map_err(refused_to_follow)?;
        let there: BTreeSet<MachineId> =
            second.objects().map(|content| MachineId::from_backend(content.object.value)).collect();
        if gone.iter().any(|id| there.contains(*id)) || empty && !there.is_empty() {
            let message = format!(
                "The host {} said that machines are gone and then showed them; its whole picture is read anew.",
                self.session.address()
            );
            return Err(HostError::new(HostErrorKind::Protocol, message));
        }
        tracing::info!(
            gone = gone.len(),
            left = there.len(),
            "the host confirmed that machines are gone"
        );
        Ok(())
    }

    fn next_task_read(
        &self,
        login: &Arc<Login>,
        subscription: &Subscription,
    ) -> Option<InFlight<Result<TaskUpdates, ExchangeError>>> {
        let changes = self.followers.take_list_changes()?;
        let (session, login, list) =
            (Arc::clone(&self.session), Arc::clone(login), subscription.tasks.clone());
        Some(Box::pin(async move { update_and_read(&session, &login, &list, changes).await }))
    }

    fn report_task(&self, cache: &PropertyCache, task: &TaskId, info: Option<&TaskInfo>) {
        if let Some(fact) = self.guest_restart(cache, task, info) {
            self.observer.observe(Facts { complete: false, changes: vec![fact] });
        }
        match info {
            Some(info) => self.followers.report(task, info),
            None => self.followers.report_vanished(task),
        }
    }

    fn guest_restart(
        &self,
        cache: &PropertyCache,
        task: &TaskId,
        info: Option<&TaskInfo>,
    ) -> Option<Fact> {
        let info = info.filter(|info| info.restarts_guest() && self.followers.is_followed(task))?;
        cache.machine_for_entity(info.entity.as_ref()?).map(Fact::GuestRestarted)
    }
}

fn refused_to_follow(error: ExchangeError) -> HostError {
    error.into_error("The host refused to tell what changes")
}

/// Resolves when the future does, and clears it; never where there is none.
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
