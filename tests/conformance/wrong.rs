//! The suite can fail: the backend in process behind a wrapper that makes one mistake, which the
//! suite has to notice by the case that is about it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use otter::domain::call::{Evidence, HostCall};
use otter::domain::ids::{JobId, MachineId, TaskId};
use otter::hypervisor::{
    Accepted, CallError, Capability, Fact, Facts, HostError, HostErrorKind, Hypervisor, Observer,
    SessionState, SessionStatus, TaskStatus,
};
use secrecy::SecretString;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::in_process::InProcessBench;
use super::suite::{Bench, Conformance, Pace, Set};

/// What is done wrong, and the case that has to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    Nothing,
    BarrierReturnsAtOnce,
    BarrierWaitsForTheHost,
    RemovalIsNotTold,
    MachineIsLeftOut,
    MachineIsInvented,
    ChangesComeOnlyWithBarriers,
    ResyncIsNotWhole,
    OutageEmptiesThePicture,
    ConnectedBeforeThePicture,
    ResyncIsForgotten,
    LostIsToldAsRefused,
    RefusedIsToldAsLost,
    LostCallIsMadeAgain,
    KindsAreForgotten,
    EndIsTakenBack,
    ProgressFalls,
    UnknownTaskIsWaitedFor,
    EndIsMissedByLateFollowers,
    FollowersAreKeptAtTheEnd,
    RestartIsNotTold,
    EvidenceIsOld,
    UnknownMachineIsEmpty,
    ForeignTasksAreOurs,
    GuestIsConfirmedLater,
    UnknownPathIsNull,
    CapabilityIsDenied,
    StopIsNotHeeded,
    SecondRunIsTaken,
    CancelIsAlwaysDone,
}

use Mistake as M;

const MISTAKES: &[(Mistake, &str)] = &[
    (M::BarrierReturnsAtOnce, "a_barrier_shows_what_was_so_before_it"),
    (M::BarrierWaitsForTheHost, "nothing_hangs_while_the_host_is_away"),
    (M::RemovalIsNotTold, "a_removal_is_told"),
    (M::MachineIsLeftOut, "the_first_set_is_the_whole_picture"),
    (M::MachineIsInvented, "nothing_is_lost_or_invented_while_much_changes"),
    (M::ChangesComeOnlyWithBarriers, "an_observer_that_asks_for_nothing_is_told_all_the_same"),
    (M::ResyncIsNotWhole, "a_removal_during_an_absence_shows_after_it"),
    (M::OutageEmptiesThePicture, "the_picture_is_whole_after_an_absence"),
    (M::ConnectedBeforeThePicture, "a_connection_is_told_once_with_what_the_host_is"),
    (M::ResyncIsForgotten, "the_picture_is_whole_after_a_lost_session"),
    (M::LostIsToldAsRefused, "a_call_whose_answer_is_lost_is_lost_and_ran_once"),
    (M::RefusedIsToldAsLost, "a_refusal_has_its_kind_and_did_not_run"),
    (M::LostCallIsMadeAgain, "a_call_whose_answer_is_lost_is_lost_and_ran_once"),
    (M::KindsAreForgotten, "what_is_so_already_is_an_invalid_power_state"),
    (M::EndIsTakenBack, "an_end_is_final"),
    (M::ProgressFalls, "progress_is_told_and_never_falls"),
    (M::UnknownTaskIsWaitedFor, "a_task_that_nobody_knows_has_vanished"),
    (M::EndIsMissedByLateFollowers, "a_task_is_followed_after_its_end"),
    (M::FollowersAreKeptAtTheEnd, "a_follower_is_let_go_at_the_end"),
    (M::RestartIsNotTold, "a_restart_of_the_guest_is_told_before_the_end_of_its_task"),
    (M::EvidenceIsOld, "evidence_goes_past_the_picture"),
    (M::UnknownMachineIsEmpty, "reads_of_a_machine_that_is_not_there_are_not_found"),
    (M::ForeignTasksAreOurs, "recent_tasks_tell_what_was_called_and_by_whom"),
    (M::GuestIsConfirmedLater, "a_guest_is_confirmed_by_the_time_it_returns"),
    (M::UnknownPathIsNull, "properties_are_read_by_their_paths"),
    (M::CapabilityIsDenied, "properties_are_read_by_their_paths"),
    (M::StopIsNotHeeded, "run_returns_when_told_and_later_calls_fail"),
    (M::SecondRunIsTaken, "run_is_called_once"),
    (M::CancelIsAlwaysDone, "what_cannot_be_cancelled_goes_on"),
];

/// What hangs is given up soon; what the rightful backend does takes a few milliseconds.
const SUITE: Conformance = Conformance { patience: Duration::from_secs(1), at_once: 100 };

#[tokio::test]
async fn every_mistake_is_noticed_by_the_case_that_is_about_it() {
    let report = SUITE.of(&WrongBench(M::Nothing)).await;
    assert!(report.failed().is_empty(), "a wrapper that does nothing wrong fails: {report}");
    let mut unnoticed = Vec::new();
    for (mistake, case) in MISTAKES {
        let report = SUITE.of(&WrongBench(*mistake)).await;
        println!("{mistake:?} is noticed by {} cases", report.failed().len());
        if !report.failed().contains(case) {
            unnoticed.push(format!("{mistake:?} is not noticed by {case}: {report}"));
        }
    }
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n"));
}

struct WrongBench(Mistake);

#[async_trait]
impl Bench for WrongBench {
    async fn set(&self, pace: Pace) -> Result<Set> {
        let Set { backend, stage } = InProcessBench.set(pace).await?;
        Ok(Set { backend: Wrong::around(backend, self.0), stage })
    }
}

/// The backend without any capability.
pub fn without_capabilities(backend: Arc<dyn Hypervisor>) -> Arc<dyn Hypervisor> {
    Wrong::around(backend, M::CapabilityIsDenied)
}

/// A backend that makes one mistake.
struct Wrong {
    inner: Arc<dyn Hypervisor>,
    mistake: Mistake,
    /// Evidence as it was first read.
    seen: Mutex<Vec<(MachineId, Evidence)>>,
    /// Senders that are never dropped.
    kept: Mutex<Vec<watch::Sender<TaskStatus>>>,
    runs: AtomicUsize,
    barriers: Arc<AtomicUsize>,
}

impl Wrong {
    fn around(inner: Arc<dyn Hypervisor>, mistake: Mistake) -> Arc<dyn Hypervisor> {
        Arc::new(Self {
            inner,
            mistake,
            seen: Mutex::default(),
            kept: Mutex::default(),
            runs: AtomicUsize::new(0),
            barriers: Arc::default(),
        })
    }

    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }

    fn never(&self) -> watch::Receiver<TaskStatus> {
        let sender = watch::Sender::new(TaskStatus::Running { progress: None });
        let receiver = sender.subscribe();
        lock(&self.kept).push(sender);
        receiver
    }
}

#[async_trait]
impl Hypervisor for Wrong {
    async fn run(
        &self,
        observer: Arc<dyn Observer>,
        stop: CancellationToken,
    ) -> Result<(), HostError> {
        let first = self.runs.fetch_add(1, Ordering::SeqCst) == 0;
        if !first && self.is(M::SecondRunIsTaken) {
            return Ok(());
        }
        let wrong = WrongObserver {
            inner: observer,
            mistake: self.mistake,
            state: Mutex::default(),
            barriers: Arc::clone(&self.barriers),
        };
        let stop = if self.is(M::StopIsNotHeeded) { CancellationToken::new() } else { stop };
        self.inner.run(Arc::new(wrong), stop).await
    }

    async fn call(
        &self,
        machine: &MachineId,
        call: &HostCall,
        job: JobId,
    ) -> Result<Accepted, CallError> {
        match self.inner.call(machine, call, job).await {
            Err(CallError::Lost(error)) if self.is(M::LostIsToldAsRefused) => {
                Err(CallError::Refused(error))
            }
            Err(CallError::Refused(error)) if self.is(M::RefusedIsToldAsLost) => {
                Err(CallError::Lost(error))
            }
            Err(CallError::Lost(error)) if self.is(M::LostCallIsMadeAgain) => {
                // Once what it did is done, so that it is taken.
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
        match self.mistake {
            M::EndIsTakenBack => altered(follower, move |status| {
                let again = is_end(status).then_some(TaskStatus::Running { progress: Some(99) });
                std::iter::once(status.clone()).chain(again).collect()
            }),
            M::ProgressFalls => altered(follower, |status| match status {
                TaskStatus::Running { progress: Some(percent) } => {
                    vec![TaskStatus::Running { progress: Some(100 - percent) }]
                }
                other => vec![other.clone()],
            }),
            M::KindsAreForgotten => altered(follower, |status| match status {
                TaskStatus::Failed(error) => {
                    let error = HostError::new(HostErrorKind::Rejected, error.message.clone());
                    vec![TaskStatus::Failed(Arc::new(error))]
                }
                other => vec![other.clone()],
            }),
            M::UnknownTaskIsWaitedFor => altered(follower, |status| match status {
                TaskStatus::Vanished => vec![TaskStatus::Running { progress: None }],
                other => vec![other.clone()],
            }),
            M::EndIsMissedByLateFollowers => {
                let late = !lock(&self.kept).is_empty();
                let never = self.never();
                if late { never } else { follower }
            }
            M::FollowersAreKeptAtTheEnd => self.never(),
            _ => follower,
        }
    }

    async fn cancel(&self, task: &TaskId) -> Result<(), HostError> {
        match self.inner.cancel(task).await {
            Err(_) if self.is(M::CancelIsAlwaysDone) => Ok(()),
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
                Err(_) if self.is(M::BarrierWaitsForTheHost) => tokio::task::yield_now().await,
                other => return other,
            }
        }
    }

    async fn examine(&self, machine: &MachineId) -> Result<Evidence, HostError> {
        let read = self.inner.examine(machine).await;
        match self.mistake {
            M::EvidenceIsOld => {
                let mut seen = lock(&self.seen);
                if let Some((_, old)) = seen.iter().find(|(id, _)| id == machine) {
                    return Ok(old.clone());
                }
                let read = read?;
                seen.push((machine.clone(), read.clone()));
                Ok(read)
            }
            M::UnknownMachineIsEmpty => read.or_else(|error| match error.kind {
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
                    host_boot_time: None,
                    recent_tasks: Vec::new(),
                }),
                _ => Err(error),
            }),
            M::ForeignTasksAreOurs => read.map(|mut evidence| {
                evidence.recent_tasks.iter_mut().for_each(|task| task.by_us = true);
                evidence
            }),
            _ => read,
        }
    }

    async fn confirm_guest(&self, machine: &MachineId) -> Result<(), HostError> {
        if self.is(M::GuestIsConfirmedLater) {
            let (inner, machine) = (Arc::clone(&self.inner), machine.clone());
            tokio::spawn(async move { inner.confirm_guest(&machine).await });
            return Ok(());
        }
        self.inner.confirm_guest(machine).await
    }

    fn capabilities(&self) -> &'static [Capability] {
        if self.is(M::CapabilityIsDenied) { &[] } else { self.inner.capabilities() }
    }

    async fn properties(
        &self,
        machine: &MachineId,
        paths: &[String],
    ) -> Result<Map<String, Value>, HostError> {
        match self.inner.properties(machine, paths).await {
            Err(error)
                if error.kind == HostErrorKind::InvalidProperty
                    && self.is(M::UnknownPathIsNull) =>
            {
                Ok(paths.iter().map(|path| (path.clone(), Value::Null)).collect())
            }
            other => other,
        }
    }

    fn renew_password(&self, password: SecretString) {
        self.inner.renew_password(password);
    }
}

/// A receiver that is told something else than the rightful one.
fn altered(
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

/// An observer that passes on what it should not, or not what it should.
struct WrongObserver {
    inner: Arc<dyn Observer>,
    mistake: Mistake,
    state: Mutex<Passed>,
    barriers: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Passed {
    whole_sets: usize,
    held: Vec<Fact>,
}

impl Observer for WrongObserver {
    fn observe(&self, mut facts: Facts) {
        let mut passed = lock(&self.state);
        passed.whole_sets += usize::from(facts.complete);
        let resync = facts.complete && passed.whole_sets > 1;
        match self.mistake {
            M::RemovalIsNotTold => {
                facts.changes.retain(|fact| !matches!(fact, Fact::MachineRemoved(_)));
            }
            M::RestartIsNotTold => {
                facts.changes.retain(|fact| !matches!(fact, Fact::GuestRestarted(_)));
            }
            M::MachineIsLeftOut if facts.complete => drop(facts.changes.pop()),
            M::MachineIsInvented if !facts.complete => {
                let machine = facts.changes.iter().find_map(|fact| match fact {
                    Fact::Machine(machine) => Some(machine.clone()),
                    _ => None,
                });
                if let Some(mut ghost) = machine {
                    Arc::make_mut(&mut ghost).id = MachineId::from_backend("ghost");
                    facts.changes.push(Fact::Machine(ghost));
                }
            }
            M::ResyncIsNotWhole if resync => facts.complete = false,
            M::ResyncIsForgotten if resync => return,
            M::ChangesComeOnlyWithBarriers if !facts.complete => {
                if self.barriers.load(Ordering::SeqCst) == 0 {
                    passed.held.append(&mut facts.changes);
                    return;
                }
                facts.changes.splice(0..0, std::mem::take(&mut passed.held));
            }
            _ => {}
        }
        drop(passed);
        if facts.complete || !facts.changes.is_empty() {
            self.inner.observe(facts);
        }
    }

    fn session(&self, status: SessionStatus) {
        let away = matches!(status.state, SessionState::Away { .. });
        if self.mistake == M::ConnectedBeforeThePicture && status.state == SessionState::Connecting
        {
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
        if away && self.mistake == M::OutageEmptiesThePicture {
            self.inner.observe(Facts { complete: true, changes: Vec::new() });
        }
        self.inner.session(status);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
