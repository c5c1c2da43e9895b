//! Random calls of a storage for the conformance test. They use few jobs, leases, machines, keys
//! and tokens, so that calls often concern the same objects.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use uuid::Uuid;

use otter::domain::access::{Role, TokenDigest, TokenLimits};
use otter::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use otter::domain::failure::{Failure, FailureKind};
use otter::domain::ids::{DatastoreId, LeaseId, MachineId, SnapshotId, TokenId};
use otter::domain::input::SentInput;
use otter::domain::job::{Job, JobKind, JobRequest, JobResult, JobState, JobTarget};
use otter::domain::lease::{Lease, LeaseState, Quarantine, Recovery, Setback};
use otter::domain::machine::MachineIdentity;
use otter::domain::media::MediaRecord;
use otter::domain::scope::Scope;
use otter::storage::{
    AuditFilter, AuditRetention, ChangedLease, IdempotencyKey, InputAnswer, JobFilter, LeaseFilter,
    LeaseTransaction, RecordRetention, Retention, Storage, StorageError, StoredMachine,
    StoredToken, TokenUse,
};

use super::samples::{any_failure, any_job, any_time, identity, lease, queued, start};

const DAY: Duration = Duration::from_hours(24);

/// One call of a storage.
#[derive(Clone, Debug)]
pub enum Operation {
    InsertJob {
        job: Box<Job>,
        key: Option<IdempotencyKey>,
        overridden: Option<AuditRecord>,
    },
    UpdateJob(Box<Job>),
    SaveLeases(LeaseTransaction),
    AppendAudit(Vec<AuditRecord>),
    InsertToken(StoredToken),
    RevokeToken {
        name: String,
        now: Timestamp,
    },
    RotateToken {
        name: String,
        digest: TokenDigest,
        now: Timestamp,
        expires_at: Option<Timestamp>,
    },
    MarkTokensUsed(Vec<TokenUse>),
    Purge {
        now: Timestamp,
        retention: Retention,
    },
    PurgeAudit {
        now: Timestamp,
        retention: AuditRetention,
    },
    RecordLastSeen(Timestamp),
    /// Lists all jobs, page by page.
    ListJobs {
        filter: JobFilter,
        page: u32,
    },
    ListLeases {
        filter: LeaseFilter,
        page: u32,
    },
    ListAudit {
        filter: AuditFilter,
        page: u32,
    },
    FindKey(IdempotencyKey),
    InsertInput(IdempotencyKey),
    SaveInputAnswer {
        answer: Option<(IdempotencyKey, InputAnswer)>,
        audit: Vec<AuditRecord>,
    },
    FindInput(IdempotencyKey),
    /// Reads the job, the lease and the snapshots of this number.
    ReadOne(u32),
}

impl Operation {
    /// Makes the call. Returns its result as text.
    pub async fn perform(&self, storage: &dyn Storage) -> String {
        match self.clone() {
            Self::InsertJob { job, key, overridden } => {
                text(&storage.insert_job(&job, key.as_ref(), overridden).await)
            }
            Self::UpdateJob(job) => text(&storage.commit_job(&job).await),
            Self::SaveLeases(step) => text(&storage.save_leases(step).await),
            Self::AppendAudit(records) => text(&storage.append_audit(records).await),
            Self::InsertToken(token) => text(&storage.insert_token(&token).await),
            Self::RevokeToken { name, now } => text(&storage.revoke_token(&name, now).await),
            Self::RotateToken { name, digest, now, expires_at } => {
                text(&storage.rotate_token(&name, digest, now, expires_at).await)
            }
            Self::MarkTokensUsed(uses) => text(&storage.mark_tokens_used(uses).await),
            Self::Purge { now, retention } => text(&storage.purge(now, &retention).await),
            Self::PurgeAudit { now, retention } => {
                text(&storage.purge_audit(now, &retention).await)
            }
            Self::RecordLastSeen(now) => text(&storage.record_last_seen(now).await),
            Self::ListJobs { filter, page } => text(&jobs(storage, &filter, page).await),
            Self::ListLeases { filter, page } => text(&leases(storage, &filter, page).await),
            Self::ListAudit { filter, page } => text(&audit(storage, &filter, page).await),
            Self::FindKey(key) => text(&storage.find_key(&key).await),
            Self::InsertInput(key) => text(&storage.insert_input(&key).await),
            Self::SaveInputAnswer { answer, audit } => {
                text(&storage.save_input_answer(answer, audit).await)
            }
            Self::FindInput(key) => text(&storage.find_input(&key).await),
            Self::ReadOne(n) => {
                let (job, lease) = (queued(n), lease(n, LeaseState::Queued, None));
                let made = storage.snapshots_made_under(&identity(n), lease.id).await;
                text(&storage.job(job.id).await)
                    + &text(&storage.lease(lease.id).await)
                    + &text(&made)
            }
        }
    }
}

/// Everything that can be read from a storage, as text.
pub async fn contents(storage: &dyn Storage) -> Vec<String> {
    let mut contents = vec![
        text(&jobs(storage, &JobFilter::default(), 100).await),
        text(&storage.unfinished_jobs().await),
        text(&leases(storage, &LeaseFilter::default(), 100).await),
        text(&storage.open_leases().await),
        text(&storage.has_leases().await),
        text(&storage.stored_machines().await),
        text(&storage.fence_floor().await),
        text(&audit(storage, &AuditFilter::default(), 100).await),
        text(&storage.tokens().await),
        text(&storage.last_seen().await),
        text(&storage.refusal()),
    ];
    // Only these leases have jobs.
    for n in (0..LEASES).step_by(2) {
        let lease = lease(n, LeaseState::Queued, None).id;
        contents.push(text(&storage.snapshots_made_under(&identity(0), lease).await));
    }
    contents
}

async fn jobs(
    storage: &dyn Storage,
    filter: &JobFilter,
    page: u32,
) -> Result<Vec<Vec<Job>>, StorageError> {
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let read = storage.jobs(filter, after, page).await?;
        pages.push(read.items);
        after = read.next;
        if after.is_none() {
            return Ok(pages);
        }
    }
}

async fn leases(
    storage: &dyn Storage,
    filter: &LeaseFilter,
    page: u32,
) -> Result<Vec<Vec<Lease>>, StorageError> {
    let mut pages = vec![storage.leases(filter, None, page).await?];
    while let Some(last) = pages.last().and_then(|page| page.last()).cloned() {
        pages.push(storage.leases(filter, Some(&last), page).await?);
    }
    Ok(pages)
}

async fn audit(
    storage: &dyn Storage,
    filter: &AuditFilter,
    page: u32,
) -> Result<Vec<String>, StorageError> {
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let read = storage.audit(filter, after, page).await?;
        pages.push(format!("{read:?}"));
        after = read.next;
        if after.is_none() {
            return Ok(pages);
        }
    }
}

/// A result as text. For an error the text contains only the kind, because the messages depend on
/// the implementation.
fn text<T: ResultText>(result: &T) -> String {
    result.text()
}

trait ResultText {
    fn text(&self) -> String;
}

impl<T: Debug> ResultText for Result<T, StorageError> {
    fn text(&self) -> String {
        match self {
            Ok(value) => format!("{value:?}"),
            Err(StorageError::Refused { .. }) => "refused".to_owned(),
            Err(StorageError::Conflict(_)) => "conflict".to_owned(),
            Err(StorageError::Unreadable { what, .. }) => format!("{what} is unreadable"),
            Err(error) => error.to_string(),
        }
    }
}

impl ResultText for Option<String> {
    fn text(&self) -> String {
        if self.is_some() { "refuses writes" } else { "accepts writes" }.to_owned()
    }
}

const JOBS: u32 = 4;
const LEASES: u32 = 5;

/// Any call. The strategies of its parts are boxed, because one large value would overflow the
/// stack of a test.
pub fn any_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => insert_job(),
        3 => prop_oneof![new_job(), known_job()].prop_map(Operation::UpdateJob),
        6 => job_of_snapshots().prop_map(Operation::UpdateJob),
        6 => step().prop_map(Operation::SaveLeases),
        1 => vec(record(), 0..3).prop_map(Operation::AppendAudit),
        2 => token().prop_map(Operation::InsertToken),
        1 => (name(), any_time()).prop_map(|(name, now)| Operation::RevokeToken { name, now }),
        1 => (name(), digest(), any_time(), option::of(any_time())).prop_map(
            |(name, digest, now, expires_at)| {
                Operation::RotateToken { name, digest, now, expires_at }
            },
        ),
        1 => vec(token_use(), 0..4).prop_map(Operation::MarkTokensUsed),
        2 => (now(), retention()).prop_map(|(now, retention)| Operation::Purge { now, retention }),
        2 => (now(), audit_retention())
            .prop_map(|(now, retention)| Operation::PurgeAudit { now, retention }),
        1 => any_time().prop_map(Operation::RecordLastSeen),
        1 => (job_filter(), 1..4_u32)
            .prop_map(|(filter, page)| Operation::ListJobs { filter, page }),
        1 => (lease_filter(), 1..4_u32)
            .prop_map(|(filter, page)| Operation::ListLeases { filter, page }),
        1 => (audit_filter(), 1..6_u32)
            .prop_map(|(filter, page)| Operation::ListAudit { filter, page }),
        2 => key().prop_map(Operation::FindKey),
        2 => key().prop_map(Operation::InsertInput),
        2 => save_input_answer(),
        2 => key().prop_map(Operation::FindInput),
        3 => (0..JOBS).prop_map(Operation::ReadOne),
    ]
}

fn insert_job() -> BoxedStrategy<Operation> {
    let job = prop_oneof![2 => new_job(), 1 => known_job()];
    (job, option::of(key()), option::of(record()))
        .prop_map(|(job, key, overridden)| Operation::InsertJob { job, key, overridden })
        .boxed()
}

fn save_input_answer() -> BoxedStrategy<Operation> {
    let texts = (option::of(any_failure()), option::of(any::<String>()));
    let answer = (any::<u32>(), any::<u32>(), any_time(), texts).prop_map(
        |(events, characters, finished_at, (interruption, result))| InputAnswer {
            sent: SentInput { events, characters },
            finished_at,
            interruption: interruption.map(Box::new),
            result,
        },
    );
    (option::of((key(), answer)), vec(record(), 0..2))
        .prop_map(|(answer, audit)| Operation::SaveInputAnswer { answer, audit })
        .boxed()
}

fn token_use() -> impl Strategy<Value = TokenUse> {
    (token_id(), digest(), any_time()).prop_map(|(id, digest, at)| TokenUse { id, digest, at })
}

/// Times that differ by less than a microsecond or by slightly more.
fn near() -> impl Strategy<Value = Timestamp> {
    (0..4_i64).prop_map(|n| start() + SignedDuration::from_nanos(n * 700))
}

fn now() -> impl Strategy<Value = Timestamp> {
    select(vec![0_u32, 1, 2, 31, 400]).prop_map(|days| start() + DAY * days)
}

fn reference() -> impl Strategy<Value = Option<String>> {
    option::of(select(vec!["run 1".to_owned(), "run 2".to_owned()]))
}

fn name() -> impl Strategy<Value = String> {
    select(vec!["ci".to_owned(), "boss".to_owned()])
}

/// One of a few jobs. The fields that never change depend only on the number of the job.
fn known_job() -> BoxedStrategy<Box<Job>> {
    let ends = (near(), option::of(near()), any::<bool>());
    (0..JOBS, any_job(), near(), ends, reference(), name())
        .prop_map(
            |(n, any, created_at, (updated_at, finished_at, is_near), reference, requested_by)| {
                let Job { id, target, .. } = queued(n);
                // The datastore has the same id as a machine.
                let datastore = JobTarget::Datastore(DatastoreId::from_backend("0"));
                let target = if n == 3 { datastore } else { target };
                let lease = (n % 2 == 0).then(|| lease(n % LEASES, LeaseState::Queued, None).id);
                let mut job = Job { id, target, lease, created_at, reference, requested_by, ..any };
                if is_near {
                    // Without these times, nearly all times would be far away, and every job would
                    // be old.
                    (job.updated_at, job.finished_at) = (updated_at, finished_at);
                }
                add_values_that_are_not_stored(&mut job);
                Box::new(job)
            },
        )
        .boxed()
}

/// Sets fields that no storage keeps.
fn add_values_that_are_not_stored(job: &mut Job) {
    if let JobRequest::Shutdown { force_after: Some(after) } = &mut job.request {
        *after += Duration::from_nanos(1);
    }
    if let Some(error) = &mut job.error {
        error.retry_after = Some(DAY);
    }
    for seen in job.intent.iter_mut().flat_map(|intent| &mut intent.before.snapshots) {
        "kickstart".clone_into(&mut seen.name);
    }
}

/// A job that has not ended.
fn new_job() -> BoxedStrategy<Box<Job>> {
    (known_job(), select(vec![JobState::Queued, JobState::Running]))
        .prop_map(|(job, state)| Box::new(Job { state, ..*job }))
        .boxed()
}

/// A job that created or removed snapshots.
fn job_of_snapshots() -> BoxedStrategy<Box<Job>> {
    let snapshot = select(vec!["1", "1", "2"]).prop_map(SnapshotId::from_backend);
    let request = (0..8, snapshot.clone()).prop_map(|(kind, snapshot)| match kind {
        0 => JobRequest::RemoveAllSnapshots,
        1 => JobRequest::RemoveSnapshot { snapshot, path: String::new(), children: false },
        _ => JobRequest::CreateSnapshot {
            name: String::new(),
            description: String::new(),
            memory: false,
            quiesce: false,
        },
    });
    (known_job(), request, option::weighted(0.9, snapshot))
        .prop_map(|(job, request, snapshot)| {
            let result = JobResult {
                changed: true,
                snapshot,
                power_state: None,
                ip_address: None,
                file: None,
            };
            Box::new(Job { state: JobState::Succeeded, request, result: Some(result), ..*job })
        })
        .boxed()
}

fn key() -> impl Strategy<Value = IdempotencyKey> {
    (0..6_u32, 0..2_u8, 0..3_u32).prop_map(|(n, fingerprint, days)| IdempotencyKey {
        caller: format!("caller {}", n % 2),
        method: "POST".to_owned(),
        path: "/v1".to_owned(),
        key: format!("key {}", n % 3),
        fingerprint: [fingerprint; 32],
        created_at: start() + DAY * days,
    })
}

fn record() -> BoxedStrategy<AuditRecord> {
    let of = (0..JOBS, 0..LEASES, option::of(name()), reference(), option::of(any::<String>()));
    let numbers = (option::of(any::<Duration>()), any::<u64>());
    (any_time(), select(AuditAction::ALL), select(AuditOutcome::ALL), of, numbers)
        .prop_map(
            |(
                at,
                action,
                outcome,
                (job, of_lease, actor, reference, detail),
                (duration, count),
            )| {
                AuditRecord {
                    actor,
                    machine: (job > 1).then(|| (identity(job).id, "sd-staging".to_owned())),
                    lease: (of_lease > 1).then(|| lease(of_lease, LeaseState::Queued, None).id),
                    job: (job > 2).then(|| queued(job).id),
                    reference,
                    duration,
                    detail,
                    count,
                    ..AuditRecord::new(at, action, outcome)
                }
            },
        )
        .boxed()
}

fn step() -> BoxedStrategy<LeaseTransaction> {
    let machine = || select(vec!["uuid:a".to_owned(), "uuid:b".to_owned()]);
    let change = (
        0..LEASES,
        select(LeaseState::ALL),
        option::of(near()),
        option::of(machine()),
        reference(),
        any::<Duration>(),
    )
        .prop_map(|(n, state, ended_at, machine, reference, ttl)| {
            let created_at = start() + SignedDuration::from_nanos(i64::from(n / 2) * 1_000);
            let setback = (n % 3 == 0).then(|| {
                let failure = Failure::new(FailureKind::InsufficientResources, "no memory");
                Setback { failure, since: start(), attempts: n, machines: vec![format!("m-{n}")] }
            });
            let lease = Lease { created_at, reference, ttl, setback, ..lease(n, state, ended_at) };
            (n, ChangedLease::new(lease, machine))
        });
    let recovery = (0..LEASES, any::<u32>(), 0..1_000_000_u64, any_time()).prop_map(
        |(lease, attempts, pause, retry_at)| Recovery {
            lease: LeaseId::new(Uuid::from_u128(lease.into())),
            machine: (attempts % 3 == 0).then(|| MachineIdentity {
                id: MachineId::from_backend(attempts.to_string()),
                instance_uuid: Some(format!("uuid-{lease}")),
                path: None,
            }),
            snapshot: (attempts % 2 == 0).then(|| "kickstart".to_owned()),
            media: (attempts % 5 == 0).then(MediaRecord::default),
            attempts,
            pause: Duration::from_millis(pause),
            retry_at,
        },
    );
    let stored = (
        any::<u64>(),
        option::of(any_time()),
        option::of(quarantine()),
        option::of(any_time()),
        option::of(recovery),
    )
        .prop_map(|(fence, last_lease_end, quarantine, absent_since, recovery)| {
            StoredMachine { fence, last_lease_end, quarantine, absent_since, recovery }
        });
    (
        vec(change, 0..3),
        proptest::collection::btree_map(machine(), stored, 0..2),
        vec(machine(), 0..2),
        prop_oneof![3 => Just(0), 1 => 0..9_u64, 1 => any::<u64>()],
        option::of((key(), 0..LEASES)),
        vec(record(), 0..2),
    )
        .prop_map(|(leases, machines, deleted_machines, fence_floor, key, audit)| {
            LeaseTransaction {
                leases: leases.into_iter().collect::<BTreeMap<_, _>>().into_values().collect(),
                machines,
                deleted_machines,
                fence_floor,
                key: key.map(|(key, n)| (key, lease(n, LeaseState::Queued, None).id)),
                audit,
            }
        })
        .boxed()
}

fn quarantine() -> impl Strategy<Value = Quarantine> {
    (any::<String>(), name(), any_time(), any::<bool>(), option::of(0..JOBS)).prop_map(
        |(reason, by, since, automatic, job)| Quarantine {
            reason,
            by,
            since,
            automatic,
            job: job.map(|n| queued(n).id),
        },
    )
}

fn token_id() -> impl Strategy<Value = TokenId> {
    (0..4_u128).prop_map(|n| TokenId::new(Uuid::from_u128(n)))
}

fn digest() -> impl Strategy<Value = TokenDigest> {
    (0..4_u8).prop_map(|byte| TokenDigest([byte; 32]))
}

fn token() -> BoxedStrategy<StoredToken> {
    let texts = || vec(select(vec!["sd-*".to_owned(), "qubes".to_owned()]), 0..2);
    let scope = prop_oneof![
        Just(Scope::All),
        (texts(), texts()).prop_map(|(machines, pools)| Scope::Selected { machines, pools }),
    ];
    let times = (
        near(),
        option::of(any_time()),
        option::of(any_time()),
        option::of(any_time()),
        option::of(near()),
    );
    (
        token_id(),
        name(),
        select(vec![Role::Viewer, Role::Admin]),
        digest(),
        scope,
        option::of(any::<u32>()),
        times,
    )
        .prop_map(|(id, name, role, digest, scope, streams, times)| {
            let (created_at, expires_at, rotated_at, last_used_at, revoked_at) = times;
            let limits = TokenLimits { streams, ..TokenLimits::default() };
            let token = StoredToken::new(id, &name, role, digest, created_at);
            StoredToken { scope, limits, expires_at, rotated_at, last_used_at, revoked_at, ..token }
        })
        .boxed()
}

fn record_retention() -> impl Strategy<Value = RecordRetention> {
    (select(vec![0, 1, 30]), 0..3_u32, 0..5_u32).prop_map(|(days, at_least, at_most)| {
        RecordRetention { time: DAY * days, at_least, at_most }
    })
}

fn retention() -> impl Strategy<Value = Retention> {
    (record_retention(), record_retention(), 0..3_u32).prop_map(|(jobs, leases, days)| Retention {
        jobs,
        leases,
        keys: DAY * days,
        ..Retention::default()
    })
}

fn audit_retention() -> impl Strategy<Value = AuditRetention> {
    (
        select(vec![0, 10_000]),
        select(vec![0, 800, 1_000, 1_300, 1_600, 2_000, 3_000, 5_000, u64::MAX]),
    )
        .prop_map(|(days, max_bytes)| AuditRetention { time: DAY * days, max_bytes })
}

fn job_filter() -> impl Strategy<Value = JobFilter> {
    let lease = (0..LEASES).prop_map(|n| lease(n, LeaseState::Queued, None).id);
    (
        vec(select(JobState::ALL), 0..3),
        option::of(machine()),
        vec(select(JobKind::ALL), 0..3),
        option::of(name()),
        reference(),
        option::of(lease),
    )
        .prop_map(|(states, machine, kinds, requested_by, reference, lease)| JobFilter {
            states,
            machine,
            kinds,
            requested_by,
            reference,
            lease,
        })
}

fn lease_filter() -> impl Strategy<Value = LeaseFilter> {
    let pool = select(vec!["qubes".to_owned(), "windows".to_owned()]);
    let holder = select(vec!["nightly".to_owned(), "ci".to_owned()]);
    (
        vec(select(LeaseState::ALL), 0..3),
        option::of(machine()),
        option::of(pool),
        option::of(holder),
        reference(),
    )
        .prop_map(|(states, machine, pool, holder, reference)| LeaseFilter {
            states,
            machine,
            pool,
            holder,
            reference,
        })
}

fn audit_filter() -> impl Strategy<Value = AuditFilter> {
    let of = (
        option::of(name()),
        option::of(machine()),
        option::of(0..LEASES),
        option::of(0..JOBS),
        reference(),
    );
    let times = (option::of(near()), option::of(near()));
    (vec(select(AuditAction::ALL), 0..8), vec(select(AuditOutcome::ALL), 0..5), of, times).prop_map(
        |(actions, outcomes, (actor, machine, of_lease, job, reference), (since, until))| {
            AuditFilter {
                actions,
                outcomes,
                actor,
                machine,
                lease: of_lease.map(|n| lease(n, LeaseState::Queued, None).id),
                job: job.map(|n| queued(n).id),
                reference,
                since,
                until,
            }
        },
    )
}

fn machine() -> impl Strategy<Value = MachineId> {
    select(vec!["0", "1", "2"]).prop_map(MachineId::from_backend)
}
