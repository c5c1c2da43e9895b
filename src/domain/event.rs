//! An event: what changed of all that callers can see, and when. It names the object; what that is
//! like is read when the event is sent, so that no reader is shown an older state after a newer
//! one.

use std::sync::Arc;

use jiff::Timestamp;

use super::ids::{DatastoreId, JobId, LeaseId, MachineId, SnapshotId};
use super::job::Job;
use super::lease::Lease;

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub at: Timestamp,
    pub subject: Subject,
}

/// What changed, or is gone.
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
        /// The job at its end, which never changes: nobody need read it back from the store.
        ended: Option<Arc<Job>>,
    },
    Lease {
        id: LeaseId,
        machine: Option<MachineId>,
        reference: Option<Arc<str>>,
    },
    Datastore(DatastoreId),
    /// Only the number of machines on a datastore changed. Streams of restricted callers, which
    /// count the machines of their scope, do not report it.
    DatastoreCount(DatastoreId),
    DatastoreRemoved(DatastoreId),
    Session,
    /// A change of a machine that can change its membership in scopes, or the number of machines of
    /// a scope on a datastore. Only streams of restricted callers report it.
    Placement(Arc<PlacementChange>),
}

/// The placement of a machine before and after a change. `before` is `None` if the machine is new,
/// and `after` once it is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementChange {
    pub machine: MachineId,
    pub before: Option<Placement>,
    pub after: Option<Placement>,
    /// The snapshots that the machine had before.
    pub snapshots: Vec<SnapshotId>,
}

/// The properties that decide the scopes of a machine, except its id, and its datastores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub name: String,
    /// The pools that its annotation names.
    pub annotated_pools: Vec<String>,
    /// The datastores that hold files of it.
    pub datastores: Vec<DatastoreId>,
}

/// The type of an event, as callers see and filter it.
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
    /// Every object was sent; what follows are changes.
    Synced,
    /// There is a gap before this: read anew what is there.
    Reset,
    /// The stream ends.
    Bye,
}

/// Which events are wanted, by identity alone: whether one fits never changes while its object
/// lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Empty: all.
    pub types: Vec<EventType>,
    pub machine: Option<MachineId>,
    pub job: Option<JobId>,
    pub lease: Option<LeaseId>,
    pub reference: Option<String>,
    /// Whether the stream also gets changes of placement.
    pub placements: bool,
}

impl Subject {
    /// A change of this job.
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

    /// A change of this lease.
    #[must_use]
    pub fn from_lease(lease: &Arc<Lease>) -> Self {
        Self::Lease {
            id: lease.id,
            machine: lease.machine.as_ref().map(|machine| machine.id.clone()),
            reference: lease.reference.as_deref().map(Arc::from),
        }
    }

    /// The type that its events have.
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

    /// The machine that it is, or is about.
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

    /// About how many bytes it keeps in memory.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        let kept = match self {
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
        size_of::<Event>() + kept
    }
}

fn placement_memory_size(change: &PlacementChange) -> usize {
    let of = |placement: &Placement| {
        let pools = placement.annotated_pools.iter().map(String::len).sum::<usize>();
        let datastores = placement.datastores.iter().map(|id| size_of::<DatastoreId>() + id.size());
        placement.name.len() + pools + datastores.sum::<usize>()
    };
    let snapshots: usize =
        change.snapshots.iter().map(|id| size_of::<SnapshotId>() + id.size()).sum();
    let placements: usize = [&change.before, &change.after].into_iter().flatten().map(of).sum();
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
    /// Every type, for filters and documents.
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

    /// The word that callers see.
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

    /// Reads the word back; `None` for any other.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.as_str() == word)
    }
}

impl EventFilter {
    /// Whether events of this type are wanted at all.
    #[must_use]
    pub fn includes_type(&self, event_type: EventType) -> bool {
        self.types.is_empty() || self.types.contains(&event_type)
    }

    /// Whether an event about this is wanted: all that is said must fit.
    #[must_use]
    pub fn matches(&self, subject: &Subject) -> bool {
        let (job, of_reference, lease) = match subject {
            Subject::Job { id, reference, lease, .. } => (Some(*id), reference.as_deref(), *lease),
            Subject::Lease { id, reference, .. } => (None, reference.as_deref(), Some(*id)),
            _ => (None, None, None),
        };
        let is_wanted = match subject {
            Subject::Placement(_) => {
                let told = [
                    EventType::MachineRemoved,
                    EventType::SnapshotRemoved,
                    EventType::SnapshotChanged,
                    EventType::DatastoreChanged,
                ];
                self.placements && told.into_iter().any(|told| self.includes_type(told))
            }
            Subject::DatastoreCount(_) if self.placements => false,
            _ => self.includes_type(subject.event_type()),
        };
        is_wanted
            && self.machine.as_ref().is_none_or(|machine| subject.machine() == Some(machine))
            && self.job.is_none_or(|wanted| job == Some(wanted))
            && self.reference.as_deref().is_none_or(|wanted| of_reference == Some(wanted))
            && self.lease.is_none_or(|wanted| lease == Some(wanted))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_filter_goes_by_all_that_it_says() {
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
        let of_host = Subject::Job {
            id: JobId::new(Uuid::from_u128(2)),
            machine: None,
            reference: Some("ci/7".into()),
            lease: None,
            ended: None,
        };
        let all = EventFilter::default;
        let of_machine = EventFilter { machine: Some(machine.clone()), ..all() };
        assert!(of_machine.matches(&job) && of_machine.matches(&snapshot));
        assert!(of_machine.matches(&Subject::MachineRemoved(machine)));
        assert!(
            !of_machine.matches(&Subject::Machine(MachineId::from_backend("17")))
                && !of_machine.matches(&Subject::Session)
        );
        assert!(!of_machine.matches(&of_host) && all().matches(&of_host));
        let of_job = EventFilter { job: Some(id), ..all() };
        assert!(of_job.matches(&job) && !of_job.matches(&snapshot));
        let of_reference = EventFilter { reference: Some("ci/7".to_owned()), ..all() };
        assert!(of_reference.matches(&job) && !of_reference.matches(&snapshot));
        let other = EventFilter { reference: Some("ci".to_owned()), ..of_job };
        assert!(!other.matches(&job));
        let typed = EventFilter { types: vec![EventType::SnapshotChanged], ..of_machine.clone() };
        assert!(typed.matches(&snapshot) && !typed.matches(&job));
        let moved = Subject::Placement(Arc::new(PlacementChange {
            machine: MachineId::from_backend("16"),
            before: Some(Placement {
                name: "qubes".to_owned(),
                annotated_pools: Vec::new(),
                datastores: Vec::new(),
            }),
            after: None,
            snapshots: Vec::new(),
        }));
        let placements = EventFilter { placements: true, ..of_machine.clone() };
        assert!(placements.matches(&moved) && !of_machine.matches(&moved));
        assert!(!EventFilter { types: vec![EventType::JobChanged], ..placements }.matches(&moved));
        assert!(!EventFilter { lease: Some(LeaseId::new(Uuid::nil())), ..all() }.matches(&job));
    }

    #[test]
    fn words_are_read_back() {
        for known in EventType::ALL {
            assert_eq!(EventType::parse(known.as_str()), Some(*known));
        }
        assert_eq!(EventType::parse("machine"), None);
    }
}
