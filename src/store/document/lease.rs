//! The JSON documents of a lease, of a quarantine, and of a recovery (the release of a machine that
//! no lease holds).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::failure::FailureDocument;
use super::identity::IdentityDocument;
use super::media::{BootRequestDocument, MediaRecordDocument};
use super::origin::OriginDocument;
use super::{DocumentError, job_id, lease_id, power, time, token_id, word};
use crate::domain::lease::{
    EndReason, HistoryEntry, Lease, LeaseEnd, LeaseState, Prepare, Quarantine, Readiness, Recovery,
    Release, Select, Setback, TimeLeft,
};
use crate::domain::machine_reference::MachineReference;
use crate::domain::recording::{PortChoice, Record};
use crate::domain::scope::Scope;

/// Encodes a lease.
pub fn encode(lease: &Lease) -> Result<String, DocumentError> {
    serde_json::to_string(&LeaseDocument::from(lease)).map_err(DocumentError::Json)
}

/// Decodes a lease. The document of a lease is the same in every version.
pub fn decode(version: i64, text: &str) -> Result<Lease, DocumentError> {
    if !(1..=super::VERSION).contains(&version) {
        return Err(DocumentError::Version(version));
    }
    serde_json::from_str::<LeaseDocument>(text).map_err(DocumentError::Json)?.try_into()
}

/// Encodes a quarantine.
pub fn encode_quarantine(quarantine: &Quarantine) -> Result<String, DocumentError> {
    serde_json::to_string(&QuarantineDocument::from(quarantine)).map_err(DocumentError::Json)
}

/// Decodes a quarantine.
pub fn decode_quarantine(text: &str) -> Result<Quarantine, DocumentError> {
    serde_json::from_str::<QuarantineDocument>(text).map_err(DocumentError::Json)?.try_into()
}

/// Encodes a recovery (the release of a machine that no lease holds).
pub fn encode_recovery(recovery: &Recovery) -> Result<String, DocumentError> {
    serde_json::to_string(&RecoveryDocument::from(recovery)).map_err(DocumentError::Json)
}

/// Decodes a recovery (the release of a machine that no lease holds).
pub fn decode_recovery(text: &str) -> Result<Recovery, DocumentError> {
    serde_json::from_str::<RecoveryDocument>(text).map_err(DocumentError::Json)?.try_into()
}

#[derive(Serialize, Deserialize)]
struct LeaseDocument {
    id: String,
    state: String,
    select: SelectDocument,
    /// `None` if the scope contains all machines. Also `None` in leases that an earlier version of
    /// otter stored.
    #[serde(default)]
    scope: Option<ScopeDocument>,
    machine: Option<IdentityDocument>,
    machine_name: Option<String>,
    pool: Option<String>,
    holder: String,
    requested_by: String,
    /// The token of the caller that requested the lease. `None` if callers needed no token, and in
    /// leases that an earlier version of otter stored.
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    origin: OriginDocument,
    reference: Option<String>,
    ttl_ms: u64,
    max_total_ms: u64,
    queue_for_ms: Option<u64>,
    prepare: Option<PrepareDocument>,
    release: ReleaseDocument,
    /// `None` if nothing is recorded. Also `None` in leases that an earlier version of otter
    /// stored.
    #[serde(default)]
    record: Option<RecordDocument>,
    /// `None` if the machine is not kept after a failure. Also `None` in leases that an earlier
    /// version of otter stored.
    #[serde(default)]
    keep_on_failure_ms: Option<u64>,
    created_at: String,
    active_at: Option<String>,
    /// `None` if the lease was not kept. Also `None` in leases that an earlier version of otter
    /// stored.
    #[serde(default)]
    kept_at: Option<String>,
    fence: Option<u64>,
    grants: u32,
    /// Absent in leases that an earlier version of otter stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media: Option<MediaRecordDocument>,
    job: Option<String>,
    queue_left_ms: u64,
    lease_left_ms: u64,
    total_left_ms: u64,
    noted_at: String,
    warned: bool,
    history: Vec<HistoryDocument>,
    end: Option<EndDocument>,
    ended_at: Option<String>,
    error: Option<FailureDocument>,
    warnings: Vec<String>,
    /// Absent in leases that an earlier version of otter stored.
    #[serde(default)]
    setback: Option<SetbackDocument>,
}

#[derive(Serialize, Deserialize)]
struct SetbackDocument {
    failure: FailureDocument,
    since: String,
    attempts: u32,
    machines: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct RecoveryDocument {
    lease: String,
    /// `None` only in recoveries that an earlier version of otter stored.
    #[serde(default)]
    machine: Option<IdentityDocument>,
    snapshot: Option<String>,
    /// Absent in recoveries that an earlier version of otter stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media: Option<MediaRecordDocument>,
    attempts: u32,
    pause_ms: u64,
    retry_at: String,
}

#[derive(Serialize, Deserialize)]
struct SelectDocument {
    machine: Option<String>,
    name: Option<String>,
    mac: Option<String>,
    pool: Option<String>,
    /// The names of pools. This field and the fields after it are absent in leases that an earlier
    /// version of otter stored.
    #[serde(default)]
    pools: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    memory_bytes_at_least: Option<u64>,
    #[serde(default)]
    nested_virtualization: Option<bool>,
}

#[derive(Serialize, Deserialize)]
struct ScopeDocument {
    machines: Vec<String>,
    pools: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct PrepareDocument {
    snapshot: Option<String>,
    /// Absent, like `boot`, in leases that an earlier version of otter stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iso: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<BootRequestDocument>,
    power: Option<String>,
    until: Option<String>,
    /// `None` if every address counts. Also `None` in leases that an earlier version of otter
    /// stored.
    #[serde(default)]
    cidr: Option<String>,
    settle_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct ReleaseDocument {
    keep_power: bool,
    snapshot: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct RecordDocument {
    screen: bool,
    serial: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct HistoryDocument {
    at: String,
    what: String,
}

#[derive(Serialize, Deserialize)]
struct EndDocument {
    reason: String,
    by: String,
    at: String,
    detail: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct QuarantineDocument {
    reason: String,
    by: String,
    since: String,
    automatic: bool,
    job: Option<String>,
}

impl From<&Lease> for LeaseDocument {
    fn from(lease: &Lease) -> Self {
        let Lease {
            id,
            state,
            select,
            scope,
            machine,
            machine_name,
            pool,
            holder,
            requested_by,
            token,
            origin,
            reference,
            ttl,
            max_total,
            queue_for,
            prepare,
            release,
            record,
            keep_on_failure,
            created_at,
            active_at,
            kept_at,
            fence,
            grants,
            media,
            job,
            time_left: TimeLeft { queue, lease: left, total },
            measured_at,
            warned,
            history,
            end,
            ended_at,
            error,
            warnings,
            setback,
        } = lease;
        Self {
            id: id.to_string(),
            state: state.as_str().to_owned(),
            select: select.into(),
            scope: ScopeDocument::from_scope(scope),
            machine: machine.as_ref().map(IdentityDocument::from),
            machine_name: machine_name.clone(),
            pool: pool.clone(),
            holder: holder.clone(),
            requested_by: requested_by.clone(),
            token: token.map(|token| token.to_string()),
            origin: origin.into(),
            reference: reference.clone(),
            ttl_ms: milliseconds(*ttl),
            max_total_ms: milliseconds(*max_total),
            queue_for_ms: queue_for.map(milliseconds),
            prepare: prepare.as_ref().map(PrepareDocument::from),
            release: release.into(),
            record: record.as_ref().map(RecordDocument::from),
            keep_on_failure_ms: keep_on_failure.map(milliseconds),
            created_at: created_at.to_string(),
            active_at: active_at.map(|at| at.to_string()),
            kept_at: kept_at.map(|at| at.to_string()),
            fence: *fence,
            grants: *grants,
            media: media.as_ref().map(Into::into),
            job: job.map(|job| job.to_string()),
            queue_left_ms: milliseconds(*queue),
            lease_left_ms: milliseconds(*left),
            total_left_ms: milliseconds(*total),
            noted_at: measured_at.to_string(),
            warned: *warned,
            history: history.iter().map(HistoryDocument::from).collect(),
            end: end.as_ref().map(EndDocument::from),
            ended_at: ended_at.map(|at| at.to_string()),
            error: error.as_ref().map(FailureDocument::from),
            warnings: warnings.clone(),
            setback: setback.as_ref().map(SetbackDocument::from),
        }
    }
}

impl TryFrom<LeaseDocument> for Lease {
    type Error = DocumentError;

    fn try_from(document: LeaseDocument) -> Result<Self, DocumentError> {
        let LeaseDocument {
            id,
            state,
            select,
            scope,
            machine,
            machine_name,
            pool,
            holder,
            requested_by,
            token,
            origin,
            reference,
            ttl_ms,
            max_total_ms,
            queue_for_ms,
            prepare,
            release,
            record,
            keep_on_failure_ms,
            created_at,
            active_at,
            kept_at,
            fence,
            grants,
            media,
            job,
            queue_left_ms,
            lease_left_ms,
            total_left_ms,
            noted_at,
            warned,
            history,
            end,
            ended_at,
            error,
            warnings,
            setback,
        } = document;
        Ok(Self {
            id: lease_id(id)?,
            state: word("state of a lease", state, LeaseState::parse)?,
            select: select.try_into()?,
            scope: scope.map(Scope::from).unwrap_or_default(),
            machine: machine.map(Into::into),
            machine_name,
            pool,
            holder,
            requested_by,
            token: token.map(token_id).transpose()?,
            origin: origin.try_into()?,
            reference,
            ttl: Duration::from_millis(ttl_ms),
            max_total: Duration::from_millis(max_total_ms),
            queue_for: queue_for_ms.map(Duration::from_millis),
            prepare: prepare.map(TryInto::try_into).transpose()?,
            release: release.into(),
            record: record.map(TryInto::try_into).transpose()?,
            keep_on_failure: keep_on_failure_ms.map(Duration::from_millis),
            created_at: time(created_at)?,
            active_at: active_at.map(time).transpose()?,
            kept_at: kept_at.map(time).transpose()?,
            fence,
            grants,
            media: media.map(TryInto::try_into).transpose()?,
            job: job.map(job_id).transpose()?,
            time_left: TimeLeft {
                queue: Duration::from_millis(queue_left_ms),
                lease: Duration::from_millis(lease_left_ms),
                total: Duration::from_millis(total_left_ms),
            },
            measured_at: time(noted_at)?,
            warned,
            history: history.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            end: end.map(TryInto::try_into).transpose()?,
            ended_at: ended_at.map(time).transpose()?,
            error: error.map(TryInto::try_into).transpose()?,
            warnings,
            setback: setback.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<&Setback> for SetbackDocument {
    fn from(setback: &Setback) -> Self {
        let Setback { failure, since, attempts, machines } = setback;
        Self {
            failure: failure.into(),
            since: since.to_string(),
            attempts: *attempts,
            machines: machines.clone(),
        }
    }
}

impl TryFrom<SetbackDocument> for Setback {
    type Error = DocumentError;

    fn try_from(document: SetbackDocument) -> Result<Self, DocumentError> {
        let SetbackDocument { failure, since, attempts, machines } = document;
        Ok(Self { failure: failure.try_into()?, since: time(since)?, attempts, machines })
    }
}

impl From<&Recovery> for RecoveryDocument {
    fn from(recovery: &Recovery) -> Self {
        let Recovery { lease, machine, snapshot, media, attempts, pause, retry_at } = recovery;
        Self {
            lease: lease.to_string(),
            machine: machine.as_ref().map(Into::into),
            snapshot: snapshot.clone(),
            media: media.as_ref().map(Into::into),
            attempts: *attempts,
            pause_ms: milliseconds(*pause),
            retry_at: retry_at.to_string(),
        }
    }
}

impl TryFrom<RecoveryDocument> for Recovery {
    type Error = DocumentError;

    fn try_from(document: RecoveryDocument) -> Result<Self, DocumentError> {
        let RecoveryDocument { lease, machine, snapshot, media, attempts, pause_ms, retry_at } =
            document;
        Ok(Self {
            lease: lease_id(lease)?,
            machine: machine.map(Into::into),
            snapshot,
            media: media.map(TryInto::try_into).transpose()?,
            attempts,
            pause: Duration::from_millis(pause_ms),
            retry_at: time(retry_at)?,
        })
    }
}

impl From<&Select> for SelectDocument {
    fn from(select: &Select) -> Self {
        let Select {
            machine,
            name,
            mac,
            pool,
            pools,
            exclude,
            memory_bytes_at_least,
            nested_virtualization,
        } = select;
        Self {
            machine: machine.as_ref().map(ToString::to_string),
            name: name.clone(),
            mac: mac.map(|mac| mac.to_string()),
            pool: pool.clone(),
            pools: pools.clone(),
            exclude: exclude.iter().map(ToString::to_string).collect(),
            memory_bytes_at_least: *memory_bytes_at_least,
            nested_virtualization: *nested_virtualization,
        }
    }
}

impl TryFrom<SelectDocument> for Select {
    type Error = DocumentError;

    fn try_from(document: SelectDocument) -> Result<Self, DocumentError> {
        let SelectDocument {
            machine,
            name,
            mac,
            pool,
            pools,
            exclude,
            memory_bytes_at_least,
            nested_virtualization,
        } = document;
        let mac =
            mac.map(|mac| word("hardware address", mac, |mac| mac.parse().ok())).transpose()?;
        let reference = |machine: String| -> Result<MachineReference, DocumentError> {
            word("reference to a machine", machine, |machine| machine.parse().ok())
        };
        Ok(Self {
            machine: machine.map(reference).transpose()?,
            name,
            mac,
            pool,
            pools,
            exclude: exclude.into_iter().map(reference).collect::<Result<_, _>>()?,
            memory_bytes_at_least,
            nested_virtualization,
        })
    }
}

impl ScopeDocument {
    fn from_scope(scope: &Scope) -> Option<Self> {
        match scope {
            Scope::All => None,
            Scope::Selected { machines, pools } => {
                Some(Self { machines: machines.clone(), pools: pools.clone() })
            }
        }
    }
}

impl From<ScopeDocument> for Scope {
    fn from(document: ScopeDocument) -> Self {
        let ScopeDocument { machines, pools } = document;
        // The variant is made directly, because `Scope::new` would turn empty lists into a scope of
        // all machines.
        Self::Selected { machines, pools }
    }
}

impl From<&Prepare> for PrepareDocument {
    fn from(prepare: &Prepare) -> Self {
        let Prepare { snapshot, iso, boot, power, until, cidr, settle } = prepare;
        Self {
            snapshot: snapshot.clone(),
            iso: iso.clone(),
            boot: boot.as_ref().map(Into::into),
            power: power.map(|power| power.as_str().to_owned()),
            until: until.as_ref().map(ToString::to_string),
            cidr: cidr.map(|cidr| cidr.to_string()),
            settle_ms: settle.map(milliseconds),
        }
    }
}

impl TryFrom<PrepareDocument> for Prepare {
    type Error = DocumentError;

    fn try_from(document: PrepareDocument) -> Result<Self, DocumentError> {
        let PrepareDocument { snapshot, iso, boot, power: state, until, cidr, settle_ms } =
            document;
        Ok(Self {
            snapshot,
            iso,
            boot: boot.map(TryInto::try_into).transpose()?,
            power: state.map(power).transpose()?,
            until: until
                .map(|until| word("readiness", until, |until| Readiness::parse(until).ok()))
                .transpose()?,
            cidr: cidr.map(|cidr| word("network", cidr, |cidr| cidr.parse().ok())).transpose()?,
            settle: settle_ms.map(Duration::from_millis),
        })
    }
}

impl From<&Release> for ReleaseDocument {
    fn from(release: &Release) -> Self {
        let Release { keep_power, snapshot } = release;
        Self { keep_power: *keep_power, snapshot: snapshot.clone() }
    }
}

impl From<ReleaseDocument> for Release {
    fn from(document: ReleaseDocument) -> Self {
        let ReleaseDocument { keep_power, snapshot } = document;
        Self { keep_power, snapshot }
    }
}

impl From<&Record> for RecordDocument {
    fn from(record: &Record) -> Self {
        let Record { screen, serial } = record;
        let serial = serial.iter().map(ToString::to_string).collect();
        Self { screen: *screen, serial }
    }
}

impl TryFrom<RecordDocument> for Record {
    type Error = DocumentError;

    fn try_from(document: RecordDocument) -> Result<Self, DocumentError> {
        let RecordDocument { screen, serial } = document;
        let choice =
            |port| word("choice of serial ports", port, |port| PortChoice::parse(port).ok());
        Ok(Self { screen, serial: serial.into_iter().map(choice).collect::<Result<_, _>>()? })
    }
}

impl From<&HistoryEntry> for HistoryDocument {
    fn from(entry: &HistoryEntry) -> Self {
        let HistoryEntry { at, what } = entry;
        Self { at: at.to_string(), what: what.clone() }
    }
}

impl TryFrom<HistoryDocument> for HistoryEntry {
    type Error = DocumentError;

    fn try_from(document: HistoryDocument) -> Result<Self, DocumentError> {
        let HistoryDocument { at, what } = document;
        Ok(Self { at: time(at)?, what })
    }
}

impl From<&LeaseEnd> for EndDocument {
    fn from(end: &LeaseEnd) -> Self {
        let LeaseEnd { reason, by, at, detail } = end;
        Self {
            reason: reason.as_str().to_owned(),
            by: by.clone(),
            at: at.to_string(),
            detail: detail.clone(),
        }
    }
}

impl TryFrom<EndDocument> for LeaseEnd {
    type Error = DocumentError;

    fn try_from(document: EndDocument) -> Result<Self, DocumentError> {
        let EndDocument { reason, by, at, detail } = document;
        Ok(Self {
            reason: word("end of a lease", reason, EndReason::parse)?,
            by,
            at: time(at)?,
            detail,
        })
    }
}

impl From<&Quarantine> for QuarantineDocument {
    fn from(quarantine: &Quarantine) -> Self {
        let Quarantine { reason, by, since, automatic, job } = quarantine;
        Self {
            reason: reason.clone(),
            by: by.clone(),
            since: since.to_string(),
            automatic: *automatic,
            job: job.map(|job| job.to_string()),
        }
    }
}

impl TryFrom<QuarantineDocument> for Quarantine {
    type Error = DocumentError;

    fn try_from(document: QuarantineDocument) -> Result<Self, DocumentError> {
        let QuarantineDocument { reason, by, since, automatic, job } = document;
        Ok(Self { reason, by, since: time(since)?, automatic, job: job.map(job_id).transpose()? })
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
