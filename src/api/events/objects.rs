//! The objects of events, as GET shows them: that of one event, as it is now, and every one for `initial=true`.

use std::sync::Arc;
use std::vec;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::api::Api;
use crate::api::about::AboutSession;
use crate::api::datastores::Datastore as DatastoreView;
use crate::api::jobs::wire::Job as WireJob;
use crate::api::leases::wire::Lease as WireLease;
use crate::api::machines::wire::{Machine, Snapshot};
use crate::domain::datastore::Datastore;
use crate::domain::event::{EventFilter, EventType, Subject};
use crate::domain::failure::Failure;
use crate::domain::job::JobState;
use crate::service::jobs::JobView;
use crate::service::leases::LeaseView;
use crate::service::machines::{MachineFilter, MachineView};
use crate::store::{JobCursor, JobFilter};

/// How many jobs are read at a time.
const PAGE: u32 = 100;

/// An object and its id; the one or the other may be nothing.
pub struct Shown {
    pub id: Option<String>,
    pub object: Option<Box<RawValue>>,
}

/// What an event shows. None where its object is gone by now: another event says so.
///
/// # Errors
/// The store's.
pub async fn of_event(api: &Api, subject: &Subject) -> Result<Option<Shown>, Failure> {
    let services = api.services();
    Ok(match subject {
        Subject::Machine(id) => {
            services.machines.get(id).map(|view| shown(id.to_string(), &Machine::of(&view)))
        }
        Subject::Snapshot(machine, id) => services.machines.get(machine).and_then(|view| {
            let snapshot = view.record.machine.snapshots.get(id)?;
            Some(shown(id.to_string(), &Snapshot::one(&view, snapshot)))
        }),
        Subject::Datastore(id) => {
            let picture = services.inventory.picture();
            picture
                .datastore(id.as_str())
                .map(|datastore| shown(id.to_string(), &DatastoreView::of(datastore)))
        }
        Subject::Lease { id, .. } => {
            services.leases.get(*id).await?.map(|view| shown(id.to_string(), &WireLease::of(&view, None)))
        }
        Subject::MachineRemoved(id) => Some(gone(id.to_string())),
        Subject::SnapshotRemoved(_, id) => Some(gone(id.to_string())),
        Subject::DatastoreRemoved(id) => Some(gone(id.to_string())),
        Subject::Job { ended: Some(job), .. } => Some(of_job(&JobView::ended(job.as_ref().clone()))),
        Subject::Job { id, ended: None, .. } => services.jobs.get(*id).await?.as_ref().map(of_job),
        Subject::Session => Some(of_session(api)),
    })
}

fn of_job(view: &JobView) -> Shown {
    shown(view.job.id.to_string(), &WireJob::of(view))
}

fn of_session(api: &Api) -> Shown {
    let session = AboutSession::of(&api.services().inventory.session());
    Shown { id: None, object: raw(&session) }
}

fn shown<T: Serialize>(id: String, object: &T) -> Shown {
    Shown { id: Some(id), object: raw(object) }
}

fn gone(id: String) -> Shown {
    Shown { id: Some(id), object: None }
}

fn raw<T: Serialize>(object: &T) -> Option<Box<RawValue>> {
    // Wire types are plain structs with text keys, which always serialise.
    serde_json::value::to_raw_value(object).ok()
}

/// Every object that a filter wants: the session, datastores, machines with their snapshots, leases and jobs that have
/// not ended; where a job or a reference is named, its jobs whatever their state.
pub struct Objects {
    filter: EventFilter,
    session: bool,
    datastores: vec::IntoIter<Arc<Datastore>>,
    machines: vec::IntoIter<MachineView>,
    snapshots: vec::IntoIter<Shown>,
    leases: vec::IntoIter<LeaseView>,
    jobs: vec::IntoIter<JobView>,
    page: Page,
}

/// Where the reading of jobs is.
enum Page {
    First,
    After(JobCursor),
    Last,
}

impl Objects {
    /// All that there is now.
    ///
    /// # Errors
    /// `inventory-loading` before the host was first read.
    pub fn new(api: &Api, filter: &EventFilter) -> Result<Self, Failure> {
        let services = api.services();
        let machines = services.machines.list(&MachineFilter::default())?;
        let datastores = services.machines.picture()?.datastores.clone();
        // What no event of any job would fit needs no look into the store.
        let no_jobs = !filter.wants(EventType::JobChanged);
        let leases = services.leases.open();
        Ok(Self {
            filter: filter.clone(),
            session: true,
            datastores: datastores.into_iter(),
            machines: machines.into_iter(),
            snapshots: Vec::new().into_iter(),
            leases: leases.into_iter(),
            jobs: Vec::new().into_iter(),
            page: if no_jobs { Page::Last } else { Page::First },
        })
    }

    /// The next, with the type of its event. None when that was all.
    ///
    /// # Errors
    /// The store's.
    pub async fn next(&mut self, api: &Api) -> Result<Option<(EventType, Shown)>, Failure> {
        if std::mem::take(&mut self.session) && self.filter.fits(&Subject::Session) {
            return Ok(Some((EventType::SessionChanged, of_session(api))));
        }
        for datastore in self.datastores.by_ref() {
            if self.filter.fits(&Subject::Datastore(datastore.id.clone())) {
                let object = shown(datastore.id.to_string(), &DatastoreView::of(&datastore));
                return Ok(Some((EventType::DatastoreChanged, object)));
            }
        }
        loop {
            if let Some(snapshot) = self.snapshots.next() {
                return Ok(Some((EventType::SnapshotChanged, snapshot)));
            }
            let Some(view) = self.machines.next() else { break };
            self.snapshots = self.snapshots_of(&view).into_iter();
            let id = &view.record.machine.id;
            if self.filter.fits(&Subject::Machine(id.clone())) {
                return Ok(Some((EventType::MachineChanged, shown(id.to_string(), &Machine::of(&view)))));
            }
        }
        for view in self.leases.by_ref() {
            if self.filter.fits(&Subject::of_lease(&view.lease)) {
                let object = shown(view.lease.id.to_string(), &WireLease::of(&view, None));
                return Ok(Some((EventType::LeaseChanged, object)));
            }
        }
        loop {
            for view in self.jobs.by_ref() {
                if self.filter.fits(&Subject::of_job(&Arc::new(view.job.clone()))) {
                    return Ok(Some((EventType::JobChanged, of_job(&view))));
                }
            }
            let after = match self.page {
                Page::First => None,
                Page::After(cursor) => Some(cursor),
                Page::Last => return Ok(None),
            };
            self.read_jobs(api, after).await?;
        }
    }

    fn snapshots_of(&self, view: &MachineView) -> Vec<Shown> {
        let machine = &view.record.machine;
        let all = machine.snapshots.items.iter().zip(Snapshot::all(view));
        all.filter(|(snapshot, _)| {
            self.filter.fits(&Subject::Snapshot(machine.id.clone(), snapshot.id.clone()))
        })
        .map(|(snapshot, wire)| shown(snapshot.id.to_string(), &wire))
        .collect()
    }

    async fn read_jobs(&mut self, api: &Api, after: Option<JobCursor>) -> Result<(), Failure> {
        if let Some(id) = self.filter.job {
            self.jobs = api.services().jobs.get(id).await?.into_iter().collect::<Vec<_>>().into_iter();
            self.page = Page::Last;
            return Ok(());
        }
        let states = match self.filter.reference {
            Some(_) => Vec::new(),
            None => vec![JobState::Queued, JobState::Running],
        };
        let (machine, reference) = (self.filter.machine.clone(), self.filter.reference.clone());
        let filter = JobFilter { states, machine, reference, ..JobFilter::default() };
        let page = api.services().jobs.list(&filter, after, PAGE).await?;
        self.jobs = page.items.into_iter();
        self.page = page.next.map_or(Page::Last, Page::After);
        Ok(())
    }
}
