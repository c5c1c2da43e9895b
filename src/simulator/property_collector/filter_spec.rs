//! `PropertyFilterSpec`: which properties of which types a client reads, and how the selection of
//! objects goes on from one object to the next (the traversal).

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::properties;
use super::super::property_path::{self, Segment};
use super::super::read_scope::ReadScope;
use super::super::schema;
use super::super::soap;
use super::super::value::{Moref, Value};
use super::super::vim_fault::Fault;
use crate::esx::soap::xml::Element;

/// A `PropertyFilterSpec` as the simulator has read it.
#[derive(Debug, Default)]
pub struct FilterSpec {
    properties: Vec<PropertySpec>,
    objects: Vec<ObjectSpec>,
    pub report_missing: bool,
}

/// A `PropertySpec`: the properties to read of objects of one type.
#[derive(Debug)]
struct PropertySpec {
    kind: String,
    paths: SelectedPaths,
}

/// The properties that a `PropertySpec` selects.
#[derive(Debug)]
enum SelectedPaths {
    /// All properties of the type. The host ignores the paths of such a `PropertySpec`.
    All,
    Named(Vec<String>),
}

/// An `ObjectSpec`: an object at which the selection starts, and the traversals that begin there.
#[derive(Debug)]
struct ObjectSpec {
    object: Moref,
    skip: bool,
    /// The traversals that start at the object, as indices into `traversals`.
    steps: Vec<usize>,
    /// All traversals that this `ObjectSpec` contains. They refer to each other by index, possibly
    /// in circles.
    traversals: Vec<Traversal>,
}

/// A `TraversalSpec`: a property of one type whose references lead to further objects.
#[derive(Debug)]
struct Traversal {
    kind: String,
    path: String,
    skip: bool,
    next: Vec<usize>,
}

/// How a `selectSet` refers to a traversal: by its index, or by a name that is not resolved yet.
enum TraversalReference {
    Index(usize),
    Name(String),
}

impl FilterSpec {
    /// Reads a `PropertyFilterSpec`.
    ///
    /// # Errors
    /// `InvalidProperty` if a path does not exist on its type.
    pub fn read(element: Element<'_>) -> Result<Self, Fault> {
        let mut spec = Self {
            report_missing: element.child_text("reportMissingObjectsInResults") == Some("true"),
            ..Self::default()
        };
        for child in element.children() {
            match child.name() {
                "propSet" => {
                    spec.properties.push(PropertySpec::read(child)?);
                }
                "objectSet" => spec.objects.push(ObjectSpec::read(child)?),
                _ => {}
            }
        }
        Ok(spec)
    }

    /// The objects at which the selection starts.
    pub fn objects(&self) -> impl Iterator<Item = &Moref> {
        self.objects.iter().map(|spec| &spec.object)
    }

    /// Whether the selection can contain tasks.
    pub fn selects_tasks(&self) -> bool {
        self.properties.iter().any(|spec| schema::is_a("Task", &spec.kind))
    }

    /// The paths that a client reads of objects of this type. `None` if the spec does not select
    /// this type.
    pub fn paths_for(&self, kind: &str) -> Option<Vec<String>> {
        let mut paths: Vec<String> = Vec::new();
        let mut is_selected = false;
        for spec in self.properties.iter().filter(|spec| schema::is_a(kind, &spec.kind)) {
            is_selected = true;
            let selected: Vec<String> = match &spec.paths {
                SelectedPaths::All => properties::names(kind).map(str::to_owned).collect(),
                SelectedPaths::Named(named) => named.clone(),
            };
            for path in selected {
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
        }
        is_selected.then_some(paths)
    }

    /// The objects that the spec selects now, and the start objects that do not exist now.
    pub fn select(&self, scope: ReadScope<'_>) -> Result<Selection, Fault> {
        let mut selected = Selection::default();
        let mut paths: HashMap<&'static str, Option<Vec<String>>> = HashMap::new();
        for spec in &self.objects {
            if !properties::exists(scope, &spec.object) {
                selected.missing.push(spec.object.clone());
                continue;
            }
            let mut seen: HashSet<(Moref, usize)> = HashSet::new();
            let mut take = |object: &Moref| {
                let kind_paths =
                    paths.entry(object.kind).or_insert_with(|| self.paths_for(object.kind));
                if kind_paths.is_some() {
                    let at = selected.objects.len();
                    selected.objects.entry(object.clone()).or_insert(at);
                }
            };
            if !spec.skip {
                take(&spec.object);
            }
            let mut open: Vec<(Moref, &[usize])> = vec![(spec.object.clone(), &spec.steps)];
            while let Some((object, steps)) = open.pop() {
                for step in steps {
                    let traversal = &spec.traversals[*step];
                    if !schema::is_a(object.kind, &traversal.kind)
                        || !seen.insert((object.clone(), *step))
                    {
                        continue;
                    }
                    for target in follow(scope, &object, &traversal.path)? {
                        if !properties::exists(scope, &target) {
                            continue;
                        }
                        if !traversal.skip {
                            take(&target);
                        }
                        if !traversal.next.is_empty() {
                            open.push((target, &traversal.next));
                        }
                    }
                }
            }
        }
        Ok(selected)
    }
}

/// The selected objects, each with its position in the order of the traversal.
#[derive(Debug, Default)]
pub struct Selection {
    pub objects: BTreeMap<Moref, usize>,
    /// The objects of the spec at which the selection should start, but which do not exist.
    pub missing: Vec<Moref>,
}

impl Selection {
    /// The objects in the order in which the traversal reached them.
    pub fn in_order(self) -> Vec<Moref> {
        let mut objects: Vec<(Moref, usize)> = self.objects.into_iter().collect();
        objects.sort_by_key(|(_, at)| *at);
        objects.into_iter().map(|(object, _)| object).collect()
    }
}

impl PropertySpec {
    fn read(element: Element<'_>) -> Result<Self, Fault> {
        let kind = element.child_text("type").unwrap_or_default().to_owned();
        if element.child_text("all").is_some_and(soap::is_true) {
            return Ok(Self { kind, paths: SelectedPaths::All });
        }
        let named: Vec<String> =
            element.children_named("pathSet").map(|path| path.text().to_owned()).collect();
        if schema::fields(&kind).is_some()
            && let Some(wrong) = named.iter().find(|path| !property_path::exists(&kind, path))
        {
            return Err(Fault::invalid_property(wrong));
        }
        Ok(Self { kind, paths: SelectedPaths::Named(named) })
    }
}

impl ObjectSpec {
    fn read(element: Element<'_>) -> Result<Self, Fault> {
        let object =
            element.child("obj").ok_or_else(|| Fault::invalid_argument("objectSet.obj"))?;
        let mut names: HashMap<String, usize> = HashMap::new();
        let mut steps: Vec<Vec<TraversalReference>> = Vec::new();
        let mut traversals: Vec<Traversal> = Vec::new();
        // Each entry is an element whose `selectSet`s are still to read, and the place in `steps`
        // where their traversals belong. Place 0 is that of the start object.
        let mut open: Vec<(usize, Element<'_>)> = vec![(0, element)];
        steps.push(Vec::new());
        while let Some((place, parent)) = open.pop() {
            for select in parent.children_named("selectSet") {
                let name = select.child_text("name").filter(|name| !name.is_empty());
                if select.child("path").is_none() {
                    let name = name.ok_or_else(|| Fault::invalid_argument("selectSet.name"))?;
                    steps[place].push(TraversalReference::Name(name.to_owned()));
                    continue;
                }
                let at = traversals.len();
                let kind = select.child_text("type").unwrap_or_default().to_owned();
                let path = select.child_text("path").unwrap_or_default().to_owned();
                if schema::fields(&kind).is_some() && !property_path::exists(&kind, &path) {
                    return Err(Fault::invalid_property(&path));
                }
                let skip = select.child_text("skip").is_some_and(soap::is_true);
                traversals.push(Traversal { kind, path, skip, next: Vec::new() });
                if let Some(name) = name {
                    names.insert(name.to_owned(), at);
                }
                steps[place].push(TraversalReference::Index(at));
                steps.push(Vec::new());
                open.push((at + 1, select));
            }
        }
        let mut resolved = Vec::with_capacity(steps.len());
        for place in steps {
            let mut next = Vec::with_capacity(place.len());
            for step in place {
                next.push(match step {
                    TraversalReference::Index(at) => at,
                    TraversalReference::Name(name) => *names
                        .get(&name)
                        .ok_or_else(|| Fault::invalid_argument("selectSet.name"))?,
                });
            }
            resolved.push(next);
        }
        let first = std::mem::take(&mut resolved[0]);
        for (traversal, next) in traversals.iter_mut().zip(resolved.into_iter().skip(1)) {
            traversal.next = next;
        }
        let skip = element.child_text("skip").is_some_and(soap::is_true);
        Ok(Self { object: soap::read_moref(object)?, skip, steps: first, traversals })
    }
}

/// The objects to which a property of an object refers.
fn follow(scope: ReadScope<'_>, object: &Moref, path: &str) -> Result<Vec<Moref>, Fault> {
    if !property_path::exists(object.kind, path) {
        return Err(Fault::invalid_property(path));
    }
    let Some((_, value)) = read_properties(scope, object, &[path.to_owned()]).pop() else {
        return Ok(Vec::new());
    };
    Ok(match value? {
        Some(Value::Reference(moref)) => vec![moref],
        Some(Value::List(_, items)) => items
            .into_iter()
            .filter_map(|item| match item {
                Value::Reference(moref) => Some(moref),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    })
}

/// The path of one property of an object, and its value or the fault of reading it.
pub type PropertyReading = (String, Result<Option<Value>, Fault>);

/// Reads the properties of an object at these paths. Properties below the same top-level property
/// share one value of it, so that it is built once.
pub fn read_properties(
    scope: ReadScope<'_>,
    object: &Moref,
    paths: &[String],
) -> Vec<PropertyReading> {
    let mut top_level: HashMap<&str, Option<Value>> = HashMap::new();
    let mut readings = Vec::with_capacity(paths.len());
    for path in paths {
        let segments = property_path::parse(path).unwrap_or_default();
        let value = match segments.split_first() {
            // The path is a whole top-level property. Usually no other path goes below it, so the
            // value is not kept for other paths.
            Some((Segment { name, key: None }, [])) => match top_level.get(name) {
                Some(value) => value.clone(),
                None => properties::property(scope, object, name),
            },
            Some((Segment { name, key }, below)) => {
                let made = top_level
                    .entry(*name)
                    .or_insert_with(|| properties::property(scope, object, name));
                made.as_ref().and_then(|value| value.select(*key, below))
            }
            None => None,
        };
        readings.push((path.clone(), Ok(value)));
    }
    readings
}
