//! Proves that the suite can fail: a wrapper adds one defect to the in-process backend, and the
//! case about this defect must fail.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use otter::domain::call::{Evidence, HostCall};
use otter::domain::ids::{JobId, MachineId, TaskId};
use otter::hypervisor::{
    Accepted, CallError, Capability, Fact, Facts, GuestRestart, HostError, HostErrorKind,
    Hypervisor, Observer, ScreenConnection, ScreenObject, SessionState, SessionStatus, TaskStatus,
};
use secrecy::SecretString;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::in_process::InProcessFactory;
use super::suite::{Conformance, HostFactory, TaskPacing, TestHost};

/// The defect of a wrapper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    NotBroken,
    BarrierReturnsAtOnce,
    BarrierHangsDuringOutage,
    RemovalNotReported,
    MachineMissing,
    MachineInvented,
    ChangesOnlyWithBarriers,
    ResyncNotComplete,
    OutageRemovesMachines,
    ConnectedBeforeFacts,
    ResyncSkipped,
    LostReportedAsRefused,
    RefusedReportedAsLost,
    LostCallRepeated,
    ErrorKindsDropped,
    TaskEndReverted,
    ProgressDecreases,
    UnknownTaskNeverEnds,
    LateFollowersNeverEnd,
    FollowersNotClosed,
    GuestRestartNotReported,
    RevertReportedAsReset,
    EvidenceCached,
    UnknownMachineHasEvidence,
    ForeignTasksClaimed,
    ConfirmGuestReturnsEarly,
    UnknownPathReadsNull,
    CapabilityHidden,
    StopIgnored,
    SecondRunAccepted,
    CancelAlwaysSucceeds,
}

use Defect as M;

const DEFECTS: &[(Defect, &str)] = &[
    (M::BarrierReturnsAtOnce, "a_barrier_shows_earlier_changes"),
    (M::BarrierHangsDuringOutage, "no_call_hangs_during_an_outage"),
    (M::RemovalNotReported, "a_removal_is_reported"),
    (M::MachineMissing, "the_first_facts_are_complete"),
    (M::MachineInvented, "no_fact_is_lost_or_invented_under_many_changes"),
    (M::ChangesOnlyWithBarriers, "changes_are_reported_without_a_barrier"),
    (M::ResyncNotComplete, "a_removal_during_an_outage_is_reported_after_it"),
    (M::OutageRemovesMachines, "facts_are_complete_after_an_outage"),
    (M::ConnectedBeforeFacts, "a_connection_is_reported_once_with_the_product"),
    (M::ResyncSkipped, "facts_are_complete_after_a_lost_session"),
    (M::LostReportedAsRefused, "a_call_with_a_lost_answer_is_lost_and_ran_once"),
    (M::RefusedReportedAsLost, "a_refused_call_has_its_kind_and_did_not_run"),
    (M::LostCallRepeated, "a_call_with_a_lost_answer_is_lost_and_ran_once"),
    (M::ErrorKindsDropped, "power_calls_check_the_power_state"),
    (M::TaskEndReverted, "a_task_end_is_final"),
    (M::ProgressDecreases, "progress_is_reported_and_never_decreases"),
    (M::UnknownTaskNeverEnds, "an_unknown_task_has_vanished"),
    (M::LateFollowersNeverEnd, "a_task_can_be_followed_after_its_end"),
    (M::FollowersNotClosed, "followers_are_closed_when_run_returns"),
    (M::GuestRestartNotReported, "a_guest_restart_is_reported_before_its_task_ends"),
    (M::RevertReportedAsReset, "a_guest_restart_is_reported_before_its_task_ends"),
    (M::EvidenceCached, "evidence_is_read_directly"),
    (M::UnknownMachineHasEvidence, "reads_of_an_unknown_machine_are_not_found"),
    (M::ForeignTasksClaimed, "recent_tasks_name_the_call_and_the_account"),
    (M::ConfirmGuestReturnsEarly, "confirm_guest_returns_after_the_fact"),
    (M::UnknownPathReadsNull, "properties_are_read_by_path"),
    (M::CapabilityHidden, "properties_are_read_by_path"),
    (M::StopIgnored, "run_returns_when_stopped_and_later_calls_fail"),
    (M::SecondRunAccepted, "run_can_be_called_once"),
    (M::CancelAlwaysSucceeds, "a_task_that_cannot_be_cancelled_continues"),
];

/// The correct backend needs a few milliseconds, so a short timeout is enough for calls that hang.
const SUITE: Conformance = Conformance { timeout: Duration::from_secs(1), concurrency: 100 };

#[tokio::test]
async fn the_named_case_detects_each_defect() {
    let report = SUITE.run_all(&BrokenBackendFactory(M::NotBroken)).await;
    assert!(report.failed().is_empty(), "a wrapper without a defect fails: {report}");
    let mut undetected = Vec::new();
    for (defect, case) in DEFECTS {
        let report = SUITE.run_all(&BrokenBackendFactory(*defect)).await;
        println!("{defect:?} is detected by {} cases", report.failed().len());
        if !report.failed().contains(case) {
            undetected.push(format!("{defect:?} is not detected by {case}: {report}"));
        }
    }
    assert!(undetected.is_empty(), "{}", undetected.join("\n"));
}

struct BrokenBackendFactory(Defect);

#[async_trait]
impl HostFactory for BrokenBackendFactory {
    async fn create(&self, pacing: TaskPacing) -> Result<TestHost> {
        let TestHost { backend, control } = InProcessFactory.create(pacing).await?;
        Ok(TestHost { backend: BrokenBackend::wrap(backend, self.0), control })
    }
}

/// A wrapper without any capability.
pub fn without_capabilities(backend: Arc<dyn Hypervisor>) -> Arc<dyn Hypervisor> {
    BrokenBackend::wrap(backend, M::CapabilityHidden)
}

/// A wrapper that reports a call whose answer was lost as one that did not reach the host.
pub fn with_lost_calls_as_refused(backend: Arc<dyn Hypervisor>) -> Arc<dyn Hypervisor> {
    BrokenBackend::wrap(backend, M::LostReportedAsRefused)
}

/// A wrapper with one defect.
struct BrokenBackend {
    inner: Arc<dyn Hypervisor>,
    defect: Defect,
    /// The first evidence of each machine.
    first_evidence: Mutex<Vec<(MachineId, Evidence)>>,
    /// Senders that are kept, so that their receivers stay open.
    kept_senders: Mutex<Vec<watch::Sender<TaskStatus>>>,
    runs: AtomicUsize,
    barriers: Arc<AtomicUsize>,
}

impl BrokenBackend {
    fn wrap(inner: Arc<dyn Hypervisor>, defect: Defect) -> Arc<dyn Hypervisor> {
        Arc::new(Self {
            inner,
            defect,
            first_evidence: Mutex::default(),
            kept_senders: Mutex::default(),
            runs: AtomicUsize::new(0),
            barriers: Arc::default(),
        })
    }

    fn is(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    fn never_ending_follower(&self) -> watch::Receiver<TaskStatus> {
        let sender = watch::Sender::new(TaskStatus::Running { progress: None });
        let receiver = sender.subscribe();
        lock(&self.kept_senders).push(sender);
        receiver
    }
}

#[async_trait]
impl Hypervisor for BrokenBackend {
    async fn run(
        &self,
        observer: Arc<dyn Observer>,
        stop: CancellationToken,
    ) -> Result<(), HostError> {
        let first = self.runs.fetch_add(1, Ordering::SeqCst) == 0;
        if !first && self.is(M::SecondRunAccepted) {
            return Ok(());
        }
        let broken = BrokenObserver {
            inner: observer,
            defect: self.defect,
            state: Mutex::default(),
            barriers: Arc::clone(&self.barriers),
        };
        let stop = if self.is(M::StopIgnored) { CancellationToken::new() } else { stop };
        self.inner.run(Arc::new(broken), stop).await
    }

    async fn call(
        &self,
        machine: &MachineId,
        call: &HostCall,
        job: JobId,
    ) -> Result<Accepted, CallError> {
        match self.inner.call(machine, call, job).await {
            Err(CallError::Lost(error)) if self.is(M::LostReportedAsRefused) => {
                Err(CallError::Refused(error))
            }
            Err(CallError::Refused(error)) if self.is(M::RefusedReportedAsLost) => {
                Err(CallError::Lost(error))
            }
            Err(CallError::Lost(error)) if self.is(M::LostCallRepeated) => {
                // Repeat until the host accepts it, after the first call has ended.
                tokio::task::yield_now().await;
                while self.inner.call(machine, call, job).await.is_err() {
                    tokio::task::yield_now().await;
                }
                Err(CallError::Lost(error))
            }
            other => other,
        }
    }

    async fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus> {
        let follower = self.inner.follow(task).await;
        let is_end = |status: &TaskStatus| !matches!(status, TaskStatus::Running { .. });
        match self.defect {
            M::TaskEndReverted => altered_follower(follower, move |status| {
                let again = is_end(status).then_some(TaskStatus::Running { progress: Some(99) });
                std::iter::once(status.clone()).chain(again).collect()
            }),
            M::ProgressDecreases => altered_follower(follower, |status| match status {
                TaskStatus::Running { progress: Some(percent) } => {
                    vec![TaskStatus::Running { progress: Some(100 - percent) }]
                }
                other => vec![other.clone()],
            }),
            M::ErrorKindsDropped => altered_follower(follower, |status| match status {
                TaskStatus::Failed(error) => {
                    let error = HostError::new(HostErrorKind::Rejected, error.message.clone());
                    vec![TaskStatus::Failed(Arc::new(error))]
                }
                other => vec![other.clone()],
            }),
            M::UnknownTaskNeverEnds => altered_follower(follower, |status| match status {
                TaskStatus::Vanished => vec![TaskStatus::Running { progress: None }],
                other => vec![other.clone()],
            }),
            M::LateFollowersNeverEnd => {
                let late = !lock(&self.kept_senders).is_empty();
                let never = self.never_ending_follower();
                if late { never } else { follower }
            }
            M::FollowersNotClosed => self.never_ending_follower(),
            _ => follower,
        }
    }

    async fn cancel(&self, task: &TaskId) -> Result<(), HostError> {
        match self.inner.cancel(task).await {
            Err(_) if self.is(M::CancelAlwaysSucceeds) => Ok(()),
            other => other,
        }
    }

    async fn barrier(&self) -> Result<(), HostError> {
        if self.is(M::BarrierReturnsAtOnce) {
            return Ok(());
        }
        self.barriers.fetch_add(1, Ordering::SeqCst);
        loop {
            match self.inner.barrier().await {
                Err(_) if self.is(M::BarrierHangsDuringOutage) => tokio::task::yield_now().await,
                other => return other,
            }
        }
    }

    async fn read_evidence(&self, machine: &MachineId) -> Result<Evidence, HostError> {
        let read = self.inner.read_evidence(machine).await;
        match self.defect {
            M::EvidenceCached => {
                let mut first_evidence = lock(&self.first_evidence);
                if let Some((_, old)) = first_evidence.iter().find(|(id, _)| id == machine) {
                    return Ok(old.clone());
                }
                let read = read?;
                first_evidence.push((machine.clone(), read.clone()));
                Ok(read)
            }
            M::UnknownMachineHasEvidence => read.or_else(|error| match error.kind {
                HostErrorKind::NotFound => Ok(Evidence {
                    identity: otter::domain::machine::MachineIdentity {
                        id: machine.clone(),
                        instance_uuid: None,
                        path: None,
                    },
                    power_state: None,
                    current_snapshot: None,
                    snapshots: Vec::new(),
                    tools_running: false,
                    question: None,
                    consolidation_needed: None,
                    host_boot_time: None,
                    recent_tasks: Vec::new(),
                    media: otter::domain::media::BootMedia::default(),
                }),
                _ => Err(error),
            }),
            M::ForeignTasksClaimed => read.map(|mut evidence| {
                evidence.recent_tasks.iter_mut().for_each(|task| task.by_us = true);
                evidence
            }),
            _ => read,
        }
    }

    async fn confirm_guest(&self, machine: &MachineId) -> Result<(), HostError> {
        if self.is(M::ConfirmGuestReturnsEarly) {
            let (inner, machine) = (Arc::clone(&self.inner), machine.clone());
            tokio::spawn(async move { inner.confirm_guest(&machine).await });
            return Ok(());
        }
        self.inner.confirm_guest(machine).await
    }

    fn capabilities(&self) -> &'static [Capability] {
        if self.is(M::CapabilityHidden) { &[] } else { self.inner.capabilities() }
    }

    async fn properties(
        &self,
        machine: &MachineId,
        paths: &[String],
    ) -> Result<Map<String, Value>, HostError> {
        match self.inner.properties(machine, paths).await {
            Err(error)
                if error.kind == HostErrorKind::InvalidProperty
                    && self.is(M::UnknownPathReadsNull) =>
            {
                Ok(paths.iter().map(|path| (path.clone(), Value::Null)).collect())
            }
            other => other,
        }
    }

    async fn open_screen(&self, machine: &MachineId) -> Result<ScreenConnection, HostError> {
        self.inner.open_screen(machine).await
    }

    async fn screen_picture(&self, object: &ScreenObject) -> Result<Bytes, HostError> {
        self.inner.screen_picture(object).await
    }

    fn set_password(&self, password: SecretString) {
        self.inner.set_password(password);
    }

    fn connect_now(&self) {
        self.inner.connect_now();
    }
}

/// A receiver that gets other statuses than `from`.
fn altered_follower(
    mut from: watch::Receiver<TaskStatus>,
    alter: impl Fn(&TaskStatus) -> Vec<TaskStatus> + Send + 'static,
) -> watch::Receiver<TaskStatus> {
    let sender = watch::Sender::new(TaskStatus::Running { progress: None });
    let receiver = sender.subscribe();
    tokio::spawn(async move {
        loop {
            let now = from.borrow_and_update().clone();
            for status in alter(&now) {
                sender.send_replace(status);
                tokio::task::yield_now().await;
            }
            if from.changed().await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// An observer that changes the reports that it forwards.
struct BrokenObserver {
    inner: Arc<dyn Observer>,
    defect: Defect,
    state: Mutex<ObserverState>,
    barriers: Arc<AtomicUsize>,
}

#[derive(Default)]
struct ObserverState {
    complete_sets: usize,
    held_facts: Vec<Fact>,
}

impl Observer for BrokenObserver {
    fn observe(&self, mut facts: Facts) {
        let mut state = lock(&self.state);
        state.complete_sets += usize::from(facts.complete);
        let resync = facts.complete && state.complete_sets > 1;
        match self.defect {
            M::RemovalNotReported => {
                facts.changes.retain(|fact| !matches!(fact, Fact::MachineRemoved(_)));
            }
            M::GuestRestartNotReported => {
                facts.changes.retain(|fact| !matches!(fact, Fact::GuestRestarted { .. }));
            }
            M::RevertReportedAsReset => {
                for fact in &mut facts.changes {
                    if let Fact::GuestRestarted { by, .. } = fact
                        && *by == GuestRestart::Revert
                    {
                        *by = GuestRestart::Reset;
                    }
                }
            }
            M::MachineMissing if facts.complete => drop(facts.changes.pop()),
            M::MachineInvented if !facts.complete => {
                let machine = facts.changes.iter().find_map(|fact| match fact {
                    Fact::Machine(machine) => Some(machine.clone()),
                    _ => None,
                });
                if let Some(mut ghost) = machine {
                    Arc::make_mut(&mut ghost).id = MachineId::from_backend("ghost");
                    facts.changes.push(Fact::Machine(ghost));
                }
            }
            M::ResyncNotComplete if resync => facts.complete = false,
            M::ResyncSkipped if resync => return,
            M::ChangesOnlyWithBarriers if !facts.complete => {
                if self.barriers.load(Ordering::SeqCst) == 0 {
                    state.held_facts.append(&mut facts.changes);
                    return;
                }
                facts.changes.splice(0..0, std::mem::take(&mut state.held_facts));
            }
            _ => {}
        }
        drop(state);
        if facts.complete || !facts.changes.is_empty() {
            self.inner.observe(facts);
        }
    }

    fn session(&self, status: SessionStatus) {
        let away = matches!(status.state, SessionState::Away { .. });
        if self.defect == M::ConnectedBeforeFacts && status.state == SessionState::Connecting {
            self.inner.session(status.clone());
            let product = otter::hypervisor::HostProduct {
                full_name: "early".to_owned(),
                version: String::new(),
                build: String::new(),
                api_type: String::new(),
                api_version: String::new(),
            };
            let state = SessionState::Connected;
            self.inner.session(SessionStatus {
                state,
                logins: 1,
                product: Some(product),
                ..status
            });
            return;
        }
        if away && self.defect == M::OutageRemovesMachines {
            self.inner.observe(Facts { complete: true, changes: Vec::new() });
        }
        self.inner.session(status);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
