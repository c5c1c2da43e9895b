//! Sample jobs and leases, and a generator of arbitrary jobs with every field and variant. The unit
//! tests of the store include this file too.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

use otter::domain::access::Authority;
use otter::domain::artifact::Sha256Sum;
use otter::domain::call::{CallKind, Evidence, HostCall, RecentTask, SnapshotEvidence};
use otter::domain::failure::{Failure, FailureKind, Fault, InputError};
use otter::domain::file_job::{
    FileCall, FileEvidence, FileFact, FileIntent, FileResult, FileTarget, Received, UploadRequest,
};
use otter::domain::file_path::FilePath;
use otter::domain::ids::{
    DatastoreId, JobId, LeaseId, MachineId, QuestionId, SnapshotId, TaskId, TokenId,
};
use otter::domain::job::{
    Intent, Job, JobRequest, JobResult, JobState, JobStep, JobStepState, JobTarget, StepName,
};
use otter::domain::lease::{
    EndReason, Lease, LeaseEnd, LeaseState, Readiness, Release, Select, TimeLeft,
};
use otter::domain::machine::MachineIdentity;
use otter::domain::media::{
    BootDevice, BootEntry, BootMedia, BootOptions, BootRequest, CdDrive, MediaRecord,
};
use otter::domain::network::Network;
use otter::domain::origin::{Actor, RequestId, RequestOrigin};
use otter::domain::power::PowerState;
use otter::domain::recording::{PortChoice, Record};
use otter::domain::scope::Scope;
use otter::domain::screen_text::ScreenText;
use otter::domain::serial::SerialText;

/// The first time of the tests.
pub fn start() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

/// The n-th queued job of the tests, created n seconds after the start.
pub fn queued(n: u32) -> Job {
    let created_at = start() + SignedDuration::from_secs(n.into());
    Job {
        id: JobId::new(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + u128::from(n))),
        state: JobState::Queued,
        target: JobTarget::Machine(identity(n)),
        target_name: "sd-staging".to_owned(),
        request: JobRequest::PowerOn,
        phase: "waiting for its turn".to_owned(),
        steps: Vec::new(),
        cancel_requested_at: None,
        cancel_requested_by: None,
        created_at,
        updated_at: created_at,
        started_at: None,
        finished_at: None,
        deadline_at: created_at + SignedDuration::from_mins(10),
        requested_by: "anonymous".to_owned(),
        origin: RequestOrigin::default(),
        reference: None,
        lease: None,
        authority: Authority::Operator,
        result: None,
        warnings: Vec::new(),
        error: None,
        host_task: None,
        intent: None,
        file_intent: None,
    }
}

/// The machine of the n-th job of the tests.
pub fn identity(n: u32) -> MachineIdentity {
    MachineIdentity {
        id: MachineId::from_backend(format!("{}", n % 3)),
        instance_uuid: Some("52f3b4d2-0000-0000-0000-000000000001".to_owned()),
        path: None,
    }
}

/// The n-th lease of the tests, on a machine of its own.
pub fn lease(n: u32, state: LeaseState, ended_at: Option<Timestamp>) -> Lease {
    let reason = EndReason::ALL.iter().copied().find(|reason| reason.state() == state);
    Lease {
        id: LeaseId::new(Uuid::from_u128(
            0x0190_0000_0000_7000_8000_0000_0000_0000 + u128::from(n),
        )),
        state,
        select: Select {
            pools: vec!["qubes".to_owned(), "other".to_owned()],
            exclude: vec!["name:sd-old".parse().unwrap(), "17".parse().unwrap()],
            memory_bytes_at_least: Some(8 << 30),
            nested_virtualization: Some(true),
            ..Select::default()
        },
        scope: Scope::new(vec!["sd-*".to_owned()], vec!["qubes".to_owned()]),
        machine: Some(identity(n)),
        machine_name: Some("sd-staging".to_owned()),
        pool: Some("qubes".to_owned()),
        holder: "nightly".to_owned(),
        requested_by: "ci".to_owned(),
        token: Some(TokenId::new(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000))),
        origin: RequestOrigin::default(),
        reference: None,
        ttl: Duration::from_mins(30),
        max_total: Duration::from_hours(24),
        queue_for: None,
        prepare: None,
        release: Release::default(),
        record: Some(Record { screen: true, serial: vec![PortChoice::Every] }),
        keep_on_failure: Some(Duration::from_hours(4)),
        created_at: start(),
        active_at: None,
        kept_at: Some(start()),
        fence: Some(1),
        grants: 1,
        media: Some(MediaRecord { drive: Some(drive(3000)), boot: boot(n.into()) }),
        job: None,
        time_left: TimeLeft::default(),
        measured_at: start(),
        warned: false,
        history: Vec::new(),
        end: ended_at.zip(reason).map(|(at, reason)| LeaseEnd {
            reason,
            by: "ci".to_owned(),
            at,
            detail: None,
        }),
        ended_at,
        error: None,
        warnings: Vec::new(),
        setback: None,
    }
}

/// The job after its end.
pub fn ended(mut job: Job, state: JobState, at: Timestamp) -> Job {
    job.state = state;
    job.updated_at = at;
    job.finished_at = Some(at);
    job
}

/// Any job.
pub fn any_job() -> impl Strategy<Value = Job> {
    let identity = (
        any::<u128>(),
        proptest::sample::select(JobState::ALL),
        any_target(),
        any::<String>(),
        any_request(),
        any::<String>(),
        proptest::collection::vec(any_step(), 0..4),
    );
    let times = (
        (option::of(any_time()), option::of(any_actor())),
        any_time(),
        any_time(),
        option::of(any_time()),
        option::of(any_time()),
        any_time(),
    );
    let rest = (
        (any::<String>(), any_origin()),
        any::<Option<String>>(),
        option::of(any::<u128>().prop_map(|bits| LeaseId::new(Uuid::from_u128(bits)))),
        any_authority(),
        option::of(any_result()),
        any::<Vec<String>>(),
        option::of(any_failure()),
        option::of(any::<String>().prop_map(TaskId::from_backend)),
        (option::of(any_intent()), option::of(any_file_intent())),
    );
    (identity, times, rest).prop_map(
        |(
            (id, state, target, target_name, request, phase, steps),
            (cancel_requested, created_at, updated_at, started_at, finished_at, deadline_at),
            (
                (requested_by, origin),
                reference,
                lease,
                authority,
                result,
                warnings,
                error,
                host_task,
                (intent, file_intent),
            ),
        )| Job {
            id: JobId::new(Uuid::from_u128(id)),
            state,
            target,
            target_name,
            request,
            phase,
            steps,
            cancel_requested_at: cancel_requested.0,
            cancel_requested_by: cancel_requested.1,
            created_at,
            updated_at,
            started_at,
            finished_at,
            deadline_at,
            requested_by,
            origin,
            reference,
            lease,
            authority,
            result,
            warnings,
            error,
            host_task,
            intent,
            file_intent,
        },
    )
}

fn any_authority() -> impl Strategy<Value = Authority> {
    proptest::sample::select(vec![
        Authority::Runner,
        Authority::Operator,
        Authority::Override,
        Authority::System,
    ])
}

/// Any time, to the nanosecond.
pub fn any_time() -> impl Strategy<Value = Timestamp> {
    (Timestamp::MIN.as_nanosecond()..=Timestamp::MAX.as_nanosecond())
        .prop_map(|nanoseconds| Timestamp::from_nanosecond(nanoseconds).unwrap())
}

fn any_actor() -> impl Strategy<Value = Actor> {
    (any::<String>(), any_origin()).prop_map(|(name, origin)| Actor { name, origin })
}

fn any_origin() -> impl Strategy<Value = RequestOrigin> {
    let id = any::<u128>().prop_map(|bits| RequestId::new(Uuid::from_u128(bits)));
    (any::<Option<std::net::IpAddr>>(), option::of(id))
        .prop_map(|(address, request_id)| RequestOrigin { address, request_id })
}

fn any_target() -> impl Strategy<Value = JobTarget> {
    prop_oneof![
        any_identity().prop_map(JobTarget::Machine),
        any::<String>().prop_map(|id| JobTarget::Datastore(DatastoreId::from_backend(id))),
        (any::<(String, String)>(), any_path()).prop_map(|((id, datastore_name), path)| {
            let datastore = DatastoreId::from_backend(id);
            JobTarget::File(FileTarget { datastore, datastore_name, path })
        }),
        Just(JobTarget::Host),
    ]
}

fn any_path() -> impl Strategy<Value = FilePath> {
    proptest::sample::select(vec!["qubes.iso", "iso/qubes 4.2.iso", "образы/кубы.iso"])
        .prop_map(|path| FilePath::parse(path).unwrap())
}

fn any_sum() -> impl Strategy<Value = Sha256Sum> {
    any::<[u8; 32]>().prop_map(Sha256Sum)
}

fn any_upload() -> impl Strategy<Value = UploadRequest> {
    (any::<u64>(), any::<bool>(), option::of(any_sum()))
        .prop_map(|(bytes, replace, sha256)| UploadRequest { bytes, replace, sha256 })
}

fn any_file_intent() -> impl Strategy<Value = FileIntent> {
    let call = prop_oneof![
        any::<bool>().prop_map(|replace| FileCall::MovePart { replace }),
        Just(FileCall::Delete),
        Just(FileCall::CreateFolder),
    ];
    let fact = || {
        (any::<u64>(), option::of(any_time()), any::<bool>(), any::<bool>()).prop_map(
            |(bytes, modified_at, is_folder, is_empty)| FileFact {
                bytes,
                modified_at,
                is_folder,
                is_empty,
            },
        )
    };
    let received = (any::<u64>(), any_sum(), any::<bool>())
        .prop_map(|(bytes, sha256, unchanged)| Received { bytes, sha256, unchanged });
    let facts = (option::of(fact()), option::of(fact()));
    (call, facts, option::of(received), any::<u32>(), option::of(any_failure())).prop_map(
        |(call, (target, part), received, asked, end)| FileIntent {
            call,
            before: FileEvidence { target, part },
            received,
            asked,
            end,
        },
    )
}

/// A drive with an ISO.
fn drive(key: i32) -> CdDrive {
    CdDrive {
        key,
        label: format!("drive {key}"),
        controller: (key % 2 == 0).then_some(200),
        unit: (key % 3 == 0).then_some(0),
        iso: (key % 5 != 0).then(|| format!("[isos] {key}.iso")),
        connected: key % 2 == 0,
        connects_at_power_on: key % 3 == 0,
    }
}

/// Boot options with a disk and this delay in milliseconds.
fn boot(delay: u64) -> BootOptions {
    let disk = BootEntry { device: BootDevice::Disk, key: Some(2000) };
    let order = vec![BootEntry { device: BootDevice::Cdrom, key: None }, disk];
    BootOptions { order, delay: Duration::from_millis(delay) }
}

fn any_boot() -> impl Strategy<Value = BootRequest> {
    let order = proptest::collection::vec(proptest::sample::select(BootDevice::ALL), 0..3);
    (order, option::of(any::<u32>())).prop_map(|(order, delay)| BootRequest {
        order,
        delay: delay.map(|delay| Duration::from_millis(delay.into())),
    })
}

fn any_media() -> impl Strategy<Value = MediaRecord> {
    (option::of(any::<i32>()), any::<u32>())
        .prop_map(|(key, delay)| MediaRecord { drive: key.map(drive), boot: boot(delay.into()) })
}

fn any_identity() -> impl Strategy<Value = MachineIdentity> {
    any::<(String, Option<String>, Option<String>)>().prop_map(|(id, instance_uuid, path)| {
        MachineIdentity { id: MachineId::from_backend(id), instance_uuid, path }
    })
}

fn any_snapshot() -> impl Strategy<Value = SnapshotId> {
    any::<String>().prop_map(SnapshotId::from_backend)
}

fn any_power_state() -> impl Strategy<Value = PowerState> {
    prop_oneof![Just(PowerState::On), Just(PowerState::Off), Just(PowerState::Suspended)]
}

fn any_readiness() -> impl Strategy<Value = Readiness> {
    let text = proptest::sample::select(vec!["Log In", "a: b, c", "ä"]);
    prop_oneof![
        Just(Readiness::On),
        Just(Readiness::Address),
        Just(Readiness::Tools),
        text.clone().prop_map(|text| Readiness::Screen(ScreenText::new(text).unwrap())),
        text.prop_map(|text| Readiness::Serial(SerialText::new(None, text).unwrap())),
    ]
}

fn any_network() -> impl Strategy<Value = Network> {
    proptest::sample::select(vec!["10.0.0.0/8", "192.168.0.7", "fd00::/8"])
        .prop_map(|network| network.parse().unwrap())
}

fn any_request() -> impl Strategy<Value = JobRequest> {
    prop_oneof![
        Just(JobRequest::PowerOn),
        Just(JobRequest::PowerOff),
        Just(JobRequest::Reset),
        Just(JobRequest::Kill),
        Just(JobRequest::Suspend),
        option::of(any::<u32>()).prop_map(|after| JobRequest::Shutdown {
            force_after: after.map(|s| Duration::from_secs(s.into()))
        }),
        Just(JobRequest::Reboot),
        any::<(String, String)>().prop_map(|(question, choice)| JobRequest::Answer {
            question: QuestionId::from_backend(question),
            choice
        }),
        any::<(String, String, bool, bool)>().prop_map(|(name, description, memory, quiesce)| {
            JobRequest::CreateSnapshot { name, description, memory, quiesce }
        }),
        (any_snapshot(), any::<String>(), any::<bool>()).prop_map(|(snapshot, path, children)| {
            JobRequest::RemoveSnapshot { snapshot, path, children }
        }),
        Just(JobRequest::RemoveAllSnapshots),
        Just(JobRequest::Consolidate),
        (any_snapshot(), any::<String>(), any::<Option<String>>(), any::<Option<String>>())
            .prop_map(|(snapshot, path, name, description)| JobRequest::RenameSnapshot {
                snapshot,
                path,
                name,
                description
            }),
        (any_snapshot(), any::<String>(), any::<Option<bool>>())
            .prop_map(|(snapshot, path, power_on)| JobRequest::Revert { snapshot, path, power_on }),
        any::<Option<String>>().prop_map(|iso| JobRequest::SetMedia { iso }),
        any_boot().prop_map(JobRequest::SetBoot),
        any_upload().prop_map(JobRequest::UploadFile),
        Just(JobRequest::DeleteFile),
        Just(JobRequest::CreateFolder),
        (
            option::of((any_snapshot(), any::<String>())),
            (any::<Option<String>>(), option::of(any_boot())),
            option::of(any_power_state()),
            option::of(any_readiness()),
            option::of(any_network()),
            option::of(any::<u32>())
        )
            .prop_map(|(snapshot, (iso, boot), power, until, cidr, settle)| {
                JobRequest::Prepare {
                    snapshot,
                    iso,
                    boot,
                    power,
                    until,
                    cidr,
                    settle: settle.map(|seconds| Duration::from_secs(seconds.into())),
                }
            }),
        (any::<bool>(), option::of((any_snapshot(), any::<String>())), option::of(any_media()))
            .prop_map(|(keep_power, snapshot, media)| JobRequest::Release {
                keep_power,
                snapshot,
                media,
            }),
    ]
}

fn any_step() -> impl Strategy<Value = JobStep> {
    (
        proptest::sample::select(StepName::all().collect::<Vec<_>>()),
        proptest::sample::select(JobStepState::ALL),
        option::of(any_time()),
        option::of(any_time()),
        any::<Option<String>>(),
        any::<Option<String>>(),
    )
        .prop_map(|(name, state, started_at, finished_at, detail, seen)| JobStep {
            name,
            state,
            started_at,
            finished_at,
            detail,
            seen,
        })
}

fn any_result() -> impl Strategy<Value = JobResult> {
    (
        any::<bool>(),
        option::of(any_snapshot()),
        option::of(any_power_state()),
        any::<Option<String>>(),
        option::of(any_file_result()),
    )
        .prop_map(|(changed, snapshot, power_state, ip_address, file)| JobResult {
            changed,
            snapshot,
            power_state,
            ip_address,
            file,
        })
}

fn any_file_result() -> impl Strategy<Value = FileResult> {
    (any::<String>(), option::of((any::<u64>(), any_sum())))
        .prop_map(|(path, sent)| FileResult { path, sent })
}

/// Any failure that the storage keeps whole.
pub fn any_failure() -> impl Strategy<Value = Failure> {
    let fault = any::<(String, String, BTreeMap<String, String>)>()
        .prop_map(|(name, message, details)| Fault { name, message, details });
    let error = (any::<Option<String>>(), any::<Option<String>>(), any::<String>()).prop_map(
        |(pointer, parameter, detail)| {
            let code = "too-long".into();
            InputError { pointer, parameter, code, detail }
        },
    );
    (
        proptest::sample::select(FailureKind::ALL),
        any::<String>(),
        option::of(fault),
        option::of(
            any::<(String, String)>().prop_map(|(id, name)| (MachineId::from_backend(id), name)),
        ),
        option::of(any::<u128>().prop_map(|id| JobId::new(Uuid::from_u128(id)))),
        option::of(any::<u128>().prop_map(|id| LeaseId::new(Uuid::from_u128(id)))),
        any::<Vec<(String, String)>>(),
        proptest::collection::vec(error, 0..3),
    )
        .prop_map(|(kind, detail, fault, machine, job, lease, candidates, errors)| Failure {
            kind,
            cause: fault.is_some().then_some(FailureKind::HostUnreachable),
            detail,
            fault,
            machine,
            job,
            lease,
            candidates,
            errors,
            retry_after: None,
            sent: None,
            seen: None,
        })
}

fn any_intent() -> impl Strategy<Value = Intent> {
    let call = prop_oneof![
        Just(HostCall::PowerOn),
        Just(HostCall::PowerOff),
        Just(HostCall::Reset),
        Just(HostCall::Suspend),
        Just(HostCall::ShutdownGuest),
        Just(HostCall::RebootGuest),
        any::<(String, String)>().prop_map(|(question, choice)| HostCall::Answer {
            question: QuestionId::from_backend(question),
            choice
        }),
        any::<(String, String, bool, bool)>().prop_map(|(name, description, memory, quiesce)| {
            HostCall::CreateSnapshot { name, description, memory, quiesce }
        }),
        (any_snapshot(), any::<bool>())
            .prop_map(|(snapshot, children)| HostCall::RemoveSnapshot { snapshot, children }),
        Just(HostCall::RemoveAllSnapshots),
        Just(HostCall::ConsolidateDisks),
        (any_snapshot(), any::<Option<String>>(), any::<Option<String>>()).prop_map(
            |(snapshot, name, description)| HostCall::RenameSnapshot {
                snapshot,
                name,
                description
            }
        ),
        (any_snapshot(), any::<bool>()).prop_map(|(snapshot, suppress_power_on)| {
            HostCall::RevertToSnapshot { snapshot, suppress_power_on }
        }),
        any::<i32>().prop_map(|key| HostCall::SetMedia { drive: drive(key) }),
        any::<u32>().prop_map(|delay| HostCall::SetBoot { boot: boot(delay.into()) }),
    ];
    (call, any_evidence(), any::<u32>()).prop_map(|(call, before, asked)| Intent {
        call,
        before,
        asked,
    })
}

fn any_evidence() -> impl Strategy<Value = Evidence> {
    let call = proptest::sample::select(CallKind::ALL);
    let seen = (any_snapshot(), option::of(any_snapshot())).prop_map(|(id, parent)| {
        SnapshotEvidence { id, parent, name: String::new(), description: String::new() }
    });
    let task = (any::<String>(), option::of(call), any::<bool>(), any::<bool>()).prop_map(
        |(id, call, by_us, running)| RecentTask {
            id: TaskId::from_backend(id),
            call,
            by_us,
            running,
        },
    );
    (
        any_identity(),
        option::of(any_power_state()),
        option::of(any_snapshot()),
        proptest::collection::vec(seen, 0..4),
        any::<bool>(),
        option::of(any::<String>().prop_map(QuestionId::from_backend)),
        any::<(Option<bool>, Option<String>)>(),
        proptest::collection::vec(task, 0..4),
    )
        .prop_map(
            |(
                identity,
                power_state,
                current_snapshot,
                snapshots,
                tools_running,
                question,
                (consolidation_needed, host_boot_time),
                recent_tasks,
            )| {
                Evidence {
                    identity,
                    power_state,
                    current_snapshot,
                    snapshots,
                    tools_running,
                    question,
                    consolidation_needed,
                    host_boot_time,
                    recent_tasks,
                    media: BootMedia::default(),
                }
            },
        )
}
