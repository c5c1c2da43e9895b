//! An event says that an object which callers can see has changed. An event holds the id of the
//! object, but not its state. The state is read when the event is sent, so that a reader never gets
//! an older state after a newer one.

use std::sync::Arc;

use jiff::Timestamp;

use super::ids::{DatastoreId, JobId, LeaseId, MachineId, SnapshotId};
use super::job::Job;
use super::lease::Lease;
use super::machine_reference::MachineKeys;

/// One event: a change of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub at: Timestamp,
    pub subject: Subject,
}

/// The object that changed or was removed.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    Machine(MachineId),
    MachineRemoved(MachineId),
    Snapshot(MachineId, SnapshotId),
    SnapshotRemoved(MachineId, SnapshotId),
    Job {
        id: JobId,
        machine: Option<MachineId>,
        reference: Option<Arc<str>>,
        lease: Option<LeaseId>,
        /// The job, if it has ended. An ended job never changes, so readers need not load it from
        /// the store.
        ended: Option<Arc<Job>>,
    },
    Lease {
        id: LeaseId,
        machine: Option<MachineId>,
        reference: Option<Arc<str>>,
    },
    Datastore(DatastoreId),
    /// Only the number of machines on a datastore changed. Streams of callers with a restricted
    /// scope do not report this event, because such callers see only the number of the machines in
    /// their scope.
    DatastoreCount(DatastoreId),
    DatastoreRemoved(DatastoreId),
    Session,
    /// A machine changed so that it may belong to other scopes than before, or that a scope may
    /// have more or fewer machines on a datastore. Only streams of callers with a restricted scope
    /// report this event.
    Placement(Arc<PlacementChange>),
}

/// The placement of a machine before and after a change. `before` is `None` if the machine is new,
/// and `after` is `None` if it was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementChange {
    pub machine: MachineId,
    pub before: Option<Placement>,
    pub after: Option<Placement>,
    /// The snapshots that the machine had before the change.
    pub snapshots: Vec<SnapshotId>,
}

/// The properties of a machine that decide which scopes contain it, and the datastores that hold
/// its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub keys: MachineKeys,
    /// The pools that the machine's annotation names.
    pub annotated_pools: Vec<String>,
    /// The datastores that hold files of the machine.
    pub datastores: Vec<DatastoreId>,
}

/// The type of an event in the HTTP API. Callers can filter events by their type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    MachineChanged,
    MachineRemoved,
    SnapshotChanged,
    SnapshotRemoved,
    JobChanged,
    DatastoreChanged,
    DatastoreRemoved,
    LeaseChanged,
    SessionChanged,
    /// The stream has sent every object once. The events that follow are changes.
    Synced,
    /// The stream has lost events that came before this one, so the client must load all objects
    /// again.
    Reset,
    /// The stream ends with this event.
    Bye,
}

/// Selects events by the object that they are about. As long as an object exists, the filter
/// selects either all or none of its events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// The types that the filter selects. An empty list selects every type.
    pub types: Vec<EventType>,
    pub machine: Option<MachineId>,
    pub job: Option<JobId>,
    pub lease: Option<LeaseId>,
    pub reference: Option<String>,
    /// Whether the filter selects changes of placement too.
    pub placements: bool,
}

impl Subject {
    /// The subject of an event about this job.
    #[must_use]
    pub fn from_job(job: &Arc<Job>) -> Self {
        Self::Job {
            id: job.id,
            machine: job.machine_id().cloned(),
            reference: job.reference.as_deref().map(Arc::from),
            lease: job.lease,
            ended: job.state.is_end().then(|| Arc::clone(job)),
        }
    }

    /// The subject of an event about this lease.
    #[must_use]
    pub fn from_lease(lease: &Arc<Lease>) -> Self {
        Self::Lease {
            id: lease.id,
            machine: lease.machine.as_ref().map(|machine| machine.id.clone()),
            reference: lease.reference.as_deref().map(Arc::from),
        }
    }

    /// The type of the events about this subject.
    #[must_use]
    pub const fn event_type(&self) -> EventType {
        match self {
            Self::Machine(_) => EventType::MachineChanged,
            Self::MachineRemoved(_) | Self::Placement(_) => EventType::MachineRemoved,
            Self::Snapshot(..) => EventType::SnapshotChanged,
            Self::SnapshotRemoved(..) => EventType::SnapshotRemoved,
            Self::Job { .. } => EventType::JobChanged,
            Self::Lease { .. } => EventType::LeaseChanged,
            Self::Datastore(_) | Self::DatastoreCount(_) => EventType::DatastoreChanged,
            Self::DatastoreRemoved(_) => EventType::DatastoreRemoved,
            Self::Session => EventType::SessionChanged,
        }
    }

    /// The machine that the event is about, or the machine to which the object of the event
    /// belongs. `None` if the object belongs to no machine.
    #[must_use]
    pub fn machine(&self) -> Option<&MachineId> {
        match self {
            Self::Machine(machine)
            | Self::MachineRemoved(machine)
            | Self::Snapshot(machine, _)
            | Self::SnapshotRemoved(machine, _) => Some(machine),
            Self::Job { machine, .. } | Self::Lease { machine, .. } => machine.as_ref(),
            Self::Placement(change) => Some(&change.machine),
            Self::Datastore(_)
            | Self::DatastoreCount(_)
            | Self::DatastoreRemoved(_)
            | Self::Session => None,
        }
    }

    /// The approximate number of bytes that an event with this subject takes in memory.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        let content = match self {
            Self::Machine(id) | Self::MachineRemoved(id) => id.size(),
            Self::Snapshot(machine, id) | Self::SnapshotRemoved(machine, id) => {
                machine.size() + id.size()
            }
            Self::Job { machine, reference, ended, .. } => {
                machine.as_ref().map_or(0, MachineId::size)
                    + reference.as_ref().map_or(0, |reference| reference.len())
                    + ended.as_ref().map_or(0, |job| job_memory_size(job))
            }
            Self::Lease { machine, reference, .. } => {
                machine.as_ref().map_or(0, MachineId::size)
                    + reference.as_ref().map_or(0, |reference| reference.len())
            }
            Self::Datastore(id) | Self::DatastoreCount(id) | Self::DatastoreRemoved(id) => {
                id.size()
            }
            Self::Session => 0,
            Self::Placement(change) => placement_memory_size(change),
        };
        size_of::<Event>() + content
    }
}

fn placement_memory_size(change: &PlacementChange) -> usize {
    let size_of_one = |placement: &Placement| {
        let pools = placement.annotated_pools.iter().map(String::len).sum::<usize>();
        let datastores = placement.datastores.iter().map(|id| size_of::<DatastoreId>() + id.size());
        placement.keys.memory_size() + pools + datastores.sum::<usize>()
    };
    let snapshots: usize =
        change.snapshots.iter().map(|id| size_of::<SnapshotId>() + id.size()).sum();
    let placements: usize =
        [&change.before, &change.after].into_iter().flatten().map(size_of_one).sum();
    size_of::<PlacementChange>() + placements + snapshots
}

fn job_memory_size(job: &Job) -> usize {
    const TEXTS: usize = 512;
    let steps: usize =
        job.steps.iter().map(|step| TEXTS + step.detail.as_ref().map_or(0, String::len)).sum();
    let warnings: usize = job.warnings.iter().map(String::len).sum();
    let error = job.error.as_ref().map_or(0, |failure| {
        TEXTS
            + failure.detail.len()
            + failure.fault.as_ref().map_or(0, |fault| TEXTS + fault.message.len())
    });
    size_of::<Job>() + TEXTS + steps + warnings + error
}

impl EventType {
    /// Every type, for filters of the HTTP API and for the OpenAPI document.
    pub const ALL: &'static [Self] = &[
        Self::MachineChanged,
        Self::MachineRemoved,
        Self::SnapshotChanged,
        Self::SnapshotRemoved,
        Self::JobChanged,
        Self::DatastoreChanged,
        Self::DatastoreRemoved,
        Self::LeaseChanged,
        Self::SessionChanged,
        Self::Synced,
        Self::Reset,
        Self::Bye,
    ];

    /// The word for this type of event in the HTTP API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MachineChanged => "machine.changed",
            Self::MachineRemoved => "machine.removed",
            Self::SnapshotChanged => "snapshot.changed",
            Self::SnapshotRemoved => "snapshot.removed",
            Self::JobChanged => "job.changed",
            Self::DatastoreChanged => "datastore.changed",
            Self::DatastoreRemoved => "datastore.removed",
            Self::LeaseChanged => "lease.changed",
            Self::SessionChanged => "session.changed",
            Self::Synced => "synced",
            Self::Reset => "reset",
            Self::Bye => "bye",
        }
    }

    /// Parses the word of an event type. `None` if the word names no type.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.as_str() == word)
    }
}

impl EventFilter {
    /// Whether the filter selects events of this type.
    #[must_use]
    pub fn includes_type(&self, event_type: EventType) -> bool {
        self.types.is_empty() || self.types.contains(&event_type)
    }

    /// Whether the filter selects events about this subject. A subject must meet every condition of
    /// the filter.
    #[must_use]
    pub fn matches(&self, subject: &Subject) -> bool {
        let (job, reference, lease) = match subject {
            Subject::Job { id, reference, lease, .. } => (Some(*id), reference.as_deref(), *lease),
            Subject::Lease { id, reference, .. } => (None, reference.as_deref(), Some(*id)),
            _ => (None, None, None),
        };
        let matches_type = match subject {
            Subject::Placement(_) => {
                let reported = [
                    EventType::MachineRemoved,
                    EventType::SnapshotRemoved,
                    EventType::SnapshotChanged,
                    EventType::DatastoreChanged,
                ];
                self.placements && reported.into_iter().any(|reported| self.includes_type(reported))
            }
            Subject::DatastoreCount(_) if self.placements => false,
            _ => self.includes_type(subject.event_type()),
        };
        matches_type
            && self.machine.as_ref().is_none_or(|machine| subject.machine() == Some(machine))
            && self.job.is_none_or(|filtered| job == Some(filtered))
            && self.reference.as_deref().is_none_or(|filtered| reference == Some(filtered))
            && self.lease.is_none_or(|filtered| lease == Some(filtered))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::machine::Machine;

    #[test]
    fn a_filter_needs_every_condition() {
        let machine = MachineId::from_backend("16");
        let id = JobId::new(Uuid::from_u128(1));
        let job = Subject::Job {
            id,
            machine: Some(machine.clone()),
            reference: Some("ci/7".into()),
            lease: None,
            ended: None,
        };
        let snapshot =
            Subject::Snapshot(machine.clone(), SnapshotId::from_backend("16-snapshot-1"));
        let host_job = Subject::Job {
            id: JobId::new(Uuid::from_u128(2)),
            machine: None,
            reference: Some("ci/7".into()),
            lease: None,
            ended: None,
        };
        let all = EventFilter::default;
        let by_machine = EventFilter { machine: Some(machine.clone()), ..all() };
        assert!(by_machine.matches(&job) && by_machine.matches(&snapshot));
        assert!(by_machine.matches(&Subject::MachineRemoved(machine)));
        assert!(
            !by_machine.matches(&Subject::Machine(MachineId::from_backend("17")))
                && !by_machine.matches(&Subject::Session)
        );
        assert!(!by_machine.matches(&host_job) && all().matches(&host_job));
        let by_job = EventFilter { job: Some(id), ..all() };
        assert!(by_job.matches(&job) && !by_job.matches(&snapshot));
        let by_reference = EventFilter { reference: Some("ci/7".to_owned()), ..all() };
        assert!(by_reference.matches(&job) && !by_reference.matches(&snapshot));
        let other = EventFilter { reference: Some("ci".to_owned()), ..by_job };
        assert!(!other.matches(&job));
        let typed = EventFilter { types: vec![EventType::SnapshotChanged], ..by_machine.clone() };
        assert!(typed.matches(&snapshot) && !typed.matches(&job));
        let moved = Subject::Placement(Arc::new(PlacementChange {
            machine: MachineId::from_backend("16"),
            before: Some(Placement {
                keys: MachineKeys::new(&Machine::new(MachineId::from_backend("16"))),
                annotated_pools: Vec::new(),
                datastores: Vec::new(),
            }),
            after: None,
            snapshots: Vec::new(),
        }));
        let placements = EventFilter { placements: true, ..by_machine.clone() };
        assert!(placements.matches(&moved) && !by_machine.matches(&moved));
        assert!(!EventFilter { types: vec![EventType::JobChanged], ..placements }.matches(&moved));
        assert!(!EventFilter { lease: Some(LeaseId::new(Uuid::nil())), ..all() }.matches(&job));
    }

    #[test]
    fn every_word_is_parsed() {
        for known in EventType::ALL {
            assert_eq!(EventType::parse(known.as_str()), Some(*known));
        }
        assert_eq!(EventType::parse("machine"), None);
    }
}
