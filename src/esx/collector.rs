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
use super::mirror::Mirror;
use super::reader::read_once;
use super::session::{ExchangeError, Live, Session, lost};
use super::soap::Reference;
use super::soap::property::UpdateSet;
use super::soap::request::{self, Properties, Selection};
use super::soap::response::Reply;
use super::task::{Followers, TaskInfo};
use super::task_list::{TaskNews, list_and_read};
use super::transport::Patience;
use crate::clock::Clock;
use crate::domain::ids::{MachineId, TaskId};
use crate::hypervisor::{Fact, Facts, HostError, HostErrorKind, Observer};

/// Objects in one set: a host of 1,000 machines comes in ten answers, none of them large.
const OBJECTS_PER_SET: u32 = 100;

/// Objects read again in one call.
const OBJECTS_PER_READ: usize = 50;

/// How often in a row the stream may break before it is built anew.
const MAX_CUTS: u32 = 3;

/// How often in a row a wait may end without news before the host is looked at askance.
const MAX_IDLE: u32 = 5;

/// What the task of `run` is asked to do between updates.
#[derive(Debug)]
pub enum Command {
    Barrier(Waiter),
    /// Something that was read directly, to be told in order with all else.
    Tell(Fact, oneshot::Sender<()>),
}

/// Follows the host on one login after the other, and remembers what was told.
pub struct Collector {
    session: Arc<Session>,
    observer: Arc<dyn Observer>,
    followers: Arc<Followers>,
    clock: Clock,
    max_wait: Duration,
    commands: mpsc::Receiver<Command>,
    barriers: Barriers,
    told: BTreeSet<MachineId>,
    machine_paths: Vec<&'static str>,
    datastore_paths: Vec<&'static str>,
    built: Option<Built>,
    last_cancel: Option<Duration>,
}

/// What was made on the host for us.
#[derive(Clone, Debug)]
struct Built {
    generation: u64,
    machines: Reference,
    tasks: Reference,
    filters: Vec<Reference>,
}

type Flight<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Collector {
    pub fn new(
        session: Arc<Session>,
        observer: Arc<dyn Observer>,
        followers: Arc<Followers>,
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
            told: BTreeSet::new(),
            machine_paths: MACHINE_PATHS.to_vec(),
            datastore_paths: DATASTORE_PATHS.to_vec(),
            built: None,
            last_cancel: None,
        }
    }

    /// Follows the host on this login until that does not go on, and says why. `synced` is called
    /// once, when the first whole picture was told.
    pub async fn serve(
        &mut self,
        live: &Arc<Live>,
        synced: &mut (dyn FnMut() + Send),
    ) -> HostError {
        let Err(error) = self.follow(live, synced).await;
        self.barriers.fail(&error.message);
        error
    }

    /// Waits for something else than updates while there is no stream: barriers fail at once.
    pub async fn meanwhile<T>(
        &mut self,
        reason: &str,
        future: impl Future<Output = T> + Send,
    ) -> T {
        tokio::pin!(future);
        loop {
            tokio::select! {
                output = &mut future => return output,
                Some(command) = self.commands.recv() => {
                    self.take(command);
                    self.barriers.fail(reason);
                }
            }
        }
    }

    async fn follow(
        &mut self,
        live: &Arc<Live>,
        synced: &mut (dyn FnMut() + Send),
    ) -> Result<Infallible, HostError> {
        let built = self.build(live).await?;
        self.followers.list_is_new();
        let mut mirror = Mirror::default();
        // The version that the last complete set brought, and the one to ask from next: they differ
        // within a truncated set, whose versions can be used once only.
        let (mut version, mut next) = (String::new(), String::new());
        let (mut from_scratch, mut first, mut cuts, mut idle) = (true, true, 0, 0);
        let mut news: Option<Flight<Result<TaskNews, ExchangeError>>> = None;
        loop {
            let within_set = next != version;
            let at_once = within_set || from_scratch || self.barriers.board();
            if from_scratch && !within_set {
                self.barriers.board();
            }
            let asked = self.clock.elapsed();
            let waited = self.wait(live, &built, &next, at_once, &mirror, &mut news).await?;
            let reply = match waited {
                Ok(reply) => reply,
                Err(error) => {
                    cuts += 1;
                    if !self.resumes(live, error, cuts, &mut version).await? || version.is_empty() {
                        mirror = Mirror::default();
                        version.clear();
                        from_scratch = true;
                    }
                    next.clone_from(&version);
                    continue;
                }
            };
            cuts = 0;
            idle = if at_once || reply.returned().is_some() { 0 } else { idle + 1 };
            if idle > MAX_IDLE && self.clock.elapsed().saturating_sub(asked) < self.max_wait / 2 {
                // The host does not wait as it was asked to; it is not to be flooded for that.
                self.clock.sleep(Duration::from_secs(1)).await;
            }
            if let Some(set) = reply.returned().map(UpdateSet::read) {
                set.objects.iter().for_each(|update| mirror.apply(update));
                set.version.clone_into(&mut next);
                if set.truncated {
                    continue;
                }
            }
            version.clone_from(&next);
            self.settle(live, &built, &mut mirror, from_scratch).await?;
            from_scratch = false;
            if std::mem::take(&mut first) {
                synced();
            }
            if at_once {
                self.barriers.arrive();
            }
        }
    }

    /// Makes the views and filters, and removes what was made before on the same login.
    async fn build(&mut self, live: &Live) -> Result<Built, HostError> {
        if let Some(old) = self.built.take().filter(|old| old.generation == live.generation()) {
            for filter in &old.filters {
                // Perhaps the host has dropped it already.
                let _ = self.make(live, request::destroy_property_filter(filter)).await;
            }
            for view in [&old.machines, &old.tasks] {
                let _ = self.make(live, request::destroy_view(view)).await;
            }
        }
        let content = &live.content;
        let types = ["VirtualMachine", "Datastore"];
        let container =
            request::create_container_view(&content.view_manager, &content.root_folder, &types);
        let machines = self.made(live, container).await.map_err(refused_to_follow)?;
        let tasks = request::create_list_view(&content.view_manager);
        let tasks = self.made(live, tasks).await.map_err(refused_to_follow)?;
        let mut built =
            Built { generation: live.generation(), machines, tasks, filters: Vec::new() };
        let info = [Properties { of_type: "Task", paths: vec!["info"] }];
        let filter = request::create_filter(
            &content.property_collector,
            &info,
            Selection::View(&built.tasks),
        );
        built.filters.push(self.made(live, filter).await.map_err(refused_to_follow)?);
        loop {
            let properties = self.properties();
            let of = Selection::View(&built.machines);
            let filter = request::create_filter(&content.property_collector, &properties, of);
            match self.made(live, filter).await {
                Ok(filter) => built.filters.push(filter),
                Err(error) if self.drop_path(&error) => continue,
                Err(error) => return Err(refused_to_follow(error)),
            }
            self.built = Some(built.clone());
            return Ok(built);
        }
    }

    async fn make(&self, live: &Live, request: request::Request) -> Result<Reply, ExchangeError> {
        self.session.send(live, request, Patience::Ordinary).await
    }

    async fn made(
        &self,
        live: &Live,
        request: request::Request,
    ) -> Result<Reference, ExchangeError> {
        let method = request.method;
        self.make(live, request).await?.reference().ok_or_else(|| {
            let message =
                format!("The host {} answered {method} without an object.", self.session.address());
            ExchangeError::Broken(HostError::new(HostErrorKind::Protocol, message))
        })
    }

    fn properties(&self) -> [Properties<'static>; 2] {
        [
            Properties { of_type: "VirtualMachine", paths: self.machine_paths.clone() },
            Properties { of_type: "Datastore", paths: self.datastore_paths.clone() },
        ]
    }

    /// An old host may lack a property. It does without from then on, rather than without
    /// everything.
    fn drop_path(&mut self, error: &ExchangeError) -> bool {
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
        live: &Arc<Live>,
        built: &Built,
        version: &str,
        at_once: bool,
        mirror: &Mirror,
        news: &mut Option<Flight<Result<TaskNews, ExchangeError>>>,
    ) -> Result<Result<Reply, ExchangeError>, HostError> {
        const FIRST_REPEAT: Duration = Duration::from_millis(100);
        const LAST_REPEAT: Duration = Duration::from_secs(5);
        let collector = &live.content.property_collector;
        let seconds =
            if at_once { 0 } else { u32::try_from(self.max_wait.as_secs()).unwrap_or(60).max(1) };
        let request = request::wait_for_updates(collector, version, seconds, OBJECTS_PER_SET);
        let session = Arc::clone(&self.session);
        let clock = self.clock.clone();
        let cancel = || {
            let (session, live) = (Arc::clone(&session), Arc::clone(live));
            let request = request::cancel_wait_for_updates(&live.content.property_collector);
            Box::pin(async move {
                // What became of it shows in the wait.
                let _ = session.send(&live, request, Patience::Ordinary).await;
            }) as Flight<()>
        };
        let (mut cancelling, mut repeat, mut pause): (Option<Flight<()>>, Option<Flight<()>>, _) =
            (None, None, FIRST_REPEAT);
        let answer = session.send(live, request, Patience::LongPoll);
        tokio::pin!(answer);
        if news.is_none() {
            *news = self.next_news(live, built);
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
                () = flying(&mut cancelling) => {
                    // It can overtake the wait that it means, which then goes on.
                    let clock = clock.clone();
                    repeat = Some(Box::pin(async move { clock.sleep(pause).await }));
                    pause = (pause * 2).min(LAST_REPEAT);
                }
                () = flying(&mut repeat) => {
                    self.last_cancel = Some(clock.elapsed());
                    cancelling = Some(cancel());
                }
                Some(command) = self.commands.recv() => {
                    let barrier = matches!(command, Command::Barrier(_));
                    self.take(command);
                    if barrier && !at_once && cancelling.is_none() && repeat.is_none() {
                        self.last_cancel = Some(clock.elapsed());
                        cancelling = Some(cancel());
                    }
                }
                () = session.suspicion(live) => {
                    if !session.is_alive(live).await? {
                        return Err(lost());
                    }
                    session.confirmed();
                }
                () = self.followers.added(), if news.is_none() => *news = self.next_news(live, built),
                told = flying(news) => {
                    for (task, info) in told.map_err(refused_to_follow)? {
                        self.tell_task(mirror, &task, info.as_ref());
                    }
                    *news = self.next_news(live, built);
                }
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Barrier(waiter) => self.barriers.queue(waiter),
            Command::Tell(fact, told) => {
                self.observer.observe(Facts { complete: false, changes: vec![fact] });
                // Perhaps nobody waits for it any more.
                let _ = told.send(());
            }
        }
    }

    /// Whether the stream goes on from the last complete version; if not, it starts over on the
    /// same filters.
    async fn resumes(
        &mut self,
        live: &Live,
        error: ExchangeError,
        cuts: u32,
        version: &mut String,
    ) -> Result<bool, HostError> {
        const OURS: Duration = Duration::from_secs(10);
        if cuts > MAX_CUTS {
            return Err(refused_to_follow(error));
        }
        let cancelled_by_us = self
            .last_cancel
            .is_some_and(|cancel| self.clock.elapsed().saturating_sub(cancel) < OURS);
        match error {
            error if error.is_fault("InvalidCollectorVersion") => {
                version.clear();
                Ok(false)
            }
            error if error.is_fault("RequestCanceled") && cancelled_by_us => Ok(true),
            ExchangeError::NotSent(error)
            | ExchangeError::Cut(error)
            | ExchangeError::Broken(error)
                if error.kind == HostErrorKind::Unreachable =>
            {
                if self.session.is_alive(live).await? { Ok(true) } else { Err(lost()) }
            }
            error => {
                // A path can be refused here too.
                self.drop_path(&error);
                Err(refused_to_follow(error))
            }
        }
    }

    /// Reads again what was unclear, makes sure that nothing is believed too easily, and tells.
    async fn settle(
        &mut self,
        live: &Live,
        built: &Built,
        mirror: &mut Mirror,
        complete: bool,
    ) -> Result<(), HostError> {
        let unclear = mirror.take_unclear();
        for kind in ["VirtualMachine", "Datastore"] {
            let objects: Vec<Reference> =
                unclear.iter().filter(|object| object.kind == kind).cloned().collect();
            for objects in objects.chunks(OBJECTS_PER_READ) {
                self.read_again(live, objects, mirror).await.map_err(refused_to_follow)?;
            }
        }
        if mirror.take_unauthenticated() && !self.session.is_alive(live).await? {
            return Err(lost());
        }
        self.believe(live, built, mirror).await?;
        let tasks = mirror.take_tasks();
        let restarted =
            tasks.iter().filter_map(|(task, info)| self.restarted(mirror, task, info.as_ref()));
        // Before the machines: what they show was true after it.
        let mut changes: Vec<Fact> = restarted.collect();
        let mut facts = mirror.take_facts(complete);
        changes.append(&mut facts.changes);
        if complete || !changes.is_empty() {
            self.told = mirror.machines().cloned().collect();
            self.observer.observe(Facts { complete: facts.complete, changes });
        }
        for (task, info) in &tasks {
            match info {
                Some(info) => self.followers.tell(task, info),
                // It left the list or was told in part: reading it says which.
                None => self.followers.list_again(task),
            }
        }
        Ok(())
    }

    async fn read_again(
        &self,
        live: &Live,
        objects: &[Reference],
        mirror: &mut Mirror,
    ) -> Result<(), ExchangeError> {
        let properties = self.properties();
        match read_once(&self.session, live, &properties, Selection::Objects(objects)).await {
            Ok(contents) => contents.objects().for_each(|content| mirror.replace(&content)),
            Err(error) if error.is_fault("ManagedObjectNotFound") => {
                for object in objects {
                    let one = Selection::Objects(std::slice::from_ref(object));
                    match read_once(&self.session, live, &properties, one).await {
                        Ok(contents) => {
                            contents.objects().for_each(|content| mirror.replace(&content));
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
    async fn believe(&self, live: &Live, built: &Built, mirror: &Mirror) -> Result<(), HostError> {
        const FEW: usize = 3;
        let gone: Vec<&MachineId> = self.told.iter().filter(|id| !mirror.has_machine(id)).collect();
        let empty = mirror.machines().next().is_none();
        let many = gone.len() > FEW && gone.len() * 10 > self.told.len();
        if !(many || empty && (self.told.is_empty() || !gone.is_empty())) {
            return Ok(());
        }
        if !self.session.is_alive(live).await? {
            return Err(lost());
        }
        let name = [Properties { of_type: "VirtualMachine", paths: vec!["name"] }];
        let second = read_once(&self.session, live, &name, Selection::View(&built.machines))
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

    fn next_news(
        &self,
        live: &Arc<Live>,
        built: &Built,
    ) -> Option<Flight<Result<TaskNews, ExchangeError>>> {
        let changes = self.followers.take_changes()?;
        let (session, live, list) =
            (Arc::clone(&self.session), Arc::clone(live), built.tasks.clone());
        Some(Box::pin(async move { list_and_read(&session, &live, &list, changes).await }))
    }

    fn tell_task(&self, mirror: &Mirror, task: &TaskId, info: Option<&TaskInfo>) {
        if let Some(fact) = self.restarted(mirror, task, info) {
            self.observer.observe(Facts { complete: false, changes: vec![fact] });
        }
        match info {
            Some(info) => self.followers.tell(task, info),
            None => self.followers.vanished(task),
        }
    }

    fn restarted(&self, mirror: &Mirror, task: &TaskId, info: Option<&TaskInfo>) -> Option<Fact> {
        let info = info.filter(|info| info.restarts_guest() && self.followers.follows(task))?;
        mirror.machine_of(info.entity.as_ref()?).map(Fact::GuestRestarted)
    }
}

fn refused_to_follow(error: ExchangeError) -> HostError {
    error.into_error("The host refused to tell what changes")
}

/// Resolves when the future does, and clears it; never where there is none.
async fn flying<T>(flight: &mut Option<Flight<T>>) -> T {
    match flight {
        Some(future) => {
            let output = future.await;
            *flight = None;
            output
        }
        None => std::future::pending().await,
    }
}
