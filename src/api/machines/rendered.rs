//! The JSON texts of machines and of the list of all machines. A text is made once, and shared by
//! all responses, until something that the text shows changes.
//!
//! A text never shows an old state: a text is found by the sources from which it was made (the
//! inventory, the leases, the settings and the activities of machines). A machine whose view is the
//! same as before keeps its text, whatever else changed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwapOption;
use bytes::Bytes;

use super::wire::Machine as WireMachine;
use crate::api::entity_tag::{Digest, digest};
use crate::api::respond::{SharedBody, to_json};
use crate::domain::ids::MachineId;
use crate::domain::machine::Machine;
use crate::service::machines::{MachineView, Machines, SourcesKey, ViewSources};

/// A cache of the texts of machines and of their list.
#[derive(Default)]
pub struct RenderedMachines {
    /// The newest sources (the state that views of machines show) from which a text was made.
    newest: ArcSwapOption<NumberedSources>,
    last_number: AtomicU64,
    machines: RwLock<HashMap<MachineId, Known>>,
    list: ArcSwapOption<RenderedList>,
    /// Locked while a list is made. So concurrent readers of new sources make the list only once.
    making_list: Mutex<()>,
}

/// A machine and its text.
#[derive(Debug)]
pub struct RenderedMachine {
    pub view: MachineView,
    pub json: Bytes,
    pub digest: Digest,
    /// The response with this machine alone.
    pub body: SharedBody,
}

/// All machines as some sources show them, and the JSON text of the list of these machines.
#[derive(Debug)]
pub struct RenderedList {
    number: u64,
    /// Sorted by name.
    machines: Vec<Arc<RenderedMachine>>,
    /// The response with all machines.
    pub body: Arc<SharedBody>,
}

/// Identifies some sources (the state that views of machines show): their key, and the number under
/// which the texts that were made from them are cached.
struct NumberedSources {
    key: SourcesKey,
    number: u64,
}

/// A cached machine. `number` identifies the newest sources of which it is known that the cached
/// text shows them.
struct Known {
    number: u64,
    machine: Arc<RenderedMachine>,
}

impl RenderedMachines {
    /// The text of a machine, from the cache if it is there.
    ///
    /// # Parameters
    /// - `machine`: a machine in `sources`.
    pub fn machine(
        &self,
        machines: &Machines,
        sources: &ViewSources,
        machine: &Arc<Machine>,
    ) -> Arc<RenderedMachine> {
        let number = self.number(sources);
        let known = self.known(&machine.id);
        if let Some((_, rendered)) = known.as_ref().filter(|(known, _)| *known == number) {
            return Arc::clone(rendered);
        }
        let known = known.map(|(_, rendered)| rendered);
        let rendered = rendered(machines.view(sources, machine), known);
        self.remember(number, sources, [&rendered]);
        rendered
    }

    /// The text of the list of all machines, from the cache if it is there.
    pub fn list(&self, machines: &Machines, sources: &ViewSources) -> Arc<RenderedList> {
        let number = self.number(sources);
        let is_current = |list: &Arc<RenderedList>| list.number == number;
        if let Some(list) = self.list.load_full().filter(is_current) {
            return list;
        }
        let _one_maker = self.making_list.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.list.load_full();
        if let Some(list) = before.clone().filter(is_current) {
            return list;
        }
        let views = machines.views(sources, &sources.contents().machines);
        let mut made = Vec::new();
        let all: Vec<Arc<RenderedMachine>> = views
            .into_iter()
            .map(|view| {
                let known = self.known(&view.machine.id).map(|(_, known)| known);
                let rendered = rendered(view, known.clone());
                if known.is_none_or(|known| !Arc::ptr_eq(&known, &rendered)) {
                    made.push(Arc::clone(&rendered));
                }
                rendered
            })
            .collect();
        self.remember(number, sources, &made);
        let is_same = |before: &Arc<RenderedList>| {
            let pairs = || before.machines.iter().zip(&all);
            before.machines.len() == all.len() && pairs().all(|(old, new)| Arc::ptr_eq(old, new))
        };
        let body = before.filter(is_same).map_or_else(
            || {
                let items = all.iter().map(|machine| (&machine.json, &machine.digest));
                Arc::new(SharedBody::list(items, None))
            },
            |before| Arc::clone(&before.body),
        );
        let list = Arc::new(RenderedList { number, machines: all, body });
        self.list.store(Some(Arc::clone(&list)));
        list
    }

    /// The number that identifies these sources. New sources get a new number.
    fn number(&self, sources: &ViewSources) -> u64 {
        if let Some(newest) = self.newest.load().as_ref().filter(|newest| newest.key.is_of(sources))
        {
            return newest.number;
        }
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        self.newest.store(Some(Arc::new(NumberedSources { key: sources.key(), number })));
        number
    }

    fn known(&self, id: &MachineId) -> Option<(u64, Arc<RenderedMachine>)> {
        let machines = self.machines.read().unwrap_or_else(PoisonError::into_inner);
        machines.get(id).map(|known| (known.number, Arc::clone(&known.machine)))
    }

    fn remember<'m>(
        &self,
        number: u64,
        sources: &ViewSources,
        made: impl IntoIterator<Item = &'m Arc<RenderedMachine>>,
    ) {
        let mut machines = self.machines.write().unwrap_or_else(PoisonError::into_inner);
        for machine in made {
            let id = machine.view.machine.id.clone();
            machines.insert(id, Known { number, machine: Arc::clone(machine) });
        }
        let contents = sources.contents();
        if machines.len() > contents.machines.len() {
            machines.retain(|id, _| contents.machine(id).is_some());
        }
    }
}

impl RenderedList {
    /// The text of one machine of the list.
    ///
    /// # Parameters
    /// - `sources`: the sources from which the list was made.
    #[must_use]
    pub fn get(&self, sources: &ViewSources, machine: &Machine) -> Option<&RenderedMachine> {
        let position = sources.contents().position(&machine.id)?;
        self.machines.get(position).map(Arc::as_ref)
    }
}

impl RenderedMachine {
    fn new(view: MachineView) -> Self {
        let json = Bytes::from(to_json(&WireMachine::from_view(&view)));
        let digest = digest([&*json]);
        Self { view, body: SharedBody::object(json.clone(), &digest), json, digest }
    }
}

/// The text of a view. Reuses `known` if it was made from an equal view.
fn rendered(view: MachineView, known: Option<Arc<RenderedMachine>>) -> Arc<RenderedMachine> {
    known.filter(|known| known.view == view).unwrap_or_else(|| Arc::new(RenderedMachine::new(view)))
}
