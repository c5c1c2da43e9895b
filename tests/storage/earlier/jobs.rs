//! The jobs of the database: every kind of job after each of its commits.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use otter::domain::access::Authority;
use otter::domain::call::{CallKind, Evidence, HostCall, RecentTask, SnapshotEvidence};
use otter::domain::failure::{Failure, FailureKind};
use otter::domain::ids::{JobId, MachineId, QuestionId, SnapshotId, TaskId};
use otter::domain::job::JobState::{self, Failed, Queued, Running, Succeeded, Unknown};
use otter::domain::job::{
    Intent, Job, JobKind, JobRequest, JobResult, JobStep, JobStepState, JobTarget, StepName,
};
use otter::domain::lease::Readiness;
use otter::domain::machine::MachineIdentity;
use otter::domain::media::BootMedia;
use otter::domain::origin::RequestOrigin;
use otter::domain::power::PowerState::{self, Off, On};
use otter::simulator::Scenario;
use otter::simulator::world::{self, Choice, Machine, Question};
use uuid::Uuid;

const NOT_OFF: &str = "the guest was not off after 30s";
const NO_TOOLS_RUN: &str = "no guest tools run";
const LOST: &str = "The answer of the host was lost, and what happened cannot be known: the \
                    machine may still be at it, and a second snapshot is not the same as one.";

/// Every job, in the order of their ids.
pub fn all() -> impl Iterator<Item = Job> {
    rows().map(|(number, case, row)| row.job(number, &case))
}

/// A host with the machine of every job. Each is as it was before the call that has not ended, or
/// after the job's last step.
pub fn scenario() -> Scenario {
    let mut scenario = Scenario::generated(1);
    scenario.machines =
        rows().map(|(number, case, row)| simulated_machine(number, &case, &row)).collect();
    scenario
}

/// The state in which an unfinished job ends when the engine goes on with it.
pub fn end_of(job: &Job) -> JobState {
    let (_, _, row) = rows().find(|(number, ..)| job_id(*number) == job.id).unwrap();
    row.end
}

/// The time at which every job was requested.
pub fn start() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

/// The id with this number. All ids in the database are numbers.
pub fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number)
}

/// The rows of every case. Each has its own machine, whose number it shares.
fn rows() -> impl Iterator<Item = (u64, Case, Row)> {
    let cases = [
        power_on(),
        power(),
        shutdown(),
        guest(),
        create(),
        revert(),
        change_snapshots(),
        prepare(),
        release(),
    ];
    let cases = cases.into_iter().flatten();
    let rows =
        cases.flat_map(|case| case.rows.clone().into_iter().map(move |row| (case.clone(), row)));
    (1..).zip(rows).map(|(number, (case, row))| (number, case, row))
}

/// A request, and what was committed of its job.
#[derive(Clone)]
struct Case {
    /// The machine before the job.
    machine: Before,
    request: fn(u64) -> JobRequest,
    rows: Vec<Row>,
}

/// A machine before a job or a host call.
#[derive(Clone, Copy)]
struct Before {
    power: PowerState,
    tools: bool,
    /// The number of the current snapshot.
    snapshot: u32,
    question: bool,
    /// The host's last task: its call, its word in a task id, and whether it still runs.
    task: Option<(CallKind, &'static str, bool)>,
}

const OFF: Before = Before { power: Off, tools: false, snapshot: 2, question: false, task: None };
const ON: Before = Before { power: On, tools: true, ..OFF };
const NO_TOOLS: Before = Before { power: On, ..OFF };
const ASKING: Before = Before {
    question: true,
    task: Some((CallKind::PowerOn, "VirtualMachine.powerOn", true)),
    ..OFF
};
const REVERTED_OFF: Before =
    Before { task: Some((CallKind::RevertToSnapshot, "vm.Snapshot.revert", false)), ..OFF };
const REVERTED_ON: Before = Before { power: On, snapshot: 3, ..REVERTED_OFF };

impl Before {
    fn evidence(self, number: u64) -> Evidence {
        let snapshot_evidence = |place: u32| SnapshotEvidence {
            id: snapshot(number, place),
            parent: (place > 1).then(|| snapshot(number, place - 1)),
            name: String::new(),
            description: String::new(),
        };
        let task = self.task.map(|(call, word, running)| RecentTask {
            id: task(number, &format!("{word}-100000001")),
            call: Some(call),
            by_us: true,
            running,
        });
        Evidence {
            identity: identity(number),
            power_state: Some(self.power),
            current_snapshot: Some(snapshot(number, self.snapshot)),
            snapshots: (1..=3).map(snapshot_evidence).collect(),
            tools_running: self.tools,
            question: self.question.then(|| QuestionId::from_backend("q")),
            consolidation_needed: None,
            host_boot_time: Some("2026-02-26T12:00:00.000000Z".to_owned()),
            recent_tasks: task.into_iter().collect(),
            media: BootMedia::default(),
        }
    }
}

/// A job, without the fields that follow from its number and its request.
#[derive(Clone)]
struct Row {
    state: JobState,
    phase: &'static str,
    /// The seconds from the request to the last commit.
    updated: i64,
    steps: Vec<JobStep>,
    task: Option<&'static str>,
    /// How often the call was sent, and the machine before it.
    call: Option<(u32, Before)>,
    power: Option<PowerState>,
    /// The number of the snapshot in the result.
    snapshot: Option<u32>,
    address: bool,
    error: Option<(FailureKind, &'static str)>,
    /// The machine after the last step, if it differs from the machine before the job.
    machine: Option<Before>,
    /// The state in which the job ends when the engine goes on with it.
    end: JobState,
}

impl Row {
    fn new<const STEPS: usize>(
        state: JobState,
        phase: &'static str,
        updated: i64,
        steps: [JobStep; STEPS],
    ) -> Self {
        Self {
            state,
            phase,
            updated,
            steps: steps.into(),
            task: None,
            call: None,
            power: None,
            snapshot: None,
            address: false,
            error: None,
            machine: None,
            end: Succeeded,
        }
    }

    fn task(self, task: &'static str) -> Self {
        Self { task: Some(task), ..self }
    }

    fn call(self, asked: u32, before: Before) -> Self {
        Self { call: Some((asked, before)), ..self }
    }

    fn result(self, power: PowerState) -> Self {
        Self { power: Some(power), ..self }
    }

    fn snapshot(self, snapshot: u32) -> Self {
        Self { snapshot: Some(snapshot), ..self }
    }

    fn address(self) -> Self {
        Self { address: true, ..self }
    }

    fn error(self, kind: FailureKind, detail: &'static str) -> Self {
        Self { error: Some((kind, detail)), ..self }
    }

    fn machine(self, machine: Before) -> Self {
        Self { machine: Some(machine), ..self }
    }

    fn end(self, end: JobState) -> Self {
        Self { end, ..self }
    }

    fn job(self, number: u64, case: &Case) -> Job {
        let identity = identity(number);
        let name = machine(number).name;
        let request = (case.request)(number);
        let intent = self.call.map(|(asked, before)| Intent {
            call: host_call(&request, self.steps.last().unwrap().name.as_str()),
            before: before.evidence(number),
            asked,
        });
        let error = self.error.map(|(kind, detail)| {
            Failure::new(kind, detail).with_machine(&identity.id, &name).with_job(job_id(number))
        });
        Job {
            id: job_id(number),
            state: self.state,
            target: JobTarget::Machine(identity),
            target_name: name,
            deadline_at: at(deadline(request.kind())),
            request,
            phase: self.phase.to_owned(),
            steps: self.steps,
            cancel_requested_at: None,
            cancel_requested_by: None,
            created_at: start(),
            updated_at: at(self.updated),
            started_at: (self.state != Queued).then(start),
            finished_at: self.state.is_end().then(|| at(self.updated)),
            requested_by: "anonymous".to_owned(),
            origin: RequestOrigin::default(),
            reference: Some("run 7".to_owned()),
            lease: None,
            authority: Authority::Operator,
            result: self.power.map(|power| JobResult {
                changed: true,
                snapshot: self.snapshot.map(|place| snapshot(number, place)),
                power_state: Some(power),
                ip_address: self.address.then(|| format!("10.137.0.{number}")),
                file: None,
            }),
            warnings: Vec::new(),
            error,
            host_task: self.task.map(|word| task(number, word)),
            intent,
            file_intent: None,
        }
    }
}

/// The call that a step of this name makes.
fn host_call(request: &JobRequest, step: &str) -> HostCall {
    match (step, request.clone()) {
        ("power_on", _) => HostCall::PowerOn,
        ("power_off", _) => HostCall::PowerOff,
        ("reset", _) => HostCall::Reset,
        ("suspend", _) => HostCall::Suspend,
        ("shutdown", _) => HostCall::ShutdownGuest,
        ("reboot", _) => HostCall::RebootGuest,
        ("answer", JobRequest::Answer { question, choice }) => {
            HostCall::Answer { question, choice }
        }
        ("create_snapshot", JobRequest::CreateSnapshot { name, description, memory, quiesce }) => {
            HostCall::CreateSnapshot { name, description, memory, quiesce }
        }
        (
            "revert",
            JobRequest::Revert { snapshot, .. }
            | JobRequest::Prepare { snapshot: Some((snapshot, _)), .. }
            | JobRequest::Release { snapshot: Some((snapshot, _)), .. },
        ) => HostCall::RevertToSnapshot { snapshot, suppress_power_on: false },
        ("remove_snapshot", JobRequest::RemoveSnapshot { snapshot, children, .. }) => {
            HostCall::RemoveSnapshot { snapshot, children }
        }
        ("remove_all_snapshots", _) => HostCall::RemoveAllSnapshots,
        ("rename_snapshot", JobRequest::RenameSnapshot { snapshot, name, description, .. }) => {
            HostCall::RenameSnapshot { snapshot, name, description }
        }
        (step, request) => unreachable!("{request:?} has no step {step}"),
    }
}

/// The seconds from the request of a job to its deadline.
fn deadline(kind: JobKind) -> i64 {
    match kind {
        JobKind::MachineShutdown | JobKind::MachineReboot => 15 * 60,
        JobKind::SnapshotCreate | JobKind::SnapshotRevert => 60 * 60,
        JobKind::SnapshotRemove | JobKind::SnapshotRemoveAll => 24 * 60 * 60,
        JobKind::LeasePrepare | JobKind::LeaseRelease => 30 * 60,
        _ => 10 * 60,
    }
}

fn at(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

fn job_id(number: u64) -> JobId {
    JobId::new(id((1 << 32) + u128::from(number)))
}

fn snapshot(machine: u64, place: u32) -> SnapshotId {
    SnapshotId::from_backend(format!("{machine}-snapshot-{place}"))
}

fn task(machine: u64, word: &str) -> TaskId {
    TaskId::from_backend(format!("haTask-{machine}-vim.{word}"))
}

/// The snapshot of a machine that is off, and its path.
fn kickstart(machine: u64) -> (SnapshotId, String) {
    (snapshot(machine, 2), "base/kickstart".to_owned())
}

/// The snapshot of a machine that is on, and its path.
fn live(machine: u64) -> (SnapshotId, String) {
    (snapshot(machine, 3), "base/kickstart/live".to_owned())
}

/// The simulator's machine of this number, which the jobs of this number worked on.
fn machine(number: u64) -> Machine {
    Scenario::generated(usize::try_from(number).unwrap()).machines.pop().unwrap()
}

fn identity(number: u64) -> MachineIdentity {
    let machine = machine(number);
    MachineIdentity {
        id: MachineId::from_backend(machine.id),
        instance_uuid: Some(machine.instance_uuid),
        path: Some(machine.path),
    }
}

fn simulated_machine(number: u64, case: &Case, row: &Row) -> Machine {
    let before = row.call.map(|(_, before)| before);
    let now = row.machine.or(before).unwrap_or(case.machine);
    let mut machine = machine(number);
    machine.guest.tools_installed = case.machine.power == Off || case.machine.tools;
    machine.guest.address = Some(format!("10.137.0.{number}"));
    machine.guest.tools_after = Duration::from_secs(2);
    machine.guest.address_after = Duration::from_secs(3);
    machine.power = if now.power == On { world::PowerState::On } else { world::PowerState::Off };
    let parent = machine.current_snapshot.clone().unwrap();
    machine.add_snapshot(Some(&parent), "live", world::PowerState::On, machine.created_at);
    machine.current_snapshot = Some(format!("{number}-snapshot-{}", now.snapshot));
    machine.question = now.question.then(|| Question {
        id: "q".to_owned(),
        message_id: "msg.uuid.altered".to_owned(),
        text: "Was it moved, or copied?".to_owned(),
        choices: vec![Choice {
            key: "1".to_owned(),
            label: "button.uuid.moved".to_owned(),
            summary: "moved".to_owned(),
            fails_with: None,
        }],
        default_choice: None,
    });
    machine
}

fn step(name: &str, state: JobStepState, started: i64, finished: Option<i64>) -> JobStep {
    JobStep {
        name: StepName::parse(name).unwrap(),
        state,
        started_at: Some(at(started)),
        finished_at: finished.map(at),
        detail: None,
        seen: None,
    }
}

fn started(name: &str, started: i64) -> JobStep {
    step(name, JobStepState::Running, started, None)
}

fn done(name: &str, started: i64, finished: i64) -> JobStep {
    step(name, JobStepState::Succeeded, started, Some(finished))
}

fn unknown(name: &str, started: i64, finished: i64) -> JobStep {
    step(name, JobStepState::Unknown, started, Some(finished))
}

fn failed(name: &str, started: i64, finished: i64, detail: &str) -> JobStep {
    let step = step(name, JobStepState::Failed, started, Some(finished));
    JobStep { detail: Some(detail.to_owned()), ..step }
}

fn skipped(name: &str, started: i64, finished: i64, detail: &str) -> JobStep {
    let step = step(name, JobStepState::Skipped, started, Some(finished));
    JobStep { detail: Some(detail.to_owned()), ..step }
}

fn queued() -> Row {
    Row::new(Queued, "queued", 0, [])
}

fn running<const STEPS: usize>(phase: &'static str, updated: i64, steps: [JobStep; STEPS]) -> Row {
    Row::new(Running, phase, updated, steps)
}

fn ended<const STEPS: usize>(state: JobState, updated: i64, steps: [JobStep; STEPS]) -> Row {
    Row::new(state, state.as_str(), updated, steps)
}

fn create_request(_: u64) -> JobRequest {
    JobRequest::CreateSnapshot {
        name: "new".to_owned(),
        description: "by a test".to_owned(),
        memory: true,
        quiesce: false,
    }
}

/// Powering on; the second time the answer to the first call is lost.
fn power_on() -> Vec<Case> {
    vec![
        Case {
            machine: OFF,
            request: |_| JobRequest::PowerOn,
            rows: vec![
                queued(),
                running("reading the machine", 0, []),
                running("power on: asking the host", 0, [started("power_on", 0)]).call(1, OFF),
                running("waiting for the host's task", 0, [started("power_on", 0)])
                    .task("VirtualMachine.powerOn-100000001")
                    .call(1, OFF),
                ended(Succeeded, 0, [done("power_on", 0, 0)])
                    .task("VirtualMachine.powerOn-100000001")
                    .result(On),
            ],
        },
        Case {
            machine: OFF,
            request: |_| JobRequest::PowerOn,
            rows: vec![
                running("power on: asking the host", 0, [started("power_on", 0)]).call(1, OFF),
                running("asking the host again", 30, [started("power_on", 0)]).call(2, OFF),
                running("waiting for the host's task", 30, [started("power_on", 0)])
                    .task("VirtualMachine.powerOn-100000001")
                    .call(2, OFF),
                ended(Succeeded, 30, [done("power_on", 0, 30)])
                    .task("VirtualMachine.powerOn-100000001")
                    .result(On),
            ],
        },
    ]
}

/// The other power operations.
fn power() -> Vec<Case> {
    vec![
        Case {
            machine: ON,
            request: |_| JobRequest::PowerOff,
            rows: vec![
                running("power off: asking the host", 0, [started("power_off", 0)]).call(1, ON),
                running("waiting for the host's task", 0, [started("power_off", 0)])
                    .task("VirtualMachine.powerOff-100000001")
                    .call(1, ON),
                ended(Succeeded, 0, [done("power_off", 0, 0)])
                    .task("VirtualMachine.powerOff-100000001")
                    .result(Off),
            ],
        },
        Case {
            machine: ON,
            request: |_| JobRequest::Reset,
            rows: vec![
                running("reset: asking the host", 0, [started("reset", 0)])
                    .call(1, ON)
                    .end(Unknown),
                running("waiting for the host's task", 0, [started("reset", 0)])
                    .task("VirtualMachine.reset-100000001")
                    .call(1, ON)
                    .end(Unknown),
                ended(Succeeded, 0, [done("reset", 0, 0)])
                    .task("VirtualMachine.reset-100000001")
                    .result(On),
            ],
        },
        Case {
            machine: OFF,
            request: |_| JobRequest::Reset,
            rows: vec![ended(Failed, 0, []).error(
                FailureKind::InvalidPowerState,
                "Only a machine that is on can be reset; power it on instead.",
            )],
        },
        Case {
            machine: ON,
            request: |_| JobRequest::Kill,
            rows: vec![
                running("power off: asking the host", 0, [started("power_off", 0)]).call(1, ON),
                running("waiting for the host's task", 0, [started("power_off", 0)])
                    .task("VirtualMachine.powerOff-100000001")
                    .call(1, ON),
                ended(Succeeded, 0, [done("power_off", 0, 0)])
                    .task("VirtualMachine.powerOff-100000001")
                    .result(Off),
            ],
        },
        Case {
            machine: ON,
            request: |_| JobRequest::Suspend,
            rows: vec![
                running("suspend: asking the host", 0, [started("suspend", 0)]).call(1, ON),
                running("waiting for the host's task", 0, [started("suspend", 0)])
                    .task("VirtualMachine.suspend-100000001")
                    .call(1, ON),
                ended(Succeeded, 0, [done("suspend", 0, 0)])
                    .task("VirtualMachine.suspend-100000001")
                    .result(PowerState::Suspended),
            ],
        },
    ]
}

/// Shutdown: the guest obeys, the guest does not obey, and there are no guest tools.
fn shutdown() -> Vec<Case> {
    vec![
        Case {
            machine: ON,
            request: |_| JobRequest::Shutdown { force_after: None },
            rows: vec![
                running("shutdown: asking the host", 0, [started("shutdown", 0)])
                    .call(1, ON)
                    .end(Unknown),
                ended(Succeeded, 2, [done("shutdown", 0, 2)]).result(Off),
            ],
        },
        Case {
            machine: ON,
            request: |_| JobRequest::Shutdown { force_after: Some(Duration::from_secs(30)) },
            rows: vec![
                running("shutdown: asking the host", 0, [started("shutdown", 0)]).call(1, ON),
                running("pulling the plug", 30, [failed("shutdown", 0, 30, NOT_OFF)]),
                running(
                    "power off: asking the host",
                    30,
                    [failed("shutdown", 0, 30, NOT_OFF), started("power_off", 30)],
                )
                .call(1, ON),
                running(
                    "waiting for the host's task",
                    30,
                    [failed("shutdown", 0, 30, NOT_OFF), started("power_off", 30)],
                )
                .task("VirtualMachine.powerOff-100000001")
                .call(1, ON),
                ended(
                    Succeeded,
                    30,
                    [failed("shutdown", 0, 30, NOT_OFF), done("power_off", 30, 30)],
                )
                .task("VirtualMachine.powerOff-100000001")
                .result(Off),
            ],
        },
        Case {
            machine: NO_TOOLS,
            request: |_| JobRequest::Shutdown { force_after: Some(Duration::from_secs(30)) },
            rows: vec![
                running("shutdown: asking the host", 0, [started("shutdown", 0)]).call(1, NO_TOOLS),
                running("shutdown: asking the host", 0, [skipped("shutdown", 0, 0, NO_TOOLS_RUN)]),
                running(
                    "power off: asking the host",
                    0,
                    [skipped("shutdown", 0, 0, NO_TOOLS_RUN), started("power_off", 0)],
                )
                .call(1, NO_TOOLS),
                running(
                    "waiting for the host's task",
                    0,
                    [skipped("shutdown", 0, 0, NO_TOOLS_RUN), started("power_off", 0)],
                )
                .task("VirtualMachine.powerOff-100000001")
                .call(1, NO_TOOLS),
                ended(
                    Succeeded,
                    0,
                    [skipped("shutdown", 0, 0, NO_TOOLS_RUN), done("power_off", 0, 0)],
                )
                .task("VirtualMachine.powerOff-100000001")
                .result(Off),
            ],
        },
    ]
}

/// Reboot and answer.
fn guest() -> Vec<Case> {
    vec![
        Case {
            machine: ON,
            request: |_| JobRequest::Reboot,
            rows: vec![
                running("reboot: asking the host", 0, [started("reboot", 0)])
                    .call(1, ON)
                    .end(Unknown),
                ended(Succeeded, 3, [done("reboot", 0, 3)]).result(On),
            ],
        },
        Case {
            machine: ASKING,
            request: |_| JobRequest::Answer {
                question: QuestionId::from_backend("q"),
                choice: "1".to_owned(),
            },
            rows: vec![
                running("answer: asking the host", 0, [started("answer", 0)]).call(1, ASKING),
                ended(Succeeded, 0, [done("answer", 0, 0)]).result(On),
            ],
        },
    ]
}

/// Creating a snapshot; the second time the answer of the host is lost.
fn create() -> Vec<Case> {
    vec![
        Case {
            machine: OFF,
            request: create_request,
            rows: vec![
                running("create snapshot: asking the host", 0, [started("create_snapshot", 0)])
                    .call(1, OFF)
                    .end(Unknown),
                running("waiting for the host's task", 0, [started("create_snapshot", 0)])
                    .task("VirtualMachine.createSnapshot-100000001")
                    .call(1, OFF)
                    .end(Unknown),
                ended(Succeeded, 0, [done("create_snapshot", 0, 0)])
                    .task("VirtualMachine.createSnapshot-100000001")
                    .result(Off)
                    .snapshot(4),
            ],
        },
        Case {
            machine: OFF,
            request: create_request,
            rows: vec![
                running("create snapshot: asking the host", 0, [started("create_snapshot", 0)])
                    .call(1, OFF)
                    .end(Unknown),
                ended(Unknown, 30, [unknown("create_snapshot", 0, 30)])
                    .error(FailureKind::OutcomeUnknown, LOST),
            ],
        },
    ]
}

/// Revert to a snapshot of a machine that is off, then power on; and the reverse.
fn revert() -> Vec<Case> {
    vec![
        Case {
            machine: OFF,
            request: |machine| {
                let (snapshot, path) = kickstart(machine);
                JobRequest::Revert { snapshot, path, power_on: Some(true) }
            },
            rows: vec![
                running("revert: asking the host", 0, [started("revert", 0)]).call(1, OFF),
                running("waiting for the host's task", 0, [started("revert", 0)])
                    .task("vm.Snapshot.revert-100000001")
                    .call(1, OFF),
                running("waiting for the host's task", 0, [done("revert", 0, 0)])
                    .task("vm.Snapshot.revert-100000001"),
                running(
                    "power on: asking the host",
                    0,
                    [done("revert", 0, 0), started("power_on", 0)],
                )
                .call(1, REVERTED_OFF),
                running(
                    "waiting for the host's task",
                    0,
                    [done("revert", 0, 0), started("power_on", 0)],
                )
                .task("VirtualMachine.powerOn-100000002")
                .call(1, REVERTED_OFF),
                ended(Succeeded, 0, [done("revert", 0, 0), done("power_on", 0, 0)])
                    .task("VirtualMachine.powerOn-100000002")
                    .result(On)
                    .snapshot(2),
            ],
        },
        Case {
            machine: OFF,
            request: |machine| {
                let (snapshot, path) = live(machine);
                JobRequest::Revert { snapshot, path, power_on: Some(false) }
            },
            rows: vec![
                running("revert: asking the host", 0, [started("revert", 0)]).call(1, OFF),
                running("waiting for the host's task", 0, [started("revert", 0)])
                    .task("vm.Snapshot.revert-100000001")
                    .call(1, OFF),
                running("waiting for the host's task", 0, [done("revert", 0, 0)])
                    .task("vm.Snapshot.revert-100000001")
                    .machine(REVERTED_ON),
                running(
                    "power off: asking the host",
                    0,
                    [done("revert", 0, 0), started("power_off", 0)],
                )
                .call(1, REVERTED_ON),
                running(
                    "waiting for the host's task",
                    0,
                    [done("revert", 0, 0), started("power_off", 0)],
                )
                .task("VirtualMachine.powerOff-100000002")
                .call(1, REVERTED_ON),
                ended(Succeeded, 0, [done("revert", 0, 0), done("power_off", 0, 0)])
                    .task("VirtualMachine.powerOff-100000002")
                    .result(Off)
                    .snapshot(3),
            ],
        },
    ]
}

/// Removing and renaming snapshots.
fn change_snapshots() -> Vec<Case> {
    vec![
        Case {
            machine: OFF,
            request: |machine| {
                let (snapshot, path) = kickstart(machine);
                JobRequest::RemoveSnapshot { snapshot, path, children: true }
            },
            rows: vec![
                running("remove snapshot: asking the host", 0, [started("remove_snapshot", 0)])
                    .call(1, OFF),
                running("waiting for the host's task", 0, [started("remove_snapshot", 0)])
                    .task("vm.Snapshot.remove-100000001")
                    .call(1, OFF),
                ended(Succeeded, 0, [done("remove_snapshot", 0, 0)])
                    .task("vm.Snapshot.remove-100000001")
                    .result(Off),
            ],
        },
        Case {
            machine: OFF,
            request: |_| JobRequest::RemoveAllSnapshots,
            rows: vec![
                running(
                    "remove all snapshots: asking the host",
                    0,
                    [started("remove_all_snapshots", 0)],
                )
                .call(1, OFF),
                running("waiting for the host's task", 0, [started("remove_all_snapshots", 0)])
                    .task("VirtualMachine.removeAllSnapshots-100000001")
                    .call(1, OFF),
                ended(Succeeded, 0, [done("remove_all_snapshots", 0, 0)])
                    .task("VirtualMachine.removeAllSnapshots-100000001")
                    .result(Off),
            ],
        },
        Case {
            machine: OFF,
            request: |machine| {
                let (snapshot, path) = kickstart(machine);
                let name = Some("renamed".to_owned());
                JobRequest::RenameSnapshot { snapshot, path, name, description: None }
            },
            rows: vec![
                running("rename snapshot: asking the host", 0, [started("rename_snapshot", 0)])
                    .call(1, OFF),
                ended(Succeeded, 0, [done("rename_snapshot", 0, 0)]).result(Off).snapshot(2),
            ],
        },
    ]
}

/// Preparing a machine until it is on, its tools run, and it has an address.
fn prepare() -> Vec<Case> {
    vec![
        prepare_until(
            |machine| prepare_request(machine, Readiness::On),
            "wait_power",
            "waiting for power_state:on",
            0,
        ),
        prepare_until(
            |machine| prepare_request(machine, Readiness::Tools),
            "wait_tools",
            "waiting for tools",
            2,
        ),
        prepare_until(
            |machine| prepare_request(machine, Readiness::Address),
            "wait_ip",
            "waiting for ip",
            3,
        ),
    ]
}

/// The step `wait` has the phase `waiting` and takes this many seconds.
fn prepare_until(
    request: fn(u64) -> JobRequest,
    wait: &'static str,
    waiting: &'static str,
    seconds: i64,
) -> Case {
    Case {
        machine: OFF,
        request,
        rows: vec![
            running("revert: asking the host", 0, [started("revert", 0)]).call(1, OFF),
            running("waiting for the host's task", 0, [started("revert", 0)])
                .task("vm.Snapshot.revert-100000001")
                .call(1, OFF),
            running("waiting for the host's task", 0, [done("revert", 0, 0)])
                .task("vm.Snapshot.revert-100000001"),
            running("power on: asking the host", 0, [done("revert", 0, 0), started("power_on", 0)])
                .call(1, REVERTED_OFF),
            running(
                "waiting for the host's task",
                0,
                [done("revert", 0, 0), started("power_on", 0)],
            )
            .task("VirtualMachine.powerOn-100000002")
            .call(1, REVERTED_OFF),
            running(
                "waiting for the host's task",
                0,
                [done("revert", 0, 0), done("power_on", 0, 0)],
            )
            .task("VirtualMachine.powerOn-100000002")
            .machine(ON),
            running(
                waiting,
                0,
                [done("revert", 0, 0), done("power_on", 0, 0), done(wait, 0, seconds)],
            )
            .task("VirtualMachine.powerOn-100000002")
            .machine(ON),
            running(
                "letting the machine come to rest",
                seconds,
                [
                    done("revert", 0, 0),
                    done("power_on", 0, 0),
                    done(wait, 0, seconds),
                    done("settle", seconds, seconds + 20),
                ],
            )
            .task("VirtualMachine.powerOn-100000002")
            .machine(ON),
            ended(
                Succeeded,
                seconds + 20,
                [
                    done("revert", 0, 0),
                    done("power_on", 0, 0),
                    done(wait, 0, seconds),
                    done("settle", seconds, seconds + 20),
                ],
            )
            .task("VirtualMachine.powerOn-100000002")
            .result(On)
            .snapshot(2)
            .address(),
        ],
    }
}

fn prepare_request(machine: u64, until: Readiness) -> JobRequest {
    JobRequest::Prepare {
        snapshot: Some(kickstart(machine)),
        iso: None,
        boot: None,
        power: Some(On),
        until: Some(until),
        cidr: None,
        settle: Some(Duration::from_secs(20)),
    }
}

/// Releasing a machine, with and without a revert.
fn release() -> Vec<Case> {
    vec![
        Case {
            machine: ON,
            request: |machine| JobRequest::Release {
                keep_power: false,
                snapshot: Some(live(machine)),
                media: None,
            },
            rows: vec![
                running("revert: asking the host", 0, [started("revert", 0)]).call(1, ON),
                running("waiting for the host's task", 0, [started("revert", 0)])
                    .task("vm.Snapshot.revert-100000001")
                    .call(1, ON),
                running("waiting for the host's task", 0, [done("revert", 0, 0)])
                    .task("vm.Snapshot.revert-100000001")
                    .machine(REVERTED_ON),
                running(
                    "power off: asking the host",
                    0,
                    [done("revert", 0, 0), started("power_off", 0)],
                )
                .call(1, REVERTED_ON),
                running(
                    "waiting for the host's task",
                    0,
                    [done("revert", 0, 0), started("power_off", 0)],
                )
                .task("VirtualMachine.powerOff-100000002")
                .call(1, REVERTED_ON),
                running(
                    "waiting for the host's task",
                    0,
                    [done("revert", 0, 0), done("power_off", 0, 0)],
                )
                .task("VirtualMachine.powerOff-100000002")
                .machine(Before { snapshot: 3, ..OFF }),
                ended(Succeeded, 0, [done("revert", 0, 0), done("power_off", 0, 0)])
                    .task("VirtualMachine.powerOff-100000002")
                    .result(Off)
                    .snapshot(3),
            ],
        },
        Case {
            machine: ON,
            request: |_| JobRequest::Release { keep_power: false, snapshot: None, media: None },
            rows: vec![
                running("power off: asking the host", 0, [started("power_off", 0)]).call(1, ON),
                running("waiting for the host's task", 0, [started("power_off", 0)])
                    .task("VirtualMachine.powerOff-100000001")
                    .call(1, ON),
                running("waiting for the host's task", 0, [done("power_off", 0, 0)])
                    .task("VirtualMachine.powerOff-100000001")
                    .machine(OFF),
                ended(Succeeded, 0, [done("power_off", 0, 0)])
                    .task("VirtualMachine.powerOff-100000001")
                    .result(Off),
            ],
        },
    ]
}
