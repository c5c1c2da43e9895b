//! The machine or snapshot that a caller's reference names, and the failure if it names none or
//! several.

use std::sync::Arc;

use super::{MachineView, Machines, ViewSources, shorten};
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::domain::ids::SnapshotId;
use crate::domain::mac::InvalidMacAddress;
use crate::domain::machine::Machine;
use crate::domain::machine_reference::{InvalidMachineReference, MachineReference};
use crate::domain::names::is_name;
use crate::domain::scope::Scope;
use crate::domain::snapshot::{Snapshot, SnapshotLookupError};
use crate::service::inventory::InventoryContents;

impl Machines {
    /// The machine of a scope that a path or a body names: an id, `name:<exact>`, `uuid:<instance,
    /// then BIOS>` or `mac:<…>`. A machine outside of the scope does not exist for the caller.
    ///
    /// # Errors
    /// - `not-found`
    /// - `ambiguous-name`, with the candidates
    /// - `invalid-request` if the reference is empty or malformed
    pub fn resolve(&self, scope: &Scope, reference: &str) -> Result<MachineView, Failure> {
        self.resolve_parsed(scope, &parse_reference(reference)?, reference)
    }

    /// Finds a machine like [`Machines::resolve`], but does not build its view.
    ///
    /// # Errors
    /// The errors of [`Machines::resolve`].
    pub fn find<'s>(
        &self,
        sources: &'s ViewSources,
        scope: &Scope,
        reference: &str,
    ) -> Result<&'s Arc<Machine>, Failure> {
        self.find_parsed(sources, scope, &parse_reference(reference)?, reference)
    }

    /// The machine of a scope that a reference names.
    ///
    /// # Errors
    /// - `not-found`
    /// - `ambiguous-name`, with the candidates
    pub fn resolve_reference(
        &self,
        scope: &Scope,
        reference: &MachineReference,
    ) -> Result<MachineView, Failure> {
        self.resolve_parsed(scope, reference, &reference.to_string())
    }

    /// The machine of a scope with exactly this name.
    ///
    /// # Errors
    /// The errors of [`Machines::resolve`].
    pub fn resolve_name(&self, scope: &Scope, name: &str) -> Result<MachineView, Failure> {
        self.resolve_parsed(scope, &parse_reference(&format!("name:{name}"))?, name)
    }

    /// The snapshot that a path or a body names, by id, else by name, else by path.
    ///
    /// # Errors
    /// The errors of the function [`snapshot`].
    pub fn snapshot<'m>(
        &self,
        view: &'m MachineView,
        reference: &str,
    ) -> Result<&'m Snapshot, Failure> {
        snapshot(&view.machine, reference)
    }

    /// The machine that a parsed reference names. A failure quotes the reference as the caller
    /// wrote it (`as_written`).
    fn resolve_parsed(
        &self,
        scope: &Scope,
        reference: &MachineReference,
        as_written: &str,
    ) -> Result<MachineView, Failure> {
        let sources = self.sources()?;
        let machine = self.find_parsed(&sources, scope, reference, as_written)?;
        Ok(self.view(&sources, machine))
    }

    fn find_parsed<'s>(
        &self,
        sources: &'s ViewSources,
        scope: &Scope,
        reference: &MachineReference,
        as_written: &str,
    ) -> Result<&'s Arc<Machine>, Failure> {
        let contents = sources.contents();
        let visible = |machine: &Machine| self.visibility.has_machine(scope, machine);
        match matching(contents, &visible, reference).as_slice() {
            [] => Err(Failure::new(
                FailureKind::NotFound,
                no_match(contents, &visible, reference, as_written),
            )),
            [machine] => Ok(machine),
            several => Err(ambiguous(as_written, several)),
        }
    }
}

/// The snapshot of a machine that a reference names: by its id, else by its name, else by its path.
///
/// # Errors
/// - `not-found`
/// - `ambiguous-name`, with the candidates
/// - `invalid-request` if the reference is empty
pub fn snapshot<'m>(machine: &'m Machine, reference: &str) -> Result<&'m Snapshot, Failure> {
    if reference.is_empty() {
        return Err(empty_name("snapshot"));
    }
    machine.snapshots.find(reference).map_err(|error| match error {
        SnapshotLookupError::NotFound => Failure::new(
            FailureKind::NotFound,
            format!(
                "{} has no snapshot called {}. List them: GET /v1/machines/{}/snapshots",
                machine.name,
                shorten(reference),
                machine.id
            ),
        )
        .with_machine(&machine.id, &machine.name),
        SnapshotLookupError::Ambiguous(ids) => {
            let paths = machine.snapshots.paths();
            let path = |id: &SnapshotId| {
                let position =
                    machine.snapshots.items.iter().position(|snapshot| snapshot.id == *id);
                position.map(|position| paths[position].clone()).unwrap_or_default()
            };
            // Recommend a path only if each path finds its own snapshot. This is not always so: two
            // snapshots can have the same path, and the path of one can be the name of another.
            let is_found_by_path = |id: &SnapshotId| {
                machine.snapshots.find(&path(id)).is_ok_and(|found| found.id == *id)
            };
            let by = if ids.iter().all(is_found_by_path) { "path or id" } else { "id" };
            let detail = format!(
                "{} snapshots of {} are called {}; name one by its {by}.",
                ids.len(),
                machine.name,
                shorten(reference)
            );
            let mut failure = Failure::new(FailureKind::AmbiguousName, detail)
                .with_machine(&machine.id, &machine.name);
            failure.candidates = ids.iter().map(|id| (id.to_string(), path(id))).collect();
            failure
        }
    })
}

/// Parses a caller's reference to a machine.
fn parse_reference(reference: &str) -> Result<MachineReference, Failure> {
    reference.parse().map_err(|error| match error {
        InvalidMachineReference::Empty => empty_name("machine"),
        InvalidMachineReference::Mac(error) => invalid_mac("machine", reference, &error),
    })
}

/// Whether a machine exists for the caller.
type Visible<'a> = &'a dyn Fn(&Machine) -> bool;

/// The machines that a reference names and that exist for the caller.
fn matching<'c>(
    contents: &'c InventoryContents,
    visible: Visible<'_>,
    reference: &MachineReference,
) -> Vec<&'c Arc<Machine>> {
    if let MachineReference::Id(id) = reference
        && let Some(machine) = contents.machine(id)
    {
        return Vec::from_iter(visible(machine).then_some(machine));
    }
    let near = contents.near_reference(reference);
    let machines = near.iter().filter(|machine| visible(machine)).map(|machine| &***machine);
    let found = reference.matching(machines);
    found.into_iter().filter_map(|machine| contents.machine(&machine.id)).collect()
}

/// The text of the failure if a reference names no machine. A reference without a prefix is an id.
/// If such a reference is the name of a machine, the text recommends `name:`.
fn no_match(
    contents: &InventoryContents,
    visible: Visible<'_>,
    reference: &MachineReference,
    as_written: &str,
) -> String {
    let is_name = || {
        let named = contents.near_reference(&MachineReference::Name(as_written.to_owned()));
        named.into_iter().any(|machine| is_name(as_written, &machine.name) && visible(machine))
    };
    if reference.is_id() && is_name() {
        let (id, named) = (shorten(as_written), shorten(&format!("name:{as_written}")));
        return format!("No machine has the id {id}, but one is called so: write {named}.");
    }
    format!("No machine goes by {}. List them: GET /v1/machines", shorten(as_written))
}

/// The failure if a reference names several machines.
#[must_use]
pub fn ambiguous(reference: &str, several: &[&Arc<Machine>]) -> Failure {
    let detail =
        format!("{} machines go by {}; name one by its id.", several.len(), shorten(reference));
    let mut failure = Failure::new(FailureKind::AmbiguousName, detail);
    let candidate = |machine: &&Arc<Machine>| (machine.id.to_string(), machine.name.clone());
    failure.candidates = several.iter().map(candidate).collect();
    failure
}

/// The failure if a text is not a hardware address.
#[must_use]
pub fn invalid_mac(parameter: &str, given: &str, error: &InvalidMacAddress) -> Failure {
    let detail = format!("{} is {error}.", shorten(given));
    Failure::new(FailureKind::InvalidRequest, detail.clone()).with_error(InputError {
        pointer: None,
        parameter: Some(parameter.to_owned()),
        code: "invalid-mac".into(),
        detail,
    })
}

/// The failure if a name is empty.
#[must_use]
pub fn empty_name(parameter: &str) -> Failure {
    let detail = format!("The {parameter} is empty; name one.");
    Failure::new(FailureKind::InvalidRequest, detail.clone()).with_error(InputError {
        pointer: None,
        parameter: Some(parameter.to_owned()),
        code: "empty".into(),
        detail,
    })
}
