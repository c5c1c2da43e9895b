//! A filter: what it last saw of each object, and at which version of the collector each thing
//! changed.
//!
//! So any earlier version can be answered from: whatever is newer than it is sent again, which is
//! what a caller needs whose answer was lost on the way. Only objects that the world says have
//! changed are looked at.

use std::collections::BTreeMap;

use super::filter_spec::{FilterSpec, read_properties};
use crate::esx::soap::xml::Writer;
use crate::simulator::read_scope::{CallerSession, ReadScope};
use crate::simulator::value::{Moref, Value};
use crate::simulator::vim_fault::Fault;

/// How many objects that left are remembered.
const MAX_LEFT_OBJECTS: usize = 20_000;

/// Changes of these are not sent by hosts since 5.0, though they can be read.
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

#[derive(Debug)]
pub struct Filter {
    spec: FilterSpec,
    partial: bool,
    seen: Option<SeenRevisions>,
    objects: BTreeMap<Moref, TrackedObject>,
    left: Vec<LeftObject>,
}

#[derive(Clone, Copy, Debug)]
struct SeenRevisions {
    revision: u64,
    structure: u64,
    views: u64,
}

/// An object as it was last seen.
#[derive(Debug)]
struct TrackedObject {
    entered: u64,
    /// Tells a machine from a later one of its moid.
    incarnation: u64,
    /// When any property changed last.
    changed: u64,
    properties: Vec<Property>,
}

#[derive(Debug)]
struct Property {
    path: String,
    value: Result<Option<Value>, Fault>,
    changed: u64,
    /// With partial updates: the paths below that changed, and when.
    parts: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct LeftObject {
    object: Moref,
    entered: u64,
    at: u64,
}

/// One thing to be told of an object.
#[derive(Clone, Debug)]
pub struct PendingUpdate {
    pub object: Moref,
    pub kind: UpdateKind,
    since: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateKind {
    Enter,
    Modify,
    Leave,
}

impl Filter {
    pub const fn new(spec: FilterSpec, partial: bool) -> Self {
        Self { spec, partial, seen: None, objects: BTreeMap::new(), left: Vec::new() }
    }

    /// Looks at what has changed in the world, as of this version. Gives whether anything did.
    pub fn refresh(&mut self, scope: ReadScope<'_>, version: u64) -> Result<bool, Fault> {
        let now = SeenRevisions {
            revision: scope.world.revision(),
            structure: scope.world.structure(),
            views: scope.session.map_or(0, CallerSession::view_revision),
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
                // The pages of event collectors move with the history that the event manager keeps.
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

    /// What is to be told to a caller who knows everything up to a version: leaves first, for an
    /// object may have left and entered again.
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

    /// Writes an `ObjectUpdate`.
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
                    write_change(writer, path, value.descend(below));
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

/// The deepest paths at which two values differ; a list is one thing.
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
        // What is unset together with what holds it is told so.
        None if path.contains('.') => {
            writer.leaf("op", &[], "indirectRemove");
        }
        None => {
            writer.leaf("op", &[], "assign");
        }
    }
    writer.end();
}

pub fn write_missing(writer: &mut Writer, path: &str, fault: &Fault) {
    writer.start("missingSet", &[]).leaf("path", &[], path);
    Value::Object(fault.localized()).write_as(writer, "fault", "LocalizedMethodFault");
    writer.end();
}
