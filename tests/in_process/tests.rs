//! Tests of the backend: its hooks, broken connections, and that a run is repeatable.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use otter::clock::Clock;
use otter::domain::call::HostCall;
use otter::domain::ids::{JobId, MachineId};
use otter::domain::power::PowerState;
use otter::hypervisor::{
    Accepted, CallError, Fact, Facts, HostErrorKind, Hypervisor, Observer, SessionState,
    SessionStatus, TaskStatus,
};
use otter::simulator::{Fault, Moref, Pace, Scenario};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::hooks::{Hooks, Interruption, Request};
use super::{CallFault, InProcess, PlannedFaults, SimulatedHost};

/// An observer that records everything as lines of text.
#[derive(Default)]
struct RecordingObserver(Mutex<Vec<String>>);

impl RecordingObserver {
    fn record(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, text: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(text)).count()
    }
}

impl Observer for RecordingObserver {
    fn observe(&self, facts: Facts) {
        let lines = facts.changes.iter().map(|fact| match fact {
            Fact::Machine(machine) => format!("{} {:?}", machine.id, machine.power_state),
            Fact::Datastore(datastore) => datastore.id.to_string(),
            other => format!("{other:?}"),
        });
        self.record(format!(
            "complete={} {}",
            facts.complete,
            lines.collect::<Vec<_>>().join(", ")
        ));
    }

    fn session(&self, status: SessionStatus) {
        let name = match status.state {
            SessionState::Connecting => "connecting",
            SessionState::Connected => "connected",
            SessionState::Away { .. } => "away",
            SessionState::LoginRefused { .. } => "refused",
        };
        self.record(format!("{name} after {} logins", status.logins));
    }
}

/// A running backend on a stepped clock.
struct RunningBackend {
    clock: Clock,
    host: SimulatedHost,
    backend: Arc<InProcess>,
    log: Arc<RecordingObserver>,
    stop: CancellationToken,
}

impl RunningBackend {
    async fn with(hooks: impl FnOnce(&Clock) -> Arc<dyn Hooks>) -> Self {
        let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
        let host =
            SimulatedHost::new(&Scenario::generated(3), Pace::Auto { scale: 1.0 }, clock.clone());
        let backend = Arc::new(InProcess::new(host.clone()).with_hooks(hooks(&clock)));
        let (log, stop) = (Arc::new(RecordingObserver::default()), CancellationToken::new());
        let running = (Arc::clone(&backend), Arc::clone(&log), stop.clone());
        tokio::spawn(async move {
            let (backend, log, stop) = running;
            backend.run(log, stop).await
        });
        let running = Self { clock, host, backend, log, stop };
        running.advance(Duration::from_secs(5)).await;
        running
    }

    /// Advances the clock in steps.
    async fn advance(&self, time: Duration) {
        const STEP: Duration = Duration::from_millis(100);
        let end = self.clock.elapsed() + time;
        while self.clock.elapsed() < end {
            settle().await;
            self.clock.advance(STEP);
        }
        settle().await;
    }

    async fn call(&self, call: HostCall) -> Result<Accepted, CallError> {
        self.backend
            .call(&MachineId::from_backend("2"), &call, JobId::new(Uuid::from_u128(1)))
            .await
    }

    fn power(&self) -> otter::simulator::world::PowerState {
        self.host.look(|world| world.machine("2").unwrap().power.clone())
    }
}

impl Drop for RunningBackend {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Lets every task run until it waits.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn rename(host: &SimulatedHost, id: &str, name: &str) {
    host.mutate(|world| name.clone_into(&mut world.machine_mut(id).unwrap().name));
}

#[tokio::test]
async fn a_call_is_lost_if_its_effect_is_uncertain() {
    let planned = Arc::new(PlannedFaults::default());
    let running = RunningBackend::with(|_| Arc::clone(&planned) as _).await;
    let uncertain = || Fault::new("HostCommunication", "The host does not answer the manager.");
    for (fault, kind, ran) in [
        (CallFault::CutBefore, HostErrorKind::Unreachable, false),
        (CallFault::CutAfter, HostErrorKind::Unreachable, true),
        (CallFault::UnreadableAfter, HostErrorKind::Protocol, true),
        (CallFault::Fault(uncertain()), HostErrorKind::Unreachable, false),
        (CallFault::FaultAfter(uncertain()), HostErrorKind::Unreachable, true),
    ] {
        planned.push(fault.clone());
        let lost = running.call(HostCall::PowerOn).await;
        assert!(
            matches!(&lost, Err(CallError::Lost(error)) if error.kind == kind),
            "{fault:?}: {lost:?}"
        );
        running.advance(Duration::from_secs(2)).await;
        assert_eq!(running.power() == otter::simulator::world::PowerState::On, ran, "{fault:?}");
        if ran {
            running.call(HostCall::PowerOff).await.unwrap();
            running.advance(Duration::from_secs(2)).await;
        }
    }
}

#[tokio::test]
async fn a_refused_call_did_not_run() {
    let planned = Arc::new(PlannedFaults::default());
    let running = RunningBackend::with(|_| Arc::clone(&planned) as _).await;
    planned.push(CallFault::Fault(Fault::task_in_progress("haTask-7")));
    let refused = running.call(HostCall::PowerOn).await;
    assert!(
        matches!(&refused, Err(CallError::Refused(error)) if error.kind == HostErrorKind::Busy)
    );
    running.host.set_reachable(false);
    let refused = running.call(HostCall::PowerOn).await;
    assert!(
        matches!(&refused, Err(CallError::Refused(error)) if error.kind == HostErrorKind::Unreachable)
    );
    running.advance(Duration::from_secs(2)).await;
    assert_eq!(running.power(), otter::simulator::world::PowerState::Off);
}

/// Requests and answers take a second each, and sets of updates are two seconds late.
struct DelayedHooks(Clock);

#[async_trait]
impl Hooks for DelayedHooks {
    async fn before_request(&self, _: Request<'_>) -> Result<(), Interruption> {
        self.0.sleep(Duration::from_secs(1)).await;
        Ok(())
    }

    async fn after_request(&self, _: Request<'_>) -> Result<(), Interruption> {
        self.0.sleep(Duration::from_secs(1)).await;
        Ok(())
    }

    async fn before_update(&self) {
        self.0.sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test]
async fn hooks_delay_requests_and_updates_but_no_barrier() {
    let running = RunningBackend::with(|clock| Arc::new(DelayedHooks(clock.clone()))).await;
    assert_eq!(running.log.count("connected"), 1, "{:?}", running.log.lines());
    let backend = Arc::clone(&running.backend);
    let read =
        tokio::spawn(async move { backend.read_evidence(&MachineId::from_backend("2")).await });
    running.advance(Duration::from_millis(1_900)).await;
    assert!(!read.is_finished());
    running.advance(Duration::from_millis(100)).await;
    assert_eq!(read.await.unwrap().unwrap().power_state, Some(PowerState::Off));

    let reports = running.log.lines().len();
    rename(&running.host, "1", "late");
    running.advance(Duration::from_millis(1_900)).await;
    assert_eq!(running.log.lines().len(), reports);
    running.advance(Duration::from_millis(100)).await;
    assert_eq!(running.log.lines().len(), reports + 1);
    rename(&running.host, "1", "at once");
    running.backend.barrier().await.unwrap();
    assert_eq!(running.log.lines().len(), reports + 2);
}

#[tokio::test]
async fn a_request_under_way_is_lost_with_its_connection() {
    let running = RunningBackend::with(|clock| Arc::new(DelayedHooks(clock.clone()))).await;
    for time_before_cut in [500, 1_500] {
        let backend = Arc::clone(&running.backend);
        let call = tokio::spawn(async move {
            backend
                .call(
                    &MachineId::from_backend("2"),
                    &HostCall::PowerOn,
                    JobId::new(Uuid::from_u128(1)),
                )
                .await
        });
        running.advance(Duration::from_millis(time_before_cut)).await;
        running.host.cut_connections();
        running.advance(Duration::from_secs(5)).await;
        assert!(matches!(call.await.unwrap(), Err(CallError::Lost(_))));
        let ran = running.power() == otter::simulator::world::PowerState::On;
        assert_eq!(ran, time_before_cut == 1_500, "the host acts after a second");
    }
}

#[tokio::test]
async fn a_session_outlives_an_outage_and_the_inventory_is_reported_again() {
    let running = RunningBackend::with(|_| Arc::new(PlannedFaults::default())).await;
    running.host.cut_connections();
    running.advance(Duration::from_secs(1)).await;
    running.host.set_reachable(false);
    running.advance(Duration::from_mins(1)).await;
    running.host.set_reachable(true);
    running.advance(Duration::from_secs(1)).await;
    assert_eq!(running.log.count("connected after 1 logins"), 3, "{:?}", running.log.lines());
    assert_eq!(running.log.count("complete=true"), 3);
    running.host.drop_sessions();
    running.advance(Duration::from_secs(1)).await;
    assert_eq!(running.log.count("connected after 2 logins"), 1);
    assert_eq!(running.host.login_attempts(), 2);
}

/// Numbers from a seed choose the delays, the interruptions and the order of updates.
struct SeededHooks {
    clock: Clock,
    seed: Mutex<u64>,
}

impl SeededHooks {
    fn next(&self) -> u64 {
        let mut seed = self.seed.lock().unwrap_or_else(PoisonError::into_inner);
        *seed =
            seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 33
    }
}

#[async_trait]
impl Hooks for SeededHooks {
    async fn before_request(&self, _: Request<'_>) -> Result<(), Interruption> {
        self.clock.sleep(Duration::from_millis(self.next() % 700)).await;
        if self.next().is_multiple_of(5) { Err(Interruption::Cut) } else { Ok(()) }
    }

    async fn before_update(&self) {
        self.clock.sleep(Duration::from_millis(self.next() % 900)).await;
    }

    fn is_in_next_update(&self, _: &Moref) -> bool {
        self.next().is_multiple_of(2)
    }
}

/// The recorded lines of a run with this seed.
async fn run(seed: u64) -> Vec<String> {
    let hooks = |clock: &Clock| -> Arc<dyn Hooks> {
        Arc::new(SeededHooks { clock: clock.clone(), seed: Mutex::new(seed) })
    };
    let running = RunningBackend::with(hooks).await;
    let mut callers = Vec::new();
    for (machine, call) in
        [("1", HostCall::PowerOn), ("2", HostCall::PowerOn), ("3", HostCall::Reset)]
    {
        let (backend, log) = (Arc::clone(&running.backend), Arc::clone(&running.log));
        callers.push(tokio::spawn(async move {
            let machine = MachineId::from_backend(machine);
            for round in 0..6 {
                let called = backend.call(&machine, &call, JobId::new(Uuid::from_u128(1))).await;
                log.record(format!("{machine} {round}: {called:?}"));
                let Ok(Accepted::Task(task)) = called else { continue };
                let mut status = backend.follow(&task).await;
                let ended =
                    status.wait_for(|status| !matches!(status, TaskStatus::Running { .. })).await;
                let ended = ended.map(|status| status.clone());
                log.record(format!("{machine} {round}: {ended:?}"));
                let read =
                    backend.read_evidence(&machine).await.map(|evidence| evidence.power_state);
                log.record(format!("{machine} {round}: {read:?}"));
            }
        }));
    }
    for round in 0..10 {
        running.advance(Duration::from_secs(3)).await;
        match round % 3 {
            0 => running.host.drop_sessions(),
            1 => running.host.cut_connections(),
            _ => rename(&running.host, "1", &format!("round {round}")),
        }
    }
    for caller in callers {
        caller.abort();
    }
    running.log.lines()
}

#[tokio::test]
async fn a_seed_repeats_its_run() {
    let mut runs = Vec::new();
    for seed in 0..5 {
        let first = run(seed).await;
        assert!(first.len() > 30, "{first:?}");
        assert_eq!(first, run(seed).await, "seed {seed}");
        runs.push(first);
    }
    runs.dedup();
    assert_eq!(runs.len(), 5, "each seed gives a different run");
}
