//! A property filter of a client. It remembers the last known properties of each selected object,
//! and the collector version at which each property changed.
//!
//! Therefore the filter can report the changes after any earlier version: a client that lost an
//! answer gets the same changes again. The filter reads only those objects that changed in the
//! world.

use std::collections::BTreeMap;

use super::filter_spec::{FilterSpec, read_properties};
use crate::esx::soap::xml::Writer;
use crate::simulator::read_scope::{CallerSession, ReadScope};
use crate::simulator::value::{Moref, Value};
use crate::simulator::vim_fault::Fault;

/// The maximum number of objects that a filter remembers after they left its selection, to report
/// that they left.
const MAX_LEFT_OBJECTS: usize = 20_000;

/// Properties whose changes hosts have not reported since version 5.0, as pairs of type and
/// property. Clients can still read them. If the type is empty, no type reports changes of the
/// property.
const UNREPORTED_CHANGES: &[(&str, &str)] = &[
    ("", "recentTask"),
    ("", "disabledMethod"),
    ("", "overallStatus"),
    ("", "configStatus"),
    ("", "triggeredAlarmState"),
    ("VirtualMachine", "layout"),
    ("VirtualMachine", "layoutEx"),
    ("VirtualMachine", "storage"),
    ("HostSystem", "configManager"),
];

/// A `PropertyFilter` of a client.
#[derive(Debug)]
pub struct Filter {
    spec: FilterSpec,
    partial: bool,
    seen: Option<SeenRevisions>,
    objects: BTreeMap<Moref, TrackedObject>,
    left: Vec<LeftObject>,
}

/// The revisions of the world and of the session's views when the filter last read the world.
#[derive(Clone, Copy, Debug)]
struct SeenRevisions {
    revision: u64,
    structure: u64,
    views: u64,
}

/// A selected object with its last known properties. All numbers are collector versions, except
/// `incarnation`.
#[derive(Debug)]
struct TrackedObject {
    entered: u64,
    /// The incarnation of the machine, which distinguishes it from a later machine with the same
    /// moid.
    incarnation: u64,
    /// The collector version at which a property of the object last changed.
    changed: u64,
    properties: Vec<Property>,
}

#[derive(Debug)]
struct Property {
    path: String,
    value: Result<Option<Value>, Fault>,
    changed: u64,
    /// The changed paths below this property, each with the collector version of its last change.
    /// Empty unless the client asked for partial updates.
    parts: BTreeMap<String, u64>,
}

/// An object that the filter selected earlier and no longer selects.
#[derive(Debug)]
struct LeftObject {
    object: Moref,
    entered: u64,
    at: u64,
}

/// An update of one object that a client must still get.
#[derive(Clone, Debug)]
pub struct PendingUpdate {
    pub object: Moref,
    pub kind: UpdateKind,
    since: u64,
}

/// `ObjectUpdateKind`: whether an object entered the selection, changed, or left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateKind {
    Enter,
    Modify,
    Leave,
}

impl Filter {
    /// A filter that has not yet read an object.
    pub const fn new(spec: FilterSpec, partial: bool) -> Self {
        Self { spec, partial, seen: None, objects: BTreeMap::new(), left: Vec::new() }
    }

    /// Reads what changed in the world since the last refresh, and records the changes as those of
    /// the collector version `version`. Returns whether the filter found a change.
    pub fn refresh(&mut self, scope: ReadScope<'_>, version: u64) -> Result<bool, Fault> {
        let now = SeenRevisions {
            revision: scope.world.revision(),
            structure: if self.spec.selects_tasks() {
                scope.world.structure().max(scope.world.task_structure())
            } else {
                scope.world.structure()
            },
            views: scope.session.map_or(0, |session| self.view_revision(session)),
        };
        let before = self.seen.replace(now);
        let mut changed = false;
        let selection_may_differ = before
            .is_none_or(|before| before.views != now.views || before.structure != now.structure);
        if selection_may_differ {
            let selected = self.spec.select(scope)?;
            let stays = |object: &Moref, known: &TrackedObject| {
                selected.objects.contains_key(object)
                    && known.incarnation == scope.world.incarnation(object)
            };
            let gone: Vec<Moref> = self
                .objects
                .iter()
                .filter(|(object, known)| !stays(object, known))
                .map(|(object, _)| object.clone())
                .collect();
            for object in gone {
                if let Some(known) = self.objects.remove(&object) {
                    self.left.push(LeftObject { object, entered: known.entered, at: version });
                    changed = true;
                }
            }
            let surplus = self.left.len().saturating_sub(MAX_LEFT_OBJECTS);
            self.left.drain(..surplus);
            for object in selected.in_order() {
                if !self.objects.contains_key(&object) {
                    let known = self.track(scope, &object, version);
                    self.objects.insert(object, known);
                    changed = true;
                }
            }
        }
        let Some(before) = before else { return Ok(changed) };
        match scope.world.changed_since(before.revision) {
            Some(dirty) => {
                // A change of the event manager means new events, so the latest pages of the
                // selected event collectors may have changed too.
                if before.views != now.views
                    || dirty.iter().any(|object| object.kind == "EventManager")
                {
                    let pages = self.objects.iter_mut();
                    for (object, known) in
                        pages.filter(|(object, _)| object.kind == "EventHistoryCollector")
                    {
                        changed |= known.refresh(scope, object, version, self.partial);
                    }
                }
                for object in dirty {
                    if let Some(known) = self.objects.get_mut(object) {
                        changed |= known.refresh(scope, object, version, self.partial);
                    }
                }
            }
            None => {
                for (object, known) in &mut self.objects {
                    changed |= known.refresh(scope, object, version, self.partial);
                }
            }
        }
        Ok(changed)
    }

    /// The `view_revision` at which a view of this filter last changed. If the filter begins at an
    /// object that is no view, its traversals may reach every view, so every change counts.
    fn view_revision(&self, session: &dyn CallerSession) -> u64 {
        let changed_at =
            |object| session.view_changed_at(object).unwrap_or_else(|| session.view_revision());
        self.spec.objects().map(changed_at).max().unwrap_or(0)
    }

    /// The updates after the version `since`. The updates of objects that left come first, because
    /// an object may have left and entered again since then.
    pub fn pending(&self, since: u64) -> impl Iterator<Item = PendingUpdate> + '_ {
        let left =
            self.left.iter().filter(move |left| left.at > since && left.entered <= since).map(
                move |left| PendingUpdate {
                    object: left.object.clone(),
                    kind: UpdateKind::Leave,
                    since,
                },
            );
        let there = self.objects.iter().filter_map(move |(object, known)| {
            let kind = if known.entered > since {
                UpdateKind::Enter
            } else if known.changed > since {
                UpdateKind::Modify
            } else {
                return None;
            };
            Some(PendingUpdate { object: object.clone(), kind, since })
        });
        left.chain(there)
    }

    /// Writes an update as the XML of an `ObjectUpdate`.
    pub fn write(&self, writer: &mut Writer, pending: &PendingUpdate) {
        let known = self.objects.get(&pending.object);
        let kind = match (pending.kind, known) {
            (UpdateKind::Leave, _) | (_, None) => "leave",
            (UpdateKind::Enter, Some(_)) => "enter",
            (UpdateKind::Modify, Some(_)) => "modify",
        };
        writer.start("objectSet", &[]).leaf("kind", &[], kind);
        Value::Reference(pending.object.clone()).write_as(writer, "obj", "ManagedObject");
        if let (Some(known), false) = (known, kind == "leave") {
            let entering = pending.kind == UpdateKind::Enter;
            for property in &known.properties {
                match &property.value {
                    Ok(Some(value)) if entering => {
                        write_change(writer, &property.path, Some(value));
                    }
                    Ok(value) if !entering && property.changed > pending.since => {
                        property.write_modified(writer, value.as_ref(), pending.since);
                    }
                    _ => {}
                }
            }
            let missing = known
                .properties
                .iter()
                .filter(|property| property.changed > pending.since || entering);
            for property in missing {
                if let Err(fault) = &property.value {
                    write_missing(writer, &property.path, fault);
                }
            }
        }
        writer.end();
    }

    fn track(&self, scope: ReadScope<'_>, object: &Moref, version: u64) -> TrackedObject {
        let paths = self.spec.paths_for(object.kind).unwrap_or_default();
        let properties = read_properties(scope, object, &paths)
            .into_iter()
            .map(|(path, value)| Property { path, value, changed: version, parts: BTreeMap::new() })
            .collect();
        TrackedObject {
            entered: version,
            incarnation: scope.world.incarnation(object),
            changed: version,
            properties,
        }
    }
}

impl TrackedObject {
    fn refresh(
        &mut self,
        scope: ReadScope<'_>,
        object: &Moref,
        version: u64,
        partial: bool,
    ) -> bool {
        let paths: Vec<String> =
            self.properties.iter().map(|property| property.path.clone()).collect();
        let mut changed = false;
        for (property, (path, value)) in
            self.properties.iter_mut().zip(read_properties(scope, object, &paths))
        {
            if property.value == value || is_unreported(object.kind, &path) {
                continue;
            }
            if partial && let (Ok(Some(old)), Ok(Some(new))) = (&property.value, &value) {
                differences(old, new, &path, version, &mut property.parts);
            } else {
                property.parts.clear();
            }
            property.value = value;
            property.changed = version;
            self.changed = version;
            changed = true;
        }
        changed
    }
}

impl Property {
    fn write_modified(&self, writer: &mut Writer, value: Option<&Value>, since: u64) {
        let parts: Vec<&String> = self
            .parts
            .iter()
            .filter(|(_, changed)| **changed > since)
            .map(|(path, _)| path)
            .collect();
        let below: Option<Vec<&str>> =
            parts.iter().map(|path| path.get(self.path.len() + 1..)).collect::<Option<Vec<_>>>();
        match (value, below) {
            (Some(value), Some(below)) if !below.is_empty() => {
                for (path, below) in parts.iter().zip(below) {
                    write_change(writer, path, value.descend(below).as_ref());
                }
            }
            _ => write_change(writer, &self.path, value),
        }
    }
}

fn is_unreported(kind: &str, path: &str) -> bool {
    let top = path.split(['.', '[']).next().unwrap_or(path);
    UNREPORTED_CHANGES
        .iter()
        .any(|(only, silent)| *silent == top && (only.is_empty() || *only == kind))
}

/// Finds the deepest paths at which two values differ, and inserts them into `into` with the
/// collector version. A list counts as a single value.
fn differences(
    old: &Value,
    new: &Value,
    path: &str,
    version: u64,
    into: &mut BTreeMap<String, u64>,
) {
    let mut open: Vec<(&Value, &Value, String)> = vec![(old, new, path.to_owned())];
    while let Some((old, new, path)) = open.pop() {
        match (old, new) {
            (Value::Object(old), Value::Object(new)) if old.type_name == new.type_name => {
                for (name, value) in &new.fields {
                    match old.get(name) {
                        Some(before) if before == value => {}
                        Some(before) => open.push((before, value, format!("{path}.{name}"))),
                        None => {
                            into.insert(format!("{path}.{name}"), version);
                        }
                    }
                }
                for (name, _) in old.fields.iter().filter(|(name, _)| new.get(name).is_none()) {
                    into.insert(format!("{path}.{name}"), version);
                }
            }
            _ => {
                into.insert(path, version);
            }
        }
    }
}

fn write_change(writer: &mut Writer, path: &str, value: Option<&Value>) {
    writer.start("changeSet", &[]).leaf("name", &[], path);
    match value {
        Some(value) => {
            writer.leaf("op", &[], "assign");
            value.write_any(writer, "val");
        }
        // A property below another property has become unset: it went together with its parent,
        // which vim25 calls `indirectRemove`.
        None if path.contains('.') => {
            writer.leaf("op", &[], "indirectRemove");
        }
        None => {
            writer.leaf("op", &[], "assign");
        }
    }
    writer.end();
}

/// Writes a property that could not be read as the XML of a `MissingProperty`.
pub fn write_missing(writer: &mut Writer, path: &str, fault: &Fault) {
    writer.start("missingSet", &[]).leaf("path", &[], path);
    Value::Object(fault.localized()).write_as(writer, "fault", "LocalizedMethodFault");
    writer.end();
}
