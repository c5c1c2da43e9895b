//! The objects in events, in the same form as GET returns them: the current object of one event,
//! and all objects for `initial=true`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::vec;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::api::ApiState;
use crate::api::about::AboutSession;
use crate::api::datastores::Datastore as DatastoreView;
use crate::api::jobs::JobReader;
use crate::api::leases::wire::Lease as WireLease;
use crate::api::machines::wire::{Machine, Snapshot};
use crate::domain::datastore::Datastore;
use crate::domain::event::{EventFilter, EventType, Placement, PlacementChange, Subject};
use crate::domain::failure::Failure;
use crate::domain::ids::DatastoreId;
use crate::domain::job::{Job, JobState};
use crate::service::callers::Caller;
use crate::service::jobs::{EndedJob, JobView};
use crate::service::leases::LeaseView;
use crate::service::machines::{MachineFilter, MachineView};
use crate::storage::{JobCursor, JobFilter};

/// The number of jobs to read from the store at a time.
const PAGE: u32 = 100;

/// The id and the object of an event. Either is `None` if events of this type do not have it.
pub struct EventPayload {
    pub id: Option<String>,
    pub object: Option<Box<RawValue>>,
}

/// The payloads of an event, each with its type. Empty if the object was removed, because another
/// event reports the removal, or if the object is not visible to the caller.
///
/// # Errors
/// The errors of the store.
pub async fn payloads_for_event(
    api: &ApiState,
    reader: &JobReader,
    filter: &EventFilter,
    subject: &Subject,
) -> Result<Vec<(EventType, EventPayload)>, Failure> {
    if let Subject::Placement(change) = subject {
        return Ok(placement_payloads(api, &reader.caller, filter, change));
    }
    let object = payload_for(api, reader, subject).await?;
    Ok(object.map(|object| (subject.event_type(), object)).into_iter().collect())
}

async fn payload_for(
    api: &ApiState,
    reader: &JobReader,
    subject: &Subject,
) -> Result<Option<EventPayload>, Failure> {
    let (services, caller) = (api.services(), &reader.caller);
    let (scope, machines) = (&caller.scope, &services.machines);
    let can_see = |view: &JobView| machines.visibility().shows_job(caller, &view.job);
    Ok(match subject {
        Subject::Machine(id) => machines
            .get_in(scope, id)
            .map(|view| payload(id.to_string(), &Machine::from_view(&view))),
        Subject::Snapshot(machine, id) => machines.get_in(scope, machine).and_then(|view| {
            let snapshot = view.machine.snapshots.get(id)?;
            Some(payload(id.to_string(), &Snapshot::from_view(&view, snapshot)))
        }),
        Subject::Datastore(id) | Subject::DatastoreCount(id) => datastore_payload(api, caller, id),
        Subject::Lease { id, .. } => services
            .leases
            .get_for(caller, *id)
            .await?
            .map(|view| payload(id.to_string(), &WireLease::from_view(&view, None))),
        // For a restricted caller, another event reports the removal: the change of the machine's
        // placement (its name, pools and datastores).
        Subject::MachineRemoved(id) => (!scope.is_restricted()).then(|| removed(id.to_string())),
        Subject::SnapshotRemoved(machine, id) => {
            let is_visible = !scope.is_restricted() || machines.get_in(scope, machine).is_some();
            is_visible.then(|| removed(id.to_string()))
        }
        Subject::DatastoreRemoved(id) => Some(removed(id.to_string())),
        Subject::Job { ended: Some(job), .. } => {
            let view = Some(JobView::ended(EndedJob::new(Arc::clone(job))));
            job_payload(api, reader, view.filter(can_see)).await?
        }
        Subject::Job { id, ended: None, .. } => {
            let view = services.jobs.get(*id).await?;
            job_payload(api, reader, view.filter(can_see)).await?
        }
        Subject::Session => Some(session_payload(api)),
        Subject::Placement(_) => None,
    })
}

/// The payloads for a machine whose placement (its name, pools and datastores) changed. They report
/// the machine and its snapshots as removed if the machine left the caller's scope. If the machine
/// came into the scope, another event reports the machine, and these payloads report its snapshots.
/// They also report the datastores on which the caller now counts more or fewer machines.
fn placement_payloads(
    api: &ApiState,
    caller: &Caller,
    filter: &EventFilter,
    change: &PlacementChange,
) -> Vec<(EventType, EventPayload)> {
    let PlacementChange { machine, before, after, snapshots } = change;
    let machines = &api.services().machines;
    let visibility = machines.visibility();
    let visible_placement = |placement: &Option<Placement>| {
        placement.clone().filter(|placement| visibility.had_machine(&caller.scope, placement))
    };
    let (was, is) = (visible_placement(before), visible_placement(after));
    let mut payloads: Vec<(EventType, EventPayload)> = match (&was, &is) {
        (Some(_), None) => {
            let snapshots =
                snapshots.iter().map(|id| (EventType::SnapshotRemoved, removed(id.to_string())));
            snapshots.chain([(EventType::MachineRemoved, removed(machine.to_string()))]).collect()
        }
        (None, Some(_)) if before.is_some() => {
            let view = machines.get_in(&caller.scope, machine);
            let snapshots = view.iter().flat_map(Snapshot::all);
            let payloads = snapshots.map(|snapshot| {
                (EventType::SnapshotChanged, payload(snapshot.id.clone(), &snapshot))
            });
            payloads.collect()
        }
        _ => Vec::new(),
    };
    // A stream that shows only one machine reports no datastores.
    if filter.machine.is_none() {
        let on = |placement: Option<Placement>| -> BTreeSet<DatastoreId> {
            placement.into_iter().flat_map(|placement| placement.datastores).collect()
        };
        let counted = on(was).symmetric_difference(&on(is)).cloned().collect::<Vec<_>>();
        let counted = counted.iter().filter_map(|id| datastore_payload(api, caller, id));
        payloads.extend(counted.map(|datastore| (EventType::DatastoreChanged, datastore)));
    }
    payloads.into_iter().filter(|(event_type, _)| filter.includes_type(*event_type)).collect()
}

fn datastore_payload(api: &ApiState, caller: &Caller, id: &DatastoreId) -> Option<EventPayload> {
    let contents = api.services().inventory.contents();
    let datastore = contents.datastore(id)?;
    Some(payload(id.to_string(), &DatastoreView::from_domain(api, &caller.scope, datastore)))
}

async fn job_payload(
    api: &ApiState,
    reader: &JobReader,
    view: Option<JobView>,
) -> Result<Option<EventPayload>, Failure> {
    let Some(view) = view else { return Ok(None) };
    let job = reader.show(api, &view).await?;
    Ok(Some(payload(view.job.id.to_string(), &job)))
}

fn session_payload(api: &ApiState) -> EventPayload {
    let session = AboutSession::from_status(&api.services().inventory.session());
    EventPayload { id: None, object: raw_json(&session) }
}

fn payload<T: Serialize>(id: String, object: &T) -> EventPayload {
    EventPayload { id: Some(id), object: raw_json(object) }
}

fn removed(id: String) -> EventPayload {
    EventPayload { id: Some(id), object: None }
}

fn raw_json<T: Serialize>(object: &T) -> Option<Box<RawValue>> {
    // This never gives `None`, because wire types are plain structs with text keys, which always
    // serialise.
    serde_json::value::to_raw_value(object).ok()
}

/// The objects with which a stream begins: the session, datastores, machines with their snapshots,
/// open leases, and jobs that have not ended, as far as they match the filter of the stream. If the
/// filter names a job or a reference, ended jobs are included.
pub struct InitialObjects {
    reader: JobReader,
    filter: EventFilter,
    session: bool,
    datastores: vec::IntoIter<Arc<Datastore>>,
    machines: vec::IntoIter<MachineView>,
    snapshots: vec::IntoIter<EventPayload>,
    leases: vec::IntoIter<LeaseView>,
    jobs: vec::IntoIter<JobView>,
    page: JobPages,
}

/// The place at which the next page of jobs begins, and whether there is one.
enum JobPages {
    First,
    After(JobCursor),
    Last,
}

impl InitialObjects {
    /// Collects the objects in memory. Jobs are read page by page later.
    ///
    /// # Errors
    /// `inventory-loading` before the inventory was first loaded.
    pub fn new(api: &ApiState, reader: &JobReader, filter: &EventFilter) -> Result<Self, Failure> {
        let (services, caller) = (api.services(), &reader.caller);
        let machines = services.machines.list(&caller.scope, &MachineFilter::default())?;
        let datastores = services.machines.contents()?.datastores.clone();
        // The store is not read if the filter excludes jobs.
        let no_jobs = !filter.includes_type(EventType::JobChanged);
        let leases = services.leases.open_leases(caller);
        Ok(Self {
            reader: reader.clone(),
            filter: filter.clone(),
            session: true,
            datastores: datastores.into_iter(),
            machines: machines.into_iter(),
            snapshots: Vec::new().into_iter(),
            leases: leases.into_iter(),
            jobs: Vec::new().into_iter(),
            page: if no_jobs { JobPages::Last } else { JobPages::First },
        })
    }

    /// The next object, with the type of the event that reports it. `None` after the last object.
    ///
    /// # Errors
    /// The errors of the store.
    pub async fn next(
        &mut self,
        api: &ApiState,
    ) -> Result<Option<(EventType, EventPayload)>, Failure> {
        if std::mem::take(&mut self.session) && self.filter.matches(&Subject::Session) {
            return Ok(Some((EventType::SessionChanged, session_payload(api))));
        }
        for datastore in self.datastores.by_ref() {
            if self.filter.matches(&Subject::Datastore(datastore.id.clone())) {
                let object = payload(
                    datastore.id.to_string(),
                    &DatastoreView::from_domain(api, &self.reader.caller.scope, &datastore),
                );
                return Ok(Some((EventType::DatastoreChanged, object)));
            }
        }
        loop {
            if let Some(snapshot) = self.snapshots.next() {
                return Ok(Some((EventType::SnapshotChanged, snapshot)));
            }
            let Some(view) = self.machines.next() else { break };
            self.snapshots = self.snapshot_payloads(&view).into_iter();
            let id = &view.machine.id;
            if self.filter.matches(&Subject::Machine(id.clone())) {
                return Ok(Some((
                    EventType::MachineChanged,
                    payload(id.to_string(), &Machine::from_view(&view)),
                )));
            }
        }
        for view in self.leases.by_ref() {
            if self.filter.matches(&Subject::from_lease(&view.lease)) {
                let object = payload(view.lease.id.to_string(), &WireLease::from_view(&view, None));
                return Ok(Some((EventType::LeaseChanged, object)));
            }
        }
        loop {
            for view in self.jobs.by_ref() {
                if self.filter.matches(&Subject::from_job(&view.job)) {
                    let object = job_payload(api, &self.reader, Some(view)).await?;
                    return Ok(object.map(|object| (EventType::JobChanged, object)));
                }
            }
            let after = match self.page {
                JobPages::First => None,
                JobPages::After(cursor) => Some(cursor),
                JobPages::Last => return Ok(None),
            };
            self.read_jobs(api, after).await?;
        }
    }

    fn snapshot_payloads(&self, view: &MachineView) -> Vec<EventPayload> {
        let machine = &view.machine;
        let all = machine.snapshots.items.iter().zip(Snapshot::all(view));
        all.filter(|(snapshot, _)| {
            self.filter.matches(&Subject::Snapshot(machine.id.clone(), snapshot.id.clone()))
        })
        .map(|(snapshot, wire)| payload(snapshot.id.to_string(), &wire))
        .collect()
    }

    async fn read_jobs(&mut self, api: &ApiState, after: Option<JobCursor>) -> Result<(), Failure> {
        let visibility = api.services().machines.visibility();
        let caller = &self.reader.caller;
        let is_visible = |job: &Job| visibility.shows_job(caller, job);
        if let Some(id) = self.filter.job {
            let job = api.services().jobs.get(id).await?;
            let visible = job.filter(|view| is_visible(&view.job));
            self.jobs = visible.into_iter().collect::<Vec<_>>().into_iter();
            self.page = JobPages::Last;
            return Ok(());
        }
        let states = match self.filter.reference {
            Some(_) => Vec::new(),
            None => vec![JobState::Queued, JobState::Running],
        };
        let (machine, reference) = (self.filter.machine.clone(), self.filter.reference.clone());
        let filter = JobFilter { states, machine, reference, ..JobFilter::default() };
        let visible = caller.scope.is_restricted().then_some(&is_visible as _);
        let page = api.services().jobs.list(&filter, after, PAGE, visible).await?;
        self.jobs = page.items.into_iter();
        self.page = page.next.map_or(JobPages::Last, JobPages::After);
        Ok(())
    }
}
