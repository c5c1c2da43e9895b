//! The backend: it sends each request through the hooks to the host, on its only session.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use otter::domain::call::{Evidence, HostCall};
use otter::domain::ids::{JobId, MachineId, TaskId};
use otter::hypervisor::{
    Accepted, CallError, Capability, Fact, HostError, HostErrorKind, Hypervisor, Observer,
    ScreenConnection, ScreenObject, TaskStatus,
};
use otter::simulator::Fault;
use otter::simulator::world::World;
use secrecy::SecretString;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::hooks::{Hooks, Interruption, NoHooks, Request};
use super::host::{Connection, SimulatedHost, cut, unreadable};
use super::ordered_watch::OrderedWatch;
use super::screens;
use super::session::{ReportRequest, Session, SessionLink};
use super::task_followers::TaskFollowers;
use super::translation;

/// How long a call waits for a new session if the session was just lost.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The capacity of the queue of facts for the observer. Senders wait while it is full.
const MAX_REPORTS: usize = 64;
/// The maximum number of reads of evidence. Evidence is read again if other tasks have started
/// meanwhile.
const MAX_EVIDENCE_READS: usize = 4;

/// A backend in the process of its host. It has one session with one [`SimulatedHost`].
pub struct InProcess {
    shared: BackendShared,
    report_requests: mpsc::Sender<ReportRequest>,
    /// `run` takes the receiver.
    report_receiver: Mutex<Option<mpsc::Receiver<ReportRequest>>>,
}

/// The state that the session and the callers share.
pub struct BackendShared {
    pub host: SimulatedHost,
    pub hooks: Arc<dyn Hooks>,
    pub password: OrderedWatch<SecretString>,
    pub link: OrderedWatch<SessionLink>,
    pub followers: TaskFollowers,
    /// The revision of the world that the observer must know before the pending barriers end.
    pub barrier_revision: OrderedWatch<u64>,
}

/// Why a request has no result.
enum RequestError {
    /// The request did not reach the host.
    NotSent(HostError),
    /// The host answered with a fault.
    Refused(HostError),
    /// It is unknown whether the host acted.
    Lost(HostError),
}

impl RequestError {
    fn into_error(self) -> HostError {
        match self {
            Self::NotSent(error) | Self::Refused(error) | Self::Lost(error) => error,
        }
    }
}

impl InProcess {
    /// A backend for this host.
    pub fn new(host: SimulatedHost) -> Self {
        let (report_requests, report_receiver) = mpsc::channel(MAX_REPORTS);
        let down = SessionLink::down(HostErrorKind::Unreachable, "The host was not reached yet.");
        let shared = BackendShared {
            host,
            hooks: Arc::new(NoHooks),
            password: OrderedWatch::new(SimulatedHost::password()),
            link: OrderedWatch::new(down),
            followers: TaskFollowers::default(),
            barrier_revision: OrderedWatch::new(0),
        };
        Self { shared, report_requests, report_receiver: Mutex::new(Some(report_receiver)) }
    }

    /// Sets the hooks.
    pub fn with_hooks(mut self, hooks: Arc<dyn Hooks>) -> Self {
        self.shared.hooks = hooks;
        self
    }

    /// Sends a request. Sends it once more if the session had ended, because then the host did not
    /// act.
    async fn send<T>(
        &self,
        request: Request<'_>,
        lead: &str,
        act: impl Fn(&mut World) -> Result<T, Fault> + Send + Sync,
    ) -> Result<T, RequestError> {
        let link = &self.shared.link;
        let connection =
            self.connection(|link| !link.is_reconnecting()).await.map_err(RequestError::NotSent)?;
        match self.send_once(connection, request, lead, &act).await {
            Err(RequestError::NotSent(error)) if error.kind == HostErrorKind::NotAuthenticated => {
                let renewed =
                    self.connection(|link| !link.is_reconnecting() && !link.is_on(connection));
                let renewed = renewed.await.map_err(RequestError::NotSent)?;
                if link.get().is_on(connection) {
                    return Err(RequestError::NotSent(error));
                }
                self.send_once(renewed, request, lead, &act).await
            }
            result => result,
        }
    }

    /// Waits until the condition holds for the link, at most [`RECONNECT_TIMEOUT`]. Returns the
    /// connection, or the reason why there is none.
    async fn connection(
        &self,
        settled: impl Fn(&SessionLink) -> bool + Send,
    ) -> Result<Connection, HostError> {
        let link = &self.shared.link;
        tokio::select! {
            biased;
            connection = link.wait_for(|link, _| settled(link).then(|| link.connection())) => connection,
            () = self.shared.host.clock().sleep(RECONNECT_TIMEOUT) => link.get().connection(),
        }
    }

    async fn send_once<T>(
        &self,
        connection: Connection,
        request: Request<'_>,
        lead: &str,
        act: impl Fn(&mut World) -> Result<T, Fault>,
    ) -> Result<T, RequestError> {
        let BackendShared { host, hooks, .. } = &self.shared;
        if !host.is_connected(connection) {
            return Err(RequestError::NotSent(cut()));
        }
        hooks
            .before_request(request)
            .await
            .map_err(|interruption| interrupted(interruption, lead))?;
        let acted =
            host.change_through(connection, |world| act(world)).map_err(|error| {
                match error.kind {
                    HostErrorKind::NotAuthenticated => RequestError::NotSent(error),
                    _ => RequestError::Lost(error),
                }
            })?;
        hooks
            .after_request(request)
            .await
            .map_err(|interruption| interrupted(interruption, lead))?;
        if !host.is_connected(connection) {
            return Err(RequestError::Lost(cut()));
        }
        acted.map_err(|fault| RequestError::Refused(translation::error(&fault, lead)))
    }

    async fn read<T>(
        &self,
        request: Request<'_>,
        machine: &MachineId,
        read: impl Fn(&World) -> Result<T, Fault> + Send + Sync,
    ) -> Result<T, HostError> {
        let lead = format!("The host refused to read machine {machine}");
        self.send(request, &lead, |world| read(world)).await.map_err(RequestError::into_error)
    }
}

#[async_trait]
impl Hypervisor for InProcess {
    async fn run(
        &self,
        observer: Arc<dyn Observer>,
        stop: CancellationToken,
    ) -> Result<(), HostError> {
        let report_receiver =
            self.report_receiver.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(
                || {
                    HostError::new(
                        HostErrorKind::Rejected,
                        "run was called already: a backend runs once.",
                    )
                },
            )?;
        tokio::select! {
            biased;
            () = Session::new(&self.shared, observer, report_receiver).run(stop) => Ok(()),
            never = self.shared.host.drive() => match never {},
        }
    }

    async fn call(
        &self,
        machine: &MachineId,
        call: &HostCall,
        _: JobId,
    ) -> Result<Accepted, CallError> {
        let lead = format!("The host refused {} of machine {machine}", call.kind().as_str());
        let sent = self.send(Request::Call(machine, call), &lead, |world| {
            translation::call(world, machine, call, translation::OTTER_ACCOUNT)
        });
        sent.await.map_err(|failed| match failed {
            RequestError::Refused(error) if error.outcome_uncertain => CallError::Lost(error),
            RequestError::NotSent(error) | RequestError::Refused(error) => {
                CallError::Refused(error)
            }
            RequestError::Lost(error) => CallError::Lost(error),
        })
    }

    async fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus> {
        self.shared.followers.follow(task)
    }

    async fn cancel(&self, task: &TaskId) -> Result<(), HostError> {
        let lead = format!("The host refused to cancel the task {task}");
        let sent =
            self.send(Request::Cancel(task), &lead, |world| world.cancel_task(task.backend_text()));
        sent.await.map_err(RequestError::into_error)
    }

    async fn barrier(&self) -> Result<(), HostError> {
        let BackendShared { host, link, barrier_revision, .. } = &self.shared;
        let connection = link.get().connection()?;
        let revision = host
            .read_through(connection, World::revision)
            .map_err(|error| HostError::new(HostErrorKind::Unreachable, error.message))?;
        if revision > barrier_revision.get() {
            barrier_revision.set(revision);
        }
        let is_settled =
            |link: &SessionLink| !link.is_on(connection) || link.has_reported(revision);
        let link = link.wait_for(|link, _| is_settled(link).then(|| link.clone())).await;
        if link.is_on(connection) {
            return Ok(());
        }
        Err(link.connection().err().unwrap_or_else(|| {
            let lost = "The session was lost, and there is a new one.";
            HostError::new(HostErrorKind::Unreachable, lost)
        }))
    }

    async fn read_evidence(&self, machine: &MachineId) -> Result<Evidence, HostError> {
        let request = Request::Examine(machine);
        let read_machine =
            || self.read(request, machine, |world| translation::evidence(world, machine));
        let (mut evidence, mut tasks) = read_machine().await?;
        // The tasks are read before the machine, so that the machine shows the effect of an ended
        // task.
        for _ in 0..MAX_EVIDENCE_READS {
            if tasks.is_empty() {
                break;
            }
            let read = |world: &World| Ok(translation::recent_tasks(world, &tasks));
            let recent_tasks = self.read(request, machine, read).await?;
            let (again, tasks_now) = read_machine().await?;
            evidence = Evidence { recent_tasks, ..again };
            if tasks_now == tasks {
                break;
            }
            tasks = tasks_now;
        }
        Ok(evidence)
    }

    async fn confirm_guest(&self, machine: &MachineId) -> Result<(), HostError> {
        let read =
            |world: &World| Ok(translation::guest(translation::find_machine(world, machine)?));
        let guest = self.read(Request::ConfirmGuest(machine), machine, read).await?;
        let fact = Fact::GuestConfirmed {
            machine: machine.clone(),
            tools_running: guest.tools_running,
            ip_address: guest.ip_address,
            interfaces: guest.interfaces,
        };
        let (reported, was_reported) = oneshot::channel();
        self.report_requests.send(ReportRequest { fact, reported }).await.map_err(|_| stopped())?;
        was_reported.await.map_err(|_| stopped())
    }

    fn capabilities(&self) -> &'static [Capability] {
        &[Capability::Properties, Capability::Screens, Capability::ScreenPictures]
    }

    async fn properties(
        &self,
        machine: &MachineId,
        paths: &[String],
    ) -> Result<Map<String, Value>, HostError> {
        self.read(Request::Properties(machine), machine, |world| {
            let machine = translation::machine(world, translation::find_machine(world, machine)?);
            let value = |path: &String| match translation::property(&machine, path) {
                Some(value) => Ok((path.clone(), value)),
                None => Err(Fault::invalid_property(path)),
            };
            paths.iter().map(value).collect()
        })
        .await
    }

    async fn open_screen(&self, machine: &MachineId) -> Result<ScreenConnection, HostError> {
        self.read(Request::Screen(machine), machine, |world| screens::check(world, machine))
            .await?;
        Ok(ScreenConnection { stream: Box::new(screens::open(&self.shared.host, machine)) })
    }

    async fn screen_picture(&self, object: &ScreenObject) -> Result<Bytes, HostError> {
        let connection = self.connection(|link| !link.is_reconnecting()).await?;
        let read = |world: &World| screens::picture(world, object);
        self.shared
            .host
            .read_through(connection, read)?
            .ok_or_else(|| HostError::new(HostErrorKind::NotFound, "The host has no such picture."))
    }

    fn set_password(&self, password: SecretString) {
        self.shared.password.set(password);
    }
}

fn interrupted(interruption: Interruption, lead: &str) -> RequestError {
    match interruption {
        Interruption::Cut => RequestError::Lost(cut()),
        Interruption::Unreadable => RequestError::Lost(unreadable()),
        Interruption::Fault(fault) => RequestError::Refused(translation::error(&fault, lead)),
    }
}

/// The error of a call after the backend has stopped.
pub fn stopped() -> HostError {
    HostError::new(
        HostErrorKind::Unreachable,
        "otter no longer talks to the host: it is shutting down.",
    )
}
