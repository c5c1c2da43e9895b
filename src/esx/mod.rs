//! The vim25 backend: speaks SOAP with a standalone ESX or a vCenter.
//!
//! `soap` encodes requests and parses answers, `transport` sends them, `session` and `session_loop`
//! keep the login, `tls` and `certificate_verifiers` decide which server is trusted, `collector`
//! follows the host and reports facts, `calls` changes machines, `console` connects to screens,
//! `serial` to serial ports and `files` to the files of datastores, `evidence` and `machine_read`
//! read machines directly, and `diagnosis` is `otter doctor`.
//! `README.md` in this directory lists the facts about vim25 that this code relies on.

mod barrier;
mod calls;
mod certificate;
mod certificate_error;
mod certificate_verifiers;
mod collector;
mod connections;
mod console;
mod datastore;
mod device;
mod diagnosis;
mod ended_tasks;
mod evidence;
mod evidence_reader;
mod files;
mod handshake_error;
mod machine;
mod machine_read;
mod network;
mod options;
pub mod property_cache;
mod property_reader;
mod retry_pauses;
mod serial;
mod service_content;
mod session;
mod session_loop;
pub mod soap;
mod subscription;
mod task_followers;
mod task_info;
mod task_list_view;
mod tls;
mod transport;
mod tunnel;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::call::{Evidence, HostCall};
use crate::domain::ids::{JobId, MachineId, TaskId};
use crate::domain::network::Network;
use crate::domain::serial::SerialRoute;
use crate::hypervisor::{
    Accepted, CallError, CallTerms, Capability, DatastoreFiles, HostError, HostErrorKind,
    Hypervisor, Observer, ScreenConnection, ScreenObject, SerialConnection, SerialDirectory,
    TaskStatus,
};
use crate::telemetry::metrics::Metrics;
use barrier::Covered;
use collector::{Collector, Command};
use connections::Lane;
use ended_tasks::EndedTasks;
use evidence_reader::EvidenceReader;
use files::EsxFiles;
use serial::SerialPorts;
use session::Session;
use session_loop::SessionLoop;
use task_followers::TaskFollowers;

pub use certificate::fingerprint;
pub use certificate_error::{RefusedCertificate, Remedy};
pub use diagnosis::{Finding, Outcome, diagnose, presented_fingerprint};
pub use handshake_error::HandshakeError;
pub use options::{EsxOptions, OptionsError};
pub use subscription::FollowedPaths;
pub use tls::{TlsError, client_config};
pub use tunnel::client_proxy;

/// The number of commands that can wait for the task that runs the collector. A sender of a further
/// command waits until there is room.
const COMMANDS: usize = 1_024;

/// The backend of one host, over one session.
#[derive(Debug)]
pub struct EsxHypervisor {
    session: Arc<Session>,
    followers: Arc<TaskFollowers>,
    ended_tasks: Arc<EndedTasks>,
    evidence: EvidenceReader,
    serial: SerialPorts,
    files: EsxFiles,
    clock: Clock,
    max_wait: Duration,
    login_backoff: Duration,
    commands: mpsc::Sender<Command>,
    /// The receiver of the commands for the collector. `None` after `Hypervisor::run` was called,
    /// which takes it.
    inbox: Mutex<Option<mpsc::Receiver<Command>>>,
}

impl EsxHypervisor {
    /// Makes a backend for the host that `options` name. The backend does not connect before
    /// [`Hypervisor::run`] is called.
    ///
    /// # Errors
    /// Fails for the reasons that [`EsxOptions::check`] gives.
    pub fn new(options: &EsxOptions, clock: Clock) -> Result<Self, OptionsError> {
        Self::with_metrics(options, clock, Metrics::default())
    }

    /// Makes a backend that counts its calls and sessions in `metrics`.
    ///
    /// # Errors
    /// Fails for the reasons that [`EsxOptions::check`] gives.
    pub fn with_metrics(
        options: &EsxOptions,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Self, OptionsError> {
        options.check()?;
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let session = Arc::new(Session::new(options, clock.clone(), metrics)?);
        let ended_tasks: Arc<EndedTasks> = Arc::default();
        let evidence = EvidenceReader::new(Arc::clone(&session), Arc::clone(&ended_tasks));
        let serial = SerialPorts::new(Arc::clone(&session), clock.clone(), options.tty.clone());
        let followers: Arc<TaskFollowers> = Arc::default();
        let files = EsxFiles::new(Arc::clone(&session), Arc::clone(&followers), clock.clone());
        Ok(Self {
            session,
            followers,
            ended_tasks,
            evidence,
            serial,
            files,
            clock,
            max_wait: options.max_wait,
            login_backoff: options.login_backoff,
            commands,
            inbox: Mutex::new(Some(inbox)),
        })
    }

    async fn send_command(&self, command: Command) -> Result<(), HostError> {
        self.commands.send(command).await.map_err(|_| stopped())
    }

    async fn pass_barrier(&self, covered: Covered) -> Result<(), HostError> {
        let (waiter, passed) = oneshot::channel();
        self.send_command(Command::Barrier(waiter, covered)).await?;
        match passed.await {
            Ok(passed) => passed,
            Err(_) => Err(stopped()),
        }
    }
}

#[async_trait]
impl Hypervisor for EsxHypervisor {
    async fn run(
        &self,
        observer: Arc<dyn Observer>,
        stop: CancellationToken,
    ) -> Result<(), HostError> {
        let inbox =
            self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(|| {
                HostError::new(
                    HostErrorKind::Rejected,
                    "The backend already follows the host; run can be called once.",
                )
            })?;
        let collector = Collector::new(
            Arc::clone(&self.session),
            Arc::clone(&observer),
            Arc::clone(&self.followers),
            Arc::clone(&self.ended_tasks),
            self.clock.clone(),
            self.max_wait,
            inbox,
        );
        let session = Arc::clone(&self.session);
        let session_loop =
            SessionLoop::new(session, observer, self.clock.clone(), self.login_backoff, collector);
        Box::pin(session_loop.run(stop)).await;
        self.followers.close();
        Ok(())
    }

    async fn call(
        &self,
        machine: &MachineId,
        call: &HostCall,
        job: JobId,
    ) -> Result<Accepted, CallError> {
        calls::call(&self.session, machine, call, job, CallTerms::default()).await
    }

    async fn call_on_terms(
        &self,
        machine: &MachineId,
        call: &HostCall,
        job: JobId,
        terms: CallTerms,
    ) -> Result<Accepted, CallError> {
        calls::call(&self.session, machine, call, job, terms).await
    }

    async fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus> {
        self.followers.follow(task)
    }

    async fn cancel(&self, task: &TaskId) -> Result<(), HostError> {
        calls::cancel(&self.session, task).await
    }

    async fn barrier(&self) -> Result<(), HostError> {
        self.pass_barrier(Covered::Everything).await
    }

    async fn barrier_after_task(&self) -> Result<(), HostError> {
        self.pass_barrier(Covered::EndedTasks).await
    }

    async fn read_evidence(&self, machine: &MachineId) -> Result<Evidence, HostError> {
        self.evidence.read(machine).await
    }

    async fn read_evidence_urgently(&self, machine: &MachineId) -> Result<Evidence, HostError> {
        self.evidence.read_alone(machine, Lane::Reserved).await
    }

    async fn confirm_guest(&self, machine: &MachineId) -> Result<(), HostError> {
        let fact = machine_read::read_guest(&self.session, machine).await?;
        let (waiter, reported) = oneshot::channel();
        self.send_command(Command::Report(fact, waiter)).await?;
        reported.await.map_err(|_| stopped())
    }

    fn capabilities(&self) -> &'static [Capability] {
        &[
            Capability::Properties,
            Capability::Screens,
            Capability::ScreenPictures,
            Capability::Serial,
        ]
    }

    async fn properties(
        &self,
        machine: &MachineId,
        paths: &[String],
    ) -> Result<serde_json::Map<String, serde_json::Value>, HostError> {
        machine_read::read_properties(&self.session, machine, paths).await
    }

    async fn open_screen(&self, machine: &MachineId) -> Result<ScreenConnection, HostError> {
        console::open(&self.session, machine).await
    }

    async fn screen_picture(&self, object: &ScreenObject) -> Result<Bytes, HostError> {
        console::read_picture(&self.session, object).await
    }

    async fn open_serial(
        &self,
        machine: &MachineId,
        port: i32,
        route: &SerialRoute,
    ) -> Result<SerialConnection, HostError> {
        self.serial.open(machine, port, route).await
    }

    async fn accept_serial(
        &self,
        listener: TcpListener,
        allowed: Vec<Network>,
        directory: Arc<dyn SerialDirectory>,
        stop: CancellationToken,
    ) {
        self.serial.accept(listener, allowed, directory, stop).await;
    }

    fn files(&self) -> Option<Arc<dyn DatastoreFiles>> {
        Some(Arc::new(self.files.clone()))
    }

    fn set_password(&self, password: SecretString) {
        self.session.set_password(password);
    }

    fn connect_now(&self) {
        self.session.connect_now();
    }
}

fn stopped() -> HostError {
    HostError::new(
        HostErrorKind::Unreachable,
        "otter no longer talks to the host: it is shutting down.",
    )
}
